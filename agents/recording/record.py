"""Records a policy's episodes into clip stores, and says how it goes."""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from agents.parts import tasks_of
from agents.recording.processes import waves_of_processes
from agents.recording.recorder import FIRST_ID, Plan, Recorder, Run, Wave, load_run_of, plan
from envs.cameras import parse_camera
from envs.checks import free_memory
from envs.registry import task_class
from envs.render import BACKEND
from robo_repr.core.config import RecordConfig
from robo_repr.core.errors import UserError
from robo_repr.core.files import home_expanded
from robo_repr.core.run import versions
from robo_repr.core.signals import Signals
from robo_repr.core.summary import percent
from robo_repr.data.store import ClipStore, ClipWriter, check_place

MOST_WORKERS = 2
WORTH_A_PROCESS = 20_000  # pictures to draw: a process begins about as soon as one that is there already has drawn half of them
BUFFERED = 2**31  # bytes of frames that are being recorded or wait to be written
BUFFERS = 6  # waves that are held at once where two processes record; see `_worlds`
LINE_EVERY = 30.0  # seconds between lines where there is no terminal


@dataclass
class Recorded:
    """What one task's recording came to, with the episodes that were there before."""

    path: Path
    episodes: int
    success: int
    pictures: int = 0  # drawn now
    seconds: float = 0.0  # spent on them


def record_all(cfg: RecordConfig, command: str) -> int:
    """Records all tasks of a command.

    Args:
        command: what the stores shall say of how they were made.

    Returns:
        The exit code: 0, or 128 + the signal's number.

    Raises:
        UserError, Failure: see `record`. Other tasks' episodes are whole all the same.
    """
    runs = [load_run_of(cfg, task) for task in _tasks(cfg)]
    out = home_expanded(cfg.folder([]))
    places = {run.task: out / run.task if len(runs) > 1 else out for run in runs}
    for run in runs:  # what is wrong with the last one shows before the first one is recorded
        task_class(run.task)
        plan(cfg, run)
        check_place(places[run.task])
    console = Console(highlight=False)
    console.out(f"writing to {out}")
    bars = _Bars(console, places, cfg.episodes)
    try:
        with Signals() as signals, bars:
            for run in runs:
                if not signals.caught:
                    show = bars.shower(run.task)
                    show(record(cfg, run, places[run.task], command=command, on_wave=show, stop=lambda: signals.caught))
    finally:
        for task, recorded in bars.last.items():
            console.out(_result(task, recorded, len(places)))
    if signals.caught:
        console.out("interrupted. What was recorded is whole; the same command goes on.")
        return 128 + signals.caught
    console.out(f"look at it: python scripts/clips.py show {shlex.quote(str(out))}")
    return 0


def _tasks(cfg: RecordConfig) -> Sequence[str | None]:
    """The tasks that were asked for; None for that of the policy."""
    return [None] if cfg.task in (None, [None]) else tasks_of(cfg)


def record(
    cfg: RecordConfig,
    run: Run,
    out: Path,
    *,
    command: str,
    on_wave: Callable[[Recorded], None],
    stop: Callable[[], object] = lambda: False,
) -> Recorded:
    """Records episodes of one task into the store `out`, or those that it lacks.

    Args:
        cfg: settings, of which `task` and `out` are not read.
        run: of `load_run_of`; it tells the task.
        command: what the store shall say of how it was made.
        on_wave: told the state after each set of episodes that were recorded together.
        stop: asked before every step; the episodes being recorded are given up then, and those before are written.

    Raises:
        UserError: settings that do not exist or do not go together; the folder holds something else.
        Failure: the disk is full, or something went wrong while drawing. The episodes before are whole.
    """
    planned = plan(cfg, run)
    views, size = planned.views, planned.size
    # What the store says of its episodes is asked of one world, before it is known how many are needed.
    with closing(Recorder(planned, run)) as probe:
        horizon, truth, fps = probe.env.horizon, probe.truth, probe.env.metadata["render_fps"]
        about = {"camera": cfg.camera, "appearance": cfg.appearance, "quality": planned.settings["quality"], "seed": cfg.seed}
        policy = cfg.policy if run.parts is None else str(Path(cfg.policy))
        how = {"policy": policy, **({"noise": cfg.noise} if cfg.policy == "noisy_expert" else {}), **run.about}
        made_by = {"command": command, "versions": versions(), "seed": cfg.seed}
        told = {"privileged_numbers": probe.env.task.hidden_size} if cfg.privileged else {}  # so many stand at the state's end
        told |= {"relabelled": True} if cfg.relabel else {}
        manifest = parse_camera("camera", cfg.camera).sha256
        told |= {"camera_sha256": manifest} if manifest else {}
        drawn = {"horizon": horizon, "renderer": f"mujoco {BACKEND}"}
        meta = {"task": run.task, **how, **about, **told, **drawn, **truth.names, "made_by": made_by}
        episode = (horizon + 1) * len(views) * size**2 * (3 + 2 * len({"depth", "segmentation"} & set(truth.keys)))  # bytes
    _worlds(1, episode, 1, exact=True)  # refuses what can never fit, before a store is made
    with ClipWriter(out, views=views, size=(size, size), fps=fps, meta=meta) as writer:
        done = writer.episodes
        recorded = Recorded(out, len(done), sum(bool(episode.get("success")) for episode in done))
        if len(done) >= cfg.episodes:
            return recorded
        pictures = (cfg.episodes - len(done)) * (horizon + 1) * len(views)
        workers = cfg.workers or (min(MOST_WORKERS, os.cpu_count() or 1) if pictures > WORTH_A_PROCESS else 1)
        worlds = _worlds(cfg.num_envs, episode, workers, exact=run.parts is None)
        first, waves, worlds = _waves(len(done), cfg.episodes, worlds, exact=run.parts is None)
        ids = [FIRST_ID + first + i for i in range(waves * worlds)]
        written: Future | None = None
        with _produced(planned, run, worlds, ids, min(workers, waves), stop) as produced, ThreadPoolExecutor(1) as pool:
            began = time.perf_counter()
            try:
                for begin, episodes in zip(range(first, first + len(ids), worlds), produced, strict=False):
                    episodes = episodes[max(0, len(done) - begin) : cfg.episodes - begin]
                    if written:
                        written.result()
                    written = pool.submit(_write, writer, episodes)
                    recorded.episodes += len(episodes)
                    recorded.success += sum(details["success"] for _, details in episodes)
                    recorded.pictures += sum(frames["images"].shape[0] * len(views) for frames, _ in episodes)
                    recorded.seconds = time.perf_counter() - began
                    on_wave(recorded)
            finally:
                if written:
                    written.result()
            recorded.seconds = time.perf_counter() - began
    return recorded


@contextmanager
def _produced(planned: Plan, run: Run, worlds: int, ids: list[int], workers: int, stop: Callable[[], object]) -> Iterator[Iterator[Wave]]:
    """The waves in order, from this process or from several others."""
    if workers > 1:
        with closing(waves_of_processes(planned, worlds, ids, workers, stop)) as waves:
            yield waves
    else:
        with closing(Recorder(planned, run, worlds, ids)) as recorder:
            yield recorder.waves(stop)


def _waves(done: int, episodes: int, most: int, exact: bool) -> tuple[int, int, int]:
    """How the episodes from `done` on are recorded: the first one, how many waves, and how many worlds.

    Args:
        exact: whether an episode comes out the same among any number of others. A network's last bits do not, so its worlds are always as
            many, and a wave that was left unfinished is run again from its first episode.
    """
    if not exact:
        first = done // most * most
        return first, -(-(episodes - first) // most), most
    waves = -(-(episodes - done) // most)
    return done, waves, -(-(episodes - done) // waves)  # even ones


def _worlds(most: int, episode: int, workers: int, exact: bool) -> int:
    """How many worlds run together, at most: as many as fit into BUFFERED bytes, and into memory.

    Args:
        episode: bytes of one.
        exact: see `_waves`; else the number must not hang on how much memory happens to be free.

    Raises:
        UserError: they do not fit into memory.
    """
    worlds = max(1, min(most, BUFFERED // (BUFFERS * episode)))
    held = 2 + 2 * workers  # waves: of each worker the one it records and the one it hands over; of the store the next and the last one
    free = free_memory()
    if free is None or worlds * held * episode <= free:
        return worlds
    if exact and held * episode <= free:
        return free // (held * episode)
    raise UserError(
        f"The episodes do not fit into memory: {worlds} worlds and {workers} processes need {worlds * held * episode / 1e9:,.1f} GB, and "
        f"{free / 1e9:,.1f} GB are free. Use fewer worlds (num_envs), workers=1, smaller pictures, fewer views, a shorter horizon or less "
        "ground_truth."
    )


def _write(writer: ClipWriter, episodes: Wave) -> None:
    for frames, details in episodes:
        writer.add(frames, **details)


def _result(task: str, recorded: Recorded, tasks: int) -> str:
    where = f" in {recorded.path}" if tasks > 1 else ""
    if not recorded.episodes:
        return f"{task}: no episode yet{where}"
    clips = ClipStore(recorded.path)
    size, pictures = clips.bytes_on_disk(), int(clips.lengths.sum()) * len(clips.views)
    rate = (
        f", {recorded.pictures} pictures in {recorded.seconds:.0f} s ({recorded.pictures / recorded.seconds:.0f}/s)"
        if recorded.seconds
        else ""
    )
    return (
        f"{task}: {recorded.episodes} episodes, success {percent(recorded.success / recorded.episodes, recorded.episodes)}{rate}, "
        f"{size / 1e6:.1f} MB on disk ({3 * pictures * clips.size[0] * clips.size[1] / size:.0f}x less than the pictures){where}"
    )


class _Bars:
    """A bar for each task on a terminal, a line now and then elsewhere.

    Attributes:
        last: task -> what it came to so far.
    """

    def __init__(self, console: Console, tasks: dict[str, Path], episodes: int):
        self.last: dict[str, Recorded] = {}
        self._console, self._episodes, self._said = console, episodes, time.perf_counter()
        columns = (
            TextColumn("{task.fields[name]} {task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars = {task: self._progress.add_task("", total=episodes, name=task) for task in tasks}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def shower(self, task: str) -> Callable[[Recorded], None]:
        """`show` for one task."""
        return lambda recorded: self.show(task, recorded)

    def show(self, task: str, recorded: Recorded) -> None:
        self.last[task] = recorded
        rate = f"  {recorded.pictures / recorded.seconds:.0f} pictures/s" if recorded.seconds else ""
        text = f"success {recorded.success / max(1, recorded.episodes):.0%}{rate}"
        self._progress.update(self._bars[task], completed=recorded.episodes, description=text)
        if not self._console.is_terminal and time.perf_counter() - self._said > LINE_EVERY:
            self._said = time.perf_counter()
            self._console.out(f"{task} {recorded.episodes}/{self._episodes}  {text}")
