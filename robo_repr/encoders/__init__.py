"""Encoders: images to features. One file per encoder, one YAML in configs/encoder/ per name."""

import torch

from robo_repr.core.config import build, check_kind, config_names, load_part
from robo_repr.core.errors import UserError, check_range, unknown
from robo_repr.encoders.base import PRECISIONS, Encoder


def list_encoders() -> list[str]:
    """Names that `load_encoder` takes."""
    return config_names("encoder")


def load_encoder(
    name: str,
    *,
    variant: str | None = None,
    weights: str | None = None,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    **settings,
) -> Encoder:
    """A frozen encoder in eval mode.

    Args:
        name: one of `list_encoders`.
        variant: a size of that encoder; None takes the one of its YAML.
        weights: None for the bundled or fetched ones, ``"random"`` for untrained ones, a name of the registry, a file in the authors'
            layout or ours, a run folder, or owner/name of the Hugging Face hub.
        device: where it computes; pictures are moved there.
        precision: ``"float32"``, or ``"bfloat16"``, which is faster for most large networks; docs/encoders.md says how much.
        settings: other keys of configs/encoder/<name>.yaml.

    Raises:
        UserError: an unknown name, variant or setting, or weights that cannot be used; the text says what to do.
    """
    node = load_part("encoder", name)
    for key, value in settings.items():
        if key not in node or key == "_target_":
            raise unknown(f"{name} setting", key, [key for key in node if key != "_target_"])
        check_kind(key, node[key], value)
    return build_encoder({**node, **settings}, name, variant, weights, device, precision)


def build_encoder(
    node: dict, name: str, variant: str | None, weights: str | None, device: str | torch.device, precision: str = "float32"
) -> Encoder:
    """The frozen encoder of a YAML's content `node`; `variant` and `weights` replace the YAML's values unless they are None."""
    node = dict(node)
    for key, value in (("variant", variant), ("weights", weights)):
        if value is None:
            continue
        if key not in node:
            takes = ", ".join(key for key in node if key != "_target_") or "none"
            raise UserError(f"encoder={name} takes no {key}= (found {key}={value}). Leave it out; its settings: {takes}.")
        check_kind(key, "", value if key == "variant" else str(value))
        node[key] = value
    if "seed" in node:
        check_range("encoder.seed", node["seed"], 0, 2**32 - 1)
    if precision not in PRECISIONS:
        raise unknown("precision", str(precision), PRECISIONS)
    encoder: Encoder = build(node)
    encoder.precision = precision
    return encoder.to(device).freeze()
