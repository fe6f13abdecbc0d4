"""What a person sees while a run trains: a bar on a terminal, a line every half minute in a log file."""

import os
import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

LINE_EVERY = 30.0  # seconds


class PatientConsole(Console):
    """Rich's console, which would end the process where nobody reads its words any more, as in ``run_rl.py | head``."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Bar:
    """A bar on a terminal, and nothing elsewhere; used in a ``with`` statement.

    Args:
        total, done: parts of the work, and how many of them are done.
        count: how these are written; in front of the bar.
        more: stands behind the description.
    """

    def __init__(self, console: Console, total: int, done: int, count: ProgressColumn, *more: ProgressColumn):
        self._console, self._total, self._bar = console, total, None
        if console.is_terminal:
            text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
            self._bar = Progress(count, BarColumn(bar_width=12), text, *more, console=console, expand=True)
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: float, description: str | None = None) -> None:
        """So many parts are done now; None leaves the description."""
        if self._bar:
            self._bar.update(self._task, completed=done, description=description)


class TrainingProgress(Bar):
    """Shows the training's state; used in a ``with`` statement.

    Args:
        total: steps of the whole run.
        begin: steps done when this process starts.
    """

    def __init__(self, console: Console, total: int, begin: int):
        # On a narrow terminal only the description is cut.
        whole = Column(no_wrap=True, min_width=len(f"step {total}/{total}"))
        remaining = TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00")))
        count = TextColumn("step {task.completed:.0f}/{task.total:.0f}", table_column=whole)
        super().__init__(console, total, begin, count, remaining)
        self.show(begin, "warming up")
        self._began, self._begin = time.perf_counter(), begin
        self._speed = 0.0
        self._last_line = self._began

    def update(self, step: int, figures: dict[str, float], seconds: dict[str, float]) -> None:
        """Tells where the training is.

        Args:
            figures: the latest values, to be shown.
            seconds: time spent so far, by name.
        """
        now = time.perf_counter()
        # Over the whole process, evaluations included, so that the time left says when the run ends.
        self._speed = (step - self._begin) / (now - self._began)
        if self._bar:
            self.show(step, self._text(figures, seconds))
        elif now - self._last_line >= LINE_EVERY:
            self._last_line = now
            left = (self._total - step) / self._speed if self._speed else float("nan")
            self.say(f"step {step}/{self._total}  {self._text(figures, seconds)}  {left:.0f} s left")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._console.out(line, highlight=False)

    def _text(self, figures: dict[str, float], seconds: dict[str, float]) -> str:
        parts = [
            f"{name.removeprefix('train/')} {value:{'.2f' if abs(value) >= 0.1 or not value else '.1e'}}" for name, value in figures.items()
        ]
        spent = sum(seconds.values()) or 1.0
        shares = sorted(((value / spent, name) for name, value in seconds.items()), reverse=True)
        where = " ".join(f"{name} {share:.0%}" for share, name in shares[:4] if share >= 0.01)
        speed = [f"{self._speed:.0f} steps/s"] if self._speed else []
        return "  ".join([*parts, *speed, where])
