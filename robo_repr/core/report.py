"""The table at the end of a run, read from its folder."""

import json
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from robo_repr.core.metrics import read_metrics
from robo_repr.core.stats import wilson


def read_evaluations(run: Path) -> list[dict]:
    """The rows of a run's evaluations.jsonl: policy, camera, success and so on."""
    path = run / "evaluations.jsonl"
    return read_metrics(path) if path.exists() else []


def percent(success: float, episodes: int) -> str:
    """A success rate with its 95 % Wilson interval, such as ``94 % [88 to 97]``."""
    low, high = wilson(round(success * episodes), episodes)
    return f"{100 * success:.0f} % [{100 * low:.0f} to {100 * high:.0f}]"


def print_run(run: Path, console: Console) -> None:
    """Prints what a finished run reached, beside the random policy and the expert on the same episodes, and where its files are."""
    summary = json.loads((run / "summary.json").read_text())
    encoder = summary["encoder"]
    weights = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["weights"]
    name = encoder["name"] + (" (random weights)" if weights == "random" else "")
    table = Table(title=f"{summary['task']}, encoder {name}, camera {summary['eval_camera']}, seed {summary['seed']}")
    for heading in ("policy", f"success of {summary['episodes']} [95 %]", "return"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    table.add_row("trained", percent(summary["success"], summary["episodes"]), f"{summary['return']:.2f}", style="bold")
    for policy in ("random", "expert"):
        for row in read_evaluations(run):
            if (row["policy"], row["camera"], row["episodes"]) == (policy, summary["eval_camera"], summary["episodes"]):
                table.add_row(policy, percent(row["success"], row["episodes"]), f"{row['return']:.2f}")
                break
    console.print(table)
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    lines = [
        f"training    {summary['env_steps']} steps, {summary['updates']} updates, {minutes} min {seconds} s with evaluation and films",
        f"films       {', '.join(str(film) for film in sorted((run / 'videos').glob('*.mp4'))) or 'none'}",
        f"checkpoint  {max((run / 'checkpoints').iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)}",
    ]
    if encoder["weights_sha256"]:
        lines.append(f"encoder     {encoder['trained_by']}")
    for line in lines:
        console.out(line, highlight=False)


def print_next(run: Path, encoder: str, overrides: list[str], console: Console) -> None:
    """Prints three commands to try after a run: under harder cameras, and beside another encoder."""
    console.out("next:", highlight=False)
    for command in (
        f"python scripts/evaluate.py run={run} camera=L3",
        _command(overrides, encoder="pixels" if encoder == "random" else "random"),
        _command(overrides, camera="L3", eval_camera="L3"),
    ):
        console.out(f"  {command}", highlight=False)


def _command(overrides: list[str], **changes: str) -> str:
    """The command line of this run with some keys changed."""
    gone = {*changes, "run_dir", "fresh", "tag"}
    if "encoder" in changes:
        gone |= {"variant", "weights", "frame_stack"}  # they belong to the encoder that is replaced
    kept = [o for o in overrides if (key := o.split("=")[0]) not in gone and not ("encoder" in changes and key.startswith("encoder."))]
    words = [f"'{o}'" if "[" in o else o for o in [*kept, *(f"{key}={value}" for key, value in changes.items())]]
    return " ".join(["python run_rl.py", *words])
