"""A command that pretends to train, for the tests of grids; alone here, because each process that runs cells imports it."""

import dataclasses
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from robo_repr.core.config import check, key
from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole
from robo_repr.core.run import RunDir
from robo_repr.core.signals import Signals


@dataclass
class MadeUpConfig:
    """Pretends to train."""

    command: ClassVar[str] = "madeup"
    program: ClassVar[str] = "run_madeup.py"
    apart: ClassVar[str] = "tag=x${steps}"
    tables: ClassVar[str] = "runs/benchmarks"
    groups: ClassVar[dict[str, str]] = {"encoder": "mvp", "budget": "default"}

    encoder: Any = key({}, "sees")
    encoders: Any = key(None, "of a table")
    task: Any = key("fine", "what happens")
    views: Any = key(None, "a list is one value")
    weights: str | None = key(None, "of an encoder")
    privileged: bool = key(False, "told")
    level: int = key(1, "takes one value")
    steps: int = key(1, "of two hundredths of a second", low=1)
    seed: int = key(0, "of all", low=0)
    tag: str | None = key(None, "name")
    run_dir: str | None = key(None, "folder")
    fresh: bool = key(False, "aside")
    names: dict[str, str] = dataclasses.field(default_factory=dict)

    def folder(self, overrides: list[str]) -> str:
        return f"{self.task}/{self.seed}"

    def validate(self) -> None:
        check(self)


def run_made_up(cfg: MadeUpConfig, overrides: list[str]) -> int:
    """Does what the task's name says, with checkpoints as a true run has them."""
    with open("starts", "a") as file:
        file.write(f"{cfg.task}/{cfg.names['encoder']}/{cfg.seed} {os.getpid()}\n")
    print("a cell's own words")
    if not Path("mended").exists():
        if cfg.task == "mistake":
            raise UserError("The weights are gone.\nFetch them.")
        if cfg.task == "raises":
            raise ValueError("three is not four")
        if cfg.task == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if cfg.task == "stopped":
            return 130
        if cfg.task == "idle":
            return 0
    cfg = dataclasses.replace(cfg, views=cfg.views or ["front"])  # true runs complete their settings too
    with RunDir.open("madeup", cfg.task, dataclasses.asdict(cfg), overrides, cfg.seed, cfg.run_dir, cfg.fresh) as run, Signals() as signals:
        checkpoint = run.path / "step"
        began = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while step < cfg.steps:
            time.sleep(0.02)
            step += 1
            write_whole(checkpoint, str(step))
            if signals.caught:
                time.sleep(0.5)  # a second signal would come now, and end it at once
                run.write_json("summary.json", {"status": "interrupted"})
                return 128 + signals.caught
        success = 1.0 if cfg.privileged else 0.5
        summary = {"success": success, "success_ci95": [0.2, 1.0], "score": "max", "episodes": 20, "wall_s": 1.0, "began": began}
        run.write_json("summary.json", {"status": "finished", **summary})
    return 0
