import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.run import KEPT_CHECKPOINTS, RunDir

ROOT = Path(__file__).parents[2]
CONFIG = {"task": "reach", "steps": 100, "agent": {"gamma": 0.95}, "views": ["front"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_run(config=CONFIG, **settings):
    return RunDir.open("rl", "reach-mvp", config, ["a=b"], 3, **settings)


def test_layout(folder):
    run = open_run()
    assert run.path.resolve() == folder / "runs/rl/reach-mvp/s3"
    assert (run.path / "overrides.txt").read_text() == "a=b\n" and json.loads((run.path / "versions.json").read_text())["python"]
    assert not run.finished and run.summary() == {}
    run.write_json("summary.json", {"status": "finished"})
    assert run.finished
    run.close()
    exact = open_run(run_dir="here")
    assert (folder / "here" / "config.yaml").exists()
    exact.close()


WRITER = """
import sys, time
from robo_repr.core.run import RunDir
run = RunDir.open("rl", "reach-mvp", {config!r}, [], 3)
print("open", flush=True)
time.sleep(60)
"""


def test_one_writer(folder, capsys):
    live = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(config=CONFIG)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert live.stdout is not None and live.stdout.readline() == "open\n"
        for fresh in (False, True):
            with pytest.raises(UserError, match=f"Process {live.pid} "):
                open_run(fresh=fresh)
    finally:
        live.kill()
        live.wait()
    run = open_run()  # a dead process's lock is taken over, and that is said
    assert f"gone ({live.pid})" in capsys.readouterr().err
    assert (run.path / "lock").read_text() == str(os.getpid())
    with pytest.raises(UserError, match=f"Process {os.getpid()} "):
        open_run()
    run.close()
    run.close()
    assert not (run.path / "lock").exists()
    open_run().close()
    assert capsys.readouterr().err == ""


def test_other_peoples_files_are_left_alone(folder):
    (folder / "thesis").mkdir()
    (folder / "thesis/chapter.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(UserError, match="no config.yaml"):
            open_run(run_dir="thesis", fresh=fresh)
    assert [file.name for file in (folder / "thesis").iterdir()] == ["chapter.txt"]


def test_a_mistake_found_late_leaves_no_folder(folder):
    with pytest.raises(UserError), open_run():
        raise UserError("task=reech is unknown.")
    assert [str(path) for path in folder.rglob("*")] == [str(folder / "runs"), str(folder / "runs/rl")]
    with open_run() as run:
        (run.path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError), open_run():
        raise UserError("a disk is full")
    assert (run.path / "metrics.jsonl").exists()


def test_changed_settings_are_listed(folder):
    open_run().close()
    with pytest.raises(UserError) as error:
        open_run({**CONFIG, "agent": {"gamma": 0.9}, "views": ["wrist"]})
    assert "agent.gamma: 0.95 before, 0.9 now" in str(error.value) and "views" in str(error.value) and "fresh=true" in str(error.value)
    open_run({**CONFIG, "steps": 200}).close()  # a longer run of the same kind goes on


def go_on():
    with open_run() as run:
        run.note_settings()


def test_other_versions_are_said(folder, capsys):
    with open_run() as run:
        checkpoints(run, 5)
    go_on()
    assert capsys.readouterr().err == ""
    old = json.loads((run.path / "versions.json").read_text())
    assert old["processor"] and old["torch"]
    (run.path / "versions.json").write_text(json.dumps({**old, "torch": "0.1"}))
    go_on()
    assert f"last bits from here on: torch 0.1 before, {old['torch']} now" in capsys.readouterr().err
    go_on()
    assert capsys.readouterr().err == "" and json.loads((run.path / "versions.json").read_text()) == old
    (run.path / "versions.json").write_text("[")
    go_on()


def test_a_finished_run_keeps_its_settings(folder):
    with open_run() as run:
        before = (run.path / "config.yaml").read_bytes()
    with open_run({**CONFIG, "steps": 7}) as run:
        assert (run.path / "config.yaml").read_bytes() == before
        run.note_settings()  # it goes on
    assert b"steps: 7" in (run.path / "config.yaml").read_bytes()


def test_garbage_among_checkpoints_does_no_harm(folder):
    with open_run() as run:
        checkpoints(run, 10)
        garbage = run.path / "checkpoints"
        (garbage / ".tmp-foo").write_text("")
        (garbage / ".tmp-link").symlink_to("nowhere")
        for name in ("5", "notes.txt", "-1", "99999999"):
            (garbage / name).write_text("mine")
        (garbage / "7").symlink_to(folder)
    with open_run() as run:
        assert run.latest_checkpoint()[0] == 10
        checkpoints(run, 20, 30, 40, 50)
        kept = {path.name for path in garbage.iterdir()}
    assert {"30", "40", "50", "notes.txt", "5", "-1"} <= kept and not kept & {"10", "20", ".tmp-foo", ".tmp-link", ".tmp-old"}
    assert folder.exists()


def test_without_settings_only_fresh_goes_on(folder):
    with open_run() as run:
        checkpoints(run, 10)
    (run.path / "config.yaml").unlink()
    with pytest.raises(UserError, match="no config.yaml.*fresh=true"):
        open_run()
    open_run(fresh=True).close()
    assert (folder / "runs/rl/reach-mvp/s3.old-1/checkpoints/10").exists()


def test_fresh_keeps_the_lock_until_the_new_folder_has_its_own(folder, monkeypatch):
    """Between the two, nobody may begin to write in what is moved aside."""
    open_run().close()
    rename, refused = Path.rename, []

    def look(self, target):
        if self.name == "s3":
            with pytest.raises(UserError, match=f"Process {os.getpid()} "):
                open_run()
            refused.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", look)
    with open_run(fresh=True) as run:
        assert refused and (run.path / "lock").exists() and not (run.path.with_name("s3.old-1") / "lock").exists()


def test_fresh_moves_the_old_run_aside(folder):
    with open_run() as run:
        run.write_json("summary.json", {"status": "finished"})
    for n in (1, 2):
        open_run({**CONFIG, "task": f"other{n}"}, fresh=True).close()
        assert (folder / f"runs/rl/reach-mvp/s3.old-{n}").exists()
    assert (folder / "runs/rl/reach-mvp/s3.old-1/summary.json").exists() and not (folder / "runs/rl/reach-mvp/s3/summary.json").exists()


def test_checkpoints_are_whole_or_not_there(folder):
    run = open_run()
    assert run.latest_checkpoint() is None
    for step in (5, 40, 100, 1000):
        with run.new_checkpoint(step) as checkpoint:
            (checkpoint / "x").write_text(str(step))
    with pytest.raises(RuntimeError), run.new_checkpoint(2000):
        raise RuntimeError
    step, path = run.latest_checkpoint()
    assert step == 1000 and (path / "x").read_text() == "1000"
    kept = sorted(int(p.name) for p in (run.path / "checkpoints").iterdir())
    assert kept == [40, 100, 1000] and len(kept) == KEPT_CHECKPOINTS
    (run.path / "checkpoints" / ".tmp-3000").mkdir()  # a kill in the middle
    run.close()
    again = open_run()
    assert again.latest_checkpoint()[0] == 1000 and not (run.path / "checkpoints" / ".tmp-3000").exists()
    again.close()


def checkpoints(run, *steps):
    for step in steps:
        with run.new_checkpoint(step) as folder:
            save_state(folder, "state", {"step": step})


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(folder, capsys):
    run = open_run()
    found = []

    def load(path):
        found.append(load_state(path, "state")["step"])

    assert run.load_checkpoint(load) is None
    checkpoints(run, 5, 10, 20)
    assert run.load_checkpoint(load) == 20 and found == [20] and capsys.readouterr().err == ""
    (run.path / "checkpoints/20/state.safetensors").unlink()
    (run.path / "checkpoints/10/state.json").write_text("{")
    assert RunDir(run.path).load_checkpoint(load) == 5  # a reader leaves everything where it is
    assert (run.path / "checkpoints/20").exists() and found == [20, 5]
    capsys.readouterr()
    assert run.load_checkpoint(load) == 5
    err = capsys.readouterr().err
    assert "checkpoint 20 is not used" in err and "checkpoint 10 is not used" in err and "state" in err and err.count("checkpoint 5.") == 2
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["5", "damaged-10-1", "damaged-20-1"]
    checkpoints(run, 10)
    (run.path / "checkpoints/10/state.json").unlink()
    assert run.load_checkpoint(load) == 5 and (run.path / "checkpoints/damaged-10-2").exists()
    (run.path / "checkpoints/5/state.json").unlink()
    with pytest.raises(UserError, match="fresh=true"):
        run.load_checkpoint(load)
    assert (run.path / "checkpoints/5").exists()
    run.close()


def test_settings_that_cannot_be_read_are_named(folder):
    open_run().close()
    for rubbish in (b"a: [", b"\xff\xfe", b"- 1"):
        (folder / "runs/rl/reach-mvp/s3/config.yaml").write_bytes(rubbish)
        with pytest.raises(UserError, match="config.yaml|other settings"):
            open_run()
    open_run(fresh=True).close()


def test_a_folder_that_cannot_be_written_is_named(folder):
    (folder / "file").write_text("")
    with pytest.raises(UserError, match="file/inside"):
        open_run(run_dir="file/inside")


def test_a_disk_that_fills_up_is_a_paragraph(folder):
    with open_run() as run, pytest.raises(Failure, match="No space left"), run.new_checkpoint(1):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert run.latest_checkpoint() is None
