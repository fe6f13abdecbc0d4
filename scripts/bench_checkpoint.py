"""What a checkpoint costs when the replay is long: ours against writing the whole replay each time. Takes about two minutes.

    python scripts/bench_checkpoint.py [--transitions 1000000] [--pairs 5] [--json FILE]

The agent is the default one (16 worlds, front and wrist view, grid4) with a replay of that many transitions, made up, of which all but
the last `checkpoint_every` lie on the disk already. Ours writes the new ones, the networks, the optimisers and the worlds, as in a run. The
peer writes the same, but the whole replay at once, into the same folder. The two alternate.

The run's share: the seconds of one checkpoint over the seconds that the default run (encoder=mvp) takes for `checkpoint_every` transitions,
measured here on a few hundred steps after the warm-up.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from robo_repr.core import bench

WORLDS, EVERY = 16, 5000
TRAINED = 1600  # transitions whose time is taken


def make_agent(transitions: int):
    """The default agent after its warm-up, with room for the transitions."""
    from agents.embed import EmbedEnv
    from envs import make_env
    from robo_repr import load_encoder
    from robo_repr.core.config import build, load_part

    env = EmbedEnv(make_env("reach", num_envs=WORLDS), load_encoder("mvp"))
    run = {"steps": transitions, "updates_per_step": None, "save_replay": True, "seed": 0, "device": "cpu"}
    agent = build(load_part("agent", "sac"), env=env, **run)
    agent.learn(EVERY, lambda: agent.env_steps < 1600)
    return agent


def fill(agent, until: int) -> None:
    """Adds rows of noise to the replay until `until` transitions have been made; all of them count as env steps."""
    import numpy as np

    from agents.sb3.replay import replay_arrays

    model = agent.model
    first, end = model.num_timesteps // WORLDS, until // WORLDS
    noise = np.random.default_rng(0)
    for array in replay_arrays(model.replay_buffer).values():
        row = noise.standard_normal(array.shape[1:], dtype=np.float32)
        for slot in range(first, end):
            array[slot] = row + slot % 7
    model.num_timesteps = end * WORLDS
    model.replay_buffer.pos, model.replay_buffer.full = end % model.replay_buffer.buffer_size, end == model.replay_buffer.buffer_size


def seconds_of_training(agent) -> float:
    """Seconds that the run takes for `EVERY` transitions, without checkpoints and evaluations."""
    begin, began = agent.env_steps, time.perf_counter()
    agent.learn(begin + TRAINED, lambda: True)
    return (time.perf_counter() - began) * EVERY / (agent.env_steps - begin)


def checkpoint(agent, folder: Path) -> float:
    """Seconds of one checkpoint of ours."""
    folder.mkdir()
    began = time.perf_counter()
    agent.save(folder)
    return time.perf_counter() - began


def whole_replay(agent, folder: Path) -> float:
    """Seconds of a checkpoint whose replay is written anew."""
    from agents.sb3.base import SB3Agent
    from agents.sb3.replay import replay_arrays
    from robo_repr.core.checkpoint import save_state

    folder.mkdir()
    began = time.perf_counter()
    SB3Agent.save(agent, folder)
    rows = agent.env_steps // WORLDS
    save_state(folder, "whole", {key: array[:rows] for key, array in replay_arrays(agent.model.replay_buffer).items()})
    return time.perf_counter() - began


def main() -> None:
    arguments = bench.parser(__doc__, pairs=5)
    arguments.add_argument("--transitions", type=int, default=1_000_000, help="length of the replay")
    args = bench.parse(arguments)
    if args.transitions < (args.pairs + 2) * EVERY:
        arguments.error(f"--transitions {args.transitions}: at least {(args.pairs + 2) * EVERY} are needed for {args.pairs} pairs")

    import torch

    torch.set_num_threads(1)
    agent = make_agent(args.transitions)
    training = seconds_of_training(agent)
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-", dir="."))
    try:
        # All but the last pairs' segments, each as long as a run at the default cadence writes it.
        for until in range(2 * EVERY, args.transitions - (args.pairs - 1) * EVERY, EVERY):
            fill(agent, until)
            agent._segments.save(_made(folder / "filled"))
        on_disk = len(list((folder / "replay").glob("*.safetensors")))
        pairs = []
        for pair in range(args.pairs):
            fill(agent, args.transitions - (args.pairs - 1 - pair) * EVERY)
            pairs.append((checkpoint(agent, folder / f"ours-{pair}"), whole_replay(agent, folder / f"peer-{pair}")))
            shutil.rmtree(folder / f"peer-{pair}")
        written = sum(file.stat().st_size for file in (folder / f"ours-{args.pairs - 1}").iterdir())
        written += max((folder / "replay").glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns).stat().st_size
    finally:
        shutil.rmtree(folder)
        agent.env.close()
    shares = [[seconds / (seconds + training) for seconds in side] for side in zip(*pairs, strict=True)]
    print(f"replay of {args.transitions} transitions, {on_disk} segments on the disk; a run takes {training:.1f} s for {EVERY} transitions")
    for name, side in zip(("ours", "whole replay"), shares, strict=True):
        print(f"share of the run, {name}: {statistics.median(side):.2%} ({min(side):.2%} to {max(side):.2%})")
    print(f"a checkpoint of ours writes {written / 1e6:.1f} MB")
    figures = bench.Bench(args.pairs, share_of_run={"ours": statistics.median(shares[0]), "peer": statistics.median(shares[1])})
    figures.add("whole_replay_checkpoint", "seconds", pairs, less_is_better=True)
    figures.finish(args.json)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
