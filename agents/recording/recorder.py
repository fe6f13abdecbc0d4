"""A policy's episodes as a camera man sees them: which worlds, which policy, and what is kept of each step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agents.base import ExpertPolicy, Policy, RandomPolicy
from envs import BatchEnv, make_env
from envs.checks import check_expert, check_views
from envs.truth import GroundTruth
from robo_repr.core.config import RecordConfig
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.files import home_expanded
from robo_repr.core.seeding import rng

POLICIES = ("expert", "noisy_expert", "random")
FIRST_ID = 10**9  # of recorded episodes among the fixed ones: evaluations use those from 0 on, so nobody is tested on what was recorded

Wave = list[tuple[dict[str, np.ndarray], dict[str, Any]]]  # (frames, what is known of it) of each episode that was recorded together


@dataclass
class Run:
    """What a trained policy needs around it."""

    task: str
    parts: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def load_run_of(cfg: RecordConfig, task: str | None) -> Run:
    """The run whose policy shall act, in that task or, by default, its own; next to nothing where it is one of `POLICIES`."""
    if cfg.policy in POLICIES:
        return Run(task or "reach")
    folder = home_expanded(cfg.policy)
    if not folder.is_dir():
        words = str(unknown("policy", cfg.policy, POLICIES))
        raise UserError(f"{words} A policy that was trained is named by the folder of its run, but there is no folder {cfg.policy}.")
    from agents.load import load_run
    from agents.parts import env_settings, needs_pictures, tasks_of

    parts, run, step = load_run(folder)
    parts.env.close()
    known = tasks_of(run)
    if task is None and len(known) > 1:
        raise UserError(f"{folder} knows several tasks. Name those to record, such as task={known[0]} (it knows {', '.join(known)}).")
    task = task or known[0]
    for key, value, right in (("task", task, known), ("quality", cfg.quality or run.quality, [run.quality])):
        if value not in right:
            raise UserError(f"{key}={value} is not what {folder} was trained with ({key}={', '.join(right)}). Leave {key} out.")
    settings = env_settings(run, cfg.camera, needs_pictures(parts.encoder) and parts.agent.trains, task)
    settings = {key: value for key, value in settings.items() if key not in ("task", "reward", "sim")}
    about = {"policy_step": step, "num_envs": cfg.num_envs}
    return Run(task, parts, {**settings, "horizon": cfg.horizon or run.horizon}, about)


@dataclass(frozen=True)
class Plan:
    """What is to be recorded of one task.

    Attributes:
        settings: of `make_env`; its views are those that the policy sees and those that are recorded.
        seen: views that the policy acts on; none of them where it looks at no pictures.
        views, size: of the pictures that are recorded.
    """

    cfg: RecordConfig
    task: str
    settings: dict[str, Any]
    seen: list[str]
    views: list[str]
    size: int


def plan(cfg: RecordConfig, run: Run) -> Plan:
    """Settles what the settings leave open.

    Raises:
        UserError: there is nothing to record.
    """
    views = check_views(cfg.views if cfg.views is not None else run.settings.get("views") or None)
    if not views:
        raise UserError("views=[] records no pictures. Name at least one camera, such as views=[front].")
    seen = run.settings.get("views", [])
    size = cfg.image_size or run.settings.get("image_size", 84)
    settings = {
        **{"quality": cfg.quality or "fast", "image_size": size, "horizon": cfg.horizon},
        **{**run.settings, "camera": cfg.camera, "appearance": cfg.appearance, "seed": cfg.seed},
        "views": [*seen, *(view for view in views if view not in seen)],
        "privileged": cfg.privileged or run.settings.get("privileged", False),
        "autoreset": False,
    }
    return Plan(cfg, run.task, settings, seen, views, size)


class Recorder:
    """Runs one episode of every world at a time and keeps what its cameras see. Close it.

    Args:
        ids: the episodes; as many at a time as there are worlds, in this order.
    """

    def __init__(self, plan: Plan, run: Run, worlds: int = 1, ids: Sequence[int] = (FIRST_ID,)):
        env = make_env(plan.task, **plan.settings, num_envs=worlds, episode_ids=ids)
        self.env, self._views, self._size = env, plan.views, plan.size
        self._left = -(-len(ids) // worlds)
        try:
            self._policy = _policy(plan.cfg, run, env)
            self._relabels = plan.cfg.relabel
            if self._relabels:
                check_expert(env.task)
            self.truth = GroundTruth(env, _names(plan.cfg.ground_truth), plan.views, plan.size)
        except BaseException:
            env.close()
            raise
        self._seen, self._recorded = ([env.views.index(view) for view in names] for names in (plan.seen, plan.views))
        # What is privileged stands at the state's end.
        self._state, self._felt = (env.task.state_size(told) for told in (plan.cfg.privileged, run.settings.get("privileged", False)))

    def close(self) -> None:
        self.env.close()

    def waves(self, stop: Callable[[], object]) -> Iterator[Wave]:
        """All waves; fewer when `stop`, asked before every step, said so."""
        for _ in range(self._left):
            wave = self._wave(stop)
            if wave is None:
                return
            yield wave

    def _wave(self, stop: Callable[[], object]) -> Wave | None:
        """The next episode of every world, (frames, what is known of it) each; None when `stop` said so."""
        env = self.env
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
            kept = env.expert_actions() if self._relabels else actions
            obs, reward, terminated, truncated, info = env.step(actions)
            frames["actions"][running, step], frames["reward"][running, step] = kept[running], reward.cpu().numpy()[running]
            _put(frames, step + 1, self._frame(obs))
            for world in np.flatnonzero((terminated | truncated).cpu().numpy() & running):
                lengths[world], details[world] = step + 2, self._details(int(world), info)
        return [({key: value[w, : lengths[w]] for key, value in frames.items()}, details[w]) for w in range(env.num_envs)]

    def _frame(self, obs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What is recorded of the moment, (N, ...); valid until the next step."""
        env = self.env
        if self._size == env.image_size:
            pictures = obs["images"][:, self._recorded]
            images = (pictures if env.frame_stack == 1 else pictures[:, :, -1]).cpu().numpy()
        else:
            images = env.render_at(self._size, views=self._views).transpose(0, 1, 4, 2, 3)
        state, camera = (obs[key].cpu().numpy() for key in ("state", "camera"))
        return {"images": images, "state": state[:, : self._state], "camera": camera[:, self._recorded], **self.truth.read()}

    def _cut(self, obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the policy was trained to act on."""
        obs = {**obs, "state": obs["state"][:, : self._felt]}
        if not self._seen or len(self._seen) == len(self.env.views):
            return obs
        return {**obs, **{key: obs[key][:, self._seen] for key in ("images", "camera")}}

    def _details(self, world: int, info: dict[str, Any]) -> dict[str, Any]:
        _, number = self.env.episodes[world]
        flags = {key: bool(info[key][world]) for key in ("success", "success_end", "success_ever", "bad_physics")}
        about = {"task": self.env.task.name, "language": self.env.language[world], "terminal": False, "episode_id": number}
        return {**about, **flags, "return": round(float(info["episode_return"][world]), 6)}


def _put(frames: dict[str, np.ndarray], step: int, values: dict[str, np.ndarray]) -> None:
    for key, value in values.items():
        frames[key][:, step] = value


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


def _policy(cfg: RecordConfig, run: Run, env: BatchEnv) -> Policy:
    if run.parts is not None:
        policy = run.parts.agent.policy(env)
        # One stream of actions for all episodes would begin anew in every process and every time that a recording goes on.
        return RandomActions(env) if isinstance(policy, RandomPolicy) else policy
    return RandomActions(env) if cfg.policy == "random" else ExpertPolicy(env, cfg.noise if cfg.policy == "noisy_expert" else 0.0)


def _names(value: Any) -> list[str]:
    if not isinstance(value, str | list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"ground_truth={value} is not possible. Write names, such as ground_truth=[depth,segmentation].")
    return [value] if isinstance(value, str) else value
