"""What the two-tower image-text encoders share: their text input's check, and the names that Hugging Face gives to a tower's parts."""

import re

import torch
from torch import Tensor

# A text or image tower's names on Hugging Face, after the tower's own prefix, to those of open_clip's transformer.
_TOWER = (
    (r"^embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.weight$", "conv1.weight"),
    (r"^pre_layrnorm\.", "ln_pre."),  # misspelt in the published files
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.in_proj\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
)


def open_clip_tower(state: dict[str, Tensor], prefix: str, new_prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, q, k and v already joined as ``in_proj``, under open_clip's names.

    Names without a counterpart are kept as they are, so that a strict load complains about them.
    """
    tower = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        short = key.removeprefix(prefix)
        for pattern, replacement in _TOWER:
            if re.search(pattern, short):
                key = new_prefix + re.sub(pattern, replacement, short)
                break
        tower[key] = value
    return tower


def checked_texts(texts: list[str]) -> list[str]:
    """The texts themselves.

    Raises:
        ValueError: not a list (or tuple) of strings, or an empty one.
    """
    hint = "Write encode_text(['open the drawer'])."
    if isinstance(texts, str) or not isinstance(texts, list | tuple):
        raise ValueError(f"Texts are a {type(texts).__name__}; expected a list of strings. {hint}")
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"Texts contain a {type(wrong).__name__}; expected a list of strings. {hint}")
    if not texts:
        raise ValueError(f"Texts are an empty list; expected at least one string. {hint}")
    return list(texts)


def grads_allowed(frozen: bool) -> torch.set_grad_enabled:
    """A context in which a frozen encoder builds no graph, as in its forward."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not frozen)
