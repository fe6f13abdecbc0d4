"""Control arms: what a policy achieves with raw pixels, or without any picture. (The untrained network is `mvp.Random`.)"""

import torch
from torch import Tensor

from robo_repr.core.errors import check_range
from robo_repr.encoders.base import Encoder, EncoderSpec, Features


class Pixels(Encoder):
    """The picture itself, averaged over areas to `size` x `size`: pooled (B, 3 * size * size) in 0..1, channel by channel, row by row.

    It has no tokens; every read-out gives the standardised pooled vector.
    """

    def __init__(self, size: int = 12):
        check_range("encoder.size", size, 1, 256, "pixels")  # beyond, a policy's first layer would fill the memory
        spec = EncoderSpec("pixels", (size, size), 3 * size * size, mean=(0, 0, 0), std=(1, 1, 1), interpolation="area")
        super().__init__(spec)

    def encode(self, images: Tensor) -> Features:
        return Features(images.flatten(1), None)


class Identity(Encoder):
    """Sees nothing: D is 0, and the policy has the robot's state alone."""

    def __init__(self):
        super().__init__(EncoderSpec("identity", (1, 1), 0, inputs=()))

    def forward(self, images: Tensor | None = None) -> Features:
        """pooled (B, 0) for B images, which are not looked at; (1, 0) without images."""
        return Features(torch.zeros(1 if images is None else len(images), 0), None)
