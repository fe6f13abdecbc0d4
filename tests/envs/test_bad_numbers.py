"""Worlds that MuJoCo warns of, and tasks that give numbers which no one should learn from."""

import numpy as np
import pytest
import torch

from envs.render import mujoco
from envs.tasks.reach import Reach
from robo_repr.core.errors import Failure

STILL = np.zeros((3, 3))


def actions(step):
    return np.random.default_rng(step).uniform(-1, 1, (3, 3))


def copy(obs):
    return {key: value.clone() for key, value in obs.items()}


class NanControl(Reach):
    """Gives a control that is no number in world 1, at the step that `poison` was set for."""

    poison = False

    def control(self, sim, readings, action):
        ctrl = super().control(sim, readings, action)
        if self.poison:
            ctrl[1, 0], self.poison = np.nan, False
        return ctrl


def field(name, value):
    def spoil(env):
        env.sim._batch.bind(name)[1, 0] = value

    return spoil


BREAKS = {
    "BADQPOS": field("qpos", 1e11),
    "BADQVEL": field("qvel", np.nan),
    "BADQACC": field("qvel", 1e9),
    "BADCTRL": lambda env: setattr(env.task, "poison", True),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_world_that_breaks_down_ends_its_episode_and_disturbs_no_other(build_own, kind):
    settings = {"views": ["front", "wrist"], "camera": "L3", "appearance": "random"}
    env, healthy = build_own(NanControl, **settings), build_own(NanControl, **settings)
    for one in (env, healthy):
        one.reset()
    for step in range(20):  # the others end at step 12
        if step == 5:
            before = copy(env.observation())
            BREAKS[kind](env)
        obs, reward, _, truncated, info = env.step(actions(step))
        expected_obs, expected_reward, _, expected_end, _ = healthy.step(actions(step))
        others = [0, 2]
        assert all(torch.equal(obs[key][others], expected_obs[key][others]) for key in obs)
        assert torch.equal(reward[others], expected_reward[others]) and torch.equal(truncated[others], expected_end[others])
        assert bool(info["bad_physics"][1]) == (step == 5) and not info["bad_physics"][others].any()
        if step == 5:
            assert truncated[1] and info["_final_obs"][1] and info["episode_length"][1] == 6
            assert reward[1] == 0 and not info["success"][1] and not info["success_end"][1]
            assert all(torch.equal(info["final_obs"][key][1], before[key][1]) for key in obs)
            next_episode = [copy(obs)]
        elif step == 6:
            next_episode.append(copy(obs))
    assert env.warnings == {kind: 1} and healthy.warnings == {}

    # World 1 went on with the episode that would have come anyway, from its start.
    healthy.reset(seed=0)
    alone = [copy(healthy.reset()[0]), copy(healthy.step(actions(6))[0])]
    for found, expected in zip(next_episode, alone, strict=True):
        assert all(torch.equal(found[key][1], expected[key][1]) for key in found)


def test_a_world_may_break_down_at_every_step_and_each_is_counted(build):
    """MuJoCo's own count starts anew with every breakdown, so it never exceeds one."""
    env = build(views=[])
    env.reset()
    for count in (1, 2, 3):
        BREAKS["BADQVEL"](env)
        info = env.step(STILL)[4]
        assert info["bad_physics"].tolist() == [False, True, False] and env.warnings == {"BADQVEL": count}
        assert info["episode_length"][1] == 1
    assert env.episodes[1] == ("training", 1, 3)
    saved = env.state_dict()
    other = build(views=[])
    other.load_state_dict(saved)
    BREAKS["BADQACC"](other)
    other.step(STILL)
    assert other.warnings == {"BADQVEL": 3, "BADQACC": 1} and env.warnings == {"BADQVEL": 3}


def crowd(memory: int, height: float = 1.0):
    """Reach with thirty boxes that hover above a ground; the contacts of fallen ones need more memory than the model may have."""

    class Crowd(Reach):
        @staticmethod
        def spec():
            spec = Reach.spec()
            spec.memory = memory
            touching = {"contype": 1, "conaffinity": 1}
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.3], size=[5, 5, 0.1], **touching)
            for i in range(30):
                body = spec.worldbody.add_body(pos=[2 + 0.1 * (i % 6), 0.1 * (i // 6), height], gravcomp=1)
                body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1])
                body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.04, 0.04, 0.04], mass=1, **touching)
            return spec

    return Crowd


@pytest.mark.filterwarnings("ignore:MuJoCo gave up on a world")
@pytest.mark.parametrize("memory, kind", [(10_000_000, None), (120_000, "CNSTRFULL"), (80_000, "CONTACTFULL"), (60_000, "ERROR")])
def test_a_full_memory_ends_the_episode(build_own, memory, kind):
    env = build_own(crowd(memory), views=[])
    env.reset()
    before = env.step(STILL)[0]["state"].clone()
    env.sim._batch.bind("qpos")[1, -30:] = -1.27  # the boxes of one world stand on the ground
    info = env.step(STILL)[4]
    assert env.warnings == ({} if kind is None else {kind: 1})
    assert info["bad_physics"].tolist() == [False, kind is not None, False]
    if kind is not None:
        assert torch.equal(info["final_obs"]["state"][1], before[1])
        assert not env.step(STILL)[4]["bad_physics"].any()


def test_a_start_state_that_cannot_go_on_is_named(build_own):
    build_own(crowd(10_000_000, height=-0.27), views=[]).reset()
    with pytest.raises(Failure, match=r"Step 0, world \d, episode training/\d/0: .*start state \(CONTACTFULL\)"):
        build_own(crowd(80_000, height=-0.27), views=[]).reset()

    class NanStart(Reach):
        def reset(self, generators):
            state = super().reset(generators)
            state["qpos"][-1, 0] = np.nan
            return state

    with pytest.raises(Failure, match=r"world 2, episode training/2/0: .*start state \(BADQPOS\)"):
        build_own(NanStart, views=[]).reset()


def test_what_the_last_substep_broke_is_found_in_the_same_step(build_own):
    env = build_own(crowd(10_000_000), views=[])
    env.reset()
    speed = 1e9
    env.sim._batch.bind("qvel")[1, -1] = speed
    env.sim._batch.bind("qpos")[1, -1] = mujoco.mjMAXVAL - 9.5 * speed * env._model.opt.timestep  # beyond in the last of ten
    info = env.step(STILL)[4]
    assert info["bad_physics"].tolist() == [False, True, False] and env.warnings == {"BADQPOS": 1}


def test_a_snapshot_with_a_bad_state_is_refused(build):
    env = build(views=[])
    env.reset()
    state = env.state_dict()
    env.load_state_dict(state)
    state["sim"][2, 5] = np.nan
    with pytest.raises(Failure, match="world 2"):
        env.load_state_dict(state)


def test_warnings_leave_no_file_behind(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = mujoco.MjLogConfig.get()
    env = build(views=[])
    env.reset()
    BREAKS["BADQVEL"](env)
    env.step(STILL)
    assert list(tmp_path.iterdir()) == [] and env.warnings
    config.logto_file = True
    config.set()
    try:
        BREAKS["BADQVEL"](env)
        env.step(STILL)
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        config.logto_file = False
        config.set()


def giving(reward=None, state=None, declared=(0.0, 1.0)):
    """Reach of which world 1 gets that reward, or that first number of its state, from the third step on."""

    class Own(Reach):
        reward_range = declared
        steps = 0

        def control(self, sim, readings, action):
            self.steps += 1
            return super().control(sim, readings, action)

        def reward(self, readings):
            value = super().reward(readings)
            if reward is not None and self.steps >= 3:
                value[1] = reward
            return value

        def observe(self, readings, privileged):
            value = super().observe(readings, privileged)
            if state is not None and self.steps >= 3:
                value[1, 0] = state
            return value

    return Own


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"reward": np.nan}, "reward is not finite"),
        ({"reward": np.inf}, "reward is not finite"),
        ({"reward": 1.5}, r"reward 1.5 is outside the range \[0, 1\]"),
        ({"reward": -0.01}, r"reward -0.01 is outside the range \[0, 1\]"),
        ({"reward": 1.5, "declared": (-1.0, 1.4)}, r"outside the range \[-1, 1.4\]"),
        ({"state": np.nan}, "state is not finite"),
        ({"state": -np.inf}, "state is not finite"),
    ],
)
def test_what_no_one_should_learn_from_stops_with_its_place(build_own, wrong, words):
    env = build_own(giving(**wrong), views=[])
    env.reset()
    for _ in range(2):
        env.step(STILL)
    with pytest.raises(Failure, match=f"Step 3, world 1, episode training/1/0: .*{words}") as failure:
        env.step(STILL)
    assert failure.value.exit_code == 1


@pytest.mark.parametrize("right", [{}, {"reward": 1 + 5e-7}, {"reward": -5e-7}, {"reward": 1.5, "declared": (-1.0, 2.0)}, {"state": 1e6}])
def test_what_the_task_declares_is_taken(build_own, right):
    env = build_own(giving(**right), views=[])
    env.reset()
    for _ in range(4):
        env.step(STILL)


def test_a_sensor_that_is_not_finite_is_named(build, monkeypatch):
    env = build(views=[], episode_ids=[4, 5, 6])
    env.reset()
    env.step(STILL)
    readings = env.sim.readings

    def spoilt():
        found = readings()
        found["tool_velocity"][2, 1] = np.nan
        return found

    monkeypatch.setattr(env.sim, "readings", spoilt)
    with pytest.raises(Failure, match="Step 2, world 2, episode evaluation/6: sensor tool_velocity is not finite"):
        env.step(STILL)
