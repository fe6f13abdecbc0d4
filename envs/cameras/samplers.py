"""What draws views: the base of levels, movements, presets and lists of views."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.cameras.pose import Factors, NominalCamera, apply_factors
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


class Drawn(NamedTuple):
    """An episode's views of one camera: poses (T, 8) in the frame of its parent body, and the factors (T, ...) that give them. T = 1 for a
    camera that stands still."""

    factors: Factors
    poses: np.ndarray


class Sampler:
    """How views of an episode's cameras deviate from the nominal ones.

    Attributes:
        moves: whether cameras move within an episode.
        is_schedule: whether draws depend on the progress of a training.
        sha256: of what it was read from, if it was; else its name says all.
    """

    moves = False
    is_schedule = False
    sha256: str | None = None

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

    def view(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Drawn:
        """The factors of `draw` with the poses that they give."""
        factors = self.draw(camera, generator, occasion)
        return Drawn(factors, apply_factors(camera, factors))
