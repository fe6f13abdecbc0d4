"""Rays go where the cameras look, through the cells of what the policy sees, and stand beside the state in training and acting alike."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from point_env import PointEnv

from agents import EmbedEnv
from agents.camera_input import CameraInput, cell_offsets, rays
from agents.eyes import Eyes
from agents.imitation import train
from envs import make_env
from envs.truth import GroundTruth, project
from robo_repr import load_encoder
from robo_repr.core.config import ImitationConfig, load_part
from robo_repr.core.errors import UserError
from robo_repr.encoders.base import Encoder, EncoderSpec, Features

VIEWS = ["front", "wrist"]


class Places(Encoder):
    """Its tokens begin with the mean colours of their parts of what it sees."""

    def __init__(self, **settings):
        super().__init__(EncoderSpec("places", dim=16, token_dim=16, mean=(0, 0, 0), std=(1, 1, 1), **settings))

    def encode(self, images):
        colours = torch.nn.functional.adaptive_avg_pool2d(images, self.spec.grid).flatten(2).transpose(1, 2)
        tokens = torch.nn.functional.pad(colours, (0, 13))
        return Features(tokens.mean(dim=1), tokens)


def some_poses(*shape, seed=0):
    """Cameras about a metre from the origin that look anywhere."""
    generator = np.random.default_rng(seed)
    turn = generator.normal(size=(*shape, 4))
    position, fov = generator.uniform(-1, 1, (*shape, 3)), generator.uniform(35, 75, (*shape, 1))
    return np.concatenate([position, turn / np.linalg.norm(turn, axis=-1, keepdims=True), fov], axis=-1)


def told(poses, kind="rays", readout="grid4", size=84, encoder=None):
    """What `CameraInput` gives for poses (N, V, 8); rays as (N, V, K, 6)."""
    views = [str(view) for view in range(poses.shape[1])]
    given = CameraInput(kind, Eyes(encoder or load_encoder("mvp"), views, 1, readout, "concatenate"), (size, size))
    vector = given(torch.from_numpy(poses))
    assert vector.shape == (len(poses), given.size) and vector.dtype == torch.float32
    return vector.unflatten(1, (len(views), -1, 6)).double().numpy() if kind == "rays" else vector.numpy()


def points_on(lines, poses, ahead):
    """Points (..., K, 3) on rays (..., K, 6), so many metres ahead of what is nearest to the camera."""
    direction, moment = lines[..., :3], lines[..., 3:]
    foot = np.cross(direction, moment)  # the point nearest to the origin
    return foot + (np.sum(direction * poses[..., None, :3], axis=-1, keepdims=True) + ahead) * direction


def test_rays_are_lines_in_pluecker_coordinates():
    poses = some_poses(20, 2)
    lines = told(poses)
    direction, moment = lines[..., :3], lines[..., 3:]
    assert lines.shape == (20, 2, 16, 6) and np.allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-6)
    for ahead in (-1.0, 0.0, 2.0):
        point = poses[..., None, :3] + ahead * direction
        assert np.allclose(np.cross(point, direction), moment, atol=1e-5)
    assert not np.allclose(np.cross(direction, point), moment, atol=0.1)  # a control: the other order
    # World by world, and view by view, nothing mixes.
    assert np.allclose(told(poses[3:4, 1:]), lines[3:4, 1:], atol=1e-6)


@pytest.mark.parametrize("ahead", [0.3, 2.0])
def test_rays_hit_the_centres_of_their_cells(ahead):
    """Points on them are seen, by the projection that makes ground truth, where the cells have their centres."""
    poses = some_poses(20, 1)
    lines = told(poses, readout="tokens")
    row, column = np.divmod(np.arange(36), 6)
    expected = np.stack([14 * column + 6.5, 14 * row + 6.5], axis=1)  # 6 x 6 patches of 14 pixels

    def error(poses, lines=lines):
        return np.abs(project(points_on(lines, poses, ahead)[:, 0], poses, 84)[:, 0, :, :2] - expected).max()

    assert error(poses) < 0.02
    # Controls: another field of view, rows and columns exchanged, the picture upside down.
    assert error(poses + np.eye(8)[7]) > 0.5
    assert error(poses, lines.reshape(20, 1, 6, 6, 6).swapaxes(2, 3).reshape(lines.shape)) > 10
    assert error(poses, lines.reshape(20, 1, 6, 6, 6)[:, :, ::-1].reshape(lines.shape)) > 10


def test_what_cameras_see_lies_near_the_ray_of_its_cell():
    """In real worlds, with moved cameras and the hand's: things, and the tool, within half a cell's diagonal of the ray."""
    with closing(make_env("push", views=VIEWS, camera="L3", image_size=48, num_envs=4)) as env:
        env.reset()
        for _ in range(4):
            env.step(np.full((4, 3), 0.4))
        truth = GroundTruth(env, ["keypoints"], VIEWS, 48).read()["keypoints"]  # (N, V, P, 3)
        camera = env.observation()["camera"].clone()
        tool = env.sim.readings()["tool_position"].numpy().copy()
    eyes = Eyes(Places(size=(48, 48), grid=(8, 8)), VIEWS, 1, "tokens", "concatenate")
    lines = CameraInput("rays", eyes, (48, 48))(camera).unflatten(1, (2, 8, 8, 6)).numpy()
    checked, moved = 0, 0
    for world, view in np.ndindex(4, 2):
        column, row, depth = truth[world, view, -1]
        if not (0 <= row < 47.5 and 0 <= column < 47.5 and depth > 0):
            continue
        half_diagonal = depth * np.tan(np.radians(float(camera[world, view, 7])) / 2) / 8 * np.sqrt(2)

        def misses(i, j, world=world, view=view):
            direction, moment = lines[world, view, i, j, :3], lines[world, view, i, j, 3:]
            return float(np.linalg.norm(np.cross(tool[world], direction) - moment))

        i, j = int((row + 0.5) // 6), int((column + 0.5) // 6)
        assert misses(i, j) < half_diagonal + 1e-5
        checked += 1
        moved += misses(j, i) > half_diagonal
    assert checked >= 6 and moved >= 2  # a control: rows and columns exchanged


def test_a_ray_stays_when_the_camera_moves_along_it():
    poses = some_poses(10, 1)
    lines = told(poses)
    for cell in (0, 6, 15):
        moved = poses.copy()
        moved[..., :3] += 0.7 * lines[:, :, cell, :3]
        after = told(moved)
        assert np.allclose(after[:, :, cell], lines[:, :, cell], atol=1e-5)
        others = np.delete(np.abs(after - lines).max(axis=(0, 1, 3)), cell)
        assert others.min() > 0.05


@pytest.mark.parametrize("readout", ["grid4", "tokens"])
@pytest.mark.parametrize("picture", [(64, 64), (84, 84), (60, 96), (96, 60)], ids=str)
@pytest.mark.parametrize(
    "fit",
    [
        {"grid": (7, 7)},
        {"grid": (6, 6), "resize": 96},
        {"grid": (5, 7), "resize": 112},
        {"grid": (7, 7), "resize": 112, "untouched": True},
        {"grid": (2, 3)},
    ],
    ids=str,
)
def test_cells_follow_the_picture_through_crops_and_pooling(fit, picture, readout):
    """Of a picture whose colours are its coordinates, the cells show where they have their centres."""
    encoder = Places(size=(84, 84), **fit)
    eyes = Eyes(encoder, ["front"], 1, readout, "concatenate")
    (height, width), down, right = picture, *(torch.arange(length) + 0.5 for length in picture)
    coordinates = torch.stack([(right / width).expand(height, width), (down / height)[:, None].expand(height, width), torch.zeros(picture)])
    tokens = encoder(coordinates[None]).tokens[0]
    shares = (tokens if readout == "tokens" else eyes.readout.pool @ tokens)[:, :2]
    expected = torch.stack([(2 * shares[:, 0] - 1) * width / height, 1 - 2 * shares[:, 1]], dim=1)
    found = cell_offsets(eyes.readout, encoder.spec, picture)
    assert torch.allclose(found, expected, atol=0.01)
    if fit.get("resize") and not (fit.get("untouched") and picture == (84, 84)):
        assert not torch.allclose(cell_offsets(eyes.readout, replace(encoder.spec, resize=None), picture), expected, atol=0.05)
    if readout == "grid4" and fit == {"grid": (7, 7)}:  # pooled cells overlap: they are not the quarters of the picture
        assert not torch.allclose(found[:4, 0] * height / width, torch.tensor([-0.75, -0.25, 0.25, 0.75]), atol=0.03)


def test_kinds_and_their_lengths():
    poses = some_poses(3, 2)
    assert told(poses, False).shape == (3, 0)
    assert np.array_equal(told(poses, True), poses.reshape(3, 16).astype(np.float32))
    for readout, cells in (("grid4", 16), ("keypoints", 16), ("tokens", 36)):
        assert told(poses, readout=readout).shape == (3, 2, cells, 6)
    assert np.array_equal(told(poses, readout="keypoints"), told(poses))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "ray"}, "camera_input=ray is not known. Did you mean camera_input=rays"),
        ({"kind": 1.5}, "There is: false, rays, true"),
        ({"readout": "pooled"}, "readout=pooled has no places. Use readout=grid4, keypoints or tokens"),
        ({"encoder": "pixels"}, "encoder=pixels has no tokens"),
        ({"encoder": "identity"}, "with encoder=identity it has none"),
        ({"kind": True, "encoder": "identity"}, "camera_input=true .* with encoder=identity it has none"),
    ],
    ids=str,
)
def test_what_has_no_rays_is_refused(settings, says):
    settings = {"kind": "rays", "readout": "grid4", "encoder": "mvp", **settings}
    with pytest.raises(UserError, match=says):
        told(some_poses(2, 1), settings["kind"], settings["readout"], encoder=load_encoder(settings["encoder"]))
    told(some_poses(2, 1), False, "pooled", encoder=load_encoder(settings["encoder"]))  # whatever it sees, a policy need not be told


class Moving(PointEnv):
    """Its cameras stand elsewhere at every step."""

    def observation(self):
        return {**super().observation(), "camera": torch.from_numpy(some_poses(self.num_envs, len(self.views), seed=self.taken)).float()}


def test_agents_get_the_rays_of_the_present_cameras():
    env = EmbedEnv(Moving(views=VIEWS), load_encoder("mvp"), camera_input="rays")
    env.calibrate(steps=3, seed=0)
    env.reset()
    cells = cell_offsets(env.readout, env.encoder.spec, (12, 12))
    for _ in range(7):  # past the ends of episodes
        obs, _, dones, infos = env.step(np.zeros((4, 2), dtype=np.float32))
        expected = rays(env.env.observation()["camera"], cells).flatten(1).numpy()
        assert env.observation_space.contains({key: value[0] for key, value in obs.items()})
        assert np.array_equal(obs["camera"], expected) and obs["camera"].shape == (4, 2 * 96)
        for world in np.flatnonzero(dones):
            assert infos[world]["terminal_observation"]["camera"].shape == (192,)
    env.close()


NAMES = {"policy": "bc_mvp", "budget": "default", "encoder": "mvp"}


def imitation(**settings):
    settings = {"views": VIEWS, "image_size": 32, "horizon": 10, "camera_input": "rays", "names": NAMES, **settings}
    return ImitationConfig(encoder=load_part("encoder", "mvp"), policy=load_part("policy", "bc_mvp"), **settings)


@pytest.mark.parametrize("kind", [False, True, "rays"])
def test_demonstrations_and_acting_give_a_policy_the_same(monkeypatch, kind):
    cfg = imitation(camera_input=kind, eval_camera="L3")
    parts = train.build_parts(cfg, "cpu")
    with closing(make_env("reach", views=VIEWS, image_size=32, camera="L3", num_envs=5)) as env:
        obs, _ = env.reset()
        obs = {key: value.clone() for key, value in obs.items()}
    agent = parts.agent
    agent.eyes.calibrate(agent.eyes.encode(obs["images"]))
    got = []
    monkeypatch.setattr(agent.policy_net, "act", lambda seen, *_: (got.append(seen["state"]), (torch.zeros(5, 3), None))[1])
    agent.act(obs)
    run = train.Imitation.__new__(train.Imitation)
    run.cfg, run.agent = cfg, agent
    demos = SimpleNamespace(task="reach", language=[""], state=[obs["state"]], cameras=lambda number: obs["camera"])
    (shown,) = run._states(demos)
    parts.env.close()
    cells = cell_offsets(agent.eyes.readout, agent.eyes.encoder.spec, (32, 32))
    beside = {False: [], True: [obs["camera"].flatten(1)], "rays": [rays(obs["camera"], cells).flatten(1)]}
    expected = torch.cat([obs["state"], *beside[kind]], dim=1)
    assert torch.equal(got[0], expected) and torch.equal(shown, expected)
    assert agent.policy_net.sizes.state == expected.shape[1]


def test_rays_and_crops_of_pictures_do_not_go_together():
    with pytest.raises(UserError, match="augment=crop cuts and enlarges"):
        train.build_parts(imitation(augment="crop"), "cpu")
    train.build_parts(imitation(augment="shift"), "cpu").env.close()
    train.build_parts(imitation(augment="crop", camera_input=True), "cpu").env.close()
