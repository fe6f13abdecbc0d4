"""Pictures side by side: what a task's cameras see at every level, and how the experts do each task."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs import BatchEnv, make_env
from envs.cameras import LEVELS

EPISODES = 100
MIN_PIXELS = 8  # of a picture of SIZE x SIZE that a geom has to cover to count as seen
SIZE = 84
CELL, GAP, NAMES, TITLE, HEADER = 138, 4, 56, 30, 26  # pixels of a sheet
STEPS = (0, 6, 12, 18, 36)  # of the expert's episode
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
    image, draw = _sheet(
        f"{task}, appearance {appearance}: each column another episode; red frame: not everything that matters is in sight",
        views,
        list(LEVELS),
    )
    shares = {}
    for column, level in enumerate(LEVELS):
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
        for row, picture in enumerate(pictures):
            corner = _paste(image, picture, row, column)
            if not complete[column, row]:
                draw.rectangle((*corner, corner[0] + CELL - 1, corner[1] + CELL - 1), outline=UNSEEN, width=2)
    _save(image, path)
    return shares


def draw_tasks(path: Path, tasks: list[str]) -> None:
    """Writes a PNG of each task's expert at work as the front camera sees it; a task without one shows its start."""
    image, _ = _sheet("the experts at work, seen from the front", tasks, [f"step {step}" for step in STEPS])
    for row, task in enumerate(tasks):
        env = make_env(task, views=["front"], camera="L0", image_size=8, episode_ids=[0])
        try:
            env.reset()
            for step in range(STEPS[-1] + 1):
                if step in STEPS:
                    _paste(image, env.render_at(2 * CELL)[0, 0], row, STEPS.index(step))
                if not hasattr(env.task, "expert"):
                    break
                env.step(env.expert_actions())
        finally:
            env.close()
    _save(image, path)


def _sheet(title: str, rows: list[str], columns: list[str]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet with its words."""
    step, large, small = CELL + GAP, ImageFont.load_default(14), ImageFont.load_default(13)
    image = Image.new("RGB", (NAMES + step * len(columns), TITLE + HEADER + step * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((GAP + 4, 7), title, fill=TEXT, font=large)
    for column, name in enumerate(columns):
        draw.text((NAMES + step * column + CELL // 2, TITLE + 2), name, fill=TEXT, font=small, anchor="ma")
    for row, name in enumerate(rows):
        draw.text((GAP + 4, TITLE + HEADER + step * row + CELL // 2), name, fill=TEXT, font=small, anchor="lm")
    return image, draw


def _paste(image: Image.Image, picture: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """Puts a picture (2 CELL, 2 CELL, 3) into a cell, averaged against jagged edges; returns the cell's upper left corner."""
    corner = NAMES + (CELL + GAP) * column, TITLE + HEADER + (CELL + GAP) * row
    image.paste(Image.fromarray(picture).reduce(2), corner)
    return corner


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette makes a third of the file. This one keeps rare colours too, such as the object's.
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
