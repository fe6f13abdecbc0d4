"""Kills a run with SIGKILL again and again, and compares how it ends with a run that nobody disturbed.

    python scripts/chaos.py [--kills 20] [--agent sac|ppo] [--kinds KIND ...] [--seed 0] [--keep FOLDER] [--json FILE] [key=value ...]

Every start is `python run_rl.py` in a process of its own; key=value words are added to a small fixed configuration. The kinds of kills:

    moment      from outside, at a random time, also while python imports
    twice       from outside, within a second after the start said "resumed at step"
    checkpoint  inside a checkpoint: half of a file written, before or after a rename, while old files are deleted
    replay      the same inside the replay's part of a checkpoint (agents that have one)
    evaluation  in the middle of an evaluation's episodes
    film        while a film is written
    row         half of a row written, of metrics.jsonl or evaluations.jsonl
    summary     inside the writing of summary.json

For the inside kinds this file starts run_rl.py's `run` with the operating system's calls wrapped (`--child`), so that the process kills
itself at the n-th such call; a call that never comes is a failure. A run that ends before all kills happened is compared, and the next one
begins in a new folder. Exits 0 when every run ended as the undisturbed one: rows, evaluations, films, networks, optimisers, random states.
Twenty kills take about six minutes on two CPU cores.
"""

import argparse
import atexit
import builtins
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, also when this file is run by its path

from robo_repr.core.metrics import read_metrics  # noqa: E402

KINDS = ("moment", "twice", "checkpoint", "replay", "evaluation", "film", "row", "summary")
# Where a kind strikes inside the process. `summary:after-rename` leaves a run that is finished.
POINTS = {
    "checkpoint": ("checkpoint:half", "checkpoint:before-rename", "checkpoint:after-rename", "checkpoint:deleted"),
    "replay": ("replay:half", "replay:before-rename", "replay:after-rename"),
    "evaluation": ("evaluation",),
    "film": ("film",),
    "row": ("metrics:half", "evaluations:half"),
    "summary": ("summary:half", "summary:before-rename", "summary:after-rename"),
}
SMALL = [
    "encoder=pixels",
    "encoder.size=4",
    "image_size=16",
    "num_envs=4",
    "horizon=12",
    "steps=2400",
    "eval_episodes=8",
    "log_every=100",
    "eval_every=800",
    "checkpoint_every=400",
    "logger=tensorboard",
]
AGENTS = {
    "sac": ["agent=sac", "agent.net=[32,32]", "agent.batch_size=32", "agent.learning_starts=100"],
    "ppo": ["agent=ppo", "agent.net=[32,32]", "agent.batch_size=25", "agent.n_steps=25", "agent.n_epochs=4", "agent.calibration_steps=100"],
}
CLOCK = ("wall_s", "seconds", "peak_memory_mb", "resumed")  # of summary.json: differ between any two runs
STATES = ("policy", "training", "replay")  # of a checkpoint; "run" holds the clock
LEFTOVERS = ("*.tmp", ".tmp-*", ".*.mp4")  # names of what is not finished


# ---- how two runs are compared --------------------------------------------------------------------------------------------------------


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between the folders of two finished runs, apart from times: one line for each kind of file; empty when all is equal."""
    found = [
        _first_row(f"{name}.jsonl", _rows(whole, name), _rows(killed, name)) for name in ("metrics", "evaluations")
    ]  # a row twice shifts all later ones, so it shows too
    summaries = [{key: value for key, value in _json(run / "summary.json").items() if key not in CLOCK} for run in (whole, killed)]
    found.append(difference(summaries[0], summaries[1], "summary.json"))
    found.append(_states(whole, killed))
    for folder in ("videos", "checkpoints/replay"):
        found.append(difference(_files(whole / folder), _files(killed / folder), folder))
    found += [f"left over: {path.relative_to(killed)}" for pattern in LEFTOVERS for path in sorted(killed.rglob(pattern))]
    return [line for line in found if line]


def difference(a: Any, b: Any, place: str) -> str | None:
    """The first place where two nested states differ, to the last bit; None when they are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{place}: only one side has {', '.join(sorted(map(str, a.keys() ^ b.keys())))}"
        return next((text for key in a if (text := difference(a[key], b[key], f"{place}.{key}"))), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} entries and {len(b)}"
        return next((text for i, (x, y) in enumerate(zip(a, b, strict=True)) if (text := difference(x, y, f"{place}[{i}]"))), None)
    if hasattr(a, "shape") and hasattr(b, "shape"):
        import numpy as np

        x, y = np.asarray(a), np.asarray(b)
        equal = x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        return None if equal else f"{place}: {x.size} numbers of {x.dtype} are not all equal"
    if isinstance(a, bytes) and isinstance(b, bytes):
        return None if a == b else f"{place}: other bytes"
    return None if type(a) is type(b) and a == b else f"{place}: {a} and {b}"


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest checkpoint in a run folder."""
    return max((int(path.name) for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdecimal()), default=None)


def _states(whole: Path, killed: Path) -> str | None:
    from robo_repr.core.checkpoint import load_state  # late: it imports torch

    steps = newest_checkpoint(whole), newest_checkpoint(killed)
    if steps[0] != steps[1] or steps[0] is None:
        return f"checkpoints: the newest is {steps[0]} and {steps[1]}"
    folders = [run / "checkpoints" / str(steps[0]) for run in (whole, killed)]
    for name in STATES:
        if not (folders[0] / f"{name}.json").exists():
            continue
        if text := difference(load_state(folders[0], name), load_state(folders[1], name), name):
            return text
    return None


def _rows(run: Path, name: str) -> list[dict]:
    rows = read_metrics(run / f"{name}.jsonl")
    return [{key: value for key, value in row.items() if key != "wall_s" and not key.startswith("time/")} for row in rows]


def _first_row(name: str, a: list[dict], b: list[dict]) -> str | None:
    for number, (x, y) in enumerate(zip(a, b, strict=False)):
        if text := difference(x, y, f"{name} row {number + 1}"):
            return text
    return None if len(a) == len(b) else f"{name}: {len(a)} rows and {len(b)}"


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


# ---- the process that kills itself ----------------------------------------------------------------------------------------------------


class Hooks:
    """Wraps the calls of the operating system that change files in the run folder, and dies at the n-th one at `point`.

    Hooks sit on Python's own functions, not on ours, and know files by their names in the run folder: a change of our code cannot switch
    them off without a word. With ``point="none"`` they only count.
    """

    def __init__(self, run: Path, point: str, number: int):
        self.run, self.point, self.number = run, point, number
        self.counts: Counter[str] = Counter()

    def install(self) -> None:
        """Wraps the calls. Evaluations are wrapped by `install_evaluation`."""
        opened, written = io.open, os.write

        def open_file(file, mode="r", *args, **kwargs):
            stream = opened(file, mode, *args, **kwargs)
            place = self._place(file) if set(mode) & set("wax+") and isinstance(file, str | os.PathLike) else None
            return _HalfWriter(stream, self, f"{place}:half") if place else stream

        def write(fd, data):
            try:
                place = self._place(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                place = None
            if place and self.reached(f"{place}:half"):
                written(fd, bytes(data)[: len(data) // 2])
                self.die()
            return written(fd, data)

        builtins.open = io.open = open_file
        os.write = write
        for name in ("rename", "replace"):
            setattr(os, name, self._renaming(getattr(os, name)))
        for name in ("unlink", "remove", "rmdir"):
            setattr(os, name, self._deleting(getattr(os, name)))
        if self.point == "film":
            threading.Thread(target=self._watch_films, daemon=True).start()

    def install_evaluation(self) -> None:
        """Wraps `agents.evaluate.evaluate`; call it before `agents.train` is imported."""
        import agents.evaluate

        evaluate = agents.evaluate.evaluate

        def counted(env, *args, **kwargs):
            if self.reached("evaluation"):
                step, left = env.step, [env.horizon // 2]

                def dying_step(*actions):
                    left[0] -= 1
                    if left[0] <= 0:
                        self.die()
                    return step(*actions)

                env.step = dying_step
            return evaluate(env, *args, **kwargs)

        agents.evaluate.evaluate = counted

    def reached(self, what: str) -> bool:
        """Counts the call; whether it is the one to die at."""
        self.counts[what] += 1
        return what == self.point and self.counts[what] == self.number

    def die(self) -> None:
        sys.stdout.flush()
        print(f"chaos: died at {self.point} {self.number}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a signal to oneself may take a moment in a process of several threads

    def _place(self, path, dir_fd: int | None = None) -> str | None:
        """What a file of the run folder belongs to; None for the others."""
        path = os.fsdecode(path)
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        try:
            parts = Path(os.path.abspath(path)).relative_to(self.run).parts
        except ValueError:
            return None
        if parts and parts[0] == "checkpoints":
            return "replay" if any("replay" in part for part in parts[1:]) else "checkpoint"
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            if parts == (name,):
                return name.removesuffix(".jsonl")
        return "summary" if len(parts) == 1 and parts[0].startswith("summary.json") else None

    def _renaming(self, rename: Callable) -> Callable:
        def wrapped(source, target, **kwargs):
            place = self._place(target)
            if place and self.reached(f"{place}:before-rename"):
                self.die()
            rename(source, target, **kwargs)
            if place and self.reached(f"{place}:after-rename"):
                self.die()

        return wrapped

    def _deleting(self, delete: Callable) -> Callable:
        def wrapped(path, *, dir_fd=None):
            place = self._place(path, dir_fd)
            delete(path, dir_fd=dir_fd)
            if place and self.reached(f"{place}:deleted"):
                self.die()

        return wrapped

    def _watch_films(self) -> None:
        """Films are written by a library in C, beyond the hooks: watches the folder for the n-th unfinished one."""
        began, seen = time.time_ns(), set()
        while True:
            for path in (self.run / "videos").glob(".*"):
                try:
                    fresh = path.stat().st_mtime_ns >= began  # an older one was left by a kill
                except FileNotFoundError:
                    continue
                if fresh and path.name not in seen:
                    seen.add(path.name)
                    if len(seen) == self.number:
                        self.die()
            time.sleep(0.002)


class _HalfWriter:
    """A file whose `write` asks the hooks first, and otherwise is the file."""

    def __init__(self, stream: Any, hooks: Hooks, what: str):
        self._stream, self._hooks, self._what = stream, hooks, what

    def write(self, data):
        if self._hooks.reached(self._what):
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
            self._hooks.die()
        return self._stream.write(data)

    def __enter__(self):
        self._stream.__enter__()
        return self

    def __exit__(self, *error):
        return self._stream.__exit__(*error)

    def __iter__(self):
        return iter(self._stream)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def child(point: str, number: int, overrides: list[str]) -> None:
    """Runs the main command in this process until it dies at the point; with ``none`` prints at its end how often each point came."""
    import run_rl

    run = next(Path(word.removeprefix("run_dir=")) for word in overrides if word.startswith("run_dir="))
    hooks = Hooks(run.absolute(), point, number)
    hooks.install()
    if point == "none":
        atexit.register(lambda: print(f"chaos: counted {json.dumps(hooks.counts)}"))

    def start(config, words):
        hooks.install_evaluation()
        return run_rl.run(config, words)

    sys.argv = ["run_rl.py", *overrides]
    run_rl.main(run_rl.RLConfig, start)


# ---- the process that starts, kills and compares --------------------------------------------------------------------------------------


@dataclass
class Kill:
    """One kill, and what was found after it."""

    kind: str
    where: str
    run: int
    checkpoint: int | None = None  # newest one on disk after the kill
    resumed_at: int | str | None = None  # by the start after it
    problems: list[str] = field(default_factory=list)


@dataclass
class Reference:
    """The undisturbed run: its folder, seconds until it first wrote and from then on, calls at each point, and checkpoints' steps."""

    folder: Path
    startup: float
    duration: float
    counts: dict[str, int]
    checkpoints: list[int]
    rows: list[dict]

    @property
    def steps(self) -> int:
        return self.checkpoints[-1]


class Start:
    """A process that runs the main command, with its output in a file."""

    def __init__(self, folder: Path, overrides: list[str], log: Path, point: str | None = None, number: int = 0):
        words = [*overrides, f"run_dir={folder}"]
        command = ["run_rl.py", *words] if point is None else ["scripts/chaos.py", "--child", point, str(number), "--", *words]
        self.log = log
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
        """Waits for the end, or until something is true, or so many seconds: the exit code, or None while it still runs."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end and not until():
            time.sleep(0.02)
        return self.process.poll()

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def resumed_at(self) -> int | None:
        said = re.search(r"resumed at step (\d+)", self.output())
        return int(said[1]) if said else None


class Series:
    """Kills runs in `folder` until `kills` happened, and compares every run that ended with an undisturbed one."""

    def __init__(self, folder: Path, overrides: list[str], kinds: list[str], kills: int, seed: int):
        self.folder, self.overrides, self.kinds, self.kills_wanted = folder, overrides, kinds, kills
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.problems: list[str] = []  # of no single kill
        self.starts, self.runs = 0, 0
        self.compared = 0

    def work(self) -> None:
        self.reference = self._undisturbed()
        points = {
            kind: [point for point in POINTS.get(kind, ()) if self.reference.counts.get(point) or kind == "film"] for kind in self.kinds
        }
        for kind, found in points.items():
            if kind in POINTS and not found:
                self.problems.append(f"{kind}: the undisturbed run never came to any of {', '.join(POINTS[kind])}")
        self.kinds = [kind for kind in self.kinds if kind not in POINTS or points[kind]]
        self.points, self.bag = points, []
        try:
            while self.kinds and len(self.kills) < self.kills_wanted and len(self.problems) < 3:
                self._kill_a_run()
        finally:
            self.last.kill()  # after Ctrl-C it may still run

    def _undisturbed(self) -> Reference:
        """Runs to the end in a process whose calls are only counted, and watches which checkpoints appear."""
        folder, seen = self.folder / "whole", set()
        began, wrote = time.monotonic(), []

        def watch() -> bool:
            if folder.exists() and not wrote:
                wrote.append(time.monotonic())
            seen.add(newest_checkpoint(folder))
            return False

        self.last = start = self._start(folder, "none")
        code = start.wait(1800, watch)
        counted = re.search(r"chaos: counted (.*)", start.output())
        watch()
        if code != 0 or not counted or not wrote:
            start.kill()
            raise SystemExit(f"The undisturbed run ended with code {code}:\n{start.output()}")
        duration = time.monotonic() - wrote[0]
        steps = sorted(step for step in seen if step is not None)
        print(f"undisturbed: {wrote[0] - began:.1f} s until it wrote, {duration:.1f} s from then on, checkpoints at {steps}", flush=True)
        rows = read_metrics(folder / "metrics.jsonl")
        return Reference(folder, wrote[0] - began, duration, json.loads(counted[1]), steps, rows)

    def _start(self, folder: Path, point: str | None = None, number: int = 0) -> Start:
        self.starts += 1
        return Start(folder, self.overrides, self.folder / f"start-{self.starts}.log", point, number)

    def _kill_a_run(self) -> None:
        """Starts one run again and again until no kind of kill that is due fits any more, lets it end and compares it."""
        self.runs += 1
        run = self.folder / f"killed-{self.runs}"
        resumed: list[int] = []
        while len(self.kills) < self.kills_wanted:
            kind = self._next_kind(run)
            if kind is None:
                break
            before = newest_checkpoint(run)
            ended, kill = self._kill(run, kind)
            self._check_start(kill.problems, before, resumed, may_be_silent=kind == "moment" or kill.where.startswith("checkpoint:deleted"))
            if ended:
                if kind != "moment":  # a kill from outside may come too late; one from inside may not
                    self.problems += kill.problems
                break
            kill.checkpoint = newest_checkpoint(run)
            self._check_progress(kill, run, before)
            self.kills.append(kill)
            after = kill.checkpoint if kill.checkpoint is not None else "-"
            print(f"kill {len(self.kills):3}  run {self.runs}  {kill.where:28} newest checkpoint {after}", *kill.problems, flush=True)
            if _json(run / "summary.json").get("status") == "finished":
                break
        self._end(run, resumed)

    def _next_kind(self, run: Path) -> str | None:
        """The next kind in a shuffled round of all kinds that can still happen in this run."""
        if not self.bag:
            # `summary` last: it leaves a run of which little is to come.
            self.bag = sorted(self.random.sample(self.kinds, len(self.kinds)), key=lambda kind: kind == "summary")
        step = newest_checkpoint(run)
        for kind in self.bag:
            possible = step is not None if kind == "twice" else step != self.reference.steps if kind in ("checkpoint", "replay") else True
            if possible or (kind == "twice" and self.kinds == ["twice"]):
                self.bag.remove(kind)
                return kind
        return self.random.choice(self._first_kinds()) if step is None else None

    def _first_kinds(self) -> list[str]:
        """Kinds that bring a new run to a checkpoint, for a round in which only `twice` is left."""
        return [kind for kind in ("checkpoint", "summary", "row", "moment") if kind in self.kinds] or ["moment"]

    def _kill(self, run: Path, kind: str) -> tuple[bool, Kill]:
        """Starts and kills once: whether the run came to its end instead, and the kill."""
        step = newest_checkpoint(run) or 0
        limit = 120 + 10 * (self.reference.startup + self.reference.duration)
        if kind in POINTS:
            point, ahead = self._next_point(kind, step, run)
            number = self.random.randint(1, ahead)
            self.last = self._start(run, point, number)
            code = self.last.wait(limit)
            kill = Kill(kind, f"{point} {number}", self.runs)
            died = code == -signal.SIGKILL and f"chaos: died at {point} {number}" in self.last.output()
            if not died:
                kill.problems.append(f"{point} {number} was not where the process ended: exit code {code}, {self.last.log}")
                self.last.kill()
            if kind == "film" and died and not any((run / "videos").glob(".*")):
                kill.problems.append("the film was finished before the kill")
            return code is not None and not died, kill
        self.last = self._start(run)
        if kind == "twice" and self.last.wait(limit, lambda: self.last.resumed_at() is not None) is not None:
            return True, Kill(kind, "twice", self.runs, problems=[f"ended without being resumed, {self.last.log}"])
        ahead = self.reference.startup + self.reference.duration * (1 - step / self.reference.steps)
        seconds = self.random.uniform(0, 1) if kind == "twice" else self.random.uniform(0, ahead)
        if self.last.wait(seconds) is None:
            self.last.kill()
            return False, Kill(kind, f"{kind} after {seconds:.2f} s", self.runs)
        problems = [] if self.last.process.returncode == 0 else [f"exit code {self.last.process.returncode}, {self.last.log}"]
        self.problems += problems
        return True, Kill(kind, kind, self.runs)

    def _next_point(self, kind: str, step: int, run: Path) -> tuple[str, int]:
        """The kind's points take turns, those left out that will not come any more; and how many calls at the point are ahead."""
        while True:
            self.points[kind].append(self.points[kind].pop(0))
            if ahead := self._calls_ahead(self.points[kind][-1], step, run):
                return self.points[kind][-1], ahead

    def _calls_ahead(self, point: str, step: int, run: Path) -> int:
        """How many calls at the point a start from this step surely has before it."""
        reference = self.reference
        rows = [row for row in reference.rows if row["env_steps"] > step] or reference.rows[-1:]
        if point == "film":
            return 1 + (step < reference.steps / 2) + (step == 0)
        if point == "evaluation":
            return sum("eval/success" in row for row in rows)
        if point == "metrics:half":
            return len(rows)
        if point == "evaluations:half":
            return int(len(_safe_rows(run, "evaluations")) < len(read_metrics(reference.folder / "evaluations.jsonl")))
        if point.startswith("summary"):
            return 1
        checkpoints = len(reference.checkpoints) - (3 if point.endswith(":deleted") else 0)  # the last three are kept
        return max(1, reference.counts[point] // max(1, checkpoints))

    def _check_start(self, problems: list[str], before: int | None, resumed: list[int], may_be_silent: bool) -> None:
        """Whether the last start went on from the newest checkpoint and said so."""
        said = self.last.resumed_at()
        if said is not None:
            resumed.append(said)
        if self.kills and self.kills[-1].run == self.runs and self.kills[-1].resumed_at is None and (said is not None or not may_be_silent):
            self.kills[-1].resumed_at = said if said is not None else "start"
        if said != before and not (said is None and may_be_silent):
            problems.append(f"resumed at step {said}, but the newest checkpoint was {before}, {self.last.log}")
        if said is not None and said not in self.reference.checkpoints:
            problems.append(f"resumed at step {said}, where the undisturbed run has no checkpoint")

    def _check_progress(self, kill: Kill, run: Path, before: int | None) -> None:
        """A kill never costs a checkpoint, nor more work than since the one before it."""
        newest = kill.checkpoint or 0
        if newest < (before or 0):
            kill.problems.append(f"the newest checkpoint went back from {before} to {newest}")
        reached = max((row["env_steps"] for row in _safe_rows(run)), default=0)
        gap = max(b - a for a, b in zip([0, *self.reference.checkpoints], self.reference.checkpoints, strict=False))
        if reached - newest > gap:
            kill.problems.append(f"rows reach step {reached}, the newest checkpoint only {newest}")

    def _end(self, run: Path, resumed: list[int]) -> None:
        """Lets the run end, which a finished one does at once, and compares it."""
        finished, before = _json(run / "summary.json").get("status") == "finished", newest_checkpoint(run)
        self.last = self._start(run)
        code = self.last.wait(120 + 10 * (self.reference.startup + self.reference.duration))
        problems = [] if code == 0 else [f"exit code {code} at the end, {self.last.log}"]
        if code is None:
            self.last.kill()
        if finished and self.kills and self.kills[-1].run == self.runs and self.kills[-1].resumed_at is None:
            self.kills[-1].resumed_at = "finished"
        if not finished:
            self._check_start(problems, before, resumed, may_be_silent=False)
        problems += compare(self.reference.folder, run)
        # Each process counts its resume once, in every checkpoint that it writes; those that wrote none leave no trace.
        expected, counted = len(set(resumed)), _json(run / "summary.json").get("resumed")
        if counted != expected:
            problems.append(f"summary.json counts {counted} resumes, expected {expected} (resumed at {resumed})")
        self.compared += 1
        print(f"run {self.runs} {'differs: ' + '; '.join(problems) if problems else 'ended like the undisturbed one'}", flush=True)
        self.problems += [f"run {self.runs}: {problem}" for problem in problems]


def _safe_rows(run: Path, name: str = "metrics") -> list[dict]:
    return read_metrics(run / f"{name}.jsonl") if (run / f"{name}.jsonl").exists() else []


def report(series: Series) -> bool:
    """Prints a table; whether nothing was lost."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(series.kills)} kills, {series.compared} runs compared with the undisturbed one")
    for heading in ("kind", "kills", "went on at step", "verdict"):
        table.add_column(heading, justify="right" if heading == "kills" else "left")
    for kind in sorted({kill.kind for kill in series.kills}, key=KINDS.index):
        kills = [kill for kill in series.kills if kill.kind == kind]
        steps = ", ".join(str(kill.resumed_at or "-") for kill in kills)
        good = not any(kill.problems for kill in kills)
        table.add_row(kind, str(len(kills)), steps, "good" if good else "BAD")
    Console().print(table)
    problems = [f"{kill.where} in run {kill.run}: {problem}" for kill in series.kills for problem in kill.problems] + series.problems
    for problem in problems:
        print(problem)
    missing = series.kills_wanted - len(series.kills)
    if missing > 0:
        print(f"{missing} kills did not happen")
    good = not problems and missing <= 0 and series.compared > 0
    print("nothing was lost" if good else "SOMETHING IS WRONG", flush=True)
    return good


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--agent", choices=sorted(AGENTS), default="sac")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=None, help="default: all that the agent has")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--keep", type=Path, default=None, help="an empty or new folder for all runs; default: a temporary one")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    if options.keep and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep} is not empty")
    kinds = options.kinds or [kind for kind in KINDS if kind != "replay" or options.agent == "sac"]
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    series = Series(folder, [*SMALL, *AGENTS[options.agent], *options.overrides], list(kinds), options.kills, options.seed)
    began = time.monotonic()
    series.work()
    good = report(series)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    if options.json:
        kills = [asdict(kill) for kill in series.kills]
        result = {"good": good, "agent": options.agent, "runs": series.compared, "kills": kills, "problems": series.problems}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if good and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"runs and logs: {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), sys.argv[5:])
    else:
        sys.exit(main(sys.argv[1:]))
