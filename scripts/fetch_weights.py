"""Downloads published weights, only when asked: python scripts/fetch_weights.py NAME [NAME...], or --list for the names.

The file goes to $ROBO_WEIGHTS, or ~/.cache/robo_repr; weights=NAME finds it there, and so does weights=null of its encoder. It has its name
only when it is whole and its digest, where one is known, is right. After an interruption the same command goes on where it stopped. Exit
code 0 if all are there, 2 if not, 130 after Ctrl-C.
"""

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from robo_repr.core.download import Unavailable, digest_of, download, wrong_digest
from robo_repr.core.errors import UserError, unknown


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fetch_weights.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the registry, such as r3m-resnet50")
    parser.add_argument("--list", action="store_true", help="prints the names and where the weights are")
    asked = parser.parse_args(arguments)
    if not asked.names and not asked.list:
        parser.error("name the weights to fetch, or see --list")

    from robo_repr.encoders.registry import releases  # late, so that --help does not wait for torch

    failed = False
    try:
        known = releases()
        for name in asked.names:  # all of them first: a typing error should not show after the first gigabyte
            if name not in known:
                raise unknown("name", name, known)
        if asked.list:
            print_list(list(known.values()))
        for name in asked.names:
            try:
                fetch(known[name])
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 2 if failed else 0


def fetch(release) -> None:
    """Brings one `Release` to this machine, or says that it is here already; a `UserError` says why it cannot be had."""
    from robo_repr.encoders.registry import at_hand, fetched_file, how_to_get

    here = at_hand(release)
    if here is not None:
        wrong = wrong_digest(here, release.sha256, release.md5)
        if wrong is None:
            print(f"{release.name} is here already: {here}{'' if _digest_known(release) else f', sha256 {digest_of(here)}'}")
            return
        if here != fetched_file(release):
            raise UserError(f"{here} is not the file that was published: {wrong}. Install the package again.")
        print(f"{here} is not the file that was published ({wrong}): it is removed and fetched again.", file=sys.stderr)
        here.unlink()
    own = () if release.status in ("dead", "private") or not release.url else (release.url,)
    addresses = [*own, *release.mirrors]
    if not addresses or release.package:
        raise UserError(how_to_get(release) + (f" ({release.note})" if release.note else ""))
    final = fetched_file(release)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(release.name, total=None)
        last = None

        def watch(done: int, total: int | None) -> None:
            nonlocal last
            if last is None or done <= last:  # a new connection: what lay there already does not count as speed
                progress.reset(bar, total=total, completed=done)
            else:
                progress.update(bar, completed=done)
            last = done

        try:
            digest = download(addresses, final, sha256=release.sha256, md5=release.md5, watch=watch)
        except Unavailable as error:
            alternatives = "; ".join(release.alternatives) or "none known"
            raise UserError(
                f"{str(error).rstrip('.')}. Try again later, or download it in a browser and pass weights=FILE. "
                f"Alternatives: {alternatives}; or weights=random for an untrained network."
            ) from None
    compared = "as published" if _digest_known(release) else "none is known to compare with"
    print(f"{release.name} is now {final}, sha256 {digest} ({compared})")


def _digest_known(release) -> bool:
    return bool(release.sha256 or release.md5)


def print_list(known: list) -> None:
    from robo_repr.encoders.registry import at_hand

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "MB", "licence", "status"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold", no_wrap=heading == "name")
    for release in known:
        status = "here" if at_hand(release) else f"in the package {release.package}" if release.package else release.status
        if status == "dead" and release.since:
            status = f"dead since {release.since}"
        table.add_row(release.name, "?" if release.megabytes is None else f"{release.megabytes:.0f}", release.licence, status)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
