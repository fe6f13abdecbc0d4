"""DINOv3: a ViT with rotary positions, distilled from a 7B one trained without labels; dense features of high quality.

Paper: Simeoni et al. 2025, https://arxiv.org/abs/2508.10104. Code: github.com/facebookresearch/dinov3; the body here is timm's.
"""

from typing import Any

from torch import Tensor

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.qkv import fuse_qkv
from robo_repr.nn.untrained import untrained

# Width and timm's name of the body with biases on query and value; vits16plus has a gated MLP.
VARIANTS = {
    "vits16": (384, "vit_small_patch16_dinov3_qkvb"),
    "vits16plus": (384, "vit_small_plus_patch16_dinov3_qkvb"),
    "vitb16": (768, "vit_base_patch16_dinov3_qkvb"),
    "vitl16": (1024, "vit_large_patch16_dinov3_qkvb"),
}
# Rotary periods are computed, not learnt; the mask token is for training; the bias mask says that keys have no bias.
AUTHORS = (
    (r"(^rope_embed\.periods|^mask_token|\.qkv\.bias_mask)$", None),
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
# A plain MLP has up and down alone; a gated one also gate, see `DINOv3.convert`.
HUGGING_FACE = (
    (r"^embeddings\.mask_token$", None),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^layer\.(\d+)\.attention\.([qv])_proj\.bias$", r"blocks.\1.attn.\2_bias"),
    (r"^layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"^layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.gamma_\2"),
    (r"^layer\.(\d+)\.mlp\.gate_proj\.", r"blocks.\1.mlp.fc1_g."),
    (r"^layer\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (r"^layer\.(\d+)\.", r"blocks.\1."),
)


class DINOv3(Encoder):
    """pooled: the class token after the final norm (B, D). tokens: the 16 x 16 patches after it (B, 256, D). D is 384, 768 or 1024.

    Both sides of pictures are resized to 256, bilinearly, and normalised with ImageNet's statistics: the transform that the authors give
    for the weights trained on web pictures. (Those trained on satellite pictures have other statistics and are not for this class.)

    Args:
        variant: a key of `VARIANTS`.
        weights: see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.
    """

    prefix_tokens = 5

    def __init__(self, variant: str = "vits16", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        dim, body = VARIANTS[variant]
        source = find_weights("dinov3", variant, weights)  # before the network is built: an absent file need not wait for it
        super().__init__(EncoderSpec("dinov3", (256, 256), dim, token_dim=dim, grid=(16, 16)), variant)
        import timm

        self.net: Any = untrained(lambda: timm.create_model(body, num_classes=0, img_size=256), seed)
        fill(self, source, seed)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the authors' files or the Hugging Face repositories'."""
        if "embeddings.cls_token" not in state:
            return split_bias(rename(state, *AUTHORS))
        gated = any(".gate_proj." in key for key in state)
        up = (r"^layer\.(\d+)\.mlp\.up_proj\.", rf"blocks.\1.mlp.{'fc1_x' if gated else 'fc1'}.")
        parts = (".attention.q_proj.weight", ".attention.k_proj.weight", ".attention.v_proj.weight")
        return rename(fuse_qkv(state, parts, ".attn.qkv.weight"), up, *HUGGING_FACE)

    def encode(self, images: Tensor) -> Features:
        sequence = self.net.forward_features(images)
        return Features(sequence[:, 0], sequence[:, self.prefix_tokens :])


def split_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's separate biases of query and value; the part of the key is masked out in the authors' attention, whatever the file has."""
    split = {}
    for key, value in state.items():
        if key.endswith("attn.qkv.bias") and value.ndim == 1 and len(value) % 3 == 0:  # else the strict load names it
            split[key.replace("qkv.bias", "q_bias")], _, split[key.replace("qkv.bias", "v_bias")] = value.chunk(3)
        else:
            split[key] = value
    return split
