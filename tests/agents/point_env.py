"""A small stand-in for BatchEnv without a simulator: a point pushed towards the origin, seen as a bright square."""

import time

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from robo_repr.core.seeding import rng

SIZE, REACH = 12, 0.3


class PointEnv(VectorEnv):
    """What agents use of BatchEnv. `delay`: its steps are slow, at random. `poison`: this step's reward holds a NaN."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_fps": 20, "render_modes": []}

    def __init__(self, num_envs=4, horizon=6, views=("front",), seed=0, delay=0.0, poison=None):
        self.num_envs, self.horizon, self.views, self.seed, self.frame_stack = num_envs, horizon, list(views), seed, 1
        self.delay, self.poison = delay, poison
        self.seconds = {"reset": 0.0, "physics": 0.0, "render": 0.0}
        self.single_observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Box(0, 255, (len(self.views), 3, SIZE, SIZE), np.uint8),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "camera": gymnasium.spaces.Box(-np.inf, np.inf, (len(self.views), 8), np.float32),
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.counts, self.steps = np.zeros(num_envs, dtype=np.int64), np.zeros(num_envs, dtype=np.int64)
        self.returns, self.points = np.zeros(num_envs), np.zeros((num_envs, 2))
        self.taken = 0

    def reset(self, *, seed=None, options=None):
        self.counts[:], self.returns[:], self.steps[:] = 0, 0, 0
        for world in range(self.num_envs):
            self._start(world)
        return self.observation(), {}

    def stagger(self):
        self.steps = np.arange(self.num_envs) * self.horizon // self.num_envs

    def step(self, actions):
        assert np.abs(actions).max() <= 1
        self.taken += 1
        if self.delay:
            time.sleep(self.delay * np.random.default_rng().random())
        self.points = np.clip(self.points + 0.2 * np.asarray(actions, dtype=np.float64), -1, 1)
        self.steps += 1
        near = np.linalg.norm(self.points, axis=1) < REACH
        reward = np.exp(-np.linalg.norm(self.points, axis=1)).astype(np.float32)
        if self.poison == self.taken:
            reward[1] = np.nan
        self.returns += reward
        done = self.steps >= self.horizon
        info = {
            "success": torch.from_numpy(near),
            "success_end": torch.from_numpy(near),
            "success_ever": torch.from_numpy(near),
            "episode_return": torch.from_numpy(self.returns.astype(np.float32)),
            "episode_length": torch.from_numpy(self.steps.copy()),
            "_final_obs": torch.from_numpy(done),
        }
        if done.any():
            info["final_obs"] = {key: value.clone() for key, value in self.observation().items()}
            for world in np.flatnonzero(done):
                self.counts[world] += 1
                self._start(world)
        return self.observation(), torch.from_numpy(reward), torch.zeros(self.num_envs, dtype=torch.bool), torch.from_numpy(done), info

    def observation(self):
        images = torch.zeros((self.num_envs, len(self.views), 3, SIZE, SIZE), dtype=torch.uint8)
        for world, (row, column) in enumerate(((self.points + 1) / 2 * (SIZE - 3)).astype(int)):
            images[world, :, :, row : row + 3, column : column + 3] = 255
        camera = torch.zeros((self.num_envs, len(self.views), 8))
        return {"images": images, "state": torch.from_numpy(self.points.astype(np.float32)), "camera": camera}

    def state_dict(self):
        return {"counts": self.counts, "steps": self.steps, "returns": self.returns, "points": self.points, "taken": self.taken}

    def load_state_dict(self, state):
        self.counts, self.steps, self.returns, self.points = (np.array(state[k]) for k in ("counts", "steps", "returns", "points"))
        self.taken = state["taken"]

    def _start(self, world):
        self.points[world] = rng(self.seed, "start", world, int(self.counts[world])).uniform(-1, 1, 2)
        self.steps[world], self.returns[world] = 0, 0
