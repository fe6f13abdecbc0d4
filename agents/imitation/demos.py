"""Demonstrations of a task: recorded once by its expert and shared by all runs, or taken from clips that somebody else made."""

import fcntl
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from agents.evaluate import Interrupted
from agents.recording.record import Recorded, record
from agents.recording.recorder import Run
from envs.cameras import parse_camera
from envs.checks import check_views, has_expert
from envs.registry import task_class
from envs.render import BACKEND
from envs.tasks.base import ArmTask
from robo_repr.core.config import ImitationConfig, RecordConfig
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.run import versions
from robo_repr.data.base import BrokenEpisode, Clips
from robo_repr.data.open import Joined, join, open_clips
from robo_repr.data.store import ClipStore, is_store

FOLDER = Path("runs/demos")
VERSION = 1  # of what is recorded; another one makes all stores anew
# An expert that fails more often than this, or in each of its first episodes, is not asked for more.
LEAST_SUCCESS, FIRST_EPISODES = 1 / 3, 10
SAMPLED = 16  # pictures of a foreign store that its key is made of
LINE_EVERY = 30.0  # seconds between lines about work that goes on
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Worlds:
    """What the worlds in which a policy will act show and take.

    Attributes:
        views: names of the V cameras that it sees; none where it needs no pictures.
        size: (H, W) of their pictures in pixels.
        frame_stack: F, pictures of each camera.
        state, actions: lengths S and A.
    """

    views: list[str]
    size: tuple[int, int]
    frame_stack: int
    state: int
    actions: int

    @classmethod
    def of(cls, env) -> Self:
        """Those of a BatchEnv."""
        spaces = env.single_observation_space
        height, width = spaces["images"].shape[-2:]
        return cls(list(env.views), (height, width), env.frame_stack, spaces["state"].shape[0], env.single_action_space.shape[0])


@dataclass(frozen=True)
class Demos:
    """Successful episodes of one task, as its worlds would have shown them.

    Attributes:
        clips: what they are read from.
        episodes: which of its episodes they are, E of them.
        dropped: how many others, up to the last one of these, failed or cannot be used.
        found: how many successful ones there are in all.
        key: changes with what is read; equal for equal content, wherever it lies.
        state: of each episode (T, S) float32.
        actions: of each episode (T - 1, A) float32 in [-1, 1], the t-th of them taken after frame t was seen.
        language: of each episode its instruction, "" where there is none.
    """

    clips: Clips
    task: str
    worlds: Worlds
    episodes: list[int]
    dropped: int
    found: int
    key: str
    state: list[Tensor]
    actions: list[Tensor]
    language: list[str]

    def images(self, number: int) -> Tensor:
        """What the worlds' views showed in the number-th of `episodes`, read now: (T, V, 3, H, W) uint8; with frame_stack F > 1
        (T, V, F, 3, H, W), oldest first, the episode's first frame standing for those before it."""
        images = self._read(number, "images")
        if self.worlds.frame_stack == 1:
            return images
        before = torch.arange(1 - self.worlds.frame_stack, 1)
        return images[(torch.arange(len(images))[:, None] + before).clamp(min=0)].transpose(1, 2)

    def cameras(self, number: int) -> Tensor:
        """World poses of these views, (T, V, 8) float32; a `UserError` where the clips do not tell them."""
        self.clips.check_keys(["camera"])
        return self._read(number, "camera")

    def _read(self, number: int, key: str) -> Tensor:
        try:
            value = self.clips.read(self.episodes[number], keys=[key])[key]
        except BrokenEpisode as error:
            raise UserError(
                f"{error}. It is one of the demonstrations of task={self.task}. Put back the store's files, or make it anew: the experts' "
                f"stores in {FOLDER} are recorded again once they are removed."
            ) from error
        return torch.from_numpy(value[:, [self.clips.views.index(view) for view in self.worlds.views]])


def find_demos(
    cfg: ImitationConfig,
    task: str,
    worlds: Worlds,
    on_progress: Callable[[str], object] = lambda line: None,
    stop: Callable[[], object] = lambda: False,
) -> Demos:
    """The first ``cfg.demos`` successful episodes of a task: of ``cfg.demo_data``, or of its expert, which records what is missing.

    Args:
        cfg: the run's settings.
        task: one of its tasks.
        worlds: in which its policy will be evaluated.
        on_progress: told in a line now and then how it goes.
        stop: asked before every step; what is recorded by then is kept.

    Raises:
        UserError: the task has no expert, or one that succeeds too seldom; the clips hold too few episodes, or do not fit the worlds.
        Failure: the disk is full, or something went wrong while drawing.
        Interrupted: `stop` said so.
    """
    if cfg.demo_data is None:
        clips, key = _recorded(cfg, task, on_progress, stop)
        demos = _chosen(cfg, clips, range(len(clips)), task, worlds, key)
        if len(demos.episodes) < cfg.demos:
            raise UserError(
                f"{clips.name} is damaged: only {len(demos.episodes)} of the demos={cfg.demos} episodes that are asked for can be read. "
                "Remove the folder; it will be recorded again."
            )
    else:
        clips = _of_task(open_clips(cfg.demo_data), task)
        candidates = _episodes_of_task(cfg, clips, task)
        _check_fit(cfg, clips, task, worlds)
        demos = _chosen(cfg, clips, candidates, task, worlds, _content(clips, candidates))
        if len(demos.episodes) < cfg.demos:
            enough = f"Use demos={len(demos.episodes)} or fewer, or add episodes." if demos.episodes else "Choose other clips."
            raise UserError(
                f"demos={cfg.demos} are too many: demo_data={cfg.demo_data} has {len(demos.episodes)} of task={task} that can be used, and "
                f"{demos.dropped} that failed, are damaged or have no action. {enough}"
            )
    beyond = [int((actions.abs() > 1).sum()) for actions in demos.actions]
    if any(beyond):
        total, most = sum(actions.numel() for actions in demos.actions), max(float(actions.abs().max()) for actions in demos.actions)
        on_progress(f"{task}: {sum(beyond)} of {total} numbers of the actions lie beyond [-1, 1], up to {most:g}: they are clipped")
        for actions in demos.actions:
            actions.clamp_(-1, 1)
    on_progress(f"{task}: {cfg.demos} demonstrations from {clips.name} ({demos.dropped} others dropped)")
    return demos


def check_demos(cfg: ImitationConfig, task: str, worlds: Worlds) -> None:
    """Refuses what `find_demos` would refuse, as far as that shows before anything is recorded."""
    if cfg.demo_data is None:
        expert_of(task)
    else:
        find_demos(cfg, task, worlds)


def _chosen(cfg: ImitationConfig, clips: Clips, candidates: Sequence[int], task: str, worlds: Worlds, key: str) -> Demos:
    """The first demonstrations among the candidates that can be used; fewer where there are not so many."""
    chosen, dropped, state, actions = [], 0, [], []
    good = {episode for episode in candidates if _succeeded(clips, episode)}
    for episode in candidates:
        if len(chosen) == cfg.demos:
            break
        if episode in good:
            try:
                clip = clips.read(episode, keys=["state", "actions"])
            except BrokenEpisode:
                good.remove(episode)
        if episode not in good:
            dropped += 1
            continue
        _refuse_infinities(clips, episode, clip)
        chosen.append(episode)
        state.append(torch.from_numpy(clip["state"][:, : worlds.state].copy()))
        actions.append(torch.from_numpy(clip["actions"][:-1].copy()))
    language = [clips.language(episode) for episode in chosen]
    return Demos(clips, task, worlds, chosen, dropped, len(good), key, state, actions, language)


def _succeeded(clips: Clips, episode: int) -> bool:
    """Whether an episode can be shown as an example: with an action at all, and not known to have failed."""
    success = clips.episodes[episode].get("success")
    return bool(clips.lengths[episode] > 1 and (success is None or success))


def _refuse_infinities(clips: Clips, episode: int, clip: dict[str, np.ndarray]) -> None:
    for key, value in (("state", clip["state"]), ("actions", clip["actions"][:-1])):
        bad = int((~np.isfinite(value)).sum())
        if bad:
            raise UserError(
                f"{clips.name}: {bad} of {value.size} numbers of the {key} in episode {episode} are not finite, and training on them would "
                "spread NaN into every weight. Mend the recording, or mark this episode as success=false."
            )


# Recorded by the experts


def _recorded(cfg: ImitationConfig, task: str, on_progress: Callable[[str], object], stop: Callable[[], object]) -> tuple[ClipStore, str]:
    """The store of the task's expert, with enough successful episodes, and its address."""
    cls = expert_of(task)
    recording = RecordConfig(
        task=task,
        policy="noisy_expert" if cfg.demo_noise else "expert",
        noise=cfg.demo_noise,
        relabel=cfg.demo_noise > 0 and cfg.policy.get("labels") != "done",
        # The order of the views does not matter to what each shows, and a policy without eyes uses the store of those that see.
        views=sorted(check_views(cfg.views) or check_views(None)),
        camera=cfg.camera,
        appearance=cfg.appearance,
        quality=cfg.quality,
        image_size=cfg.image_size,
        privileged=True,  # so that one store serves the privileged arm too
        horizon=cfg.horizon or cls.horizon,
        seed=cfg.demo_seed,
    )
    key = _address(recording, cls)
    folder = FOLDER / f"{task}-{key}"
    if _count(folder)[1] < cfg.demos:
        lock = folder.with_name(f".{folder.name}.lock")
        try:
            with one_at_a_time(lock, lambda: on_progress(f"{task}: waiting for another process that records into {folder}"), stop):
                _record_missing(cfg, task, recording, folder, on_progress, stop)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror or error}). Make the folder writable, or free space.") from error
    return ClipStore(folder), key


def expert_of(task: str) -> type[ArmTask]:
    """The class of a task that has an expert; a `UserError` where it has none."""
    cls = task_class(task)
    if not has_expert(cls):
        raise UserError(
            f"task={task} has no scripted expert that could demonstrate it. Give demonstrations with demo_data=FOLDER, or write a method "
            "expert(readings) in the task's class."
        )
    return cls


def _record_missing(
    cfg: ImitationConfig, task: str, recording: RecordConfig, folder: Path, on_progress: Callable[[str], object], stop: Callable[[], object]
) -> None:
    """Records until there are ``cfg.demos`` successful episodes. What is there does not depend on who asked for how many before."""
    most = FIRST_EPISODES + math.ceil(cfg.demos / LEAST_SUCCESS)
    said = time.perf_counter()

    def show(recorded: Recorded) -> None:
        nonlocal said
        if time.perf_counter() - said > LINE_EVERY:
            said = time.perf_counter()
            on_progress(f"{task}: {recorded.success} of {cfg.demos} demonstrations recorded, {recorded.episodes - recorded.success} failed")

    episodes, successful = _count(folder)
    if successful < cfg.demos:
        on_progress(f"{task}: its expert records {cfg.demos - successful} demonstrations into {folder}")
    while successful < cfg.demos:
        if stop():
            raise Interrupted
        if episodes >= most or (episodes >= FIRST_EPISODES and not successful):
            fewer = f"Use demos={successful} or fewer. " if successful else ""
            raise UserError(
                f"The expert of task={task} succeeded in {successful} of {episodes} episodes with horizon={recording.horizon}, too seldom "
                f"for demos={cfg.demos}. {fewer}Give it more time (horizon), or give demonstrations with demo_data=FOLDER."
            )
        rate = max(successful / episodes, LEAST_SUCCESS) if episodes else 1.0
        recording.episodes = min(most, episodes + math.ceil((cfg.demos - successful) / rate))
        record(recording, Run(task), folder, command=f"demonstrations of {task}", on_wave=show, stop=stop)
        episodes, successful = _count(folder)


def _count(folder: Path) -> tuple[int, int]:
    """How many episodes a store has, and how many of them are examples; none where there is no store."""
    if not is_store(folder):
        return 0, 0
    clips = ClipStore(folder)
    return len(clips), sum(_succeeded(clips, episode) for episode in range(len(clips)))


def _address(recording: RecordConfig, cls: type[ArmTask]) -> str:
    """16 hex digits that change with whatever the recorded episodes are made of, the task's own code and model included."""
    keys = ("task", "policy", "noise", "relabel", "views", "camera", "appearance", "quality", "image_size", "privileged", "horizon", "seed")
    code = [inspect.getsource(inspect.getmodule(part) or part) for part in cls.__mro__ if issubclass(part, ArmTask)]
    made_of = [VERSION, BACKEND, versions()["mujoco"], *(getattr(recording, key) for key in keys), *code, cls.spec().to_xml()]
    if manifest := parse_camera("camera", recording.camera).sha256:
        made_of.append(manifest)  # its file may change
    return short_hash(json.dumps(made_of))


# Clips that are given


def _of_task(clips: Clips, task: str) -> Clips:
    """Of several sources those that show the task: what they have in common is more than what all have."""
    if isinstance(clips, Joined):
        showing = [source for source in clips.sources if any(episode.get("task") == task for episode in source.episodes)]
        return join(showing) if showing else clips
    return clips


def _episodes_of_task(cfg: ImitationConfig, clips: Clips, task: str) -> list[int]:
    """Those that are marked with the task; all where none is marked with any."""
    named = {str(episode["task"]) for episode in clips.episodes if episode.get("task")}
    if not named:
        if isinstance(cfg.task, list) and len(cfg.task) > 1:
            raise UserError(
                f"demo_data={cfg.demo_data} does not say which of its episodes show which task, so task=[{','.join(cfg.task)}] cannot be "
                "told apart. Name one task, or clips whose episodes.jsonl has a task for each episode."
            )
        return list(range(len(clips)))
    if task not in named:
        raise UserError(f"demo_data={cfg.demo_data} has no episode of this task. {unknown('task', task, named)}")
    return [number for number, episode in enumerate(clips.episodes) if episode.get("task") == task]


def _check_fit(cfg: ImitationConfig, clips: Clips, task: str, worlds: Worlds) -> None:
    """Refuses clips that show or did something else than what the worlds show and take."""
    if isinstance(clips, Joined) and clips.differing & {"state", "actions"}:
        clips.check_keys(["state", "actions"])
    missing = [key for key in ("state", "actions") if key not in clips.fields]
    if missing:
        raise UserError(
            f"demo_data={cfg.demo_data} has no {' and no '.join(missing)}: its frames hold {', '.join(clips.fields)}. Imitation needs "
            "demonstrations with pictures, state and actions, such as scripts/record_clips.py makes and scripts/clips.py imports."
        )
    absent = [view for view in worlds.views if view not in clips.views]
    if absent:
        raise UserError(
            f"demo_data={cfg.demo_data} shows views=[{','.join(clips.views)}], but the policy would be evaluated with "
            f"views=[{','.join(worlds.views)}]. "
            "Choose views that both have, or record the demonstrations with these."
        )
    if worlds.views and tuple(clips.size) != tuple(worlds.size):
        (height, width), (high, wide) = clips.size, worlds.size
        mending = f"Use image_size={height}" if height == width else "Import square pictures"
        raise UserError(
            f"demo_data={cfg.demo_data} holds pictures of {height} x {width} pixels, but the policy would be evaluated on {high} x {wide}. "
            f"{mending}, or record the demonstrations anew."
        )
    state, actions = clips.fields["state"].shape[0], clips.fields["actions"].shape[0]
    if actions != worlds.actions:
        raise UserError(
            f"demo_data={cfg.demo_data} has actions of {actions} numbers, but task={task} takes {worlds.actions}. Choose demonstrations of "
            "this task and this robot."
        )
    if worlds.state not in (state, state - clips.meta.get("privileged_numbers", 0)):
        raise UserError(
            f"demo_data={cfg.demo_data} has a state of {state} numbers, but with task={task} privileged={str(cfg.privileged).lower()} it "
            f"has {worlds.state}. Choose demonstrations of this task and robot; scripts/record_clips.py privileged=true records "
            "both states."
        )


def _content(clips: Clips, episodes: Sequence[int]) -> str:
    """16 hex digits of what the episodes hold, wherever they lie: all numbers, and pictures here and there."""
    digest = hashlib.sha256(json.dumps([clips.views, clips.size, [int(clips.lengths[episode]) for episode in episodes]]).encode())
    shown = set(np.linspace(0, len(episodes) - 1, SAMPLED).round().astype(int)) if len(episodes) else set()
    for number, episode in enumerate(episodes):
        middle = int(clips.lengths[episode]) // 2
        try:
            values = list(clips.read(episode, keys=["state", "actions"]).values())[:2]
            if number in shown:
                values.append(clips.read(episode, middle, middle + 1, ["images"])["images"])
        except BrokenEpisode:
            values = []
        for value in values:
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


# For whatever is made once and shared


def short_hash(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def one_at_a_time(lock: Path, on_wait: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    """Waits until no other process is within, then is within; the system lets the next one in when this one dies, however it dies.

    Args:
        lock: a file; made with its folder if it is not there, and left there.
        on_wait: called once where another process is within.
        stop: asked while waiting.

    Raises:
        Interrupted: `stop` said so.
        OSError: the file cannot be made.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "ab") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    on_wait()
                waited = True
                if stop():
                    raise Interrupted from None
                time.sleep(POLL)
        yield
