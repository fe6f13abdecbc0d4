import inspect

import numpy as np
import pytest
import torch
from point_env import PointEnv

from agents import EmbedEnv
from agents.sb3 import SAC
from robo_repr import load_encoder
from robo_repr.core.config import build, config_names, load_part

FROM_THE_RUN = {"env", "steps", "updates_per_step", "save_replay", "seed", "device"}
SMALL = {"net": [16, 16], "batch_size": 16, "learning_starts": 40}


@pytest.mark.parametrize("name", config_names("agent"))
def test_yaml_keys_are_the_constructors_keywords(name):
    node = load_part("agent", name)
    module, cls = node.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(__import__(module, fromlist=[cls]), cls).__init__).parameters
    assert set(node) == set(parameters) - {"self"} - FROM_THE_RUN


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build_agent():
    envs = []

    def make(steps=400, updates_per_step=0.25, seed=0, save_replay=True, delay=0.0, **changes):
        envs.append(EmbedEnv(PointEnv(delay=delay), load_encoder("pixels", size=4)))
        run = {"steps": steps, "updates_per_step": updates_per_step, "seed": seed, "device": "cpu", "save_replay": save_replay}
        return build({**load_part("agent", "sac"), **SMALL, **changes}, env=envs[-1], **run)

    yield make
    for env in envs:
        env.close()


def everything(agent: SAC) -> dict[str, np.ndarray]:
    """All that training has changed, by name."""
    found = {name: value.numpy().copy() for name, value in agent.model.policy.state_dict().items()}
    found |= {f"readout/{name}": value.numpy().copy() for name, value in agent.env.readout.state().items()}
    rows = agent.model.replay_buffer.size()
    found |= {f"replay/{name}": value[:rows].copy() for name, value in agent._replay_arrays().items()}
    found["ent"] = agent.model.log_ent_coef.detach().numpy().copy()
    for name, optimiser in agent._optimisers().items():
        for index, tensors in optimiser.state_dict()["state"].items():
            found |= {f"{name}/{index}/{key}": value.numpy().copy() for key, value in tensors.items()}
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    different = [key for key in a.keys() | b.keys() if key not in a or key not in b or not np.array_equal(a[key], b[key])]
    if different:
        print(f"different: {different}")  # shown by pytest when the assertion fails
    return not different


def test_warm_up_fills_the_replay_and_counts(build_agent):
    agent = build_agent()
    boundaries = []
    agent.learn(48, lambda: boundaries.append((agent.env_steps, agent.updates)) or True)
    assert boundaries == [(40, 0), (44, 0), (48, 1)]
    replay = agent.model.replay_buffer
    assert replay.pos == 12 and replay.observations["features"].dtype == np.float16
    assert (replay.timeouts == replay.dones).all() and replay.dones.sum() > 0


def test_updates_per_step_may_be_a_fraction(build_agent):
    agent = build_agent(updates_per_step=0.1)
    agent.learn(240, lambda: True)
    assert agent.updates == int(0.1 * (240 - 4 - 40))  # those of the last step would come with the next one


def test_timing_changes_nothing(build_agent):
    results = []
    for delay in (0.0, 0.01):
        agent = build_agent(delay=delay)
        agent.learn(160, lambda: True)
        results.append(everything(agent))
    assert same(*results)


def test_another_seed_gives_another_policy(build_agent):
    results = []
    for seed in (0, 1):
        agent = build_agent(seed=seed)
        agent.learn(80, lambda: True)
        results.append(everything(agent))
    assert not same(*results)


@pytest.mark.parametrize("grown", [1, 2])
def test_resuming_is_exact(build_agent, tmp_path, grown):
    """A run that went through, against one that stopped half way (planned for half the steps, when grown is 2)."""
    rows = {"whole": [], "resumed": []}

    def note(agent, name):
        rows[name].append((agent.env_steps, agent.updates, agent.recent_episodes(), agent.losses()))
        if agent.env_steps % 20 == 0:
            agent.forget_losses()

    whole = build_agent(steps=400)
    whole.learn(400, lambda: note(whole, "whole") or True)

    first = build_agent(steps=400 // grown)

    def boundary():
        if first.env_steps < 200:
            note(first, "resumed")
            return True
        first.save(tmp_path)
        return False

    first.learn(200 if grown == 2 else 400, boundary)
    second = build_agent(steps=400, seed=5)  # nothing of its own start may matter
    second.load(tmp_path)
    second.learn(400, lambda: note(second, "resumed") or True)
    assert same(everything(whole), everything(second))
    assert rows["whole"] == rows["resumed"]


def test_a_full_replay_is_restored(build_agent, tmp_path):
    whole = build_agent(buffer_size=60)
    whole.learn(200, lambda: True)
    first = build_agent(buffer_size=60)
    first.learn(120, lambda: True)
    first.save(tmp_path)
    second = build_agent(buffer_size=60)
    second.load(tmp_path)
    second.learn(200, lambda: True)
    assert same(everything(whole), everything(second))


def test_without_the_replay_updates_wait_for_new_transitions(build_agent, tmp_path):
    first = build_agent(save_replay=False)
    first.learn(120, lambda: True)
    first.save(tmp_path)
    assert not list(tmp_path.glob("replay*"))
    second = build_agent(save_replay=False)
    second.load(tmp_path)
    updates = {}
    second.learn(200, lambda: updates.update({second.env_steps: second.updates}) or True)
    assert updates[120] == updates[160] == first.updates and updates[164] == first.updates
    assert updates[200] == first.updates + 9


def test_saving_and_acting_do_not_disturb_training(build_agent, tmp_path):
    quiet = build_agent()
    quiet.learn(120, lambda: True)
    disturbed = build_agent()  # it seeds the generators that stable-baselines3 shares

    def boundary():
        disturbed.save(tmp_path)
        disturbed.act(disturbed.env.env.observation())
        return True

    disturbed.learn(120, boundary)
    assert same(everything(quiet), everything(disturbed))


def test_a_loaded_policy_acts_alike(build_agent, tmp_path):
    agent, other = build_agent(), build_agent(seed=7)
    agent.learn(80, lambda: True)
    agent.save(tmp_path)
    other.load_policy(tmp_path)
    obs = agent.env.env.observation()
    action, memory = agent.act(obs)
    assert memory is None and np.array_equal(action, other.act(obs)[0]) and np.abs(action).max() <= 1
    assert not np.array_equal(agent.act(obs, deterministic=False)[0], action)


def test_learns_to_push_the_point_home(build_agent):
    agent = build_agent(steps=2000, net=[32, 32], batch_size=64, learning_starts=200)
    returns = []
    agent.learn(2000, lambda: returns.append(agent.recent_episodes()["train/return"]) or True)
    assert returns[-1] > returns[0] + 0.5
