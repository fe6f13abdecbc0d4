"""Other layouts of recorded episodes: each module has a reader, a child of `Clips`, and `export` where we write the layout too."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from robo_repr.core.errors import Failure, UserError, check_range, unknown
from robo_repr.core.files import remove
from robo_repr.data.base import BrokenEpisode, Clips
from robo_repr.data.store import store_around

# name -> module, reader, whether it is written too
FORMATS = {
    "lerobot": ("robo_repr.data.formats.lerobot", "LeRobotClips", True),
    "minari": ("robo_repr.data.formats.minari", "MinariClips", True),
    "r3m": ("robo_repr.data.formats.r3m", "ManifestClips", True),
    "robomimic": ("robo_repr.data.formats.robomimic", "RobomimicClips", False),
    "videos": ("robo_repr.data.videos", "Videos", False),
    "images": ("robo_repr.data.images", "Images", False),
}


def reader(format: str) -> type[Clips]:
    """The class that reads a layout, called with a path.

    Raises:
        UserError: there is no such layout.
    """
    module, name, _ = _entry(format)
    return getattr(module, name)


def exporter(format: str) -> Callable[..., list[int]]:
    """The function that writes a layout: ``export(clips, out, progress=None)``; `progress` gets the number of episodes that are done.

    It returns the episodes of `clips` that it wrote.

    Raises:
        UserError: there is no such layout, or it is only read.
    """
    module, _, writes = _entry(format)
    if not writes:
        written = ", ".join(name for name, (_, _, writes) in FORMATS.items() if writes)
        raise UserError(f"format={format} is only read here. Export to one of: {written}.")
    return module.export


def _entry(format: str) -> tuple[Any, str, bool]:
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    module, name, writes = FORMATS[format]
    return import_module(module), name, writes


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all is written, and is removed when anything goes wrong.

    Raises:
        UserError: `out` is there and not empty, lies in a clip store, or nothing can be made beside it; a text is not of UTF-8.
        Failure: the disk is full or not writable.
    """
    out = Path(os.path.abspath(out))
    # Path's own functions raise for names that are too long.
    if os.path.islink(out) or (os.path.exists(out) and not os.path.isdir(out)) or (os.path.isdir(out) and any(out.iterdir())):
        raise UserError(f"{out} is there already, so nothing was written. Choose a new or empty folder.")
    beside = out.with_name(f".{out.name}.partial")
    try:
        if inside := store_around(out):
            raise UserError(f"{out} lies in the clip store {inside}, where only its own clips belong. Choose another folder.")
        remove(beside)  # of an export that was killed
        beside.mkdir(parents=True)
    except UnicodeEncodeError as error:
        raise UserError(f"{out} cannot be the name of a folder ({error}). Choose another one.") from error
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}). Choose another folder, or make it writable.") from error
    try:
        yield beside
        beside.rename(out)
    except BaseException as error:
        remove(beside)
        if isinstance(error, UnicodeEncodeError):
            raise UserError(
                f"{out} was not written: the text {ascii(error.object[:80])}, in its path or in what is known of the clips, has letters "
                "that UTF-8 does not have. Choose another folder, or put the text right."
            ) from error
        if isinstance(error, OSError):
            raise Failure(
                f"{out} could not be written ({error.strerror or error}), and nothing of it was left. Free space or choose another folder, "
                "and export again."
            ) from error
        raise


def check_views(views: Sequence[str], known: Iterable[str]) -> None:
    """Refuses views that are not known, or named twice."""
    known = list(known)
    for view in views:
        if view not in known:
            raise unknown("views", view, known)
        if list(views).count(view) > 1:
            raise UserError(f"views names {view} twice. Name each view once.")


def check_fps(fps: float | None) -> None:
    """Refuses a frame rate that cannot be; None is a default."""
    if fps is not None:
        check_range("fps", fps, 1e-3, 1e6, "frames per second")


def check_filled(clips: Clips) -> None:
    """Refuses clips without an episode."""
    if not len(clips):
        raise UserError(f"{clips.name} has no episode yet, so there is nothing to export.")


def whole_episodes(clips: Clips, progress: Callable[[int], None] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and frames of each episode in turn. Damaged ones are named on the standard error and left out.

    Raises:
        UserError: not one can be read.
    """
    check_filled(clips)
    whole = 0
    for episode in range(len(clips)):
        try:
            clip = clips[episode]
        except BrokenEpisode as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            whole += 1
            yield episode, clip
        if progress is not None:
            progress(episode + 1)
    if not whole:
        reason = next(iter(clips.broken.values()))
        raise UserError(f"{clips.name} has no episode that can be read, so there is nothing to export. The first of them: {reason}")
