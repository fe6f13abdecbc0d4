"""Agents of stable-baselines3, untouched, on the cached features of a frozen encoder."""

import math
import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.embed import EmbedEnv
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.errors import UserError
from robo_repr.core.seeding import stream_seed

# What an update reports: our name, stable-baselines3's.
REPORTED = {
    "loss/critic": "train/critic_loss",
    "loss/actor": "train/actor_loss",
    "loss/entropy": "train/ent_coef_loss",
    "train/entropy_coefficient": "train/ent_coef",
}


class SAC:
    """Soft actor-critic that updates its networks while the next step of all worlds is collected.

    Training begins with `learning_starts` transitions of a random policy, which calibrate the readout. From then on every step of the N
    worlds goes with N * `updates_per_step` gradient updates. A boundary is the moment between two steps: nothing is pending there, so it
    can be saved, and training goes on from it bit by bit as if it had never stopped (on one kind of machine, with one thread count).

    Args:
        env: embedded worlds.
        steps: transitions of the whole run, for the size of the replay when `buffer_size` is None.
        updates_per_step: gradient updates per transition.
        seed: root of the random streams; None leaves the global generators alone.
        net: hidden layers of the actor and of each critic.
        initial_entropy: where the learned entropy coefficient starts.
        save_replay: checkpoints hold the replay. Without it they are small, and a resumed run first collects `learning_starts` transitions.
        The rest carries stable-baselines3's names.
    """

    def __init__(
        self,
        env: EmbedEnv,
        *,
        steps: int,
        updates_per_step: float,
        seed: int | None,
        device: str,
        save_replay: bool,
        learning_rate: float,
        gamma: float,
        tau: float,
        batch_size: int,
        net: list[int],
        initial_entropy: float,
        learning_starts: int,
        buffer_size: int | None,
    ):
        self.env, self.seed, self.updates_per_step, self.save_replay = env, seed, updates_per_step, save_replay
        self.warm_up_steps = math.ceil(min(learning_starts, steps) / env.num_envs)
        rows = math.ceil((buffer_size or steps) / env.num_envs)
        self.model = stable_baselines3.SAC(
            "MultiInputPolicy",
            env,
            learning_rate=learning_rate,
            gamma=gamma,
            tau=tau,
            batch_size=batch_size,
            ent_coef=f"auto_{initial_entropy}",
            buffer_size=rows * env.num_envs,
            learning_starts=0,
            gradient_steps=0,  # its own loop collects only; ours updates meanwhile, see `_update`
            policy_kwargs={"net_arch": list(net), "optimizer_kwargs": {"fused": True}},
            seed=None if seed is None else stream_seed(seed, "agent") % 2**32,
            device=device,
        )
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.seconds = {"update": 0.0}
        self._updates_begin = float(self.warm_up_steps * env.num_envs)  # updates are due for transitions after this one
        self.forget_losses()
        env.while_waiting = self._update

    @property
    def env_steps(self) -> int:
        """Transitions so far, those of the random policy included."""
        return self.model.num_timesteps

    @property
    def updates(self) -> int:
        """Gradient updates so far."""
        return self.model._n_updates

    def learn(self, total_steps: int, on_boundary: Callable[[], bool]) -> None:
        """Trains until `total_steps` transitions.

        Args:
            on_boundary: called before every step and once after the last; training stops when it returns False.
        """
        if self.model._last_obs is None:
            self._warm_up()
        if self.env_steps < total_steps:
            try:
                self.model.learn(total_steps - self.env_steps, _Boundaries(on_boundary), log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            except _Stopped:
                return
        on_boundary()

    def act(self, obs: dict[str, torch.Tensor], memory=None, first=None, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Actions (n, A) in [-1, 1] for the observation of a BatchEnv with the training views, of any number n of worlds.

        Args:
            memory, first: of recurrent agents; this one has none.
            deterministic: the mean action instead of a draw.
        """
        actions, _ = self.model.predict(self.env.embed(obs), deterministic=deterministic)
        return actions, None

    def recent_episodes(self) -> dict[str, float]:
        """Means over the last 100 training episodes; empty before the first one ended."""
        infos, successes = self.model.ep_info_buffer, self.model.ep_success_buffer
        if not infos or not successes:
            return {}
        return {"train/success": float(np.mean(successes)), "train/return": float(np.mean([info["r"] for info in infos]))}

    def losses(self) -> dict[str, float]:
        """Means of the losses and of the entropy coefficient since `forget_losses`; empty when there was no update."""
        return {name: total / self._loss_count for name, total in self._loss_sums.items() if self._loss_count}

    def forget_losses(self) -> None:
        """Begins the means of `losses` anew."""
        self._loss_sums, self._loss_count = dict.fromkeys(REPORTED, 0.0), 0

    def save(self, folder: Path) -> None:
        """Writes everything `load` needs: ``policy`` (what acting needs) and ``training`` (the rest). Call it at a boundary."""
        model = self.model
        assert model.ep_info_buffer is not None and model.ep_success_buffer is not None and model.log_ent_coef is not None
        save_state(folder, "policy", {"networks": dict(model.policy.state_dict()), "readout": self.env.readout.state()})
        training = {
            "worlds": self.env.num_envs,
            "env_steps": model.num_timesteps,
            "updates": model._n_updates,
            "updates_begin": self._updates_begin,
            "episodes": model._episode_num,
            "last_obs": model._last_obs,
            "last_episode_starts": model._last_episode_starts,
            "episode_infos": [dict(info) for info in model.ep_info_buffer],
            "episode_successes": [bool(success) for success in model.ep_success_buffer],
            "loss_sums": self._loss_sums,
            "loss_count": self._loss_count,
            "log_ent_coef": model.log_ent_coef.detach(),
            "optimisers": {name: _optimiser_state(optimiser) for name, optimiser in self._optimisers().items()},
            "random": _random_state(model),
            "env": self.env.env.state_dict(),
        }
        save_state(folder, "training", training)
        if self.save_replay:
            save_state(folder, "replay", self._replay_rows())

    def load_policy(self, folder: Path) -> None:
        """Restores what `act` needs."""
        state = load_state(folder, "policy")
        self.env.readout.load_state(state["readout"])
        self.model.policy.load_state_dict(state["networks"])

    def load(self, folder: Path) -> None:
        """Restores a checkpoint; `learn` goes on from there.

        Raises:
            UserError: the checkpoint is damaged or of a run with another number of worlds.
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
        model._last_obs, model._last_episode_starts = state["last_obs"], state["last_episode_starts"]
        self._remember_episodes(state["episode_infos"], state["episode_successes"])
        self._updates_begin, self._loss_sums, self._loss_count = state["updates_begin"], state["loss_sums"], state["loss_count"]
        assert model.log_ent_coef is not None
        model.log_ent_coef.data.copy_(state["log_ent_coef"])
        for name, optimiser in self._optimisers().items():
            _load_optimiser_state(optimiser, state["optimisers"][name])
        if (folder / "replay.json").exists():
            self._load_replay_rows(load_state(folder, "replay"))
        elif self.updates_per_step:
            # Updates wait until as many transitions as before the first one are there, without catching up afterwards.
            waits = self.warm_up_steps * self.env.num_envs
            self._updates_begin = model.num_timesteps + waits - model._n_updates / self.updates_per_step
        _load_random_state(model, state["random"])

    def _warm_up(self) -> None:
        """Calibrates the readout with a random policy, whose transitions are the replay's first."""
        model, worlds = self.model, self.env.num_envs
        self._remember_episodes([], [])
        model._last_obs, steps = self.env.calibrate(self.warm_up_steps, 0 if self.seed is None else self.seed)
        model._last_episode_starts = np.ones(worlds, dtype=bool)
        for actions, (obs, rewards, dones, infos) in steps:
            model._update_info_buffer(infos, dones)
            model._store_transition(model.replay_buffer, actions, obs, rewards, dones, infos)  # type: ignore[arg-type]
            model._episode_num += int(dones.sum())
            model.num_timesteps += worlds

    def _update(self) -> None:
        """The gradient updates that are due; runs while the collector thread takes the next step."""
        due = int(self.updates_per_step * (self.model.num_timesteps - self._updates_begin)) - self.model._n_updates
        if due <= 0:
            return
        began = time.perf_counter()
        self.model.train(due, self.model.batch_size)
        for name, theirs in REPORTED.items():
            value = float(self.model.logger.name_to_value[theirs])
            if not math.isfinite(value):
                raise RuntimeError(
                    f"env step {self.env_steps}: {name} is {value}, training diverged. Lower agent.learning_rate or agent.gamma."
                )
            self._loss_sums[name] += value * due
        self._loss_count += due
        self.seconds["update"] += time.perf_counter() - began

    def _remember_episodes(self, infos: list[dict], successes: list[bool]) -> None:
        window = self.model._stats_window_size
        self.model.ep_info_buffer, self.model.ep_success_buffer = deque(infos, maxlen=window), deque(successes, maxlen=window)

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        assert self.model.ent_coef_optimizer is not None
        return {"actor": self.model.actor.optimizer, "critic": self.model.critic.optimizer, "entropy": self.model.ent_coef_optimizer}

    def _replay_arrays(self) -> dict[str, np.ndarray]:
        """The replay's arrays (rows, N, ...), whole allocation."""
        replay = self.model.replay_buffer
        assert replay is not None
        arrays = {key: getattr(replay, key) for key in ("actions", "rewards", "dones", "timeouts")}
        for group in ("observations", "next_observations"):
            arrays |= {f"{group}/{key}": array for key, array in getattr(replay, group).items()}
        return arrays

    def _replay_rows(self) -> dict:
        replay = self.model.replay_buffer
        assert replay is not None
        return {
            "pos": replay.pos,
            "full": replay.full,
            "rows": {key: array[: replay.size()] for key, array in self._replay_arrays().items()},
        }

    def _load_replay_rows(self, state: dict) -> None:
        replay = self.model.replay_buffer
        assert replay is not None
        size = len(state["rows"]["rewards"])
        for key, array in self._replay_arrays().items():
            array[:size] = state["rows"][key]
        # A replay as long as its run is never overwritten: when the run got longer, new rows follow the old ones.
        grown = size < replay.buffer_size
        replay.pos, replay.full = (size, False) if grown else (state["pos"], state["full"])


class _Stopped(Exception):
    """Ends stable-baselines3's loop at a boundary, where it offers no way to stop."""


class _Boundaries(BaseCallback):
    """Calls back before every step; stable-baselines3's own `on_step` comes before the transition is stored."""

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


def _random_state(model: stable_baselines3.SAC) -> dict:
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


def _load_random_state(model: stable_baselines3.SAC, state: dict) -> None:
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    np.random.set_state((numpy["name"], numpy["keys"].astype(np.uint32), numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    model.action_space.np_random.bit_generator.state = state["action_space"]
    if model.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], model.device)
