"""Cells of a table of viewpoint runs: a policy, trained under a regime or found as it was trained before, and its evaluation."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from agents.benchmark import Benchmark
from agents.viewpoint.conditions import find_conditions
from agents.viewpoint.regimes import regime_words
from robo_repr.core.cli import compose
from robo_repr.core.config import ImitationConfig, RLConfig, RunConfig, ViewpointConfig, config_names, flat, shortly
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.run import MAY_CHANGE, NoWholeCheckpoint, RunDir

PASSED_ON = ("encoder", "variant", "weights", "readout", "task", "views", "seed", "steps", "demos", "device")


@dataclass
class ViewpointCell(ViewpointConfig):
    """The settings of one cell of a table."""

    def validate(self) -> None:
        self.check_values()
        if self.run is not None:
            raise UserError(f"run={self.run} evaluates a run that is there, but benchmark= trains its own. Leave out one of them.")
        for name in self._given(("encoders", "regimes")):
            raise UserError(f"{name}={shortly(getattr(self, name))}: this benchmark has no axis {name[:-1]}. Leave it out.")
        training = regime_words(self.regime) if self.regime is not None else []
        # What depends on the policy itself is checked once it is there; a mistake that can be seen now shall not cost a training.
        find_conditions(self, ["front"], "plain", "camera_input=rays" in training)
        if self.learner not in (learners := [*config_names("agent"), *config_names("policy")]):
            raise unknown("learner", self.learner, learners)
        if self.demos is not None and self.learner not in config_names("policy"):
            raise UserError(
                f"demos={self.demos} is for learners that imitate, but learner={self.learner} does not. Write demos=null, or choose one of "
                f"{', '.join(config_names('policy'))}."
            )


def table(words: list[str], report: Callable[[Path], None]) -> Benchmark:
    """The grid of ``benchmark=NAME``; see `Benchmark`.

    Raises:
        UserError: as `Benchmark` does, or a cell has no seed or regime.
    """
    grid = Benchmark(ViewpointCell, words, "agents.viewpoint.cell.run_cell", report, columns="levels")
    for name in ("seed", "regime"):
        if any(getattr(cell.config, name) is None for cell in grid.cells):
            raise UserError(f"{name}=null trains no policy, and a table's cells train theirs. Give {name} a value.")
    return grid


def run_cell(cell: ViewpointConfig, words: list[str]) -> int:
    """Trains the cell's policy, unless that is done, and evaluates it in the cell's folder.

    The policy is the very run that run_rl.py or run_imitation.py would make of the same settings, in the same place: tables share it, and
    ``fresh`` leaves it alone.

    Returns:
        The exit code.

    Raises:
        UserError: the settings do not exist or do not go together, another process trains that policy, it learned for longer, or none of
            its checkpoints is whole.
    """
    from agents.viewpoint.run import OtherCheckpoint, evaluate_views  # late: torch

    config, training_words = training_of(cell, words)
    run = Path("runs") / config.command / config.folder(training_words)
    if not _is_trained(run, config) and (code := _train(config, training_words)):
        return code
    asked = dataclasses.replace(cell, run=str(run))
    try:
        try:
            return evaluate_views(asked, words)
        except OtherCheckpoint:  # the policy learned on since it was evaluated here
            return evaluate_views(dataclasses.replace(asked, fresh=True), words)
    except NoWholeCheckpoint as error:  # the table's own fresh=true would not train anew
        raise UserError(f"{error} Here that is: python {config.program} {shlex.join([*training_words, 'fresh=true'])}") from error


def training_of(cell: ViewpointConfig, words: list[str]) -> tuple[RLConfig | ImitationConfig, list[str]]:
    """The settings of the run that trains a cell's policy, and their words on the command line."""
    assert cell.regime is not None
    command = RLConfig if cell.learner in config_names("agent") else ImitationConfig
    keys = {word: word.partition("=")[0] for word in words}
    passed = [word for word, key in keys.items() if key.startswith("encoder.") or key in PASSED_ON and getattr(cell, key) is not None]
    return compose(command, [*passed, f"{command.learner}={cell.learner}", *regime_words(cell.regime)])


def _train(config: RLConfig | ImitationConfig, words: list[str]) -> int:
    if isinstance(config, RLConfig):
        from agents.train import train

        return train(config, words)
    from agents.imitation.train import imitate

    return imitate(config, words)


def _is_trained(run: Path, config: RunConfig) -> bool:
    """Whether that run is finished and has these settings. If it has others, the training command says so."""
    if not RunDir(run).finished:
        return False
    try:
        before = flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    asked = flat(dataclasses.asdict(config))
    if isinstance(steps := before.get("steps"), int) and steps > asked["steps"]:
        raise UserError(
            f"{run} learned for steps={steps}, but the table asks for steps={asked['steps']}, so its policies would not be alike. Start "
            f"the table with steps={steps}, or move that folder away."
        )
    # A run settles for itself what it was not told: frame_stack.
    return all(value in (None, before.get(key)) for key, value in asked.items() if key == "steps" or key not in MAY_CHANGE)
