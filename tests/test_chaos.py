"""The two scripts that prove that nothing is lost: chaos.py kills runs and compares them, soak.py watches a long one.

Controls: each comparison is also shown runs that differ, and each claim of soak.py a series that breaks it.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robo_repr.core.checkpoint import load_state, save_state

ROOT = Path(__file__).parents[1]


def load_script(name):
    """A file of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


chaos, soak = load_script("chaos"), load_script("soak")
# Three seconds of training with everything in it: rows, a short evaluation, films, checkpoints of which old ones are deleted.
TINY = ["steps=1000", "checkpoint_every=200", "eval_every=400", "eval_episodes=4", "log_every=100"]


# ---- comparing ------------------------------------------------------------------------------------------------------------------------


def made_up_run(folder):
    """A folder such as a finished run leaves it."""
    checkpoint = folder / "checkpoints" / "200"
    checkpoint.mkdir(parents=True)
    (folder / "checkpoints" / "replay").mkdir()
    (folder / "videos").mkdir()
    save_state(checkpoint, "policy", {"networks": {"actor": torch.arange(3.0)}})
    save_state(checkpoint, "training", {"random": {"numpy": np.arange(4)}, "last_obs": (1, None), "env_steps": 200})
    save_state(checkpoint, "run", {"wall_s": 3.0})
    rows = [{"env_steps": step, "wall_s": step / 7, "loss/critic": 1 / step, "time/render": 0.1} for step in (100, 200)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluations.jsonl").write_text('{"policy": "random", "success": 0.0}\n{"policy": "trained", "success": 0.5}\n')
    (folder / "summary.json").write_text('{"status": "finished", "success": 0.5, "resumed": 0, "wall_s": 9.0}')
    (folder / "videos" / "trained.mp4").write_bytes(b"film")
    (folder / "checkpoints" / "replay" / "0-50.json").write_text("{}")


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_state(run, name, change):
    folder = run / "checkpoints" / "200"
    state = load_state(folder, name)
    change(state)
    save_state(folder, name, state)


def nudge(tensor):
    tensor[1] = torch.nextafter(tensor[1], torch.tensor(9.0))


CHANGES = {
    "a loss in its last digit": lambda run: rewrite(run / "metrics.jsonl", "0.01", "0.010000000000000002"),
    "a row less": lambda run: rewrite(run / "metrics.jsonl", (run / "metrics.jsonl").read_text().splitlines()[1] + "\n", ""),
    "a row twice": lambda run: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() * 2),
    "an evaluation twice": lambda run: rewrite(run / "evaluations.jsonl", "0.5}\n", '0.5}\n{"policy": "trained", "success": 0.5}\n'),
    "another success": lambda run: rewrite(run / "summary.json", "0.5", "0.25"),
    "a weight in its last bit": lambda run: change_state(run, "policy", lambda state: nudge(state["networks"]["actor"])),
    "a random state": lambda run: change_state(run, "training", lambda state: state["random"]["numpy"].__setitem__(2, 7)),
    "no random state": lambda run: change_state(run, "training", lambda state: state.pop("random")),
    "another type": lambda run: change_state(run, "training", lambda state: state.update(env_steps=200.0)),
    "an older checkpoint": lambda run: (run / "checkpoints" / "200").rename(run / "checkpoints" / "100"),
    "a replay segment": lambda run: (run / "checkpoints" / "replay" / "0-50.json").write_text("{} "),
    "a film": lambda run: (run / "videos" / "trained.mp4").write_bytes(b"fil"),
    "a film that is not finished": lambda run: (run / "videos" / ".trained.mp4").touch(),
    "a checkpoint that is not finished": lambda run: (run / "checkpoints" / ".tmp-200").mkdir(),
    "a file that is not finished": lambda run: (run / "summary.json.tmp").touch(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_comparison_sees(name, tmp_path):
    for run in ("whole", "killed"):
        made_up_run(tmp_path / run)
    # What the clock decides, and how often it was resumed, may differ.
    rewrite(tmp_path / "killed" / "summary.json", '"resumed": 0, "wall_s": 9.0', '"resumed": 4, "wall_s": 11.0')
    rewrite(tmp_path / "killed" / "metrics.jsonl", '"time/render": 0.1', '"time/render": 0.2')
    change_state(tmp_path / "killed", "run", lambda state: state.update(wall_s=4.0))
    assert chaos.compare(tmp_path / "whole", tmp_path / "killed") == []
    CHANGES[name](tmp_path / "killed")
    assert chaos.compare(tmp_path / "whole", tmp_path / "killed") != []


# ---- killing --------------------------------------------------------------------------------------------------------------------------

VICTIM = """
import importlib.util, os, shutil, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("chaos", "scripts/chaos.py"); chaos = importlib.util.module_from_spec(spec)
sys.modules["chaos"] = chaos; spec.loader.exec_module(chaos)
run = Path(sys.argv[1])
hooks = chaos.Hooks(run, sys.argv[2], int(sys.argv[3])); hooks.install()
(run / "checkpoints" / "replay").mkdir(parents=True)
for step in (1, 2):
    folder = run / "checkpoints" / f".tmp-{step}"; folder.mkdir()
    with open(folder / "policy.tmp", "wb") as file: file.write(b"0123456789")
    os.replace(folder / "policy.tmp", folder / "policy"); folder.rename(run / "checkpoints" / str(step))
    (run / "checkpoints" / "replay" / f"{step}.tmp").write_text("abcdef")
    line = os.open(run / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT); os.write(line, b'{"a": 1}\\n'); os.close(line)
    (run / "summary.json.tmp").write_text("{}"); os.replace(run / "summary.json.tmp", run / "summary.json")
shutil.rmtree(run / "checkpoints" / "1")
(run / "other").write_text("no hook is for this"); os.remove(run / "other")
print(sorted(hooks.counts.items()))
"""
STRUCK = {  # point and number -> what is in the folder afterwards
    ("checkpoint:half", 2): {"checkpoints/.tmp-2/policy.tmp": b"01234", "checkpoints/1/policy": b"0123456789"},
    ("checkpoint:before-rename", 2): {"checkpoints/.tmp-1/policy": b"0123456789"},
    ("checkpoint:after-rename", 2): {"checkpoints/1/policy": b"0123456789"},
    ("checkpoint:deleted", 1): {"checkpoints/1": None, "checkpoints/1/policy": FileNotFoundError},
    ("replay:half", 1): {"checkpoints/replay/1.tmp": b"abc"},
    ("metrics:half", 2): {"metrics.jsonl": b'{"a": 1}\n{"a"'},
    ("summary:before-rename", 1): {"summary.json.tmp": b"{}", "summary.json": FileNotFoundError},
}


@pytest.mark.parametrize(("point", "number"), STRUCK)
def test_a_process_dies_at_the_very_call(point, number, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path / "run"), point, str(number)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == -9 and f"chaos: died at {point} {number}" in ended.stderr, ended.stderr
    for name, content in STRUCK[point, number].items():
        path = tmp_path / "run" / name
        if content is FileNotFoundError:
            assert not path.exists()
        else:
            assert path.is_dir() if content is None else path.read_bytes() == content


def test_hooks_alone_only_count(tmp_path):
    ended = subprocess.run([sys.executable, "-c", VICTIM, str(tmp_path / "run"), "none", "0"], cwd=ROOT, capture_output=True, text=True)
    counts = {
        "checkpoint:half": 2,
        "checkpoint:before-rename": 4,
        "checkpoint:after-rename": 4,
        "checkpoint:deleted": 2,
        "replay:half": 2,
        "metrics:half": 2,
        "summary:half": 2,
        "summary:before-rename": 2,
        "summary:after-rename": 2,
    }
    assert ended.returncode == 0 and ended.stdout.strip() == str(sorted(counts.items()))


@pytest.mark.timeout(280)
def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(tmp_path, capfd):
    kinds = ["moment", "checkpoint", "evaluation", "row"]
    arguments = ["--kills", "4", "--kinds", *kinds, "--keep", str(tmp_path / "runs"), "--json", str(tmp_path / "result.json")]
    code = chaos.main([*arguments, *TINY])
    shown, result = capfd.readouterr().out, json.loads((tmp_path / "result.json").read_text())
    assert code == 0 and result["good"] and "nothing was lost" in shown, shown
    assert len(result["kills"]) == 4 and {kill["kind"] for kill in result["kills"]} >= {"checkpoint", "evaluation", "row"}

    # The control: the same comparison after a resume that lost the random state, as a broken `load` would.
    run = next((tmp_path / "runs").glob("killed-*"))
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    last = chaos.newest_checkpoint(broken)
    shutil.rmtree(broken / "checkpoints" / str(last))
    (broken / "summary.json").unlink()
    folder = broken / "checkpoints" / str(chaos.newest_checkpoint(broken))
    state = load_state(folder, "training")
    state["random"]["torch"] = torch.Generator().manual_seed(1).get_state()
    save_state(folder, "training", state)
    start = chaos.Start(broken, [*chaos.SMALL, *chaos.AGENTS["sac"], *TINY], tmp_path / "broken.log")
    assert start.wait(100) == 0, start.output()
    assert any(line.startswith(("metrics.jsonl", "policy", "training")) for line in chaos.compare(tmp_path / "runs" / "whole", broken))


def test_a_hook_that_never_fires_is_a_failure(tmp_path):
    series = chaos.Series(tmp_path, [], ["checkpoint"], 1, 0)
    rows = [{"env_steps": 200}]
    series.reference = chaos.Reference(tmp_path / "whole", 1.0, 1.0, {"checkpoint:half": 1}, [200], rows)
    series.points, series.runs = {"checkpoint": ["checkpoint:half"]}, 1

    class Ended:  # a run that came to its end
        log = "log"

        def wait(self, seconds, until=None):
            return 0

        def output(self):
            return "finished"

        def kill(self):
            return 0

    series._start = lambda *_: Ended()
    ended, kill = series._kill(tmp_path / "run", "checkpoint")
    assert ended and "was not where the process ended" in kill.problems[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("agent", ["sac", "ppo"])
def test_all_kinds_of_kills(agent, tmp_path):
    kills = len(chaos.KINDS) if agent == "sac" else len(chaos.KINDS) - 1
    assert chaos.main(["--agent", agent, "--kills", str(kills + 3), "--keep", str(tmp_path / "runs"), *TINY]) == 0


# ---- watching -------------------------------------------------------------------------------------------------------------------------


def series(bytes_per_step=0.0, files: np.ndarray | int = 20, seed=0, noise=2e6):
    """Samples of a run of 200000 steps whose evaluations move memory up and down."""
    steps = np.arange(1000, 200_001, 500)
    memory = 4e8 + noise * np.random.default_rng(seed).standard_normal(len(steps)) + bytes_per_step * steps
    memory += 2e7 * (steps % 40_000 < 1500)
    count = np.broadcast_to(files, steps.shape)
    return [soak.Sample(int(step), int(size), 9, int(number)) for step, size, number in zip(steps, memory, count, strict=True)]


GOOD = {"seconds": {"log": 0.4, "checkpoint": 3.0}, "wall_s": 100.0}
ROWS = list(range(1000, 200_001, 1000))


def judged(samples=None, rows=ROWS, summary=GOOD):
    return soak.judge(series() if samples is None else samples, rows, summary, 200_000, 1000, 50_000)


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_is_told_from_noise(seed):
    assert judged(series(0.0, seed=seed))[1] == []
    assert "memory grows" in judged(series(64.0, seed=seed))[1][0]  # one small object per transition


def test_each_claim_can_fail():
    growing = np.linspace(20, 40, 399).astype(int)
    for wrong, text in (
        ({"samples": series(files=growing)}, "files: up to"),
        ({"samples": series()[:3]}, "too few"),
        ({"rows": ROWS[:50] + ROWS[51:]}, "no row from step 51000"),
        ({"rows": ROWS[:50] + ROWS[49:]}, "step 50000 follows 50000"),
        ({"rows": ROWS[:-1]}, "no row from step 200000"),
        ({"summary": {**GOOD, "seconds": {"log": 1.1, "checkpoint": 3.0}}}, "logging took 1.10 %"),
        ({"summary": {"wall_s": 100.0, "seconds": {}}}, "does not tell"),
    ):
        failed = judged(**wrong)[1]
        assert len(failed) == 1 and text in failed[0], (text, failed)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_soak_watches_a_real_run(tmp_path, capfd):
    small = [
        "agent.buffer_size=600",
        "log_every=100",
        "num_envs=4",
        "horizon=12",
        "eval_episodes=4",
        "agent.learning_starts=100",
        "logger=none",
    ]
    code = soak.main(["--steps", "2000", "--seconds", "0.02", "--json", str(tmp_path / "soak.json"), *small])
    shown, result = capfd.readouterr().out, json.loads((tmp_path / "soak.json").read_text())
    assert "bytes per transition" in shown and "open files" in shown
    assert result["rows"] == 20 and result["memory_mb"]["100 %"] > 50 and result["files"][1] > 3 and result["samples"] > 10
    # Too short for claims about memory; the others hold.
    assert code == bool(result["failed"]) and not [line for line in result["failed"] if line.startswith(("metrics", "summary"))]
