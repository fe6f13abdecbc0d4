"""The expert, exact and noisy, as a run; and tasks that have none."""

import pytest

from agents import load_policy, train
from agents.base import ExpertPolicy
from envs import make_env, registry
from envs.tasks.reach import Reach
from robo_repr.core.config import RLConfig, load_part
from robo_repr.core.errors import UserError
from robo_repr.core.metrics import read_metrics

SMALL = {"num_envs": 2, "horizon": 30, "steps": 80, "eval_episodes": 20, "log_every": 40, "checkpoint_every": 80, "logger": "none"}
AGENTS = {"sac": {"learning_starts": 40, "net": [8], "batch_size": 8}, "expert": {}, "noisy_expert": {}}

pytestmark = pytest.mark.usefixtures("restored", "no_films")


class NoExpert(Reach):
    """Reach without its expert."""

    expert = None  # pyright: ignore[reportAssignmentType]


def start(folder, agent, changes=(), **settings):
    """Runs the command in this process; the policies of evaluations.jsonl and their success."""
    names = {"agent": agent, "budget": "default", "encoder": "identity"}
    parts = {"agent": {**load_part("agent", agent), **AGENTS[agent], **dict(changes)}, "encoder": load_part("encoder", "identity")}
    cfg = RLConfig(**{**SMALL, **parts, "names": names, "privileged": True, "run_dir": str(folder), **settings})
    cfg.validate()
    assert train.train(cfg, []) == 0
    return {row["policy"]: row["success"] for row in read_metrics(folder / "evaluations.jsonl")}


def test_the_noisy_expert_is_a_run_of_its_own_beside_the_exact_one(tmp_path):
    found = start(tmp_path / "run", "noisy_expert", {"noise": 2.0})
    assert set(found) == {"random", "expert", "noisy_expert"} and found["expert"] == 1 > found["noisy_expert"]
    assert start(tmp_path / "again", "noisy_expert", {"noise": 2.0}) == found
    with pytest.raises(UserError, match="agent=noisy_expert looks into the simulator.*ExpertPolicy"):
        load_policy(tmp_path / "run")
    with pytest.raises(UserError, match="agent.noise=-1 is not possible"):
        start(tmp_path / "other", "noisy_expert", {"noise": -1})


def test_a_task_without_expert(tmp_path, monkeypatch):
    """The expert is refused before anything is written; agents that learn go without its reference line."""
    monkeypatch.setitem(registry.TASKS, "reach", f"{__name__}:NoExpert")
    for agent in ("expert", "noisy_expert"):
        with pytest.raises(UserError, match="has no scripted expert"):
            start(tmp_path / agent, agent)
        assert not (tmp_path / agent).exists()
    with pytest.raises(UserError, match="has no scripted expert"):
        ExpertPolicy(make_env("reach", views=[]))
    assert set(start(tmp_path / "sac", "sac")) == {"random", "trained"}
