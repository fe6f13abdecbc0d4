"""What came of several runs: groups over seeds, and which of them is better, read from the run folders alone."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robo_repr.core.config import flat
from robo_repr.core.errors import UserError
from robo_repr.core.metrics import read_metrics
from robo_repr.core.run import RunDir
from robo_repr.core.stats import Estimate, difference, holm, mean_over_seeds, wilson
from robo_repr.core.summary import REFERENCES, command_line, find_evaluation, is_number, policy_name, read_evaluations, read_summary

# Settings that may differ between runs of one group: they say where, how loud and on what machine, not what is learned.
NOT_COMPARED = ("seed", "run_dir", "fresh", "logger", "device", "tag", "names.budget")
CONTEST = ("task", "eval_camera", "appearance", "horizon", "eval_episodes")  # success compares only where these are equal
SEEDS_NEEDED = 3  # below, the spread between seeds is not known well enough to call a difference
# Pairing by seed halves the degrees of freedom. With three seeds that costs more than it gains unless seeds count for more than half of
# the spread: t is 4.3 instead of 2.8. From five on it is 2.8 instead of 2.3.
PAIRED_FROM = 5
OTHER_CONTEST = "their episodes are not the same"
ALL_PAIRS = 8  # groups; of more, each is compared with the best alone, so that a person can read it
MOVED_ASIDE = re.compile(r"\.old-\d+$")  # what fresh=true makes of a folder's name


# ---- groups of runs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """Results of one policy on a run's fixed evaluation episodes.

    Attributes:
        success: (n,) 0 or 1.
        returns: (n,), or (1,) the mean alone in older folders.
        in_order: whether entry i belongs to episode i; else only the number of successes is known.
    """

    success: np.ndarray
    returns: np.ndarray
    in_order: bool


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as planned: its settings (flat: "agent.gamma"), summary, own policy's outcomes, and those of the references."""

    path: Path
    settings: dict[str, Any]
    summary: dict
    own: Outcomes
    references: dict[str, Outcomes]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def steps_to(self, share: float) -> int | None:
        """Environment steps at its first evaluation in which at least that share of the episodes succeeded; None if there was none."""
        rows = read_metrics(self.path / "metrics.jsonl") if (self.path / "metrics.jsonl").exists() else []
        reached = (row["env_steps"] for row in rows if is_number(row.get("eval/success")) and row["eval/success"] >= share)
        return next(reached, None)


@dataclass
class Group:
    """Runs that differ in their seed alone, in its order; `label` says what sets the group apart from the others."""

    runs: list[FinishedRun]
    label: str = ""

    @property
    def contest(self) -> tuple:
        """What was to be solved; groups compare only within one."""
        values = (self.runs[0].settings.get(key) for key in CONTEST)
        return tuple(value if isinstance(value, str | int | None) else str(value) for value in values)

    @property
    def episodes(self) -> int:
        return len(self.runs[0].own.success)

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


@dataclass
class Comparison:
    """Two groups, the better one first.

    Attributes:
        verdict: "better", "no difference shown" or "not compared".
        reason: why they are not compared.
        estimate: of the difference in success; None when not compared.
        level: at which it was tested; see `holm`.
    """

    first: str
    second: str
    verdict: str
    reason: str = ""
    estimate: Estimate | None = None
    level: float = 0.05
    paired: bool = False

    def __str__(self) -> str:
        if self.estimate is None:
            return f"{self.first} and {self.second}: not compared, {self.reason}"
        low, high = self.estimate.interval(self.level)
        figures = f"{100 * self.estimate.value:.0f} points [{100 * low:.0f} to {100 * high:.0f}]"
        if self.verdict == "better":
            return f"{self.first} is better than {self.second} by {figures}"
        return f"{self.first} and {self.second}: no difference shown ({figures})"


def read_runs(paths: Sequence[Path]) -> tuple[list[Group], list[tuple[Path, str]]]:
    """Finds the finished runs in some folders and groups them by their settings.

    Args:
        paths: run folders, or folders above such. What ``fresh=true`` moved aside counts only when named itself.

    Returns:
        The groups, and what was left out with the reason. Of two runs with equal settings and seed the one that ended later is used.

    Raises:
        UserError: a path is no folder or holds no run, or no run is finished.
    """
    runs: list[FinishedRun] = []
    left_out: list[tuple[Path, str]] = []
    for folder in _run_folders(paths, left_out):
        try:
            runs.append(_read_run(folder))
        except _Unusable as error:
            left_out.append((folder, str(error)))
    if not runs:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left_out[:3]) + ("; ..." if len(left_out) > 3 else "")
        raise UserError(
            f"There is no finished run in {', '.join(map(str, paths))} ({reasons}). Name folders of run_rl.py's runs that have ended; the "
            "command that began a run goes on with it."
        )
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
    return groups, left_out


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Which groups succeed more often than which, with Holm's correction for the number of pairs.

    Up to `ALL_PAIRS` groups of one contest are compared pair by pair, more with the best alone. The correction counts all pairs even
    then, for the best was chosen among all of them.
    """
    found, pairs = [], 0
    for contest in dict.fromkeys(group.contest for group in groups):
        rivals = [group for group in groups if group.contest == contest]
        best = max(rivals, key=lambda group: (len(group.runs) >= SEEDS_NEEDED, success_of(group)))
        for pair in combinations(rivals, 2):
            pairs += all(len(group.runs) >= SEEDS_NEEDED for group in pair)
            if len(rivals) <= ALL_PAIRS or any(group is best for group in pair):
                found.append(_compare(*sorted(pair, key=success_of, reverse=True)))
    tested = [comparison for comparison in found if comparison.estimate]
    p_values = [comparison.estimate.p_value() for comparison in tested]
    for comparison, p, level in zip(tested, p_values, holm(p_values, pairs), strict=True):
        comparison.level = level
        comparison.verdict = "better" if p < level else "no difference shown"
    for first, second in combinations(groups, 2):
        if first.contest != second.contest:
            both = zip(CONTEST, first.contest, second.contest, strict=True)
            unequal = [f"{key} {' and '.join(sorted((str(a), str(b))))}" for key, a, b in both if a != b]
            found.append(Comparison(first.label, second.label, "not compared", f"{OTHER_CONTEST} ({', '.join(unequal)})"))
    return found


def success_interval(outcomes: Sequence[Outcomes]) -> tuple[float, tuple[float, float]]:
    """The mean success over seeds and its 95 % interval: over seeds, or Wilson's when there is one seed."""
    if len(outcomes) == 1:
        success = outcomes[0].success
        return float(success.mean()), wilson(int(success.sum()), len(success))
    estimate = mean_over_seeds([seed.success for seed in outcomes])
    return estimate.value, estimate.interval()


def references(groups: Sequence[Group], policy: str) -> list[Outcomes]:
    """A reference policy's outcomes on the episodes of some groups, each seed once: equal seeds have equal episodes."""
    by_seed = {run.seed: run.references[policy] for group in groups for run in group.runs if policy in run.references}
    return list(by_seed.values())


def more_seeds(group: Group) -> str:
    """The command that runs the seeds a group lacks to be compared; empty when it has enough."""
    missing = SEEDS_NEEDED - len(group.runs)
    if missing <= 0:
        return ""
    seeds = [seed for seed in range(SEEDS_NEEDED + max(group.seeds) + 1) if seed not in group.seeds][:missing]
    try:
        overrides = (group.runs[0].path / "overrides.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"its own command with seed={','.join(map(str, seeds))}"
    return command_line(overrides, {"seed": ",".join(map(str, seeds))}, multirun=len(seeds) > 1)


class _Unusable(Exception):
    """Why a folder's run is left out."""


def _run_folders(paths: Iterable[Path], left_out: list[tuple[Path, str]]) -> list[Path]:
    """The folders with a config.yaml, each once, in the order of the paths and then of names."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist. Name folders of runs, or a folder above them, such as runs/rl.")
        if not path.is_dir():
            raise UserError(f"{path} is a file. Name the run's folder (the one with config.yaml in it), or a folder above several.")
        before = len(left_out)
        here = [path] if (path / "config.yaml").is_file() else []
        if not here:
            for parent, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in [name for name in folders if MOVED_ASIDE.search(name)]:
                    folders.remove(name)
                    left_out.append((Path(parent, name), "was moved aside by fresh=true"))
                if "config.yaml" in files:
                    here.append(Path(parent))
                    folders.clear()
        if not here and len(left_out) == before:
            raise UserError(f"There is no run in {path} (no config.yaml, there or further down). Name a run's folder, or one above runs.")
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _read_run(path: Path) -> FinishedRun:
    try:
        settings = flat(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")))
        if not (path / "summary.json").exists():
            raise _Unusable("has no summary.json: it is still running, or was killed")
        summary = RunDir(path).summary()
        if summary.get("command", "rl") != "rl":
            raise _Unusable(f"is no run of run_rl.py but of the command {summary['command']}")
        if summary.get("status") in ("interrupted", "failed"):
            raise _Unusable(f"is not finished but {summary['status']}, or still running")
        if (summary := read_summary(path)) is None:
            raise _Unusable("is broken: summary.json does not hold what a finished run leaves")
        if not isinstance(settings["seed"], int):
            raise _Unusable(f"is broken: seed {settings['seed']}")
        camera, episodes, policy = summary["eval_camera"], summary["episodes"], policy_name(summary.get("agent"))
        if policy == "trained" and summary["env_steps"] < settings["steps"] or episodes != settings["eval_episodes"]:
            raise _Unusable("is of other steps or evaluation episodes than its settings say: it was going on with them when it ended")
        rows = read_evaluations(path)
        evaluation = find_evaluation(rows, policy, camera, episodes, summary["env_steps"] if policy == "trained" else None)
        if not evaluation or abs(evaluation["success"] - summary["success"]) > 1e-6:
            evaluation = summary
        known = {name: row for name in REFERENCES if (row := find_evaluation(rows, name, camera, episodes))}
        return FinishedRun(path, settings, summary, _outcomes(evaluation), {name: _outcomes(row) for name, row in known.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise _Unusable(f"is broken: {what}") from error


def _outcomes(row: dict) -> Outcomes:
    """Per episode where the row has them, else from the number of successes and the mean return."""
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


def _compare(first: Group, second: Group) -> Comparison:
    few = [f"{group.label} has {counted(len(group.runs), 'seed')}" for group in (first, second) if len(group.runs) < SEEDS_NEEDED]
    if few:
        reason = f"{' and '.join(few)}; fewer than {SEEDS_NEEDED} say nothing about a method"
        return Comparison(first.label, second.label, "not compared", reason)
    paired = (
        first.seeds == second.seeds
        and len(first.seeds) >= PAIRED_FROM
        and all(run.own.in_order for group in (first, second) for run in group.runs)
    )
    estimate = difference([run.own.success for run in first.runs], [run.own.success for run in second.runs], paired=paired)
    return Comparison(first.label, second.label, "", estimate=estimate, paired=paired)


def _labels(groups: list[Group]) -> list[str]:
    """For each group the settings that set it apart, such as ``encoder=mvp``; the run's name when there is one group."""
    first = groups[0].runs[0].path.absolute()
    if len(groups) == 1:
        return [first.parent.name if re.fullmatch(r"s\d+", first.name) else first.name]
    settings = [group.runs[0].settings for group in groups]
    keys = list(dict.fromkeys(key for each in settings for key in each))

    def differs(key: str) -> bool:
        """An encoder's own keys count only between groups with the same encoder; so do an agent's."""
        part = f"names.{key.split('.')[0]}"
        by_part: dict[str, set] = {}
        for each in settings:
            by_part.setdefault(str(each.get(part)), set()).add(repr(each.get(key)))
        return any(len(values) > 1 for values in by_part.values())

    shown = [key for key in ("names.encoder", "names.agent") if differs(key)]
    shown += [key for key in keys if not key.startswith("names.") and key not in NOT_COMPARED and differs(key)]
    labels = []
    for each in settings:
        words = [f"{key.removeprefix('names.')}={_word(each[key])}" for key in shown if key in each]
        labels.append(" ".join(words) or "the rest")
    return [f"{label} ({labels[:i].count(label) + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def _word(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def contest_name(contest: tuple) -> str:
    task, camera, appearance, horizon, episodes = contest
    return f"{task}, camera {camera}, {appearance}" + (f", horizon {horizon}" if horizon else "") + f", {episodes} episodes"
