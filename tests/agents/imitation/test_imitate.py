"""Runs of imitation from the command's settings to the files that they leave."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from saved_states import same

from agents import load_policy
from agents.evaluate import evaluate_agent
from agents.imitation import train
from agents.imitation.agent import ImitationAgent
from agents.imitation.samples import Samples
from agents.load import load_run
from agents.recording.recorder import FIRST_ID
from envs import make_env
from robo_repr import load_encoder
from robo_repr.core.checkpoint import load_state
from robo_repr.core.config import ImitationConfig, load_part
from robo_repr.core.errors import UserError
from robo_repr.core.metrics import read_metrics

SMALL = {"horizon": 30, "image_size": 16, "demos": 3, "steps": 60, "evaluations": 3, "eval_episodes": 4, "log_every": 10}
SMALL |= {"checkpoint_every": 20, "logger": "none", "views": ["front"]}
NAMES = {"policy": "bc_r3m", "budget": "default"}
PIXELS = {"encoder": {**load_part("encoder", "pixels"), "size": 4}, "names": {**NAMES, "encoder": "pixels"}}
STATE = {"encoder": load_part("encoder", "identity"), "privileged": True, "names": {**NAMES, "encoder": "identity"}}
CURL = {"encoder": {**load_part("encoder", "curl"), "weights": "random"}, "names": {**NAMES, "encoder": "curl"}, "readout": "pooled"}

pytestmark = pytest.mark.usefixtures("restored")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Demonstrations and features go to the working folder."""
    monkeypatch.chdir(tmp_path)


def start(folder, policy="bc_r3m", policy_keys=(), **settings):
    """Runs the command in this process; returns its exit code."""
    part = {**load_part("policy", policy), **dict(policy_keys)}
    settings = {**SMALL, "policy": part, "run_dir": str(folder), **settings}
    cfg = ImitationConfig(**{**settings, "names": {**settings["names"], "policy": policy}})
    cfg.validate()
    return train.imitate(cfg, ["encoder=" + cfg.names["encoder"]])


def rows(folder):
    """The rows of metrics.jsonl without what the clock decides."""
    clock = ("time/", "wall_s")
    return [{key: value for key, value in row.items() if not key.startswith(clock)} for row in read_metrics(folder / "metrics.jsonl")]


def evaluations(folder, policy="trained"):
    return [row for row in read_metrics(folder / "evaluations.jsonl") if row["policy"] == policy]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def states(folder, step=60):
    return {name: load_state(folder / "checkpoints" / str(step), name) for name in ("policy", "training")}


@pytest.mark.timeout(120)
def test_a_run_from_start_to_end(tmp_path, capsys):
    folder = tmp_path / "run"
    assert start(folder, **PIXELS) == 0
    shown = capsys.readouterr().out
    for words in ("3 demonstrations", "last of 3 evaluations", "mean of the last 5", "random", "expert", "run_imitation.py encoder=random"):
        assert words in shown
    result = summary(folder)
    assert (result["command"], result["status"], result["policy"], result["task"]) == ("imitation", "finished", "bc_r3m", "reach")
    assert (result["updates"], result["steps"], result["env_steps"], result["demos"], result["evaluations"]) == (60, 60, 0, 3, 3)
    assert result["encoder"]["fingerprint"] == result["encoder"]["fingerprint_end"] and result["views"] == ["front"]
    assert [row["step"] for row in rows(folder)] == [10, 20, 30, 40, 50, 60]
    assert [row["step"] for row in rows(folder) if "eval/success" in row] == [20, 40, 60]
    trained = evaluations(folder)
    assert [row["step"] for row in trained] == [20, 40, 60] and result["success"] == trained[-1]["success"]
    rates = [row["success"] for row in trained]
    assert result["scores"] == {"last": rates[-1], "mean_last5": pytest.approx(np.mean(rates)), "max": max(rates)}
    films = {path.name for path in (folder / "videos").iterdir()}
    assert films == {"untrained.mp4", *(["success.mp4"] if rates[-1] else []), *(["failure.mp4"] if rates[-1] < 1 else [])}
    assert (folder / "curve.png").exists()

    # Again: only the table. Then what has acted can act elsewhere.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".jsonl", ".mp4", ".safetensors")}
    assert start(folder, **PIXELS) == 0
    assert "trained" in capsys.readouterr().out and all(path.stat().st_mtime_ns == time for path, time in before.items())
    env = make_env("reach", num_envs=3, image_size=16, views=["front"])
    obs, _ = env.reset()
    policy = load_policy(folder)
    policy.reset(np.ones(3, dtype=bool))
    env.step(policy.act(obs))
    env.close()
    parts, cfg, step = load_run(folder)
    assert step == 60 and evaluate_agent(cfg, parts, "L1", 4).outcomes()["episode_return"] == trained[-1]["episode_return"]
    parts.env.close()


def test_a_policy_that_is_told_the_state_learns(tmp_path, no_films):
    assert start(tmp_path / "run", **STATE, demos=20, steps=1500, evaluations=1, eval_episodes=20, log_every=500) == 0
    result = summary(tmp_path / "run")
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert result["success"] >= 0.5 and losses[-1] < 0.8 * losses[0]
    assert start(tmp_path / "untaught", **STATE, demos=20, steps=1, evaluations=1, eval_episodes=20) == 0  # a control
    assert summary(tmp_path / "untaught")["success"] == 0


def killed_at(folder, whole, step):
    """A copy of a run as kill -9 leaves it: rows after a checkpoint, the last one half written, and no summary."""
    shutil.copytree(whole, folder)
    for later in [path for path in (folder / "checkpoints").iterdir() if path.name.isdigit() and int(path.name) > step]:
        shutil.rmtree(later)
    (folder / "summary.json").unlink()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[: text.rindex('"wall_s"')])


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("policy", "settings", "step"),
    [
        ("bc_r3m", PIXELS, 20),
        ("bc_mvp", STATE, 40),  # a schedule, and epochs
        ("diffusion", STATE, 40),  # noise, and a moving average
        ("bc_r3m", {**CURL, "encoder_mode": "last:1", "finetune_after": 0.5, "augment": "shift"}, 40),
        pytest.param("bc_r3m", {**CURL, "encoder_mode": "last:1", "finetune_after": 0.5}, 20, marks=pytest.mark.slow),
    ],
    ids=["frozen", "epochs", "diffusion", "fine-tuned", "before fine-tuning"],
)
def test_after_a_kill_the_run_ends_as_if_nothing_had_happened(tmp_path, capsys, no_films, policy, settings, step):
    whole = tmp_path / "whole"
    assert start(whole, policy, **settings) == 0
    killed_at(tmp_path / "killed", whole, step)
    capsys.readouterr()
    assert start(tmp_path / "killed", policy, **settings) == 0
    assert f"resumed at step {step}" in capsys.readouterr().out
    assert rows(tmp_path / "killed") == rows(whole) and same(states(tmp_path / "killed"), states(whole))
    assert summary(tmp_path / "killed")["scores"] == summary(whole)["scores"]
    assert not same(states(whole, 40), states(whole))  # a control


def test_a_checkpoint_with_one_broken_file_changes_nothing(tmp_path, capsys, no_films):
    """Not even the encoder, which the broken one had fine-tuned."""
    whole, settings = tmp_path / "whole", {**CURL, "encoder_mode": "full", "finetune_after": 0.5}
    assert start(whole, **settings, steps=40, evaluations=1) == 0
    killed_at(tmp_path / "broken", whole, 40)
    (tmp_path / "broken" / "checkpoints" / "40" / "run.json").write_text("{")
    assert start(tmp_path / "broken", **settings, steps=40, evaluations=1) == 0
    assert "resumed at step 20" in capsys.readouterr().out
    assert same(states(tmp_path / "broken", 40), states(whole, 40))


def test_a_signal_is_served_between_two_updates(tmp_path, monkeypatch, capsys, no_films):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole, **STATE) == 0
    update = ImitationAgent._update

    def interrupt(self, total):
        update(self, total)
        if self.updates == 33:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ImitationAgent, "_update", interrupt)
    assert start(stopped, **STATE) == 130
    assert "interrupted at step 33" in capsys.readouterr().out and summary(stopped)["status"] == "interrupted"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert start(stopped, **STATE) == 0
    assert same(states(stopped), states(whole)) and summary(stopped)["resumed"] == 1


def test_a_finished_run_can_be_asked_for_more(tmp_path, capsys, no_films):
    folder = tmp_path / "run"

    def asked(**more):
        capsys.readouterr()
        assert start(folder, **{**STATE, **more}) == 0
        return [row["step"] for row in evaluations(folder)], summary(folder), "evaluating" in capsys.readouterr().out

    assert asked()[0] == [20, 40, 60]
    assert asked(steps=40)[::2] == ([20, 40, 60], False)
    steps, result, evaluated = asked(steps=90)
    assert steps == [20, 40, 60, 90] and result["evaluations"] == 4 and evaluated
    assert result["scores"]["last"] == result["success"] == evaluations(folder)[-1]["success"]
    steps, result, evaluated = asked(steps=90, eval_episodes=6)
    assert steps == [20, 40, 60, 90, 90] and (result["evaluations"], result["episodes"]) == (1, 6) and evaluated
    for score in ("max", "mean_last5"):
        assert asked(steps=90, eval_episodes=6, score=score)[1]["score"] == score
        assert not asked(steps=90, eval_episodes=6, score=score)[2]
    # Somebody else's look at the policy is no evaluation of the run.
    with open(folder / "evaluations.jsonl", "a") as file:
        file.write(json.dumps({**evaluations(folder)[-1], "by": "scripts/evaluate.py", "success": 1.0}) + "\n")
    assert asked(steps=90, eval_episodes=6, score="max")[1]["success"] == result["success"]


def test_other_demonstrations_are_noticed(tmp_path, monkeypatch, no_films):
    whole = tmp_path / "whole"
    assert start(whole, **STATE) == 0
    killed_at(tmp_path / "killed", whole, 20)
    monkeypatch.setattr("agents.imitation.demos.VERSION", 2)  # as if the task or the recorder had changed: another store
    with pytest.raises(UserError, match="not those that this run began with"):
        start(tmp_path / "killed", **STATE)


def test_who_needs_no_demonstrations_does_not_ask_for_them(tmp_path, capsys, no_films):
    assert start(tmp_path / "first", **PIXELS, steps=1, evaluations=1) == 0
    (store,) = (tmp_path / "runs" / "demos").glob("reach-*")
    store.rename(tmp_path / "mine")
    settings = {**PIXELS, "demo_data": "mine"}
    assert start(tmp_path / "run", **settings) == 0
    shutil.rmtree(tmp_path / "mine")
    assert start(tmp_path / "run", **settings) == 0 and start(tmp_path / "run", **settings, eval_episodes=5) == 0
    with pytest.raises(UserError, match="mine is not there"):
        start(tmp_path / "run", **settings, steps=80)


def test_the_cache_changes_nothing(tmp_path, capsys, no_films):
    assert start(tmp_path / "first", **PIXELS) == 0 and start(tmp_path / "cached", **PIXELS) == 0
    assert "3 from runs/features" in capsys.readouterr().out
    assert start(tmp_path / "without", **PIXELS, cache=False) == 0
    assert same(states(tmp_path / "cached"), states(tmp_path / "first")) and same(states(tmp_path / "without"), states(tmp_path / "first"))


def test_an_encoder_that_learns_is_kept_and_can_be_used_again(tmp_path, capsys, no_films):
    folder = tmp_path / "run"
    assert start(folder, **CURL, encoder_mode="full", finetune_after=0) == 0
    assert "pictures are encoded anew in every update" in capsys.readouterr().out
    result = summary(folder)
    assert result["encoder"]["fingerprint"] != result["encoder"]["fingerprint_end"]
    parts, cfg, _ = load_run(folder)
    assert parts.encoder.fingerprint() == result["encoder"]["fingerprint_end"]
    assert evaluate_agent(cfg, parts, "L1", 4).outcomes()["episode_return"] == evaluations(folder)[-1]["episode_return"]
    parts.env.close()
    again = load_encoder("curl", weights=str(folder))
    assert again.fingerprint() == result["encoder"]["fingerprint_end"] and "fine-tuned" in again.trained_by
    # Before it learns, it is as it was.
    assert start(tmp_path / "late", **CURL, encoder_mode="full", finetune_after=1) == 0
    late = summary(tmp_path / "late")["encoder"]
    assert late["fingerprint"] == late["fingerprint_end"] == result["encoder"]["fingerprint"]


def test_a_policy_of_other_features_is_refused(tmp_path, no_films):
    folder = tmp_path / "run"
    assert start(folder, **CURL) == 0
    other = {**CURL, "encoder": {**CURL["encoder"], "seed": 5}}
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace("  seed: 0", "  seed: 5"))  # as if the weights' file had been replaced
    with pytest.raises(UserError, match="another encoder"):
        start(folder, **other, steps=80)
    with pytest.raises(UserError, match="another encoder"):
        load_policy(folder)


@pytest.mark.parametrize("instruction", [None, "language"])
def test_several_tasks_are_told_apart(tmp_path, no_films, instruction):
    folder = tmp_path / "run"
    settings = {**STATE, "privileged": False, "task": ["reach", "button"], "instruction": instruction}
    assert start(folder, **settings, horizon=None, steps=200, evaluations=1) == 0
    result, (row,) = summary(folder), evaluations(folder)
    assert result["task"] == "reach,button" and result["episodes"] == 8 and set(row["tasks"]) == {"reach", "button"}
    assert row["success"] == np.mean([part["success"] for part in row["tasks"].values()])
    parts, _, _ = load_run(folder)
    obs = {"images": torch.zeros(1, 0, 3, 16, 16, dtype=torch.uint8), "state": torch.zeros(1, 13)}
    vectors = [parts.agent.instructions.vector(task, task)[None] for task in ("reach", "button")]
    acted = [parts.agent.act({**obs, "instruction": vector})[0] for vector in vectors]
    assert np.abs(acted[0] - acted[1]).max() > 1e-3  # the same state, another task
    parts.env.close()
    with pytest.raises(UserError, match="several tasks"):
        load_policy(folder)


def test_one_task_with_an_instruction_acts_in_any_number_of_worlds(tmp_path, no_films):
    assert start(tmp_path / "run", **STATE, instruction="onehot", steps=1, evaluations=1) == 0
    before = torch.get_rng_state()
    policy = load_policy(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are his
    assert policy.act({"images": torch.zeros(3, 0, 3, 16, 16, dtype=torch.uint8), "state": torch.zeros(3, 16)}).shape == (3, 3)


def test_demonstrations_are_no_evaluation_episodes(tmp_path, monkeypatch, no_films):
    seen = []
    make = train.make_env

    def remember(**settings):
        seen.append(settings.get("episode_ids"))
        return make(**settings)

    monkeypatch.setattr("agents.evaluate.make_env", remember)
    assert start(tmp_path / "run", **STATE, eval_starts="new") == 0
    used = {episode for ids in seen for episode in ids or ()}
    assert used == set(range(12)) and max(used) < FIRST_ID  # three evaluations of four, the last of them on the references' episodes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**STATE, "task": ["reach", "lift"]}, "actions of 3 numbers"),
        ({**STATE, "task": ["reach", "reach"]}, "several different ones"),
        ({**STATE, "augment": "shift"}, "sees none"),
        ({**STATE, "encoder_mode": "full"}, "nothing to train"),
        ({**CURL, "encoder_mode": "last:99"}, "last:1 to last:"),
        ({**PIXELS, "demo_data": "nowhere"}, "is not there"),
        ({**PIXELS, "encoder_mode": "last:0"}, "last:N"),
        ({**PIXELS, "encoder_mode": "scratch", "weights": "r3m.pt"}, "starts untrained"),
        ({**PIXELS, "cell": 3}, "benchmark=quick"),
        ({**STATE, "horizon": 5}, "succeeded in 0 of"),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        start(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


class TestSamples:
    STATE = [torch.arange(4.0)[:, None], 10 + torch.arange(3.0)[:, None]]
    ACTIONS = [100 + torch.arange(3.0)[:, None], 110 + torch.arange(2.0)[:, None]]

    def build(self, observed=(0,), predicted=(0,), batch_size=5, sampling="epochs", **more):
        return Samples(observed, predicted, self.STATE, self.ACTIONS, None, None, batch_size, sampling, 0, "cpu", **more)

    def test_windows_stay_within_their_episode(self):
        samples = self.build(observed=(-1, 0), predicted=(-1, 0, 1))
        batch, order = samples.batch(0), samples.rows(0)
        assert len(samples) == 5 and sorted(order) == list(range(5))
        by_row = dict(zip(order.tolist(), range(5), strict=True))
        state, actions, padding = batch["state"][..., 0].tolist(), batch["actions"][..., 0].tolist(), batch["is_padding"].tolist()
        assert state[by_row[0]] == [0, 0] and state[by_row[2]] == [1, 2] and state[by_row[3]] == [10, 10] and state[by_row[4]] == [10, 11]
        assert actions[by_row[0]] == [100, 100, 101] and padding[by_row[0]] == [True, False, False]
        assert actions[by_row[2]] == [101, 102, 102] and padding[by_row[2]] == [False, False, True]
        assert actions[by_row[4]] == [110, 111, 111] and padding[by_row[4]] == [False, False, True]

    def test_epochs_show_everything_once_and_drop_what_fills_no_batch(self):
        samples = self.build(batch_size=2)
        for epoch in range(3):
            shown = np.concatenate([samples.rows(2 * epoch), samples.rows(2 * epoch + 1)])
            assert len(set(shown.tolist())) == 4
        assert not np.array_equal(samples.rows(0), samples.rows(2))
        assert np.array_equal(samples.rows(3), self.build(batch_size=2).rows(3))  # whatever came before

    def test_replacement_draws_from_all(self):
        drawn = np.concatenate([self.build(sampling="replacement", batch_size=50).rows(step) for step in range(10)])
        assert set(drawn.tolist()) == set(range(5)) and np.bincount(drawn).min() > 60
