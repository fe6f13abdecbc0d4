"""Retention against hand-made figures and other tests' verdicts, and how often its interval holds the truth."""

import numpy as np
import pytest
import scipy.stats

from robo_repr.core.retention import azimuth_bins, rank_correlation, retention, retention_area, worst_azimuth_bin
from robo_repr.core.stats import difference


def pairs(random, seeds, episodes, nominal, kept, spread=0.0):
    """0/1 of paired episodes of some seeds: what fails at the nominal cameras fails at the moved ones."""
    before, after = [], []
    for _ in range(seeds):
        share = random.beta(kept * spread, (1 - kept) * spread) if spread else kept
        won = random.random(episodes) < nominal
        before.append(won.astype(float))
        after.append((won & (random.random(episodes) < share)).astype(float))
    return before, after


def covers(ratio, truth):
    return ratio.low <= truth and (ratio.high is None or truth <= ratio.high)


def test_it_is_the_ratio_of_the_means_over_seeds():
    before = [np.array([1.0, 1, 1, 0]), np.array([1.0, 0])]
    after = [np.array([1.0, 0, 0, 0]), np.array([1.0, 0])]
    ratio = retention(before, after)
    assert ratio.value == pytest.approx(0.375 / 0.625) and ratio.low <= ratio.value
    assert retention(before, before).value == 1


def test_without_nominal_success_there_is_none():
    nothing = [np.zeros(20), np.zeros(20)]
    assert retention(nothing, [np.ones(20), np.ones(20)]) is None and retention_area({0: nothing, 3: nothing}) is None


def test_where_the_nominal_success_may_be_none_nothing_bounds_it():
    before = [(np.arange(50) < 1).astype(float)]
    ratio = retention(before, [np.ones(50)])
    assert ratio.value == pytest.approx(50) and ratio.high is None and ratio.low > 1
    assert retention([(np.arange(50) < 25).astype(float)], [np.ones(50)]).high is not None
    random = np.random.default_rng(0)
    for _ in range(300):  # whatever comes, the value lies between the ends
        seeds, episodes = random.integers(1, 5), random.integers(2, 12)
        before, after = ([(random.random(episodes) < random.random()).astype(float) for _ in range(seeds)] for _ in range(2))
        if (ratio := retention(before, after)) is not None:
            assert 0 <= ratio.low <= ratio.value and (ratio.high is None or ratio.high >= ratio.value)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_it_excludes_one_where_the_paired_difference_excludes_zero(seeds):
    random = np.random.default_rng(seeds)
    verdicts = set()
    for _ in range(100):
        before, after = pairs(random, seeds, 60, 0.9, random.uniform(0.2, 1), spread=40)
        low, high = difference(after, before, paired=True).interval()
        assert covers(retention(before, after), 1) == (low <= 0 <= high)
        verdicts.add(low <= 0 <= high)
    assert verdicts == {True, False}


@pytest.mark.parametrize(("nominal", "kept"), [(0.95, 0.9), (0.9, 0.5), (0.5, 0.3), (0.9, 0.05)])
def test_the_interval_of_one_policy_holds_what_it_keeps(nominal, kept):
    random = np.random.default_rng(1)
    held = np.mean([covers(retention(*pairs(random, 1, 100, nominal, kept)), kept) for _ in range(400)])
    assert 0.9 <= held <= 0.99


def test_with_several_seeds_it_holds_what_the_method_keeps():
    random = np.random.default_rng(2)
    found = [pairs(random, 5, 100, 0.9, 0.5, spread=10) for _ in range(300)]
    assert np.mean([covers(retention(*each), 0.5) for each in found]) >= 0.94
    as_one = [[[np.concatenate(side)] for side in each] for each in found]  # the control: all episodes as if of one policy
    assert np.mean([covers(retention(*each), 0.5) for each in as_one]) < 0.75


def test_the_area_is_that_of_straight_lines_between_levels():
    def share(*won):
        return [(np.arange(20) < number).astype(float) for number in won]

    levels = {0: share(20, 16), 1: share(20, 16), 4: share(10, 8)}
    assert retention_area(levels).value == pytest.approx((1 + 3 * 0.75) / 4)
    assert retention_area({0: levels[0], 4: levels[0]}).value == 1
    assert retention_area({0: levels[0]}) is None and retention_area({1: levels[1], 4: levels[4]}) is None
    assert retention_area(dict(reversed(levels.items()))) == retention_area(levels)


def test_bins_are_even_and_the_worst_one_has_enough_episodes():
    azimuth = np.concatenate([np.full(10, -39.0), np.full(10, 5.0), np.full(3, 25.0), [40.0] * 6, [-40.0]])
    success = np.concatenate([np.ones(10), np.tile([1.0, 0.0], 5), np.zeros(3), [0, 0, 1, 1, 1, 1], [1.0]])
    bins = azimuth_bins(azimuth, success)
    assert [(each["low"], each["high"]) for each in bins] == [(low, low + 10.0) for low in range(-40, 40, 10)]
    assert [each["episodes"] for each in bins] == [11, 0, 0, 0, 10, 0, 3, 6] and bins[1]["success"] is None
    worst = worst_azimuth_bin([(azimuth, success)])
    assert worst is not None and (worst["low"], worst["success"]) == (0.0, 0.5)  # not the one with three episodes, which all failed
    assert worst["ci95"] == pytest.approx([0.237, 0.763], abs=1e-3)
    assert azimuth_bins(np.zeros(50), np.ones(50)) == [] and azimuth_bins(np.empty(0), np.empty(0)) == [] and worst_azimuth_bin([]) is None


def test_the_worst_azimuth_is_that_of_all_shells_together():
    near, far = np.linspace(-19.0, 19.0, 40), np.linspace(20.0, 40.0, 25)
    shells = [(near, np.ones(40)), (-far, np.ones(25)), (far[:12], np.ones(12)), (far[12:], np.zeros(13))]
    worst = worst_azimuth_bin(shells)
    assert worst is not None and (worst["low"], worst["high"], worst["success"], worst["episodes"]) == (30.0, 40.0, 0.0, 13)
    few = [*shells[:3], (far[-9:], np.zeros(9))]  # the control: fewer than ten episodes are none
    assert (found := worst_azimuth_bin(few)) is not None and found["success"] == 1


def test_rank_correlation_is_scipys_and_knows_what_belongs_together():
    random = np.random.default_rng(3)
    x = random.standard_normal(12)
    y = -x + random.standard_normal(12)
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic) and -1 <= found.low < found.value < found.high <= 1
    tripled = [np.repeat(each, 3) for each in (x, y)]
    units = np.repeat(np.arange(12), 3)
    width = {name: each.high - each.low for name, each in (("once", found), ("alone", rank_correlation(*tripled)))}
    together = rank_correlation(*tripled, units)
    assert width["alone"] < 0.7 * width["once"] < together.high - together.low
    assert rank_correlation(x, np.ones(12)) is None and rank_correlation(x[:4], y[:4]) is None
    assert rank_correlation(x, -x).value == -1
