import inspect
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from point_env import PointEnv
from stable_baselines3.common.buffers import DictReplayBuffer

from agents import EmbedEnv
from agents.sb3 import SAC
from agents.sb3.replay import ReplaySegments, replay_arrays
from robo_repr import load_encoder
from robo_repr.core.checkpoint import DamagedCheckpoint
from robo_repr.core.config import build, config_names, load_part
from robo_repr.core.errors import Failure, UserError

FROM_THE_RUN = {"env", "steps", "updates_per_step", "save_replay", "seed", "device"}
SMALL = {
    "sac": {"net": [16, 16], "batch_size": 16, "learning_starts": 40},
    "ppo": {"net": [16, 16], "batch_size": 10, "n_steps": 5, "n_epochs": 2, "calibration_steps": 40},
}


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

    def make(name="sac", steps=400, updates_per_step=None, seed=0, save_replay=True, delay=0.0, **changes):
        envs.append(EmbedEnv(PointEnv(delay=delay), load_encoder("pixels", size=4)))
        run = {"steps": steps, "updates_per_step": updates_per_step, "seed": seed, "device": "cpu", "save_replay": save_replay}
        return build({**load_part("agent", name), **SMALL[name], **changes}, env=envs[-1], **run)

    yield make
    for env in envs:
        env.close()


def everything(agent) -> dict[str, np.ndarray]:
    """All that training has changed, by name."""
    found = {name: value.numpy().copy() for name, value in agent.model.policy.state_dict().items()}
    found |= {f"readout/{name}": value.numpy().copy() for name, value in agent.env.readout.state().items()}
    if isinstance(agent, SAC):
        rows = agent.model.replay_buffer.size()
        found |= {f"replay/{name}": value[:rows].copy() for name, value in replay_arrays(agent.model.replay_buffer).items()}
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


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_another_seed_gives_another_policy(build_agent, name):
    results = []
    for seed in (0, 1):
        agent = build_agent(name, seed=seed)
        agent.learn(80, lambda: True)
        results.append(everything(agent))
    assert not same(*results)


@pytest.mark.parametrize("name", ["sac", "ppo"])
@pytest.mark.parametrize("grown", [1, 2])
def test_resuming_is_exact(build_agent, tmp_path, name, grown):
    """A run that went through, against one that stopped half way (planned for half the steps, when grown is 2)."""
    folder = tmp_path / "200"
    folder.mkdir()
    rows = {"whole": [], "resumed": []}

    def note(agent, name):
        rows[name].append((agent.env_steps, agent.updates, agent.recent_episodes(), agent.losses()))
        if agent.env_steps % 20 == 0:
            agent.forget_losses()

    whole = build_agent(name, steps=400)
    whole.learn(400, lambda: note(whole, "whole") or True)

    first = build_agent(name, steps=400 // grown)

    def boundary():
        if first.env_steps < 200:
            note(first, "resumed")
            return True
        first.save(folder)
        return False

    first.learn(200 if grown == 2 else 400, boundary)
    second = build_agent(name, steps=400, seed=5)  # nothing of its own start may matter
    second.load(folder)
    second.learn(400, lambda: note(second, "resumed") or True)
    assert same(everything(whole), everything(second))
    assert rows["whole"] == rows["resumed"]


@pytest.mark.parametrize("every", [20, 52, 120])
def test_a_replay_that_goes_round_is_restored(build_agent, tmp_path, every):
    whole = build_agent(buffer_size=60)
    whole.learn(200, lambda: True)
    first = build_agent(buffer_size=60)

    def boundary():
        if first.env_steps % every == 0:
            save(first, tmp_path, first.env_steps)
        return True

    first.learn(120, boundary)
    last = max(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    second = build_agent(buffer_size=60)
    second.load(tmp_path / str(last))
    second.learn(200, lambda: True)
    assert same(everything(whole), everything(second))


def save(agent, checkpoints, step):
    (checkpoints / str(step)).mkdir()
    agent.save(checkpoints / str(step))


def test_a_checkpoint_writes_only_what_is_new(build_agent, tmp_path):
    agent = build_agent()
    written = {}

    def boundary():
        if agent.env_steps % 80 == 0:
            save(agent, tmp_path, agent.env_steps)
            for file in (tmp_path / "replay").iterdir():
                written.setdefault(file.name, file.stat().st_mtime_ns)
        return True

    agent.learn(320, boundary)
    segments = sorted((tmp_path / "replay").glob("*.safetensors"), key=lambda file: int(file.name.split("-")[0]))
    assert [file.stem for file in segments] == ["0-20", "20-40", "40-60", "60-80"]
    assert all(file.stat().st_mtime_ns == written[file.name] for file in (tmp_path / "replay").iterdir())
    sizes = [file.stat().st_size for file in segments]
    assert max(sizes) - min(sizes) < 64


def test_segments_that_no_checkpoint_names_are_deleted(build_agent, tmp_path):
    agent = build_agent(buffer_size=60)  # 15 rows

    def boundary():
        if agent.env_steps % 20 == 0:
            save(agent, tmp_path, agent.env_steps)
            if agent.env_steps >= 80:
                shutil.rmtree(tmp_path / str(agent.env_steps - 40))  # only the last two are kept
        return True

    agent.learn(160, boundary)
    # The checkpoint of step 140 needs rows 20 to 35, and that of step 160 rows 25 to 40; that of step 120 was there until after the save.
    assert {file.stem for file in (tmp_path / "replay").iterdir()} == {"15-20", "20-25", "25-30", "30-35", "35-40"}


def test_a_segment_of_another_run_is_noticed(build_agent, tmp_path):
    """Whole in itself, but not the one that the checkpoint was written with."""
    one, other = build_agent(), build_agent(seed=1)
    for name, agent in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        agent.learn(80, lambda: True)
        save(agent, tmp_path / name, 80)
    one.load(tmp_path / "one" / "80")  # a control
    shutil.copytree(tmp_path / "other" / "replay", tmp_path / "one" / "replay", dirs_exist_ok=True)
    with pytest.raises(DamagedCheckpoint, match="0-20"):
        one.load(tmp_path / "one" / "80")


def test_after_a_damaged_checkpoint_another_one_can_be_loaded(build_agent, tmp_path):
    agent = build_agent()
    agent.learn(80, lambda: True)
    save(agent, tmp_path, 80)
    agent.learn(120, lambda: True)
    save(agent, tmp_path, 120)
    (tmp_path / "replay" / "20-30.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint):
        agent.load(tmp_path / "120")
    agent.load(tmp_path / "80")
    agent.learn(160, lambda: True)
    whole = build_agent()
    whole.learn(160, lambda: True)
    assert same(everything(agent), everything(whole))


def test_a_lost_replay_begins_anew_and_is_exact_from_there(build_agent, tmp_path):
    first = build_agent()
    first.learn(120, lambda: True)
    save(first, tmp_path, 120)
    shutil.rmtree(tmp_path / "replay")
    results = []
    for name, stops in (("through", [400]), ("stopped", [240, 400])):
        agent = build_agent()
        with pytest.raises(DamagedCheckpoint):
            agent.load(tmp_path / "120")
        agent.load(tmp_path / "120", replay=False)
        (tmp_path / name).mkdir()
        for stop in stops:
            agent.learn(stop, lambda: True)
            save(agent, tmp_path / name, stop)
            again = build_agent()
            again.load(tmp_path / name / str(stop))
            agent = again
        results.append(everything(agent))
        assert agent.model.replay_buffer.pos == (400 - 120) // 4 and agent.updates > first.updates
    assert same(*results)


class Replay:
    """What `ReplaySegments` uses of a model: one world, whose rows are numbers, and a plain list of all that was added."""

    def __init__(self, size):
        space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)})
        self.observation_space, self.action_space = space, gymnasium.spaces.Box(-1, 1, (1,))
        self.n_envs, self.device, self.num_timesteps, self.added = 1, torch.device("cpu"), 0, []
        self.replay_buffer = DictReplayBuffer(size, space, self.action_space, self.device, 1)

    def add(self, count):
        for _ in range(count):
            number, obs = float(self.num_timesteps), {"state": np.full((1, 2), self.num_timesteps, np.float32)}
            self.replay_buffer.add(obs, obs, np.full((1, 1), number), np.array([number]), np.array([False]), [{}])
            self.added.append(number)
            self.num_timesteps += 1

    def kept(self):
        """The rewards from the oldest to the newest."""
        replay = self.replay_buffer
        order = np.arange(replay.pos, replay.pos + replay.buffer_size) % replay.buffer_size if replay.full else np.arange(replay.pos)
        return replay.rewards[order, 0].tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 15), st.sampled_from(["save", "resume", "lose"])), max_size=10))
def test_replays_on_disk_equal_a_plain_list(tmp_path_factory, size, script):
    """`lose`: what came since the last save is lost, as by a kill, and collected again."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    model, saved = Replay(size), None
    segments = ReplaySegments(model)
    for number, (count, then) in enumerate(script):
        model.add(count)
        if then != "lose":
            saved, added = checkpoints / str(number), list(model.added)
            saved.mkdir()
            segments.save(saved)
        if then != "save" and saved is not None:
            model = Replay(size)
            segments = ReplaySegments(model)
            model.num_timesteps, model.added = len(added), list(added)
            segments.load(saved)
        assert model.kept() == model.added[-size:]


def test_without_the_replay_updates_wait_for_new_transitions(build_agent, tmp_path):
    first = build_agent(save_replay=False, updates_per_step=0.25)
    first.learn(120, lambda: True)
    first.save(tmp_path)
    assert not list(tmp_path.glob("replay*"))
    second = build_agent(save_replay=False)
    second.load(tmp_path)
    updates = {}
    second.learn(200, lambda: updates.update({second.env_steps: second.updates}) or True)
    assert updates[120] == updates[160] == first.updates and updates[164] == first.updates
    assert updates[200] == first.updates + 9


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_saving_and_acting_do_not_disturb_training(build_agent, tmp_path, name):
    quiet = build_agent(name)
    quiet.learn(120, lambda: True)
    disturbed = build_agent(name)  # it seeds the generators that stable-baselines3 shares

    def boundary():
        save(disturbed, tmp_path, disturbed.env_steps)
        disturbed.act(disturbed.env.env.observation())
        return True

    disturbed.learn(120, boundary)
    assert same(everything(quiet), everything(disturbed))


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_a_loaded_policy_acts_alike(build_agent, tmp_path, name):
    agent, other = build_agent(name), build_agent(name, seed=7)
    agent.learn(80, lambda: True)
    save(agent, tmp_path, 80)
    other.load_policy(tmp_path / "80")
    obs = agent.env.env.observation()
    action, memory = agent.act(obs)
    assert memory is None and np.array_equal(action, other.act(obs)[0]) and np.abs(action).max() <= 1
    assert not np.array_equal(agent.act(obs, deterministic=False)[0], action)


LEARNS = {
    "sac": {"net": [32, 32], "batch_size": 64, "learning_starts": 200},
    "ppo": {"net": [32, 32], "batch_size": 60, "n_steps": 60, "n_epochs": 10, "learning_rate": 3e-3, "calibration_steps": 200},
}


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_learns_to_push_the_point_home(build_agent, name):
    steps = {"sac": 2000, "ppo": 6000}[name]
    agent = build_agent(name, steps=steps, **LEARNS[name])
    returns = []
    agent.learn(steps, lambda: returns.append(agent.recent_episodes()["train/return"]) or True)
    assert returns[-1] > returns[0] + 0.5


def test_a_boundary_of_ppo_is_between_rollouts(build_agent):
    agent = build_agent("ppo")
    boundaries = []
    agent.learn(90, lambda: boundaries.append((agent.env_steps, agent.updates, bool(agent.losses()))) or True)
    # 40 transitions calibrate; a rollout has 20, in batches of 10: two passes of two updates.
    assert boundaries == [(40, 0, False), (60, 4, True), (80, 8, True), (100, 12, True)]


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_a_loss_that_is_not_finite_stops_training(build_agent, name):
    agent = build_agent(name)

    def poison():
        if agent.env_steps == 80 and name == "sac":
            agent.model.replay_buffer.rewards[:] = np.inf
        elif agent.env_steps == 80:
            agent.model.rollout_buffer.gamma = np.inf
        return True

    with pytest.raises(
        Failure, match=r"env step \d+: (loss/\w+ is (inf|nan)|the weights '[\w.]+' are not finite) after \d+ updates.*learning_rate"
    ):
        agent.learn(160, poison)


@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_weights_that_are_not_finite_stop_training(build_agent, name):
    """As when a gradient overflows though the loss did not."""
    agent = build_agent(name)
    agent.learn(60, lambda: True)
    agent._note_update(0)
    weights = next(
        weights for key, weights in agent.model.policy.named_parameters() if key.startswith("actor" if name == "sac" else "action")
    )
    weights.data.view(-1)[3] = np.inf
    with pytest.raises(Failure, match=r"env step 60: the weights 'act[\w.]+' are not finite after \d+ updates"):
        agent._note_update(0)
    with pytest.raises(Failure, match="the weights"):
        agent.learn(160, lambda: True)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(
            ("sac", {key: -1})
            for key in ("learning_rate", "gamma", "tau", "batch_size", "initial_entropy", "learning_starts", "buffer_size")
        ),
        *(
            ("sac", setting)
            for setting in (
                {"gamma": float("nan")},
                {"net": [0]},
                {"net": [10**6, 10**6]},
                {"net": [1.5]},
                {"buffer_size": -1},
                {"buffer_size": 10**11},
            )
        ),
        *(("ppo", {key: -1}) for key in ("learning_rate", "gae_lambda", "n_steps", "n_epochs", "clip_range", "ent_coef", "vf_coef")),
        *(("ppo", setting) for setting in ({"max_grad_norm": 0}, {"updates_per_step": 1.0}, {"calibration_steps": 0}, {"net": [-5]})),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(build_agent, name, setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        build_agent(name, **setting)
