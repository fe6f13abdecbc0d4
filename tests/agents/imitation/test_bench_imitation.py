"""Both sides of the bench do the same cell."""

import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from envs import make_env

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
import bench_imitation  # noqa: E402
from bench_imitation import Cell, Ours, Peer  # noqa: E402

pytestmark = pytest.mark.usefixtures("restored")
# mvp's small network sees 84 x 84, so that pictures of 96 are resized.
SMALL = Cell("mvp", None, size=96, horizon=30, demos=1, updates=40, evaluations=2, rollouts=2, our_updates=8, our_horizon=3, peer_updates=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the demonstrations are kept."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def sides(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ours, peer = Ours(SMALL), Peer(SMALL)
    yield ours, peer
    peer.world.renderer.close()


def test_both_sides_learn_from_the_same_demonstrations_with_the_same_features(sides):
    ours, peer = sides
    ours.encode_demos()
    samples = ours.agent.samples
    assert len(samples) == len(peer.actions) == len(peer.pictures) == SMALL.horizon
    assert torch.equal(samples.state[samples.taken], peer.state) and torch.equal(samples.actions[samples.taken], peer.actions)

    seen = ours.agent.eyes.encode(ours.demos.images(0)[:8]).pooled
    again = peer.encode(peer.pictures[:8])
    # PIL rounds a resized picture to whole numbers.
    assert (seen - again).abs().max() < 0.1 * (seen - peer.encode(peer.pictures[8:16])).abs().max()


def test_r3m_sees_the_same_on_both_sides(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(bench_imitation, "World", lambda *_: None)
    cell = Cell(demos=1, horizon=30)
    ours, peer = Ours(cell), Peer(cell)
    seen, again = ours.agent.eyes.encode(ours.demos.images(0)[:2]).pooled, peer.encode(peer.pictures[:2])
    assert torch.allclose(seen, again, atol=1e-4) and not torch.allclose(seen, again.flip(0), atol=1e-4)
    assert peer.pictures.shape[1:] == (256, 256, 3) and peer.encoder.spec.size == (224, 224)


def test_both_sides_begin_with_the_same_policy_and_an_update_changes_it_alike(sides, monkeypatch):
    ours, peer = sides
    ours.encode_demos()
    before = {name: value.clone() for name, value in peer.net.state_dict().items()}
    assert before.keys() == ours.agent.policy_net.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in ours.agent.policy_net.state_dict().items())
    samples = ours.agent.samples
    monkeypatch.setattr(peer, "generator", SimpleNamespace(integers=lambda high, size: samples.rows(0)))
    monkeypatch.setattr(peer, "encode", lambda pictures: samples.batch(0)["features"][:, 0])
    ours.update(1)
    peer.update(1)
    assert ours.agent.updates == peer.updates == 1
    for name, value in ours.agent.policy_net.state_dict().items():
        assert torch.allclose(value.float(), peer.net.state_dict()[name].float(), atol=1e-5), name
    assert not torch.allclose(before["layers.0.weight"], peer.net.state_dict()["layers.0.weight"], atol=1e-5)


def test_plain_mujoco_plays_and_shows_the_episodes_of_our_evaluation(sides):
    world = sides[1].world
    settings = {"views": ["front"], "camera": "L0", "image_size": SMALL.size, "horizon": 30, "quality": "full", "autoreset": False}
    with closing(make_env("reach", num_envs=1, episode_ids=[3], **settings)) as env:
        obs, _ = env.reset()
        outcomes = []
        world.reset(4)
        assert not torch.allclose(obs["state"], world.state(), atol=1e-2)
        world.reset(3)
        for _ in range(30):
            assert torch.allclose(obs["state"], world.state(), atol=1e-5)
            action = env.expert_actions()
            obs, _, _, _, info = env.step(action)
            world.step(action)
            outcomes.append((world.succeeded(), info["success"].item()))
        assert all(mine == theirs for mine, theirs in outcomes) and {mine for mine, _ in outcomes} == {False, True}
        ours, theirs = obs["images"][0, 0].permute(1, 2, 0).numpy().astype(float), world.picture()
        assert np.abs(ours - theirs).mean() < 1 < np.abs(ours - theirs[::-1]).mean()


def test_measurements_are_multiplied_up_to_the_whole_cell(sides, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(bench_imitation, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    ours, peer = (side.measure() for side in sides)
    # Whatever is timed takes a second.
    assert ours["train: encode"] == 1 and ours["train: update"] == 40 / 8
    assert sum(ours.values()) == pytest.approx(1 + 40 / 8 + 2 * 30 / 3)
    assert peer["train: encode"] == peer["train: update"] == 40
    # A rollout begins, takes 30 steps, and is seen before and after each; there are four of them.
    assert peer["rollouts: physics"] == peer["rollouts: render"] == peer["rollouts: encode"] == 4 * 31


@pytest.mark.slow
def test_the_sides_alternate_in_processes_of_their_own(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    found = bench_imitation.compare(SMALL, 1)
    assert len(found) == 1 and all(min(side.values()) > 0 for side in found[0])
    medians = bench_imitation.show_parts(found, SMALL)
    assert {part: values[1] for part, values in medians.items()} == found[0][1]
    assert "all 1 demonstrations, 8 of 40 updates, 3 of 30 steps of 1 of 2 evaluations" in capfd.readouterr().out
