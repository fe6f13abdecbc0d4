"""VC-1: one visual cortex for many embodied tasks. A plain ViT, pretrained as a masked autoencoder, seen through its class token.

Paper: Majumdar et al. 2023, https://arxiv.org/abs/2303.18240. Code: github.com/facebookresearch/eai-vc; the body here is timm's.
"""

from typing import Any

from torch import Tensor

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.untrained import untrained

# Width and timm's name of the body; patches of 16, norms with eps 1e-6 as in eai-vc (vit.py).
VARIANTS = {"vitb": (768, "vit_base_patch16_224"), "vitl": (1024, "vit_large_patch16_224")}
# MAE's decoder stands in the training file beside the encoder.
NOT_ENCODER = r"^(decoder_|mask_token$)"


class VC1(Encoder):
    """pooled: the class token after the final norm (B, D). tokens: the 14 x 14 patches after it (B, 196, D). D is 768 or 1024.

    Pictures are resized bicubically to a shorter side of 256, cropped to 224 in the middle and normalised with ImageNet's statistics.

    Args:
        variant: a key of `VARIANTS`.
        weights: see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.
    """

    prefix_tokens = 1

    def __init__(self, variant: str = "vitb", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        dim, body = VARIANTS[variant]
        source = find_weights("vc1", variant, weights)  # before the network is built: an absent file need not wait for it
        spec = EncoderSpec("vc1", (224, 224), dim, token_dim=dim, grid=(14, 14), interpolation="bicubic", resize=256)
        super().__init__(spec, variant)
        import timm

        self.net: Any = untrained(lambda: timm.create_model(body, num_classes=0), seed)
        fill(self, source, seed)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the released file: MAE's encoder, whose names are timm's."""
        return rename(state, (NOT_ENCODER, None))

    def encode(self, images: Tensor) -> Features:
        sequence = self.net.forward_features(images)
        return Features(sequence[:, 0], sequence[:, 1:])
