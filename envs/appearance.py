"""What a scene looks like: plain, or with table, floor, light and three distractors drawn anew for every episode."""

import colorsys

import numpy as np

from envs.render import Look, mujoco

APPEARANCES = ("plain", "random")
BACKGROUND = ("table", "floor", "table_leg")
CLUTTER = ("clutter_0", "clutter_1", "clutter_2")
_SHAPES = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CYLINDER)


def sample_look(appearance: str, generator: np.random.Generator) -> Look:
    """The look of one episode. Targets keep their colour, and no distractor is red, so the target stays recognisable."""
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
        place = np.array([generator.uniform(0.3, 0.75), generator.uniform(-0.35, 0.35), height])
        form[name] = (int(shape), size, place)
    lamp = np.array([generator.uniform(-0.6, 0.6), generator.uniform(-0.6, 0.6), -1.0])
    light = np.append(lamp / np.linalg.norm(lamp), generator.uniform(0.7, 1.2))
    return Look(rgba=rgba, form=form, light=light, clutter=True)


def _colour(generator: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A colour (4,) of any hue but red's."""
    hue = generator.uniform(0.1, 0.9)
    return np.array([*colorsys.hsv_to_rgb(hue, generator.uniform(*saturation), generator.uniform(*value)), 1.0])
