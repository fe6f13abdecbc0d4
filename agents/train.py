"""The main command: trains a policy on what a frozen encoder sees, evaluates and films it."""

import dataclasses
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console

from agents.base import ExpertPolicy, RandomPolicy
from agents.evaluate import Evaluation, Interrupted, evaluate, evaluation_env
from agents.film import record_film
from agents.parts import Parts, build_parts, choose_device, env_settings, needs_pictures
from agents.progress import TrainingProgress
from envs.checks import check_views, has_expert
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.config import RLConfig, run_name
from robo_repr.core.curves import draw_curve
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.metrics import Metrics, append_row
from robo_repr.core.run import NoWholeCheckpoint, RunDir, versions
from robo_repr.core.signals import Signals
from robo_repr.core.summary import REFERENCES, find_evaluation, policy_name, print_next, print_run, read_evaluations, read_summary

SHORT_EVALUATION = 25  # episodes of the evaluations while training
SHORT_EVALUATIONS = 3  # how many of them, with eval_every=null
FILM_EPISODES = 4


def train(cfg: RLConfig, overrides: list[str]) -> int:
    """Trains, or goes on with a run that was stopped, or prints the table of one that is finished.

    Args:
        overrides: the command line, for the run's name.

    Returns:
        The exit code: 0, or 128 + the signal's number.
    """
    device = choose_device(cfg.device)
    if device == "cpu":
        # One thread per role: more would fight with the renderer and the collector. Fixed, because results depend on it in the last bits.
        torch.set_num_threads(1)
    console = PatientConsole()
    with memory_is_enough():
        parts = build_parts(cfg, device)  # before the folder is made: a mistake leaves nothing behind
    name, settings = run_name(cfg, overrides), dataclasses.asdict(cfg)
    with closing(parts.env), RunDir.open(cfg.command, name, settings, overrides, cfg.seed, cfg.run_dir, cfg.fresh) as run:
        with Signals() as signals:
            code = Training(cfg, run, parts, signals, console).run()
        if code == 0:
            print_run(run.path, console)
            print_next(run.path, overrides, console)
        return code


class PatientConsole(Console):
    """Rich's console, which would end the process where nobody reads its words any more, as in ``run_rl.py | head``."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def memory_is_enough() -> Iterator[None]:
    """Turns the many ways in which memory runs out into a `Failure`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class of its own for graphics cards only; on the CPU it says "can't allocate memory".
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        words = " ".join(str(error).split())[:200] or "no details"
        raise Failure(f"Out of memory ({words}). Use fewer num_envs, a smaller image_size, network or agent.buffer_size.") from error


class Training:
    """One run from its last checkpoint to its end."""

    def __init__(self, cfg: RLConfig, run: RunDir, parts: Parts, signals: Signals, console: Console):
        self.cfg, self.run_dir, self.parts, self.signals, self.console = cfg, run, parts, signals, console
        self.agent = parts.agent
        self.agent_name = cfg.names["agent"]
        self.goal = cfg.steps if self.agent.trains else 0
        self.pictures = needs_pictures(parts.encoder) and self.agent.trains
        self.fingerprint = parts.encoder.fingerprint()
        quarter = -(-cfg.steps // (SHORT_EVALUATIONS + 1))
        self.eval_every = cfg.eval_every or -(-quarter // cfg.log_every) * cfg.log_every  # together with rows
        self.last_boundary, self.resumed = -1, 0
        self.last_row: dict = {}
        self.before: dict = {"wall_s": 0.0}  # spent by the processes that this one resumes
        self.evaluating, self.saving, self.filming, self.warned = 0.0, 0.0, True, 0
        self.began = time.perf_counter()

    def run(self) -> int:
        """Returns the exit code."""
        if self._is_done():
            return 0
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
                with TrainingProgress(self.console, self.goal, self.agent.env_steps) as self.progress:
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
        self.console.out(f"interrupted at step {self.agent.env_steps}. {self._kept()} The same command goes on.", highlight=False)
        return 128 + (self.signals.caught or signal.SIGINT)

    @contextmanager
    def _machine(self) -> Iterator[None]:
        """Says in one paragraph what the machine refused, and from where the run can go on."""
        try:
            with self.run_dir.writing(), memory_is_enough():
                yield
        except Failure as error:
            raise Failure(f"{error} {self._kept()}") from error

    def _kept(self) -> str:
        checkpoint = self.run_dir.latest_checkpoint()
        return "There is no checkpoint yet." if checkpoint is None else f"The checkpoint of step {checkpoint[0]} is kept."

    def on_boundary(self) -> bool:
        """Between two steps: films, rows, evaluations and checkpoints that are due. Returns whether to go on."""
        step, before = self.agent.env_steps, self.last_boundary
        self.progress.update(step, self.agent.recent_episodes(), self._seconds())
        if step > before:  # else the run was resumed here, and all of this is done
            self.last_boundary = step
            finished = step >= self.goal

            def due(every: int) -> bool:
                return step // every > max(before, 0) // every

            if before < 0 and self.agent.trains:
                self._film("untrained")
            elif before < self.cfg.steps / 2 <= step:
                self._film("middle")
            self._tell_warnings()
            row = {**self.agent.losses(), **self.agent.recent_episodes()}
            if due(self.cfg.log_every):
                self.agent.forget_losses()
            self.last_row = row  # a run's last one waits for the final evaluation, which comes after the last checkpoint
            if not finished and (due(self.cfg.log_every) or due(self.eval_every)):
                self._write_row(row, self._evaluate_shortly() if due(self.eval_every) else None)
            if finished or due(self.cfg.checkpoint_every) or self.signals.caught:
                self._save(step)
        return not self.signals.caught

    def _is_done(self) -> bool:
        summary = read_summary(self.run_dir.path)
        return summary is not None and summary["env_steps"] >= self.goal and summary["episodes"] == self.cfg.eval_episodes

    def _resume(self) -> None:
        """Goes to the last whole checkpoint; rows written after it will be written again."""

        def load(folder: Path, replay: bool = True) -> None:
            self.agent.load(folder, replay)
            self.before = load_state(folder, "run")

        try:
            step = self.run_dir.load_checkpoint(load)
        except NoWholeCheckpoint as error:
            # A replay's early segments belong to all checkpoints. A run of weeks shall not end with one of them.
            step = self.run_dir.load_checkpoint(lambda folder: load(folder, replay=False))
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
            if name == self.agent_name or find_evaluation(known, name, cfg.eval_camera, cfg.eval_episodes):
                continue
            began = time.perf_counter()
            with evaluation_env(cfg.eval_episodes, **env_settings(cfg, cfg.eval_camera, False)) as env:
                if name == "expert" and not has_expert(env.task):
                    continue
                policy = RandomPolicy(env.task.action_dim(), cfg.seed) if name == "random" else ExpertPolicy(env)
                self._note_evaluation(name, evaluate(env, policy, cfg.eval_episodes, self._stops))
            self.evaluating += time.perf_counter() - began

    def _stops(self) -> bool:
        return self.signals.caught is not None

    def _evaluate_shortly(self) -> Evaluation:
        """A few episodes; a signal waits, because the row and the checkpoint of this boundary need them."""
        result = self._evaluate(min(SHORT_EVALUATION, self.cfg.eval_episodes))
        success, mean_return = result.success.mean(), result.returns.mean()
        self.progress.say(f"step {self.agent.env_steps}: success {success:.0%} of {len(result.success)} episodes, return {mean_return:.1f}")
        return result

    def _finish(self) -> Evaluation:
        self.console.out(f"evaluating on {self.cfg.eval_episodes} episodes", highlight=False)
        name = policy_name(self.agent_name)
        result = self._evaluate(self.cfg.eval_episodes, self._stops)
        self._note_evaluation(name, result)
        self._film(name, self._stops)
        self._write_row(self.last_row, result)
        self.metrics.sync()
        draw_curve(self.run_dir.path)
        return result

    def _evaluate(self, episodes: int, stop: Callable[[], object] = lambda: False) -> Evaluation:
        began = time.perf_counter()
        with evaluation_env(episodes, **env_settings(self.cfg, self.cfg.eval_camera, self.pictures)) as env:
            result = evaluate(env, self.agent.policy(env), episodes, stop)
        self.evaluating += time.perf_counter() - began
        return result

    def _note_evaluation(self, policy: str, result: Evaluation) -> None:
        """Adds a row to evaluations.jsonl, unless it stands there already, as after a kill just behind it."""
        row = {"policy": policy, "env_steps": self.agent.env_steps, "camera": self.cfg.eval_camera, "appearance": self.cfg.appearance}
        row |= {**result.summary(), **result.outcomes()}
        if row not in read_evaluations(self.run_dir.path):
            append_row(self.run_dir.path / "evaluations.jsonl", row)

    def _tell_warnings(self) -> None:
        """Says that MuJoCo gave episodes up, each time that there are more."""
        warnings = self.parts.env.env.warnings
        if (count := sum(warnings.values())) > self.warned:
            self.warned = count
            kinds = ", ".join(f"{kind} {number}" for kind, number in warnings.items() if number)
            self.progress.say(f"step {self.agent.env_steps}: MuJoCo warned, and {count} episodes so far ended as failures ({kinds})")

    def _write_row(self, training: dict, result: Evaluation | None) -> None:
        row = {"env_steps": self.agent.env_steps, "updates": self.agent.updates, "wall_s": round(self._wall_s(), 3), **training}
        row["train/bad_physics"] = sum(self.parts.env.env.warnings.values())
        if result is not None:
            row |= {"eval/success": result.success.mean(), "eval/return": result.returns.mean(), "eval/episodes": len(result.success)}
        self.metrics.write({**row, **{f"time/{name}": round(value, 3) for name, value in self._seconds().items()}})

    def _film(self, name: str, stop: Callable[[], object] = lambda: False) -> None:
        """Writes videos/<name>.mp4; where nothing can be drawn, a policy that needs no pictures goes without."""
        if not self.filming:
            return
        views = check_views(self.cfg.views)
        views += [view for view in ("front",) if view not in views]  # people see little through the robot's own camera
        began = time.perf_counter()
        try:
            with evaluation_env(FILM_EPISODES, **env_settings(self.cfg, self.cfg.eval_camera, self.pictures)) as env:
                path = self.run_dir.path / "videos" / f"{name}.mp4"
                record_film(path, env, self.agent.policy(env), f"{self.cfg.task}, {name}", views, stop)
        except Failure:
            raise
        except UserError as error:
            if self.pictures:
                raise
            self.filming = False
            self.console.out(f"no films: {error}", highlight=False)
        self.evaluating += time.perf_counter() - began

    def _wall_s(self) -> float:
        return self.before["wall_s"] + time.perf_counter() - self.began

    def _seconds(self) -> dict[str, float]:
        """Seconds of all the run's processes by what they were spent on; collecting and updating overlap."""
        env, agent = self.parts.env, self.agent
        spent = {"evaluate": self.evaluating, "checkpoint": self.saving, "log": self.metrics.seconds}
        now = {**env.env.seconds, **env.seconds, **agent.seconds, **spent}
        names = ("reset", "physics", "render", "encode", "update", "evaluate", "checkpoint", "log")
        return {name: now[name] + self.before.get(name, 0.0) for name in names}

    def _write_summary(self, status: str, result: Evaluation | None) -> None:
        cfg, encoder = self.cfg, self.parts.encoder
        none = {**dict.fromkeys(("success", "success_ci95", "success_end", "success_ever", "return")), "episodes": 0, "bad_physics": 0}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        summary = {
            "command": cfg.command,
            "status": status,
            "agent": self.agent_name,
            **(none if result is None else result.summary()),
            "env_steps": self.agent.env_steps,
            "updates": self.agent.updates,
            "warnings": {kind: number for kind, number in self.parts.env.env.warnings.items() if number},
            "resumed": self.resumed,
            "wall_s": round(self._wall_s(), 3),
            "seconds": {name: round(value, 3) for name, value in self._seconds().items()},
            "encoder": {
                "name": cfg.names["encoder"],
                "variant": encoder.variant,
                "weights_sha256": encoder.weights_sha256,
                "fingerprint": self.fingerprint,
                "fingerprint_end": encoder.fingerprint(),
                "trained_by": encoder.trained_by,
            },
            "readout": cfg.readout,
            "task": cfg.task,
            "views": check_views(cfg.views) if self.pictures else [],
            "camera": cfg.camera,
            "eval_camera": cfg.eval_camera,
            "appearance": cfg.appearance,
            "quality": cfg.quality,
            "seed": cfg.seed,
            "versions": versions(),
            "peak_memory_mb": round(peak, 1),
        }
        self.run_dir.write_json("summary.json", summary)
