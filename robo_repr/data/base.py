"""What every source of clips gives: episodes of frames, read by windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robo_repr.core.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What a key stands for.

    Attributes:
        axes: of a frame, that is without the time axis: V views, H x W pixels, S state, A actions, O objects, P points, or a number.
        dtype: of its numbers.
        what: they mean.
    """

    axes: tuple[str | int, ...]
    dtype: str
    what: str

    def fits(self, shape: tuple[int, ...], dtype: np.dtype, sizes: dict[str, int]) -> bool:
        """Whether frames of that shape and type are of this kind, the axes in `sizes` being of that size."""
        wanted = [axis if isinstance(axis, int) else sizes.get(axis) for axis in self.axes]
        return dtype == self.dtype and len(shape) == len(wanted) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.axes))}{',' if len(self.axes) == 1 else ''}) {self.dtype}"


# What a frame can hold.
FIELDS = {
    "images": Kind(("V", 3, "H", "W"), "uint8", "what the cameras saw"),
    "state": Kind(("S",), "float32", "what the robot knows of itself"),
    "actions": Kind(("A",), "float32", "taken after the frame was seen; of no meaning in the last frame of an episode"),
    "reward": Kind((), "float32", "for that action"),
    "camera": Kind(("V", 8), "float32", "world poses: position 3 in metres, quaternion wxyz 4, vertical field of view in degrees 1"),
    "depth": Kind(("V", "H", "W"), "float16", "metres along the optical axis, infinite where nothing is"),
    "segmentation": Kind(("V", "H", "W"), "int16", "index into meta's `segment_names`, -1 where nothing is"),
    "poses": Kind(("O", 7), "float32", "position 3 in metres and quaternion wxyz 4 of meta's `pose_names` in the world"),
    "keypoints": Kind(("V", "P", 3), "float32", "column and row in pixels, depth in metres of meta's `keypoint_names`, also where hidden"),
}
PER_VIEW = tuple(key for key, kind in FIELDS.items() if kind.axes[:1] == ("V",))
MARKS = ("is_first", "is_last", "is_terminal")  # (T,) bool; made from the episodes' ends, never stored


class BrokenEpisode(UserError):
    """Frames of an episode cannot be read: a damaged chunk, a truncated video."""


@dataclass(frozen=True)
class Field:
    """What each frame holds under one key."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Clips:
    """Episodes 0 .. len - 1. A child sets the attributes and gives `read_fields`.

    Attributes:
        name: what messages call it, such as its path.
        views: names of the V cameras.
        size: (H, W) of the images in pixels.
        fps: frames per second.
        fields: key of `FIELDS` -> `Field`; "images" is always there.
        lengths: (E,) int64, frames of each episode, at least 1.
        episodes: for each episode what is known of it; may hold "language" (an instruction or a narration, else ""), "task",
            "success", "terminal" (it ended in a terminal state and not by time), "source" (the file it came from) and more.
        meta: what is known of all episodes alike; names of what the numbers of segmentation, poses and keypoints stand for.
        broken: episode -> why it cannot be read; found when reading, and left out by those who draw samples.
    """

    name: str
    views: list[str]
    size: tuple[int, int]
    fps: float
    fields: dict[str, Field]
    lengths: np.ndarray
    episodes: Sequence[dict[str, Any]]
    meta: dict[str, Any]
    broken: dict[int, str]

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Frames start .. stop - 1 of an episode, within it: key of `fields` -> (stop - start, ...).

        Raises:
            BrokenEpisode: they cannot be read.
        """
        raise NotImplementedError

    def read(self, episode: int, start: int = 0, stop: int | None = None, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Frames start .. stop - 1 of an episode, T of them.

        Args:
            stop: default the episode's end.
            keys: of `fields`; default all.

        Returns:
            key -> (T, ...) as `FIELDS` says; ``is_first, is_last, is_terminal`` (T,) bool; ``language`` str.

        Raises:
            BrokenEpisode: the episode is damaged; it stands in `broken` from then on.
            UserError: there is no such key.
            IndexError: there is no such episode or frame.
        """
        length = int(self.lengths[episode])
        stop = length if stop is None else stop
        if not 0 <= start < stop <= length:
            raise IndexError(f"frames {start} to {stop} are not within episode {episode} of {self.name}, which has {length}")
        if keys is not None:
            self.check_keys(keys)
        try:
            clip: dict[str, Any] = self.read_fields(episode, start, stop, list(self.fields) if keys is None else keys)
        except BrokenEpisode as error:
            self.broken[int(episode)] = str(error)
            raise
        step = np.arange(start, stop)
        clip["is_first"], clip["is_last"] = step == 0, step == length - 1
        clip["is_terminal"] = clip["is_last"] & bool(self.episodes[episode].get("terminal", False))
        clip["language"] = self.language(episode)
        return clip

    def check_keys(self, keys: Sequence[str]) -> None:
        """Refuses keys that the clips do not have."""
        missing = [key for key in keys if key not in self.fields]
        if missing:
            raise UserError(
                f"{self.name} has no {', '.join(missing)}: its frames hold {', '.join(self.fields)}. Choose clips that were recorded with "
                "what is needed, or do without it."
            )

    def language(self, episode: int) -> str:
        """The episode's instruction or narration; "" where there is none."""
        return str(self.episodes[episode].get("language") or "")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, episode: int) -> dict[str, Any]:
        return self.read(range(len(self))[episode])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole episodes in turn; damaged ones are left out and stand in `broken`."""
        for episode in range(len(self)):
            if episode in self.broken:
                continue
            try:
                yield self[episode]
            except BrokenEpisode:
                continue
