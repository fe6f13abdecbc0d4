"""metrics.jsonl and evaluations.jsonl: one JSON object per line.

One rule for reading them: a line that is no whole JSON object, such as one that a kill or a power loss cut short, is left out wherever it
stands, and every other line counts.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robo_repr.core.errors import Failure
from robo_repr.core.files import write_whole

STEPS = ("env_steps", "step")  # what a row calls the moment it is of: steps of the environment, or updates


class Metrics:
    """Appends rows to a file of which this process is the only writer, and to TensorBoard when a folder is given.

    Opening removes lines that are broken. `append_row` is for files with several writers.

    Attributes:
        seconds: wall time spent in `write` and `sync`, TensorBoard's included.

    Raises:
        Failure: the file cannot be written, here and in every method; what was written before stays whole.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None):
        self.path = Path(path)
        self.seconds = 0.0
        self._tensorboard, self._board, self._purge_from = tensorboard, None, None
        with _failures(self.path):
            _clean(self.path, lambda row: True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  open for the run's life

    def write(self, row: dict) -> None:
        """Appends one row; numbers of numpy and torch become plain ones, and what is not finite null, because JSON has no NaN."""
        began = time.perf_counter()
        row = _plain(row)
        with _failures(self.path):
            _write_whole(self._file.fileno(), _line(row))
            if self._tensorboard is not None:
                self._write_board(row)
        self.seconds += time.perf_counter() - began

    def sync(self) -> None:
        """Returns when the rows are on the disk: a power loss can no longer take them."""
        began = time.perf_counter()
        with _failures(self.path):
            os.fsync(self._file.fileno())
            if self._board is not None:
                self._board.flush()
        self.seconds += time.perf_counter() - began

    def keep_until(self, last: int) -> None:
        """Drops rows beyond the step from which a run goes on, so that they are not written twice; call it before `write`."""
        self._purge_from = last + 1  # TensorBoard hides what an earlier process wrote from here on

        def kept(row: dict) -> bool:
            step = step_of(row)
            return isinstance(step, int | float) and step <= last

        with _failures(self.path):
            self._file.close()
            _clean(self.path, kept)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            with suppress(OSError):  # a full disk was told of by `write`; its rows are in the file
                self._board.close()

    def _write_board(self, row: dict) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # late, because it imports torch

            self._board = SummaryWriter(str(self._tensorboard), purge_step=self._purge_from)
        for key, value in row.items():
            if isinstance(value, int | float) and key not in STEPS:
                self._board.add_scalar(key, value, step_of(row))


def append_row(path: Path, row: dict) -> None:
    """Appends one row to a file that several processes may append to, and returns when it is on the disk. Nothing else in it changes.

    Numbers become plain as in `Metrics.write`. A half-written last line gets an end, so that the row has a line of its own. Writers wait
    for each other.

    Raises:
        Failure: the row could not be written.
    """
    path = Path(path)
    line = _line(_plain(row))
    with _failures(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # some network file systems have no locks; there, one write is what keeps writers apart
                fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line
            _write_whole(file, line)
            os.fsync(file)
        finally:
            os.close(file)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a file that `Metrics` or `append_row` wrote; broken lines are left out."""
    return [row for _, row in _rows(Path(path).read_bytes())]


def step_of(row: dict) -> Any:
    """The moment that a row is of, None where it does not say."""
    return next((row[key] for key in STEPS if key in row), None)


def _rows(content: bytes) -> Iterator[tuple[bytes, dict]]:
    """(line, row) of each line that is a whole JSON object. The last one may lack its line end: no part of an object is itself one."""
    for line in content.split(b"\n"):
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield line, row


def _clean(path: Path, keep: Callable[[dict], bool]) -> None:
    """Removes the lines that are broken or not kept."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = b"".join(line + b"\n" for line, row in _rows(content) if keep(row))
    if content == kept:
        return
    if content.startswith(kept):
        os.truncate(path, len(kept))  # works on a full disk too
        return
    write_whole(path, kept)


def _line(plain_row: dict) -> bytes:
    return (json.dumps(plain_row, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """The same in Python's own types, with None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(file: int, line: bytes) -> None:
    """Appends a line in one write. A full disk may take a part of it, which is taken back before the error is raised."""
    size = os.fstat(file).st_size
    try:
        written = os.write(file, line)
        while written < len(line):
            written += os.write(file, line[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(
            f"{path} cannot be written ({error.strerror or error}). What was written before is whole. Make room, or make the folder "
            "writable, and start the same command again."
        ) from error
