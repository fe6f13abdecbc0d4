"""What draws views: the base of levels, movements, presets and lists of views."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.cameras.pose import Factors, NominalCamera
from envs.render import mujoco


class Occasion(NamedTuple):
    """What a view is drawn for.

    Attributes:
        episode: its id: ("training", world, count) or ("evaluation", number).
        horizon: its steps, so that a camera that moves in it has horizon + 1 frames.
        progress: share of the training that was done when it began, for what changes over a training.
    """

    episode: tuple
    horizon: int
    progress: float = 1.0


class Sampler:
    """How views of an episode's cameras deviate from the nominal ones.

    Attributes:
        moves: whether cameras move within an episode.
        is_schedule: whether draws depend on the progress of a training.
    """

    moves = False
    is_schedule = False

    def bind(self, model: mujoco.MjModel, task: str, views: Sequence[str]) -> None:
        """Takes what it needs of the model whose cameras it will perturb.

        Raises:
            UserError: it is made for another task, or for other cameras than `views`.
        """

    def perturbs(self, camera: NominalCamera) -> bool:
        """Whether it is meant for that camera; one that it is not meant for stays at its nominal pose."""
        return True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        """Factors with one row, or, where cameras move, with a row for each frame of the episode."""
        raise NotImplementedError
