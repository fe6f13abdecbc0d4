"""What the suite has, group by group: python scripts/catalog.py encoders [--json]

encoders  what each is, its source, the licence of its weights, its sizes, and the weights on this machine or the way to them

--json prints a list of flat rows instead. Exit code 0; 1 if an entry is broken, which its row then says; 2 for an unknown group.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robo_repr.core.config import CONFIGS, build, config_names, load_part
from robo_repr.core.errors import UserError, unknown


def encoders() -> Iterator[dict]:
    """One section per YAML of configs/encoder, one row per variant. No weights are loaded, and networks are built without memory."""
    for name in config_names("encoder"):
        section: dict[str, Any] = {"name": name, **_comments(name)}
        try:
            node = load_part("encoder", name)
            variants = _variants(node)
        except Exception as error:  # whatever it is, the others are still to be listed
            yield {**section, "rows": [{"variant": None, "error": _one_line(error)}]}
            continue
        if "variant" in node:
            section["default variant"] = node["variant"]
        rows = []
        for variant in variants:
            try:
                encoder = _hollow(node, variant)
                weights = _weights(name, variant, node, any(True for _ in encoder.parameters()))
            except Exception as error:
                rows.append({"variant": variant, "error": _one_line(error)})
                continue
            spec = encoder.spec
            section.update(inputs=list(spec.inputs), frames=spec.frames, can=sorted(spec.can) or None)
            size = {"pixels": list(spec.size), "D": spec.dim, "grid": spec.grid and list(spec.grid), "token D": spec.token_dim or None}
            rows.append({"variant": variant, **size, **weights})
        licences = dict.fromkeys(row["licence"] for row in rows if row.get("licence"))
        section["licence of the weights"] = "; ".join(licences) or None
        if "weights" in node and not licences:
            section["weights key"] = _comment_of_weights(name)
        yield {**section, "rows": rows}


@dataclass(frozen=True)
class Group:
    """What the command prints under one word.

    Attributes:
        collect: yields its sections: dicts with ``name``, ``what``, further facts, and ``rows``. A row with ``error`` is broken.
        columns: those of a row that are printed, the widest last; --json has all of them.
        legend: printed below.
    """

    collect: Callable[[], Iterator[dict]]
    columns: tuple[str, ...]
    legend: str


GROUPS = {
    "encoders": Group(
        encoders,
        ("variant", "pixels", "D", "grid", "token D", "weights"),
        "D: length of the feature; grid: rows and columns of the tokens, each of token D numbers. fetch NAME: python "
        "scripts/fetch_weights.py NAME (untried: the address stands in the authors' code or page and was not tried by us). hub ID: "
        "weights=ID downloads it from the Hugging Face hub. Everything with weights also takes weights=random and weights=FILE.",
    ),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="catalog.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--json", action="store_true", help="machine-readable rows")
    asked = parser.parse_args(arguments)
    try:
        if asked.group is None:
            raise UserError(f"No group is named. Write python scripts/catalog.py GROUP; there is: {', '.join(GROUPS)}.")
        if asked.group not in GROUPS:
            raise unknown("group", asked.group, GROUPS)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    group = GROUPS[asked.group]
    sections = list(group.collect())
    if asked.json:
        flat = ({**section, **row} for section in sections for row in section["rows"])
        print(json.dumps([{key: value for key, value in row.items() if key != "rows"} for row in flat], indent=1))
    else:
        show(sections, group)
    broken = [section["name"] for section in sections if any("error" in row for row in section["rows"])]
    if broken:
        print(f"Broken: {', '.join(broken)}; the reason stands in the row.", file=sys.stderr)
    return 1 if broken else 0


def show(sections: list[dict], group: Group) -> None:
    """Prints the sections one below the other."""
    console = Console(highlight=False)

    def indented(content: Text | Table) -> None:
        console.print(Padding(content, (0, 0, 0, 2), expand=False))

    for section in sections:
        console.print(Text(section["name"], "bold cyan"))
        indented(Text(section.get("what") or ""))
        facts = {key: _text(value, ", ") for key, value in section.items() if key not in ("name", "what", "source", "rows")}
        indented(Text(section.get("source") or "", "dim"))
        indented(Text("; ".join(f"{key}: {value}" for key, value in facts.items() if value != "-"), "dim"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="italic")
        for column in group.columns:
            table.add_column(column, no_wrap=column != group.columns[-1], overflow="fold")
        for row in section["rows"]:
            if "error" not in row:
                table.add_row(*(_text(row.get(column)) for column in group.columns))
        if table.row_count:
            indented(table)
        for row in section["rows"]:
            if "error" in row:
                indented(Text(f"{_text(row.get(group.columns[0]))}: broken: {row['error']}", "bold red"))
        console.print()
    console.print(Text(group.legend, "dim"))


def _comments(name: str) -> dict[str, str | None]:
    """The head of an encoder's YAML: what it is and its source."""
    lines = (CONFIGS / "encoder" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ") for line in lines[:2] if line.startswith("#")]
    source = head[1].removeprefix("Source: ").rstrip(".") if len(head) > 1 else None
    return {"what": head[0] if head else None, "source": source}


def _variants(node: dict) -> list[str | None]:
    """The sizes that an encoder's module lists; the YAML's alone for a control without weights, None without the key."""
    if "variant" not in node:
        return [None]
    if "weights" not in node:
        return [node["variant"]]
    module = import_module(node["_target_"].rsplit(".", 1)[0])
    return list(getattr(module, "VARIANTS", [node["variant"]]))


def _hollow(node: dict, variant: str | None):
    """The encoder with shapes alone: on torch's meta device a ViT-L costs a tenth of a second and no memory."""
    import torch

    node = {**node, **({"variant": variant} if variant else {}), **({"weights": "random"} if "weights" in node else {})}
    try:
        with torch.device("meta"):
            return build(node)
    except Exception:  # an encoder whose constructor looks at values: the real thing then, which also gives the true reason
        return build(node)


def _weights(name: str, variant: str | None, node: dict, learns: bool) -> dict:
    """Whether weights are on this machine, and else the way to them."""
    from robo_repr.encoders.registry import at_hand, bundled_file, releases

    if "weights" not in node:
        return {"weights": "untrained" if learns else "none needed", "at_hand": True}
    if variant and bundled_file(name, variant).is_file():
        return {"weights": "bundled", "at_hand": True, "licence": "this repository's"}
    mine = [release for release in releases().values() if release.encoder == name]
    fitting = [release for release in mine if release.variant == variant]
    if not fitting:
        return {"weights": "none published" if mine else "see weights key", "at_hand": False}
    ways, here = [], False
    for release in fitting:
        size = f", {release.megabytes:.0f} MB" if release.megabytes else ""
        if at_hand(release):
            here = True
            ways.append(f"in the package {release.package}" if release.package else "fetched")
        elif release.package:
            ways.append(f"in the package {release.package}, missing: make setup")
        elif release.status == "dead":
            ways.append(f"dead{f' since {release.since}' if release.since else ''}")
        elif release.status == "private" or not release.url:
            ways.append("never public")
        else:
            ways.append(f"fetch {release.name}{size}{' (untried)' if release.status == 'unverified' else ''}")
        if release.hub:
            ways.append(f"hub {release.hub}")
    return {
        "weights": "; ".join(ways),
        "at_hand": here,
        "licence": "; ".join(dict.fromkeys(release.licence for release in fitting)),
        "releases": [release.name for release in fitting],
    }


def _comment_of_weights(name: str) -> str:
    """What an encoder's YAML says about weights=, for encoders of which the registry knows none."""
    for line in (CONFIGS / "encoder" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("weights:") and "#" in line:
            return line.split("#", 1)[1].strip()
    return "random, or a file"


def _text(value: Any, between: str = "x") -> str:
    if value is None:
        return "-"
    if value == []:
        return "none"
    return between.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _one_line(error: Exception) -> str:
    return f"{'' if isinstance(error, UserError) else type(error).__name__ + ': '}{' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
