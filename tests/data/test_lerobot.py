"""LeRobot datasets v3.0: exports come back equal, the layout is LeRobot's, what others wrote is read or refused with reasons."""

import io
import json
import resource

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from robo_repr.core.errors import Failure, UserError
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.formats import lerobot

DTYPES = {"images": "uint8", "depth": "float16", "segmentation": "int16"}


class Made(Clips):
    """Clips in memory."""

    def __init__(self, frames, episodes, fps=20.0, damaged=()):
        views = frames[0]["images"].shape[1]
        self.name, self.fps, self.frames, self.episodes, self.damaged, self.broken = "made", fps, frames, episodes, damaged, {}
        self.views = ["front", "wrist", "top"][:views]
        self.size = frames[0]["images"].shape[3:]
        self.fields = {key: Field(values.shape[1:], values.dtype) for key, values in frames[0].items()}
        self.lengths = np.array([len(part["images"]) for part in frames])
        self.meta = {"pose_names": ["ball"], "made_by": {"seed": 3}}

    def read_fields(self, episode, start, stop, keys):
        if episode in self.damaged:
            raise BrokenEpisode(f"episode {episode} is damaged")
        return {key: self.frames[episode][key][start:stop] for key in keys}


def make(lengths=(5, 1, 12), size=(13, 21), views=2, state=4, actions=3, smooth=False, **more):
    generator = np.random.default_rng(0)
    shapes = {
        "images": (views, 3, *size),
        "state": (state,),
        "actions": (actions,),
        "reward": (),
        "camera": (views, 8),
        "depth": (views, *size),
        "segmentation": (views, *size),
        "poses": (2, 7),
        "keypoints": (views, 3, 3),
    }
    frames = []
    for length in lengths:
        part = {key: generator.normal(size=(length, *shape)).astype(DTYPES.get(key, "float32")) for key, shape in shapes.items()}
        part["images"] = generator.integers(0, 256, part["images"].shape, dtype=np.uint8)
        if smooth:  # which a codec keeps, with a level that tells the frames apart
            ramp = np.linspace(0, 60, size[1])[None, :] + np.linspace(0, 60, size[0])[:, None]
            part["images"][:] = (ramp + np.arange(length)[:, None, None, None, None] * 120 / max(lengths)).astype(np.uint8)
        part["depth"][:, :, 0] = np.inf
        part["segmentation"][:] = generator.integers(-1, 9, part["segmentation"].shape)
        frames.append(part)
    tasks = ["reach the ball", "", "push"]
    known = [
        {
            "language": tasks[i % 3],
            "task": "reach",
            "success": [True, None, False][i % 3],
            "terminal": i == 1,
            "source": f"s{i}",
            "seed": [i, {}],
        }
        for i in range(len(lengths))
    ]
    return Made(frames, known, **more)


def assert_equal(found, clips, wanted=None):
    wanted = range(len(clips)) if wanted is None else wanted
    assert (found.views, found.size, found.fps, found.meta) == (clips.views, clips.size, clips.fps, clips.meta)
    assert found.fields == clips.fields
    assert list(found.episodes) == [clips.episodes[i] for i in wanted]
    for clip, i in zip(found, wanted, strict=True):
        for key, value in clips[i].items():
            np.testing.assert_array_equal(clip[key], value, err_msg=key)
            assert getattr(clip[key], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"size": (1, 1), "views": 1, "lengths": (1,), "fps": 12.5},
        {"size": (64, 48), "views": 3, "state": 1, "actions": 1, "lengths": (31, 2), "fps": 30.0},
        {"state": 0, "fps": 29.97},
    ],
    ids=["odd", "one pixel", "several groups of pictures", "no state"],
)
def test_comes_back_equal(tmp_path, how):
    clips, done = make(**how), []
    lerobot.export(clips, tmp_path / "out", progress=done.append)
    assert_equal(lerobot.LeRobotClips(tmp_path / "out"), clips)
    assert done == list(range(1, len(clips) + 1))


def test_windows_and_views_are_those_of_the_whole(tmp_path):
    clips = make(lengths=(4, 33), size=(16, 16), views=3)
    lerobot.export(clips, tmp_path / "out")
    found = lerobot.LeRobotClips(tmp_path / "out", views=["top", "front"])
    clip = found.read(1, 14, 27)
    assert found.views == ["top", "front"]
    for key, value in clips.read(1, 14, 27).items():
        np.testing.assert_array_equal(clip[key], value[:, [2, 0]] if key in ("images", *lerobot.PER_VIEW) else value, err_msg=key)
    assert set(found.read(0, keys=["images"])) == {"images", "is_first", "is_last", "is_terminal", "language"}
    with pytest.raises(UserError, match="views=tops is not known. Did you mean views=top"):
        lerobot.LeRobotClips(tmp_path / "out", views=["tops"])
    with pytest.raises(UserError, match="top twice"):
        lerobot.LeRobotClips(tmp_path / "out", views=["top", "top"])


def test_damaged_episodes_are_left_out(tmp_path):
    clips = make(damaged=[1])
    assert lerobot.export(clips, tmp_path / "out") == [0, 2]
    assert_equal(lerobot.LeRobotClips(tmp_path / "out"), make(), [0, 2])
    assert list(clips.broken) == [1]
    with pytest.raises(UserError, match="no episode that can be read"):
        lerobot.export(make(damaged=[0, 1, 2]), tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_layout_is_that_of_version_3(tmp_path):
    """Held to what lerobot 0.4.4 writes for such features."""
    root = tmp_path / "out"
    lerobot.export(make(), root)
    videos = [f"videos/observation.images.{view}/chunk-000/file-000.mp4" for view in ("front", "wrist")]
    meta = ["meta/episodes/chunk-000/file-000.parquet", "meta/info.json", "meta/robo_repr.json", "meta/stats.json", "meta/tasks.parquet"]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["data/chunk-000/file-000.parquet", *meta, *videos]

    info = json.loads((root / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": 3,
        "total_frames": 18,
        "total_tasks": 3,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 20,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    assert {name: (feature["dtype"], feature["shape"]) for name, feature in features.items()} == {
        "observation.images.front": ("video", [13, 21, 3]),
        "observation.images.wrist": ("video", [13, 21, 3]),
        "observation.state": ("float32", [4]),
        "action": ("float32", [3]),
        "next.reward": ("float32", [1]),
        "next.done": ("bool", [1]),
        "camera": ("float32", [16]),
        "depth": ("float16", [546]),
        "segmentation": ("int16", [546]),
        "poses": ("float32", [14]),
        "keypoints": ("float32", [18]),
        "timestamp": ("float32", [1]),
        "frame_index": ("int64", [1]),
        "episode_index": ("int64", [1]),
        "index": ("int64", [1]),
        "task_index": ("int64", [1]),
    }
    assert features["observation.images.front"]["names"] == ["height", "width", "channels"]
    about = features["observation.images.front"]["info"]
    assert about == {
        "video.height": 13,
        "video.width": 21,
        "video.codec": "h264",
        "video.pix_fmt": "gbrp",
        "video.is_depth_map": False,
        "video.fps": 20,
        "video.channels": 3,
        "has_audio": False,
    }

    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    kinds = {name: str(rows.schema.field(name).type) for name in rows.column_names}
    lists = "fixed_size_list<element: {}>[{}]"
    assert kinds == {
        "observation.state": lists.format("float", 4),
        "action": lists.format("float", 3),
        "next.reward": "float",
        "next.done": "bool",
        "camera": lists.format("float", 16),
        "depth": lists.format("halffloat", 546),
        "segmentation": lists.format("int16", 546),
        "poses": lists.format("float", 14),
        "keypoints": lists.format("float", 18),
        "timestamp": "float",
        **dict.fromkeys(["frame_index", "episode_index", "index", "task_index"], "int64"),
    }
    assert rows["index"].to_pylist() == list(range(18))
    assert rows["episode_index"].to_pylist() == [0] * 5 + [1] + [2] * 12
    assert rows["task_index"].to_pylist() == rows["episode_index"].to_pylist()
    assert rows["frame_index"].to_pylist() == [*range(5), 0, *range(12)]
    np.testing.assert_array_equal(rows["timestamp"].to_numpy(), np.float32(rows["frame_index"].to_numpy() / 20))
    assert np.flatnonzero(rows["next.done"].to_numpy()).tolist() == [4, 5, 17]

    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    kinds = {name: str(episodes.schema.field(name).type) for name in episodes.column_names if not name.startswith("stats/")}
    placed = [f"{what}/{which}_index" for what in ("data", "meta/episodes") for which in ("chunk", "file")]
    placed += [f"videos/observation.images.{view}/{which}_index" for view in ("front", "wrist") for which in ("chunk", "file")]
    times = [f"videos/observation.images.{view}/{which}_timestamp" for view in ("front", "wrist") for which in ("from", "to")]
    counts = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    assert kinds == {
        **dict.fromkeys(counts + placed, "int64"),
        **dict.fromkeys(times, "double"),
        "tasks": "list<element: string>",
        "robo_repr": "string",
    }
    row = episodes.to_pylist()[2]
    assert (row["tasks"], row["length"], row["dataset_from_index"], row["dataset_to_index"]) == (["push"], 12, 6, 18)
    assert [row[name] for name in times] == pytest.approx([0.3, 0.9] * 2)
    measured = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    plain = [name for name in features if name not in lerobot.EXTRAS]
    assert {name for name in episodes.column_names if name.startswith("stats/")} == {f"stats/{n}/{m}" for n in plain for m in measured}

    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1, 2], "task": ["reach the ball", "", "push"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_those_of_all_frames(tmp_path):
    clips = make()
    lerobot.export(clips, tmp_path / "out")
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    for name, key in (("observation.state", "state"), ("next.reward", "reward"), ("observation.images.wrist", "images")):
        values = np.concatenate([clip[key] for clip in clips]).astype(float)
        if key == "images":
            values = values[:, 1].transpose(0, 2, 3, 1).reshape(-1, 3, 1, 1) / 255
        elif key == "reward":
            values = values[:, None]
        for which in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(stats[name][which], getattr(values, which)(0), rtol=1e-6, err_msg=f"{name} {which}")
        assert stats[name]["count"] == [18]
        assert (np.diff([stats[name][q] for q in lerobot.QUANTILES], axis=0) >= 0).all()


@pytest.mark.filterwarnings("error")
def test_statistics_are_those_of_finite_numbers(tmp_path):
    clips = make()
    clips.frames[0]["state"][:, 0] = np.nan
    clips.frames[2]["state"][3:6, 0] = np.inf
    clips.frames[2]["reward"][1] = -np.inf
    for part in clips.frames:
        part["state"][:, 1] = np.nan
    lerobot.export(clips, tmp_path / "out")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    stats = json.loads((tmp_path / "out/meta/stats.json").read_text(), parse_constant=refuse)
    for name, key, place in (("observation.state", "state", 0), ("observation.state", "state", 2), ("next.reward", "reward", 0)):
        values = np.concatenate([clip[key].reshape(len(clip[key]), -1)[:, place] for clip in clips]).astype(float)
        for which in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(stats[name][which][place], getattr(values[np.isfinite(values)], which)(), rtol=1e-6)
    assert [stats["observation.state"][which][1] for which in ("min", "max", "mean", "std", "q50")] == [0] * 5
    assert stats["observation.state"]["count"] == [18]
    assert_equal(lerobot.LeRobotClips(tmp_path / "out"), clips)


@pytest.mark.parametrize("noted", [{"meta": [1]}, {"views": 3}, {"fields": []}, {"fields": {"state": {"shape": "4", "dtype": "float32"}}}])
def test_damaged_notes_of_ours_are_named(tmp_path, noted):
    lerobot.export(make(lengths=(2,)), tmp_path / "out")
    file = tmp_path / "out/meta/robo_repr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **noted}))
    with pytest.raises(UserError, match="robo_repr.json is not as our export"):
        lerobot.LeRobotClips(tmp_path / "out")


def test_files_keep_to_the_limits(tmp_path, monkeypatch):
    clips = make(lengths=(3, 9, 1, 4, 8, 2), size=(16, 16))
    monkeypatch.setattr(lerobot, "DATA_MB", 0.05)
    monkeypatch.setattr(lerobot, "VIDEO_MB", 0.012)
    monkeypatch.setattr(lerobot, "FILES_PER_CHUNK", 2)
    lerobot.export(clips, tmp_path / "out")
    assert_equal(lerobot.LeRobotClips(tmp_path / "out"), clips)
    for folder, ending, limit in (("data", "parquet", 0.05), ("videos/observation.images.wrist", "mp4", 0.012)):
        files = sorted((tmp_path / "out" / folder).rglob(f"*.{ending}"))
        names = [str(file.relative_to(tmp_path / "out" / folder)) for file in files]
        assert len(files) > 2
        assert names == [f"chunk-{i // 2:03d}/file-{i % 2:03d}.{ending}" for i in range(len(files))]
        assert all(file.stat().st_size <= limit * 2**20 for file in files)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_lossy_codecs_stay_close(tmp_path, codec):
    clips = make(size=(64, 96), smooth=True)
    lerobot.export(clips, tmp_path / "out", codec=codec)
    for clip, wanted in zip(lerobot.LeRobotClips(tmp_path / "out"), clips, strict=True):
        error = np.abs(clip["images"].astype(int) - wanted["images"])
        assert error.mean(axis=(1, 2, 3, 4)).max() < 3
        np.testing.assert_array_equal(clip["depth"], wanted["depth"])
    with av.open(str(tmp_path / "out/videos/observation.images.front/chunk-000/file-000.mp4")) as file:
        assert file.streams.video[0].pix_fmt == "yuv420p"


def test_refused_before_anything_is_written(tmp_path):
    clips = make()
    with pytest.raises(UserError, match="even height and width only, and these are 13 x 21. Use codec=lossless"):
        lerobot.export(clips, tmp_path / "out", codec="h264")
    with pytest.raises(UserError, match="codec=losless is not known. Did you mean codec=lossless"):
        lerobot.export(clips, tmp_path / "out", codec="losless")
    with pytest.raises(UserError, match="libsvtav1 cannot encode pictures of 1 x 1"):
        lerobot.export(make(size=(1, 1)), tmp_path / "out", codec="av1")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        lerobot.export(clips, tmp_path / "used")
    clips.views = ["a/b", "c"]
    with pytest.raises(UserError, match="no / in the name of a camera, but there is a/b"):
        lerobot.export(clips, tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["used", "used/notes.txt"]


@pytest.mark.parametrize("bytes_", [2000, 30_000])
def test_full_disk_leaves_nothing(tmp_path, bytes_):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        with pytest.raises(Failure, match="could not be written .* nothing of it was left"):
            lerobot.export(make(lengths=(40,)), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial/meta").mkdir(parents=True)  # of an export that was killed
    lerobot.export(make(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_foreign(root, sizes, **changes):
    """A dataset as others write it: one group of rows, pictures as PNG in the rows, names and types of their own."""
    lengths = [3, 2]
    generator = np.random.default_rng(1)
    total = sum(lengths)
    pictures = {view: [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(total)] for view, size in sizes.items()}
    state, action = generator.normal(size=(total, 2)), np.arange(total)
    features = {
        f"observation.{view}": {"dtype": "image", "shape": [3, *size] if view == "image" else [*size, 3], "names": None}
        for view, size in sizes.items()
    }
    features |= {
        "observation.state": {"dtype": "float64", "shape": [2], "names": {"motors": ["a", "b"]}},
        "observation.environment_state": {"dtype": "float32", "shape": [1], "names": None},
        "action": {"dtype": "int64", "shape": [1], "names": None},
        "next.reward": {"dtype": "bool", "shape": [1], "names": None},
        "note": {"dtype": "string", "shape": [1], "names": None},
        "depth": {"dtype": "float32", "shape": [5], "names": None},
        "observation.far": {"dtype": "image", "shape": [4, 4, 1], "names": None, "info": {"is_depth_map": True}},
    }
    cells = {f"observation.{view}": [{"bytes": png(picture), "path": None} for picture in part] for view, part in pictures.items()}
    columns = {"observation.state": state.tolist(), "action": action, "next.reward": action % 2 == 0, "episode_index": [0, 0, 0, 1, 1]}
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(cells | columns), root / "data/chunk-000/file-000.parquet")
    about = {
        "episode_index": [0, 1],
        "length": lengths,
        "tasks": [["open", "close"], ["open"]],
        "data/chunk_index": [0, 0],
        "data/file_index": [0, 0],
        "stats/next.success/max": [[True], [False]],
    }
    pq.write_table(pa.table(about), root / "meta/episodes/chunk-000/file-000.parquet")
    info = {"codebase_version": "v3.0", "fps": 10, "features": features, "total_episodes": 2, "total_frames": total}
    info |= {"data_path": f"data/{lerobot.FILE}.parquet", "video_path": None}
    (root / "meta/info.json").write_text(json.dumps(info | changes))
    return pictures, state, action


def test_reads_what_others_wrote(tmp_path):
    pictures, state, action = write_foreign(tmp_path, {"image": (6, 9), "images.side": (6, 9)})
    clips = lerobot.LeRobotClips(tmp_path)
    assert (clips.views, clips.size, clips.fps, clips.lengths.tolist()) == (["image", "side"], (6, 9), 10, [3, 2])
    assert {key: field.shape for key, field in clips.fields.items()} == {
        "images": (2, 3, 6, 9),
        "state": (2,),
        "actions": (1,),
        "reward": (),
    }
    assert [(known["language"], known["success"]) for known in clips.episodes] == [("open; close", True), ("open", False)]
    clip = clips[1]
    np.testing.assert_array_equal(clip["images"][:, 1].transpose(0, 2, 3, 1), pictures["images.side"][3:])
    np.testing.assert_array_equal(clip["state"], state[3:].astype(np.float32))
    np.testing.assert_array_equal(clip["actions"], action[3:, None].astype(np.float32))
    assert (clip["reward"].tolist(), clip["reward"].dtype) == ([0, 1], np.float32)


def test_cameras_of_several_sizes_have_to_be_chosen_from(tmp_path):
    pictures, *_ = write_foreign(tmp_path, {"images.top": (6, 9), "images.side": (4, 4)})
    with pytest.raises(UserError, match=r"top 6 x 9, side 4 x 4.*views="):
        lerobot.LeRobotClips(tmp_path)
    np.testing.assert_array_equal(
        lerobot.LeRobotClips(tmp_path, views=["side"])[0]["images"][:, 0].transpose(0, 2, 3, 1), pictures["images.side"][:3]
    )


@pytest.mark.parametrize(
    "version, said",
    [
        ("v2.1", "convert_dataset_v21_to_v30"),
        ("v2.0", "convert_dataset_v20_to_v21"),
        ("v1.6", "convert_dataset_v1_to_v2"),
        ("v4.0", "Update"),
    ],
)
def test_other_versions_are_named(tmp_path, version, said):
    write_foreign(tmp_path, {"image": (4, 4)}, codebase_version=version)
    with pytest.raises(UserError, match=f"of version {version}.*{said}"):
        lerobot.LeRobotClips(tmp_path)


def test_version_1_without_meta_is_named(tmp_path):
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data/info.json").write_text('{"fps": 50}')
    with pytest.raises(UserError, match="convert_dataset_v1_to_v2"):
        lerobot.LeRobotClips(tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "is no LeRobot dataset"),
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ('{"codebase_version": "v3.0"}', "not as LeRobot v3.0 writes it"),
        ('{"codebase_version": "v3.0", "fps": 0, "features": {}}', "not as LeRobot v3.0 writes it"),
        ('{"codebase_version": "v3.0", "fps": 9, "features": {"a": {"dtype": "video", "shape": [2]}}}', "not as LeRobot v3.0 writes it"),
        ('{"codebase_version": "v3.0", "fps": 9, "features": {}}', "no pictures"),
    ],
)
def test_damaged_info_is_refused(tmp_path, text, said):
    (tmp_path / "meta").mkdir()
    if text is not None:
        (tmp_path / "meta/info.json").write_text(text)
    with pytest.raises(UserError, match=said):
        lerobot.LeRobotClips(tmp_path)


def test_damaged_lists_of_episodes_are_refused(tmp_path):
    write_foreign(tmp_path, {"image": (4, 4)})
    file = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    whole = file.read_bytes()
    table = pq.read_table(file)
    for said, change in (
        ("lists 1 episodes, but meta/info.json says 2", table.slice(1)),
        ("lists 2 episodes", table.set_column(0, "episode_index", pa.array([1, 1]))),
        ("lists 9 frames, but meta/info.json says 5", table.set_column(1, "length", pa.array([3, 6]))),
        ("has no column data/file_index", table.drop_columns(["data/file_index"])),
        ("length is missing for some", table.set_column(1, "length", pa.array([3, None]))),
    ):
        pq.write_table(change, file)
        with pytest.raises(UserError, match=said):
            lerobot.LeRobotClips(tmp_path)
    for content in (whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match="file-000.parquet cannot be read"):
            lerobot.LeRobotClips(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="lists 0 episodes"):
        lerobot.LeRobotClips(tmp_path)


def test_damaged_rows_leave_the_other_episodes(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "DATA_MB", 0.0001)  # each episode has files of its own
    monkeypatch.setattr(lerobot, "VIDEO_MB", 0.0001)
    clips = make(lengths=(3, 4, 5, 6, 2, 2))
    root = tmp_path / "out"
    lerobot.export(clips, root)

    def data(number):
        return root / f"data/chunk-000/file-00{number}.parquet"

    data(0).write_bytes(data(0).read_bytes()[:100])
    data(1).unlink()
    pq.write_table(pq.read_table(data(2)).slice(1), data(2))
    video = root / "videos/observation.images.wrist/chunk-000"
    (video / "file-003.mp4").write_bytes((video / "file-003.mp4").read_bytes()[:900])
    (video / "file-004.mp4").unlink()
    found = lerobot.LeRobotClips(root)
    assert [clip["language"] for clip in found] == [clips.language(5)]
    assert list(found.broken) == [0, 1, 2, 3, 4]
    for number, said in enumerate(
        ("file-000.parquet", "file-001.parquet", "has 4 frames, but meta/episodes says 5", "file-003.mp4", "file-004.mp4")
    ):
        assert said in found.broken[number]


def test_frames_that_a_video_lacks_break_the_episode(tmp_path):
    root = tmp_path / "out"
    lerobot.export(make(lengths=(4, 6)), root)
    video = root / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    lerobot.export(make(lengths=(4, 3)), tmp_path / "shorter")
    video.write_bytes((tmp_path / "shorter" / video.relative_to(root)).read_bytes())
    found = lerobot.LeRobotClips(root)
    assert len(list(found)) == 1
    assert "3 frames of episode 1 are not there, the first is number 3" in found.broken[1]


# With lerobot itself, where it is installed


def test_lerobot_reads_what_is_exported(tmp_path, monkeypatch):
    pytest.importorskip("lerobot")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    clips = make(lengths=(5, 1, 12), views=2)
    root = tmp_path / "out"
    lerobot.export(clips, root)

    def load(**how):
        return LeRobotDataset("made/clips", root=root, video_backend="pyav", **how)

    def check(item, episode, step):
        clip = clips[episode]
        for view in range(2):
            picture = item[f"observation.images.{clips.views[view]}"].numpy()
            np.testing.assert_array_equal(np.round(picture * 255).astype(np.uint8), clip["images"][step, view])
        for name, key in (*((name, key) for key, name in lerobot.COLUMNS.items()), *((key, key) for key in lerobot.EXTRAS)):
            np.testing.assert_array_equal(item[name].numpy().reshape(-1), clip[key][step].reshape(-1), err_msg=name)
        assert item["task"] == clip["language"]
        assert bool(item["next.done"]) == (step == len(clip["images"]) - 1)

    dataset = load()
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, 18, 20)
    assert dataset.meta.stats["observation.state"]["mean"].shape == (4,)
    assert dataset.meta.stats["observation.images.front"]["q99"].shape == (3, 1, 1)
    places = [(episode, step) for episode in range(3) for step in range(clips.lengths[episode])]
    for index, place in enumerate(places):
        check(dataset[index], *place)

    chosen = load(episodes=[2])
    assert len(chosen) == 12
    check(chosen[7], 2, 7)

    around = load(delta_timestamps={"observation.images.wrist": [-0.1, 0.0, 0.05], "action": [0.0, 0.05]})
    item = around[len(places) - 2]  # the last but one of the last episode
    pictures = np.round(item["observation.images.wrist"].numpy() * 255).astype(np.uint8)
    np.testing.assert_array_equal(pictures, clips[2]["images"][[8, 10, 11], 1])
    np.testing.assert_array_equal(item["action"].numpy(), clips[2]["actions"][[10, 11]])
    assert around[5]["action_is_pad"].tolist() == [False, True]


def test_what_lerobot_writes_is_read(tmp_path, monkeypatch):
    pytest.importorskip("lerobot")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    size = {"shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.top": {"dtype": "video", **size},
        "observation.images.side": {"dtype": "image", **size},
        "observation.state": {"dtype": "float64", "shape": (4,), "names": list("abcd")},
        "action": {"dtype": "float32", "shape": (1,), "names": ["x"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        "pose": {"dtype": "float32", "shape": (2, 7), "names": None},
    }
    root = tmp_path / "theirs"
    dataset = LeRobotDataset.create("made/theirs", 10, features, root=root, use_videos=True)
    generator = np.random.default_rng(0)
    added = []
    for episode, length in enumerate((5, 3, 7)):
        frames = []
        for step in range(length):
            frame = {
                "observation.images.top": np.full((48, 64, 3), 30 * step + 5 * episode, np.uint8),
                "observation.images.side": generator.integers(0, 256, (48, 64, 3), dtype=np.uint8),
                "observation.state": generator.normal(size=4),
                "action": np.float32([step]),
                "next.reward": np.float32([step / 2]),
                "next.success": np.array([episode == 1 and step == 1]),
                "pose": np.zeros((2, 7), np.float32),
            }
            dataset.add_frame({**frame, "task": f"do {episode % 2}"})
            frames.append(frame)
        dataset.save_episode()
        added.append(frames)
    dataset.finalize()
    clips = lerobot.LeRobotClips(root)
    assert (clips.views, clips.size, clips.fps, clips.lengths.tolist()) == (["top", "side"], (48, 64), 10, [5, 3, 7])
    assert [(known["language"], known["success"]) for known in clips.episodes] == [("do 0", False), ("do 1", True), ("do 0", False)]
    for clip, frames in zip(clips, added, strict=True):
        wanted = {name: np.stack([frame[name] for frame in frames]) for name in features}
        assert np.abs(clip["images"][:, 0].transpose(0, 2, 3, 1).astype(int) - wanted["observation.images.top"]).max() <= 3
        np.testing.assert_array_equal(clip["images"][:, 1].transpose(0, 2, 3, 1), wanted["observation.images.side"])
        np.testing.assert_array_equal(clip["state"], wanted["observation.state"].astype(np.float32))
        np.testing.assert_array_equal(clip["actions"], wanted["action"])
        np.testing.assert_array_equal(clip["reward"], wanted["next.reward"][:, 0])
