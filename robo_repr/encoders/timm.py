"""Any image model of timm by its name.

Code: github.com/huggingface/pytorch-image-models (Apache 2.0); each model's paper stands on its page there.
"""

import difflib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robo_repr.core.errors import UserError, unknown
from robo_repr.encoders.base import Encoder, EncoderSpec, Features
from robo_repr.encoders.registry import find_weights
from robo_repr.encoders.weights import State, fill
from robo_repr.nn.untrained import untrained

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


class Timm(Encoder):
    """The encoder: pooled (B, D) is what the model's classifier would see, tokens (B, K, T) are its last map or its patch tokens.

    Mean, deviation, size, interpolation and crop are those of the model's own configuration. Models whose tokens lie on no grid give none.
    (The few that ask for a squashed picture of which the border is cut off, or for a padded one, get the whole picture squashed.)

    Args:
        model: timm's name, such as ``resnet18`` or ``vit_small_patch16_224.augreg_in1k``.
        weights: ``"random"``, the hub id of the model's weights, or a file with timm's names. None says which id that is.
        seed: draws the untrained weights.
    """

    def __init__(self, model: str = "resnet18", weights: str | None = None, seed: int = 0):
        # Here, so that the other encoders do without.
        import timm
        from timm.data.config import resolve_data_config

        config = configuration(model)
        if weights is None:
            hub = f"weights={config.hf_hub_id} (downloads), " if config.hf_hub_id else ""
            raise UserError(
                f"encoder=timm encoder.model={model}: none of its weights are bundled. Pass {hub}weights=FILE with timm's names, or "
                "weights=random for an untrained network."
            )
        source = find_weights("timm", model, weights)
        net = untrained(lambda: timm.create_model(model, num_classes=0), seed)
        data = resolve_data_config(pretrained_cfg=config.to_dict())
        size = tuple(data["input_size"][1:])
        try:
            with torch.no_grad():
                pooled, tokens, grid = see(net.eval(), torch.zeros(1, 3, *size))
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"encoder.model={model} gives no feature that this encoder understands ({error}). Take another model of its family, or "
                "write an encoder for it."
            ) from None
        spec = EncoderSpec(
            "timm",
            size,
            pooled.shape[1],
            token_dim=0 if tokens is None else tokens.shape[2],
            grid=grid,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            resize=math.floor(min(size) / data["crop_pct"]) if data["crop_mode"] == "center" else None,
        )
        super().__init__(spec, model)
        self.net: Any = net
        heads = config.classifier or ()
        self._heads = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))
        fill(self, source, seed)

    def convert(self, state: State) -> State:
        return {key: value for key, value in state.items() if not key.startswith(self._heads)}

    def encode(self, images: Tensor) -> Features:
        pooled, tokens, _ = see(self.net, images)
        return Features(pooled.float(), None if tokens is None else tokens.float())


def configuration(model: str) -> "PretrainedCfg":
    """timm's description of a model's weights. Raises a UserError that offers the nearest names of timm's more than a thousand."""
    import timm

    try:
        if timm.is_model(model) and (found := timm.get_pretrained_cfg(model)):
            return found
    except RuntimeError:  # an unknown tag behind the point
        pass
    names = timm.list_models() + (timm.list_pretrained(f"{model.partition('.')[0]}.*") if "." in model else [])
    raise unknown("model", str(model), difflib.get_close_matches(str(model), names, n=5, cutoff=0.3) or names[:5])


def see(net: Any, images: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int] | None]:
    """Pooled (B, D), tokens (B, K, T) row by row and their grid, the latter two None without a grid."""
    features = net.forward_features(images)
    pooled = net.forward_head(features, pre_logits=True)
    if pooled.ndim != 2:
        raise ValueError(f"its pooled feature has the shape {tuple(pooled.shape)}")
    if features.ndim == 4:
        if getattr(net, "output_fmt", "NCHW") != "NHWC":
            features = features.movedim(1, -1)
        return pooled, features.flatten(1, 2), (features.shape[1], features.shape[2])
    if features.ndim != 3 or features.shape[1] == 1:  # one row: a class token alone
        return pooled, None, None
    tokens = features[:, getattr(net, "num_prefix_tokens", 0) :]
    side = math.isqrt(tokens.shape[1])
    rows, columns = getattr(getattr(net, "patch_embed", None), "grid_size", None) or (side, side)
    if rows * columns != tokens.shape[1]:  # pyramids of tokens, such as LeViT's, shrink the grid of their patches
        rows = columns = side
    return (pooled, tokens, (rows, columns)) if rows * columns == tokens.shape[1] else (pooled, None, None)
