import errno
import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from saved_states import same

from agents import evaluate as evaluation
from agents import load_policy, policy_run, train
from envs import BatchEnv, make_env
from envs.checks import DEFAULT_VIEWS
from envs.sim import ThreadsSim
from robo_repr.core.checkpoint import load_state
from robo_repr.core.config import RLConfig, load_part
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.metrics import Metrics, read_metrics
from robo_repr.core.run import RunDir

SMALL = {"num_envs": 4, "horizon": 12, "steps": 240, "eval_episodes": 4, "log_every": 40, "checkpoint_every": 80, "logger": "none"}
AGENT = {**load_part("agent", "sac"), "learning_starts": 40, "net": [16, 16], "batch_size": 16}
NAMES = {"agent": "sac", "budget": "default"}
ROLLOUTS = {**load_part("agent", "ppo"), "calibration_steps": 40, "net": [16, 16], "batch_size": 20, "n_steps": 5, "n_epochs": 2}
PPO = {"agent": ROLLOUTS, "names": {**NAMES, "agent": "ppo", "encoder": "pixels"}}
PIXELS = {"encoder": {**load_part("encoder", "pixels"), "size": 4}, "image_size": 16, "names": {**NAMES, "encoder": "pixels"}}
STATE = {"encoder": load_part("encoder", "identity"), "privileged": True, "names": {**NAMES, "encoder": "identity"}}


SECONDS = {"reset", "physics", "render", "encode", "update", "evaluate", "checkpoint", "log"}


pytestmark = pytest.mark.usefixtures("restored")


def start(folder, **settings):
    """Runs the command in this process; returns its exit code."""
    cfg = RLConfig(**{**SMALL, "agent": AGENT, "run_dir": str(folder), **settings})
    cfg.validate()
    return train.train(cfg, ["encoder=" + cfg.names["encoder"]])


def rows(folder, but=()):
    """The rows of metrics.jsonl without what the clock decides."""
    return [
        {key: value for key, value in row.items() if key != "wall_s" and not key.startswith(("time/", *but))}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def states(folder, step):
    """All that a checkpoint holds; of the replay its rows, however they were cut into segments."""
    checkpoint = folder / "checkpoints" / str(step)
    found = {name: load_state(checkpoint, name) for name in ("policy", "training")}
    if (checkpoint / "replay.json").exists():
        segments = load_state(checkpoint, "replay")["segments"]
        parts = [load_state(folder / "checkpoints" / "replay", f"{s['first']}-{s['end']}", s["sha256"]) for s in segments]
        found["replay"] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return found


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.timeout(120)
def test_a_run_from_start_to_end(tmp_path, capsys):
    folder = tmp_path / "run"
    assert start(folder, **PIXELS) == 0
    shown = capsys.readouterr().out
    for words in ("trained", "random", "expert", "trained.mp4", "checkpoints/240", "python scripts/evaluate.py run=", "encoder=random"):
        assert words in shown
    result = summary(folder)
    assert result["status"] == "finished" and result["env_steps"] == 240 and result["resumed"] == 0 and result["episodes"] == 4
    assert result["updates"] == (240 - 40 - 4) // 4 and result["encoder"]["fingerprint"] == result["encoder"]["fingerprint_end"]
    assert set(result["seconds"]) == SECONDS and result["views"] == list(DEFAULT_VIEWS)
    assert [row["env_steps"] for row in read_metrics(folder / "metrics.jsonl")] == [40, 80, 120, 160, 200, 240]
    assert [row["env_steps"] for row in read_metrics(folder / "metrics.jsonl") if "eval/success" in row] == [80, 160, 240]
    assert sorted(path.name for path in (folder / "videos").iterdir()) == ["middle.mp4", "trained.mp4", "untrained.mp4"]
    assert [row["policy"] for row in read_metrics(folder / "evaluations.jsonl")] == ["random", "expert", "trained"]

    # Again: only the table.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*l*") if path.suffix in (".jsonl", ".mp4", ".safetensors")}
    assert start(folder, **PIXELS) == 0
    assert "trained" in capsys.readouterr().out and all(path.stat().st_mtime_ns == time for path, time in before.items())

    # The policy, on its own.
    env = make_env("reach", num_envs=3, image_size=16)
    obs, _ = env.reset()
    policy = load_policy(folder)
    policy.reset(np.ones(3, dtype=bool))
    actions = policy.act(obs)
    env.step(actions)
    assert actions.shape == (3, 3)
    env.close()
    policy.agent.env.close()

    # The script that evaluates it anew.
    script = importlib.util.spec_from_file_location("evaluate_script", Path(__file__).parents[2] / "scripts" / "evaluate.py")
    assert script and script.loader
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    kept = (folder / "summary.json").read_bytes()
    assert module.main([f"run={folder}"]) == 0 and module.main([f"run={folder}", "episodes=5", "camera=L3"]) == 0
    repeated, other = read_metrics(folder / "evaluations.jsonl")[-2:]
    assert repeated.pop("by") == "scripts/evaluate.py" and repeated == read_metrics(folder / "evaluations.jsonl")[2]
    assert (other["camera"], other["episodes"]) == ("L3", 5)
    assert (folder / "summary.json").read_bytes() == kept and "success" in capsys.readouterr().out
    for mistake in (["run=nowhere"], [], ["run=x", "episodes=0"], ["runs=x"], [f"run={folder}", "camera=L9"]):
        assert module.main(mistake) == 2 and capsys.readouterr().err.strip()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("encoder", [PIXELS, STATE, {**PIXELS, **PPO}], ids=["pixels", "state", "ppo"])
def test_after_a_kill_the_run_ends_as_if_nothing_had_happened(tmp_path, capsys, no_films, encoder):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, **encoder) == 0
    shutil.copytree(whole, killed)
    # As kill -9 leaves it: rows after the checkpoint, the last one half written, and no summary.
    for later in [path for path in (killed / "checkpoints").iterdir() if path.name.isdigit() and int(path.name) > 80]:
        shutil.rmtree(later)
    (killed / "summary.json").unlink()
    text = (killed / "metrics.jsonl").read_text()
    (killed / "metrics.jsonl").write_text(text[: text.rindex('"updates"')])
    capsys.readouterr()
    assert start(killed, **encoder) == 0
    assert "resumed at step 80" in capsys.readouterr().out
    assert rows(killed) == rows(whole) and same(states(killed, 240), states(whole, 240))
    assert summary(killed)["resumed"] == 1 and summary(killed)["success"] == summary(whole)["success"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("agent", [{}, PPO], ids=["sac", "ppo"])
def test_evaluating_and_saving_do_not_disturb_training(tmp_path, no_films, agent):
    rarely, often = tmp_path / "rarely", tmp_path / "often"
    assert start(rarely, **{**PIXELS, **agent}, eval_every=1000) == 0
    assert start(often, **{**PIXELS, **agent}, eval_every=60, checkpoint_every=20) == 0
    logged = [row for row in rows(often, ("eval/",)) if row["env_steps"] % 40 == 0]
    assert (
        len(rows(often)) > len(logged) == len(rows(rarely))
        and rows(rarely, ("eval/",)) == logged
        and same(states(rarely, 240), states(often, 240))
    )


def test_a_signal_is_served_between_two_steps(tmp_path, monkeypatch, no_films):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole, **STATE) == 0
    write = Metrics.write

    def interrupt(self, row):
        write(self, row)
        if row["env_steps"] == 120:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Metrics, "write", interrupt)
    assert start(stopped, **STATE) == 143
    monkeypatch.undo()
    monkeypatch.setattr(policy_run, "record_film", lambda *_: [])
    assert summary(stopped)["status"] == "interrupted" and summary(stopped)["success"] is None
    assert RunDir(stopped).latest_checkpoint()[0] == 120
    assert start(stopped, **STATE) == 0
    assert rows(stopped) == rows(whole) and same(states(stopped, 240), states(whole, 240))
    assert summary(stopped)["status"] == "finished" and summary(stopped)["resumed"] == 1


def test_a_signal_in_the_final_evaluation_is_served_at_once(tmp_path, monkeypatch, no_films):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole, **STATE) == 0
    step, asked = BatchEnv.step, []

    def interrupt(self, actions):
        if (stopped / "checkpoints" / "240").exists():
            asked.append(self)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, actions)

    monkeypatch.setattr(BatchEnv, "step", interrupt)
    assert start(stopped, **STATE) == 130 and len(asked) == 1
    monkeypatch.setattr(BatchEnv, "step", step)
    assert summary(stopped)["status"] == "interrupted" and len(rows(stopped)) == 5
    assert start(stopped, **STATE) == 0 and rows(stopped) == rows(whole)
    assert read_metrics(stopped / "evaluations.jsonl") == read_metrics(whole / "evaluations.jsonl")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only"),
        (MemoryError("Unable to allocate 4 GiB"), "Out of memory .Unable to allocate 4 GiB"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried"), "Out of memory"),
        (Failure("The camera fell."), "The camera fell. The checkpoint of step 80 is kept."),
    ],
    ids=["full", "read-only", "memory", "torch", "failure"],
)
def test_what_the_machine_refuses_is_one_paragraph(tmp_path, monkeypatch, no_films, error, says):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert start(whole, **STATE) == 0
    step = BatchEnv.step

    def fail(self, actions):
        if (folder / "checkpoints" / "80").exists():
            raise error
        return step(self, actions)

    monkeypatch.setattr(BatchEnv, "step", fail)
    with pytest.raises(Failure, match=says) as raised:
        start(folder, **STATE)
    assert "The checkpoint of step 80 is kept" in str(raised.value) and raised.value.exit_code == 1
    assert summary(folder)["status"] == "failed" and not (folder / "lock").exists()
    monkeypatch.setattr(BatchEnv, "step", step)
    assert start(folder, **STATE) == 0 and rows(folder) == rows(whole)


def test_memory_that_runs_out_while_parts_are_built_is_one_paragraph(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(train, "build_parts", fail)
    with pytest.raises(Failure, match="Out of memory .*network"):
        start(tmp_path / "run", **STATE)
    assert not (tmp_path / "run").exists()


def test_a_damaged_replay_costs_the_replay_but_not_the_run(tmp_path, capsys, no_films):
    folder = tmp_path / "run"
    assert start(folder, **STATE) == 0
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "240")
    (folder / "checkpoints" / "replay" / "0-20.safetensors").write_bytes(b"")
    capsys.readouterr()
    assert start(folder, **STATE) == 0
    out, err = capsys.readouterr()
    assert "resumed at step 160" in out and "0-20" in err and "empty" in err
    assert summary(folder)["status"] == "finished" and summary(folder)["env_steps"] == 240


def test_a_run_that_goes_on_leaves_no_older_result(tmp_path, monkeypatch, no_films):
    """A finished run that is asked for more steps and killed: its summary must not speak of the steps that it did not make."""
    folder = tmp_path / "run"
    assert start(folder, **STATE) == 0 and summary(folder)["status"] == "finished"
    step = BatchEnv.step

    def die(self, actions):
        if self.num_envs == 4 and self._evaluation_ids is None:
            raise SystemExit("killed")
        return step(self, actions)

    monkeypatch.setattr(BatchEnv, "step", die)
    monkeypatch.setattr(
        train.Training,
        "_write_summary",
        lambda self, status, result, write=train.Training._write_summary: write(self, status, result) if status == "interrupted" else None,
    )  # as after kill -9
    with pytest.raises(SystemExit):
        start(folder, **STATE, steps=400)
    assert summary(folder)["status"] == "interrupted" and summary(folder)["success"] is None
    monkeypatch.undo()
    assert start(folder, **STATE, steps=240) == 0 and summary(folder)["status"] == "finished"


@pytest.mark.parametrize("rubbish", ["[]", "{}", '{"status": "finished"}', "[[["])
def test_a_damaged_summary_heals(tmp_path, no_films, rubbish):
    folder = tmp_path / "run"
    assert start(folder, **STATE) == 0
    before, rows_before = summary(folder), rows(folder)
    (folder / "summary.json").write_text(rubbish)
    assert start(folder, **STATE) == 0
    assert summary(folder)["return"] == before["return"] and rows(folder) == rows_before
    assert len(read_metrics(folder / "evaluations.jsonl")) == 3


def test_what_fails_in_the_final_evaluation_is_a_failure(tmp_path, no_films):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "curve.png").mkdir()
    with pytest.raises(Failure, match="curve.png"):
        start(folder, **STATE)
    assert summary(folder)["status"] == "failed"


def test_fewer_steps_than_done_lose_no_figures(tmp_path, no_films):
    folder = tmp_path / "run"
    assert start(folder, **STATE, steps=400, eval_every=1000) == 0
    for later in ("400", "320"):
        shutil.rmtree(folder / "checkpoints" / later)
    (folder / "summary.json").unlink()
    assert start(folder, **STATE, steps=120, eval_every=1000) == 0
    assert rows(folder)[-1]["env_steps"] == 240 and "loss/actor" in rows(folder)[-1] and "train/return" in rows(folder)[-1]


def test_a_damaged_checkpoint_costs_only_time(tmp_path, capsys, no_films):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    assert start(whole, **STATE) == 0
    shutil.copytree(whole, damaged)
    (damaged / "summary.json").unlink()
    for step, name in ((240, "training.safetensors"), (160, "replay.json")):
        with open(damaged / "checkpoints" / str(step) / name, "r+b") as file:
            file.seek(40)
            byte = file.read(1)
            file.seek(40)
            file.write(bytes([byte[0] ^ 1]))
    capsys.readouterr()
    assert start(damaged, **STATE) == 0
    out, err = capsys.readouterr()
    assert "checkpoint 240 is not used" in err and "checkpoint 160 is not used" in err and "resumed at step 80" in out
    assert rows(damaged) == rows(whole) and same(states(damaged, 240), states(whole, 240))


def test_a_failure_is_noted_and_the_last_checkpoint_kept(tmp_path, monkeypatch, no_films):
    folder = tmp_path / "run"

    def fail(self, row):
        if row["env_steps"] > 120:
            raise RuntimeError("disk on fire")

    monkeypatch.setattr(Metrics, "write", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        start(folder, **STATE)
    assert summary(folder)["status"] == "failed" and (folder / "checkpoints" / "80").exists()


@pytest.mark.parametrize("agent", ["random", "expert"])
def test_references_are_runs_of_their_own(tmp_path, capsys, agent):
    folder = tmp_path / "run"
    settings = {**PIXELS, "agent": load_part("agent", agent), "names": {**PIXELS["names"], "agent": agent}}
    assert start(folder, **settings, horizon=30) == 0
    result, evaluations = summary(folder), read_metrics(folder / "evaluations.jsonl")
    assert sorted(row["policy"] for row in evaluations) == ["expert", "random"]
    own = next(row for row in evaluations if row["policy"] == agent)
    assert (result["agent"], result["status"], result["env_steps"], result["success"]) == (agent, "finished", 0, own["success"])
    assert own["episode_success"] == [int(agent == "expert")] * 4 and len(own["episode_return"]) == 4
    assert [path.name for path in (folder / "videos").iterdir()] == [f"{agent}.mp4"]
    assert [row["env_steps"] for row in read_metrics(folder / "metrics.jsonl")] == [0] and (folder / "curve.png").exists()
    before = (folder / "evaluations.jsonl").read_bytes()
    assert start(folder, **settings, horizon=30) == 0 and (folder / "evaluations.jsonl").read_bytes() == before
    if agent == "expert":
        with pytest.raises(UserError, match="ExpertPolicy"):
            load_policy(folder)
    else:
        assert np.abs(load_policy(folder).act({"state": torch.zeros(3, 13)})).max() <= 1


@pytest.mark.timeout(120)
def test_what_nobody_learns_from_leaves_training_as_it_is(tmp_path, monkeypatch, no_films):
    """Cameras, appearance, views and evaluation draw from streams of their own; a bar on a terminal draws from none."""
    plain = tmp_path / "plain"
    assert start(plain, **STATE) == 0
    for number, change in enumerate(
        ({"camera": "L3"}, {"appearance": "random"}, {"eval_camera": "L4"}, {"eval_episodes": 7}, {"logger": "tensorboard"})
    ):
        other = tmp_path / str(number)
        assert start(other, **{**STATE, **change}) == 0
        assert rows(other, ("eval/",)) == rows(plain, ("eval/",)) and same(states(other, 240), states(plain, 240)), change
    monkeypatch.setattr(evaluation, "WORLDS", 3)
    monkeypatch.setattr(policy_run, "PatientConsole", lambda: Console(force_terminal=True))
    assert start(tmp_path / "bar", **STATE) == 0
    assert rows(tmp_path / "bar", ("eval/",)) == rows(plain, ("eval/",)) and same(states(tmp_path / "bar", 240), states(plain, 240))
    monkeypatch.undo()
    monkeypatch.setattr(policy_run, "record_film", lambda *_: [])
    assert start(tmp_path / "seed", **STATE, seed=1) == 0  # a control
    assert rows(tmp_path / "seed", ("eval/",)) != rows(plain, ("eval/",)) and not same(states(tmp_path / "seed", 240), states(plain, 240))


def test_episodes_that_mujoco_gave_up_are_counted_and_shown(tmp_path, monkeypatch, capsys, no_films):
    step, poisoned = ThreadsSim.step, []

    def poison(self, ctrl, substeps):
        if self.num_envs == 5 and len(poisoned) < 30:  # those that are trained in
            poisoned.append(self)
            if len(poisoned) in (20, 30):
                self._batch.state[1, 1] = np.nan  # a joint's position; the time comes first
        return step(self, ctrl, substeps)

    monkeypatch.setattr(ThreadsSim, "step", poison)
    assert start(tmp_path / "run", **STATE, num_envs=5) == 0
    assert sum(summary(tmp_path / "run")["warnings"].values()) == 2
    assert [row["train/bad_physics"] for row in rows(tmp_path / "run")][-1] == 2
    out = capsys.readouterr().out
    assert "2 episodes so far ended as failures" in out and "BADQPOS" in out


def test_a_finished_run_goes_on_for_more_steps(tmp_path, no_films):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    assert start(folder, **STATE, eval_every=1000) == 0 and start(folder, **STATE, eval_every=1000, steps=332) == 0
    assert start(whole, **STATE, eval_every=1000, steps=332) == 0
    assert rows(folder, ("eval/",)) == rows(whole, ("eval/",)) and same(states(folder, 332), states(whole, 332))


def test_without_opengl_a_run_on_the_state_goes_without_films(tmp_path, monkeypatch, capsys):
    def no_gl(*_):
        raise UserError("No OpenGL here")

    monkeypatch.setattr(policy_run, "record_film", no_gl)
    assert start(tmp_path / "run", **STATE) == 0
    assert capsys.readouterr().out.count("No OpenGL here") == 1
    with pytest.raises(UserError):
        start(tmp_path / "pixels", **PIXELS)


@pytest.mark.parametrize(
    "mistake", [{"task": "reech"}, {"views": ["frnt"]}, {"camera": "L9"}, {"eval_camera": "L9"}, {"views": []}], ids=str
)
def test_mistakes_leave_nothing_behind(tmp_path, mistake):
    with pytest.raises(UserError, match=next(iter(mistake))):
        start(tmp_path / "run", **PIXELS, **mistake)
    assert not (tmp_path / "run").exists()


def test_poses_of_cameras_go_with_an_encoder_that_has_some(tmp_path):
    with pytest.raises(UserError, match="with encoder=identity it has none"):
        start(tmp_path / "run", **STATE, camera_input=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(120)
def test_an_encoder_of_several_frames_gets_its_stack(tmp_path, capsys, no_films):
    names = {**NAMES, "encoder": "curl"}
    curl = {"encoder": {**load_part("encoder", "curl"), "size": 16}, "weights": "random", "image_size": 16, "names": names}
    short = {"steps": 60, "checkpoint_every": 60, "horizon": 11, "views": ["wrist"]}
    assert start(tmp_path / "run", **curl, **short) == 0
    assert "(random weights)" in capsys.readouterr().out.replace("\n", "")
    assert load_policy(tmp_path / "run").act is not None
    with pytest.raises(UserError, match="stacks of exactly 3 pictures. Leave frame_stack out"):
        start(tmp_path / "other", **curl, **short, frame_stack=2)
    assert not (tmp_path / "other").exists()
