"""Theia: one small ViT distilled from several vision foundation models at once, for robot learning.

Paper: Shang et al. 2024, https://arxiv.org/abs/2407.20179. Code: github.com/bdaiinstitute/theia; the body here is timm's.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.qkv import fuse_qkv
from robo_repr.nn.untrained import untrained

# Width and timm's name of the body, a DeiT; taught by CLIP, DINOv2, Depth-Anything, SAM and ViT (the releases "cddsv").
VARIANTS = {"tiny": (192, "deit_tiny_patch16_224"), "small": (384, "deit_small_patch16_224"), "base": (768, "deit_base_patch16_224")}
NAMES = (
    (r"^translator\.", None),  # predicts the teachers' features; the feature for control lies before it
    (r"^backbone\.model\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^backbone\.model\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^backbone\.model\.embeddings\.cls_token$", "cls_token"),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^backbone\.model\.encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^backbone\.model\.layernorm\.", "norm."),
)


class Theia(Encoder):
    """tokens: the 14 x 14 patches after the final norm (B, 196, D), the paper's feature. pooled: their mean (B, D). D is 192, 384 or 768.

    The class token is not used: the teachers' features are predicted from the patches alone, so nothing trained it. The mean is the
    authors' own option ``feature_reduce_method="mean_pooling"``. Both sides of pictures are resized to 224, bilinearly, and brought to
    -1..1: the processor of facebook/deit-*-patch16-224, which Theia uses, has mean and deviation 0.5, not ImageNet's statistics.

    Args:
        variant: a key of `VARIANTS`.
        weights: see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.
    """

    prefix_tokens = 1

    def __init__(self, variant: str = "small", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        dim, body = VARIANTS[variant]
        source = find_weights("theia", variant, weights)  # before the network is built: an absent file need not wait for it
        half = (0.5, 0.5, 0.5)
        spec = EncoderSpec("theia", (224, 224), dim, token_dim=dim, grid=(14, 14), mean=half, std=half)
        super().__init__(spec, variant)
        import timm

        # transformers' DeiT, on which Theia was trained, has 1e-12 where timm's has 1e-6.
        norm = partial(nn.LayerNorm, eps=1e-12)
        self.net: Any = untrained(lambda: timm.create_model(body, num_classes=0, norm_layer=norm), seed)
        fill(self, source, seed)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the Hugging Face repositories' files: transformers' names under ``backbone.model.``, and the translator."""
        parts = (".attention.attention.query.", ".attention.attention.key.", ".attention.attention.value.")
        return rename(fuse_qkv(state, parts, ".attn.qkv."), *NAMES)

    def encode(self, images: Tensor) -> Features:
        tokens = self.net.forward_features(images)[:, 1:]
        return Features(tokens.mean(dim=1), tokens)
