"""What the page says of moved cameras: how far they can go before a policy fails, and against what that is to be held."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robo_repr.core.report import published
from robo_repr.core.report.aggregate import Scores, iqm_interval
from robo_repr.core.report.layout import (
    FILM_BYTES,
    FILMS_BYTES,
    REFERENCE_COLOUR,
    Cell,
    Figure,
    Film,
    Row,
    Section,
    Table,
    link_to,
    listed,
    name_of,
    percent,
    points,
    reference,
    share_left,
    slug,
    span,
)
from robo_repr.core.report.methods import DASHES, Arena, Method, control_of
from robo_repr.core.report.runs import COMMANDS, Group, counted, references
from robo_repr.core.report.view_figures import (
    AZIMUTH_BINS,
    CELL_EPISODES,
    ELEVATION_RINGS,
    Curve,
    Point,
    draw_drift,
    draw_levels,
    draw_views,
)
from robo_repr.core.report.views import (
    CLAIM_EPISODES,
    CLAIM_SEEDS,
    KINDS,
    NOMINAL,
    Condition,
    Effect,
    EncoderRun,
    ViewRun,
    Views,
    area_under,
    ceiling_of,
    changed_by,
    covered,
    effects,
    expert_under,
    fixed_of,
    levels_of,
    retention_under,
    runs_under,
    success_under,
    titles,
    under,
    view_runs,
    worst_azimuth_under,
)
from robo_repr.core.retention import BIN_EPISODES, rank_correlation
from robo_repr.core.stats import wilson
from robo_repr.core.summary import command_line, rate

MAPS = 6  # panels of success by where the camera stood
FILMED = 24  # levels x methods; of more, films are shown of the lowest and the highest level alone
STRIP_BYTES = 4_000_000
ENDLESS = 9.0  # what is drawn of an interval without an upper end, far above the axis
FEW = "too few for a claim"


def view_warnings(views: Views) -> list[str]:
    """What stands in the page's head about runs that are too few."""
    groups = [group for arena in views.arenas for method in arena.methods for group in method.groups.values()]
    if not groups:
        return []
    seeds = sorted({len(group.runs) for group in groups})
    episodes = sorted({len(condition.own.success) for group in groups for run in view_runs(group) for condition in run.conditions.values()})
    if seeds[0] >= CLAIM_SEEDS and episodes[0] >= CLAIM_EPISODES:
        return []
    low, high = wilson(episodes[0] / 2, episodes[0])
    return [
        f"Moved cameras: {span(seeds)} training {'seed' if seeds[-1] == 1 else 'seeds'} and {span(episodes)} episodes per level are "
        f"{FEW}. At least {CLAIM_SEEDS} training seeds and {CLAIM_EPISODES} episodes per level are needed ({episodes[0]} episodes leave "
        f"one policy's success open by about {50 * (high - low):.0f} points to either side). What there is is shown with its intervals; "
        "where it is too few, nothing is called."
    ]


def view_sections(views: Views) -> list[Section]:
    """All sections about moved cameras that have something to show."""
    sections: list[Section | None] = []
    room = FILMS_BYTES
    for index, arena in enumerate(views.arenas):
        several = len(views.arenas) > 1
        where, suffix = f" ({arena.name})" if several else "", f"-{index + 1}" if several else ""
        sections += [_curves(arena, where, suffix), _levels(arena, where), _all_tasks(arena, where), _effects(arena, where)]
        films = _films(arena, where, room)
        room -= sum(len(film.film) for film in films.films) if films else 0
        sections += [_maps(arena, where, suffix), _strip(arena, where, suffix), films, _presets(arena, where), _others(arena, where)]
    return [section for section in [*sections, _drift(views)] if section]


# ---- levels ----------------------------------------------------------------------------------------------------------------------


def _curves(arena: Arena, where: str, suffix: str) -> Section | None:
    """Success and retention over levels."""
    section = Section(f"How far cameras can move{where}")
    levels = titles(arena.methods, "level")
    for task in arena.tasks:
        methods = [method for method in arena.methods if task in method.groups]
        success = [curve for method in methods if (curve := _success_curve(method, task, levels, _dash(method, arena)))]
        if not any(len(curve.points) > 1 for curve in success):
            continue
        if expert := _expert_points(methods, task, levels):
            success.append(Curve("expert, which sees no picture", "0.35", (0, (1, 1)), expert))
        caption = (
            f"{task}: success at each level, with 95 % bands. Full points: training had cameras moved as far; hollow ones lie beyond it."
        )
        section.figures.append(Figure(f"levels-{slug(task)}{suffix}", draw_levels(success, "success"), caption))
        kept = [curve for method in methods if (curve := _retention_curve(method, task, levels, _dash(method, arena)))]
        if kept:
            caption = f"{task}: retention, the share of each policy's own success at {NOMINAL} that is left, with 95 % bands (Fieller's)."
            picture = draw_levels(kept, f"retention of the success at {NOMINAL}", top=_top(kept))
            section.figures.append(Figure(f"retention-{slug(task)}{suffix}", picture, caption))
    if not section.figures:
        return None
    section.lead = _findings(arena, levels)
    section.small.append(_how_known(arena))
    return section


def _findings(arena: Arena, levels: Sequence[str]) -> str:
    """For each method where its success falls below half of that at the nominal cameras."""
    first: dict[str, list[str]] = {}
    for method in arena.methods:
        for task, group in method.groups.items():
            kept = {level: ratio.value for level in levels[1:] if (ratio := retention_under(group, level))}
            if kept:
                below = next((f"first at {level}" for level, value in kept.items() if value < 0.5), f"nowhere up to {list(kept)[-1]}")
                first.setdefault(below, []).append(method.label + (f" on {task}" if len(arena.tasks) > 1 else ""))
    if not first or sum(map(len, first.values())) > 10:
        return ""
    told = "; ".join(f"{where} ({' / '.join(names)})" for where, names in sorted(first.items()))
    return f"In these runs less than half of the success at {NOMINAL} is left {told}."


def _how_known(arena: Arena) -> str:
    fewest = min(len(group.runs) for method in arena.methods for group in method.groups.values())
    return (
        "Levels are shells: at L3 every view deviates in some factor by more than level 2 allows and in none by more than level 3 does. "
        "The same episodes (starts, goals, noise) run at every level. "
        + (
            "Intervals are Student's t on a bootstrap over seeds and episodes."
            if fewest > 1
            else "With one seed an interval knows chance between episodes alone (Wilson's for success): it speaks of this policy, not of "
            "the method that made it."
        )
    )


def _dash(method: Method, arena: Arena) -> str:
    """A line style for each camera setting of training."""
    cameras = list(dict.fromkeys(each.settings["camera"] for each in arena.methods))
    return DASHES[cameras.index(method.settings["camera"]) % len(DASHES)]


def _success_curve(method: Method, task: str, levels: Sequence[str], dash: str) -> Curve | None:
    known = {level: success_under(method.groups[task], level) for level in levels}
    found = [_point(method, level, *interval) for level, interval in known.items() if interval]
    return Curve(method.label, method.colour, dash, found) if found else None


def _retention_curve(method: Method, task: str, levels: Sequence[str], dash: str) -> Curve | None:
    known = {level: retention_under(method.groups[task], level) for level in levels}
    found = [
        _point(method, level, ratio.value, ratio.low, ENDLESS if ratio.high is None else ratio.high)
        for level, ratio in known.items()
        if ratio
    ]
    return Curve(method.label, method.colour, dash, found) if len(found) > 1 else None


def _point(method: Method, level: str, value: float, low: float, high: float) -> Point:
    return Point(int(level[1:]), value, low, high, covered(method.settings["camera"], int(level[1:])))


def _top(curves: Sequence[Curve]) -> float:
    """Of the axis of retention: just above the values, for an interval may have no end."""
    return max(1.15, 1.1 * max(point.value for curve in curves for point in curve.points))


def _expert_points(methods: Sequence[Method], task: str, levels: Sequence[str]) -> list[Point]:
    known = {level: expert_under(methods, task, level) for level in levels}
    return [Point(int(level[1:]), *interval) for level, interval in known.items() if interval]


def _expert_cell(methods: Sequence[Method], task: str, condition: str) -> Cell:
    known = expert_under(methods, task, condition)
    return Cell(f"{100 * known.value:.0f} %" if known else "-")


def _levels(arena: Arena, where: str) -> Section | None:
    """Success at each level, area, worst azimuth bin, ceiling and rejected views."""
    levels = titles(arena.methods, "level")
    if not levels:
        return None
    section = Section(f"Level by level{where}")
    for task in arena.tasks:
        methods = [method for method in arena.methods if task in method.groups]
        rows = []
        for method in methods:
            group = method.groups[task]
            rows.append(Row([name_of(method), Cell(listed(group.seeds)), *(_success_cell(group, level) for level in levels)]))
        experts = [_expert_cell(methods, task, level) for level in levels]
        if any(cell.text != "-" for cell in experts):
            rows.append(Row([reference("expert"), Cell("-"), *experts], own=False))
        cells = [Cell("views drawn again"), Cell("-"), *(Cell(_rejected(methods, task, level)) for level in levels)]
        rows.append(Row(cells, own=False))
        section.tables.append(Table(["method", "seeds", *levels], rows, f"{task}: success [95 %]"))
        gaps, lacking = _ceilings(methods, task, levels)
        section.tables += [_retention_table(methods, task, levels), gaps]
        section.small += lacking
    section.tables = [table for table in section.tables if table.rows]
    section.small.append(
        f"Area: the mean of the curve from {NOMINAL} to {levels[-1]} (or as far as a method was asked), as a share of {NOMINAL}. "
        f"Worst azimuth: of {AZIMUTH_BINS} bins of equal width, all levels above {NOMINAL} and all seeds together, the one with the least "
        f"success of those with {BIN_EPISODES} episodes or more, with Wilson's interval; it was chosen for being low, so that chance alone "
        "puts it below the mean. Views drawn again did not show the gripper or what the task is about."
    )
    return section


def _success_cell(group: Group, condition: str) -> Cell:
    known = success_under(group, condition)
    return _cell(percent(known) if known else "-", group, condition)


def _cell(text: str, group: Group, *conditions: str) -> Cell:
    """What is known of a group where all these conditions were run; it tells of seeds that lack one."""
    known = len(runs_under(group, *conditions))
    return Cell(text, tag=f"{known} of {len(group.runs)} seeds" if 0 < known < len(group.runs) else "")


def _retention_table(methods: Sequence[Method], task: str, levels: Sequence[str]) -> Table:
    shifted = [level for level in levels if level != NOMINAL]
    rows = []
    for method in methods:
        group = method.groups[task]
        ratios = {level: retention_under(group, level) for level in shifted}
        if any(ratios.values()):
            cells = [_cell(share_left(ratio), group, NOMINAL, level) for level, ratio in ratios.items()]
            rows.append(Row([name_of(method), *cells, _area(group, levels), *_worst(group, levels)]))
    notes = [] if len(rows) == len(methods) else [f"Without success at {NOMINAL}, or without {NOMINAL}, there is no retention."]
    headings = ["method", *shifted, "area", "worst azimuth, success", "which is"]
    return Table(headings, rows, f"{task}: retention, success as a share of that at {NOMINAL} [95 %]", notes if rows else [])


def _area(group: Group, levels: Sequence[str]) -> Cell:
    own = levels_of(group, levels)
    cell = _cell(share_left(area_under(group, levels)), group, *own)
    return cell if own[-1:] == list(levels[-1:]) or cell.text == "-" else replace(cell, text=f"{cell.text} to {own[-1]}")


def _worst(group: Group, levels: Sequence[str]) -> list[Cell]:
    """Success in the worst azimuth bin, and where that is."""
    if (worst := worst_azimuth_under(group, levels)) is None:
        return _dashes(2)
    low, high = worst["ci95"]
    return [Cell(rate(worst["success"], (low, high))), Cell(f"{worst['low']:+.0f} to {worst['high']:+.0f}°, n {worst['episodes']}")]


def _where_cameras_stood(conditions: Iterable[Condition]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Azimuth, elevation and success of all episodes whose views are known."""
    known = [each for each in conditions if {"azimuth", "elevation"} <= each.outside.keys()]
    empty = np.empty(0)
    azimuth = np.concatenate([empty, *(each.outside["azimuth"] for each in known)])
    elevation = np.concatenate([empty, *(each.outside["elevation"] for each in known)])
    return azimuth, elevation, np.concatenate([empty, *(each.own.success for each in known)])


def _rejected(methods: Sequence[Method], task: str, condition: str) -> str:
    """The share of drawn views that were refused."""
    runs = [run for method in methods for run in view_runs(method.groups[task]) if condition in run.conditions]
    drawn = sum(run.conditions[condition].drawn for run in runs)
    return f"{100 * sum(run.conditions[condition].rejected for run in runs) / drawn:.1f} %" if drawn else "-"


def _ceilings(methods: Sequence[Method], task: str, levels: Sequence[str]) -> tuple[Table, list[str]]:
    """How far each method is below one that was trained at that very view; and how to come by ceilings that lack."""
    cameras = {level: f"{level}:shell" for level in levels if level != NOMINAL}
    rows, lacking = [], []
    for method in methods:
        cells, wanted = [], []
        for level, camera in cameras.items():
            ceiling = ceiling_of(method, camera, methods)
            if ceiling is method:
                cells.append(Cell("is the ceiling"))
                continue
            found = effects([(ceiling, method)], [level]) if ceiling and task in ceiling.groups else []
            cells.append(Cell(points(found[0].estimate) if found else "-"))
            if not found and method.settings["camera"] != camera:
                wanted.append(camera)
        if any(cell.text not in ("-", "is the ceiling") for cell in cells):
            rows.append(Row([name_of(method), *cells]))
        if wanted:
            lacking.append((method, wanted[-1]))
    notes = []
    if lacking:
        method, camera = lacking[0]
        which = "Some ceilings are lacking" if rows else f"No ceiling was run for {task}"
        notes = [
            f"{which}: policies trained at the very shell that they are judged at. The one for {method.label}: "
            f"{_training(method, task, camera)}"
        ]
    return Table(["method", *cameras], rows, f"{task}: gap to the ceiling, points [95 %]"), notes


def _training(method: Method, task: str, camera: str) -> str:
    """The command that trains a method's policies at another camera setting."""
    run = view_runs(method.groups[task])[0]
    settings, by = run.settings, "imitation" if "names.policy" in run.settings else "rl"
    seeds = ",".join(str(seed) for seed in method.groups[task].seeds)
    try:
        trained = (Path(run.summary["run"]) / "overrides.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, KeyError, TypeError):
        trained = [f"encoder={settings['names.encoder']}", f"task={task}", f"steps={settings['steps']}"]
        learner = "policy" if by == "imitation" else "agent"
        trained += [f"{learner}={settings[f'names.{learner}']}"] if f"names.{learner}" in settings else []
        trained += [f"weights={settings['weights']}"] if settings.get("weights") else []
        trained += [f"views=[{','.join(settings['views'])}]"] if isinstance(settings.get("views"), list) else []
    trained = [each for each in trained if not each.startswith(("camera_input=", "benchmark=", "cell="))]
    changes = {"camera": camera, "seed": seeds}
    return f"{command_line(trained, changes, ',' in seeds, COMMANDS[by])}, then python run_viewpoint.py run=FOLDER for each"


def _all_tasks(arena: Arena, where: str) -> Section | None:
    """Interquartile means over tasks."""
    if len(arena.tasks) < 2:
        return None
    levels = titles(arena.methods, "level")
    rows = []
    for method in arena.methods:
        at = {level: under(method, level) for level in levels}
        whole = {level: all(task in each.groups for task in arena.tasks) for level, each in at.items()}
        if any(whole.values()):
            cells = [Cell(percent(iqm_interval(at[level].scores(arena.tasks))) if whole[level] else "-") for level in levels]
            rows.append(Row([name_of(method), Cell(str(method.seeds(arena.tasks))), *cells]))
    known = {
        level: [
            references([under(method, level).groups[task] for method in arena.methods if task in under(method, level).groups], "expert")
            for task in arena.tasks
        ]
        for level in levels
    }
    if all(all(each) for each in known.values()):
        scores = {level: iqm_interval(Scores([[outcomes.success for outcomes in each] for each in known[level]])) for level in levels}
        rows.append(Row([reference("expert"), Cell("-"), *(Cell(percent(scores[level])) for level in levels)], own=False))
    if not rows:
        return None
    table = Table(["method", "seeds", *levels], rows)
    note = (
        f"Interquartile mean of the success of all seeds on {counted(len(arena.tasks), 'task')}, with a stratified bootstrap over seeds "
        "within each task and chance between episodes, whichever is wider (Agarwal et al. 2021)."
    )
    return Section(f"Levels, all tasks together{where}", tables=[table], small=[note])


# ---- controls --------------------------------------------------------------------------------------------------------------------


def _effects(arena: Arena, where: str) -> Section | None:
    """Each effect beside that of the control arm."""
    levels = titles(arena.methods, "level")
    if not levels:
        return None
    untrained = [
        (method, control) for method in arena.methods if method.arm == "pretrained" and (control := control_of(method, arena.methods))
    ]
    regimes = [(method, fixed) for method in arena.methods if (fixed := fixed_of(method, arena.methods))]
    found = {"untrained": effects(untrained, levels), "fixed": effects(regimes, levels)}
    section = Section(f"Against the control arms{where}")
    everything = [effect for each in found.values() for effect in each]
    if not everything:
        section.lead = "These runs do not say."
        section.text = [
            "No control arm was run: neither the same policies with an untrained encoder (encoder=random) nor, for training with moved "
            "cameras, the same ones trained at camera=L0. Without them nothing tells what pretraining or the training's cameras add."
        ]
        return section
    called = [effect for effect in everything if effect.outcome in ("better", "worse")]
    tested = [effect for effect in everything if effect.enough]
    if called:
        words = [f"{effect.method.label} is {effect.outcome} than {effect.control.label} at {effect.condition}" for effect in called]
        section.lead = (
            f"{'; '.join(words)}." if len(words) <= 6 else f"{len(words)} of {len(tested)} differences are called; see the tables."
        )
    elif tested:
        section.lead = "No difference is shown."
    else:
        section.lead = f"Nothing is called: {FEW}, which needs {CLAIM_SEEDS} training seeds and {CLAIM_EPISODES} episodes per level."
    title = "Pretrained against untrained encoders: success, points [95 %]"
    section.tables.append(_effect_table(title, found["untrained"], levels))
    title = "Training with moved cameras against training with nominal ones: success, points [95 %]"
    section.tables.append(_effect_table(title, found["fixed"], levels))
    section.tables = [table for table in section.tables if table.rows]
    paired = any(effect.seeds >= CLAIM_SEEDS for effect in everything)
    section.small.append(
        "Differences are the mean over tasks, "
        + (
            "paired by seed and episode where both have the same seeds, five or more. "
            if paired
            else "not paired, which needs five seeds. "
        )
        + "All differences of a table that are tested are one family with Holm's correction, which makes their intervals wider than 95 %. "
        "Rows of controls tell what the same change does to an encoder that learned nothing: an effect that is there too is none of "
        "pretraining."
    )
    return section


def _effect_table(title: str, found: Sequence[Effect], levels: Sequence[str]) -> Table:
    """A row for each method and control; rows of methods that are controls themselves stand below the ones they belong to."""
    pairs = list({(id(effect.method), id(effect.control)): (effect.method, effect.control) for effect in found}.values())
    pairs.sort(key=lambda pair: pair[0].arm != "pretrained")
    rows = []
    for method, control in pairs:
        at = {effect.condition: effect for effect in found if effect.method is method and effect.control is control}
        seeds = min(effect.seeds for effect in at.values())
        cells = [name_of(method), Cell(control.label, control.colour), Cell(str(seeds))]
        rows.append(Row([*cells, *(_effect_cell(at.get(level)) for level in levels)], own=method.arm == "pretrained"))
    return Table(["method", "against", "seeds", *levels], rows, title)


def _effect_cell(effect: Effect | None) -> Cell:
    if effect is None:
        return Cell("-")
    return Cell(points(effect.estimate, effect.level), tag=effect.outcome if effect.outcome in ("better", "worse") else "")


# ---- where the camera stood, and what it saw -------------------------------------------------------------------------------------


def _maps(arena: Arena, where: str, suffix: str) -> Section | None:
    """Success over azimuth and elevation of the outside camera."""
    section = Section(f"Where the camera stood{where}")
    for task in arena.tasks:
        panels = []
        for method in [method for method in arena.methods if task in method.groups]:
            conditions = [
                condition
                for run in view_runs(method.groups[task])
                for condition in run.conditions.values()
                if condition.kind == "level" and condition.level
            ]
            azimuth, elevation, success = _where_cameras_stood(conditions)
            if np.abs(azimuth).max(initial=0) > 0:
                panels.append((method.label, azimuth, elevation, success))
        if panels:
            left = f"; the first {MAPS} of {len(panels)} methods" if len(panels) > MAPS else ""
            caption = (
                f"{task}: success in % by where the outside camera stood, seen from above: azimuth around (0° is the nominal camera), "
                f"elevation outwards, {AZIMUTH_BINS} x {ELEVATION_RINGS} cells, all levels above {NOMINAL} and all seeds together{left}. "
                f"Cells with fewer than {CELL_EPISODES} episodes are hatched. Cells far out are of higher levels, where the other factors "
                "are moved more too."
            )
            section.figures.append(Figure(f"views-{slug(task)}{suffix}", draw_views(panels[:MAPS]), caption, wide=True))
    return section if section.figures else None


def _strip(arena: Arena, where: str, suffix: str) -> Section | None:
    """What the cameras saw, of one run for each task and choice of views."""
    section = Section(f"What the cameras saw{where}")
    seen = set()
    for run in [run for method in arena.methods for group in method.groups.values() for run in view_runs(group)]:
        what = (tuple(run.tasks), str(run.settings.get("views")), tuple(run.conditions))
        path = run.path / "strip.png"
        if what in seen or not path.is_file() or not 0 < path.stat().st_size <= STRIP_BYTES:
            continue
        seen.add(what)
        caption = f"{', '.join(run.tasks)}: starts of episodes as the policy's cameras saw them at each level. From {run.path}."
        section.figures.append(Figure(f"strip-{len(seen)}{suffix}", path.read_bytes(), caption, wide=True))
    return section if section.figures else None


def _films(arena: Arena, where: str, room: int) -> Section | None:
    """A success and a failure at each level, of the first run of each method that filmed them; of many methods at the ends alone.

    Args:
        room: bytes.
    """
    levels = titles(arena.methods, "level")
    shown = levels if len(levels) * len(arena.methods) <= FILMED else list(dict.fromkeys([*levels[:1], *levels[-1:]]))
    films, left_out = [], 0
    for method in arena.methods:
        runs = [run for group in method.groups.values() for run in view_runs(group)]
        for level, kind in product(shown, ("success", "failure")):
            path = next((path for run in runs if (path := run.path / "videos" / f"{level}-{kind}.mp4").is_file()), None)
            if path and 0 < (size := path.stat().st_size) <= min(FILM_BYTES, room):
                room -= size
                films.append(Film(path.read_bytes(), f"{method.label}, {level}: {kind}"))
            elif path:
                left_out += 1
    notes = [f"Of these {counted(len(arena.methods), 'method')} films of {' and '.join(shown)} alone."] if shown != levels else []
    notes += [f"{counted(left_out, 'film')} would make the page too large, or cannot be read: see the runs' folders."] if left_out else []
    return Section(f"Films under moved cameras{where}", films=films, small=notes) if films else None


# ---- presets, factors, controls --------------------------------------------------------------------------------------------------


def _presets(arena: Arena, where: str) -> Section | None:
    """Our figures under the published ranges and the published figures; and our figures under camera settings that nobody published."""
    ranges = _published(arena)
    if not (presets := titles(arena.methods, "preset")):
        return None
    section = Section(f"{'Published settings on our tasks' if ranges else 'Other camera settings'}{where}")
    for task in arena.tasks:
        methods = [method for method in arena.methods if task in method.groups]
        headings = ["method", "success [95 %]", "retention [95 %]", "expert", "views drawn again"]
        rows = [row for preset in presets if preset in ranges for row in _preset_rows(methods, task, preset, [preset, ranges[preset]])]
        title = f"{task}: the ranges are the publications', the task is not"
        section.tables.append(Table(["preset", "published range", *headings], rows, title))
        rows = [row for preset in presets if preset not in ranges for row in _preset_rows(methods, task, preset, [preset])]
        section.tables.append(Table(["cameras", *headings], rows, f"{task}: camera settings that nobody published"))
    if ranges:
        rows = [Row([Cell(text) for text in figures]) for figures in published.FIGURES]
        headings = ["benchmark", "shift or policy", "published", "source"]
        section.tables.append(Table(headings, rows, "What the publications measured on their tasks"))
        section.text, section.small = list(published.DIFFERENCES), [published.SOURCES]
    section.tables = [table for table in section.tables if table.rows]
    return section


def _published(arena: Arena) -> dict[str, str]:
    """The published ranges of those presets that have some."""
    runs = [run for method in arena.methods for group in method.groups.values() for run in view_runs(group)]
    return {title: condition.published for run in runs for title, condition in run.conditions.items() if condition.published}


def _preset_rows(methods: Sequence[Method], task: str, preset: str, about: Sequence[str]) -> list[Row]:
    """A row for each method that was run under a preset; what it is about stands in the first one."""
    rows = []
    for method in (method for method in methods if runs_under(method.groups[task], preset)):
        group = method.groups[task]
        cells = [*(Cell("″" if rows else text) for text in about), name_of(method), _success_cell(group, preset)]
        cells.append(_cell(share_left(retention_under(group, preset)), group, NOMINAL, preset))
        rows.append(Row([*cells, _expert_cell([method], task, preset), Cell(_rejected([method], task, preset))]))
    return rows


def _others(arena: Arena, where: str) -> Section | None:
    """Factors moved alone, and controls of the evaluation."""
    section = Section(f"Single factors and controls{where}")
    for task in arena.tasks:
        methods = [method for method in arena.methods if task in method.groups]
        for kind, title, meaning in (
            ("factor", "one factor moved alone, success [95 %]", "Each factor alone as far as its level has it, all others nominal."),
            ("control", "controls, success [95 %] and the difference to the same level", CONTROLS),
        ):
            conditions = titles(methods, kind)
            if not conditions:
                continue
            rows = []
            for method in methods:
                group = method.groups[task]
                if kind == "control":
                    cells = [_control_cell(group, condition) for condition in conditions]
                else:
                    cells = [_success_cell(group, condition) for condition in [NOMINAL, *conditions]]
                rows.append(Row([name_of(method), *cells]))
            headings = ["method", *([NOMINAL] if kind == "factor" else []), *conditions]
            cells = [_expert_cell(methods, task, condition) for condition in headings[1:]]
            rows.append(Row([reference("expert"), *cells], own=False))
            section.tables.append(Table(headings, rows, f"{task}: {title}", [meaning]))
    return section if section.tables else None


CONTROLS = (
    "together: all cameras share one draw. alone: that camera alone is moved. background: random table, floor, light and distractors, "
    "since a fixed background leaks the pose (or fixed ones, where the run's are random). calibration: what the policy is told of its "
    "cameras is wrong by so many degrees and centimetres. In brackets behind success: the difference in points to the same policies at "
    "the same level without the control, paired by episode where there are two seeds or more."
)


def _control_cell(group: Group, condition: str) -> Cell:
    cell = _success_cell(group, condition)
    base = _base(group, condition)
    difference = changed_by(group, condition, base) if base else None
    return replace(cell, text=f"{cell.text} ({points(difference)})") if difference else cell


def _base(group: Group, condition: str) -> str:
    """The level at which a control was tried."""
    levels = [run.conditions[condition].camera[:2] for run in runs_under(group, condition)]
    return levels[0] if levels and runs_under(group, levels[0]) else ""


# ---- encoders without policies ---------------------------------------------------------------------------------------------------


def _drift(views: Views) -> Section | None:
    """Drift of features and of a probe by level, and whether that predicts what policies keep."""
    policies = [
        (method, task, [run for run in view_runs(group) if run.drift.get("conditions")])
        for arena in views.arenas
        for method in arena.methods
        for task, group in method.groups.items()
    ]
    policies = [each for each in policies if each[2]]
    named = {(method.label, method.colour, task): [run.drift for run in runs] for method, task, runs in policies}
    for encoder in views.encoders:
        named.setdefault((encoder.label, REFERENCE_COLOUR, encoder.task), []).append(encoder.drift)
    if not named:
        return None
    found = list(dict.fromkeys(name for drifts in named.values() for drift in drifts for name in drift["conditions"]))
    section = Section("Encoders without a policy")
    headings = ["encoder", "task", "runs", *found]
    rows = [_drift_row(Cell(label, colour), task, drifts, found, "feature_drift") for (label, colour, task), drifts in named.items()]
    section.tables.append(Table(headings, rows, "feature drift [95 %]"))
    section.tables.append(Table(headings, _probe_rows(named, found), "error of a probe for where the objects are, cm [95 %]"))
    levels = [name for name in found if name[1:].isdigit() and name.startswith("L")]
    curves = [Curve(f"{label}, {task}", colour, "-", _drift_points(drifts, levels)) for (label, colour, task), drifts in named.items()]
    curves = [curve for curve in curves if len(curve.points) > 1]
    if curves:
        caption = "Feature drift by level: 0 is blind to the camera, 1 is as far as another scene; 95 % bands."
        section.figures.append(Figure("drift", draw_levels(curves, "feature drift", top=None, share=False, marks=False), caption))
    _add_prediction(section, policies, [level for level in levels if level != NOMINAL])
    section.small.append(
        "Feature drift: how far a state's features move with the camera, over the distance between two scenes. Probe: ridge regression "
        "fitted at the nominal cameras; fitted at that level: what is left to know in its own pictures, the ceiling for a probe. No "
        "picture: the error of one who knows the mean place alone. Of several runs the mean, and the widest ends of their intervals."
    )
    return section


def _probe_rows(named: Mapping[tuple[str, str, str], Sequence[dict]], found: Sequence[str]) -> list[Row]:
    """The error of each probe, what a probe fitted at that very level would make, and what is known without a picture."""
    rows = []
    for (label, colour, task), drifts in named.items():
        rows.append(_drift_row(Cell(label, colour), task, drifts, found, "probe_cm"))
        if any("ceiling_cm" in facts for drift in drifts for facts in drift["conditions"].values()):
            rows.append(_drift_row(Cell("fitted at that level"), task, drifts, found, "ceiling_cm", own=False))
    for task in dict.fromkeys(task for _, _, task in named):
        blind = [
            drift["no_picture_cm"]
            for (_, _, other), drifts in named.items()
            for drift in drifts
            if other == task and "no_picture_cm" in drift
        ]
        if blind:
            cells = [reference("no picture"), Cell(task), Cell(str(len(blind))), *[Cell(f"{np.mean(blind):.1f}")] * len(found)]
            rows.append(Row(cells, own=False))
    return rows


def _drift_row(name: Cell, task: str, drifts: Sequence[dict], found: Sequence[str], key: str, own: bool = True) -> Row:
    return Row([name, Cell(task), Cell(str(len(drifts))), *(Cell(_drift_text(drifts, level, key)) for level in found)], own)


def _drift_text(drifts: Sequence[dict], name: str, key: str) -> str:
    """The mean over runs and the widest ends of their intervals."""
    known = [facts for drift in drifts if key in (facts := drift["conditions"].get(name, {}))]
    if not known:
        return "-"
    value, ends = np.mean([each[key] for each in known]), [each[f"{key}_ci95"] for each in known if each.get(f"{key}_ci95")]
    digits = 1 if key.endswith("_cm") else 2
    interval = f" [{min(low for low, _ in ends):.{digits}f} to {max(high for _, high in ends):.{digits}f}]" if ends else ""
    return f"{value:.{digits}f}{interval}"


def _drift_points(drifts: Sequence[dict], levels: Sequence[str]) -> list[Point]:
    found = []
    for level in levels:
        known = [drift["conditions"][level] for drift in drifts if level in drift["conditions"]]
        if known:
            value = float(np.mean([each["feature_drift"] for each in known]))
            ends = [each.get("feature_drift_ci95") or (value, value) for each in known]
            found.append(Point(int(level[1:]), value, min(low for low, _ in ends), max(high for _, high in ends)))
    return found


class _Kept(NamedTuple):
    """What a policy (a method on a task) kept at a level, and what its encoder did there."""

    policy: str
    method: Method
    level: str
    drift: float
    probe: float
    kept: float


PREDICTION = (
    "Spearman's rank correlation with a bootstrap's 95 % interval over policies (methods on tasks); -1 would be a perfect prediction. All "
    "levels together it is strong even for encoders that are all alike, since higher levels mean more drift and less success; the rows of "
    "single levels tell encoders apart. Policies with other training cameras are in it as well, which no drift of a frozen encoder tells "
    "apart."
)


def _add_prediction(section: Section, policies: Sequence[tuple[Method, str, list[ViewRun]]], levels: Sequence[str]) -> None:
    """The rank correlation between drift and retention, and its picture."""
    found: list[_Kept] = []
    for method, task, runs in policies:
        for level in levels:
            both = [run for run in runs if level in run.drift["conditions"] and {NOMINAL, level} <= run.conditions.keys()]
            if both and (kept := retention_under(Group(list(both)), level)):
                drift, probe = (
                    float(np.mean([run.drift["conditions"][level][key] for run in both])) for key in ("feature_drift", "probe_cm")
                )
                found.append(_Kept(f"{method.label}, {task}", method, level, drift, probe, kept.value))
    if not found:
        return
    rows, known = [], False
    for level in [*levels, None]:
        chosen = [each for each in found if level in (None, each.level)]
        units = [each.policy for each in chosen]
        cells = [Cell(level or "all levels together"), Cell(str(len(set(units))))]
        for values in ([each.drift for each in chosen], [each.probe for each in chosen]):
            correlation = rank_correlation(values, [each.kept for each in chosen], units)
            known |= correlation is not None
            text = f"{correlation.value:+.2f} [{correlation.low:+.2f} to {correlation.high:+.2f}]" if correlation else "-"
            cells.append(Cell(text))
        rows.append(Row(cells))
    if known:
        headings = ["level", "policies", "feature drift and retention", "probe error and retention"]
        section.tables.append(Table(headings, rows, "Does it predict what policies keep?", [PREDICTION]))
    else:
        section.small.append(
            "Whether drift predicts what policies keep is not told here: a rank correlation needs five policies (methods on tasks) or more "
            "that differ."
        )
    picture = draw_drift([(each.method.label, each.method.colour, int(each.level[1:]), each.drift, each.kept) for each in found])
    caption = "Retention of policies over the feature drift of their encoders, level by level."
    section.figures.append(Figure("drift-retention", picture, caption))


# ---- runs ------------------------------------------------------------------------------------------------------------------------


def view_runs_table(views: Views, out: Path) -> Table:
    """Where each run is, and what makes it again."""
    rows = []
    for method in (method for arena in views.arenas for method in arena.methods):
        for task, group in method.groups.items():
            for run in view_runs(group):
                cells = [link_to(run.path, out), name_of(method), Cell(task), Cell(str(run.seed)), Cell(f"{len(run.conditions)}")]
                rows.append(Row([*cells, Cell(view_command(run), code=True)]))
    for encoder in views.encoders:
        cells = [link_to(encoder.path, out), Cell(encoder.label), Cell(encoder.task), Cell(str(encoder.seed))]
        rows.append(Row([*cells, Cell(str(len(encoder.drift["conditions"]))), Cell(view_command(encoder), code=True)]))
    return Table(["run", "method", "task", "seed", "cameras", "run it again"], rows)


def view_command(run: ViewRun | EncoderRun) -> str:
    """What makes a viewpoint run again."""
    try:
        words = (run.path / "overrides.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"the settings of {run.path / 'config.yaml'}"
    return f"python run_viewpoint.py {shlex.join(words)}"


# ---- small things ----------------------------------------------------------------------------------------------------------------


def _dashes(number: int) -> list[Cell]:
    return [Cell("-") for _ in range(number)]


def view_facts(views: Views) -> list[dict]:
    """For report.json: for each method and task what every condition came to."""
    found = []
    for arena in views.arenas:
        for method in arena.methods:
            for task, group in method.groups.items():
                levels = titles([method], "level")
                known = [title for kind in KINDS for title in titles([method], kind) if runs_under(group, title)]
                area = area_under(group, levels)
                facts = {"label": method.label, "arm": method.arm, "task": task, "train_camera": method.settings["camera"]}
                facts |= {"conditions": {title: _condition_facts(group, title) for title in known}}
                facts |= {"runs": [str(run.path) for run in group.runs]}
                facts |= {"retention_area": area.value if area else None, "retention_area_ci95": [area.low, area.high] if area else None}
                found.append({**facts, "worst_azimuth_bin": worst_azimuth_under(group, levels)})
    return found


def _condition_facts(group: Group, title: str) -> dict:
    runs, success, kept = runs_under(group, title), success_under(group, title), retention_under(group, title)
    assert success is not None
    facts = {"kind": runs[0].conditions[title].kind, "success": success.value, "success_ci95": [success.low, success.high]}
    facts |= {"seeds": [run.seed for run in runs], "episodes": len(runs[0].conditions[title].own.success)}
    return facts | {"retention": kept.value if kept else None, "retention_ci95": [kept.low, kept.high] if kept else None}
