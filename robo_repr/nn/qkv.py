"""Attention weights in one matrix: timm's layout, from files that keep query, key and value apart."""

import torch
from torch import Tensor


def fuse_qkv(state: dict[str, Tensor], parts: tuple[str, str, str], fused: str) -> dict[str, Tensor]:
    """The state dict with query, key and value of each layer stacked, in this order, along the first axis.

    Args:
        state: tensors by name; those without any of the `parts` in their name stay as they are.
        parts: what stands in the names of query, key and value, such as ``(".query.", ".key.", ".value.")``.
        fused: what stands there afterwards, such as ``".qkv."``.

    A key that a layer lacks while another part is there stays unfused, so that a strict load names it.
    """
    joined = {}
    for key, value in state.items():
        part = next((part for part in parts if part in key), None)
        if part is None:
            joined[key] = value
            continue
        names = [key.replace(part, other) for other in parts]
        if any(name not in state for name in names):
            joined[key] = value
        elif part == parts[0]:
            joined[key.replace(part, fused)] = torch.cat([state[name] for name in names])
    return joined
