"""Which runs are better, and how sure that is: python scripts/report.py RUN_FOLDER... [out=FOLDER]

    RUN_FOLDER  folders of runs of run_rl.py, run_imitation.py or run_viewpoint.py, or folders above them, such as runs/rl or
                runs/benchmarks/quick
    out         where report.html (a page that holds all its figures, and films) goes, and beside it report.json, report/ (the page's
                figures) and, where a run was trained, report.png (curves); default the common folder above the runs

Runs whose settings differ in the seed alone are one group. A difference between two groups is called only with three seeds or more on
both sides, and never between runs with other tasks, evaluation cameras, appearances, horizons, scores or numbers of episodes. Of moved
cameras nothing is called with fewer than five seeds and 100 episodes per level.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robo_repr.core.errors import UserError
from robo_repr.core.report import (
    ALL_PAIRS,
    PAIRED_FROM,
    SEEDS_NEEDED,
    Comparison,
    Group,
    Outcomes,
    contest_name,
    more_seeds,
    references,
    success_interval,
    unequal_contests,
)
from robo_repr.core.report.layout import percent, share_left
from robo_repr.core.report.page import read_report, write_report
from robo_repr.core.report.view_sections import view_warnings
from robo_repr.core.report.views import Views, area_under, expert_under, success_under, titles
from robo_repr.core.stats import mean_over_seeds
from robo_repr.core.summary import REFERENCES, rate


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    try:
        paths, out = parse(arguments)
        report = read_report(paths)
        out = prepare(out or common_folder(report.folders))
        # A file has no screen's width; 120 columns hold the table with most labels.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        show(report.groups, report.comparisons, console)
        show_views(report.views, console)
        show_left_out(report.left_out, console)
        try:
            page = write_report(report, out)
        except OSError as error:
            raise UserError(
                f"The report cannot be written to {out} ({error.strerror or error}). Choose another folder: out=FOLDER."
            ) from error
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    curves = [out / "report.png"] if report.groups else []
    print(f"written to {', '.join(map(str, [page, *curves]))} and {out / 'report.json'}")
    return 0


def parse(arguments: list[str]) -> tuple[list[Path], Path | None]:
    """The folders to read, and `out`."""
    paths, out = [], None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"'{argument}' is not known. Write python scripts/report.py RUN_FOLDER... [out=FOLDER].")
        if not equals or Path(argument).exists():
            paths.append(Path(argument).expanduser())
        elif key != "out":
            raise UserError(f"'{argument}' is no folder and no setting. Write python scripts/report.py RUN_FOLDER... [out=FOLDER].")
        elif not value:
            raise UserError("out= is empty. Write out=FOLDER.")
        else:
            out = Path(value).expanduser()
    if not paths:
        raise UserError("No run is named. Write folders of runs, or a folder above them: python scripts/report.py runs/rl")
    return paths, out


def common_folder(runs: list[Path]) -> Path:
    """The folder above all runs; the current one where they share no folder, or one that cannot be written."""
    folder = Path(os.path.commonpath([run.resolve().parent for run in runs]))
    shared = folder.parent != folder and os.access(folder, os.W_OK)
    return Path(os.path.relpath(folder)) if shared and folder.is_relative_to(Path.cwd()) else folder if shared else Path()


def prepare(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made ({error.strerror or error}). Name a folder that can be written.") from error
    return out


def show(groups: list[Group], comparisons: list[Comparison], console: Console) -> None:
    """Prints a table for each contest, the verdicts, and how to come by the seeds that lack."""
    if not groups:
        return

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style), soft_wrap=True)

    for contest in dict.fromkeys(group.contest for group in groups):
        console.print(table([group for group in groups if group.contest == contest], contest_name(contest)))
    say(
        "Intervals are 95 %: Student's t on a bootstrap over seeds and episodes, or with one seed Wilson's, which knows this policy alone. "
        "90 % at: steps at each seed's first evaluation in training with that success.",
        "dim",
    )
    if comparisons:
        say("")
    for comparison in comparisons:
        if comparison.verdict == "better":
            say(str(comparison), "bold")
        elif comparison.estimate:
            say(str(comparison))
    # Pairs of groups with few seeds all say the same; report.json names each of them.
    for group in groups:
        if (command := more_seeds(group)) and sum(other.contest == group.contest for other in groups) > 1:
            have = "1 seed, which says" if len(group.runs) == 1 else f"{len(group.runs)} seeds, which say"
            say(f"not compared: {group.label} has {have} nothing about the method; {SEEDS_NEEDED} are needed. Run more: {command}")
    if reason := unequal_contests(groups):
        say(f"not compared: groups of different tables, {reason}")
    if tested := [comparison for comparison in comparisons if comparison.estimate]:
        say(footnote(tested, groups), "dim")


def show_views(views: Views, console: Console) -> None:
    """Prints what policies came to under moved cameras, a table for each task, and whether that is too few for a claim."""
    for arena in views.arenas:
        levels = titles(arena.methods, "level")
        for task in arena.tasks:
            result = Table(title=Text(f"{task} under moved cameras, {arena.name}, success [95 %]"), title_justify="left")
            result.add_column("method", overflow="fold")
            result.add_column("seeds")
            for heading in (*levels, "area"):
                result.add_column(heading, justify="right", no_wrap=True)
            methods = [method for method in arena.methods if task in method.groups]
            for method in methods:
                group = method.groups[task]
                cells = [percent(known) if (known := success_under(group, level)) else "-" for level in levels]
                cells = [cell.replace(" [", "\n[") for cell in (*cells, share_left(area_under(group, levels)))]  # six levels side by side
                result.add_row(Text(method.label, "bold"), numbers(group.seeds), *map(Text, cells))
            result.add_section()
            experts = [expert_under(methods, task, level) for level in levels]
            result.add_row("expert", "", *(f"{100 * known.value:.0f} %" if known else "-" for known in experts), "")
            console.print(result)
    for warning in view_warnings(views):
        console.print(Text(warning), soft_wrap=True)


def show_left_out(left_out: list[tuple[Path, str]], console: Console) -> None:
    if left_out:
        console.print("left out:")
    for path, reason in left_out:
        console.print(Text(f"  {path}: {reason}"), soft_wrap=True)


def footnote(tested: list[Comparison], groups: list[Group]) -> str:
    """How the differences were tested."""
    how = {comparison.paired for comparison in tested}
    pairing = "paired by seed and episode" if how == {True} else "not paired" if how == {False} else "paired where the seeds are the same"
    text = f"Differences: {pairing} (pairing needs the same {PAIRED_FROM} seeds or more)"
    if min(comparison.level for comparison in tested) < 0.05:
        text += (
            "; Holm's correction for all pairs of one task and evaluation: chance alone calls any of them in at most 5 %, so intervals are "
            "wider than 95 %"
        )
    if max(sum(other.contest == group.contest for other in groups) for group in groups) > ALL_PAIRS:
        text += f"; of more than {ALL_PAIRS} groups only pairs with the best are shown"
    return f"{text}."


def table(groups: list[Group], title: str) -> Table:
    """The groups of one contest, the best first, and below them the reference policies on the same episodes."""
    result = Table(title=Text(title), title_justify="left")
    result.add_column("group", overflow="fold")
    result.add_column("seeds")
    for heading in (f"success of {groups[0].episodes} [95 %]", "interval", "return [95 %]", steps_name(groups), "90 % at", "time"):
        result.add_column(heading, justify="right", no_wrap=heading != "interval")
    for group in sorted(groups, key=lambda group: -success_interval([run.own for run in group.runs])[0]):
        steps = [run.steps for run in group.runs]
        minutes = np.mean([run.summary["wall_s"] for run in group.runs]) / 60
        span = str(max(steps)) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
        first = steps_to_90(group)
        reached = ", ".join("-" if at is None else str(at) for at in first) if any(first) else "-"
        cells = (numbers(group.seeds), *figures([run.own for run in group.runs]), span, reached, f"{minutes:.1f} min")
        result.add_row(Text(group.label, "bold"), *cells)
    result.add_section()
    for policy, name in REFERENCES.items():
        if known := references(groups, policy):
            seeds = sorted({run.seed for group in groups for run in group.runs if policy in run.references})
            result.add_row(name, numbers(seeds), *figures(known), "-", "-", "-")
    return result


def steps_name(groups: Sequence[Group]) -> str:
    """What the groups count."""
    commands = {group.command for group in groups}
    return "env steps" if commands == {"rl"} else "updates" if commands == {"imitation"} else "steps"


def steps_to_90(group: Group) -> list[int | None]:
    """For each seed the steps at the first evaluation with 90 % success."""
    return [run.steps_to(0.9) for run in group.runs]


def figures(outcomes: Sequence[Outcomes]) -> tuple[str, str, str]:
    """Success with its interval, where that comes from, and the return."""
    value, interval = success_interval(outcomes)
    mean = np.mean([seed.returns.mean() for seed in outcomes])
    if len(outcomes) == 1:
        return rate(value, interval), "Wilson", f"{mean:.1f}"
    low, high = mean_over_seeds([seed.returns for seed in outcomes], share=False).interval()
    return rate(value, interval), "over seeds", f"{mean:.1f} [{low:.1f} to {high:.1f}]"


def numbers(seeds: list[int]) -> str:
    """``0-2`` for seeds in a row, else a list."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
