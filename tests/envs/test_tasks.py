"""What every native task promises, over `list_tasks()`: a new one is picked up by itself."""

import numpy as np
import pytest
import torch
from courses import actions, same

from envs import list_tasks, make_env
from envs.registry import task_class


@pytest.fixture(params=list_tasks())
def task(request):
    return request.param


def run_episodes(task, policy, ids):
    """Success (n,) of one episode each, and the rewards (n, horizon)."""
    env = make_env(task, num_envs=len(ids), views=[], episode_ids=ids)
    env.reset()
    rewards = []
    for step in range(env.horizon):
        _, reward, _, truncated, info = env.step(policy(env, step))
        rewards.append(reward)
    assert truncated.all() and env.warnings == {}
    return info["success"], torch.stack(rewards, dim=1)


def test_what_a_task_says_of_itself(task):
    cls = task_class(task)
    assert 1 <= cls.horizon <= 100
    assert len(cls.instructions) == len(set(cls.instructions)) == 6 and all(words.strip() for words in cls.instructions)
    model = cls.spec().compile()
    assert cls.shown and set(cls.shown) <= {model.geom(i).name for i in range(model.ngeom)}


def test_same_seed_same_episodes_and_as_declared(build, task):
    one, two = (build(task, views=["front", "left", "wrist"], appearance="random", seed=5, horizon=6, render_threads=1) for _ in range(2))
    obs, _ = one.reset()
    assert same(obs, two.reset()[0])
    assert obs["images"].shape == (3, 3, 3, 32, 32) and obs["images"].dtype == torch.uint8
    assert obs["camera"].shape == (3, 3, 8) and obs["state"].dtype == torch.float32
    assert one.observation_space.contains({key: value.numpy() for key, value in obs.items()})
    for step in range(8):
        first, second = one.step(actions(one, step)), two.step(actions(two, step))
        assert same(first[0], second[0]) and torch.equal(first[1], second[1]) and torch.equal(first[3], second[3])


def test_every_episode_is_the_one_that_runs_alone(build, task):
    """The last observation of each of nine episodes, three after another in three worlds, is that of the episode in a single world."""
    settings = {"views": ["front", "wrist"], "camera": "L3", "appearance": "random", "frame_stack": 2, "horizon": 4, "render_threads": 1}
    ids = [11, 4, 7, 20, 5, 6, 30, 31, 32]
    env = build(task, **settings, episode_ids=ids)

    def action(episode, step):
        return np.random.default_rng([episode, step]).uniform(-1, 1, env.single_action_space.shape)

    env.reset()
    found = {}
    for step in range(12):
        running = [episode[1] for episode in env.episodes]
        info = env.step(np.stack([action(episode, step % 4) for episode in running]))[4]
        if step % 4 == 3:
            assert info["_final_obs"].all()
            found |= {e: ({k: v[w] for k, v in info["final_obs"].items()}, info["episode_return"][w]) for w, e in enumerate(running)}
    assert list(found) == ids
    alone = build(task, **settings, episode_ids=ids[::-1], num_envs=1)
    alone.reset()
    for episode in ids[::-1]:
        last, total = found[episode]
        for step in range(4):
            info = alone.step(action(episode, step)[None])[4]
        assert all(torch.equal(last[key], info["final_obs"][key][0]) for key in last)
        assert torch.isclose(total, info["episode_return"][0], atol=1e-6)
    assert not torch.equal(found[11][0]["state"], found[4][0]["state"])


def test_what_is_seen_and_done_leaves_the_episodes_alone(build, task):
    """Cameras, looks and views change no bit of states and rewards; whatever the policy did, the next episodes start alike."""

    def course(policy=actions, **settings):
        env = build(task, **{"views": [], "privileged": True, "num_envs": 2, "horizon": 4, "image_size": 16, **settings})
        states = [env.reset()[0]["state"].clone()]
        rewards = []
        for step in range(13):
            obs, reward, *_, truncated, _info = env.step(policy(env, step))
            rewards.append(reward)
            states.append(obs["state"].clone())
        return torch.stack(states), torch.stack(rewards)

    states, rewards = course()
    seen = course(views=["left", "wrist"], camera="L5", appearance="random", render_threads=1)
    assert torch.equal(seen[0], states) and torch.equal(seen[1], rewards)
    others, _ = course(lambda env, step: np.zeros(env.action_space.shape))
    assert torch.equal(others[::4], states[::4]) and not torch.equal(others, states)
    assert len({tuple(start.flatten().tolist()) for start in states[::4]}) == 4
    assert not torch.isclose(course(seed=1)[0][::4], states[::4]).all()


def test_only_privileged_state_knows_what_is_hidden(build, task):
    """With equal arms and other places of the objects, the state differs in its last numbers alone, or not at all."""
    size = task_class(task).hidden_size
    plain, privileged = build(task, views=[]), build(task, views=[], privileged=True)
    before, told = (env.reset(seed=2)[0]["state"].clone() for env in (plain, privileged))
    assert told.shape[1] == before.shape[1] + size and torch.equal(told[:, :-size], before)
    for env in (plain, privileged):
        place = env.task.place
        env.task.place = lambda generator, tool, place=place: place(np.random.default_rng(generator.integers(2**32)), tool)
    assert torch.equal(plain.reset(seed=2)[0]["state"], before)
    moved = privileged.reset(seed=2)[0]["state"]
    assert torch.equal(moved[:, :-size], before) and (moved[:, -size:] != told[:, -size:]).any(dim=1).all()


def test_a_restored_batch_goes_on_bit_by_bit_with_objects_in_the_hand(build, task):
    """Saved when the expert is half-way: what it touches, pushes or holds must go on alike, warm starts of the contacts included."""
    settings = {"views": [], "camera": "L3", "horizon": None, "privileged": True}
    env, other = build(task, **settings), build(task, **settings, seed=9)
    env.reset()
    for _ in range(env.horizon // 2):
        env.step(env.expert_actions())
    other.load_state_dict(env.state_dict())
    assert same(env.observation(), other.observation())
    for _ in range(env.horizon // 2 + 2):
        one, two = env.step(env.expert_actions()), other.step(other.expert_actions())
        assert same(one[0], two[0]) and torch.equal(one[1], two[1]) and torch.equal(one[4]["success_ever"], two[4]["success_ever"])


def test_sparse_reward_is_the_condition(build, task):
    env = build(task, views=[], reward="sparse", horizon=None)
    env.reset()
    for _ in range(env.horizon):
        _, reward, _, _, info = env.step(env.expert_actions())
        assert torch.equal(reward, info["success_end"].float())
    assert reward.all()


def test_the_expert_succeeds_and_is_paid(task):
    success, rewards = run_episodes(task, lambda env, _: env.expert_actions(), range(1000, 1100))
    assert success.float().mean() >= 0.97
    chance, little = run_episodes(task, actions, range(1000, 1040))
    still, nothing = run_episodes(task, lambda env, _: np.zeros(env.action_space.shape), range(1000, 1040))
    assert chance.float().mean() < 0.05 and still.float().mean() < 0.05
    low, high = task_class(task).reward_range
    for paid in (rewards, little, nothing):
        assert paid.min() >= low and paid.max() <= high
    assert rewards.sum(dim=1).mean() > 1.5 * max(little.sum(dim=1).mean(), nothing.sum(dim=1).mean())


def test_no_fixed_motion_does_the_task(task):
    """What is to be done has to be seen: the mean of the expert's ways, followed in other episodes, seldom succeeds."""
    ways, grips = [], []

    def show(env, _):
        ways.append(env._readings["tool_position"].mean(dim=0).numpy())
        actions = env.expert_actions()
        grips.append(np.sign(actions[:, 3:].mean(axis=0)))
        return actions

    run_episodes(task, show, range(1000, 1040))

    def follow(env, step):
        move = env.task.towards(np.tile(ways[min(step + 1, len(ways) - 1)], (env.num_envs, 1)))
        return np.concatenate([move, np.tile(grips[step], (env.num_envs, 1))], axis=1)

    success, _ = run_episodes(task, follow, range(3000, 3080))
    assert success.float().mean() < 0.35


@pytest.mark.slow
def test_the_expert_succeeds_in_many_episodes(task):
    success, _ = run_episodes(task, lambda env, _: env.expert_actions(), range(2000, 2300))
    assert success.float().mean() >= 0.97


def test_noise_is_a_function_of_episode_and_step(build, task):
    env, other = build(task, views=[], horizon=5, num_envs=2), build(task, views=[], horizon=5, num_envs=3)
    env.reset(seed=3), other.reset(seed=3)
    added = []
    for _ in range(7):
        plain, noisy = env.expert_actions(), env.expert_actions(noise=0.1)
        assert np.array_equal(noisy, env.expert_actions(noise=0.1)) and noisy.dtype == plain.dtype and np.abs(noisy).max() <= 1
        assert np.array_equal(noisy, other.expert_actions(noise=0.1)[:2])  # whatever other worlds there are
        added.append(noisy - plain)
        env.step(plain), other.step(other.expert_actions())
    # Some noise in every world at every step that is not clipped away, and never twice the same.
    added = np.stack(added)
    assert len(np.unique(added[added != 0])) == (added != 0).sum() > added.size / 3 and 0.02 < np.abs(added[added != 0]).mean() < 0.2
