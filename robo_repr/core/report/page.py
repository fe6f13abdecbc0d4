"""One page about many runs: a file that opens from a disk, with its figures and films in it.

A page is a list of `Section`; what is to be shown besides goes into one more function that makes one, called by `_sections`.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from robo_repr.core.curves import STEPS, draw_groups
from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole
from robo_repr.core.report import papers
from robo_repr.core.report.aggregate import Interval, Scores, iqm_interval, mean_interval
from robo_repr.core.report.compare import ALL_PAIRS, Comparison, compare, success_interval
from robo_repr.core.report.facts import facts
from robo_repr.core.report.figures import draw_demos, draw_intervals, draw_learning, draw_profiles
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
    glued,
    link_to,
    listed,
    name_of,
    percent,
    points,
    reference,
    slug,
    span,
)
from robo_repr.core.report.methods import Arena, Method, Verdict, arenas, by_family, control_of, difference_over
from robo_repr.core.report.runs import (
    COMMANDS,
    SEEDS_NEEDED,
    FinishedRun,
    Group,
    Outcomes,
    counted,
    more_seeds,
    read_cells,
    read_runs,
    references,
    run_folders,
    word,
)
from robo_repr.core.report.view_sections import view_command, view_facts, view_runs_table, view_sections, view_warnings
from robo_repr.core.report.views import Views, is_viewpoint, read_views
from robo_repr.core.stats import mean_over_seeds, wilson
from robo_repr.core.summary import REFERENCES, command_line, rate

FOLDED_FROM = 30  # rows, from which a table is folded
FEW_EPISODES = 50
SCORES = {
    "last": "the last evaluation",
    "mean_last5": "the mean of the last five evaluations",
    "max": "the best of all evaluations, as R3M counts it: this flatters",
}


@dataclass
class Report:
    """Runs and what is known of them.

    Attributes:
        paths: where they were looked for.
        groups, comparisons: of runs of run_rl.py and run_imitation.py.
        views: runs of run_viewpoint.py.
        left_out: runs that could not be used, with the reason.
        cells: rows of benchmarks' results.jsonl; see `read_cells`.
    """

    paths: Sequence[Path]
    groups: list[Group]
    comparisons: list[Comparison]
    views: Views
    left_out: list[tuple[Path, str]]
    cells: list[dict]

    @property
    def folders(self) -> list[Path]:
        """Of all runs that are used."""
        return [*(run.path for group in self.groups for run in group.runs), *self.views.paths]


def read_report(paths: Sequence[Path]) -> Report:
    """Reads and compares the finished runs in some folders.

    Args:
        paths: folders of runs, or folders above such.

    Raises:
        UserError: a path is no folder or holds no run, or no run is finished.
    """
    left_out: list[tuple[Path, str]] = []
    folders = run_folders(paths, left_out)
    moved = [folder for folder in folders if is_viewpoint(folder)]
    groups = read_runs([folder for folder in folders if folder not in moved], left_out)
    report = Report(paths, groups, compare(groups), read_views(moved, left_out), left_out, read_cells(paths))
    if not report.folders:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left_out[:3]) + ("; ..." if len(left_out) > 3 else "")
        raise UserError(
            f"There is no finished run in {', '.join(map(str, paths))} ({reasons}). Name folders of runs that have ended; the "
            "command that began a run goes on with it."
        )
    return report


def write_report(report: Report, out: Path) -> Path:
    """Writes report.html, its figures as report/*.png, report.json, and where a run was trained report.png (curves) into a folder.

    Returns:
        The page.

    Raises:
        OSError, Failure: a file cannot be written.
    """
    found = arenas(report.groups)
    sections = _sections(report, found, out)
    (out / "report").mkdir(exist_ok=True)
    for section in sections:
        for figure in section.figures:
            write_whole(out / "report" / f"{figure.name}.png", figure.picture)
    if report.groups:
        draw_groups(report.groups, out / "report.png")
    known = {**facts(report.groups, report.comparisons, found), "viewpoint": view_facts(report.views)}
    write_whole(out / "report.json", json.dumps(known, indent=2) + "\n")
    page = out / "report.html"
    # A folder's name may be no text; what cannot be written of it becomes a question mark.
    write_whole(
        page, render(_title(report, found, out), _asked(report, found), _warnings(report, found), sections).encode("utf-8", "replace")
    )
    return page


def render(title: str, asked: Sequence[tuple[str, list[str]]], warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """The page's HTML.

    Args:
        asked: names and values for its head.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "glued": glued,
        "base64": lambda data: base64.b64encode(data).decode(),
        "share": lambda value: f"{100 * value:.1f}",
    }
    template = environment.get_template("page.html")
    return template.render(title=title, facts=asked, warnings=warnings, sections=sections, folded_from=FOLDED_FROM)


# ---- the head --------------------------------------------------------------------------------------------------------------------


def _title(report: Report, found: Sequence[Arena], out: Path) -> str:
    every = [*found, *report.views.arenas]
    methods = len(dict.fromkeys(method.label for arena in every for method in arena.methods))
    tasks = dict.fromkeys([*(task for arena in every for task in arena.tasks), *(encoder.task for encoder in report.views.encoders)])
    what = counted(methods, "method") if methods else counted(len({encoder.label for encoder in report.views.encoders}), "encoder")
    return f"{out.resolve().name}: {what} on {', '.join(tasks) if len(tasks) < 4 else counted(len(tasks), 'task')}"


def _asked(report: Report, found: Sequence[Arena]) -> list[tuple[str, list[str]]]:
    commands = _commands(report)
    views = report.views
    runs = [run for group in report.groups for run in group.runs]
    per_cell = sorted({len(group.runs) for arena in found for method in arena.methods for group in method.groups.values()})
    scores = dict.fromkeys(run.settings.get("score", "last") for run in runs)
    every = [*found, *views.arenas]
    asked = [("commands", commands[:4] + ([f"and {len(commands) - 4} more, at the end of the page"] if len(commands) > 4 else []))]
    asked.append(
        ("tasks", [", ".join(dict.fromkeys([*(task for arena in every for task in arena.tasks), *(e.task for e in views.encoders)]))])
    )
    if every:
        asked.append(("methods", [_named([method for arena in every for method in arena.methods])]))
    if runs:
        seeds = sorted({run.seed for run in runs})
        asked.append(("runs", [f"{len(runs)} finished, {span(per_cell)} of each method and task (seeds {listed(seeds)})"]))
        asked.append(("evaluation", [f"{arena.name} per run and task" for arena in found]))
        asked.append(("success", [f"of {SCORES[score]}" for score in scores]))
    if views.runs:
        seeds = sorted({run.seed for run in views.runs})
        said = f"{counted(len(views.runs), 'policy').replace('policys', 'policies')} (seeds {listed(seeds)})"
        asked.append(("under moved cameras", [f"{said}; {arena.name}, per camera setting and task" for arena in views.arenas]))
    if views.encoders:
        asked.append(("encoders without a policy", ["; ".join(dict.fromkeys(encoder.label for encoder in views.encoders))]))
    return asked


def _named(methods: Sequence[Method]) -> str:
    """Their labels; of one alone, which tells it from nothing, what it learned by and at which cameras."""
    labels = list(dict.fromkeys(method.label for method in methods))
    if len(labels) > 1:
        return "; ".join(labels)
    settings = methods[0].settings
    learner = settings.get("names.agent") or settings.get("names.policy")
    words = [labels[0], str(learner) if learner else "", f"trained at camera {word(settings['camera'])}" if "camera" in settings else ""]
    return ", ".join(each for each in words if each)


def _warnings(report: Report, found: Sequence[Arena]) -> list[str]:
    warnings = view_warnings(report.views)
    groups = [group for arena in found for method in arena.methods for group in method.groups.values()]
    if few := [group for group in groups if len(group.runs) < SEEDS_NEEDED]:
        have = span(sorted({len(group.runs) for group in few}))
        which = "Every method has" if len(few) == len(groups) else f"{len(few)} of {len(groups)} methods on their tasks have"
        warnings.append(
            f"{which} only {have} {'seed' if have == '1' else 'seeds'} per task. That is too few for a claim about a method: "
            f"{SEEDS_NEEDED} are the least, five or more are better."
        )
    episodes = min((group.episodes for group in groups), default=FEW_EPISODES)
    if episodes < FEW_EPISODES:
        low, high = wilson(round(episodes / 2), episodes)
        warnings.append(
            f"{counted(episodes, 'episode')} per run leave its success open by about {50 * (high - low):.0f} points to either side."
        )
    if failed := _failed(report.cells):
        warnings.append(f"{len(failed)} of {len(report.cells)} cells did not finish; they are listed below and are in no figure.")
    return warnings


def _commands(report: Report) -> list[str]:
    """The commands that make all these runs: of benchmarks, and of the groups that belong to none."""
    in_cells = {cell["run"].resolve() for cell in report.cells if cell["run"]}
    commands = [re.sub(r"\s*\bcell=\d+", "", cell["rerun"]) for cell in report.cells if isinstance(cell.get("rerun"), str)]
    for group in report.groups:
        alone = [run for run in group.runs if run.path.resolve() not in in_cells]
        if alone:
            commands.append(_command(alone))
    commands += [view_command(run) for run in [*report.views.runs, *report.views.encoders] if run.path.resolve() not in in_cells]
    return list(dict.fromkeys(commands))


def _command(runs: Sequence[FinishedRun]) -> str:
    """What makes these runs again, which differ in their seed alone."""
    if (overrides := runs[0].overrides()) is None:
        return f"the settings of {runs[0].path / 'config.yaml'}"
    seeds = ",".join(str(run.seed) for run in runs)
    return command_line(overrides, {"seed": seeds}, len(runs) > 1, COMMANDS[runs[0].command])


def _failed(cells: Iterable[dict]) -> list[dict]:
    return [cell for cell in cells if cell.get("status") != "finished"]


# ---- the sections ----------------------------------------------------------------------------------------------------------------


def _sections(report: Report, found: Sequence[Arena], out: Path) -> list[Section]:
    """All sections that have something to show."""
    sections: list[Section | None] = [_verdicts(arena, _where(arena, found)) for arena in found]
    for index, arena in enumerate(found):
        where, suffix = _where(arena, found), f"-{index + 1}" if len(found) > 1 else ""
        sections += [_methods(arena, where, suffix), _tasks(arena, where), _spread(arena, where, suffix), _demos(arena, where, suffix)]
        sections.append(_learning(arena, where, suffix))
    sections += [_films(found), _papers(report)]
    sections += view_sections(report.views)
    sections += [_cells(report.cells), _left_out(report.left_out), _runs(report, found, out)]
    return [section for section in sections if section]


def _where(arena: Arena, found: Sequence[Arena]) -> str:
    """What is added to titles where a page has several arenas."""
    return f" ({arena.name})" if len(found) > 1 else ""


def _verdicts(arena: Arena, where: str) -> Section | None:
    section = Section(f"Does pretraining help?{where}")
    pretrained = [method for method in arena.methods if method.arm == "pretrained"]
    if not pretrained:
        return None
    tested = [verdict for verdict in arena.verdicts if verdict.method.arm == "pretrained"]
    if not tested:
        section.lead = "These runs do not say."
        section.text = [
            "There is no run of an untrained encoder (encoder=random) with the same task, policy and settings otherwise, so nothing tells "
            f"what pretraining adds. Run it: {_control_command(pretrained[0])}"
        ]
        return section
    by_outcome = {
        name: [verdict for verdict in tested if verdict.outcome == name]
        for name in ("better", "worse", "no difference shown", "too few seeds")
    }
    if len(tested) == 1:
        section.lead = str(tested[0])
    else:
        says = {
            "better": "Better than untrained",
            "worse": "Worse than untrained",
            "no difference shown": "No difference shown",
            "too few seeds": "Too few seeds for a claim",
        }
        section.lead = " ".join(
            f"{says[name]}: {'; '.join(each.method.label for each in found) if len(tested) <= 8 else f'{len(found)} of {len(tested)}'}."
            for name, found in by_outcome.items()
            if found
        )
        section.text = [str(verdict) for verdict in tested] if len(tested) <= 4 else []
    rows = []
    for verdict in tested:
        cells = [
            name_of(verdict.method),
            name_of(verdict.control),
            Cell(f"all {len(arena.tasks)}" if verdict.tasks == arena.tasks and len(arena.tasks) > 1 else ", ".join(verdict.tasks)),
            Cell(str(verdict.seeds)),
            Cell(points(verdict.estimate, verdict.level)),
            Cell(percent(verdict.improvement)),
            Cell(verdict.outcome),
        ]
        rows.append(Row(cells))
    headings = ["pretrained", "untrained", "tasks", "seeds", "difference, points", "probability of improvement", "verdict"]
    section.tables = [Table(headings, rows)]
    if lacking := [method.label for method in pretrained if all(verdict.method is not method for verdict in tested)]:
        section.small.append(f"Without an untrained counterpart of equal settings: {'; '.join(lacking)}.")
    section.small.append(_how_tested(tested))
    return section


def _how_tested(tested: Sequence[Verdict]) -> str:
    several = any(verdict.seeds > 1 for verdict in tested)
    text = "The difference is the mean over tasks. " + (
        "Its interval is Student's t on a bootstrap over seeds and episodes, as in the comparisons below"
        if several
        else "With one seed its interval knows chance between episodes alone, that is, these policies and not the methods"
    )
    if len([verdict for verdict in tested if verdict.seeds >= SEEDS_NEEDED]) > 1:
        text += "; these verdicts are one family, so that Holm's correction for their number makes it wider than 95 %"
    if any(verdict.method.one_policy for verdict in tested):
        text += ". A policy that learned all tasks counts once per seed, with its mean over them"
    return (
        f"{text}. The probability of improvement says how likely a run of the one succeeds more often than a run of the other on the same "
        "task (Mann and Whitney's U, ties half); its 95 % interval is a stratified bootstrap's, or Wilson's for so many runs where that is "
        "wider."
    )


def _control_command(method: Method) -> str:
    group = next(iter(method.groups.values()))
    if (overrides := group.runs[0].overrides()) is None:
        return "its own command with encoder=random"
    seeds = ",".join(map(str, group.seeds))
    return command_line(overrides, {"encoder": "random", "seed": seeds}, len(group.seeds) > 1, COMMANDS[group.command])


def _methods(arena: Arena, where: str, suffix: str) -> Section | None:
    """The table over tasks, and the same as a figure."""
    measured = [(method, iqm_interval(method.scores(arena.tasks)), mean_interval(method.scores(arena.tasks))) for method in arena.complete]
    if not measured:
        return None
    measured.sort(key=lambda each: -each[1].value)
    rows = []
    for method, iqm, mean in measured:
        seeds = sorted({len(group.runs) for group in method.groups.values()})
        cells = [name_of(method), Cell(f"{len(arena.tasks)} x {span(seeds)}"), Cell(percent(iqm), method.colour, iqm), Cell(percent(mean))]
        rows.append(Row(cells))
    for policy, name in REFERENCES.items():
        known = [references([method.groups[task] for method in arena.methods if task in method.groups], policy) for task in arena.tasks]
        if all(known):
            scores = Scores([[outcomes.success for outcomes in each] for each in known])
            iqm, mean, seeds = iqm_interval(scores), mean_interval(scores), sorted({len(each) for each in known})
            cells = [reference(name), Cell(f"{len(arena.tasks)} x {span(seeds)}")]
            rows.append(Row([*cells, Cell(percent(iqm), REFERENCE_COLOUR, iqm), Cell(percent(mean))], own=False))
    table = Table(["method", "tasks x seeds", "interquartile mean of success [95 %]", "mean [95 %]"], rows)
    section = Section(f"{'All tasks together' if len(arena.tasks) > 1 else 'Methods'}{where}", tables=[table])
    if len(measured) > 1:
        caption = "Interquartile mean of the success of all runs, with 95 % intervals."
        picture = draw_intervals([(method, iqm) for method, iqm, _ in measured], "interquartile mean of success")
        section.figures.append(Figure(f"methods{suffix}", picture, caption))
    if lacking := [method.label for method in arena.methods if method not in arena.complete]:
        section.small.append(f"Not here, because they were not run on all {counted(len(arena.tasks), 'task')}: {'; '.join(lacking)}.")
    fewest = min(method.seeds(arena.tasks) for method, _, _ in measured)
    section.small.append(
        "The interquartile mean is that of the middle half of all tasks' and seeds' scores (Agarwal et al. 2021). "
        + (
            "Intervals are the wider of two: Student's t on a stratified bootstrap (runs drawn with replacement within each task, 2,000 "
            "times), and chance between episodes alone."
            if fewest > 1
            else "With one seed on a task, intervals know these policies alone: they show chance between episodes, not between seeds."
        )
    )
    return section


def _tasks(arena: Arena, where: str) -> Section:
    section = Section(f"Task by task{where}")
    for task in arena.tasks:
        methods = [method for method in arena.methods if task in method.groups]
        groups = [method.groups[task] for method in methods]
        against = {method.label: _against(method, methods, task) for method in methods if control_of(method, methods)}
        rows = []
        for method in sorted(methods, key=lambda method: -_mean(method.groups[task])):
            group = method.groups[task]
            minutes = sum(run.summary["wall_s"] for run in group.runs) / len(group.runs) / 60
            success, returns = _success([run.own for run in group.runs], method.colour)
            cells = [name_of(method), Cell(listed(group.seeds)), success]
            cells += [against.get(method.label, Cell("-"))] * bool(against)
            cells += [returns, Cell(span(sorted({run.steps for run in group.runs})))]
            rows.append(Row([*cells, Cell(_reached(group)), Cell(f"{minutes:.1f} min")]))
        for policy, name in REFERENCES.items():
            if known := references(groups, policy):
                seeds = sorted({run.seed for group in groups for run in group.runs if policy in run.references})
                success, returns = _success(known, REFERENCE_COLOUR)
                cells = [reference(name), Cell(listed(seeds)), success, *[Cell("-")] * bool(against), returns]
                rows.append(Row([*cells, *[Cell("-")] * 3], own=False))
        headings = ["method", "seeds", "success [95 %]", *["against untrained, points"] * bool(against), "return [95 %]"]
        headings += ["updates" if {group.command for group in groups} == {"imitation"} else "steps", "90 % at", "time"]
        section.tables.append(Table(headings, rows, f"{task}, {arena.name}", _compared(groups)))
    section.small = [
        "Intervals over seeds are Student's t on a bootstrap over seeds and episodes. With one seed it is Wilson's, which knows this "
        "policy alone. Against untrained: the difference to the untrained counterpart with its 95 % interval, a hint that is not corrected "
        "for how many of them stand here. 90 % at: the step of a seed's first evaluation in training with that success.",
        f"What is called below a table: all pairs of its methods with {SEEDS_NEEDED} seeds or more are one family, with Holm's correction "
        "for their number, as in report.json and in what scripts/report.py prints; of more than "
        f"{ALL_PAIRS} methods the pairs with the best are named. Whether pretraining helps is asked further up of fewer pairs, which are a "
        "family of their own.",
    ]
    return section


def _reached(group: Group) -> str:
    """When seeds first succeeded in 90 %, and how many of them did."""
    steps = sorted(step for run in group.runs if (step := run.steps_to(0.9)) is not None)
    return "-" if not steps else span(steps) + (f" ({len(steps)} of {len(group.runs)})" if len(steps) < len(group.runs) else "")


def _against(method: Method, methods: Sequence[Method], task: str) -> Cell:
    control = control_of(method, methods)
    assert control is not None
    seeds = min(method.seeds([task]), control.seeds([task]))
    return Cell(points(difference_over(method, control, [task])), tag="one seed" if seeds == 1 else "")


def _compared(groups: Sequence[Group]) -> list[str]:
    """The calls between one task's methods, and how to come by seeds that lack."""
    comparisons = compare(groups)
    tested = [str(comparison) for comparison in comparisons if comparison.verdict == "better"]
    unclear = [f"{each.first} and {each.second}" for each in comparisons if each.verdict == "no difference shown"]
    notes = [f"{'; '.join(tested)}."] if tested else []
    if unclear:
        notes.append(f"No difference shown: {'; '.join(unclear)}.")
    few = [group for group in groups if len(group.runs) < SEEDS_NEEDED]
    if few and len(groups) > 1:
        command = more_seeds(few[0])
        notes.append(f"Too few seeds to compare: {'; '.join(group.label for group in few)}. More for the first: {command}")
    return notes


def _spread(arena: Arena, where: str, suffix: str) -> Section | None:
    """Performance profiles, and the probability of improvement over the untrained encoder."""
    section = Section(f"How runs are spread{where}")
    if len(arena.complete) > 1:
        drawn, which = _with_most_demos(arena.complete)
        caption = f"Performance profiles: the share of runs that succeed in more than τ of their episodes{which}; bands are pointwise 95 %."
        section.figures.append(Figure(f"profiles{suffix}", draw_profiles(drawn, arena.tasks), caption))
    rows = [(verdict.method, verdict.improvement) for verdict in arena.verdicts]
    if rows:
        caption = "Probability that a run succeeds more often than one of its untrained counterpart on the same task; 50 % is none."
        picture = draw_intervals(rows, "probability of improvement over untrained", middle=0.5)
        section.figures.append(Figure(f"improvement{suffix}", picture, caption))
    return section if section.figures else None


def _with_most_demos(methods: Sequence[Method]) -> tuple[list[Method], str]:
    """One method of each family, which a figure has room for, and what the caption says of that."""
    drawn = [family[-1] for family in by_family(methods)]
    return drawn, "" if len(drawn) == len(methods) else "; of each method with its largest number of demonstrations"


def _demos(arena: Arena, where: str, suffix: str) -> Section | None:
    families = [family for family in by_family(arena.methods) if len(family) > 1]
    section = Section(f"More demonstrations{where}")
    for task in [None, *arena.tasks] if len(arena.tasks) > 1 else arena.tasks:
        asked = arena.tasks if task is None else [task]
        known = [[method for method in family if all(each in method.groups for each in asked)] for family in families]
        if drawn := [family for family in known if len(family) > 1]:
            what = f"the mean over {len(asked)} tasks" if task is None else task
            caption = f"Success over the number of demonstrations, {what}; intervals of 95 %."
            section.figures.append(Figure(f"demos-{'all' if task is None else slug(task)}{suffix}", draw_demos(drawn, asked), caption))
    return section if section.figures else None


def _learning(arena: Arena, where: str, suffix: str) -> Section | None:
    section = Section(f"Learning curves{where}")
    for task in arena.tasks:
        for command, unit in STEPS.items():
            methods = [method for method in arena.methods if task in method.groups and method.groups[task].command == command]
            drawn, which = _with_most_demos(methods)
            if drawn and (picture := draw_learning(drawn, task, unit)):
                caption = f"{task}: success at the evaluations in training, mean over seeds; bands from the worst to the best seed{which}."
                section.figures.append(Figure(f"learning-{slug(task)}-{command}{suffix}", picture, caption))
    return section if section.figures else None


def _films(found: Sequence[Arena]) -> Section | None:
    """For each encoder one film of a success and one of a failure, or what a run of reinforcement learning filmed at its end."""
    films: dict[tuple[str, str], Film] = {}
    room = FILMS_BYTES
    methods = sorted((method for arena in found for method in arena.methods), key=lambda method: -max(map(_mean, method.groups.values())))
    for method in methods:
        encoder = method.label.split(", ")[0] + (" untrained" if method.settings.get("weights") == "random" else "")
        for run in (run for group in method.groups.values() for run in group.runs):
            for kind in ("success", "failure", "trained"):
                path = run.path / "videos" / f"{kind}.mp4"
                if (encoder, kind) in films or kind == "trained" and (encoder, "success") in films or not path.is_file():
                    continue
                if 0 < (size := path.stat().st_size) <= min(FILM_BYTES, room):
                    room -= size
                    what = {"success": "success", "failure": "failure", "trained": "the trained policy"}[kind]
                    caption = f"{method.label}: {what}. {', '.join(run.tasks)}, seed {run.seed}"
                    films[encoder, kind] = Film(path.read_bytes(), caption)
    return Section("Films", films=list(films.values())) if films else None


def _papers(report: Report) -> Section | None:
    if all(group.command != "imitation" for group in report.groups):
        return None
    rows = [Row([Cell(text) for text in figures]) for figures in papers.FIGURES]
    table = Table(["benchmark", "encoder", "success, %", "source"], rows)
    text = ["These are no targets for the tables above. What differs:", *papers.DIFFERENCES]
    return Section("The papers' numbers", text=text, tables=[table], small=[papers.SOURCES])


def _cells(cells: Sequence[dict]) -> Section | None:
    rows = []
    for cell in _failed(cells):
        texts = [Cell(str(cell.get(key) or "-")) for key in ("cell", "status", "error")]
        rows.append(Row([*texts, Cell(str(cell.get("rerun") or "-"), code=True)]))
    return Section("Cells that did not finish", tables=[Table(["cell", "status", "error", "run it again"], rows)]) if rows else None


def _left_out(left_out: Sequence[tuple[Path, str]]) -> Section | None:
    rows = [Row([Cell(str(path)), Cell(reason)]) for path, reason in left_out]
    return Section("Left out", tables=[Table(["run", "reason"], rows)]) if rows else None


def _runs(report: Report, found: Sequence[Arena], out: Path) -> Section:
    reruns = {cell["run"].resolve(): cell.get("rerun") for cell in report.cells if cell["run"]}
    rows = []
    for method in (method for arena in found for method in arena.methods):
        for task, group in method.groups.items():
            for run in group.runs:
                again = reruns.get(run.path.resolve()) or _command([run])
                success = Cell(f"{100 * run.own.success.mean():.0f} %")
                rows.append(
                    Row([link_to(run.path, out), name_of(method), Cell(task), Cell(str(run.seed)), success, Cell(again, code=True)])
                )
    tables = [Table(["run", "method", "task", "seed", "success", "run it again"], rows), view_runs_table(report.views, out)]
    again = [*_commands(report), f"python scripts/report.py {shlex.join(map(str, report.paths))}"]
    commands = Table(["all of it again, and this page"], [Row([Cell(command, code=True)]) for command in again])
    return Section("Runs, and how to repeat them", tables=[commands, *(table for table in tables if table.rows)])


# ---- small things ----------------------------------------------------------------------------------------------------------------


def _success(outcomes: Sequence[Outcomes], colour: str) -> tuple[Cell, Cell]:
    """Success with its interval, and the return."""
    value, (low, high) = success_interval(outcomes)
    returns = f"{np.mean([seed.returns.mean() for seed in outcomes]):.1f}"
    if len(outcomes) > 1:
        ends = mean_over_seeds([seed.returns for seed in outcomes], share=False).interval()
        returns += f" [{ends[0]:.1f} to {ends[1]:.1f}]"
    return Cell(rate(value, (low, high)), colour, Interval(value, low, high), "one seed" if len(outcomes) == 1 else ""), Cell(returns)


def _mean(group: Group) -> float:
    return float(np.mean([run.own.success.mean() for run in group.runs]))
