"""Pictures side by side: what a task's cameras see at every level, and how the experts do each task."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs import BatchEnv, make_env
from envs.cameras import LEVELS
from envs.checks import has_expert

EPISODES = 100
MIN_PIXELS = 8  # of a picture of SIZE x SIZE that a geom has to cover to count as seen
SIZE = 84
CELL, GAP, MARGIN, TITLE, HEADER = 138, 4, 8, 30, 26  # pixels of a sheet
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
    sheet = Sheet(
        f"{task}, appearance {appearance}: each column another episode; red frame: not everything that matters is in sight",
        views,
        list(LEVELS),
    )
    shares = {}
    for column, level in enumerate(LEVELS):
        # What these worlds observe is not looked at, so it is small.
        settings = {"views": views, "camera": level, "appearance": appearance, "image_size": 8}
        env = make_env(task, num_envs=EPISODES, episode_ids=range(EPISODES), **settings)
        try:
            env.reset()
            complete = np.all(seen(env), axis=2)
            pictures = env.render_at(2 * CELL, worlds=[column])[0]
        finally:
            env.close()
        shares[level] = complete.mean(axis=0)
        for row, picture in enumerate(pictures):
            sheet.paste(picture, row, column, framed=not complete[column, row])
    sheet.save(path)
    return shares


def expert_at_work(task: str) -> list[np.ndarray]:
    """What the front camera sees at STEPS of an episode of the task's expert, (2 CELL, 2 CELL, 3) each; without one, of its start alone."""
    pictures = []
    env = make_env(task, views=["front"], camera="L0", image_size=8, episode_ids=[0])
    try:
        env.reset()
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                pictures.append(env.render_at(2 * CELL)[0, 0])
            if not has_expert(env.task):
                break
            env.step(env.expert_actions())
    finally:
        env.close()
    return pictures


def draw_tasks(path: Path, pictures: dict[str, list[np.ndarray]]) -> None:
    """Writes a PNG of what `expert_at_work` gives for each task: a row per task."""
    sheet = Sheet("the experts at work, seen from the front", list(pictures), [f"step {step}" for step in STEPS])
    for row, of_task in enumerate(pictures.values()):
        for column, picture in enumerate(of_task):
            sheet.paste(picture, row, column)
    sheet.save(path)


class Sheet:
    """Rows and columns of pictures with their names; at first the names alone."""

    def __init__(self, title: str, rows: list[str], columns: list[str]):
        step, large, small = CELL + GAP, ImageFont.load_default(14), ImageFont.load_default(13)
        self._left = 2 * MARGIN + int(max((small.getlength(name) for name in rows), default=0))
        self._image = Image.new("RGB", (self._left + step * len(columns), TITLE + HEADER + step * len(rows)), BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)
        self._draw.text((MARGIN, 7), title, fill=TEXT, font=large)
        for column, name in enumerate(columns):
            self._draw.text((self._left + step * column + CELL // 2, TITLE + 2), name, fill=TEXT, font=small, anchor="ma")
        for row, name in enumerate(rows):
            self._draw.text((MARGIN, TITLE + HEADER + step * row + CELL // 2), name, fill=TEXT, font=small, anchor="lm")

    def paste(self, picture: np.ndarray, row: int, column: int, framed: bool = False) -> None:
        """Puts a picture (2 CELL, 2 CELL, 3) into a cell, averaged against jagged edges."""
        x, y = self._left + (CELL + GAP) * column, TITLE + HEADER + (CELL + GAP) * row
        self._image.paste(Image.fromarray(picture).reduce(2), (x, y))
        if framed:
            self._draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=UNSEEN, width=2)

    def save(self, path: Path) -> None:
        # A palette makes a third of the file. This one keeps rare colours too, such as the object's.
        self._image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
