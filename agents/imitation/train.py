"""Imitation: trains a policy on demonstrations, evaluates and films it."""

import json
import math
import time
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from agents.camera_input import CameraInput
from agents.evaluate import Evaluation
from agents.eyes import Eyes
from agents.imitation.agent import ImitationAgent
from agents.imitation.demos import Demos, Worlds, check_demos, find_demos, short_hash
from agents.imitation.features import calibrate, demo_features
from agents.imitation.instructions import Instructions
from agents.imitation.policies.base import Sizes
from agents.imitation.samples import Samples
from agents.parts import Parts, build_encoder_of, env_settings, needs_pictures, tasks_of
from agents.policy_run import PolicyRun, run_policy
from envs import make_env
from envs.checks import free_memory
from robo_repr.core.config import ImitationConfig, build
from robo_repr.core.errors import UserError
from robo_repr.core.seeding import stream_seed
from robo_repr.core.stats import wilson
from robo_repr.core.summary import own_evaluations, read_evaluations

MEAN_OF = 5  # evaluations that score=mean_last5 takes together
FILMED, TAKES = 2, 3  # episodes of each film, and how often it is tried
PROGRESS_EVERY = 20  # updates between looks at the clock


def imitate(cfg: ImitationConfig, overrides: list[str]) -> int:
    """Trains, or goes on with a run that was stopped, or prints the table of one that is finished; see `run_policy`."""
    return run_policy(cfg, overrides, build_parts, Imitation)


def build_parts(cfg: ImitationConfig, device: str, *, training: bool = True) -> Parts:
    """Builds encoder and agent for the worlds of all tasks; settles ``cfg.frame_stack`` where it is left to the encoder.

    Args:
        training: False builds the least that can act.

    Raises:
        UserError: settings that do not exist or do not go together.
    """
    if cfg.encoder_mode == "scratch":
        cfg.weights = "random"
    encoder, tasks = build_encoder_of(cfg, device), tasks_of(cfg)
    if cfg.augment != "none" and not needs_pictures(encoder):
        raise UserError(f"augment={cfg.augment} changes pictures, but encoder={cfg.names['encoder']} sees none. Leave augment out.")
    if cfg.camera_input == "rays" and cfg.augment == "crop":
        raise UserError(
            "camera_input=rays says where the cells of the pictures look, but augment=crop cuts and enlarges the pictures that it learns "
            "from. Use augment=shift (at most 4 pixels) or none."
        )
    worlds = {}
    for task in tasks:
        with closing(make_env(**env_settings(cfg, cfg.eval_camera, needs_pictures(encoder), task), num_envs=1)) as env:
            worlds[task] = Worlds.of(env)
            if training:
                env.reset()  # draws for the first time: a machine without OpenGL shall say so before anything is written
    _check_alike(worlds)
    first = worlds[tasks[0]]
    eyes = Eyes(encoder, first.views, first.frame_stack, cfg.readout, cfg.view_fusion)
    instructions = Instructions(cfg.instruction, tasks, encoder)
    camera_input = CameraInput(cfg.camera_input, eyes, first.size)
    state = first.state + instructions.size + camera_input.size
    with torch.random.fork_rng(devices=[]):  # who only acts keeps his random numbers
        torch.manual_seed(stream_seed(cfg.seed, "policy"))
        policy = build(cfg.policy, sizes=Sizes(eyes.dim, state, first.actions))
    begin = 0 if cfg.encoder_mode == "scratch" else math.ceil(cfg.finetune_after * cfg.steps)
    agent = ImitationAgent(
        policy,
        eyes,
        instructions,
        camera_input=camera_input,
        learning=("full" if cfg.encoder_mode == "scratch" else cfg.encoder_mode) if begin < cfg.steps else "frozen",
        begin=begin,
        bn=cfg.encoder_bn,
        rate=cfg.encoder_learning_rate,
        augment=cfg.augment,
        seed=cfg.seed,
        device=device,
    )
    # What stays open belongs to a caller who wants to act.
    env = make_env(**env_settings(cfg, cfg.eval_camera, needs_pictures(encoder), tasks[0]), num_envs=1)
    return Parts(encoder, env, env, agent)


class Imitation(PolicyRun):
    """A run of imitation. Its steps are updates."""

    step_key = "step"
    names = ("demos", "reset", "physics", "render", "encode", "update", "evaluate", "checkpoint", "log")

    def __init__(self, cfg: ImitationConfig, *parts: Any):
        super().__init__(cfg, *parts)
        self.data: dict[str, Demos] = {}
        self.fetching = 0.0  # seconds
        self.shown: dict[str, float] = {}
        # After which updates there is an evaluation; the last one comes at the end.
        self.due = [math.ceil(cfg.steps * k / cfg.evaluations) for k in range(1, cfg.evaluations + 1)]
        self.fetched = False

    @property
    def step(self) -> int:
        return self.agent.updates

    def _check(self) -> None:
        checkpoint = self.run_dir.latest_checkpoint()
        if checkpoint is None or checkpoint[0] < self.goal:
            for task in self.tasks:
                check_demos(self.cfg, task, Worlds.of(self.parts.worlds))

    def on_boundary(self) -> bool:
        step, before = self.step, self.last_boundary
        if not self.fetched and step < self.goal:
            self._fetch()
        if step % PROGRESS_EVERY == 0 or step >= self.goal:
            self.progress.update(step, self.shown, self._seconds())
        if step <= before:  # the run was resumed here, and all of this is done
            return not self.signals.caught
        self.last_boundary = step
        finished = step >= self.goal
        evaluates, logs = step in self.due[:-1], step > 0 and step % self.cfg.log_every == 0
        if evaluates or logs or finished:
            self.last_row = self.agent.losses()
            self.shown = self.last_row
        if logs or finished:
            self.agent.forget_losses()
        if before < 0:
            self._film("untrained")
        if not finished and (evaluates or logs):
            self._write_row(self.last_row, self._evaluate_between(step) if evaluates else None)
        if finished or (step > 0 and step % self.cfg.checkpoint_every == 0) or self.signals.caught:
            self._save(step)
        return not self.signals.caught

    def _fetch(self) -> None:
        """Demonstrations, what is seen in them, and the samples made of both; once a process."""
        began = time.perf_counter()
        cfg, agent = self.cfg, self.agent
        worlds = Worlds.of(self.parts.worlds)  # those of all tasks
        for task in self.tasks:
            self.data[task] = find_demos(cfg, task, worlds, self.progress.say, self._stops)
        self.fetching += time.perf_counter() - began
        demos = list(self.data.values())
        learned = short_hash(json.dumps([[one.task, one.key, one.episodes] for one in demos]))
        if agent.learned_from not in (None, learned):
            raise UserError(
                f"The demonstrations in {', '.join(one.clips.name for one in demos)} are not those that this run began with: they were "
                "changed, or made anew by another version. Put back what was there, or train anew with fresh=true."
            )
        agent.learned_from = learned
        began = time.perf_counter()
        if not agent.eyes.readout.calibrated:
            calibrate(agent.eyes, demos, cfg.cache, self.progress.say, self._stops)
        features = None
        if agent.needs_features and not agent.learns_to_see:
            features = demo_features(agent.eyes, demos, cfg.cache, self.progress.say, self._stops)
        agent.seconds["encode"] += time.perf_counter() - began
        state = [state for one in demos for state in self._states(one)]
        actions = [action for one in demos for action in one.actions]
        net = agent.policy_net
        shared = (net.batch_size, net.sampling, cfg.seed, agent.device)
        if features is not None or agent.eyes.dim == 0:
            agent.samples = Samples(net.observed, net.predicted, state, actions, features, None, *shared)
        if agent.needs_images:
            agent.pictures = Samples(net.observed, net.predicted, state, actions, None, self._all_images(demos), *shared)
            since = "every update" if agent.samples is None else f"every update from {agent.begin} on"
            self.progress.say(f"pictures are encoded anew in {since}, without the cache of features")
        if self.step == 0:
            torch.manual_seed(stream_seed(cfg.seed, "fit"))
            samples = agent.samples or agent.pictures
            net.fit(samples.state[samples.taken], samples.actions[samples.taken])
        self.fetched = True

    def _states(self, demos: Demos) -> list[Tensor]:
        """Of each episode what the policy gets beside the pictures, (T, S)."""
        found = []
        for number, state in enumerate(demos.state):
            parts = [state]
            if self.agent.instructions.size:
                parts.append(self.agent.instructions.vector(demos.task, demos.language[number]).expand(len(state), -1))
            if self.agent.camera_input.size:
                parts.append(self.agent.camera_input(demos.cameras(number)))
            found.append(torch.cat(parts, dim=1))
        return found

    def _all_images(self, demos: list[Demos]) -> list[Tensor]:
        first = demos[0].images(0)
        size, free = sum(len(state) for one in demos for state in one.state) * first[0].numel(), free_memory()
        if free is not None and 2 * size > free:
            raise UserError(
                f"The demonstrations' pictures do not fit into memory: {2 * size / 1e9:,.1f} GB are needed while the encoder learns, and "
                f"{free / 1e9:,.1f} GB are free. Use fewer demos, fewer views, smaller pictures, or encoder_mode=frozen without augment."
            )
        return [one.images(number) for one in demos for number in range(len(one.episodes))]

    def _evaluate_between(self, step: int) -> Evaluation:
        """A signal waits, because the row and the checkpoint of this boundary need the result."""
        place = self.due.index(step)
        first = self.cfg.eval_episodes * (len(self.due) - 1 - place) if self.cfg.eval_starts == "new" else 0
        result = self._evaluate(self.cfg.eval_episodes, first=first)
        self._note_evaluation(self.learner, result)
        self.progress.say(f"update {step}: success {result.success.mean():.0%} of {len(result.success)} episodes")
        return result

    def _is_done(self) -> bool:
        return super()._is_done() and self.run_dir.summary().get("score") == self.cfg.score

    def _figures(self, result: Evaluation) -> dict:
        episodes = len(result.success)
        rows = own_evaluations(read_evaluations(self.run_dir.path), self.cfg.eval_camera, episodes)
        rows = [row for row in rows if row["step"] <= self.step]
        last = rows[-MEAN_OF:]
        scores = {
            "last": rows[-1]["success"],
            f"mean_last{MEAN_OF}": sum(row["success"] for row in last) / len(last),
            "max": max(row["success"] for row in rows),
        }
        figures = result.summary()
        if self.cfg.score == "max":
            best = max(rows, key=lambda row: row["success"])
            figures |= {key: best[key] for key in figures if key in best}
        elif self.cfg.score != "last":
            for key in ("success", "success_end", "success_ever", "return"):
                figures[key] = sum(row[key] for row in last) / len(last)
            for task in figures.get("tasks", {}):
                figures["tasks"][task]["success"] = sum(row["tasks"][task]["success"] for row in last) / len(last)
            # As of one evaluation: the others are of nearly the same policy.
            figures["success_ci95"] = list(wilson(round(figures["success"] * episodes), episodes))
            figures["bad_physics"] = max(row["bad_physics"] for row in last)
        return {**figures, "score": self.cfg.score, "scores": scores, "evaluations": len(rows)}

    def _facts(self) -> dict:
        known = self.run_dir.summary()  # a process that only evaluates does not look for the demonstrations again
        dropped = sum(demos.dropped for demos in self.data.values()) if self.data else known.get("demos_dropped")
        stores = ",".join(demos.clips.name for demos in self.data.values()) or known.get("data")
        return {
            "steps": self.cfg.steps,
            "demos": self.cfg.demos,
            "demos_dropped": dropped,
            "demo_seed": self.cfg.demo_seed,
            "data": stores,
            "parameters": self.agent.parameters(),
        }

    def _spent(self) -> dict[str, float]:
        return {"demos": self.fetching, **self.evaluation_seconds, **self.agent.seconds}

    def _final_films(self, result: Evaluation) -> None:
        """Films of episodes that succeeded and of some that failed, of the first task that has any."""
        for name, wanted in (("success", True), ("failure", False)):
            for task, outcomes in zip(self.tasks, result.success.reshape(len(self.tasks), -1), strict=True):
                ids = [int(i) for i in (outcomes == wanted).nonzero()[0][: FILMED * TAKES]]
                takes = [ids[k : k + FILMED] for k in range(0, len(ids), FILMED)]
                # Among fewer worlds than those of the evaluation, the last bits differ, and now and then the outcome.
                if any(all(s == wanted for s in self._record(name, f"{task}, {name}", task, take, self._stops)) for take in takes):
                    break


def _check_alike(worlds: dict[str, Worlds]) -> None:
    """Refuses tasks that one policy cannot serve."""
    first, *others = worlds
    for other in others:
        for what in ("actions", "state"):
            here, there = getattr(worlds[first], what), getattr(worlds[other], what)
            if here != there:
                raise UserError(
                    f"task={first} has {what} of {here} numbers and task={other} of {there}, so no one policy fits both. Choose tasks "
                    "alike, or train a policy for each."
                )
