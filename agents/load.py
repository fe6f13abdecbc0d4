"""What was trained, from the folder of its run: `load_policy` to act, `load_run` with all that belongs to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from agents.base import ExpertPolicy, Policy
from agents.imitation.train import build_parts as build_imitation
from agents.parts import Parts, build_parts, tasks_of
from robo_repr.core.config import ImitationConfig, RLConfig, RunConfig
from robo_repr.core.errors import UserError
from robo_repr.core.run import RunDir


def load_policy(run_folder: str | Path, device: str = "cpu") -> Policy:
    """The policy of a run's latest checkpoint, for any number of worlds that show the run's views.

    Raises:
        UserError: the folder is no run or has no checkpoint yet, or the run's policy is the expert, which needs its worlds.
    """
    parts, cfg, _ = load_run(Path(run_folder), device)
    policy = parts.agent.policy(parts.worlds)
    if len(tasks_of(cfg)) > 1 or getattr(cfg, "instruction", None) == "language":
        parts.env.close()
        raise UserError(
            f"The policy of {run_folder} is told what to do (several tasks, or instruction=language), which depends on its worlds. Use "
            "agents.load.load_run(folder)[0].agent.policy(env)."
        )
    if isinstance(policy, ExpertPolicy):
        parts.env.close()
        raise UserError(
            f"agent={cfg.names['agent']} looks into the simulator, so it belongs to its worlds. Use agents.base.ExpertPolicy(env, noise)."
        )
    return policy


def load_run(folder: Path, device: str = "cpu") -> tuple[Parts, Any, int]:
    """What the latest checkpoint of a run needs to act, be it of run_rl.py or run_imitation.py, the run's settings, and the step.

    Raises:
        UserError: the folder is no run, or has no checkpoint yet.
    """
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        kind, build_parts_of = _kind_of(settings["names"])
        cfg = kind(**settings)
        cfg.validate()
    except (OSError, TypeError, ValueError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} is no folder of a run of run_rl.py or run_imitation.py ({error}). Give the folder that holds its config.yaml."
        ) from error
    run = RunDir(folder)
    if run.latest_checkpoint() is None:
        raise UserError(f"{folder} has no checkpoint yet. Let the run reach its first one (checkpoint_every={cfg.checkpoint_every} steps).")
    try:
        parts = build_parts_of(cfg, device, training=False)
        step = run.load_checkpoint(parts.agent.load_policy)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:  # torch: of other sizes
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the run's config.yaml and its checkpoint do not fit together ({type(error).__name__}: {words}). Was it edited? Put "
            "the settings back with which it was trained."
        ) from error
    assert step is not None
    return parts, cfg, step


def _kind_of(names: dict) -> tuple[type[RunConfig], Callable[..., Parts]]:
    """A run's kind of settings, and what builds its parts, from the names of its own."""
    return (ImitationConfig, build_imitation) if "policy" in names else (RLConfig, build_parts)
