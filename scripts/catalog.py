"""What the suite has, group by group: python scripts/catalog.py GROUP [key=value ...] [--json]

encoders  what each is, its source, the licence of its weights, its sizes, and the weights on this machine or the way to them
tasks     what is to be done, when it counts as done, the sizes of actions and state, the start, the reward, instructions, cameras
          [out=FILE.png] also draws the experts at work
cameras   draws what a task's cameras see at every level, and tells how often they see all that matters
          [task=push] [views=front,top] [appearance=random] [out=FILE.png]; default: reach, all of its cameras, plain,
          camera_sheets/TASK.png
          [levels=[1,3]] [presets=[dcs:0.1,colosseum]] draw several episodes of these instead: of levels their shells, as
          run_viewpoint.py takes them, and of presets= any camera setting; default: front and wrist, camera_sheets/TASK-settings.png
presets   the camera perturbations that others published: what each does, to which cameras, its ranges, its source

--json prints a list of flat rows instead. Exit code 0; 1 if an entry is broken, which its row then says; 2 for what is not known.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

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


def tasks(out: str | None = None) -> Iterator[dict]:
    """One section with one row per task. Nothing is simulated or drawn, unless the experts are to be shown at work."""
    if out is None:
        yield from _tasks(lambda task: None)
        return
    from sheets import draw_tasks, expert_at_work

    pictures = {}
    with _picture(out) as path:
        yield from _tasks(lambda task: pictures.update({task: expert_at_work(task)}))
        draw_tasks(path, pictures)


def _tasks(try_out: Callable[[str], None]) -> Iterator[dict]:
    """The sections of `tasks`; a task that cannot be tried out is broken too."""
    from envs.checks import DEFAULT_VIEWS, compile_task, has_expert
    from envs.registry import TASKS, task_class

    for name in TASKS:
        try:
            cls = task_class(name)
            model = compile_task(cls)
            try_out(name)
        except Exception as error:  # whatever it is, the others are still to be listed
            yield {"name": name, "rows": [{"horizon": None, "error": _one_line(error)}]}
            continue
        low, high = cls.start_box.tolist()
        box = ", ".join(f"{axis} {a:.2f} to {b:.2f}" for axis, a, b in zip("xyz", low, high, strict=True))
        row = {
            "horizon": cls.horizon,
            "actions": cls.action_dim(),
            "state": cls.state_size(False),
            "privileged": cls.state_size(True),
            "expert": "yes" if has_expert(cls) else "no",
        }
        yield {
            "name": name,
            "what": _first_line(sys.modules[cls.__module__].__doc__),
            "success": _first_line(cls.success.__doc__),
            "reward": f"dense, {cls.reward_range[0]:g} to {cls.reward_range[1]:g}, or sparse",
            "start": f"the tool at {box} m, fingers {'apart' if cls.gripper else 'shut'}",
            "to be seen": list(cls.shown),
            "cameras": [model.camera(i).name for i in range(model.ncam)],
            "default views": list(DEFAULT_VIEWS),
            "instructions": list(cls.instructions),
            "rows": [row],
        }


def cameras(
    task: str = "reach",
    presets: str | None = None,
    levels: str | None = None,
    views: str | None = None,
    appearance: str = "plain",
    out: str | None = None,
) -> Iterator[dict]:
    """One section; writes the picture. A row per camera, or, where settings are asked for, per setting and camera."""
    from sheets import EPISODES, draw_settings, draw_sheet

    from envs.cameras import LEVELS, nominal_cameras, parse_camera
    from envs.checks import DEFAULT_VIEWS, compile_task
    from envs.registry import task_class
    from envs.validity import MIN_PIXELS, SIZE, Fault

    model = compile_task(task_class(task))
    asked = presets is not None or levels is not None
    names: list[str] = _list(views) if views else list(DEFAULT_VIEWS) if asked else [model.camera(i).name for i in range(model.ncam)]
    nominal_cameras(model, names)  # refuses unknown ones
    section = {"name": task, "appearance": appearance, "episodes": EPISODES}
    if not asked:
        with _picture(f"camera_sheets/{task}.png" if out is None else out) as path:
            shares = draw_sheet(path, task, names, appearance)
        rows = [
            {"camera": name, **{level: round(100 * float(share[i])) for level, share in shares.items()}} for i, name in enumerate(names)
        ]
        yield {**section, "seen": f"covers at least {MIN_PIXELS} of {SIZE} x {SIZE} pixels", "written to": str(path), "rows": rows}
        return
    numbers = _list(levels or "")
    for number in numbers:
        if f"L{number}" not in LEVELS:
            raise unknown("levels", number, [level[1:] for level in LEVELS])
    texts = [f"L{number}" if number == "0" else f"L{number}:shell" for number in numbers] + _list(presets or "")
    if not texts:
        raise UserError("No setting is named. Write levels=[0,3,5], presets=[dcs:0.1,colosseum], or both; or leave both out.")
    settings = [parse_camera("presets", text) for text in dict.fromkeys(texts)]
    with _picture(f"camera_sheets/{task}-settings.png" if out is None else out) as path:
        found = draw_settings(path, task, settings, names, appearance)
    rows = []
    for (setting, camera), faults in found.items():
        shares = {fault: round(100 * float((faults == fault).mean())) for fault in Fault}
        why = {fault.name.lower(): shares[fault] for fault in Fault if fault != Fault.NONE}
        rows.append({"setting": setting, "camera": camera, "counts": shares[Fault.NONE], **why})
    yield {**section, "written to": str(path), "rows": rows}


def presets() -> Iterator[dict]:
    """One section per published perturbation, one row for each thing that may stand behind its colon."""
    from envs.cameras import PRESETS
    from envs.cameras.presets import describe_bounds

    for name, entry in PRESETS.items():
        yield {
            "name": name,
            "what": entry.what,
            "source": entry.source,
            "moves": entry.cameras,
            "its poses": "relative to the task's nominal camera" if entry.relative else "absolute in the paper's scene",
            "scales with the camera's distance": entry.scales,
            "scale": "any above 0 and at most 1, such as" if entry.scaled else None,
            "rows": [
                {
                    "setting": f"{name}:{argument}" if argument else name,
                    "within an episode": "moves" if sampler.moves else "stands",
                    "ranges": describe_bounds(sampler.bounds),
                }
                for argument, sampler in entry.samplers.items()
            ],
        }


@dataclass(frozen=True)
class Group:
    """What the command prints under one word.

    Attributes:
        collect: yields its sections: dicts with ``name``, ``what``, further facts, and ``rows``. A row with ``error`` is broken. Takes the
            settings as keywords.
        columns: those of a row that are printed where a section's rows have them, the widest last; --json has all of them.
        legend: printed below.
        keys: settings that are understood.
        facts_between: what stands between facts.
    """

    collect: Callable[..., Iterator[dict]]
    columns: tuple[str, ...]
    legend: str
    keys: tuple[str, ...] = ()
    facts_between: str = "; "


GROUPS = {
    "encoders": Group(
        encoders,
        ("variant", "pixels", "D", "grid", "token D", "weights"),
        "D: length of the feature; grid: rows and columns of the tokens, each of token D numbers. fetch NAME: python "
        "scripts/fetch_weights.py NAME (untried: the address stands in the authors' code or page and was not tried by us). hub ID: "
        "weights=ID downloads it from the Hugging Face hub. Everything with weights also takes weights=random and weights=FILE.",
    ),
    "tasks": Group(
        tasks,
        ("horizon", "actions", "state", "privileged", "expert"),
        "horizon: steps of 50 ms; actions: 3 move the tool, a fourth the fingers; state: how many numbers the robot knows of itself, and "
        "how many with privileged=true; expert: whether there is a scripted one (agent=expert); to be seen: the geoms that tell what is to "
        "be done. Success has to hold through an episode's last 10 steps.",
        keys=("out",),
        facts_between="\n",
    ),
    "cameras": Group(
        cameras,
        ("setting", "camera", "counts", "unseen", "inside", "below", "L0", "L1", "L2", "L3", "L4", "L5"),
        "Percent of the episodes. By level: at whose start the camera sees all the geoms that tell what is to be done. By setting: whose "
        "view counts at the start, and why others do not: gripper or task unseen though the nominal camera sees it, inside something, "
        "or below the floor. Cameras that a setting does not move are not listed; one that moves within an episode is taken at another "
        "frame in each.",
        keys=("task", "presets", "levels", "views", "appearance", "out"),
    ),
    "presets": Group(
        presets,
        ("setting", "within an episode", "ranges"),
        "Ranges are the published ones, in the paper's own terms; the tasks differ. cameras presets=[NAME,...] draws them.",
        facts_between="\n",
    ),
}


class Parser(argparse.ArgumentParser):
    """Says what it does not understand as everything else is said."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. The only flag is --json; settings are written key=value. See python scripts/catalog.py --help.")


def main(arguments: list[str]) -> int:
    parser = Parser(prog="catalog.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("settings", nargs="*", metavar="key=value", help="what tasks and cameras take, see above")
    parser.add_argument("--json", action="store_true", help="machine-readable rows")
    try:
        asked = parser.parse_intermixed_args(arguments)
        if asked.group is None:
            raise UserError(f"No group is named. Write python scripts/catalog.py GROUP; there is: {', '.join(GROUPS)}.")
        if asked.group not in GROUPS:
            raise unknown("group", asked.group, GROUPS)
        group = GROUPS[asked.group]
        sections = list(group.collect(**parse(asked.settings, asked.group)))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    if asked.json:
        flat = ({**section, **row} for section in sections for row in section["rows"])
        print(json.dumps([{key: value for key, value in row.items() if key != "rows"} for row in flat], indent=1))
    else:
        show(sections, group)
    broken = [section["name"] for section in sections if any("error" in row for row in section["rows"])]
    if broken:
        print(f"Broken: {', '.join(broken)}; the reason stands in the row.", file=sys.stderr)
    return 1 if broken else 0


def parse(words: list[str], group: str) -> dict[str, str]:
    """The key=value words; refuses keys that the group does not take."""
    keys, settings = GROUPS[group].keys, {}
    for word in words:
        key, equals, value = word.partition("=")
        if not keys:
            raise UserError(f"'{word}' is not understood: {group} takes no settings.")
        if not equals:
            raise UserError(f"'{word}' is not understood. Settings are written key=value: {', '.join(f'{key}=' for key in keys)}.")
        if key not in keys:
            raise unknown("key", key, keys)
        settings[key] = value
    return settings


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
        indented(Text(group.facts_between.join(f"{key}: {value}" for key, value in facts.items() if value != "-"), "dim"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="italic")
        columns = [column for column in group.columns if any(column in row for row in section["rows"])]
        for column in columns:
            table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
        for row in section["rows"]:
            if "error" not in row:
                table.add_row(*(_text(row.get(column)) for column in columns))
        if table.row_count:
            indented(table)
        for row in section["rows"]:
            if "error" in row:
                indented(Text(f"{_text(row.get(group.columns[0]))}: broken: {row['error']}", "bold red"))
        console.print()
    console.print(Text(group.legend, "dim"))


@contextmanager
def _picture(out: str) -> Iterator[Path]:
    """The path of a picture to write; one that cannot be written is a `UserError`, before anything is drawn."""
    path = Path(out)
    if path.suffix != ".png" or path.is_dir():
        raise UserError(f"out={out} is no name of a picture to write. Write the path of a file that ends in .png, such as out=push.png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()  # until there is a picture
        yield path
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}). Choose another place with out=FILE.png.") from error


def _list(value: str) -> list[str]:
    """The words of ``[a, b]``, or of ``a,b``."""
    return [word.strip() for word in value.strip().removeprefix("[").removesuffix("]").split(",") if word.strip()]


def _first_line(docstring: str | None) -> str | None:
    return docstring.strip().splitlines()[0] if docstring else None


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
