"""Policies and the loops that train them.

>>> from agents import load_policy
>>> policy = load_policy("runs/rl/reach-mvp-sac-L1/s0")
>>> action = policy.act(obs)                      # obs of a BatchEnv with the run's views
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.embed import EmbedEnv
    from agents.load import load_policy

_HOMES = {"load_policy": "load", "EmbedEnv": "embed"}
__all__ = ["EmbedEnv", "load_policy"]


def __getattr__(name: str):
    # Lazy, so that importing the package costs neither torch nor stable-baselines3.
    if name in _HOMES:
        return getattr(import_module(f"agents.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'agents' has no attribute '{name}'")
