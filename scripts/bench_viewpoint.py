"""What moving cameras cost: images per second of our moving cameras against fixed ones, and against a model that is rebuilt for each view.

    python scripts/bench_viewpoint.py [--pairs 15] [--json FILE]

moving_camera_images: our reach, 16 worlds x 2 views at 84x84 on all cores, physics included, with cameras that move at every step
(L3:jitter); the peer is the same with cameras that stand still (L0). 1 means that moving them costs nothing.
rebuild_model_images: pictures each of a view of its own, as when views are collected or cameras move at every step. The peer changes the
cameras in the model's specification, compiles it and opens a renderer on it, for each pair of views (front and wrist) anew.
rebuild_model_episode_images: the same where views last for an episode (L3:shell), so that the peer rebuilds once in 50 steps. Rollouts of
others are of this kind.

The peer does what suites on robosuite do for a new view: VISTA's CameraMover edits the XML and reloads the environment from it at every
episode, and robosuite opens a rendering context for every simulation that it loads. It is spared what they do beyond that: XML is neither
written nor parsed, no environment is set up, both cameras change at once.

Equal in the two last: one core, the worlds' states, the views, the pictures to the last bit (quality=fast). Not equal: ours steps the
physics, the peer is given the states. Each side runs in a process of its own, and the two alternate after a warm-up.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from bench_env import SIZE, VIEWS, WORLDS, compare

from robo_repr.core import bench

HORIZON = 50


def ours(camera):
    """All pictures of one step of 16 worlds whose cameras are set so."""
    from envs import make_env

    env = make_env("reach", num_envs=WORLDS, views=list(VIEWS), camera=camera, image_size=SIZE, horizon=HORIZON)
    env.reset(seed=0)
    actions = np.zeros((WORLDS, 3))

    def frame():
        return env.step(actions)[0]["images"]

    return frame, WORLDS * len(VIEWS), env.close


class Rebuilt:
    """One world after the other from a model that is built anew for each view."""

    def __init__(self, camera):
        from envs.render import mujoco  # it chooses the OpenGL backend

        self.mujoco, self.steps, self.poses = mujoco, record(camera), None
        self.spec = mujoco.MjSpec.from_file(str(Path(__file__).parents[1] / "envs" / "tasks" / "reach.xml"))
        quality = self.spec.visual.quality
        quality.shadowsize = quality.offsamples = 0
        quality.numslices, quality.numstacks = 12, 8

    def frame(self):
        """The pictures of the next step."""
        state, poses = next(self.steps)
        if self.poses is None or (poses != self.poses).any():
            self.close()
            self.build(poses)
        self.mujoco.mj_setState(self.model, self.data, state, self.mujoco.mjtState.mjSTATE_INTEGRATION)
        self.mujoco.mj_forward(self.model, self.data)
        pictures = []
        for name in VIEWS:
            self.renderer.update_scene(self.data, name)
            pictures.append(self.renderer.render())
        return pictures

    def build(self, poses):
        """Model, data and renderer with cameras at these poses (V, 8)."""
        for name, pose in zip(VIEWS, poses, strict=True):
            camera = self.spec.camera(name)
            camera.alt.type = self.mujoco.mjtOrientation.mjORIENTATION_QUAT  # the model's axes would go before
            camera.pos, camera.quat, camera.fovy = pose[:3], pose[3:7], pose[7]
        self.model = self.spec.compile()
        self.data = self.mujoco.MjData(self.model)
        self.renderer = self.mujoco.Renderer(self.model, SIZE, SIZE)
        flags, kinds = self.renderer.scene.flags, self.mujoco.mjtRndFlag
        flags[kinds.mjRND_SHADOW] = flags[kinds.mjRND_REFLECTION] = 0
        self.poses = poses

    def close(self):
        if self.poses is not None:
            self.renderer.close()


def rebuilt(camera):
    """All pictures of one step of one world."""
    worlds = Rebuilt(camera)
    return worlds.frame, len(VIEWS), worlds.close


def record(camera):
    """The state and the views' poses (V, 8), as the model has them, of each step of each world of `ours`, without end."""
    from envs import make_env

    env = make_env("reach", num_envs=WORLDS, views=list(VIEWS), camera=camera, image_size=8, horizon=HORIZON)
    env.reset(seed=0)
    poses = [np.stack([view[name] for name in VIEWS], axis=1) for view in env.view_poses()]
    states = []
    for _ in range(HORIZON - 1):  # the last one is followed by a reset at once
        env.step(np.zeros((WORLDS, 3)))
        states.append(env.sim.get_state())
    env.close()
    while True:
        for world in range(WORLDS):
            for step, state in enumerate(states, start=1):
                yield state[world], poses[world][min(step, len(poses[world]) - 1)]


def main():
    args = bench.parse(bench.parser(__doc__, pairs=15))

    from envs import render  # noqa: F401  chooses the OpenGL backend for the processes of both sides

    core = min(os.sched_getaffinity(0))
    cases = {
        "moving_camera_images": (partial(ours, "L3:jitter"), partial(ours, "L0"), None),
        "rebuild_model_images": (partial(ours, "L3:jitter"), partial(rebuilt, "L3:jitter"), core),
        "rebuild_model_episode_images": (partial(ours, "L3:shell"), partial(rebuilt, "L3:shell"), core),
    }
    figures = bench.Bench(args.pairs)
    for name, (mine, theirs, core) in cases.items():
        rates, _ = compare(mine, theirs, args.pairs, core, seconds=2.0)
        figures.add(name, "images/s", [tuple(pair) for pair in rates.tolist()])
    figures.finish(args.json)


if __name__ == "__main__":
    main()
