"""What the strings of camera settings mean: levels and their shells, single factors, movements, who moves, schedules, manifests."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import list_tasks, make_env, sample_views, write_manifest
from envs.cameras import FACTORS, LEVELS, MOUNT_LEVELS, NominalCamera, Occasion, apply_factors, find_factors, nominal_cameras, parse_camera
from envs.cameras.levels import GRID
from envs.registry import task_class
from robo_repr.core.errors import UserError

MODEL = task_class("reach").spec().compile()
CAMERAS = {camera.name: camera for camera in nominal_cameras(MODEL, ["front", "left", "top", "wrist"])}


def drawn(text, view="front", episode=("evaluation", 3), seed=0, horizon=100, progress=1.0, attempt=0):
    setting = parse_camera("camera", text)
    setting.bind(MODEL, "reach", [view])
    return setting.draw([CAMERAS[view]], seed, Occasion(episode, horizon, progress), [attempt])[0]


def deviations(factors, bound):
    """How far factors (n, V) are from nominal in units of a level's bounds, the largest of all: (n,)."""
    low, high = bound.distance
    distance = np.where(factors["distance"] < 1, (1 - factors["distance"]) / (1 - low), (factors["distance"] - 1) / (high - 1))
    others = [np.abs(factors[name]) / getattr(bound, name) for name in ("azimuth", "elevation", "roll", "fov")]
    shift = np.linalg.norm(factors["look_at"], axis=-1) / bound.look_at
    return np.max([distance, shift, *others], axis=0)[:, 0]


@settings(max_examples=60)
@given(st.sampled_from(sorted(CAMERAS)), st.sampled_from(["L3", "L5", "L3:jitter", "L4:drift"]), st.integers(0, 10**6))
def test_poses_and_factors_round_trip(view, text, number):
    camera, view = CAMERAS[view], drawn(text, view, ("evaluation", number))
    found = find_factors(camera, view.poses)
    assert np.allclose(apply_factors(camera, found), view.poses, atol=1e-9)
    if not camera.mounted:
        moved = {**view.factors, "distance": np.ones(len(view.poses))}  # a distance comes back as an offset along the line of sight
        back = find_factors(camera, apply_factors(camera, moved))
        if np.abs(60 + view.factors["elevation"]).max() < 89:  # the top camera passes over the pole
            assert all(np.allclose(back[name], moved[name], atol=1e-6) for name in FACTORS)


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_shells_are_disjoint_and_within_their_level(level):
    factors = sample_views(f"L{level}:shell", 300, views="front", seed=level)["factors"]
    assert (deviations(factors, LEVELS[f"L{level}"]) <= 1).all()
    assert (deviations(factors, LEVELS[f"L{level - 1}"]) > 1).all()
    within = sample_views(f"L{level}", 2000, views="front", seed=level)["factors"]
    assert (deviations(within, LEVELS[f"L{level - 1}"]) <= 1).any(), "the control: the whole level reaches into the one below"


def test_the_first_shell_is_the_first_level():
    assert np.array_equal(sample_views("L1:shell", 5)["poses"], sample_views("L1", 5)["poses"])
    assert np.array_equal(drawn("L0:shell").poses[0], CAMERAS["front"].pose)


@pytest.mark.parametrize("factor", FACTORS)
def test_one_factor_moves_alone(factor):
    factors = sample_views(f"L3:{factor}", 200, views="front")["factors"]
    for name in FACTORS:
        nominal = 1.0 if name == "distance" else 0.0
        moved = np.abs(factors[name] - nominal).reshape(200, -1).max(axis=1)
        assert (moved > 0).all() if name == factor else not moved.any()
    shell = sample_views(f"L3:{factor}:shell", 200, views="front")["factors"]
    neutral = {name: np.zeros_like(value) for name, value in shell.items()} | {"distance": np.ones_like(shell["distance"])}
    assert (deviations({**neutral, factor: shell[factor]}, LEVELS["L2"]) > 1).all()


def test_a_hand_camera_has_no_distance_to_change():
    assert np.allclose(drawn("L3:distance:shell", "wrist").poses[0], CAMERAS["wrist"].pose)
    assert np.abs(sample_views("L4:shell", 50, views="wrist")["factors"]["azimuth"]).max() <= MOUNT_LEVELS["L4"].azimuth


def test_normal_draws_gather_about_the_nominal_view():
    normal, even = (sample_views(f"L4{kind}", 512, views="front")["factors"] for kind in (":gaussian", ""))
    assert 0.40 < normal["azimuth"].std() / 45 < 0.48 < even["azimuth"].std() / 45
    assert np.abs(normal["azimuth"]).max() <= 45 and (deviations(normal, LEVELS["L4"]) <= 1).all()


def test_a_sphere_is_covered_evenly():
    factors = sample_views("L5:sphere", 1000, views="top", seed=1)["factors"]  # at 60 degrees of elevation, give or take 20
    heights = np.sin(np.radians(60 + factors["elevation"][:, 0]))
    low, high = np.sin(np.radians([40, 80]))
    assert abs(np.mean((heights - low) / (high - low)) - 0.5) < 0.04  # of even elevations it would be 0.10
    assert not factors["look_at"].any() and (factors["distance"] == 1).all() and np.abs(factors["azimuth"]).max() > 70


def test_a_grid_has_each_point_once_in_as_many_evaluation_episodes():
    points = [drawn("L4:grid", episode=("evaluation", i)).factors for i in range(GRID[0] * GRID[1])]
    pairs = {(float(point["azimuth"][0]), float(point["elevation"][0])) for point in points}
    assert len(pairs) == len(points) and {azimuth for azimuth, _ in pairs} >= {-45.0, 45.0} and {e for _, e in pairs} == {-15.0, 0.0, 15.0}


def test_cameras_that_move_within_an_episode():
    sweep, zoom, jitter, drift = (drawn(f"L3:{kind}").factors for kind in ("sweep", "zoom", "jitter", "drift"))
    assert not sweep["azimuth"][0] and abs(sweep["azimuth"][100]) == 20 and np.allclose(np.diff(sweep["azimuth"], 2), 0, atol=1e-12)
    assert abs(drawn("L3:sweep", horizon=50).factors["azimuth"][-1]) == 10, "the speed is MoVie's, whatever the horizon"
    assert abs(zoom["fov"][100]) == 8 and not zoom["azimuth"].any()
    assert np.abs(jitter["look_at"]).max() <= 0.07 and 0.024 < jitter["look_at"].std() < 0.035
    steps = np.abs(np.diff(drift["azimuth"]))
    assert 0 < steps.max() <= 20 / 40 + 1e-9 and np.abs(drift["azimuth"]).max() <= 20 and drift["azimuth"].std() > 0


def test_moving_cameras_change_pictures_and_a_snapshot_goes_on_with_them(build):
    settings = {"views": ["front"], "camera": "L4:sweep", "image_size": 16, "episode_ids": [4, 5], "num_envs": 2}

    def steps(env, count):
        """Poses and pictures of the next steps."""
        seen = [env.step(np.zeros((2, 3)))[0] for _ in range(count)]
        return env.observation()["images"].clone(), np.array([obs["camera"].numpy() for obs in seen])

    env, other = build(**settings), build(**settings)
    first = env.reset()[0]["images"].clone()
    _, before = steps(env, 3)
    other.load_state_dict(env.state_dict())
    images, after = steps(env, 3)
    assert (np.linalg.norm(np.diff(np.concatenate([before, after])[:, :, 0, :3], axis=0), axis=-1) > 1e-3).all()
    assert (images != first).flatten(1).any(dim=1).all()
    found, poses = steps(other, 3)
    assert np.array_equal(poses, after) and np.array_equal(found, images)
    assert np.allclose(np.abs(env.view_factors()["azimuth"]), 45 * 6 / 100)


def test_staggered_worlds_are_seen_from_where_their_moving_cameras_are(build):
    settings = {"views": ["front"], "camera": "L4:sweep", "image_size": 16, "horizon": 30}
    env = build(**settings)
    first = env.reset()[0]["images"].clone()
    env.stagger()
    assert np.allclose(np.abs(env.view_factors()["azimuth"][:, 0]), [0, 4.5, 9])
    other = build(**settings)
    other.load_state_dict(env.state_dict())
    assert np.array_equal(other.observation()["camera"], env.observation()["camera"])
    changed = (env.observation()["images"] != first).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, True]


def test_of_views_that_share_a_draw_those_that_stand_still_are_not_counted(build):
    settings = {"views": ["front", "left", "wrist"], "valid_views": True, "image_size": 8, "num_envs": 8, "episode_ids": list(range(8))}
    counts = []
    for camera in ("L5:shell@front", "L5:shell@front+together"):
        env = build(camera=camera, **settings)
        env.reset()
        counts.append(env.view_counts)
        assert counts[-1]["drawn"] == 8 + env._attempts[:, 0].sum() and counts[-1]["rejected"] == env._attempts[:, 0].sum()
    assert all(count["rejected"] for count in counts), "the control: views are drawn anew"


def test_a_field_of_view_that_no_picture_can_have_is_refused():
    def draw(text, fov):
        camera = NominalCamera("front", 0, np.append(CAMERAS["front"].pose[:7], fov), CAMERAS["front"].look_at)
        for episode in range(20):  # it narrows in some and widens in others
            parse_camera("camera", text).draw([camera], 0, Occasion(("training", 0, episode), 100))

    for fov in (15.0, 170.0):
        draw("L2:zoom", fov)
        with pytest.raises(UserError, match="between 0 and 180"):
            draw("L5:zoom", fov)


def test_together_alone_and_outside():
    poses = sample_views("L3@together", 40, views=["front", "left"])["factors"]
    assert np.array_equal(poses["azimuth"][:, 0], poses["azimuth"][:, 1]) and np.ptp(poses["azimuth"]) > 20
    apart = sample_views("L3", 40, views=["front", "left"])["factors"]["azimuth"]
    assert not (apart[:, 0] == apart[:, 1]).any()
    alone = sample_views("L3@front", 5, views=["front", "left", "wrist"])
    assert np.ptp(alone["poses"][:, 0], axis=0).any() and not np.ptp(alone["poses"][:, 1:], axis=0).any()
    assert np.array_equal(alone["poses"][:, 0], sample_views("L3", 5, views="front")["poses"][:, 0])
    outside = sample_views("L3@outside", 5, views=["front", "left", "wrist"])["poses"]
    assert np.ptp(outside[:, :2], axis=0).any(axis=-1).all() and not np.ptp(outside[:, 2], axis=0).any()


def test_among_stands_where_other_cameras_stand():
    poses = sample_views("among:front+left", 60, views=["front", "wrist"])["poses"]
    for name in ("front", "left"):
        assert np.isclose(poses[:, 0], CAMERAS[name].pose, atol=1e-6).all(axis=1).sum() > 15
    assert (poses[:, 1] == CAMERAS["wrist"].pose).all()


def test_a_schedule_widens_over_the_training(build):
    spread = [
        np.abs([drawn("L0..L3", episode=("training", 0, i), progress=p).factors["azimuth"][0] for i in range(100)]).max()
        for p in (0, 0.5, 1)
    ]
    assert spread[0] == 0 and 6 < spread[1] <= 7.5 and 18 < spread[2] <= 20  # half-way from L0 to L3: half-way from L1 to L2
    env = build(camera="L0..L3", camera_steps=100, num_envs=2, horizon=10, views=["front"], image_size=8)
    env.reset()
    first = env.view_factors()["azimuth"]
    for _ in range(60):
        env.step(np.zeros((2, 3)))
    assert not first.any() and env._progress(0) == 1.0 and env._progress(1) == 1.0
    state = env.state_dict()
    poses = env._poses.copy()
    env.load_state_dict(state)
    assert np.array_equal(env._poses, poses)


def test_worlds_without_pictures_take_any_setting():
    for camera in ("L3@front", "L3:shell@left+together"):
        make_env("reach", camera=camera, views=[]).reset()


def test_another_attempt_is_another_view_and_again_the_same():
    assert not np.array_equal(drawn("L3").poses, drawn("L3", attempt=1).poses)
    assert np.array_equal(drawn("L3", attempt=1).poses, drawn("L3", attempt=1).poses)


# Manifests


@pytest.fixture
def manifest(tmp_path):
    poses = sample_views("L4:shell", 6, views=["front", "wrist"], seed=5)["poses"]
    views = [{"front": row[0], "wrist": row[1]} for row in poses]
    return write_manifest(tmp_path / "views.json", "reach", views, "L4:shell", 5), poses


def test_a_manifest_gives_exactly_its_views(manifest):
    path, poses = manifest
    env = make_env("reach", camera=str(path), num_envs=3, episode_ids=[0, 4, 7], image_size=8, seed=9)
    env.reset()
    assert np.array_equal(env._poses, poses[[0, 4, 1]])
    alone = make_env("reach", camera=f"{path}@wrist", num_envs=2, episode_ids=[2, 3], image_size=8)
    alone.reset()
    assert np.array_equal(alone._poses[:, 1], poses[2:4, 1]) and (alone._poses[:, 0] == CAMERAS["front"].pose).all()
    trained = {tuple(pose[0]) for pose in sample_views(str(path), 100)["poses"]}
    assert trained == {tuple(pose[0]) for pose in poses}


def test_what_was_changed_or_is_no_manifest_is_refused(manifest, tmp_path):
    path, _ = manifest
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=2))
    parse_camera("camera", str(path))  # other spaces are the same content
    content["views"][0]["front"][0][0] += 1e-12
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was changed"):
        parse_camera("camera", str(path))
    for broken in ("{", "[]", '{"format": "views/1", "task": "reach", "views": [{"front": [[0, 0, 0, 1, 1, 0, 0, 40]]}]}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="manifest"):
            parse_camera("camera", str(path))
    with pytest.raises(UserError, match="cannot be read"):
        parse_camera("camera", str(tmp_path / "none.json"))


POSE = [0.1, 0, 0.5, 1, 0, 0, 0, 40]


@pytest.mark.parametrize("wrong", [10**400, "0.1", None, 1e300, float("nan"), float("inf"), [0.1]])
def test_a_manifest_holds_numbers_alone(tmp_path, wrong):
    path = tmp_path / "views.json"
    path.write_text(json.dumps({"format": "views/1", "task": "reach", "views": [{"front": [[wrong, *POSE[1:]]]}]}))
    with pytest.raises(UserError, match="8 numbers"):
        parse_camera("camera", str(path))


def test_a_manifest_is_the_same_however_its_numbers_are_written(tmp_path):
    path = write_manifest(tmp_path / "views.json", "reach", [{"front": [*POSE[:4], -0.0, *POSE[5:]]}], "L4", 0)
    rewritten = tmp_path / "a@b.json"
    rewritten.write_text("\ufeff" + path.read_text().replace(".0,", ",").replace("0.1", "1e-1"))
    assert "1.0" not in rewritten.read_text() and "-0" not in path.read_text()
    first, second = (parse_camera("camera", f"{each}@front").sha256 for each in (path, rewritten))
    assert first == second is not None


@pytest.mark.parametrize(
    "views", [[], [None], [{}], [{"front": [POSE, POSE[:3]]}], [{"front": "abc"}], np.zeros((2, 1, 8)), [{"front": [1] * 8}]]
)
def test_what_is_no_list_of_views_is_not_written(tmp_path, views):
    with pytest.raises(UserError):
        write_manifest(tmp_path / "views.json", "reach", views, "L4", 0)
    assert not list(tmp_path.iterdir())


def test_a_manifest_is_named_so_that_settings_know_it(tmp_path):
    with pytest.raises(UserError, match=r"views\.json"):
        write_manifest(tmp_path / "views", "reach", [{"front": POSE}], "L4", np.int64(0))
    write_manifest(tmp_path / "views.json", "reach", [{"front": POSE}], "L4", np.int64(0))


def test_a_manifest_of_another_task_or_other_cameras_is_refused(manifest):
    path, _ = manifest
    with pytest.raises(UserError, match="task=reach, not for task=push"):
        make_env("push", camera=str(path))
    with pytest.raises(UserError, match="no view of camera left"):
        make_env("reach", camera=str(path), views=["front", "left"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("L6", "L5"),
        ("L3:azimut", "L3:azimuth"),
        ("L3:azimuth:elevation", "one factor"),
        ("L3:shell:grid", "one factor"),
        ("L0..L9", "L"),
        ("L0..L3:shell", "L0..L3"),
        ("L3@fornt", "front"),
        ("L3@", "after @"),
        ("L3@front@wrist", "after @"),
        ("@front", "camera=@front is not known"),
        ("L٣", "L3"),
        ("among:", "names no camera"),
        ("among:front+wrist", "carried by the hand"),
        ("among:front+lefd", "the camera=left"),
        ("l3", "L3"),
        ("", "L3"),
        (3, "L3"),
        (None, "L3"),
    ],
)
def test_mistakes_name_the_nearest(text, says):
    with pytest.raises(UserError, match=says.replace("+", r"\+")):
        sample_views(text, views=["front", "wrist"])


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 2.5}, {"n": "3"}, {"seed": None}, {"seed": -1}])
def test_views_are_sampled_in_whole_numbers(wrong):
    with pytest.raises(UserError, match="whole number"):
        sample_views("L3", **wrong)


def test_a_schedule_needs_a_training():
    with pytest.raises(UserError, match="camera_steps"):
        make_env("reach", camera="L0..L3")
    with pytest.raises(UserError, match="evaluation episodes"):
        make_env("reach", camera="L0..L3", camera_steps=100, episode_ids=[0])


@pytest.mark.parametrize(
    ("task", "camera"), [*((task, "L5:shell") for task in list_tasks()), ("reach", "L3:jitter"), ("reach", "among:left+right")]
)
def test_cameras_change_pictures_and_nothing_else(build, task, camera):
    """Start states, goals, looks and the expert's noise are those of the episode, however far cameras move and however often views are
    drawn."""

    def run(camera):
        settings = {"views": ["front", "wrist"], "appearance": "random", "privileged": True, "image_size": 16, "valid_views": True}
        env = build(task, camera=camera, num_envs=3, episode_ids=range(6), horizon=3, **settings)
        obs, _ = env.reset()
        first, found = obs["images"].clone(), [obs["state"].numpy().copy()]
        for _ in range(4):  # into the next episodes
            actions = env.expert_actions(noise=0.5)
            obs, reward, *_ = env.step(actions)
            found += [actions, obs["state"].numpy().copy(), reward.numpy().copy()]
        return first, [*found, *(np.concatenate([look.light, *look.rgba.values()]) for look in env._looks)]

    pictures, expected = run("L0")
    moved, found = run(camera)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)) and not np.array_equal(moved, pictures)
    states = expected[0]
    assert not np.array_equal(states[0], states[1]), "the control: other episodes differ"
