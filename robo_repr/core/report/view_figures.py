"""Figures about moved cameras, as PNG files in memory."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robo_repr.core.report.figures import legend_below, new_panel, percent_axes, plain, png

AZIMUTH_BINS, ELEVATION_RINGS = 8, 3
CELL_EPISODES = 5  # fewer in a cell of both colour nothing
COLUMNS = 2  # of panels beside each other
HOLE = 3.3  # radius of the empty middle of a panel, in widths of its rings


class Point(NamedTuple):
    """A value at a level with the ends of its interval; `seen` where training had cameras moved as far."""

    level: int
    value: float
    low: float
    high: float
    seen: bool = True


class Curve(NamedTuple):
    label: str
    colour: str
    dash: Any  # as matplotlib has line styles
    points: Sequence[Point]


def draw_levels(curves: Sequence[Curve], label: str, top: float | None = 1.03, share: bool = True, marks: bool = True) -> bytes:
    """Values over levels with bands.

    Args:
        label: of the vertical axis.
        top: its upper end; None where the values say.
        share: whether values are written in percent.
        marks: hollow points where training did not cover the level.
    """
    figure, panel = new_panel(3.9)
    for curve in curves:
        levels = [point.level for point in curve.points]
        values = [point.value for point in curve.points]
        panel.plot(levels, values, color=curve.colour, linestyle=curve.dash, linewidth=1.8, label=curve.label, zorder=3)
        lows, highs = ([getattr(point, end) for point in curve.points] for end in ("low", "high"))
        panel.fill_between(levels, lows, highs, color=curve.colour, alpha=min(0.13, 1 / len(curves)), linewidth=0)
        for point in curve.points:
            face = curve.colour if point.seen or not marks else "white"
            panel.plot(point.level, point.value, "o", color=curve.colour, markerfacecolor=face, markersize=5.5, zorder=4)
    levels = sorted({point.level for curve in curves for point in curve.points})
    panel.set_xticks(levels, [f"L{level}" for level in levels])
    if share:
        percent_axes(panel.yaxis)
    panel.set(xlabel="how far cameras are moved", ylabel=label, ylim=(-0.03 if share else 0, top))
    legend_below(figure, panel)
    return png(figure)


def draw_views(methods: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> bytes:
    """Success by where the outside camera stood, seen from above: azimuth around, elevation outwards.

    Args:
        methods: label, azimuth and elevation (n,) in degrees from the nominal camera, success (n,). All panels have the same cells.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Wedge

    side, above = (float(max(np.abs(each[index]).max(initial=0) for each in methods)) or 1.0 for index in (1, 2))
    around, rings = np.linspace(-side, side, AZIMUTH_BINS + 1), np.linspace(-above, above, ELEVATION_RINGS + 1)
    colours, reach = colormaps["cividis"], HOLE + ELEVATION_RINGS
    lowest = min(HOLE * math.cos(math.radians(side)), reach * math.cos(math.radians(side))) - 0.3
    widest = reach * math.sin(math.radians(min(side, 90))) + 1.0
    rows = math.ceil(len(methods) / COLUMNS)
    tall = min(4.2, 5.0 * (reach + 0.9 - lowest) / (2 * widest))  # inches of a panel, which is 5 wide
    figure = Figure(figsize=(11.2, rows * tall), layout="constrained", dpi=130)
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for panel in panels:
        panel.set(aspect="equal", xlim=(-widest, widest), ylim=(lowest, reach + 0.9))
        panel.axis("off")
    for panel, (label, azimuth, elevation, success) in zip(panels, methods, strict=False):
        turns = np.clip(np.digitize(azimuth, around) - 1, 0, AZIMUTH_BINS - 1)
        heights = np.clip(np.digitize(elevation, rings) - 1, 0, ELEVATION_RINGS - 1)
        for turn, ring in np.ndindex(AZIMUTH_BINS, ELEVATION_RINGS):
            inside = success[(turns == turn) & (heights == ring)]
            few = len(inside) < CELL_EPISODES
            look = {"fc": "0.93", "ec": "0.65", "hatch": "////"} if few else {"fc": colours(inside.mean()), "ec": "white"}
            # Wedge turns counterclockwise from the right; azimuth here clockwise from the top.
            panel.add_patch(Wedge((0, 0), HOLE + ring + 1, 90 - float(around[turn + 1]), 90 - float(around[turn]), width=1, lw=0.7, **look))
            ink = "0.35" if few else "white" if inside.mean() < 0.6 else "black"
            text = f"n {len(inside)}" if few else f"{100 * inside.mean():.0f}\nn {len(inside)}"
            box = {"facecolor": "0.93", "edgecolor": "none", "pad": 0.8} if few else None
            place = _at(HOLE + ring + 0.5, float(around[turn] + around[turn + 1]) / 2)
            panel.text(*place, text, color=ink, fontsize=7, ha="center", va="center", linespacing=0.95, bbox=box)
        for tick in np.linspace(-side, side, 5):
            panel.text(
                *_at(reach + 0.3 + 0.15 * abs(math.sin(math.radians(tick))), tick),
                f"{tick:+.0f}°" if tick else "0°",
                fontsize=8,
                ha="center",
                va="center",
            )
        for index, ring in enumerate(rings):
            panel.text(*_at(HOLE + index, -side, 0.3), f"{ring:+.0f}°", fontsize=7, color="0.4", ha="center", va="center")
        panel.set_title(plain(textwrap.shorten(label, 60, placeholder=" ...")), fontsize=10)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours), ax=panels, shrink=min(1.0, 2.2 / (rows * tall)), pad=0.02, label="success"
    )
    percent_axes(bar.ax.yaxis)
    return png(figure)


def _at(radius: float, azimuth: float, aside: float = 0.0) -> tuple[float, float]:
    """Where a camera at an azimuth in degrees is drawn, and so far counterclockwise beside it."""
    sine, cosine = math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))
    return radius * sine - aside * cosine, radius * cosine + aside * sine


def draw_drift(points: Sequence[tuple[str, str, int, float, float]]) -> bytes:
    """What was left of policies over how far features moved.

    Args:
        points: label, colour, level, feature drift, retention.
    """
    figure, panel = new_panel(3.9)
    for label, colour in dict.fromkeys((label, colour) for label, colour, *_ in points):
        own = [(drift, kept) for name, _, _, drift, kept in points if name == label]
        panel.plot(*np.transpose(own), "o", color=colour, markersize=6, alpha=0.85, label=label)
    for _, _, level, drift, kept in points:
        panel.annotate(f"L{level}", (drift, kept), xytext=(5, 3), textcoords="offset points", fontsize=7, color="0.4")
    percent_axes(panel.yaxis)
    panel.set(xlabel="feature drift of the encoder", ylabel="retention of the policy", ylim=(-0.03, None))
    panel.set_xlim(left=0)
    legend_below(figure, panel)
    return png(figure)
