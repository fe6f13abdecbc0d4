"""Batches of windows of frames, drawn from clips and put on the device; every batch is a pure function of (seed, step)."""

import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import torch

from robo_repr.core.errors import UserError, check_range, unknown
from robo_repr.core.seeding import rng
from robo_repr.data.base import FIELDS, MARKS, PER_VIEW, BrokenEpisode, Clips

TRIES = 100  # windows drawn for a sample before one of each episode is tried


class Batches:
    """Windows of T frames, `stride` frames apart, drawn with replacement and uniformly over all places where a window can begin.

    A window lies within one episode. An episode of L frames has max(1, L - (T - 1) * stride) places, so with T = 1 every frame is equally
    likely, and of an episode that is too short the one window begins at its first frame. What lies beyond the end then repeats the
    episode's last frame, its marks included, and is True in ``is_padding``.

    What a batch holds does not depend on the workers, on the ranks, or on what was read before: a window that cannot be read is replaced
    by others, drawn for that step and row alone. Windows of a damaged episode that can still be read are used. The first time that an
    episode turns out damaged, a line on stderr says so.

    Args:
        clips: where the frames come from.
        batch_size: samples per step, over all ranks together; `world_size` must divide it.
        frames: T.
        stride: frames from one frame of a window to the next. What lies between is read too.
        keys: of the clips' fields; default all.
        views: cameras, in this order; default all.
        device: torch's name of it. To CUDA the batch goes through pinned memory, without waiting.
        rank, world_size: this process takes the rank-th of `world_size` equal slices of each batch.
        workers: threads that read ahead for `start`.

    Raises:
        UserError: a number out of range, a name that is not known, keys that the clips lack, or clips without an episode.
    """

    def __init__(
        self,
        clips: Clips,
        batch_size: int,
        frames: int = 1,
        stride: int = 1,
        keys: Sequence[str] | None = None,
        views: Sequence[str] | None = None,
        seed: int = 0,
        device: str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
    ):
        for key, value in (("batch_size", batch_size), ("frames", frames), ("stride", stride), ("world_size", world_size)):
            check_range(key, value, 1, whole=True)
        check_range("rank", rank, 0, world_size - 1, whole=True)
        check_range("workers", workers, 1, what="threads that read ahead", whole=True)
        if batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {world_size} processes: it counts the samples of all of them. Choose a "
                f"multiple of {world_size}, such as {-(-batch_size // world_size) * world_size}."
            )
        if len(clips) == 0:
            raise UserError(f"{clips.name} holds no episode, so there is nothing to draw from. Record or import some first.")
        for key in keys or ():
            if key not in FIELDS:
                raise unknown("key", key, FIELDS)
        clips.check_keys(keys or ())
        for view in views or ():
            if view not in clips.views:
                raise unknown("view", view, clips.views)
        self.clips, self.batch_size, self.frames, self.stride, self.seed = clips, batch_size, frames, stride, seed
        self.keys = list(clips.fields) if keys is None else list(keys)
        self.views = list(clips.views) if views is None else list(views)
        self.device, self.rank, self.world_size, self.workers = torch.device(device), rank, world_size, workers
        self._view_places = [clips.views.index(view) for view in self.views]
        self._places = np.maximum(1, clips.lengths - (frames - 1) * stride)  # of each episode
        self._ends = np.cumsum(self._places)
        self._named: set[int] = set()
        self._lock = Lock()

    def batch(self, step: int) -> dict[str, Any]:
        """This rank's B samples of a step.

        Returns:
            each key of the fields, (B, T, ...) as `FIELDS` says, V being the views asked for; ``is_first, is_last, is_terminal,
            is_padding`` (B, T) bool; ``episode`` (B,) and ``frame`` (B, T) int64, where the frames come from; all torch on the device.
            ``language``: B strings.

        Raises:
            UserError: no episode can be read.
        """
        return self._on_device(self._assemble(step))

    def start(self, step: int = 0) -> Generator[dict[str, Any], None, None]:
        """The batches of `step`, `step` + 1 and so on without end, read ahead by threads. These end when the iterator is closed, which
        leaving a ``for`` loop over it does; what goes wrong in them is raised here."""
        pool = ThreadPoolExecutor(self.workers, "batches")
        ahead = deque(pool.submit(self._assemble, step + k) for k in range(self.workers + 1))
        return self._run(pool, ahead, step + len(ahead))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.start()

    def _run(self, pool: ThreadPoolExecutor, ahead: deque[Future], step: int) -> Generator[dict[str, Any], None, None]:
        try:
            for later in count(step):
                batch = ahead.popleft().result()
                ahead.append(pool.submit(self._assemble, later))
                yield self._on_device(batch)
        finally:
            pool.shutdown(cancel_futures=True)

    def _assemble(self, step: int) -> dict[str, Any]:
        """The batch of a step, not yet on the device but in memory from which it can be copied there."""
        rows, fields = self.batch_size // self.world_size, self.clips.fields
        shapes = {key: (len(self.views), *fields[key].shape[1:]) if key in PER_VIEW else fields[key].shape for key in self.keys}
        arrays = {key: np.empty((rows, self.frames, *shape), fields[key].dtype) for key, shape in shapes.items()}
        arrays |= {mark: np.empty((rows, self.frames), dtype=bool) for mark in (*MARKS, "is_padding")}
        arrays["episode"], arrays["frame"] = np.empty(rows, np.int64), np.empty((rows, self.frames), np.int64)
        language = []
        drawn = rng(self.seed, "batch", step).integers(self._ends[-1], size=self.batch_size)
        for place in range(rows):
            row = self.rank * rows + place
            episode, start, clip = self._sample(step, row, int(drawn[row]))
            wanted = start + self.stride * np.arange(self.frames)
            frame = np.minimum(wanted, self.clips.lengths[episode] - 1)
            for key in (*self.keys, *MARKS):
                value = clip[key][frame - start]
                arrays[key][place] = value[:, self._view_places] if key in PER_VIEW else value
            arrays["is_padding"][place], arrays["episode"][place], arrays["frame"][place] = wanted != frame, episode, frame
            language.append(clip["language"])
        batch: dict[str, Any] = {key: torch.from_numpy(array) for key, array in arrays.items()}
        if self.device.type == "cuda":
            batch = {key: value.pin_memory() for key, value in batch.items()}
        return {**batch, "language": language}

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value if key == "language" else value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def _sample(self, step: int, row: int, drawn: int) -> tuple[int, int, dict[str, Any]]:
        """Episode, first frame and frames of the first window for this row that can be read."""
        reason = ""
        for window in self._windows(step, row, drawn):
            episode = int(np.searchsorted(self._ends, window, side="right"))
            start = int(window - self._ends[episode] + self._places[episode])
            stop = min(start + (self.frames - 1) * self.stride + 1, int(self.clips.lengths[episode]))
            try:
                return episode, start, self.clips.read(episode, start, stop, self.keys)
            except BrokenEpisode as error:
                reason = str(error)
                self._name_broken(episode, reason)
        raise UserError(
            f"Nothing of {self.clips.name} can be read: {TRIES} windows and then one of each of its {len(self.clips)} episodes were tried; "
            f"the last one said: {reason} Take other clips, or make these anew."
        )

    def _windows(self, step: int, row: int, drawn: int) -> Iterator[int]:
        """Windows to try for a row, one after the other: a function of (seed, step, row) and not of what else was found broken."""
        yield drawn
        for attempt in range(1, TRIES):
            yield int(rng(self.seed, "batch", step, row, attempt).integers(self._ends[-1]))
        generator = rng(self.seed, "batch", step, row, "each")
        for episode in generator.permutation(len(self._ends)):
            yield int(self._ends[episode] - 1 - generator.integers(self._places[episode]))

    def _name_broken(self, episode: int, reason: str) -> None:
        with self._lock:
            if episode not in self._named:
                self._named.add(episode)
                print(f"left out what cannot be read of episode {episode} of {self.clips.name}: {reason}", file=sys.stderr, flush=True)
