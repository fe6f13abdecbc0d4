"""What the machine can do to a run: a full disk, a folder that turns read-only, damaged files, signals, a second process, a lost lock."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents import policy_run, train
from envs import BatchEnv
from robo_repr.core.checkpoint import load_state
from robo_repr.core.cli import compose
from robo_repr.core.config import RLConfig
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.run import RunDir

ROOT = Path(__file__).parents[1]
SHORT = [
    *("encoder=identity", "privileged=true", "num_envs=4", "horizon=12", "eval_episodes=4", "logger=none", "agent.net=[16,16]"),
    *("agent.batch_size=16", "agent.learning_starts=40", "steps=240", "log_every=40", "checkpoint_every=80"),
]
LONG_STEPS = 2400  # a few seconds: time to disturb a process
LONG = [*SHORT[:-3], f"steps={LONG_STEPS}", "log_every=100", "checkpoint_every=200"]


def load_script(name):
    """A file of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chaos = load_script("chaos")


pytestmark = pytest.mark.usefixtures("restored")


def start(folder, words):
    """Runs the command in this process; returns its exit code."""
    cfg, words = compose(RLConfig, [*words, f"run_dir={folder}"])
    return train.train(cfg, words)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished undisturbed run, without films."""
    folder = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_run, "record_film", lambda *_: [])
        assert start(folder, SHORT) == 0
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A finished undisturbed run with films."""
    folder = tmp_path_factory.mktemp("long") / "run"
    assert start(folder, LONG) == 0
    return folder


class Process:
    """The main command in a process of its own."""

    def __init__(self, folder, words, logs):
        self.folder, self.out, self.err = folder, logs / f"{time.time_ns()}.out", logs / f"{time.time_ns()}.err"
        command = [sys.executable, "run_rl.py", *words, f"run_dir={folder}"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=environment)
        self.pid, self.before = self.process.pid, chaos.newest_checkpoint(folder) or 0

    def wait_for_checkpoint(self):
        """Returns when it has written a checkpoint of its own and goes on training."""
        end = time.monotonic() + 100
        while (chaos.newest_checkpoint(self.folder) or 0) <= self.before:
            assert self.process.poll() is None and time.monotonic() < end, self.out.read_text() + self.err.read_text()
            time.sleep(0.005)

    def end(self, seconds=60):
        """Its exit code, standard output and error."""
        code = self.process.wait(seconds)
        return code, self.out.read_text(), self.err.read_text()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def process(folder, words, logs):
    started = Process(folder, words, logs)
    try:
        yield started
    finally:
        started.kill()


def is_one_paragraph(text):
    """Whether a person is told in one line, without a traceback."""
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


def is_whole(folder):
    """Whether the newest checkpoint can be read to the last file."""
    checkpoint = RunDir(folder).latest_checkpoint()
    return checkpoint is not None and all(load_state(checkpoint[1], path.stem) is not None for path in checkpoint[1].glob("*.json"))


# ---- disk -----------------------------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, mounted where only a helper process sees it; others reach it through /proc."""

    def __init__(self, place):
        place.mkdir()
        self._inside = place
        # A shell in namespaces of its own (so no privileges are needed), which mounts what it is told to.
        self._shell = subprocess.Popen(
            ["unshare", "-rm", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.tell(f"mount -t tmpfs -o size=16m none {place}")
        self.path = Path(f"/proc/{self._shell.pid}/root{place}")

    def tell(self, command):
        """Runs a shell command there; raises when it fails."""
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(f"{command}; echo ended $?\n")
        self._shell.stdin.flush()
        lines = []
        while not (lines and lines[-1].startswith("ended ")):
            lines.append(self._shell.stdout.readline())
            if not lines[-1]:
                raise OSError("".join(lines) or "the helper ended")
        if lines[-1].strip() != "ended 0":
            raise OSError("".join(lines))

    def inside(self, path):
        """The path by which the helper knows it."""
        return self._inside / path.relative_to(self.path)

    def fill(self):
        with open(self.path / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def free(self):
        (self.path / "filler").unlink()

    def close(self):
        self._shell.kill()
        self._shell.communicate()


@pytest.fixture
def disk(tmp_path):
    try:
        made = Disk(tmp_path / "disk")
    except OSError as error:
        pytest.skip(f"no file system of its own can be mounted here: {error}")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_full_disk_and_a_folder_that_turns_read_only_stop_the_run_with_one_paragraph_and_cost_nothing(disk, tmp_path, long):
    run = disk.path / "run"
    with process(run, LONG, tmp_path) as first:
        first.wait_for_checkpoint()
        disk.fill()
        code, _, err = first.end()
    assert code == 1 and is_one_paragraph(err) and "No space left" in err, err
    assert is_whole(run) and chaos.newest_checkpoint(run) < LONG_STEPS

    disk.free()
    with process(run, LONG, tmp_path) as second:
        second.wait_for_checkpoint()
        place = disk.inside(run)
        disk.tell(f"mount --bind {place} {place} && mount -o remount,bind,ro {place}")
        code, out, err = second.end()
    assert "resumed at step" in out
    told = "\n".join(line for line in err.splitlines() if not line.startswith("taking over"))
    assert code == 1 and is_one_paragraph(told) and "Read-only file system" in told, err
    # Started while it is read-only: a mistake of the user, before anything happens.
    with pytest.raises(UserError, match="Read-only file system") as refused:
        start(run, LONG)
    assert refused.value.exit_code == 2

    disk.tell(f"umount {place}")
    assert is_whole(run) and start(run, LONG) == 0
    assert chaos.compare(long, run) == []


def test_a_disk_that_is_full_from_the_start_is_named(disk, no_films):
    disk.fill()
    with pytest.raises(UserError, match="No space left"):
        start(disk.path / "run", SHORT)
    disk.free()
    assert start(disk.path / "run", SHORT) == 0


# ---- damaged files --------------------------------------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def killed_after_160(short, folder):
    """The run as a kill leaves it, with the checkpoints 80 and 160."""
    shutil.copytree(short, folder)
    shutil.rmtree(folder / "checkpoints" / "240")
    (folder / "summary.json").unlink()


def newest_files(run):
    """The files that only the checkpoint 160 needs: its own, and the replay's newest segment."""
    own = sorted((run / "checkpoints" / "160").iterdir())
    segments = load_state(run / "checkpoints" / "160", "replay")["segments"]
    older = {(segment["first"], segment["end"]) for segment in load_state(run / "checkpoints" / "80", "replay")["segments"]}
    new = [f"{segment['first']}-{segment['end']}" for segment in segments if (segment["first"], segment["end"]) not in older]
    return own + [path for name in new for path in sorted((run / "checkpoints" / "replay").glob(f"{name}.*"))]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(damage, short, tmp_path, capsys, no_films):
    killed_after_160(short, tmp_path / "killed")
    names = [path.relative_to(tmp_path / "killed") for path in newest_files(tmp_path / "killed")]
    assert {path.name for path in names} >= {
        f"{name}.{end}" for name in ("policy", "training", "replay", "run") for end in ("json", "safetensors")
    }
    assert sum(path.parent.name == "replay" for path in names) == 2
    for number, name in enumerate(names):
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "killed", run)
        damage(run / name)
        capsys.readouterr()
        assert start(run, SHORT) == 0, name
        told = capsys.readouterr()
        text = " ".join((told.out + told.err).split())
        assert "resumed at step 80" in text and "checkpoint 160 is not used" in text, f"{name}: {text}"
        assert str((run / name).with_suffix("")) in text, f"{name}: {text}"
        assert chaos.compare(short, run) == [], name


def test_with_all_checkpoints_damaged_the_run_stops_and_deletes_nothing(short, tmp_path, no_films):
    run = tmp_path / "run"
    killed_after_160(short, run)
    for step in ("80", "160"):
        flip(run / "checkpoints" / step / "training.safetensors")
    rewritten = {"lock", "config.yaml", "overrides.txt", "versions.json"}  # what opening a folder writes
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in rewritten}
    with pytest.raises(UserError, match="checkpoint") as refused:
        start(run, SHORT)
    assert "fresh=true" in str(refused.value) and refused.value.exit_code != 0
    assert all(path.read_bytes() == content for path, content in before.items())


# ---- signals and other processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_second_starts_kills_and_signals_to_a_real_process(tmp_path, long):
    run = tmp_path / "run"
    with process(run, LONG, tmp_path) as first:
        first.wait_for_checkpoint()
        os.kill(first.pid, signal.SIGSTOP)  # alive and in possession, for as long as we need
        with pytest.raises(UserError, match=rf"\b{first.pid}\b") as refused:
            start(run, LONG)
        assert refused.value.exit_code == 2 and not isinstance(refused.value, Failure)
        first.kill()
    pid = first.pid
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with process(run, LONG, tmp_path) as started:
            started.wait_for_checkpoint()
            os.kill(started.pid, number)
            code, out, err = started.end(20)
        assert code == expected and "Traceback" not in err
        assert ("taking over" in err and str(pid) in err) == (number == signal.SIGTERM), err  # the second one was left in order
        summary = RunDir(run).summary()
        newest = chaos.newest_checkpoint(run)
        assert summary["status"] == "interrupted" and summary["env_steps"] == newest < LONG_STEPS and is_whole(run)
        assert "resumed at step" in out and [path.name for path in (run / "videos").iterdir() if path.name.startswith(".")] == []
    assert start(run, LONG) == 0
    assert RunDir(run).summary()["resumed"] == 3
    # The checkpoints of the signals are extra ones, so the replay came in other pieces; its rows are the same.
    differing = [line for line in chaos.compare(long, run) if "segments" not in line and not line.startswith("checkpoints/replay")]
    assert differing == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_final_evaluation_ends_it_at_once(number, short, tmp_path, monkeypatch, no_films):
    run, after = tmp_path / "run", []
    step = BatchEnv.step

    def interrupted(self, actions):
        if self.num_envs == 4 and (run / "checkpoints" / "240").exists():
            if not after:
                os.kill(os.getpid(), number)
            after.append(actions)
        return step(self, actions)

    monkeypatch.setattr(BatchEnv, "step", interrupted)
    assert start(run, SHORT) == 128 + number
    assert 1 <= len(after) <= 2  # of 12
    assert RunDir(run).summary()["status"] == "interrupted"
    monkeypatch.setattr(BatchEnv, "step", step)
    assert start(run, SHORT) == 0
    assert chaos.compare(short, run) == []
