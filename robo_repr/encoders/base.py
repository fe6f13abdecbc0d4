"""What every encoder is: images in, `Features` out, with the preprocessing inside."""

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from robo_repr.core.errors import UserError, unknown
from robo_repr.nn.linear import freeze_linears

PRECISIONS = ("float32", "bfloat16")
FUSIONS = ("concatenate", "mean")
BATCH_NORMS = ("frozen", "train")
# A CPU encodes so many pixels at a time: more fall out of its caches, fewer leave it waiting (8 pictures of 224 x 224).
PIXELS_AT_A_TIME = 8 * 224 * 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder takes and gives; callers size their networks by it.

    Attributes:
        size: height and width in pixels of what the network sees.
        resize: shorter side in pixels to which pictures are resized before `size` is cropped from their middle; None: both sides are
            resized straight to `size`.
        untouched: pictures that already have `size` are neither resized nor cropped.
        frames: pictures that one feature needs; with 1, the frames of a stack are encoded one by one.
        dim, token_dim: lengths D of the pooled vector and of a token.
        grid: rows and columns of the tokens, None without tokens.
        interpolation: ``bilinear``, ``bicubic`` (both antialiased) or ``area``.
        inputs: the keys that forward takes; empty for an encoder that sees nothing.
        can: abilities beyond forward: ``mask`` (encodes visible patches alone), ``text`` (encodes sentences).
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
    resize: int | None = None
    untouched: bool = False
    inputs: tuple[str, ...] = ("images",)
    can: frozenset[str] = frozenset()

    def fit(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """How pictures of that size become `size`: height and width to which they are resized, and the row and column of the result at
        which `size` is cropped from it."""
        if self.resize is None or (self.untouched and (height, width) == self.size):
            return self.size, (0, 0)
        shorter = min(height, width)
        resized = (int(self.resize * height / shorter), int(self.resize * width / shorter))
        return resized, (round((resized[0] - self.size[0]) / 2), round((resized[1] - self.size[1]) / 2))


class Features(NamedTuple):
    """pooled (B, D) float32: the method's own feature. tokens (B, K, token_dim) float32, the grid row by row, or None."""

    pooled: Tensor
    tokens: Tensor | None


class Encoder(nn.Module):
    """Base of all encoders. A child sets ``spec`` through the constructor, keeps its network in ``net`` and writes `encode`.

    Attributes:
        net: the network; its state dict is all that was learnt. Encoders without one have none.
        precision: of the network's computations; features are float32 either way.
        variant: the size's name, None where there is one size.
        weights_sha256: of the weights file, None where there is none.
        trained_by: one line on where the weights come from.
        prefix_tokens: tokens that precede the patches inside the network, such as a class token.
    """

    net: nn.Module
    mean: Tensor
    std: Tensor
    prefix_tokens = 0

    def __init__(self, spec: EncoderSpec, variant: str | None = None):
        super().__init__()
        self.spec, self.variant = spec, variant
        self.weights_sha256: str | None = None
        self.trained_by = "nothing to train"
        self.precision = "float32"
        self.frozen = False
        self._learns = True
        # Kept in eval mode while the others train; a list, so that torch does not take them for children.
        self._pinned: list[nn.Module] = []
        self._never_learn: set[str] | None = None
        self._values_checked = False
        # Not saved with the weights: they belong to the spec, and official files do not have them.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Features:
        """Features of preprocessed images (B, 3, h, w); (B, F, 3, h, w) when ``spec.frames`` > 1."""
        raise NotImplementedError

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published file under the names that ``net`` gives them; what is dropped is known to be no part of it."""
        return state

    def encode_text(self, texts: list[str]) -> Tensor:
        """(B, D) features of B sentences, comparable to the pooled ones of pictures; for encoders with ``"text"`` in ``spec.can``."""
        raise NotImplementedError(f"{self.spec.name} cannot encode text")

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
        # (B, F, 3, H, W) where the network takes F frames at once, else (B * F, 3, H, W)
        pictures = stack if self.spec.frames > 1 else stack.flatten(0, 1)
        learns = torch.is_grad_enabled() and self._learns
        at_once = learns or self.training or self.mean.device.type != "cpu"  # BatchNorm in train mode takes the batch's statistics
        with torch.set_grad_enabled(learns):
            chunks = pictures.tensor_split(1 if at_once else self._chunks(len(pictures)))
            # Where torch may use one thread alone, as in training loops that keep a thread per role, several chunks go to several cores.
            several = len(chunks) > 1 and torch.get_num_threads() == 1 and not torch.is_autocast_enabled("cpu")
            encoded = (encoding_threads(os.getpid()).map if several else map)(partial(self._encode, learns=learns), chunks)
            pooled, tokens = zip(*encoded, strict=True)
            pooled, tokens = torch.cat(pooled), None if tokens[0] is None else torch.cat(tokens)
        if self.spec.frames == 1 and frames > 1:
            pooled = pooled.reshape(batch, -1)
            if tokens is not None:
                tokens = tokens.unflatten(0, (batch, frames)).transpose(1, 2).flatten(2)
        return Features(pooled, tokens)

    def encode_views(self, images: Tensor, fusion: str = "concatenate") -> Features:
        """Encodes pictures (B, V, 3, H, W), or (B, V, F, 3, H, W), of V cameras each and fuses their features as `fuse_views` does."""
        if images.ndim not in (5, 6):
            raise ValueError(f"Images have the shape {tuple(images.shape)}; encode_views() takes (B, V, 3, H, W) or (B, V, F, 3, H, W).")
        return fuse_views(self(images.flatten(0, 1)), images.shape[1], fusion)

    def preprocess(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or float, to normalised float32 (B, 3, *spec.size) on the encoder's device; deterministic."""
        images = images.to(self.mean.device)
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        size, (top, left) = self.spec.fit(*pixels.shape[-2:])
        if tuple(pixels.shape[-2:]) != size:
            antialias = self.spec.interpolation != "area"
            pixels = F.interpolate(pixels, size, mode=self.spec.interpolation, antialias=antialias)
            pixels = pixels.clamp(0, 1)  # bicubic overshoots
        pixels = pixels[..., top : top + self.spec.size[0], left : left + self.spec.size[1]]
        return (pixels - self.mean) / self.std

    def freeze(self, official: bool = False) -> Self:
        """Stops gradients and pins eval mode: a later ``train()`` changes nothing. Returns the encoder.

        Args:
            official: leaves trainable what the authors' own freeze leaves trainable; only MVP differs, see there.
        """
        self._remember_what_never_learns()
        self.requires_grad_(False)
        for parameter in self.left_trainable() if official else ():
            parameter.requires_grad_(True)
        self._learns = any(parameter.requires_grad for parameter in self.parameters())
        self.frozen = True
        freeze_linears(self)
        return self.eval()

    def left_trainable(self) -> Iterable[nn.Parameter]:
        """What ``freeze(official=True)`` does not freeze."""
        return ()

    def unfreeze(self, mode: str, bn: str = "frozen", feature: str | None = None) -> Self:
        """Lets the encoder learn, wholly or in its last blocks. Returns it in eval mode: call ``train()`` for updates.

        It can be called at any time, again with another mode, and undone by `freeze`. Only what the feature is computed from learns, so
        no text tower. What the constructor fixed, such as MVP's positions, stays fixed.

        Args:
            mode: ``full``, or ``last:N``: the last N `blocks` and what is computed from them, such as a final norm, learn; everything
                before stays fixed, and in eval mode when the encoder trains.
            bn: BatchNorm's statistics: ``frozen`` keeps those of the pretraining (its scale and shift learn all the same); ``train`` takes
                each batch's, and moves the running ones, where something learns.
            feature: ``pooled`` or ``tokens``: which field of `Features` the loss is computed from (pooled, where there are no tokens);
                None: both. It decides which blocks are the last where the two leave the network at different depths (imagenet).

        Raises:
            UserError: unknown values, nothing to train, or more blocks than there are (the encoder is frozen then).
        """
        last = re.fullmatch(r"last:([1-9]\d*)", mode)
        if mode != "full" and not last:
            raise UserError(f"encoder_mode={mode} is not possible. Give full, or last:N for the last N blocks, such as last:1.")
        if bn not in BATCH_NORMS:
            raise unknown("encoder_bn", str(bn), BATCH_NORMS)
        if feature not in (None, *Features._fields):
            raise ValueError(f"feature={feature!r} is not possible; expected one of {', '.join(Features._fields)}, or None for both.")
        self._remember_what_never_learns()
        named = {name: value for name, value in self.named_parameters() if name not in (self._never_learn or ())}
        if not named:
            raise UserError(f"encoder_mode={mode}: encoder={self.spec.name} has nothing to train. Leave encoder_mode=frozen.")
        self.eval()
        for parameter in named.values():
            parameter.requires_grad_(True)
        blocks = self.blocks() if last else []
        used, entered = self._computed_from(feature, blocks)
        modules = [module for module in self.modules() if module is not self]
        if last:
            blocks = [block for block in blocks if block in entered and any(parameter in used for parameter in block.parameters())]
            count = int(last[1])
            if count > len(blocks):
                self.freeze()
                what = f"encoder={self.spec.name}" + (f" ({self.variant})" if self.variant else "")
                has = f"has {len(blocks)} blocks: give last:1 to last:{len(blocks)}, or" if blocks else "has no known blocks. Give"
                raise UserError(f"encoder_mode={mode} is not possible: {what} {has} encoder_mode=full.")
            first = blocks[-count]
            used -= entered[first]
            inside = {module for block in blocks[-count:] for module in block.modules()}
            self._pinned = [m for m in modules if m not in inside and not any(p in used for p in m.parameters(recurse=False))]
        else:
            self._pinned = []
        self._pinned += [module for module in modules if bn == "frozen" and isinstance(module, _BATCH_NORM)]
        for parameter in named.values():
            parameter.requires_grad_(parameter in used)
        self.frozen, self._learns = False, True
        return self

    def blocks(self) -> list[nn.Module]:
        """What ``unfreeze("last:N")`` counts, in the order in which they compute; empty where it is not known.

        A transformer's blocks, a ResNet's residual blocks (not its stages), a plain network's convolutions. By default those that timm
        names for its layer-wise learning rates.
        """
        matcher: Any = getattr(self.net, "group_matcher", None)
        groups = matcher() if matcher else None
        if not isinstance(groups, dict):  # a few of timm's models have none, or a function
            return []
        patterns = []
        for part, rules in groups.items():
            if part != "stem":
                # A second entry puts modules between blocks, such as those that halve the map, to one of their neighbours.
                patterns += [rules] if isinstance(rules, str) else [pattern for pattern, place in rules if place is None]
        named = dict(self.net.named_modules())
        return [named[name] for name in named if any(re.fullmatch(pattern.removeprefix("^"), name) for pattern in patterns)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode and not self.frozen)
        if self.training:
            for module in self._pinned:
                module.training = False
        return self

    def fingerprint(self) -> str:
        """16 hex digits that change with the weights, the spec or the precision; features may be reused only under the same one."""
        return hash_tensors(self.state_dict().items(), f"{type(self).__name__} {self.variant} {self.precision} {self._canonical_spec()}")

    def _remember_what_never_learns(self) -> None:
        if self._never_learn is None:
            self._never_learn = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def _computed_from(self, feature: str | None, blocks: list[nn.Module]) -> tuple[set[Tensor], dict[nn.Module, set[Tensor]]]:
        """The parameters that a feature is computed from, and those that the input of each block is computed from."""
        entered: dict[nn.Module, set[Tensor]] = {}

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            entered.setdefault(module, _leaves(tree_leaves((args, kwargs))))

        hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
        frames = (self.spec.frames,) if self.spec.frames > 1 else ()
        try:
            with torch.enable_grad():
                features = self.encode(torch.zeros(1, *frames, 3, *self.spec.size, device=self.mean.device))
        finally:
            for hook in hooks:
                hook.remove()
        if feature == "pooled" or features.tokens is None:
            return _leaves([features.pooled]), entered
        return _leaves([features.tokens] if feature == "tokens" else list(features)), entered

    def _encode(self, pictures: Tensor, learns: bool) -> Features:
        """Features of pictures (B, 3, H, W), or (B, F, 3, H, W) when ``spec.frames`` > 1."""
        fast = torch.autocast(self.mean.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        # The grad mode is a thread's own.
        with torch.set_grad_enabled(learns), fast:
            pixels = self.preprocess(pictures.flatten(0, -4)).unflatten(0, pictures.shape[:-3])
            pooled, tokens = self.encode(pixels)
        return Features(pooled.float(), None if tokens is None else tokens.float())

    def _chunks(self, pictures: int) -> int:
        """In how many parts of about equal size a CPU encodes so many pictures."""
        height, width = self.spec.size
        chunks = -(-pictures // max(1, PIXELS_AT_A_TIME // (height * width * self.spec.frames)))
        return chunks if chunks == 1 else min(chunks + chunks % 2, pictures)  # even: else one of two cores waits for the last one

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


@cache
def encoding_threads(process: int) -> ThreadPoolExecutor:
    """One thread per core, or as many as OMP_NUM_THREADS allows; each computes with one thread, so that results do not depend on timing.

    Args:
        process: the caller's id: a forked process cannot use its parent's threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    count = min(int(allowed), cores) if allowed.isdecimal() and int(allowed) else cores
    return ThreadPoolExecutor(count, "encoding", initializer=torch.set_num_threads, initargs=(1,))


def fuse_views(features: Features, views: int, fusion: str) -> Features:
    """One feature per world from those of (B * V) pictures ordered (B, V).

    Args:
        views: V.
        fusion: ``"concatenate"``: pooled (B, V * D), tokens (B, V * K, token_dim), camera by camera. ``"mean"``: over the cameras, pooled
            (B, D), tokens (B, K, token_dim).
    """
    if fusion not in FUSIONS:
        raise unknown("fusion", str(fusion), FUSIONS)
    if views < 1 or len(features.pooled) % views:
        raise ValueError(f"Features of {len(features.pooled)} pictures do not fit {views} views: pass them all, ordered (worlds, views).")
    worlds = len(features.pooled) // views
    # Worlds are spelt out: of a feature without numbers (identity), torch cannot infer them.
    pooled, tokens = (None if value is None else value.unflatten(0, (worlds, views)) for value in features)
    assert pooled is not None
    if fusion == "mean":
        return Features(pooled.mean(dim=1), None if tokens is None else tokens.mean(dim=1))
    return Features(pooled.flatten(1), None if tokens is None else tokens.flatten(1, 2))


def _leaves(values: Iterable[object]) -> set[Tensor]:
    """The tensors that learn and that some of the values were computed from."""
    todo: list[Any] = [value.grad_fn for value in values if isinstance(value, Tensor)]
    nodes, leaves = set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        if hasattr(node, "variable"):  # the node that collects a leaf's gradient
            leaves.add(node.variable)
        todo += [below for below, _ in node.next_functions]
    return leaves


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], text: str) -> str:
    """16 hex digits of named tensors (names, dtypes, shapes, bits; in any order) and a text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
