"""The command that looks into clips, draws them, and turns them into other formats and back."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from robo_repr.data import ClipStore, ClipWriter, formats
from robo_repr.data.base import BrokenEpisode, Clips

sys.path[:0] = [str(Path(__file__).parents[1] / "scripts"), str(Path(__file__).parent / "data")]
import clip_pictures  # noqa: E402
import clips  # noqa: E402
from clip_samples import SIZE, VIEWS, frames  # noqa: E402

LENGTHS = [5, 12, 3]
NAMES = {"segment_names": ["floor", "ball"], "keypoint_names": ["tip"]}


def truth(length, size=SIZE):
    """Ground truth: a ball in the middle, and a point in the third column and second row of the first view, off the second one."""
    height, width = size
    depth = np.full((length, 2, *size), 2, np.float16)
    depth[:, :, :2] = np.inf
    segments = np.zeros((length, 2, *size), np.int16)
    segments[:, :, height // 2 :, : width // 2] = 1
    points = np.tile(np.float32([[[2, 1, 1]], [[-1, -1, -1]]]), (length, 1, 1, 1))
    return {"depth": depth, "segmentation": segments, "keypoints": points}


def record(path, task="reach", extra=lambda length: {}, meta=(), **more):
    with ClipWriter(path, views=VIEWS, size=SIZE, fps=10, meta={"task": task, "camera": "L2", **dict(meta)}) as out:
        for i, length in enumerate(LENGTHS):
            out.add({**frames(length, i), **extra(length)}, language=f"{task} now {i}", success=i == 0, task=task, **more)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        assert clips.main([str(word) for word in words]) == code
        return capsys.readouterr()

    return call


def one_paragraph(printed):
    assert not printed.out and len(printed.err.splitlines()) == 1 and "Traceback" not in printed.err
    return printed.err


def damage(store, key="images"):
    """Flips a bit in the first chunk, which holds all frames of these short episodes."""
    file = next(file for file in sorted((store / "data" / key / "c").rglob("*")) if file.is_file())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


# --- info ---------------------------------------------------------------------------------------------------------------------------------
def test_info_says_what_is_there(run):
    record(Path("demos"), meta={"made_by": {"command": "record it", "seed": 3}})
    found = json.loads(run("info", "demos", "--json").out)
    expected = {
        "episodes": 3,
        "frames": 20,
        "views": VIEWS,
        "size": list(SIZE),
        "fps": 10,
        "task": "reach",
        "camera": "L2",
        "success": 1 / 3,
    }
    assert {key: found[key] for key in expected} == expected and found["fields"]["camera"] == {"shape": [2, 8], "dtype": "float32"}
    assert found["bytes"] == sum(file.stat().st_size for file in Path("demos").rglob("*") if file.is_file())
    text = run("info", "demos").out
    assert all(word in text for word in ["reach", "33 %", "3 to 12", "12 x 16", "record it", "L2", "float32", '"reach now 0" and 2 more'])
    assert max(map(len, text.splitlines())) <= 80


def test_info_of_several_stores_read_as_one(run):
    for task in ("reach", "push"):
        record(Path("all") / task, task, meta={"made_by": {"seed": task}})
    record(Path("other") / "door", "door", extra=truth)
    found = json.loads(run("info", "all", "--json").out)
    assert (found["episodes"], found["frames"], found["task"], found["camera"]) == (6, 40, ["push", "reach"], "L2")
    assert found["bytes"] == sum(file.stat().st_size for file in Path("all").rglob("*") if file.is_file())
    assert found["made_by"] == [{"seed": "push"}, {"seed": "reach"}]
    several = json.loads(run("info", "all", "other/door", "--json").out)
    assert (several["episodes"], several["stores"], "depth" in several["fields"]) == (9, 3, False)


def test_info_of_pictures(run):
    Path("photos").mkdir()
    for i in range(2):
        Image.new("RGB", (30, 20)).save(f"photos/{i}x.png")
    Path("photos/broken.png").write_text("none")
    printed = run("info", "photos", "kind=images", "size=[10,12]", "--json")
    found = json.loads(printed.out)
    assert (found["episodes"], found["size"], found["task"], list(found["skipped"])) == (2, [10, 12], None, ["broken.png"])
    assert found["bytes"] == sum(Path(f"photos/{i}x.png").stat().st_size for i in range(2))


def test_names_cannot_write_to_the_terminal(run):
    name = os.fsdecode(b"de\x1b[31mmo\xff")
    record(Path(name))
    for words in (("info", name), ("check", name), ("info", f"{name}/nowhere")):
        printed = "".join(run(*words, code=2 if "nowhere" in words[1] else 0))
        assert "\x1b" not in printed and "de\\x1b[31mmo\\udcff" in printed
    assert json.loads(run("info", name, "--json").out)["path"] == name


def test_a_reader_that_has_enough_ends_it_quietly(monkeypatch, capfd):
    record(Path("demos"))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert clips.main(["info", "demos"]) == 0 and clips.main(["--help"]) == 0
    assert not capfd.readouterr().err


# --- check --------------------------------------------------------------------------------------------------------------------------------
def test_check_names_what_is_damaged(run):
    record(Path("all/one"))
    record(Path("all/two"))
    assert "All 6 episodes of all are whole: 40 frames" in run("check", "all").out
    damage(Path("all/two"))
    printed = run("check", "all", code=1).out
    assert all(f"episode {i}: all/two: episode {i - 3} is damaged" in printed for i in (3, 4, 5)) and "episode 2:" not in printed
    found = json.loads(run("check", "all", "--json", code=1).out)
    assert (list(found["damaged"]), found["episodes"], found["whole"]) == (["3", "4", "5"], 6, 3)


def test_check_reads_all_of_long_episodes_in_pieces(run, monkeypatch):
    record(Path("demos"))
    monkeypatch.setattr(clip_pictures, "PIECE", 5 * 2 * 3 * SIZE[0] * SIZE[1])
    read, asked = ClipStore.read_fields, []

    def late(self, episode, start, stop, keys):
        asked.append((episode, start, stop))
        if stop == 12:
            raise BrokenEpisode("the end is gone")
        return read(self, episode, start, stop, keys)

    monkeypatch.setattr(ClipStore, "read_fields", late)
    assert "episode 1: the end is gone" in run("check", "demos", code=1).out
    assert asked == [(0, 0, 5), (1, 0, 5), (1, 5, 10), (1, 10, 12), (2, 0, 3)]


def test_a_signal_ends_it(run, monkeypatch):
    record(Path("demos"))
    read = ClipStore.read_fields

    def signalled(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(self, *args)

    monkeypatch.setattr(ClipStore, "read_fields", signalled)
    assert "stopped reading at" in run("check", "demos", code=143).err


# --- show ---------------------------------------------------------------------------------------------------------------------------------
def film(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_film_and_sheet_show_the_frames(run):
    """Flat pictures, brighter from step to step; the second view shows blue."""
    with ClipWriter("demos", views=VIEWS, size=SIZE, fps=10) as out:
        for _ in range(2):
            images = np.zeros((8, 2, 3, *SIZE), np.uint8)
            images[:, 0] = 30 * np.arange(8)[:, None, None, None]
            images[:, 1, 2] = 200
            out.add({"images": images})
    printed = run("show", "demos").out
    assert "runs/show/demos/sheet.png" in printed and "runs/show/demos/clips.mp4" in printed
    pictures, pause = film("runs/show/demos/clips.mp4"), 6
    assert len(pictures) == 2 * (8 + pause)
    height, width = clip_pictures.panel_size(SIZE, (720, 640))
    assert (height, width) == (480, 640)  # 40 times
    for step, picture in enumerate([*pictures[:8], *pictures[14:22]]):
        left, right = picture[-height // 2, width // 2], picture[-height // 2, -width // 2]
        assert np.abs(left - 30 * (step % 8)).max() < 12 and np.abs(right - [0, 0, 200]).max() < 12
    sheet = np.asarray(Image.open("runs/show/demos/sheet.png").convert("RGB")).astype(int)
    blue = (sheet == [0, 0, 200]).all(axis=2)
    cell = clip_pictures.panel_size(SIZE, clip_pictures.CELL)
    assert blue.sum() == 2 * 8 * cell[0] * cell[1]  # nothing is written over a picture
    assert all((sheet == 30 * step).all(axis=2).sum() >= 2 * cell[0] * cell[1] for step in range(1, 8))


def test_ground_truth_is_drawn(run):
    record(Path("plain"))
    record(Path("true"), extra=truth, meta=NAMES)
    for name in ("plain", "true"):
        run("show", name, "episodes=1", f"out={name}-pictures")
    plain, true = (film(f"{name}-pictures/clips.mp4")[0] for name in ("plain", "true"))
    (plain_height, _), (height, width) = (clip_pictures.panel_size(SIZE, (720 // kinds, 640)) for kinds in (1, 3))
    assert len(true) - len(plain) == 3 * height - plain_height + 2 * clip_pictures.LINE
    segments, depth = true[-height:], true[-2 * height - clip_pictures.LINE :][:height]
    assert np.abs(segments[height // 4, width // 4] - segments[3 * height // 4, width // 4]).max() > 60
    assert np.abs(segments[height // 4, width // 4] - segments[3 * height // 4, 3 * width // 4]).max() < 12
    assert depth[2, 2].max() < 12 and depth[height // 2, 2].min() > 200  # nothing there, and the nearest


def test_points_are_drawn_where_they_are_and_not_where_they_are_not():
    canvas = clip_pictures._Canvas(160, 120)
    points = np.array([[2.0, 1.0], [-1.0, -1.0], [15.4, 11.0], [16.0, 3.0]])
    canvas.panel(0, 0, clip_pictures.Panel("", np.full((*SIZE, 3), 90, np.uint8), points), (120, 160))
    drawn = np.argwhere((np.asarray(canvas.image) != 90).any(axis=2))
    near = [np.abs(drawn - place).max(axis=1) <= 6 for place in ([15, 25], [115, 159])]
    assert all(any_near.any() for any_near in near) and (near[0] | near[1]).all()


def test_long_words_stay_in_their_place(run):
    text = "go " + "on and " * 200
    with ClipWriter("demos", views=VIEWS, size=SIZE, fps=10) as out:
        out.add({"images": frames(3)["images"]}, language=text, success=True)
    run("show", "demos")
    sheet = np.asarray(Image.open("runs/show/demos/sheet.png"))
    assert (sheet[:, -clip_pictures.MARGIN + 2 :] == clip_pictures.BACKGROUND).all()
    green = (sheet == clip_pictures.OUTCOMES[True][1]).all(axis=2)
    assert green.sum() > 10  # the outcome has its place behind it
    lines = clip_pictures._wrapped(text, 500, 2)
    assert len(lines) == 2 and " ".join(lines) == text.strip()
    assert clip_pictures._length(lines[0]) <= 500 and clip_pictures._length(clip_pictures._shortened(lines[1], 500)) <= 500


def test_show_leaves_out_what_is_damaged(run, monkeypatch):
    record(Path("demos"))
    read = ClipStore.read_fields

    def broken(self, episode, start, stop, keys):
        if episode == 0 or (episode == 1 and 5 in range(start, stop) and stop - start > 1):
            raise BrokenEpisode(f"episode {episode} is bent")
        return read(self, episode, start, stop, keys)

    monkeypatch.setattr(ClipStore, "read_fields", broken)
    monkeypatch.setattr(clip_pictures, "PIECE", 4 * 2 * 3 * SIZE[0] * SIZE[1])
    err = run("show", "demos").err
    assert "episode 0 is bent" in err and "episode 1 is bent" in err
    assert len(film("runs/show/demos/clips.mp4")) == (4 + 6) + (3 + 6)

    def gone(self, episode, *_):
        raise BrokenEpisode(f"episode {episode} is bent")

    monkeypatch.setattr(ClipStore, "read_fields", gone)
    assert "None of these episodes" in one_paragraph(run("show", "demos", code=2))


# --- import and export --------------------------------------------------------------------------------------------------------------------
def test_what_goes_out_comes_back(run):
    record(Path("demos"))
    assert "3 episodes, 20 frames" in run("export", "demos", "format=lerobot", "out=elsewhere").out
    words = ("import", "elsewhere", "format=lerobot", "out=back")
    assert "3 episodes, 20 frames" in run(*words).out and "(3 were there before)" in run(*words).out
    before, after = ClipStore("demos"), ClipStore("back")
    assert (after.views, after.size, after.fps) == (before.views, before.size, before.fps)
    for one, other in zip(before, after, strict=True):
        assert one["language"] == other["language"] and all(np.array_equal(one[key], other[key]) for key in before.fields)
    assert after.meta["made_by"]["command"] == "python scripts/clips.py import elsewhere format=lerobot out=back"


class Few(Clips):
    """A reader with keys of its own."""

    def __init__(
        self,
        path: str | Path,
        views: Sequence[str] | None = None,
        size: int | Sequence[int] = 12,
        rate: float | None = None,
        turned: bool = False,
        part: str | None = None,
    ):
        given.append({"views": views, "size": size, "rate": rate, "turned": turned, "part": part})
        store = ClipStore("demos")
        self.__dict__.update(store.__dict__)
        self.read_fields, self.name = store.read_fields, str(path)


given: list[dict] = []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["views=front"], {"views": ["front"]}),
        (["views=[front, wrist]", "part=a,b"], {"views": ["front", "wrist"], "part": "a,b"}),
        (["size=7", "rate=7"], {"size": 7, "rate": 7.0}),
        (["size=7,9", "turned=true", "views=null"], {"size": [7, 9], "turned": True, "views": None}),
    ],
)
def test_a_format_gets_its_keys(run, monkeypatch, words, expected):
    record(Path("demos"))
    monkeypatch.setattr(formats, "reader", lambda format: Few)
    given.clear()
    run("import", "demos", "format=few", "out=new", *words)
    assert given == [{"views": None, "size": 12, "rate": None, "turned": False, "part": None, **expected}]


def test_an_import_that_is_stopped_goes_on(run, monkeypatch):
    record(Path("demos"))
    monkeypatch.setattr(formats, "reader", lambda format: Few)
    add = ClipWriter.add

    def stopped(self, *args, **known):
        add(self, *args, **known)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ClipWriter, "add", stopped)
    printed = run("import", "demos", "format=few", "out=new", code=130)
    assert "the same command goes on" in printed.err and len(ClipStore("new")) == 1
    monkeypatch.setattr(ClipWriter, "add", add)
    assert "3 episodes (1 were there before), 20 frames" in run("import", "demos", "format=few", "out=new").out


def test_damaged_episodes_are_counted(run, monkeypatch):
    record(Path("demos"))
    read = ClipStore.read_fields

    def broken(self, episode, *args):
        if episode == 1:
            raise BrokenEpisode("episode 1 is bent")
        return read(self, episode, *args)

    monkeypatch.setattr(ClipStore, "read_fields", broken)
    monkeypatch.setattr(formats, "reader", lambda format: Few)
    for words, lost in (
        (("import", "demos", "format=few", "out=new"), "1 damaged"),
        (("export", "demos", "format=r3m", "out=manifest"), "; 1 is left out"),
    ):
        printed = run(*words)
        assert "2 episodes, 8 frames" in printed.out and lost in printed.out and "left out: episode 1 is bent" in printed.err


@pytest.mark.parametrize(
    ("format", "kept"), [("minari", "2 episodes, 7 frames"), ("r3m", "1 episodes, 5 frames"), ("lerobot", "3 episodes")]
)
def test_only_what_was_written_is_counted(run, monkeypatch, format, kept):
    monkeypatch.setattr(sys.modules[__name__], "LENGTHS", [5, 1, 2])
    record(Path("demos"))
    printed = run("export", "demos", f"format={format}", "out=new").out
    assert kept in printed and ("left out" in printed) == (format != "lerobot")


def test_fields_that_do_not_go_out_are_named(run):
    record(Path("one"), extra=truth, meta=NAMES)
    record(Path("other"))
    assert "left out: depth, keypoints, segmentation, which" in run("export", "one", "other", "format=lerobot", "out=new").err
    assert "left out" not in run("export", "one", "one", "format=lerobot", "out=same").err


@pytest.mark.parametrize("format", ["lerobot", "minari", "r3m"])
def test_a_store_without_episodes_is_not_damaged(run, format):
    ClipWriter("demos", views=VIEWS, size=SIZE, fps=10).close()
    assert "has no episode yet" in one_paragraph(run("export", "demos", f"format={format}", "out=new", code=2))


# --- mistakes -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "No command is named"),
        (["inof", "demos"], "Did you mean command=info"),
        (["info"], "no path is named"),
        (["info", "nowhere"], "nowhere is not there"),
        (["info", "demos", "--jsn"], "--jsn"),
        (["info", "demos", "siez=3"], "Did you mean key=size"),
        (["info", "photos", "size=large"], "size is a whole number"),
        (["info", "demos", "kind="], "gives no value"),
        (["info", "demos", "other"], "views front, wrist, the second top, wrist"),
        (["check", "empty"], "it is empty"),
        (["show", "demos", "episodes=0"], "at least 1"),
        (["show", "demos", "episodes=1.5"], "a whole number"),
        (["show", "demos", "episods=1"], "Did you mean key=episodes"),
        (["show", "demos", "out=demos/pictures"], "where only clips belong"),
        (["show", "demos", "out=/dev/null/x"], "cannot be made"),
        (["show", "demos", "--json"], "--json goes with info and check"),
        (["import", "demos", "out=new"], "format=lerobot"),
        (["import", "demos", "format=r3m"], "out=FOLDER"),
        (["import", "demos", "format=r3n", "out=new"], "Did you mean format=r3m"),
        (["import", "nowhere", "format=r3m", "out=new"], "nowhere is not there"),
        (["import", "photos", "format=r3m", "out=full"], "not empty"),
        (["import", "photos", "photos", "format=r3m", "out=new"], "one by one"),
        (["import", "photos", "format=r3m", "out=new", "sise=3"], "Did you mean key=size"),
        (["import", "photos", "format=images", "out=photos/new"], "lies in photos"),
        (["import", "n" * 300, "format=r3m", "out=new"], "is not there"),
        (["import", "photos", "format=images", f"out={'n' * 300}"], "File name too long"),
        (["show", "demos", "out=\ud800"], "cannot be made"),
        (["export", "demos", "format=lerobot", f"out={'n' * 300}"], "cannot be written"),
        (["export", "demos", "format=lerobot", "out=\ud800"], "cannot be the name"),
        (["export", "demos", "format=lerobot", "out=demos/inside"], "lies in the clip store"),
        (["export", "demos", "format=robomimic", "out=new"], "only read"),
        (["export", "demos", "format=r3m", "out=full"], "not empty"),
        (["export", "demos", "format=lerobot", "out=new", "codek=x"], "Did you mean key=codec"),
    ],
)
def test_mistakes_are_one_paragraph(run, words, answer, monkeypatch):
    if "demos" in words:
        record(Path("demos"))
    if "other" in words:
        ClipWriter("other", views=["top", "wrist"], size=SIZE, fps=10).close()
        with ClipWriter("other", views=["top", "wrist"], size=SIZE, fps=10) as out:
            out.add(frames(2))
    for folder in ("empty", "full", "photos"):
        Path(folder).mkdir()
    Path("full/mine.txt").write_text("mine")
    Image.new("RGB", (8, 8)).save("photos/a.png")
    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS})
    if words[:2] == ["import", "photos"] and "out=full" in words:
        monkeypatch.setattr(formats, "reader", lambda format: lambda path: None)  # told before the writer is asked
    assert answer in one_paragraph(run(*words, code=2))
    assert not Path("new").exists() and [file.name for file in Path("full").iterdir()] == ["mine.txt"]


def test_what_cannot_be_written_is_a_failure(run, monkeypatch):
    record(Path("demos"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_pictures, "write_film", full)
    assert "No space left" in one_paragraph(run("show", "demos", code=1))
