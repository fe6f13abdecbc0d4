"""What features know: ridge regression from features to positions, and intervals over episodes."""

import numpy as np
import torch
from torch import Tensor

from robo_repr.core.seeding import rng

PENALTIES = tuple(10.0**power for power in range(-1, 6))


def ridge_errors(x: dict[str, Tensor], y: dict[str, Tensor], parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Distances of a ridge regression fitted on ``"train"``, its penalty chosen on ``"validation"``.

    Args:
        x: part -> features (n, D); standardised here with the training part's statistics.
        y: part -> positions (n, 3) in metres.
        parts: whose distances to return.

    Returns:
        part -> distances (n,) in cm between true and predicted position.
    """
    centre, spread = x["train"].mean(dim=0), x["train"].std(dim=0).clamp(min=1e-6)
    x = {part: ((value - centre) / spread).double() for part, value in x.items()}
    offset = y["train"].mean(dim=0).double()
    # Not the D x D matrix of second moments: a token read-out has more numbers than there are pictures.
    left, values, right = torch.linalg.svd(x["train"], full_matrices=False)
    projected = left.T @ (y["train"].double() - offset)
    best: dict[str, Tensor] = {}
    for penalty in PENALTIES:
        weights = right.T @ (projected * (values / (values**2 + penalty))[:, None])
        errors = {part: 100 * (x[part] @ weights + offset - y[part]).norm(dim=1) for part in ("validation", *parts)}
        if not best or errors["validation"].mean() < best["validation"].mean():
            best = errors
    return {part: best[part] for part in parts}


def interval(errors: Tensor, seed: int) -> str:
    """Mean and 95 % bootstrap interval over episodes as text, ``"3.1 [2.8, 3.4]"``.

    Args:
        errors: (E,), one number per episode: frames of one episode are not independent.
        seed: of the resampling.
    """
    draws = rng(seed, "bootstrap").integers(len(errors), size=(2000, len(errors)))
    low, high = np.percentile(errors.numpy()[draws].mean(axis=1), [2.5, 97.5])
    return f"{errors.mean():.1f} [{low:.1f}, {high:.1f}]"
