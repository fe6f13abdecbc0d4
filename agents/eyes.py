"""What a policy sees: an encoder and the read-out of its features, for the pictures of several cameras."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import FUSIONS, Encoder, Features, fuse_views, hash_tensors
from robo_repr.encoders.readout import Readout


class Eyes:
    """Pictures of V cameras to one vector per world.

    Args:
        encoder: what turns pictures into features.
        views: names of the V cameras.
        frame_stack: F, pictures of each camera.
        readout: one of `robo_repr.encoders.readout.READOUTS`. It must be calibrated, by `calibrate` or `load_state`, before `read`.
        view_fusion: ``"concatenate"`` reads every view out by itself, side by side; ``"mean"`` averages the views' features first.

    Attributes:
        dim: length of the vector; 0 for an encoder that sees nothing.
    """

    def __init__(self, encoder: Encoder, views: Sequence[str], frame_stack: int, readout: str, view_fusion: str):
        if view_fusion not in FUSIONS:
            raise unknown("view_fusion", str(view_fusion), FUSIONS)
        self.encoder, self.views, self.view_fusion = encoder, list(views), view_fusion
        read = self.views if view_fusion == "concatenate" or not self.views else ["+".join(self.views)]
        self.readout = Readout(readout, encoder.spec, read, frame_stack).to(encoder.mean.device)

    @property
    def dim(self) -> int:
        return self.readout.dim

    def encode(self, images: Tensor) -> Features | None:
        """The encoder's features of pictures (N, V, 3, H, W), or (N, V, F, 3, H, W), of all N * V in the order (world, view); of all N
        worlds, where views are averaged; None for an encoder that sees nothing."""
        if not self.dim:
            return None
        features = self.encoder(images.flatten(0, 1))
        return fuse_views(features, len(self.views), "mean") if self.view_fusion == "mean" else features

    def calibrate(self, features: Features) -> None:
        """Fits the read-out to what `encode` gave, of at least two worlds; see `Readout.calibrate`."""
        self.readout.calibrate(features)

    def read(self, features: Features) -> Tensor:
        """(N, dim) float32 of what `encode` gave."""
        return self.readout(features)

    @torch.no_grad()
    def see(self, images: Tensor) -> Tensor:
        """Pictures as for `encode` to (N, dim) float16 on the CPU: what policies that learn from a frozen encoder get."""
        features = self.encode(images)
        return torch.zeros(len(images), 0, dtype=torch.float16) if features is None else self.read(features).to(torch.float16).cpu()

    def state(self) -> dict[str, Tensor]:
        """The read-out's calibration."""
        return self.readout.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores `state`; see `Readout.load_state`."""
        self.readout.load_state(state)

    def fingerprint(self) -> str:
        """16 hex digits that change with the encoder, the read-out, its calibration and the kind of device: with whatever changes what is
        seen."""
        device = self.encoder.mean.device.type
        return hash_tensors([], f"{self.encoder.fingerprint()} {self.readout.fingerprint()} {self.views} {self.view_fusion} {device}")
