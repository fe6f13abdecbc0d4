import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

from envs import BatchEnv, list_tasks
from envs.gym_env import GymEnv
from robo_repr.core.errors import UserError

PLAIN = {"api": "gymnasium", "num_envs": 1, "image_size": 36, "render_threads": 1}


def action(env, step):
    return np.random.default_rng(step).uniform(-1, 1, env.action_space.shape)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_passes_both_checkers(build, task):
    env = build(task, **PLAIN, views=[])
    check_env(env)
    check_env_of_sb3(env)
    assert isinstance(env, GymEnv) and set(env.observation_space) == {"state"}


def test_pictures_pass_both_checkers(build):
    env = build(**PLAIN, views=["front", "wrist"], frame_stack=2, render_mode="rgb_array")
    check_env(env)
    check_env_of_sb3(env, skip_render_check=False)
    shapes = {key: space.shape for key, space in env.observation_space.items()}
    assert shapes == {"image/front": (6, 36, 36), "image/wrist": (6, 36, 36), "state": (13,), "camera": (16,)}


def test_its_episodes_are_those_of_a_batch_of_one(build):
    """Bit by bit, pictures included, through ends by time, a reset in the middle and a seed; the last observation is the episode's own."""
    settings = {"views": ["front", "wrist"], "camera": "L3", "appearance": "random", "frame_stack": 2, "horizon": 4}
    env = build(**PLAIN, **settings)
    batch = build(**{**PLAIN, **settings, "api": "batch"})
    assert isinstance(batch, BatchEnv)

    def check(plain, of_batch):
        pictures = of_batch["images"][0].numpy()
        assert np.array_equal(plain["image/front"], pictures[0].reshape(6, 36, 36))
        assert np.array_equal(plain["image/wrist"], pictures[1].reshape(6, 36, 36))
        assert np.array_equal(plain["state"], of_batch["state"][0]) and np.array_equal(plain["camera"], of_batch["camera"][0].ravel())

    check(env.reset()[0], batch.reset()[0])
    for step in range(14):
        obs, reward, terminated, truncated, info = env.step(action(env, step))
        next_obs, rewards, _, ends, infos = batch.step(action(env, step)[None])
        assert (reward, terminated, truncated) == (rewards.item(), False, ends.item()) and truncated == (step % 4 == 3)
        assert info == {key: infos[key].item() for key in info if key != "is_success"} | {"is_success": info["success"]}
        assert {type(value) for value in info.values()} == {bool, int, float}
        check(obs, infos["final_obs"] if truncated else next_obs)
        if truncated:
            check(env.reset()[0], next_obs)
    check(env.reset()[0], batch.reset()[0])
    for seed in (3, 0):
        first = env.reset(seed=seed)[0]
        check(first, batch.reset(seed=seed)[0])
    env.step(action(env, 0))
    assert np.array_equal(env.reset(seed=0)[0]["image/wrist"], first["image/wrist"])


def test_nothing_is_shared_between_steps(build):
    env = build(**PLAIN, views=["wrist"])
    first = env.reset()[0]
    before = {key: value.copy() for key, value in first.items()}
    for step in range(3):
        env.step(action(env, step))
    assert all(np.array_equal(first[key], before[key]) for key in first)
    assert not np.array_equal(env.step(action(env, 3))[0]["image/wrist"], first["image/wrist"])


def test_it_asks_for_a_reset(build):
    env = build(**PLAIN, views=[], horizon=2, render_mode="rgb_array")
    for call in (lambda: env.step(np.zeros(3)), env.render):
        with pytest.raises(ResetNeeded, match="No episode has begun.*reset"):
            call()
    env.reset()
    env.step(np.zeros(3))
    assert env.step(np.zeros(3))[3]
    with pytest.raises(ResetNeeded, match="The episode is over.*reset"):
        env.step(np.zeros(3))
    env.reset()
    assert not env.step(np.zeros(3))[3]


def test_a_wrong_action_is_told_as_one_worlds(build):
    env = build(**PLAIN, views=[])
    env.reset()
    with pytest.raises(ValueError, match=r"^action has shape \(2,\), expected \(3,\)"):
        env.step(np.zeros(2))
    for wrong in (2.0, np.nan):
        with pytest.raises(ValueError, match=rf"^action is \[{wrong:g}.*\[-1, 1\]"):
            env.step(np.full(3, wrong))
    with pytest.raises(UserError, match="seed=-1 is not possible"):
        env.reset(seed=-1)


def test_render_shows_the_views_side_by_side(build):
    env = build(**PLAIN, views=["front", "wrist"], horizon=3, render_mode="rgb_array")
    env.reset()
    begin = env.render()
    assert begin.shape == (256, 512, 3) and begin.dtype == np.uint8 and begin.std() > 10
    for _ in range(3):
        env.step(np.array([0.0, 0.0, -1.0]))
    end = env.render()  # of the episode that is over, not of the next one
    env.worlds.reset()
    following = env.render()
    change, jump = (np.abs(picture.astype(int) - end).mean() for picture in (begin, following))
    assert 0 < change < jump
    blind = build(**PLAIN, views=[], render_mode="rgb_array")
    blind.reset()
    assert blind.render().shape == (256, 256, 3)
    quiet = build(**PLAIN, views=[])
    quiet.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert quiet.render() is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api": "gymnasium", "num_envs": 2}, "num_envs=2 does not go with api=gymnasium"),
        ({"api": "gym"}, "api=gym is not known. Did you mean api=gymnasium"),
        ({"api": "gymnasium", "num_envs": 1, "render_mode": "human"}, "render_mode=human is not known.*rgb_array"),
        ({"render_mode": "rgb_array"}, "render_mode=rgb_array goes with api=gymnasium"),
    ],
)
def test_settings_that_do_not_go_together(build, settings, says):
    with pytest.raises(UserError, match=says):
        build(**settings)


def test_the_specs_limit_ends_no_episode_earlier(build):
    """gymnasium wraps what it makes from a spec in its own limit of time; the last step and what it tells stay the same."""
    env = build(**PLAIN, views=[], horizon=3)
    other = gymnasium.make(env.spec)
    assert env.spec.max_episode_steps == 3
    for one in (env, other):
        for _ in range(2):
            one.reset()
            steps = [one.step(np.zeros(3)) for _ in range(3)]
            assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]
            assert steps[2][4]["episode_length"] == 3
    other.close()


def test_its_spec_is_written_as_json(build):
    env = build(**PLAIN, views=("front",), episode_ids=range(3, 6), seed=np.int64(4))
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs["episode_ids"] == [3, 4, 5] and spec.kwargs["seed"] == 4
    other = gymnasium.make(spec)
    assert np.array_equal(other.reset()[0]["state"], env.reset()[0]["state"])
    other.close()


def test_gymnasium_makes_another_from_its_spec(build):
    env = build(**PLAIN, views=[], privileged=True, seed=4)
    other = gymnasium.make(env.spec)
    assert np.array_equal(other.reset()[0]["state"], env.reset()[0]["state"]) and other.unwrapped.worlds.privileged
    other.close()
    other.close()


@pytest.mark.filterwarnings("ignore")
def test_sac_of_stable_baselines_learns_on_it(build):
    warnings.simplefilter("ignore")
    env = build(**PLAIN, views=["wrist"], horizon=5)
    model = SAC(
        "MultiInputPolicy", env, learning_starts=8, batch_size=4, buffer_size=40, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu"
    )
    model.learn(20)
    assert model.num_timesteps == 20 and len(model.ep_success_buffer) == 4
    assert env.action_space.contains(model.predict(env.reset()[0])[0])
