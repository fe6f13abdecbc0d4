"""A picture of what cameras saw at the start of some episodes, level by level."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robo_repr.core.files import write_whole

CELL = 128  # pixels of a picture's edge
GAP, APART, MARGIN, HEADER = 3, 10, 10, 26  # between pictures, between cameras, around all, of the names of columns
BACKGROUND, TEXT = (24, 24, 28), (225, 225, 225)


def draw_strip(path: Path, columns: Mapping[str, np.ndarray], views: Sequence[str]) -> None:
    """Writes a PNG: a column for each setting of the cameras, a block of rows for each camera, and in it a row for each episode.

    Args:
        columns: name -> pictures (E, V, 2 CELL, 2 CELL, 3) uint8 of the same E episodes everywhere.
        views: names of the V cameras.
    """
    episodes = len(next(iter(columns.values())))
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left = 2 * MARGIN + int(max(font.getlength(view) for view in views))
    block = episodes * (CELL + GAP) - GAP + APART
    size = (left + len(columns) * (CELL + GAP) - GAP + MARGIN, HEADER + len(views) * block - APART + MARGIN)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for row, view in enumerate(views):
        top = HEADER + row * block
        draw.text((MARGIN, top + (block - APART) // 2), view, fill=TEXT, font=font, anchor="lm")
        for column, pictures in enumerate(columns.values()):
            for episode in range(episodes):
                picture = Image.fromarray(pictures[episode, row]).reduce(2)  # averaged against jagged edges
                image.paste(picture, (left + column * (CELL + GAP), top + episode * (CELL + GAP)))
    for column, name in enumerate(columns):
        draw.text((left + column * (CELL + GAP) + CELL // 2, 6), name, fill=TEXT, font=small if len(name) > 14 else font, anchor="ma")
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    write_whole(path, file.getvalue())
