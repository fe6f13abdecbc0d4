"""EmbedEnv: a BatchEnv whose pictures went through a frozen encoder, as stable-baselines3 expects environments."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.camera_input import CameraInput
from agents.eyes import Eyes
from robo_repr.core.errors import Failure
from robo_repr.core.seeding import rng
from robo_repr.encoders.base import Encoder, Features

Step = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]


class EmbedEnv(VecEnv):
    """N worlds whose observation is ``{"features": (D,) float16, "state": (S,) float32}``, numpy, fresh arrays at every step.

    There is no ``features`` key when the encoder gives none, and ``camera`` float32 only with `camera_input`.

    One collector thread steps the worlds and encodes their pictures; meanwhile `step_wait` runs `while_waiting` in the calling thread,
    which an agent sets to its gradient updates. Neither sees what the other does before both are done, so timing changes no result.

    Args:
        env: a BatchEnv.
        encoder: frozen; one call per step encodes all current pictures and the last ones of episodes that just ended.
        readout, view_fusion: as in `Eyes`. The read-out must be calibrated, by `calibrate` or ``readout.load_state``, before the first
            observation.
        camera_input: what the policy is told of its cameras, as in `CameraInput`.
    """

    def __init__(self, env, encoder: Encoder, readout: str = "grid4", camera_input: bool | str = False, view_fusion: str = "concatenate"):
        self.env = env
        self.eyes = Eyes(encoder, env.views, env.frame_stack, readout, view_fusion)
        self.encoder, self.readout = encoder, self.eyes.readout
        self.camera_input = CameraInput(camera_input, self.eyes, env.single_observation_space["images"].shape[-2:])
        self.while_waiting: Callable[[], None] = lambda: None
        self.seconds = {"encode": 0.0}
        self.steps_taken = 0  # of all worlds since the run began, for messages
        self._pending: Future[Step] | None = None
        # torch counts threads per thread: the collector gets as many as the main one has.
        threads = torch.get_num_threads()
        self._collector = ThreadPoolExecutor(1, "collector", initializer=torch.set_num_threads, initargs=(threads,))

        single = env.single_observation_space
        keys: dict[str, spaces.Space] = {"state": spaces.Box(-np.inf, np.inf, single["state"].shape, np.float32)}
        if self.readout.dim:
            keys["features"] = spaces.Box(-np.inf, np.inf, (self.readout.dim,), np.float16)
        if self.camera_input.size:
            keys["camera"] = spaces.Box(-np.inf, np.inf, (self.camera_input.size,), np.float32)
        super().__init__(env.num_envs, spaces.Dict(keys), env.single_action_space)

    def embed(self, obs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What a policy gets from the observation of a BatchEnv with these views, of any number of worlds.

        Raises:
            Failure: a value is NaN or infinite.
        """
        return self._finish(self._encode(obs), obs)

    def calibrate(self, steps: int, seed: int) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, Step]]]:
        """Resets, lets a random policy take `steps` steps in all worlds and fits the readout to the pictures it sees.

        Returns:
            The first observation; and for each step the actions (N, A) and what `step` would have returned. The worlds stay where they are.
        """
        actions = rng(seed, "random_policy").uniform(-1, 1, (steps, self.num_envs, *self.env.single_action_space.shape)).astype(np.float32)
        obs = self._begin()
        first = (self._encode(obs), obs)
        record = []
        for action in actions:
            rows, *outcome = self._advance(action)
            record.append((self._encode(rows), rows, outcome))
        if self.readout.dim:
            rows = self.num_envs * len(self.readout.views)  # without the last pictures of ended episodes: every world counts alike
            seen = [first[0], *(_first_rows(features, rows) for features, *_ in record)]
            pooled, tokens = zip(*seen, strict=True)
            self.eyes.calibrate(Features(torch.cat(pooled), None if tokens[0] is None else torch.cat(tokens)))
        return self._finish(*first), [
            (action, self._returned(self._finish(features, rows), *outcome))
            for action, (features, rows, outcome) in zip(actions, record, strict=True)
        ]

    def reset(self) -> dict[str, np.ndarray]:
        return self.embed(self._begin())

    def step_async(self, actions: np.ndarray) -> None:
        self._refuse_infinities("action", actions)
        self._pending = self._collector.submit(self._collect, actions)

    def step_wait(self) -> Step:
        assert self._pending is not None, "step_wait() without step_async()"
        try:
            self.while_waiting()
        finally:
            # Whatever happened to the updates, nobody may touch the worlds while the collector does.
            pending, self._pending = self._pending, None
            pending.exception()
        return pending.result()

    def close(self) -> None:
        self._collector.shutdown()
        self.env.close()

    def _collect(self, actions: np.ndarray) -> Step:
        rows, *outcome = self._advance(actions)
        return self._returned(self._finish(self._encode(rows), rows), *outcome)

    def _begin(self) -> dict[str, torch.Tensor]:
        """Starts an episode in every world, each at another step of it: so later resets come one by one."""
        self.steps_taken = 0
        self.env.reset(seed=self.env.seed)
        self.env.stagger()
        obs = self.env.observation()
        return {**obs, "state": obs["state"].clone(), "camera": obs["camera"].clone()}

    def _advance(self, actions: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """One step of all worlds: observation rows, first the N current ones, then the last ones of episodes that ended; and the rest."""
        self.steps_taken += 1
        obs, reward, terminated, truncated, info = self.env.step(actions)
        ended = info["_final_obs"].nonzero()[:, 0]
        if len(ended):
            obs = {key: torch.cat([value, info["final_obs"][key][ended]]) for key, value in obs.items()}
        return {**obs, "state": obs["state"].clone(), "camera": obs["camera"].clone()}, reward.clone(), terminated, truncated, info

    @torch.no_grad()
    def _encode(self, obs: dict[str, torch.Tensor]) -> Features | None:
        began = time.perf_counter()
        features = self.eyes.encode(obs["images"])
        self.seconds["encode"] += time.perf_counter() - began
        return features

    @torch.no_grad()
    def _finish(self, features: Features | None, obs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Features and observation rows as fresh numpy arrays, checked."""
        embedded = {"state": obs["state"].float().cpu().numpy().copy()}
        if features is not None:
            began = time.perf_counter()
            embedded["features"] = self.eyes.read(features).to(torch.float16).cpu().numpy()
            self.seconds["encode"] += time.perf_counter() - began
        if self.camera_input.size:
            embedded["camera"] = self.camera_input(obs["camera"]).cpu().numpy().copy()
        for term, value in embedded.items():
            self._refuse_infinities(term, value)
        return embedded

    def _returned(self, rows: dict[str, np.ndarray], reward, terminated, truncated, info) -> Step:
        """A step as stable-baselines3 wants it, from embedded rows (N current ones, then the ended episodes' last ones)."""
        reward, terminated, truncated = (value.cpu().numpy().copy() for value in (reward, terminated, truncated))
        self._refuse_infinities("reward", reward)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row, world in enumerate(np.flatnonzero(info["_final_obs"].cpu().numpy()), start=self.num_envs):
            infos[world] = {
                "terminal_observation": {key: value[row] for key, value in rows.items()},
                "TimeLimit.truncated": bool(truncated[world] and not terminated[world]),
                "episode": {"r": float(info["episode_return"][world]), "l": int(info["episode_length"][world])},
                "is_success": bool(info["success"][world]),
            }
        return {key: value[: self.num_envs].copy() for key, value in rows.items()}, reward, terminated | truncated, infos

    def _refuse_infinities(self, term: str, value: np.ndarray) -> None:
        finite = np.isfinite(value).reshape(len(value), -1).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            where = f"world {row}" if row < self.num_envs else "the last observation of an ended episode"
            raise Failure(
                f"step {self.steps_taken} of the worlds: '{term}' of {where} is not finite ({value[row].reshape(-1)[:4]}...). Training on "
                "it would spread NaN into every weight. Look for an unstable simulation, a reward without bounds, or broken weights."
            )

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * self.num_envs
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args, indices=None, **method_kwargs) -> list[Any]:
        raise NotImplementedError("the worlds of a BatchEnv are not separate objects; call the method on EmbedEnv.env")

    def env_is_wrapped(self, wrapper_class: type, indices=None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def _first_rows(features: Features, count: int) -> Features:
    return Features(features.pooled[:count], None if features.tokens is None else features.tokens[:count])
