"""One cell of R3M's protocol: ours against the same cell run as the official code runs it. Takes about ten minutes.

    python scripts/bench_imitation.py [--pairs 5] [--encoder r3m --variant resnet18] [--json FILE]

official_r3m_cell: seconds of the whole cell: 25 demonstrations of reach, 20,000 updates of batch 32, 20 evaluations of 50 rollouts, frozen
encoder. The peer does what facebookresearch/r3m does (branch eval): every minibatch's pictures go through PIL, resize, crop, normalisation
and the encoder again; rollouts step one world in plain MuJoCo, draw it with mujoco.Renderer and encode one picture at a time.
Every picture of the rollouts is drawn twice there, once to be encoded and once for the films.
official_r3m_cell_drawn_once: the same without the second drawing, which the results do not need.
official_r3m_update, official_r3m_rollout_step: what the cell consists of, without what ours encodes once before the first update.

A whole cell takes the peer hours, so a measurement does some of each side's work and multiplies it up, part by part, by how often the cell
does it. Ours: all demonstrations encoded (done once, so never shortened), a twentieth of the updates, half the steps of one evaluation. The
peer: a thousandth of the updates, and one of the 1,000 rollouts. A cell that is shortened as a whole would say less: it encodes all
demonstrations for a handful of updates, and steps a handful of worlds where a cell steps 50. That our episodes are cut counts their
beginnings twice, which is against us by about one in a hundred.

Equal: demonstrations, encoder (untrained weights; speed does not depend on them), policy and its start, optimiser, batch, start states,
physics, camera (front, not moved), pictures of 256 x 256 of which the encoder sees 224 x 224, float32, cores. Not equal: MuJoCo's default
quality has shadows, reflections and antialiasing, ours (quality=fast) has not; the peer's torch uses all cores in every call, as it does by
default, ours gives each core pictures of its own; our features are standardised and kept as float16. Left out on both sides: recording the
demonstrations, films, checkpoints, logs.

Each side runs in a process of its own, and the two alternate after a warm-up.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robo_repr.core import bench
from robo_repr.core.config import ImitationConfig, build, config_names, load_part

PARTS = ("train: encode", "train: update", "rollouts: encode", "rollouts: render", "rollouts: physics", "rollouts: rest")


@dataclass(frozen=True)
class Cell:
    """A cell of the protocol, and how much of it one measurement does."""

    encoder: str = "r3m"
    variant: str | None = "resnet18"
    task: str = "reach"
    view: str = "front"
    size: int = 256  # pixels
    horizon: int = 50
    demos: int = 25
    updates: int = 20_000
    evaluations: int = 20
    rollouts: int = 50
    our_updates: int = 1_000
    our_horizon: int = 25
    peer_updates: int = 20
    peer_rollouts: int = 1

    def config(self):
        """The settings of this cell as a run of run_imitation.py."""
        from robo_repr.core.cli import compose

        settings = {"encoder": self.encoder, "variant": self.variant or "null", "weights": "random", "readout": "pooled"}
        settings |= {"policy": "bc_r3m", "task": self.task, "views": f"[{self.view}]", "camera": "L0", "eval_camera": "L0"}
        settings |= {"image_size": self.size, "horizon": self.horizon, "demos": self.demos, "steps": self.updates}
        return compose(ImitationConfig, [f"{key}={value}" for key, value in settings.items()])[0]

    def steps(self) -> int:
        """Environment steps of all its rollouts."""
        return self.evaluations * self.rollouts * self.horizon


class Ours:
    """The suite's own parts, as a run of run_imitation.py puts them together."""

    def __init__(self, cell: Cell):
        import torch

        from agents.imitation.demos import Worlds, find_demos
        from agents.imitation.train import build_parts

        torch.set_num_threads(1)  # as in every run
        self.cell, self.cfg = cell, cell.config()
        self.parts = build_parts(self.cfg, "cpu")
        self.agent = self.parts.agent
        with closing(self.parts.env):
            self.demos = find_demos(self.cfg, cell.task, Worlds.of(self.parts.worlds))

    def encode_demos(self) -> None:
        """What a run does once, before its first update."""
        from agents.imitation.features import calibrate, demo_features
        from agents.imitation.samples import Samples

        agent, demos, net = self.agent, self.demos, self.agent.policy_net
        calibrate(agent.eyes, [demos], cache=False)
        features = demo_features(agent.eyes, [demos], cache=False)
        shared = (net.batch_size, net.sampling, self.cfg.seed, agent.device)
        agent.samples = Samples(net.observed, net.predicted, demos.state, demos.actions, features, None, *shared)

    def update(self, count: int) -> None:
        self.agent.learn(self.agent.updates + count, lambda: True)

    def evaluate(self, horizon: int):
        """One evaluation, of episodes so long."""
        from agents.evaluate import evaluate_agent

        return evaluate_agent(replace(self.cfg, horizon=horizon), self.parts, self.cfg.eval_camera, self.cell.rollouts)

    def measure(self) -> dict[str, float]:
        """Seconds of the whole cell by `PARTS`."""
        cell = self.cell
        encoding, _ = timed(self.encode_demos)
        updating, _ = timed(lambda: self.update(cell.our_updates))
        encoded = self.agent.seconds["encode"]
        evaluating, result = timed(lambda: self.evaluate(cell.our_horizon))
        encoded = self.agent.seconds["encode"] - encoded
        render, physics = result.seconds["render"], result.seconds["physics"] + result.seconds["reset"]
        rest = evaluating - encoded - render - physics
        times = cell.evaluations * cell.horizon / cell.our_horizon
        rollouts = [seconds * times for seconds in (encoded, render, physics, rest)]
        return dict(zip(PARTS, [encoding, updating * cell.updates / cell.our_updates, *rollouts], strict=True))


class Peer:
    """The loops of R3M's evaluation code."""

    def __init__(self, cell: Cell):
        import torch
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode

        from agents.imitation.demos import Worlds, find_demos
        from agents.imitation.train import build_parts

        self.cell, cfg = cell, cell.config()
        parts = build_parts(cfg, "cpu")
        with closing(parts.env):
            demos = find_demos(cfg, cell.task, Worlds.of(parts.worlds))
        # One after the other as the official paths hold them; no action follows an episode's last picture.
        shown = [demos.images(number)[:-1, 0].permute(0, 2, 3, 1).numpy() for number in range(len(demos.episodes))]
        self.pictures = np.concatenate(shown)
        self.state, self.actions = torch.cat([state[:-1] for state in demos.state]), torch.cat(demos.actions)
        self.net = parts.agent.policy_net
        # The network as it comes: what `freeze` does beyond stopping gradients is ours.
        variant = {} if cfg.variant is None else {"variant": cfg.variant}
        self.encoder = build({**cfg.encoder, **variant, "weights": "random"}).eval()
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=self.net.learning_rate)
        spec = self.encoder.spec
        self.transform: Any = transforms.Compose(
            [
                transforms.Resize(spec.resize or spec.size, InterpolationMode(spec.interpolation)),
                transforms.CenterCrop(spec.size),
                transforms.ToTensor(),
                transforms.Normalize(spec.mean, spec.std),
            ]
        )
        self.generator, self.updates, self.episode = np.random.default_rng(0), 0, 0
        self.world = World(cfg, cell.view, cell.size)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def encode(self, pictures: Sequence[np.ndarray] | np.ndarray):
        """Features (B, D) of pictures (H, W, 3) uint8."""
        import torch
        from PIL import Image

        with torch.no_grad():
            return self.encoder.encode(torch.stack([self.transform(Image.fromarray(picture)) for picture in pictures])).pooled

    def update(self, count: int) -> None:
        for _ in range(count):
            rows = self.generator.integers(len(self.actions), size=self.net.batch_size)
            with self.clock("train: encode"):
                features = self.encode(self.pictures[rows])
            with self.clock("train: update"):
                self.net.train()
                batch = {"features": features[:, None], "state": self.state[rows, None], "actions": self.actions[rows, None]}
                self.optimiser.zero_grad()
                self.net.loss(batch)["loss"].backward()
                self.optimiser.step()
                self.updates += 1

    def rollout(self, episode: int) -> bool:
        """One episode of the evaluation; whether it ended well."""
        import torch

        self.net.eval()
        with self.clock("rollouts: physics"):
            self.world.reset(episode)
        memory, seen = None, self._observe()
        for step in range(self.cell.horizon):
            actions, memory = self.net.act(seen, memory, torch.tensor([step == 0]))
            with self.clock("rollouts: physics"):
                self.world.step(actions.numpy())
            seen = self._observe()  # also after the last step, as the official wrappers do
        return self.world.succeeded()

    def _observe(self):
        with self.clock("rollouts: render"):
            picture = self.world.picture()
        with self.clock("rollouts: encode"):
            features = self.encode([picture])
        return {"features": features, "state": self.world.state()}

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began

    def measure(self) -> dict[str, float]:
        """Seconds of the whole cell by `PARTS`."""
        cell = self.cell
        self.seconds.clear()
        self.update(cell.peer_updates)
        rolling = 0.0
        for _ in range(cell.peer_rollouts):
            seconds, _ = timed(lambda: self.rollout(self.episode % cell.rollouts))
            rolling += seconds
            self.episode += 1
        self.seconds["rollouts: rest"] = rolling - sum(self.seconds[part] for part in PARTS[2:5])
        times = {"train": cell.updates / cell.peer_updates, "rollouts": cell.evaluations * cell.rollouts / cell.peer_rollouts}
        return {part: self.seconds[part] * times[part.split(":")[0]] for part in PARTS}


class World:
    """One world of a task, stepped by plain MuJoCo and drawn by mujoco.Renderer as it comes."""

    def __init__(self, cfg: Any, view: str, size: int):
        from envs.checks import compile_task
        from envs.registry import task_class
        from envs.render import mujoco

        import torch._dynamo  # noqa: F401  isort: skip  before OpenGL's context, see envs.render

        cls = task_class(cfg.task)
        self.model = compile_task(cls)
        self.data = mujoco.MjData(self.model)
        self.task: Any = cls(self.model, 1)
        self.renderer = mujoco.Renderer(self.model, size, size)
        self._mujoco, self._view, self._seed = mujoco, view, cfg.seed
        self._held = 0

    def reset(self, episode: int) -> None:
        """Begins the evaluation episode of that number."""
        from robo_repr.core.seeding import rng

        self._mujoco.mj_resetData(self.model, self.data)
        for name, value in self.task.reset([rng(self._seed, "start", "evaluation", episode)]).items():
            getattr(self.data, name)[:] = value[0]
        self._mujoco.mj_forward(self.model, self.data)
        self.task.begin(np.array([0]), self.readings())
        self._held = 0

    def step(self, action: np.ndarray) -> None:
        """A control step of an action (1, A)."""
        self.data.ctrl[:] = self.task.control(self, self.readings(), action.astype(np.float64))[0]
        self._mujoco.mj_step(self.model, self.data, self.task.substeps)
        self._mujoco.mj_step1(self.model, self.data)  # the sensors are of the state before the last substep
        self._held = self._held + 1 if bool(self.task.success(self.readings())) else 0

    def succeeded(self) -> bool:
        from envs.batch_env import HOLD

        return self._held >= HOLD

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        self.renderer.update_scene(self.data, self._view)
        return self.renderer.render()

    def state(self):
        """(1, S) as the policy gets it."""
        return self.task.observe(self.readings(), False)

    def readings(self) -> dict:
        import torch

        sensors = torch.from_numpy(self.data.sensordata.copy())[None]
        model = self.model
        parts = {s.name: slice(s.adr[0], s.adr[0] + s.dim[0]) for s in map(model.sensor, range(model.nsensor))}
        return {name: sensors[:, part] for name, part in parts.items()}

    # What the arm's controller asks a simulator for.

    def jacobian(self, body: int, points: np.ndarray) -> np.ndarray:
        jacobian = np.empty((6, self.model.nv))
        self._mujoco.mj_jac(self.model, self.data, jacobian[:3], jacobian[3:], points[0], body)
        return jacobian[None]

    def qpos(self) -> np.ndarray:
        return self.data.qpos[None]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def serve(side: type, pipe, cell: Cell) -> None:
    """A process that says when it is ready and then measures as often as it is asked to."""
    made = side(cell)
    pipe.send("ready")
    while pipe.recv() == "measure":
        pipe.send(made.measure())
    os._exit(0)  # past EGL's exit handlers, which may fail noisily


def compare(cell: Cell, pairs: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of the whole cell by `PARTS`, ours and the peer's, alternating, after one measurement each as warm-up."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, found = [], [], []
    try:
        for side in (Ours, Peer):  # ours records the demonstrations, the peer finds them there
            mine, theirs = context.Pipe()
            processes.append(context.Process(target=serve, args=(side, theirs, cell)))
            processes[-1].start()
            theirs.close()  # so that a process that dies is noticed
            pipes.append(mine)
            mine.recv()
        for pair in range(pairs + 1):
            row: list[dict[str, float]] = [{}, {}]
            for side in (0, 1) if pair % 2 else (1, 0):
                pipes[side].send("measure")
                row[side] = pipes[side].recv()
            found.append((row[0], row[1]))
        for pipe in pipes:
            pipe.send("stop")
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
    return found[1:]


def total(parts: dict[str, float], stage: str) -> float:
    """Seconds of ``train`` or ``rollouts``."""
    return sum(seconds for part, seconds in parts.items() if part.startswith(f"{stage}:"))


def show_parts(found: list[tuple[dict[str, float], dict[str, float]]], cell: Cell) -> dict[str, list[float]]:
    """Prints where the time of the whole cell goes; returns part -> medians (ours, peer's)."""
    medians = {part: [statistics.median(row[side][part] for row in found) for side in (0, 1)] for part in PARTS}
    totals = [sum(values[side] for values in medians.values()) for side in (0, 1)]
    print(f"{'where the time of the whole cell goes (s)':50} {'ours':>16} {'peer':>16}")
    for part, values in medians.items():
        print(f"{part:50} " + " ".join(f"{value:10.4g} {value / total:4.0%} " for value, total in zip(values, totals, strict=True)))
    print(
        f"multiplied up from: ours, all {cell.demos} demonstrations, {cell.our_updates} of {cell.updates} updates, {cell.our_horizon} of "
        f"{cell.horizon} steps of 1 of {cell.evaluations} evaluations; the peer, {cell.peer_updates} updates, {cell.peer_rollouts} of "
        f"{cell.evaluations * cell.rollouts} rollouts"
    )
    return medians


def main() -> None:
    made = bench.parser(__doc__, pairs=5)
    parts = {name: load_part("encoder", name) for name in config_names("encoder")}
    encoders = [name for name, part in parts.items() if "weights" in part and "frames" not in part]
    made.add_argument("--encoder", default=Cell.encoder, choices=encoders, help="default r3m")
    made.add_argument("--variant", help="its size (default: resnet18 of r3m, else the encoder's own)")
    args = bench.parse(made)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in every run; read when torch is imported
    cell = Cell(args.encoder, args.variant or (Cell.variant if args.encoder == Cell.encoder else None))
    json_file = args.json and args.json.resolve()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        found = compare(cell, args.pairs)
    figures = bench.Bench(args.pairs, encoder=args.encoder, variant=cell.variant, seconds_by_part=show_parts(found, cell))
    filmed = [(ours, {**peer, "films": peer["rollouts: render"]}) for ours, peer in found]
    for name, rows in (("official_r3m_cell", filmed), ("official_r3m_cell_drawn_once", found)):
        figures.add(name, "s", [(sum(ours.values()), sum(peer.values())) for ours, peer in rows], less_is_better=True)
    updates = [(ours["train: update"], peer["train: encode"] + peer["train: update"]) for ours, peer in found]
    rollouts = [(total(ours, "rollouts"), total(peer, "rollouts")) for ours, peer in found]
    for name, count, pairs in (("official_r3m_update", cell.updates, updates), ("official_r3m_rollout_step", cell.steps(), rollouts)):
        figures.add(name, "ms", [(1e3 * ours / count, 1e3 * peer / count) for ours, peer in pairs], less_is_better=True)
    figures.finish(json_file)


if __name__ == "__main__":
    main()
