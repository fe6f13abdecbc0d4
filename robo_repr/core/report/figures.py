"""The page's figures as PNG files in memory. Without pyplot, which keeps a list of all figures and looks for a screen."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from robo_repr.core.report.aggregate import Interval, mean_interval, profile
from robo_repr.core.report.methods import Method
from robo_repr.core.report.runs import Group, mean_of, over_seeds, references
from robo_repr.core.summary import REFERENCES

WIDTH = 5.8  # inches; as wide as two stand beside each other on the page
LEVELS = np.linspace(0, 1, 101)


def draw_intervals(rows: Sequence[tuple[Method, Interval]], label: str, middle: float | None = None, span: tuple = (0, 1)) -> bytes:
    """One dot with its interval per method, the first on top.

    Args:
        label: of the axis.
        middle: where a line is drawn, such as at no difference.
        span: the axis' ends.
    """
    figure, panel = new_panel(1.1 + 0.36 * len(rows))
    names = ["\n".join(textwrap.wrap(method.label, 34)[:2]) for method, _ in rows]
    for place, (method, interval) in enumerate(rows):
        panel.plot([interval.low, interval.high], [place, place], color=method.colour, linewidth=4, alpha=0.35, solid_capstyle="butt")
        panel.plot(interval.value, place, "o", color=method.colour, markersize=7)
    if middle is not None:
        panel.axvline(middle, color="0.5", linewidth=1, linestyle=":")
    panel.set_yticks(range(len(rows)), [plain(name) for name in names])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    percent_axes(panel.xaxis)
    margin = 0.02 * (span[1] - span[0])
    panel.set(xlabel=label, xlim=(span[0] - margin, span[1] + margin))
    return png(figure)


def draw_profiles(methods: Sequence[Method], tasks: Sequence[str]) -> bytes:
    """For each method which share of its runs succeeds in more than so many episodes."""
    figure, panel = new_panel(3.9)
    for method in methods:
        values, low, high = profile(method.scores(tasks), LEVELS)
        panel.step(LEVELS, values, color=method.colour, linestyle=method.dash, linewidth=1.8, where="post", label=method.label)
        panel.fill_between(LEVELS, low, high, color=method.colour, alpha=0.12, linewidth=0, step="post")
    percent_axes(panel.xaxis, panel.yaxis)
    panel.set(xlabel="success τ", ylabel="runs with success above τ", xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
    legend_below(figure, panel)
    return png(figure)


def draw_demos(families: Sequence[Sequence[Method]], tasks: Sequence[str]) -> bytes:
    """Success over the number of demonstrations: the mean over tasks, one line for each family of methods that differ in nothing else."""
    figure, panel = new_panel(3.7)
    counts = sorted({method.demos or 0 for family in families for method in family})
    for index, family in enumerate(families):
        places = np.array([counts.index(method.demos or 0) for method in family]) + 0.04 * (index - (len(families) - 1) / 2)
        intervals = [mean_interval(method.scores(tasks)) for method in family]
        values = np.array([interval.value for interval in intervals])
        ends = [(value - each.low, each.high - value) for value, each in zip(values, intervals, strict=True)]
        label = _family_label(family[0])
        panel.errorbar(places, values, np.transpose(ends), color=family[0].colour, marker="o", linewidth=1.8, capsize=3, label=label)
    panel.set_xticks(range(len(counts)), [str(count) for count in counts])
    percent_axes(panel.yaxis)
    panel.set(xlabel="demonstrations per task", ylabel="success", ylim=(-0.03, 1.03))
    legend_below(figure, panel)
    return png(figure)


def draw_learning(methods: Sequence[Method], task: str, unit: str) -> bytes | None:
    """Success at the evaluations during training on one task: mean over seeds, and from the worst to the best seed as a band.

    Args:
        unit: of the steps.

    Returns:
        None when no run was evaluated more than once.
    """
    figure, panel = new_panel(3.7)
    drawn: list[Group] = []
    for method in methods:
        group = method.groups[task]
        grid, values = over_seeds([run.learning() for run in group.runs])
        if len(grid) < 2:
            continue
        drawn.append(group)
        panel.plot(
            grid,
            values.mean(axis=0),
            color=method.colour,
            linestyle=method.dash,
            marker="o" if len(grid) < 30 else None,
            markersize=3.5,
            linewidth=1.8,
            label=method.label,
        )
        panel.fill_between(grid, values.min(axis=0), values.max(axis=0), color=method.colour, alpha=0.13, linewidth=0)
    if not drawn:
        return None
    for policy, style in (("random", ":"), ("expert", "--")):
        if known := references(drawn, policy):
            height = np.mean([mean_of(outcomes, "success") for outcomes in known])
            panel.axhline(height, color="0.35", linestyle=style, linewidth=1.2, label=REFERENCES[policy], zorder=1)
    percent_axes(panel.yaxis)
    panel.set(xlabel=unit, ylabel="success", ylim=(-0.03, 1.03))
    panel.set_xlim(left=0)
    legend_below(figure, panel)
    return png(figure)


def plain(text: str) -> str:
    """Text as matplotlib draws it letter by letter: dollar signs would begin a formula, and a folder's name may be no text."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def _family_label(method: Method) -> str:
    """A method's label without its number of demonstrations."""
    return ", ".join(word for word in method.label.split(", ") if word != f"{method.demos} demos")


def new_panel(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=160)
    panel = figure.subplots()
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel


def percent_axes(*axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def legend_below(figure: Any, panel: Any) -> None:
    """Below the panel, where it hides nothing; the figure grows with it."""
    handles, labels = panel.get_legend_handles_labels()
    labels = [plain(textwrap.shorten(label, 76, placeholder=" ...")) for label in labels]
    columns = 1 + (max(map(len, labels)) <= 36) + (max(map(len, labels)) <= 20)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)


def png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
