"""Which views of a start state count: not those that show neither gripper nor task, nor those from inside a table or below the floor."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from envs.cameras import quaternion_to_matrix
from envs.render import Look, mujoco
from envs.sim import ThreadsSim
from envs.tasks.base import ArmTask
from robo_repr.core.errors import UserError

MIN_PIXELS = 8  # of a picture of SIZE x SIZE that a geom has to cover to count as seen
SIZE = 84
MAX_REJECTED, MIN_DRAWN = 0.9, 20
_PLANE, _SPHERE, _CAPSULE = int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)
_ELLIPSOID, _CYLINDER, _BOX = int(mujoco.mjtGeom.mjGEOM_ELLIPSOID), int(mujoco.mjtGeom.mjGEOM_CYLINDER), int(mujoco.mjtGeom.mjGEOM_BOX)


class Fault(IntEnum):
    """Why a view does not count; where there are several reasons, the last of them."""

    NONE = 0
    UNSEEN = 1
    INSIDE = 2
    BELOW = 3


class ViewFilter:
    """Tells which views of a task's start states count.

    A view counts if

    - it shows the gripper (hand and fingers together) and each geom of the task's `shown`, as `covers` has it;
    - its camera, from its centre to its near plane, is inside no solid that is drawn. A mesh is taken for the box around it, and a
      distractor for what the look makes of it;
    - its camera is not below the floor, which is every plane that faces up.

    Nothing is asked of a view that its nominal camera does not give in that very start state, such as an object that the arm hides from it
    too, or a gripper that a hand's camera never shows. Else such a state would lose all its views, and what is left out would be hard
    states, not bad views. So a nominal view always counts.

    Args:
        model: the task's, compiled.
        task: of that model.
    """

    def __init__(self, model: mujoco.MjModel, task: ArmTask):
        self._model = model
        hand = [model.body("hand").id, *(model.jnt_bodyid[model.joint(f"finger_{side}").id] for side in ("left", "right"))]
        self._sought = [np.flatnonzero(np.isin(model.geom_bodyid, hand)), *([model.geom(name).id] for name in task.shown)]
        self._near = model.vis.map.znear * model.stat.extent
        plain, cluttered = (_drawn_geoms(model, clutter) for clutter in (False, True))
        self._geoms = sorted(cluttered)
        self._distractor = ~np.isin(self._geoms, sorted(plain))
        self._column = {model.geom(geom).name: column for column, geom in enumerate(self._geoms)}
        # Half sizes along the geoms' axes, in the renderer's order, which is a look's too: of a tube its radius comes twice.
        types, sizes, boxes = model.geom_type[self._geoms], model.geom_size[self._geoms].copy(), model.geom_aabb[self._geoms]
        tube = np.isin(types, [_CAPSULE, _CYLINDER])
        sizes[tube] = sizes[tube][:, [0, 0, 1]]
        sizes[types == _SPHERE] = sizes[types == _SPHERE][:, [0, 0, 0]]
        boxed = ~np.isin(types, [_PLANE, _SPHERE, _CAPSULE, _ELLIPSOID, _CYLINDER, _BOX])
        self._types = np.where(boxed, _BOX, types)
        self._sizes = np.where(boxed[:, None], boxes[:, 3:], sizes)
        self._centres = np.where(boxed[:, None], boxes[:, :3], 0.0)

    def find_faults(self, sim: ThreadsSim, poses: np.ndarray, nominal: np.ndarray, ids: np.ndarray, looks: list[Look]) -> np.ndarray:
        """Why views do not count.

        Args:
            sim: the worlds, their readings current.
            poses: (n, V, 8) of the cameras in the world's frame.
            nominal: (n, V, 8), where the same cameras would be in these worlds if they had not been moved.
            ids: (n,) which worlds.
            looks: n of them.

        Returns:
            (n, V) int64, a `Fault` each; 0 for the views that count.
        """
        missing = ~covers(sim.render(poses, ids, looks, SIZE, "geoms"), self._sought)
        some = np.flatnonzero(missing.any(axis=(1, 2)))
        if len(some):
            shown = sim.render(nominal[some], ids[some], [looks[i] for i in some], SIZE, "geoms")
            missing[some] &= covers(shown, self._sought)
        inside, below = self._touched(sim, poses, nominal, ids, looks)
        return np.select([below, inside, missing.any(axis=2)], [Fault.BELOW, Fault.INSIDE, Fault.UNSEEN], Fault.NONE)

    def _touched(
        self, sim: ThreadsSim, poses: np.ndarray, nominal: np.ndarray, ids: np.ndarray, looks: list[Look]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether cameras are in a solid or behind a wall, and below a floor, where their nominal ones are not: (n, V) each."""
        model, n = self._model, len(ids)
        positions, quaternions = (part[ids] for part in sim.body_pose(list(range(model.nbody))))
        holders = model.geom_bodyid[self._geoms]
        turned = quaternion_to_matrix(quaternions)[:, holders]
        rotation = turned @ quaternion_to_matrix(model.geom_quat[self._geoms])
        place = positions[:, holders] + (turned @ model.geom_pos[self._geoms][..., None] + rotation @ self._centres[..., None])[..., 0]
        types, sizes = np.tile(self._types, (n, 1)), np.tile(self._sizes, (n, 1, 1))
        there = np.tile(~self._distractor, (n, 1))
        for row, look in enumerate(looks):
            there[row] |= look.clutter
            for name, form in look.form.items():
                if name in self._column:
                    column = self._column[name]
                    types[row, column], sizes[row, column], place[row, column] = form
        points = [self._points(cameras) for cameras in (poses, nominal)]
        moved, unmoved = (_contain(types, sizes, place, rotation, of).any(axis=2) & there[:, None] for of in points)
        touched = moved & ~unmoved
        floor = (types == _PLANE) & (rotation[..., 2, 2] > 0.5)  # steeper ones are walls
        return (touched & ~floor[:, None]).any(axis=2), (touched & floor[:, None]).any(axis=2)

    def _points(self, poses: np.ndarray) -> np.ndarray:
        """Points (n, V, 6, 3) of cameras that nothing may contain: the centre, and the middle and the corners of the near plane."""
        flat = np.array([[0, 0, 0], [0, 0, -1], [-1, -1, -1], [-1, 1, -1], [1, -1, -1], [1, 1, -1]]) * self._near
        points = np.tile(flat, (*poses.shape[:2], 1, 1))
        points[..., :2] *= np.tan(np.radians(poses[..., 7]) / 2)[..., None, None]
        return poses[..., None, :3] + np.einsum("nvij,nvpj->nvpi", quaternion_to_matrix(poses[..., 3:7]), points)


def covers(pictures: np.ndarray, things: Sequence) -> np.ndarray:
    """Whether things are seen.

    Args:
        pictures: (..., SIZE, SIZE) ids of geoms.
        things: ids of the geoms of each.

    Returns:
        (..., things) bool: whether the thing's geoms together cover MIN_PIXELS.
    """
    return np.stack([np.isin(pictures, thing).sum(axis=(-2, -1)) >= MIN_PIXELS for thing in things], axis=-1)


def _contain(types: np.ndarray, sizes: np.ndarray, place: np.ndarray, rotation: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points (n, V, P, 3) are in geoms (n, G): (n, V, P, G) bool."""
    x, y, z = local = np.einsum("ngij,nvpgi->jnvpg", rotation, points[:, :, :, None] - place[:, None, None])  # in each geom's frame
    types, half = types[:, None, None], np.moveaxis(sizes, -1, 0)[:, :, None, None]
    around, along = np.hypot(x, y), np.abs(z)
    return np.select(
        [types == _PLANE, types == _BOX, types == _CYLINDER, types == _CAPSULE],
        [
            z < 0,  # it is solid all the way down
            (np.abs(local) < half).all(axis=0),
            (around < half[0]) & (along < half[2]),
            np.hypot(around, np.maximum(along - half[2], 0)) < half[0],
        ],
        ((local / np.where(half > 0, half, np.inf)) ** 2).sum(axis=0) < 1,  # spheres and ellipsoids; planes' sizes may be 0
    )


def refuse_if_most_rejected(camera: str, counts: np.ndarray) -> None:
    """Refuses a camera setting of whose views next to none counts.

    Args:
        camera: the setting, as the user wrote it.
        counts: (len(Fault),) how many of the views that were drawn had each `Fault`; the first are those that count.

    Raises:
        UserError: more than MAX_REJECTED of at least MIN_DRAWN were rejected.
    """
    drawn, rejected = int(counts.sum()), int(counts[1:].sum())
    if drawn < MIN_DRAWN or rejected <= MAX_REJECTED * drawn:
        return
    unseen, inside, below = (int(counts[fault]) for fault in (Fault.UNSEEN, Fault.INSIDE, Fault.BELOW))
    raise UserError(
        f"Of {drawn} views drawn for the camera setting {camera}, {rejected} do not count: in {unseen} the gripper or what the task shows "
        f"is not to be seen, in {inside} the camera is inside something, in {below} below the floor. At most {MAX_REJECTED:.0%} may be "
        "rejected, or the few that are left are no sample of the setting. Choose a smaller level or a narrower preset, or look at what "
        "the cameras see with scripts/catalog.py cameras."
    )


def _drawn_geoms(model: mujoco.MjModel, clutter: bool) -> set[int]:
    """The ids of the geoms that are in a picture's scene: not those of hidden groups, nor wholly transparent ones."""
    option, scene, data = mujoco.MjvOption(), mujoco.MjvScene(model, maxgeom=max(200, 4 * model.ngeom)), mujoco.MjData(model)
    option.geomgroup[5] = clutter
    mujoco.mj_kinematics(model, data)
    mujoco.mjv_updateScene(model, data, option, None, mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL, scene)
    return {geom.objid for geom in scene.geoms[: scene.ngeom] if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM}
