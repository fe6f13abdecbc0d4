"""Presets draw what their papers publish: its ranges, by what is drawn and by the poses, and in a paper's scene its very poses."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs.cameras import (
    FACTORS,
    PRESETS,
    NominalCamera,
    Occasion,
    apply_factors,
    nominal_cameras,
    parse_camera,
    quaternion_to_matrix,
    to_spherical,
)
from envs.cameras.presets import Bound, describe_bounds, find_preset
from envs.registry import task_class
from robo_repr.core.errors import UserError

DRAWS = 512
ALL = [f"{name}:{word}" if word else name for name, entry in PRESETS.items() for word in entry.samplers]
EVERY_WAY = [text for text in ALL if not text.startswith(("liberoplus", "kitchenshift"))]  # elsewhere what is drawn depends on each other
INF = np.inf


def occasion(horizon=100, number=0):
    return Occasion(("evaluation", number), horizon, 1.0)


@pytest.fixture(scope="module")
def cameras():
    return {camera.name: camera for camera in nominal_cameras(task_class("reach").spec().compile(), ["front", "left", "top", "wrist"])}


def standing(position, rotation, look_at, fov=40.0):
    """A camera of another scene; the rotation is a scipy one."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat() if isinstance(rotation, np.ndarray) else rotation.as_quat()
    return NominalCamera("theirs", 0, np.array([*position, w, x, y, z, fov]), np.array(look_at, dtype=float))


def free_camera(azimuth, elevation, distance, look_at):
    """Position and rotation of MuJoCo's free camera, which is given by where it looks."""
    azimuth, elevation = np.radians([azimuth, elevation])
    ahead = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0])
    return look_at - distance * ahead, np.stack([right, np.cross(right, ahead), -ahead], axis=1)


def poses(text, camera, draws=DRAWS, seed=0, horizon=100):
    """All views of that many episodes, (draws * T, 8)."""
    sampler, generator = find_preset(text), np.random.default_rng(seed)
    drawn = [sampler.draw(camera, generator, occasion(horizon)) for _ in range(draws)]
    return apply_factors(camera, {name: np.concatenate([factors[name] for factors in drawn]) for name in FACTORS})


def published(text, camera, draws=DRAWS, seed=0):
    """Quantity -> its draws, (n, ...); what moves gives one for each frame."""
    sampler, generator = find_preset(text), np.random.default_rng(seed)
    drawn = [sampler.published(camera, generator, occasion()) for _ in range(draws)]
    return {name: np.array([one[name] for one in drawn]) for name in sampler.bounds}


def measure(camera, views):
    """What can be read off poses (n, 8), without the code that made them: angles in degrees."""
    rotation, nominal = (Rotation.from_quat(pose[..., [4, 5, 6, 3]]) for pose in (views, camera.pose))
    line, line0 = views[:, :3] - camera.look_at, camera.pose[:3] - camera.look_at
    azimuth, elevation, distance = (np.asarray(new) - old for new, old in zip(to_spherical(line), to_spherical(line0), strict=True))
    back, back0 = rotation.as_matrix()[:, :, 2], nominal.as_matrix()[:, 2]
    right = rotation.as_matrix()[:, :, 0]
    level = np.cross([0, 0, 1], back)  # the picture's right, were the camera upright
    heading = np.arctan2(back[:, 1], back[:, 0]) - np.arctan2(back0[1], back0[0])
    flat = np.hypot(line[:, 0], line[:, 1])
    return {
        "offset": views[:, :3] - camera.pose[:3],
        "azimuth": np.degrees((azimuth + np.pi) % (2 * np.pi) - np.pi),
        "elevation": np.degrees(elevation),
        "distance": 1 + distance / np.linalg.norm(line0),
        "fov": views[:, 7] - camera.pose[7],
        "turn": np.degrees((rotation * nominal.inv()).magnitude()),
        "roll": np.degrees(np.arcsin(np.clip((np.cross(level, right) * back).sum(axis=1) / np.linalg.norm(level, axis=1), -1, 1))),
        "heading": np.degrees((heading + np.pi) % (2 * np.pi) - np.pi),
        "radius": flat - np.hypot(*line0[:2]),
        "height": line[:, 2] - line0[2],
        "miss": np.degrees(np.arccos(np.clip((back * line).sum(axis=1) / np.linalg.norm(line, axis=1), -1, 1))),
    }


def fills(values, low, high, hole=None):
    """Whether the values lie within and reach across 0.9 of the range, and of each side of a hole."""
    values, tiny = np.ravel(values), 1e-4 + 1e-6 * abs(high - low)
    if not len(values) or values.min() < low - tiny or values.max() > high + tiny:
        return False
    if hole is None:
        return np.ptp(values) >= 0.9 * (high - low) - tiny
    below, above = values[values <= hole[0] + tiny], values[values >= hole[1] - tiny]
    return len(below) + len(above) == len(values) and fills(below, low, hole[0]) and fills(above, hole[1], high)


def test_a_range_is_filled_only_by_what_fills_it():
    grid = np.linspace(-1, 1, 50)
    assert fills(grid, -1, 1) and not fills(0.8 * grid, -1, 1) and not fills(1.01 * grid, -1, 1)
    assert not fills(grid, -1, 1, (-0.5, 0.5)) and fills(grid[abs(grid) > 0.5], -1, 1, (-0.5, 0.5))
    assert not fills(grid[grid > 0.5], -1, 1, (-0.5, 0.5)), "one side alone"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", ALL)
def test_what_is_drawn_fills_the_published_ranges(cameras, text, seed):
    drawn = published(text, cameras["front"], seed=seed)
    for name, bound in find_preset(text).bounds.items():
        values = drawn[name]
        low, high = (np.clip(value, -30, 60) if (text[:3], name) == ("dcs", "elevation") else value for value in bound[:2])
        if bound.normal:
            deviation = (bound.high - bound.low) / 2
            assert abs(values.std() / deviation - 1) < 0.15 and abs(values.mean()) < 0.2 * deviation, name
        else:
            assert fills(values, low, high, bound.hole), name


# By the papers, not by the bounds: 512 poses of the front camera, which stands 30 degrees above its point, 1.1 m away.
RADIUS, DISTANCE = 1.1 * np.cos(np.radians(30)), 1.1 / (1.35 / np.cos(np.radians(27)))
READ = {
    "dcs:0.025": {"azimuth": (-2.25, 2.25), "elevation": (-2.25, 2.25), "distance": (0.9875, 1.0375), "roll": (-2.25, 2.25)},
    "dcs:0.2": {"azimuth": (-18, 18), "elevation": (-18, 18), "distance": (0.9, 1.3), "roll": (-18, 18), "miss": (0, 0), "fov": (0, 0)},
    "dcs:0.5": {"azimuth": (-45, 45), "elevation": (-30, 45), "distance": (0.75, 1.75), "roll": (-45, 45)},
    "rlvigen_dmc:easy": {"offset": (-0.08, 0.08), "turn": (0, 0), "fov": (0, 0)},
    "rlvigen_dmc:hard": {"offset": (-0.15, 0.15), "turn": (0, 0), "fov": (0, 0)},
    "rlvigen_robosuite:easy": {"offset": (-0.12, 0.12), "turn": (0, 6.875), "fov": (-10, 10)},
    "rlvigen_robosuite:hard": {"offset": (-0.16, 0.16), "turn": (0, 9.167), "fov": (-20, 20)},
    "movie:novel": {"azimuth": (18, 18), "elevation": (12, 12), "distance": (1, 1), "miss": (0, 0), "fov": (0, 0)},
    "movie:moving": {"azimuth": (-18, 18), "elevation": (-12, 12), "distance": (1, 1), "miss": (0, 0), "fov": (0, 0)},
    "movie:shaking": {"offset": (-0.07, 0.07), "turn": (0, 0), "fov": (0, 0)},
    "movie:fov": {"offset": (0, 0), "turn": (0, 0), "fov": (8, 8)},
    "mvmwm:weak": {"azimuth": (-5, 5), "radius": (-0.1 * DISTANCE, 0.1 * DISTANCE), "height": (-0.1 * DISTANCE, 0.1 * DISTANCE)},
    "mvmwm:medium": {"azimuth": (-7.5, 7.5), "radius": (-0.15 * DISTANCE, 0.15 * DISTANCE), "height": (-0.15 * DISTANCE, 0.15 * DISTANCE)},
    "mvmwm:strong": {
        "azimuth": (-10, 10, (-7.5, 7.5)),
        "radius": (-0.2 * DISTANCE, 0.2 * DISTANCE, (-0.15 * DISTANCE, 0.15 * DISTANCE)),
        "height": (-0.2 * DISTANCE, 0.2 * DISTANCE, (-0.15 * DISTANCE, 0.15 * DISTANCE)),
    },
    "vista:arc": {"heading": (-45, 45), "height": (0, 0), "roll": (0, 0), "fov": (0, 0)},
    "colosseum": {"offset": (-0.1, 0.1), "fov": (0, 0)},
    "factorworld": {
        "azimuth": (-22.5, 22.5),
        "elevation": (-7.5, 7.5),
        "distance": (1.25 / 1.5, 1.75 / 1.5),
        "roll": (0, 0),
        "miss": (0, 0),
    },
    "maniwhere": {"azimuth": (-60, 60), "elevation": (-12.5, 7.5), "distance": (0.8, 1.1), "fov": (-4, 4), "roll": (0, 0)},
    "squint": {"offset": (-0.025, 0.025), "fov": (-5, 5)},
    "liberoplus:1": {"azimuth": (-38, 72), "elevation": (0, 15), "distance": (1, 1.68), "fov": (0, 0)},
    **{
        f"liberoplus:{level}": {"azimuth": (-75, right), "elevation": (0, 15), "distance": (1, far), "fov": (0, 0)}
        for level, right, far in ((2, 75, 1.99), (3, 75, 2), (4, 74, 2), (5, 75, 2))
    },
}


@pytest.mark.parametrize("text", READ)
def test_poses_fill_the_published_ranges(cameras, text):
    read = measure(cameras["front"], poses(text, cameras["front"], 64 if parse_camera("camera", text).moves else DRAWS))
    for name, (low, high, *hole) in READ[text].items():
        assert fills(read[name], low, high, *hole), (name, read[name].min(), read[name].max())


def test_a_camera_of_dcs_stays_above_the_ground_and_is_not_pressed_onto_it(cameras):
    read = measure(cameras["front"], poses("dcs:1", cameras["front"]))
    assert fills(read["elevation"], -30, 60) and fills(read["azimuth"], -90, 90)
    assert (read["elevation"] < -29.9).sum() < 10 and (read["elevation"] > 59.9).sum() < 10


def test_normal_ones_spread_as_published(cameras):
    small, third = (measure(cameras["left"], poses(text, cameras["left"])) for text in ("vista:small", "squint"))
    assert np.allclose(small["offset"].std(axis=0), 0.03, rtol=0.12) and np.allclose(small["offset"].mean(axis=0), 0, atol=0.005)
    assert np.isclose(np.sqrt((small["turn"] ** 2).mean()), np.degrees(0.075), rtol=0.1)
    assert np.isclose(third["roll"].std(), 1, rtol=0.12)
    # As seen from 1.1 m, a point that is 1 mm beside its place in two directions.
    assert np.isclose(third["miss"].mean(), np.degrees(0.001 / 1.1) * np.sqrt(np.pi / 2), rtol=0.1)
    arc = poses("vista:arc", cameras["left"])
    turned = arc[:, :3] - cameras["left"].pose[:3]
    chord = np.hypot(*turned[:, :2].T) / (2 * np.abs(np.sin(np.radians(measure(cameras["left"], arc)["heading"]) / 2)))
    base = np.linalg.norm(cameras["left"].pose[:3])  # the arm stands at the origin
    assert np.isclose(chord.std(), 0.05 * np.cos(np.radians(30)), rtol=0.12)
    assert np.isclose(chord.mean(), base * np.cos(np.radians(30)), rtol=0.01)


def test_strong_views_of_mvmwm_are_held_out_in_everything(cameras):
    strong = published("mvmwm:strong", cameras["front"])
    for inner in ("weak", "medium"):
        for name, values in published(f"mvmwm:{inner}", cameras["front"]).items():
            assert not ((strong[name] > values.min()) & (strong[name] < values.max())).any(), name
    weak, medium = (published(f"mvmwm:{inner}", cameras["front"])["theta"] for inner in ("weak", "medium"))
    assert ((medium > weak.min()) & (medium < weak.max())).any(), "weak lies within medium"


def test_two_sides_are_drawn_in_proportion_to_their_widths():
    values = Bound(0, 10, "m", (4000,), hole=(1, 7)).draw(np.random.default_rng(0))
    assert abs((values < 1).mean() - 0.25) < 0.03 and not ((values > 1) & (values < 7)).any()


@pytest.mark.parametrize(
    ("level", "counts", "raised", "azimuth", "distance"),  # of the level's variants: kinds, those 15 degrees higher, medians
    [
        (1, (110, 23, 66), 42, 27, 1.27),
        (2, (199, 70, 91), 111, 34, 1.52),
        (3, (209, 74, 42), 124, 47, 1.58),
        (4, (129, 60, 39), 77, 45, 1.64),
        (5, (345, 86, 56), 195, 53, 1.76),
    ],
)
def test_each_view_of_liberoplus_changes_one_thing_as_often_and_as_far_as_its_variants(cameras, level, counts, raised, azimuth, distance):
    drawn = published(f"liberoplus:{level}", cameras["front"], 2000)
    kinds = [(drawn["azimuth"] != 0) | (drawn["elevation"] != 0), drawn["distance"] != 1, (drawn["yaw"] != 0) | (drawn["pitch"] != 0)]
    assert (np.sum(kinds, axis=0) == 1).all()
    assert np.allclose(np.mean(kinds, axis=1), np.array(counts) / sum(counts), atol=0.04)
    assert set(drawn["elevation"]) == {0, 15} and not (drawn["yaw"] % 2).any() and not (drawn["pitch"] % 2).any()
    assert abs((drawn["elevation"][kinds[0]] == 15).mean() - raised / counts[0]) < 0.06
    assert abs(np.median(abs(drawn["azimuth"][kinds[0]])) - azimuth) < 4
    assert abs(np.median(drawn["distance"][kinds[1]]) - distance) < 0.08


def test_mvmwm_in_its_own_scene_gives_its_own_poses():
    tilt = np.radians(27)
    nominal = standing((1.35, 0, 1.6), Rotation.from_quat([0.369462, 0.369462, 0.602908, 0.602908]), (0, 0, 1.6 - 1.35 * np.tan(tilt)))
    # theta, phi, radius, height, axis -> position and quaternion wxyz, worked out from the simulator's calls
    for drawn, expected in (
        ((0, 27, 1.35, 1.6, 0), (1.35, 0, 1.6, 0.602908, 0.369462, 0.369462, 0.602908)),
        ((5, 27, 1.35, 1.6, 0), (1.344863, -0.117660, 1.6, 0.618450, 0.395409, 0.342812, 0.586218)),
        ((10, 29, 1.55, 1.8, -10), (1.526452, -0.269155, 1.8, 0.671583, 0.353432, 0.353432, 0.546944)),
    ):
        theta, phi, radius, height, axis = np.array(drawn, dtype=float)
        quantities = {"theta": theta, "phi": phi, "radius": radius, "height": height, "axis": axis}
        factors = find_preset("mvmwm:weak").factors(nominal, quantities)
        assert np.allclose(apply_factors(nominal, factors)[0, :7], expected, atol=1e-5)


def test_kitchenshift_in_its_own_scene_gives_its_ten_cameras():
    middle = np.array([-0.05, 0.5, 2])
    nominal = standing(*free_camera(90, -50, 2.9, middle), middle)
    theirs = [
        (2.2, 70, -35, (-0.2, 0.5, 2)),
        (2.2, 70, -50, (-0.2, 0.5, 2)),
        (2.65, 90, -60, (0, 0, 2)),
        (2.5, 90, -60, (-0.2, 0.5, 2)),
        (2.5, 90, -45, (-0.2, 0.5, 2)),
        (2.9, 90, -50, middle),
        (2.2, 90, -50, (-0.2, 0.5, 2)),
        (2.2, 90, -35, (-0.2, 0.5, 2)),
        (2.2, 90, -10, (-0.2, 0.5, 2)),
        (4.5, -66, -65, middle),  # it has no point of its own
    ]
    views = poses("kitchenshift", nominal)
    seen = np.zeros(len(views), dtype=int)
    for distance, azimuth, elevation, look_at in theirs:
        position, rotation = free_camera(azimuth, elevation, distance, np.array(look_at))
        same = np.abs(views[:, :3] - position).max(axis=1) < 1e-6
        assert 25 < same.sum() < 85, "each as likely"
        assert np.allclose(quaternion_to_matrix(views[same, 3:7]), rotation, atol=1e-5)
        seen += same
    assert (seen == 1).all()


def test_liberoplus_in_its_own_scene_turns_as_its_code_does():
    position, turn = np.array([0.6586, 0.0, 1.6104]), Rotation.from_quat([0.30485, 0.30485, 0.638018, 0.638018])
    pivot = np.array([0, 0, 0.8])
    nominal = standing(position, turn, pivot)
    for values in ((40, 15, 1, 0, 0), (-75, 0, 1, 0, 0), (0, 0, 1.7, 0, 0), (0, 0, 1, 8, -10), (0, 0, 1, 0, 6)):
        azimuth, elevation, distance, yaw, pitch = np.array(values, dtype=float)
        quantities = {"azimuth": azimuth, "elevation": elevation, "distance": distance, "yaw": yaw, "pitch": pitch}
        factors = find_preset("liberoplus:1").factors(nominal, quantities)
        orbit = Rotation.from_euler("z", azimuth, degrees=True) * Rotation.from_euler("y", -elevation, degrees=True)
        expected = Rotation.from_euler("y", -pitch, degrees=True) * Rotation.from_euler("z", yaw, degrees=True) * orbit * turn
        pose = apply_factors(nominal, factors)[0]
        assert np.allclose(pose[:3], pivot + distance * orbit.apply(position - pivot), atol=1e-6)
        assert np.allclose(quaternion_to_matrix(pose[3:7]), expected.as_matrix(), atol=1e-5)


@pytest.mark.parametrize("view", ["front", "left", "top"])
def test_colosseum_shifts_the_euler_angles_of_its_simulator(cameras, view):
    flip = np.diag([-1.0, 1.0, -1.0])
    pose = cameras[view].pose
    before = Rotation.from_matrix(quaternion_to_matrix(pose[3:7]) @ flip).as_euler("XYZ")
    after = Rotation.from_matrix(quaternion_to_matrix(poses("colosseum", cameras[view])[:, 3:7]) @ flip).as_euler("XYZ")
    assert all(fills((after - before + np.pi) % (2 * np.pi) - np.pi, -0.05, 0.05) for after, before in zip(after.T, before, strict=True))


def test_maniwhere_looks_at_a_point_near_its_own(cameras):
    sampler, camera, generator = find_preset("maniwhere"), cameras["left"], np.random.default_rng(0)
    for _ in range(20):
        drawn = sampler.published(camera, generator, occasion())
        pose = apply_factors(camera, sampler.factors(camera, drawn))[0]
        line = pose[:3] - camera.look_at - [*drawn["look_at_xy"], drawn["look_at_z"]]
        assert np.allclose(line / np.linalg.norm(line), quaternion_to_matrix(pose[3:7])[:, 2], atol=1e-5)


@pytest.mark.parametrize("text", ALL)
def test_the_hand_camera_moves_in_squint_alone(cameras, text):
    views = poses(text, cameras["wrist"], 200)
    offset = views[:, :3] - cameras["wrist"].pose[:3]
    if text != "squint":
        assert np.allclose(views, cameras["wrist"].pose, atol=1e-9) and not find_preset(text).perturbs(cameras["wrist"])
        return
    angles = (Rotation.from_quat(cameras["wrist"].pose[[4, 5, 6, 3]]).inv() * Rotation.from_quat(views[:, [4, 5, 6, 3]])).as_euler(
        "YXZ", True
    )
    assert all(fills(one, -0.002, 0.002) for one in offset.T) and all(fills(one, -1, 1) for one in angles.T)
    assert fills(views[:, 7] - cameras["wrist"].pose[7], -1, 1)


def test_metres_of_absolute_presets_alone_scale_with_the_distance(cameras):
    near = cameras["left"]
    pose = near.pose.copy()
    pose[:3] = near.look_at + 2 * (pose[:3] - near.look_at)
    far = NominalCamera("far", 0, pose, near.look_at)
    for text in EVERY_WAY + ["kitchenshift"]:
        one, two = (measure(camera, poses(text, camera, 3)) for camera in (near, far))
        if text in ("mvmwm:weak", "mvmwm:medium", "mvmwm:strong", "factorworld", "kitchenshift"):
            assert np.allclose(two["radius"], 2 * one["radius"], atol=1e-6) and not PRESETS[text.split(":")[0]].relative, text
        elif text.startswith(("rlvigen", "movie:shaking", "vista:small", "colosseum", "squint")):
            assert np.allclose(two["offset"], one["offset"], atol=1e-6) and PRESETS[text.split(":")[0]].relative, text
        else:
            assert PRESETS[text.split(":")[0]].relative, text
        assert np.allclose(two["fov"], one["fov"], atol=1e-9)


def test_shifts_of_absolute_presets_turn_with_the_camera(cameras):
    front, left = cameras["front"], cameras["left"]
    turn = Rotation.from_euler("z", np.arctan2(*(left.pose[:3] - left.look_at)[[1, 0]]))
    for text in ("mvmwm:strong", "kitchenshift"):
        one, two = (measure(camera, poses(text, camera, 40))["offset"] for camera in (front, left))
        assert np.allclose(turn.apply(one), two, atol=1e-5), text
    one, two = (measure(camera, poses("colosseum", camera, 40))["offset"] for camera in (front, left))
    assert np.allclose(one, two, atol=1e-6), "those of relative presets lie along the world's axes"


def test_a_swing_has_the_papers_speed_whatever_the_horizon(cameras):
    short, long = (measure(cameras["front"], poses("movie:moving", cameras["front"], 1, horizon=horizon)) for horizon in (30, 250))
    assert len(short["azimuth"]) == 31 and np.allclose(short["azimuth"], long["azimuth"][:31])
    assert np.allclose(long["azimuth"][[0, 25, 50, 75, 100, 150]], [18, 0, -18, 0, 18, -18], atol=1e-6)
    assert np.allclose(np.abs(np.diff(long["elevation"])), 0.48, atol=1e-6)


def test_shaking_is_new_at_each_step_and_often_at_its_edge(cameras):
    shaken = measure(cameras["front"], poses("movie:shaking", cameras["front"], 20))["offset"]
    inside = np.abs(shaken) < 0.07 - 1e-9
    assert abs(inside.mean() - 0.9804) < 0.01, "normal with a deviation of 3 cm"
    assert abs(np.corrcoef(shaken[:-1, 0], shaken[1:, 0])[0, 1]) < 0.1
    assert find_preset("movie:shaking").moves and not find_preset("movie:novel").moves


def test_any_scale_of_dcs_is_taken(cameras):
    read = measure(cameras["front"], poses("dcs:0.333", cameras["front"]))
    assert fills(read["azimuth"], -29.97, 29.97) and fills(read["distance"], 0.8335, 1.4995)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colloseum", "camera=colosseum"),
        ("movie:novl", "camera=movie:novel"),
        ("rlvigen_dmc:medium", "rlvigen_dmc:easy, rlvigen_dmc:hard"),
        ("liberoplus:6", "liberoplus:5"),
        ("liberoplus:0", "liberoplus:1"),
        ("mvmwm", "camera=mvmwm does not say which is meant.*mvmwm:weak, mvmwm:medium, mvmwm:strong"),
        ("vista:", "vista:small, vista:arc"),
        ("colosseum:hard", "nothing stands behind colosseum"),
        ("squint:", "Write camera=squint"),
        ("dcs", "above 0 and at most 1. Such as camera=dcs:0.2"),
        ("dcs:", "above 0"),
        ("dcs:0", "above 0"),
        ("dcs:1.5", "at most 1"),
        ("dcs:nan", "above 0"),
        ("dcs:easy", "above 0"),
    ],
)
def test_mistakes_are_explained(text, words):
    with pytest.raises(UserError, match=words):
        find_preset(text)


def test_ranges_are_told_in_a_line():
    assert (
        describe_bounds(find_preset("rlvigen_robosuite:easy").bounds) == "position -0.12 to 0.12 m, angle 0 to 0.12 rad, fov -10 to 10 deg"
    )
    assert "theta -10 to -7.5 or 7.5 to 10 deg" in describe_bounds(find_preset("mvmwm:strong").bounds)
    assert describe_bounds(find_preset("movie:fov").bounds) == "fov +8 deg"
    assert "position normal, deviation 0.03 m" in describe_bounds(find_preset("vista:small").bounds)
    assert describe_bounds(find_preset("dcs:0.5").bounds).endswith("distance x0.75 to x1.75")
