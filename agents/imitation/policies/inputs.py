"""What a policy's network is given: features as the read-out scales them, and the state standardised over the demonstrations."""

import torch
from torch import Tensor, nn

CLIP = 5.0
SMALLEST_SPREAD = 1e-4


class StandardisedInputs(nn.Module):
    """Features and state side by side, the state centred, divided by its deviation and clipped at 5.

    A number that never changes in the demonstrations, such as the pose of a fixed camera, is centred alone: whatever it does later must not
    be blown up.

    Args:
        state: S.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, state: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(state))
        self.register_buffer("spread", torch.ones(state))

    def fit(self, state: Tensor) -> None:
        """Takes mean and deviation of all the demonstrations' frames, (M, S)."""
        spread = state.std(dim=0, correction=0)
        self.centre.copy_(state.mean(dim=0))
        self.spread.copy_(torch.where(spread < SMALLEST_SPREAD, 1.0, spread))

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        """``features`` (..., D) and ``state`` (..., S) to (..., D + S)."""
        state = ((seen["state"] - self.centre) / self.spread).clamp(-CLIP, CLIP)
        return torch.cat([seen["features"], state], dim=-1)
