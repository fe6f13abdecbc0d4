"""The main command: trains a policy on what a frozen encoder sees, evaluates and films it."""

from pathlib import Path
from typing import Any

from agents.evaluate import Evaluation
from agents.parts import build_parts
from agents.policy_run import PolicyRun, run_policy
from robo_repr.core.config import RLConfig

SHORT_EVALUATION = 25  # episodes of the evaluations while training
SHORT_EVALUATIONS = 3  # how many of them, with eval_every=null


def train(cfg: RLConfig, overrides: list[str]) -> int:
    """Trains, or goes on with a run that was stopped, or prints the table of one that is finished; see `run_policy`."""
    return run_policy(cfg, overrides, build_parts, Training)


class Training(PolicyRun):
    """A run of reinforcement learning."""

    step_key = "env_steps"
    names = ("reset", "physics", "render", "encode", "update", "evaluate", "checkpoint", "log")

    def __init__(self, cfg: RLConfig, *parts: Any):
        super().__init__(cfg, *parts)
        quarter = -(-cfg.steps // (SHORT_EVALUATIONS + 1))
        self.eval_every = cfg.eval_every or -(-quarter // cfg.log_every) * cfg.log_every  # together with rows
        self.warned = 0

    @property
    def step(self) -> int:
        return self.agent.env_steps

    def on_boundary(self) -> bool:
        step, before = self.step, self.last_boundary
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

    def _load(self, folder: Path, whole: bool = True) -> None:
        self.agent.load(folder, replay=whole)

    def _evaluate_shortly(self) -> Evaluation:
        """A few episodes; a signal waits, because the row and the checkpoint of this boundary need them."""
        result = self._evaluate(min(SHORT_EVALUATION, self.cfg.eval_episodes))
        success, mean_return = result.success.mean(), result.returns.mean()
        self.progress.say(f"step {self.step}: success {success:.0%} of {len(result.success)} episodes, return {mean_return:.1f}")
        return result

    def _tell_warnings(self) -> None:
        """Says that MuJoCo gave episodes up, each time that there are more."""
        warnings = self.parts.worlds.warnings
        if (count := sum(warnings.values())) > self.warned:
            self.warned = count
            kinds = ", ".join(f"{kind} {number}" for kind, number in warnings.items() if number)
            self.progress.say(f"step {self.step}: MuJoCo warned, and {count} episodes so far ended as failures ({kinds})")

    def _counts(self) -> dict:
        return {"updates": self.agent.updates, "train/bad_physics": sum(self.parts.worlds.warnings.values())}

    def _facts(self) -> dict:
        warnings = {kind: number for kind, number in self.parts.worlds.warnings.items() if number}
        return {"env_steps": self.agent.env_steps, "warnings": warnings}

    def _spent(self) -> dict[str, float]:
        return {**self.parts.worlds.seconds, **self.parts.env.seconds, **self.agent.seconds}
