"""Soft actor-critic, Haarnoja et al. 2018 (arXiv 1812.05905)."""

import math
import time
from pathlib import Path

import stable_baselines3
import torch

from agents.embed import EmbedEnv
from agents.sb3.base import SB3Agent
from agents.sb3.checks import check_layers, check_replay
from agents.sb3.replay import ReplaySegments
from robo_repr.core.errors import check_range
from robo_repr.core.seeding import stream_seed

UPDATES_PER_STEP = 0.25
# What an update reports: our name, stable-baselines3's.
REPORTED = {
    "loss/critic": "train/critic_loss",
    "loss/actor": "train/actor_loss",
    "loss/entropy": "train/ent_coef_loss",
    "train/entropy_coefficient": "train/ent_coef",
}


class SAC(SB3Agent):
    """Soft actor-critic that updates its networks while the next step of all worlds is collected.

    Training begins with `learning_starts` transitions of a random policy, which calibrate the readout. From then on every step of the N
    worlds goes with N * `updates_per_step` gradient updates. A boundary is the moment between two steps.

    Args:
        env: embedded worlds.
        steps: transitions of the whole run, for the size of the replay when `buffer_size` is None.
        updates_per_step: gradient updates per transition; None is 0.25.
        seed: root of the random streams; None leaves the global generators alone.
        net: hidden layers of the actor and of each critic.
        initial_entropy: where the learned entropy coefficient starts.
        save_replay: checkpoints hold the replay. Without it they are small, and a resumed run first collects `learning_starts` transitions.
        The rest carries stable-baselines3's names.

    Raises:
        UserError: a value out of range, or a replay larger than the memory.
    """

    def __init__(
        self,
        env: EmbedEnv,
        *,
        steps: int,
        updates_per_step: float | None,
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
        check_range("agent.learning_rate", learning_rate, 0, 1)
        check_range("agent.gamma", gamma, 0, 1)
        check_range("agent.tau", tau, 0, 1)
        check_range("agent.batch_size", batch_size, 1, 10**6)
        check_range("agent.initial_entropy", initial_entropy, 1e-8, 1e8)
        check_range("agent.learning_starts", learning_starts, 1, 10**9)
        check_layers(net, env, networks=5)  # actor, two critics and their targets
        self.updates_per_step = UPDATES_PER_STEP if updates_per_step is None else updates_per_step
        self.save_replay, self.warm_up_steps = save_replay, math.ceil(min(learning_starts, steps) / env.num_envs)
        if buffer_size is not None:
            check_range("agent.buffer_size", buffer_size, 1, 10**12, whole=True)
        rows = math.ceil((buffer_size or steps) / env.num_envs)
        check_replay(env, rows)
        model = stable_baselines3.SAC(
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
        super().__init__(env, model, seed, REPORTED)
        self._segments = ReplaySegments(model)
        self._updates_begin = float(self.warm_up_steps * env.num_envs)  # updates are due for transitions after this one
        env.while_waiting = self._update

    def save(self, folder: Path) -> None:
        """See `SB3Agent.save`; the replay's new rows go into a segment in the folder ``replay`` beside `folder`."""
        super().save(folder)
        if self.save_replay:
            self._segments.save(folder)

    def _own_state(self) -> dict:
        assert self.model.log_ent_coef is not None
        return {"updates_begin": self._updates_begin, "log_ent_coef": self.model.log_ent_coef.detach()}

    def _load_own_state(self, folder: Path, state: dict, replay: bool) -> None:
        assert self.model.log_ent_coef is not None
        self._updates_begin = state["updates_begin"]
        self.model.log_ent_coef.data.copy_(state["log_ent_coef"])
        if self.save_replay and replay:
            self._segments.load(folder)
            return
        self._segments.begin_anew()
        if self.updates_per_step:
            # Updates wait until as many transitions as before the first one are there, without catching up afterwards.
            waits = self.warm_up_steps * self.env.num_envs
            self._updates_begin = self.env_steps + waits - self.updates / self.updates_per_step

    def _warm_up(self) -> None:
        """The random policy's transitions are the replay's first."""
        model = self.model

        def store(actions, obs, rewards, dones, infos) -> None:
            model._store_transition(model.replay_buffer, actions, obs, rewards, dones, infos)  # type: ignore[arg-type]

        self._act_at_random(self.warm_up_steps, store)

    def _update(self) -> None:
        """The gradient updates that are due; runs while the collector thread takes the next step."""
        due = int(self.updates_per_step * (self.env_steps - self._updates_begin)) - self.updates
        if due <= 0:
            return
        began = time.perf_counter()
        self.model.train(due, self.model.batch_size)
        self._note_update(due)
        self.seconds["update"] += time.perf_counter() - began

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        assert self.model.ent_coef_optimizer is not None
        return {"actor": self.model.actor.optimizer, "critic": self.model.critic.optimizer, "entropy": self.model.ent_coef_optimizer}
