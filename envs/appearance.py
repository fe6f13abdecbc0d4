"""What a scene looks like: plain, or with table, floor, light and three distractors drawn anew for every episode."""

import colorsys

import numpy as np

from envs.render import Look, mujoco
from robo_repr.core.errors import UserError

APPEARANCES = ("plain", "random")
BACKGROUND = ("table", "floor", "table_leg")
CLUTTER = ("clutter_0", "clutter_1", "clutter_2")
AREA = np.array([[0.3, -0.35], [0.75, 0.35]])  # where distractors stand, metres
WIDE_AREA = np.array([[0.20, -0.47], [0.83, 0.47]])  # the same around a rectangle that is kept clear: nearly the whole table
_SHAPES = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CYLINDER)


def sample_look(appearance: str, generator: np.random.Generator, keep_clear: tuple[float, float, float, float] | None = None) -> Look:
    """The look of one episode. Targets keep their colour, and no distractor is red, so the target stays recognisable.

    Args:
        keep_clear: (x low, y low, x high, y high) in metres: a rectangle of the table into which no distractor reaches.

    Raises:
        UserError: `keep_clear` leaves no room for distractors.
    """
    if appearance == "plain":
        return Look()
    rgba = {name: _colour(generator, saturation=(0.0, 0.5), value=(0.3, 0.85)) for name in BACKGROUND}
    form = {}
    for name in CLUTTER:
        rgba[name] = _colour(generator, saturation=(0.3, 1.0), value=(0.3, 1.0))
        shape = _SHAPES[generator.integers(len(_SHAPES))]
        size = generator.uniform(0.015, 0.05, size=3)
        height = size[0] if shape == mujoco.mjtGeom.mjGEOM_SPHERE else size[2] if shape == mujoco.mjtGeom.mjGEOM_BOX else size[1]
        if shape == mujoco.mjtGeom.mjGEOM_CYLINDER:
            size = np.array([size[0], size[0], size[1]])  # a drawn cylinder: radius, radius, half its length
        elif shape == mujoco.mjtGeom.mjGEOM_SPHERE:
            size = np.repeat(size[0], 3)
        place = generator.uniform(*AREA) if keep_clear is None else _place_outside(generator, keep_clear, size[:2])
        form[name] = (int(shape), size, np.append(place, height))
    lamp = np.array([generator.uniform(-0.6, 0.6), generator.uniform(-0.6, 0.6), -1.0])
    light = np.append(lamp / np.linalg.norm(lamp), generator.uniform(0.7, 1.2))
    return Look(rgba=rgba, form=form, light=light, clutter=True)


def _place_outside(generator: np.random.Generator, rectangle: tuple[float, float, float, float], half: np.ndarray) -> np.ndarray:
    """A place (2,) on the table where what is 2 * half (2,) wide stands wholly outside of the rectangle."""
    for _ in range(1000):
        place = generator.uniform(*WIDE_AREA)
        if (place + half <= rectangle[:2]).any() or (place - half >= rectangle[2:]).any():
            return place
    raise UserError(f"keep_clear={rectangle} leaves no room for distractors in {WIDE_AREA.tolist()}. Make the task's keep_clear smaller.")


def _colour(generator: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A colour (4,) of any hue but red's."""
    hue = generator.uniform(0.1, 0.9)
    return np.array([*colorsys.hsv_to_rgb(hue, generator.uniform(*saturation), generator.uniform(*value)), 1.0])
