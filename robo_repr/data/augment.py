"""Augmentation of batches on their device. What happens to a sample is a function of (seed, stream, step, row) and of nothing else.

Random shifts: Kostrikov et al. 2020, DrQ, https://arxiv.org/abs/2004.13649. Random resized crops: Szegedy et al. 2014,
https://arxiv.org/abs/1409.4842. Colours and blur as in Chen et al. 2020, SimCLR, https://arxiv.org/abs/2002.05709.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from robo_repr.core.errors import UserError, check_range
from robo_repr.core.seeding import rng

VALUES_AT_A_TIME = 16 * 3 * 84 * 84  # a CPU computes on so many values at a time: more fall out of its caches


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Shift, crop and flip, then colours, then blur; with the defaults nothing happens.

    A sample's frames and views all get the same. Colour factors and the like are uniform.

    Attributes:
        shift: up to so many whole pixels in each direction, every shift equally likely; the picture's edge is repeated.
        crop: (low, high), the share of the picture's area that is cut out, at a random place, and resized to `size`.
        aspect: (low, high), width over height of the crop, log-uniform among those that fit into the picture. In a picture that is wider or
            taller than `aspect` allows, a crop that does not fit is shrunk, so its area can be below the range.
        size: (height, width) of the result, or one number for both; None keeps the picture's. Resized bilinearly, antialiased where it
            shrinks.
        flip: probability that left and right change places.
        jitter: probability that the four below are applied, in this order.
        brightness, contrast, saturation: x draws a factor from max(0, 1 - x) to 1 + x.
        hue: x turns the hue by -x to x of a full turn, at most 0.5.
        grayscale: probability that the colours go.
        blur: probability of a Gaussian blur.
        sigma: (low, high), its standard deviation in pixels of the result.
        per_view: each view of a sample gets draws of its own.

    Raises:
        UserError: a value out of range.
    """

    shift: int = 0
    crop: Sequence[float] | None = None
    aspect: Sequence[float] = (3 / 4, 4 / 3)
    size: Sequence[int] | int | None = None
    flip: float = 0.0
    jitter: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    sigma: Sequence[float] = (0.1, 2.0)
    per_view: bool = False

    def __post_init__(self):
        check_range("augment.shift", self.shift, 0, whole=True)
        for key in ("flip", "jitter", "grayscale", "blur"):
            check_range(f"augment.{key}", getattr(self, key), 0, 1, "a probability")
        for key in ("brightness", "contrast", "saturation"):
            check_range(f"augment.{key}", getattr(self, key), 0)
        check_range("augment.hue", self.hue, 0, 0.5, "a share of a full turn")
        least = 1e-6
        for key, span, high in (("crop", self.crop, 1.0), ("aspect", self.aspect, math.inf), ("sigma", self.sigma, math.inf)):
            if span is None:
                continue
            if isinstance(span, str) or not isinstance(span, Sequence) or len(span) != 2:
                raise UserError(f"augment.{key}={span} is not possible. augment.{key} must be two numbers, the lowest and the highest.")
            check_range(f"augment.{key}[0]", span[0], least, high)
            check_range(f"augment.{key}[1]", span[1], span[0], high)
        for edge in self._size((1, 1)):
            check_range("augment.size", edge, 1, what="pixels", whole=True)

    @torch.no_grad()
    def __call__(self, images: Tensor, *, seed: int, step: int, stream: str = "augment", first_row: int = 0) -> Tensor:
        """Augmented pictures.

        Args:
            images: (B, T, V, 3, H, W) uint8.
            seed, step: of the batch.
            stream: another name draws anew, for a second look at the same batch.
            first_row: place of the first sample in the global batch; with several ranks, rank * B.

        Returns:
            (B, T, V, 3, h, w) float32 in [0, 1], h and w as `size` says.

        Raises:
            ValueError: images of another shape or dtype.
        """
        if images.dtype != torch.uint8 or images.ndim != 6 or images.shape[3] != 3:
            raise ValueError(f"Images are {images.dtype} {tuple(images.shape)}; Augment takes torch.uint8 (B, T, V, 3, H, W).")
        rows, frames, views = images.shape[:3]
        draws = self.draw(rows, views, (images.shape[4], images.shape[5]), seed=seed, step=step, stream=stream, first_row=first_row)
        # (N, M, 3, H, W): the M pictures of a unit share their draws
        units = images.transpose(1, 2).flatten(0, 1) if self.per_view else images.flatten(1, 2)
        height, width = self._size((images.shape[4], images.shape[5]))
        result = torch.empty((*units.shape[:3], height, width), device=images.device)
        values = units.shape[1] * 3 * max(height * width, images.shape[4] * images.shape[5])
        count = len(units) if images.device.type != "cpu" else max(1, VALUES_AT_A_TIME // values)
        for first in range(0, len(units), count):
            some = slice(first, first + count)
            result[some] = self._apply(units[some], {name: value[some] for name, value in draws.items()})
        if self.per_view:
            return result.unflatten(0, (rows, views)).transpose(1, 2)
        return result.unflatten(1, (frames, views))

    def draw(
        self, rows: int, views: int, size: tuple[int, int], *, seed: int, step: int, stream: str = "augment", first_row: int = 0
    ) -> dict[str, np.ndarray]:
        """What `__call__` does to each sample of pictures of this size (H, W): name -> (B,), or (B * V,) with `per_view`."""

        def uniform(name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
            shape = (first_row + rows, views if self.per_view else 1)
            return rng(seed, f"{stream}/{name}", step).uniform(low, high, shape)[first_row:].ravel()

        def whole(name: str, options: np.ndarray | int) -> np.ndarray:
            """Uniform over 0 .. options - 1."""
            return np.floor(uniform(name) * options).astype(np.int64)

        height, width = size
        crop_height, crop_width = self._crop(uniform("area", *(self.crop or (1, 1))), uniform("aspect"), size)
        moved = 2 * self.shift + 1
        return {
            "height": crop_height,
            "width": crop_width,
            "top": whole("top", height - crop_height + 1) + whole("shift_y", moved) - self.shift,
            "left": whole("left", width - crop_width + 1) + whole("shift_x", moved) - self.shift,
            "flip": uniform("flip") < self.flip,
            "jitter": uniform("jitter") < self.jitter,
            "brightness": uniform("brightness", max(0, 1 - self.brightness), 1 + self.brightness),
            "contrast": uniform("contrast", max(0, 1 - self.contrast), 1 + self.contrast),
            "saturation": uniform("saturation", max(0, 1 - self.saturation), 1 + self.saturation),
            "hue": uniform("hue", -self.hue, self.hue),
            "grayscale": uniform("grayscale") < self.grayscale,
            "blur": uniform("blur") < self.blur,
            "sigma": uniform("sigma", *self.sigma),
        }

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result for pictures of this size."""
        if self.size is None:
            return size
        if isinstance(self.size, int):
            return self.size, self.size
        if isinstance(self.size, str) or not isinstance(self.size, Sequence) or len(self.size) != 2:
            raise UserError(f"augment.size={self.size} is not possible. augment.size must be one number of pixels, or height and width.")
        return self.size[0], self.size[1]

    def _crop(self, area: np.ndarray, aspect: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths in whole pixels, for shares of the picture's area and places 0 to 1 within the aspects that fit."""
        height, width = size
        if self.crop is None:
            return np.full(len(area), height), np.full(len(area), width)
        pixels = area * height * width
        narrow, broad = self.aspect
        low, high = np.clip(pixels / height**2, narrow, broad), np.clip(width**2 / pixels, narrow, broad)
        ratio = np.exp(np.log(low) + aspect * (np.log(high) - np.log(low)))
        tall, wide = np.sqrt(pixels / ratio), np.sqrt(pixels * ratio)
        fit = np.minimum(1, np.minimum(height / tall, width / wide))
        rows, columns = (np.clip(np.rint(side * fit), 1, edge).astype(np.int64) for side, edge in ((tall, height), (wide, width)))
        return rows, columns

    def _apply(self, units: Tensor, draws: dict[str, np.ndarray]) -> Tensor:
        """Pictures (N, M, 3, H, W) uint8 to (N, M, 3, h, w), by N draws."""
        # Whole numbers up to 255 are exact even in matrix products that round to TF32 or bfloat16.
        pixels, device = units.float(), units.device
        height, width = self._size((units.shape[3], units.shape[4]))

        def parameter(name: str, rows: np.ndarray | slice = slice(None)) -> Tensor:
            return torch.as_tensor(draws[name][rows], dtype=torch.float32).to(device, non_blocking=True)

        if self.shift or self.crop is not None or self.flip or (height, width) != units.shape[3:]:
            down = self._resampling(parameter("top"), parameter("height"), units.shape[3], height)
            across = self._resampling(parameter("left"), parameter("width"), units.shape[4], width)
            across = torch.where(parameter("flip")[:, None, None] > 0, across.flip(1), across)
            with torch.autocast(device.type, enabled=False):
                pixels = torch.bmm(pixels.flatten(1, 3), across.transpose(1, 2)).unflatten(1, (-1, units.shape[3]))
                pixels = torch.matmul(down[:, None], pixels).unflatten(1, (-1, 3))
        pixels = pixels / 255

        rows = np.flatnonzero(draws["jitter"])
        if len(rows) and (self.brightness or self.contrast or self.saturation or self.hue):
            some = pixels[rows]
            if self.brightness:
                some = adjust_brightness_accumulative(some, parameter("brightness", rows))
            if self.contrast:
                some = adjust_contrast_with_mean_subtraction(some, parameter("contrast", rows))
            if self.saturation:
                some = adjust_saturation_with_gray_subtraction(some, parameter("saturation", rows))
            if self.hue:
                some = adjust_hue(some, parameter("hue", rows) * (2 * math.pi))
            pixels[rows] = some
        rows = np.flatnonzero(draws["grayscale"])
        if len(rows):
            pixels[rows] = rgb_to_grayscale(pixels[rows]).expand(-1, -1, 3, -1, -1)
        rows = np.flatnonzero(draws["blur"])
        if len(rows):
            radius = max(1, math.ceil(3 * self.sigma[1]))
            sigma = parameter("sigma", rows).repeat_interleave(units.shape[1])[:, None].expand(-1, 2)
            blurred = gaussian_blur2d(pixels[rows].flatten(0, 1), 2 * radius + 1, sigma, border_type="replicate")
            pixels[rows] = blurred.unflatten(0, (len(rows), -1))
        return pixels

    def _resampling(self, start: Tensor, extent: Tensor, source: int, target: int) -> Tensor:
        """(N, target, source): the weights by which pixels of one axis make those of the result.

        The triangle filter of bilinear resizing, widened where it shrinks, over the pixels start .. start + extent - 1 alone; a pixel
        beyond the picture counts as the nearest one in it. Unlike sampling by normalised coordinates it is exact where nothing is resized.
        """
        pixel = torch.arange(-self.shift, source + self.shift, device=start.device) + 0.5
        scale = (extent / target)[:, None]
        centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale
        weights = (1 - (pixel - centre[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]).clamp(min=0)
        within = (pixel > start[:, None]) & (pixel < (start + extent)[:, None])
        weights = weights * within[:, None]
        weights = weights / weights.sum(2, keepdim=True)
        if self.shift:
            before, weights, after = weights.split([self.shift, source, self.shift], dim=2)
            weights = weights.clone()
            weights[:, :, 0] += before.sum(2)
            weights[:, :, -1] += after.sum(2)
        return weights
