"""A process of its own in which runs are done one after the other: what kills it costs one run, and importing torch is paid for once."""

import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError

POLL = 0.2  # seconds


class CellProcess:
    """Starts the process. It leaves by itself when this one is gone, and hears no Ctrl-C: what it shall do is said here.

    Args:
        run: where the function is, such as ``agents.train.train``, that gets a configuration and the words that led to it and returns
            an exit code. By its name, because only the process shall import torch.
    """

    def __init__(self, run: str):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(run, theirs, os.getpid()))
        self._process.start()
        theirs.close()  # the process's is the only one then, so its end is seen
        self._kill_at_exit = Finalize(None, self._process.kill, exitpriority=10)  # before Python waits for it

    def do(self, config: Any, words: list[str], log: Path, stopping: Callable[[], bool]) -> str | None:
        """Runs one cell; what it prints goes to the end of `log`.

        Args:
            stopping: is asked all the time. Once it says yes, the cell gets a SIGTERM, which makes runs checkpoint and return.

        Returns:
            None, or what went wrong, in one paragraph.
        """
        told = False
        with suppress(EOFError, OSError):  # it ended, perhaps in the middle of a word
            self._pipe.send((config, words, log))
            while self._process.is_alive() or self._pipe.poll():
                if self._pipe.poll(POLL):
                    return self._pipe.recv()
                if not told and stopping():
                    self._process.terminate()
                    told = True
        self._process.join()
        return f"Its process ended ({_how_it_ended(self._process.exitcode)}). Its last words are in {log}."

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._kill_at_exit()
        self._process.join()
        self._pipe.close()


def end_with_parent(parent: int) -> None:
    """From now on this process ends as soon as the one that started it is gone, as if it had been killed with it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code}, {signal.strsignal(-code)}{'; perhaps memory ran out' if code == -signal.SIGKILL else ''}"


def find(run: str) -> Callable[[Any, list[str]], int]:
    """The function of that name."""
    module, name = run.rsplit(".", 1)
    return getattr(import_module(module), name)


def _work(run: str, pipe: Connection, parent: int) -> None:
    os.setsid()  # away from the terminal
    end_with_parent(parent)
    faulthandler.enable(file=2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    while True:
        try:
            config, words, log = pipe.recv()
        except (EOFError, OSError):
            return
        with open(log, "ab") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        pipe.send(_result(run, config, words))


def _result(run: str, config: Any, words: list[str]) -> str | None:
    """What went wrong; its traceback is printed."""
    try:
        code = find(run)(config, words)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        text = in_words(error)
        if isinstance(error, UserError):
            print(text, file=sys.stderr)
        else:
            traceback.print_exc()
        return text
    return f"It ended with exit code {code}." if code else None


def in_words(error: Exception) -> str:
    """What went wrong, in one paragraph."""
    return " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
