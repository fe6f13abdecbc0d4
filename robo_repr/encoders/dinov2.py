"""DINOv2: a ViT trained by self-distillation on curated pictures; strong patch tokens without any finetuning.

Papers: Oquab et al. 2023, https://arxiv.org/abs/2304.07193; registers: Darcet et al. 2023, https://arxiv.org/abs/2309.16588.
Code: github.com/facebookresearch/dinov2; the body here is timm's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.qkv import fuse_qkv
from robo_repr.nn.untrained import untrained

# Width and timm's name of the body.
VARIANTS = {
    "vits14": (384, "vit_small_patch14_dinov2"),
    "vitb14": (768, "vit_base_patch14_dinov2"),
    "vitl14": (1024, "vit_large_patch14_dinov2"),
    "vits14_reg4": (384, "vit_small_patch14_reg4_dinov2"),
    "vitb14_reg4": (768, "vit_base_patch14_reg4_dinov2"),
    "vitl14_reg4": (1024, "vit_large_patch14_reg4_dinov2"),
}
# Rows and columns of the position tables: used here, at 224 pixels, and released, at 518.
GRID, RELEASED_GRID = 16, 37
# The Hugging Face repositories' names, after query, key and value were joined.
HUGGING_FACE = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
)


class DINOv2(Encoder):
    """pooled: the class token after the final norm (B, D). tokens: the 16 x 16 patches after it (B, 256, D). D is 384, 768 or 1024.

    Pictures are resized bicubically to a shorter side of 256, cropped to 224 in the middle and normalised with ImageNet's statistics, as in
    the authors' evaluation. Released position tables are 37 x 37; they are resized to 16 x 16 when they are loaded.

    Args:
        variant: a key of `VARIANTS`; ``_reg4`` has four register tokens.
        weights: see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.
    """

    def __init__(self, variant: str = "vits14", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        dim, body = VARIANTS[variant]
        source = find_weights("dinov2", variant, weights)  # before the network is built: an absent file need not wait for it
        spec = EncoderSpec("dinov2", (224, 224), dim, token_dim=dim, grid=(GRID, GRID), interpolation="bicubic", resize=256)
        super().__init__(spec, variant)
        import timm

        self.net: Any = untrained(lambda: timm.create_model(body, num_classes=0, img_size=224), seed)
        self.prefix_tokens = self.net.num_prefix_tokens
        fill(self, source, seed)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the authors' files, whose names are timm's but for the registers, or from the Hugging Face repositories'."""
        if "embeddings.cls_token" in state:
            parts = (".attention.attention.query.", ".attention.attention.key.", ".attention.attention.value.")
            state = rename(fuse_qkv(state, parts, ".attn.qkv."), *HUGGING_FACE)
        state = rename(state, (r"^mask_token$", None), (r"^register_tokens$", "reg_token"))
        registers = "reg_token" in state
        table, token = state.get("pos_embed"), state.get("cls_token")
        if table is None or token is None or table.ndim != 3:
            return state
        positions = table[:, 1:]
        if positions.shape[1] == RELEASED_GRID**2:  # any other is refused, unless it fits already
            positions = resize_positions(positions, GRID, registers)
        if registers:  # timm keeps the class token's position inside the class token
            return {**state, "cls_token": token + table[:, :1], "pos_embed": positions}
        return {**state, "pos_embed": torch.cat([table[:, :1], positions], dim=1)}

    def encode(self, images: Tensor) -> Features:
        sequence = self.net.forward_features(images)
        return Features(sequence[:, 0], sequence[:, self.prefix_tokens :])


def resize_positions(table: Tensor, side: int, registers: bool) -> Tensor:
    """A position table (1, 37 * 37, D), row by row, as (1, side * side, D) float32.

    The official code resizes bicubically: without registers by the factor (side + 0.1) / 37, which also shifts the sampling points a
    little, and without antialiasing; with registers to the exact size, antialiased (dinov2/models/vision_transformer.py).
    """
    grid = table.float().unflatten(1, (RELEASED_GRID, RELEASED_GRID)).movedim(-1, 1)
    if registers:
        grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
    else:
        grid = F.interpolate(grid, scale_factor=(side + 0.1) / RELEASED_GRID, mode="bicubic")
    return grid.flatten(2).transpose(1, 2)
