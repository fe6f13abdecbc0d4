"""Read-outs: the fixed map from a frozen encoder's features to the numbers that a policy gets."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robo_repr.core.errors import UserError, unknown
from robo_repr.encoders.base import EncoderSpec, Features, hash_tensors

READOUTS = ("pooled", "grid4", "keypoints", "tokens")
GRID = 4
CLIP = 5.0
# Each number is divided by its own spread plus this share of the mean spread, so that dimensions without signal are not blown up.
SPREAD_SHARE = 0.3
SMALLEST_SCALE = 1e-4


class Readout(nn.Module):
    """Features of V views and F frames to one vector per world. Calibrate it on pictures of the task itself, then it is fixed.

    ``pooled`` is the encoder's own feature, which loses where things are. The others start from the first principal components of the
    tokens minus their mean at each position:

    - ``tokens``: all of them, K * channels numbers.
    - ``grid4``: averaged over a 4 x 4 grid, 16 * channels numbers.
    - ``keypoints``: where each component is large and where it is small. A softmax over positions of the component divided by its
      deviation, and of its negative, gives the expected row and column in [-1, 1]: 4 * channels numbers (Finn et al. 2016,
      https://arxiv.org/abs/1509.06113, whose temperature is learnt; here the deviation is it).

    Always every number is centred, divided by (its deviation + 0.3 x the mean deviation) and clipped at 5. Encoders without tokens get the
    pooled rule under all names.

    Args:
        name: one of `READOUTS`.
        spec: the encoder's.
        views: names of the views; each has statistics and a slice of its own, so views are fused by concatenation.
        frames: F of the frame stack; frames share their view's statistics. An encoder that takes whole stacks gives one feature for all.
        channels: principal components of the tokens.

    Attributes:
        dim: length of the output; view v fills the slice [v * dim / V, (v + 1) * dim / V).
    """

    pool: Tensor
    places: Tensor
    basis: Tensor
    middle: Tensor
    spread: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, name: str, spec: EncoderSpec, views: list[str], frames: int = 1, channels: int = 16):
        super().__init__()
        if name not in READOUTS:
            raise unknown("readout", str(name), READOUTS)
        self.name, self.views, self.frames = name, list(views), frames if spec.frames == 1 else 1
        self.grid = None if name == "pooled" else spec.grid
        self.calibrated = False
        cells = spec.dim
        if self.grid:
            if not 1 <= channels <= spec.token_dim:
                raise UserError(
                    f"channels={channels} is not possible; encoder {spec.name} has tokens of {spec.token_dim} numbers: 1 to that."
                )
            positions = math.prod(self.grid)
            self.register_buffer("basis", torch.zeros(len(views), spec.token_dim, channels))
            if name == "grid4":
                pool = F.adaptive_avg_pool2d(torch.eye(positions).view(positions, 1, *self.grid), GRID).flatten(1).T
                self.register_buffer("pool", pool.contiguous())  # (16, K)
                cells = GRID * GRID * channels
            elif name == "keypoints":
                rows, columns = (torch.linspace(-1, 1, length) for length in self.grid)
                self.register_buffer("places", torch.cartesian_prod(rows, columns))  # (K, 2)
                # Unlike the other rules this one is not linear: the mean at each position cannot be taken off afterwards.
                self.register_buffer("middle", torch.zeros(len(views), positions, channels))
                self.register_buffer("spread", torch.ones(len(views), channels))
                cells = 4 * channels
            else:
                cells = positions * channels
        self.register_buffer("centre", torch.zeros(len(views), cells))
        self.register_buffer("scale", torch.ones(len(views), cells))
        self.dim = len(views) * self.frames * cells

    @torch.no_grad()
    def calibrate(self, features: Features) -> None:
        """Fits means, components and scales, without labels, to features of (N * V) pictures ordered (N, V), N at least 2.

        Deterministic: components are signed so that their largest entry is positive.
        """
        if self.grid:
            for view, tokens in enumerate(self._by_view(features.tokens).transpose(0, 1)):  # (N, F, K, T) each
                samples = tokens.flatten(0, 1)
                mean, moments = samples.mean(dim=0, dtype=torch.float64), 0
                for some in samples.split(64):  # all of a large encoder's tokens in double precision are gigabytes
                    centred = (some.double() - mean).flatten(0, 1)
                    moments = moments + centred.T @ centred
                vectors = torch.linalg.eigh(moments)[1].flip(1)[:, : self.basis.shape[2]]
                largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
                self.basis[view] = (vectors * largest.sign()).float()
                if self.name == "keypoints":
                    components = tokens.flatten(0, 1) @ self.basis[view]
                    self.middle[view] = components.mean(dim=0)
                    self.spread[view] = (components - self.middle[view]).std(dim=(0, 1), correction=0).clamp(min=SMALLEST_SCALE)
        self.calibrated = True
        if self.dim == 0:
            return
        cells = self._cells(features).double()  # (N, V, F, cells)
        self.centre.copy_(cells.mean(dim=(0, 2)))
        spread = cells.transpose(1, 2).flatten(0, 1).std(dim=0, correction=0)
        # A view that never changes has no spread at all.
        self.scale.copy_((spread + SPREAD_SHARE * spread.mean(dim=1, keepdim=True)).clamp(min=SMALLEST_SCALE))

    def forward(self, features: Features) -> Tensor:
        """Features of (B * V) pictures ordered (B, V) to (B, dim) float32."""
        if not self.calibrated:
            raise RuntimeError("The read-out is not calibrated: call calibrate() with features of the task's pictures, or load_state().")
        cells = self._cells(features)
        return ((cells - self.centre[:, None]) / self.scale[:, None]).clamp(-CLIP, CLIP).flatten(1)

    def state(self) -> dict[str, Tensor]:
        """The calibration, to be stored with the run."""
        return {key: value.clone() for key, value in self.state_dict().items() if key not in ("pool", "places")}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores `state`. Raises a UserError when it is of another encoder, read-out or number of views."""
        found = {key: tuple(value.shape) for key, value in state.items()}
        expected = {key: tuple(value.shape) for key, value in self.state().items()}
        if found != expected:
            raise UserError(
                f"The stored calibration has {found}, this read-out ({self.name}, views {self.views}) needs {expected}. It is of another "
                "encoder, read-out or number of views: use the run's own settings, or start a new run."
            )
        for key, value in state.items():
            getattr(self, key).copy_(value)
        self.calibrated = True

    def fingerprint(self) -> str:
        """16 hex digits that change with the calibration and the settings."""
        return hash_tensors(self.state_dict().items(), f"{self.name} {self.views} {self.frames}")

    def _by_view(self, stacked: Tensor | None) -> Tensor:
        """(N * V, ..., F * D) to (N, V, F, ..., D)."""
        if stacked is None:
            raise ValueError(f"Read-out {self.name} needs the encoder's tokens, found none: build it with that encoder's own spec.")
        if len(stacked) % len(self.views):
            raise ValueError(
                f"Features of {len(stacked)} pictures do not fit {len(self.views)} views: pass them all, ordered (worlds, views)."
            )
        # The sizes are spelt out: of a feature without numbers (identity), torch cannot infer them.
        worlds, numbers = len(stacked) // len(self.views), stacked.shape[-1] // self.frames
        return stacked.unflatten(0, (worlds, len(self.views))).unflatten(-1, (self.frames, numbers)).movedim(-2, 2)

    def _cells(self, features: Features) -> Tensor:
        """What is then centred and scaled, (N, V, F, cells); all but keypoints are linear in the features."""
        if not self.grid:
            return self._by_view(features.pooled)
        tokens = self._by_view(features.tokens)
        components = torch.einsum("nvfkt,vtc->nvfkc", tokens, self.basis)
        if self.name == "grid4":
            return torch.einsum("gk,nvfkc->nvfgc", self.pool, components).flatten(3)
        if self.name == "tokens":
            return components.flatten(3)
        heights = (components - self.middle[:, None]) / self.spread[:, None, None]
        shares = torch.stack([heights, -heights], dim=3).softmax(dim=4)  # (N, V, F, 2, K, channels)
        return torch.einsum("nvfskc,kd->nvfscd", shares, self.places).flatten(3)
