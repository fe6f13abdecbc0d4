"""Pictures side by side: what a task's cameras see at every level and in other settings, and how the experts do each task."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs import BatchEnv, make_env
from envs.appearance import sample_look
from envs.cameras import LEVELS, CameraSetting, Occasion, nominal_cameras, to_world
from envs.checks import has_expert
from envs.validity import SIZE, Fault, ViewFilter, covers
from robo_repr.core.seeding import rng

EPISODES = 100
CELL, GAP, MARGIN, TITLE, HEADER = 138, 4, 8, 30, 26  # pixels of a sheet
SMALL, LINE = 100, 18  # of a cell where there are many, and of a title's further lines
DRAWS, ROWS = 4, 8  # columns of a sheet of settings; rows of one, more stand in two blocks side by side
HORIZON = 100  # of the episodes of cameras that move: those of MoVie's sweep
STEPS = (0, 6, 12, 18, 36)  # of the expert's episode
BACKGROUND, TEXT, UNSEEN = (24, 24, 28), (225, 225, 225), (240, 110, 100)


def seen(env: BatchEnv) -> np.ndarray:
    """Whether each geom of the task's `shown` is seen now, as `covers` has it: (N, V, geoms) bool."""
    return covers(env.segment_at(SIZE), [[env.task.arm.model.geom(name).id] for name in env.task.shown])


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


def draw_settings(path: Path, task: str, settings: list[CameraSetting], views: list[str], appearance: str) -> dict[tuple, np.ndarray]:
    """Writes a PNG of what settings do to starts of evaluation episodes: a row per setting and camera, without cameras that a setting
    leaves alone (unless it moves none).

    A camera that moves is taken at a frame of HORIZON that grows with the episode, and a schedule at such a part of the training.

    Returns:
        For each (setting, camera) a `Fault` for each of EPISODES evaluation episodes.

    Raises:
        UserError: a setting does not go with the task or its views.
    """
    found, pictures = {}, {}
    env = make_env(task, num_envs=EPISODES, episode_ids=range(EPISODES), views=views, camera="L0", appearance=appearance, image_size=8)
    try:
        env.reset()
        model, ids = env.task.arm.model, np.arange(EPISODES)
        cameras = nominal_cameras(model, views)
        for setting in settings:
            setting.bind(model, task, views)
        looks = [sample_look(appearance, rng(0, "appearance", "evaluation", i), env.task.keep_clear) for i in range(EPISODES)]
        judge, bodies = ViewFilter(model, env.task), env.sim.body_pose([camera.body for camera in cameras])
        still = np.tile([camera.pose for camera in cameras], (EPISODES, 1, 1))
        drawn = np.linspace(0, EPISODES - 1, DRAWS).astype(int)
        for setting in settings:
            poses = np.array([_poses(setting, cameras, i) for i in range(EPISODES)])
            faults = judge.find_faults(env.sim, to_world(poses, *bodies), to_world(still, *bodies), ids, looks)
            moved = np.flatnonzero((poses != still).any(axis=(0, 2)))
            shown = env.sim.render(to_world(poses, *bodies)[drawn], drawn, [looks[i] for i in drawn], 2 * SMALL)
            for view in moved if len(moved) else range(len(views)):
                row = setting.text, views[view]
                found[row], pictures[row] = faults[:, view], shown[:, view]
    finally:
        env.close()
    title = f"{task}, appearance {appearance}: each column another episode\nred frame: the view does not count"
    if moving := {setting.text for setting in settings if setting.moves}:
        title += f"\nmoving cameras: from frame 0 on the left to frame {HORIZON} on the right"
    names = [f"{setting}\n{view}{', moving' if setting in moving else ''}" for setting, view in found]
    sheet = Sheet(title, names, [f"episode {i}" for i in drawn], SMALL, 1 if len(found) <= ROWS else 2)
    for number, row in enumerate(found):
        for column, (episode, picture) in enumerate(zip(drawn, pictures[row], strict=True)):
            sheet.paste(picture, number, column, framed=found[row][episode] != Fault.NONE)
    sheet.save(path)
    return found


def _poses(setting: CameraSetting, cameras: list, episode: int) -> np.ndarray:
    """The cameras' poses (V, 8) in the frames of their parent bodies, see `draw_settings`."""
    share = episode / max(1, EPISODES - 1)
    views = setting.draw(cameras, 0, Occasion(("evaluation", episode), HORIZON, share))
    return np.array([view.poses[min(round(share * HORIZON), len(view.poses) - 1)] for view in views])


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
    """Rows and columns of pictures with their names; at first the names alone.

    Args:
        title: may have several lines, as a row's name may.
        cell: width and height of a picture.
        blocks: into how many the rows are split, side by side.
    """

    def __init__(self, title: str, rows: list[str], columns: list[str], cell: int = CELL, blocks: int = 1):
        large, small = ImageFont.load_default(14), ImageFont.load_default(13)
        self._cell, self._step, self._rows = cell, cell + GAP, -(-len(rows) // blocks)
        self._left = 2 * MARGIN + int(max((small.getlength(line) for name in rows for line in name.splitlines()), default=0))
        self._top = TITLE + LINE * title.count("\n") + HEADER
        self._block = self._left + self._step * len(columns)
        width = max(blocks * self._block, 2 * MARGIN + int(max(large.getlength(line) for line in title.split("\n"))))
        self._image = Image.new("RGB", (width, self._top + self._step * self._rows), BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)
        self._draw.text((MARGIN, 7), title, fill=TEXT, font=large)
        for block in range(blocks):
            for column, name in enumerate(columns):
                x, y = self._place(block * self._rows, column)
                self._draw.text((x + cell // 2, y - HEADER + 2), name, fill=TEXT, font=small, anchor="ma")
        for row, name in enumerate(rows):
            x, y = self._place(row, 0)
            self._draw.text((x - self._left + MARGIN, y + cell // 2), name, fill=TEXT, font=small, anchor="lm")

    def paste(self, picture: np.ndarray, row: int, column: int, framed: bool = False) -> None:
        """Puts a picture (2 cells, 2 cells, 3) into a cell, averaged against jagged edges."""
        x, y = self._place(row, column)
        self._image.paste(Image.fromarray(picture).reduce(2), (x, y))
        if framed:
            self._draw.rectangle((x, y, x + self._cell - 1, y + self._cell - 1), outline=UNSEEN, width=2)

    def save(self, path: Path) -> None:
        # A palette makes a third of the file. This one keeps rare colours too, such as the object's.
        self._image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)

    def _place(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of a cell."""
        block, line = divmod(row, self._rows)
        return block * self._block + self._left + self._step * column, self._top + self._step * line
