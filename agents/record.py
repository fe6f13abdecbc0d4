"""Records a policy's episodes into a clip store, drawn and stepped in many worlds at once while the last ones are being written."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.base import ExpertPolicy, Policy
from envs import BatchEnv, make_env
from envs.checks import check_views, free_memory
from envs.render import BACKEND
from envs.truth import GroundTruth
from robo_repr.core.config import RecordConfig
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.files import home_expanded
from robo_repr.core.run import versions
from robo_repr.core.seeding import rng
from robo_repr.data.store import ClipWriter

POLICIES = ("expert", "noisy_expert", "random")
FIRST_ID = 10**9  # of recorded episodes among the fixed ones: evaluations use those from 0 on, so nobody is tested on what was recorded
BUFFERED = 2**30  # bytes of frames that are being recorded or wait to be written
BUFFERS = 2  # one wave is recorded while the one before is written


@dataclass
class Recorded:
    """What one task's recording came to, with the episodes that were there before."""

    path: Path
    episodes: int
    success: int
    pictures: int = 0  # drawn now
    seconds: float = 0.0  # spent on them


@dataclass
class _Run:
    """What a trained policy needs around it."""

    task: str
    parts: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


class RandomActions:
    """Uniform actions that are functions of the seed, the episode and its step alone, so that a recording can go on anywhere."""

    def __init__(self, env: BatchEnv):
        self._env, self._steps = env, np.zeros(env.num_envs, dtype=int)

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        size = self._env.task.action_dim()
        rows = [
            rng(self._env.seed, "random_policy", *episode, int(step)).uniform(-1, 1, size)
            for episode, step in zip(self._env.episodes, self._steps, strict=True)
        ]
        self._steps += 1
        return np.stack(rows).astype(np.float32)

    def reset(self, mask: np.ndarray) -> None:
        self._steps[mask] = 0


def tasks_of(cfg: RecordConfig) -> list[str]:
    """The tasks to record: those asked for, or the run's, or reach."""
    tasks = ["reach"] if cfg.task is None else [cfg.task] if isinstance(cfg.task, str) else cfg.task
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks) or len(set(tasks)) < len(tasks):
        raise UserError(f"task={cfg.task} is not possible. Name one task (task=reach) or several different ones (task=[reach,push]).")
    return [_load(cfg, None).task] if cfg.task is None and cfg.policy not in POLICIES else tasks


def record(
    cfg: RecordConfig,
    task: str,
    out: Path,
    *,
    command: str,
    on_wave: Callable[[Recorded], None],
    stop: Callable[[], object] = lambda: False,
) -> Recorded:
    """Records episodes of one task into the store `out`, or those that it lacks.

    Args:
        cfg: settings, of which `task`, `out` and `workers` are not read.
        command: what the store shall say of how it was made.
        on_wave: told the state after each set of episodes that were recorded together.
        stop: asked before every step; the episodes being recorded are given up then, and those before are written.

    Raises:
        UserError: settings that do not exist or do not go together; the folder holds something else.
        Failure: the disk is full, or something went wrong while drawing. The episodes before are whole.
    """
    run = _load(cfg, task)
    views = check_views(cfg.views if cfg.views is not None else run.settings.get("views") or None)
    if not views:
        raise UserError("views=[] records no pictures. Name at least one camera, such as views=[front].")
    seen = run.settings.get("views", [])  # by the policy
    size = cfg.image_size or run.settings.get("image_size", 84)
    settings = {
        **{"quality": cfg.quality or "fast", "image_size": size, "horizon": cfg.horizon},
        **{**run.settings, "camera": cfg.camera, "appearance": cfg.appearance, "seed": cfg.seed},
        "views": [*seen, *(view for view in views if view not in seen)],
        "autoreset": False,
    }
    # What the store says of its episodes is asked of one world, before it is known how many are needed.
    with closing(make_env(task, **settings)) as probe:
        assert isinstance(probe, BatchEnv)
        _policy(cfg, run, probe)
        truth = GroundTruth(probe, _names(cfg.ground_truth), views, size)
        about = {
            "camera": cfg.camera,
            "appearance": cfg.appearance,
            "quality": settings["quality"],
            "seed": cfg.seed,
            "horizon": probe.horizon,
        }
        policy = cfg.policy if run.parts is None else str(Path(cfg.policy))
        how = {"policy": policy, **({"noise": cfg.noise} if cfg.policy == "noisy_expert" else {}), **run.about}
        made_by = {"command": command, "versions": versions(), "seed": cfg.seed}
        meta = {"task": task, **how, **about, "renderer": f"mujoco {BACKEND}", **truth.names, "made_by": made_by}
        worlds = min(cfg.num_envs, _room(probe.horizon + 1, len(views), size, truth.keys))
        fps = probe.metadata["render_fps"]
    with ClipWriter(out, views=views, size=(size, size), fps=fps, meta=meta) as writer:
        done = writer.episodes
        recorded = Recorded(out, len(done), sum(bool(episode.get("success")) for episode in done))
        if len(done) >= cfg.episodes:
            return recorded
        first, waves, worlds = _waves(len(done), cfg.episodes, worlds, exact=run.parts is None)
        ids = [FIRST_ID + first + i for i in range(waves * worlds)]
        env = make_env(task, **settings, num_envs=worlds, episode_ids=ids)
        assert isinstance(env, BatchEnv)
        with closing(env), ThreadPoolExecutor(1) as pool:
            recorder = _Recorder(env, _policy(cfg, run, env), GroundTruth(env, truth.keys, views, size), seen, views, size)
            written: Future | None = None
            began = time.perf_counter()
            try:
                for begin in range(first, first + waves * worlds, worlds):
                    episodes = recorder.wave(stop)
                    if episodes is None:
                        break
                    episodes = episodes[max(0, len(done) - begin) : cfg.episodes - begin]
                    if written:
                        written.result()
                    written = pool.submit(_write, writer, episodes)
                    recorded.episodes += len(episodes)
                    recorded.success += sum(details["success"] for _, details in episodes)
                    recorded.pictures += sum(frames["images"].shape[0] * len(views) for frames, _ in episodes)
                    recorded.seconds = time.perf_counter() - began
                    on_wave(recorded)
            finally:
                if written:
                    written.result()
            recorded.seconds = time.perf_counter() - began
    return recorded


def _waves(done: int, episodes: int, most: int, exact: bool) -> tuple[int, int, int]:
    """How the episodes from `done` on are recorded: the first one, how many waves, and how many worlds.

    Args:
        exact: whether an episode comes out the same among any number of others. A network's last bits do not, so its worlds are always as
            many, and a wave that was left unfinished is run again from its first episode.
    """
    if not exact:
        first = done // most * most
        return first, -(-(episodes - first) // most), most
    waves = -(-(episodes - done) // most)
    return done, waves, -(-(episodes - done) // waves)  # even ones


def _room(frames: int, views: int, size: int, truth: list[str]) -> int:
    """How many worlds' episodes of so many frames can be kept at once.

    Raises:
        UserError: not a single one.
    """
    pixels = 3 + 2 * len({"depth", "segmentation"} & set(truth))  # bytes of each
    episode = BUFFERS * frames * views * size**2 * pixels
    free = free_memory()
    if free is not None and episode > free:
        raise UserError(
            f"An episode does not fit into memory: {frames} frames of {views} views at image_size={size} need {episode / 1e9:,.1f} GB "
            f"while they are recorded, and {free / 1e9:,.1f} GB are free. Use smaller pictures, fewer views, a shorter horizon or less "
            "ground_truth."
        )
    return max(1, min(BUFFERED, free or BUFFERED) // episode)


class _Recorder:
    """Runs one episode of every world at a time and keeps what its cameras see.

    Args:
        seen: views that the policy acts on; what it gets is cut down to them.
        views, size: what is recorded.
    """

    def __init__(self, env: BatchEnv, policy: Policy, truth: GroundTruth, seen: list[str], views: list[str], size: int):
        self._env, self._policy, self._truth, self._views, self._size = env, policy, truth, views, size
        self._seen, self._recorded = ([env.views.index(view) for view in names] for names in (seen, views))
        self._state = env.task.state_size(False)

    def wave(self, stop: Callable[[], object]) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]] | None:
        """The next episode of every world, (frames, what is known of it) each; None when `stop` said so."""
        env = self._env
        obs, _ = env.reset()
        self._policy.reset(np.ones(env.num_envs, dtype=bool))
        first = self._frame(obs) | {
            "actions": np.zeros((env.num_envs, env.task.action_dim()), np.float32),
            "reward": np.zeros(env.num_envs, np.float32),
        }
        # Zeros, since nothing is done after an episode's last frame.
        frames = {key: np.zeros((env.num_envs, env.horizon + 1, *value.shape[1:]), value.dtype) for key, value in first.items()}
        _put(frames, 0, first)
        lengths, details = np.zeros(env.num_envs, dtype=int), [{} for _ in range(env.num_envs)]
        for step in range(env.horizon):
            if stop():
                return None
            running = lengths == 0
            actions = np.asarray(self._policy.act(self._cut(obs)), dtype=np.float32)
            obs, reward, terminated, truncated, info = env.step(actions)
            frames["actions"][running, step], frames["reward"][running, step] = actions[running], reward.cpu().numpy()[running]
            _put(frames, step + 1, self._frame(obs))
            for world in np.flatnonzero((terminated | truncated).cpu().numpy() & running):
                lengths[world], details[world] = step + 2, self._details(int(world), info)
        return [({key: value[w, : lengths[w]] for key, value in frames.items()}, details[w]) for w in range(env.num_envs)]

    def _frame(self, obs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What is recorded of the moment, (N, ...); valid until the next step."""
        env = self._env
        if self._size == env.image_size:
            pictures = obs["images"][:, self._recorded]
            images = (pictures if env.frame_stack == 1 else pictures[:, :, -1]).cpu().numpy()
        else:
            images = env.render_at(self._size, views=self._views).transpose(0, 1, 4, 2, 3)
        state, camera = (obs[key].cpu().numpy() for key in ("state", "camera"))
        return {"images": images, "state": state[:, : self._state], "camera": camera[:, self._recorded], **self._truth.read()}

    def _cut(self, obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._seen or len(self._seen) == len(self._env.views):
            return obs
        return {**obs, **{key: obs[key][:, self._seen] for key in ("images", "camera")}}

    def _details(self, world: int, info: dict[str, Any]) -> dict[str, Any]:
        _, number = self._env.episodes[world]
        flags = {key: bool(info[key][world]) for key in ("success", "success_end", "success_ever", "bad_physics")}
        instructions = self._env.task.instructions
        language = instructions[rng(self._env.seed, "instruction", number).integers(len(instructions))]
        about = {"task": self._env.task.name, "language": language, "terminal": False, "episode_id": number}
        return {**about, **flags, "return": round(float(info["episode_return"][world]), 6)}


def _put(frames: dict[str, np.ndarray], step: int, values: dict[str, np.ndarray]) -> None:
    for key, value in values.items():
        frames[key][:, step] = value


def _write(writer: ClipWriter, episodes: list[tuple[dict[str, np.ndarray], dict[str, Any]]]) -> None:
    for frames, details in episodes:
        writer.add(frames, **details)


def _load(cfg: RecordConfig, task: str | None) -> _Run:
    """The run whose policy shall act; next to nothing where it is one of `POLICIES`."""
    if cfg.policy in POLICIES:
        return _Run(task or "reach")
    folder = home_expanded(cfg.policy)
    if not folder.is_dir():
        words = str(unknown("policy", cfg.policy, POLICIES))
        raise UserError(f"{words} A policy that was trained is named by the folder of its run, but there is no folder {cfg.policy}.")
    from agents.parts import env_settings, load_run, needs_pictures

    parts, run, step = load_run(folder)
    parts.env.close()
    keys = {"task": task or run.task, "quality": cfg.quality or run.quality, "horizon": cfg.horizon or run.horizon}
    settings = env_settings(run, cfg.camera, needs_pictures(parts.encoder) and parts.agent.trains)
    for key in ("task", "quality"):
        if keys[key] != settings[key]:
            raise UserError(f"{key}={keys[key]} is not what {folder} was trained with ({key}={settings[key]}). Leave {key} out.")
    settings = {key: value for key, value in settings.items() if key not in ("task", "reward", "sim")}
    return _Run(run.task, parts, {**settings, "horizon": keys["horizon"]}, {"policy_step": step})


def _policy(cfg: RecordConfig, run: _Run, env: BatchEnv) -> Policy:
    if run.parts is not None:
        return run.parts.agent.policy(env)
    return RandomActions(env) if cfg.policy == "random" else ExpertPolicy(env, cfg.noise if cfg.policy == "noisy_expert" else 0.0)


def _names(value: Any) -> list[str]:
    if not isinstance(value, str | list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"ground_truth={value} is not possible. Write names, such as ground_truth=[depth,segmentation].")
    return [value] if isinstance(value, str) else value
