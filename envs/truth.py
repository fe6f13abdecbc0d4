"""What the simulator knows of a picture and no camera tells: distances, what each pixel shows, where things are."""

from collections.abc import Sequence

import numpy as np

from envs.batch_env import BatchEnv
from envs.cameras import quaternion_to_matrix
from robo_repr.core.errors import unknown

GROUND_TRUTH = ("depth", "segmentation", "poses", "keypoints")


class GroundTruth:
    """Reads ground truth of the worlds of a BatchEnv.

    Args:
        keys: of `GROUND_TRUTH`.
        views: of those that the environment observes.
        size: height and width of the pictures in pixels.

    Attributes:
        keys: what `read` gives.
        names: what the numbers stand for: ``segment_names``, the geom (or, where it has no name, its body) of each index in
            "segmentation"; ``pose_names``, the bodies of "poses"; ``keypoint_names``, the points of "keypoints".

    Raises:
        UserError: an unknown key.
    """

    def __init__(self, env: BatchEnv, keys: Sequence[str], views: Sequence[str], size: int):
        for key in keys:
            if key not in GROUND_TRUTH:
                raise unknown("ground_truth", str(key), GROUND_TRUTH)
        self.keys, self._env, self._views, self._size = list(keys), env, views, size
        model, shown = env.task.arm.model, env.task.shown
        self._bodies = list(range(1, model.nbody))  # without the world itself
        geoms = [model.geom(i) for i in range(model.ngeom)]
        names = {
            "segmentation": ("segment_names", [geom.name or model.body(int(geom.bodyid[0])).name for geom in geoms]),
            "poses": ("pose_names", [model.body(i).name for i in self._bodies]),
            "keypoints": ("keypoint_names", [*shown, "tool"]),
        }
        self.names = dict(names[key] for key in names if key in keys)

    def read(self) -> dict[str, np.ndarray]:
        """The keys' values now, as `robo_repr.data.base.FIELDS` says of a frame, for each world: (N, ...)."""
        return {key: getattr(self, f"_{key}")() for key in self.keys}

    def _depth(self) -> np.ndarray:
        return self._env.depth_at(self._size, views=self._views).astype(np.float16)

    def _segmentation(self) -> np.ndarray:
        return self._env.segment_at(self._size, views=self._views).astype(np.int16)

    def _poses(self) -> np.ndarray:
        positions, quaternions = self._env.sim.body_pose(self._bodies)
        return np.concatenate([positions, quaternions], axis=-1).astype(np.float32)

    def _keypoints(self) -> np.ndarray:
        tool = self._env.sim.readings()["tool_position"].numpy()
        points = np.concatenate([shown_positions(self._env), tool[:, None]], axis=1)
        cameras = self._env.observation()["camera"].cpu().numpy()[:, [self._env.views.index(view) for view in self._views]]
        return project(points, cameras, self._size)


def shown_positions(env: BatchEnv) -> np.ndarray:
    """Where the centres of the geoms lie that the task shows, now: (N, P, 3) in the world, metres, in the order of the task's ``shown``."""
    geoms = [env.task.arm.model.geom(name) for name in env.task.shown]
    positions, quaternions = env.sim.body_pose([int(geom.bodyid[0]) for geom in geoms])
    return positions + np.einsum("npij,pj->npi", quaternion_to_matrix(quaternions), np.array([geom.pos for geom in geoms]))


def project(points: np.ndarray, cameras: np.ndarray, size: int) -> np.ndarray:
    """Where cameras see points, whether or not something hides them.

    Args:
        points: (N, P, 3) in the world.
        cameras: (N, V, 8) world poses.
        size: height and width of the pictures in pixels.

    Returns:
        (N, V, P, 3) float32: column and row in pixels (whole numbers are pixels' centres) and depth in metres; -1, -1 and the negative
        depth for what is behind the camera.
    """
    rotation = quaternion_to_matrix(cameras[..., 3:7])  # (N, V, 3, 3)
    inside = np.einsum("nvij,nvpi->nvpj", rotation, points[:, None] - cameras[:, :, None, :3])
    depth = -inside[..., 2]
    focal = size / 2 / np.tan(np.radians(cameras[..., 7]) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = focal[:, :, None, None] * inside[..., :2] * [1, -1] / depth[..., None]
    pixels = np.where(depth[..., None] > 0, (size - 1) / 2 + offset, -1)
    return np.concatenate([pixels, depth[..., None]], axis=-1).astype(np.float32)
