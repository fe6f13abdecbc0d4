"""What a task's cameras see at every level: pictures side by side, and how often everything that matters is in sight."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs import BatchEnv, make_env
from envs.cameras import LEVELS

EPISODES = 100
MIN_PIXELS = 8  # of a picture of SIZE x SIZE that a geom has to cover to count as seen
SIZE = 84
CELL, GAP, NAMES, TITLE, HEADER = 138, 4, 56, 30, 26  # pixels of the sheet
BACKGROUND, TEXT, UNSEEN = (24, 24, 28), (225, 225, 225), (240, 110, 100)


def seen(env: BatchEnv) -> np.ndarray:
    """Whether each geom of the task's `shown` covers MIN_PIXELS of a picture now: (N, V, geoms) bool."""
    picture = env.segment_at(SIZE)
    ids = [env.task.arm.model.geom(name).id for name in env.task.shown]
    return np.stack([(picture == i).sum(axis=(2, 3)) >= MIN_PIXELS for i in ids], axis=-1)


def draw_sheet(path: Path, task: str, views: list[str], appearance: str) -> dict[str, np.ndarray]:
    """Writes a PNG of starts of evaluation episodes: a row per camera, a column per level, each column another episode.

    Returns:
        For each level (V,) the share of EPISODES evaluation episodes at whose start the camera sees all that the task shows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    step, large, small = CELL + GAP, ImageFont.load_default(14), ImageFont.load_default(13)
    image = Image.new("RGB", (NAMES + step * len(LEVELS), TITLE + HEADER + step * len(views)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    title = f"{task}, appearance {appearance}: each column another episode; red frame: not everything that matters is in sight"
    draw.text((GAP + 4, 7), title, fill=TEXT, font=large)
    shares = {}
    for column, level in enumerate(LEVELS):
        left = NAMES + step * column
        draw.text((left + CELL // 2 - 8, TITLE + 2), level, fill=TEXT, font=small)
        # What these worlds observe is not looked at, so it is small.
        settings = {"views": views, "camera": level, "appearance": appearance, "image_size": 8}
        env = make_env(task, num_envs=EPISODES, episode_ids=list(range(EPISODES)), **settings)
        try:
            env.reset()
            complete = np.all(seen(env), axis=2)
            pictures = env.render_at(2 * CELL, worlds=[column])[0]
        finally:
            env.close()
        shares[level] = complete.mean(axis=0)
        for row, view in enumerate(views):
            top = TITLE + HEADER + step * row
            draw.text((GAP + 4, top + CELL // 2 - 8), view, fill=TEXT, font=small)
            # Drawn twice as large and averaged, against jagged edges.
            image.paste(Image.fromarray(pictures[row]).reduce(2), (left, top))
            if not complete[column, row]:
                draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=UNSEEN, width=2)
    # A palette makes a third of the file. This one keeps rare colours too, such as the object's.
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    return shares
