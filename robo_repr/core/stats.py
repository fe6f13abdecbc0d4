"""Intervals for what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Four made-up episodes, one for each way in which two policies can fare on an episode, stand beside the true ones when success is
# resampled, so that 50 of 50 does not count as known exactly (Agresti and Coull 1998; Agresti and Min 2005 for differences).
MADE_UP = {"share": (1.0, 1.0, 0.0, 0.0), "difference": (1.0, 0.0, 0.0, -1.0)}


def wilson(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion, 95 % by default; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # The ends are exactly 0 and 1 there; the sum would miss them by a rounding error.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or the difference of two such means.

    Attributes:
        error: its standard error.
        freedom: degrees of freedom of Student's t.
        low, high: the interval never leaves these.
    """

    value: float
    error: float
    freedom: float
    low: float = -math.inf
    high: float = math.inf

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval that misses the truth with probability `alpha`."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - alpha / 2)) * self.error
        return max(self.low, self.value - half), min(self.high, self.value + half)

    def p_value(self) -> float:
        """How often chance alone would show as large a value, if the truth were 0."""
        from scipy.special import stdtr

        if self.error == 0:
            return float(self.value == 0)
        return 2 * float(stdtr(self.freedom, -abs(self.value) / self.error))

    def outcome(self, level: float) -> str:
        """What a difference shows when it is tested at that level: ``better``, ``worse``, or ``no difference shown``."""
        if self.p_value() >= level:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


def mean_over_seeds(outcomes: Sequence[np.ndarray], share: bool = True) -> Estimate:
    """The mean over seeds of what their episodes came to, each seed counting alike.

    A plain percentile bootstrap is far too narrow for a few seeds. So the standard error of the two-level bootstrap (seeds drawn with
    replacement, then episodes within each drawn seed; it is known without drawing) is widened by sqrt(S / (S - 1)), which makes its share
    between S seeds unbiased, and multiplied by Student's t with S - 1 degrees of freedom (Hesterberg 2015, section 3.2 on narrowness).
    Chance within episodes then counts on both levels, which errs towards too wide.

    Args:
        outcomes: per seed the outcomes of its episodes, (n_s,); two seeds or more.
        share: whether outcomes are 0 or 1; else they are any numbers, such as returns.
    """
    return _estimate(outcomes, "share" if share else None, (0.0, 1.0) if share else (-math.inf, math.inf))


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray], paired: bool = False, share: bool = True) -> Estimate:
    """The first group's mean over seeds minus the second's.

    Args:
        first: per seed the outcomes of its episodes, (n_s,); two seeds or more.
        paired: the groups have the same seeds in the same order, and each seed's episodes are the same in both: then differences are
            taken episode by episode. Else the two errors add up, with Welch's degrees of freedom.
        share: as in `mean_over_seeds`.
    """
    bounds = (-1.0, 1.0) if share else (-math.inf, math.inf)
    if paired:
        differences = [np.subtract(a, b) for a, b in zip(first, second, strict=True)]
        return _estimate(differences, "difference" if share else None, bounds)
    a, b = mean_over_seeds(first, share), mean_over_seeds(second, share)
    error = math.hypot(a.error, b.error)
    # Relative to the sum, so that tiny errors do not vanish when they are taken to the fourth power.
    part_a, part_b = ((a.error / error) ** 2, (b.error / error) ** 2) if error else (0.5, 0.5)
    freedom = 1 / (part_a**2 / a.freedom + part_b**2 / b.freedom)
    return Estimate(a.value - b.value, error, freedom, *bounds)


def difference_of_policies(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Estimate:
    """How much more often some policies succeed than others do, whatever other seeds would have brought.

    Args:
        first: per policy 0 or 1 of its episodes, (n_s,).
    """

    def variance(policies: Sequence[np.ndarray]) -> float:
        pools = [np.append(policy, MADE_UP["share"]) for policy in policies]
        return sum(float(pool.var()) / len(pool) for pool in pools) / len(pools) ** 2

    value = np.mean([policy.mean() for policy in first]) - np.mean([policy.mean() for policy in second])
    return Estimate(float(value), math.sqrt(variance(first) + variance(second)), math.inf, -1.0, 1.0)


def mean_of_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, such as of a difference on tasks that were learned apart; Satterthwaite's degrees of freedom."""
    errors = np.array([estimate.error for estimate in estimates])
    value = float(np.mean([estimate.value for estimate in estimates]))
    bounds = float(np.mean([estimate.low for estimate in estimates])), float(np.mean([estimate.high for estimate in estimates]))
    # Relative to the sum, as in `difference`.
    total = float(np.sqrt((errors**2).sum()))
    parts = (errors / total) ** 2 if total else np.full(len(errors), 1 / len(errors))
    shares = sum(part**2 / estimate.freedom for part, estimate in zip(parts, estimates, strict=True))
    freedom = float(1 / shares) if shares else math.inf
    return Estimate(value, total / len(errors), freedom, *bounds)


def holm(p_values: Sequence[float], comparisons: int | None = None, alpha: float = 0.05) -> list[float]:
    """At which level each of several comparisons is to be tested, so that chance calls any of them wrongly in `alpha` of the cases.

    Holm's method: the smallest p-value is tested at alpha / m, the next at alpha / (m - 1) and so on to the first that fails, whose
    level holds for the rest. A comparison is called where its p-value is below its level: where the interval at that level excludes 0.

    Args:
        comparisons: m, when there were more than those tested, such as when one was chosen by its result; the others count as weaker.
    """
    comparisons = max(comparisons or 0, len(p_values))
    levels = [alpha] * len(p_values)
    failed = None
    for done, index in enumerate(np.argsort(p_values, kind="stable")):
        levels[index] = failed or alpha / (comparisons - done)
        if p_values[index] >= levels[index]:
            failed = levels[index]
    return levels


def _estimate(outcomes: Sequence[np.ndarray], kind: str | None, bounds: tuple[float, float]) -> Estimate:
    seeds = len(outcomes)
    if seeds < 2:
        raise ValueError("one seed says nothing about the spread between seeds")
    means = [np.mean(seed) for seed in outcomes]
    pools = [np.append(seed, MADE_UP[kind] if kind else ()) for seed in outcomes]
    within = np.mean([pool.var() / len(pool) for pool in pools])
    return Estimate(float(np.mean(means)), math.sqrt((np.var(means) + within) / (seeds - 1)), seeds - 1, *bounds)
