"""Proximal policy optimisation, Schulman et al. 2017 (arXiv 1707.06347)."""

import math
import time

import stable_baselines3
import torch

from agents.embed import EmbedEnv
from agents.sb3.base import SB3Agent
from agents.sb3.checks import check_layers
from robo_repr.core.errors import UserError, check_range
from robo_repr.core.seeding import stream_seed

# What an update reports: our name, stable-baselines3's.
REPORTED = {
    "loss/critic": "train/value_loss",
    "loss/actor": "train/policy_gradient_loss",
    "loss/entropy": "train/entropy_loss",
    "train/approx_kl": "train/approx_kl",
    "train/clip_fraction": "train/clip_fraction",
    "train/action_std": "train/std",
}


class PPO(SB3Agent):
    """Proximal policy optimisation: rollouts of `n_steps` steps of all worlds, each followed by `n_epochs` passes over it.

    Training begins with `calibration_steps` transitions of a random policy, which calibrate the readout and are then forgotten (they count
    as transitions; an encoder without pictures needs none). A boundary is the moment between two rollouts.

    Args:
        env: embedded worlds.
        updates_per_step: must be None: n_epochs and batch_size say how many updates there are.
        seed: root of the random streams; None leaves the global generators alone.
        net: hidden layers of the policy and of the value function.
        batch_size: transitions of one gradient update, at most the whole rollout.
        steps, save_replay: of agents with a replay.
        The rest carries stable-baselines3's names.

    Raises:
        UserError: a value out of range.
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
        gae_lambda: float,
        n_steps: int,
        batch_size: int,
        n_epochs: int,
        clip_range: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float,
        initial_log_std: float,
        net: list[int],
        calibration_steps: int,
    ):
        if updates_per_step is not None:
            raise UserError(
                f"updates_per_step={updates_per_step} does not go with agent=ppo: each rollout of agent.n_steps steps is passed over "
                "agent.n_epochs times in batches of agent.batch_size. Leave updates_per_step out."
            )
        check_range("agent.learning_rate", learning_rate, 0, 1)
        check_range("agent.gamma", gamma, 0, 1)
        check_range("agent.gae_lambda", gae_lambda, 0, 1)
        check_range("agent.n_steps", n_steps, 2, 10**5)
        check_range("agent.batch_size", batch_size, 2, 10**6)
        check_range("agent.n_epochs", n_epochs, 1, 1000)
        check_range("agent.clip_range", clip_range, 1e-6, 10)
        check_range("agent.ent_coef", ent_coef, 0, 1e3)
        check_range("agent.vf_coef", vf_coef, 0, 1e3)
        check_range("agent.max_grad_norm", max_grad_norm, 1e-6, 1e6)
        check_range("agent.initial_log_std", initial_log_std, -10, 5)
        check_range("agent.calibration_steps", calibration_steps, 1, 10**6)
        check_layers(net, env, networks=2)  # policy and value function
        rollout = n_steps * env.num_envs
        batch_size = min(batch_size, rollout)
        model = stable_baselines3.PPO(
            "MultiInputPolicy",
            env,
            learning_rate=learning_rate,
            gamma=gamma,
            gae_lambda=gae_lambda,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            clip_range=clip_range,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            policy_kwargs={"net_arch": list(net), "log_std_init": initial_log_std, "optimizer_kwargs": {"fused": True}},
            seed=None if seed is None else stream_seed(seed, "agent") % 2**32,
            device=device,
        )
        super().__init__(env, model, seed, REPORTED)
        self._batches = math.ceil(rollout / batch_size)
        self._calibration = math.ceil(calibration_steps / env.num_envs) if env.readout.dim else 0
        self._train, model.train = model.train, self._update  # called by stable-baselines3 after every rollout

    @property
    def updates(self) -> int:
        """Gradient updates so far; stable-baselines3 counts passes over a rollout."""
        return self.model._n_updates * self._batches

    def _update(self) -> None:
        began, before = time.perf_counter(), self.updates
        self._train()
        self._note_update(self.updates - before)
        self.seconds["update"] += time.perf_counter() - began

    def _warm_up(self) -> None:
        self._act_at_random(self._calibration, lambda *_: None)

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"policy": self.model.policy.optimizer}
