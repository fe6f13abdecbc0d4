"""Folders of videos, and of folders of numbered pictures, as clips.

A frame is known by the time stamp that its packet carries, and its place by the order in which the decoder gives the frames, not by the
stamps' order: some files carry decoding times for presentation times. A window is decoded from the key frame before it. Whether the
container went there is seen from the packet that it gives first; where it did not, or a frame is missing, decoding starts at the beginning.
"""

import math
import os
import re
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from robo_repr.core.errors import UserError, check_range
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.images import ENDINGS as PICTURES
from robo_repr.data.images import check_picture, check_size, place, read_picture, scaled_size
from robo_repr.data.index import Unusable, find_files, listed, look_into, nothing_found, report_skipped

ENDINGS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")
SEQUENCE_FPS = 30.0  # of numbered pictures, which have no clock, when no rate is asked for
# Of these, each packet that is shown becomes exactly one frame, so their frames can be listed without decoding them.
ONE_PACKET_ONE_FRAME = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores"}
TRIED = 8  # frames decoded to see whether a file keeps to that
UNEVEN = 0.25  # of the time between frames: further off an even clock, the file's own times count
NEARLY = 1e-6  # of a frame
WORTH_SEEKING = 8  # frames to be passed over
OPEN_FILES = 4
# Bicubic as wide as downscaling asks for: among swscale's filters the nearest to Pillow's.
QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Videos(Clips):
    """A folder of videos and of folders of numbered pictures, such as 000001.jpg; each is an episode with one view.

    A clock of `fps` ticks picks the frames: at each tick the last one shown by then. Files are listed in an index, kept beside them or in
    the user's cache. Reading is thread-safe, and goes on in a forked process.

    Args:
        path: a folder, searched with the folders below it; or a single video.
        size: pixels; one number, or (H, W).
        fps: frames per second; null takes each file at its own mean rate, which gives each of its frames once when they are evenly spaced.
        fit: ``"crop"`` (the short side to size, then the middle), ``"squash"``, or ``"pad"`` with black.

    Attributes:
        fps: the rate asked for, else the median of the files' rates; each episode's own stands in `episodes` as "fps".
        skipped: files left out -> why; also printed. A video that was cut off counts as broken, also if its beginning could be decoded.

    Raises:
        UserError: there is no video that can be read, or a setting is not possible.
    """

    def __init__(self, path: str | Path, size: int | Sequence[int] = 224, fps: float | None = None, fit: str = "crop"):
        self.size, self.fit = check_size(size, fit), fit
        if fps is not None:
            check_range("fps", fps, 1e-3, 1e6, what="frames per second")
        self.name, path = str(path), Path(path).expanduser()
        root, files, self.skipped = find_files(path, "videos")
        videos = [file for file in files if file.suffix.lower() in ENDINGS]
        sequences = numbered_pictures(root, files)
        found = len(videos) + len(sequences)
        if not found:
            advice = "Folders of pictures with numbers in their names are taken too; for loose pictures use data=images."
            raise nothing_found(path, files, "videos", ENDINGS, advice)
        facts, unusable = look_into(root, videos, index_video)
        self.skipped |= unusable
        sources: dict[str, VideoFile | PictureSequence] = {}
        for file, fact in facts.items():
            sources[file.relative_to(root).as_posix()] = VideoFile(file, **fact)
        firsts = {pictures[0]: name for name, pictures in sequences.items()}
        sound, unusable = look_into(root, list(firsts), check_picture)
        self.skipped |= unusable
        for first in sound:
            pictures = sequences[firsts[first]]
            sources[firsts[first]] = PictureSequence(pictures[0].parent, [picture.name for picture in pictures], fps or SEQUENCE_FPS)
        if not sources:
            raise UserError(
                f"None of the {found} videos in {path} can be read: {listed(self.skipped)}. Give a folder that has some; "
                "a player such as ffplay tells whether a file is whole."
            )
        report_skipped(self.name, self.skipped, found)
        ordered = sorted(sources)
        self._sources = [sources[name] for name in ordered]
        rates = [float(fps or source.rate) for source in self._sources]
        self.views, self.fps, self.meta, self.broken = ["video"], float(fps or np.median(rates)), {}, {}
        self.fields = {"images": Field((1, 3, *self.size), np.dtype(np.uint8))}
        self.lengths = np.array([source.ticks(rate) for source, rate in zip(self._sources, rates, strict=True)], dtype=np.int64)
        self.episodes = [{"source": name, "language": "", "fps": rate} for name, rate in zip(ordered, rates, strict=True)]
        self._readers = Readers()

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if "images" not in keys:
            return {}
        source, rate = self._sources[episode], self.episodes[episode]["fps"]
        shown = source.shown(start, stop, rate)
        wanted, where = np.unique(shown, return_inverse=True)
        pictures = np.empty((len(wanted), 3, *self.size), dtype=np.uint8)
        if isinstance(source, PictureSequence):
            for row, number in enumerate(wanted):
                pictures[row] = read_picture(source.folder / source.names[number], self.size, self.fit)
        else:
            self._readers.read(source, wanted.tolist(), self.size, self.fit, pictures)
        return {"images": (pictures if len(wanted) == len(shown) else pictures[where])[:, None]}


class Source:
    """Frames and when each is shown.

    Attributes:
        frames: how many.
        rate: frames per second, in the mean.
        times: (frames,) seconds since the first; None where they are evenly spaced.
    """

    frames: int
    rate: float
    times: np.ndarray | None = None

    def ticks(self, fps: float) -> int:
        """How many ticks of a clock the frames last."""
        return max(1, math.ceil(self.frames * fps / self.rate - NEARLY))

    def shown(self, start: int, stop: int, fps: float) -> np.ndarray:
        """The numbers of the frames shown at ticks start .. stop - 1."""
        ticks = np.arange(start, stop)
        if self.times is None:
            numbers = np.floor(ticks * (self.rate / fps) + NEARLY).astype(np.int64)
        else:
            numbers = np.searchsorted(self.times, ticks / fps + NEARLY / self.rate, side="right") - 1
        return np.clip(numbers, 0, self.frames - 1)


class PictureSequence(Source):
    """Numbered pictures in a folder."""

    def __init__(self, folder: Path, names: list[str], rate: float):
        self.folder, self.names, self.frames, self.rate = folder, np.array(names), len(names), rate


class VideoFile(Source):
    """What is known of a video file; the arguments after the path are what `index_video` found.

    Attributes:
        keys: numbers of the frames at which decoding can start; none where it must start at the file's beginning and frames are counted.
    """

    def __init__(self, path: Path, unit: list[int], rate: float, frames: int, first: int, steps: list[int], keys: list[int]):
        self.path, self.rate, self.frames, self.keys = path, rate, frames, np.array(keys, dtype=np.int64)
        stamps = first + np.cumsum([0, *steps], dtype=np.int64)  # in the order in which the frames are shown
        order = np.argsort(stamps, kind="stable")
        self._stamps, self._sorted, self._order = stamps, stamps[order], order
        if len(stamps) == frames:
            times = (self._sorted - self._sorted[0]) * (unit[0] / unit[1])
            if np.abs(times * rate - np.arange(frames)).max() > UNEVEN:
                self.times = times

    def number(self, stamp: int | None) -> int:
        """Which frame has a time stamp; -1 if none has."""
        if stamp is None:
            return -1
        at = int(np.searchsorted(self._sorted, stamp))
        return int(self._order[at]) if at < self.frames and self._sorted[at] == stamp else -1

    def stamp(self, number: int) -> int:
        return int(self._stamps[number])

    def key_before(self, number: int) -> int:
        """The last of `keys` at or before a frame; -1 if none is."""
        at = int(np.searchsorted(self.keys, number, side="right"))
        return int(self.keys[at - 1]) if at else -1


def numbered_pictures(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Pictures that differ in a number alone, in its order, for each folder without videos: what to call them -> files."""
    files = list(files)
    beside = {file.parent for file in files if file.suffix.lower() in ENDINGS}  # thumbnails
    groups: dict[tuple[Path, str, str], list[tuple[int, Path]]] = {}
    for file in files:
        if file.suffix.lower() in PICTURES and file.parent not in beside and (parts := re.fullmatch(r"(.*?)(\d+)(\D*)", file.stem)):
            groups.setdefault((file.parent, parts[1], parts[3]), []).append((int(parts[2]), file))
    groups_in = Counter(folder for folder, _, _ in groups)
    named: dict[str, list[Path]] = {}
    for (folder, before, after), pictures in groups.items():
        name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        name = name if groups_in[folder] == 1 and name not in named else f"{name}/{before}*{after}"
        named[name] = [file for _, file in sorted(pictures)]
    return named


def holds_videos(path: Path) -> bool:
    """Whether there is a video, or a folder of evenly numbered pictures below; loose pictures may have numbers too."""
    root, files, _ = find_files(path, "videos")
    if any(file.suffix.lower() in ENDINGS for file in files):
        return True
    return any(pictures[0].parent != root and _evenly_numbered(pictures) for pictures in numbered_pictures(root, files).values())


def _evenly_numbered(pictures: list[Path]) -> bool:
    numbers = [int(re.findall(r"\d+", picture.stem)[-1]) for picture in pictures]
    return len(numbers) > 1 and len(set(np.diff(numbers).tolist())) == 1


def index_video(path: Path) -> dict[str, Any]:
    """The arguments of `VideoFile`.

    Raises:
        Unusable: there is no frame, or the file is damaged or cut off.
        OSError: it cannot be read.
    """
    try:
        with _open(path) as container:
            stream = _video(container)
            listed = _list_packets(path, container, stream)
            unit, rates = stream.time_base, (stream.base_rate, stream.average_rate, stream.guessed_rate)
        if not listed:
            with _open(path) as container:
                listed = _list_frames(path, container, _video(container))
    except OSError:
        raise
    except FFmpegError as error:
        raise Unusable(f"cannot be decoded: {error.strerror}") from error
    stamps, keys = listed
    frames = len(stamps)
    unit = unit or Fraction(1, 1000)
    known = [stamp for stamp in stamps if stamp is not None]
    span = (max(known) - min(known)) * unit if known else 0
    nominal = [rate for rate in rates if rate]
    if len(set(known)) < frames or not span:  # no times that could be trusted
        rate = nominal[0] if nominal else Fraction(int(SEQUENCE_FPS))
        stamps, keys = [], []
    else:
        # Times are rounded to the file's unit; where its nominal rate agrees with them, it is the rate before rounding.
        rate = next((rate for rate in nominal if abs((frames - 1) / rate - span) <= unit), (frames - 1) / Fraction(span))
    steps = np.diff(np.array(stamps, dtype=np.int64)).tolist()
    return {
        "unit": [unit.numerator, unit.denominator],
        "rate": float(rate),
        "frames": frames,
        "first": stamps[0] if stamps else 0,
        "steps": steps,
        "keys": keys,
    }


def _open(path: Path) -> av.container.InputContainer:
    # A text that names other files, such as a playlist, must not lead anywhere else.
    return av.open(os.path.abspath(path), options={"protocol_whitelist": "file"}, metadata_errors="ignore")


def _video(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise Unusable("no video stream")
    if stream.codec_context is None:
        raise Unusable("its codec is not known here")
    stream.thread_count = 1  # the loader reads several windows at once; within one, threads gained nothing
    return stream


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets with data in them, and in the end an empty one that makes the decoder give its last frames."""
    for packet in container.demux(stream):
        if packet.size or (packet.pts is None and packet.dts is None):
            yield packet


def _stamp(of: av.Packet | av.VideoFrame) -> int | None:
    return of.dts if of.pts is None else of.pts


def _list_packets(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[int], list[int]] | None:
    """Time stamps of all frames as they are shown, and which are keys; None where packets alone do not tell."""
    if stream.codec_context.name not in ONE_PACKET_ONE_FRAME:
        return None
    listed: list[tuple[int, bool]] = []
    tried: list[int | None] = []
    shifted = False
    for packet in _whole_packets(path, container, stream):
        if len(tried) < TRIED:
            tried += [frame.pts for frame in packet.decode()]
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None:
            return None
        shifted |= packet.pts != packet.dts
        listed.append((packet.pts, packet.is_keyframe))
    listed.sort()
    stamps = [stamp for stamp, _ in listed]
    unordered = stream.codec_context.has_b_frames and not shifted  # decoding times given for presentation times
    if unordered or tried[:TRIED] != stamps[:TRIED] or len(set(stamps)) < len(stamps):
        return None
    return stamps, [number for number, (_, key) in enumerate(listed) if key]


def _list_frames(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[int | None], list[int]]:
    """The same by decoding everything; no keys where stamps do not tell frames apart."""
    stamps: list[int | None] = []
    keys: list[int] = []
    marked = set()
    for packet in _whole_packets(path, container, stream):
        if packet.is_keyframe:
            marked.add(_stamp(packet))
        for frame in _decode(packet, begun=bool(stamps)):
            if frame.key_frame and _stamp(frame) in marked:
                keys.append(len(stamps))
            stamps.append(_stamp(frame))
    if not stamps:
        raise Unusable("no frames")
    return stamps, keys if None not in stamps and len(set(stamps)) == len(stamps) else []


def _whole_packets(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """All packets of a file that is not cut off."""
    for packet in _packets(container, stream):
        if packet.is_corrupt:
            raise Unusable("cut off or damaged")
        yield packet
    size = path.stat().st_size
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        raise Unusable("cut off")


def _decode(packet: av.Packet, begun: bool) -> list[av.VideoFrame]:
    """A packet's frames. Nothing may come of packets before the first frame: a recording may begin between two key frames."""
    try:
        return packet.decode()
    except InvalidDataError:
        if begun:
            raise
        return []


class _Lost(Exception):
    """Decoding did not come to the frame that was wanted."""


class Readers:
    """Reads videos; keeps the few that were read last open, each at the service of one thread at a time."""

    def __init__(self):
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[Path, Reader] = OrderedDict()
        self._process = os.getpid()

    def __reduce__(self):
        return Readers, ()

    def read(self, film: VideoFile, numbers: list[int], size: tuple[int, int], fit: str, out: np.ndarray) -> None:
        """Decodes frames, in ascending order, into (len(numbers), 3, H, W).

        Raises:
            BrokenEpisode: they cannot be decoded.
        """
        if self._process != os.getpid():  # a forked process shares its place in open files with its parent
            self._reset()
        with self._lock:
            reader = self._idle.pop(film.path, None)
        try:
            reader = reader or Reader(film)
            try:
                reader.read(numbers, size, fit, out, seek=len(film.keys) > 0)
            except (_Lost, FFmpegError):
                reader.read(numbers, size, fit, out, seek=False)
        except (_Lost, Unusable, FFmpegError, OSError) as error:
            if reader:
                reader.close()
            why = getattr(error, "strerror", None) or error
            raise BrokenEpisode(
                f"{film.path}: its frames {numbers[0]} to {numbers[-1]} cannot be decoded ({why}). Replace or remove it."
            ) from error
        except BaseException:
            if reader:
                reader.close()
            raise
        with self._lock:
            closing = [self._idle.pop(film.path, None)]
            self._idle[film.path] = reader
            if len(self._idle) > OPEN_FILES:
                closing.append(self._idle.popitem(last=False)[1])
        for old in closing:
            if old:
                old.close()


class Reader:
    """An open video."""

    def __init__(self, film: VideoFile):
        self._film = film
        self._scaler = VideoReformatter()
        self._open()

    def _open(self) -> None:
        self._container, self._fresh = _open(self._film.path), True
        self._stream = _video(self._container)

    def close(self) -> None:
        self._container.close()

    def read(self, numbers: list[int], size: tuple[int, int], fit: str, out: np.ndarray, seek: bool) -> None:
        """As `Readers.read`; without `seek` everything from the first frame on is decoded."""
        pending = deque(numbers)
        while pending:
            packets = self._packets_from(self._film.key_before(pending[0]) if seek else -1)
            for number, frame in self._numbered(packets, pending):
                if number < pending[0]:
                    continue
                if number > pending[0] or frame.is_corrupt:
                    raise _Lost("damaged")
                pending.popleft()
                out[len(numbers) - len(pending) - 1] = self._fitted(frame, size, fit)
                if not pending or (seek and self._film.key_before(pending[0]) > number + WORTH_SEEKING):
                    break
            else:
                raise _Lost("it ends before them")

    def _packets_from(self, key: int) -> Iterator[av.Packet]:
        """Packets from one of the film's keys on, or from an earlier one; from the file's beginning if it is -1."""
        if key < 0:
            if not self._fresh:
                self.close()
                self._open()
            self._fresh = False
            return _packets(self._container, self._stream)
        self._fresh = False
        film = self._film
        # Containers seek by decoding time, which may be that of the next key already.
        for target in film.keys[film.keys <= key][:-3:-1].tolist():
            self._container.seek(film.stamp(target), stream=self._stream)
            packets = _packets(self._container, self._stream)
            first = next(packets, None)
            if first and first.is_keyframe and 0 <= film.number(_stamp(first)) <= key:
                return chain([first], packets)
        raise _Lost("seeking fails")

    def _numbered(self, packets: Iterator[av.Packet], pending: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with their numbers. Before the first of `pending`, those on which no other depends may be missing."""
        film, context = self._film, self._stream.codec_context
        count, stamped = 0, len(film.keys) > 0
        for packet in packets:
            idle = stamped and context.name == "h264" and packet.size and film.number(_stamp(packet)) < pending[0]
            context.skip_frame = "NONREF" if idle else "DEFAULT"
            for frame in _decode(packet, begun=count > 0):
                yield film.number(_stamp(frame)) if stamped else count, frame
                count += 1

    def _fitted(self, frame: av.VideoFrame, size: tuple[int, int], fit: str) -> np.ndarray:
        """A frame as it should be seen, (3, H, W): square pixels, upright, RGB."""
        a, b, c, d = 1, 0, 0, 1
        if matrix := frame.side_data.get("DISPLAYMATRIX"):
            a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        turned = abs(b) > abs(a)
        wide, high = frame.width * float(self._stream.sample_aspect_ratio or 1), frame.height
        width, height = scaled_size((high, wide) if turned else (wide, high), size, fit)
        scaled = self._scaler.reformat(
            frame,
            *((height, width) if turned else (width, height)),
            format="rgb24",
            interpolation=QUALITY,
            threads=1,
        ).to_ndarray()
        if turned:
            scaled = scaled.transpose(1, 0, 2)
        # The matrix maps (x, y) to (a x + c y, b x + d y).
        return place(scaled[:: -1 if (b if turned else d) < 0 else 1, :: -1 if (c if turned else a) < 0 else 1], size)
