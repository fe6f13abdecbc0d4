"""Grids of cells, on a made-up command: which cells there are, and that no crash, kill or signal costs more than it must."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import made_up_cells
import pytest
from made_up_cells import MadeUpConfig, run_made_up

from agents import benchmark
from agents.benchmark import Benchmark
from robo_repr.core import cli, config
from robo_repr.core.config import ImitationConfig, config_names
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.lock import take_lock
from robo_repr.core.run import RunDir

ROOT = Path(__file__).parents[2]
GRID = """
title: A made-up table
axes:
  seed: [0, 1]
  task: [fine, other]
  encoder: [mvp, pixels]
settings: {steps: 1, level: 3}
controls:
  untrained: encoder=random
  told: encoder=identity privileged=true
"""
PLAIN = GRID.split("controls:")[0]
ONE = ["benchmark=made", "task=fine", "encoder=mvp", "seed=0"]  # of PLAIN, which is one cell then


def report(folder: Path) -> None:
    Path("reported").write_text(str(folder))


def grid(overrides: list[str]) -> Benchmark:
    return Benchmark(MadeUpConfig, overrides, "made_up_cells.run_made_up", report)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A working folder with a configs/ of its own, whose benchmark `made` is GRID."""
    use_configs(tmp_path / "configs", monkeypatch.setattr)
    shutil.copytree(ROOT / "configs" / "encoder", tmp_path / "configs" / "encoder")
    write_grid(tmp_path, GRID)
    for name, steps in (("default", 5), ("tiny", 2)):
        path = tmp_path / "configs" / "budget" / "madeup" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# @package _global_\nsteps: {steps}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use_configs(folder: Path, setattr_: Any = setattr) -> None:
    for module in (cli, config, benchmark):
        setattr_(module, "CONFIGS", folder)


def write_grid(folder: Path, text: str) -> None:
    path = folder / "configs" / "benchmark" / "madeup" / "made.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows(name: str = "made") -> list[dict]:
    return [json.loads(line) for line in Path("runs/benchmarks", name, "results.jsonl").read_text().splitlines()]


def run_here(*words: str) -> None:
    """All cells, one by one and in this process, which is faster."""
    table = grid([*words, "cell=0"])
    for number in range(len(table.cells)):
        table.asked = number
        assert table.run() == 0


def starts() -> list[str]:
    """task/encoder/seed of each start of a cell."""
    return [line.split()[0] for line in Path("starts").read_text().splitlines()]


def program(*words: str, **options: Any) -> subprocess.Popen:
    """The made-up command in a process of its own."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "if __name__ == '__main__':\n"
        "    import test_benchmark as t; from pathlib import Path\n"
        "    t.use_configs(Path('configs').resolve())\n"
        "    t.cli.main(t.MadeUpConfig, t.run_made_up, t.grid)\n"
    )
    Path("run_madeup.py").write_text(code)
    command = [sys.executable, "run_madeup.py", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_gone(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


# ---- which cells ------------------------------------------------------------------------------------------------------------------


def test_cells_come_round_by_round_with_their_controls(here):
    cells = grid(["benchmark=made"]).cells
    assert [str(cell) for cell in cells[:5]] == ["fine-mvp/s0", "fine-pixels/s0", "fine-untrained/s0", "fine-told/s0", "other-mvp/s0"]
    assert len(cells) == 16 and {cell.config.seed for cell in cells[:8]} == {0}
    assert [(cell.arm, cell.config.names["encoder"], cell.config.privileged) for cell in cells[1:4]] == [
        ("encoder", "pixels", False),
        ("untrained", "random", False),
        ("told", "identity", True),
    ]
    assert all((cell.config.level, cell.config.steps) == (3, 1) for cell in cells)
    assert cells[9].config == dataclasses.replace(cells[1].config, seed=1, run_dir="runs/benchmarks/made/fine-pixels/s1")


def test_what_the_user_writes_wins(here):
    def chosen(*words: str) -> list[tuple]:
        cells = grid(["benchmark=made", *words]).cells
        return [(cell.config.names["encoder"], cell.config.task, cell.config.level, cell.config.steps, cell.config.seed) for cell in cells]

    one = chosen("encoders=[mvp]", "task=[fine]", "seed=7", "steps=9")
    assert one == [("mvp", "fine", 3, 9, 7), ("random", "fine", 3, 9, 7), ("identity", "fine", 3, 9, 7)]
    assert chosen("encoder=mvp", "task=fine", "seed=7", "steps=9") == one, "one value is a list of one"
    levels = chosen("encoder=mvp", "task=[[fine,other]]", "seed=0", "level=[4,5]")
    assert [(task, level) for _, task, level, *_ in levels[::3]] == [(["fine", "other"], 4), (["fine", "other"], 5)]
    write_grid(here, PLAIN)
    assert {steps for *_, steps, _ in chosen("budget=tiny", "task=fine", "seed=0")} == {2}, "a budget is what the user writes too"
    write_grid(here, GRID)
    cells = grid(["benchmark=made", "encoders=['pixels encoder.size=5 level=8',random]", "privileged=false", "task=fine", "seed=0"]).cells
    assert [cell.arm for cell in cells] == ["encoder", "untrained", "told"], "a control that is listed too is there once"
    assert cells[0].config.encoder["size"] == 5 and cells[0].config.level == 8
    assert cells[-1].config.privileged, "nothing makes a control something else"
    controls = [("untrained", None), ("told", None)]  # what is an encoder's stays with it
    words = ["benchmark=made", "encoder=pixels", "task=fine", "seed=0", "encoder.size=5"]
    for weights, arms in (("FILE", ["FILE"]), ("[FILE,OTHER]", ["FILE", "OTHER"])):
        cells = grid([*words, f"weights={weights}"]).cells
        assert sorted((cell.arm, cell.config.weights) for cell in cells if cell.arm == "encoder") == [("encoder", arm) for arm in arms]
        assert [(cell.arm, cell.config.weights) for cell in cells if cell.arm != "encoder"] == controls


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        (GRID, ["benchmark=mad"], ["benchmark=mad", "Did you mean benchmark=made"]),
        (GRID.replace("encoder: [mvp", "encodr: [mvp"), [], ["made.yaml", "untrained"]),
        (GRID.replace("task: [fine, other]", "tusk: [fine]"), [], ["tusk", "Did you mean task"]),
        (GRID.replace("task: [fine, other]", "task: []"), [], ["made.yaml", "task is []"]),
        (GRID.replace("task: [fine, other]", "task: fine"), [], ["made.yaml", "task is 'fine'"]),
        (GRID.replace("settings: {", "setings: {"), [], ["made.yaml", "settings"]),
        (GRID.replace("title: A", "title: [A"), [], ["made.yaml"]),
        (GRID.replace("untrained: encoder", "untrained: enc"), [], ["made.yaml", "untrained"]),
        ("- a\n", [], ["made.yaml"]),
        (GRID.replace("pixels]", "pixls]"), [], ["encoder=pixls", "encoder=pixels"]),
        (GRID, ["levl=2"], ["levl", "level"]),
        (GRID, ["steps=-1"], ["steps=-1"]),
        (GRID, ["encoders=[]"], ["encoders=[]"]),
        (GRID, ["seed=0,1"], ["seed=[...]"]),
        (GRID, ["-m", "benchmark=made,other"], ["benchmark=made,other", "one after the other"]),
        (GRID, ["encoders=['mvp level=3',pixels]", "level=4"], ["level=3", "level=4"]),
        (GRID, ["encoders=['mvp seed=3']"], ["seed=0", "seed=3"]),
        (GRID, ["task=[a/b,a-b]"], ["a-b", "a/b"]),
        (GRID, ["cell=3", "task=fine", "encoder=mvp", "seed=0"], ["cell=3", "at most 2"]),
        (GRID, ["cell=x", "task=fine", "encoder=mvp", "seed=0"], ["cell=x", "whole number"]),
        (GRID, ["fresh=perhaps"], ["fresh"]),
        (GRID, ["launcher=joblib"], ["launcher=joblib", "-m"]),
        (GRID, ["-m", "launcher=joblb"], ["launcher=joblb", "launcher=joblib"]),
        (GRID, ["-m", "launcher=submitit_slurm"], ["hydra-submitit-launcher", "not installed"]),
        (GRID, ["-m", "cell=0", "task=fine", "encoder=mvp", "seed=0"], ["cell=0", "-m"]),
    ],
)
def test_mistakes_are_one_paragraph_before_anything_runs(here, monkeypatch, capsys, text, words, says):
    write_grid(here, text)
    monkeypatch.setattr(sys, "argv", ["run_madeup.py", "benchmark=made", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main(MadeUpConfig, run_made_up, grid)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and len(err.strip().splitlines()) == 1 and len(err) < 700, err
    assert all(part in err for part in says), err
    assert not Path("starts").exists() and "Traceback" not in err


@pytest.mark.parametrize("name", config_names("benchmark/imitation"))
def test_the_benchmarks_here_can_be_run(name):
    cells = Benchmark(ImitationConfig, [f"benchmark={name}", "seed=0", "task=reach", "demos=9"], "", report).cells
    assert {"random", "state"} <= {cell.arm for cell in cells} and any(cell.arm == "encoder" for cell in cells)


# ---- running them -----------------------------------------------------------------------------------------------------------------


def test_a_cell_that_fails_costs_itself_alone(here, capsys):
    words = ["benchmark=made", "task=[mistake,raises,dies,idle,fine]", "encoder=mvp", "seed=0", "tag=x"]
    write_grid(here, PLAIN)
    assert grid(words).run() == 1
    found = {row["task"]: row for row in rows("made-x")}
    assert {task: row["status"] for task, row in found.items()} == {
        "mistake": "failed",
        "raises": "failed",
        "dies": "failed",
        "idle": "failed",
        "fine": "finished",
    }
    assert found["mistake"]["error"] == "The weights are gone. Fetch them."
    assert found["raises"]["error"] == "ValueError: three is not four"
    assert "signal 11" in found["dies"]["error"] and "without having finished" in found["idle"]["error"]
    expected = {"cell": "fine-mvp/s0", "encoder": "mvp", "seed": 0, "level": 3, "arm": "encoder", "run": "fine-mvp/s0", "success": 0.5}
    assert expected.items() <= found["fine"].items()
    log = Path("runs/benchmarks/made-x/raises-mvp/s0.log").read_text()
    assert "a cell's own words" in log and "Traceback" in log
    assert "Segmentation fault" in Path("runs/benchmarks/made-x/dies-mvp/s0.log").read_text()
    printed = " ".join(capsys.readouterr().out.split())
    assert "a cell's own words" not in printed and "50 % [30 to 70]" in printed
    assert all(" ".join(row[name].split()) in printed for row in found.values() if row["error"] for name in ("error", "rerun"))
    assert Path("reported").read_text() == "runs/benchmarks/made-x"

    rerun = found["mistake"]["rerun"]
    assert rerun == "python run_madeup.py benchmark=made 'task=[mistake,raises,dies,idle,fine]' encoder=mvp seed=0 tag=x cell=0"
    Path("mended").touch()
    assert grid([*words, "cell=0"]).run() == 0
    assert [row["status"] for row in rows("made-x")] == ["finished", "failed", "failed", "failed", "finished"]
    assert grid(words).run() == 0
    assert [row["status"] for row in rows("made-x")] == ["finished"] * 5 and {row["error"] for row in rows("made-x")} == {None}
    assert starts() == [f"{task}/mvp/0" for task in ("mistake", "raises", "dies", "idle", "fine", "mistake", "raises", "dies", "idle")]


def test_cells_share_a_process_and_the_table_marks_controls(here, capsys):
    assert grid(["benchmark=made", "task=fine", "encoder=mvp"]).run() == 0
    assert len({line.split()[1] for line in Path("starts").read_text().splitlines()} - {str(os.getpid())}) == 1
    printed = capsys.readouterr().out
    assert "told (control)" in printed and "untrained (control)" in printed and "mvp (control)" not in printed
    assert "100 % [91 to 100]" in printed and "Below 3 seeds" in printed


def test_several_outcomes_of_a_run_stand_side_by_side(here, capsys, monkeypatch):
    def run(cfg: MadeUpConfig, overrides: list[str]) -> int:
        ends = {"near": {"success": 0.9, "episodes": 10}, "far": {"success": cfg.seed / 2, "episodes": 10}}
        summary = {"status": "finished", "success": 0.9, "episodes": 10, "levels": ends, "wall_s": 1.0}
        with RunDir.open("madeup", "", dataclasses.asdict(cfg), overrides, cfg.seed, cfg.run_dir) as folder:
            folder.write_json("summary.json", summary)
        return 0

    monkeypatch.setattr(made_up_cells, "run_made_up", run)
    write_grid(here, PLAIN)
    words = ["benchmark=made", "encoder=mvp", "task=fine"]

    def side_by_side(*more: str) -> Benchmark:
        return Benchmark(MadeUpConfig, [*words, *more], "made_up_cells.run_made_up", report, columns="levels")

    for number in (0, 1):
        assert side_by_side(f"cell={number}").run() == 0
    assert [row["levels"]["far"]["success"] for row in rows()] == [0.0, 0.5]
    assert side_by_side().run() == 0
    lines = [line.split("│") for line in capsys.readouterr().out.replace("┃", "│").splitlines() if "│" in line]
    assert [cell.strip() for cell in lines[0] if cell.strip()] == ["method", "near", "far", "seeds", "episodes"]
    assert [cell.strip().split(" [")[0] for cell in lines[1] if cell.strip()] == ["mvp", "90 %", "25 %", "2", "20"]


def test_other_settings_are_refused_and_fresh_begins_anew(here):
    write_grid(here, PLAIN)
    words = ["benchmark=made", "task=fine", "encoder=mvp", "seed=0"]
    assert grid(words).run() == 0
    with pytest.raises(UserError, match="level: 3 before, 4 now.*tag=NAME"):
        grid([*words, "level=4"]).run()
    assert len(starts()) == 1
    assert grid([*words, "level=4", "fresh=true"]).run() == 0
    assert len(starts()) == 2 and {row["level"] for row in rows()} == {4} and {row["level"] for row in rows("made.old-1")} == {3}


def test_a_cell_is_finished_only_with_the_settings_that_it_finished_with(here):
    write_grid(here, PLAIN)
    words = ["benchmark=made", "task=mistake", "encoder=mvp", "seed=0"]
    Path("mended").touch()
    short, longer = grid([*words, "cell=0"]), grid([*words, "steps=3"])
    assert short.run() == 0
    assert not short.todo() and [(row["steps"], row["status"]) for row in rows()] == [(1, "finished")]
    cell = longer.cells[0]
    assert longer.todo() == [cell]
    cell.note()  # and killed before it did anything
    assert longer.todo() == [cell] and RunDir(cell.path).finished, "else nothing could be confused"
    assert [row["status"] for row in longer.rows()] == ["interrupted"]

    Path("mended").unlink()
    assert longer.run() == 1 and longer.todo() == [cell]
    assert [(row["steps"], row["status"], row["success"]) for row in rows()] == [(3, "failed", None)]
    Path("mended").touch()
    run_here(*words, "steps=3")
    assert [(row["steps"], row["status"]) for row in rows()] == [(3, "finished")] and Path(cell.path, "step").read_text() == "3"
    with pytest.raises(UserError, match="steps: 3 before, 2 now.*tag=NAME"):
        grid([*words, "steps=2"]).run()
    assert [(row["steps"], row["status"]) for row in rows()] == [(3, "finished")]


def test_what_left_no_run_may_be_said_otherwise(here):
    write_grid(here, PLAIN)
    words = ["benchmark=made", "task=mistake", "encoder=mvp", "seed=0", "cell=0"]
    with pytest.raises(UserError, match="weights are gone"):
        grid([*words, "weights=WRONG"]).run()
    assert [row["status"] for row in rows()] == ["failed"]
    Path("mended").touch()
    assert grid([*words, "weights=RIGHT"]).run() == 0
    assert [(row["status"], row["weights"]) for row in rows()] == [("finished", "RIGHT")]


def test_rows_of_cells_that_were_not_asked_for_stay(here):
    write_grid(here, PLAIN)
    words = ["benchmark=made", "task=fine", "seed=0"]
    run_here(*words, "encoder=pixels")
    run_here(*words, "encoder=mvp")
    assert {row["cell"]: row["status"] for row in rows()} == {"fine-pixels/s0": "finished", "fine-mvp/s0": "finished"}
    assert grid([*words, "steps=3", "cell=0"]).run() == 0
    assert {row["cell"]: (row["steps"], row["status"]) for row in rows()} == {
        "fine-mvp/s0": (3, "finished"),
        "fine-pixels/s0": (1, "finished"),
    }, "the other one is what it was"
    shutil.rmtree("runs/benchmarks/made/fine-pixels/s0")
    run_here(*words, "encoder=mvp", "steps=3")
    assert [row["cell"] for row in rows()] == ["fine-mvp/s0"]


def test_the_table_says_what_was_changed_and_which_score_it_shows(here, monkeypatch, capsys):
    write_grid(here, PLAIN)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["benchmark=made", "encoder=mvp", "seed=5", "task=[[fine,other]]", "views=[front]", "level=[7]", "tag=x"]
    run_here(*words)
    assert grid(words).run() == 0  # nothing is left to do
    printed = capsys.readouterr().out
    assert "with: encoder=mvp seed=5 'task=[[fine,other]]' 'views=[front]' 'level=[7]'\n" in printed
    assert "success [95 %], evaluation: best" in printed and "[fine,other]" in map(str.strip, printed.splitlines())
    write_grid(here, PLAIN.replace("[mvp, pixels]", "['mvp views=[red]']"))
    words = ["benchmark=made", "seed=0", "task=fine"]
    run_here(*words)
    assert grid(words).run() == 0
    assert "mvp views=[red]" in capsys.readouterr().out


def test_only_a_table_is_moved_aside(here, monkeypatch):
    write_grid(here, PLAIN)
    Path("mine").mkdir()
    Path("mine/thesis").write_text("years of work")
    for words in (["run_dir=mine", "fresh=true"], ["run_dir=mine"], ["run_dir=.", "fresh=true"]):
        with pytest.raises(UserError, match=r"no results\.jsonl") as refused:
            grid([*ONE, *words]).run()
        assert refused.value.exit_code == 2
    assert [path.name for path in Path("mine").iterdir()] == ["thesis"] and not Path("starts").exists()
    run_here(*ONE)
    inside = Path("runs/benchmarks/made/fine-mvp")
    monkeypatch.chdir(inside)
    with pytest.raises(UserError, match="another folder"):
        grid([*ONE, "run_dir=..", "fresh=true"]).run()
    assert Path("s0/summary.json").exists()


def test_a_full_disk_is_one_paragraph_and_hides_nothing(here, monkeypatch):
    write_grid(here, PLAIN)

    def fills_the_disk(error: Exception | None) -> None:
        def run(cfg: MadeUpConfig, overrides: list[str]) -> int:
            monkeypatch.setattr(benchmark, "write_whole", refuse)
            if error:
                raise error
            return 0

        monkeypatch.undo()
        use_configs(here / "configs", monkeypatch.setattr)
        monkeypatch.chdir(here)
        monkeypatch.setattr(made_up_cells, "run_made_up", run)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for own in (UserError("its own words"), ValueError("its own words")):
        fills_the_disk(own)
        with pytest.raises(type(own), match="its own words"):
            grid([*ONE, "cell=0"]).run()
    fills_the_disk(None)
    with pytest.raises(Failure, match="No space left on device.*free space"):
        grid([*ONE, "cell=0"]).run()

    monkeypatch.undo()
    use_configs(here / "configs", monkeypatch.setattr)
    monkeypatch.chdir(here)
    run_here(*ONE)
    with pytest.raises(Failure, match="No space left on device"):
        Benchmark(MadeUpConfig, ONE, "made_up_cells.run_made_up", refuse).run()


def test_a_single_cell_waits_for_no_running_table(here):
    write_grid(here, PLAIN)
    run_here(*ONE)
    notes = Path("runs/benchmarks/made/fine-mvp/s0.json")
    before = notes.read_text()
    lock = take_lock(Path("runs/benchmarks/made"), "")
    with pytest.raises(UserError, match="is writing to runs/benchmarks/made already"):
        grid([*ONE, "steps=5", "cell=0"]).run()
    os.close(lock)
    assert notes.read_text() == before and len(starts()) == 1


def test_after_a_kill_it_goes_on_where_it_was(here):
    write_grid(here, PLAIN)
    words = ["benchmark=made", "task=fine", "encoders=[mvp,pixels]", "seed=0", "steps=60"]
    parent = program(*words)
    unfinished = Path("runs/benchmarks/made/fine-pixels/s0")
    wait_for((unfinished / "step").exists)
    worker = int(Path("starts").read_text().split()[-1])
    parent.kill()
    parent.wait()
    wait_for(lambda: is_gone(worker), 10)
    before = int((unfinished / "step").read_text())
    assert 0 < before < 60, "else nothing was left to do"
    again = program(*words)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0, out
    assert starts() == ["fine/mvp/0", "fine/pixels/0", "fine/pixels/0"]
    assert json.loads((unfinished / "summary.json").read_text())["began"] == before
    assert [row["status"] for row in rows()] == ["finished"] * 2


@pytest.mark.parametrize(
    ("number", "code", "way"), [(signal.SIGINT, 130, os.killpg), pytest.param(signal.SIGTERM, 143, os.kill, marks=pytest.mark.slow)]
)
def test_a_signal_makes_the_cell_checkpoint(here, number, code, way):
    write_grid(here, PLAIN)
    parent = program("benchmark=made", "task=fine", "seed=0", "steps=3000")
    wait_for(lambda: Path("runs/benchmarks/made/fine-mvp/s0/step").exists())
    way(parent.pid, number)
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == code and "0 of 2 cells are finished" in out, out
    assert [(row["cell"], row["status"], row["error"]) for row in rows()] == [("fine-mvp/s0", "interrupted", None)]
    assert RunDir(Path("runs/benchmarks/made/fine-mvp/s0")).summary() == {"status": "interrupted"}
    assert len(starts()) == 1


@pytest.mark.slow
def test_a_sweep_in_several_processes(here):
    write_grid(here, PLAIN)
    sweep = program("-m", "launcher=joblib", "hydra.launcher.n_jobs=2", "benchmark=made", "task=[dies,fine]", "seed=0")
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, out
    assert [(row["task"], row["status"]) for row in rows()] == [("dies", "failed")] * 2 + [("fine", "finished")] * 2
    assert Path("reported").exists() and "signal 11" in out and "a cell's own words" not in out
    assert not Path("runs/benchmarks/made/stop").exists() and not Path("runs/benchmarks/made/lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "code", "says"), [("mistake", 2, "The weights are gone. Fetch them."), ("stopped", 130, ""), ("fine", 0, "")]
)
def test_jobs_of_a_plain_sweep_in_several_processes(here, bad, code, says):
    sweep = program("-m", "launcher=joblib", "hydra.launcher.n_jobs=2", f"task={bad},other", "encoder=pixels")
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == code and says in out and "Traceback" not in out, out
    assert f"{bad}/pixels/0" in starts()
    if not code:  # else the sweep may end before the other job begins
        assert sorted(starts()) == ["fine/pixels/0", "other/pixels/0"]
        assert len({line.split()[1] for line in Path("starts").read_text().splitlines()}) == 2


@pytest.mark.slow
def test_a_sweep_that_is_stopped_or_killed_leaves_no_process(here):
    words = ["-m", "launcher=joblib", "hydra.launcher.n_jobs=2", "benchmark=made", "task=fine", "seed=0", "steps=3000"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        Path("starts").unlink(missing_ok=True)
        sweep = program(*words)
        wait_for(lambda: Path("starts").exists() and len(starts()) == 2)
        time.sleep(0.5)
        workers = [int(line.split()[1]) for line in Path("starts").read_text().splitlines()]
        (os.killpg if number == signal.SIGINT else os.kill)(sweep.pid, number)
        sweep.wait(60)
        assert sweep.returncode == code, sweep.communicate()
        for worker in workers:
            wait_for(lambda worker=worker: is_gone(worker), 10)
        if number == signal.SIGINT:
            assert {RunDir(Path(f"runs/benchmarks/made/fine-{name}/s0")).summary()["status"] for name in ("mvp", "pixels")} == {
                "interrupted"
            }
            assert len(starts()) == 2, "cells that wait for their turn are not begun"
