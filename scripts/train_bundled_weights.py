"""Trains the weights that ship with the suite, from pictures it draws itself, and writes the file and its card.

    python scripts/train_bundled_weights.py encoder=mvp [steps=6000 pictures=80000 minutes=60 seed=0 out=robo_repr/weights]

The objective is a plain masked autoencoder. Training stops when a held-out probe (ridge regression to ball and gripper) stops improving,
or at the limit of steps or minutes; see `learning_rate`. Every random draw is a function of the seed; only the limit of minutes depends on
the clock.
"""

import math
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.appearance import sample_look
from envs.cameras import Occasion, nominal_cameras, parse_camera, to_world
from envs.render import mujoco
from envs.sim import ThreadsSim
from envs.tasks.arm import JOINTS
from envs.tasks.reach import BALL_BOX, Reach
from robo_repr.core.download import digest_of
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.seeding import rng, stream_seed
from robo_repr.encoders.base import Encoder, Features
from robo_repr.encoders.controls import Pixels
from robo_repr.encoders.mvp import MVP, Random
from robo_repr.encoders.readout import Readout
from robo_repr.encoders.registry import bundled_file
from robo_repr.encoders.weights import save_weights
from robo_repr.objectives.mae import MAE
from robo_repr.probes import interval, ridge_errors

ROOT = Path(__file__).resolve().parents[1]
VIEWS = ["front", "left", "wrist"]
VIEW_SETS = {"front + left": [0, 1], "wrist": [2]}
SIZE = 84
BATCH = 128
PEAK_RATE, WARM_UP, WEIGHT_DECAY = 1.5e-3, 200, 0.05
SHIFT = 4  # pixels to either side
PROBE_EVERY = 750
PATIENCE, IMPROVEMENT = 3, 0.01  # stop after so many probes without this relative gain
FRAMES = 4  # per probe episode
PROBE_BOX = np.array([[0.36, -0.15, 0.15], [0.64, 0.15, 0.45]])  # of the tool: where the task's own episodes take it
EPISODES = {"train": 320, "validation": 80, "test": 100}
APPEARANCES = ("plain", "random")


# --- pictures -------------------------------------------------------------------------------------------------------------------------


@dataclass
class Pictures:
    """E episodes of F states: images (E, F, V, 3, H, W) uint8; ball and tool (E, F, 3) in metres; state (E, F, 13) as the task gives it."""

    images: Tensor
    ball: Tensor
    tool: Tensor
    state: Tensor


class Studio:
    """The reach scene with extra bodies as later tasks have them: boxes, a handle on a panel, a button, a peg, a disc; below the floor
    unless placed."""

    worlds = 64

    def __init__(self):
        spec = Reach.spec()
        box, cylinder, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE
        self.props = {
            "box_small": [(box, [0.02, 0.02, 0.02], [0, 0, 0.02])],
            "box_large": [(box, [0.035, 0.05, 0.03], [0, 0, 0.03])],
            "peg": [(capsule, [0.012, 0.05, 0], [0, 0, 0.06])],
            "disc": [(cylinder, [0.045, 0.002, 0], [0, 0, 0.002])],
            "button": [(box, [0.05, 0.05, 0.02], [0, 0, 0.02]), (cylinder, [0.025, 0.012, 0], [0, 0, 0.052])],
            "handle": [
                (box, [0.012, 0.11, 0.09], [0, 0, 0.09]),
                (box, [0.022, 0.007, 0.007], [-0.03, 0.05, 0.1]),
                (box, [0.022, 0.007, 0.007], [-0.03, -0.05, 0.1]),
                (box, [0.007, 0.065, 0.008], [-0.055, 0, 0.1]),
            ],
        }
        for name, geoms in self.props.items():
            body = spec.worldbody.add_body(name=name, mocap=True, pos=[0, 0, -3])
            for i, (kind, size, place) in enumerate(geoms):
                body.add_geom(name=f"{name}_{i}", type=kind, size=size, pos=place, rgba=[0.5, 0.5, 0.5, 1])
        self.model = spec.compile()
        self.task = Reach(self.model, self.worlds)
        self.sim = ThreadsSim(self.model, self.worlds, "fast", render_threads=1)
        self.cameras = nominal_cameras(self.model, VIEWS)
        self.slots = {name: int(self.model.body(name).mocapid[0]) for name in ("ball", *self.props)}

    def probe_pictures(self, seed: int, name: str, episodes: int, camera: str, appearance: str) -> Pictures:
        """Episodes of the task as it is: ball, cameras and look are the episode's; the arm's poses have nothing to do with the ball."""
        states, looks, ids = [], [], []
        for episode in range(episodes):
            generator = rng(seed, f"probe/{name}", episode)
            ball = generator.uniform(*BALL_BOX)
            look = sample_look(appearance, rng(seed, f"probe/{name}/look", episode))
            for _ in range(FRAMES):
                states.append((generator.uniform(*PROBE_BOX), np.zeros(9), ball, {}))
                looks.append(look)
                ids.append((name, episode))
        return self._draw(states, looks, ids, camera, seed, FRAMES)

    def training_pictures(self, seed: int, count: int) -> Tensor:
        """(count, 3, H, W) uint8: independent states, half of them on an expert's way to the ball, half plain and half random in looks,
        ball size varied, most with some of the extra bodies, cameras at L4."""
        images, chunk = [], 512
        states_wanted = -(-count // len(VIEWS))
        for first in range(0, states_wanted, chunk):
            ids = range(first, min(first + chunk, states_wanted))
            states, looks = zip(*(self._training_state(rng(seed, "pictures", i)) for i in ids), strict=True)
            drawn = self._draw(list(states), list(looks), [("pictures", i) for i in ids], "L4", seed, 1)
            images.append(drawn.images.flatten(0, 2))
        return torch.cat(images)[:count]

    def _training_state(self, generator: np.random.Generator) -> tuple:
        ball = generator.uniform(*BALL_BOX)
        if generator.random() < 0.5:
            tool = generator.uniform(*Reach.workspace)
        else:
            start = generator.uniform(*Reach.start_box)
            tool = ball + generator.uniform() * (start - ball) + generator.normal(scale=0.01, size=3)
        noise = np.append(generator.normal(scale=0.1 * (generator.random() < 0.4), size=JOINTS), np.repeat(generator.uniform(0, 0.04), 2))
        look = sample_look(APPEARANCES[generator.integers(2)], generator)
        radius = generator.uniform(0.02, 0.05)
        look.form["ball"] = (int(mujoco.mjtGeom.mjGEOM_SPHERE), np.repeat(radius, 3), ball)
        places = {}
        for name, geoms in self.props.items():
            if generator.random() < 0.35:
                yaw = generator.uniform(0, np.pi)
                places[name] = (generator.uniform([0.3, -0.35, 0], [0.75, 0.35, 0]), [np.cos(yaw), 0, 0, np.sin(yaw)])
                for i in range(len(geoms)):
                    look.rgba[f"{name}_{i}"] = np.append(generator.uniform(0.05, 0.95, size=3), 1)
        return (tool, noise, ball, places), look

    def _draw(self, states: list, looks: list, ids: list, camera: str, seed: int, frames: int) -> Pictures:
        """Draws states (tool position, joint noise, ball position, placed bodies), `self.worlds` at a time."""
        images, labels = [], []
        qpos, ctrl = np.zeros((len(states), self.model.nq)), np.zeros((len(states), self.model.nu))
        self.task.arm.start(np.stack([state[0] for state in states]), 0.0, qpos, ctrl)
        qpos += np.stack([state[1] for state in states])
        setting = parse_camera("camera", camera)
        views = [setting.draw(self.cameras, seed, Occasion(episode, 1)) for episode in ids]
        poses = np.array([[view.poses[0] for view in row] for row in views])
        for first in range(0, len(states), self.worlds):
            some = range(first, min(first + self.worlds, len(states)))
            position = np.tile([0.0, 0.0, -3.0], (len(some), self.model.nmocap, 1))
            quaternion = np.tile([1.0, 0.0, 0.0, 0.0], (len(some), self.model.nmocap, 1))
            for row, i in enumerate(some):
                position[row, self.slots["ball"]] = states[i][2]
                for name, (place, turn) in states[i][3].items():
                    position[row, self.slots[name]], quaternion[row, self.slots[name]] = place, turn
            worlds = np.arange(len(some))
            self.sim.write(worlds, {"qpos": qpos[some], "mocap_pos": position, "mocap_quat": quaternion})
            self.sim.forward(worlds)
            bodies = self.sim.body_pose([camera.body for camera in self.cameras])
            cameras = to_world(poses[some], *(part[worlds] for part in bodies))
            images.append(torch.from_numpy(self.sim.render(cameras, worlds, [looks[i] for i in some], SIZE)).permute(0, 1, 4, 2, 3))
            readings = {key: value[worlds] for key, value in self.sim.readings().items()}
            labels.append((readings["ball_position"], readings["tool_position"], self.task.observe(readings, False)))
        columns = [torch.cat(column).unflatten(0, (-1, frames)) for column in zip(*labels, strict=True)]
        return Pictures(torch.cat(images).contiguous().unflatten(0, (-1, frames)), *(column.float() for column in columns))


def contact_sheet(images: Tensor, path: Path, columns: int = 24, rows: int = 12) -> None:
    """Saves the first pictures side by side, to be looked at."""
    from PIL import Image

    grid = images[: rows * columns].unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.numpy()).save(path)


# --- probe ----------------------------------------------------------------------------------------------------------------------------


class Probe:
    """How well a ridge regression on frozen features finds ball and gripper, in cm, on episodes and cameras that it was not fitted on."""

    def __init__(self, studio: Studio, seed: int):
        self.sets = {
            (appearance, part): studio.probe_pictures(seed, f"{appearance}/{part}", count, "L1", appearance)
            for appearance in APPEARANCES
            for part, count in EPISODES.items()
        }
        for appearance in APPEARANCES:
            self.sets[appearance, "test L3"] = studio.probe_pictures(seed, f"{appearance}/L3", EPISODES["test"], "L3", appearance)

    def errors(self, encoder: Encoder | None, parts: tuple[str, ...]) -> dict:
        """(views, appearance, part, target) -> mean error per episode (E,) in cm. Without an encoder: proprioception for the ball, and the
        mean of the training labels for the gripper."""
        results = {}
        for appearance in APPEARANCES:
            data = {part: self.sets[appearance, part] for part in ("train", "validation", *parts)}
            encoded = {} if encoder is None else {part: encode(encoder, pictures.images) for part, pictures in data.items()}
            for views, columns in VIEW_SETS.items():
                seen = self._readouts(encoder, encoded, columns) if encoder else {}
                for target in ("ball", "gripper"):
                    x = {}
                    for part, pictures in data.items():
                        # The gripper's place is in the state, so there the pictures stand alone.
                        state = pictures.state.flatten(0, 1) if target == "ball" else torch.zeros(pictures.state.shape[:2].numel(), 1)
                        x[part] = torch.cat([seen[part], state], dim=1) if seen else state
                    y = {part: (p.ball if target == "ball" else p.tool).flatten(0, 1) for part, p in data.items()}
                    for part, error in ridge_errors(x, y, parts).items():
                        results[views, appearance, part, target] = error.unflatten(0, (-1, FRAMES)).mean(dim=1)
        return results

    @staticmethod
    def _readouts(encoder: Encoder, encoded: dict, columns: list[int]) -> dict:
        readout = Readout("grid4", encoder.spec, [VIEWS[i] for i in columns])

        def choose(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, len(VIEWS)))[:, columns].flatten(0, 1)

        chosen = {part: Features(choose(pooled), None if tokens is None else choose(tokens)) for part, (pooled, tokens) in encoded.items()}
        readout.calibrate(chosen["train"])
        return {part: readout(features) for part, features in chosen.items()}

    def score(self, encoder: Encoder) -> float:
        """Mean validation error in cm over views, appearances and targets: what training is stopped by."""
        return float(torch.stack([error.mean() for error in self.errors(encoder, ("validation",)).values()]).mean())


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor) -> Features:
    """Features of (E, F, V, 3, H, W) pictures, flat in that order."""
    outputs = [encoder(chunk) for chunk in images.flatten(0, 2).split(256)]
    tokens = None if outputs[0].tokens is None else torch.cat([output.tokens for output in outputs])
    return Features(torch.cat([output.pooled for output in outputs]), tokens)


# --- training -------------------------------------------------------------------------------------------------------------------------


def learning_rate(step: int, decay_from: int | None, last: int) -> float:
    """Warm-up, then constant until `decay_from`, then half a cosine down to 0 at `last`.

    The end of training is not known beforehand (the probe decides), and a rate that never falls leaves worse weights: the decay begins
    when the probe has stopped improving and takes a third of the steps done until then.
    """
    if decay_from is not None and step >= decay_from:
        return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - decay_from) / (last - decay_from)))
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP)


def training_batch(images: Tensor, seed: int, step: int, patches: int) -> dict[str, Tensor]:
    """Pictures and mask noise of a step, a function of (seed, step): each epoch is a permutation; shifted sideways, edges repeated."""
    per_epoch = len(images) // BATCH
    epoch, place = divmod(step, per_epoch)
    order = rng(seed, "order", epoch).permutation(len(images))[place * BATCH : (place + 1) * BATCH]
    generator = torch.Generator().manual_seed(stream_seed(seed, "batch", step))
    shift = torch.randint(-SHIFT, SHIFT + 1, (BATCH, 1), generator=generator)
    columns = (torch.arange(SIZE) + shift).clamp(0, SIZE - 1)
    batch = images[order].gather(3, columns[:, None, None, :].expand(-1, 3, SIZE, -1))
    return {"images": batch, "noise": torch.rand(BATCH, patches, generator=generator)}


def train(encoder: MVP, images: Tensor, probe: Probe, steps: int, minutes: float, seed: int, save) -> tuple[list[dict], str]:
    """Trains the encoder in place; calls `save()` after every probe. Returns the rows of the curve and why it stopped."""
    objective = MAE(encoder, decoder_dim=96, decoder_depth=2, decoder_heads=3, seed=seed)
    optimizer = torch.optim.AdamW(objective.param_groups(WEIGHT_DECAY), lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    patches = math.prod(encoder.spec.grid or ())
    began, rows, losses = time.perf_counter(), [], []
    decay_from, last, reason = None, steps, f"the limit of {steps} steps"
    step = 0
    while step < last:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, decay_from, last)
        optimizer.zero_grad()
        loss = objective(training_batch(images, seed, step, patches))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % PROBE_EVERY == 0 or step == last:
            encoder.eval()
            score = probe.score(encoder)
            encoder.train()
            rows.append({"step": step, "pictures": step * BATCH, "loss": float(np.mean(losses[-200:])), "probe": score})
            spent = (time.perf_counter() - began) / 60
            print(f"step {step}  loss {rows[-1]['loss']:.4f}  probe {score:.3f} cm  {spent:.1f} min", flush=True)
            save()
            if decay_from is None:
                scores = [row["probe"] for row in rows]
                stalled = len(scores) > PATIENCE and min(scores[-PATIENCE:]) > (1 - IMPROVEMENT) * min(scores[:-PATIENCE])
                late = step >= 0.75 * steps or spent >= 0.75 * minutes
                if stalled or late:
                    decay_from, last = step, min(steps, step + step // 3)
                    why = f"the probe had not improved by {IMPROVEMENT:.0%} in {PATIENCE} probes" if stalled else "the limit was near"
                    reason = f"{why} at step {step}; the learning rate then fell to 0 by step {last}"
                    print(reason, flush=True)
        if (time.perf_counter() - began) / 60 > minutes:
            return rows, f"the limit of {minutes:g} minutes, at step {step}"
    return rows, reason


def table(results: dict[str, dict], seed: int) -> str:
    """The probe's test errors as Markdown, one row per kind of features and cameras."""
    lines = [
        "| views | cameras | features | ball, plain | ball, random | gripper, plain | gripper, random |",
        "|---|---|---|---|---|---|---|",
    ]
    for views in VIEW_SETS:
        for part, cameras in (("test", "L1"), ("test L3", "L3")):
            for name, errors in results.items():
                cells = [interval(errors[views, a, part, target], seed) for target in ("ball", "gripper") for a in APPEARANCES]
                lines.append(f"| {views} | {cameras} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


CARD = """# {file}

A ViT of {parameters:,} parameters (84 x 84 pixels, patch 14, width 128, depth 4, heads 4), trained as a plain masked autoencoder on
pictures of this suite's own simulated scenes. **It is not the paper's model**: MVP's encoders are 25 to 350 times larger and were trained
on 0.7 to 4.5 million real pictures. It is here so that everything runs at once, without a download, on two CPU cores.

| | |
|---|---|
| command | `{command}` |
| data | {pictures:,} pictures drawn by the command itself: the reach scene, arm anywhere or on the way to the ball, ball radius \
2 to 5 cm, cameras front, left and wrist at L4, half in plain and half in random appearance, boxes, a panel with a handle, a button, \
a peg and a disc as clutter |
| pictures seen | {seen:,} ({epochs:.1f} times each), shifted sideways by up to 4 pixels |
| objective | MAE: 75 % of 36 patches hidden, per-patch normalised pixels, decoder of width 96 and depth 2 |
| optimiser | AdamW, betas 0.9 and 0.95, decay 0.05, batch 128, rate 1.5e-3 after 200 steps of warm-up, cosine to 0 at the end |
| stopped by | {reason} |
| seed | {seed} |
| time | {minutes:.0f} minutes of one core (other work ran beside it) |
| versions | {versions} |
| file | fp16 safetensors (position table float32), SHA-256 `{sha}` |
| licence | MIT, like the code |

## Loss and validation probe

The probe column is the mean validation error in cm over views, appearances and both targets; when it stalls,
the learning rate begins to fall, unless a limit comes first (see "stopped by").

| step | pictures seen | loss | probe |
|---|---|---|---|
{curve}

## What the features know

Mean distance in cm between true and predicted position, 95 % bootstrap interval over {test} held-out episodes of {frames} frames. Ridge
regression on {train} episodes with cameras at L1, penalty chosen on {validation} others; test episodes have their own cameras, at L1 and at
L3 (wider than anything the regression was fitted on). The arm's poses have nothing to do with the ball, so the arm does not give it away.
Features are the grid4 read-out (pixels: 12 x 12), calibrated on the training pictures. Ball: with proprioception beside. Gripper:
pictures alone.
"No picture" is proprioception alone for the ball, and the mean position for the gripper.

{table}
"""


def main(arguments: list[str]) -> None:
    settings = {"encoder": "mvp", "steps": 6000, "pictures": 80000, "minutes": 60.0, "seed": 0, "out": str(ROOT / "robo_repr" / "weights")}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in settings:
            raise unknown("setting", key, settings)
        try:
            settings[key] = type(settings[key])(value)
        except ValueError:
            raise UserError(f"{argument} is not a number. Write for example {key}={settings[key]}.") from None
    if settings["encoder"] != "mvp":
        raise unknown("encoder", settings["encoder"], ["mvp"])
    if settings["pictures"] < BATCH or settings["steps"] < 1:
        raise UserError(f"pictures={settings['pictures']} steps={settings['steps']} is too little; one batch has {BATCH} pictures.")
    torch.set_num_threads(1)
    seed, out = settings["seed"], Path(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / bundled_file("mvp", "tiny").name

    began = time.perf_counter()
    encoder = MVP("tiny", "random", seed).train()
    studio = Studio()
    images = studio.training_pictures(seed, settings["pictures"])
    sheet = ROOT / "build" / "mvp_tiny_pictures.png"
    contact_sheet(images, sheet)
    print(f"{len(images)} pictures in {time.perf_counter() - began:.0f} s; some of them: {sheet}", flush=True)
    probe = Probe(studio, seed)
    controls = {"no picture": None, "pixels": Pixels(), "random": Random(seed=seed)}
    results = {name: probe.errors(control, ("test", "test L3")) for name, control in controls.items()}
    print(f"validation probe: pixels {probe.score(Pixels()):.3f} cm, random {probe.score(Random(seed=seed)):.3f} cm", flush=True)

    trained_by = (
        f"scripts/train_bundled_weights.py encoder=mvp seed={seed}: MAE on pictures of the suite's own scenes; not the paper's weights"
    )
    rows, reason = train(
        encoder,
        images,
        probe,
        settings["steps"],
        settings["minutes"],
        seed,
        lambda: save_weights(encoder, path, {"trained_by": trained_by}),
    )
    save_weights(encoder, path, {"trained_by": trained_by})
    results["mvp/tiny"] = probe.errors(MVP("tiny", str(path)), ("test", "test L3"))
    packages = [f"{name} {version(name)}" for name in ("torch", "timm", "mujoco", "numpy")]
    card = CARD.format(
        file=path.name,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        command=" ".join(["python scripts/train_bundled_weights.py", *arguments]),
        pictures=len(images),
        seen=rows[-1]["pictures"] if rows else 0,
        epochs=rows[-1]["pictures"] / len(images) if rows else 0,
        reason=reason,
        seed=seed,
        minutes=(time.perf_counter() - began) / 60,
        versions=", ".join([f"Python {platform.python_version()}", *packages]),
        sha=digest_of(path),
        curve="\n".join(f"| {row['step']} | {row['pictures']:,} | {row['loss']:.4f} | {row['probe']:.2f} |" for row in rows),
        test=EPISODES["test"],
        frames=FRAMES,
        train=EPISODES["train"],
        validation=EPISODES["validation"],
        table=table(results, seed),
    )
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    print(f"wrote {path} and {path.with_suffix('.md').name}\n\n{card}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
