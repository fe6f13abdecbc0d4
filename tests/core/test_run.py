import json
import subprocess
import sys

import pytest

from robo_repr.core.errors import UserError
from robo_repr.core.run import KEPT_CHECKPOINTS, RunDir

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


def test_one_writer(folder):
    run = open_run()
    live = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (run.path / "lock").write_text(str(live.pid))
    with pytest.raises(UserError, match=str(live.pid)):
        open_run()
    with pytest.raises(UserError, match=str(live.pid)):
        open_run(fresh=True)
    live.kill()
    live.wait()
    open_run().close()  # a dead process's lock is taken over
    assert not (run.path / "lock").exists()


def test_changed_settings_are_listed(folder):
    open_run().close()
    with pytest.raises(UserError) as error:
        open_run({**CONFIG, "agent": {"gamma": 0.9}, "views": ["wrist"]})
    assert "agent.gamma: 0.95 before, 0.9 now" in str(error.value) and "views" in str(error.value) and "fresh=true" in str(error.value)
    open_run({**CONFIG, "steps": 200}).close()  # a longer run of the same kind goes on


def test_fresh_moves_the_old_run_aside(folder):
    open_run().write_json("summary.json", {"status": "finished"})
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


def test_a_folder_that_cannot_be_written_is_named(folder):
    (folder / "file").write_text("")
    with pytest.raises(UserError, match="file/inside"):
        open_run(run_dir="file/inside")
