"""SigLIP: CLIP's two towers trained pair by pair with a sigmoid loss; an attention pool makes the image's feature.

Paper: Zhai et al. 2023, https://arxiv.org/abs/2303.15343. Code: github.com/google-research/big_vision; the bodies here are timm's (image)
and open_clip's (text).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robo_repr.core.errors import UserError, unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights, is_file
from robo_repr.encoders.weights import fill, rename
from robo_repr.nn.language import checked_texts, grads_allowed, open_clip_tower
from robo_repr.nn.qkv import fuse_qkv
from robo_repr.nn.untrained import untrained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# open_clip's configuration, patch in pixels, width.
VARIANTS = {"vitb16": ("ViT-B-16-SigLIP", 16, 768)}
SIDE = 224
LENGTH, END = 64, "</s>"
HUBS = ("google/siglip-base-patch16-224", "timm/ViT-B-16-SigLIP")  # both have the same vocabulary
# The image tower's names on Hugging Face, q, k and v already joined, to timm's.
IMAGE_TOWER = (
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.trunk.patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.trunk.pos_embed"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.", r"visual.trunk.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.in_proj\.", r"visual.trunk.blocks.\1.attn.qkv."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"visual.trunk.blocks.\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"visual.trunk.blocks.\1.mlp."),
    (r"^vision_model\.post_layernorm\.", "visual.trunk.norm."),
    (r"^vision_model\.head\.probe$", "visual.trunk.attn_pool.latent"),
    (r"^vision_model\.head\.attention\.out_proj\.", "visual.trunk.attn_pool.proj."),
    (r"^vision_model\.head\.layernorm\.", "visual.trunk.attn_pool.norm."),
    (r"^vision_model\.head\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^text_model\.head\.", "text.text_projection."),
)


class SigLIP(Encoder):
    """pooled: the attention pool's output (B, 768), not normalised. tokens: the 14 x 14 patches after the last norm (B, 196, 768).

    Pictures are resized bicubically to 224 x 224, whatever their shape, as the Hugging Face and open_clip releases do it (big_vision's own
    ``resize`` is bilinear).

    Args:
        variant: a key of `VARIANTS`.
        weights: None for the released ones if they are at hand, ``"random"`` for an untrained network, or a file in open_clip's or Hugging
            Face's layout; see `robo_repr.encoders.registry.find_weights`.
        tokenizer: the vocabulary for `encode_text`, a tokenizer.json; None looks beside the weights file, then in the hub's cache.
        seed: draws the untrained weights.

    Raises:
        UserError: also when `tokenizer` is no file.
    """

    def __init__(self, variant: str = "vitb16", weights: str | None = None, tokenizer: str | None = None, seed: int = 0):
        if variant not in VARIANTS:
            raise unknown("variant", str(variant), VARIANTS)
        if tokenizer is not None and not is_file(tokenizer):
            raise UserError(f"tokenizer={tokenizer} is no file; expected a tokenizer.json. {_ways(None)}")
        source = find_weights("siglip", variant, weights)
        half = (0.5, 0.5, 0.5)
        config, patch, dim = VARIANTS[variant]
        spec = EncoderSpec(
            "siglip",
            (SIDE, SIDE),
            dim,
            token_dim=dim,
            grid=(SIDE // patch, SIDE // patch),
            mean=half,
            std=half,
            interpolation="bicubic",
            can=frozenset({"text"}),
        )
        super().__init__(spec, variant)
        self.net: Any = untrained(lambda: build_siglip(config), seed)  # Any: its parts are timm's and open_clip's
        fill(self, source, seed)
        self._tokenizer_path = Path(tokenizer).expanduser() if tokenizer else None
        self._beside = source.path.parent if source else None
        self._tokenizer: Tokenizer | None = None

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From open_clip's names, which the network has, or Hugging Face's, to the network's."""
        state = rename(state, (r"\.position_ids$", None))
        return from_hugging_face(state) if any(key.startswith("vision_model.") for key in state) else state

    def blocks(self) -> list[nn.Module]:
        return list(self.net.visual.trunk.blocks)

    def encode(self, images: Tensor) -> Features:
        tokens = self.net.visual.trunk.forward_features(images)
        return Features(self.net.visual.trunk.forward_head(tokens).float(), tokens.float())  # float32 also under autocast

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings (B, 768) of texts, float32, not normalised; compare them with `Features.pooled` by cosine similarity.

        Args:
            texts: B strings; lower case and punctuation are taken care of, and beyond 64 tokens (about 45 words) they are cut.

        Raises:
            ValueError: not a list of strings, or an empty one.
            UserError: there is no tokenizer.json, or it is of another model.
        """
        tokens = self._tokens(checked_texts(texts)).to(self.mean.device)
        with grads_allowed(self.frozen):
            return self.net.encode_text(tokens).float()

    def _tokens(self, texts: list[str]) -> Tensor:
        """(B, 64) ids: the text, then the end sign up to the last place, where the feature is read off."""
        from open_clip.tokenizer import get_clean_fn

        if self._tokenizer is None:
            self._tokenizer = _read_tokenizer(self._tokenizer_path or _find_tokenizer(self._beside), self.net.text.vocab_size)
        clean, end = get_clean_fn("canonicalize"), self._tokenizer.token_to_id(END)
        # Files differ in whether they add the end sign themselves, so it is added here.
        ids = [self._tokenizer.encode(clean(text), add_special_tokens=False).ids[: LENGTH - 1] for text in texts]
        return torch.tensor([row + [end] * (LENGTH - len(row)) for row in ids])


def build_siglip(config: str) -> nn.Module:
    """open_clip's network of that configuration, untrained, with the activation that Google trained with."""
    import open_clip

    settings = open_clip.get_model_config(config)
    assert settings is not None, config
    settings.pop("custom_text")
    net = open_clip.CustomTextCLIP(**settings)
    # big_vision's GELU is the tanh approximation, flax's default. open_clip's configuration has the exact one: close, but not the same.
    for module in net.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return net


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names and shapes from those of the Hugging Face repository (``vision_model.*, text_model.*``)."""
    state = fuse_qkv(state, (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."), ".self_attn.in_proj.")
    for kind in ("weight", "bias"):
        joined = state.pop(f"vision_model.head.attention.in_proj_{kind}", None)
        if joined is not None:  # timm keeps the query apart from key and value
            third = len(joined) // 3
            state[f"visual.trunk.attn_pool.q.{kind}"], state[f"visual.trunk.attn_pool.kv.{kind}"] = joined[:third], joined[third:]
    state = rename(state, *IMAGE_TOWER)
    positions = state.get("visual.trunk.pos_embed")
    if positions is not None and positions.ndim == 2:
        state["visual.trunk.pos_embed"] = positions[None]
    for key in ("logit_scale", "logit_bias"):
        if key in state and state[key].numel() == 1:
            state[key] = state[key].reshape(())
    others = {key: value for key, value in state.items() if not key.startswith("text_model.")}
    return {**others, **open_clip_tower(state, "text_model.", "text.")}


def _find_tokenizer(folder: Path | None) -> Path:
    """The tokenizer.json in a folder, or in the hub's cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if folder is not None and (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    for repository in HUBS:
        if isinstance(cached := try_to_load_from_cache(repository, "tokenizer.json"), str):
            return Path(cached)
    where = f"neither in {folder} nor" if folder else "not"
    raise UserError(
        f"encode_text of siglip needs its vocabulary, a file tokenizer.json, which is {where} in the hub's cache. {_ways(folder)}"
    )


def _read_tokenizer(path: Path, size: int) -> "Tokenizer":
    """The tokenizer in a file, without padding and cutting of its own.

    Args:
        size: words that the text tower has.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{path} is no tokenizer.json of the library 'tokenizers' ({str(error)[:160]}). {_ways(None)}") from None
    if tokenizer.token_to_id(END) is None or tokenizer.get_vocab_size() > size:
        raise UserError(
            f"{path} is the vocabulary of another model: it has {tokenizer.get_vocab_size()} words, "
            f"{'with' if tokenizer.token_to_id(END) is not None else 'without'} {END}; expected at most {size}, with it. {_ways(None)}"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _ways(folder: Path | None) -> str:
    beside = f" Or put it into {folder}." if folder else ""
    return f"Run 'hf download {HUBS[0]} tokenizer.json' once, or pass the file as tokenizer=FILE (encoder.tokenizer=FILE).{beside}"
