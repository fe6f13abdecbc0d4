"""Waves of episodes from several processes: within one, a single thread at a time draws (see `envs.render`)."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from agents.recording.recorder import Plan, Recorder, Wave, load_run_of
from robo_repr.core.errors import Failure, UserError

MENDING = "What was recorded is whole; the same command goes on. If memory is short, use workers=1, fewer worlds or smaller pictures."
POLL = 0.2  # seconds


def waves_of_processes(plan: Plan, worlds: int, ids: list[int], workers: int, stop: Callable[[], object]) -> Generator[Wave, None, None]:
    """The waves of a `Recorder` with these worlds and ids, in its order; worker w makes every wave k with k % workers = w.

    Raises:
        UserError, Failure: what went wrong in a worker, or that one is gone.
    """
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    waves = [ids[begin : begin + worlds] for begin in range(0, len(ids), worlds)]
    mine = [[number for wave in waves[worker::workers] for number in wave] for worker in range(workers)]
    pipes = [context.Pipe(duplex=False) for _ in mine]
    processes = [
        context.Process(target=_work, args=(plan, worlds, part, writer, stopped, os.getpid()), daemon=True)
        for part, (_, writer) in zip(mine, pipes, strict=True)
    ]
    try:
        with _ignoring_ctrl_c():
            for process, (_, writer) in zip(processes, pipes, strict=True):
                process.start()
                writer.close()  # the worker's is the only one then, so its end is seen
        for k in range(len(waves)):
            news = _next(pipes[k % workers][0], processes[k % workers], stop)
            if news is None:
                return
            if isinstance(news, UserError):
                raise news
            yield news
    finally:  # whatever happens, no process stays behind; they have nothing to save
        stopped.set()
        for process in processes:
            if process.pid:
                process.kill()
                process.join()


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile ignore it: it reaches them too, and the parent decides what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _next(reader: Connection, process: Any, stop: Callable[[], object]) -> Wave | UserError | None:
    """What the worker says next; None when `stop` said so."""
    while not stop():
        if reader.poll(POLL):
            try:
                return reader.recv()
            except (EOFError, OSError):  # it ended, perhaps in the middle of a wave
                process.join()
                raise Failure(f"A process that records ended with code {process.exitcode}. Was it killed? {MENDING}") from None
    return None


def _work(plan: Plan, worlds: int, ids: list[int], writer: Connection, stopped: Any, parent: int) -> None:
    """A worker: puts its waves, or a `UserError`, into the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def stop() -> bool:
        return stopped.is_set() or os.getppid() != parent

    news: object
    with suppress(BrokenPipeError):  # nobody reads it any more
        try:
            with closing(Recorder(plan, load_run_of(plan.cfg, plan.task), worlds, ids)) as recorder:
                for wave in recorder.waves(stop):
                    writer.send(wave)
                return
        except UserError as error:
            news = error
        except BrokenPipeError:
            return
        except Exception as error:
            traceback.print_exc()
            news = Failure(f"{plan.task} could not be recorded ({type(error).__name__}: {error}). {MENDING}")
        writer.send(news)
