"""Simulated worlds whose cameras move: tasks, cameras and batched environments.

>>> from envs import make_env, list_tasks, sample_views
>>> env = make_env("reach", num_envs=8, views=["front"], camera="L2", seed=0)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.batch_env import BatchEnv
    from envs.cameras import write_manifest
    from envs.registry import list_tasks, make_env, sample_views

_HOMES = {
    "make_env": "registry",
    "list_tasks": "registry",
    "sample_views": "registry",
    "BatchEnv": "batch_env",
    "write_manifest": "cameras",
}
__all__ = ["BatchEnv", "list_tasks", "make_env", "sample_views", "write_manifest"]


def __getattr__(name: str):
    # Lazy, so that importing the package costs neither torch nor OpenGL.
    if name in _HOMES:
        return getattr(import_module(f"envs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'envs' has no attribute '{name}'")
