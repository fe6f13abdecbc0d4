"""Watches a long run from outside: is its memory flat, are its files closed, its rows complete, its logging cheap?

    python scripts/soak.py [--steps 200000] [--keep FOLDER] [--json FILE] [key=value ...]

Starts `python run_rl.py` on small pictures with a replay of 20000 transitions, which is full after the first tenth, so that from then on
nothing may grow any more. Reads resident memory, threads and open files from /proc every second, and the step from metrics.jsonl. Claims:

    memory   after the replay is full (and a quarter of the run is over), the slope of resident memory against transitions is less than 16
             bytes per transition (two numbers kept) above what twice its standard error explains
    files    no more files are open in the run's last quarter than before it, and no more threads
    rows     metrics.jsonl has a row for every log_every steps, in order
    logging  takes less than one per cent of the wall time

Exits 1 when one of them fails. Evaluations build worlds of their own and give them back, which moves memory up and down: samples are
averaged in twenty blocks of equal length, and the standard error comes from the scatter of the blocks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, also when this file is run by its path

from robo_repr.core.metrics import read_metrics  # noqa: E402

BUFFER, LOG_EVERY = 20_000, 1000
LEAK = 16.0  # bytes per transition
BLOCKS = 20
LOGGING = 0.01  # share of the wall time
SETTINGS = [
    *("encoder=pixels", "encoder.size=4", "image_size=16", "num_envs=16", "eval_episodes=20", f"agent.buffer_size={BUFFER}"),
    *("agent=sac", "agent.net=[32,32]", "agent.batch_size=32", "updates_per_step=0.1", f"log_every={LOG_EVERY}", "logger=tensorboard"),
]


@dataclass
class Sample:
    """What /proc said at one moment: the step of the last row, resident bytes, threads, and open files."""

    step: int
    memory: int
    threads: int
    files: int


@dataclass
class Slope:
    """Bytes per transition with their standard error."""

    value: float
    error: float

    @property
    def leaks(self) -> bool:
        return self.value - 2 * self.error > LEAK


def slope(samples: list[Sample]) -> Slope:
    """A straight line through the means of blocks of samples.

    Raises:
        ValueError: fewer samples than two per block.
    """
    import numpy as np
    from scipy.stats import linregress

    if len(samples) < 2 * BLOCKS:
        raise ValueError(f"{len(samples)} samples are too few for {BLOCKS} blocks of at least two; more steps take longer.")
    blocks = np.array_split(np.array([(sample.step, sample.memory) for sample in samples], dtype=float), BLOCKS)
    fit = linregress(*np.array([block.mean(axis=0) for block in blocks]).T)
    return Slope(float(fit.slope), float(fit.stderr))


def take_sample(pid: int, step: int) -> Sample | None:
    """None when the process is gone."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return Sample(step, 1024 * int(status["VmRSS"].split()[0]), int(status["Threads"]), files)
    except (OSError, KeyError):  # a process that just ended has no memory
        return None


def missing_rows(steps: list[int], total: int, log_every: int) -> list[str]:
    """What is wrong with the steps of metrics.jsonl's rows."""
    wrong = [f"step {b} follows {a}" for a, b in zip(steps, steps[1:], strict=False) if b <= a]
    absent = sorted(set(range(1, total // log_every + 1)) - {step // log_every for step in steps})
    return wrong + [f"no row from step {number * log_every} on" for number in absent]


def watch(command: list[str], run: Path, seconds: float) -> tuple[int, list[Sample]]:
    """Runs the command to its end: its exit code, and samples from its first row on."""
    samples, rows = [], run / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    try:
        while process.poll() is None:
            sample = take_sample(process.pid, _last_step(rows))
            if sample is not None and sample.step > 0:
                samples.append(sample)
            time.sleep(seconds)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return process.returncode, samples


def _last_step(rows: Path) -> int:
    """The step of the last whole row, read from the file's end."""
    try:
        with open(rows, "rb") as file:
            file.seek(max(0, rows.stat().st_size - 10_000))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["env_steps"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def judge(samples: list[Sample], rows: list[int], summary: dict, steps: int, log_every: int, full_at: int) -> tuple[dict, list[str]]:
    """The figures, and the claims that fail.

    Args:
        rows: steps of metrics.jsonl.
        full_at: the step from which nothing may grow any more.
    """
    failed = []
    quarters = {}
    for quarter in (25, 50, 75, 100):
        near = [sample.memory for sample in samples if (quarter - 10) / 100 * steps <= sample.step <= quarter / 100 * steps]
        quarters[f"{quarter} %"] = round(sum(near) / len(near) / 2**20, 1) if near else None
    flat = [sample for sample in samples if sample.step >= full_at]
    try:
        growth = slope(flat)
        figures = {"bytes_per_transition": round(growth.value, 2), "standard_error": round(growth.error, 2)}
        if growth.leaks:
            failed.append(f"memory grows by {growth.value:.1f} bytes per transition (standard error {growth.error:.1f})")
    except ValueError as error:
        figures = {"bytes_per_transition": None, "standard_error": None}
        failed.append(f"memory: {error}")
    spans = {}
    for name in ("files", "threads"):
        early = [getattr(sample, name) for sample in flat if sample.step < 0.75 * steps]
        late = [getattr(sample, name) for sample in flat if sample.step >= 0.75 * steps]
        spans[name] = [min(early + late, default=0), max(early + late, default=0)]
        if early and late and max(late) > max(early):
            failed.append(f"{name}: up to {max(early)} before the last quarter, {max(late)} in it")
    wrong = missing_rows(rows, steps, log_every)
    if wrong:
        failed.append(f"metrics.jsonl: {len(wrong)} places are wrong, first: {wrong[0]}")
    seconds, wall = summary.get("seconds", {}), summary.get("wall_s", 0)
    shares = {name: round(seconds[name] / wall, 5) if name in seconds and wall else None for name in ("log", "checkpoint")}
    if shares["log"] is None:
        failed.append("summary.json does not tell how long logging took")
    elif shares["log"] >= LOGGING:
        failed.append(f"logging took {100 * shares['log']:.2f} % of the wall time")
    figures |= {"memory_mb": quarters, **spans, "rows": len(rows), "share": shares, "wall_s": wall, "samples": len(flat)}
    return figures, failed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--keep", type=Path, default=None, help="the run's folder; default: a temporary one")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=1.0, help="between samples")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    words = [*SETTINGS, f"steps={options.steps}", *options.overrides]
    given = dict(word.split("=", 1) for word in words if "=" in word)  # the later one counts
    log_every, buffer = int(given["log_every"]), int(given["agent.buffer_size"])
    with tempfile.TemporaryDirectory() as temporary:
        run = (options.keep or Path(temporary) / "run").absolute()
        code, samples = watch(["run_rl.py", *words, f"run_dir={run}"], run, options.seconds)
        if code != 0:
            print(f"The run ended with exit code {code}, so there is nothing to judge.", file=sys.stderr)
            return 1
        rows = [int(row["env_steps"]) for row in read_metrics(run / "metrics.jsonl")]
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    full_at = max(options.steps // 4, buffer + log_every)
    figures, failed = judge(samples, rows, summary, options.steps, log_every, full_at)
    print(f"resident memory, MB   {', '.join(f'{value} at {quarter}' for quarter, value in figures['memory_mb'].items())}")
    print(f"slope from step {full_at}  {figures['bytes_per_transition']} bytes per transition, standard error {figures['standard_error']}")
    print(f"open files, threads   {figures['files'][0]} to {figures['files'][1]}, {figures['threads'][0]} to {figures['threads'][1]}")
    print(f"rows                  {figures['rows']}, the last at step {rows[-1] if rows else '-'}")
    print(f"share of wall time    logging {figures['share']['log']}, checkpoints {figures['share']['checkpoint']} of {figures['wall_s']} s")
    for failure in failed:
        print(f"FAILED: {failure}")
    if options.json:
        options.json.write_text(json.dumps({"good": not failed, **figures, "failed": failed}, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
