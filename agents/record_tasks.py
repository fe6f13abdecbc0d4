"""Records several tasks side by side, each by a process of its own, and says how it goes."""

import multiprocessing
import os
import queue
import shlex
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from agents.record import Recorded, record, tasks_of
from envs.registry import task_class
from robo_repr.core.config import RecordConfig
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.files import home_expanded
from robo_repr.core.signals import Signals
from robo_repr.core.summary import percent
from robo_repr.data.store import ClipStore

MOST_WORKERS = 2
MENDING = (
    "What was recorded is whole; the same command goes on. If memory is short, use workers=1, fewer worlds (num_envs) or smaller pictures."
)
LINE_EVERY = 30.0  # seconds between lines where there is no terminal


def record_all(cfg: RecordConfig, command: str) -> int:
    """Records all tasks of a command.

    Args:
        command: what the stores shall say of how they were made.

    Returns:
        The exit code: 0, or 128 + the signal's number.

    Raises:
        UserError, Failure: see `agents.record.record`. Other tasks' episodes are whole all the same.
    """
    tasks = tasks_of(cfg)
    for task in tasks:
        task_class(task)  # an unknown one shows before anything is written
    out = home_expanded(cfg.folder([]))
    places = {task: out / task if len(tasks) > 1 else out for task in tasks}
    console = Console(highlight=False)
    console.out(f"writing to {out}")
    with Signals() as signals, _Bars(console, places, cfg.episodes) as bars:
        workers = min(cfg.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0))), len(tasks))
        if workers > 1:
            _in_processes(cfg, places, command, workers, bars, signals)
        else:
            for task, place in places.items():
                if not signals.caught:
                    bars.show(
                        task,
                        record(cfg, task, place, command=command, on_wave=lambda r, t=task: bars.show(t, r), stop=lambda: signals.caught),
                    )
    for task, recorded in bars.last.items():
        console.out(_result(task, recorded, len(places)))
    if signals.caught:
        console.out("interrupted. What was recorded is whole; the same command goes on.")
        return 128 + signals.caught
    console.out(f"look at it: python scripts/clips.py show {shlex.quote(str(out))}")
    return 0


def _result(task: str, recorded: Recorded, tasks: int) -> str:
    clips = ClipStore(recorded.path)
    size, raw = clips.bytes_on_disk(), int(clips.lengths.sum()) * len(clips.views) * 3 * clips.size[0] * clips.size[1]
    rate = (
        f", {recorded.pictures} pictures in {recorded.seconds:.0f} s ({recorded.pictures / recorded.seconds:.0f}/s)"
        if recorded.seconds
        else ""
    )
    return (
        f"{task}: {recorded.episodes} episodes, success {percent(recorded.success / max(1, recorded.episodes), recorded.episodes)}{rate}, "
        f"{size / 1e6:.1f} MB on disk ({raw / max(1, size):.0f}x less than the pictures){f' in {recorded.path}' if tasks > 1 else ''}"
    )


class _Bars:
    """A bar for each task on a terminal, a line now and then elsewhere.

    Attributes:
        last: task -> what it came to so far.
    """

    def __init__(self, console: Console, tasks: dict[str, Path], episodes: int):
        self.last: dict[str, Recorded] = {}
        self._console, self._episodes, self._said = console, episodes, time.perf_counter()
        columns = (
            TextColumn("{task.fields[name]} {task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars = {task: self._progress.add_task("", total=episodes, name=task) for task in tasks}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, task: str, recorded: Recorded) -> None:
        self.last[task] = recorded
        rate = f"  {recorded.pictures / recorded.seconds:.0f} pictures/s" if recorded.seconds else ""
        text = f"success {recorded.success / max(1, recorded.episodes):.0%}{rate}"
        self._progress.update(self._bars[task], completed=recorded.episodes, description=text)
        if not self._console.is_terminal and time.perf_counter() - self._said > LINE_EVERY:
            self._said = time.perf_counter()
            self._console.out(f"{task} {recorded.episodes}/{self._episodes}  {text}")


def _in_processes(cfg: RecordConfig, places: dict[str, Path], command: str, workers: int, bars: _Bars, signals: Signals) -> None:
    """Hands the tasks to processes; raises the first failure once all of them are through or have stopped."""
    context = multiprocessing.get_context("spawn")
    waiting, told, stop = context.SimpleQueue(), context.Queue(), context.Event()
    for job in [*places.items(), *[None] * workers]:
        waiting.put(job)
    processes = [context.Process(target=_work, args=(cfg, command, waiting, told, stop, os.getpid()), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    failures: list[UserError] = []
    open_jobs = len(places)
    try:
        while open_jobs and not failures:
            if signals.caught:
                stop.set()
            try:
                task, news, ended = told.get(timeout=0.2)
            except queue.Empty:
                codes = [process.exitcode for process in processes]
                if any(codes):
                    failures.append(
                        Failure(f"A process that records ended with code {next(filter(None, codes))}. Was it killed? {MENDING}")
                    )
                elif all(code == 0 for code in codes) and told.empty():
                    break  # they were told to stop
                continue
            if isinstance(news, UserError):
                failures.append(news)
            else:
                bars.show(task, news)
            open_jobs -= ended
    finally:  # whatever happens, no process stays behind
        stop.set()
        for process in processes:
            process.join(timeout=30)
            process.kill()
    if failures:
        raise failures[0]


def _work(cfg: RecordConfig, command: str, waiting: Any, told: Any, stop: Any, parent: int) -> None:
    """A process that records one task after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent tells when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while (job := waiting.get()) is not None and not stop.is_set():
        task, place = job
        try:
            recorded = record(
                cfg,
                task,
                place,
                command=command,
                on_wave=lambda news, task=task: told.put((task, news, False)),
                stop=lambda: stop.is_set() or os.getppid() != parent,
            )
            told.put((task, recorded, True))
        except UserError as error:
            told.put((task, error, True))
        except Exception as error:
            traceback.print_exc()
            told.put((task, Failure(f"{task} could not be recorded ({type(error).__name__}: {error}). {MENDING}"), True))
