"""The views that count, and one of each kind that does not."""

from itertools import product

import numpy as np
import pytest

from envs import list_tasks
from envs.appearance import CLUTTER
from envs.cameras import matrix_to_quaternion, quaternion_to_matrix
from envs.render import Look, mujoco
from envs.tasks.reach import Reach
from envs.validity import MIN_DRAWN, Fault, ViewFilter, covers, refuse_if_most_rejected
from robo_repr.core.errors import UserError

OUTSIDE = ["front", "left", "right"]
BALL = np.array([0.6, 0.2, 0.1])
WORKSPACE = np.array([0.5, 0.0, 0.18])


def looking(eye, at, fov: float = 38.0) -> np.ndarray:
    """The pose (8,) of an upright camera at `eye` that looks at `at`."""
    back = np.asarray(eye, dtype=float) - at
    right = np.cross([0, 0, 1], back)
    axes = np.stack([axis / np.linalg.norm(axis) for axis in (right, np.cross(back, right), back)], axis=1)
    return np.concatenate([eye, matrix_to_quaternion(axes), [fov]])


@pytest.fixture
def scene(build):
    """Worlds of reach with the ball at BALL, and `find_faults` for poses that are the same in each of them."""

    class Scene:
        def __init__(self, num_envs=1, views=("front",)):
            self.env = build("reach", num_envs=num_envs, views=list(views), camera="L0", image_size=8, episode_ids=list(range(num_envs)))
            self.env.reset()
            self.put_ball(np.arange(num_envs), BALL)
            self.model = self.env.task.arm.model
            self.filter = ViewFilter(self.model, self.env.task)
            self.nominal = self.env.observation()["camera"].numpy().astype(float)
            self.tool = self.env.sim.readings()["tool_position"].numpy()

        def put_ball(self, worlds, place):
            self.env.sim._batch.bind("mocap_pos")[worlds, 0] = place
            self.env.sim.forward(np.atleast_1d(worlds))

        def faults(self, poses, nominal=None, look=None, ids=None):
            """(n, V) for poses (V, 8)."""
            ids = np.arange(self.env.num_envs) if ids is None else np.array(ids)
            poses = np.tile(poses, (len(ids), 1, 1))
            nominal = np.broadcast_to(self.nominal[ids] if nominal is None else nominal, poses.shape)
            return self.filter.find_faults(self.env.sim, poses, nominal, ids, [look or Look()] * len(ids))

    return Scene


@pytest.mark.parametrize("task", list_tasks())
def test_nominal_views_count(build, task):
    """Also where nothing is forgiven: where each outside camera stands in for another, which sees all."""
    n = 10
    env = build(
        task, num_envs=n, views=[*OUTSIDE, "top", "wrist"], camera="L0", appearance="random", image_size=8, episode_ids=list(range(n))
    )
    env.reset()
    poses = env.observation()["camera"].numpy()
    valid = ViewFilter(env.task.arm.model, env.task)
    assert not valid.find_faults(env.sim, poses, poses, np.arange(n), env._looks).any()
    assert not valid.find_faults(env.sim, poses[:, :3], np.roll(poses[:, :3], 1, axis=1), np.arange(n), env._looks).any()


def test_a_view_of_each_fault(scene):
    found = scene()
    link = found.env.sim.body_pose([found.model.body("link4").id])[0][0, 0]
    cases = [
        (looking([1.4, 0, 0.6], WORKSPACE), Fault.NONE),
        (looking([1.4, 0, 0.6], [2.4, 0, 0.6]), Fault.UNSEEN),  # turned away
        (looking([0.7, 0.05, -0.2], [0.46, 0, -0.2]), Fault.UNSEEN),  # under the table, before its leg
        (looking([3, 0, -0.38], WORKSPACE, 25), Fault.NONE),  # just above the floor
        (looking([3, 0, -0.41], WORKSPACE, 25), Fault.BELOW),
        (looking([5.0, 0, -3], WORKSPACE), Fault.BELOW),
        (looking([0.46, 0.2, -0.02], WORKSPACE), Fault.INSIDE),  # the table
        (looking([0.7, 0.4, 0.005], WORKSPACE, 90), Fault.INSIDE),  # above it by less than the near plane reaches
        (looking([0.86, 0.4, 0.03], WORKSPACE, 90), Fault.NONE),
        (looking(link, WORKSPACE), Fault.INSIDE),  # the arm
        (looking(BALL, WORKSPACE), Fault.INSIDE),
    ]
    poses, expected = zip(*cases, strict=True)
    assert found.faults(np.stack(poses))[0].tolist() == list(expected)


def test_nothing_is_asked_that_the_nominal_camera_does_not_see(scene):
    """World 2 has no ball; the second pose shows the gripper alone, the third nothing."""
    found = scene(num_envs=3)
    found.put_ball(2, [0, 0, -5])
    hand = found.tool.mean(axis=0) + [0, 0, 0.1]
    poses = np.stack([found.nominal[0, 0], looking([1.2, -0.4, 0.4], hand, 22), looking([1.4, 0, 0.6], [2.4, 0, 0.6])])
    all_seen, no_ball = [Fault.NONE, Fault.UNSEEN, Fault.UNSEEN], [Fault.NONE, Fault.NONE, Fault.UNSEEN]
    assert found.faults(poses).tolist() == [all_seen, all_seen, no_ball]
    assert found.faults(poses, ids=[2, 0]).tolist() == [no_ball, all_seen]


def test_what_is_in_the_way_is_that_of_each_world(scene):
    found = scene(num_envs=3)
    found.put_ball(2, [0, 0, -5])
    assert (found.faults(looking(BALL, WORKSPACE)[None], ids=[2, 0]) == Fault.INSIDE).tolist() == [[False], [True]]


def test_the_gripper_is_asked_of_a_hand_camera_that_nominally_shows_it(scene):
    found = scene(views=["wrist"])
    eye, hand = found.nominal[0, 0, :3], found.tool[0] + [0, 0, 0.04]
    away = looking(eye, 2 * eye - hand + [0, 0, 0.01], 20)
    found.put_ball(0, away[:3] + 0.15 * (away[:3] - hand) / np.linalg.norm(away[:3] - hand))  # so that it shows the ball alone
    both = looking(eye, eye + [0, 0.001, -1], 120)
    assert found.faults(away[None], nominal=both).item() == Fault.UNSEEN
    assert found.faults(away[None], nominal=away).item() == Fault.NONE


def test_what_holds_the_nominal_camera_is_no_fault_and_what_else_holds_one_is(scene):
    found = scene()
    table, leg = looking([0.46, 0.2, -0.02], WORKSPACE), looking([0.46, 0, -0.2], WORKSPACE)
    assert found.faults(np.stack([table, leg]), nominal=table)[0].tolist() == [Fault.NONE, Fault.INSIDE]


def test_distractors_count_as_the_look_makes_them_where_it_shows_them(scene):
    found = scene()
    place, kinds = np.array([0.9, -0.4, 0.4]), mujoco.mjtGeom
    for kind, size, inside, outside in (
        (kinds.mjGEOM_BOX, [0.02, 0.05, 0.02], [0, 0.045, 0], [0.05, 0, 0]),
        (kinds.mjGEOM_SPHERE, [0.04] * 3, [0, 0.025, 0.025], [0.04, 0.04, 0]),
        (kinds.mjGEOM_CYLINDER, [0.02, 0.02, 0.08], [0, 0, 0.07], [0.05, 0, 0]),
    ):
        poses = np.stack([looking(place + inside, WORKSPACE), looking(place + outside, WORKSPACE)])
        form = {CLUTTER[0]: (int(kind), np.array(size), place)}
        assert (found.faults(poses, look=Look(form=form, clutter=True))[0] == Fault.INSIDE).tolist() == [True, False]
        assert not (found.faults(poses, look=Look(form=form))[0] == Fault.INSIDE).any()


class Solids(Reach):
    """Reach beside one geom of each type, and others that are not drawn."""

    name = "reach"
    centre = np.array([-1.0, 0.0, 1.0])

    @classmethod
    def spec(cls):
        spec, kinds = super().spec(), mujoco.mjtGeom
        corners = [[x, y, z] for x in (0, 0.08) for y in (0, 0.03) for z in (0, 0.05)]
        spec.add_mesh(name="brick", uservert=np.ravel(corners).tolist())
        body = spec.worldbody.add_body(name="solids", pos=cls.centre, quat=[0.8, 0.3, -0.4, 0.3])
        for row, (kind, size) in enumerate(
            (
                (kinds.mjGEOM_BOX, [0.05, 0.03, 0.02]),
                (kinds.mjGEOM_SPHERE, [0.04, 0, 0]),
                (kinds.mjGEOM_CAPSULE, [0.03, 0.04, 0]),
                (kinds.mjGEOM_CYLINDER, [0.03, 0.05, 0]),
                (kinds.mjGEOM_ELLIPSOID, [0.06, 0.03, 0.04]),
                (kinds.mjGEOM_MESH, [0, 0, 0]),
            )
        ):
            mesh = {"meshname": "brick"} if kind == kinds.mjGEOM_MESH else {}
            place, turn = [0.2 * (row - 2.5), 0, 0], np.roll([0.9, 0.1, 0.2, -0.3], row)
            body.add_geom(name=f"solid_{row}", type=kind, size=size, pos=place, quat=turn, group=1, mass=0, **mesh)
        spec.add_mesh(name="wedge", uservert=[0, 0, 0, 0.3, 0, 0, 0, 0.1, 0, 0, 0, 0.2])
        body.add_geom(name="wedge", type=kinds.mjGEOM_MESH, meshname="wedge", pos=[0, 0, 1], quat=[0.9, 0.1, 0.2, -0.3], group=1, mass=0)
        body.add_geom(name="hidden", type=kinds.mjGEOM_BOX, size=[2, 2, 0.5], group=3, mass=0)
        body.add_geom(name="clear", type=kinds.mjGEOM_BOX, size=[2, 2, 0.5], rgba=[1, 1, 1, 0], mass=0)
        wall = [0.70710678, 0, 0.70710678, 0]  # it faces +x
        spec.worldbody.add_geom(name="wall", type=kinds.mjGEOM_PLANE, size=[0, 0, 1], pos=[-2.5, 0, 0], quat=wall, mass=0)
        probe = spec.worldbody.add_body(name="probe", mocap=True)
        probe.add_geom(name="probe", type=kinds.mjGEOM_SPHERE, size=[1e-4, 0, 0], group=3, mass=0)
        return spec


def test_solids_are_where_mujoco_has_them(build_own):
    env = build_own(Solids, num_envs=1, views=["front"], image_size=8)
    env.reset()
    model, each = env.task.arm.model, 25
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, env.sim.get_state()[0], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_kinematics(model, data)
    solids, probe = [model.geom(f"solid_{row}").id for row in range(6)], model.geom("probe").id
    eyes = np.repeat(data.geom_xpos[solids], each, axis=0) + np.random.default_rng(0).normal(0, 0.035, (6 * each, 3))
    poses = np.stack([looking(eye, eye + [1, 0.1, 0.1], 90) for eye in eyes])
    near = 0.01 * np.array([[0, 0, 0], [0, 0, -1], *([x, y, -1] for x in (-1, 1) for y in (-1, 1))])
    nearest = np.full(len(poses), np.inf)
    for row, pose in enumerate(poses):
        for point in pose[:3] + near @ quaternion_to_matrix(pose[3:7]).T:
            data.mocap_pos[model.body("probe").mocapid] = point
            mujoco.mj_kinematics(model, data)
            nearest[row] = min(nearest[row], *(mujoco.mj_geomDistance(model, data, probe, solid, 1.0, None) for solid in solids))
    nominal = np.broadcast_to(env.observation()["camera"].numpy(), (1, *poses.shape))
    inside = ViewFilter(model, env.task).find_faults(env.sim, poses[None], nominal, np.arange(1), [Look()])[0] == Fault.INSIDE
    plain = np.abs(nearest) > 1e-3  # what is nearer than that to a surface, MuJoCo's search does not tell
    for of_solid in np.split(np.arange(6 * each), 6):
        assert 3 < inside[of_solid].sum() < each - 3
    assert plain.mean() > 0.8 and np.array_equal(inside[plain], nearest[plain] < 0)


def test_a_mesh_is_taken_for_the_box_around_it(build_own):
    env = build_own(Solids, num_envs=1, views=["front"], image_size=8)
    env.reset()
    model = env.task.arm.model
    data, wedge = mujoco.MjData(model), model.geom("wedge").id
    mujoco.mj_kinematics(model, data)
    vertices = model.mesh_vert[model.mesh_vertadr[model.geom_dataid[wedge]] :][:4]
    corners = np.array(list(product(*zip(vertices.min(axis=0), vertices.max(axis=0), strict=True))))
    middle = corners.mean(axis=0)
    for scale, expected in ((0.85, True), (1.25, False)):
        eyes = data.geom_xpos[wedge] + (middle + scale * (corners - middle)) @ data.geom_xmat[wedge].reshape(3, 3).T
        poses = np.stack([looking(eye, eye + [0, 1, 0], 20) for eye in eyes])[None]
        nominal = np.broadcast_to(env.observation()["camera"].numpy(), poses.shape)
        faults = ViewFilter(model, env.task).find_faults(env.sim, poses, nominal, np.arange(1), [Look()])
        assert ((faults == Fault.INSIDE) == expected).all()


def test_a_wall_is_no_floor(build_own):
    env = build_own(Solids, num_envs=1, views=["front"], image_size=8)
    env.reset()
    poses = np.stack([looking([-2.6, 0.3, 0.5], WORKSPACE), looking([-2.4, 0.3, 0.5], WORKSPACE)])[None]
    nominal = np.broadcast_to(env.observation()["camera"].numpy(), poses.shape)
    faults = ViewFilter(env.task.arm.model, env.task).find_faults(env.sim, poses, nominal, np.arange(1), [Look()])[0]
    assert faults[0] == Fault.INSIDE and faults[1] not in (Fault.INSIDE, Fault.BELOW)


def test_eight_pixels_of_one_thing_together_are_enough():
    picture = np.full((1, 84, 84), -1)
    picture[0, 0, :4], picture[0, 1, :4], picture[0, 2, :7] = 3, 4, 5
    assert covers(picture, [[3, 4], [3], [5]]).tolist() == [[True, False, False]]


def test_a_setting_is_refused_when_more_than_nine_in_ten_views_do_not_count():
    half = np.array([MIN_DRAWN // 2, 4, 3, 3])
    for counts in (half, np.array([2, 10, 5, 3]), np.array([0, MIN_DRAWN - 1, 0, 0]), np.zeros(4, int)):
        refuse_if_most_rejected("L5:shell", counts)
    with pytest.raises(UserError) as error:
        refuse_if_most_rejected("dcs:1.0", np.array([1, 11, 5, 3]))
    words = str(error.value)
    assert "\n" not in words and error.value.exit_code == 2
    for part in ("dcs:1.0", "Of 20 views", "19 do not", "in 11 ", "in 5 ", "in 3 "):
        assert part in words
