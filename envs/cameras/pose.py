"""A camera's pose, and views as deviations from it.

A view has six factors: azimuth, elevation and distance about the point the camera looks at, an offset of that point, roll about the line to
it, and the field of view. A camera carried by the hand has no fixed point to circle: its mount is turned (azimuth, elevation, roll) and
shifted (look_at) about itself. Poses are (8,) vectors: position 3 in metres, quaternion wxyz 4, vertical field of view in degrees 1, in
MuJoCo's convention (the camera looks along its -z axis, +y is up).
"""

from dataclasses import dataclass

import numpy as np

from envs.render import mujoco
from robo_repr.core.errors import UserError, unknown

FACTORS = ("azimuth", "elevation", "distance", "look_at", "roll", "fov")
# Name -> (...,) deviations: degrees (azimuth, elevation, roll, fov), a factor (distance), or (..., 3) in metres (look_at).
Factors = dict[str, np.ndarray]


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


def nominal_cameras(model: mujoco.MjModel, views: list[str], key: str = "views") -> list[NominalCamera]:
    """The named cameras of a compiled model; a `UserError` about the setting `key` names the nearest camera for an unknown one."""
    names = [model.camera(i).name for i in range(model.ncam)]
    look_at = model.site("look_at").pos.copy()
    cameras = []
    for view in views:
        if view not in names:
            raise unknown(key, view, names)
        camera = model.camera(view)
        body = int(camera.bodyid[0])
        pose = np.concatenate([camera.pos, camera.quat, camera.fovy])
        cameras.append(NominalCamera(view, body, pose, look_at if body == 0 else None))
    if len(set(views)) != len(views):
        raise UserError(f"{key}={views} names a camera twice. Name each camera once; the task has {', '.join(names)}.")
    return cameras


def neutral(frames: int = 1) -> Factors:
    """Factors that deviate in nothing, with that many rows."""
    factors = {name: np.zeros(frames) for name in FACTORS}
    return {**factors, "distance": np.ones(frames), "look_at": np.zeros((frames, 3))}


def apply_factors(camera: NominalCamera, factors: Factors) -> np.ndarray:
    """The poses (..., 8) of a camera whose views deviate from the nominal one by the factors; see `Factors` for their shapes."""
    position, rotation, fov = camera.pose[:3], quaternion_to_matrix(camera.pose[3:7]), camera.pose[7]
    azimuth, elevation, roll = (np.radians(np.asarray(factors[name], dtype=float)) for name in ("azimuth", "elevation", "roll"))
    shift = np.asarray(factors["look_at"], dtype=float)
    if camera.look_at is None:
        new_position = position + shift
        new_rotation = rotation @ _turn(1, azimuth) @ _turn(0, elevation) @ _turn(2, roll)
    else:
        azimuth0, elevation0, distance0 = to_spherical(position - camera.look_at)
        # Beyond 90 degrees the camera has passed over the pole and looks back; the picture's right stays, so nothing flips.
        new_elevation = elevation0 + elevation
        offset = from_spherical(azimuth0 + azimuth, new_elevation, distance0 * np.asarray(factors["distance"], dtype=float))
        new_position = camera.look_at + shift + offset
        new_rotation = look_rotation(azimuth0 + azimuth, new_elevation) @ _turn(2, roll) @ _own_rotation(camera)
    new_fov = fov + np.asarray(factors["fov"], dtype=float)
    return np.concatenate([new_position, matrix_to_quaternion(new_rotation), new_fov[..., None]], axis=-1)


def find_factors(camera: NominalCamera, poses: np.ndarray) -> Factors:
    """Factors that give these poses (..., 8) of a camera, with distance 1: the inverse of `apply_factors`.

    Several sets of factors give one pose, since distance and an offset along the line of sight do the same; so what comes back is exact
    in the pose, and equal to the factors that went in where their distance was 1 and no camera had passed over the pole.
    """
    rotation = quaternion_to_matrix(poses[..., 3:7])
    if camera.look_at is None:
        turn = np.swapaxes(quaternion_to_matrix(camera.pose[3:7]), -1, -2) @ rotation
        azimuth = np.arctan2(turn[..., 0, 2], turn[..., 2, 2])
        elevation = np.arcsin(np.clip(-turn[..., 1, 2], -1, 1))
        roll = np.arctan2(turn[..., 1, 0], turn[..., 1, 1])
        shift = poses[..., :3] - camera.pose[:3]
    else:
        azimuth0, elevation0, distance0 = to_spherical(camera.pose[:3] - camera.look_at)
        rotation = rotation @ _own_rotation(camera).T
        new_azimuth, new_elevation, _ = to_spherical(rotation[..., 2])
        turn = np.swapaxes(look_rotation(new_azimuth, new_elevation), -1, -2) @ rotation
        roll = np.arctan2(turn[..., 1, 0], turn[..., 0, 0])
        shift = poses[..., :3] - camera.look_at - from_spherical(new_azimuth, new_elevation, distance0)
        azimuth = (new_azimuth - azimuth0 + np.pi) % (2 * np.pi) - np.pi
        elevation = new_elevation - elevation0
    degrees = {"azimuth": np.degrees(azimuth), "elevation": np.degrees(elevation), "roll": np.degrees(roll)}
    return {**degrees, "distance": np.ones_like(roll), "look_at": shift, "fov": poses[..., 7] - camera.pose[7]}


def _own_rotation(camera: NominalCamera) -> np.ndarray:
    """What a camera's nominal pose adds to looking straight at its point, (3, 3): nothing, as a rule."""
    azimuth, elevation, _ = to_spherical(camera.pose[:3] - camera.look_at)
    return look_rotation(azimuth, elevation).T @ quaternion_to_matrix(camera.pose[3:7])


def to_world(poses: np.ndarray, body_position: np.ndarray, body_quaternion: np.ndarray) -> np.ndarray:
    """Poses (..., 8) from the frame of bodies at position (..., 3), quaternion (..., 4) to the world's frame."""
    rotation = quaternion_to_matrix(body_quaternion)
    position = body_position + (rotation @ poses[..., :3, None])[..., 0]
    return np.concatenate([position, multiply_quaternions(body_quaternion, poses[..., 3:7]), poses[..., 7:]], axis=-1)


def to_spherical(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Azimuth and elevation in radians and length, each (...,), of vectors (..., 3)."""
    length = np.linalg.norm(vector, axis=-1)
    return np.arctan2(vector[..., 1], vector[..., 0]), np.arcsin(np.clip(vector[..., 2] / length, -1, 1)), length


def from_spherical(azimuth: np.ndarray, elevation: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The inverse of `to_spherical`."""
    flat = np.cos(elevation)
    return np.asarray(distance)[..., None] * np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)


def look_rotation(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) of upright cameras that sit in those directions from their targets and look at them."""
    back = from_spherical(azimuth, elevation, np.ones(()))
    right = np.stack(np.broadcast_arrays(-np.sin(azimuth), np.cos(azimuth), 0.0), axis=-1)
    return np.stack([np.broadcast_to(right, back.shape), np.cross(back, right), back], axis=-1)


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
    """Unit quaternions wxyz (..., 4) with w >= 0 of rotation matrices (..., 3, 3)."""
    rows = np.ascontiguousarray(matrix, dtype=float).reshape(-1, 9)
    quaternions = np.empty((len(rows), 4))
    for row, quaternion in zip(rows, quaternions, strict=True):
        mujoco.mju_mat2Quat(quaternion, row)
    quaternions[quaternions[:, 0] < 0] *= -1
    return quaternions.reshape(*matrix.shape[:-2], 4)


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


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) by angles (...,) about x, y or z (0, 1, 2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., i, j], matrix[..., j, i] = -np.sin(angle), np.sin(angle)
    return matrix
