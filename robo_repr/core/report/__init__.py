"""What came of several runs: read, compared, printed by scripts/report.py, and written as a page."""

from robo_repr.core.report.compare import ALL_PAIRS, PAIRED_FROM, Comparison, compare, success_interval, unequal_contests
from robo_repr.core.report.runs import SEEDS_NEEDED, Group, Outcomes, contest_name, more_seeds, read_cells, references

__all__ = [
    "ALL_PAIRS",
    "PAIRED_FROM",
    "SEEDS_NEEDED",
    "Comparison",
    "Group",
    "Outcomes",
    "compare",
    "contest_name",
    "more_seeds",
    "read_cells",
    "references",
    "success_interval",
    "unequal_contests",
]
