"""Action chunks with temporal ensembling, ACT (Zhao et al. 2023, https://arxiv.org/abs/2304.13705) without its variational encoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.imitation.policies.base import ImitationPolicy, Sizes
from agents.imitation.policies.inputs import StandardisedInputs
from robo_repr.core.errors import UserError, check_range


class BCChunk(ImitationPolicy):
    """A transformer over a token of the features, one of the state and K learned ones, from which the next K actions are read.

    The loss is the mean absolute error, zero where an action lies beyond the episode's end. Every step predicts a new chunk, and the action
    is the mean of all chunks' predictions for this step, weighted by exp(-decay * i) with i = 0 for the oldest. ACT's encoder of styles is
    left out (it acts with a style of 0), its encoder and decoder are one, and its blocks normalise before their layers.

    Args:
        chunk: K.
        width: of the tokens.
        layers: blocks of the transformer.
        heads: of its attention; they share the width.
        feedforward: width of a block's hidden layer.
        dropout: share of what is zeroed in training.
        decay: how much less a newer prediction counts; 0 = as much.
        The rest is the recipe, see `ImitationPolicy`.

    Raises:
        UserError: a value out of range.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        chunk: int,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        decay: float,
        **recipe: Any,
    ):
        super().__init__(sizes, **recipe)
        check_range("policy.chunk", chunk, 1, 10**4, "actions predicted at once", whole=True)
        check_range("policy.width", width, 1, 10**5, "of the tokens", whole=True)
        check_range("policy.layers", layers, 1, 100, "blocks of the transformer", whole=True)
        check_range("policy.heads", heads, 1, 1000, "of the attention", whole=True)
        check_range("policy.feedforward", feedforward, 1, 10**6, whole=True)
        check_range("policy.dropout", dropout, 0, 0.99)
        check_range("policy.decay", decay, 0, 100)
        if width % heads:
            raise UserError(
                f"policy.width={width} cannot be shared by policy.heads={heads}. Choose a multiple of the heads, such as "
                f"policy.width={-(-width // heads) * heads}."
            )
        self.chunk = chunk
        self.predicted = tuple(range(chunk))
        self.inputs = StandardisedInputs(sizes.state)
        # What is not there gets no token.
        self.tokens = nn.ModuleList(nn.Linear(length, width) for length in (sizes.features, sizes.state) if length)
        self.queries = nn.Parameter(0.02 * torch.randn(chunk, width))
        block = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, sizes.actions)
        # A prediction's weight by how many older ones there are, and the total weight of that many.
        self.register_buffer("weight", torch.exp(-decay * torch.arange(chunk)), persistent=False)
        self.register_buffer("total", F.pad(self.weight.cumsum(dim=0), (1, 0)), persistent=False)

    weight: Tensor
    total: Tensor

    def fit(self, state: Tensor, actions: Tensor) -> None:
        self.inputs.fit(state)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = (self.predict({key: batch[key][:, 0] for key in ("features", "state")}) - batch["actions"]).abs()
        return {"loss": error.masked_fill(batch["is_padding"][..., None], 0.0).mean()}

    def predict(self, obs: dict[str, Tensor]) -> Tensor:
        """The next K actions (N, K, A) after observations (N, D) and (N, S)."""
        parts = [part for part in self.inputs(obs).split((self.sizes.features, self.sizes.state), dim=-1) if part.shape[-1]]
        seen = [embed(part) for embed, part in zip(self.tokens, parts, strict=True)]
        tokens = torch.cat([torch.stack(seen, dim=1), self.queries.expand(len(seen[0]), -1, -1)], dim=1)
        return self.head(self.body(tokens)[:, len(seen) :])

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        memory = self.ensemble(self.predict(obs), memory, first)
        return memory["mean"][:, 0].clamp(-1, 1), memory

    def ensemble(self, chunks: Tensor, memory: dict[str, Tensor] | None, first: Tensor) -> dict[str, Tensor]:
        """Takes new chunks (N, K, A) in: ``mean`` (N, K, A), the weighted mean of all predictions for this step and the K - 1 after it, and
        ``count`` (N, K), of how many."""
        if memory is None:
            memory = {"mean": torch.zeros_like(chunks), "count": torch.zeros(chunks.shape[:2], dtype=torch.int64, device=chunks.device)}
        mean, count = F.pad(memory["mean"][:, 1:], (0, 0, 0, 1)), F.pad(memory["count"][:, 1:], (0, 1))
        count = count.masked_fill(first[:, None], 0)
        old, new = self.total[count], self.weight[count]
        return {"mean": (mean * old[..., None] + chunks * new[..., None]) / (old + new)[..., None], "count": count + 1}
