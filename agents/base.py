"""Policies: what acts in a BatchEnv; trained ones from their run's folder, and the two that every result is read against."""

from typing import Protocol

import numpy as np
import torch

from envs import BatchEnv
from envs.checks import check_expert
from robo_repr.core.seeding import rng


class Policy(Protocol):
    """What `evaluate` and `record_film` take. One policy serves one batch of worlds at a time: it keeps their memory."""

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        """Actions (N, A) in [-1, 1] for the observation of a BatchEnv."""
        ...

    def reset(self, mask: np.ndarray) -> None:
        """Forgets the worlds (N,) bool whose next observation begins an episode."""
        ...


class RandomPolicy:
    """Uniform actions.

    Args:
        action_size: A.
    """

    def __init__(self, action_size: int, seed: int = 0):
        self._action_size, self._generator = action_size, rng(seed, "random_policy")

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        return self._generator.uniform(-1, 1, (len(obs["state"]), self._action_size)).astype(np.float32)

    def reset(self, mask: np.ndarray) -> None:
        pass


class ExpertPolicy:
    """The task's scripted expert, which looks into the simulator of one BatchEnv.

    Args:
        noise: of its actions, see `BatchEnv.expert_actions`.

    Raises:
        UserError: the task has no expert.
    """

    def __init__(self, env: BatchEnv, noise: float = 0.0):
        check_expert(env.task)
        self._env, self._noise = env, noise

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        return self._env.expert_actions(self._noise)

    def reset(self, mask: np.ndarray) -> None:
        pass


class AgentPolicy:
    """An agent's policy without exploration, remembering what recurrent agents need."""

    def __init__(self, agent):
        self.agent = agent
        self._memory, self._first = None, None

    def act(self, obs: dict[str, torch.Tensor]) -> np.ndarray:
        first = np.ones(len(obs["state"]), dtype=bool) if self._first is None else self._first
        actions, self._memory = self.agent.act(obs, self._memory, first, deterministic=True)
        self._first = np.zeros_like(first)
        return actions

    def reset(self, mask: np.ndarray) -> None:
        self._first = np.array(mask, dtype=bool)
