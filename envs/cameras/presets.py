"""Presets: the camera perturbations that others published, by name, such as ``dcs:0.2`` or ``vista:arc``.

What is drawn are the paper's own quantities, within `Preset.bounds`; they then become factors of a camera. Of a preset that is relative to
the nominal camera, metres stay metres along the world's axes and a field of view is a difference. One whose poses are absolute in the
paper's scene becomes deviations from that paper's nominal pose: its metres are scaled by our camera's distance over the paper's, and turn
with our camera's azimuth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.cameras.pose import (
    Factors,
    NominalCamera,
    apply_factors,
    find_factors,
    look_rotation,
    matrix_to_quaternion,
    neutral,
    quaternion_to_matrix,
    to_spherical,
)
from envs.cameras.samplers import Occasion, Sampler
from robo_repr.core.errors import UserError, unknown

Published = dict[str, np.ndarray]  # a paper's quantities, in its units
X, Y, Z = np.eye(3)
ROBOT_BASE = np.zeros(3)  # where the arm of every native task stands
SWING = 100  # steps after which MoVie's moving camera is back where it started


class Bound(NamedTuple):
    """The published range of a quantity.

    Attributes:
        low, high: of a normal quantity one standard deviation below and above its mean.
        unit: "deg", "rad", "m", or "x" for a factor.
        shape: of one draw; each element is drawn for itself.
        hole: what a range that lies on two sides leaves out; inside, drawn in proportion to the sides' widths.
    """

    low: float
    high: float
    unit: str
    shape: tuple[int, ...] = ()
    normal: bool = False
    hole: tuple[float, float] | None = None

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        if self.normal:
            return np.asarray(generator.normal((self.low + self.high) / 2, (self.high - self.low) / 2, self.shape))
        start, end = self.hole or (self.high, self.high)
        value = generator.uniform(self.low, self.high - (end - start), self.shape)
        return np.where(value > start, value + (end - start), value)


class Preset(Sampler):
    """A published perturbation.

    Attributes:
        bounds: published quantity -> its range, in the paper's own terms.
    """

    def __init__(self, bounds: Mapping[str, Bound]):
        self.bounds = dict(bounds)

    def perturbs(self, camera: NominalCamera) -> bool:
        """Those that stand outside: no paper but one moves a camera that is carried by the hand."""
        return not camera.mounted

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        """One draw of the paper's quantities, each (...,) or, where cameras move, (horizon + 1, ...)."""
        return {name: bound.draw(generator) for name, bound in self.bounds.items()}

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        """What the paper's quantities are for a camera of ours."""
        return _factors(**drawn)

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        return self.factors(camera, self.published(camera, generator, occasion)) if self.perturbs(camera) else neutral()


class Dcs(Preset):
    """Distracting Control Suite, its static camera: kept above the ground, within the part of the range that lies there."""

    def __init__(self, scale: float):
        angle = 90 * scale
        names = ("azimuth", "elevation", "roll")
        super().__init__({name: Bound(-angle, angle, "deg") for name in names} | {"distance": Bound(1 - 0.5 * scale, 1 + 1.5 * scale, "x")})

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        bound = self.bounds["elevation"]
        nominal = np.degrees(to_spherical(camera.pose[:3] - camera.look_at)[1])
        low, high = np.clip([bound.low, bound.high], -nominal, 90 - nominal)
        return {**super().published(camera, generator, occasion), "elevation": generator.uniform(low, high)}


class Offset(Preset):
    """The camera is shifted along the world's axes (position) and, where there is an angle, turned by it about a random axis."""

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        axis = generator.normal(size=3)
        return {**super().published(camera, generator, occasion), "axis": axis / np.linalg.norm(axis)}

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        rotation = _rotation(drawn["axis"], drawn.get("angle", np.zeros(()))) @ quaternion_to_matrix(camera.pose[3:7])
        return _found(camera, camera.pose[:3] + drawn["position"], rotation, drawn.get("fov", np.zeros(())))


class MovieMoving(Preset):
    """MoVie's moving view: from one corner to the opposite one and back, at constant speed."""

    moves = True

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        way = np.abs(2 - 4 * (np.arange(occasion.horizon + 1) % SWING) / SWING) - 1
        return {name: bound.high * way for name, bound in self.bounds.items()}


class MovieShaking(Preset):
    """MoVie's shaking view: the place is shifted anew at each step, the direction stays."""

    moves = True

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        bound = self.bounds["position"]
        return {"position": np.clip(generator.normal(0, 0.03, (occasion.horizon + 1, *bound.shape)), bound.low, bound.high)}

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        return _factors(look_at=drawn["position"])


class MvMwm(Preset):
    """MV-MWM: the camera on a ring about the robot's vertical axis, with tilt and roll of its own.

    The paper's nominal pose is the middle of its ranges. Its distance is where the line of sight meets the axis. Turns are composed as its
    simulator does: roll about the ring's outward axis, then tilt and azimuth about the camera's own axes.
    """

    nominal = {"phi": 27.0, "radius": 1.35, "height": 1.6}
    distance = 1.35 / np.cos(np.radians(27))

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        offset = camera.pose[:3] - camera.look_at
        azimuth, _, distance = to_spherical(offset)
        scale = distance / self.distance
        theta, phi, roll = (np.radians(drawn[name]) for name in ("theta", "phi", "axis"))
        radius = np.linalg.norm(offset[:2]) + scale * (drawn["radius"] - self.nominal["radius"])
        height = offset[2] + scale * (drawn["height"] - self.nominal["height"])
        place = np.array([radius * np.cos(azimuth - theta), radius * np.sin(azimuth - theta), height])
        outward = np.array([np.cos(azimuth), np.sin(azimuth), 0])
        tilt = _rotation(X, np.radians(self.nominal["phi"]) - phi)
        rotation = _rotation(outward, roll) @ quaternion_to_matrix(camera.pose[3:7]) @ tilt @ _rotation(Y, -theta)
        return _found(camera, camera.look_at + place, rotation)


class VistaArc(Preset):
    """VISTA's arc: at constant height about the point of the line of sight that is as far as the robot's base, give or take."""

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        position, rotation = camera.pose[:3], quaternion_to_matrix(camera.pose[3:7])
        radius = np.linalg.norm(position - ROBOT_BASE) + drawn["radius"]
        centre = position - radius * rotation[:, 2]
        turn = _rotation(Z, np.radians(drawn["azimuth"]))
        return _found(camera, centre + turn @ (position - centre), turn @ rotation)


class Colosseum(Preset):
    """Colosseum: the place is shifted along the world's axes, and so is each Euler angle (about x, then the turned y, then z)."""

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        # In its simulator a camera looks along +z: half a turn about y, which flips signs of shifts that are as likely either way.
        turn = quaternion_to_matrix(camera.pose[3:7])
        angles = np.array([np.arctan2(-turn[1, 2], turn[2, 2]), np.arcsin(np.clip(turn[0, 2], -1, 1)), np.arctan2(-turn[0, 1], turn[0, 0])])
        alpha, beta, gamma = angles + drawn["euler"]
        rotation = _rotation(X, alpha) @ _rotation(Y, beta) @ _rotation(Z, gamma)
        return _found(camera, camera.pose[:3] + drawn["position"], rotation)


class LiberoPlus(Preset):
    """LIBERO-Plus at one of its levels of difficulty. Each view changes one thing alone: the camera circles, steps back, or is turned.

    Its levels are no ranges: a variant's level says how many of four models failed on it, so that levels overlap. What is drawn follows the
    variants of the level.

    Args:
        kinds: how many of the level's variants circle, step back and turn.
        raised: the share of those that circle which also look from 15 degrees higher.
        azimuths: evenly spaced quantiles from the least to the greatest, in degrees.
        distances: likewise, in percent.
        turn: the least that the greater of yaw and pitch is, in degrees.
    """

    def __init__(self, kinds: tuple[int, int, int], raised: float, azimuths: list[int], distances: list[int], turn: int):
        self.kinds, self.raised, self.azimuths, self.distances, self.turn = kinds, raised, azimuths, distances, turn
        yaw = Bound(-10, 10, "deg")
        super().__init__(
            {
                "azimuth": Bound(azimuths[0], azimuths[-1], "deg"),
                "elevation": Bound(0, 15, "deg"),
                "distance": Bound(1, distances[-1] / 100, "x"),
                "yaw": yaw,
                "pitch": yaw,
            }
        )

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        drawn: Published = {name: np.zeros(()) for name in self.bounds} | {"distance": np.ones(())}
        kind = generator.choice(3, p=np.array(self.kinds) / sum(self.kinds))
        if kind == 0:
            while not (drawn["azimuth"] or drawn["elevation"]):
                drawn["azimuth"] = np.rint(_between(self.azimuths, generator))
                drawn["elevation"] = 15.0 * (generator.uniform(size=()) < self.raised)
        elif kind == 1:
            drawn["distance"] = np.rint(_between(self.distances, generator)) / 100
        else:
            while max(abs(drawn["yaw"]), abs(drawn["pitch"])) < self.turn:
                drawn["yaw"], drawn["pitch"] = 2.0 * generator.integers(-5, 6, 2)
        return drawn

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        yaw, pitch = np.radians(drawn["yaw"]), np.radians(drawn["pitch"])
        if not (yaw or pitch):
            return _factors(**{name: drawn[name] for name in ("azimuth", "elevation", "distance")})
        rotation = quaternion_to_matrix(camera.pose[3:7])
        return _found(camera, camera.pose[:3], _rotation(rotation[:, 0], -pitch) @ _rotation(Z, yaw) @ rotation)


class FactorWorld(Preset):
    """Factor World: spherical coordinates about the scene's origin. It has no nominal camera: the middle of the ranges stands for it."""

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        middle = {name: (bound.low + bound.high) / 2 for name, bound in self.bounds.items()}
        return _factors(
            azimuth=drawn["azimuth"] - middle["azimuth"],
            elevation=middle["inclination"] - drawn["inclination"],
            distance=drawn["radius"] / middle["radius"],
        )


class KitchenShift(Preset):
    """KitchenShift: one of its ten cameras, each as likely. Number 6 is its nominal one; number 0 looks at the middle of the scene.

    Angles are MuJoCo's of a free camera: where it looks, so that a camera at elevation -50 stands 50 degrees above its point.
    """

    # distance in metres, azimuth and elevation in degrees, x and y of the point it looks at in metres
    cameras = np.array(
        [
            (4.5, -66, -65, -0.05, 0.5),
            (2.2, 70, -35, -0.2, 0.5),
            (2.2, 70, -50, -0.2, 0.5),
            (2.65, 90, -60, 0.0, 0.0),
            (2.5, 90, -60, -0.2, 0.5),
            (2.5, 90, -45, -0.2, 0.5),
            (2.9, 90, -50, -0.05, 0.5),
            (2.2, 90, -50, -0.2, 0.5),
            (2.2, 90, -35, -0.2, 0.5),
            (2.2, 90, -10, -0.2, 0.5),
        ]
    )
    nominal = cameras[6]
    names = ("distance", "azimuth", "elevation", "look_at_x", "look_at_y")

    def __init__(self):
        low, high = self.cameras.min(axis=0), self.cameras.max(axis=0)
        units = ("m", "deg", "deg", "m", "m")
        super().__init__({name: Bound(float(low[i]), float(high[i]), units[i]) for i, name in enumerate(self.names)})

    def published(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Published:
        return dict(zip(self.names, self.cameras[generator.integers(len(self.cameras))], strict=True))

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        distance, azimuth, elevation, *look_at = np.array([drawn[name] for name in self.names]) - self.nominal
        ours, _, length = to_spherical(camera.pose[:3] - camera.look_at)
        # The paper's nominal camera stands opposite to where it looks.
        turn = _rotation(Z, ours - np.radians(self.nominal[1] + 180))
        shift = length / self.nominal[0] * turn @ np.array([*look_at, 0.0])
        return _factors(azimuth=azimuth, elevation=-elevation, distance=1 + distance / self.nominal[0], look_at=shift)


class Maniwhere(Preset):
    """Maniwhere: the camera circles its point, but looks at another one nearby."""

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        place = apply_factors(camera, _factors(**{name: drawn[name] for name in ("azimuth", "elevation", "distance")}))[0, :3]
        shift = np.array([*drawn["look_at_xy"], drawn["look_at_z"]])
        return _found(camera, place, _look(camera, place, camera.look_at + shift), drawn["fov"])


class Squint(Preset):
    """Squint: an outside camera is shifted and looks at almost the same point; one on the hand is shifted and turned about its axes.

    Drawn once for an episode within the stated limits. The released code draws poses at every control step, and a field of view once; its
    box for outside cameras is half as wide as the limit it states.
    """

    def perturbs(self, camera: NominalCamera) -> bool:
        return True

    def factors(self, camera: NominalCamera, drawn: Published) -> Factors:
        if camera.mounted:
            azimuth, elevation, roll = drawn["wrist_turn"]
            return _factors(azimuth=azimuth, elevation=elevation, roll=roll, look_at=drawn["wrist_position"], fov=drawn["wrist_fov"])
        place = camera.pose[:3] + drawn["position"]
        rotation = _look(camera, place, camera.look_at + drawn["look_at"])
        return _found(camera, place, rotation @ _rotation(Z, np.radians(drawn["roll"])), drawn["fov"])


@dataclass(frozen=True)
class PresetEntry:
    """What there is to know of a preset.

    Attributes:
        what: what it does, in words.
        relative: whether it is relative to the task's nominal camera, or absolute in the paper's scene.
        scales: what of it scales with the camera's distance.
        cameras: which cameras it moves.
        source: the address of the code that says so.
        samplers: what may stand behind the colon ("" where nothing does) -> its sampler, whose `bounds` are the published ranges.
        scaled: makes the sampler of any scale in (0, 1], where the samplers are but examples.
    """

    what: str
    relative: bool
    scales: str
    cameras: str
    source: str
    samplers: Mapping[str, Preset]
    scaled: Callable[[float], Preset] | None = None


NOTHING, OUTSIDE = "nothing", "outside cameras"
MVMWM_INNER = {
    "theta": Bound(-7.5, 7.5, "deg"),
    "phi": Bound(25.5, 28.5, "deg"),
    "radius": Bound(1.2, 1.5, "m"),
    "height": Bound(1.45, 1.75, "m"),
    "axis": Bound(-7.5, 7.5, "deg"),
}
MVMWM_OUTER = {"theta": (-10, 10), "phi": (25, 29), "radius": (1.15, 1.55), "height": (1.4, 1.8), "axis": (-10, 10)}

PRESETS: dict[str, PresetEntry] = {
    "dcs": PresetEntry(
        "circles, zooms and rolls; kept above the ground and looking at its point",
        True,
        "distance, being a factor",
        OUTSIDE,
        "https://github.com/google-research/google-research/tree/master/distracting_control",
        {f"{scale:g}": Dcs(scale) for scale in (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)},
        Dcs,
    ),
    "rlvigen_dmc": PresetEntry(
        "shifted along the world's axes, its direction kept",
        True,
        NOTHING,
        OUTSIDE,
        "https://github.com/gemcollector/RL-ViGen",
        {
            "easy": Offset({"position": Bound(-0.08, 0.08, "m", (3,))}),
            "hard": Offset({"position": Bound(-0.15, 0.15, "m", (3,))}),
        },
    ),
    "rlvigen_robosuite": PresetEntry(
        "shifted along the world's axes, turned about a random axis, another field of view",
        True,
        NOTHING,
        OUTSIDE,
        "https://github.com/gemcollector/RL-ViGen",
        {
            name: Offset({"position": Bound(-size, size, "m", (3,)), "angle": Bound(0, size, "rad"), "fov": Bound(-fov, fov, "deg")})
            for name, size, fov in (("easy", 0.12, 10), ("hard", 0.16, 20))
        },
    ),
    "movie": PresetEntry(
        "its settings of the DeepMind control suite: one view from a corner, a swing between corners, shaking at each step, a wider view",
        True,
        NOTHING,
        OUTSIDE,
        "https://github.com/yangsizhe/MoVie",
        {
            "novel": Preset({"azimuth": Bound(18, 18, "deg"), "elevation": Bound(12, 12, "deg")}),
            "moving": MovieMoving({"azimuth": Bound(-18, 18, "deg"), "elevation": Bound(-12, 12, "deg")}),
            "shaking": MovieShaking({"position": Bound(-0.07, 0.07, "m", (3,))}),
            "fov": Preset({"fov": Bound(8, 8, "deg")}),
        },
    ),
    "mvmwm": PresetEntry(
        "a ring about the robot's vertical axis, with tilt and roll; strong is the shell outside of medium",
        False,
        "radius and height",
        OUTSIDE,
        "https://github.com/younggyoseo/MV-MWM",
        {
            "weak": MvMwm(
                {
                    "theta": Bound(-5, 5, "deg"),
                    "phi": Bound(26, 28, "deg"),
                    "radius": Bound(1.25, 1.45, "m"),
                    "height": Bound(1.5, 1.7, "m"),
                    "axis": Bound(-5, 5, "deg"),
                }
            ),
            "medium": MvMwm(MVMWM_INNER),
            "strong": MvMwm(
                {name: Bound(low, high, MVMWM_INNER[name].unit, hole=MVMWM_INNER[name][:2]) for name, (low, high) in MVMWM_OUTER.items()}
            ),
        },
    ),
    "vista": PresetEntry(
        "small: shifted and turned about a random axis, both normal; arc: circles the robot's base at constant height",
        True,
        NOTHING,
        OUTSIDE,
        "https://github.com/s-tian/VISTA",
        {
            "small": Offset({"position": Bound(-0.03, 0.03, "m", (3,), normal=True), "angle": Bound(-0.075, 0.075, "rad", normal=True)}),
            "arc": VistaArc({"azimuth": Bound(-45, 45, "deg"), "radius": Bound(-0.05, 0.05, "m", normal=True)}),
        },
    ),
    "colosseum": PresetEntry(
        "shifted along the world's axes and in each Euler angle",
        True,
        NOTHING,
        f"all {OUTSIDE} at once, each with its own draw",
        "https://github.com/robot-colosseum/robot-colosseum",
        {"": Colosseum({"position": Bound(-0.1, 0.1, "m", (3,)), "euler": Bound(-0.05, 0.05, "rad", (3,))})},
    ),
    "liberoplus": PresetEntry(
        "circles (from 15 degrees higher or not), or steps back, or is turned; levels of measured difficulty, which overlap",
        True,
        "distance, being a factor",
        OUTSIDE,
        "https://github.com/sylvestf/LIBERO-plus",
        {
            "1": LiberoPlus((110, 23, 66), 0.382, [-38, -23, -16, -4, 18, 29, 36, 48, 72], [115, 121, 127, 136, 168], 2),
            "2": LiberoPlus((199, 70, 91), 0.558, [-75, -42, -30, -9, 17, 26, 38, 51, 75], [115, 140, 152, 171, 199], 2),
            "3": LiberoPlus((209, 74, 42), 0.593, [-75, -57, -45, -24, -1, 28, 50, 65, 75], [120, 138, 158, 178, 200], 6),
            "4": LiberoPlus((129, 60, 39), 0.597, [-75, -66, -57, -46, -38, -11, 15, 39, 74], [121, 147, 164, 186, 200], 4),
            "5": LiberoPlus((345, 86, 56), 0.565, [-75, -64, -53, -39, -21, 38, 53, 64, 75], [135, 154, 176, 190, 200], 6),
        },
    ),
    "factorworld": PresetEntry(
        "circles, nearer and further",
        False,
        "radius",
        OUTSIDE,
        "https://github.com/RLAgent/factor-world",
        {"": FactorWorld({"azimuth": Bound(90, 135, "deg"), "inclination": Bound(60, 75, "deg"), "radius": Bound(1.25, 1.75, "m")})},
    ),
    "kitchenshift": PresetEntry(
        "one of ten cameras",
        False,
        "distance and the point it looks at",
        OUTSIDE,
        "https://github.com/etaoxing/kitchen-shift",
        {"": KitchenShift()},
    ),
    "maniwhere": PresetEntry(
        "circles, nearer and further, looks at a point nearby, another field of view",
        True,
        "distance, being a factor",
        OUTSIDE,
        "https://github.com/gemcollector/maniwhere",
        {
            "": Maniwhere(
                {
                    "azimuth": Bound(-60, 60, "deg"),
                    "elevation": Bound(-12.5, 7.5, "deg"),
                    "distance": Bound(0.8, 1.1, "x"),
                    "fov": Bound(-4, 4, "deg"),
                    "look_at_xy": Bound(-0.08, 0.08, "m", (2,)),
                    "look_at_z": Bound(-0.05, 0.1, "m"),
                }
            )
        },
    ),
    "squint": PresetEntry(
        "shifted along the axes and turned a little, another field of view",
        True,
        NOTHING,
        f"{OUTSIDE}, and those on the hand (wrist)",
        "https://github.com/aalmuzairee/squint",
        {
            "": Squint(
                {
                    "position": Bound(-0.025, 0.025, "m", (3,)),
                    "look_at": Bound(-0.001, 0.001, "m", (3,), normal=True),
                    "roll": Bound(-1, 1, "deg", normal=True),
                    "fov": Bound(-5, 5, "deg"),
                    "wrist_position": Bound(-0.002, 0.002, "m", (3,)),
                    "wrist_turn": Bound(-1, 1, "deg", (3,)),
                    "wrist_fov": Bound(-1, 1, "deg"),
                }
            )
        },
    ),
}


def find_preset(text: str, key: str = "camera") -> Preset:
    """The sampler of ``name`` or ``name:argument``.

    Args:
        key: the setting that was read, for messages.

    Raises:
        UserError: there is no such preset or argument (names the nearest), or an argument is missing or too much.
    """
    name, _, argument = text.partition(":")
    if name not in PRESETS:
        raise unknown(key, name, PRESETS)
    entry = PRESETS[name]
    if entry.scaled:
        return entry.scaled(_scale(key, text, argument))
    samplers = {f"{name}:{word}" if word else name: sampler for word, sampler in entry.samplers.items()}
    if text in samplers:
        return samplers[text]
    if name in samplers:
        raise UserError(f"{key}={text} is not possible: nothing stands behind {name}. Write {key}={name}.")
    if not argument:
        raise UserError(f"{key}={text} does not say which is meant. Write one of {', '.join(samplers)}.")
    raise unknown(key, text, samplers)


def describe_bounds(bounds: Mapping[str, Bound]) -> str:
    """The published ranges in one line, for tables."""
    return ", ".join(f"{name.replace('_', ' ')} {_describe(bound)}" for name, bound in bounds.items())


def _describe(bound: Bound) -> str:
    unit = "" if bound.unit == "x" else f" {bound.unit}"
    sign = "x" if bound.unit == "x" else ""
    if bound.normal:
        return f"normal, deviation {(bound.high - bound.low) / 2:g}{unit}"
    if bound.low == bound.high:
        return f"{bound.low:+g}{unit}"
    sides = [(bound.low, bound.hole[0]), (bound.hole[1], bound.high)] if bound.hole else [(bound.low, bound.high)]
    return " or ".join(f"{sign}{low:g} to {sign}{high:g}" for low, high in sides) + unit


def _scale(key: str, text: str, argument: str) -> float:
    try:
        scale = float(argument)
    except ValueError:
        scale = np.nan
    if not 0 < scale <= 1:
        name = text.partition(":")[0]
        raise UserError(f"{key}={text} is not possible: behind {name}: stands a scale, above 0 and at most 1. Such as {key}={name}:0.2.")
    return scale


def _factors(**changes: np.ndarray) -> Factors:
    """Factors that deviate in these alone, each given for one view, or with a row for each frame."""
    ndim = {"look_at": 2}
    rows = {name: np.array(value, dtype=float, ndmin=ndim.get(name, 1)) for name, value in changes.items()}
    return {**neutral(max(len(value) for value in rows.values())), **rows}


def _found(camera: NominalCamera, position: np.ndarray, rotation: np.ndarray, fov: np.ndarray | float = 0.0) -> Factors:
    """Factors of a view from a position (3,) with rotation (3, 3), and that difference in the field of view."""
    return find_factors(camera, np.concatenate([position, matrix_to_quaternion(rotation), [camera.pose[7] + fov]])[None])


def _look(camera: NominalCamera, position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a camera that looks from the position at the target as it nominally does at its point."""
    before, after = (look_rotation(*to_spherical(line)[:2]) for line in (camera.pose[:3] - camera.look_at, position - target))
    return after @ before.T @ quaternion_to_matrix(camera.pose[3:7])


def _rotation(axis: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Rotation (3, 3) by an angle in radians about a unit axis (3,)."""
    return quaternion_to_matrix(np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * axis]))


def _between(quantiles: list[int], generator: np.random.Generator) -> np.ndarray:
    """A draw from a distribution with these evenly spaced quantiles."""
    return np.interp(generator.uniform(size=()), np.linspace(0, 1, len(quantiles)), quantiles)
