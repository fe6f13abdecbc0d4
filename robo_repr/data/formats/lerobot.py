"""LeRobot's datasets, layout v3.0: numbers in parquet files, each camera's pictures in mp4 files, many episodes in every file.

The layout is described in https://huggingface.co/docs/lerobot/lerobot-dataset-v3 and is what lerobot's ``LeRobotDataset`` (0.4 and later)
writes and reads; its package is not needed here.

============================== ======================================================================================================
LeRobot                        clips
============================== ======================================================================================================
``observation.images.<view>``  that view of `images`; of others' datasets every feature of dtype ``video`` or ``image``, depth maps excepted
``observation.state``          `state`, flattened, as float32
``action``                     `actions`, flattened, as float32
``next.reward``                `reward`
``next.done``                  written true in an episode's last frame; not read
``task``                       the episode's language; several tasks of one episode are joined by "; "
``next.success``               read as the episode's `success` where it was true in any frame; not written
``camera``, ``depth``, ...     the other `FIELDS`, flattened; read only where ``meta/robo_repr.json`` tells their shapes
column ``robo_repr``           of ``meta/episodes``: what else is known of the episode, as JSON
============================== ======================================================================================================

All other features are left out. An episode has one row per frame, the last one too, so its last action is of no meaning.
"""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from robo_repr.core.errors import UserError, unknown
from robo_repr.data.base import PER_VIEW, BrokenEpisode, Clips, Field
from robo_repr.data.formats import check_views, new_folder, whole_episodes

FILES_PER_CHUNK = 1000
DATA_MB, VIDEO_MB = 100, 200  # the layout's limits for one file
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
OURS = Path("meta/robo_repr.json")
COLUMNS = {"state": "observation.state", "actions": "action", "reward": "next.reward"}
# Nothing of a policy's: names that begin with "observation" or "action" would become inputs and outputs of LeRobot's policies.
EXTRAS = ("camera", "depth", "segmentation", "poses", "keypoints")
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass(frozen=True)
class Codec:
    encoder: str
    pixels: str
    options: dict[str, str]
    even: bool = False  # takes only even widths and heights


# Without B-frames a file's first frame is at time 0. Key frames every few pictures make reading at random places cheap.
CODECS = {
    "lossless": Codec("libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "g": "10", "bf": "0"}),
    "h264": Codec("libx264", "yuv420p", {"crf": "18", "g": "10", "bf": "0"}, even=True),
    # LeRobot's own settings but for its preset 12, with which newer encoders repeat pictures that changed little.
    "av1": Codec("libsvtav1", "yuv420p", {"crf": "30", "preset": "10", "g": "2"}),
}


def export(clips: Clips, out: str | Path, codec: str = "lossless", progress: Callable[[int], None] | None = None) -> list[int]:
    """Writes clips as a LeRobot dataset v3.0. `LeRobotClips` gives them back: equal with ``codec="lossless"``.

    Damaged episodes are left out; they stand in `clips.broken` afterwards.

    Args:
        out: a folder that is not there or is empty; it is there only when it is whole.
        codec: ``lossless`` (H.264 in RGB, every pixel kept; not every player shows it), ``h264`` (4:2:0, plays everywhere) or ``av1``.
        progress: called with the number of episodes dealt with so far.

    Returns:
        The episodes that were written.

    Raises:
        UserError: unknown codec or one that cannot encode such pictures, `out` is in use, or no episode is whole.
        Failure: the disk is full or not writable; nothing is left of the export then.
    """
    _check_codec(codec, clips)
    with new_folder(Path(out)) as folder:
        return _write(clips, folder, codec, progress)


# Writing


def _check_codec(name: str, clips: Clips) -> None:
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    codec = CODECS[name]
    try:
        av.codec.Codec(codec.encoder, "w")
    except FFmpegError as error:
        raise UserError(f"codec={name} needs the encoder {codec.encoder}, which this PyAV does not have. Use another codec.") from error
    height, width = clips.size
    if codec.even and (height % 2 or width % 2):
        raise UserError(f"codec={name} takes pictures of even height and width only, and these are {height} x {width}. Use codec=lossless.")
    slashed = [view for view in clips.views if "/" in view]
    if slashed:
        raise UserError(f"{clips.name}: LeRobot allows no / in the name of a camera, but there is {', '.join(slashed)}. Rename it.")


def _write(clips: Clips, root: Path, codec: str, progress: Callable[[int], None] | None) -> list[int]:
    numbers, about = _Tables(root / "data"), _Tables(root / "meta/episodes")
    rate = Fraction(clips.fps).limit_denominator(100_000)
    keys = [f"observation.images.{view}" for view in clips.views]
    videos = {key: _Videos(root / "videos" / key, rate, CODECS[codec]) for key in keys}
    tasks: dict[str, int] = {}
    totals: dict[str, dict[str, np.ndarray]] = {}
    waiting: list[dict[str, Any]] = []
    features: dict[str, Any] = {}
    index, taken = 0, []
    for episode, clip in whole_episodes(clips, progress):
        written, length, task = len(taken), len(clip["images"]), clips.language(episode)
        columns = _columns(clip, clips.fps, written, index, tasks.setdefault(task, len(tasks)))
        features = features or _features(clips, columns)
        place = numbers.place(sum(column.nbytes for column in columns.values()), len(columns))
        numbers.write(pa.table({name: _to_arrow(values) for name, values in columns.items()}))
        statistics = {name: _statistics(column) for name, column in columns.items() if name not in EXTRAS}
        row = {"episode_index": written, "tasks": [task], "length": length, **_placed("data", place)}
        row |= {"dataset_from_index": index, "dataset_to_index": index + length}
        for view, (key, video) in enumerate(videos.items()):
            place, begin = video.add(clip["images"][:, view])
            row |= _placed(f"videos/{key}", place)
            row |= {f"videos/{key}/from_timestamp": begin, f"videos/{key}/to_timestamp": begin + float(length / rate)}
            statistics[key] = _picture_statistics(clip["images"][:, view])
        row |= {f"stats/{name}/{which}": _noted(which, value) for name, part in statistics.items() for which, value in part.items()}
        known = {key: value for key, value in clips.episodes[episode].items() if key not in ("language", "episode")}
        waiting.append(row | {"robo_repr": json.dumps(known)})
        totals = {name: _joined(totals[name], part) if totals else part for name, part in statistics.items()}
        index += length
        taken.append(episode)
        if len(waiting) == 100:
            _write_rows(about, waiting)
    _write_rows(about, waiting)
    for part in (numbers, about, *videos.values()):
        part.close()
    for key in keys:
        features[key]["info"] = _video_info(root / "videos" / key / f"{FILE.format(chunk_index=0, file_index=0)}.mp4", clips.fps)
    pq.write_table(_task_table(list(tasks)), root / "meta/tasks.parquet")
    fields = {key: {"shape": field.shape, "dtype": str(field.dtype)} for key, field in clips.fields.items() if key != "images"}
    _write_json(root / OURS, {"version": 1, "views": clips.views, "fields": fields, "meta": getattr(clips, "meta", {})})
    _write_json(
        root / "meta/stats.json", {name: {which: _noted(which, value) for which, value in part.items()} for name, part in totals.items()}
    )
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(taken),
        "total_frames": index,
        "total_tasks": len(tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": int(clips.fps) if clips.fps == int(clips.fps) else clips.fps,
        "splits": {"train": f"0:{len(taken)}"},
        "data_path": f"data/{FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{FILE}.mp4",
        "features": features,
    }
    _write_json(root / "meta/info.json", info)
    return taken


def _columns(clip: dict[str, Any], fps: float, episode: int, index: int, task: int) -> dict[str, np.ndarray]:
    """All columns of an episode's rows, (T, ...) each; those of frames that hold nothing are left out, which parquet cannot keep."""
    length = len(clip["images"])
    columns = {name: clip[key] for key, name in COLUMNS.items() if key in clip}
    columns["next.done"] = clip["is_last"]
    columns |= {key: clip[key] for key in EXTRAS if key in clip}
    columns = {name: values for name, values in columns.items() if values[0].size}
    step = np.arange(length)
    columns["timestamp"] = (step / fps).astype(np.float32)
    columns |= {"frame_index": step, "episode_index": np.full(length, episode)}
    return columns | {"index": index + step, "task_index": np.full(length, task)}


def _features(clips: Clips, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for view in clips.views:
        features[f"observation.images.{view}"] = {"dtype": "video", "shape": [*clips.size, 3], "names": ["height", "width", "channels"]}
    for name, values in columns.items():
        size = values[0].size
        names = [f"{name.split('.')[-1]}_{i}" for i in range(size)] if name in ("observation.state", "action") else None
        # Flat, for LeRobot's tools that edit datasets fail with features of several axes.
        features[name] = {"dtype": str(values.dtype), "shape": [size], "names": names}
    return features


def _to_arrow(values: np.ndarray) -> pa.Array:
    """(T, ...) -> T rows: numbers, or lists of fixed length."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    size = values[0].size
    return array if size == 1 else pa.FixedSizeListArray.from_arrays(array, size)


def _statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of (T, ...), over T, finite numbers alone; `count` says how many these are. Where there is none, min and max are inf and -inf."""
    values = values.reshape(len(values), *(values.shape[1:] or (1,))).astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(0)
    values[~finite] = np.nan
    values[:, count == 0] = 0  # numpy warns of columns of nothing but nan
    found = {"min": np.where(count, np.nanmin(values, 0), np.inf), "max": np.where(count, np.nanmax(values, 0), -np.inf)}
    found |= {"mean": np.nanmean(values, 0), "std": np.nanstd(values, 0), "count": count}
    return found | dict(zip(QUANTILES, np.nanquantile(values, list(QUANTILES.values()), axis=0), strict=True))


def _noted(which: str, value: np.ndarray) -> list[Any]:
    """A statistic as the layout has it: one count for all numbers of a feature, and 0 where no number is finite, since JSON has no inf."""
    return [int(value.max())] if which == "count" else np.nan_to_num(value, posinf=0, neginf=0).tolist()


def _picture_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Of (T, 3, H, W) uint8, per channel in 0..1, shaped (3, 1, 1); from at most 32 frames of about 64 x 64 of their pixels."""
    frames = np.unique(np.linspace(0, len(images) - 1, 32).astype(int))
    down, right = (max(1, edge // 64) for edge in images.shape[2:])
    seen = images[frames, :, ::down, ::right].transpose(0, 2, 3, 1).reshape(-1, 3)
    found = {which: value.reshape(3, 1, 1) / 255 for which, value in _statistics(seen).items() if which != "count"}
    return found | {"count": np.array([len(frames)])}


def _joined(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of two sets of frames together; the quantiles are only averaged, as they are in LeRobot."""
    count = one["count"] + other["count"]
    share = other["count"] / np.maximum(count, 1)
    apart = other["mean"] - one["mean"]
    joined = {which: one[which] + (other[which] - one[which]) * share for which in ("mean", *QUANTILES)}
    variance = one["std"] ** 2 * (1 - share) + other["std"] ** 2 * share + apart**2 * share * (1 - share)
    joined |= {"min": np.minimum(one["min"], other["min"]), "max": np.maximum(one["max"], other["max"])}
    return joined | {"std": np.sqrt(variance), "count": count}


def _write_rows(tables: "_Tables", rows: list[dict[str, Any]]) -> None:
    """Writes what is known of some episodes and forgets it."""
    if not rows:
        return
    texts = {"tasks": pa.list_(pa.string()), "robo_repr": pa.string()}
    table = pa.table({name: pa.array([row[name] for row in rows], texts.get(name)) for name in rows[0]})
    for name, number in _placed("meta/episodes", tables.place(table.nbytes, table.num_columns)).items():
        table = table.append_column(name, pa.array([number] * len(rows)))
    tables.write(table)
    rows.clear()


def _placed(what: str, place: tuple[int, int]) -> dict[str, int]:
    return {f"{what}/chunk_index": place[0], f"{what}/file_index": place[1]}


def _task_table(tasks: list[str]) -> pa.Table:
    """Numbers of the tasks, with the tasks as the index of a data frame of pandas."""
    kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in kinds
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


class _Tables:
    """Parquet files of a folder, none above the layout's limit unless one episode alone is."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.number = self.bytes = 0
        self.writer: pq.ParquetWriter | None = None

    def place(self, size: int, columns: int) -> tuple[int, int]:
        """Chunk and file for the next `size` bytes of so many columns, counted as if they were not compressed."""
        size += 512 * columns  # headers of a group of rows
        if self.bytes and self.bytes + size > DATA_MB * 2**20:
            self.close()
            self.number, self.bytes = self.number + 1, 0
        self.bytes = (self.bytes or 2**14) + size  # with the file's schema
        return divmod(self.number, FILES_PER_CHUNK)

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(_new_file(self.folder, self.number, "parquet"), table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class _Videos:
    """A camera's mp4 files. Each episode is encoded alone, so its size is known before a file is chosen; files are joined without loss."""

    def __init__(self, folder: Path, rate: Fraction, codec: Codec):
        self.folder, self.rate, self.codec = folder, rate, codec
        self.number = self.bytes = self.frames = 0
        self.header: bytes | None = None
        self.parts: list[tuple[Path, int]] = []  # of the file that is not joined yet; with the frame at which each begins

    def add(self, images: np.ndarray) -> tuple[tuple[int, int], float]:
        """Takes an episode's pictures (T, 3, H, W); returns chunk and file, and the second at which they begin there."""
        part = self.folder / f"part-{self.number}-{len(self.parts)}.mp4"
        part.parent.mkdir(parents=True, exist_ok=True)
        header = self._encode(images, part)
        size = part.stat().st_size
        # Episodes of one file share a decoder's set-up, which is stored once.
        if self.parts and (self.bytes + size > VIDEO_MB * 2**20 or header != self.header):
            self.close()
            self.number, self.bytes, self.frames = self.number + 1, 0, 0
        begin, self.header = self.frames, header
        self.parts.append((part, begin))
        self.bytes, self.frames = self.bytes + size, self.frames + len(images)
        return divmod(self.number, FILES_PER_CHUNK), float(begin / self.rate)

    def close(self) -> None:
        """Joins the parts."""
        with av.open(str(_new_file(self.folder, self.number, "mp4")), "w", options={"movflags": "faststart"}) as file:
            stream = None
            for part, begin in self.parts:
                with av.open(str(part)) as source:
                    video = source.streams.video[0]
                    base = _time_base(video)
                    if stream is None:
                        stream = file.add_stream_from_template(video, opaque=True)
                        stream.time_base = base
                    shift = round(begin / self.rate / base)
                    for packet in source.demux(video):
                        if packet.dts is None or packet.pts is None:  # the end
                            continue
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        file.mux(packet)
        for part, _ in self.parts:
            part.unlink()
        self.parts = []

    def _encode(self, images: np.ndarray, path: Path) -> bytes | None:
        os.environ.setdefault("SVT_LOG", "1")  # libsvtav1 prints its settings otherwise
        try:
            with av.open(str(path), "w") as file:
                stream: Any = file.add_stream(self.codec.encoder, rate=self.rate, options=self.codec.options)
                stream.height, stream.width = images.shape[2:]
                stream.pix_fmt = self.codec.pixels
                for number, image in enumerate(images):
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
                    frame.pts, frame.time_base = number, 1 / self.rate
                    file.mux(stream.encode(frame))
                file.mux(stream.encode(None))
                return stream.codec_context.extradata
        except FFmpegError as error:
            if isinstance(error, OSError):
                raise
            size = " x ".join(map(str, images.shape[2:]))
            raise UserError(
                f"{self.codec.encoder} cannot encode pictures of {size} ({error}). Use another codec, such as lossless."
            ) from error


def _new_file(folder: Path, number: int, suffix: str) -> Path:
    chunk, file = divmod(number, FILES_PER_CHUNK)
    path = folder / f"{FILE.format(chunk_index=chunk, file_index=file)}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _video_info(path: Path, fps: float) -> dict[str, Any]:
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        return {
            "video.height": video.height,
            "video.width": video.width,
            "video.codec": video.codec.canonical_name,
            "video.pix_fmt": video.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(fps) if fps == int(fps) else fps,
            "video.channels": 3,
            "has_audio": False,
        }


def _time_base(video: Any) -> Fraction:
    return video.time_base  # typed as optional, and always there in a file


# Reading


class LeRobotClips(Clips):
    """A LeRobot dataset v3.0 as clips, read when asked for.

    Args:
        path: the folder that holds ``meta``, ``data`` and ``videos``.
        views: which cameras, by the names that `views` gives; default all. They must have one size.

    Attributes:
        meta: what is known of all episodes, where the dataset is an export of ours.

    Raises:
        UserError: no dataset, one of another version, damaged or missing metadata, no camera, or cameras of several sizes.
    """

    def __init__(self, path: str | Path, views: Sequence[str] | None = None):
        self.path = Path(path)
        self.name = str(path)
        self.broken = {}
        info = _load_info(self.path)
        ours = _load_ours(self.path / OURS) if (self.path / OURS).exists() else {}
        try:
            self._describe(info, ours, views)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f"{self.path / 'meta/info.json'} is not as LeRobot v3.0 writes it ({error!r}). Fetch or export it again."
            ) from error
        self._list_episodes(info)
        self._places: dict[Path, dict[int, tuple[int, int]]] = {}
        self._last: tuple[Any, pa.Table | None] = (None, None)

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        columns = {key: COLUMNS.get(key, key) for key in keys if key != "images" and 0 not in self.fields[key].shape}
        stored = [view for view in self._view_keys if view not in self._video_keys] if "images" in keys else []
        table = self._rows(episode, start, stop, [*columns.values(), *stored]) if columns or stored else None
        result = {}
        for key in keys:
            if key == "images":
                result[key] = self._images(episode, start, stop, table)
                continue
            field = self.fields[key]
            if table is None or key not in columns:
                result[key] = np.zeros((stop - start, *field.shape), field.dtype)
                continue
            values = self._values(table[columns[key]], (stop - start, *self._stored[key]), episode, columns[key])
            if key in PER_VIEW:
                values = values[:, self._view_places]
            result[key] = np.array(values.reshape(stop - start, *field.shape), field.dtype)
        return result

    def _describe(self, info: dict[str, Any], ours: dict[str, Any], chosen: Sequence[str] | None) -> None:
        """Sets what the frames hold, from the features of info.json."""
        features: dict[str, Any] = info["features"]
        self.fps = float(info["fps"])
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps}")
        self.meta: dict[str, Any] = ours.get("meta", {})
        pictures = [key for key, feature in features.items() if feature["dtype"] in ("video", "image") and not _is_depth(feature)]
        names = [key.removeprefix("observation.").removeprefix("images.") for key in pictures]
        cameras = dict(zip(names if len(set(names)) == len(names) else pictures, pictures, strict=True))
        if not cameras:
            raise UserError(f"{self.name} has no pictures (no feature of dtype video or image). Choose a dataset with cameras.")
        check_views(chosen or (), cameras)
        self.views = list(chosen or cameras)
        self._view_keys = [cameras[view] for view in self.views]
        self._video_keys = [key for key in self._view_keys if features[key]["dtype"] == "video"]
        sizes = {view: _size(features[cameras[view]]) for view in self.views}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{view} {height} x {width}" for view, (height, width) in sizes.items())
            raise UserError(
                f"{self.name}: the cameras differ in size ({listed}), and clips have one. Choose cameras of one size with views=."
            )
        self.size = sizes[self.views[0]]
        self.fields = {"images": Field((len(self.views), 3, *self.size), np.dtype(np.uint8))}
        self._stored: dict[str, tuple[int, ...]] = {}  # shape of a row
        for key, (shape, dtype) in _numbers(features, ours).items():
            if key in PER_VIEW:
                if not set(self.views) <= set(ours["views"]):
                    continue
                self._view_places = [ours["views"].index(view) for view in self.views]
                self.fields[key] = Field((len(self.views), *shape[1:]), dtype)
            else:
                self.fields[key] = Field(shape, dtype)
            self._stored[key] = shape
        self._data_path: Any = info["data_path"]
        self._video_path: Any = info.get("video_path")
        self._data_path.format(chunk_index=0, file_index=0)
        if self._video_keys:
            self._video_path.format(video_key="", chunk_index=0, file_index=0)

    def _list_episodes(self, info: dict[str, Any]) -> None:
        """Sets lengths, what is known of the episodes and where they are."""
        needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        needed += [f"videos/{key}/{what}" for key in self._video_keys for what in ("chunk_index", "file_index", "from_timestamp")]
        folder = self.path / "meta/episodes"
        rows: list[dict[str, Any]] = []
        for file in sorted(folder.glob("*/*.parquet")):
            rows += _episode_rows(file, needed, ["tasks", "robo_repr", "stats/next.success/max"])
        rows.sort(key=lambda row: row["episode_index"])
        frames = sum(row["length"] for row in rows)
        if [row["episode_index"] for row in rows] != list(range(info.get("total_episodes", len(rows)))) or not rows:
            raise UserError(
                f"{folder} lists {len(rows)} episodes, but meta/info.json says {info.get('total_episodes')}, or some are missing or twice "
                "there. Fetch or export the dataset again."
            )
        if frames != info.get("total_frames", frames):
            raise UserError(
                f"{folder} lists {frames} frames, but meta/info.json says {info['total_frames']}. Fetch or export the dataset again."
            )
        self._where = [row for row in rows if row["length"] > 0]
        self.lengths = np.array([row["length"] for row in self._where], dtype=np.int64)
        self.episodes = [self._known(row) for row in self._where]

    def _known(self, row: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = {"language": "; ".join(row.get("tasks") or ())}
        if row.get("robo_repr"):
            try:
                return known | json.loads(row["robo_repr"])
            except (ValueError, TypeError):
                return known
        known["source"] = str(self._data_file(row))
        success = row.get("stats/next.success/max")
        return known | ({"success": bool(np.max(success))} if success else {})

    def _data_file(self, row: dict[str, Any]) -> Path:
        return self.path / self._data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])

    def _rows(self, episode: int, start: int, stop: int, columns: list[str]) -> pa.Table:
        """Rows start .. stop - 1 of an episode."""
        file, number = self._data_file(self._where[episode]), self._where[episode]["episode_index"]
        try:
            with pq.ParquetFile(file) as parquet:
                first = self._first_row(parquet, file, number, episode)
                ends = np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])
                groups = list(range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, first + stop - 1, "right")) + 1))
                # Whole files can be one group of rows: it is kept for the episodes that follow.
                wanted = (file, tuple(groups), tuple(columns))
                held, table = self._last
                if held != wanted or table is None:
                    table = parquet.read_row_groups(groups, columns=columns)
                    self._last = wanted, table
            before = int(ends[groups[0] - 1]) if groups[0] else 0
            return table.select(columns).slice(first + start - before, stop - start)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise BrokenEpisode(f"{file}: episode {number} cannot be read ({' '.join(str(error).split())})") from error

    def _first_row(self, parquet: pq.ParquetFile, file: Path, number: int, episode: int) -> int:
        """The row at which an episode begins in its file."""
        if file not in self._places:
            numbers = parquet.read(columns=["episode_index"])["episode_index"].to_numpy()
            starts = np.flatnonzero(np.diff(numbers, prepend=-1))
            counts = np.diff(starts, append=len(numbers))
            places: dict[int, tuple[int, int]] = {}
            for begin, count in zip(starts.tolist(), counts.tolist(), strict=True):
                before = places.get(int(numbers[begin]))
                places[int(numbers[begin])] = (begin, count) if before is None else (-1, before[1] + count)
            self._places[file] = places
        first, count = self._places[file].get(number, (-1, 0))
        if count != self.lengths[episode]:
            raise BrokenEpisode(f"{file}: episode {number} has {count} frames, but meta/episodes says {self.lengths[episode]}")
        if first < 0:
            raise BrokenEpisode(f"{file}: the frames of episode {number} do not lie together")
        return first

    def _values(self, column: pa.ChunkedArray, shape: tuple[int, ...], episode: int, name: str) -> np.ndarray:
        """Rows of numbers, or of lists of them, as (T, ...)."""
        array = column.combine_chunks()
        while True:
            if isinstance(array, pa.ExtensionArray):  # arrays of the datasets package, where that is imported
                array = array.storage
            if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)):
                break
            array = array.flatten()
        if array.null_count or len(array) != int(np.prod(shape)):
            row = self._where[episode]
            missing = "some are missing" if array.null_count else f"they are {len(array)} numbers"
            raise BrokenEpisode(f"{self._data_file(row)}: {name} of episode {row['episode_index']} is not of shape {shape} ({missing})")
        return array.to_numpy(zero_copy_only=False).reshape(shape)

    def _images(self, episode: int, start: int, stop: int, table: pa.Table | None) -> np.ndarray:
        images = np.empty((stop - start, *self.fields["images"].shape), np.uint8)
        for view, key in enumerate(self._view_keys):
            if key in self._video_keys:
                self._decode(episode, key, start, stop, images[:, view])
            elif table is not None:
                self._open_pictures(episode, key, table[key].to_pylist(), images[:, view])
        return images

    def _decode(self, episode: int, key: str, start: int, stop: int, out: np.ndarray) -> None:
        """Frames start .. stop - 1 of an episode in a video of many, into (T, 3, H, W)."""
        row = self._where[episode]
        chunk, number, origin = (row[f"videos/{key}/{what}"] for what in ("chunk_index", "file_index", "from_timestamp"))
        file = self.path / self._video_path.format(video_key=key, chunk_index=chunk, file_index=number)
        missing = np.ones(stop - start, dtype=bool)
        try:
            with av.open(str(file)) as container:
                video = container.streams.video[0]
                base = _time_base(video)
                container.seek(max(0, int((origin + (start - 0.5) / self.fps) / base)), stream=video)
                for frame in container.decode(video):
                    if frame.pts is None:
                        continue
                    # Frames are told by their times, as the layout wants: another episode's may be before and behind.
                    step = round((float(frame.pts * base) - origin) * self.fps)
                    if step >= stop:
                        break
                    if step >= start:
                        if (frame.height, frame.width) != self.size:
                            found = f"{frame.height} x {frame.width}"
                            raise BrokenEpisode(
                                f"{file}: the frames are {found}, not {self.size[0]} x {self.size[1]} as meta/info.json says"
                            )
                        out[step - start] = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
                        missing[step - start] = False
                    if step == stop - 1:
                        break
        except (OSError, IndexError, FFmpegError) as error:
            raise BrokenEpisode(f"{file}: episode {row['episode_index']} cannot be read ({' '.join(str(error).split())})") from error
        if missing.any():
            lost = start + int(np.flatnonzero(missing)[0])
            raise BrokenEpisode(
                f"{file}: {missing.sum()} frames of episode {row['episode_index']} are not there, the first is number {lost}"
            )

    def _open_pictures(self, episode: int, key: str, cells: list[Any], out: np.ndarray) -> None:
        """Pictures that stand in the rows as encoded bytes, or as the path of a file, into (T, 3, H, W)."""
        row = self._where[episode]
        for number, cell in enumerate(cells):
            try:
                source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else self.path / cell["path"]
                with Image.open(source) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                out[number] = pixels.transpose(2, 0, 1)
            except (OSError, ValueError, TypeError, KeyError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                words = " ".join(str(error).split())
                raise BrokenEpisode(f"{self._data_file(row)}: {key} of episode {row['episode_index']} cannot be read ({words})") from error


def _load_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({' '.join(str(error).split())}). Fetch or export the dataset again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object, so it is not LeRobot's. Fetch or export the dataset again.")
    return found


def _load_ours(path: Path) -> dict[str, Any]:
    """What our own export noted of the dataset."""
    ours = _load_json(path)
    try:
        for key, kind in (("views", list), ("fields", dict), ("meta", dict)):
            if not isinstance(ours[key], kind):
                raise TypeError(f"{key} is {ours[key]}")
        for field in ours["fields"].values():
            if any(type(edge) is not int or edge < 0 for edge in field["shape"]):
                raise TypeError(f"a shape is {field['shape']}")
            np.dtype(field["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not as our export writes it ({error!r}). Export the dataset again, or remove this file.") from error
    return ours


def _load_info(path: Path) -> dict[str, Any]:
    """What meta/info.json says, if it is of version 3."""
    file = path / "meta/info.json"
    if not file.exists():
        if (path / "meta_data/info.json").exists():
            raise _outdated(path, str(_load_json(path / "meta_data/info.json").get("codebase_version", "v1")))
        raise UserError(f"{path} is no LeRobot dataset: {file} is not there. Give the folder that holds meta, data and videos.")
    info = _load_json(file)
    version = str(info.get("codebase_version"))
    major = version.removeprefix("v").split(".")[0]
    if major in ("1", "2"):
        raise _outdated(path, version)
    if major != "3":
        raise UserError(f"{path} is a LeRobot dataset of version {version}; this suite reads v3.0. Update the suite, or export it as v3.0.")
    return info


def _outdated(path: Path, version: str) -> UserError:
    folder = path.resolve()
    steps = [
        "with lerobot 0.3: python -m lerobot.datasets.v2.convert_dataset_v1_to_v2 --repo-id=OWNER/NAME --single-task=INSTRUCTION",
        "with lerobot 0.3: python -m lerobot.datasets.v21.convert_dataset_v20_to_v21 --repo-id=OWNER/NAME",
        "with lerobot 0.4: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 "
        f"--repo-id={folder.name} --root={folder.parent} --push-to-hub=false",
    ]
    first = 0 if version.startswith("v1") else 1 if version == "v2.0" else 2
    return UserError(
        f"{path} is a LeRobot dataset of version {version}, and this suite reads v3.0. Convert it {', then '.join(steps[first:])}"
    )


def _is_depth(feature: dict[str, Any]) -> bool:
    about = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(about.get("is_depth_map") or about.get("video.is_depth_map"))


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of pictures whose shape is told with the channels first or last."""
    shape, names = [int(edge) for edge in feature["shape"]], feature.get("names") or []
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"a picture of shape {shape}")
    told = [str(name).startswith("channel") for name in names]
    first = told[0] if told.count(True) == 1 and len(told) == 3 else shape[2] not in (1, 3, 4)
    return (shape[1], shape[2]) if first else (shape[0], shape[1])


def _numbers(features: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape of a row and type of every field but the pictures."""
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for key, field in ours.get("fields", {}).items():
        shape = tuple(int(edge) for edge in field["shape"])
        if COLUMNS.get(key, key) in features or 0 in shape:
            found[key] = shape, np.dtype(field["dtype"])
    for key, column in COLUMNS.items():
        feature = features.get(column)
        if key in found or feature is None or feature["dtype"] in ("string", "language", "image", "video"):
            continue
        size = int(np.prod(feature["shape"]))
        if key != "reward":
            found[key] = (size,), np.dtype(np.float32)
        elif size == 1:
            found[key] = (), np.dtype(np.float32)
    return found


def _episode_rows(file: Path, needed: list[str], more: list[str]) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            missing = [name for name in needed if name not in parquet.schema_arrow.names]
            if missing:
                raise UserError(
                    f"{file} has no column {', '.join(missing)}, so it is not as LeRobot v3.0 writes it. Fetch or export it again."
                )
            table = parquet.read(columns=[name for name in (*needed, *more) if name in parquet.schema_arrow.names])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())}). Fetch or export the dataset again.") from error
    for name in needed:
        if table[name].null_count:
            raise UserError(f"{file}: {name} is missing for some episodes. Fetch or export the dataset again.")
    return table.to_pylist()
