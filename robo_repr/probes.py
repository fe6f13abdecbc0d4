"""What features know: ridge regression from features to positions, and intervals over episodes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robo_repr.core.seeding import rng

PENALTIES = tuple(10.0**power for power in range(-1, 6))


def ridge_errors(x: dict[str, Tensor], y: dict[str, Tensor], parts: tuple[str, ...], *, shifted: bool = False) -> dict[str, Tensor]:
    """Distances of a ridge regression fitted on ``"train"``, its penalty chosen on ``"validation"``.

    Args:
        x: part -> features (n, D); standardised here with the training part's statistics.
        y: part -> positions (n, 3) in metres; (n, 3 P) of P points.
        parts: whose distances to return.
        shifted: some parts are unlike the training one, such as pictures of moved cameras. Then a feature that hardly varies in training
            is divided by the mean deviation instead of its own, or the slightest shift of it would outweigh all others; and predictions
            stay within the range of the training positions, or a few extrapolations would decide the mean.

    Returns:
        part -> distances (n,) in cm between true and predicted position; of several points their mean.
    """
    centre, spread = x["train"].mean(dim=0), x["train"].std(dim=0)
    spread = spread.clamp(min=max(1e-6, float(spread.mean()) if shifted else 0.0))
    x = {part: ((value - centre) / spread).double() for part, value in x.items()}
    y = {part: value.double() for part, value in y.items()}
    offset = y["train"].mean(dim=0)
    low, high = y["train"].aminmax(dim=0)
    # Not the D x D matrix of second moments: a token read-out has more numbers than there are pictures.
    left, values, right = torch.linalg.svd(x["train"], full_matrices=False)
    projected = left.T @ (y["train"] - offset)
    best: dict[str, Tensor] = {}
    for penalty in PENALTIES:
        weights = right.T @ (projected * (values / (values**2 + penalty))[:, None])
        places = {part: x[part] @ weights + offset for part in ("validation", *parts)}
        if shifted:
            places = {part: place.clamp(low, high) for part, place in places.items()}
        errors = {part: 100 * (place - y[part]).unflatten(1, (-1, 3)).norm(dim=2).mean(dim=1) for part, place in places.items()}
        if not best or errors["validation"].mean() < best["validation"].mean():
            best = errors
    return {part: best[part] for part in parts}


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> list[float]:
    """The 95 % percentile bootstrap interval [low, high] over episodes: frames of one episode are not independent.

    Args:
        statistic: from resamples (R, E) of the episodes' numbers 0 to E - 1 to one value for each, (R,).
        episodes: E.
        seed: of the resampling.
    """
    draws = rng(seed, "bootstrap").integers(episodes, size=(2000, episodes))
    return [float(end) for end in np.percentile(statistic(draws), [2.5, 97.5])]


def interval(errors: Tensor, seed: int) -> str:
    """Mean and 95 % bootstrap interval over episodes as text, ``"3.1 [2.8, 3.4]"``.

    Args:
        errors: (E,), one number per episode.
        seed: of the resampling.
    """
    values = errors.numpy()
    low, high = bootstrap(lambda draws: values[draws].mean(axis=1), len(values), seed)
    return f"{errors.mean():.1f} [{low:.1f}, {high:.1f}]"
