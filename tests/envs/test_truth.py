import numpy as np
import pytest

from envs.render import mujoco
from envs.truth import GROUND_TRUTH, GroundTruth, project
from robo_repr.core.errors import UserError


@pytest.fixture
def env(build):
    env = build("push", views=["front", "left", "wrist"], camera="L3", image_size=64, autoreset=False)
    env.reset(seed=3)
    env.step(np.full((3, 3), 0.5))
    return env


def ray_depths(env, world, camera, pixels):
    """Distances along the optical axis by MuJoCo's ray casting, through the centres of pixels (n, 2) of (row, column)."""
    model, pose = env.task.arm.model, env.observation()["camera"][world, camera].numpy().astype(float)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, env.sim.get_state()[world], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, pose[3:7])
    focal = env.image_size / 2 / np.tan(np.radians(pose[7]) / 2)
    depths = []
    for row, column in pixels:
        middle = (env.image_size - 1) / 2
        ray = np.array([(column - middle) / focal, (middle - row) / focal, -1.0])
        groups = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
        hit = mujoco.mj_ray(model, data, pose[:3], matrix.reshape(3, 3) @ ray / np.linalg.norm(ray), groups, 1, -1, np.zeros(1, np.int32))
        depths.append(hit / np.linalg.norm(ray) if hit >= 0 else np.inf)
    return np.array(depths)


def test_depth_is_what_rays_measure(env):
    depth = env.depth_at(64)
    assert depth.shape == (3, 3, 64, 64) and depth.dtype == np.float32
    pixels = np.random.default_rng(0).integers(0, 64, (60, 2))
    for world, camera in ((0, 0), (1, 1), (2, 2)):
        expected, found = ray_depths(env, world, camera, pixels), depth[world, camera][pixels[:, 0], pixels[:, 1]]
        near = np.isclose(found, expected, rtol=0.01)
        assert near.mean() > 0.9  # edges, and spheres that are drawn with facets, differ
        assert not np.isclose(found, np.roll(expected, 1), rtol=0.01).all()


def test_ground_truth_agrees_with_itself(env):
    truth = GroundTruth(env, GROUND_TRUTH, env.views, 64)
    found = truth.read()
    model = env.task.arm.model
    assert found["segmentation"].shape == found["depth"].shape == (3, 3, 64, 64)
    assert found["poses"].shape == (3, model.nbody - 1, 7) and found["keypoints"].shape == (3, 3, len(env.task.shown) + 1, 3)
    block = truth.names["segment_names"].index("block")
    point = truth.names["keypoint_names"].index("block")
    for world in range(3):
        for camera in (0, 1):
            rows, columns = np.nonzero(found["segmentation"][world, camera] == block)
            column, row, depth = found["keypoints"][world, camera, point]
            assert abs(rows.mean() - row) < 1.5 and abs(columns.mean() - column) < 1.5
            seen = found["depth"][world, camera][rows, columns].astype(float)
            assert seen.min() < depth < seen.min() + 0.1  # the centre lies behind the nearest side
    body = truth.names["pose_names"].index("block")
    projected = project(found["poses"][:, [body], :3], env.observation()["camera"].numpy(), 64)
    assert np.allclose(projected[:, :, 0], found["keypoints"][:, :, point], atol=0.01)


def test_what_is_behind_a_camera_is_not_in_the_picture():
    camera = np.array([0, 0, 0, 1, 0, 0, 0, 90.0])[None, None]  # looks along -z
    front, behind = project(np.array([[[1.0, 1, -2], [1, 1, 2]]]), camera, 10)[0, 0]
    assert np.allclose(front, [4.5 + 2.5, 4.5 - 2.5, 2]) and np.allclose(behind, [-1, -1, -2])


def test_unknown_ground_truth(env):
    with pytest.raises(UserError, match="ground_truth=deepth is not known. Did you mean ground_truth=depth?"):
        GroundTruth(env, ["deepth"], env.views, 64)


def test_without_autoreset_a_world_stays_at_its_end(build):
    env = build("reach", horizon=4, num_envs=2, autoreset=False, episode_ids=[5, 6, 7])
    first, _ = env.reset(seed=0)
    first = first["images"].clone()
    for _ in range(4):
        obs, _, _, truncated, info = env.step(env.expert_actions())
    assert truncated.all() and "final_obs" not in info and env.episodes == [("evaluation", 5), ("evaluation", 6)]
    tool = env.sim.readings()["tool_position"].clone()
    env.reset()
    assert env.episodes == [("evaluation", 7), ("evaluation", 5)] and not np.allclose(tool, env.sim.readings()["tool_position"])
    with pytest.raises(UserError, match="autoreset='no' is not possible"):
        build("reach", autoreset="no")
