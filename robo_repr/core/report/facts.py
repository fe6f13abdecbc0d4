"""report.json: the figures of the tables and the verdicts."""

from collections.abc import Sequence

import numpy as np

from robo_repr.core.report.aggregate import iqm_interval, mean_interval
from robo_repr.core.report.compare import Comparison, success_interval, unequal_contests
from robo_repr.core.report.methods import Arena, Verdict
from robo_repr.core.report.runs import Group, Outcomes, references
from robo_repr.core.stats import mean_over_seeds
from robo_repr.core.summary import REFERENCES


def facts(groups: Sequence[Group], comparisons: Sequence[Comparison], arenas: Sequence[Arena]) -> dict:
    """Groups and their comparisons, each pair of a contest once; and methods over tasks and their verdicts against untrained encoders."""
    return {
        "groups": [_group(group) for group in groups],
        "comparisons": [_comparison(each) for each in comparisons],
        "not_compared": unequal_contests(groups) or None,
        "methods": [fact for arena in arenas for fact in _methods(arena)],
        "verdicts": [_verdict(verdict) for arena in arenas for verdict in arena.verdicts],
    }


def _group(group: Group) -> dict:
    own = [run.own for run in group.runs]
    task, eval_camera, appearance, horizon, _, score, _ = group.contest
    known = {policy: references([group], policy) for policy in REFERENCES}
    return {
        "label": group.label,
        "task": task,
        "eval_camera": eval_camera,
        "appearance": appearance,
        "horizon": horizon,
        "runs": [str(run.path) for run in group.runs],
        "seeds": group.seeds,
        "episodes": group.episodes,
        "score": score,
        **_results(own),
        "env_steps": [run.summary["env_steps"] for run in group.runs],
        "updates": [run.summary["updates"] for run in group.runs],
        "steps_to_90": [run.steps_to(0.9) for run in group.runs],
        "wall_s": [run.summary["wall_s"] for run in group.runs],
        **{policy: _results(outcomes) if outcomes else None for policy, outcomes in known.items()},
    }


def _results(outcomes: Sequence[Outcomes]) -> dict:
    value, interval = success_interval(outcomes)
    several = len(outcomes) > 1
    returns = mean_over_seeds([seed.returns for seed in outcomes], share=False) if several else None
    return {
        "success": value,
        "success_ci95": list(interval),
        "interval": "seeds" if several else "wilson",
        "success_by_seed": [float(seed.success.mean()) for seed in outcomes],
        "return": float(np.mean([seed.returns.mean() for seed in outcomes])),
        "return_ci95": list(returns.interval()) if returns else None,
    }


def _comparison(comparison: Comparison) -> dict:
    facts = {"first": comparison.first, "second": comparison.second, "verdict": comparison.verdict, "text": str(comparison)}
    if comparison.estimate is None:
        return {**facts, "reason": comparison.reason}
    interval = list(comparison.estimate.interval(comparison.level))
    tested = {"p_value": comparison.estimate.p_value(), "level": comparison.level, "paired": comparison.paired}
    return {**facts, "difference": comparison.estimate.value, "interval": interval, **tested}


def _methods(arena: Arena) -> list[dict]:
    found = []
    for method in arena.complete:
        iqm, mean = iqm_interval(method.scores(arena.tasks)), mean_interval(method.scores(arena.tasks))
        intervals = {"iqm": iqm.value, "iqm_ci95": [iqm.low, iqm.high], "mean": mean.value, "mean_ci95": [mean.low, mean.high]}
        where = {"evaluation": arena.name, "tasks": arena.tasks, "seeds": method.seeds(arena.tasks)}
        found.append({"label": method.label, "arm": method.arm, "demos": method.demos, **where, **intervals})
    return found


def _verdict(verdict: Verdict) -> dict:
    better = verdict.improvement
    return {
        "method": verdict.method.label,
        "control": verdict.control.label,
        "arm": verdict.method.arm,
        "tasks": verdict.tasks,
        "seeds": verdict.seeds,
        "difference": verdict.estimate.value,
        "interval": list(verdict.estimate.interval(verdict.level)),
        "level": verdict.level,
        "outcome": verdict.outcome,
        "probability_of_improvement": better.value,
        "probability_of_improvement_ci95": [better.low, better.high],
        "text": str(verdict),
    }
