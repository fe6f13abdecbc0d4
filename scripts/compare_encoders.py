"""What the features of every encoder know of the scene, and how fast they are: writes docs/encoders.md.

    python scripts/compare_encoders.py [--encoders mvp,pixels] [--out docs/encoders.md] [--seed 0] [--quick]

Two tables: ridge regression from each read-out to the ball's and the gripper's position on pictures of the reach task, and pictures per
second on two cores. An encoder whose weights are not at hand stands there with random ones, and the table says so. With --encoders or
--quick the page is only printed, unless --out names a file.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robo_repr.core.errors import UserError, unknown

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
# Episodes of `FRAMES` pictures each.
EPISODES = {"train": 200, "validation": 60, "test": 100}
QUICK = {"train": 12, "validation": 6, "test": 6}
FRAMES, STEPS_BETWEEN = 4, 3
STACK = 3  # for encoders of stacks; the others see the last picture
CALIBRATION = 256  # pictures that a read-out is fitted to; tokens of all would not fit into memory
BATCH = 32
# What is not the YAML's own choice: the smallest network of each encoder, and further picture sizes for the speed.
SMALLEST: dict[str, dict] = {
    "mvp": {"variant": "tiny"},
    "r3m": {"variant": "resnet18"},
    "theia": {"variant": "tiny"},
}
FASTER: dict[str, list[dict]] = {
    "mvp": [{"variant": "vits-mae-hoi"}, {"variant": "vitb-mae-egosoup"}],
    "imagenet": [{"size": 224}],
}

PAGE = """# Encoders compared

Both tables come from one command on {machine}:

```
{command}
```

## What the features know

Mean distance in cm between true and predicted position, with a 95 % bootstrap interval over {test} held-out episodes of {frames} pictures
each. A ridge regression is fitted on {train} episodes of the reach task (front camera, 84 x 84 pixels, cameras perturbed at L1, a random
policy), its penalty is chosen on {validation} others. Ball: with the robot's state beside the features. Gripper: the features alone.

- `no picture` is the control: the robot's state alone for the ball, the mean position for the gripper.
- `random weights` means that the encoder's own were not on this machine: such a row says what the architecture is worth untrained, nothing
  about the method. `python scripts/fetch_weights.py NAME` gets them where they are public.
- `ours, bundled` are small networks that scripts/train_bundled_weights.py trained on pictures of this very scene; not the paper's.
- `numbers` is what a policy would get for one view. Encoders without tokens have one read-out under all names.

{errors}

## How fast they are

Pictures per second, {threads} threads, {batch} uint8 pictures of 84 x 84 per call, resizing included; median of {calls} calls.
`input` is what the network sees; `parameters` counts the text tower too where there is one. bfloat16 is
`load_encoder(..., precision="bfloat16")`; it pays for most large networks, on
processors with instructions for it.

{speeds}
"""


@dataclass
class Row:
    """An encoder with the settings that it is compared under."""

    name: str
    settings: dict
    untrained: bool = False

    def load(self, **more):
        """The encoder: with its own weights, or with random ones when these are not at hand."""
        from robo_repr import load_encoder

        if self.untrained:
            return load_encoder(self.name, **self.settings, weights="random", **more)
        try:
            return load_encoder(self.name, **self.settings, **more)
        except UserError:
            encoder = load_encoder(self.name, **self.settings, weights="random", **more)
            self.untrained = True
            return encoder

    def label(self, encoder) -> str:
        return f"`{self.name}` {encoder.variant or ''}".strip()

    def weights(self, encoder) -> str:
        from robo_repr.encoders.registry import bundled_file

        if not list(encoder.parameters()):
            return "none"
        if self.untrained or self.name == "random":
            return "random weights"
        return "ours, bundled" if bundled_file(self.name, str(encoder.variant)).is_file() else "the authors'"


# --- what the features know -----------------------------------------------------------------------------------------------------------


def collect(episodes: dict[str, int], seed: int) -> dict[str, dict]:
    """Part -> ``images`` (E * FRAMES, STACK, 3, 84, 84) uint8, ``state`` (n, 13), ``ball`` and ``gripper`` (n, 3) in metres.

    The frames of an episode are `STEPS_BETWEEN` steps apart; a random action is held between them, so that the arm gets somewhere. No two
    episodes share a start, a camera or a ball.
    """
    import numpy as np
    import torch

    from envs import make_env
    from envs.tasks.base import CENTRE
    from robo_repr.core.seeding import rng

    data, first = {}, 0
    for part, count in episodes.items():
        env = make_env(
            "reach",
            num_envs=count,
            views=["front"],
            camera="L1",
            image_size=84,
            privileged=True,
            frame_stack=STACK,
            seed=seed,
            episode_ids=range(first, first + count),
            horizon=FRAMES * STEPS_BETWEEN + 1,
        )
        first += count
        obs, _ = env.reset(seed=seed)
        rows = []
        for frame in range(FRAMES):
            action = rng(seed, f"compare/{part}", frame).uniform(-1, 1, (count, 3)).astype(np.float32)
            for _ in range(STEPS_BETWEEN):
                obs, *_ = env.step(action)
            rows.append((obs["images"][:, 0].clone(), obs["state"].clone()))
        env.close()
        images, state = (torch.stack(column, dim=1).flatten(0, 1) for column in zip(*rows, strict=True))
        gripper, ball = (state[:, columns].double() * 0.15 + CENTRE for columns in (slice(0, 3), slice(13, 16)))
        data[part] = {"images": images, "state": state[:, :13], "ball": ball.float(), "gripper": gripper.float()}
    return data


def read_out(encoder, data: dict[str, dict], readouts: Sequence[str]) -> dict[str, dict]:
    """Read-out -> part -> (n, dim)."""
    import torch

    from robo_repr.encoders.base import Features
    from robo_repr.encoders.readout import Readout

    def encoded(images) -> Iterator[Features]:
        for chunk in images.split(BATCH):
            yield encoder(chunk if encoder.spec.frames > 1 else chunk[:, -1])

    # Pictures of one episode are alike: the calibration takes them from all episodes.
    images = data["train"]["images"]
    some = list(encoded(images[:: max(1, len(images) // CALIBRATION)]))
    tokens = [features.tokens for features in some if features.tokens is not None]
    fitted = {name: Readout(name, encoder.spec, ["front"]) for name in readouts}
    for readout in fitted.values():
        readout.calibrate(Features(torch.cat([features.pooled for features in some]), torch.cat(tokens) if tokens else None))
    found = {name: {} for name in readouts}
    for part, columns in data.items():
        outputs = [{name: readout(features) for name, readout in fitted.items()} for features in encoded(columns["images"])]
        for name in readouts:
            found[name][part] = torch.cat([output[name] for output in outputs])
    return found


def errors_of(numbers: dict | None, data: dict[str, dict], seed: int) -> str:
    """Two cells: ball and gripper. Without numbers: what is known without a picture."""
    import torch

    from robo_repr.probes import interval, ridge_errors

    cells = []
    for target in ("ball", "gripper"):
        x = {}
        for part, columns in data.items():
            # The gripper's place is in the state, so there the pictures stand alone.
            beside = columns["state"] if target == "ball" else torch.zeros(len(columns["state"]), 1)
            x[part] = beside if numbers is None else torch.cat([numbers[part], beside], dim=1)
        error = ridge_errors(x, {part: columns[target] for part, columns in data.items()}, ("test",))["test"]
        cells.append(interval(error.unflatten(0, (-1, FRAMES)).mean(dim=1), seed))
    return " | ".join(cells)


def error_table(rows: list[Row], data: dict[str, dict], seed: int) -> str:
    from robo_repr.encoders.readout import READOUTS

    lines = ["| encoder | weights | read-out | numbers | ball, cm | gripper, cm |", "|---|---|---|---|---|---|"]
    lines.append(f"| no picture | | | 0 | {errors_of(None, data, seed)} |")
    for row in rows:
        encoder = row.load()
        if not encoder.spec.dim:
            continue  # the row above
        readouts = READOUTS if encoder.spec.grid else ("pooled",)
        began = time.perf_counter()
        for name, numbers in read_out(encoder, data, readouts).items():
            length = numbers["train"].shape[1]
            lines.append(f"| {row.label(encoder)} | {row.weights(encoder)} | {name} | {length} | {errors_of(numbers, data, seed)} |")
        print(f"{row.label(encoder)}: read out in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return "\n".join(lines)


# --- speed ----------------------------------------------------------------------------------------------------------------------------


def pictures_per_second(encoder, calls: int) -> float:
    import torch

    shape = (BATCH, 3, 84, 84) if encoder.spec.frames == 1 else (BATCH, encoder.spec.frames, 3, 84, 84)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder(images)
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        encoder(images)
        seconds.append(time.perf_counter() - began)
    return BATCH / statistics.median(seconds)


def speed_table(rows: list[Row], calls: int) -> str:
    lines = ["| encoder | input | parameters | pooled | tokens | float32 | bfloat16 |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        encoder = row.load()
        spec, parameters = encoder.spec, sum(parameter.numel() for parameter in encoder.parameters())
        if not spec.dim:
            continue
        tokens = f"{spec.grid[0]} x {spec.grid[1]} x {spec.token_dim}" if spec.grid else "none"
        stack = f"{spec.frames} x " if spec.frames > 1 else ""
        cells = [f"{pictures_per_second(encoder, calls):,.0f}", ""]
        if parameters:
            cells[1] = f"{pictures_per_second(row.load(precision='bfloat16'), calls):,.0f}"
        size = f"{stack}{spec.size[0]} x {spec.size[1]}"
        lines.append(f"| {row.label(encoder)} | {size} | {parameters / 1e6:.1f} M | {spec.dim} | {tokens} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", help="names with commas between; default all")
    parser.add_argument("--out", type=Path, help="the page; default docs/encoders.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few episodes and calls: to see that it runs")
    args = parser.parse_args(arguments)

    from robo_repr import list_encoders

    names = args.encoders.split(",") if args.encoders else list_encoders()
    for name in names:
        if name not in list_encoders():
            raise unknown("--encoders", name, list_encoders())
    out = args.out or (None if args.encoders or args.quick else ROOT / "docs" / "encoders.md")

    import torch

    torch.set_num_threads(THREADS)
    episodes, calls = (QUICK, 1) if args.quick else (EPISODES, 5)
    rows = [Row(name, SMALLEST.get(name, {})) for name in names]
    # Sizes beside the smallest are there for their speed, which is that of any weights.
    larger = [Row(name, settings, untrained="variant" in settings) for name in names for settings in FASTER.get(name, [])]
    page = PAGE.format(
        machine=f"{THREADS} cores of {processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}",
        command=" ".join(["python scripts/compare_encoders.py", *arguments]),
        frames=FRAMES,
        threads=THREADS,
        batch=BATCH,
        calls=calls,
        **episodes,
        errors=error_table(rows, collect(episodes, args.seed), args.seed),
        speeds=speed_table(sorted([*rows, *([] if args.quick else larger)], key=lambda row: row.name), calls),
    )
    print(page)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
        print(f"wrote {out}", file=sys.stderr)


def processor() -> str:
    """The processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
