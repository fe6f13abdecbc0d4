"""What came of a viewpoint evaluation: rows of views.jsonl, the figures made of them, and the table that is printed."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.viewpoint.conditions import Condition
from envs.cameras import PRESETS
from envs.cameras.presets import describe_bounds, find_preset
from robo_repr.core.retention import Ratio, retention, retention_area, worst_azimuth_bin
from robo_repr.core.summary import rate

PLACES = {"level": "levels", "preset": "presets", "factor": "factors", "control": "controls"}  # in the summary
Rows = Mapping[tuple[str, str], dict]  # (condition, policy) -> row of views.jsonl
NOMINAL = "L0"


def figures(rows: Rows, conditions: Sequence[Condition], outside: str | None) -> dict:
    """The summary's figures of the conditions that are done.

    Args:
        outside: a camera that stands in the world, whose azimuth is looked at; None where there is none.
    """
    nominal = rows.get((NOMINAL, "trained"))
    places: dict[str, dict] = {place: {} for place in PLACES.values()}
    for condition in conditions:
        if row := rows.get((condition.name, "trained")):
            expert = rows.get((condition.name, "expert"))
            places[PLACES[condition.kind]][condition.name] = _figures(condition, row, expert, nominal)
    of_levels = [(condition.level, rows.get((condition.name, "trained"))) for condition in conditions if condition.level is not None]
    outcomes = {level: [np.array(row["episode_success"])] for level, row in of_levels if row}
    area = retention_area(outcomes)
    shells = [row for level, row in of_levels if row and level and outside in row["views"]]
    return {
        **places,
        "retention_area": None if area is None else area.value,
        "retention_area_ci95": None if area is None else [area.low, area.high],
        "worst_azimuth_bin": worst_azimuth_bin((row["views"][outside]["azimuth"], row["episode_success"]) for row in shells),
    }


def _figures(condition: Condition, row: dict, expert: dict | None, nominal: dict | None) -> dict:
    kept = retention([np.array(nominal["episode_success"])], [np.array(row["episode_success"])]) if nominal else None
    if kept and row is nominal:
        kept = Ratio(1.0, 1.0, 1.0)  # by definition, whatever chance did
    return {
        **{key: row[key] for key in ("camera", "appearance", "success", "episodes", "seeds_sha256")},
        "ci95": row["success_ci95"],
        **({"calibration": condition.calibration} if condition.calibration else {}),
        **_published(condition),
        "expert": None if expert is None else expert["success"],
        "retention": None if kept is None else kept.value,
        "retention_ci95": None if kept is None else [kept.low, kept.high],
        "views_rejected": row["views_rejected"] / row["views_drawn"] if row["views_drawn"] else None,
    }


def _published(condition: Condition) -> dict[str, str]:
    """The ranges of a published preset, for tables."""
    preset = condition.camera.partition("@")[0]
    return {"published": describe_bounds(find_preset(preset).bounds)} if preset.partition(":")[0] in PRESETS else {}


def print_views(summary: dict, title: str, console: Console) -> None:
    """Prints the table of a summary's conditions; of an encoder alone, how far its features move."""
    results = {name: result for place in PLACES.values() for name, result in summary[place].items()}
    title += f", {summary['episodes']} episodes" * bool(results)
    headings = ("success [95 %]", "retention", "expert", "rejected") if results else ("features move [95 %]", "probe, cm [95 %]")
    table = Table(title=Text(title), min_width=len(title))
    table.add_column("cameras", no_wrap=True)
    for heading in headings:
        table.add_column(Text(heading), justify="right")
    for name, result in results.items():
        cells = [_share(result[key]) for key in ("retention", "expert", "views_rejected")]
        table.add_row(Text(name), rate(result["success"], result["ci95"]), *cells)
    for name, moved in (summary["drift"] or {}).items() if not results else ():
        table.add_row(Text(name), *(_interval(moved[key], moved[f"{key}_ci95"]) for key in ("feature_drift", "probe_cm")))
    console.print(table)
    lines = []
    if summary["retention_area"] is not None:
        low, high = summary["retention_area_ci95"]
        upper = "?" if high is None else f"{high:.0%}"
        lines.append(f"area under the retention curve {summary['retention_area']:.0%} [{low:.0%} to {upper}]")
    if worst := summary["worst_azimuth_bin"]:
        where = f"{worst['low']:+.0f} to {worst['high']:+.0f} degrees"
        share = rate(worst["success"], worst["ci95"])
        lines.append(f"worst of eight azimuths, chosen for being low: {where}, success {share} of {worst['episodes']}")
    for line in lines:
        console.out(line, highlight=False)


def _interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:.2f} [{ends[0]:.2f} to {ends[1]:.2f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
