import numpy as np
import pytest
import stable_baselines3
import torch
from point_env import PointEnv

from agents import EmbedEnv
from robo_repr import load_encoder
from robo_repr.core.errors import Failure, UserError
from robo_repr.encoders.base import Features


@pytest.fixture
def build():
    """EmbedEnvs on coarse pixels, closed after the test."""
    built = []

    def make(encoder="pixels", camera_input=False, calibrated=True, view_fusion="concatenate", **settings):
        built.append(EmbedEnv(PointEnv(**settings), load_encoder(encoder), camera_input=camera_input, view_fusion=view_fusion))
        if calibrated:
            built[-1].calibrate(steps=4, seed=0)
        return built[-1]

    yield make
    for env in built:
        env.close()


def test_observations_are_features_and_state(build):
    env = build(views=["front", "wrist"])
    obs = env.reset()
    assert obs.keys() == {"features", "state"} and env.observation_space.contains({key: value[0] for key, value in obs.items()})
    assert obs["features"].dtype == np.float16 and obs["features"].shape == (4, 2 * 432) and obs["state"].dtype == np.float32


def test_camera_poses_only_when_asked_for(build):
    assert build(camera_input=True, views=["front", "wrist"]).reset()["camera"].shape == (4, 16)


def test_views_can_be_averaged(build):
    env = build(view_fusion="mean", views=["front", "wrist"])
    obs, _ = env.env.reset()
    mean = torch.stack([env.encoder(obs["images"][:, view]).pooled for view in range(2)]).mean(dim=0)
    expected = env.readout(Features(mean, None)).to(torch.float16).numpy()
    assert expected.shape == (4, 432) and np.array_equal(env.embed(obs)["features"], expected)
    with pytest.raises(UserError, match="Did you mean view_fusion=mean"):
        build(view_fusion="men")


@pytest.mark.parametrize("readout", ["pooled", "grid4", "tokens"])
def test_features_are_what_the_encoder_gives_alone(readout):
    """The encoder on each picture by itself, outside of everything, against what an agent gets of it in a batch: equal but for rounding."""
    env = EmbedEnv(PointEnv(views=["front", "wrist"]), load_encoder("mvp"), readout)
    env.calibrate(steps=4, seed=0)
    env.reset()
    for _ in range(7):  # past the ends of episodes
        images = env.env.observation()["images"]
        alone = [env.encoder(images[world, view][None]) for world in range(4) for view in range(2)]
        tokens = torch.cat([features.tokens for features in alone])
        expected = env.readout(Features(torch.cat([features.pooled for features in alone]), tokens)).numpy()
        given = env.embed(env.env.observation())["features"]
        assert np.allclose(given, expected, rtol=2e-3, atol=2e-3) and expected.std() > 0.1
        assert not np.allclose(given[[1, 0, 2, 3]], expected, rtol=2e-3, atol=2e-3)  # a control: worlds exchanged
        stepped = env.step(np.zeros((4, 2), dtype=np.float32))[0]["features"]
        assert np.array_equal(stepped, env.embed(env.env.observation())["features"])
    env.close()


def test_without_a_picture_there_are_no_features(build):
    env = build("identity", views=[])
    assert env.reset().keys() == {"state"}
    assert env.step(np.zeros((4, 2), dtype=np.float32))[0].keys() == {"state"}


def test_last_observations_of_episodes_are_kept_apart(build):
    env, plain = build(calibrated=False), PointEnv()
    env.calibrate(steps=1, seed=0)
    env.reset()
    plain.reset()
    plain.stagger()
    ended = 0
    for step in range(12):
        actions = np.random.default_rng(step).uniform(-1, 1, (4, 2)).astype(np.float32)
        obs, rewards, dones, infos = env.step(actions)
        expected, reward, _, truncated, info = plain.step(actions)
        assert np.array_equal(rewards, reward.numpy()) and np.array_equal(dones, truncated.numpy())
        assert np.array_equal(obs["features"], env.embed(expected)["features"])
        for world in range(4):
            if dones[world]:
                ended += 1
                final = env.embed(info["final_obs"])
                assert all(np.array_equal(infos[world]["terminal_observation"][key], final[key][world]) for key in final)
                assert infos[world]["TimeLimit.truncated"] is True and infos[world]["episode"]["l"] <= 6
            else:
                assert infos[world] == {}
    assert ended >= 4


def test_arrays_are_fresh_at_every_step(build):
    env = build()
    first = env.reset()
    kept = {key: value.copy() for key, value in first.items()}
    env.step(np.ones((4, 2), dtype=np.float32))
    assert all(np.array_equal(first[key], kept[key]) for key in kept)


def test_the_encoder_is_called_once_per_step(build, monkeypatch):
    env = build()
    env.reset()
    seen = []
    forward = env.encoder.forward
    monkeypatch.setattr(env.encoder, "forward", lambda images: seen.append(len(images)) or forward(images))
    dones = [env.step(np.zeros((4, 2), dtype=np.float32))[2].sum() for _ in range(6)]
    assert seen == [4 + done for done in dones] and sum(dones) > 0


def test_a_nan_is_refused_with_step_world_and_term(build):
    env = build(poison=10)
    env.reset()
    with pytest.raises(Failure, match=r"step 6 of the worlds: 'reward' of world 1 is not finite"):
        for _ in range(10):
            env.step(np.zeros((4, 2), dtype=np.float32))


def test_infinite_features_are_refused(build):
    env = build()
    env.readout.centre.fill_(float("nan"))
    with pytest.raises(Failure, match="'features' of world 0"):
        env.reset()


def test_errors_of_updates_wait_for_the_collector(build):
    env = build(delay=0.05)
    env.reset()

    def fail():
        raise ValueError("broken update")

    env.while_waiting = fail
    with pytest.raises(ValueError, match="broken update"):
        env.step(np.zeros((4, 2), dtype=np.float32))
    env.while_waiting = lambda: None
    env.step(np.zeros((4, 2), dtype=np.float32))
    assert env.env.taken == 4 + 2


def test_calibration_returns_the_steps_it_took(build):
    env = build(calibrated=False)
    first, steps = env.calibrate(steps=7, seed=3)
    assert len(steps) == 7 and first["features"].shape == (4, 432)
    state = first["state"].astype(np.float64)
    for actions, (obs, _, dones, infos) in steps:
        moved = np.clip(state + 0.2 * actions, -1, 1)
        for world in range(4):
            reached = infos[world]["terminal_observation"]["state"] if dones[world] else obs["state"][world]
            assert np.allclose(reached, moved[world], atol=1e-6)
        state = obs["state"].astype(np.float64)
    spread = torch.from_numpy(np.concatenate([obs["features"] for _, (obs, *_) in steps])).float().std(0)
    assert spread.max() < 2.5


def test_stable_baselines3_trains_on_it_directly(build):
    env = build()
    model = stable_baselines3.PPO("MultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
    model.learn(64)
    assert model.num_timesteps == 64 and len(model.ep_info_buffer) > 0
