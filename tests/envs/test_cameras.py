import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import cameras, sample_views
from envs.registry import task_class
from robo_repr.core.errors import UserError

VIEWS = ["front", "left", "right", "top", "wrist"]
angle = st.floats(-3, 3)
unit = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4)
    .map(np.array)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: q / np.linalg.norm(q))
)
point = st.lists(st.floats(-5, 5), min_size=3, max_size=3).map(np.array)


@pytest.fixture(scope="module")
def nominal():
    return {c.name: c for c in cameras.nominal_cameras(task_class("reach").spec().compile(), VIEWS)}


def neutral(**changes):
    return {"azimuth": 0, "elevation": 0, "distance": 1, "look_at": np.zeros(3), "roll": 0, "fov": 0, **changes}


@given(angle, st.floats(-1.5, 1.5), st.floats(0.1, 10))
def test_spherical_round_trip(azimuth, elevation, distance):
    assert np.allclose(cameras.to_spherical(cameras.from_spherical(azimuth, elevation, distance)), (azimuth, elevation, distance))


@given(unit)
def test_quaternion_round_trip(quaternion):
    matrix = cameras.quaternion_to_matrix(quaternion)
    back = cameras.matrix_to_quaternion(matrix)
    assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.isclose(np.linalg.det(matrix), 1)
    assert np.isclose(abs(back @ quaternion), 1) and np.isclose(np.linalg.norm(back), 1)


@given(unit, unit)
def test_quaternion_product_is_the_product_of_rotations(left, right):
    product = cameras.quaternion_to_matrix(cameras.multiply_quaternions(left, right))
    assert np.allclose(product, cameras.quaternion_to_matrix(left) @ cameras.quaternion_to_matrix(right))


@given(unit, point, unit, point)
def test_a_parent_pose_and_its_inverse_give_the_local_pose_back(turn, place, local_turn, local_place):
    local = np.concatenate([local_place, local_turn, [40.0]])
    world = cameras.to_world(local, place, turn)
    inverse = turn * [1, -1, -1, -1]
    back = cameras.to_world(world, -cameras.quaternion_to_matrix(inverse) @ place, inverse)
    assert np.allclose(back, local, atol=1e-6) and np.isclose(np.linalg.norm(world[3:7]), 1)
    rotation = cameras.quaternion_to_matrix
    assert np.allclose(rotation(world[3:7]), rotation(turn) @ rotation(local_turn))
    assert np.allclose(world[:3], place + rotation(turn) @ local_place)


@pytest.mark.parametrize("view", VIEWS)
@settings(max_examples=25)
@given(st.floats(-75, 75), st.floats(-20, 20), st.floats(0.7, 2), st.floats(-20, 20))
def test_roll_turns_about_the_view_axis_and_changes_nothing_else(nominal, view, azimuth, elevation, distance, roll):
    level, rolled = (
        cameras.apply_factors(nominal[view], neutral(azimuth=azimuth, elevation=elevation, distance=distance, roll=angle))
        for angle in (0, roll)
    )
    before, after = cameras.quaternion_to_matrix(level[3:7]), cameras.quaternion_to_matrix(rolled[3:7])
    assert np.allclose(level[:3], rolled[:3]) and level[7] == rolled[7] and np.allclose(before[:, 2], after[:, 2], atol=1e-6)
    turned = before.T @ after[:, 0]  # the picture's new right, in the old picture
    assert np.isclose(np.degrees(np.arctan2(turned[1], turned[0])), roll, atol=1e-4)
    assert np.isclose(np.linalg.norm(rolled[3:7]), 1)


@settings(max_examples=50)
@given(st.floats(-75, 75), st.floats(-20, 20), st.floats(0.7, 2))
def test_an_outside_camera_stands_where_its_factors_say(nominal, azimuth, elevation, distance):
    camera = nominal["left"]
    before = np.array(cameras.to_spherical(camera.pose[:3] - camera.look_at))
    pose = cameras.apply_factors(camera, neutral(azimuth=azimuth, elevation=elevation, distance=distance))
    turn, rise, length = np.array(cameras.to_spherical(pose[:3] - camera.look_at)) - before
    assert np.isclose((np.degrees(turn) - azimuth + 180) % 360, 180) and np.isclose(np.degrees(rise), elevation)
    assert np.isclose(length / before[2], distance - 1)


@settings(max_examples=200)
@given(st.sampled_from(list(cameras.LEVELS)), st.sampled_from(["front", "wrist"]), st.integers(0, 2**63 - 1))
def test_no_draw_leaves_its_level(nominal, level, view, seed):
    occasion = cameras.Occasion(("training", 0, seed), 50)
    factors = {
        name: value[0] for name, value in cameras.parse_camera("camera", level).draw([nominal[view]], seed, occasion)[0].factors.items()
    }
    bound = (cameras.MOUNT_LEVELS if view == "wrist" else cameras.LEVELS)[level]
    assert all(abs(factors[name]) <= getattr(bound, name) for name in ("azimuth", "elevation", "roll", "fov"))
    assert bound.distance[0] <= factors["distance"] <= bound.distance[1]
    assert np.linalg.norm(factors["look_at"]) <= bound.look_at + 1e-12


training = st.tuples(st.just("training"), st.integers(0, 9), st.integers(0, 999))
evaluation = st.tuples(st.just("evaluation"), st.integers(0, 999))
episodes = st.lists(st.one_of(training, evaluation), min_size=2, max_size=5, unique=True)


@settings(max_examples=40, deadline=None)
@given(episodes, st.integers(0, 1000), st.integers(0, 4))
def test_a_pose_depends_on_seed_episode_and_camera_and_not_on_its_batch(nominal, batch, seed, chosen):
    views = [nominal["front"], nominal["left"], nominal["wrist"]]

    def sample_poses(views, level, seed, batch):
        setting = cameras.parse_camera("camera", level)
        drawn = [setting.draw(views, seed, cameras.Occasion(episode, 50)) for episode in batch]
        return np.array([[view.poses[0] for view in row] for row in drawn])

    poses = sample_poses(views, "L3", seed, batch)
    row = chosen % len(batch)
    for column, view in enumerate(views):
        assert np.array_equal(sample_poses([view], "L3", seed, [batch[row]])[0, 0], poses[row, column])
    assert np.array_equal(sample_poses(views, "L3", seed, batch[::-1])[::-1], poses)
    assert len(np.unique(poses[:, 0, 7])) == len(batch)  # each episode its own
    assert (sample_poses(views, "L3", seed + 1, batch) != poses)[..., 7].all()
    assert (poses[:, 0, 7] - views[0].pose[7] != poses[:, 1, 7] - views[1].pose[7]).all()


@pytest.mark.parametrize("view", VIEWS)
def test_no_deviation_is_the_nominal_pose(nominal, view):
    assert np.allclose(cameras.apply_factors(nominal[view], neutral()), nominal[view].pose, atol=1e-6)


@settings(max_examples=50)
@given(
    st.floats(-75, 75), st.floats(-20, 20), st.floats(0.7, 2), st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=3), st.floats(-20, 20)
)
def test_outside_cameras_look_at_the_shifted_point(nominal, azimuth, elevation, distance, shift, roll):
    camera = nominal["front"]
    pose = cameras.apply_factors(
        camera, neutral(azimuth=azimuth, elevation=elevation, distance=distance, look_at=np.array(shift), roll=roll)
    )
    forward = -cameras.quaternion_to_matrix(pose[3:7])[:, 2]
    target = camera.look_at + shift
    found = np.linalg.norm(target - pose[:3])
    assert np.allclose(pose[:3] + found * forward, target, atol=1e-6)
    assert np.isclose(found, distance * np.linalg.norm(camera.pose[:3] - camera.look_at))


def test_a_steep_camera_passes_over_the_pole_without_a_jump(nominal):
    """The top camera's elevation is as wide upwards as downwards; a picture that flipped would turn by 180 degrees at once."""
    camera = nominal["top"]
    poses = np.array([cameras.apply_factors(camera, neutral(elevation=angle)) for angle in range(-45, 46)])
    assert poses[0, 0] > camera.look_at[0] > poses[-1, 0]  # at 105 degrees of elevation it is on the other side
    turns = [2 * np.degrees(np.arccos(min(1, abs(a @ b)))) for a, b in zip(poses[:-1, 3:7], poses[1:, 3:7], strict=True)]
    assert np.allclose(turns, 1, atol=1e-3)
    forward = -cameras.quaternion_to_matrix(poses[:, 3:7])[:, :, 2]
    assert np.allclose(poses[:, :3] + 1.1 * forward, camera.look_at, atol=1e-5)


def test_single_factors_do_what_they_say(nominal):
    camera = nominal["front"]
    turned = cameras.apply_factors(camera, neutral(azimuth=30))
    before, after = camera.pose[:3] - camera.look_at, turned[:3] - camera.look_at
    assert np.isclose(np.degrees(cameras.to_spherical(after)[0] - cameras.to_spherical(before)[0]), 30) and np.isclose(after[2], before[2])
    assert np.isclose(cameras.apply_factors(camera, neutral(fov=4))[7], camera.pose[7] + 4)
    mount = cameras.apply_factors(nominal["wrist"], neutral(look_at=np.array([0.01, 0, 0])))
    assert np.allclose(mount[:3] - nominal["wrist"].pose[:3], [0.01, 0, 0])


@pytest.mark.parametrize("view", ["front", "wrist"])
@pytest.mark.parametrize("level", list(cameras.LEVELS))
def test_draws_fill_the_level_and_never_leave_it(level, view):
    factors = sample_views(level, 512, views=view, seed=3)["factors"]
    bound = (cameras.MOUNT_LEVELS if view == "wrist" else cameras.LEVELS)[level]
    for name in ("azimuth", "elevation", "roll", "fov"):
        limit = getattr(bound, name)
        assert np.abs(factors[name]).max() <= limit and factors[name].max() >= 0.9 * limit and -factors[name].min() >= 0.9 * limit
    low, high = bound.distance
    assert low <= factors["distance"].min() <= 1 - 0.9 * (1 - low) and 1 + 0.9 * (high - 1) <= factors["distance"].max() <= high
    assert np.linalg.norm(factors["look_at"], axis=-1).max() <= bound.look_at + 1e-12
    assert np.linalg.norm(factors["look_at"], axis=-1).max() >= 0.9 * bound.look_at


def test_levels_grow():
    levels = list(cameras.LEVELS.values())
    for small, large in zip(levels, levels[1:], strict=False):
        assert small.azimuth < large.azimuth and small.look_at < large.look_at and small.distance[1] < large.distance[1]


def test_a_camera_draws_the_same_whoever_else_is_there():
    together = sample_views("L3", 5, views=["front", "left"], seed=1)["poses"]
    alone = sample_views("L3", 5, views="left", seed=1)["poses"]
    assert np.array_equal(together[:, 1], alone[:, 0]) and not np.allclose(together[:, 0], together[:, 1])
    assert not np.array_equal(alone, sample_views("L3", 5, views="left", seed=2)["poses"])


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UserError, match="front"):
        sample_views("L1", views=["frnt"])
    with pytest.raises(UserError, match="L5"):
        sample_views("L9")
    with pytest.raises(UserError, match="twice"):
        sample_views("L1", views=["front", "front"])
