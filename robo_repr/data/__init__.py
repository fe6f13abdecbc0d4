"""Clips: recorded episodes and videos, read by windows of frames, whatever they are stored as.

>>> from robo_repr.data import open_clips
>>> for clip in open_clips("demos"):                  # a clip store, or a folder of videos or images
...     print(clip["images"].shape, clip["language"])    # (T, V, 3, H, W) uint8
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robo_repr.data.loader import Batches
    from robo_repr.data.open import open_clips
    from robo_repr.data.store import ClipStore, ClipWriter

_HOMES = {"open_clips": "open", "Batches": "loader", "ClipStore": "store", "ClipWriter": "store"}
__all__ = ["Batches", "ClipStore", "ClipWriter", "open_clips"]


def __getattr__(name: str):
    # Lazy: a store is read without torch, videos without zarr.
    if name in _HOMES:
        return getattr(import_module(f"robo_repr.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'robo_repr.data' has no attribute '{name}'")
