"""A small diffusion policy on features (Chi et al. 2023, https://arxiv.org/abs/2303.04137)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from agents.imitation.policies.base import ImitationPolicy, Sizes, remembered
from agents.imitation.policies.inputs import StandardisedInputs
from robo_repr.core.errors import UserError, check_range
from robo_repr.core.seeding import stream_seed

TIME_DIM = 64
SMALLEST_RANGE = 1e-4
LARGEST_EMA = 0.9999


class DiffusionPolicy(ImitationPolicy):
    """Denoises the actions of `horizon` steps, given the last `observations` frames, and executes `executed` of them before the next plan.

    Training, noise schedule, moving average of the weights and the places of the actions are diffusion_policy's: the first action belongs
    to the oldest frame shown, and the loss counts repeated actions at an episode's ends. Instead of its U-Net a residual MLP predicts the
    noise of the whole chunk, and DDIM takes a tenth of the steps.

    The noise that a plan starts from depends on how many plans the episode has had and on nothing else: the policy is a function of what
    the episode has shown, whatever the seed, the number of worlds and their order.

    Args:
        horizon: actions of a plan.
        observations: frames that it sees.
        executed: actions of a plan that are executed.
        width: of the network.
        blocks: of the network.
        noise_steps: levels of noise in training.
        inference_steps: of them that acting goes through.
        ema_power: how fast the moving average slows down.
        The rest is the recipe, see `ImitationPolicy`.

    Raises:
        UserError: a value out of range.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        horizon: int,
        observations: int,
        executed: int,
        width: int,
        blocks: int,
        noise_steps: int,
        inference_steps: int,
        ema_power: float,
        **recipe: Any,
    ):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # takes seconds

        super().__init__(sizes, **recipe)
        check_range("policy.horizon", horizon, 1, 10**4, "actions of a plan", whole=True)
        check_range("policy.observations", observations, 1, horizon, "frames that a plan sees", whole=True)
        check_range("policy.executed", executed, 1, what="actions of a plan that are executed", whole=True)
        check_range("policy.width", width, 1, 10**5, "of the network", whole=True)
        check_range("policy.blocks", blocks, 1, 100, "of the network", whole=True)
        check_range("policy.noise_steps", noise_steps, 1, 10**4, "levels of noise", whole=True)
        check_range("policy.inference_steps", inference_steps, 1, noise_steps, "of policy.noise_steps", whole=True)
        check_range("policy.ema_power", ema_power, 0, 10)
        if executed > (most := horizon - observations + 1):
            raise UserError(
                f"policy.executed={executed} is not possible: of policy.horizon={horizon} actions the first {observations - 1} are past "
                f"with policy.observations={observations}. Execute at most {most}."
            )
        self.observed = tuple(range(1 - observations, 1))
        self.predicted = tuple(range(1 - observations, 1 - observations + horizon))
        self.executed, self._ema_power = executed, ema_power
        self.inputs = StandardisedInputs(sizes.state)
        self.register_buffer("action_centre", torch.zeros(sizes.actions))
        self.register_buffer("action_half_range", torch.ones(sizes.actions))
        self.network = Denoiser(observations * (sizes.features + sizes.state), horizon * sizes.actions, width, blocks)
        self.averaged = AveragedModel(self.network, avg_fn=self._move_average).requires_grad_(False)
        self.scheduler = DDIMScheduler(num_train_timesteps=noise_steps, beta_schedule="squaredcos_cap_v2", clip_sample=True)
        self.scheduler.set_timesteps(inference_steps)

    action_centre: Tensor
    action_half_range: Tensor

    def fit(self, state: Tensor, actions: Tensor) -> None:
        self.inputs.fit(state)
        low, high = actions.amin(dim=0), actions.amax(dim=0)
        self.action_centre.copy_((low + high) / 2)
        self.action_half_range.copy_(torch.where(high - low < SMALLEST_RANGE, 1.0, (high - low) / 2))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        actions = (batch["actions"] - self.action_centre) / self.action_half_range
        noise = torch.randn_like(actions)
        level = torch.randint(self.scheduler.config["num_train_timesteps"], (len(actions),), device=actions.device)
        noised = self.scheduler.add_noise(actions, noise, level)  # type: ignore[arg-type]  # written for its own subclass of int tensors
        return {"loss": F.mse_loss(self.network(noised, level, self.inputs(batch).flatten(1)), noise)}

    def after_update(self) -> None:
        self.averaged.update_parameters(self.network)

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        if memory is None:
            plan = obs["state"].new_zeros(len(first), self.executed, self.sizes.actions)
            memory = {"seen": None, "plan": plan, "step": torch.zeros_like(first, dtype=torch.int64)}
        seen = remembered(memory["seen"], obs, first, len(self.observed))
        step, plan = torch.where(first, 0, memory["step"]), memory["plan"].clone()
        due = step % self.executed == 0
        if due.any():
            chunk = self._denoise({key: value[due] for key, value in seen.items()}, step[due] // self.executed)
            start = len(self.observed) - 1
            plan[due] = chunk[:, start : start + self.executed]
        action = plan[torch.arange(len(step), device=step.device), step % self.executed]
        return action, {"seen": seen, "plan": plan, "step": step + 1}

    def _denoise(self, seen: dict[str, Tensor], plans: Tensor) -> Tensor:
        """Actions (N, horizon, A) in [-1, 1] after N worlds' frames (N, observations, ...), with how many plans they had before, (N,)."""
        condition = self.inputs(seen).flatten(1)
        noises = {number: self._noise(number) for number in plans.unique().tolist()}
        sample = torch.stack([noises[number] for number in plans.tolist()]).to(condition)
        for level in self.scheduler.timesteps.tolist():
            noise = self.averaged(sample, torch.full_like(plans, level), condition)
            # As in DDPM, clipping the actions that are guessed at each level keeps the sample from drifting away.
            sample = self.scheduler.step(noise, level, sample, use_clipped_model_output=True, return_dict=False)[0]
        return (sample * self.action_half_range + self.action_centre).clamp(-1, 1)

    def _noise(self, plan: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(0, "plan", plan))
        return torch.randn(len(self.predicted), self.sizes.actions, generator=generator)

    def _move_average(self, averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        """A weight's new average; the first update has copied it, and `updates` have been made before this one."""
        return current.lerp(averaged, min(1 - float(updates) ** -self._ema_power, LARGEST_EMA))


class Denoiser(nn.Module):
    """Predicts the noise in a chunk of actions: a residual MLP, each block of which is scaled and shifted by what is seen and the level of
    noise (as in Peebles and Xie 2022, https://arxiv.org/abs/2212.09748).

    Args:
        condition: length of what is seen.
        chunk: length of the chunk.
        width: of all layers.
        blocks: how many.
    """

    frequencies: Tensor

    def __init__(self, condition: int, chunk: int, width: int, blocks: int):
        super().__init__()
        half = TIME_DIM // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / (half - 1)), persistent=False)
        self.time = nn.Sequential(nn.Linear(TIME_DIM, width), nn.Mish(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width)
        self.enter = nn.Linear(chunk, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Mish(), nn.Linear(width, width)) for _ in range(blocks))
        self.leave = nn.Linear(width, chunk)

    def forward(self, noised: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Noised chunks (B, T, A), levels of noise (B,) and what is seen (B, C) to the noise (B, T, A)."""
        angles = level[:, None] * self.frequencies
        known = F.mish(self.time(torch.cat([angles.sin(), angles.cos()], dim=-1)) + self.condition(condition))
        hidden = self.enter(noised.flatten(1))
        for norm, modulation, block in zip(self.norms, self.modulations, self.blocks, strict=True):
            scale, shift = modulation(known).chunk(2, dim=-1)
            hidden = hidden + block(norm(hidden) * (1 + scale) + shift)
        return self.leave(hidden).view_as(noised)
