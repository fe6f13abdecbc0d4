"""Success of a policy on fixed episodes, each run to its end."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np

from agents.base import Policy
from agents.parts import Parts, env_settings, needs_pictures, tasks_of
from envs import BatchEnv, make_env
from robo_repr.core.stats import wilson

WORLDS = 50  # at once; more would not be faster on a few cores


class Interrupted(Exception):
    """Ends an evaluation or a film that was asked to stop."""


@dataclass
class Evaluation:
    """Results of episodes, arrays (n,): three notions of success as in `BatchEnv`, the return, and whether MuJoCo gave it up.

    Attributes:
        tasks: whose episodes stand one after the other, as many of each; empty where it is one task.
        seconds: what the worlds spent on reset, physics and render.
    """

    success: np.ndarray
    success_end: np.ndarray
    success_ever: np.ndarray
    returns: np.ndarray
    bad_physics: np.ndarray
    tasks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_tasks(cls, results: "dict[str, Evaluation]") -> "Evaluation":
        """The results of several tasks as one."""
        if len(results) == 1:
            return next(iter(results.values()))
        columns = [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]
        seconds = sum((Counter(result.seconds) for result in results.values()), Counter())
        joined = {column: np.concatenate([getattr(result, column) for result in results.values()]) for column in columns}
        return cls(**joined, tasks=tuple(results), seconds=dict(seconds))

    def summary(self) -> dict:
        """Means, the 95 % Wilson interval of the success, how many episodes MuJoCo gave up; of several tasks each one's success too."""
        parts = zip(self.tasks, np.split(self.success, max(1, len(self.tasks))), strict=False)
        tasks = {task: {"success": float(success.mean()), "episodes": len(success)} for task, success in parts}
        return {
            "success": float(self.success.mean()),
            "success_ci95": list(wilson(int(self.success.sum()), len(self.success))),
            "success_end": float(self.success_end.mean()),
            "success_ever": float(self.success_ever.mean()),
            "return": float(self.returns.mean()),
            "episodes": len(self.success),
            "bad_physics": int(self.bad_physics.sum()),
            **({"tasks": tasks} if tasks else {}),
        }

    def outcomes(self) -> dict:
        """What each episode came to, by its id: enough to compare policies episode by episode."""
        return {"episode_success": [int(success) for success in self.success], "episode_return": [round(float(r), 4) for r in self.returns]}


def evaluation_env(episodes: int, first: int = 0, **settings) -> "closing[BatchEnv]":
    """Worlds that run the evaluation episodes first .. first + episodes - 1; use it in a ``with`` statement, it closes them.

    Args:
        settings: of `make_env`. Equal settings and seed give equal episodes; they differ from all training episodes.
    """
    # As few waves as fit, of even size. The number of worlds depends on nothing else, so that repeats agree to the last bit.
    waves = -(-episodes // WORLDS)
    return closing(make_env(**settings, num_envs=-(-episodes // waves), episode_ids=list(range(first, first + episodes))))


def evaluate(env: BatchEnv, policy: Policy, episodes: int, stop: Callable[[], object] = lambda: False, first: int = 0) -> Evaluation:
    """Runs the episodes of an `evaluation_env`, all to the end: the first ones that finish would be the short ones.

    Args:
        stop: asked before every step.

    Raises:
        Interrupted: `stop` said so.
    """
    results: dict[int, tuple] = {}
    obs, _ = env.reset(seed=env.seed)
    policy.reset(np.ones(env.num_envs, dtype=bool))
    while len(results) < episodes:
        if stop():
            raise Interrupted
        ids = [episode[1] for episode in env.episodes]
        obs, _, terminated, truncated, info = env.step(policy.act(obs))
        done = (terminated | truncated).cpu().numpy()
        policy.reset(done)
        outcome = [info[key].cpu().numpy() for key in ("success", "success_end", "success_ever", "episode_return", "bad_physics")]
        for world in np.flatnonzero(done):
            # Worlds that are through with their episodes start over until the last one is done.
            results.setdefault(ids[world], tuple(column[world] for column in outcome))
    rows = [results[i] for i in range(first, first + episodes)]
    success, end, ever, returns, bad = (np.array(column) for column in zip(*rows, strict=True))
    return Evaluation(success, end, ever, returns, bad, seconds=dict(env.seconds))


def evaluate_agent(
    cfg: Any, parts: Parts, camera: Any, episodes: int, stop: Callable[[], object] = lambda: False, first: int = 0
) -> Evaluation:
    """Runs evaluation episodes of all tasks of a run with its agent.

    Args:
        camera: how far cameras move.
        episodes: of each task.
        first, stop: see `evaluation_env` and `evaluate`.
    """
    pictures, results = needs_pictures(parts.encoder) and parts.agent.trains, {}
    for task in tasks_of(cfg):
        with evaluation_env(episodes, first, **env_settings(cfg, camera, pictures, task)) as env:
            results[task] = evaluate(env, parts.agent.policy(env), episodes, stop, first)
    return Evaluation.of_tasks(results)
