"""The clip store: recorded episodes in a zarr group, as flat arrays and the ends of the episodes.

On disk: ``data/<key>`` (all frames of all episodes one after the other), ``meta/episode_ends`` (where each episode ends; what is beyond the
last one is not there yet), ``episodes.jsonl`` (what is known of each episode) and the group's attributes (what is known of all).
The layout of the arrays is that of Diffusion Policy's replay buffer (Chi et al. 2023, https://github.com/real-stanford/diffusion_policy).
"""

import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from robo_repr.core.errors import Failure, UserError, check_range, unknown
from robo_repr.core.files import write_whole
from robo_repr.core.lock import drop_lock, take_lock
from robo_repr.data.base import FIELDS, BrokenEpisode, Clips, Field

FORMAT, VERSION = "robo-repr clips", 1
CHUNK_BYTES = 2**20  # of an array's chunk before compression; see docs/data.md for the measurement
MOST_FRAMES = 256  # of a chunk of small numbers
IN_MEMORY = 2**30  # small numbers are kept in memory up to so many bytes of one key
SMALL = 4096  # bytes of a frame's small numbers
# Plain Zstandard: blosc's splits the data into blocks, which finds a third of the repetitions between frames. The checksum comes last, so
# that a flipped bit is found before anything is decompressed.
_CODECS = (ZstdCodec(level=1), Crc32cCodec())
# A black picture too: a chunk whose file is missing is damage. Zarr does not note this on disk, so whoever writes has to say it again.
_ALL_CHUNKS: Any = {"write_empty_chunks": True}


def is_store(path: Path) -> bool:
    """Whether a folder is a clip store, of whatever version."""
    return _attributes(path).get("format") == FORMAT


def store_around(path: Path) -> Path | None:
    """The clip store that a path lies in; None where there is none."""
    return next((above for above in path.absolute().parents if is_store(above)), None)


def check_place(path: Path) -> None:
    """Refuses a path where no store can be made or gone on with: within another store, or where something else is."""
    if inside := store_around(path):
        raise UserError(f"{path} lies in the clip store {inside}, where only its own clips belong. Choose another folder.")
    if os.path.lexists(path) and not is_store(path) and (not path.is_dir() or any(_foreign(path))):
        raise UserError(f"{path} is there and is no clip store, so nothing was written. Choose a new or empty folder.")


class ClipStore(Clips):
    """The whole episodes of a store, those that it had when it was opened.

    Args:
        path: the store's folder.

    Attributes:
        path: the store's folder.
        meta: what is known of all episodes, such as ``task``, ``camera``, ``renderer``, and ``made_by`` (command, versions, seed).

    Raises:
        UserError: the folder is no store, one of a newer version, or lacks an array.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = str(path)
        attributes = read_attributes(self.path)
        self.views, self.size, self.fps, self.meta = (attributes[key] for key in ("views", "size", "fps", "meta"))
        group = _open_group(self.path.absolute())  # a reader may go elsewhere
        ends = whole_ends(group, self.path)
        self.lengths = np.diff(ends, prepend=0)
        self._starts = ends - self.lengths
        self.episodes = read_episodes(self.path, len(ends))
        self.broken = {}
        self._arrays = {key: _array(group, f"data/{key}", self.path) for key in attributes["fields"]}
        self.fields = {key: Field(array.shape[1:], array.dtype) for key, array in self._arrays.items()}
        frames = int(ends[-1]) if len(ends) else 0
        for key, array in self._arrays.items():
            if array.shape[0] < frames:
                raise UserError(
                    f"{path}: data/{key} has {array.shape[0]} frames, but the episodes {frames}. The store is damaged; record it again."
                )
        self._frames = frames
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._columns_lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return type(self), (self.path.absolute(),)  # another process opens it anew

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        first = int(self._starts[episode])
        return {key: self._read(key, first + start, first + stop, episode) for key in keys}

    def _read(self, key: str, start: int, stop: int, episode: int) -> np.ndarray:
        array = self._arrays[key]
        if _frame_bytes(array) <= SMALL and self._frames * _frame_bytes(array) <= IN_MEMORY:
            values, whole = self._column(key)
            if not whole[start // array.chunks[0] : -(-stop // array.chunks[0])].all():
                raise BrokenEpisode(f"{self.name}: episode {episode} is damaged (a chunk of {key} cannot be read)")
            return values[start:stop].copy()
        try:
            return np.asarray(array[start:stop])
        except Exception as error:  # a checksum, a decoder, a file that is not there: each library has errors of its own
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise BrokenEpisode(f"{self.name}: episode {episode} is damaged ({key}: {words})") from error

    def _column(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """All frames of a key of small numbers, and which of its chunks could be read."""
        with self._columns_lock:
            if key not in self._columns:
                array, length = self._arrays[key], self._arrays[key].chunks[0]
                values = np.zeros((self._frames, *array.shape[1:]), array.dtype)
                whole = np.ones(-(-self._frames // length), dtype=bool)
                try:
                    values[:] = array[: self._frames]
                except Exception:
                    for chunk in range(len(whole)):
                        part = slice(chunk * length, min((chunk + 1) * length, self._frames))
                        try:
                            values[part] = array[part]
                        except Exception:
                            whole[chunk] = False
                self._columns[key] = values, whole
            return self._columns[key]

    def bytes_on_disk(self) -> int:
        """Size of all files of the store."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


class ClipWriter:
    """Adds episodes to a store; the only one to do so, until it is closed.

    An episode is there when `add` returns, and before that nothing of it is: a process that is killed loses the one it was writing, and a
    new writer goes on behind the last whole one. Frames that are on the disk are never rewritten but for the last chunk, whose file is
    replaced at once.

    Args:
        path: the store's folder; made if it is not there.
        views: names of the V cameras.
        size: (H, W) in pixels.
        fps: frames per second.
        meta: JSON values that hold for all episodes. What stands under ``made_by`` may differ when a store is gone on with.

    Raises:
        UserError: the folder holds something else, a store with other views, size, fps or meta, or another process writes there.
    """

    def __init__(self, path: str | Path, *, views: Sequence[str], size: tuple[int, int], fps: float, meta: Mapping[str, Any] | None = None):
        self.path = Path(path)
        about = {"views": list(views), "size": tuple(map(int, size)), "fps": float(fps), "meta": json.loads(json.dumps(meta or {}))}
        if len(set(views)) < len(views) or not views:
            raise UserError(f"views={list(views)} is not possible. Name each view once, at least one.")
        check_range("fps", fps, 1e-3, 1e6, "frames per second")
        self._sizes = {"V": len(views), "H": about["size"][0], "W": about["size"][1]}
        with _writing(self.path, UserError):
            check_place(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = take_lock(self.path, "choose another folder")
        try:
            with _writing(self.path, UserError):
                if is_store(self.path):
                    self._go_on(about)
                else:
                    self._begin(about)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._ends)

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """What is known of each whole episode."""
        return read_episodes(self.path, len(self))

    def add(self, frames: Mapping[str, np.ndarray], /, **episode: Any) -> None:
        """Writes one whole episode.

        Args:
            frames: key of `FIELDS` -> (T, ...) arrays, T at least 1; images must be there. The store's first episode fixes which keys
                there are and what shape and type their frames have.
            episode: JSON values that are known of this episode, such as ``language``, ``task``, ``success`` and ``terminal`` (it ended
                in a terminal state, and not by time).

        Raises:
            UserError: other keys, shapes or types.
            Failure: the disk is full or not writable; nothing of the episode is there then, and what was before is whole.
        """
        frames = {key: np.asarray(value) for key, value in frames.items()}
        self._check(frames)
        try:
            line = json.dumps({**episode, "episode": len(self)}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: what is known of the episode cannot be written as JSON ({error}): {episode}.") from error
        with _writing(self.path, Failure):
            if not self._ends:  # nor is what a first episode that failed has left
                self._make_arrays(frames)
            start = self._ends[-1] if self._ends else 0
            end = start + len(frames["images"])
            for key, value in frames.items():
                array = self._arrays[key]
                array.resize((end, *array.shape[1:]))
                self._write(array, start, end, value)
            self._note(line)
            self._end_array.resize((len(self) + 1,))
            self._end_array[len(self) :] = np.array([end])
        self._ends.append(end)

    def close(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            drop_lock(self.path, self._lock)
            self._lock = None

    def _begin(self, about: dict) -> None:
        self._group = zarr.create_group(LocalStore(self.path), attributes={"format": FORMAT, "version": VERSION, **about, "fields": []})
        self._arrays: dict[str, zarr.Array] = {}
        self._ends: list[int] = []
        self._end_array = self._make_end_array()

    def _go_on(self, about: dict) -> None:
        before = read_attributes(self.path)
        self._compare(about, before)
        self._group = zarr.open_group(LocalStore(self.path), mode="r+")
        for unfinished in (*self.path.glob("*.partial"), *self.path.glob("data/**/*.partial"), *self.path.glob("meta/**/*.partial")):
            unfinished.unlink()  # of a writer that was killed while it wrote a file
        self._ends = whole_ends(self._group, self.path).tolist()
        there = "meta/episode_ends" in self._group
        self._end_array = _array(self._group, "meta/episode_ends", self.path) if there else self._make_end_array()
        self._end_array.resize((len(self._ends),))
        if self._ends:
            self._arrays = {key: _array(self._group, f"data/{key}", self.path).with_config(_ALL_CHUNKS) for key in before["fields"]}
            lines = [json.dumps(known) + "\n" for known in read_episodes(self.path, len(self._ends))]
            write_whole(self.path / "episodes.jsonl", "".join(lines))
        else:  # killed in its first episode: which keys there are is not settled yet
            self._arrays = {}
            (self.path / "episodes.jsonl").unlink(missing_ok=True)
            self._group.update_attributes({"fields": []})
            if "data" in self._group:
                del self._group["data"]

    def _compare(self, about: dict, before: dict) -> None:
        old, new = ({**a["meta"], **{key: a[key] for key in ("views", "size", "fps")}} for a in (before, about))
        changed = [key for key in sorted(old.keys() | new.keys()) if key != "made_by" and old.get(key) != new.get(key)]
        if changed:
            listed = "; ".join(f"{key}: {old.get(key)} before, {new.get(key)} now" for key in changed)
            raise UserError(
                f"{self.path} holds clips that were made otherwise ({listed}). Use the same settings to add to them, or choose another "
                "folder; several stores can be read as one."
            )

    def _make_end_array(self) -> zarr.Array:
        return self._group.create_array("meta/episode_ends", shape=(0,), dtype="int64", chunks=(1024,), compressors=_CODECS)

    def _make_arrays(self, frames: dict[str, np.ndarray]) -> None:
        for key, value in frames.items():
            length = max(1, min(MOST_FRAMES, CHUNK_BYTES // max(1, value[0].nbytes)))
            length = 2 ** int(math.log2(length))
            self._arrays[key] = self._group.create_array(
                f"data/{key}",
                shape=(0, *value.shape[1:]),
                dtype=value.dtype,
                chunks=(length, *(max(1, edge) for edge in value.shape[1:])),
                compressors=_CODECS,
                config=_ALL_CHUNKS,
                overwrite=True,
            )
        self._group.update_attributes({"fields": list(frames)})

    def _write(self, array: zarr.Array, start: int, end: int, value: np.ndarray) -> None:
        try:
            array[start:end] = value
        except OSError:
            raise
        except Exception as error:  # the chunk that it shares with the episode before cannot be read
            raise Failure(
                f"{self.path}: episode {len(self) - 1} is damaged ({' '.join(str(error).split())}), and the next one cannot be written "
                "behind it. Record into another folder; several stores can be read as one, and damaged episodes are left out."
            ) from error

    def _note(self, line: str) -> None:
        """Appends a line to episodes.jsonl, or leaves it as it was."""
        descriptor = os.open(self.path / "episodes.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            data = (line + "\n").encode()
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def _check(self, frames: dict[str, np.ndarray]) -> None:
        """Refuses an episode that does not fit to the store's views and size or to its other episodes."""
        views, *size = self._sizes.values()
        images = frames.get("images")
        if images is None or images.dtype != np.uint8 or images.shape[1:] != (views, 3, *size) or not len(images):
            found = "none" if images is None else f"{images.shape} of {images.dtype}"
            raise UserError(f"{self.path} takes images (T, {views}, 3, {size[0]}, {size[1]}) of uint8, T at least 1; these are {found}.")
        for key, value in frames.items():
            if key not in FIELDS:
                raise unknown("key", key, FIELDS)
            if not FIELDS[key].fits(value.shape[1:], value.dtype, self._sizes) or not value.ndim:
                raise UserError(
                    f"{self.path}: a frame's {key} is {FIELDS[key]}, {FIELDS[key].what}; this is {_shape((value.shape[1:], value.dtype))}."
                )
            if len(value) != len(images):
                raise UserError(f"{key} has {len(value)} frames, but images {len(images)}. All keys of an episode have the same.")
        if self._ends:
            expected = {key: (array.shape[1:], array.dtype) for key, array in self._arrays.items()}
            found = {key: (value.shape[1:], value.dtype) for key, value in frames.items()}
            if found != expected:
                different = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
                words = "; ".join(f"{key}: {_shape(expected.get(key))} before, {_shape(found.get(key))} now" for key in different)
                raise UserError(f"{self.path}: the episodes of a store hold the same keys, but these differ ({words}). Use another store.")


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a store's group: views, size, fps, meta and the names of its fields.

    Raises:
        UserError: the folder is no store, or one of a newer version.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not there, or is no folder. Give the folder of a clip store, as scripts/record_clips.py makes it.")
    attributes = _attributes(path)
    if attributes.get("format") != FORMAT:
        raise UserError(f"{path} is no clip store (its zarr.json does not say so). Give a folder that scripts/record_clips.py made.")
    version = attributes.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path} is a clip store of version {version}; this suite reads up to version {VERSION}. Update the suite, or record again."
        )
    try:
        height, width = map(int, attributes["size"])
        return {
            "views": list(attributes["views"]),
            "size": (height, width),
            "fps": float(attributes["fps"]),
            "meta": dict(attributes["meta"]),
            "fields": [str(key) for key in attributes["fields"]],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}/zarr.json is damaged ({type(error).__name__}: {error}). Put back what was there.") from error


def _attributes(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def whole_ends(group: zarr.Group, path: Path) -> np.ndarray:
    """Ends (E,) of the episodes that are whole: those that rise. Only the last one may be missing, being written.

    Raises:
        UserError: they cannot be read, or are missing although there are frames.
    """
    if "meta/episode_ends" not in group:
        if "data" in group:
            raise _damaged(path, "meta/episode_ends is missing")
        return np.zeros(0, dtype=np.int64)
    try:
        ends = np.asarray(group["meta/episode_ends"], dtype=np.int64)
    except Exception as error:  # a checksum, a decoder: each library has errors of its own
        raise _damaged(path, f"meta/episode_ends: {' '.join(str(error).split())}") from error
    rising = np.diff(ends, prepend=0) > 0
    whole = len(ends) if rising.all() else int(np.argmin(rising))
    if whole < len(ends) - 1:
        raise _damaged(path, f"meta/episode_ends has {whole} of {len(ends)} ends")
    return ends[:whole]


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} does not tell where its episodes end ({what}), so it can neither be read nor added to. Copy it anew.")


def read_episodes(path: Path, count: int) -> list[dict[str, Any]]:
    """What episodes.jsonl says of the first `count` episodes; {"episode": i} where a line is missing or broken."""
    episodes: list[dict[str, Any]] = [{"episode": i} for i in range(count)]
    try:
        lines = (path / "episodes.jsonl").read_bytes().splitlines()
    except OSError:
        return episodes
    for line in lines:
        try:
            known = json.loads(line)
            episodes[range(count)[known["episode"]]] = known
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
    return episodes


class _StrictStore(LocalStore):
    """A folder in which a chunk without a file is damage; zarr would read zeros."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        if found is None and key.startswith("data/") and "/c/" in key:
            raise FileNotFoundError(f"{key} is missing")
        return found


def _open_group(path: Path) -> zarr.Group:
    return zarr.open_group(_StrictStore(path, read_only=True), mode="r")


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array:
    try:
        return group[name]  # pyright: ignore[reportReturnType]
    except Exception as error:
        raise UserError(f"{path} lacks {name} ({type(error).__name__}). The store is damaged; put it back or record again.") from error


def _frame_bytes(array: zarr.Array) -> int:
    return array.dtype.itemsize * math.prod(array.shape[1:])


def _foreign(path: Path):
    """What a folder holds beside the traces of a writer that was killed before it wrote anything."""
    return (file for file in path.iterdir() if file.name != "lock" and not re.fullmatch(r"zarr\.\w+\.partial", file.name))


def _shape(found: tuple | None) -> str:
    return "none" if found is None else f"{tuple(found[0])} of {found[1]}"


class _writing:
    """Explains what the system refuses: a folder without permission, a full disk."""

    def __init__(self, path: Path, kind: type[UserError]):
        self._path, self._kind = path, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise self._kind(
                f"{self._path} cannot be written ({error.strerror or error}). The episodes before are whole. Make it writable or free "
                "space, then the same command goes on; or choose another folder."
            ) from error
