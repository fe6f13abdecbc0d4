"""metrics.jsonl: one JSON object per line, in the order of env_steps."""

import json
import math
import os
from pathlib import Path


class Metrics:
    """Appends rows to a file, and to TensorBoard when a folder is given.

    A last line that a kill cut short is removed on opening.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None):
        self.path = Path(path)
        self._cut(lambda row: True)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  open for the run's life
        self._tensorboard, self._board, self._purge_from = tensorboard, None, None

    def write(self, row: dict) -> None:
        """Appends one row; numbers of numpy and torch become plain ones, and what is not finite null, because JSON has no NaN."""
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
        plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in plain.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            if self._board is None:
                from torch.utils.tensorboard import SummaryWriter  # late, because it imports torch

                self._board = SummaryWriter(str(self._tensorboard), purge_step=self._purge_from)
            for key, value in plain.items():
                if isinstance(value, int | float) and key != "env_steps":
                    self._board.add_scalar(key, value, plain["env_steps"])

    def keep_until(self, env_steps: int) -> None:
        """Drops rows beyond a checkpoint from which a run goes on, so that they are not written twice; call it before `write`."""
        self._purge_from = env_steps + 1  # TensorBoard hides what an earlier process wrote from here on
        self._file.close()
        self._cut(lambda row: row["env_steps"] <= env_steps)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _cut(self, keep) -> None:
        """Rewrites the file up to the first line that is broken or not kept."""
        if not self.path.exists():
            return
        good = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not (isinstance(row, dict) and line.endswith("\n") and keep(row)):
                break
            good.append(line)
        beside = self.path.with_name(self.path.name + ".tmp")
        beside.write_text("".join(good), encoding="utf-8")
        os.replace(beside, self.path)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl, without a broken last line."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
