"""The levels L0 to L5 that bound how far a camera deviates, and what is drawn within them."""

from dataclasses import dataclass, fields

import numpy as np

from envs.cameras.pose import FACTORS, Factors, NominalCamera, neutral, to_spherical
from envs.cameras.samplers import Occasion, Sampler


@dataclass(frozen=True)
class Level:
    """Largest deviations from the nominal camera: degrees, a factor for the distance, metres for look_at."""

    azimuth: float
    elevation: float
    distance: tuple[float, float]
    fov: float
    roll: float
    look_at: float


LEVELS = {
    "L0": Level(0, 0, (1.0, 1.0), 0, 0, 0.0),
    "L1": Level(5, 2.5, (0.97, 1.03), 2, 1, 0.02),
    "L2": Level(10, 5, (0.93, 1.07), 5, 2.5, 0.04),
    "L3": Level(20, 10, (0.9, 1.15), 8, 5, 0.06),
    "L4": Level(45, 15, (0.8, 1.3), 12, 10, 0.08),
    "L5": Level(75, 20, (0.7, 2.0), 20, 20, 0.10),
}
# The mount of a hand camera at the same levels: turned by the degrees about each of its axes, shifted by the metres in look_at.
MOUNT_LEVELS = {
    "L0": Level(0, 0, (1.0, 1.0), 0, 0, 0.0),
    "L1": Level(2, 2, (1.0, 1.0), 2, 2, 0.005),
    "L2": Level(4, 4, (1.0, 1.0), 5, 4, 0.010),
    "L3": Level(8, 8, (1.0, 1.0), 8, 8, 0.020),
    "L4": Level(12, 12, (1.0, 1.0), 12, 12, 0.030),
    "L5": Level(16, 16, (1.0, 1.0), 20, 16, 0.040),
}
GRID = (8, 3)  # azimuths and elevations of `Grid`
SWEEP_FRAMES = 100  # after which `Sweep` and `Zoom` are at the level's edge, whatever the horizon (MoVie)


def bounds(camera: NominalCamera, level: float) -> Level:
    """A level's bounds for a camera; between two whole levels they change linearly."""
    table = list((MOUNT_LEVELS if camera.mounted else LEVELS).values())
    below = table[int(level)]
    if level == int(level):
        return below
    above, share = table[int(level) + 1], level - int(level)
    mixed = {
        item.name: np.add((1 - share) * np.array(getattr(below, item.name)), share * np.array(getattr(above, item.name)))
        for item in fields(Level)
    }
    return Level(**{**mixed, "distance": tuple(mixed["distance"])})


@dataclass(frozen=True)
class Uniform(Sampler):
    """All factors uniform within the level (look_at uniform in a ball), or one of them alone.

    Attributes:
        shell: draws only views of which a factor exceeds the level below, so that levels do not overlap.
    """

    level: int
    factor: str | None = None
    shell: bool = False

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        names = FACTORS if self.factor is None else (self.factor,)
        bound = bounds(camera, self.level)
        inner = bounds(camera, self.level - 1) if self.shell and self.level > 1 else None
        if inner is not None and all(getattr(inner, name) == getattr(bound, name) for name in names):
            inner = None  # a hand camera has no distance, whatever the level
        while True:
            drawn = uniform(bound, generator)
            if inner is None or _exceeds(inner, drawn, names):
                return {**neutral(), **{name: drawn[name] for name in names}}


@dataclass(frozen=True)
class Schedule(Sampler):
    """Uniform within a level that moves from the first to the last over a training."""

    first: int
    last: int
    is_schedule = True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        return uniform(bounds(camera, self.first + (self.last - self.first) * occasion.progress), generator)


@dataclass(frozen=True)
class Gaussian(Sampler):
    """Each factor normal about the nominal one with half the level's bound as deviation, drawn anew beyond the bound."""

    level: int

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        bound = bounds(camera, self.level)
        factors = {name: _normal(generator) * getattr(bound, name) for name in ("azimuth", "elevation", "roll", "fov")}
        distance = _normal(generator)
        low, high = bound.distance
        shift = np.stack([_normal(generator) for _ in range(3)], axis=-1)
        while np.linalg.norm(shift) > 1:
            shift = np.stack([_normal(generator) for _ in range(3)], axis=-1)
        return {**factors, "distance": 1 + distance * np.where(distance < 0, 1 - low, high - 1), "look_at": bound.look_at * shift}


@dataclass(frozen=True)
class Grid(Sampler):
    """Azimuths and elevations evenly spaced from edge to edge of the level, all else nominal: evaluation episode i takes point i."""

    level: int

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        bound, points = bounds(camera, self.level), GRID[0] * GRID[1]
        kind, number = occasion.episode[0], occasion.episode[-1]
        row, column = divmod(number % points if kind == "evaluation" else int(generator.integers(points)), GRID[0])
        azimuth = np.linspace(-bound.azimuth, bound.azimuth, GRID[0])[[column]]
        return {**neutral(), "azimuth": azimuth, "elevation": np.linspace(-bound.elevation, bound.elevation, GRID[1])[[row]]}


@dataclass(frozen=True)
class Sphere(Sampler):
    """The camera's place uniform on the sphere about its point, as far as the level's azimuth and elevation go; all else nominal."""

    level: int

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        bound = bounds(camera, self.level)
        azimuth = generator.uniform(-bound.azimuth, bound.azimuth, 1)
        centre = 0.0 if camera.look_at is None else float(np.degrees(to_spherical(camera.pose[:3] - camera.look_at)[1]))
        # Uniform in the sine of the elevation, cut off where the level reaches beyond the pole.
        low, high = np.sin(np.radians(np.clip([centre - bound.elevation, centre + bound.elevation], -90, 90)))
        return {**neutral(), "azimuth": azimuth, "elevation": np.degrees(np.arcsin(generator.uniform(low, high, 1))) - centre}


@dataclass(frozen=True)
class Jitter(Sampler):
    """The camera shakes: at every step its place is shifted along each axis by normal noise, at L3 of 3 cm deviation, clipped at 7 cm."""

    level: int
    moves = True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        unit, frames = bounds(camera, self.level).look_at / 0.06, occasion.horizon + 1
        return {**neutral(frames), "look_at": unit * np.clip(generator.normal(0, 0.03, (frames, 3)), -0.07, 0.07)}


@dataclass(frozen=True)
class Sweep(Sampler):
    """The camera swings at constant speed from its nominal place to a corner of the level in azimuth and elevation, there at frame 100."""

    level: int
    moves = True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        bound, way = bounds(camera, self.level), _way(occasion.horizon)
        sides = generator.choice([-1, 1], 2)
        return {**neutral(len(way)), "azimuth": sides[0] * bound.azimuth * way, "elevation": sides[1] * bound.elevation * way}


@dataclass(frozen=True)
class Zoom(Sampler):
    """The field of view narrows or widens at constant speed to the level's edge, reached at frame 100."""

    level: int
    moves = True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        way = _way(occasion.horizon)
        return {**neutral(len(way)), "fov": generator.choice([-1, 1]) * bounds(camera, self.level).fov * way}


@dataclass(frozen=True)
class Drift(Sampler):
    """Azimuth, elevation and roll walk at random from a uniform start: their speeds change by noise and are limited to a fortieth of the
    level's bound per step (deviation of the change: a quarter of that), and turn back at the edge."""

    level: int
    moves = True

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        bound, frames = bounds(camera, self.level), occasion.horizon + 1
        names = ("azimuth", "elevation", "roll")
        limits = np.array([getattr(bound, name) for name in names])
        places, speed = np.empty((frames, 3)), np.zeros(3)
        places[0] = generator.uniform(-1, 1, 3)
        for frame in range(1, frames):
            speed = np.clip(speed + generator.normal(0, 1 / 160, 3), -1 / 40, 1 / 40)
            beyond = np.abs(places[frame - 1] + speed) > 1
            speed = np.where(beyond, -speed, speed)
            places[frame] = places[frame - 1] + speed
        return {**neutral(frames), **dict(zip(names, (places * limits).T, strict=True))}


def uniform(bound: Level, generator: np.random.Generator) -> Factors:
    """One row of all factors, uniform within the bounds."""
    draw = generator.uniform(-1, 1, size=4)
    direction = generator.normal(size=3)
    radius = generator.uniform() ** (1 / 3)
    return {
        "azimuth": draw[:1] * bound.azimuth,
        "elevation": draw[1:2] * bound.elevation,
        "distance": generator.uniform(*bound.distance, size=1),
        "look_at": (bound.look_at * radius * direction / np.linalg.norm(direction))[None],
        "roll": draw[2:3] * bound.roll,
        "fov": draw[3:] * bound.fov,
    }


def _exceeds(bound: Level, factors: Factors, names: tuple[str, ...]) -> bool:
    """Whether any of the named factors (one row) is beyond the bounds."""
    for name in names:
        low, high = bound.distance if name == "distance" else (-getattr(bound, name), getattr(bound, name))
        value = np.linalg.norm(factors[name]) if name == "look_at" else factors[name][0]
        if not low <= value <= high:
            return True
    return False


def _normal(generator: np.random.Generator) -> np.ndarray:
    """(1,) normal with deviation 1/2, within -1 and 1."""
    while abs(draw := generator.normal(0, 0.5)) > 1:
        pass
    return np.array([draw])


def _way(horizon: int) -> np.ndarray:
    """Shares of a way (horizon + 1,) that ends at SWEEP_FRAMES."""
    return np.minimum(np.arange(horizon + 1) / SWEEP_FRAMES, 1)
