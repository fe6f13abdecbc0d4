"""Statistics over tasks and seeds, after Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice.

A run's score is its success. An interval of 95 % is the wider of two, one for each kind of chance: between runs, Student's t on the
standard error of a stratified bootstrap (runs are drawn with replacement within each task, which a few runs make too narrow; so it is
widened as in `robo_repr.core.stats.mean_over_seeds`); and between episodes, where each run's success is drawn as its episodes leave it
open (a beta distribution; Jeffreys' prior is shared between all runs). A task with one run has the second kind alone: where all tasks
have one, the interval knows these policies and no others.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from robo_repr.core.seeding import rng
from robo_repr.core.stats import wilson

DRAWS = 2000  # of a bootstrap: its standard error is then known to 2 %


class Scores(NamedTuple):
    """What a method came to.

    Attributes:
        tasks: for each task, for each run, what its episodes came to, (n,) between 0 and 1.
        one_policy: run i is the same policy in all tasks, so that it is drawn for all of them or none.
    """

    tasks: Sequence[Sequence[np.ndarray]]
    one_policy: bool = False


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def iqm(scores: np.ndarray) -> np.ndarray:
    """The interquartile mean over the last axis: that of the middle half, a quarter (rounded down) being left out at each end."""
    from scipy.stats import trim_mean  # late: it takes half a second

    return trim_mean(scores, 0.25, axis=-1)


def iqm_interval(scores: Scores) -> Interval:
    """The interquartile mean over all runs of all tasks."""
    return _interval(lambda tasks: iqm(np.concatenate(tasks, axis=-1)), scores)


def mean_interval(scores: Scores) -> Interval:
    """The mean over tasks, each counting alike however many runs it has."""
    return _interval(lambda tasks: np.mean([task.mean(axis=-1) for task in tasks], axis=0), scores)


def profile(scores: Scores, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which share of the runs scores more than each level, the mean over tasks: (values, lows, highs), each of the shape of `levels`.

    The band is Wilson's for so many runs, level by level. A policy that learned all tasks is one run.
    """
    values = np.mean([(run_scores(runs)[:, None] > levels).mean(axis=0) for runs in scores.tasks], axis=0)
    low, high = np.array([wilson(value * independent_runs(scores), independent_runs(scores)) for value in values]).T
    return values, low, high


def improvement(first: Scores, second: Scores) -> Interval:
    """The probability that a run of the first scores higher than one of the second on the same task, the mean over tasks.

    Per task it is Mann and Whitney's U over the number of pairs; equal scores count half. The interval is never narrower than Wilson's
    for as many trials as there are runs on the side that has fewer, so that three runs above three others do not make it certain.

    Args:
        first, second: on the same tasks in the same order; the numbers of runs may differ.
    """

    def higher(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(..., n) and (..., m) to (...)."""
        difference = a[..., :, None] - b[..., None, :]
        return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))

    def mean(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
        return np.mean([higher(*pair) for pair in zip(a, b, strict=True)], axis=0)

    value, low, high = _interval(mean, first, second)
    trials = min(independent_runs(first), independent_runs(second))
    ends = wilson(value * trials, trials)
    return Interval(value, min(low, ends[0]), max(high, ends[1]))


def run_scores(runs: Sequence[np.ndarray]) -> np.ndarray:
    """(S,) one score per run."""
    return np.array([run.mean() for run in runs])


def independent_runs(scores: Scores) -> int:
    return len(scores.tasks[0]) if scores.one_policy else sum(map(len, scores.tasks))


def drawn_runs(scores: Scores, stream: str = "", draws: int = DRAWS) -> list[np.ndarray]:
    """For each task (draws, S) scores of runs that were drawn with replacement; the same in every call with the same stream's name."""
    random = rng(0, "runs", stream)
    drawn, chosen = [], None
    for runs in scores.tasks:
        if chosen is None or not scores.one_policy:
            chosen = random.integers(len(runs), size=(draws, len(runs)))
        drawn.append(run_scores(runs)[chosen])
    return drawn


def drawn_episodes(scores: Scores, stream: str = "", draws: int = DRAWS) -> list[np.ndarray]:
    """For each task (draws, S) scores as the same runs might have got them in other episodes."""
    random = rng(0, "episodes", stream)
    prior = 0.5 / sum(map(len, scores.tasks))
    won = [np.array([[run.sum(), len(run) - run.sum()] for run in runs]) for runs in scores.tasks]
    return [random.beta(*(each.T + prior), size=(draws, len(each))) for each in won]


def _interval(statistic: Callable[..., np.ndarray], *methods: Scores) -> Interval:
    """Of a statistic of each method's scores, a list of (..., S) for its tasks."""
    value = float(statistic(*([run_scores(runs) for runs in scores.tasks] for scores in methods)))
    streams = [str(index) for index in range(len(methods))]
    low, high = np.quantile(statistic(*map(drawn_episodes, methods, streams)), [0.025, 0.975])
    freedom, widened = min(map(_freedom, methods))
    if freedom:
        from scipy.special import stdtrit  # late: it takes a while

        error = np.std(statistic(*map(drawn_runs, methods, streams))) * widened
        half = float(stdtrit(freedom, 0.975) * error)
        low, high = min(low, value - half), max(high, value + half)
    # A beta distribution has no mass at exactly 0 or 1, where the value itself may lie.
    return Interval(value, max(0.0, min(float(low), value)), min(1.0, max(float(high), value)))


def _freedom(scores: Scores) -> tuple[int, float]:
    """Degrees of freedom of the spread between runs, and what makes the bootstrap's standard error unbiased."""
    sizes = [len(runs) for runs in (scores.tasks[:1] if scores.one_policy else scores.tasks) if len(runs) > 1]
    freedom = sum(sizes) - len(sizes)
    return freedom, math.sqrt(sum(sizes) / freedom) if freedom else 1.0
