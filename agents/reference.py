"""Agents that learn nothing: the random policy and the expert as runs of their own, evaluated and filmed like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.base import ExpertPolicy, Policy, RandomPolicy
from robo_repr.core.checkpoint import save_state
from robo_repr.core.errors import UserError, check_range


class ReferenceAgent:
    """What `train` asks of an agent, where there is nothing to learn.

    Args:
        updates_per_step: must be None.
        env, steps, seed, device, save_replay: of agents that learn; only the seed is used.
    """

    trains, env_steps, updates = False, 0, 0

    def __init__(self, env: Any, *, steps: int, updates_per_step: float | None, seed: int | None, device: str, save_replay: bool):
        if updates_per_step is not None:
            raise UserError(f"updates_per_step={updates_per_step} does not go with an agent that learns nothing. Leave it out.")
        self.env, self.seed, self.seconds = env, seed or 0, {"update": 0.0}
        self.policy(env.env)  # a task without an expert shows now, before anything is written

    def learn(self, total_steps: int, on_boundary: Callable[[], bool]) -> None:
        """One boundary, for the checkpoint."""
        on_boundary()

    def policy(self, env: Any) -> Policy:
        """What acts in the worlds of a BatchEnv."""
        raise NotImplementedError

    def recent_episodes(self) -> dict[str, float]:
        return {}

    def losses(self) -> dict[str, float]:
        return {}

    def forget_losses(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        """Nothing but a mark, so that the run has a checkpoint to evaluate."""
        save_state(folder, "policy", {})

    def load(self, folder: Path, replay: bool = True) -> None:
        pass

    def load_policy(self, folder: Path) -> None:
        pass


class RandomAgent(ReferenceAgent):
    """Uniform actions."""

    def policy(self, env: Any) -> RandomPolicy:
        return RandomPolicy(env.task.action_dim(), self.seed)


class ExpertAgent(ReferenceAgent):
    """The task's scripted expert."""

    noise = 0.0

    def policy(self, env: Any) -> ExpertPolicy:
        return ExpertPolicy(env, self.noise)


class NoisyExpertAgent(ExpertAgent):
    """The expert, its actions disturbed.

    Args:
        noise: standard deviation of Gaussian noise on the actions, in their units.
    """

    def __init__(
        self, env: Any, *, noise: float, steps: int, updates_per_step: float | None, seed: int | None, device: str, save_replay: bool
    ):
        check_range("agent.noise", noise, 0, 10, "standard deviation of the expert's action noise")
        self.noise = noise
        super().__init__(env, steps=steps, updates_per_step=updates_per_step, seed=seed, device=device, save_replay=save_replay)
