"""What every encoder is: images in, `Features` out, with the preprocessing inside."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder takes and gives; callers size their networks by it.

    Attributes:
        size: height and width in pixels to which pictures are resized.
        frames: pictures that one feature needs; with 1, the frames of a stack are encoded one by one.
        dim, token_dim: lengths D of the pooled vector and of a token.
        grid: rows and columns of the tokens, None without tokens.
        interpolation: ``bilinear``, ``bicubic`` (both antialiased) or ``area``.
        inputs: the keys that forward takes; empty for an encoder that sees nothing.
        can: abilities beyond forward: ``mask`` (encodes visible patches alone).
    """

    name: str
    size: tuple[int, int]
    dim: int
    frames: int = 1
    token_dim: int = 0
    grid: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    inputs: tuple[str, ...] = ("images",)
    can: frozenset[str] = frozenset()


class Features(NamedTuple):
    """pooled (B, D) float32: the method's own feature. tokens (B, K, token_dim) float32, the grid row by row, or None."""

    pooled: Tensor
    tokens: Tensor | None


class Encoder(nn.Module):
    """Base of all encoders. A child sets ``spec`` through the constructor and writes `encode`.

    Attributes:
        variant: the size's name, None where there is one size.
        weights_sha256: of the weights file, None where there is none.
        trained_by: one line on where the weights come from.
        prefix_tokens: tokens that precede the patches inside the network, such as a class token.
    """

    mean: Tensor
    std: Tensor
    prefix_tokens = 0

    def __init__(self, spec: EncoderSpec, variant: str | None = None):
        super().__init__()
        self.spec, self.variant = spec, variant
        self.weights_sha256: str | None = None
        self.trained_by = "nothing to train"
        self.frozen = False
        self._values_checked = False
        # Not saved with the weights: they belong to the spec, and official files do not have them.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Features:
        """Features of preprocessed images (B, 3, h, w); (B, F, 3, h, w) when ``spec.frames`` > 1."""
        raise NotImplementedError

    def visible(self, images: Tensor, keep: Tensor, prefix: bool = False) -> Tensor:
        """Encodes some patches of each picture as if the others did not exist; for encoders with ``"mask"`` in ``spec.can``.

        Args:
            images: (B, 3, H, W) as for forward.
            keep: (B, k) indices of the patches to see.
            prefix: also return what precedes the patches.

        Returns:
            (B, k, token_dim), or (B, prefix_tokens + k, token_dim), in the order of `keep`.
        """
        raise NotImplementedError(f"{self.spec.name} cannot encode visible patches alone")

    def forward(self, images: Tensor) -> Features:
        """Encodes camera images; resizes and normalises by itself, so pass what the camera gave.

        Args:
            images: (B, 3, H, W), or (B, F, 3, H, W) for stacks of F frames; uint8 0..255, or float 0..1.

        Returns:
            pooled (B, D) and tokens (B, K, token_dim) or None, float32. With ``spec.frames`` 1, the features of a stack's F frames stand
            side by side, oldest first: (B, F * D) and (B, K, F * token_dim).

        Raises:
            ValueError: another shape, dtype or range of values, NaN, or an empty batch.
        """
        stack = self._checked(images)
        batch, frames = stack.shape[:2]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pixels = self.preprocess(stack.flatten(0, 1))
            if self.spec.frames > 1:
                return self.encode(pixels.unflatten(0, (batch, frames)))
            pooled, tokens = self.encode(pixels)
            if frames > 1:
                pooled = pooled.reshape(batch, -1)
                if tokens is not None:
                    tokens = tokens.unflatten(0, (batch, frames)).transpose(1, 2).flatten(2)
            return Features(pooled, tokens)

    def preprocess(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or float, to normalised float32 (B, 3, *spec.size) on the encoder's device; deterministic."""
        images = images.to(self.mean.device)
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if tuple(pixels.shape[-2:]) != self.spec.size:
            antialias = self.spec.interpolation != "area"
            pixels = F.interpolate(pixels, self.spec.size, mode=self.spec.interpolation, antialias=antialias)
            pixels = pixels.clamp(0, 1)  # bicubic overshoots
        return (pixels - self.mean) / self.std

    def freeze(self) -> Self:
        """Stops gradients and pins eval mode: a later ``train()`` changes nothing. Returns the encoder."""
        self.requires_grad_(False)
        self.frozen = True
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def fingerprint(self) -> str:
        """16 hex digits that change with the weights, the spec or the precision; features may be reused only under the same one."""
        return hash_tensors(self.state_dict().items(), f"{type(self).__name__} {self.variant} {self._canonical_spec()}")

    def _canonical_spec(self) -> str:
        # A set's order differs between processes.
        return repr([(key, sorted(value) if isinstance(value, frozenset) else value) for key, value in vars(self.spec).items()])

    def _checked(self, images: Tensor) -> Tensor:
        """The images as (B, F, 3, H, W), or a ValueError."""
        wanted = "(B, 3, H, W) or (B, F, 3, H, W)"
        if not isinstance(images, Tensor):
            raise ValueError(f"Images are a {type(images).__name__}; expected a torch tensor {wanted}. Use torch.from_numpy(images).")
        shape = tuple(images.shape)
        if images.ndim not in (4, 5) or shape[-3] != 3:
            hint = "Add a batch axis: images[None]." if images.ndim == 3 else "Reshape them; views and worlds go into B."
            if images.ndim > 2 and shape[-1] == 3:
                hint = "The channels stand last: move them with images.movedim(-1, -3)."
            raise ValueError(f"Images have the shape {shape}; expected {wanted} with 3 colour channels. {hint}")
        if 0 in shape:
            raise ValueError(f"Images have the shape {shape}, an empty batch; expected at least one picture. Skip the call instead.")
        stack = images if images.ndim == 5 else images[:, None]
        if self.spec.frames > 1 and stack.shape[1] != self.spec.frames:
            raise ValueError(f"Images have {stack.shape[1]} frames; {self.spec.name} takes stacks of exactly {self.spec.frames}.")
        if images.dtype == torch.uint8:
            return stack
        if not images.is_floating_point():
            raise ValueError(
                f"Images are {images.dtype}; expected uint8 in 0..255 or float in 0..1. Convert them with images.to(torch.uint8)."
            )
        # Reading a value back stalls a GPU, so there only the first call is checked.
        if images.device.type == "cpu" or not self._values_checked:
            low, high = (float(value) for value in images.detach().aminmax())
            # Resizing and blending round a little beyond the ends. A NaN fails both comparisons.
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise ValueError(
                    f"Float images range from {low:g} to {high:g}; expected 0..1 without NaN. Pass uint8 pictures as they are, "
                    "divide by 255, or undo the normalisation: the encoder normalises by itself."
                )
            self._values_checked = True
        return stack


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], text: str) -> str:
    """16 hex digits of named tensors (names, dtypes, shapes, bits; in any order) and a text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
