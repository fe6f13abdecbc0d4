"""What clips look like: a contact sheet and a film, with recorded ground truth beside the pictures."""

import colorsys
import math
import textwrap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robo_repr.core.film import write_film
from robo_repr.data.base import BrokenEpisode, Clips

COLUMNS = 8  # pictures of an episode on the sheet
CELL = (176, 176)  # room (height, width) of a picture on the sheet, in pixels
SCREEN = (720, 1280)  # room of all pictures of a film's frame
NARROWEST = 520  # width of a film that still holds its captions
GAP, MARGIN, LINE = 4, 8, 20
LANGUAGE_LINES = 2
PIECE = 2**26  # bytes of pictures that are read at once
BACKGROUND, TEXT, FAINT = (24, 24, 28), (225, 225, 225), (150, 150, 150)
OUTCOMES = {True: ("success", (96, 220, 120)), False: ("failed", (240, 110, 100))}
NOTHING = (48, 48, 54)  # colour of what is no segment


@dataclass(frozen=True)
class Panel:
    """A picture (H, W, 3) with its name, and points (P, 2) in it as column and row."""

    name: str
    picture: np.ndarray
    points: np.ndarray | None = None


class Pictures:
    """Frames of some episodes, drawn alike in sheet and film.

    Args:
        episodes: which ones; those that turn out damaged are left out.

    Attributes:
        broken: episode -> why it is left out.
    """

    def __init__(self, clips: Clips, episodes: Sequence[int]):
        self._clips = clips
        self._keys = [key for key in ("images", "reward", "depth", "segmentation", "keypoints") if key in clips.fields]
        self.broken: dict[int, str] = {}
        self._shown: dict[int, list[tuple[int, dict[str, Any]]]] = {}  # episode -> steps and frames on the sheet
        for episode in episodes:
            steps = np.unique(np.linspace(0, clips.lengths[episode] - 1, COLUMNS).round().astype(int)).tolist()
            try:
                self._shown[episode] = [(step, clips.read(episode, step, step + 1, self._keys)) for step in steps]
            except BrokenEpisode as error:
                self.broken[episode] = str(error)
        self._ranges = [self._depth_range(view) for view in range(len(clips.views))]
        texts = [_wrapped(self._text(episode), self._page()[0] - 2 * MARGIN, LANGUAGE_LINES) for episode in self._shown]
        self._language_lines = max(map(len, texts), default=0)

    def __len__(self) -> int:
        return len(self._shown)

    def draw_sheet(self, path: Path, title: str) -> None:
        """Writes a PNG: a row for each view, and for each kind of ground truth, of each episode; frames spread over it as columns.

        Raises:
            OSError: it cannot be written.
        """
        height, width = panel_size(self._clips.size, CELL)
        grids = {episode: [self._rows(frame) for _, frame in frames] for episode, frames in self._shown.items()}
        names = [panel.name for grid in grids.values() for row in grid[0] for panel in row]
        left = min(180, 2 * MARGIN + max(_length(name) for name in names))
        page = left + COLUMNS * (width + GAP) + MARGIN
        strips = [_text_strip(page, [(title, TEXT)], large=True)]
        for episode, grid in grids.items():
            strips.append(_text_strip(page, self._heading(episode)))
            header = _Canvas(page, LINE)
            for column, (step, _) in enumerate(self._shown[episode]):
                header.text(left + column * (width + GAP), 2, f"step {step}", width, FAINT)
            strips.append(header.image)
            # From frames of rows of panels to rows of panels, a row for each view and kind.
            for row in zip(*([panel for row in frame for panel in row] for frame in grid), strict=True):
                strip = _Canvas(page, height + GAP)
                strip.text(MARGIN, height // 2 - 8, row[0].name, left - 2 * MARGIN)
                for column, panel in enumerate(row):
                    strip.panel(left + column * (width + GAP), 0, panel, (height, width))
                strips.append(strip.image)
            strips.append(Image.new("RGB", (page, LINE // 2), BACKGROUND))
        strips += self._legend(page)
        sheet = Image.new("RGB", (page, sum(strip.height for strip in strips)), BACKGROUND)
        y = 0
        for strip in strips:
            sheet.paste(strip, (0, y))
            y += strip.height
        sheet.save(path)

    def write_film(self, path: Path, progress: Callable[[int], None]) -> None:
        """Writes an mp4 of all frames of the episodes, with a pause at each one's end.

        Args:
            progress: gets the number of frames that are done; what it raises ends the film.

        Raises:
            OSError: it cannot be written.
        """
        write_film(path, self._film(progress), self._clips.fps)

    def frames(self) -> int:
        """Frames of all episodes together."""
        return int(sum(self._clips.lengths[episode] for episode in self._shown))

    def _film(self, progress: Callable[[int], None]) -> Iterator[np.ndarray]:
        done = 0
        for episode in self._shown:
            picture = None
            try:
                for start, frames in pieces(self._clips, episode, self._keys):
                    for offset in range(len(frames["images"])):
                        picture = self._film_frame(episode, start + offset, {key: frames[key][offset : offset + 1] for key in self._keys})
                        yield picture
                        done += 1
                        progress(done)
            except BrokenEpisode as error:
                self.broken[episode] = str(error)
            if picture is not None:
                for _ in range(max(1, round(0.6 * self._clips.fps))):
                    yield picture

    def _film_frame(self, episode: int, step: int, frame: dict[str, Any]) -> np.ndarray:
        rows = self._rows(frame)
        page, across, (height, width) = self._page()
        banner = (1 + self._language_lines) * LINE + MARGIN
        canvas = _Canvas(page, banner + len(rows) * (LINE + height))
        length = int(self._clips.lengths[episode])
        known = self._clips.episodes[episode]
        last = step == length - 1
        words, colour = _outcome(known) if last else ("", TEXT)
        rate = float(known.get("fps") or self._clips.fps)  # each video has its own
        facts = [f"episode {episode}", f"step {step} of {length - 1}", f"{step / rate:.1f} s"]
        if "reward" in frame and not last:  # of the last frame it says nothing
            facts.append(f"reward {float(frame['reward'][0]):.2f}")
        canvas.text(MARGIN, 4, "   ".join([*facts, words]).rstrip(), page - 2 * MARGIN, colour)
        for line, text in enumerate(_wrapped(self._text(episode), page - 2 * MARGIN, self._language_lines)):
            canvas.text(MARGIN, 4 + (1 + line) * LINE, text, page - 2 * MARGIN, colour)
        for row, panels in enumerate(rows):
            for column, panel in enumerate(panels):
                x, y = (page - across) // 2 + column * (width + GAP), banner + row * (LINE + height)
                canvas.text(x + 2, y, panel.name, width - 4, FAINT)
                canvas.panel(x, y + LINE, panel, (height, width))
        return np.asarray(canvas.image)

    def _page(self) -> tuple[int, int, tuple[int, int]]:
        """A film's width, that of its pictures together, and the size of each."""
        views, kinds = len(self._clips.views), 1 + ("depth" in self._keys) + ("segmentation" in self._keys)
        height, width = panel_size(self._clips.size, (SCREEN[0] // kinds, SCREEN[1] // views))
        across = views * (width + GAP) - GAP
        return max(NARROWEST, across), across, (height, width)

    def _text(self, episode: int) -> str:
        """What the episode is about: its language, or else the file that it comes from."""
        return self._clips.language(episode) or str(self._clips.episodes[episode].get("source", ""))

    def _heading(self, episode: int) -> list[tuple[str, tuple[int, int, int]]]:
        known = self._clips.episodes[episode]
        words, colour = _outcome(known)
        task = known.get("task") or self._clips.meta.get("task") or ""
        language = self._clips.language(episode)
        parts = [
            f"episode {episode}",
            task if isinstance(task, str) else "",
            f'"{language}"' if language else str(known.get("source", "")),
            f"{self._clips.lengths[episode]} frames",
        ]
        return [(",  ".join(part for part in parts if part), TEXT), (words, colour)]

    def _rows(self, frame: dict[str, Any]) -> list[list[Panel]]:
        """Panels of a frame (1, V, ...): a row of all views in colours, and one for each kind of ground truth."""
        views = self._clips.views
        points = frame["keypoints"][0, :, :, :2] if "keypoints" in frame else [None] * len(views)
        rows = [[Panel(view, frame["images"][0, v].transpose(1, 2, 0), points[v]) for v, view in enumerate(views)]]
        if "depth" in frame:
            rows.append([Panel(f"{view} depth", self._grey(frame["depth"][0, v], v)) for v, view in enumerate(views)])
        if "segmentation" in frame:
            rows.append([Panel(f"{view} segments", _coloured(frame["segmentation"][0, v])) for v, view in enumerate(views)])
        return rows

    def _depth_range(self, view: int) -> tuple[float, float]:
        """Nearest and farthest depth of a view on the sheet, without stray pixels."""
        if "depth" not in self._keys:
            return 0.0, 1.0
        depth = np.concatenate([frame["depth"][0, view].ravel() for frames in self._shown.values() for _, frame in frames] or [np.zeros(0)])
        depth = depth[np.isfinite(depth)].astype(np.float64)
        if not len(depth):
            return 0.0, 1.0
        near, far = np.percentile(depth, [1, 99])
        return float(near), float(max(far, near + 1e-6))

    def _grey(self, depth: np.ndarray, view: int) -> np.ndarray:
        """(H, W, 3), the near bright, what is infinitely far black."""
        near, far = self._ranges[view]
        share = np.clip((np.nan_to_num(depth.astype(np.float64), nan=far, posinf=far) - near) / (far - near), 0, 1)
        grey = np.where(np.isfinite(depth), 255 - 215 * share, 0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)

    def _legend(self, page: int) -> list[Image.Image]:
        """What the greys and colours of ground truth stand for."""
        lines = []
        if "depth" in self._keys:
            spans = [f"{view} {near:.2f} to {far:.2f} m" for view, (near, far) in zip(self._clips.views, self._ranges, strict=True)]
            lines.append(_text_strip(page, [(f"depth from white to grey: {', '.join(spans)}; black: nothing there", FAINT)]))
        if names := self._clips.meta.get("keypoint_names") if "keypoints" in self._keys else None:
            lines += _key(page, "keypoints:", [(_cross_colour(i), str(name)) for i, name in enumerate(names)])
        if names := self._clips.meta.get("segment_names") if "segmentation" in self._keys else None:
            seen = np.unique(np.concatenate([np.unique(frame["segmentation"]) for frames in self._shown.values() for _, frame in frames]))
            lines += _key(page, "segments:", [(_segment_colour(i), str(names[i])) for i in seen.tolist() if 0 <= i < len(names)])
        return lines


def pieces(clips: Clips, episode: int, keys: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """An episode's frames in parts that fit into memory, however long it is: the first frame's step, and the frames.

    Raises:
        BrokenEpisode: it cannot be read.
    """
    length, frame = int(clips.lengths[episode]), clips.fields["images"]
    piece = max(1, PIECE // max(1, math.prod(frame.shape)))
    for start in range(0, length, piece):
        yield start, clips.read(episode, start, min(start + piece, length), keys)


def panel_size(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which pictures of `size` are drawn: a whole multiple that fits into the room, or shrunk where none does."""
    factor = min(room[0] / size[0], room[1] / size[1])
    factor = int(factor) if factor >= 1 else factor
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class _Canvas:
    """A dark rectangle to put text and pictures on."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, text: str, room: int, colour: tuple[int, int, int] = TEXT, large: bool = False) -> None:
        """Writes as much as the room is wide."""
        self._draw.text((x, y), _shortened(text, room, large), fill=colour, font=_font(large))

    def square(self, x: int, y: int, colour: tuple[int, int, int]) -> None:
        self._draw.rectangle((x, y, x + 11, y + 11), fill=colour)

    def panel(self, x: int, y: int, panel: Panel, size: tuple[int, int]) -> None:
        height, width = size
        picture = Image.fromarray(np.ascontiguousarray(panel.picture))
        scale = height / picture.height, width / picture.width
        # Enlarged pixels stay squares; what is shrunk is averaged.
        how = Image.Resampling.NEAREST if scale[0] >= 1 else Image.Resampling.BOX
        self.image.paste(picture.resize((width, height), how), (x, y))
        for i, (column, row) in enumerate([] if panel.points is None else panel.points.tolist()):
            across, down = (column + 0.5) * scale[1], (row + 0.5) * scale[0]  # whole numbers are the pixels' centres
            if 0 <= across < width and 0 <= down < height:
                self._cross(x + across, y + down, _cross_colour(i), (x, y, x + width - 1, y + height - 1))

    def _cross(self, x: float, y: float, colour: tuple[int, int, int], within: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = within
        for thick, fill in ((3, (0, 0, 0)), (1, colour)):  # a dark rim, so that it shows on every ground
            self._draw.line((max(left, x - 5), y, min(right, x + 5), y), fill=fill, width=thick)
            self._draw.line((x, max(top, y - 5), x, min(bottom, y + 5)), fill=fill, width=thick)


def _outcome(episode: dict[str, Any]) -> tuple[str, tuple[int, int, int]]:
    """How an episode ended, and the colour of that."""
    success = episode.get("success")
    return OUTCOMES[success] if isinstance(success, bool) else ("", TEXT)


def _text_strip(page: int, parts: list[tuple[str, tuple[int, int, int]]], large: bool = False) -> Image.Image:
    """A line of differently coloured parts; the first ones give way to the last one."""
    canvas = _Canvas(page, LINE + (8 if large else 4))
    x, room = MARGIN, page - 2 * MARGIN - sum(_length(text, large) + 2 * MARGIN for text, _ in parts[1:])
    for text, colour in parts:
        canvas.text(x, 4, text, room, colour, large)
        x += _length(_shortened(text, room, large), large) + 2 * MARGIN
        room = page - MARGIN - x
    return canvas.image


def _key(page: int, title: str, entries: list[tuple[tuple[int, int, int], str]]) -> list[Image.Image]:
    """Coloured squares with their names, in as many lines as they need."""
    canvas = _Canvas(page, LINE)
    lines, x = [canvas], MARGIN + 90
    canvas.text(MARGIN, 2, title, 86, FAINT)
    for colour, name in entries:
        room = min(200, page - 2 * MARGIN - 110)
        width = 18 + _length(_shortened(name, room)) + 2 * MARGIN
        if x + width > page and x > MARGIN + 90:
            canvas = _Canvas(page, LINE)
            lines.append(canvas)
            x = MARGIN + 90
        canvas.square(x, 4, colour)
        canvas.text(x + 18, 2, name, room, FAINT)
        x += width
    return [line.image for line in lines]


def _coloured(segments: np.ndarray) -> np.ndarray:
    ids, where = np.unique(segments, return_inverse=True)
    return np.array([_segment_colour(i) for i in ids.tolist()], dtype=np.uint8)[where.reshape(segments.shape)]


@lru_cache(maxsize=4096)
def _segment_colour(i: int) -> tuple[int, int, int]:
    # Steps of the golden angle: neighbours in number differ much in colour.
    return NOTHING if i < 0 else _rgb(i * 0.618034 % 1, 0.45 + 0.4 * (i % 2), 0.95 - 0.3 * (i % 3) / 2)


def _cross_colour(i: int) -> tuple[int, int, int]:
    return _rgb((0.15 + i * 0.618034) % 1, 0.9, 1.0)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache
def _font(large: bool) -> Any:
    return ImageFont.load_default(15 if large else 13)


def _length(text: str, large: bool = False) -> int:
    return int(np.ceil(_font(large).getlength(_clean(text))))


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


@lru_cache(maxsize=4096)
def _shortened(text: str, room: int, large: bool = False) -> str:
    text = _clean(text)
    if _length(text, large) <= room:
        return text
    kept = bisect_right(range(len(text)), room, key=lambda letters: _length(f"{text[:letters]}...", large)) - 1
    return f"{text[:kept]}..." if kept > 0 else ""


@lru_cache(maxsize=4096)
def _wrapped(text: str, room: int, lines: int) -> list[str]:
    """The text in lines that fit, the last one cut where there is more."""
    text = " ".join(_clean(text).split())
    if not text:
        return []
    letters = max(8, int(len(text) * room / max(1, _length(text)) * 0.92))  # letters differ in width
    found = textwrap.wrap(text, letters)
    return found if len(found) <= lines else [*found[: lines - 1], " ".join(found[lines - 1 :])]
