"""What the files of a folder hold, found out once and kept, so that a second start opens only those that changed."""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole

NAME = ".robo_repr_index.json"
VERSION = 1
PATIENCE = 1.0  # seconds before a progress bar appears
NAMED = 5  # skipped files that a message names


class Unusable(Exception):
    """A file that cannot be used, and why."""


def find_files(path: Path, what: str) -> tuple[Path, list[Path], dict[str, str]]:
    """All files of a folder and the folders below it, links followed, in the order of their names; hidden ones are left out.

    Args:
        path: a folder, or a single file.
        what: is looked for, such as ``"videos"``, for the message.

    Returns:
        the folder; the files; sub-folders that cannot be entered -> why.

    Raises:
        UserError: the path is not there or cannot be read.
    """
    if not path.exists():
        raise UserError(f"{path} is not there. Name a folder of {what}, or a single one.")
    if path.is_file():
        return path.parent, [path], {}
    files: list[Path] = []
    closed: dict[str, str] = {}
    entered = set()
    for folder, below, names in os.walk(path, followlinks=True, onerror=lambda error: closed.update({error.filename: _said(error)})):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if (real := os.path.realpath(folder)) in entered:  # a link that leads back
            below.clear()
            continue
        entered.add(real)
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    if str(path) in closed:
        raise UserError(f"{path} cannot be read ({closed[str(path)]}). Change its permissions, or name another folder of {what}.")
    return path, sorted(files), {os.path.relpath(folder, path): why for folder, why in closed.items()}


def look_into(root: Path, files: Sequence[Path], look: Callable[[Path], Any]) -> tuple[dict[Path, Any], dict[str, str]]:
    """What `look` says of each file, from the index where the file has not changed since.

    The index lies in the folder, or where that is read-only in the user's cache. It may be deleted at any time.

    Args:
        root: the folder that the files are in.
        look: gives what JSON can hold, or raises `Unusable`; an OSError leaves the file out too, but is not remembered. It is called from
            several threads.

    Returns:
        file -> what was said of it; the path below `root` of each file left out -> why.
    """
    places = _places(root)
    known: dict[str, Any] = {}
    for place in places:
        known.update(_load(place))
    said: dict[Path, Any] = {}
    skipped: dict[str, str] = {}
    new: dict[str, Any] = {}

    def ask(file: Path) -> dict[str, Any]:
        try:
            state = file.stat()
            entry = {"bytes": state.st_size, "changed": state.st_mtime_ns}
            old = known.get(_below(file, root), {})
            if entry.items() <= old.items() and old.keys() & {"is", "unusable"}:
                return old
            if not state.st_size:
                raise Unusable("it is empty")
            return {**entry, "is": look(file)}
        except Unusable as error:
            return {**entry, "unusable": str(error)}
        except OSError as error:
            return {"passing": _said(error)}

    try:
        for file, entry in zip(files, _through(ask, files), strict=True):
            name = _below(file, root)
            if "is" in entry:
                said[file] = entry["is"]
            else:
                skipped[name] = entry.get("unusable") or entry["passing"]
            if "passing" not in entry and known.get(name) is not entry:
                new[name] = entry
    finally:  # also when interrupted: what was looked at need not be again
        if new:
            kept = {name: entry for name, entry in known.items() if os.path.lexists(root / name)}
            _save(places, {**kept, **new})
    return said, skipped


def report_skipped(name: str, skipped: dict[str, str], of: int) -> str:
    """One line on stderr that names what is left out; the line."""
    line = f"{len(skipped)} of {of} files skipped in {name}: {listed(skipped)}" if skipped else ""
    if line:
        print(line, file=sys.stderr)
    return line


def listed(skipped: dict[str, str]) -> str:
    """``a.mp4 (no video stream), b.mp4 (...) and 3 more``."""
    text = ", ".join(f"{file} ({why})" for file, why in list(skipped.items())[:NAMED])
    return text + (f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else "")


def nothing_found(path: Path, files: Sequence[Path], what: str, endings: Sequence[str], advice: str) -> UserError:
    """The error for a folder in which nothing has the right ending."""
    counts = Counter(file.suffix.lower() or "without an ending" for file in files).most_common(4)
    found = f"only {', '.join(f'{count} {ending}' for ending, count in counts)}" if counts else "it is empty"
    return UserError(f"{path} has no {what}: {found}. Expected are files that end in {', '.join(endings)}. {advice}")


def _through(ask: Callable[[Path], dict[str, Any]], files: Sequence[Path]):
    """Answers in the files' order; a progress bar when they take long."""
    begun = time.monotonic()
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=len(files))
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for answer in pool.map(ask, files):
            bar.advance(task)
            if not bar.live.is_started and time.monotonic() - begun > PATIENCE:
                bar.start()
            yield answer
    finally:
        pool.shutdown(cancel_futures=True)
        bar.stop()


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _places(root: Path) -> list[Path]:
    """Where an index may lie, the one to write to last."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    beside = root / NAME
    own = cache / "robo_repr" / "index" / f"{hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()}.json"
    return [own, beside] if os.access(root, os.W_OK) else [beside, own]


def _load(place: Path) -> dict[str, Any]:
    """The entries of an index; none where it is damaged or of another version."""
    with suppress(OSError, ValueError):
        index = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(index, dict) and index.get("version") == VERSION and isinstance(index.get("files"), dict):
            return {name: entry for name, entry in index["files"].items() if isinstance(entry, dict)}
    return {}


def _save(places: list[Path], entries: dict[str, Any]) -> None:
    place = places[-1]
    text = json.dumps({"version": VERSION, "files": dict(sorted(entries.items()))}, separators=(",", ":"))
    with suppress(OSError):  # the index only saves time
        place.parent.mkdir(parents=True, exist_ok=True)
        mine = place.with_name(f"{place.name}.{os.getpid()}")  # another process may be indexing the same folder
        write_whole(mine, text)
        os.replace(mine, place)
