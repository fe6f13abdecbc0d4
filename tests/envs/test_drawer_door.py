import numpy as np
import pytest
import torch

from envs import make_env
from envs.registry import task_class
from envs.render import mujoco

pytestmark = pytest.mark.parametrize("task", ["drawer", "door"])


@pytest.fixture
def env(task):
    env = make_env(task, num_envs=60, views=[], seed=3)
    env.reset()
    yield env
    env.close()


def geoms(model, root):
    """The geoms of a body and of all that hangs on it."""
    return [geom for geom in range(model.ngeom) if model.body_rootid[model.geom_bodyid[geom]] == model.body(root).id]


@pytest.mark.parametrize("noise, least", [(0.0, 0.97), (0.3, 0.8)])
def test_the_expert_opens_it_whatever_jerks_its_hand(env, noise, least):
    generator = np.random.default_rng(0)
    for _ in range(env.horizon):
        action = env.expert_actions()
        info = env.step(np.clip(action + noise * generator.normal(size=action.shape), -1, 1))[4]
    assert info["success"].float().mean() >= least and info["success_ever"].float().mean() >= least


@pytest.mark.parametrize("policy, most", [("rest", 0.0), ("random", 0.05), ("press", 0.15)])
def test_it_stays_shut_unless_the_handle_is_pulled(env, policy, most):
    """Pressing on it from above with all force drags few open; where fingers stick to the furniture it is near half of them."""
    generator = np.random.default_rng(0)
    actions = {
        "rest": lambda: np.zeros((60, 3)),
        "random": lambda: generator.uniform(-1, 1, (60, 3)),
        "press": lambda: np.tile([0, 0, -1], (60, 1)),
    }
    for _ in range(env.horizon):
        info = env.step(actions[policy]())[4]
    assert info["success_ever"].float().mean() <= most and not info["bad_physics"].any()


def test_it_stays_where_the_hand_leaves_it(env):
    left = np.zeros(60, dtype=bool)
    seen = []
    for _ in range(40):
        left |= env.task.opened(env._readings).numpy() > 0.4
        env.step(np.where(left[:, None], [0.0, 0.0, 1.0], env.expert_actions()))
        seen.append(env._readings["opening"].clone())
    assert left.all() and (seen[-1] - seen[-15]).abs().max() < 1e-3
    opened = env.task.opened(env._readings)
    assert 0.35 < opened.median() < 0.9 and (env._readings["tool_position"][:, 2] > 0.2).all()


def test_no_part_of_the_arm_is_inside_the_furniture_while_the_expert_works(env):
    model, data = env._model, mujoco.MjData(env._model)
    pairs = [(arm, thing) for arm in geoms(model, "link0") for thing in geoms(model, "cabinet")]
    for step in range(25):
        if step % 2 == 0:
            for state in env.sim.get_state()[:10]:
                mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
                mujoco.mj_kinematics(model, data)
                depths = {pair: mujoco.mj_geomDistance(model, data, *pair, 0.01, None) for pair in pairs}
                assert min(depths.values()) > -0.006, min(depths, key=lambda pair: depths[pair])  # pads press a little into what they pull
        env.step(env.expert_actions())


def test_distractors_have_to_stay_clear_of_it_open_and_shut(task):
    cls = task_class(task)
    model = cls.spec().compile()
    data, joint, furniture = mujoco.MjData(model), model.joint(task), geoms(model, "cabinet")
    corners = []
    for episode in range(40):
        values = cls(model, 1).reset([np.random.default_rng(episode)])
        data.mocap_pos[:], data.mocap_quat[:] = values["mocap_pos"][0], values["mocap_quat"][0]
        for position in np.linspace(joint.range[0], joint.range[1], 3):
            data.qpos[joint.qposadr] = position
            mujoco.mj_kinematics(model, data)
            turn = data.geom_xmat[furniture].reshape(-1, 3, 3)
            middle = data.geom_xpos[furniture] + np.einsum("gij,gj->gi", turn, model.geom_aabb[furniture, :3])
            half = np.einsum("gij,gj->gi", np.abs(turn), model.geom_aabb[furniture, 3:])
            corners += [(middle - half)[:, :2].min(axis=0), (middle + half)[:, :2].max(axis=0)]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    spare = np.concatenate([low, -high]) - cls.keep_clear * np.array([1, 1, -1, -1])
    assert (spare > 0).all() and (spare < 0.05).all()


def test_more_opening_and_a_nearer_hand_always_pay_and_only_both_pay_all(env):
    n = 60
    hook = torch.zeros(n, 3, dtype=torch.float64)

    def reward(apart, opening):
        tool = hook + torch.as_tensor(apart).reshape(-1, 1) * torch.tensor([0.0, 0.0, 1.0])
        opened = torch.as_tensor(opening, dtype=torch.float64).reshape(-1, 1).expand(n, 1)
        return env.task.reward({"tool_position": tool, "hook_position": hook, "opening": opened})

    wholly = env.task.wholly
    for apart in (0.0, 0.05, 0.4):
        assert (reward(apart, torch.linspace(0, 0.99 * wholly, n)).diff() > 0).all()
    for opening in (0.0, 0.5 * wholly, 1.2 * wholly):
        assert (reward(torch.linspace(0, 0.4, n), opening).diff() < 0).all()
    assert reward(0.0, 0.0).max() < 0.31 and torch.allclose(reward(0.0, 1.2 * wholly), torch.ones(n))
    assert reward(0.4, 0.76 * wholly).min() > reward(0.0, 0.2 * wholly).max()  # no hand that only waits at the handle does better
