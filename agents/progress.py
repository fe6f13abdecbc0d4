"""What a person sees while a run trains: a bar on a terminal, a line every half minute in a log file."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

LINE_EVERY = 30.0  # seconds


class TrainingProgress:
    """Shows the training's state; used in a ``with`` statement.

    Args:
        total: transitions of the whole run.
        begin: transitions done when this process starts.
    """

    def __init__(self, console: Console, total: int, begin: int):
        self._console, self._total = console, total
        self._bar = None
        if console.is_terminal:
            # On a narrow terminal only the description is cut.
            whole = Column(no_wrap=True, min_width=len(f"step {total}/{total}"))
            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}", table_column=whole),
                BarColumn(bar_width=12),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1)),
                TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00"))),
            )
            self._bar = Progress(*columns, console=console, expand=True)
            self._task = self._bar.add_task("warming up", total=total, completed=begin)
        self._began, self._begin = time.perf_counter(), begin
        self._speed = 0.0
        self._last_line = self._began

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, metrics: dict[str, float], seconds: dict[str, float]) -> None:
        """Tells where the training is.

        Args:
            metrics: the latest values; `train/success` and `train/return` are shown.
            seconds: time spent so far, by name.
        """
        now = time.perf_counter()
        # Over the whole process, evaluations included, so that the time left says when the run ends.
        self._speed = (step - self._begin) / (now - self._began)
        if self._bar:
            self._bar.update(self._task, completed=step, description=self._text(metrics, seconds))
        elif now - self._last_line >= LINE_EVERY:
            self._last_line = now
            left = (self._total - step) / self._speed if self._speed else float("nan")
            self.say(f"step {step}/{self._total}  {self._text(metrics, seconds)}  {left:.0f} s left")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._console.out(line, highlight=False)

    def _text(self, metrics: dict[str, float], seconds: dict[str, float]) -> str:
        parts = [f"{name} {metrics[f'train/{name}']:.2f}" for name in ("success", "return") if f"train/{name}" in metrics]
        spent = sum(seconds.values()) or 1.0
        shares = sorted(((value / spent, name) for name, value in seconds.items()), reverse=True)
        where = " ".join(f"{name} {share:.0%}" for share, name in shares[:4] if share >= 0.01)
        speed = [f"{self._speed:.0f} steps/s"] if self._speed else []
        return "  ".join([*parts, *speed, where])
