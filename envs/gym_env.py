"""One world as a plain gymnasium environment, for code that knows no batches."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from envs.batch_env import BatchEnv
from robo_repr.core.errors import unknown

RENDER_SIZE = 256  # pixels per view of `render`
FLOAT = np.finfo(np.float32)  # bounds of what has none: checkers and some learners refuse infinite ones


class GymEnv(gymnasium.Env):
    """One world of a task. Build it with ``make_env(task, api="gymnasium")``.

    Observations (numpy, fresh arrays at every step):
        image/NAME: (3F, H, W) uint8 of each view, the last F pictures one after the other, oldest first (F is frame_stack).
        state: (S,) float32, what the robot knows of itself.
        camera: (8V,) float32 world poses of the V views one after the other, see `BatchEnv`; not there without views.

    Actions are (A,) in [-1, 1]. Episodes end by time only (truncation), and the observation then returned is their last one.
    `reset` begins the next episode, ``reset(seed=s)`` the first one of seed s; the k-th one is the k-th of a `BatchEnv` with one world.
    Info of a step, plain numbers of the step just taken: ``success`` (and ``is_success``, the name that stable-baselines3 reads),
    ``success_end``, ``success_ever``, ``episode_return``, ``episode_length``, ``bad_physics``; `BatchEnv` says what they mean.

    Args:
        worlds: a BatchEnv of one world without autoreset.
        render_mode: None, or ``"rgb_array"``: `render` gives the views side by side, (256, 256V, 3) uint8; without views the front camera.
        spec: how gymnasium would make another one.

    Raises (step, render):
        gymnasium.error.ResetNeeded: no episode runs.
        ValueError: an action of another shape, or with a number outside [-1, 1].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": BatchEnv.metadata["render_fps"]}

    def __init__(self, worlds: BatchEnv, render_mode: str | None, spec: EnvSpec):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown("render_mode", str(render_mode), self.metadata["render_modes"])
        self.worlds, self.render_mode, self.spec = worlds, render_mode, spec
        self._begun, self._over = False, True
        size, channels = worlds.image_size, 3 * worlds.frame_stack
        spaces: dict[str, gymnasium.Space] = {f"image/{view}": Box(0, 255, (channels, size, size), np.uint8) for view in worlds.views}
        lengths = {"state": worlds.task.state_size(worlds.privileged), "camera": 8 * len(worlds.views)}
        spaces |= {key: Box(FLOAT.min, FLOAT.max, (length,), np.float32) for key, length in lengths.items() if length}
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = worlds.single_action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        obs, _ = self.worlds.reset(seed=seed)  # first: it refuses a wrong seed in the words of make_env
        super().reset(seed=seed)
        self._begun, self._over = True, False
        return self._single(obs), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if self._over:
            raise ResetNeeded(f"{'The episode is over' if self._begun else 'No episode has begun'}: call env.reset() before env.step().")
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(f"action has shape {action.shape}, expected {self.action_space.shape}.")
        if not (np.abs(action) <= 1).all():
            raise ValueError(f"action is {action}; it must be numbers in [-1, 1]. Clip the policy's output.")
        obs, reward, terminated, truncated, infos = self.worlds.step(action[None])
        info = {key: value.item() for key, value in infos.items() if not key.startswith("_")}
        info["is_success"] = info["success"]
        self._over = bool(truncated)
        return self._single(obs), float(reward), bool(terminated), self._over, info

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            gymnasium.logger.warn('render() gives nothing without render_mode: make_env(..., api="gymnasium", render_mode="rgb_array").')
            return None
        if not self._begun:
            raise ResetNeeded("No episode has begun: call env.reset() before env.render().")
        return np.concatenate(self.worlds.render_at(RENDER_SIZE, views=self.worlds.views or ["front"])[0], axis=1)

    def close(self) -> None:
        self.worlds.close()

    def _single(self, obs: dict) -> dict[str, np.ndarray]:
        """The keys of `observation_space`, copied out of the worlds' batch of one."""
        pictures = obs["images"][0].cpu().numpy()
        single = {
            f"image/{view}": picture.reshape(-1, *picture.shape[-2:]).copy()
            for view, picture in zip(self.worlds.views, pictures, strict=True)
        }
        return single | {key: obs[key].cpu().numpy().ravel().copy() for key in self.observation_space.keys() - single.keys()}
