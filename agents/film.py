"""Films of a policy: all views side by side, with what happens written above them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agents.base import Policy
from agents.evaluate import Interrupted
from envs import BatchEnv
from robo_repr.core.film import write_film

SIZE = 256  # pixels per view
BANNER = 64  # pixels above the views
PAUSE = 10  # frames that an episode's last picture stays
COLOURS = {"running": (210, 210, 210), "success": (96, 220, 120), "failure": (240, 110, 100)}


def record_film(
    path: Path, env: BatchEnv, policy: Policy, title: str, views: list[str], stop: Callable[[], object] = lambda: False
) -> list[bool]:
    """Films one episode of each world of `env`, one after the other, as H.264 in an mp4 file.

    Args:
        env: an `evaluation_env` of a few episodes; its own views are what the policy sees.
        title: who acts, such as ``"untrained"``.
        views: cameras to film, also ones that the policy does not see.
        stop: asked before every step.

    Returns:
        Whether each episode succeeded.

    Raises:
        UserError: nothing can be drawn here.
        Interrupted: `stop` said so; no file is left.
    """
    frames: list[list[np.ndarray]] = [[] for _ in range(env.num_envs)]
    obs, _ = env.reset(seed=env.seed)
    policy.reset(np.ones(env.num_envs, dtype=bool))
    pictures = env.render_at(SIZE, views=views)
    running, succeeded = np.ones(env.num_envs, dtype=bool), [False] * env.num_envs
    while running.any():
        if stop():
            raise Interrupted
        obs, _, terminated, truncated, info = env.step(policy.act(obs))
        done = (terminated | truncated).cpu().numpy()
        policy.reset(done)
        # A world that ended shows the next episode already, so its last picture is the one before.
        drawn = env.render_at(SIZE, views=views)
        pictures = np.where(done[:, None, None, None, None], pictures, drawn)
        for world in np.flatnonzero(running):
            step = int(info["episode_length"][world])
            holds, success = bool(info["success_end"][world]), bool(info["success"][world])
            succeeded[world] = success
            outcome = ("success" if success else "failure") if done[world] else ("success" if holds else "running")
            last = "success" if success else "failed: not held long enough" if holds else "failed"
            text = last if done[world] else "condition met" if holds else ""
            names = [view if view in env.views else f"{view} (not seen by the policy)" for view in views]
            lines = [f"{title}, episode {world + 1} of {env.num_envs}", f"step {step} of {env.horizon}  {text}"]
            frames[world] += [_frame(pictures[world], lines, names, COLOURS[outcome])] * (PAUSE if done[world] else 1)
        running &= ~done
    write_film(path, (frame for episode in frames for frame in episode), env.metadata["render_fps"])
    return succeeded


def _frame(pictures: np.ndarray, lines: list[str], names: list[str], colour: tuple[int, int, int]) -> np.ndarray:
    """One frame (BANNER + SIZE, V * SIZE, 3) from pictures (V, SIZE, SIZE, 3)."""
    image = Image.new("RGB", (SIZE * len(pictures), SIZE + BANNER), (24, 24, 28))
    for column, picture in enumerate(pictures):
        image.paste(Image.fromarray(picture), (column * SIZE, BANNER))
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((8, 4 + 18 * row), line, fill=colour, font=ImageFont.load_default(13))
    for column, name in enumerate(names):
        draw.text((column * SIZE + 8, BANNER - 20), name, fill=COLOURS["running"], font=ImageFont.load_default(12))
    return np.asarray(image)
