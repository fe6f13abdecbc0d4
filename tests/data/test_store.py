import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from clip_samples import SIZE, VIEWS, frames
from zarr.storage import LocalStore

from robo_repr.core.errors import Failure, UserError
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.store import CHUNK_BYTES, ClipStore, ClipWriter

LENGTHS = [5, 1, 300, 7]  # one of them fills more than a chunk of small numbers


def writer(path, **changes):
    return ClipWriter(path, **{"views": VIEWS, "size": SIZE, "fps": 20, "meta": {"task": "reach"}, **changes})


@pytest.fixture
def store(tmp_path):
    with writer(tmp_path / "clips") as out:
        for i, length in enumerate(LENGTHS):
            out.add(frames(length, i), language=f"episode {i}", success=i % 2 == 0, terminal=i == 1)
    return tmp_path / "clips"


def same(clip, expected):
    assert all(np.array_equal(clip[key], value) and clip[key].dtype == value.dtype for key, value in expected.items())
    return True


def test_what_is_written_is_read_in_any_window(store):
    clips = ClipStore(store)
    assert (clips.views, clips.size, clips.fps, clips.lengths.tolist()) == (VIEWS, SIZE, 20.0, LENGTHS)
    for i, length in enumerate(LENGTHS):
        same(clips[i], frames(length, i))
    window = clips.read(2, 290, 297, ["images", "reward"])
    same(window, {key: value[290:297] for key, value in frames(300, 2).items() if key in ("images", "reward")})
    assert "actions" not in window and window["language"] == "episode 2"
    last = clips[1]
    assert last["is_first"].tolist() == last["is_last"].tolist() == last["is_terminal"].tolist() == [True]
    assert clips[3]["is_terminal"].sum() == 0 and clips[3]["is_last"].tolist() == [False] * 6 + [True]
    with pytest.raises(IndexError):
        clips.read(0, 2, 6)
    with pytest.raises(IndexError):
        clips.read(0, -1, 3)
    with pytest.raises(UserError, match="has no depth"):
        clips.read(0, keys=["depth"])


def test_plain_zarr_reads_the_arrays(store):
    group = zarr.open_group(store, mode="r")
    assert np.asarray(group["meta/episode_ends"][:]).tolist() == np.cumsum(LENGTHS).tolist()
    assert np.array_equal(np.asarray(group["data/images"][5]), frames(1, 1)["images"][0])


def test_a_writer_goes_on_where_another_one_stopped(store):
    with writer(store, meta={"task": "reach", "made_by": "another command"}) as out:
        assert len(out) == 4 and out.episodes[2]["success"] is True
        out.add(frames(3, 9), language="later")
    clips = ClipStore(store)
    assert clips.lengths.tolist() == [*LENGTHS, 3] and clips.language(4) == "later"
    assert all(same(clips[i], frames(length, i)) for i, length in enumerate(LENGTHS)) and same(clips[4], frames(3, 9))


KILLED = """
import sys; sys.path.insert(0, {tests!r})
from test_store import writer, frames
import robo_repr.data.store as store, os, signal
with writer({path!r}) as out:
    out.add(frames(4, 0), language="whole"); out.add(frames(6, 1), language="whole too")
    calls = 0
    put = store.LocalStore.set
    async def set(self, *args, **kwargs):
        global calls
        calls += 1
        if calls == {at}: os.kill(os.getpid(), signal.SIGKILL)
        await put(self, *args, **kwargs)
    store.LocalStore.set = set
    out.add(frames(8, 2), language="open")
print("finished", calls)
"""


@pytest.mark.parametrize("at", [1, 4, 9, 11, 12])
def test_a_killed_writer_loses_the_open_episode_alone(tmp_path, at):
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "clips"), at=at)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    clips = ClipStore(tmp_path / "clips")
    assert clips.lengths.tolist() == [4, 6] and same(clips[0], frames(4, 0)) and same(clips[1], frames(6, 1))
    with writer(tmp_path / "clips") as out:
        out.add(frames(3, 3), language="next")
    clips = ClipStore(tmp_path / "clips")
    assert clips.lengths.tolist() == [4, 6, 3] and clips.language(2) == "next" and same(clips[2], frames(3, 3))
    assert same(clips[1], frames(6, 1)) and not list((tmp_path / "clips").rglob("*.partial"))


def test_killed_at_its_very_first_episode_it_begins_again(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "clips"), at=3)
    code = code.replace('    out.add(frames(4, 0), language="whole"); out.add(frames(6, 1), language="whole too")\n', "")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGKILL
    assert len(ClipStore(tmp_path / "clips")) == 0
    with writer(tmp_path / "clips") as out:
        out.add({key: value for key, value in frames(4, 0).items() if key != "state"})  # other keys than the killed one's
    assert ClipStore(tmp_path / "clips").lengths.tolist() == [4]


def chunk_files(store, key):
    return sorted(
        (file for file in (store / "data" / key / "c").rglob("*") if file.is_file()),
        key=lambda file: int(file.relative_to(store / "data" / key / "c").parts[0]),
    )


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
@pytest.mark.parametrize(("key", "lost"), [("images", [0, 1, 2]), ("state", [0, 1, 2])])
def test_a_damaged_chunk_costs_the_episodes_that_it_holds(store, key, lost, damage):
    file = chunk_files(store, key)[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    clips = ClipStore(store)
    with pytest.raises(BrokenEpisode, match=f"episode 0 is damaged .*{key}"):
        clips.read(0)
    assert [clip["language"] for clip in clips] == ["episode 3"] and sorted(clips.broken) == lost
    same(clips[3], frames(7, 3))
    other = "camera" if key == "state" else "state"
    assert np.array_equal(clips.read(0, keys=[other])[other], frames(5, 0)[other])  # what is whole is read


def test_black_pictures_are_not_taken_for_missing_ones(tmp_path):
    with writer(tmp_path / "clips") as out:
        out.add({"images": np.zeros((400, 2, 3, *SIZE), np.uint8)})
    assert not ClipStore(tmp_path / "clips")[0]["images"].any()


def test_a_writer_that_goes_on_keeps_black_pictures_too(tmp_path):
    nothing = {"images": np.zeros((3, 2, 3, *SIZE), np.uint8), "reward": np.zeros(3, np.float32)}
    for _ in range(3):
        with writer(tmp_path / "clips") as out:
            out.add(nothing)
    clips = ClipStore(tmp_path / "clips")
    assert len(list(clips)) == 3 and not clips.broken


@pytest.mark.parametrize("damage", ["c/0", "zarr.json", "flip"])
def test_lost_ends_are_damage_and_no_reason_to_begin_again(store, damage):
    ends = store / "meta" / "episode_ends"
    if damage == "flip":
        data = bytearray((ends / "c/0").read_bytes())
        data[9] ^= 1
        (ends / "c/0").write_bytes(data)
    else:
        (ends / damage).unlink()
    before = sorted(store.rglob("*"))
    for opened in (ClipStore, writer):
        with pytest.raises(UserError, match="does not tell where its episodes end"):
            opened(store)
    assert sorted(store.rglob("*")) == before


def test_a_store_is_read_wherever_its_reader_goes(store, monkeypatch, tmp_path):
    monkeypatch.chdir(store.parent)
    clips = ClipStore(store.name)
    again = pickle.loads(pickle.dumps(clips))
    monkeypatch.chdir(tmp_path.parent)
    assert same(clips[0], frames(5, 0)) and same(again[3], frames(7, 3))


def test_no_store_in_a_store(store):
    with pytest.raises(UserError, match="lies in the clip store"):
        writer(store / "more")
    with pytest.raises(UserError, match="cannot be written as JSON"), writer(store) as out:
        out.add(frames(3), score=float("nan"))


def test_a_full_disk_loses_only_the_open_episode(store, monkeypatch):
    put, room = LocalStore.set, 3

    async def full(self, *args, **kwargs):
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await put(self, *args, **kwargs)

    with writer(store) as out:
        monkeypatch.setattr(LocalStore, "set", full)
        with pytest.raises(Failure, match="No space left"):
            out.add(frames(300, 8), language="lost")
        assert len(out) == 4
        clips = ClipStore(store)
        assert clips.lengths.tolist() == LENGTHS and all(same(clips[i], frames(length, i)) for i, length in enumerate(LENGTHS))
        monkeypatch.setattr(LocalStore, "set", put)
        out.add(frames(9, 9), language="kept")  # space was made
    assert same(ClipStore(store)[4], frames(9, 9)) and ClipStore(store).language(4) == "kept"


def test_chunks_stay_near_their_size(tmp_path):
    for name, size in (("small", (84, 84)), ("large", (480, 640))):
        with ClipWriter(tmp_path / name, views=["a", "b"], size=size, fps=20) as out:
            out.add({"images": np.zeros((1, 2, 3, *size), np.uint8)})
        array = zarr.open_group(tmp_path / name, mode="r")["data/images"]
        chunk = int(np.prod(array.chunks))
        assert chunk == np.prod(array.shape[1:]) if name == "large" else CHUNK_BYTES / 2 < chunk <= CHUNK_BYTES


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"views": ["front", "left"]}, "views: .*wrist.* before, .*left.* now"),
        ({"size": (12, 12)}, r"size: \(12, 16\) before, \(12, 12\) now"),
        ({"fps": 30}, "fps: 20.0 before, 30.0 now"),
        ({"meta": {"task": "push"}}, "task: reach before, push now"),
    ],
)
def test_other_settings_do_not_go_into_one_store(store, changes, says):
    with pytest.raises(UserError, match=says):
        writer(store, **changes)
    assert len(ClipStore(store)) == 4


def test_episodes_that_differ_are_refused(store):
    good = frames(3)
    with writer(store) as out:
        for bad, says in (
            ({**good, "images": good["images"][:, :1]}, r"takes images \(T, 2, 3, 12, 16\)"),
            ({**good, "images": good["images"].astype(np.float32)}, "float32"),
            ({key: value for key, value in good.items() if key != "images"}, "these are none"),
            ({key: value for key, value in good.items() if key != "state"}, "state: .* before, none now"),
            ({**good, "actions": np.zeros((3, 4), np.float32)}, r"actions: \(3,\) of float32 before, \(4,\)"),
            ({**good, "state": good["state"].astype(np.float64)}, r"a frame's state is \(S,\) float32, .*this is \(4,\) of float64"),
            ({**good, "reward": good["reward"][:2]}, "reward has 2 frames, but images 3"),
            ({**good, "velocity": good["state"]}, "key=velocity is not known"),
            ({key: value[:0] for key, value in good.items()}, "T at least 1"),
        ):
            with pytest.raises(UserError, match=says):
                out.add(bad)
    assert ClipStore(store).lengths.tolist() == LENGTHS


def test_folders_that_are_no_stores(tmp_path, store):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no clip store"):
        ClipStore(tmp_path / "other")
    with pytest.raises(UserError, match="nothing was written"):
        writer(tmp_path / "other")
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="is not there"):
        ClipStore(tmp_path / "nowhere")
    described = json.loads((store / "zarr.json").read_text())
    described["attributes"]["version"] = 2
    (store / "zarr.json").write_text(json.dumps(described))
    for opened in (ClipStore, writer):
        with pytest.raises(UserError, match="version 2; this suite reads up to version 1"):
            opened(store)


@pytest.mark.parametrize("changes", [{"fps": 0}, {"fps": float("nan")}, {"views": ["front", "front"]}, {"views": []}])
def test_settings_that_no_store_can_have(tmp_path, changes):
    with pytest.raises(UserError, match=f"{next(iter(changes))}=.* is not possible"):
        writer(tmp_path / "clips", **changes)
    assert not (tmp_path / "clips").exists()


def test_one_writer_at_a_time(store):
    with writer(store), pytest.raises(UserError, match=f"Process {os.getpid()} is writing"):
        writer(store)
    writer(store).close()


def test_a_broken_line_about_an_episode_costs_its_details_alone(store):
    lines = (store / "episodes.jsonl").read_text().splitlines()
    (store / "episodes.jsonl").write_text("\n".join([lines[0], lines[1][:10], *lines[2:]]))
    clips = ClipStore(store)
    assert [clips.language(i) for i in range(4)] == ["episode 0", "", "episode 2", "episode 3"]
    same(clips[1], frames(1, 1))
