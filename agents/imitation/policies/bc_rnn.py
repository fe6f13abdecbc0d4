"""Behaviour cloning with an LSTM, robomimic's BC-RNN-GMM (Mandlekar et al. 2021, https://arxiv.org/abs/2108.03298)."""

from typing import Any

import torch
from torch import Tensor, nn

from agents.imitation.policies.base import ImitationPolicy, Sizes
from agents.imitation.policies.bc_gmm import GMMHead
from agents.imitation.policies.inputs import StandardisedInputs
from robo_repr.core.errors import check_range


class BCRNN(ImitationPolicy):
    """An LSTM over sequences of `horizon` frames with a mixture of Gaussians at every step, trained by the negative log-likelihood.

    As in robomimic the loss is the mean over all steps, those repeated beyond an episode's end included, and the acting policy forgets
    everything each `horizon` steps, because it has never been trained for longer. It differs in acting as `BCGMM` does.

    Args:
        hidden_dim: width of the LSTM.
        layers: LSTMs on top of each other.
        horizon: frames of a sequence.
        modes, min_std: see `GMMHead`.
        The rest is the recipe, see `ImitationPolicy`.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, sizes: Sizes, *, hidden_dim: int, layers: int, horizon: int, modes: int, min_std: float, **recipe: Any):
        super().__init__(sizes, **recipe)
        check_range("policy.hidden_dim", hidden_dim, 1, 10**5, "width of the LSTM", whole=True)
        check_range("policy.layers", layers, 1, 100, "LSTMs on top of each other", whole=True)
        check_range("policy.horizon", horizon, 1, 10**4, "frames of a sequence", whole=True)
        self.horizon = horizon
        self.observed = self.predicted = tuple(range(horizon))
        self.inputs = StandardisedInputs(sizes.state)
        self.body = nn.LSTM(sizes.features + sizes.state, hidden_dim, layers, batch_first=True)
        self.head = GMMHead(hidden_dim, sizes.actions, modes, min_std)

    def fit(self, state: Tensor, actions: Tensor) -> None:
        self.inputs.fit(state)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden, _ = self.body(self.inputs(batch))
        return {"loss": -self.head(hidden).log_prob(batch["actions"]).mean()}

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        inputs = self.inputs(obs)
        if memory is None:
            nothing = inputs.new_zeros(self.body.num_layers, len(inputs), self.body.hidden_size)
            memory = {"hidden": nothing, "cell": nothing, "step": torch.zeros_like(first, dtype=torch.int64)}
        step = torch.where(first, 0, memory["step"])
        keep = (step % self.horizon != 0)[None, :, None]
        state = tuple(torch.where(keep, memory[key], 0.0) for key in ("hidden", "cell"))
        output, (hidden, cell) = self.body(inputs[:, None], state)
        return self.head.most_likely(output[:, 0]), {"hidden": hidden, "cell": cell, "step": step + 1}
