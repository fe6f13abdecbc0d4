"""What came of several runs: read, compared, printed by scripts/report.py, and written as a page."""

from robo_repr.core.report.compare import ALL_PAIRS, OTHER_CONTEST, PAIRED_FROM, Comparison, compare, success_interval
from robo_repr.core.report.runs import SEEDS_NEEDED, Group, Outcomes, contest_name, more_seeds, read_cells, read_runs, references

__all__ = [
    "ALL_PAIRS",
    "OTHER_CONTEST",
    "PAIRED_FROM",
    "SEEDS_NEEDED",
    "Comparison",
    "Group",
    "Outcomes",
    "compare",
    "contest_name",
    "more_seeds",
    "read_cells",
    "read_runs",
    "references",
    "success_interval",
]
