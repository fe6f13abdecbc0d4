"""One viewpoint evaluation: a policy's success, or an encoder's features alone, under one camera setting after the other."""

import dataclasses
import hashlib
import json
import math
import shlex
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import TextColumn

from agents.base import ExpertPolicy
from agents.evaluate import Evaluation, Interrupted, evaluate, evaluation_env
from agents.eyes import Eyes
from agents.film import record_film
from agents.load import load_run
from agents.parts import build_encoder_of, choose_device, env_settings, needs_pictures, tasks_of
from agents.policy_run import about_encoder, memory_is_enough, peak_memory_mb
from agents.progress import Bar, PatientConsole
from agents.viewpoint.conditions import Condition, find_conditions
from agents.viewpoint.drift import measure_drift
from agents.viewpoint.policies import Miscalibrated, Watched
from agents.viewpoint.results import NOMINAL, figures, print_views
from agents.viewpoint.strip import CELL, draw_strip
from envs import make_env
from envs.cameras import nominal_cameras, write_manifest
from envs.checks import check_views, compile_task, has_expert
from envs.registry import task_class
from envs.validity import refuse_if_most_rejected
from robo_repr.core.config import RunConfig, ViewpointConfig
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.files import home_expanded, write_whole
from robo_repr.core.metrics import append_row, read_metrics
from robo_repr.core.run import RunDir, versions
from robo_repr.core.signals import Signals
from robo_repr.core.summary import command_line, rate
from robo_repr.encoders.base import Encoder

CHECKED = 20  # episodes whose views are looked at before anything is written
SHOWN = 3  # episodes in the strip
TAKES = 3  # how many episodes are tried for each film: with one world alone, last bits differ and now and then the outcome
MOST_COLUMNS = 8  # of a strip
DRIFT_EPISODES = 10, 200  # fewer make no probe, and more change no figure
IDENTITY = ("camera", "appearance", "calibration", "manifest")  # of a condition, whatever it is called
NAMES = ("reset", "physics", "render", "act", "expert", "films", "drift")  # of what time is spent on


class OtherCheckpoint(UserError):
    """The folder's results are of another policy."""


@dataclass
class Subject:
    """What is evaluated: the policy of a run, or an encoder alone.

    Attributes:
        cfg: the run's settings, or those that make worlds for the encoder.
        eyes: what is seen through; None for a policy that looks at no pictures.
        agent: what acts; None for an encoder alone.
        step: of the checkpoint.
        checkpoint: its SHA-256.
        settings: the run's config.yaml.
        overrides: the run's command line.
        updates: of the training, where it is known.
    """

    cfg: Any
    encoder: Encoder
    eyes: Eyes | None
    agent: Any = None
    step: int = 0
    checkpoint: str | None = None
    settings: str = ""
    overrides: Sequence[str] = ()
    updates: int | None = None

    @property
    def views(self) -> list[str]:
        """The cameras that it sees through."""
        return check_views(self.cfg.views) if self.eyes else []


def evaluate_views(cfg: ViewpointConfig, overrides: list[str]) -> int:
    """Evaluates what `cfg` names, or goes on with an evaluation that was stopped, or prints the table of one that is finished.

    Args:
        overrides: the command line, for the folder's name.

    Returns:
        The exit code: 0, or 128 + the signal's number.

    Raises:
        UserError: what is asked for is not possible; nothing is written then.
        OtherCheckpoint: the folder's results are of another checkpoint than the run's latest one.
        Failure: trouble in the middle. What was evaluated is kept.
    """
    device = choose_device(cfg.device)
    if device == "cpu":
        torch.set_num_threads(1)  # as in training: more fight with the renderer
    console = PatientConsole()
    with memory_is_enough(cfg.command):
        subject = _encoder_alone(cfg, device) if cfg.run is None else _policy_of(home_expanded(cfg.run), device)
        conditions = find_conditions(cfg, subject.views, subject.cfg.appearance, bool(subject.cfg.camera_input))
        evaluation = Viewpoint(cfg, subject, conditions, console)
        evaluation.look()  # before the folder is made, or an old one moved aside: a mistake changes nothing
    folder = cfg.run_dir or str(Path("runs", cfg.command, cfg.folder(overrides)))
    with RunDir.open(cfg.command, "", dataclasses.asdict(cfg), overrides, evaluation.seed, folder, cfg.fresh) as run:
        with Signals() as signals:
            code = evaluation.run(run, signals)
        if code == 0:
            evaluation.print_all()
        return code


def _policy_of(folder: Path, device: str) -> Subject:
    """The policy of a run's latest checkpoint."""
    parts, run, step = load_run(folder, device)
    parts.env.close()
    sees = needs_pictures(parts.encoder) and parts.agent.trains
    digest = hashlib.sha256()
    for file in sorted((folder / "checkpoints" / str(step)).glob("policy.*")):
        digest.update(file.read_bytes())
    overrides = folder / "overrides.txt"
    trained = RunDir(folder).summary()
    return Subject(
        cfg=run,
        encoder=parts.encoder,
        eyes=(parts.agent.eyes if run.command == "imitation" else parts.env.eyes) if sees else None,
        agent=parts.agent,
        step=step,
        checkpoint=digest.hexdigest(),
        settings=(folder / "config.yaml").read_text(encoding="utf-8"),
        overrides=overrides.read_text(encoding="utf-8").splitlines() if overrides.exists() else [],
        updates=step if run.command == "imitation" else trained.get("updates") if trained.get("env_steps") == step else None,
    )


def _encoder_alone(cfg: ViewpointConfig, device: str) -> Subject:
    """An encoder with a read-out that is yet to be calibrated."""
    given = {key: getattr(cfg, key) for key in ("readout", "task", "seed") if getattr(cfg, key) is not None}
    run = RunConfig(
        encoder=cfg.encoder, variant=cfg.variant, weights=cfg.weights, views=cfg.views, names=cfg.names, camera=NOMINAL, **given
    )
    if len(tasks_of(run)) > 1:
        raise UserError(f"task={cfg.task} names several tasks. An encoder alone is judged on one after the other: add -m for that.")
    encoder = build_encoder_of(run, device)
    if not needs_pictures(encoder):
        raise UserError(
            f"encoder={cfg.names['encoder']} sees no pictures, so cameras change nothing for it. Choose an encoder of pictures, or "
            "evaluate a run with run=FOLDER."
        )
    eyes = Eyes(encoder, check_views(run.views), run.frame_stack or 1, run.readout, run.view_fusion)
    return Subject(run, encoder, eyes)


class Viewpoint:
    """One evaluation, to its end or to where it is stopped.

    Attributes:
        seed: of the episodes.
    """

    def __init__(self, cfg: ViewpointConfig, subject: Subject, conditions: list[Condition], console: Console):
        self.cfg, self.subject, self.conditions, self.console = cfg, subject, conditions, console
        self.tasks, self.views = tasks_of(subject.cfg), subject.views
        self.seed = subject.cfg.seed if cfg.seed is None else cfg.seed
        self.has_policy = subject.agent is not None
        self.fingerprint = subject.encoder.fingerprint()
        self.seconds: Counter[str] = Counter()
        self.began = time.perf_counter()
        self._experts: dict[str, Evaluation] = {}
        self._strip: dict[str, np.ndarray] = {}

    def look(self) -> None:
        """Draws start states under every condition: refuses what cannot be evaluated, and keeps pictures for the strip.

        Raises:
            UserError: a camera setting that does not fit the task or its cameras, or of whose views hardly any counts.
        """
        settings = {"image_size": 8, "episode_ids": range(CHECKED), "num_envs": CHECKED}  # what these worlds observe is not looked at
        shown = [each for each in self.conditions if each.kind == "level"] or self.conditions[:MOST_COLUMNS]
        for condition in self.conditions if self.views else ():
            for task in self.tasks:
                with closing(make_env(**{**self._settings(task, condition), **settings})) as env:
                    env.reset()
                    refuse_if_most_rejected(condition.camera, env.view_faults)
                    if condition in shown and task == self.tasks[0]:
                        self._strip[condition.name] = env.render_at(2 * CELL, worlds=range(SHOWN))

    def run(self, run: RunDir, signals: Signals) -> int:
        """Returns the exit code."""
        self.run_dir, self.signals = run, signals
        before = run.summary()
        self._refuse_other_checkpoint()
        if self._is_done(before):
            return 0
        self.before, self.resumed = before, before.get("resumed", -1) + 1
        self.console.out(f"writing to {run.path}", highlight=False)
        if self.has_policy and not self.views:
            self.console.out("this policy looks at no pictures: cameras change nothing for it", highlight=False)
        with run.writing(), memory_is_enough(self.cfg.command):
            run.note_settings()
            if self.subject.settings:
                write_whole(run.path / "trained.yaml", self.subject.settings)
            try:
                self._write_summary("interrupted")  # what stands there if this process is killed
                if self._strip:
                    draw_strip(run.path / "strip.png", self._strip, self.views)
                if self.has_policy:
                    self._evaluate_all()
                self._measure_drift()
                if self.has_policy and self.cfg.films:
                    self._film_all()
            except (KeyboardInterrupt, Interrupted):
                self._write_summary("interrupted")
                self.console.out("interrupted. What is done is kept; the same command goes on.", highlight=False)
                return 128 + (signals.caught or signal.SIGINT)
            except BaseException:
                with suppress(OSError, UserError):  # the reason is worth more than a second error
                    self._write_summary("failed")
                raise
            self._write_summary("finished")
            self._write_page()
        return 0

    def print_all(self) -> None:
        """Prints the table of a finished evaluation, where its files are, and what to try next."""
        summary, path, run = self.run_dir.summary(), self.run_dir.path, self.subject.cfg
        who = [f"encoder {run.names['encoder']}"]
        if self.has_policy:
            who += [f"{run.learner} {run.names[run.learner]}", f"trained at camera {run.camera}", f"seed {run.seed}"]
        print_views(summary, ", ".join([summary["task"], *who]), self.console)
        lines = [f"page        {path / 'report.html'}"]
        lines += [f"strip       {path / 'strip.png'}"] if (path / "strip.png").exists() else []
        if self.views and self.has_policy:
            lines.append(f"""views       {path / "manifests"} (another run sees the same with 'presets=["FILE"]')""")
        films = sorted((path / "videos").glob("*.mp4"))
        lines += [f"films       {path / 'videos'} ({len(films)})"] if films else []
        for line in [*lines, "next:", *(f"  {command}" for command in self._next())]:
            self.console.out(line, highlight=False)

    # ---- what is evaluated ---------------------------------------------------------------------------------------------------------

    def _evaluate_all(self) -> None:
        """The policy under all conditions that are not done yet, and the expert on the same episodes."""
        experts = all(has_expert(task_class(task)) for task in self.tasks)
        rows = self._rows()
        done = sum((condition.name, "trained") in rows for condition in self.conditions)
        with _Progress(self.console, len(self.conditions), done) as progress:
            for condition in self.conditions:
                if (condition.name, "expert") not in rows and experts:
                    self._append(condition, "expert", self._expert(condition.appearance), {}, Counter(), 0.0)
                if (condition.name, "trained") in rows:
                    continue
                progress.begin(condition.name)
                began = time.perf_counter()
                result, views, counts = self._evaluate(condition, progress)
                row = self._append(condition, "trained", result, views, counts, time.perf_counter() - began)
                progress.end(row)

    def _evaluate(self, condition: Condition, progress: "_Progress") -> tuple[Evaluation, dict, Counter]:
        """The policy on the episodes of all tasks, whose very views become a manifest; from where cameras looked; how many views were drawn
        and rejected."""
        results, seen, counts, episodes = {}, [], Counter(), self.cfg.episodes
        for number, task in enumerate(self.tasks):
            with evaluation_env(episodes, **self._settings(task, condition)) as env:
                steps = env.horizon * math.ceil(episodes / env.num_envs)
                policy = self.subject.agent.policy(env)
                if condition.calibration:
                    policy = Miscalibrated(policy, env, condition.calibration)
                share = 1 / steps / len(self.tasks)
                policy = Watched(policy, env, lambda share=share: progress.advance(share))
                results[task] = evaluate(env, policy, episodes, self._stops)
            if self.views:
                views = [policy.poses[episode] for episode in range(episodes)]
                write_manifest(self._manifest(condition, task), task, views, condition.camera, self.seed)
            seen.append(policy.views(episodes))
            counts += Counter(policy.counts)
            self.seconds += Counter({**env.seconds, "act": policy.seconds})
            progress.reach((number + 1) / len(self.tasks))
        views = {view: {name: [n for each in seen for n in each[view][name]] for name in seen[0][view]} for view in seen[0]}
        return Evaluation.of_tasks(results), views, counts

    def _expert(self, appearance: str) -> Evaluation:
        """The tasks' experts on the same episodes. They see no pictures, so cameras change nothing for them, and they run once."""
        if appearance not in self._experts:
            began, results = time.perf_counter(), {}
            for task in self.tasks:
                settings = {**self._settings(task, None), "appearance": appearance}
                with evaluation_env(self.cfg.episodes, **settings) as env:
                    results[task] = evaluate(env, ExpertPolicy(env), self.cfg.episodes, self._stops)
            self._experts[appearance] = Evaluation.of_tasks(results)
            self.seconds += Counter({"expert": time.perf_counter() - began})
        return self._experts[appearance]

    def _manifest(self, condition: Condition, task: str) -> Path:
        """The file that holds the very views of a condition's episodes, for other runs to be shown."""
        name = f"{condition.file}-{task}" if len(self.tasks) > 1 else condition.file
        return self.run_dir.path / "manifests" / f"{name}.json"

    def _settings(self, task: str, condition: Condition | None) -> dict:
        """Of `make_env`; without a condition, or where no pictures are looked at, nothing is drawn and there are no cameras to move."""
        pictures = bool(self.views) and condition is not None
        settings = env_settings(self.subject.cfg, condition.camera if condition and pictures else NOMINAL, pictures, task)
        appearance = {"appearance": condition.appearance} if condition else {}
        return {**settings, **appearance, "seed": self.seed, "valid_views": pictures}

    def _measure_drift(self) -> None:
        """How far features move at each level, of the first task; of an encoder alone under every condition."""
        conditions = [each for each in self.conditions if (each.kind == "level" or not self.has_policy) and not each.calibration]
        if self.subject.eyes is None or not conditions or self._drift(conditions) is not None:
            return
        self.console.out(f"measuring how features move, {len(conditions)} camera settings", highlight=False)
        began = time.perf_counter()
        settings = {key: value for key, value in self._settings(self.tasks[0], conditions[0]).items() if key != "camera"}
        settings["appearance"] = self.cfg.appearance or self.subject.cfg.appearance
        asked = [(each.name, each.camera, each.appearance) for each in conditions]
        episodes = min(max(self.cfg.episodes, DRIFT_EPISODES[0]), DRIFT_EPISODES[1])
        with _Progress(self.console) as progress:
            progress.begin("features")
            try:
                drift = measure_drift(
                    self.subject.eyes, settings, asked, self.seed, episodes, self._stops, lambda done, total: progress.reach(done / total)
                )
            except Failure as error:
                if not self.has_policy:
                    raise
                self.console.out(f"how features move is not known: {error}", highlight=False)  # how the policy did is
                return
        of = {"task": self.tasks[0], "fingerprint": self.fingerprint, "manifests": {each.name: each.manifest for each in conditions}}
        self.run_dir.write_json("drift.json", {**of, **drift})
        self.seconds += Counter({"drift": time.perf_counter() - began})

    def _drift(self, conditions: Sequence[Condition] = ()) -> dict | None:
        """drift.json, where it is there, of this encoder, and knows all these conditions and their views."""
        try:
            drift = json.loads((self.run_dir.path / "drift.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = drift.get("fingerprint") == self.fingerprint
        known = all(each.name in drift["conditions"] and drift["manifests"].get(each.name) == each.manifest for each in conditions if same)
        return drift if same and known else None

    # ---- what is shown -------------------------------------------------------------------------------------------------------------

    def _film_all(self) -> None:
        """A success and a failure of each level, where there were any."""
        began, rows = time.perf_counter(), self._rows()
        for condition in self.conditions:
            if condition.kind != "level":
                continue
            outcomes = rows[condition.name, "trained"]["episode_success"]
            for name, wanted in (("success", 1), ("failure", 0)):
                path = self.run_dir.path / "videos" / f"{condition.file}-{name}.mp4"
                found = [divmod(number, self.cfg.episodes) for number, outcome in enumerate(outcomes) if outcome == wanted]
                for task, episode in found[:TAKES] if not path.exists() else ():
                    if self._film(path, self.tasks[task], condition, episode, name) == bool(wanted):
                        break
                    path.unlink()
        self.seconds += Counter({"films": time.perf_counter() - began})

    def _film(self, path: Path, task: str, condition: Condition, episode: int, name: str) -> bool:
        """Whether the episode that was filmed succeeded."""
        views = self.views + [view for view in ("front",) if view not in self.views]  # people see little through the robot's own camera
        settings = self._settings(task, condition)
        with closing(make_env(**settings, num_envs=1, episode_ids=[episode])) as env:
            title = f"{task}, cameras {condition.camera}, {name}"
            (succeeded,) = record_film(path, env, self.subject.agent.policy(env), title, views, self._stops)
        return succeeded

    def _write_page(self) -> None:
        from robo_repr.core.report.page import read_report, write_report  # late: it draws

        write_report(read_report([self.run_dir.path]), self.run_dir.path)

    def _next(self) -> list[str]:
        """Commands to try."""
        run, cfg = self.subject.cfg, self.cfg
        if not self.has_policy:
            other = "random" if run.names["encoder"] != "random" else "pixels"
            return [
                f"python run_viewpoint.py encoder={other} task={run.task}",
                f"python run_rl.py encoder={run.names['encoder']} task={run.task} camera=L3",
            ]
        more = [] if cfg.factors else ["factors=[azimuth,elevation,distance,fov]"]
        more += [] if cfg.controls or not self.views else ["controls=[together,alone,background]"]
        commands = [shlex.join(["python", "run_viewpoint.py", f"run={cfg.run}", *more])] if more and self.views else []
        camera = "L3" if run.camera != "L3" else "L3:shell"
        return [*commands, command_line(list(self.subject.overrides), {"camera": camera}, program=run.program)]

    # ---- what is kept --------------------------------------------------------------------------------------------------------------

    def _append(self, condition: Condition, policy: str, result: Evaluation, views: dict, counts: Counter, seconds: float) -> dict:
        row = {
            **{key: getattr(condition, key) for key in ("kind", "level", *IDENTITY)},
            "policy": policy,
            **result.summary(),
            **result.outcomes(),
            "seed": self.seed,
            "seeds_sha256": self._episodes_hash(),
            "step": self.subject.step,
            "checkpoint_sha256": self.subject.checkpoint,
            "views_drawn": counts["drawn"],
            "views_rejected": counts["rejected"],
            "views": views,
            "seconds": round(seconds, 3),
        }
        row = {"condition": condition.name, **row}
        append_row(self.run_dir.path / "views.jsonl", row)
        return row

    def _rows(self) -> dict[tuple[str, str], dict]:
        """Rows of the conditions that are asked for, made with the settings that are asked for."""
        path = self.run_dir.path / "views.jsonl"
        asked = {condition.name: condition for condition in self.conditions}
        found = {}
        for row in read_metrics(path) if path.exists() else ():
            condition = asked.get(row.get("condition", ""))
            if condition is None or row.get("policy") not in ("trained", "expert"):
                continue
            same = all(row.get(key) == getattr(condition, key) for key in IDENTITY)
            if same and row.get("seeds_sha256") == self._episodes_hash() and row.get("checkpoint_sha256") == self.subject.checkpoint:
                found[condition.name, row["policy"]] = row
        return found

    def _episodes_hash(self) -> str:
        """Of what says which episodes are run."""
        return hashlib.sha256(json.dumps([self.seed, self.tasks, list(range(self.cfg.episodes))]).encode()).hexdigest()

    def _refuse_other_checkpoint(self) -> None:
        """Results of two policies do not mix."""
        path = self.run_dir.path / "views.jsonl"
        rows = read_metrics(path) if path.exists() else []
        others = {row.get("step") for row in rows if row.get("checkpoint_sha256") != self.subject.checkpoint}
        if others:
            raise OtherCheckpoint(
                f"{self.run_dir.path} evaluates the checkpoint of step {', '.join(map(str, sorted(others, key=str)))} of {self.cfg.run}, "
                f"but the run's latest is another one now (step {self.subject.step}). Use fresh=true to move the old evaluation aside, or "
                "tag=NAME for one beside it."
            )

    def _is_done(self, summary: dict) -> bool:
        known = {name for place in ("levels", "presets", "factors", "controls") for name in summary.get(place) or ()}
        if not self.has_policy:
            known = set(summary.get("drift") or ())
        asked, rows = {condition.name for condition in self.conditions}, self._rows()
        there = all((name, "trained") in rows for name in asked) if self.has_policy else self._drift(self.conditions)
        return summary.get("status") == "finished" and asked == known and summary.get("films") == self.cfg.films and bool(there)

    def _stops(self) -> bool:
        return self.signals.caught is not None

    def _write_summary(self, status: str) -> None:
        subject, run, rows = self.subject, self.subject.cfg, self._rows()
        first = rows.get((NOMINAL, "trained")) or next((rows[key] for key in rows if key[1] == "trained"), {})
        spent = Counter(self.before.get("seconds") or {}) + self.seconds
        drift, asked = self._drift(), {condition.name for condition in self.conditions}
        learner = {run.learner: run.names[run.learner]} if self.has_policy else {}
        keys = ("success", "success_ci95", "success_end", "success_ever", "return")
        summary = {
            "command": self.cfg.command,
            "status": status,
            "run": self.cfg.run,
            "trained_by": run.command if self.has_policy else None,
            **learner,
            **{key: first.get(key) for key in keys},
            "episodes": first.get("episodes", 0),
            "bad_physics": first.get("bad_physics", 0),
            **figures(rows, self.conditions, self._outside_camera()),
            "drift": {name: moved for name, moved in drift["conditions"].items() if name in asked} if drift else None,
            "train_camera": run.camera if self.has_policy else None,
            "regime": self.cfg.regime,
            "camera_input": run.camera_input,
            "encoder": about_encoder(run.names["encoder"], subject.encoder, self.fingerprint),
            "readout": run.readout,
            "task": ",".join(self.tasks),
            "views": self.views,
            "camera": run.camera,
            "eval_camera": run.eval_camera,
            "appearance": self.cfg.appearance or run.appearance,
            "quality": run.quality,
            "films": self.cfg.films,
            "seed": run.seed,
            "episode_seed": self.seed,
            "env_steps": subject.step if self.has_policy and run.command == "rl" else 0,
            "updates": subject.updates,
            "resumed": self.resumed,
            "wall_s": round(self.before.get("wall_s", 0.0) + time.perf_counter() - self.began, 3),
            "seconds": {name: round(spent[name], 3) for name in NAMES},
            "versions": versions(),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.run_dir.write_json("summary.json", summary)

    def _outside_camera(self) -> str | None:
        """The first camera that stands in the world."""
        cameras = nominal_cameras(compile_task(task_class(self.tasks[0])), self.views)
        return next((camera.name for camera in cameras if not camera.mounted), None)


class _Progress(Bar):
    """What a person sees: a bar on a terminal, and a line for each condition anywhere.

    Args:
        total: parts of the work, such as conditions.
        done: how many of them were done before.
    """

    def __init__(self, console: Console, total: int = 1, done: int = 0):
        super().__init__(console, total, done, TextColumn("{task.percentage:3.0f} %"))
        self._done, self._share, self._before = done, 0.0, ""

    def begin(self, name: str) -> None:
        self._share = 0.0
        self.show(self._done, f"{name}{self._before}")

    def advance(self, share: float) -> None:
        """So much more of the part is done."""
        self.reach(self._share + share)

    def reach(self, share: float) -> None:
        """So much of the part is done."""
        self._share = min(share, 1.0)
        self.show(self._done + self._share)

    def end(self, row: dict) -> None:
        self._done, self._share = self._done + 1, 0.0
        self._before = f"  (before: {row['condition']} {row['success']:.0%})"
        rejected = f", {row['views_rejected'] / row['views_drawn']:.0%} of views drawn anew" if row["views_drawn"] else ""
        success = f"success {rate(row['success'], row['success_ci95'])}{rejected}"
        self._console.out(f"{self._done}/{self._total} {row['condition']}: {success} ({row['seconds']:.0f} s)", highlight=False)
