"""Minari's data sets of offline reinforcement learning, read and written through its own storage, whichever of its file types they have.

Layout: https://minari.farama.org/content/dataset_standards/. An episode has T + 1 observations and T actions, rewards, terminations and
truncations: our T frames are its T - 1 steps, since nothing was done after the last frame.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pyarrow.dataset
from gymnasium import Space, spaces
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from robo_repr.core.errors import UserError
from robo_repr.data.base import FIELDS, PER_VIEW, BrokenEpisode, Clips, Field
from robo_repr.data.formats import check_filled, check_fps, check_views, new_folder, whole_episodes

OURS = "robo_repr"  # what our own exports add to the data set's and to an episode's metadata
MINARIS = ("id", "total_steps", "seed", "options")  # what Minari itself notes of an episode
PICTURE = 16  # pixels; what has two axes as long is a picture, and no part of a state

Leaf = tuple[str | int, ...]  # where a part of a nested observation stands


class MinariClips(Clips):
    """A data set of Minari that has pictures in its observations.

    Pictures are uint8 boxes (H, W, 3) or (3, H, W), wherever they stand; a view is named by its key, or by the keys on the way to it,
    joined by points, where two keys are the same. The state is all else, flattened in the sorted order of the keys: numbers, vectors
    and small arrays, but neither texts nor pictures of another kind (two axes of 16 or more). A text among the observations is the
    episode's language if its metadata names none. Actions are flattened in the same way. What our own export wrote comes back as it was.

    Minari reads whole episodes, so a window costs as much as its episode: import a data set into a store to train on it.

    Args:
        path: the data set's folder, or the folder ``data`` in it.
        views: which pictures to read, and in which order; default all.
        fps: frames per second, which Minari does not note; default 20.

    Attributes:
        meta: what was known of all episodes when we wrote the data set, else empty.

    Raises:
        UserError: there is no such data set, it is damaged or of another version, it has no pictures, or views of different sizes.
    """

    def __init__(self, path: str | Path, views: Sequence[str] | None = None, fps: float | None = None):
        check_fps(fps)
        self.name = str(path)
        folder = _data_folder(Path(path))
        try:
            metadata = MinariStorage.read_raw_metadata(folder)
            _check_version(path, metadata)
            self._storage = MinariStorage.read(folder)
            leaves, acts = dict(_leaves(self._storage.observation_space)), dict(_leaves(self._storage.action_space))
            count, kind = int(metadata["total_episodes"]), str(metadata["data_format"])
        except UserError:
            raise
        except Exception as error:  # Minari, gymnasium and json each have errors of their own
            raise UserError(
                f"{path} cannot be read as a data set of Minari ({_words(error)}). It is damaged, or its spaces are of a kind that Minari "
                f"{minari.__version__} does not know. Download or make it again."
            ) from error
        ours = _ours(folder, metadata)
        self.meta = ours["meta"]
        self.fps = float(fps if fps is not None else ours["fps"])
        self._extra: dict[str, Leaf] = {key: (key,) for key in ours["fields"] if (key,) in leaves and key != "state"}
        noted = [("images", view) for view in ours["views"]]
        pictures = {leaf: leaves[leaf] for leaf in noted if leaf in leaves} or _pictures(leaves)
        self._pictures = _chosen(self.name, pictures, leaves, views)
        self.views, shapes = list(self._pictures), [_size(leaves[leaf]) for leaf in self._pictures.values()]
        if len(set(shapes)) > 1:
            sizes = ", ".join(f"{view} {height} x {width}" for view, (height, width) in zip(self.views, shapes, strict=True))
            raise UserError(f"{path} has views of different sizes ({sizes}). Read those of one size: views=[{self.views[0]}].")
        self.size = shapes[0]
        self._last = [leaf for leaf in self._pictures.values() if leaves[leaf].shape[-1] == 3]  # channels last
        known_views = set(self.views) <= set(ours["views"])
        self._view_places = [ours["views"].index(view) for view in self.views] if known_views else []
        self._state = [
            leaf for leaf, space in leaves.items() if leaf not in pictures and leaf[:1] not in self._extra.values() and _plain(space)
        ]
        self._actions = [leaf for leaf, space in acts.items() if _plain(space)]
        self.fields = {"images": Field((len(self.views), 3, *self.size), np.dtype(np.uint8))}
        if self._state:
            self.fields["state"] = Field((sum(_width(leaves[leaf]) for leaf in self._state),), np.dtype(np.float32))
        if self._actions:
            self.fields["actions"] = Field((sum(_width(acts[leaf]) for leaf in self._actions),), np.dtype(np.float32))
        if "reward" in ours["fields"]:
            self.fields["reward"] = Field((), np.dtype(np.float32))
        for key, leaf in self._extra.items():
            shape = leaves[leaf].shape or ()
            if key not in PER_VIEW:
                self.fields[key] = Field(shape, np.dtype(leaves[leaf].dtype))
            elif known_views:
                self.fields[key] = Field((len(self.views), *shape[1:]), np.dtype(leaves[leaf].dtype))
        texts = [leaf for leaf, space in leaves.items() if isinstance(space, spaces.Text)]
        self._scan(folder, kind, count, texts[0] if texts else None)

    def _scan(self, folder: Path, kind: str, count: int, text: Leaf | None) -> None:
        """Sets lengths, what is known of each episode, and which cannot be read."""
        if not count:
            raise UserError(f"{self.name} is a data set of Minari without episodes. Record some into it, or choose another one.")
        lengths, self.episodes, self.broken = [], [], {}
        for i in range(count):
            try:
                noted = next(iter(self._storage.get_episode_metadata([i])))
                self.episodes.append(_known_of_data(folder, kind, i, text) | _known(noted))
                lengths.append(int(noted["total_steps"]) + 1)
            except Exception as error:  # Minari, h5py, pyarrow and json each have errors of their own
                self.broken[i] = f"{self.name}: episode {i} cannot be read ({_words(error)})"
                self.episodes[i:], lengths[i:] = [{}], [1]
        if len(self.broken) == count:
            raise UserError(f"{self.name} has no episode that can be read; the first: {self.broken[0]}. Download or make it again.")
        self.lengths = np.array(lengths, dtype=np.int64)

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if episode in self.broken:
            raise BrokenEpisode(self.broken[episode])
        found = self._episode(episode)
        length = int(self.lengths[episode])
        fields = {}
        for key in keys:
            try:
                values = self._field(key, found, length)
            except Exception as error:
                raise BrokenEpisode(f"{self.name}: episode {episode} cannot be read ({key}: {_words(error)})") from error
            expected = (length, *self.fields[key].shape)
            if values.shape != expected:
                raise BrokenEpisode(f"{self.name}: episode {episode} has {key} of shape {values.shape} instead of {expected}")
            fields[key] = np.ascontiguousarray(values[start:stop], dtype=self.fields[key].dtype)
        return fields

    def _episode(self, episode: int) -> dict[str, Any]:
        try:
            return next(iter(self._storage.get_episodes([episode])))
        except Exception as error:  # Minari, h5py, pyarrow and Pillow each have errors of their own
            raise BrokenEpisode(f"{self.name}: episode {episode} cannot be read ({_words(error)})") from error

    def _field(self, key: str, found: dict[str, Any], length: int) -> np.ndarray:
        """All frames of an episode under one key."""
        if key == "images":
            views = [(leaf, np.asarray(_at(found["observations"], leaf))) for leaf in self._pictures.values()]
            return np.stack([np.moveaxis(view, -1, 1) if leaf in self._last else view for leaf, view in views], axis=1)
        if key == "state":
            return _flat(found["observations"], self._state, length)
        if key == "actions":
            return _behind(_flat(found["actions"], self._actions, length - 1))
        if key == "reward":
            return _behind(np.asarray(found["rewards"], dtype=np.float32))
        values = np.asarray(_at(found["observations"], self._extra[key]))
        return values[:, self._view_places] if key in PER_VIEW else values


def export(clips: Clips, out: Path, progress: Callable[[int], None] | None = None) -> list[int]:
    """Writes clips as a data set of Minari, in Arrow files and without loss.

    Observations are a dict: ``images`` (view -> (H, W, 3) uint8), ``state``, ``camera`` and whatever else the frames hold. What is known of
    an episode (language, task, success ...) stands in its metadata, what is known of all in the data set's under ``robo_repr``. The action
    of an episode's last frame is left out, since it was never taken. Read it with ``minari.MinariDataset(out / "data")``.

    Args:
        out: a new or empty folder.
        progress: gets the number of episodes that are done.

    Returns:
        The episodes that were written.

    Raises:
        UserError: the clips have no actions, `out` is in use, or no episode can be written.
        Failure: the disk is full.
    """
    check_filled(clips)
    if not _written(clips, "actions"):
        raise UserError(f"{clips.name} has no actions, and a data set of Minari is made of steps with actions. Export to lerobot or r3m.")
    others = [key for key in FIELDS if key not in ("images", "actions", "reward") and _written(clips, key)]
    pictures = spaces.Dict({view: spaces.Box(0, 255, (*clips.size, 3), np.uint8) for view in clips.views})
    observation = spaces.Dict({"images": pictures, **{key: _box(clips.fields[key]) for key in others}})
    written: list[int] = []

    def buffers() -> Iterator[EpisodeBuffer]:
        for episode, clip in whole_episodes(clips, progress):
            if len(clip["images"]) < 2:
                print(f"left out: episode {episode} of {clips.name} has one frame, and thus no step", file=sys.stderr)
                continue
            yield _buffer(clips, clip, others)
            written.append(episode)
        if not written:
            raise UserError(f"{clips.name} has no episode of two frames or more, so there is nothing that Minari could hold.")

    with new_folder(out) as folder:
        # Arrow and not Minari's HDF5: on a full disk HDF5 brings the whole process down.
        storage = MinariStorage.new(folder / "data", observation, _box(clips.fields["actions"]), data_format="arrow", jpeg_encoding=False)
        storage.get_size = lambda: 0.0  # it looks at every file after every episode
        storage.update_metadata(
            {
                "dataset_id": f"clips/{re.sub(r'[^-_a-zA-Z0-9]', '-', Path(out).name) or 'clips'}-v0",
                "minari_version": minari.__version__,
                OURS: {
                    "fps": clips.fps,
                    "views": clips.views,
                    "fields": [key for key in ("actions", "reward", *others) if _written(clips, key)],
                    "meta": clips.meta,
                },
            }
        )
        storage.update_episodes(buffers())
        del storage.get_size
        storage.update_episode_metadata([_noted(clips.episodes[episode]) for episode in written])
    return written


def _ours(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """What our own export noted of a data set, with what stands for it in others'."""
    try:
        ours = {"fps": 20.0, "views": [], "fields": ["reward"], "meta": {}, **metadata.get(OURS, {})}
        check_fps(float(ours["fps"]))
        whole = all(isinstance(ours[key], kind) for key, kind in (("fps", int | float), ("views", list), ("fields", list), ("meta", dict)))
        whole = whole and all(isinstance(name, str) for name in (*ours["views"], *ours["fields"]))
    except (UserError, TypeError, ValueError):
        whole, ours = False, {}
    if not whole:
        raise UserError(
            f"{folder / 'metadata.json'}: what our export noted under {OURS} is damaged. Export the data set again, or take {OURS} out of "
            "the file to read it as anyone's."
        )
    return ours


def _buffer(clips: Clips, clip: dict[str, Any], others: list[str]) -> EpisodeBuffer:
    steps = len(clip["images"]) - 1
    ended = np.zeros(steps, dtype=bool)
    ended[-1] = True
    terminal = bool(clip["is_terminal"][-1])
    images = {view: np.moveaxis(clip["images"][:, i], 1, -1) for i, view in enumerate(clips.views)}
    return EpisodeBuffer(
        observations={"images": images, **{key: clip[key] for key in others}},
        actions=clip["actions"][:-1],
        rewards=clip["reward"][:-1].tolist() if "reward" in clip else [0.0] * steps,
        terminations=(ended & terminal).tolist(),
        truncations=(ended & (not terminal)).tolist(),
        infos={},
    )


def _written(clips: Clips, key: str) -> bool:
    return key in clips.fields and math.prod(clips.fields[key].shape) > 0


def _box(field: Field) -> spaces.Box:
    if np.issubdtype(field.dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, field.shape, field.dtype.type)
    limits = np.iinfo(field.dtype)
    return spaces.Box(limits.min, limits.max, field.shape, field.dtype.type)


def _noted(episode: dict[str, Any]) -> dict[str, Any]:
    """An episode's metadata: plain values as Minari's users expect them, the rest as JSON."""
    known = {key: _json_value(value) for key, value in episode.items() if key != "episode"}  # the number that it has in a store
    plain = {k: v for k, v in known.items() if isinstance(v, str | bool | int | float) and k not in (*MINARIS, OURS) and "/" not in k}
    return {**plain, OURS: json.dumps({key: value for key, value in known.items() if key not in plain})}


def _known(metadata: dict[str, Any]) -> dict[str, Any]:
    """What an episode's metadata tell, as JSON can hold it."""
    known = {key: _json_value(value) for key, value in metadata.items() if key not in (*MINARIS, OURS)}
    return known | json.loads(metadata.get(OURS, "{}"))


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def _data_folder(path: Path) -> Path:
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return folder
    if (path / "data" / "main_data.hdf5").is_file() or (path / "main_data.hdf5").is_file():
        raise UserError(
            f"{path} has Minari's main_data.hdf5 but no metadata.json beside it. It is damaged, or was made by a Minari older than 0.5: "
            "download it again with the present one."
        )
    raise UserError(
        f"{path} is no data set of Minari: it has no data/metadata.json. Give the data set's folder, which holds the folder data."
    )


def _check_version(path: str | Path, metadata: dict[str, Any]) -> None:
    version = metadata.get("minari_version")
    if version not in minari.supported_dataset_versions:
        raise UserError(
            f"{path} was made by Minari {version}, and the Minari {minari.__version__} that is installed does not read that. It reads: "
            f"{', '.join(sorted(minari.supported_dataset_versions))}."
        )


def _known_of_data(folder: Path, kind: str, episode: int, text: Leaf | None) -> dict[str, Any]:
    """What the data tell of an episode: how it ended, and a text's beginning. Minari itself would decode all pictures for it."""
    if kind == "hdf5":
        with h5py.File(folder / "main_data.hdf5") as file:
            group: Any = file[f"episode_{episode}"]
            known: dict[str, Any] = {"terminal": bool(group["terminations"][-1])}
            if text is not None:
                place = "/".join(f"_index_{key}" if isinstance(key, int) else key for key in text)
                known["language"] = group[f"observations/{place}"][0].decode(errors="replace")
            return known
    columns = {"terminations": pyarrow.dataset.field("terminations")}
    if text is not None:
        columns["text"] = pyarrow.dataset.field("observations", *map(str, text))
    data = pyarrow.dataset.dataset(folder / str(episode), format=kind, ignore_prefixes=["_", ".", "metadata.json"])
    table = data.to_table(columns)
    known = {"terminal": bool(table["terminations"][-2].as_py())}  # the last one pads to the number of observations
    if text is not None:
        known["language"] = table["text"][0].as_py()
    return known


def _leaves(space: Space, leaf: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """All spaces within a nested one, in the sorted order of their keys."""
    if isinstance(space, spaces.Dict):
        for key in sorted(space.spaces):
            yield from _leaves(space.spaces[key], (*leaf, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _leaves(part, (*leaf, i))
    else:
        yield leaf, space


def _at(tree: Any, leaf: Leaf) -> Any:
    for key in leaf:
        tree = tree[key]
    return tree


def _pictures(leaves: dict[Leaf, Any]) -> dict[Leaf, Any]:
    return {
        leaf: space
        for leaf, space in leaves.items()
        if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and 3 in (space.shape[0], space.shape[-1])
    }


def _chosen(name: str, pictures: dict[Leaf, Any], leaves: dict[Leaf, Any], views: Sequence[str] | None) -> dict[str, Leaf]:
    """View -> where its pictures stand."""
    if not pictures:
        found = ", ".join(f"{'.'.join(map(str, leaf)) or 'observation'} {getattr(space, 'shape', space)}" for leaf, space in leaves.items())
        raise UserError(
            f"{name} has no images: its observations are {found}. Clips need uint8 pictures (H, W, 3) or (3, H, W). Record the data set "
            "again with pictures among its observations, such as by gymnasium's AddRenderObservation."
        )
    short = [str(leaf[-1]) if leaf else "image" for leaf in pictures]
    clash = len(set(short)) < len(short)
    named = {".".join(map(str, leaf)) if clash else key: leaf for key, leaf in zip(short, pictures, strict=True)}
    check_views(views or (), named)
    return {view: named[view] for view in views} if views else named


def _size(space: Any) -> tuple[int, int]:
    return space.shape[:2] if space.shape[-1] == 3 else space.shape[1:]


def _plain(space: Any) -> bool:
    """Whether a space is of numbers that belong into a flat vector."""
    if isinstance(space, spaces.Text) or space.shape is None:
        return False
    return math.prod(space.shape) > 0 and sum(edge >= PICTURE for edge in space.shape) < 2


def _width(space: Any) -> int:
    return math.prod(space.shape)


def _flat(tree: Any, leaves: list[Leaf], length: int) -> np.ndarray:
    return np.concatenate([np.asarray(_at(tree, leaf), dtype=np.float32).reshape(length, -1) for leaf in leaves], axis=1)


def _behind(values: np.ndarray) -> np.ndarray:
    """With a frame of zeros behind, for the last observation, after which nothing was done."""
    return np.concatenate([values, np.zeros_like(values[:1])])


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
