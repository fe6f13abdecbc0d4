"""Viewpoint runs: policies and encoders under moved cameras, read from their folders alone, and sorted into methods."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robo_repr.core.metrics import read_metrics
from robo_repr.core.report.aggregate import Interval
from robo_repr.core.report.compare import success_interval
from robo_repr.core.report.methods import Arena, Method, arenas, difference_over
from robo_repr.core.report.runs import (
    NOT_COMPARED,
    FinishedRun,
    Group,
    Outcomes,
    Unusable,
    check_settings,
    ended_summary,
    outcomes_of_one,
    read_settings,
    references,
    unusable_where_broken,
    word,
)
from robo_repr.core.retention import Ratio, retention, retention_area, worst_azimuth_bin
from robo_repr.core.stats import Estimate, difference, difference_of_policies, holm
from robo_repr.core.summary import is_number

CLAIM_SEEDS, CLAIM_EPISODES = 5, 100  # of each level; fewer may be shown, and nothing is called
NOMINAL = "L0"
KINDS = ("level", "preset", "factor", "control")
MOUNTED = "wrist"  # the camera that rides on the robot: to stand beside the table at an azimuth is for the others
# Settings of the training's own evaluations say nothing of the policy.
OF_EVALUATIONS = ("eval_camera", "eval_starts", "evaluations", "score", "eval_every")
OF_CAMERAS = ("camera", "camera_input")  # what regimes choose


@dataclass(frozen=True)
class Condition:
    """How a policy fared under one camera setting.

    Attributes:
        kind: one of `KINDS`.
        level: of the shell, for a level.
        expert: the same episodes with the expert, which sees no picture; None where it did not run.
        factors: per camera how each episode's view deviated from the nominal one, such as azimuth in degrees (n,).
        drawn, rejected: views, and how many of them were drawn again because they did not show what they should.
        checkpoint: SHA-256 of the policy.
        published: the ranges of a preset as they were published, for tables.
    """

    kind: str
    level: int | None
    camera: str
    own: Outcomes
    expert: Outcomes | None
    factors: dict[str, dict[str, np.ndarray]]
    drawn: int
    rejected: int
    checkpoint: str
    published: str

    @property
    def outside(self) -> dict[str, np.ndarray]:
        """The factors of the first camera that does not ride on the robot; empty where there is none."""
        return next((factors for name, factors in self.factors.items() if name != MOUNTED), {})

    def part(self, index: int, parts: int) -> "Condition":
        """The condition on one task, where the episodes of several stand one task after the other."""
        factors = {name: {key: np.split(values, parts)[index] for key, values in each.items()} for name, each in self.factors.items()}
        expert = self.expert.part(index, parts) if self.expert else None
        return replace(self, own=self.own.part(index, parts), expert=expert, factors=factors)


@dataclass(frozen=True)
class ViewRun(FinishedRun):
    """A policy that was evaluated under moved cameras. Its settings are those it was trained with; `own` is the first condition's.

    Attributes:
        conditions: by title; see `_title`.
        drift: drift.json, or {}.
    """

    conditions: dict[str, Condition] = field(default_factory=dict)
    drift: dict = field(default_factory=dict)

    def under(self, condition: str) -> "ViewRun":
        """The run as if this condition were all its evaluation."""
        found = self.conditions[condition]
        return replace(self, own=found.own, references={"expert": found.expert} if found.expert else {})

    def per_task(self) -> list["ViewRun"]:
        if len(self.tasks) == 1:
            return [self]
        parts = []
        for index, task in enumerate(self.tasks):
            conditions = {title: condition.part(index, len(self.tasks)) for title, condition in self.conditions.items()}
            settings = {**self.settings, "task": task, "tasks": self.tasks}
            drift = self.drift if self.drift.get("task") == task else {}  # it is measured on one of them
            part = replace(self, settings=settings, conditions=conditions, drift=drift)
            parts.append(part.under(next(iter(conditions))))
        return parts


@dataclass(frozen=True)
class EncoderRun:
    """An encoder that was judged without a policy.

    Attributes:
        label: its name, and what else is not as usual.
        drift: drift.json.
    """

    path: Path
    label: str
    task: str
    seed: int
    drift: dict


@dataclass
class Views:
    """All viewpoint runs of a report.

    Attributes:
        arenas: methods whose success compares, by `sort_views`; the runs of their groups are `ViewRun`.
    """

    arenas: list[Arena]
    encoders: list[EncoderRun]

    @property
    def runs(self) -> list[ViewRun]:
        """Those of policies; one with several tasks once."""
        parts = [run for arena in self.arenas for method in arena.methods for group in method.groups.values() for run in view_runs(group)]
        return list({run.path: run for run in parts}.values())

    @property
    def paths(self) -> list[Path]:
        return [run.path for run in [*self.runs, *self.encoders]]


def is_viewpoint(folder: Path) -> bool:
    """Whether a folder's config.yaml is one of run_viewpoint.py."""
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and {"run", "levels", "presets", "factors", "controls"} <= settings.keys()


def read_views(folders: Sequence[Path], left_out: list[tuple[Path, str]]) -> Views:
    """Reads the finished viewpoint runs in these folders.

    Several evaluations of one policy on the same episodes become one run with the conditions of all.

    Args:
        left_out: gets what cannot be used, with the reason. Of two runs with equal settings and seed the one that ended later is used.
    """
    found: list[ViewRun] = []
    encoders: list[EncoderRun] = []
    for folder in folders:
        try:
            run = _read_view(folder)
            (encoders if isinstance(run, EncoderRun) else found).append(run)  # type: ignore[arg-type]
        except Unusable as error:
            left_out.append((folder, str(error)))
    return Views(sort_views(_groups(found, left_out)), _newest(encoders, left_out))


def _groups(found: list[ViewRun], left_out: list[tuple[Path, str]]) -> list[Group]:
    """Policies that differ in their seed alone, each once, with the conditions of all its evaluations."""
    by_settings: dict[str, dict[int, ViewRun]] = {}
    for run in sorted(found, key=lambda run: -(run.path / "summary.json").stat().st_mtime):
        kept = {key: value for key, value in run.settings.items() if key not in NOT_COMPARED}
        group = by_settings.setdefault(json.dumps(kept, sort_keys=True, default=str), {})
        newer = group.setdefault(run.seed, run)
        if newer is run:
            continue
        if not _same_episodes(run, newer):
            left_out.append((run.path, _replaced_by(newer.path)))
            continue
        group[run.seed] = replace(newer, conditions={**run.conditions, **newer.conditions}, drift=newer.drift or run.drift)
    order = [run.path for run in found]
    groups = [Group(sorted(group.values(), key=lambda run: run.seed)) for group in by_settings.values()]
    return sorted(groups, key=lambda group: min(order.index(run.path) for run in group.runs))


def _newest(encoders: list[EncoderRun], left_out: list[tuple[Path, str]]) -> list[EncoderRun]:
    """Each encoder's last run of each task and seed."""
    kept: dict[tuple, EncoderRun] = {}
    for run in sorted(encoders, key=lambda run: -(run.path / "summary.json").stat().st_mtime):
        newer = kept.setdefault((run.label, run.task, run.seed), run)
        if newer is not run:
            left_out.append((run.path, _replaced_by(newer.path)))
    return [run for run in encoders if run in kept.values()]


def _replaced_by(newer: Path) -> str:
    return f"has the settings and the seed of {newer}, which is newer and was used instead"


def sort_views(groups: Sequence[Group]) -> list[Arena]:
    """Sorts groups of `ViewRun` into methods, named by encoder and training regime, and methods into arenas."""
    found = arenas(groups)
    for arena in found:
        for method in arena.methods:
            method.label = _label(method)
            for group in method.groups.values():
                group.label = method.label
    return found


def view_runs(group: Group) -> list[ViewRun]:
    return [run for run in group.runs if isinstance(run, ViewRun)]


def titles(methods: Iterable[Method], kind: str) -> list[str]:
    """The conditions of a kind that any run of some methods has; levels from the lowest."""
    conditions = [
        (title, condition)
        for method in methods
        for group in method.groups.values()
        for run in view_runs(group)
        for title, condition in run.conditions.items()
        if condition.kind == kind
    ]
    conditions.sort(key=lambda each: each[1].level or 0)
    return list(dict.fromkeys(title for title, _ in conditions))


def under(method: Method, condition: str) -> Method:
    """The method as if this condition were all its evaluation, on the tasks on which any of its runs had it."""
    groups = {
        task: Group([run.under(condition) for run in view_runs(group) if condition in run.conditions], group.label)
        for task, group in method.groups.items()
    }
    return replace(method, groups={task: group for task, group in groups.items() if group.runs})


def runs_under(group: Group, *conditions: str) -> list[ViewRun]:
    """Those of its runs that had all of these conditions."""
    return [run for run in view_runs(group) if all(condition in run.conditions for condition in conditions)]


def success_of_seeds(group: Group, *conditions: str) -> list[list[np.ndarray]]:
    """For each condition, per seed what the episodes came to; of those seeds that had all of these conditions."""
    return [[run.conditions[condition].own.success for run in runs_under(group, *conditions)] for condition in conditions]


def success_under(group: Group, condition: str) -> Interval | None:
    """The mean over seeds with its 95 % interval; None where no run had the condition."""
    runs = runs_under(group, condition)
    if not runs:
        return None
    value, ends = success_interval([run.conditions[condition].own for run in runs])
    return Interval(value, *ends)


def expert_under(methods: Iterable[Method], task: str, condition: str) -> Interval | None:
    """The same of the expert, on the episodes of these methods' runs."""
    groups = [under(method, condition).groups.get(task) for method in methods]
    if not (known := references([group for group in groups if group], "expert")):
        return None
    value, ends = success_interval(known)
    return Interval(value, *ends)


def retention_under(group: Group, condition: str) -> Ratio | None:
    """See `retention`; None where no run has both the condition and the nominal cameras."""
    nominal, shifted = success_of_seeds(group, NOMINAL, condition)
    found = retention(nominal, shifted) if nominal else None
    return Ratio(1.0, 1.0, 1.0) if found and condition == NOMINAL else found


def levels_of(group: Group, levels: Iterable[str]) -> list[str]:
    """Those which any of the runs had."""
    return [level for level in levels if runs_under(group, level)]


def area_under(group: Group, levels: Sequence[str]) -> Ratio | None:
    """See `retention_area`; of those levels which any of the runs had, over the seeds that had them all."""
    levels = levels_of(group, levels)
    found = dict(zip(map(int, (level[1:] for level in levels)), success_of_seeds(group, *levels), strict=True))
    return retention_area(found) if found and all(found.values()) else None


def worst_azimuth_under(group: Group, levels: Sequence[str]) -> dict | None:
    """See `worst_azimuth_bin`; of all seeds and levels above the nominal one, where the outside camera's azimuth is known."""
    moved = [run.conditions[level] for level in levels if level != NOMINAL for run in runs_under(group, level)]
    return worst_azimuth_bin((each.outside["azimuth"], each.own.success) for each in moved if "azimuth" in each.outside)


def covered(train_camera: str, level: int) -> bool:
    """Whether cameras in training came as far as a level's shell. What presets and manifests cover is not known, and counts as not."""
    if level == 0:
        return ":shell" not in train_camera
    whole = re.fullmatch(r"(?:L0\.\.)?L([0-5])", train_camera)
    return whole is not None and level <= int(whole[1]) or train_camera == f"L{level}:shell"


def fixed_of(method: Method, methods: Iterable[Method]) -> Method | None:
    """The method that was trained with nominal cameras alone, all other settings being equal; None of itself."""
    return _trained_at(NOMINAL, method, methods) if method.settings["camera"] != NOMINAL or method.settings.get("camera_input") else None


def ceiling_of(method: Method, camera: str, methods: Iterable[Method]) -> Method | None:
    """The method that was trained with this very camera setting, all other settings being equal."""
    return _trained_at(camera, method, methods)


@dataclass
class Effect:
    """How much more often a method succeeds than its control under one condition, the mean over tasks.

    Attributes:
        seeds, episodes: the fewest of either.
        level: at which it was tested; see `holm`.
    """

    method: Method
    control: Method
    condition: str
    estimate: Estimate
    seeds: int
    episodes: int
    level: float = 0.05

    @property
    def enough(self) -> bool:
        """Whether there are as many seeds and episodes as a claim needs."""
        return self.seeds >= CLAIM_SEEDS and self.episodes >= CLAIM_EPISODES

    @property
    def outcome(self) -> str:
        """``better``, ``worse``, ``no difference shown``, or ``too few``."""
        return self.estimate.outcome(self.level) if self.enough else "too few"


def effects(pairs: Iterable[tuple[Method, Method]], conditions: Sequence[str]) -> list[Effect]:
    """Each method against its control under each condition that both had. All that are tested are one family for Holm's correction."""
    found = []
    for method, control in pairs:
        for condition in conditions:
            one, other = under(method, condition), under(control, condition)
            tasks = [task for task in one.groups if task in other.groups]
            if not tasks:
                continue
            groups = [each.groups[task] for each in (one, other) for task in tasks]
            seeds, episodes = min(len(group.runs) for group in groups), min(group.episodes for group in groups)
            found.append(Effect(method, control, condition, difference_over(one, other, tasks), seeds, episodes))
    tested = [effect for effect in found if effect.enough]
    for effect, level in zip(tested, holm([effect.estimate.p_value() for effect in tested]), strict=True):
        effect.level = level
    return found


def changed_by(group: Group, condition: str, base: str) -> Estimate | None:
    """How much more often the same policies succeed under a condition than under another; None where no run has both."""
    one, other = success_of_seeds(group, condition, base)
    if len(one) > 1:
        return difference(one, other, paired=True)
    return difference_of_policies(one, other) if one else None


def _trained_at(camera: str, method: Method, methods: Iterable[Method]) -> Method | None:
    def rest(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key not in OF_CAMERAS}

    asked = [other for other in methods if other.settings["camera"] == camera and rest(other.settings) == rest(method.settings)]
    return next((other for other in asked if not other.settings.get("camera_input")), None)


def _label(method: Method) -> str:
    """A method's label with the name of its regime in place of the settings that the regime chooses."""
    regimes = [run.summary.get("regime") for group in method.groups.values() for run in group.runs]
    regime = regimes[0] if isinstance(regimes[0], str) and regimes.count(regimes[0]) == len(regimes) else None
    camera = method.settings["camera"]
    words = [(regime or f"trained at {camera}") if each == f"camera={camera}" else each for each in method.label.split(", ")]
    return ", ".join(each for each in words if not (regime in words and each.startswith("camera_input=")))


def _same_episodes(run: ViewRun, newer: ViewRun) -> bool:
    """Whether two evaluations are of one policy on the same episodes."""
    trained = [{key: each.summary.get(key) for key in ("env_steps", "updates")} for each in (run, newer)]
    conditions = [condition for each in (run, newer) for condition in each.conditions.values()]
    return trained[0] == trained[1] and len({(condition.checkpoint, condition.own.episodes) for condition in conditions}) == 1


def _read_view(path: Path) -> ViewRun | EncoderRun:
    with unusable_where_broken():
        asked = read_settings(path / "config.yaml")
        summary = ended_summary(path)
        if summary.get("status") != "finished" or summary.get("command") != "viewpoint":
            raise Unusable("is broken: summary.json does not hold what a finished viewpoint run leaves")
        drift = _drift(path / "drift.json") if (path / "drift.json").exists() else {}
        if not (path / "trained.yaml").exists():
            return _encoder(path, asked, summary, drift)
        trained = read_settings(path / "trained.yaml")
        check_settings(trained)
        published = {name: str(facts.get("published") or "") for name, facts in (summary.get("presets") or {}).items()}
        conditions = _conditions(read_metrics(path / "views.jsonl"), asked["episodes"] * _number_of_tasks(trained), published)
        if not conditions:
            raise Unusable("is broken: no camera setting of views.jsonl was evaluated to its end")
        # Success compares where the evaluations' appearance and episodes are equal; what it was trained with is a part of the method.
        settings = {key: value for key, value in trained.items() if key not in OF_EVALUATIONS}
        settings |= {"eval_episodes": asked["episodes"], "eval_camera": None, "trained_appearance": trained.get("appearance")}
        settings["camera"] = word(trained["camera"])
        settings["appearance"] = asked.get("appearance") or trained.get("appearance")
        first = next(iter(conditions))
        return ViewRun(path, settings, summary, conditions[first].own, {}, conditions, drift).under(first)


def _number_of_tasks(settings: dict[str, Any]) -> int:
    return len(settings["task"]) if isinstance(settings["task"], list) else 1


def _encoder(path: Path, asked: dict[str, Any], summary: dict, drift: dict) -> EncoderRun:
    if not drift.get("conditions"):
        raise Unusable("has neither a policy's evaluation (trained.yaml) nor an encoder's drift (drift.json)")
    words = [str(summary["encoder"]["name"])]
    words += [f"{key}={word(asked[key])}" for key in ("variant", "weights", "readout", "appearance") if asked.get(key)]
    words += [f"views={word(summary['views'])}"] if summary.get("views") else []
    return EncoderRun(path, ", ".join(words), word(summary["task"]), int(asked.get("seed") or 0), drift)


def _drift(path: Path) -> dict:
    """What a drift.json holds; raises `Unusable` where that is none of what tables and figures are made of."""
    drift = json.loads(path.read_text(encoding="utf-8"))
    for facts in [drift, *drift["conditions"].values()]:
        numbers = [facts[key] for key in ("no_picture_cm", "feature_drift", "probe_cm", "ceiling_cm") if key in facts]
        numbers += [end for key in ("feature_drift_ci95", "probe_cm_ci95") if facts.get(key) for end in _pair(facts[key])]
        if not all(map(is_number, numbers)) or facts is not drift and not {"feature_drift", "probe_cm"} <= facts.keys():
            raise Unusable("is broken: drift.json holds no numbers")
    return drift


def _pair(ends: Any) -> tuple[Any, Any]:
    low, high = ends
    return low, high


def _conditions(rows: Sequence[dict], episodes: int, published: dict[str, str]) -> dict[str, Condition]:
    """By title, from rows of views.jsonl; of two rows of one policy and condition the later one counts.

    Rows of other episodes or of another checkpoint than the last one's do not: nothing is a share of what was won elsewhere.
    """
    whole = [row for row in rows if row.get("episodes") == episodes and row.get("policy") in ("trained", "expert")]
    by_title: dict[str, dict[str, dict]] = {}
    for row in whole:
        if all(row.get(key) == whole[-1].get(key) for key in ("seeds_sha256", "checkpoint_sha256")):
            by_title.setdefault(_title(row), {})[row["policy"]] = row
    found = {}
    for title, policies in by_title.items():
        if (row := policies.get("trained")) is None:
            continue
        own, expert = (_outcomes(policies[name]) if name in policies else None for name in ("trained", "expert"))
        assert own is not None
        if not own.in_order:
            raise Unusable(f"is broken: views.jsonl does not tell how each episode of {title} went")
        level = row.get("level") if row["kind"] == "level" else None
        if row["kind"] not in KINDS or row["kind"] == "level" and (type(level) is not int or title != f"L{level}"):
            raise Unusable(f"is broken: views.jsonl has {title} of kind {row['kind']} and level {level}")
        counts = int(row.get("views_drawn") or 0), int(row.get("views_rejected") or 0)
        about = str(row.get("checkpoint_sha256")), published.get(row["condition"], "")
        found[title] = Condition(row["kind"], level, str(row["camera"]), own, expert, _factors(row, episodes), *counts, *about)
    return found


def _outcomes(row: dict) -> Outcomes:
    return replace(outcomes_of_one(row), episodes=str(row.get("seeds_sha256")))


def _factors(row: dict, episodes: int) -> dict[str, dict[str, np.ndarray]]:
    """How each episode's view deviated, by camera and factor."""
    found = {
        name: {key: np.array(values, dtype=float) for key, values in each.items() if len(values) == episodes}
        for name, each in (row.get("views") or {}).items()
    }
    if not all(np.isfinite(values).all() for each in found.values() for values in each.values()):
        raise Unusable(f"is broken: views.jsonl does not tell where the cameras of {_title(row)} stood")
    return found


def _title(row: dict) -> str:
    """A condition's name; of a control with the camera setting it was tried at, which depends on the levels that were asked for."""
    return f"{row['condition']} ({row['camera']})" if row["kind"] == "control" else row["condition"]
