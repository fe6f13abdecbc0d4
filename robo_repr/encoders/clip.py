"""CLIP: an image and a text tower that meet in one embedding space, trained on 400 million captioned pictures.

Paper: Radford et al. 2021, https://arxiv.org/abs/2103.00020. Code: github.com/openai/CLIP; the bodies here are open_clip's (MIT), which
keep the parameter names of OpenAI's.
"""

from typing import Any

from torch import Tensor, nn

from robo_repr.core.errors import unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.language import checked_texts, grads_allowed, open_clip_tower
from robo_repr.nn.qkv import fuse_qkv
from robo_repr.nn.untrained import untrained

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
# open_clip's configuration, patch in pixels, embedding and width. OpenAI trained with QuickGELU: the plain names differ in the features.
VARIANTS = {
    "vitb32": ("ViT-B-32-quickgelu", 32, 512, 768),
    "vitb16": ("ViT-B-16-quickgelu", 16, 512, 768),
    "vitl14": ("ViT-L-14-quickgelu", 14, 768, 1024),
}


class CLIP(Encoder):
    """pooled: the image's embedding (B, D), not normalised. tokens: the last block's patches after ``ln_post`` (B, K, width).

    Pictures are resized bicubically to a shorter side of 224 and cropped to 224 in the middle. D is the length of the space that images
    and texts share, width that of the image tower. The tokens are not in the shared space: only the class token learnt the projection.

    Args:
        variant: a key of `VARIANTS`.
        weights: None for OpenAI's if they are at hand, ``"random"`` for an untrained network, or a file in OpenAI's (= open_clip's) or
            Hugging Face's layout; see `robo_repr.encoders.registry.find_weights`.
        seed: draws the untrained weights.
    """

    prefix_tokens = 1

    def __init__(self, variant: str = "vitb32", weights: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        source = find_weights("clip", variant, weights)
        config, patch, dim, width = VARIANTS[variant]
        side = SIDE // patch
        spec = EncoderSpec(
            "clip",
            (SIDE, SIDE),
            dim,
            token_dim=width,
            grid=(side, side),
            mean=MEAN,
            std=STD,
            interpolation="bicubic",
            resize=SIDE,
            can=frozenset({"text"}),
        )
        super().__init__(spec, variant)
        self.net: Any = untrained(lambda: build_clip(config), seed)  # Any: its parts are open_clip's
        fill(self, source, seed)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From OpenAI's names, which the network has, or Hugging Face's, to the network's."""
        # OpenAI's archives also store three numbers, Hugging Face's older files the positions' indices.
        state = rename(state, (r"^(input_resolution|context_length|vocab_size)$", None), (r"\.position_ids$", None))
        return from_hugging_face(state) if any(key.startswith("vision_model.") for key in state) else state

    def blocks(self) -> list[nn.Module]:
        return list(self.net.visual.transformer.resblocks)

    def encode(self, images: Tensor) -> Features:
        pooled, tokens = self.net.visual(images)
        return Features(pooled.float(), tokens.float())  # float32 also under autocast

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings (B, D) of texts, float32, not normalised; compare them with `Features.pooled` by cosine similarity.

        Args:
            texts: B strings; beyond 77 tokens (about 50 words) they are cut.

        Raises:
            ValueError: not a list of strings, or an empty one.
        """
        import open_clip

        tokens = open_clip.tokenize(checked_texts(texts)).to(self.mean.device)
        with grads_allowed(self.frozen):
            return self.net.encode_text(tokens).float()


def build_clip(config: str) -> nn.Module:
    """open_clip's network of that configuration, untrained, its image tower returning embedding and tokens."""
    # Not open_clip.create_model: it warns that nothing was loaded, and looks for weights.
    import open_clip

    settings = open_clip.get_model_config(config)
    assert settings is not None, config
    settings["vision_cfg"]["output_tokens"] = True
    return open_clip.CLIP(**settings)


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names and shapes from those of the Hugging Face repositories (``vision_model.*, text_model.*``)."""
    state = fuse_qkv(state, (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."), ".self_attn.in_proj.")
    towers = {**open_clip_tower(state, "vision_model.", "visual."), **open_clip_tower(state, "text_model.", "")}
    others = {key: value for key, value in state.items() if not key.startswith(("vision_model.", "text_model."))}
    # Linear layers there, matrices multiplied from the right here.
    for theirs, ours in (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")):
        if theirs in others:
            others[ours] = others.pop(theirs).T.contiguous()
    return {**towers, **others}
