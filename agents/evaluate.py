"""Success of a policy on fixed episodes, each run to its end."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from agents.base import Policy
from envs import BatchEnv, make_env
from robo_repr.core.stats import wilson

WORLDS = 50  # at once; more would not be faster on a few cores


class Interrupted(Exception):
    """Ends an evaluation or a film that was asked to stop."""


@dataclass
class Evaluation:
    """Results of episodes 0 .. n-1, arrays (n,): three notions of success as in `BatchEnv`, the return, and whether MuJoCo gave it up."""

    success: np.ndarray
    success_end: np.ndarray
    success_ever: np.ndarray
    returns: np.ndarray
    bad_physics: np.ndarray

    def summary(self) -> dict:
        """Means, the 95 % Wilson interval of the success, and how many episodes MuJoCo gave up."""
        return {
            "success": float(self.success.mean()),
            "success_ci95": list(wilson(int(self.success.sum()), len(self.success))),
            "success_end": float(self.success_end.mean()),
            "success_ever": float(self.success_ever.mean()),
            "return": float(self.returns.mean()),
            "episodes": len(self.success),
            "bad_physics": int(self.bad_physics.sum()),
        }

    def outcomes(self) -> dict:
        """What each episode came to, by its id: enough to compare policies episode by episode."""
        return {"episode_success": [int(success) for success in self.success], "episode_return": [round(float(r), 4) for r in self.returns]}


def evaluation_env(episodes: int, **settings) -> "closing[BatchEnv]":
    """Worlds that run the evaluation episodes 0 .. episodes-1; use it in a ``with`` statement, it closes them.

    Args:
        settings: of `make_env`. Equal settings and seed give equal episodes; they differ from all training episodes.
    """
    # As few waves as fit, of even size. The number of worlds depends on nothing else, so that repeats agree to the last bit.
    waves = -(-episodes // WORLDS)
    return closing(make_env(**settings, num_envs=-(-episodes // waves), episode_ids=list(range(episodes))))


def evaluate(env: BatchEnv, policy: Policy, episodes: int, stop: Callable[[], object] = lambda: False) -> Evaluation:
    """Runs the episodes 0 .. episodes-1 of an `evaluation_env`, all to the end: the first ones that finish would be the short ones.

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
    columns = [np.array(column) for column in zip(*(results[i] for i in range(episodes)), strict=True)]
    return Evaluation(*columns)
