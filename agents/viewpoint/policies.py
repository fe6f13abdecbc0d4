"""Policies around policies: one that notes from where cameras looked, and one that is told wrongly where they are."""

import time
from collections.abc import Callable

import numpy as np
import torch

from agents.base import Policy
from envs import BatchEnv
from envs.cameras import multiply_quaternions, quaternion_to_matrix
from robo_repr.core.seeding import rng

NOTED = ("azimuth", "elevation", "distance", "roll", "fov")


class Watched:
    """A policy of which is noted from where its cameras look in each episode.

    Args:
        env: the worlds that it acts in.
        on_step: called before each action.

    Attributes:
        factors: episode id -> name -> (V,) when it began; see `BatchEnv.view_factors`.
        poses: episode id -> the views that it has; see `BatchEnv.view_poses`.
        counts: views that were drawn for these episodes, and how many of them were rejected.
        seconds: what the policy took to act.
    """

    def __init__(self, policy: Policy, env: BatchEnv, on_step: Callable[[], object] = lambda: None):
        self._policy, self._env, self._on_step = policy, env, on_step
        self.factors: dict[int, dict[str, np.ndarray]] = {}
        self.poses: dict[int, dict[str, np.ndarray]] = {}
        self.counts, self.seconds = {"drawn": 0, "rejected": 0}, 0.0

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        self._on_step()
        began = time.perf_counter()
        actions = self._policy.act(obs)
        self.seconds += time.perf_counter() - began
        return actions

    def reset(self, mask: np.ndarray) -> None:
        self._policy.reset(mask)
        if not self._env.views or not mask.any():
            return
        new = [world for world in np.flatnonzero(mask) if self._env.episodes[world][1] not in self.factors]
        if new:  # worlds that are through begin again until the last one is done, which counts for nothing
            factors, poses = self._env.view_factors(), self._env.view_poses()
            for world in new:
                episode = self._env.episodes[world][1]
                self.factors[episode] = {name: factors[name][world] for name in NOTED}
                self.poses[episode] = poses[world]
            self.counts = dict(self._env.view_counts)

    def views(self, episodes: int) -> dict[str, dict[str, list[float]]]:
        """camera -> factor -> one number for each of the episodes 0, 1, ..."""
        if not self._env.views:
            return {}
        return {
            view: {name: [round(float(self.factors[i][name][column]), 4) + 0.0 for i in range(episodes)] for name in NOTED}
            for column, view in enumerate(self._env.views)
        }


class Miscalibrated:
    """A policy that is told wrongly where its cameras are: turned about a random axis and shifted in a random direction, both fixed to the
    camera, as a wrong calibration is. Each episode and camera has an error of its own, a function of the worlds' seed and the episode.

    Args:
        env: the worlds that it acts in.
        error: by how many degrees each camera is turned, and by how many centimetres it is shifted.
    """

    def __init__(self, policy: Policy, env: BatchEnv, error: float):
        self._policy, self._env, self._error = policy, env, error
        self._turns = np.zeros((env.num_envs, len(env.views), 4))
        self._shifts = np.zeros((env.num_envs, len(env.views), 3))

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        camera = obs["camera"].cpu().numpy().astype(np.float64)
        told = camera.copy()
        told[..., :3] += (quaternion_to_matrix(camera[..., 3:7]) @ self._shifts[..., None])[..., 0]
        told[..., 3:7] = multiply_quaternions(camera[..., 3:7], self._turns)
        return self._policy.act({**obs, "camera": torch.from_numpy(told).to(obs["camera"])})

    def reset(self, mask: np.ndarray) -> None:
        self._policy.reset(mask)
        episodes = self._env.episodes
        for world in np.flatnonzero(mask):
            for column, view in enumerate(self._env.views):
                generator = rng(self._env.seed, f"calibration/{view}", *episodes[world])
                axis, direction = (vector / np.linalg.norm(vector) for vector in generator.normal(size=(2, 3)))
                half = np.radians(self._error) / 2
                self._turns[world, column] = [np.cos(half), *(np.sin(half) * axis)]
                self._shifts[world, column] = self._error / 100 * direction
