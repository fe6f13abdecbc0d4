import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import cameras, sample_views
from envs.registry import task_class
from robo_repr.core.errors import UserError

angle = st.floats(-3, 3)
unit = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4)
    .map(np.array)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: q / np.linalg.norm(q))
)


@pytest.fixture(scope="module")
def nominal():
    return {c.name: c for c in cameras.nominal_cameras(task_class("reach").spec().compile(), ["front", "left", "wrist"])}


def neutral(**changes):
    return {"azimuth": 0, "elevation": 0, "distance": 1, "look_at": np.zeros(3), "roll": 0, "fov": 0, **changes}


@given(angle, st.floats(-1.5, 1.5), st.floats(0.1, 10))
def test_spherical_round_trip(azimuth, elevation, distance):
    assert np.allclose(cameras.to_spherical(cameras.from_spherical(azimuth, elevation, distance)), (azimuth, elevation, distance))


@given(unit)
def test_quaternion_round_trip(quaternion):
    matrix = cameras.quaternion_to_matrix(quaternion)
    back = cameras.matrix_to_quaternion(matrix)
    assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.isclose(abs(back @ quaternion), 1)


@given(unit, unit)
def test_quaternion_product_is_the_product_of_rotations(left, right):
    product = cameras.quaternion_to_matrix(cameras.multiply_quaternions(left, right))
    assert np.allclose(product, cameras.quaternion_to_matrix(left) @ cameras.quaternion_to_matrix(right))


@pytest.mark.parametrize("view", ["front", "left", "wrist"])
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
