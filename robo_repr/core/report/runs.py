"""Finished runs, read from their folders alone, and groups of them that differ in their seed."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robo_repr.core.config import flat
from robo_repr.core.errors import UserError
from robo_repr.core.metrics import read_metrics, step_of
from robo_repr.core.run import RunDir
from robo_repr.core.summary import (
    REFERENCES,
    command_line,
    find_evaluation,
    is_number,
    own_evaluations,
    policy_name,
    read_evaluations,
    read_summary,
)

COMMANDS = {"rl": "run_rl.py", "imitation": "run_imitation.py"}  # whose runs can be read
# Settings that may differ between runs of one group: they say where, how loud and on what machine, not what is learned.
NOT_COMPARED = ("seed", "run_dir", "fresh", "logger", "device", "tag", "cache", "benchmark", "encoders", "cell", "names.budget")
NOT_COMPARED += ("log_every", "checkpoint_every", "save_replay")
# Success compares only where these are equal. Where a command has no such key, its evaluations amount to the value given here.
CONTEST = {"task": None, "eval_camera": None, "appearance": None, "horizon": None, "eval_episodes": None}
CONTEST |= {"score": "last", "eval_starts": "fixed"}
SEEDS_NEEDED = 3  # below, the spread between seeds is not known well enough to call a difference
MOVED_ASIDE = re.compile(r"\.old-\d+$")  # what fresh=true makes of a folder's name


@dataclass(frozen=True)
class Outcomes:
    """Results of one policy on a run's fixed evaluation episodes.

    Attributes:
        success: (n,) 0 or 1; or shares, where several evaluations count.
        returns: (n,), or (1,) the mean alone in older folders.
        in_order: whether entry i belongs to episode i; else only the number of successes is known.
        episodes: what tells these episodes from others that a policy of the same seed may have had; "" where a seed has but one set.
    """

    success: np.ndarray
    returns: np.ndarray
    in_order: bool
    episodes: str = ""

    def part(self, index: int, parts: int) -> "Outcomes":
        """Those of one task, where the episodes of several stand one task after the other."""
        success, returns = (np.split(each, parts)[index] if len(each) > 1 else each for each in (self.success, self.returns))
        return replace(self, success=success, returns=returns)


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as planned.

    Attributes:
        settings: flat, such as "agent.gamma".
        own: what its policy came to, by the score that the settings name.
        references: the same of the policies in `REFERENCES`.
    """

    path: Path
    settings: dict[str, Any]
    summary: dict
    own: Outcomes
    references: dict[str, Outcomes]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def command(self) -> str:
        """What made it, a key of `COMMANDS`."""
        return self.summary.get("command", "rl")

    @property
    def steps(self) -> int:
        """What it was trained for: steps in the environment, or gradient updates on demonstrations."""
        return self.summary["env_steps" if self.command == "rl" else "updates"]

    @property
    def tasks(self) -> list[str]:
        task = self.settings["task"]
        return task if isinstance(task, list) else [task]

    def overrides(self) -> list[str] | None:
        """What was said on its command line; None where its folder does not tell."""
        try:
            return (self.path / "overrides.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return None

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a number in its metrics.jsonl; see `series`."""
        path = self.path / "metrics.jsonl"
        return series(read_metrics(path) if path.exists() else [], key)

    def learning(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps, success) at its evaluations in training; of a run with several tasks on the one that `per_task` made it stand for."""
        if "tasks" not in self.settings:
            return self.curve("eval/success")
        rows = own_evaluations(read_evaluations(self.path), self.summary["eval_camera"], self.summary["episodes"])
        found = [(row["step"], row["tasks"].get(self.settings["task"])) for row in rows if "tasks" in row]
        return series([{"step": step, "success": part["success"]} for step, part in found if part], "success")

    def steps_to(self, share: float) -> int | None:
        """Steps at its first evaluation in which at least that share of the episodes succeeded; None if there was none."""
        steps, values = self.learning()
        return next((int(step) for step, value in zip(steps, values, strict=True) if value >= share), None)

    def per_task(self) -> Sequence["FinishedRun"]:
        """The run on each of its tasks alone; itself, where it has one, or where an older folder does not say how they went."""
        if len(self.tasks) == 1 or not all(each.in_order for each in (self.own, *self.references.values())):
            return [self]
        parts = []
        for index, task in enumerate(self.tasks):
            known = {name: outcomes.part(index, len(self.tasks)) for name, outcomes in self.references.items()}
            own = self.own.part(index, len(self.tasks))
            parts.append(replace(self, settings={**self.settings, "task": task, "tasks": self.tasks}, own=own, references=known))
        return parts


@dataclass
class Group:
    """Runs that differ in their seed alone, in its order; `label` says what sets the group apart from the others."""

    runs: list[FinishedRun]
    label: str = ""

    @property
    def contest(self) -> tuple:
        """What was to be solved; groups compare only within one."""
        values = (self.runs[0].settings.get(key, default) for key, default in CONTEST.items())
        return tuple(value if isinstance(value, str | int | None) else word(value) for value in values)

    @property
    def command(self) -> str:
        return self.runs[0].command

    @property
    def episodes(self) -> int:
        return len(self.runs[0].own.success)

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def per_task(self) -> list["Group"]:
        """The group on each of its tasks alone."""
        by_task: dict[str, list[FinishedRun]] = {}
        for run in self.runs:
            for part in run.per_task():
                by_task.setdefault(word(part.settings["task"]), []).append(part)
        return [Group(runs, f"{self.label} on {task}" if len(by_task) > 1 else self.label) for task, runs in by_task.items()]


def read_runs(folders: Sequence[Path], left_out: list[tuple[Path, str]]) -> list[Group]:
    """Reads the finished runs of run_rl.py and run_imitation.py in these folders, and groups them by their settings.

    Args:
        left_out: gets what cannot be used, with the reason. Of two runs with equal settings and seed the one that ended later is used.
    """
    runs: list[FinishedRun] = []
    for folder in folders:
        try:
            runs.append(_read_run(folder))
        except Unusable as error:
            left_out.append((folder, str(error)))
    by_settings: dict[str, dict[int, FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.path / "summary.json").stat().st_mtime):
        kept = {key: value for key, value in run.settings.items() if key not in NOT_COMPARED}
        group = by_settings.setdefault(json.dumps(kept, sort_keys=True, default=str), {})
        if older := group.get(run.seed):
            left_out.append((older.path, f"has the settings and the seed of {run.path}, which is newer and was used instead"))
        group[run.seed] = run
    order = [run.path for run in runs]
    groups = [Group(sorted(group.values(), key=lambda run: run.seed)) for group in by_settings.values()]
    groups.sort(key=lambda group: min(order.index(run.path) for run in group.runs))
    for group, label in zip(groups, _labels(groups), strict=True):
        group.label = label
    return groups


def read_cells(paths: Sequence[Path]) -> list[dict]:
    """The rows of the results.jsonl files in some folders, one for each cell of a benchmark; `run` becomes the path of the cell's run."""
    cells = []
    for path in paths:
        for folder, files in _walk(path):
            if "results.jsonl" in files:
                rows = read_metrics(folder / "results.jsonl")
                cells += [{**row, "run": folder / row["run"] if isinstance(row.get("run"), str) else None} for row in rows]
    return cells


def series(rows: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a number there, in the order of steps; of two rows at one step the later one."""
    points = {step: row[key] for row in rows if is_number(step := step_of(row)) and is_number(row.get(key))}
    steps = sorted(points)
    return np.array(steps, dtype=float), np.array([points[step] for step in steps], dtype=float)


def over_seeds(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds at common steps, where all of them are: (K,) steps and (S, K) values, K 0 where there are none."""
    if not all(len(steps) for steps, _ in curves):
        return np.empty(0), np.empty((len(curves), 0))
    begin, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(begin <= grid) & (grid <= end)]
    return grid, np.array([np.interp(grid, *curve) for curve in curves])


def references(groups: Sequence[Group], policy: str) -> list[Outcomes]:
    """A reference policy's outcomes on the episodes of some groups, each seed's once."""
    known = [(run.seed, run.references[policy]) for group in groups for run in group.runs if policy in run.references]
    return list({(seed, outcomes.episodes): outcomes for seed, outcomes in known}.values())


def more_seeds(group: Group) -> str:
    """The command that runs the seeds a group lacks to be compared; empty when it has enough."""
    missing = SEEDS_NEEDED - len(group.runs)
    if missing <= 0:
        return ""
    seeds = [seed for seed in range(SEEDS_NEEDED + max(group.seeds) + 1) if seed not in group.seeds][:missing]
    if (overrides := group.runs[0].overrides()) is None:
        return f"its own command with seed={','.join(map(str, seeds))}"
    return command_line(overrides, {"seed": ",".join(map(str, seeds))}, len(seeds) > 1, COMMANDS[group.command])


class Unusable(Exception):
    """Why a folder's run is left out."""


def run_folders(paths: Iterable[Path], left_out: list[tuple[Path, str]]) -> list[Path]:
    """The folders with a config.yaml, each once, in the order of the paths and then of names.

    Args:
        paths: run folders, or folders above such.
        left_out: gets what ``fresh=true`` moved aside, which counts only when named itself.

    Raises:
        UserError: a path is no folder or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist. Name folders of runs, or a folder above them, such as runs/rl.")
        if not path.is_dir():
            raise UserError(f"{path} is a file. Name the run's folder (the one with config.yaml in it), or a folder above several.")
        before = len(left_out)
        here = [path] if (path / "config.yaml").is_file() else []
        if not here:
            here = [folder for folder, files in _walk(path, left_out) if "config.yaml" in files]
        if not here and len(left_out) == before:
            raise UserError(f"There is no run in {path} (no config.yaml, there or further down). Name a run's folder, or one above runs.")
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _walk(path: Path, left_out: list[tuple[Path, str]] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of files) of a folder and those below it, down to runs. A list gets what was moved aside, which is not entered."""
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if MOVED_ASIDE.search(name)]:
            folders.remove(name)
            if left_out is not None:
                left_out.append((Path(parent, name), "was moved aside by fresh=true"))
        if "config.yaml" in files:
            folders.clear()
        yield Path(parent), files


@contextmanager
def unusable_where_broken() -> Iterator[None]:
    """Errors of reading a run's files become `Unusable`."""
    try:
        yield
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise Unusable(f"is broken: {what}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """What a config.yaml says, flat; one task in a list is one task."""
    settings = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    if isinstance(settings["task"], list) and len(settings["task"]) == 1:
        settings["task"] = settings["task"][0]
    return settings


def ended_summary(path: Path) -> dict:
    """A run's summary as it stands; raises `Unusable` where the run did not end by itself."""
    if not (path / "summary.json").exists():
        raise Unusable("has no summary.json: it is still running, or was killed")
    summary = RunDir(path).summary()
    if summary.get("status") in ("interrupted", "failed"):
        raise Unusable(f"is not finished but {summary['status']}, or still running")
    return summary


def _read_run(path: Path) -> FinishedRun:
    with unusable_where_broken():
        settings = read_settings(path / "config.yaml")
        if (made_by := ended_summary(path).get("command", "rl")) not in COMMANDS:
            raise Unusable(f"is no run of {' or '.join(COMMANDS.values())} but of the command {made_by}")
        if (summary := read_summary(path)) is None:
            raise Unusable("is broken: summary.json does not hold what a finished run leaves")
        check_settings(settings)
        camera, episodes, policy = summary["eval_camera"], summary["episodes"], policy_name(summary.get("agent"))
        run = FinishedRun(path, settings, summary, _outcomes([summary]), {})
        if policy == "trained" and run.steps < settings["steps"] or episodes != settings["eval_episodes"] * len(run.tasks):
            raise Unusable("is of other steps or evaluation episodes than its settings say: it was going on with them when it ended")
        rows = read_evaluations(path)
        if len(run.tasks) > 1:
            _check_tasks(own_evaluations(rows, camera, episodes))
        if made_by == "imitation":
            counting = scored(rows, camera, episodes, settings["score"])
        else:
            counting = [find_evaluation(rows, policy, camera, episodes, summary["env_steps"] if policy == "trained" else None) or summary]
        known = {name: row for name in REFERENCES if (row := find_evaluation(rows, name, camera, episodes))}
        known = {name: _outcomes([row]) for name, row in known.items()}
        own = _outcomes(counting) if counting else run.own
        told = abs(own.success.mean() - summary["success"]) < 1e-6  # else these rows are not the evaluation that the summary tells of
        return replace(run, own=own if told else run.own, references=known)


def check_settings(settings: dict[str, Any]) -> None:
    """Raises `Unusable` where what a report counts by is no such thing as the commands write."""
    tasks = settings["task"] if isinstance(settings["task"], list) else [settings["task"]]
    fit = {"task": len(set(map(repr, tasks))) == len(tasks) > 0 and all(isinstance(task, str) for task in tasks)}
    fit |= {key: type(settings[key]) is int for key in ("seed", "steps", "eval_episodes")}
    fit |= {key: type(settings[key]) is int for key in ("demos",) if key in settings}
    fit |= {"score": settings["score"] in ("last", "mean_last5", "max")} if "score" in settings else {}
    for key, fits in fit.items():
        if not fits:
            raise Unusable(f"is broken: config.yaml has {key}={word(settings[key])}")


def _check_tasks(rows: Sequence[dict]) -> None:
    """Raises `Unusable` where evaluations do not tell how each task went; those of older folders say nothing of it."""
    for tasks in (row["tasks"] for row in rows if "tasks" in row):
        parts = tasks.values() if isinstance(tasks, dict) else [tasks]
        if not all(isinstance(part, dict) and is_number(part.get("success")) for part in parts):
            raise Unusable(f"is broken: evaluations.jsonl has tasks {json.dumps(tasks)[:80]}")


def scored(rows: list[dict], camera: str, episodes: int, score: str) -> list[dict]:
    """Those evaluations of a run on demonstrations that count by its score: the last one, the last five, or the best."""
    ordered = own_evaluations(rows, camera, episodes)
    if score == "max":
        return [max(ordered, key=lambda row: row["success"])] if ordered else []
    return ordered[{"last": -1, "mean_last5": -5}[score] :]


def _outcomes(rows: Sequence[dict]) -> Outcomes:
    """Of one evaluation, or the means of several; per episode where the rows have them, else from the successes and the mean return."""
    each = [outcomes_of_one(row) for row in rows]
    returns = [one.returns for one in each]
    if len(set(map(len, returns))) > 1:
        returns = [one.mean(keepdims=True) for one in returns]
    return Outcomes(np.mean([one.success for one in each], axis=0), np.mean(returns, axis=0), all(one.in_order for one in each))


def outcomes_of_one(row: dict) -> Outcomes:
    episodes = int(row["episodes"])
    if episodes < 1:
        raise ValueError("no evaluation episodes")
    success, returns = row.get("episode_success"), row.get("episode_return")
    in_order = isinstance(success, list) and len(success) == episodes and set(success) <= {0, 1}
    successes = np.array(success, dtype=float) if in_order else (np.arange(episodes) < round(row["success"] * episodes)).astype(float)
    full = isinstance(returns, list) and len(returns) == episodes and all(map(is_number, returns))
    return Outcomes(successes, np.array(returns if full else [row["return"]], dtype=float), in_order)


def mean_of(outcomes: Outcomes, kind: str) -> float:
    return float((outcomes.success if kind == "success" else outcomes.returns).mean())


def success_of(group: Group) -> float:
    return float(np.mean([run.own.success.mean() for run in group.runs]))


def _labels(groups: list[Group]) -> list[str]:
    """For each group the settings that set it apart, such as ``encoder=mvp``; the run's name when there is one group."""
    if len(groups) == 1:
        first = groups[0].runs[0].path.absolute()
        return [first.parent.name if re.fullmatch(r"s\d+", first.name) else first.name]
    settings = [group.runs[0].settings for group in groups]
    shown = differing(settings)
    words = [[f"{key.removeprefix('names.')}={word(each[key])}" for key in shown if key in each] for each in settings]
    return numbered([" ".join(each) or "the rest" for each in words])


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that tell some runs' settings apart; a part's own keys count only between runs with the same part."""
    keys = list(dict.fromkeys(key for each in settings for key in each if key not in NOT_COMPARED))
    learners = [key for key in ("names.agent", "names.policy") if any(key in each for each in settings)]  # each command has its own

    def differs(key: str) -> bool:
        part = f"names.{key.split('.')[0]}"
        by_part: dict[str, set] = {}
        for each in settings:
            kind = each[part] if part in each else [learner for learner in learners if learner in each]
            by_part.setdefault(str(kind), set()).add(repr(each.get(key)))
        return any(len(values) > 1 for values in by_part.values())

    names = [key for key in ("names.encoder", *learners) if differs(key) or key in learners and len(learners) > 1]
    return names + [key for key in keys if not key.startswith("names.") and differs(key)]


def numbered(labels: list[str]) -> list[str]:
    """The labels, those that occur again with a number."""
    return [f"{label} ({labels[:i].count(label) + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def word(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def contest_name(contest: tuple) -> str:
    """Such as ``reach, camera L1, plain, 50 episodes``."""
    task, camera, appearance, horizon, episodes, score, starts = contest
    words = [task, f"camera {camera}" if camera else "", appearance, f"horizon {horizon}" if horizon else "", f"{episodes} episodes"]
    words += ["" if score == "last" else f"score={score}", "" if starts == "fixed" else f"eval_starts={starts}"]
    return ", ".join(filter(None, words))
