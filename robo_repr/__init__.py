"""Visual representations for robots: pretrained encoders, their objectives and read-outs.

>>> from robo_repr import load_encoder, list_encoders
>>> encoder = load_encoder("mvp", variant="tiny")     # frozen, in eval mode
>>> features = encoder(images).pooled                 # images: uint8 (B, 3, H, W)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robo_repr.encoders import list_encoders, load_encoder

__all__ = ["list_encoders", "load_encoder"]


def __getattr__(name: str):
    # Lazy, so that importing the package costs no torch.
    if name in __all__:
        return getattr(import_module("robo_repr.encoders"), name)
    raise AttributeError(f"module 'robo_repr' has no attribute '{name}'")
