"""Statistics over tasks and seeds, after Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice.

What a method came to is given as `Scores`: for each task, for each run, what its episodes came to, (n,) between 0 and 1. A run's score is
their mean. Intervals are 95 % percentiles of a stratified bootstrap: runs are drawn with replacement within each task. A task with one
run has no spread between runs that could be drawn; there the run's success is drawn as its episodes leave it open (a beta distribution,
Jeffreys' prior), and the interval knows these policies alone. A few runs per task make the bootstrap too narrow, so that a difference is
called by `robo_repr.core.report.methods.Arena.verdicts` instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robo_repr.core.seeding import rng
from robo_repr.core.stats import DRAWS

Scores = Sequence[Sequence[np.ndarray]]


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
    value = float(iqm(np.concatenate([run_scores(runs) for runs in scores])))
    return _percentiles(value, iqm(np.concatenate(resampled(scores), axis=1)))


def mean_interval(scores: Scores) -> Interval:
    """The mean over tasks, each counting alike however many runs it has."""
    value = float(np.mean([run_scores(runs).mean() for runs in scores]))
    drawn = np.mean([draw.mean(axis=1) for draw in resampled(scores)], axis=0)
    return _percentiles(value, drawn)


def profile(scores: Scores, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which share of the runs scores more than each level, the mean over tasks: (values, lows, highs), each of the shape of `levels`.

    The band is pointwise.
    """
    values = np.mean([(run_scores(runs)[:, None] > levels).mean(axis=0) for runs in scores], axis=0)
    draws = resampled(scores)
    drawn = np.array([np.mean([(draw > level).mean(axis=1) for draw in draws], axis=0) for level in levels])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    return values, np.minimum(low, values), np.maximum(high, values)


def improvement(first: Scores, second: Scores) -> Interval:
    """The probability that a run of the first scores higher than one of the second on the same task, the mean over tasks.

    Per task it is Mann and Whitney's U over the number of pairs; equal scores count half.

    Args:
        first, second: on the same tasks in the same order; the numbers of runs may differ.
    """

    def higher(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(..., n) and (..., m) to (...)."""
        difference = a[..., :, None] - b[..., None, :]
        return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))

    value = np.mean([higher(run_scores(a), run_scores(b)) for a, b in zip(first, second, strict=True)])
    pairs = zip(resampled(first, "first"), resampled(second, "second"), strict=True)
    return _percentiles(float(value), np.mean([higher(a, b) for a, b in pairs], axis=0))


def run_scores(runs: Sequence[np.ndarray]) -> np.ndarray:
    """(S,) one score per run."""
    return np.array([run.mean() for run in runs])


def resampled(scores: Scores, stream: str = "all", draws: int = DRAWS) -> list[np.ndarray]:
    """For each task (draws, S) scores as they would come out in repeats; the same in every call with the same stream's name."""
    random = rng(0, "stratified bootstrap", stream)
    drawn = []
    for runs in scores:
        if len(runs) > 1:
            drawn.append(run_scores(runs)[random.integers(len(runs), size=(draws, len(runs)))])
        else:
            won, episodes = runs[0].sum(), len(runs[0])
            drawn.append(random.beta(won + 0.5, episodes - won + 0.5, size=(draws, 1)))
    return drawn


def _percentiles(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    # A beta distribution has no mass at exactly 0 or 1, where the value itself may lie.
    return Interval(value, min(float(low), value), max(float(high), value))
