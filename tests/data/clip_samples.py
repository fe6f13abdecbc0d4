"""Made episodes for tests."""

import numpy as np

VIEWS, SIZE = ["front", "wrist"], (12, 16)


def frames(length=5, seed=0, views=2, size=SIZE):
    """Frames of one episode that differ everywhere."""
    generator = np.random.default_rng(seed)
    return {
        "images": generator.integers(0, 256, (length, views, 3, *size), dtype=np.uint8),
        "state": generator.normal(size=(length, 4)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (length, 3)).astype(np.float32),
        "reward": generator.uniform(size=length).astype(np.float32),
        "camera": generator.normal(size=(length, views, 8)).astype(np.float32),
    }
