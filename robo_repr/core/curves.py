"""Curves of a run and of groups of runs, beside the random policy and the expert."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robo_repr.core.errors import Failure
from robo_repr.core.files import write_whole
from robo_repr.core.metrics import read_metrics
from robo_repr.core.report.figures import plain
from robo_repr.core.report.runs import Group, contest_name, counted, mean_of, over_seeds, references, series, success_of
from robo_repr.core.stats import wilson
from robo_repr.core.summary import REFERENCES, find_evaluation, is_number, read_evaluations

STEPS = {"rl": "steps in the environment", "imitation": "gradient updates"}  # what each command counts


def draw_curve(run: Path) -> Path:
    """Draws a run's success and return over its steps, beside the random policy and the expert, into ``curve.png`` of its folder.

    Of a run on demonstrations the loss stands in place of the return.

    Raises:
        Failure: the folder cannot be written.
    """
    rows = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        config = {}
    command = "imitation" if "policy" in config else "rl"
    evaluations = read_evaluations(run)
    figure, (panels,) = _panels([", camera ".join(str(config[key]) for key in ("task", "eval_camera") if config.get(key))])
    episodes_asked = config.get("eval_episodes")
    if isinstance(config.get("task"), list) and episodes_asked:
        episodes_asked *= len(config["task"])
    for panel, kind in zip(panels, ("success", "return"), strict=True):
        panel.set(xlabel=STEPS[command])
        trained_on = "loss" if command == "imitation" and kind == "return" else f"train/{kind}"
        steps, values = series(rows, trained_on)
        if len(steps) or command == "rl":
            panel.plot(steps, values, color="tab:blue", linewidth=1.8, alpha=0.9, label="training", marker="o" if len(steps) == 1 else None)
        if trained_on == "loss":
            panel.set(ylabel="loss", xlim=(0, None))
            continue
        steps, values = series(rows, f"eval/{kind}")
        bars = None
        if kind == "success":
            episodes = dict(zip(*series(rows, "eval/episodes"), strict=True))
            numbers = [int(episodes.get(step, 0)) for step in steps]
            ends = [wilson(round(value * n), n) if n else (value, value) for value, n in zip(values, numbers, strict=True)]
            bars = np.abs(np.reshape(ends, (-1, 2)).T - values)
        label = "evaluation" + (" [95 %, Wilson]" if kind == "success" else "")
        panel.errorbar(steps, values, bars, color="tab:orange", fmt="o", markersize=5, capsize=3, elinewidth=1.3, label=label, zorder=3)
        for reference in REFERENCES:
            row = find_evaluation(evaluations, reference, config.get("eval_camera"), episodes_asked)
            _draw_reference(panel, reference, row.get(kind) if row else None)
        panel.set(xlim=(0, None))
    _add_legend(figure, panels)
    return _save(figure, run / "curve.png")


def draw_groups(groups: Sequence[Group], path: Path) -> Path:
    """Draws the evaluations of groups over their steps: the mean over seeds, and from the worst to the best seed as a band.

    Raises:
        Failure: the file cannot be written.
    """
    contests = list(dict.fromkeys((group.contest, group.command) for group in groups))
    figure, rows = _panels([contest_name(contest) for contest, _ in contests])
    ranked = sorted(groups, key=success_of, reverse=True)  # the legend's order is then that of the curves
    for panels, (contest, command) in zip(rows, contests, strict=True):
        rivals = [group for group in groups if (group.contest, group.command) == (contest, command)]
        for panel, kind in zip(panels, ("success", "return"), strict=True):
            for index, group in enumerate(ranked):
                if group in rivals:
                    _draw_group(panel, group, kind, index)
            for reference in REFERENCES:
                known = references(rivals, reference)
                _draw_reference(panel, reference, np.mean([mean_of(outcomes, kind) for outcomes in known]) if known else None)
            panel.set(xlim=(0, None), xlabel=STEPS[command])
    _add_legend(figure, [panels[0] for panels in rows])
    return _save(figure, path)


def _panels(titles: Sequence[str]):
    """A figure with two panels a row, success and return. Without pyplot, which keeps a list of all figures and looks for a screen."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 0.6 + 3.4 * len(titles)), layout="constrained", dpi=120)
    rows = figure.subplots(len(titles), 2, squeeze=False)
    for (left, right), title in zip(rows, titles, strict=True):
        left.set(ylabel="success", ylim=(-0.04, 1.04))
        left.yaxis.set_major_formatter(PercentFormatter(1))
        right.set(ylabel="return")
        for panel in (left, right):
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        left.set_title(plain(title), fontsize=10, loc="left")
    return figure, rows


def _draw_reference(panel: Any, policy: str, value: Any) -> None:
    if is_number(value):
        style = {"random": ":", "expert": "--"}[policy]
        panel.axhline(value, color="0.35", linestyle=style, linewidth=1.4, label=REFERENCES[policy], zorder=1)


def _draw_group(panel: Any, group: Group, kind: str, index: int) -> None:
    colour = f"C{index % 10}"
    style = ("-", "--", "-.", ":")[index // 10 % 4]
    curves = [run.curve(f"eval/{kind}") for run in group.runs]
    label = f"{group.label} ({counted(len(curves), 'seed')})"
    if not all(len(steps) and steps[-1] > 0 for steps, _ in curves):  # a policy that does not learn
        value = np.mean([mean_of(run.own, kind) for run in group.runs])
        panel.axhline(value, color=colour, linestyle=style, linewidth=1.4, label=label)
        return
    grid, values = over_seeds(curves)
    panel.plot(grid, values.mean(axis=0), color=colour, linestyle=style, marker="o", markersize=3.5, linewidth=1.8, label=label, zorder=3)
    if len(curves) > 1:
        panel.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _add_legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend below all panels, where it hides nothing; each name once, the reference lines last."""
    entries = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    for name in REFERENCES.values():
        if name in entries:
            entries[name] = entries.pop(name)
    if entries:
        longest = max(map(len, entries))
        columns = max(1, min(5, len(entries), 140 // (longest + 6)))
        figure.legend(entries.values(), map(plain, entries), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _save(figure: Any, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise Failure(
            f"{path} cannot be written ({error.strerror or error}). Make room or make the folder writable, then start it again."
        ) from error
    return path
