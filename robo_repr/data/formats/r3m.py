"""The manifest that R3M is trained from: folders of numbered JPEGs, and a table of them with what was narrated.

Nair et al. 2022, https://github.com/facebookresearch/r3m (``r3m/utils/data_loaders.py``): ``manifest.csv`` has the columns ``path`` (a
folder), ``len`` (its frames) and ``txt``; frame i, counted from 1, is ``<path>/<i, six digits>.jpg``.
"""

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from robo_repr.core.errors import UserError, check_range
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.formats import check_fps, new_folder, whole_episodes

COLUMNS = ("path", "len", "txt")
ACTOR = "C "  # "the camera's wearer"; R3M cuts the first two characters off every text
QUALITY = 95  # of JPEGs
SHORTEST = 3  # frames; R3M's loader draws five of a clip and fails for shorter ones
NAMED = 5  # clips that are left out and named in the one line that tells of them


class ManifestClips(Clips):
    """Clips of a manifest, with one view, ``video``.

    ``language`` is ``txt`` as it stands, with the actor's mark that R3M itself cuts off ("C opens a door"). A clip has as many frames as
    ``len`` says; those whose folder lacks any of these frames are left out. Further columns are ignored.

    Args:
        path: the folder with ``manifest.csv``, or such a file of another name. A relative path in it is relative to the file's folder, or
            else to the working directory as R3M takes it; one that is not there any more is looked for beside the file by its last name.
        size: (H, W), or one number for both: pictures are resized to cover it and the middle is cut out. Default: they all have the
            same size already, as R3M asks for (224 x 224).
        fps: frames per second, which the manifest does not say.

    Attributes:
        skipped: path as in the manifest -> why the clip is left out.

    Raises:
        UserError: there is no such file, it is no such table, no clip of it is there, or pictures have several sizes and no `size` is
            given.
    """

    def __init__(self, path: str | Path, size: int | Sequence[int] | None = None, fps: float = 30.0):
        check_fps(fps)
        self.name, self.fps, self.views, self.meta, self.broken = str(path), float(fps), ["video"], {}, {}
        file = Path(path) / "manifest.csv" if Path(path).is_dir() else Path(path)
        self.skipped: dict[str, str] = {}
        self._folders: list[Path] = []
        sizes: dict[tuple[int, int], Path] = {}
        lengths, self.episodes = [], []
        for row in _rows(file):
            found = _clip(row, file.parent)
            if isinstance(found, str):
                self.skipped[row.get("path") or "(no path)"] = found
                continue
            folder, length, picture = found
            self._folders.append(folder)
            lengths.append(length)
            self.episodes.append({"language": row["txt"], "source": str(folder)})
            sizes.setdefault(picture, folder)
        if self.skipped:
            some = "; ".join(f"{name}: {why}" for name, why in list(self.skipped.items())[:NAMED])
            more = f"; and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
            print(f"{file}: {len(self.skipped)} clips are left out ({some}{more})", file=sys.stderr)
        if not lengths:
            raise UserError(
                f"{file} names no clip that is there ({len(self.skipped)} were looked for). `path` must be a folder of JPEGs, 000001.jpg "
                "to `len`, given absolutely, relative to the manifest's folder, or relative to the working directory."
            )
        if size is None and len(sizes) > 1:
            (one, here), (other, there) = list(sizes.items())[:2]
            raise UserError(
                f"{file}: pictures have several sizes, such as {one[0]} x {one[1]} in {here} and {other[0]} x {other[1]} in {there}. Say "
                "to which size they are to be brought: size=224."
            )
        self.size = next(iter(sizes)) if size is None else _edges(size)
        self._resize = size is not None
        self.lengths = np.array(lengths, dtype=np.int64)
        self.fields = {"images": Field((1, 3, *self.size), np.dtype(np.uint8))}

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if not keys:
            return {}
        frames = [self._picture(self._folders[episode] / _name(i)) for i in range(start, stop)]
        return {"images": np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2)[:, None])}

    def _picture(self, file: Path) -> np.ndarray:
        height, width = self.size
        try:
            with Image.open(file) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's words for damaged files
            raise BrokenEpisode(f"{file} cannot be read ({' '.join(str(error).split())})") from error
        if self._resize:
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        if picture.size != (width, height):
            raise BrokenEpisode(
                f"{file} is {picture.height} x {picture.width}, the first picture {height} x {width}: give a size, size=224"
            )
        return np.asarray(picture)


def export(clips: Clips, out: Path, progress: Callable[[int], None] | None = None) -> list[int]:
    """Writes clips as R3M reads them: a folder of JPEGs for each view of each episode, since R3M knows no views, and ``manifest.csv``.

    The pictures lose a little (JPEG, quality 95), since R3M's loader reads no other files; states, actions and rewards have no place there.
    Paths are absolute, as the loader needs them unless it is started in `out`. "C " stands before each text that does not begin so, since
    the loader cuts two characters off. Clips of less than three frames are named and left out: the loader fails for them.

    Args:
        out: a new or empty folder.
        progress: gets the number of episodes that are done.

    Returns:
        The episodes that were written.

    Raises:
        UserError: `out` is in use, or there is nothing to write.
        Failure: the disk is full.
    """
    with new_folder(out) as folder:
        rows, written = [], []
        for episode, clip in whole_episodes(clips, progress):
            images, text = clip["images"], clip["language"]
            if len(images) < SHORTEST:
                print(f"left out: episode {episode} of {clips.name} has fewer than {SHORTEST} frames", file=sys.stderr)
                continue
            written.append(episode)
            for i, view in enumerate(clips.views):
                name = f"{episode:06}_{re.sub(r'[^-.a-zA-Z0-9_]', '-', view)}"
                if (folder / name).exists():  # two views' names differ only in what cannot stand in a path
                    name = f"{name}-{i}"
                (folder / name).mkdir()
                for frame, picture in enumerate(images[:, i]):
                    (folder / name / _name(frame)).write_bytes(_jpeg(picture))
                where = Path(os.path.abspath(out)) / name
                rows.append((where, len(images), text if text.startswith(ACTOR) else ACTOR + text))
        if not rows:
            raise UserError(f"{clips.name} has no episode of {SHORTEST} frames or more, so there is nothing that R3M could read.")
        with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            # All texts in quotes: csv itself would leave a lone "\r" bare, which ends a line for those who read it.
            table = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            table.writerow(COLUMNS)
            table.writerows(rows)
    return written


def _jpeg(picture: np.ndarray) -> bytes:
    # Not written by Pillow itself: it takes a file that a full disk cut off for a whole one.
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return data.getvalue()


def _name(frame: int) -> str:
    """File of a frame that is counted from 0."""
    return f"{frame + 1:06}.jpg"


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened)
            head = list(table.fieldnames or ())
            missing = [column for column in COLUMNS if column not in head]
            rows = [] if missing else list(table)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror or error}). Give a folder with R3M's manifest.csv, or such a file."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no table of comma-separated values in UTF-8 ({error}). R3M's has the columns path,len,txt.") from error
    if missing:
        found = ", ".join(head) or "nothing"
        raise UserError(
            f"{file} lacks the column {', '.join(missing)}: its first line holds {found}. R3M's manifest begins with path,len,txt."
        )
    return rows


def _clip(row: dict[str, Any], beside: Path) -> tuple[Path, int, tuple[int, int]] | str:
    """Folder, frames and size of the first picture (H, W); or why the clip cannot be used."""
    path, text = row["path"], row["txt"]
    if not path or text is None:
        return "the line is incomplete"
    try:
        length = int(float(row["len"]))
    except (TypeError, ValueError, OverflowError):
        return f"len is {row['len']}, which is no number"
    if length < 1:
        return f"len is {length}"
    places = [beside / path, Path(path), beside / Path(path).name]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        return "there is no such folder"
    try:
        there = set(os.listdir(folder))
        absent = next((_name(i) for i in range(length) if _name(i) not in there), None)
        if absent is not None:
            return f"len is {length}, but there is no {absent}"
        with Image.open(folder / _name(0)) as image:
            return folder, length, (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read ({' '.join(str(error).split())})"


def _edges(size: int | Sequence[int]) -> tuple[int, int]:
    edges = (size, size) if isinstance(size, int) else tuple(size)
    if len(edges) != 2:
        raise UserError(f"size={list(edges)} is not possible. Give height and width in pixels, or one number for both.")
    for edge in edges:
        check_range("size", edge, 1, what="height and width in pixels", whole=True)
    return edges[0], edges[1]
