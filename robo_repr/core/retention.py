"""How much of a policy's success is left when its cameras move, with intervals of 95 %.

Retention is a ratio: success with moved cameras over success with nominal ones, on the same episodes. Its interval is Fieller's (1954):
the ratios r at which ``shifted - r * nominal``, taken episode by episode, cannot be told from 0. The error of that difference is the one
of `robo_repr.core.stats`: between seeds, Student's t on a bootstrap over seeds and episodes, with the same four made-up episodes, one for
each way in which an episode can go with both cameras. With one seed the interval knows chance between episodes alone: it speaks of this
policy and not of the method that made it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robo_repr.core.seeding import rng
from robo_repr.core.stats import wilson

MADE_UP = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])  # success at the nominal cameras, and at the moved ones
BIN_EPISODES = 10  # fewer in a bin say next to nothing: Wilson's interval is then wider than 50 points
DRAWS = 1000


class Ratio(NamedTuple):
    """A ratio and the ends of its 95 % interval; `high` is None where the nominal success may be 0, so that nothing bounds the ratio."""

    value: float
    low: float
    high: float | None


class Correlation(NamedTuple):
    """A rank correlation and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def retention(nominal: Sequence[np.ndarray], shifted: Sequence[np.ndarray]) -> Ratio | None:
    """Success with moved cameras as a share of that with nominal ones; above 1 where the moved ones did better.

    Args:
        nominal, shifted: per seed 0 or 1 of its episodes, (n_s,), the same episodes in the same order.

    Returns:
        None where no episode succeeded at the nominal cameras.
    """
    means = np.array([[before.mean(), after.mean()] for before, after in zip(nominal, shifted, strict=True)])
    before, after = means.mean(axis=0)
    if before == 0:
        return None
    # (2, 2): variances and covariance within seeds.
    pools = [np.concatenate([np.array(pair, dtype=float), MADE_UP], axis=1) for pair in zip(nominal, shifted, strict=True)]
    error = np.mean([np.cov(pool, bias=True) / pool.shape[1] for pool in pools], axis=0)
    if len(means) > 1:
        error = (np.cov(means.T, bias=True) + error) / (len(means) - 1)
    return _fieller(float(before), float(after), error, len(means) - 1 or math.inf)


def retention_area(levels: Mapping[int, Sequence[np.ndarray]]) -> Ratio | None:
    """The mean of success over the levels 0 to the highest, as a share of that at level 0: 1 where moved cameras cost nothing.

    Between levels that were not asked for success is taken to be on a straight line.

    Args:
        levels: as in `retention`, by level.

    Returns:
        None without level 0 or any other one, or where no episode succeeded at level 0.
    """
    asked = sorted(levels)
    if len(asked) < 2 or asked[0] != 0:
        return None
    gaps = np.diff(asked) / (asked[-1] - asked[0])
    weights = (np.append(gaps, 0) + np.append(0, gaps)) / 2  # the trapezoid rule's
    means = [np.tensordot(weights, np.array(seed, dtype=float), 1) for seed in zip(*(levels[level] for level in asked), strict=True)]
    return retention(levels[0], means)


def azimuth_bins(azimuth: np.ndarray, success: np.ndarray, bins: int = 8) -> list[dict]:
    """Success by how far the camera stood to the side: bins of equal width within plus and minus the largest azimuth that occurred.

    Args:
        azimuth: (n,) of each episode, in degrees from the nominal camera.
        success: (n,) 0 or 1.

    Returns:
        For each bin low and high in degrees, success (None where it is empty), ci95 (Wilson's) and episodes; nothing where no camera moved.
    """
    azimuth, success = np.asarray(azimuth, dtype=float), np.asarray(success, dtype=float)
    reach = float(np.abs(azimuth).max(initial=0.0))
    if reach == 0:
        return []
    edges = np.linspace(-reach, reach, bins + 1)
    place = np.clip(np.digitize(azimuth, edges) - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = success[place == index]
        share = float(inside.mean()) if len(inside) else None
        interval = list(wilson(float(inside.sum()), len(inside)))
        found.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "success": share,
                "ci95": interval,
                "episodes": len(inside),
            }
        )
    return found


def worst_azimuth_bin(shells: Iterable[tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]]) -> dict | None:
    """The bin with the least success, all shells together, of the `azimuth_bins` with `BIN_EPISODES` episodes or more.

    It was chosen for being low: by chance alone the worst of eight bins lies below the others.

    Args:
        shells: of each level above the nominal one, and of each seed, azimuth and success as `azimuth_bins` takes them.
    """
    pairs = list(shells)
    azimuth, success = (np.concatenate([[], *(pair[side] for pair in pairs)]) for side in (0, 1))
    full = [each for each in azimuth_bins(azimuth, success) if each["episodes"] >= BIN_EPISODES]
    return min(full, key=lambda each: each["success"], default=None)


def rank_correlation(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, units: Sequence[object] | None = None
) -> Correlation | None:
    """Spearman's rank correlation. The interval is a bootstrap's in Fisher's scale with Student's t, for a few points make it narrow.

    Args:
        units: which points belong together, such as those of one policy at several levels; they are drawn together. Default: none do.

    Returns:
        None for fewer than five units, or where one side is the same everywhere.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    names = list(range(len(x))) if units is None else list(units)
    index = {name: place for place, name in enumerate(dict.fromkeys(names))}
    count = len(index)
    value = float(_spearman(first, second, np.ones((1, len(first))))[0])
    if count < 5 or math.isnan(value):
        return None
    times = rng(0, "rank correlation").multinomial(count, np.full(count, 1 / count), size=DRAWS)  # how often each unit was drawn
    drawn = _spearman(first, second, times[:, [index[name] for name in names]])
    from scipy.special import stdtrit  # late: it takes a while

    limit = 1 - 0.5 / len(x)  # of draws in which the same point stands several times; its scale has no place for 1
    error = np.nanstd(np.arctanh(np.clip(drawn, -limit, limit))) * math.sqrt(count / (count - 1))
    middle, half = np.arctanh(np.clip(value, -limit, limit)), float(stdtrit(count - 2, 0.975)) * error
    return Correlation(value, min(value, float(np.tanh(middle - half))), max(value, float(np.tanh(middle + half))))


def _spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rank correlations of points that occur several times each; NaN where one side is the same everywhere.

    Args:
        x, y: (n,).
        times: (D, n) how often each point occurs.

    Returns:
        (D,)
    """
    a, b = (times @ ((side[:, None] < side) + 0.5 * (side[:, None] == side)) for side in (x, y))  # (D, n) ranks, ties in their middle
    a, b = (ranks - (times * ranks).sum(axis=1, keepdims=True) / times.sum(axis=1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((times * a * a).sum(axis=1) * (times * b * b).sum(axis=1))
    products = (times * a * b).sum(axis=1)
    return np.clip(np.divide(products, scale, out=np.full(len(times), np.nan), where=scale > 0), -1, 1)


def _fieller(before: float, after: float, error: np.ndarray, freedom: float) -> Ratio:
    """The ratios r with ``(after - r * before) ** 2 <= t ** 2 * variance of that difference``, none below 0.

    Args:
        error: (2, 2) covariance of the two means.
    """
    from scipy.special import stdtrit  # late: it takes a while

    value, scale = after / before, float(stdtrit(freedom, 0.975)) ** 2
    square = before**2 - scale * error[0, 0]
    linear = before * after - scale * error[0, 1]
    rest = after**2 - scale * error[1, 1]
    root = linear**2 - square * rest
    if square > 0:  # then the value itself lies between the ends
        low, high = ((linear + sign * math.sqrt(max(0.0, root))) / square for sign in (-1, 1))
        return Ratio(value, max(0.0, min(low, value)), max(high, value))
    # The nominal success cannot be told from 0. What fits lies outside the two roots, or is everything.
    ends = sorted((linear + sign * math.sqrt(root)) / square for sign in (-1, 1)) if root > 0 and square < 0 else [0.0, 0.0]
    return Ratio(value, max(0.0, ends[1]) if value >= ends[1] else 0.0, None)
