"""The main command: trains a policy on what a frozen encoder sees, evaluates and films it."""

import dataclasses
import resource
import signal
import sys
import time
from contextlib import closing

import torch
from rich.console import Console

from agents.base import AgentPolicy, ExpertPolicy, RandomPolicy
from agents.evaluate import Evaluation, evaluate, evaluation_env
from agents.film import record_film
from agents.parts import Parts, build_parts, choose_device, env_settings, needs_pictures
from agents.progress import TrainingProgress
from envs.registry import check_views
from robo_repr.core.checkpoint import load_state, save_state
from robo_repr.core.config import RLConfig, run_name
from robo_repr.core.errors import UserError
from robo_repr.core.metrics import Metrics
from robo_repr.core.report import print_next, print_run, read_evaluations
from robo_repr.core.run import RunDir, versions
from robo_repr.core.signals import Signals

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
    console = Console()
    parts = build_parts(cfg, device)  # before the folder is made: a mistake leaves nothing behind
    name, settings = run_name(cfg, overrides), dataclasses.asdict(cfg)
    with closing(parts.env), RunDir.open(cfg.command, name, settings, overrides, cfg.seed, cfg.run_dir, cfg.fresh) as run:
        with Signals() as signals:
            code = Training(cfg, run, parts, signals, console).run()
        if code == 0:
            print_run(run.path, console)
            print_next(run.path, cfg.names["encoder"], overrides, console)
        return code


class Training:
    """One run from its last checkpoint to its end."""

    def __init__(self, cfg: RLConfig, run: RunDir, parts: Parts, signals: Signals, console: Console):
        self.cfg, self.run_dir, self.parts, self.signals, self.console = cfg, run, parts, signals, console
        self.agent = parts.agent
        self.pictures = needs_pictures(parts.encoder)
        self.fingerprint = parts.encoder.fingerprint()
        quarter = -(-cfg.steps // (SHORT_EVALUATIONS + 1))
        self.eval_every = cfg.eval_every or -(-quarter // cfg.log_every) * cfg.log_every  # together with rows
        self.last_boundary, self.resumed, self.last_row = 0, 0, {}
        self.before = {"wall_s": 0.0}  # spent by the processes that this one resumes
        self.evaluating, self.filming = 0.0, True
        self.began = time.perf_counter()

    def run(self) -> int:
        """Returns the exit code."""
        if self._is_done():
            return 0
        self.console.out(f"writing to {self.run_dir.path}", highlight=False)
        board = self.run_dir.path / "tb" if self.cfg.logger == "tensorboard" else None
        self.metrics = Metrics(self.run_dir.path / "metrics.jsonl", board)
        self.evaluations = Metrics(self.run_dir.path / "evaluations.jsonl")
        status = "failed"
        result = None
        try:
            self._resume()
            self._evaluate_references()
            with TrainingProgress(self.console, self.cfg.steps, self.agent.env_steps) as self.progress:
                self.agent.learn(self.cfg.steps, self.on_boundary)
            status = "interrupted"
            if not self.signals.caught:
                result = self._finish()
                status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            self.run_dir.write_json("summary.json", self._summary(status, result))
            self.metrics.close()
            self.evaluations.close()
        if status == "finished":
            return 0
        self.console.out(f"interrupted at step {self.agent.env_steps}; the same command goes on from the last checkpoint", highlight=False)
        return 128 + (self.signals.caught or signal.SIGINT)

    def on_boundary(self) -> bool:
        """Between two steps: films, rows, evaluations and checkpoints that are due. Returns whether to go on."""
        step, before = self.agent.env_steps, self.last_boundary
        self.progress.update(step, self.agent.recent_episodes(), self._seconds())
        if step > before:  # else the run was resumed here, and all of this is done
            self.last_boundary = step
            finished = step >= self.cfg.steps

            def due(every: int) -> bool:
                return step // every > before // every

            if before == 0:
                self._film("untrained")
            elif before < self.cfg.steps / 2 <= step:
                self._film("middle")
            row = {**self.agent.losses(), **self.agent.recent_episodes()}
            if due(self.cfg.log_every):
                self.agent.forget_losses()
            if finished:
                self.last_row = row  # waits for the final evaluation, which comes after the last checkpoint
            elif due(self.cfg.log_every) or due(self.eval_every):
                self._write_row(row, self._evaluate_shortly() if due(self.eval_every) else None)
            if finished or due(self.cfg.checkpoint_every) or self.signals.caught:
                self._save(step)
        return not self.signals.caught

    def _is_done(self) -> bool:
        summary = self.run_dir.summary()
        return self.run_dir.finished and summary["env_steps"] >= self.cfg.steps and summary["episodes"] == self.cfg.eval_episodes

    def _resume(self) -> None:
        """Goes to the last checkpoint; rows written after it will be written again."""
        checkpoint = self.run_dir.latest_checkpoint()
        if checkpoint is None:
            self.metrics.keep_until(-1)
            return
        step, folder = checkpoint
        self.agent.load(folder)
        self.before = load_state(folder, "run")
        self.last_boundary, self.resumed, self.last_row = step, self.before.pop("resumed") + 1, self.before.pop("last_row")
        # The run's last row is written after its last checkpoint.
        self.metrics.keep_until(step - 1 if step >= self.cfg.steps else step)
        self.console.out(f"resumed at step {step}", highlight=False)

    def _save(self, step: int) -> None:
        with self.run_dir.new_checkpoint(step) as folder:
            self.agent.save(folder)
            state = {"resumed": self.resumed, "last_row": self.last_row, "wall_s": self._wall_s(), **self._seconds()}
            save_state(folder, "run", state)

    def _evaluate_references(self) -> None:
        """The random policy and the expert on the final evaluation's episodes, once per run. They need no pictures."""
        cfg = self.cfg
        known = {(row["policy"], row["camera"], row["episodes"]) for row in read_evaluations(self.run_dir.path)}
        for name in ("random", "expert"):
            if (name, cfg.eval_camera, cfg.eval_episodes) in known:
                continue
            began = time.perf_counter()
            with evaluation_env(cfg.eval_episodes, **env_settings(cfg, cfg.eval_camera, False)) as env:
                policy = RandomPolicy(env.task.action_dim, cfg.seed) if name == "random" else ExpertPolicy(env)
                self._note_evaluation(name, evaluate(env, policy, cfg.eval_episodes))
            self.evaluating += time.perf_counter() - began

    def _evaluate(self, episodes: int) -> Evaluation:
        began = time.perf_counter()
        with evaluation_env(episodes, **env_settings(self.cfg, self.cfg.eval_camera, self.pictures)) as env:
            result = evaluate(env, AgentPolicy(self.agent), episodes)
        self.evaluating += time.perf_counter() - began
        return result

    def _evaluate_shortly(self) -> Evaluation:
        result = self._evaluate(min(SHORT_EVALUATION, self.cfg.eval_episodes))
        success, mean_return = result.success.mean(), result.returns.mean()
        self.progress.say(f"step {self.agent.env_steps}: success {success:.0%} of {len(result.success)} episodes, return {mean_return:.1f}")
        return result

    def _finish(self) -> Evaluation:
        self.console.out(f"evaluating on {self.cfg.eval_episodes} episodes", highlight=False)
        result = self._evaluate(self.cfg.eval_episodes)
        self._note_evaluation("trained", result)
        self._film("trained")
        self._write_row(self.last_row, result)
        return result

    def _note_evaluation(self, policy: str, result: Evaluation) -> None:
        row = {"policy": policy, "env_steps": self.agent.env_steps, "camera": self.cfg.eval_camera, "appearance": self.cfg.appearance}
        self.evaluations.write({**row, **result.summary()})

    def _write_row(self, training: dict, result: Evaluation | None) -> None:
        row = {"env_steps": self.agent.env_steps, "updates": self.agent.updates, "wall_s": round(self._wall_s(), 3), **training}
        if result is not None:
            row |= {"eval/success": result.success.mean(), "eval/return": result.returns.mean(), "eval/episodes": len(result.success)}
        self.metrics.write({**row, **{f"time/{name}": round(value, 3) for name, value in self._seconds().items()}})

    def _film(self, name: str) -> None:
        """Writes videos/<name>.mp4; where nothing can be drawn, a policy that needs no pictures goes without."""
        if not self.filming:
            return
        views = check_views(self.cfg.views)
        views += [view for view in ("front",) if view not in views]  # people see little through the robot's own camera
        began = time.perf_counter()
        try:
            with evaluation_env(FILM_EPISODES, **env_settings(self.cfg, self.cfg.eval_camera, self.pictures)) as env:
                path = self.run_dir.path / "videos" / f"{name}.mp4"
                record_film(path, env, AgentPolicy(self.agent), f"{self.cfg.task}, {name}", views)
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
        now = {**env.env.seconds, **env.seconds, **agent.seconds, "evaluate": self.evaluating}
        return {name: now[name] + self.before.get(name, 0.0) for name in ("reset", "physics", "render", "encode", "update", "evaluate")}

    def _summary(self, status: str, result: Evaluation | None) -> dict:
        cfg, encoder = self.cfg, self.parts.encoder
        nothing = {"success": None, "success_ci95": None, "success_end": None, "success_ever": None, "return": None, "episodes": 0}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        return {
            "command": cfg.command,
            "status": status,
            **(nothing if result is None else result.summary()),
            "env_steps": self.agent.env_steps,
            "updates": self.agent.updates,
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
