"""What a page is made of, and how figures are written in it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from robo_repr.core.report.aggregate import Interval
from robo_repr.core.report.methods import ARMS, Method
from robo_repr.core.retention import Ratio
from robo_repr.core.stats import Estimate
from robo_repr.core.summary import rate

FILM_BYTES, FILMS_BYTES = 1_500_000, 24_000_000  # of one film and of all of a section, so that a page of many encoders still opens
REFERENCE_COLOUR = "#8b95a1"


@dataclass
class Cell:
    """One cell of a table; a bar shows an interval within 0 to 1, a colour without a bar becomes a square before the text."""

    text: str
    colour: str = ""
    bar: Interval | None = None
    tag: str = ""
    href: str = ""
    code: bool = False


@dataclass
class Row:
    """A row of a table; `own` is false for what is there to compare with."""

    cells: list[Cell]
    own: bool = True


@dataclass
class Table:
    headings: list[str]
    rows: list[Row]
    title: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Figure:
    """A PNG picture, which is also written to ``report/<name>.png``; a wide one takes the page's whole width."""

    name: str
    picture: bytes
    caption: str
    wide: bool = False


@dataclass
class Film:
    film: bytes
    caption: str


@dataclass
class Section:
    """A part of the page, in this order; `small` stands last, in small print."""

    title: str
    lead: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    small: list[str] = field(default_factory=list)


def name_of(method: Method) -> Cell:
    return Cell(method.label, method.colour, tag=ARMS.get(method.arm, ""))


def reference(name: str) -> Cell:
    return Cell(name, REFERENCE_COLOUR, tag="reference")


def link_to(path: Path, out: Path) -> Cell:
    """A folder's name, which leads there from a page in `out`."""
    return Cell(str(path), href=f"./{quote(os.path.relpath(path.resolve(), out.resolve()), errors='surrogateescape')}")


def points(estimate: Estimate, level: float = 0.05) -> str:
    low, high = estimate.interval(level)
    return f"{100 * estimate.value:+.0f} [{100 * low:+.0f} to {100 * high:+.0f}]"


def percent(interval: Interval) -> str:
    return rate(interval.value, (interval.low, interval.high))


def share_left(ratio: Ratio | None) -> str:
    """A retention, such as ``62 % [50 to 75]``."""
    if ratio is None:
        return "-"
    ends = f"{100 * ratio.low:.0f} or more" if ratio.high is None else f"{100 * ratio.low:.0f} to {100 * ratio.high:.0f}"
    return f"{100 * ratio.value:.0f} % [{ends}]"


def span(numbers: Sequence[int]) -> str:
    """``3``, or ``2 to 3``."""
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def listed(seeds: Sequence[int]) -> str:
    """``0 to 2`` for more than two in a row, else a list."""
    in_a_row = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return span(seeds) if in_a_row else ", ".join(map(str, seeds))


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)


def glued(text: str) -> str:
    """A table's text that breaks between a number and its interval alone, so that columns are as narrow as either; prose as it is."""
    short = len(text) < 24 or "[" in text and len(text) < 60
    return re.sub(r" (?![\[(])", "\N{NO-BREAK SPACE}", text) if short else text
