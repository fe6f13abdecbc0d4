"""Methods: what was compared, each on one task or several; and whether pretrained encoders do better than untrained ones."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from robo_repr.core.report.aggregate import Interval, Scores, improvement
from robo_repr.core.report.compare import success_difference
from robo_repr.core.report.runs import (
    CONTEST,
    NOT_COMPARED,
    SEEDS_NEEDED,
    Group,
    contest_name,
    counted,
    differing,
    numbered,
    word,
)
from robo_repr.core.stats import Estimate, difference_of_policies, holm, mean_of_estimates
from robo_repr.core.summary import policy_name

# Settings that differ between untrained and pretrained encoders as a matter of course; an untrained one with all others equal is a control.
OF_ENCODER = ("variant", "weights", "names.encoder", "frame_stack")
ARMS = {"random": "untrained", "state": "told the state", "pixels": "raw pixels", "blind": "no picture", "reference": "does not learn"}
# Okabe and Ito's colours, which people tell apart who see few: those that are seen on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5d3a9b", "#a52a2a")
CONTROLS = {"random": ("#6b6b6b", "#a3a3a3", "#c4c4c4"), "state": ("#7a5c1e", "#b59a5b", "#d6c391")}
DASHES = ("-", "--", "-.", ":")


@dataclass
class Method:
    """Runs that differ in their seed and task alone.

    Attributes:
        label: what sets it apart, such as ``mvp, 25 demos``.
        settings: of any of its runs; see `FinishedRun`.
        groups: per task, named with the method's label.
        colour: the same for every number of demonstrations.
        dash: line style, which tells those apart.
    """

    label: str
    settings: dict[str, Any]
    groups: dict[str, Group]
    colour: str = ""
    dash: str = "-"

    @property
    def arm(self) -> str:
        """``pretrained``, or a control: a key of `ARMS`."""
        encoder = self.settings.get("names.encoder")
        if policy_name(self.settings.get("names.agent")) != "trained":
            return "reference"
        if encoder == "identity":
            return "state" if self.settings.get("privileged") else "blind"
        if encoder == "random" or self.settings.get("weights") == "random" or self.settings.get("encoder_mode") == "scratch":
            return "random"
        return "pixels" if encoder == "pixels" else "pretrained"

    @property
    def demos(self) -> int | None:
        return self.settings.get("demos")

    @property
    def one_policy(self) -> bool:
        """Whether each of its runs learned all tasks: then what a seed brings is the same chance on all of them."""
        return "tasks" in self.settings

    def scores(self, tasks: Sequence[str]) -> Scores:
        return Scores([[run.own.success for run in self.groups[task].runs] for task in tasks], self.one_policy)

    def samples(self, tasks: Sequence[str]) -> list[Group]:
        """Groups that know nothing of each other: one for each task, or of policies that learned all tasks one with their means."""
        groups = [self.groups[task] for task in tasks]
        if not self.one_policy:
            return groups
        means = []
        for runs in zip(*(group.runs for group in groups), strict=True):
            outcomes = [run.own for run in runs]
            success, returns = (np.mean([getattr(each, name) for each in outcomes], axis=0) for name in ("success", "returns"))
            means.append(replace(runs[0], own=replace(outcomes[0], success=success, returns=returns)))
        return [Group(means, self.label)]

    def seeds(self, tasks: Sequence[str]) -> int:
        """The fewest of any of these tasks."""
        return min(len(self.groups[task].runs) for task in tasks)


@dataclass
class Arena:
    """Methods whose success compares: equal cameras, episodes and scores.

    Attributes:
        name: such as ``camera L1, plain, 50 episodes``.
        tasks: those that any method was run on.
    """

    name: str
    methods: list[Method]
    tasks: list[str]

    @property
    def complete(self) -> list[Method]:
        """Those that were run on all tasks; success over tasks compares only between them."""
        return [method for method in self.methods if all(task in method.groups for task in self.tasks)]

    @cached_property
    def verdicts(self) -> "list[Verdict]":
        """Each method beside its control, where there is one. The pretrained ones are a family: Holm's correction is for their number."""
        found = []
        for method in self.methods:
            control = control_of(method, self.methods)
            tasks = [task for task in self.tasks if control and task in method.groups and task in control.groups]
            if control is not None and tasks:
                found.append(_verdict(method, control, tasks))
        tested = [verdict for verdict in found if verdict.method.arm == "pretrained" and verdict.seeds >= SEEDS_NEEDED]
        for verdict, level in zip(tested, holm([verdict.estimate.p_value() for verdict in tested]), strict=True):
            verdict.level = level
        return found


@dataclass
class Verdict:
    """A method beside its untrained control.

    Attributes:
        tasks: those that both were run on.
        seeds: the fewest of either on any task.
        estimate: of the difference in success, the mean over tasks. With one seed it knows these policies alone.
        level: at which it was tested; see `holm`.
        improvement: probability that a run of the method succeeds more often than one of the control.
    """

    method: Method
    control: Method
    tasks: list[str]
    seeds: int
    estimate: Estimate
    improvement: Interval
    level: float = 0.05

    @property
    def outcome(self) -> str:
        """``better``, ``worse``, ``no difference shown``, or ``too few seeds``."""
        return self.estimate.outcome(self.level) if self.seeds >= SEEDS_NEEDED else "too few seeds"

    def __str__(self) -> str:
        low, high = self.estimate.interval(self.level)
        figures = f"{100 * self.estimate.value:+.0f} points [{100 * low:+.0f} to {100 * high:+.0f}]"
        where = f"over {counted(len(self.tasks), 'task')}" if len(self.tasks) > 1 else f"on {self.tasks[0]}"
        method, control = self.method.label, self.control.label
        if self.outcome == "too few seeds":
            known = "knows these policies alone" if self.seeds == 1 else "is a hint"
            return (
                f"{method} against {control}: {figures} {where}, from {counted(self.seeds, 'seed')} per task. That {known}; no claim about "
                f"the method is made from fewer than {SEEDS_NEEDED} seeds."
            )
        if self.outcome == "no difference shown":
            return f"{method} against {control}: no difference shown, {figures} {where}."
        return f"{method} is {self.outcome} than {control}: {figures} {where}."


def arenas(groups: Sequence[Group]) -> list[Arena]:
    """Sorts groups of runs into methods, and methods into arenas. Runs with several tasks count on each of them."""
    alone = [part for group in groups for part in group.per_task()]
    settings = [_compared(group, (*CONTEST, "demo_data")) for group in alone]
    # Each task has its own store of demonstrations, so demo_data= is no part of a method, unless two stores were compared on one task.
    if len({(group.contest, _key(each)) for group, each in zip(alone, settings, strict=True)}) < len(alone):
        settings = [_compared(group, CONTEST) for group in alone]
    by_key = {_key(each): each for each in settings}
    labels = dict(zip(by_key, _labels(list(by_key.values())), strict=True))
    found: dict[tuple, Arena] = {}
    for group, each in zip(alone, settings, strict=True):
        task, *rest = group.contest
        arena = found.setdefault(tuple(rest), Arena(contest_name(("", *rest)), [], []))
        method = next((method for method in arena.methods if method.settings == each), None)
        if method is None:
            method = Method(labels[_key(each)], each, {})
            arena.methods.append(method)
        group.label = method.label
        method.groups[task] = group
        if task not in arena.tasks:
            arena.tasks.append(task)
    for arena in found.values():
        families = list(dict.fromkeys(_family(method) for method in arena.methods))
        arena.methods.sort(key=lambda method: (families.index(_family(method)), method.demos or 0))
    _colour([method for arena in found.values() for method in arena.methods])
    return list(found.values())


def by_family(methods: Iterable[Method]) -> list[list[Method]]:
    """Methods that differ in the number of demonstrations alone, the fewest first."""
    families: dict[str, list[Method]] = {}
    for method in methods:
        families.setdefault(_family(method), []).append(method)
    return [sorted(family, key=lambda method: method.demos or 0) for family in families.values()]


def control_of(method: Method, methods: Sequence[Method]) -> Method | None:
    """The untrained counterpart of a method: the same network where it was run, else ``encoder=random``; all other settings are equal."""
    unequal = {*OF_ENCODER, *(["privileged"] if method.arm == "state" else [])}

    def rest(settings: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in settings.items() if key not in unequal and not key.startswith("encoder.")}
        return {**kept, "encoder_mode": "full"} if settings.get("encoder_mode") == "scratch" else kept

    equal = [other for other in methods if other.arm == "random" and rest(other.settings) == rest(method.settings)]
    same = [other for other in equal if other.settings.get("names.encoder") == method.settings.get("names.encoder")]
    known = [other for other in equal if other.settings.get("names.encoder") == "random"]
    return next(iter([*same, *known, *equal]), None) if method.arm not in ("random", "reference") else None


def _verdict(method: Method, control: Method, tasks: list[str]) -> Verdict:
    seeds = min(method.seeds(tasks), control.seeds(tasks))
    better = improvement(method.scores(tasks), control.scores(tasks))
    return Verdict(method, control, tasks, seeds, difference_over(method, control, tasks), better)


def difference_over(method: Method, control: Method, tasks: Sequence[str]) -> Estimate:
    """How much more often a method succeeds than its control, the mean over tasks. With one seed it knows these policies alone."""
    pairs = list(zip(method.samples(tasks), control.samples(tasks), strict=True))
    if min(method.seeds(tasks), control.seeds(tasks)) > 1:
        return mean_of_estimates([success_difference(*pair)[0] for pair in pairs])
    shares = [[[run.own.success for run in group.runs] for group in pair] for pair in pairs]
    return mean_of_estimates([difference_of_policies(*each) for each in shares])


def _compared(group: Group, ignored: Iterable[str]) -> dict[str, Any]:
    """A group's settings that tell its method from others."""
    return {key: value for key, value in group.runs[0].settings.items() if key not in {*NOT_COMPARED, *ignored}}


def _family(method: Method) -> str:
    """What is equal for methods that differ in the number of demonstrations alone."""
    return _key({key: value for key, value in method.settings.items() if key != "demos"})


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """For each method its encoder and what else sets it apart, such as ``mvp, bc_mvp, 25 demos``."""
    shown = differing(settings)
    labels = []
    for each in settings:
        state = each.get("names.encoder") == "identity" and each.get("privileged")
        words = ["state" if state else str(each.get("names.encoder"))]
        for key in shown:
            told = key == "names.encoder" or key == "privileged" and state
            if not told and each.get(key) is not None and each[key] is not False:
                plain = {"names.policy": word(each[key]), "names.agent": word(each[key]), "demos": f"{word(each[key])} demos"}
                words.append(plain.get(key, f"{key}={word(each[key])}"))
        labels.append(", ".join(words))
    return numbered(labels)


def _colour(methods: Sequence[Method]) -> None:
    """One colour for each method whatever its number of demonstrations: grey for untrained encoders, brown for those told the state."""
    taken: dict[str, list[str]] = {}
    counts = sorted({method.demos or 0 for method in methods}, reverse=True)
    for method in methods:
        kind = method.arm if method.arm in CONTROLS else "others"
        family, families = _family(method), taken.setdefault(kind, [])
        if family not in families:
            families.append(family)
        colours = CONTROLS.get(kind, PALETTE)
        turn, place = divmod(families.index(family), len(colours))
        method.colour = colours[place]
        method.dash = DASHES[(turn + counts.index(method.demos or 0)) % len(DASHES)]
