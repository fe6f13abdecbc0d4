"""metrics.jsonl, one row per line, and the same numbers in TensorBoard."""

import json
import math
import os
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole


class Metrics:
    """Appends rows to a file that survives kill -9 and is cut back on resume.

    Args:
        path: the jsonl file; created if absent. A broken last line, left by a crash, is cut off.
        tensorboard: folder for TensorBoard's events, or None for none.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None):
        self.path, self.tensorboard, self._writer = Path(path), tensorboard, None
        self.path.touch()
        data = self.path.read_bytes()
        kept = _whole_lines(data)
        if kept < len(data):
            os.truncate(self.path, kept)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (open as long as the object)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row. Numbers may be Python's, numpy's or one-element tensors; what is not finite becomes null.

        TensorBoard's step is the row's `env_steps`, or `step` where there is none.
        """
        row = {key: _plain(value) for key, value in row.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self.tensorboard is not None:
            step = row.get("env_steps", row.get("step"))
            writer = self._tensorboard(purge_step=step)
            for key, value in row.items():
                if isinstance(value, (int, float)) and key not in ("env_steps", "step"):
                    writer.add_scalar(key, value, step)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the file.

        Raises:
            UserError: a line in the middle is no JSON.
        """
        return read_rows(self.path)

    def keep_until(self, env_steps: int) -> None:
        """Drops the rows beyond a checkpoint's step, so that a resumed run writes them again and none twice."""
        kept = [row for row in self.rows() if row.get("env_steps", row.get("step", 0)) <= env_steps]
        self._file.close()
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _tensorboard(self, purge_step: int | None):
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # late: it imports torch

            # Events at and beyond the first step written now stem from a stretch that a resumed run repeats.
            self._writer = SummaryWriter(str(self.tensorboard), purge_step=purge_step)
        return self._writer


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a broken last line is left out."""
    data = Path(path).read_bytes()
    rows = []
    for number, line in enumerate(data[: _whole_lines(data)].splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path} is damaged: line {number} is no JSON ({error}). Remove the line, or start again with fresh=true."
            ) from error
    return rows


def _whole_lines(data: bytes) -> int:
    """Length of the data up to the end of its last whole line; only the last line can be broken by a crash."""
    end = data.rfind(b"\n") + 1
    if end == len(data) and end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        try:
            json.loads(data[start:end])
        except ValueError:
            return start
    return end


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # NaN is no JSON, and most readers refuse it
    return value
