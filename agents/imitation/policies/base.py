"""What every imitating policy is: a network from what is seen to actions, with the recipe that trains it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robo_repr.core.errors import UserError, check_range, unknown

SAMPLINGS = ("replacement", "epochs")
SCHEDULES = ("constant", "cosine")
OPTIMISERS = ("adam", "adamw")
LABELS = ("meant", "done")


@dataclass(frozen=True)
class Sizes:
    """Lengths of what a policy gets and gives.

    Attributes:
        features: D, of what was read out of the pictures; 0 without pictures.
        state: S, of what the robot knows of itself, with whatever else is no picture (the instruction, the cameras' poses or rays).
        actions: A.
    """

    features: int
    state: int
    actions: int


class ImitationPolicy(nn.Module):
    """A child sets `observed` and `predicted` where they differ from one frame, builds its networks, and writes `loss` and `act`.

    Its networks are built from torch's global generator, which the caller has seeded.

    Args:
        sizes: of what it gets and gives.
        optimiser: ``adam`` or ``adamw``.
        learning_rate: of the policy.
        weight_decay: of its weights; biases and what normalises have none.
        batch_size: samples of an update.
        sampling: ``replacement`` draws each sample of each batch from all; ``epochs`` goes through all of them in a new order each time,
            and drops what does not fill a batch.
        schedule: of the learning rate after the warm-up: ``constant``, or ``cosine`` to 0.
        warmup: share of the training in which the learning rate rises linearly from 0.
        gradient_clip: largest norm of the gradient; null = as it is.
        labels: which actions it learns of experts that noise leads astray: ``meant``, what the expert would do there; or ``done``, for who
            plans several actions ahead, because these follow from each other. `find_demos` reads it.

    Attributes:
        observed: frames that a sample shows, relative to its own, such as (-1, 0); beyond an episode's ends the nearest frame is repeated.
        predicted: actions that a sample holds, relative to its own frame; beyond an episode's ends the nearest action is repeated.

    Raises:
        UserError: a value out of range.
    """

    observed: tuple[int, ...] = (0,)
    predicted: tuple[int, ...] = (0,)

    def __init__(
        self,
        sizes: Sizes,
        *,
        optimiser: str,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        sampling: str,
        schedule: str,
        warmup: float,
        gradient_clip: float | None,
        labels: str,
    ):
        super().__init__()
        for key, value, options in (
            ("optimiser", optimiser, OPTIMISERS),
            ("sampling", sampling, SAMPLINGS),
            ("schedule", schedule, SCHEDULES),
            ("labels", labels, LABELS),
        ):
            if value not in options:
                raise unknown(f"policy.{key}", str(value), options)
        check_range("policy.learning_rate", learning_rate, 0, 10)
        check_range("policy.weight_decay", weight_decay, 0, 10)
        check_range("policy.batch_size", batch_size, 2, 10**6, "samples of an update", whole=True)
        check_range("policy.warmup", warmup, 0, 1, "share of the training")
        if gradient_clip is not None:
            check_range("policy.gradient_clip", gradient_clip, 1e-9, what="largest norm of the gradient")
        self.sizes, self.batch_size, self.sampling = sizes, batch_size, sampling
        self.learning_rate, self.weight_decay, self.gradient_clip = learning_rate, weight_decay, gradient_clip
        self._optimiser, self._schedule, self._warmup = optimiser, schedule, warmup

    def fit(self, state: Tensor, actions: Tensor) -> None:
        """Takes what it needs of statistics from all the demonstrations' frames, (M, S) and (M, A), before the first update."""

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of B samples, scalars: ``loss`` is their total, parts are called ``loss/<term>``.

        Args:
            batch: ``features`` (B, len(observed), D), ``state`` (B, len(observed), S) and ``actions`` (B, len(predicted), A), float32;
                ``is_padding`` (B, len(predicted)) bool, True where an action lies beyond the episode's ends.

        Random numbers come from torch's global generator, which the caller seeds for every update. The policy is in training mode.
        """
        raise NotImplementedError

    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        """The actions (N, A) in [-1, 1] of N worlds, without exploration or gradient, and what to remember for the next step.

        The policy is in evaluation mode.

        Args:
            obs: ``features`` (N, D) and ``state`` (N, S), float32, of this step.
            memory: what the last call returned; None before the first one, and then `first` is True everywhere.
            first: (N,) bool, worlds in which an episode begins: what is remembered of them does not count.
        """
        raise NotImplementedError

    def after_update(self) -> None:
        """Called after each update, as for moving averages."""

    def build_optimiser(self, more: Iterable[dict[str, Any]] = ()) -> torch.optim.Optimizer:
        """An optimiser of all parameters.

        Args:
            more: further groups of parameters, such as the encoder's, with rates of their own.
        """
        plain = {id(p) for module in self.modules() if isinstance(module, _NORMALISERS) for p in module.parameters(recurse=False)}
        plain |= {id(p) for name, p in self.named_parameters() if name.endswith("bias") or p.ndim < 2}
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if id(p) not in plain], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if id(p) in plain], "weight_decay": 0.0},
        ]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self._optimiser]
        made = kind([*groups, *more], lr=self.learning_rate, fused=True)  # one pass over all of them: a fifth of a small update
        for group in made.param_groups:
            group["initial_lr"] = group["lr"]
        return made

    def rate(self, step: int, total: int) -> float:
        """The share of the learning rate that update `step` of `total` uses, counted from 0."""
        warm = self._warmup * total
        if step < warm:
            return step / warm
        if self._schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))


_NORMALISERS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d)


def remembered(memory: dict[str, Tensor] | None, obs: dict[str, Tensor], first: Tensor, length: int) -> dict[str, Tensor]:
    """The last `length` observations of N worlds, key -> (N, length, ...), oldest first; to be passed in again as `memory`.

    Where an episode begins, its first observation fills all places, as in training samples.
    """
    full = {key: value[:, None].expand(-1, length, *value.shape[1:]) for key, value in obs.items()}
    if memory is None:
        return {key: value.clone() for key, value in full.items()}
    moved = {key: torch.cat([memory[key][:, 1:], value[:, None]], dim=1) for key, value in obs.items()}
    return {key: torch.where(first.view(-1, *[1] * (value.ndim - 1)), full[key], value) for key, value in moved.items()}


def joined(batch: dict[str, Tensor]) -> Tensor:
    """Features and state side by side, (..., D + S)."""
    return torch.cat([batch["features"], batch["state"]], dim=-1)


def check_widths(key: str, value: Any) -> None:
    """Refuses a list of layer widths that holds anything but whole numbers of at least 1."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value):
        raise UserError(f"policy.{key}={value} is not possible. Give widths of layers, such as policy.{key}=[256,256].")
