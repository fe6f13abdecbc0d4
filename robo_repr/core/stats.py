"""Intervals for rates."""

from math import sqrt

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate, honest near 0 and 1 and for few episodes.

    Args:
        k: successes, 0 <= k <= n.
        n: trials; 0 gives (0, 1), because nothing is known.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n, got k={k}, n={n}.")
    if n == 0:
        return 0.0, 1.0
    rate, shrink = k / n, 1 + Z95**2 / n
    centre = (rate + Z95**2 / (2 * n)) / shrink
    half = Z95 * sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n * n)) / shrink
    # At k = 0 and k = n the bound is exactly 0 and 1; rounding would leave 1e-17.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)
