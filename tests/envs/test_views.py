"""Five cameras that see what each task is about, and pictures that tell which geom is where."""

import sys
from pathlib import Path

import numpy as np
import pytest

from envs import list_tasks
from envs.appearance import CLUTTER

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from sheets import seen  # noqa: E402

OUTSIDE = ["front", "left", "right", "top"]
EPISODES = list(range(20))


@pytest.mark.parametrize("task", list_tasks())
def test_every_camera_sees_what_matters(build, task):
    """The hand's own camera may miss something in a start in ten, and the top camera what the hand hides from it."""
    env = build(task, num_envs=len(EPISODES), views=[*OUTSIDE, "wrist"], camera="L0", image_size=8, episode_ids=EPISODES)
    env.reset()
    assert seen(env)[:, :3].all()
    assert (seen(env)[:, 3:].all(axis=2).mean(axis=0) >= 0.9).all()


def test_the_control_for_what_is_seen(build):
    env = build("reach", num_envs=2, views=OUTSIDE, camera="L0", image_size=8)
    env.reset()
    env.sim._batch.bind("mocap_pos")[1, 0, 2] = -5
    assert seen(env)[0].all() and not seen(env)[1].any()


@pytest.mark.parametrize("quality", ["fast", "full"])
def test_ids_and_colours_are_of_the_same_picture(build, quality):
    env = build("reach", num_envs=2, views=["front", "wrist"], camera="L3", quality=quality, appearance="random", image_size=8)
    env.reset()
    balls = env.segment_at(168) == env.task.arm.model.geom("ball").id
    r, g, b = np.moveaxis(env.render_at(168).astype(int), -1, 0)
    red = (r > 2 * g) & (r > 2 * b)  # antialiasing mixes colours at the ball's edge
    for ball, found in zip(balls.reshape(4, -1), red.reshape(4, -1), strict=True):
        assert ball.sum() > 50 and found[ball].mean() > 0.95 and found[~ball].sum() < 0.1 * ball.sum()


def test_ids_are_not_mixed_at_edges_by_antialiasing(build):
    """Between geoms 3 and 9 there is no geom 6."""
    found = []
    for quality in ("fast", "full"):
        env = build("reach", num_envs=1, views=["front"], camera="L0", quality=quality, image_size=8)
        env.reset()
        found.append(env.segment_at(256)[0, 0])
    # Round geoms have more facets in full quality, so edges differ by a pixel.
    around = np.stack([np.roll(found[0], (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    assert (found[1] == around).any(axis=0).mean() > 0.999 and len(np.unique(found[0])) > 8


def test_the_middle_of_the_picture_is_what_the_camera_looks_at(build):
    env = build("reach", num_envs=1, views=[], camera="L0", image_size=8)
    env.reset()
    model = env.task.arm.model
    assert not (env.segment_at(33, views=OUTSIDE) == model.geom("ball").id)[..., 16, 16].any()
    env.sim._batch.bind("mocap_pos")[0, 0] = model.site("look_at").pos
    assert (env.segment_at(33, views=OUTSIDE) == model.geom("ball").id)[..., 16, 16].all()


def test_clutter_is_in_the_picture_with_random_appearance_alone(build):
    found = {}
    for appearance in ("plain", "random"):
        env = build("push", num_envs=4, views=[], appearance=appearance)
        env.reset()
        ids = [env.task.arm.model.geom(name).id for name in CLUTTER]
        found[appearance] = np.isin(env.segment_at(84, views=["front", "top"]), ids).any(axis=(1, 2, 3))
        assert np.array_equal(env.segment_at(84, worlds=[2], views=["top"])[0, 0], env.segment_at(84, views=["front", "top"])[2, 1])
    assert not found["plain"].any() and found["random"].all()
