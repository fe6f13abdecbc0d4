"""How far cameras can move before a policy fails: python run_viewpoint.py run=RUN_FOLDER (--help lists the keys)."""

from pathlib import Path

from robo_repr.core.cli import main
from robo_repr.core.config import ViewpointConfig


def run(config: ViewpointConfig, overrides: list[str]) -> int:
    # Late, so that --help and mistakes in the settings do not wait for torch.
    from agents.viewpoint.run import evaluate_views

    return evaluate_views(config, overrides)


def grid(words: list[str]):
    """A whole table, benchmark=NAME. Its cells are processes of their own, so this one needs no torch."""
    from agents.viewpoint.cell import table

    return table(words, report)


def report(folder: Path) -> None:
    """Writes the page of a table."""
    from robo_repr.core.report.page import read_report, write_report

    print(f"page: {write_report(read_report([folder]), folder)}")


if __name__ == "__main__":
    main(ViewpointConfig, run, grid)
