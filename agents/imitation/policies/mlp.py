"""The policies of three papers that compare frozen encoders: one action from one look, by a small MLP and the squared error."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from agents.imitation.policies.base import ImitationPolicy, Sizes, check_widths, remembered
from robo_repr.core.errors import check_range, unknown

INITS = ("orthogonal", "xavier_uniform")
SHRUNK = ("input", "output")
SMALL = 0.01  # what each of the three papers shrinks at the start, it shrinks to this share


class OneAction(ImitationPolicy):
    """A child's `forward` gives actions (B, A) for features (B, H, D) and states (B, H, S) of the H = len(observed) frames."""

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": mse_loss(self(batch["features"], batch["state"]), batch["actions"][:, 0])}

    @torch.no_grad()
    def act(self, obs: dict[str, Tensor], memory: Any, first: Tensor) -> tuple[Tensor, Any]:
        memory = remembered(memory, obs, first, len(self.observed))
        return self(memory["features"], memory["state"]).clamp(-1, 1), memory


class R3MPolicy(OneAction):
    """BatchNorm on everything seen, then tanh layers. Actions are predicted as they are; only acting clips them.

    Updates use the batch's statistics, acting the running ones: train() and eval() decide.

    Source: Nair et al. 2022, https://arxiv.org/abs/2203.12601; facebookresearch/r3m, branch eval, evaluation/r3meval/utils/fc_network.py.

    Args:
        net: widths of the hidden layers.
        recipe: of `ImitationPolicy`.
    """

    def __init__(self, sizes: Sizes, *, net: list[int], **recipe: Any):
        super().__init__(sizes, **recipe)
        check_widths("net", net)
        seen = sizes.features + sizes.state
        self.normalise = nn.BatchNorm1d(seen)
        self.layers = _layers([seen, *net, sizes.actions], nn.Tanh)
        _shrink(self.layers[-1])

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        return self.layers(self.normalise(torch.cat([features[:, -1], state[:, -1]], dim=1)))


class MVPPolicy(OneAction):
    """Features and state each through a linear layer of equal width, so that neither outweighs the other, then SELU layers.

    Source: Radosavovic et al. 2022, https://arxiv.org/abs/2210.03109; ir413/mvp, mvp/bc/actor.py. What has size 0 is left out.

    Args:
        embedding: width of what each of the two becomes.
        net: widths of the hidden layers.
        init: of the hidden layers' weights: ``orthogonal`` with a small last layer, or ``xavier_uniform`` for all of them.
        dropout: of both embeddings.
        recipe: of `ImitationPolicy`.
    """

    def __init__(self, sizes: Sizes, *, embedding: int, net: list[int], init: str, dropout: float, **recipe: Any):
        super().__init__(sizes, **recipe)
        check_range("policy.embedding", embedding, 1, what="width", whole=True)
        check_widths("net", net)
        check_range("policy.dropout", dropout, 0, 1)
        if init not in INITS:
            raise unknown("policy.init", str(init), INITS)
        seen = {key: size for key, size in (("features", sizes.features), ("state", sizes.state)) if size}
        self.embeddings = nn.ModuleDict({key: nn.Linear(size, embedding) for key, size in seen.items()})
        self.dropout = nn.Dropout(dropout)
        self.layers = _layers([embedding * len(seen), *net, sizes.actions], nn.SELU)
        for layer in self.layers:
            if isinstance(layer, nn.Linear) and init == "orthogonal":
                nn.init.orthogonal_(layer.weight, gain=SMALL if layer is self.layers[-1] else math.sqrt(2))
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        seen = {"features": features[:, -1], "state": state[:, -1]}
        return self.layers(torch.cat([self.dropout(embed(seen[key])) for key, embed in self.embeddings.items()], dim=1))


class CortexPolicy(OneAction):
    """The last frames' features and how they changed, with the last state, through BatchNorm and ReLU layers.

    Source: CortexBench, Majumdar et al. 2023, https://arxiv.org/abs/2303.18240; facebookresearch/eai-vc, cortexbench/mujoco_vc, whose
    network is BatchNormMLP of aravindr93/mjrl.

    Args:
        history: frames.
        net: widths of the hidden layers.
        shrunk: what is multiplied by 0.01 at the start: ``input``, the scales of the BatchNorm, as the published code does (it takes the
            last two parameters, which are not the last layer's); ``output``, the last layer, as its comment says.
        recipe: of `ImitationPolicy`.
    """

    def __init__(self, sizes: Sizes, *, history: int, net: list[int], shrunk: str, **recipe: Any):
        super().__init__(sizes, **recipe)
        check_range("policy.history", history, 1, 100, "frames", whole=True)
        check_widths("net", net)
        if shrunk not in SHRUNK:
            raise unknown("policy.shrunk", str(shrunk), SHRUNK)
        self.observed = tuple(range(1 - history, 1))
        seen = history * sizes.features + sizes.state
        self.normalise = nn.BatchNorm1d(seen)
        self.layers = _layers([seen, *net, sizes.actions], nn.ReLU)
        _shrink(self.normalise if shrunk == "input" else self.layers[-1])

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        return self.layers(self.normalise(torch.cat([with_changes(features), state[:, -1]], dim=1)))


def with_changes(features: Tensor) -> Tensor:
    """What changed from frame to frame, oldest first, then the last frame: (B, H, D) -> (B, H * D)."""
    return torch.cat([features.diff(dim=1), features[:, -1:]], dim=1).flatten(1)


def _layers(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), activation())]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def _shrink(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.mul_(SMALL)
