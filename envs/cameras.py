"""Cameras that move: views as deviations from a nominal pose, and the levels L0 to L5 that bound them.

A view has six factors: azimuth, elevation and distance about the point the camera looks at, an offset of that point, roll about the optical
axis, and the field of view. A camera carried by the hand has no fixed point to circle: its mount is turned (azimuth, elevation, roll) and
shifted (look_at) about itself. Poses are (8,) vectors: position 3 in metres, quaternion wxyz 4, vertical field of view in degrees 1, in
MuJoCo's convention (the camera looks along its -z axis, +y is up).
"""

from dataclasses import dataclass

import numpy as np

from envs.render import mujoco
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.seeding import rng

FACTORS = ("azimuth", "elevation", "distance", "look_at", "roll", "fov")


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


@dataclass(frozen=True)
class NominalCamera:
    """A camera as the model has it: its pose (8,) in the parent body's frame and, if fixed to the world, the point it looks at."""

    name: str
    body: int
    pose: np.ndarray
    look_at: np.ndarray | None

    @property
    def mounted(self) -> bool:
        return self.look_at is None


def check_level(key: str, value: object) -> str:
    """The level's name, or a `UserError` that names the nearest one. `key` is the setting that was read, such as ``"camera"``."""
    if not isinstance(value, str) or value not in LEVELS:
        raise unknown(key, str(value), LEVELS)
    return value


def nominal_cameras(model: mujoco.MjModel, views: list[str]) -> list[NominalCamera]:
    """The named cameras of a compiled model; a `UserError` names the nearest camera for an unknown one."""
    names = [model.camera(i).name for i in range(model.ncam)]
    look_at = model.site("look_at").pos.copy()
    cameras = []
    for view in views:
        if view not in names:
            raise unknown("views", view, names)
        camera = model.camera(view)
        body = int(camera.bodyid[0])
        pose = np.concatenate([camera.pos, camera.quat, camera.fovy])
        cameras.append(NominalCamera(view, body, pose, look_at if body == 0 else None))
    if len(set(views)) != len(views):
        raise UserError(f"views={views} names a camera twice. Name each camera once; the task has {', '.join(names)}.")
    return cameras


def sample_factors(camera: NominalCamera, level: str, generator: np.random.Generator) -> dict[str, float | np.ndarray]:
    """One draw of the six factors, uniform within the level (look_at uniform in a ball)."""
    bound = (MOUNT_LEVELS if camera.mounted else LEVELS)[level]
    draw = generator.uniform(-1, 1, size=4)
    direction = generator.normal(size=3)
    radius = generator.uniform() ** (1 / 3)
    low, high = bound.distance
    return {
        "azimuth": draw[0] * bound.azimuth,
        "elevation": draw[1] * bound.elevation,
        "distance": generator.uniform(low, high),
        "look_at": bound.look_at * radius * direction / np.linalg.norm(direction),
        "roll": draw[2] * bound.roll,
        "fov": draw[3] * bound.fov,
    }


def apply_factors(camera: NominalCamera, factors: dict[str, float | np.ndarray]) -> np.ndarray:
    """The pose (8,) of a camera whose view deviates from the nominal one by the factors."""
    position, rotation, fov = camera.pose[:3], quaternion_to_matrix(camera.pose[3:7]), camera.pose[7]
    azimuth, elevation, roll = (np.radians(float(factors[name])) for name in ("azimuth", "elevation", "roll"))
    shift = np.asarray(factors["look_at"], dtype=float)
    if camera.look_at is None:
        new_position = position + shift
        new_rotation = rotation @ _turn(1, azimuth) @ _turn(0, elevation) @ _turn(2, roll)
    else:
        azimuth0, elevation0, distance0 = to_spherical(position - camera.look_at)
        # Beyond 90 degrees the camera has passed over the pole and looks back; the picture's right stays, so nothing flips.
        new_elevation = elevation0 + elevation
        offset = from_spherical(azimuth0 + azimuth, new_elevation, distance0 * float(factors["distance"]))
        new_position = camera.look_at + shift + offset
        # What the nominal camera adds to "look straight at the point" (nothing, as a rule) is kept.
        own = look_rotation(azimuth0, elevation0).T @ rotation
        new_rotation = look_rotation(azimuth0 + azimuth, new_elevation) @ own @ _turn(2, roll)
    return np.concatenate([new_position, matrix_to_quaternion(new_rotation), [fov + float(factors["fov"])]])


def sample_poses(cameras: list[NominalCamera], level: str, seed: int, episodes: list[tuple]) -> np.ndarray:
    """Poses (n, V, 8) of n episodes in the parent bodies' frames; each camera has its own stream, so adding one leaves the others alone."""
    poses = np.empty((len(episodes), len(cameras), 8))
    for row, episode in enumerate(episodes):
        for column, camera in enumerate(cameras):
            poses[row, column] = apply_factors(camera, sample_factors(camera, level, rng(seed, f"camera/{camera.name}", *episode)))
    return poses


def to_world(poses: np.ndarray, body_position: np.ndarray, body_quaternion: np.ndarray) -> np.ndarray:
    """Poses (..., 8) from the frame of bodies at position (..., 3), quaternion (..., 4) to the world's frame."""
    rotation = quaternion_to_matrix(body_quaternion)
    position = body_position + (rotation @ poses[..., :3, None])[..., 0]
    return np.concatenate([position, multiply_quaternions(body_quaternion, poses[..., 3:7]), poses[..., 7:]], axis=-1)


def to_spherical(vector: np.ndarray) -> tuple[float, float, float]:
    """Azimuth and elevation in radians and length of a vector (3,)."""
    length = float(np.linalg.norm(vector))
    return float(np.arctan2(vector[1], vector[0])), float(np.arcsin(vector[2] / length)), length


def from_spherical(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """The inverse of `to_spherical`."""
    flat = np.cos(elevation)
    return distance * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])


def look_rotation(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation (3, 3) of an upright camera that sits in that direction from its target and looks at it."""
    back = from_spherical(azimuth, elevation, 1.0)
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.stack([right, np.cross(back, right), back], axis=1)


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of unit quaternions wxyz (..., 4)."""
    w, x, y, z = np.moveaxis(np.asarray(quaternion, dtype=float), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion wxyz (4,) with w >= 0 of a rotation matrix (3, 3)."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix, dtype=float).ravel())
    return quaternion if quaternion[0] >= 0 else -quaternion


def multiply_quaternions(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products (..., 4) of quaternions wxyz."""
    w1, x1, y1, z1 = np.moveaxis(np.asarray(left, dtype=float), -1, 0)
    w2, x2, y2, z2 = np.moveaxis(np.asarray(right, dtype=float), -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def _turn(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) by the angle about x, y or z (0, 1, 2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
