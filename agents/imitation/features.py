"""What frozen eyes see in demonstrations: computed once, kept on disk, shared by all runs that see the same with the same eyes."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.evaluate import Interrupted
from agents.eyes import Eyes
from agents.imitation.demos import LINE_EVERY, Demos, one_at_a_time, short_hash
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.files import remove

FOLDER = Path("runs/features")
VERSION = 1  # of what is kept; another one makes all anew
# Of each task and of all together. So few episodes, that runs on more demonstrations see with the same eyes.
CALIBRATION_EPISODES, CALIBRATION_FRAMES = 5, 256


def calibrate(
    eyes: Eyes,
    demos_of_tasks: Sequence[Demos],
    cache: bool,
    on_progress: Callable[[str], object] = lambda line: None,
    stop: Callable[[], object] = lambda: False,
) -> None:
    """Fits the read-out of fresh eyes to the first demonstrations of each task, or takes what was fitted to the same ones before.

    Args:
        eyes: not calibrated yet.
        cache: whether to look on the disk, and to leave it there.

    Raises:
        Interrupted: `stop` said so.
    """
    if not eyes.dim:
        return
    first = [(demos, number) for demos in demos_of_tasks for number in range(min(CALIBRATION_EPISODES, len(demos.episodes)))]
    about = {"calibration": eyes.fingerprint(), "of": [_shown(demos, demos.episodes[number]) for demos, number in first]}
    with ExitStack() as within:
        shelf = _Shelf(about, cache, within, on_progress, stop)
        if state := shelf.load("calibration"):
            try:
                return eyes.load_state(state)
            except UserError as error:
                shelf.say_unfit("calibration", str(error))
        with torch.no_grad():
            features = eyes.encode(_spread_frames(first))
        assert features is not None
        eyes.calibrate(features)
        shelf.save("calibration", eyes.state())


def demo_features(
    eyes: Eyes,
    demos_of_tasks: Sequence[Demos],
    cache: bool,
    on_progress: Callable[[str], object] = lambda line: None,
    stop: Callable[[], object] = lambda: False,
) -> list[Tensor]:
    """What calibrated eyes see in every frame of the demonstrations, all episodes of the first task, then those of the next.

    The same numbers come out with and without the cache: the frames of an episode always go through the encoder together, and alone.

    Args:
        cache: whether to look on the disk, and to leave there what was missing. Without room there, a line says so and nothing is kept.
        on_progress: told in a line now and then how it goes, and how much was there.
        stop: asked before every episode; what was computed by then is kept.

    Returns:
        For each episode (T, D) float16 on the CPU.

    Raises:
        Failure: a feature is not finite.
        Interrupted: `stop` said so.
    """
    if not eyes.dim:
        return [torch.zeros(len(state), 0, dtype=torch.float16) for demos in demos_of_tasks for state in demos.state]
    fingerprint = eyes.fingerprint()
    features = []
    for demos in demos_of_tasks:
        with ExitStack() as within:
            shelf = _Shelf({"features": fingerprint, "of": _shown(demos)}, cache, within, on_progress, stop)
            features += _features_of_task(eyes, demos, shelf, on_progress, stop)
    return features


def _features_of_task(
    eyes: Eyes, demos: Demos, shelf: "_Shelf", on_progress: Callable[[str], object], stop: Callable[[], object]
) -> list[Tensor]:
    features, kept, began = [], 0, time.perf_counter()
    said = began
    for number, episode in enumerate(demos.episodes):
        if stop():
            raise Interrupted
        name, frames = f"episode{episode}", len(demos.state[number])
        state = shelf.load(name)
        value = state.get("features") if state else None
        if state and not (isinstance(value, Tensor) and _fits(value, (frames, eyes.dim))):
            shelf.say_unfit(name, "other sizes, or numbers that are not finite")
            value = None
        kept += value is not None
        if value is None:
            value = eyes.see(demos.images(number))
            if not _fits(value, (frames, eyes.dim)):
                raise Failure(
                    f"The encoder's features of episode {episode} of {demos.clips.name} are not finite numbers, and training on them would "
                    "spread NaN into every weight. Look for broken weights, or use precision=float32."
                )
            shelf.save(name, {"features": value})
        features.append(value)
        if time.perf_counter() - said > LINE_EVERY:
            said = time.perf_counter()
            on_progress(f"{demos.task}: {number + 1} of {len(demos.episodes)} demonstrations encoded")
    made, seconds = len(features) - kept, time.perf_counter() - began
    source = f", {kept} from {shelf.folder}" if shelf.keeps or kept else ""
    on_progress(f"{demos.task}: features of {len(features)} demonstrations{source}, {made} encoded in {seconds:.1f} s")
    return features


def _fits(value: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(value.shape) == shape and value.dtype == torch.float16 and bool(value.isfinite().all())


def _shown(demos: Demos, *episodes: int) -> list[Any]:
    """What tells the pictures of the episodes: equal for equal ones."""
    worlds = demos.worlds
    return [demos.key, worlds.views, list(worlds.size), worlds.frame_stack, *episodes]


def _spread_frames(episodes: Sequence[tuple[Demos, int]]) -> Tensor:
    """As many frames as are calibrated on, spread evenly over the episodes: (N, V, 3, H, W) or (N, V, F, 3, H, W)."""
    ends = np.cumsum([len(demos.state[number]) for demos, number in episodes])
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(CALIBRATION_FRAMES, int(ends[-1]))).round().astype(int))
    parts = []
    for (demos, number), end in zip(episodes, ends, strict=True):
        begin = end - len(demos.state[number])
        wanted = chosen[(begin <= chosen) & (chosen < end)] - begin
        parts.append(demos.images(number)[wanted])
    return torch.cat(parts)


class _Shelf:
    """A folder of what was computed of one thing with one thing, each piece whole or not there; nobody else writes there meanwhile.

    Args:
        about: what all of it was computed of; its hash is the folder's name, and it stands in every piece.
        keeps: without it, nothing is looked for and nothing is left.
        within: holds the lock.

    Attributes:
        folder: where it is.
        keeps: also False once the disk is full.
    """

    def __init__(
        self,
        about: dict[str, Any],
        keeps: bool,
        within: ExitStack,
        on_progress: Callable[[str], object],
        stop: Callable[[], object],
    ):
        self._about = json.dumps([VERSION, about])
        self.folder, self.keeps = FOLDER / short_hash(self._about), keeps
        if keeps:
            try:
                waiting = f"waiting for another process that computes {self.folder}"
                within.enter_context(one_at_a_time(self.folder / "lock", lambda: on_progress(waiting), stop))
            except OSError as error:
                self._give_up(error)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """What was saved under that name; None where there is nothing, or nothing that fits, which is said."""
        if not self.keeps or not (self.folder / f"{name}.json").exists():
            return None
        try:
            state = load_state(self.folder, name)
        except UserError as error:
            return self.say_unfit(name, str(error))
        if state.get("about") != self._about or not isinstance(state.get("tensors"), dict):
            return self.say_unfit(name, "it is of another encoder, read-out or other demonstrations")
        return state["tensors"]

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        if not self.keeps:
            return
        try:
            save_state(self.folder, name, {"about": self._about, "tensors": tensors})
        except OSError as error:
            for ending in ("safetensors", "json"):
                remove(self.folder / f"{name}.{ending}")
            self._give_up(error)

    def say_unfit(self, name: str, why: str) -> None:
        print(f"{self.folder / name} is computed again: {why}", file=sys.stderr, flush=True)

    def _give_up(self, error: OSError) -> None:
        self.keeps = False
        words = error.strerror or error
        print(f"{self.folder} cannot be written ({words}): features are not kept, and the run goes on without", file=sys.stderr, flush=True)
