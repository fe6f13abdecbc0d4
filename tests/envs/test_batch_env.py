import numpy as np
import pytest
import torch
from courses import actions, copy, same

from envs import make_env
from robo_repr.core.errors import UserError


def test_the_kth_episode_starts_alike_whatever_happened_before(build):
    def starts(policy, **settings):
        env = build(views=["front"], **settings)
        states = [copy(env.reset()[0])]
        for step in range(36):
            obs, *_, truncated, _info = env.step(policy(env, step))
            if truncated.any():
                states.append(copy(obs))
        return states

    def still(env, step):
        return np.zeros((env.num_envs, 3))

    base = starts(actions)
    assert len(base) == 4 and not torch.equal(base[0]["state"], base[1]["state"])
    assert all(same(a, b) for a, b in zip(base, starts(still), strict=True))
    more_worlds = starts(actions, num_envs=5)
    assert all(torch.equal(a["state"], b["state"][:3]) for a, b in zip(base, more_worlds, strict=True))


def test_how_pictures_are_drawn_leaves_the_physics_untouched(build):
    """Not one bit changes with quality and frame stack; for cameras, looks and views see test_tasks.py."""

    def course(**settings):
        env = build(
            **{
                "views": [],
                "privileged": True,
                "num_envs": 2,
                "horizon": 4,
                "image_size": 16,
                "render_threads": 1,
                **settings,
            }
        )
        states = [env.reset()[0]["state"].clone()]
        for step in range(9):
            obs, reward, *_ = env.step(actions(env, step))
            states.append(torch.cat([obs["state"].flatten(), reward]))
        return torch.cat([state.flatten() for state in states])

    base = course()
    for variant in ({"quality": "full"}, {"frame_stack": 3}):
        assert torch.equal(course(views=["wrist", "left"], **variant), base), variant
    assert not torch.isclose(course(seed=1), base).all()


def test_evaluation_episodes_are_fixed_by_their_ids(build):
    env = build(views=[], episode_ids=[7, 8, 9, 10])
    first = copy(env.reset()[0])["state"]
    for step in range(12):
        obs, *_ = env.step(actions(env, step))
    assert env.episodes == [("evaluation", 10), ("evaluation", 7), ("evaluation", 8)]
    assert torch.equal(obs["state"][1], first[0]) and torch.equal(obs["state"][2], first[1])
    for ids in ([9], np.array([9]), range(9, 10), iter([9])):
        assert torch.equal(build(views=[], episode_ids=ids, num_envs=1).reset()[0]["state"][0], first[2])
    training = build(views=[]).reset()[0]["state"]
    assert not torch.isclose(training, first).all(dim=1).any()


def test_reset_with_a_seed_starts_over_and_without_goes_on(build):
    env = build(views=[])
    first = copy(env.reset(seed=4)[0])
    second = copy(env.reset()[0])
    assert not torch.equal(first["state"], second["state"])
    for wrong in (-1, 1.5, True):
        with pytest.raises(UserError, match=f"seed={wrong} is not possible"):
            env.reset(seed=wrong)
    assert same(env.reset(seed=4)[0], first)


def test_the_last_observation_of_an_episode_is_kept(build):
    env = build(views=["front"], horizon=4)
    env.reset()
    for step in range(3):
        before, *_, info = env.step(actions(env, step))
        before = copy(before)
        assert "final_obs" not in info and not info["_final_obs"].any()
    obs, _, terminated, truncated, info = env.step(np.zeros((3, 3)))
    assert truncated.all() and not terminated.any() and info["_final_obs"].all()
    assert (info["episode_length"] == 4).all()
    assert (info["final_obs"]["state"] - before["state"]).norm(dim=1).max() < (obs["state"] - before["state"]).norm(dim=1).min()
    assert not torch.equal(info["final_obs"]["images"], obs["images"])


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_a_restored_batch_goes_on_bit_by_bit(build, frame_stack):
    settings = {"views": ["front", "wrist"], "appearance": "random", "frame_stack": frame_stack, "camera": "L3"}
    env = build(**settings)
    env.reset()
    env.stagger()
    for step in range(9):
        env.step(actions(env, step))
    state, now = env.state_dict(), copy(env.observation())
    expected = [(copy(out[0]), out[1].clone(), out[4]["success_ever"].clone()) for out in (env.step(actions(env, s)) for s in range(9, 40))]
    other = build(**settings, seed=99)
    other.load_state_dict(state)
    assert same(other.observation(), now)
    for step, (obs, reward, ever) in enumerate(expected, start=9):
        found = other.step(actions(other, step))
        assert same(found[0], obs) and torch.equal(found[1], reward) and torch.equal(found[4]["success_ever"], ever)


def test_a_snapshot_of_other_settings_is_refused(build):
    env = build(views=["front"])
    env.reset()
    with pytest.raises(UserError, match="num_envs"):
        build(views=["front"], num_envs=2).load_state_dict(env.state_dict())


def test_a_snapshot_of_another_task_is_refused(build):
    """Also where the shapes agree. Older snapshots do not tell their task."""
    env, other = build("drawer", views=[]), build("door", views=[])
    env.reset()
    state = env.state_dict()
    with pytest.raises(UserError, match="snapshot is of task=drawer, this environment of task=door. .* task=drawer"):
        other.load_state_dict(state)
    del state["task_name"]
    again = build("drawer", views=[])
    again.load_state_dict(state)
    assert same(again.observation(), env.observation())


def test_frames_are_stacked_oldest_first(build):
    env = build(views=["wrist"], frame_stack=3)
    obs = copy(env.reset()[0])
    assert obs["images"].shape == (3, 1, 3, 3, 32, 32) and torch.equal(obs["images"][:, :, 0], obs["images"][:, :, 2])
    last = obs
    for step in range(12):
        obs = copy(env.step(actions(env, step))[0])
        if step < 11:
            assert torch.equal(obs["images"][:, :, :2], last["images"][:, :, 1:])
        last = obs
    assert torch.equal(obs["images"][:, :, 0], obs["images"][:, :, 2])  # a new episode began: no picture of the old one is left


def test_success_asks_for_ten_steps_in_a_row(build):
    env = build(views=[], horizon=60)
    env.reset()
    within = 0
    for step in range(60):
        # The expert arrives, leaves for a while, and comes back.
        move = env.expert_actions() if step < 30 or step > 40 else -np.ones((3, 3)) * [0, 0, -1]
        info = env.step(move)[4]
        within = torch.where(info["success_end"], within + 1, 0)
        assert torch.equal(info["success"], within >= 10)
        if step == 40:
            assert info["success_ever"].all() and not info["success_end"].any()
    assert info["success"].all() and (info["episode_length"] == 60).all()


def test_start_geometry():
    env = make_env("reach", num_envs=200, views=[], privileged=True)
    obs, _ = env.reset()
    tool, ball = obs["state"][:, :3] * 0.15, obs["state"][:, 13:] * 0.15
    assert obs["state"].shape == (200, 16)
    assert (tool - ball).norm(dim=1).min() >= 0.08
    span = ball.max(dim=0).values - ball.min(dim=0).values
    assert (span > torch.tensor([0.26, 0.28, 0.24])).all() and (span <= torch.tensor([0.28, 0.30, 0.26]) + 1e-4).all()
    env.close()


def test_actions_are_checked(build):
    env = build(views=[])
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros((3, 3)))
    env.reset()
    for wrong in (np.zeros((3, 2)), np.full((3, 3), 1.01), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="action"):
            env.step(wrong)
    env.step(torch.ones(3, 3))


@pytest.mark.parametrize("call", ["expert_actions", "observation", "render_at", "segment_at"])
def test_what_needs_an_episode_asks_for_a_reset(build, call):
    with pytest.raises(RuntimeError, match=rf"{call}\(\) before reset\(\): call env.reset"):
        getattr(build(views=["front"]), call)(*([16] if call.endswith("_at") else []))


def test_what_is_drawn_anew_is_checked(build):
    env = build(views=["front"])
    env.reset()
    for draw in (env.render_at, env.segment_at):
        for size in (0, 1281, 16.0, "16", True):
            with pytest.raises(UserError, match=f"size={size!r} is not possible. size must be a whole number from 1 to 1280"):
                draw(size)
        for worlds in (1, [3], [-1], [0.5], [True, False, True], "front"):
            with pytest.raises(UserError, match="worlds=.* is not possible. Give a list of whole numbers from 0 to 2"):
                draw(16, worlds=worlds)
        for views in (3, ["frnt"], "frnt"):
            with pytest.raises(UserError, match="views="):
                draw(16, views=views)
        assert draw(16, worlds=[], views="top").shape[:2] == (0, 1) and draw(16, worlds=np.array([2, 0]), views=[]).shape[:2] == (2, 0)
    assert np.array_equal(env.render_at(16, worlds=[2], views="top"), env.render_at(16, views=["wrist", "top"])[2:, 1:])


def test_stagger_spreads_the_resets(build):
    env = build(views=[], num_envs=4)
    env.reset()
    env.stagger()
    ends = [int(env.step(np.zeros((4, 3)))[3].sum()) for _ in range(24)]
    assert max(ends) == 1 and sum(ends) == 8


def test_broken_physics_ends_the_episode_as_a_failure(build):
    env = build(views=[], horizon=40)
    env.reset()
    for _ in range(30):
        env.step(env.expert_actions())
    env.sim._batch.bind("qvel")[1] = np.nan
    info = env.step(env.expert_actions())[4]
    assert info["bad_physics"].tolist() == [False, True, False] and info["_final_obs"].tolist() == [False, True, False]
    assert info["success"].tolist() == [True, False, True]
    assert torch.isfinite(env.observation()["state"]).all()
    assert not env.step(env.expert_actions())[4]["bad_physics"].any()


def test_the_hand_camera_moves_with_the_hand(build):
    env = build(views=["front", "wrist"], camera="L2")
    before = env.reset()[0]["camera"].clone()
    for _ in range(5):
        obs, *_ = env.step(np.tile([0.0, 0.0, -1.0], (3, 1)))
    moved = obs["camera"] - before
    assert (moved[:, 0] == 0).all()
    assert (moved[:, 1, 2] < -0.05).all() and (moved[:, 1, 7] == 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "reech"},
        {"task": ["reach", "push"]},
        {"views": ["frnt"]},
        {"views": 3},
        {"camera": "L9"},
        {"camera": 1},
        {"num_envs": 0},
        {"num_envs": 1.5},
        {"horizon": 0},
        {"image_size": 0},
        {"frame_stack": 0},
        {"seed": -1},
        {"appearance": "plane"},
        {"quality": "fst"},
        {"reward": "spars"},
        {"sim": "thread"},
        {"episode_ids": []},
        {"episode_ids": 3},
        {"episode_ids": [1.5]},
        {"episode_ids": [-1]},
        {"episode_ids": [True]},
        {"episode_ids": "12"},
        {"privileged": "no"},
        {"privileged": 1},
        {"device": "gpu"},
        {"device": "cuda:99"},
        {"device": "meta"},
        {"device": None},
        {"render_threads": 0},
    ],
)
def test_wrong_settings_are_named(settings):
    (key, value), *_ = settings.items()
    with pytest.raises(UserError) as error:
        make_env(settings.pop("task", "reach"), **settings)
    assert key in str(error.value) and (not value or str(value) in str(error.value) or str(value[0]) in str(error.value))
