import sys

import pytest

from envs import make_env, registry

SMALL = {"num_envs": 3, "horizon": 12, "image_size": 32}


@pytest.fixture
def build():
    """make_env whose environments are closed after the test."""
    built = []

    def make(task="reach", **settings):
        built.append(make_env(task, **{**SMALL, **settings}))
        return built[-1]

    yield make
    for env in built:
        env.close()


@pytest.fixture
def build_own(build, monkeypatch):
    """`build` for a user's own task class, in place of the task whose name it bears."""

    def make(cls, **settings):
        monkeypatch.setattr(sys.modules[__name__], cls.__name__, cls, raising=False)
        monkeypatch.setitem(registry.TASKS, cls.name, f"{__name__}:{cls.__name__}")
        return build(cls.name, **settings)

    return make
