"""Which of several groups of runs is better, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from robo_repr.core.report.runs import CONTEST, SEEDS_NEEDED, Group, Outcomes, counted, success_of
from robo_repr.core.stats import Estimate, difference, holm, mean_over_seeds, wilson

# Pairing by seed halves the degrees of freedom. With three seeds that costs more than it gains unless seeds count for more than half of
# the spread: t is 4.3 instead of 2.8. From five on it is 2.8 instead of 2.3.
PAIRED_FROM = 5
ALL_PAIRS = 8  # groups; of more, each is compared with the best alone, so that a person can read it


@dataclass
class Comparison:
    """Two groups, the better one first.

    Attributes:
        verdict: "better", "no difference shown" or "not compared".
        reason: why they are not compared.
        estimate: of the difference in success; None when not compared.
        level: at which it was tested; see `holm`.
    """

    first: str
    second: str
    verdict: str
    reason: str = ""
    estimate: Estimate | None = None
    level: float = 0.05
    paired: bool = False

    def __str__(self) -> str:
        if self.estimate is None:
            return f"{self.first} and {self.second}: not compared, {self.reason}"
        low, high = self.estimate.interval(self.level)
        figures = f"{100 * self.estimate.value:.0f} points [{100 * low:.0f} to {100 * high:.0f}]"
        if self.verdict == "better":
            return f"{self.first} is better than {self.second} by {figures}"
        return f"{self.first} and {self.second}: no difference shown ({figures})"


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Which groups succeed more often than which, on each task alone, with Holm's correction for the number of pairs of each contest.

    Up to `ALL_PAIRS` groups of one contest are compared pair by pair, more with the best alone. The correction counts all pairs even
    then, for the best was chosen among all of them. Groups of different contests are not compared; see `unequal_contests`.
    """
    contests: dict[tuple, list[Group]] = {}
    for alone in (part for group in groups for part in group.per_task()):
        contests.setdefault(alone.contest, []).append(alone)
    return [comparison for rivals in contests.values() for comparison in _compare_all(rivals)]


def unequal_contests(groups: Sequence[Group]) -> str:
    """Why some groups are not compared: what differs between contests, such as ``task push and reach``; empty where there is one."""
    contests = {part.contest for group in groups for part in group.per_task()}
    values = {key: sorted({str(contest[index]) for contest in contests}) for index, key in enumerate(CONTEST)}
    unequal = [f"{key} {', '.join(each[:-1])} and {each[-1]}" for key, each in values.items() if len(each) > 1]
    return f"their episodes are not the same ({'; '.join(unequal)})" if unequal else ""


def success_interval(outcomes: Sequence[Outcomes]) -> tuple[float, tuple[float, float]]:
    """The mean success over seeds and its 95 % interval: over seeds, or Wilson's when there is one seed."""
    if len(outcomes) == 1:
        success = outcomes[0].success
        return float(success.mean()), wilson(round(success.sum()), len(success))
    estimate = mean_over_seeds([seed.success for seed in outcomes])
    return estimate.value, estimate.interval()


def _compare_all(rivals: Sequence[Group]) -> list[Comparison]:
    """The comparisons of one contest, which are one family."""
    best = max(rivals, key=lambda group: (len(group.runs) >= SEEDS_NEEDED, success_of(group)))
    found, pairs = [], 0
    for pair in combinations(rivals, 2):
        pairs += all(len(group.runs) >= SEEDS_NEEDED for group in pair)
        if len(rivals) <= ALL_PAIRS or any(group is best for group in pair):
            found.append(_compare(*sorted(pair, key=success_of, reverse=True)))
    tested = [comparison for comparison in found if comparison.estimate]
    p_values = [comparison.estimate.p_value() for comparison in tested]
    for comparison, p, level in zip(tested, p_values, holm(p_values, pairs), strict=True):
        comparison.level = level
        comparison.verdict = "better" if p < level else "no difference shown"
    return found


def _compare(first: Group, second: Group) -> Comparison:
    few = [f"{group.label} has {counted(len(group.runs), 'seed')}" for group in (first, second) if len(group.runs) < SEEDS_NEEDED]
    if few:
        reason = f"{' and '.join(few)}; fewer than {SEEDS_NEEDED} say nothing about a method"
        return Comparison(first.label, second.label, "not compared", reason)
    estimate, paired = success_difference(first, second)
    return Comparison(first.label, second.label, "", estimate=estimate, paired=paired)


def success_difference(first: Group, second: Group) -> tuple[Estimate, bool]:
    """How much more often the first succeeds, each with two seeds or more, and whether seeds and episodes were paired."""
    score, starts = (first.runs[0].settings.get(key, CONTEST[key]) for key in ("score", "eval_starts"))
    paired = (
        first.seeds == second.seeds
        and len(first.seeds) >= PAIRED_FROM
        and (score == "last" or starts == "fixed")  # else evaluations with other episodes count in each
        and all(run.own.in_order for group in (first, second) for run in group.runs)
        and all(one.own.episodes == other.own.episodes for one, other in zip(first.runs, second.runs, strict=True))
    )
    return difference([run.own.success for run in first.runs], [run.own.success for run in second.runs], paired=paired), paired
