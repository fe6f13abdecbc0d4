"""Behaviour cloning with a mixture of Gaussians, robomimic's BC-GMM (Mandlekar et al. 2021, https://arxiv.org/abs/2108.03298)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from agents.imitation.policies.base import ImitationPolicy, Sizes, check_widths
from agents.imitation.policies.inputs import StandardisedInputs
from robo_repr.core.errors import check_range


class GMMHead(nn.Module):
    """From a vector to a mixture of Gaussians over actions: means within (-1, 1), deviations of softplus plus `min_std`.

    Args:
        width: of the vector.
        actions: A.
        modes: Gaussians of the mixture.
        min_std: smallest deviation, in units of the action.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, width: int, actions: int, modes: int, min_std: float):
        super().__init__()
        check_range("policy.modes", modes, 1, 1000, "Gaussians of the mixture", whole=True)
        check_range("policy.min_std", min_std, 1e-8, 10, "smallest deviation")
        self.modes, self.min_std = modes, min_std
        self.mean, self.spread = nn.Linear(width, modes * actions), nn.Linear(width, modes * actions)
        self.logits = nn.Linear(width, modes)

    def forward(self, hidden: Tensor) -> MixtureSameFamily:
        """Vectors (..., width) to a distribution over (..., A)."""
        spread = F.softplus(self.spread(hidden).unflatten(-1, (self.modes, -1))) + self.min_std
        gaussians = Independent(Normal(self._means(hidden), spread, validate_args=False), 1, validate_args=False)
        return MixtureSameFamily(Categorical(logits=self.logits(hidden), validate_args=False), gaussians, validate_args=False)

    def most_likely(self, hidden: Tensor) -> Tensor:
        """Vectors (..., width) to the mean of the mode with the largest weight, (..., A)."""
        mode = self.logits(hidden).argmax(dim=-1)[..., None, None]
        return self._means(hidden).take_along_dim(mode, dim=-2).squeeze(-2)

    def _means(self, hidden: Tensor) -> Tensor:
        """(..., modes, A)."""
        return torch.tanh(self.mean(hidden)).unflatten(-1, (self.modes, -1))


class BCGMM(ImitationPolicy):
    """A ReLU network with a mixture of Gaussians at its end, trained by the negative log-likelihood of the demonstrated action.

    robomimic samples when it acts, with a deviation of 1e-4; here the action is the mean of the most likely mode, so that a seed says all.

    Args:
        hidden: widths of the hidden layers.
        modes, min_std: see `GMMHead`.
        The rest is the recipe, see `ImitationPolicy`.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, sizes: Sizes, *, hidden: list[int], modes: int, min_std: float, **recipe: Any):
        super().__init__(sizes, **recipe)
        check_widths("hidden", hidden)
        self.inputs = StandardisedInputs(sizes.state)
        widths = [sizes.features + sizes.state, *hidden]
        layers = [layer for pair in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.body = nn.Sequential(*layers)
        self.head = GMMHead(widths[-1], sizes.actions, modes, min_std)

    def fit(self, state: Tensor, actions: Tensor) -> None:
        self.inputs.fit(state)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        mixture = self.head(self.body(self.inputs(batch)))  # of (B, 1)
        return {"loss": -mixture.log_prob(batch["actions"]).mean()}

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        return self.head.most_likely(self.body(self.inputs(obs))), None
