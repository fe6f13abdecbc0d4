"""One run of a command that trains a policy: resumed, evaluated, filmed and summed up, whatever it is that learns."""

import dataclasses
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console

from agents.base import ExpertPolicy, RandomPolicy
from agents.evaluate import Evaluation, Interrupted, evaluate, evaluate_agent, evaluation_env
from agents.film import record_film
from agents.parts import Parts, choose_device, env_settings, needs_pictures, tasks_of
from agents.progress import PatientConsole, TrainingProgress
from envs import make_env
from envs.checks import check_views, has_expert
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.config import RunConfig, run_name
from robo_repr.core.curves import draw_curve
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.metrics import Metrics, append_row
from robo_repr.core.run import NoWholeCheckpoint, RunDir, versions
from robo_repr.core.signals import Signals
from robo_repr.core.summary import REFERENCES, find_evaluation, policy_name, print_next, print_run, read_evaluations, read_summary
from robo_repr.encoders.base import Encoder

FILM_EPISODES = 4
LESS_MEMORY = {  # what a command could use fewer of
    "rl": "num_envs, a smaller image_size, network or agent.buffer_size",
    "imitation": "demos or views, or a smaller network",
    "viewpoint": "views, or a smaller encoder",
}


class PolicyRun:
    """One run from its last checkpoint to its end.

    A child gives `on_boundary`, `_facts`, and what else differs. The agent counts its steps in its attribute `step_key`.

    Attributes:
        step_key: what rows call a step: ``env_steps`` of the environment, or ``step``, an update.
        names: of what time is spent on.
    """

    step_key: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __init__(self, cfg: Any, run: RunDir, parts: Parts, signals: Signals, console: Console):
        self.cfg, self.run_dir, self.parts, self.signals, self.console = cfg, run, parts, signals, console
        self.agent, self.tasks = parts.agent, tasks_of(cfg)
        self.learner = policy_name(cfg.names[cfg.learner])  # who acts, as evaluations.jsonl calls it
        self.goal = cfg.steps if self.agent.trains else 0
        self.pictures = needs_pictures(parts.encoder) and self.agent.trains
        self.fingerprint = parts.encoder.fingerprint()
        self.last_boundary, self.resumed = -1, 0
        self.last_row: dict = {}
        self.before: dict = {"wall_s": 0.0}  # spent by the processes that this one resumes
        self.evaluating, self.saving, self.filming = 0.0, 0.0, True
        self.evaluation_seconds: Counter[str] = Counter()  # of the worlds that evaluate, part of `evaluating`
        self.began = time.perf_counter()

    @property
    def step(self) -> int:
        """Where the training is."""
        raise NotImplementedError

    def on_boundary(self) -> bool:
        """Between two steps: films, rows, evaluations and checkpoints that are due. Returns whether to go on."""
        raise NotImplementedError

    def run(self) -> int:
        """Returns the exit code."""
        if self._is_done():
            return 0
        self._check()
        self.console.out(f"writing to {self.run_dir.path}", highlight=False)
        board = self.run_dir.path / "tb" if self.cfg.logger == "tensorboard" else None
        result = None
        with self._machine():
            self.run_dir.note_settings()
            self.metrics = Metrics(self.run_dir.path / "metrics.jsonl", board)
            try:
                self._resume()
                # What stands there if this process is killed; an older one would be of fewer steps or other episodes.
                self._write_summary("interrupted", None)
                self._evaluate_references()
                with TrainingProgress(self.console, self.goal, self.step) as self.progress:
                    self.agent.learn(self.goal, self.on_boundary)
                if not self.signals.caught:
                    result = self._finish()
            except (KeyboardInterrupt, Interrupted):
                pass
            except BaseException:
                # Where the disk is full there may be no room for a summary, and the reason is worth more than a second error.
                with suppress(OSError, UserError):
                    self._write_summary("failed", None)
                with suppress(OSError):
                    self.metrics.close()
                raise
            self.metrics.close()
            self._write_summary("finished" if result else "interrupted", result)
        if result:
            return 0
        self.console.out(f"interrupted at step {self.step}. {self._kept()} The same command goes on.", highlight=False)
        return 128 + (self.signals.caught or signal.SIGINT)

    # What the children say of themselves.

    def _check(self) -> None:
        """Refuses what the run needs and what is not there, before anything is written."""

    def _is_done(self) -> bool:
        summary = read_summary(self.run_dir.path)
        steps, episodes = "updates" if self.step_key == "step" else self.step_key, self.cfg.eval_episodes * len(self.tasks)
        return summary is not None and summary[steps] >= self.goal and summary["episodes"] == episodes

    def _load(self, folder: Path, whole: bool = True) -> None:
        """Restores the agent; without `whole`, what the training goes on worse without may stay away."""
        self.agent.load(folder)

    def _evaluate_last(self) -> Evaluation:
        return self._evaluate(self.cfg.eval_episodes, self._stops)

    def _final_films(self, result: Evaluation) -> None:
        self._film(self.learner, self._stops)

    def _facts(self) -> dict:
        """What the summary says of this kind of run alone."""
        return {}

    def _figures(self, result: Evaluation) -> dict:
        """What the summary says of success."""
        return result.summary()

    def _seconds(self) -> dict[str, float]:
        """Seconds of all the run's processes by what they were spent on; some of it overlaps."""
        now = {**self._spent(), "evaluate": self.evaluating, "checkpoint": self.saving, "log": self.metrics.seconds}
        return {name: now.get(name, 0.0) + self.before.get(name, 0.0) for name in self.names}

    def _spent(self) -> dict[str, float]:
        """Seconds of this process's training by what they were spent on."""
        raise NotImplementedError

    # What the children use.

    @contextmanager
    def _machine(self) -> Iterator[None]:
        """Says in one paragraph what the machine refused, and from where the run can go on."""
        try:
            with self.run_dir.writing(), memory_is_enough(self.cfg.command):
                yield
        except Failure as error:
            raise Failure(f"{error} {self._kept()}") from error

    def _kept(self) -> str:
        checkpoint = self.run_dir.latest_checkpoint()
        return "There is no checkpoint yet." if checkpoint is None else f"The checkpoint of step {checkpoint[0]} is kept."

    def _resume(self) -> None:
        """Goes to the last whole checkpoint; rows written after it will be written again."""

        def load(folder: Path, whole: bool = True) -> None:
            before = load_state(folder, "run")  # first: what is loaded next may not be undone
            self._load(folder, whole)
            self.before = before

        try:
            step = self.run_dir.load_checkpoint(load)
        except NoWholeCheckpoint as error:
            # A replay's early segments belong to all checkpoints. A run of weeks shall not end with one of them.
            step = self.run_dir.load_checkpoint(lambda folder: load(folder, whole=False))
            print(f"{error} What is not whole is the replay: going on with an empty one, not as if nothing had happened.", file=sys.stderr)
        if step is None:
            self.metrics.keep_until(-1)
            return
        self.last_boundary, self.resumed, self.last_row = step, self.before.pop("resumed") + 1, self.before.pop("last_row")
        # The run's last row is written after its last checkpoint.
        self.metrics.keep_until(step - 1 if step >= self.goal else step)
        self.console.out(f"resumed at step {step}", highlight=False)

    def _save(self, step: int) -> None:
        began = time.perf_counter()
        self.metrics.sync()
        with self.run_dir.new_checkpoint(step) as folder:
            self.agent.save(folder)
            state = {"resumed": self.resumed, "last_row": self.last_row, "wall_s": self._wall_s(), **self._seconds()}
            save_state(folder, "run", state)
        self.saving += time.perf_counter() - began

    def _evaluate_references(self) -> None:
        """The random policy and the expert, where the task has one, on the final evaluation's episodes, once per run. They need no
        pictures."""
        cfg = self.cfg
        known = read_evaluations(self.run_dir.path)
        for name in REFERENCES:
            if name == self.learner or find_evaluation(known, name, cfg.eval_camera, cfg.eval_episodes * len(self.tasks)):
                continue
            began, results = time.perf_counter(), {}
            with ExitStack() as stack:
                settings = {task: env_settings(cfg, cfg.eval_camera, False, task) for task in self.tasks}
                worlds = {task: stack.enter_context(evaluation_env(cfg.eval_episodes, **settings[task])) for task in self.tasks}
                if name == "expert" and not all(has_expert(env.task) for env in worlds.values()):
                    continue
                for task, env in worlds.items():
                    policy = RandomPolicy(env.task.action_dim(), cfg.seed) if name == "random" else ExpertPolicy(env)
                    results[task] = evaluate(env, policy, cfg.eval_episodes, self._stops)
            self._note_evaluation(name, Evaluation.of_tasks(results))
            self.evaluating += time.perf_counter() - began

    def _stops(self) -> bool:
        return self.signals.caught is not None

    def _finish(self) -> Evaluation:
        self.console.out(f"evaluating on {self.cfg.eval_episodes} episodes" + " of each task" * (len(self.tasks) > 1), highlight=False)
        result = self._evaluate_last()
        self._note_evaluation(self.learner, result)
        self._final_films(result)
        self._write_row(self.last_row, result)
        self.metrics.sync()
        draw_curve(self.run_dir.path)
        return result

    def _evaluate(self, episodes: int, stop: Callable[[], object] = lambda: False, first: int = 0) -> Evaluation:
        began = time.perf_counter()
        result = evaluate_agent(self.cfg, self.parts, self.cfg.eval_camera, episodes, stop, first)
        self.evaluating += time.perf_counter() - began
        self.evaluation_seconds += Counter(result.seconds)
        return result

    def _note_evaluation(self, policy: str, result: Evaluation) -> None:
        """Adds a row to evaluations.jsonl, unless it stands there already, as after a kill just behind it."""
        row = {"policy": policy, self.step_key: self.step, "camera": self.cfg.eval_camera, "appearance": self.cfg.appearance}
        row |= {**result.summary(), **result.outcomes()}
        if row not in read_evaluations(self.run_dir.path):
            append_row(self.run_dir.path / "evaluations.jsonl", row)

    def _write_row(self, training: dict, result: Evaluation | None) -> None:
        row = {self.step_key: self.step, **self._counts(), "wall_s": round(self._wall_s(), 3), **training}
        if result is not None:
            row |= {"eval/success": result.success.mean(), "eval/return": result.returns.mean(), "eval/episodes": len(result.success)}
        self.metrics.write({**row, **{f"time/{name}": round(value, 3) for name, value in self._seconds().items()}})

    def _counts(self) -> dict:
        """What stands in a row beside its step."""
        return {}

    def _film(self, name: str, stop: Callable[[], object] = lambda: False) -> None:
        """Writes videos/<name>.mp4 of the first episodes."""
        task = self.tasks[0]
        self._record(name, f"{task}, {name}", task, range(FILM_EPISODES), stop)

    def _record(self, name: str, title: str, task: str, ids: Sequence[int], stop: Callable[[], object]) -> list[bool]:
        """Writes videos/<name>.mp4 of some evaluation episodes and returns which succeeded; where nothing can be drawn, a policy that
        needs no pictures goes without."""
        if not self.filming:
            return []
        views = check_views(self.cfg.views)
        views += [view for view in ("front",) if view not in views]  # people see little through the robot's own camera
        path = self.run_dir.path / "videos" / f"{name}.mp4"
        began, succeeded = time.perf_counter(), []
        try:
            settings = env_settings(self.cfg, self.cfg.eval_camera, self.pictures, task)
            with closing(make_env(**settings, num_envs=len(ids), episode_ids=list(ids))) as env:
                succeeded = record_film(path, env, self.agent.policy(env), title, views, stop)
        except Failure:
            raise
        except UserError as error:
            if self.pictures:
                raise
            self.filming = False
            self.console.out(f"no films: {error}", highlight=False)
        self.evaluating += time.perf_counter() - began
        return succeeded

    def _wall_s(self) -> float:
        return self.before["wall_s"] + time.perf_counter() - self.began

    def _write_summary(self, status: str, result: Evaluation | None) -> None:
        cfg = self.cfg
        none = {**dict.fromkeys(("success", "success_ci95", "success_end", "success_ever", "return")), "episodes": 0, "bad_physics": 0}
        summary = {
            "command": cfg.command,
            "status": status,
            cfg.learner: cfg.names[cfg.learner],
            **(none if result is None else self._figures(result)),
            "env_steps": 0,
            **self._facts(),
            "updates": self.agent.updates,
            "resumed": self.resumed,
            "wall_s": round(self._wall_s(), 3),
            "seconds": {name: round(value, 3) for name, value in self._seconds().items()},
            "encoder": about_encoder(cfg.names["encoder"], self.parts.encoder, self.fingerprint),
            "readout": cfg.readout,
            "task": ",".join(self.tasks),
            "views": check_views(cfg.views) if self.pictures else [],
            "camera": cfg.camera,
            "eval_camera": cfg.eval_camera,
            "appearance": cfg.appearance,
            "quality": cfg.quality,
            "seed": cfg.seed,
            "versions": versions(),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.run_dir.write_json("summary.json", summary)


def run_policy(
    cfg: RunConfig,
    overrides: list[str],
    build: Callable[[Any, str], Parts],
    kind: Callable[[Any, RunDir, Parts, Signals, Console], PolicyRun],
) -> int:
    """Trains, or goes on with a run that was stopped, or prints the table of one that is finished.

    Args:
        overrides: the command line, for the run's name.
        build: makes the parts for a device.
        kind: makes the run.

    Returns:
        The exit code: 0, or 128 + the signal's number.
    """
    device = choose_device(cfg.device)
    if device == "cpu":
        # One thread per role: more would fight with the renderer and the collector. Fixed, because results depend on it in the last bits.
        torch.set_num_threads(1)
    console = PatientConsole()
    with memory_is_enough(cfg.command):
        parts = build(cfg, device)  # before the folder is made: a mistake leaves nothing behind
    name, settings = run_name(cfg, overrides), dataclasses.asdict(cfg)
    with closing(parts.env), RunDir.open(cfg.command, name, settings, overrides, cfg.seed, cfg.run_dir, cfg.fresh) as run:
        with Signals() as signals:
            code = kind(cfg, run, parts, signals, console).run()
        if code == 0:
            print_run(run.path, console)
            print_next(run.path, overrides, console)
        return code


def about_encoder(name: str, encoder: Encoder, fingerprint: str) -> dict:
    """What a summary says of an encoder.

    Args:
        fingerprint: the encoder's, when the run began.
    """
    return {
        "name": name,
        "variant": encoder.variant,
        "weights_sha256": encoder.weights_sha256,
        "fingerprint": fingerprint,
        "fingerprint_end": encoder.fingerprint(),
        "trained_by": encoder.trained_by,
    }


def peak_memory_mb() -> float:
    """The most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


@contextmanager
def memory_is_enough(command: str) -> Iterator[None]:
    """Turns the many ways in which memory runs out into a `Failure` that says what a command could use less of."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for graphics cards only; on the CPU it says "can't allocate memory".
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        words = " ".join(str(error).split())[:200] or "no details"
        raise Failure(f"Out of memory ({words}). Use fewer {LESS_MEMORY[command]}.") from error
