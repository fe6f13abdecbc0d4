"""Intervals against scipy's, how often a difference is called where there is none, and statistics over tasks against hand-made figures."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats

from robo_repr.core.report.aggregate import Scores, drawn_runs, improvement, iqm, iqm_interval, mean_interval, profile
from robo_repr.core.stats import (
    Estimate,
    difference,
    difference_of_policies,
    holm,
    mean_of_estimates,
    mean_over_seeds,
    wilson,
)

SEEDS = (3, 5, 10)


def seeds_from(random, spread, seeds, episodes=50):
    """0/1 outcomes of some seeds whose success rates come from one beta distribution."""
    return [(random.random(episodes) < rate).astype(float) for rate in random.beta(*spread, seeds)]


def bootstrap_means(outcomes, draws, random):
    """Means over seeds as they would come out in repeats: seeds drawn with replacement, then episodes within each drawn seed."""
    means = np.zeros(draws)
    for index in random.integers(len(outcomes), size=(draws, len(outcomes))).T:
        drawn = [seed[random.integers(len(seed), size=(draws, len(seed)))].mean(axis=1) for seed in outcomes]
        means += np.choose(index, drawn) / len(outcomes)
    return means


@pytest.mark.parametrize("trials", [1, 5, 50, 777])
def test_wilson_is_scipys(trials):
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        expected = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson(0, trials)[0] == 0 and wilson(trials, trials)[1] == 1 and wilson(0, 0) == (0, 1)


def test_with_one_level_the_error_is_that_of_scipys_bootstrap():
    means = np.array([0.1, 0.35, 0.4, 0.62, 0.7, 0.95])
    estimate = mean_over_seeds([np.full(7, mean) for mean in means], share=False)  # no spread within seeds
    expected = scipy.stats.bootstrap((means,), np.mean, n_resamples=20000, rng=np.random.default_rng(1)).standard_error
    assert estimate.error == pytest.approx(expected * math.sqrt(6 / 5), rel=0.03)


def test_with_two_levels_the_error_is_that_of_the_bootstrap():
    outcomes = [np.array([0.0, 4.0]), np.array([1.0, 1.0, 7.0]), np.array([2.0, 3.0, 8.0, 8.0, 9.0])]  # unequal numbers of episodes
    draws = bootstrap_means(outcomes, 40000, np.random.default_rng(2))
    estimate = mean_over_seeds(outcomes, share=False)
    assert estimate.value == pytest.approx(draws.mean(), abs=0.03)
    assert estimate.error == pytest.approx(draws.std() * math.sqrt(3 / 2), rel=0.02)


def test_the_interval_is_students_with_the_widened_error():
    outcomes = [np.full(5, mean) for mean in (0.2, 0.5, 0.6, 0.9)]  # no spread within seeds
    means = [0.2, 0.5, 0.6, 0.9]
    expected = scipy.stats.t.interval(0.95, 3, np.mean(means), np.std(means, ddof=1) / 2)
    assert mean_over_seeds(outcomes, share=False).interval() == pytest.approx(expected)


def test_all_successes_are_not_known_exactly():
    perfect = [np.ones(50)] * 3
    low, high = mean_over_seeds(perfect).interval()
    assert 0.8 < low < 0.97 and high == 1
    assert mean_over_seeds([np.ones(10)] * 3).interval()[0] < low  # fewer episodes say less
    assert difference(perfect, perfect, paired=True).interval()[1] > 0.02
    assert mean_over_seeds(perfect, share=False).interval() == (1, 1)  # returns have no such floor


def test_pairing_takes_out_what_is_common():
    random = np.random.default_rng(0)
    first = seeds_from(random, (1, 1), 6)
    second = [np.where(random.random(50) < 0.8, seed, 0) for seed in first]  # fails a fifth more, on the same episodes
    paired, not_paired = difference(first, second, paired=True), difference(first, second)
    assert paired.value == pytest.approx(not_paired.value) and paired.error < not_paired.error / 3
    assert paired.interval()[0] > 0 > not_paired.interval()[0]
    swapped = difference(second, first, paired=True).interval()
    assert [-end for end in reversed(swapped)] == pytest.approx(paired.interval(), abs=0.01)


def test_interval_and_p_value_agree():
    random = np.random.default_rng(3)
    for _ in range(20):
        estimate = difference(seeds_from(random, (4, 4), 4), seeds_from(random, (6, 3), 4))
        assert min(map(abs, estimate.interval(estimate.p_value()))) < 1e-6  # at its own level the interval ends at 0
        low, high = estimate.interval(0.3)
        assert (low > 0 or high < 0) == (estimate.p_value() < 0.3)


def calls(interval_of, seeds, first, second, cases):
    """In which share of repeated experiments the interval of the difference excludes 0."""
    random = np.random.default_rng([seeds, cases])
    found = [interval_of(seeds_from(random, first, seeds), seeds_from(random, second, seeds)) for _ in range(cases)]
    return np.mean([low > 0 or high < 0 for low, high in found])


@pytest.mark.parametrize("spread", [(2, 2), (0.5, 0.5), (20, 2)], ids=["broad", "all or nothing", "nearly all"])
@pytest.mark.parametrize("seeds", SEEDS)
def test_no_difference_is_seldom_called_one(seeds, spread):
    for paired in (False, True):
        assert calls(lambda a, b, p=paired: difference(a, b, p).interval(), seeds, spread, spread, 200) <= 0.07


def test_the_plain_percentile_bootstrap_calls_many_more():
    """The control of the test above: its data do tempt a method that is too sure."""

    random = np.random.default_rng(4)

    def percentile(first, second):
        return np.quantile(bootstrap_means([a - b for a, b in zip(first, second, strict=True)], 400, random), [0.025, 0.975])

    assert calls(percentile, 3, (2, 2), (2, 2), 200) > 0.12


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_large_difference_is_called(seeds):
    assert calls(lambda a, b: difference(a, b, seeds >= 5).interval(), seeds, (45, 5), (5, 45), 100) > 0.98


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.05 / 3, 0.025, 0.025])  # the second smallest fails, and with it the third
    assert holm([0.01, 0.04, 0.02]) == pytest.approx([0.05 / 3, 0.05, 0.025])  # all pass
    assert holm([0.01], comparisons=6) == pytest.approx([0.05 / 6])
    assert holm([0.2]) == [0.05] and holm([]) == []


def test_holm_keeps_the_chance_of_any_false_call():
    p_values = np.random.default_rng(0).random((4000, 5))
    any_false = np.mean([(p < holm(p)).any() for p in p_values])
    assert 0.035 < any_false < 0.06 and np.mean((p_values < 0.05).any(axis=1)) > 0.2  # the control: without a correction


def test_one_seed_is_refused():
    with pytest.raises(ValueError, match="one seed"):
        mean_over_seeds([np.ones(50)])


# ---- over tasks ------------------------------------------------------------------------------------------------------------------


def runs(*shares, episodes=20):
    """One task's runs with these success rates."""
    return [(np.arange(episodes) < round(share * episodes)).astype(float) for share in shares]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    scores = Scores([runs(1, 0.4, 0), runs(0.2, 1, 0.4), runs(0, 0.6)])  # in order 0 0 .2 .4 .4 .6 1 1, of which .2 .4 .4 .6 count
    assert iqm_interval(scores).value == pytest.approx(0.4)
    assert iqm(np.array([0.0, 0.1, 0.2, 0.9, 1.0])) == pytest.approx(0.4)  # of five one is left out at each end
    # The tasks' means are 7/15, 8/15 and 3/10, and count alike although one has fewer runs.
    assert mean_interval(scores).value == pytest.approx((7 / 15 + 8 / 15 + 3 / 10) / 3)


def test_runs_are_drawn_within_their_task():
    scores = Scores([runs(0.2, 0.4, 0.6), runs(0.7, 0.9)])
    first, second = drawn_runs(scores, draws=20000)
    assert first.shape == (20000, 3) and second.shape == (20000, 2)
    assert set(np.unique(first).round(6)) == {0.2, 0.4, 0.6} and set(np.unique(second).round(6)) == {0.7, 0.9}
    # All equally likely draws: 3^3 of the first task, 2^2 of the second.
    every = [iqm(np.array(a + b)) for a in product((0.2, 0.4, 0.6), repeat=3) for b in product((0.7, 0.9), repeat=2)]
    drawn = iqm(np.concatenate([first, second], axis=1))
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.003) and drawn.std() == pytest.approx(np.std(every), rel=0.03)
    half = scipy.stats.t.ppf(0.975, 5 - 2) * np.std(every) * math.sqrt(5 / (5 - 2))
    value, low, high = iqm_interval(scores)
    assert (low, high) == pytest.approx((value - half, min(1, value + half)), abs=0.02)
    assert iqm_interval(scores) == iqm_interval(scores)
    pooled = np.random.default_rng(0).choice([0.2, 0.4, 0.6, 0.7, 0.9], (20000, 5))  # the control: tasks mixed up spread more
    assert iqm(pooled).std() > 1.3 * np.std(every)


def test_with_one_seed_the_interval_is_that_of_the_episodes():
    assert iqm_interval(Scores([runs(0.4, episodes=50)]))[1:] == pytest.approx(wilson(20, 50), abs=0.02)
    value, low, high = iqm_interval(Scores([runs(1, episodes=50)]))
    assert value == high == 1 and 0.92 < low < 0.98  # not known exactly
    narrow, wide = (iqm_interval(Scores([runs(0.5, episodes=n)])) for n in (500, 10))
    assert narrow.high - narrow.low < 0.1 < 0.4 < wide.high - wide.low


def test_profiles_are_shares_of_runs():
    scores = Scores([runs(0.2, 0.4, 0.6, 0.8), runs(0.5, 0.5)])
    values, low, high = profile(scores, np.array([0, 0.2, 0.5, 0.55, 1]))
    assert values == pytest.approx([1, (3 / 4 + 1) / 2, 2 / 4 / 2, 2 / 4 / 2, 0])  # more than the level, not as much
    assert (low <= values).all() and (values <= high).all() and low[1] < values[1] and high[0] == 1
    assert (low[0], high[4]) == pytest.approx((wilson(6, 6)[0], wilson(0, 6)[1]))  # not known exactly though all runs are on one side


def test_the_probability_of_improvement_is_mann_and_whitneys():
    first, second = Scores([runs(0.2, 0.6), runs(0.5)]), Scores([runs(0.2, 0.4), runs(0.1, 0.9, 0.5)])
    # The first task: .2 ties with .2 and is below .4, .6 is above both: (1/2 + 0 + 1 + 1) / 4. The second: (1 + 0 + 1/2) / 3.
    value, low, high = improvement(first, second)
    assert value == pytest.approx((2.5 / 4 + 1.5 / 3) / 2) and 0 <= low < value < high <= 1
    assert improvement(second, first).value == pytest.approx(1 - value)
    random = np.random.default_rng(1)
    a, b = random.integers(0, 11, 7) / 10, random.integers(2, 11, 5) / 10
    u = scipy.stats.mannwhitneyu(a, b).statistic
    assert improvement(Scores([runs(*a)]), Scores([runs(*b)])).value == pytest.approx(u / 35)
    certain = improvement(Scores([runs(0.9, 0.8, 1)]), Scores([runs(0.1, 0.2, 0)]))
    assert certain == pytest.approx((1, wilson(3, 3)[0], 1))  # three runs above three others do not make it certain


@pytest.mark.parametrize("share", [0, 0.8, 1])
def test_equal_seeds_are_not_known_exactly(share):
    scores = Scores([runs(share, share, share)] * 2)
    for value, low, high in (iqm_interval(scores), mean_interval(scores), improvement(scores, scores)):
        assert low <= value <= high and high - low > 0.005
    assert (drawn_runs(scores)[0] == share).all()  # drawing runs alone would say that there is no doubt


def test_a_policy_that_learned_all_tasks_is_drawn_for_all_of_them():
    tasks = [runs(0.45, 0.5, 0.6)] * 3
    first, *others = drawn_runs(Scores(tasks, one_policy=True))
    assert all((first == other).all() for other in others)
    first, *others = drawn_runs(Scores(tasks))
    assert all((first != other).any() for other in others)
    shared, apart = mean_interval(Scores(tasks, one_policy=True)), mean_interval(Scores(tasks))
    assert shared.value == pytest.approx(apart.value) and shared.high - shared.low > 2 * (apart.high - apart.low)
    assert improvement(Scores(tasks, True), Scores(tasks, True)).low < improvement(Scores(tasks), Scores(tasks)).low


@pytest.mark.parametrize(("seeds", "episodes", "share", "spread"), [(2, 25, 0.8, 0), (2, 25, 0.5, 0.2), (3, 50, 0.5, 0.2), (1, 25, 0.8, 0)])
def test_the_interval_of_the_mean_holds_the_truth(seeds, episodes, share, spread):
    random = np.random.default_rng([seeds, episodes])
    hits, old_hits = [], []
    for _ in range(150):
        rates = np.clip(random.normal(share, spread, (3, seeds, 1)), 0, 1)
        scores = Scores(list((random.random((3, seeds, episodes)) < rates).astype(float)))
        _, low, high = mean_interval(scores)
        hits.append(low <= share <= high)
        low, high = np.quantile(np.mean([task.mean(axis=1) for task in drawn_runs(scores)], axis=0), [0.025, 0.975])
        old_hits.append(low <= share <= high)
    assert np.mean(hits) >= 0.91
    assert np.mean(old_hits) < 0.9  # the control: runs drawn alone


def test_a_difference_of_policies_knows_their_episodes_alone():
    few, many = (difference_of_policies(runs(0.8, episodes=n), runs(0.4, episodes=n)) for n in (20, 2000))
    assert few.value == pytest.approx(0.4) and many.value == pytest.approx(0.4)
    error = math.sqrt(0.8 * 0.2 / 2000 + 0.4 * 0.6 / 2000)
    assert many.interval() == pytest.approx((0.4 - 1.96 * error, 0.4 + 1.96 * error), abs=0.001)
    assert few.interval()[1] - few.interval()[0] > 5 * (many.interval()[1] - many.interval()[0])
    perfect = difference_of_policies(runs(1, episodes=50), runs(1, episodes=50))
    assert perfect.value == 0 and perfect.interval()[1] > 0.05  # not known exactly
    spread = difference_of_policies(runs(0, 1), runs(0.5, 0.5))
    same = difference_of_policies(runs(0.5, 0.5), runs(0.5, 0.5))
    assert spread.value == same.value == 0 and spread.error < same.error  # what lies between the policies is no part of it


def test_the_mean_of_estimates_adds_up_their_errors():
    mean = mean_of_estimates([Estimate(0.1, 0.03, 4, -1, 1), Estimate(0.5, 0.04, 4, -1, 1)])
    assert mean.value == pytest.approx(0.3) and mean.error == pytest.approx(0.025)  # sqrt(3^2 + 4^2) / 2
    assert mean.freedom == pytest.approx(25**2 / (9**2 / 4 + 16**2 / 4)) and (mean.low, mean.high) == (-1, 1)
    alone = Estimate(0.2, 0.05, 3, -1, 1)
    assert mean_of_estimates([alone]).interval() == pytest.approx(alone.interval())
    known = mean_of_estimates([Estimate(0.2, 0.0, 2), Estimate(0.4, 0.0, 2)])
    assert known.interval() == pytest.approx((0.3, 0.3))
    assert mean_of_estimates([Estimate(0.2, 0.1, math.inf)] * 4).interval()[1] == pytest.approx(0.2 + 1.96 * 0.05, abs=0.001)
