"""What the agents of stable-baselines3 share: counting, acting, boundaries, and checkpoints of everything but a replay."""

import math
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.base import AgentPolicy
from agents.embed import EmbedEnv
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.errors import Failure, UserError


class SB3Agent:
    """An agent around a model of stable-baselines3.

    A boundary is the moment between two collections (steps or rollouts) of all worlds: nothing is pending there, so it can be saved, and
    training goes on from it bit by bit as if it had never stopped (on one kind of machine, with one thread count).

    Args:
        env: embedded worlds.
        model: built with ``seed`` on the device that is asked for; its own logger is silenced.
        seed: root of the random streams.
        reported: what the metrics call a figure of an update -> what stable-baselines3 calls it.
    """

    trains = True

    def __init__(self, env: EmbedEnv, model: Any, seed: int | None, reported: dict[str, str]):
        self.env, self.model, self.seed = env, model, 0 if seed is None else seed
        model.set_logger(Logger(folder=None, output_formats=[]))
        self.seconds = {"update": 0.0}
        self._reported = reported
        self.forget_losses()

    @property
    def env_steps(self) -> int:
        """Transitions so far, those of the random policy that calibrates the readout included."""
        return self.model.num_timesteps

    @property
    def updates(self) -> int:
        """Gradient updates so far."""
        return self.model._n_updates

    def learn(self, total_steps: int, on_boundary: Callable[[], bool]) -> None:
        """Trains until `total_steps` transitions.

        Args:
            on_boundary: called at every boundary and once after the last; training stops when it returns False.

        Raises:
            Failure: an observation, action, reward, loss or weight is not finite.
        """
        if self.model._last_obs is None:
            self._warm_up()
        if self.env_steps < total_steps:
            try:
                self.model.learn(total_steps - self.env_steps, _Boundaries(on_boundary), log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            except _Stopped:
                return
            except ValueError:
                self._check_weights()  # torch's distributions refuse in words of their own what such weights give
                raise
        on_boundary()

    def act(self, obs: dict[str, torch.Tensor], memory=None, first=None, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Actions (n, A) in [-1, 1] for the observation of a BatchEnv with the training views, of any number n of worlds.

        Args:
            memory, first: of recurrent agents; this one has none.
            deterministic: the mean action instead of a draw.
        """
        actions, _ = self.model.predict(self.env.embed(obs), deterministic=deterministic)
        return actions, None

    def policy(self, env: Any) -> AgentPolicy:
        """What acts in evaluations and films."""
        return AgentPolicy(self)

    def recent_episodes(self) -> dict[str, float]:
        """Means over the last 100 training episodes; empty before the first one ended."""
        infos, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        if not infos or not successes:
            return {}
        return {"train/success": float(np.mean(successes)), "train/return": float(np.mean([info["r"] for info in infos]))}

    def losses(self) -> dict[str, float]:
        """Means since `forget_losses` of what updates report; empty when there was no update."""
        return {name: total / self._loss_count for name, total in self._loss_sums.items() if self._loss_count}

    def forget_losses(self) -> None:
        """Begins the means of `losses` anew."""
        self._loss_sums, self._loss_count = dict.fromkeys(self._reported, 0.0), 0

    def save(self, folder: Path) -> None:
        """Writes everything `load` needs: ``policy`` (what acting needs) and ``training`` (the rest). Call it at a boundary."""
        model = self.model
        save_state(folder, "policy", {"networks": dict(model.policy.state_dict()), "readout": self.env.readout.state()})
        training = {
            "worlds": self.env.num_envs,
            "env_steps": model.num_timesteps,
            "updates": model._n_updates,
            "episodes": model._episode_num,
            "last_obs": model._last_obs,
            "last_episode_starts": model._last_episode_starts,
            "episode_infos": [dict(info) for info in model.ep_info_buffer],
            "episode_successes": [bool(success) for success in model.ep_success_buffer],
            "loss_sums": self._loss_sums,
            "loss_count": self._loss_count,
            "optimisers": {name: _optimiser_state(optimiser) for name, optimiser in self._optimisers().items()},
            "random": _random_state(model),
            "env": self.env.env.state_dict(),
            "own": self._own_state(),
        }
        save_state(folder, "training", training)

    def load_policy(self, folder: Path) -> None:
        """Restores what `act` needs."""
        state = load_state(folder, "policy")
        self.env.readout.load_state(state["readout"])
        self.model.policy.load_state_dict(state["networks"])

    def load(self, folder: Path, replay: bool = True) -> None:
        """Restores a checkpoint; `learn` goes on from there.

        Args:
            replay: False goes on with an empty replay, where there is one: not as if nothing had happened.

        Raises:
            DamagedCheckpoint: a file is missing or damaged; another checkpoint can be loaded afterwards.
            UserError: the checkpoint is of a run with another number of worlds.
        """
        model = self.model
        state = load_state(folder, "training")
        if state["worlds"] != self.env.num_envs:
            raise UserError(
                f"{folder} was saved with num_envs={state['worlds']}, not {self.env.num_envs}; resume with the same number of worlds."
            )
        self.load_policy(folder)
        self.env.env.load_state_dict(state["env"])
        model.num_timesteps, model._n_updates, model._episode_num = state["env_steps"], state["updates"], state["episodes"]
        self.env.steps_taken = model.num_timesteps // self.env.num_envs
        model._last_obs, model._last_episode_starts = state["last_obs"], state["last_episode_starts"]
        self._remember_episodes(state["episode_infos"], state["episode_successes"])
        self._loss_sums, self._loss_count = state["loss_sums"], state["loss_count"]
        for name, optimiser in self._optimisers().items():
            _load_optimiser_state(optimiser, state["optimisers"][name])
        self._load_own_state(folder, state["own"], replay)
        _load_random_state(model, state["random"])

    # What the children say of themselves.

    def _warm_up(self) -> None:
        """Begins the run: the first observation, and a calibrated readout."""
        raise NotImplementedError

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        raise NotImplementedError

    def _own_state(self) -> dict:
        """What `save` writes for this kind of agent alone."""
        return {}

    def _load_own_state(self, folder: Path, state: dict, replay: bool) -> None:
        """Restores `_own_state`, and what the agent keeps beside it in the checkpoint's folder."""

    # What the children use.

    def _act_at_random(self, steps: int, keep: Callable[..., None]) -> None:
        """Takes `steps` steps of a random policy, which calibrate the readout.

        Args:
            keep: gets actions, observations, rewards, dones and infos of each step.
        """
        model = self.model
        self._remember_episodes([], [])
        model._last_obs, record = self.env.calibrate(steps, self.seed)
        model._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)
        for actions, (obs, rewards, dones, infos) in record:
            model._update_info_buffer(infos, dones)
            keep(actions, obs, rewards, dones, infos)
            model._last_obs, model._last_episode_starts = obs, dones
            model._episode_num += int(dones.sum())
            model.num_timesteps += self.env.num_envs

    def _note_update(self, count: int) -> None:
        """Adds what the last `count` gradient updates report to the means.

        Raises:
            Failure: a figure or a weight is not finite.
        """
        for name, theirs in self._reported.items():
            value = float(self.model.logger.name_to_value[theirs])
            if not math.isfinite(value):
                raise Failure(f"env step {self.env_steps}: {name} is {value} after {self.updates} updates. {_DIVERGED}")
            self._loss_sums[name] += value * count
        self._loss_count += count
        self._check_weights()  # a gradient may be infinite where the loss is not

    def _check_weights(self) -> None:
        """Raises a `Failure` that names the first weights that are not finite."""
        if not torch.nn.utils.get_total_norm(list(self.model.policy.parameters())).isfinite():
            name = next(name for name, weight in self.model.policy.named_parameters() if not weight.isfinite().all())
            raise Failure(f"env step {self.env_steps}: the weights '{name}' are not finite after {self.updates} updates. {_DIVERGED}")

    def _remember_episodes(self, infos: list[dict], successes: list[bool]) -> None:
        window = self.model._stats_window_size
        self.model.ep_info_buffer, self.model.ep_success_buffer = deque(infos, maxlen=window), deque(successes, maxlen=window)


_DIVERGED = "Training diverged: lower agent.learning_rate or agent.gamma."


class _Stopped(Exception):
    """Ends stable-baselines3's loop at a boundary, where it offers no way to stop."""


class _Boundaries(BaseCallback):
    """Calls back before every collection; stable-baselines3's own `on_step` comes before the transition is stored."""

    def __init__(self, on_boundary: Callable[[], bool]):
        super().__init__()
        self._on_boundary = on_boundary

    def _on_rollout_start(self) -> None:
        if not self._on_boundary():
            raise _Stopped

    def _on_step(self) -> bool:
        return True


def _optimiser_state(optimiser: torch.optim.Optimizer) -> dict:
    """Per parameter index its tensors; rates and such come from the configuration."""
    return {str(index): dict(tensors) for index, tensors in optimiser.state_dict()["state"].items()}


def _load_optimiser_state(optimiser: torch.optim.Optimizer, state: dict) -> None:
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": {int(index): tensors for index, tensors in state.items()}, "param_groups": groups})


def _random_state(model: BaseAlgorithm) -> dict:
    """The global generators, which stable-baselines3 draws batches and actions from, and the action space's."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {"name": name, "keys": keys.astype(np.int64), "position": position, "has_gauss": has_gauss, "cached": cached},
        "torch": torch.get_rng_state(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }
    if model.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(model.device)
    return state


def _load_random_state(model: BaseAlgorithm, state: dict) -> None:
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    np.random.set_state((numpy["name"], numpy["keys"].astype(np.uint32), numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    model.action_space.np_random.bit_generator.state = state["action_space"]
    if model.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], model.device)
