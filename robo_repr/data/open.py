"""One way to whatever holds clips: a store, a folder of stores, videos, images, or several of them read as one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robo_repr.core.config import build, load_part
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.files import home_expanded
from robo_repr.data.base import Clips, Field

NAMES = {"segmentation": "segment_names", "poses": "pose_names", "keypoints": "keypoint_names"}  # field -> what its numbers stand for
EXAMPLE = "scripts/record_clips.py task=reach out=FOLDER"


def open_clips(path: str | Path | Sequence[str | Path], kind: str | None = None, **how: Any) -> Clips:
    """Opens clips for reading.

    Args:
        path: a clip store; a folder of stores; a folder of videos and of folders of numbered images; a folder of loose images; or a list
            of these, which are read as one.
        kind: what to take it for, a name in configs/data: ``"clips"``, ``"videos"`` or ``"images"``; None is the first of these that is
            there.
        how: keys of configs/data/<kind>.yaml, such as ``size``.

    Raises:
        UserError: there is nothing of that kind, or what should be read as one has other views, sizes or frame rates.
    """
    if not isinstance(path, str | Path):
        if not path:
            raise UserError("No clips are named: the list of paths is empty. Give at least one folder.")
        return join([open_clips(one, kind, **how) for one in path])
    path = home_expanded(path)
    if not os.path.exists(path):  # Path's own raises for names that are too long
        raise UserError(f"{path} is not there. Give a clip store, a folder of videos or a folder of images; {EXAMPLE} makes a store.")
    kind = kind or _kind_of(path)
    part = load_part("data", kind)
    keys = [name for name in part if name not in ("_target_", "path")]
    for key in how:
        if not keys:
            raise UserError(f"{path} holds clips whose {key} is as they were recorded. Leave {key} out, or open it by itself.")
        if key not in keys:
            raise unknown("key", key, keys)
    return build({**part, **how, "path": path})


def _kind_of(path: Path) -> str:
    if _stores(path):
        return "clips"
    from robo_repr.data.videos import holds_videos

    return "videos" if holds_videos(path) else "images"


def open_stores(path: str | Path) -> Clips:
    """A clip store, or all stores in a folder read as one.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    stores = _stores(path)
    if not stores:
        raise UserError(f"{path} holds no clip store. {EXAMPLE} makes one; films are data=videos, loose pictures data=images.")
    from robo_repr.data.store import ClipStore

    return join([ClipStore(store) for store in stores])


def _stores(path: Path) -> list[Path]:
    from robo_repr.data.store import is_store

    return [path] if is_store(path) else sorted(folder for folder in path.glob("*/") if is_store(folder))


def join(sources: Sequence[Clips]) -> Clips:
    """Several sources read as one; a single one is itself.

    Raises:
        UserError: they have other views, sizes or frame rates.
    """
    sources = [source for source in sources if len(source)] or sources[:1]  # a store whose first episode is not through yet has nothing
    return sources[0] if len(sources) == 1 else Joined(sources)


class Joined(Clips):
    """Several sources as one, their episodes one after the other. Its fields are those that all have, with the same shape and meaning.

    Attributes:
        sources: what it reads.
        differing: fields that not all sources have alike; they are left out.
        meta: what all sources' meta agree on.
    """

    def __init__(self, sources: Sequence[Clips]):
        self.sources = list(sources)
        self.name = f"{sources[0].name} and {len(sources) - 1} more"
        first = sources[0]
        self.views, self.size, self.fps = first.views, first.size, first.fps
        for other in sources[1:]:
            for what, expected, found in (
                ("views", first.views, other.views),
                ("an image size of", first.size, other.size),
                ("frames per second", first.fps, other.fps),
            ):
                if expected != found:
                    raise UserError(
                        f"{first.name} and {other.name} cannot be read as one: the first has {what} {_words(expected)}, the second "
                        f"{_words(found)}. Read them one by one, or record or import them alike (of videos, size= and fps= can be set)."
                    )
        self.differing = {key for source in sources for key in source.fields if not all(_alike(key, first, other) for other in sources)}
        self.fields: dict[str, Field] = {key: field for key, field in first.fields.items() if key not in self.differing}
        self.meta = {key: value for key, value in first.meta.items() if all(other.meta.get(key) == value for other in sources)}
        self.lengths = np.concatenate([source.lengths for source in sources])
        self.episodes = [episode for source in sources for episode in source.episodes]
        self._firsts = np.cumsum([0, *(len(source) for source in sources)])
        self.broken = {
            int(first) + i: why for first, source in zip(self._firsts, sources, strict=False) for i, why in source.broken.items()
        }

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        source = int(np.searchsorted(self._firsts, episode, side="right")) - 1
        return self.sources[source].read_fields(episode - int(self._firsts[source]), start, stop, keys)

    def check_keys(self, keys: Sequence[str]) -> None:
        differing = [key for key in keys if key in self.differing]
        if differing:
            key = differing[0]
            shapes = "; ".join(f"{source.name}: {_kind(source.fields.get(key))}" for source in self.sources)
            raise UserError(f"{key} is not the same everywhere ({shapes}). Read these clips one by one, or do without {key}.")
        super().check_keys(keys)


def _alike(key: str, one: Clips, other: Clips) -> bool:
    names = NAMES.get(key)
    return one.fields.get(key) == other.fields.get(key) and (names is None or one.meta.get(names) == other.meta.get(names))


def _kind(field: Field | None) -> str:
    return "none" if field is None else f"{field.shape} of {field.dtype}"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
