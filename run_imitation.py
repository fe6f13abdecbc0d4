"""Trains a policy on demonstrations: python run_imitation.py encoder=mvp task=reach demos=25 (--help lists the keys)."""

from pathlib import Path

from robo_repr.core.cli import main
from robo_repr.core.config import ImitationConfig


def run(config: ImitationConfig, overrides: list[str]) -> int:
    # Late, so that --help and mistakes in the settings do not wait for torch.
    from agents.imitation.train import imitate

    return imitate(config, overrides)


def grid(words: list[str]):
    """A whole table, benchmark=NAME. Its cells are processes of their own, so this one needs no torch."""
    from agents.benchmark import Benchmark

    return Benchmark(ImitationConfig, words, "agents.imitation.train.imitate", report)


def report(folder: Path) -> None:
    """Writes the page of a table."""
    from robo_repr.core.report.page import read_report, write_report

    print(f"page: {write_report(read_report([folder]), folder)}")


if __name__ == "__main__":
    main(ImitationConfig, run, grid)
