"""Images per second of our rendering against what people use today; prints ratios measured in one run.

    python scripts/bench_env.py [--pairs 7] [--json FILE] [--pictures FOLDER]

dm_control_reacher_images: dm_control's reacher at 84x84 on one core: our renderer against ``physics.render`` with its defaults.
async_vector_images: our reach, 16 worlds x 2 views at 84x84 on all cores, physics included: one BatchEnv against gymnasium's
AsyncVectorEnv with one mujoco.Renderer per world and MuJoCo's default visual settings, on the same model.

Each side runs in a process of its own, since two renderers must not share a thread's OpenGL context, and the two alternate. The drawing
quality differs (ours: no shadows, reflections and antialiasing): the pictures saved beside each other show how much. Both sides draw with
LP_NUM_THREADS=0, which is the faster setting for both.
"""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

from robo_repr.core import bench

SIZE = 84
WORLDS = 16
VIEWS = ("front", "wrist")


def ours_reacher():
    """Frames of dm_control's reacher, drawn by our renderer."""
    from envs.render import Look, Renderer, Shot  # first: it chooses the OpenGL backend

    import mujoco  # isort: skip
    import torch._dynamo  # noqa: F401  isort: skip  before dm_control's context, see envs.render
    from dm_control import suite  # isort: skip

    env = suite.load("reacher", "easy", task_kwargs={"random": 0})
    env.reset()
    model, data = env.physics.model.ptr, env.physics.data.ptr
    renderer = Renderer(model, "fast", threads=1)
    camera = model.camera(0)
    pose = np.concatenate([data.cam_xpos[0], np.empty(4), camera.fovy])
    mujoco.mju_mat2Quat(pose[3:7], data.cam_xmat[0])
    out = np.empty((1, 1, SIZE, SIZE, 3), dtype=np.uint8)
    action = np.array([0.5, -0.5])
    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))

    def frame():
        env.step(action)
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        renderer.draw([Shot(state, pose[None], Look())], out)
        return out[0, 0]

    return frame, 1, renderer.close


def peer_reacher():
    """Frames of dm_control's reacher, drawn as its users draw it."""
    from dm_control import suite  # isort: skip

    env = suite.load("reacher", "easy", task_kwargs={"random": 0})
    env.reset()
    action = np.array([0.5, -0.5])

    def frame():
        env.step(action)
        return env.physics.render(SIZE, SIZE, camera_id=0)

    return frame, 1, env.physics.free


def ours_reach():
    """All pictures of one step of 16 worlds of our reach."""
    from envs import make_env

    env = make_env("reach", num_envs=WORLDS, views=list(VIEWS), camera="L1", image_size=SIZE)
    env.reset(seed=0)
    action = np.zeros((WORLDS, 3))

    def frame():
        return env.step(action)[0]["images"][0, 0].permute(1, 2, 0).numpy()

    return frame, WORLDS * len(VIEWS), env.close


def peer_reach():
    """All pictures of one step of 16 worlds in AsyncVectorEnv, one process and one mujoco.Renderer each."""
    import gymnasium

    vector = gymnasium.vector.AsyncVectorEnv([_peer_env] * WORLDS, context="spawn")
    vector.reset(seed=0)
    actions = np.zeros((WORLDS, 8), dtype=np.float32)

    def frame():
        return vector.step(actions)[0][VIEWS[0]][0]

    return frame, WORLDS * len(VIEWS), vector.close


def _peer_env():
    """One world of our model as a plain gymnasium environment, drawn by mujoco.Renderer."""
    import gymnasium
    import mujoco

    class World(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({v: gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8) for v in VIEWS})
        action_space = gymnasium.spaces.Box(-1, 1, (8,), np.float32)

        def __init__(self):
            self.model = mujoco.MjModel.from_xml_path(str(Path(__file__).parents[1] / "envs" / "tasks" / "reach.xml"))
            self.data = mujoco.MjData(self.model)
            self.renderer = mujoco.Renderer(self.model, SIZE, SIZE)

        def observe(self):
            pictures = {}
            for view in VIEWS:
                self.renderer.update_scene(self.data, view)
                pictures[view] = self.renderer.render()
            return pictures

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            mujoco.mj_resetData(self.model, self.data)
            self.data.qpos[:7] = self.data.ctrl[:7] = [0, 0, 0, -np.pi / 2, 0, np.pi / 2, np.pi / 4]
            mujoco.mj_forward(self.model, self.data)
            return self.observe(), {}

        def step(self, action):
            mujoco.mj_step(self.model, self.data, 10)
            return self.observe(), 0.0, False, False, {}

        def close(self):
            self.renderer.close()

    return World()


def serve(side, pipe, core, seconds):
    """A process that measures when told to and answers with images per second; the last answer is a picture."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    frame, images, close = side()
    picture = np.array(frame())  # the first one: both sides show the same moment of the reacher
    while pipe.recv() == "measure":
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            frame()
            count += images
        pipe.send(count / (time.perf_counter() - began))
    pipe.send(picture)
    close()
    os._exit(0)  # past EGL's exit handlers, which fail noisily after dm_control's


def compare(ours, peer, pairs, core, seconds):
    """Images per second of both sides, alternating, after one measurement each as warm-up; and one picture each."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for side in (ours, peer):
        mine, theirs = context.Pipe()
        process = context.Process(target=serve, args=(side, theirs, core, seconds))
        process.start()
        pipes.append(mine)
        processes.append(process)
    rates, pictures = [], []
    try:
        for pair in range(pairs + 1):
            row = [0.0, 0.0]
            for side in (0, 1) if pair % 2 else (1, 0):
                pipes[side].send("measure")
                row[side] = pipes[side].recv()
            rates.append(row)
        for pipe in pipes:
            pipe.send("stop")
            pictures.append(pipe.recv())
    finally:
        for process in processes:
            process.join(timeout=20)
            process.kill()
    return np.array(rates[1:]), pictures


def main():
    arguments = bench.parser(__doc__, pairs=7)
    arguments.add_argument("--pictures", type=Path, default=Path("runs/bench_env"), help="folder for the pictures, ours left of the peer's")
    args = bench.parse(arguments)

    from PIL import Image

    from envs import render  # noqa: F401  chooses the OpenGL backend, and one drawing thread, for the processes of both sides

    core = min(os.sched_getaffinity(0))
    cases = {
        "dm_control_reacher_images": (ours_reacher, peer_reacher, core, 2.0),
        "async_vector_images": (ours_reach, peer_reach, None, 4.0),
    }
    figures = bench.Bench(args.pairs)
    args.pictures.mkdir(parents=True, exist_ok=True)
    for name, (ours, peer, core, seconds) in cases.items():
        rates, pictures = compare(ours, peer, args.pairs, core, seconds)
        figures.add(name, "images/s", [tuple(pair) for pair in rates.tolist()])
        beside = np.concatenate(pictures, axis=1).repeat(3, axis=0).repeat(3, axis=1)
        Image.fromarray(beside).save(args.pictures / f"{name}.png")
    print(f"pictures in {args.pictures}")
    figures.finish(args.json)


if __name__ == "__main__":
    main()
