"""MVP: Masked Visual Pre-training for motor control. A plain ViT, pretrained as a masked autoencoder, seen through its class token.

Papers: Xiao et al. 2022, https://arxiv.org/abs/2203.06173; Radosavovic et al. 2022, https://arxiv.org/abs/2210.03109.
Code: github.com/ir413/mvp; the body here is timm's (Apache 2.0), with the parameter names of the released files.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.positions import sincos_2d

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Size:
    """A ViT's size: picture and patch in pixels, width, depth and heads. The position table is one more row than there are patches."""

    picture: int
    patch: int
    dim: int
    depth: int
    heads: int


# ViT-S has 12 heads, not timm's 6: weights fit both, features differ (mvp/backbones/vit.py).
SMALL, BASE, LARGE = Size(224, 16, 384, 12, 12), Size(224, 16, 768, 12, 12), Size(256, 16, 1024, 24, 16)
VARIANTS = {
    "tiny": Size(84, 14, 128, 4, 4),
    # The released ones, under the names of mvp.load.
    "vits-mae-hoi": SMALL,
    "vits-mae-in": SMALL,
    "vits-sup-in": SMALL,
    "vitb-mae-egosoup": BASE,
    "vitl-256-mae-egosoup": LARGE,
}
# MAE's decoder and classifiers stand in training files beside the encoder.
NOT_ENCODER = r"^(decoder_|mask_token$|head\.|fc_norm\.)"


class MVP(Encoder):
    """The encoder: pooled (B, D) is the class token after the final norm, tokens (B, K, D) are the patches after it.

    Args:
        variant: a key of `VARIANTS`.
        weights: see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.

    Unlike the official class, no gradient is cut off inside: `freeze` decides, and it includes the final norm. The official freeze leaves
    that norm trainable, and the authors' controllers train it: ``freeze(official=True)`` does the same.
    """

    prefix_tokens = 1

    def __init__(self, variant: str = "tiny", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        size = VARIANTS[variant]
        side = size.picture // size.patch
        grid = (side, side)
        spec = EncoderSpec("mvp", (size.picture, size.picture), size.dim, token_dim=size.dim, grid=grid, can=frozenset({"mask"}))
        source = find_weights("mvp", variant, weights)  # before the network is built: an absent file need not wait for it
        super().__init__(spec, variant)
        self.net: Any = build_vit(size).to_empty(device=torch.get_default_device())  # Any: to timm, class token and positions are optional
        initialise(self.net, grid, seed)
        fill(self, source, seed)
        self.net.pos_embed.requires_grad_(False)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename(state, (NOT_ENCODER, None))

    def left_trainable(self) -> Iterable[nn.Parameter]:
        return self.net.norm.parameters()

    def encode(self, images: Tensor) -> Features:
        sequence = self.net.forward_features(images)
        return Features(sequence[:, 0], sequence[:, 1:])

    def visible(self, images: Tensor, keep: Tensor, prefix: bool = False) -> Tensor:
        # The class token sees the visible patches too; everything is after the final norm.
        if images.ndim != 4:
            raise ValueError(f"Images have the shape {tuple(images.shape)}; visible() takes (B, 3, H, W). Fold the frames into B.")
        pixels = self.preprocess(self._checked(images)[:, 0])
        tokens = self.net.patch_embed(pixels) + self.net.pos_embed[:, 1:]
        tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        first = (self.net.cls_token + self.net.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        sequence = self.net.norm(self.net.blocks(torch.cat([first, tokens], dim=1)))
        return sequence if prefix else sequence[:, 1:]


class Random(MVP):
    """The same network untrained: what the architecture alone is worth."""

    def __init__(self, variant: str = "tiny", seed: int = 0):
        super().__init__(variant, "random", seed)
        self.spec = replace(self.spec, name="random")


def build_vit(size: Size) -> "VisionTransformer":
    """timm's ViT of that size without classifier, on the meta device: no memory, no draw from torch's global generator."""
    # Here, so that the other encoders do without. On top of torch._dynamo, which rendering and torch's optimisers import anyway,
    # timm and torchvision cost 1.4 s; torch._dynamo itself 3 s.
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size.picture,
        patch_size=size.patch,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        weight_init="skip",
        device="meta",
    )


@torch.no_grad()
def initialise(vit: nn.Module, grid: tuple[int, int], seed: int) -> None:
    """MAE's initialisation, a function of the seed alone: Xavier-uniform matrices (the patch kernel as one), N(0, 0.02) class token,
    norms 1 and 0, biases 0, fixed sine-cosine positions."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in vit.named_parameters():
        if name == "pos_embed":
            parameter.copy_(sincos_2d(parameter.shape[2], grid, prefix=1))
        elif name == "cls_token":
            parameter.normal_(std=0.02, generator=generator)
        elif parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
