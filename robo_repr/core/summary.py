"""What came of one run, read from its folder: summary.json, evaluations.jsonl, and the table that is printed from them."""

import math
import shlex
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robo_repr.core.metrics import read_metrics
from robo_repr.core.run import RunDir
from robo_repr.core.stats import wilson

REFERENCES = {"random": "random policy", "expert": "expert"}  # run beside every agent; as evaluations.jsonl names them
SCORES = {"last": "last", "mean_last5": "mean of the last 5", "max": "best"}  # of evaluations, as a person reads them
NUMBERS = ("env_steps", "updates", "wall_s", "success", "return", "episodes", "seed")  # what a finished run's summary must hold
TEXTS = ("task", "eval_camera")


def read_evaluations(run: Path) -> list[dict]:
    """The rows of a run's evaluations.jsonl: policy, camera, success and so on."""
    path = run / "evaluations.jsonl"
    return read_metrics(path) if path.exists() else []


def read_summary(run: Path) -> dict | None:
    """The summary of a finished run; None while it is not finished, or where the file is damaged, so that the run would evaluate again."""
    summary = RunDir(run).summary()
    whole = (
        summary.get("status") == "finished"
        and all(is_number(summary.get(name)) for name in NUMBERS)
        and all(isinstance(summary.get(name), str) for name in TEXTS)
        and 0 <= summary["success"] <= 1
        and isinstance(summary["episodes"], int)
        and summary["episodes"] > 0
        and isinstance(summary.get("encoder"), dict)
        and {"name", "weights_sha256", "trained_by"} <= summary["encoder"].keys()
        and isinstance(summary.get("warnings", {}), dict)
    )
    return summary if whole else None


def percent(success: float, episodes: int) -> str:
    """A success rate with its 95 % Wilson interval, such as ``94 % [88 to 97]``."""
    return rate(success, wilson(round(success * episodes), episodes))


def print_run(run: Path, console: Console) -> None:
    """Prints what a finished run reached, beside the random policy and the expert on the same episodes, and where its files are."""
    summary = read_summary(run)
    assert summary is not None, f"{run} is not finished"
    encoder, episodes = summary["encoder"], summary["episodes"]
    weights = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")).get("weights")
    name = encoder["name"] + (" (random weights)" if weights == "random" else "")
    policy = policy_name(summary.get("agent"))
    learns = policy == "trained"
    who = [f"encoder {name}"] * learns + [f"{learner} {summary[learner]}" for learner in ("agent", "policy") if summary.get(learner)]
    who += [f"{summary['demos']} demonstrations"] if "demos" in summary else []
    title = ", ".join([summary["task"], *who, f"camera {summary['eval_camera']}", f"seed {summary['seed']}"])
    table = Table(title=Text(title), min_width=len(title))
    for heading in ("policy", f"success of {episodes} [95 %]", "return"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    scores = summary.get("scores") or {}
    several = bool(scores) and (summary["evaluations"] > 1 or summary["score"] != "last")
    number = f"{summary['evaluations']} evaluation{'s' * (summary['evaluations'] != 1)}" if several else ""
    which = f", {SCORES[summary['score']]} of {number}" if several else ""
    table.add_row(f"{policy}{which}", percent(summary["success"], episodes), f"{summary['return']:.2f}", style="bold")
    for score, success in scores.items() if several else ():
        if score != summary["score"]:
            table.add_row(f"  {SCORES[score]}", f"{success:.0%}", "")
    rows = read_evaluations(run)
    for reference in REFERENCES:
        row = find_evaluation(rows, reference, summary["eval_camera"], episodes)
        if row and reference != policy:
            table.add_row(reference, percent(row["success"], episodes), f"{row['return']:.2f}")
    console.print(table)
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    steps = f"{summary['env_steps']} steps, " if summary["env_steps"] else ""
    trained = f"{steps}{summary['updates']} updates" if learns else "none: this policy does not learn"
    films = ", ".join(str(film) for film in sorted((run / "videos").glob("*.mp4")))
    checkpoints = [path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdecimal()]
    lines = [
        f"training    {trained}; {minutes} min {seconds} s with evaluation and films",
        f"films       {films or 'none'}",
        f"checkpoint  {max(checkpoints, key=lambda path: int(path.name), default='none')}",
    ]
    if (run / "curve.png").exists():
        lines.append(f"curve       {run / 'curve.png'}")
    if encoder["weights_sha256"] and learns:
        lines.append(f"encoder     {encoder['trained_by']}")
    if bad := _bad_physics(summary):
        lines.append(f"bad physics {bad}")
    for line in lines:
        console.out(line, highlight=False)


def print_next(run: Path, overrides: list[str], console: Console) -> None:
    """Prints three commands to try after a run: under harder cameras, and beside another encoder, or something that learns."""
    summary = read_summary(run)
    assert summary is not None, f"{run} is not finished"
    other = {"encoder": "pixels" if summary["encoder"]["name"] == "random" else "random"}
    program = f"run_{summary.get('command', 'rl')}.py"
    console.out("next:", highlight=False)
    for command in (
        f"python scripts/evaluate.py {shlex.quote(f'run={run}')} camera=L3",
        command_line(overrides, other if policy_name(summary.get("agent")) == "trained" else {"agent": "sac"}, program=program),
        command_line(overrides, {"camera": "L3", "eval_camera": "L3"}, program=program),
    ):
        console.out(f"  {command}", highlight=False)


def policy_name(agent: str | None) -> str:
    """What the policy of a run with this agent is called in evaluations.jsonl."""
    return agent if agent in (*REFERENCES, "noisy_expert") else "trained"


def find_evaluation(rows: list[dict], policy: str, camera: str | None, episodes: int | None, env_steps: int | None = None) -> dict | None:
    """The last evaluation of a policy on these episodes, after so many steps where they are given; damaged rows are none."""
    for row in reversed(rows):
        asked = (row.get("policy"), row.get("camera"), row.get("episodes")) == (policy, camera, episodes)
        if asked and env_steps in (None, row.get("env_steps")) and all(is_number(row.get(name)) for name in ("success", "return")):
            return row if 0 <= row["success"] <= 1 else None
    return None


def own_evaluations(rows: list[dict], camera: str | None, episodes: int) -> list[dict]:
    """A run's own evaluations of its policy on these episodes, one for each step, in their order; not those of scripts/evaluate.py."""
    asked = ("trained", camera, episodes, None)
    own = [row for row in rows if (row.get("policy"), row.get("camera"), row.get("episodes"), row.get("by")) == asked]
    by_step = {row["step"]: row for row in own if all(is_number(row.get(name)) for name in ("step", "success", "return"))}
    return [by_step[step] for step in sorted(by_step)]


def is_number(value: object) -> bool:
    """Whether a value that was read from JSON is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _bad_physics(summary: dict) -> str:
    """How many episodes MuJoCo's warnings ended; empty when there were none."""
    warnings = summary.get("warnings") or {}
    evaluated = summary.get("bad_physics") or 0
    parts = []
    if total := sum(warnings.values()):
        kinds = ", ".join(f"{kind} {count}" for kind, count in warnings.items() if count)
        parts.append(f"{total} training episode{'s' * (total > 1)} ended by MuJoCo's warnings ({kinds})")
    if evaluated:
        parts.append(f"{evaluated} of {summary['episodes']} evaluation episodes ended by them, without success")
    return "; ".join(parts)


def command_line(overrides: list[str], changes: dict[str, str], multirun: bool = False, program: str = "run_rl.py") -> str:
    """The command line of this run with some keys changed."""
    gone = {*changes, "run_dir", "fresh", *(() if "seed" in changes else ("tag",))}
    kept = [o for o in overrides if (key := o.split("=")[0]) not in gone and not ("encoder" in changes and belongs_to_encoder(key))]
    words = [shlex.quote(word) for word in [*kept, *(f"{key}={value}" for key, value in changes.items())]]
    return " ".join([f"python {program}", *(["-m"] if multirun else []), *words])


def belongs_to_encoder(key: str) -> bool:
    """Whether a setting is meant for one encoder, and goes with it where another takes its place."""
    return key in ("variant", "weights", "frame_stack") or key.startswith("encoder.")


def rate(success: float, interval: tuple[float, float]) -> str:
    return f"{100 * success:.0f} % [{100 * interval[0]:.0f} to {100 * interval[1]:.0f}]"
