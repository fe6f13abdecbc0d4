"""Untrained networks as a function of a seed."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def untrained(build: Callable[[], Net], seed: int) -> Net:
    """What `build` returns when torch's global generator starts at `seed`; the generator itself is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
