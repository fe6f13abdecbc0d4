"""A grid of runs, ``benchmark=NAME``: what configs/benchmark/<command>/NAME.yaml lists, cell by cell, and what came of it in a table.

Such a file says:

    title, note   for people
    axes          key -> its values; every combination is a cell. The first axis varies slowest. A value is a word, or several such as
                  "r3m variant=resnet18 weights=FILE"
    settings      key -> value, for all cells
    controls      name -> words that replace those of an axis, such as "identity: encoder=identity privileged=true"

What the user writes wins: a key that is an axis replaces its values (one, or a list), a list for a key that takes one value is one more
axis, anything else replaces a setting; but a control is what it says. Nothing here knows what a cell does.
"""

import dataclasses
import fcntl
import itertools
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from agents.cell_process import CellProcess, end_with_parent, find, in_words
from agents.progress import Bar, PatientConsole
from robo_repr.core.cli import compose, takes_one_value, words_and_values
from robo_repr.core.config import CONFIGS, flat, folder_of, folder_text, load_part, short_name
from robo_repr.core.errors import Failure, UserError, check_range, unknown
from robo_repr.core.files import home_expanded, write_whole
from robo_repr.core.lock import drop_lock, take_lock
from robo_repr.core.metrics import read_metrics
from robo_repr.core.run import MAY_CHANGE, RunDir
from robo_repr.core.signals import Signals
from robo_repr.core.stats import mean_over_seeds
from robo_repr.core.summary import SCORES, belongs_to_encoder, percent, rate

PARTS = {"title": str, "note": str, "axes": dict, "settings": dict, "controls": dict}
OF_THE_GRID = ("benchmark", "cell", "tag", "run_dir", "fresh")  # keys that say which cells and where, not what a cell does
NO_MATTER = ("logger", "device", "fresh", "run_dir", "names.budget")  # a finished cell may have had others
SEEDS_NEEDED = 3  # below, the spread between seeds is not known well enough
FROM_SUMMARY = ("success", "success_ci95", "score", "scores", "episodes", "wall_s")
NO_TABLE = {"lock", "stop", "results.jsonl.tmp"}  # what a table that was stopped before its first row may leave


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        name: of its folder, the seed aside.
        method: what tells it from other cells of its task, the seed aside.
        arm: the name of a control, or ``encoder``.
        path: the run's folder.
    """

    number: int
    name: str
    method: str
    arm: str
    path: Path
    config: Any
    words: list[str]

    @property
    def log(self) -> Path:
        """Beside the run's folder, which belongs to the run."""
        return self.path.with_name(f"{self.path.name}.log")

    def note(self, *, done: bool = False, error: str | None = None) -> None:
        """Writes with which settings the cell was begun, and what came of it. The run completes its own copy of the settings.

        Raises:
            OSError: the system refuses.
        """
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._notes, json.dumps({"settings": self._settings(), "done": done, "error": error}, indent=2) + "\n")

    def error(self) -> str | None:
        """What went wrong, if it failed."""
        return self._read_notes().get("error")

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Key -> (before, now) of the settings that matter and differ from those that it was begun with."""
        now, before = self._settings(), self._read_notes().get("settings", {})
        keys = [key for key in now.keys() | before.keys() if before.get(key) != now.get(key) and key not in NO_MATTER]
        return {key: (before.get(key), now.get(key)) for key in sorted(keys)} if before else {}

    def finished(self) -> bool:
        """Whether its run ended as planned, with the settings that are asked for now."""
        # The summary alone may be of fewer steps: from a start before this one, which was killed at once.
        return self._read_notes().get("done") is True and not self.changed() and RunDir(self.path).finished

    @property
    def _notes(self) -> Path:
        return _notes_of(self.path)

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return notes if isinstance(notes, dict) and isinstance(notes.get("settings"), dict) else {}

    def _settings(self) -> dict[str, Any]:
        return json.loads(json.dumps(flat(dataclasses.asdict(self.config))))

    def __str__(self) -> str:
        return f"{self.name}/{self.path.name}"


class Benchmark:
    """The cells that a benchmark's file and the user's words ask for; a `Grid` of `robo_repr.core.cli`.

    Args:
        config_class: of the cells.
        overrides: the user's words, ``benchmark=NAME`` among them. ``cell=7`` runs that cell alone.
        run: where the function is that runs one cell; see `CellProcess`.
        report: gets the grid's folder when all cells are done.
        columns: what summaries call several outcomes of a run, name -> its success and episodes, which rows carry and the printed table
            shows side by side; None: a run has one success.

    Raises:
        UserError: there is no such benchmark, its file is broken, or a cell's settings are not possible.
    """

    def __init__(self, config_class: Any, overrides: list[str], run: str, report: Callable[[Path], None], columns: str | None = None):
        self.config_class, self.run_cell, self.report, self.columns = config_class, run, report, columns
        self.from_summary = (*FROM_SUMMARY, *filter(None, [columns]))
        given = words_and_values(overrides, OF_THE_GRID)
        self.name = _text(given["benchmark"][1])
        self.spec = _read(folder_of(config_class, "benchmark"), self.name)
        own, _ = compose(config_class, [given[key][0] for key in ("tag", "run_dir", "fresh") if key in given])
        self.fresh = own.fresh
        self._composed: dict[tuple[str, ...], tuple[Any, list[str]]] = {}
        self._seeds: dict[str, int] = {}
        self.folder = home_expanded(own.run_dir or f"{config_class.tables}/{self.name}{f'-{own.tag}' if own.tag else ''}")
        self.words = [word for key, (word, _) in given.items() if key not in ("cell", "fresh")]
        self.cells = self._make_cells({key: value for key, value in given.items() if key not in OF_THE_GRID})
        self.asked: int | None = given["cell"][1] if "cell" in given else None
        if self.asked is not None:
            check_range("cell", self.asked, 0, len(self.cells) - 1, f"of benchmark={self.name}, which --cfg lists", whole=True)
        self._process_id = os.getpid()

    # ---- which cells ---------------------------------------------------------------------------------------------------------------

    def _make_cells(self, given: dict[str, tuple[str, Any]]) -> list[Cell]:
        axes = {key: [_words(key, value) for value in values] for key, values in self.spec["axes"].items()}
        settings = dict(self.spec["settings"])
        if "budget" in given and "budget" in self.config_class.groups:
            for key in load_part(folder_of(self.config_class, "budget"), str(given["budget"][1])):
                settings.pop(key, None)
        keys = {item.name for item in dataclasses.fields(self.config_class)}
        users = []
        for key, (word, value) in given.items():
            axis = key.removesuffix("s") if key in keys and key not in axes and key.removesuffix("s") in axes else key
            if axis in axes or isinstance(value, list) and takes_one_value(self.config_class, key):
                values = value if isinstance(value, list) else [value]
                if not values:
                    raise UserError(f"{word} leaves no cell. Give one value or more.")
                if axis not in axes:  # before the last axis, so that early cells still show all that is compared
                    *slow, last = axes.items()
                    axes = dict([*slow, (key, []), last])
                axes[axis] = [_words(axis, value) for value in values]
            else:
                users.append(word)
            settings.pop(key, None)
        self.keys = [*axes, *settings, *(_key(word) for word in users)]
        fixed = [f"{key}={_text(value)}" for key, value in settings.items()]
        cells: list[Cell] = []
        known: dict[Path, list[str]] = {}
        for arm, chosen in self._combinations(axes):
            cell = self._make_cell(len(cells), arm, chosen, fixed, users)
            if known.setdefault(cell.path, cell.words) != cell.words:
                raise UserError(f"Two cells would write {cell.path}: '{' '.join(known[cell.path])}' and '{' '.join(cell.words)}'.")
            if len(known) > len(cells):
                cells.append(cell)
        return cells

    def _combinations(self, axes: dict[str, list[list[str]]]) -> Iterator[tuple[str, dict[str, list[str]]]]:
        """(arm, axis -> words) of every cell, in order. A value that is also a control counts as one."""
        arms = {key: [("encoder", words) for words in values] for key, values in axes.items()}
        for name, text in self.spec["controls"].items():
            words = shlex.split(text)
            axis = _key(words[0])
            arms[axis] = [*((arm, value) for arm, value in arms[axis] if value != words), (name, words)]
        for chosen in itertools.product(*arms.values()):
            arm = next((arm for arm, _ in chosen if arm != "encoder"), "encoder")
            yield arm, dict(zip(arms, (words for _, words in chosen), strict=True))

    def _make_cell(self, number: int, arm: str, chosen: dict[str, list[str]], fixed: list[str], users: list[str]) -> Cell:
        if arm != "encoder" and _key(self.spec["controls"][arm]) == "encoder":
            chosen = {axis: words for axis, words in chosen.items() if not belongs_to_encoder(axis)}
            users = [word for word in users if not belongs_to_encoder(_key(word))]
        of_axes = [word for words in chosen.values() for word in words]
        self._refuse_double(of_axes if arm != "encoder" else [*of_axes, *users])
        words = [*fixed, *users, *of_axes]  # the later word counts
        try:
            config, words = self._compose(words)
        except UserError as error:
            raise UserError(f"benchmark={self.name} has no cell '{' '.join(words)}': {error}") from error
        parts = {}
        for axis, axis_words in chosen.items():
            value = arm if arm != "encoder" and axis == _key(self.spec["controls"][arm]) else _label(axis, axis_words)
            parts[axis] = value if axis in (*self.config_class.groups, "task") else f"{axis}={value}"
        parts.pop("seed", None)
        ordered = sorted(parts, key=lambda axis: (axis != "task", axis not in self.config_class.groups))
        name = short_name("-".join(folder_text(parts[axis].replace("=", "_")) for axis in ordered)) or "run"
        method = " ".join(parts[axis] for axis in ordered if axis != "task") or "all"
        path = self.folder / name / f"s{config.seed}"
        return Cell(number, name, method, arm, path, dataclasses.replace(config, run_dir=str(path)), words)

    def _refuse_double(self, words: list[str]) -> None:
        """Two words for one key: whichever counted, the cell's name or the user's wish would be wrong."""
        by_key: dict[str, str] = {}
        for word in words:
            if (other := by_key.setdefault(_key(word), word)) is not word:
                raise UserError(
                    f"A cell of benchmark={self.name} would have both {other} and {word} ('{' '.join(words)}'). Say {_key(word)} once: "
                    "for all cells, or in the values of an axis."
                )

    def _compose(self, words: list[str]) -> tuple[Any, list[str]]:
        """As `compose`, which takes a tenth of a second: once for cells that differ in the seed alone, and for each seed."""
        rest = tuple(word for word in words if not word.startswith("seed="))
        seed = next((word for word in reversed(words) if word.startswith("seed=")), "")
        if rest in self._composed and seed in self._seeds and "${" not in " ".join(words):
            config, known = self._composed[rest]
            return dataclasses.replace(config, seed=self._seeds[seed]), [*known, *([seed] if seed else [])]
        config, words = compose(self.config_class, [*rest, *([seed] if seed else [])])
        self._composed[rest] = config, words[: len(words) - bool(seed)]
        self._seeds[seed] = config.seed
        return config, words

    def listing(self) -> str:
        """One line per cell: number, folder, words."""
        return "\n".join(f"{cell.number:3} {cell}  {shlex.join(cell.words)}" for cell in self.cells)

    # ---- running them --------------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Runs all cells that are not finished, or the one that was asked for; returns the exit code."""
        if self.asked is not None:
            return self._run_here(self.cells[self.asked])
        with self._writing(self.cells), self._stopped_by_signals() as signals, _Progress(self._console(), self) as progress:
            process = None
            try:
                for cell in self.todo():
                    if self._stops():
                        break
                    process = process or CellProcess(self.run_cell)
                    progress.begin(cell)
                    error = self._run_in(process, cell)
                    if error and self._stops():
                        break
                    progress.end(self._outcome(cell, error))
                    if error:  # whatever it left behind shall not spoil the next one
                        process.close()
                        process = None
            finally:
                if process:
                    process.close()
        return self._conclude(signals)

    def sweep(self, launch: Callable[[Callable[[int], None], list[int]], int]) -> int:
        """As `run`, but ``launch(job, numbers)`` says where cells run: here, or several at a time in other processes."""
        if self.asked is not None:
            raise UserError(f"cell={self.asked} is one cell. Leave out -m, or leave out cell= to run all.")
        with self._writing(self.cells), self._stopped_by_signals() as signals:
            todo = self.todo()
            print(f"{len(self.cells)} cells, {len(self.cells) - len(todo)} finished before; writing to {self.folder}", flush=True)
            code = launch(self._job, [cell.number for cell in todo]) if todo else 0
            if code and not signals.caught:
                return code
        return self._conclude(signals)

    def todo(self) -> list[Cell]:
        """The cells that are not finished."""
        return [cell for cell in self.cells if not cell.finished()]

    def _job(self, number: int) -> None:
        """One cell of a sweep, in whatever process."""
        global _process_of_jobs
        if os.getpid() != self._process_id and _process_of_jobs is None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, but the process that started the sweep decides
            end_with_parent(os.getppid())
        if self._stops():
            return
        _process_of_jobs = _process_of_jobs or CellProcess(self.run_cell)
        cell, began = self.cells[number], time.perf_counter()
        error = self._run_in(_process_of_jobs, cell)
        if error:
            _process_of_jobs.close()
            _process_of_jobs = None
        print(f"{self._outcome(cell, error)} ({time.perf_counter() - began:.0f} s)", flush=True)

    def _run_in(self, process: CellProcess, cell: Cell) -> str | None:
        """Runs a cell and notes what came of it; returns what went wrong."""
        with _explained(self.folder):
            cell.note()
            self.write_results()
            error = process.do(cell.config, cell.words, cell.log, self._stops)
            if not error and not RunDir(cell.path).finished:
                error = f"It returned without having finished; what it printed is in {cell.log}."
            if not error or not self._stops():
                cell.note(done=not error, error=error)
            self.write_results()
        return error

    def _run_here(self, cell: Cell) -> int:
        """Runs a cell in this process, where its words can be seen."""
        with self._writing([cell]):
            with _explained(self.folder):
                cell.note()
                self.write_results()
            try:
                code = find(self.run_cell)(dataclasses.replace(cell.config, fresh=self.fresh), cell.words)
            except BaseException as error:
                with suppress(OSError):  # which would hide what went wrong
                    if isinstance(error, Exception):
                        cell.note(error=in_words(error))
                    self.write_results()
                raise
            with _explained(self.folder):
                cell.note(done=not code)
                self.write_results()
        return code

    def _outcome(self, cell: Cell, error: str | None) -> str:
        if not error:
            outcomes = self._outcomes(RunDir(cell.path).summary()).items()
            return f"{cell}: {', '.join(f'{name} {_percent(one)}'.strip() for name, one in outcomes)}"
        return f"{cell}: interrupted" if self._stops() else f"{cell}: failed. {error}"

    def _conclude(self, signals: Signals) -> int:
        """The exit code, after saying what came out."""
        console, rows = self._console(), self.rows()
        failed = [row for row in rows if row["status"] == "failed"]
        finished = sum(row["status"] == "finished" for row in rows)
        if signals.caught:
            console.out(f"interrupted: {finished} of {len(self.cells)} cells are finished. The same command goes on.", highlight=False)
            return 128 + signals.caught
        if finished:
            self._print_tables(rows, console)
        for row in failed:
            console.out(f"failed: {row['cell']}. {row['error']}\n  again: {row['rerun']}", highlight=False)
        console.out(f"results     {self.folder / 'results.jsonl'}", highlight=False)
        if finished:
            with _explained(self.folder):
                self.report(self.folder)
        return 1 if failed else 0

    # ---- where they are ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, cells: list[Cell]) -> Iterator[None]:
        """Holds the folder; refuses cells that were run with other settings, before any is run. A single cell's run is its own to move."""
        lock = None
        otherwise = "choose another folder with tag=NAME or run_dir=FOLDER"
        try:
            with _explained(self.folder, UserError):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = take_lock(self.folder, otherwise)
                is_table = (self.folder / "results.jsonl").exists()
                if not is_table and any(file.name not in NO_TABLE for file in self.folder.iterdir()):
                    raise UserError(
                        f"{self.folder} holds files but no table (no results.jsonl), so nothing was written or moved. Choose a new or "
                        "empty folder as run_dir."
                    )
                if self.fresh and is_table and self.asked is None:
                    if Path.cwd().is_relative_to(self.folder.resolve()):
                        raise UserError(f"{self.folder.resolve()} cannot be moved aside from within. Start the command in another folder.")
                    drop_lock(self.folder, lock)
                    lock = None
                    self._move_aside()
                    lock = take_lock(self.folder, otherwise)
                self._stop_file.unlink(missing_ok=True)
                if not self.fresh:
                    _refuse_other_settings(cells)
                self.write_results()
            yield
        finally:
            if lock is not None:
                drop_lock(self.folder, lock)

    def _move_aside(self) -> None:
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old-{number}")).exists():
            number += 1
        self.folder.rename(aside)
        self.folder.mkdir()
        print(f"moved the old table to {aside}", flush=True)

    @property
    def _stop_file(self) -> Path:
        """Its being there stops the grid: cells may run in processes that no signal reaches."""
        return self.folder / "stop"

    def _stops(self) -> bool:
        return self._stop_file.exists()

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[Signals]:
        try:
            with _StoppingSignals(self._stop_file) as signals:
                yield signals
        finally:
            self._stop_file.unlink(missing_ok=True)

    def _console(self) -> Console:
        # A file has no screen's width; 140 columns hold a method and six levels.
        return PatientConsole(width=None if sys.stdout.isatty() else 140)

    # ---- what came of them ---------------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict]:
        """What stands on disk of each cell that was begun with the settings that are asked for now, in the grid's order."""
        rows = []
        for cell in self.cells:
            if cell.changed():
                continue
            row = {"cell": str(cell), "number": cell.number, "name": cell.name, "method": cell.method, "arm": cell.arm}
            row |= self._settings(cell.config)
            row |= {**dict.fromkeys(self.from_summary), "run": str(cell.path.relative_to(self.folder)), "error": None}
            row["rerun"] = f"python {self.config_class.program} {shlex.join([*self.words, f'cell={cell.number}'])}"
            if cell.finished():
                summary = RunDir(cell.path).summary()
                row |= {"status": "finished", **{key: summary.get(key) for key in self.from_summary}}
            elif error := cell.error():
                row |= {"status": "failed", "error": error}
            elif cell.path.exists():
                row["status"] = "interrupted"
            else:
                continue
            rows.append(row)
        return rows

    def _settings(self, config: Any) -> dict[str, Any]:
        """What a reader groups rows by: the parts, the task, the seed, and what the file or the user set."""
        chosen = {key: getattr(config, key) for key in ("task", "seed", *self.keys) if hasattr(config, key)}
        return {**chosen, **config.names}

    def write_results(self) -> None:
        """Writes results.jsonl anew; processes that do it at the same time wait for each other.

        Raises:
            OSError: the system refuses.
        """
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            rows = self.rows()
            rows += self._other_rows({row["cell"] for row in rows})
            write_whole(self.folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        finally:
            os.close(descriptor)

    def _other_rows(self, cells: set[str]) -> list[dict]:
        """What results.jsonl says of other cells in the folder: not asked for this time, or finished with other settings."""
        path = self.folder / "results.jsonl"
        others = [row for row in read_metrics(path) if row.get("cell") not in cells] if path.exists() else []
        return [row for row in others if isinstance(row.get("run"), str) and _is_there(self.folder / row["run"], row.get("status"))]

    def _outcomes(self, found: dict) -> dict[str, dict]:
        """Name -> success and episodes, of a summary or a row; one outcome alone has no name."""
        return {"": found} if self.columns is None else found.get(self.columns) or {}

    def _print_tables(self, rows: list[dict], console: Console) -> None:
        """A table per task: methods and their success over seeds, of each outcome."""
        console.out(f"\n{self.spec['title']}", highlight=False)
        if self.spec["note"]:
            console.out(" ".join(self.spec["note"].split()), highlight=False)
        if users := [word for word in self.words if _key(word) not in OF_THE_GRID]:
            console.out(f"with: {shlex.join(users)}", highlight=False)
        finished = [row for row in rows if row["status"] == "finished"]
        scores = {SCORES.get(row["score"]) for row in finished}
        score = scores.pop() if len(scores) == 1 else None
        one = "success [95 %]" + (f", evaluation: {score}" if score else "")
        names = list(dict.fromkeys(name for row in finished for name in self._outcomes(row)))
        tasks = {_text(row["task"]): None for row in rows} if rows and "task" in rows[0] else {"": None}
        few = False
        for task in tasks:
            title = task if self.columns is None else f"{task}: {one}".removeprefix(": ")
            table = Table(title=Text(title))  # not a string, in which [words] are marks
            for heading in ("method", *(name or one for name in names), "seeds", "episodes"):
                table.add_column(
                    Text(heading), justify="left" if heading == "method" else "right", overflow="fold", no_wrap=heading == "method"
                )
            of_task = [row for row in rows if not task or _text(row["task"]) == task]
            for method in {row["method"]: None for row in of_task}:
                group = [row for row in of_task if row["method"] == method]
                done = [row for row in group if row["status"] == "finished" and row["success"] is not None]
                label = Text(method if group[0]["arm"] == "encoder" else f"{method} (control)")
                if not done:
                    table.add_row(label, *[group[0]["status"], *[""] * len(names)][: len(names)], "0", "0")
                    continue
                few |= len(done) < SEEDS_NEEDED
                missing = f" of {len(group)}" if len(done) < len(group) else ""
                outcomes = [[found[name] for row in done if name in (found := self._outcomes(row))] for name in names]
                cells = [_over_seeds(each) for each in outcomes]
                if len(cells) > 1:  # beside each other, so narrow
                    cells = [cell.replace(" [", "\n[") for cell in cells]
                table.add_row(label, *map(Text, cells), f"{len(done)}{missing}", str(sum(row["episodes"] for row in done)))
            console.print(table)
        if few:
            console.out(
                f"Below {SEEDS_NEEDED} seeds an interval knows these very policies, not what other seeds would give.", highlight=False
            )


_process_of_jobs: CellProcess | None = None  # a sweep's process runs many cells in one


class _StoppingSignals(Signals):
    """Leaves a file where others look too."""

    def __init__(self, stop: Path):
        super().__init__()
        self._stop = stop

    def _catch(self, number: int, frame: Any) -> None:
        super()._catch(number, frame)
        with _explained(self._stop.parent):
            self._stop.touch()


class _Progress(Bar):
    """What a person sees while cells run: a bar on a terminal, a line per cell anywhere."""

    def __init__(self, console: Console, grid: Benchmark):
        total = len(grid.cells)
        self._done = self._before = total - len(grid.todo())
        self._began = time.perf_counter()
        console.out(f"{total} cells, {self._done} finished before; writing to {grid.folder}", highlight=False)
        super().__init__(console, total, self._done, TextColumn("{task.completed:.0f}/{task.total:.0f} cells"))

    def begin(self, cell: Cell) -> None:
        self._cell_began = time.perf_counter()
        self.show(self._done, f"{cell}{self._left()}")

    def end(self, outcome: str) -> None:
        self._done += 1
        self.show(self._done)
        seconds = time.perf_counter() - self._cell_began
        self._console.out(f"{self._done}/{self._total} {outcome} ({seconds:.0f} s{self._left()})", highlight=False)

    def _left(self) -> str:
        """From the speed of this process, its start included."""
        done = self._done - self._before
        if not done:
            return ""
        seconds = (time.perf_counter() - self._began) / done * (self._total - self._done)
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"


def _refuse_other_settings(cells: list[Cell]) -> None:
    for cell in cells:
        changed = {
            key: values
            for key, values in cell.changed().items()
            if key not in MAY_CHANGE or key == "steps" and values[1] < (values[0] or 0)
        }
        if changed and cell.path.exists():  # a mistake that left no run may be mended
            listed = "; ".join(f"{key}: {before} before, {now} now" for key, (before, now) in changed.items())
            raise UserError(
                f"{cell.path} was begun with other settings ({listed}). Use the same ones to go on, tag=NAME for a table beside this "
                "one, or fresh=true to move it aside."
            )


@contextmanager
def _explained(folder: Path, kind: type[UserError] = Failure) -> Iterator[None]:
    """Says in one paragraph what the system refuses."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"The table's folder {folder} cannot be written ({error.strerror or error}). Make it writable or free space, and start the "
            "same command again; or choose run_dir=FOLDER."
        ) from error


def _read(group: str, name: str) -> dict[str, Any]:
    """A benchmark's file, checked for its form."""
    from omegaconf.errors import OmegaConfBaseException

    path = CONFIGS / group / f"{name}.yaml"

    def broken(why: object) -> UserError:
        return UserError(f"{path} is no benchmark: {' '.join(str(why).split())}. It has title, note, axes, settings and controls.")

    try:
        found = load_part(group, name)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, OSError) as error:
        raise broken(error) from error
    if extra := found.keys() - PARTS:
        raise broken(unknown("its key", str(min(extra, key=str)), PARTS))
    spec: dict[str, Any] = {part: found.get(part) if found.get(part) is not None else kind() for part, kind in PARTS.items()}
    for part, kind in PARTS.items():
        if not isinstance(spec[part], kind):
            raise broken(f"{part} is {spec[part]!r}")
    if not spec["axes"]:
        raise broken("it has no axes")
    for axis, values in spec["axes"].items():
        if not isinstance(values, list) or not values:
            raise broken(f"its axis {axis} is {values!r} and not a list of values")
    for control, words in spec["controls"].items():
        if not isinstance(words, str) or _key(words) not in spec["axes"]:
            raise broken(f"its control {control} begins with no key=value of an axis, but is {words!r}")
    return spec


def _key(word: str) -> str:
    return word.partition("=")[0]


def _notes_of(run: Path) -> Path:
    """Beside a cell's run."""
    return run.with_name(f"{run.name}.json")


def _is_there(run: Path, status: object) -> bool:
    return run.exists() or status == "failed" and _notes_of(run).exists()


def _words(axis: str, value: Any) -> list[str]:
    """["encoder=r3m", "variant=resnet18"] of the axis encoder's value "r3m variant=resnet18"."""
    try:
        first, *rest = shlex.split(value) if isinstance(value, str) else [_text(value)]
    except ValueError as error:
        raise UserError(f"'{value}' is no value of {axis} ({error}). Write a word, or several such as 'r3m variant=resnet18'.") from error
    return [f"{axis}={first}", *rest]


def _label(axis: str, words: Sequence[str]) -> str:
    return " ".join(words).removeprefix(f"{axis}=")


def _text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _percent(outcome: dict) -> str:
    return "no success is known" if outcome["success"] is None else percent(outcome["success"], outcome["episodes"])


def _over_seeds(rows: list[dict]) -> str:
    """Success of several seeds, with an interval over seeds where there are enough."""
    rows = [row for row in rows if row["success"] is not None]
    if not rows:
        return ""
    mean = float(np.mean([row["success"] for row in rows]))
    if len(rows) < SEEDS_NEEDED:
        episodes = sum(row["episodes"] for row in rows)
        return percent(mean, episodes)
    outcomes = [np.arange(row["episodes"]) < round(row["success"] * row["episodes"]) for row in rows]
    return rate(mean, mean_over_seeds([seed.astype(float) for seed in outcomes]).interval())
