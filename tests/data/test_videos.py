"""Videos give the frames that a full decode gives, whatever container and codec they come in; what is broken is named and left out."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from robo_repr.core.errors import UserError
from robo_repr.data import videos as module
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.index import NAME
from robo_repr.data.videos import Videos, holds_videos

WIDE, HIGH = 64, 48


def shade(number):
    return 8 + 10 * number % 240


def film(
    path, codec="libx264", frames=24, pix="yuv420p", rate=Fraction(25), times=None, unit=None, b=0, gop=6, draw=None, setup=None, **options
):
    """A small file whose frame k is of grey `shade(k)` with a moving bar, or what `draw` gives (H, W, 3)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"bf": str(b), "g": str(gop), **options})
        first = draw(0) if draw else np.zeros((HIGH, WIDE, 3), np.uint8)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], pix
        stream.bit_rate = 8_000_000
        if unit:
            stream.time_base = stream.codec_context.time_base = unit
        if setup:
            setup(stream)
        for number in range(frames):
            if draw:
                picture = draw(number)
            else:
                picture = np.full((HIGH, WIDE, 3), shade(number), np.uint8)
                picture[:, 2 * number % WIDE :][:, :4] = (200, 40, 90)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix)
            frame.pts, frame.time_base = (times[number] if times else number), unit or 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise(number):
    return np.random.default_rng(number).integers(0, 255, (HIGH, WIDE, 3), dtype=np.uint8)


def full_decode(path):
    """All frames (T, 3, H, W) in their own size, by nothing but a decoder that starts at the beginning."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in container.decode(video=0)])


def numbers(images):
    """Which frames of `film` are shown, by their grey."""
    grey = np.median(images[:, 0].reshape(len(images), -1), axis=1)
    return [int(np.abs(np.array([shade(k) for k in range(24)]) - each).argmin()) for each in grey]


KINDS = {
    "plain.mp4": {},
    "b.mp4": {"b": 3, "gop": 12},
    "b.mkv": {"b": 3},
    "b.avi": {"b": 3},
    "open.mkv": {"b": 3, "x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=8"},
    "late.mov": {"b": 2, "times": list(range(90, 114))},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4b.avi": {"codec": "mpeg4", "b": 2},
    "motion.avi": {"codec": "mjpeg", "pix": "yuvj420p"},
    "hidden.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "10"},
    "vp9.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "10", "rate": Fraction(30)},
    "moving.gif": {"codec": "gif", "pix": "gray", "rate": Fraction(30)},
    "ten.mkv": {"codec": "ffv1", "pix": "yuv444p10le"},
    "alpha.mov": {"codec": "qtrle", "pix": "argb"},
    "grey.mkv": {"codec": "ffv1", "pix": "gray"},
    "programme.mpg": {"codec": "mpeg2video", "b": 2},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_window_is_that_of_a_full_decode(tmp_path, name):
    path = film(tmp_path / name, **KINDS[name])
    clips = Videos(path, size=(HIGH, WIDE))
    assert clips.lengths.tolist() == [24] and clips.episodes[0]["source"] == name and clips.views == ["video"]
    assert clips.fps == pytest.approx(float(KINDS[name].get("rate", 25)), rel=2e-3)
    whole = clips.read(0)["images"]
    assert whole.shape == (24, 1, 3, HIGH, WIDE) and whole.dtype == np.uint8
    assert numbers(whole[:, 0]) == list(range(24))
    # Chroma is interpolated here and there; what is decoded is the same.
    assert np.abs(whole[:, 0].astype(int) - full_decode(path)).mean() < 4
    for length in (1, 5):
        for start in range(24 - length, -1, -1):
            assert np.array_equal(clips.read(0, start, start + length)["images"], whole[start : start + length]), (start, length)


def test_decoding_times_given_for_presentation_times(tmp_path):
    """Some cameras' software writes them so; the decoder's order is the right one."""
    film(tmp_path / "right.mp4", b=3, gop=12)
    with av.open(str(tmp_path / "right.mp4")) as source, av.open(str(tmp_path / "wrong.mp4"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        delay = -packets[0].dts
        for packet in packets:
            packet.pts = packet.dts = packet.dts + delay
            packet.stream = stream
            container.mux(packet)
    clips = Videos(tmp_path / "wrong.mp4", size=(HIGH, WIDE))
    assert numbers(clips.read(0)["images"][:, 0]) == list(range(24))
    for start in range(24):
        assert numbers(clips.read(0, start, start + 1)["images"][:, 0]) == [start]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
def test_a_window_is_decoded_from_the_key_frame_before_it(tmp_path, monkeypatch, name):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    clips = Videos(film(tmp_path / name, codec, gop=8, sc_threshold="0"))
    decoded = []
    monkeypatch.setattr(module, "_decode", lambda packet, begun: decoded.append(packet.pts) or packet.decode())
    clips.read(0, 20, 22)
    assert 4 <= len(decoded) <= 10
    decoded.clear()
    sparse = Videos(tmp_path / name, fps=25 / 20)  # frames 0 and 20: what lies between is passed over
    sparse.read(0)
    assert len(decoded) <= 15


def test_frames_are_picked_by_their_times(tmp_path):
    times = [0, 1, 2, 10, 11, 30, 31, 50]  # tenths of a second; so frame 4 is shown from 1.1 s to 3.0 s
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.gif", "gif")):
        path = film(
            tmp_path / name,
            codec,
            frames=8,
            times=[10 * t for t in times],
            unit=Fraction(1, 100),
            pix="gray" if codec == "gif" else "yuv420p",
        )
        clips = Videos(path, size=(HIGH, WIDE), fps=2)
        assert numbers(clips.read(0)["images"][:, 0])[:11] == [0, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7], name
        assert numbers(clips.read(0, 5, 8)["images"][:, 0]) == [4, 5, 6]
        assert clips.fps == 2 and clips.episodes[0]["fps"] == 2
        mean = Videos(path, size=(HIGH, WIDE))
        assert mean.fps == pytest.approx(7 / 5) and mean.lengths.tolist() == [8]
        assert numbers(mean.read(0)["images"][:, 0]) == [0, 2, 4, 4, 4, 6, 6, 7]


@pytest.mark.parametrize(
    ("fps", "shown"),
    [(30, list(range(24))), (15, list(range(0, 24, 2))), (60, [k // 2 for k in range(48)]), (20, [k * 3 // 2 for k in range(16)])],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])  # times of a Matroska file are rounded to milliseconds
def test_even_files_are_resampled_evenly(tmp_path, name, fps, shown):
    clips = Videos(film(tmp_path / name, rate=Fraction(30)), size=(HIGH, WIDE), fps=fps)
    assert numbers(clips.read(0)["images"][:, 0]) == shown


def quarters(height=HIGH, width=WIDE):
    """Red, green / blue, white."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = (255, 0, 0), (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


def corners(image):
    """The colours' letters in reading order, of (3, H, W)."""
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "-"}
    height, width = image.shape[1:]
    return "".join(
        names[tuple((image[:, y, x] > 127).astype(int).tolist())] for y in (height // 5, -height // 5) for x in (width // 5, -width // 5)
    )


@pytest.mark.parametrize(
    ("degrees", "flip", "seen"),
    [(0, False, "rgbw"), (90, False, "gwrb"), (180, False, "wbgr"), (-90, False, "brwg"), (0, True, "grwb"), (90, True, "wgbr")],
)
def test_the_display_matrix_turns_the_frames(tmp_path, degrees, flip, seen):
    path = film(tmp_path / "a.mp4", draw=lambda _: quarters(), frames=8, setup=lambda s: s.set_display_rotation(degrees, hflip=flip))
    clips = Videos(path, size=(60, 40), fit="pad")
    for start in (0, 7):
        picture = clips.read(0, start, start + 1)["images"][0, 0]
        upright = abs(degrees) == 90
        rows, columns = np.flatnonzero(picture.max(axis=(0, 2)) > 60), np.flatnonzero(picture.max(axis=(0, 1)) > 60)
        assert (len(rows), len(columns)) == pytest.approx((53, 40) if upright else (30, 40), abs=1)
        assert corners(picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]) == seen


def test_wide_pixels_are_shown_wide_and_fits_differ(tmp_path):
    def twice(stream):
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = Fraction(2)

    path = film(tmp_path / "a.mp4", draw=lambda _: quarters(64, 64), frames=4, setup=twice)
    padded = Videos(path, size=64, fit="pad").read(0)["images"][0, 0]
    assert (padded.max(axis=(0, 2)) > 60).sum() == pytest.approx(32, abs=1) and corners(padded[:, 16:48]) == "rgbw"
    cropped = Videos(path, size=64, fit="crop").read(0)["images"][0, 0]
    assert cropped.min(axis=0).shape == (64, 64) and corners(cropped) == "rgbw"
    squashed = Videos(path, size=(20, 60), fit="squash").read(0)["images"][0, 0]
    assert squashed.shape == (3, 20, 60) and corners(squashed) == "rgbw"


def test_crop_takes_the_middle_and_downscaling_averages(tmp_path):
    def stripes(_):  # black thirds left and right, and lines of one pixel between them
        picture = np.zeros((96, 288, 3), np.uint8)
        picture[::2, 96:192] = 255
        return picture

    path = film(tmp_path / "a.mkv", "ffv1", draw=stripes, frames=2, pix="yuv444p")
    picture = Videos(path, size=32).read(0)["images"][0, 0]
    assert np.abs(picture[:, 2:-2, 2:-2].astype(int) - 127).max() < 6


def test_full_and_limited_range_are_both_black_to_white(tmp_path):
    for name, pix, codec in (("a.mp4", "yuv420p", "libx264"), ("b.avi", "yuvj420p", "mjpeg")):
        picture = Videos(film(tmp_path / name, codec, draw=lambda _: quarters(), frames=2, pix=pix), size=(HIGH, WIDE)).read(0)["images"][
            0, 0
        ]
        assert picture[:, -8, -8].min() >= 252 and picture[:, 8, 8] == pytest.approx([255, 0, 0], abs=6)


def pictures(folder, count=4, pattern="{:06d}.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((30, 40, 3), shade(number), np.uint8)).save(folder / pattern.format(number))
    return folder


def test_folders_of_numbered_pictures_are_episodes(tmp_path):
    pictures(tmp_path / "one")
    pictures(tmp_path / "deep" / "two", 12, "frame{}.png")  # frame10 comes after frame9
    pictures(tmp_path / "both", 2, "left_{}.jpg")
    pictures(tmp_path / "both", 3, "right_{}.jpg")
    film(pictures(tmp_path / "videos", 1, "thumb{}.jpg") / "a.mp4")
    clips = Videos(tmp_path, size=(HIGH, WIDE))
    lengths = dict(zip((episode["source"] for episode in clips.episodes), clips.lengths.tolist(), strict=True))
    assert lengths == {"both/left_*": 2, "both/right_*": 3, "deep/two": 12, "one": 4, "videos/a.mp4": 24}
    for episode in range(len(clips)):
        assert numbers(clips[episode]["images"][:, 0]) == list(range(clips.lengths[episode]))
    assert Videos(tmp_path / "one").lengths.tolist() == [4] and holds_videos(tmp_path) and not holds_videos(tmp_path / "one")
    (tmp_path / "one" / "000002.jpg").write_bytes(b"no picture")
    with pytest.raises(BrokenEpisode, match="000002.jpg"):
        clips.read(clips.episodes.index(next(e for e in clips.episodes if e["source"] == "one")))


def packet_places(file):
    with av.open(file) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def broken_folder(folder):
    """One good file, and one of each way to be broken: name -> what is said of it."""
    good = film(folder / "good.mp4", gop=12, movflags="faststart").read_bytes()
    with (
        av.open(str(folder / "front.mp4"), "w", options={"movflags": "faststart"}) as container,
        av.open(str(folder / "good.mp4")) as source,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    front = (folder / "front.mp4").read_bytes()
    (folder / "front.mp4").unlink()
    edge = packet_places(io.BytesIO(front))[-2]
    (folder / "half.mp4").write_bytes(front[: edge + 2])
    (folder / "edge.mp4").write_bytes(front[:edge])  # what is there is whole
    other = film(folder / "half.mpg", "mpeg2video").read_bytes()
    (folder / "half.mpg").write_bytes(other[: len(other) * 6 // 10])
    (folder / "headless.mp4").write_bytes(good[: len(good) // 2])
    (folder / "text.mp4").write_text("no video at all\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "folder.mp4").mkdir()
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return {
        "half.mp4": "cut off",
        "half.mpg": "cut off",
        "edge.mp4": "cut off",
        "headless.mp4": "cannot be decoded",
        "text.mp4": "cannot be decoded",
        "empty.mp4": "empty",
        "gone.mp4": "no such file",
        "sound.mp4": "no video stream",
    }


def test_broken_files_are_skipped_named_and_counted(tmp_path, capsys):
    expected = broken_folder(tmp_path)
    for _ in range(2):  # found, and then from the index
        clips = Videos(tmp_path)
        assert [episode["source"] for episode in clips.episodes] == ["good.mp4"] and clips.skipped.keys() == expected.keys()
        assert all(why in clips.skipped[name] for name, why in expected.items()), clips.skipped
        said = capsys.readouterr().err
        assert said.startswith(f"8 of 9 files skipped in {tmp_path}: ") and said.count("\n") == 1 and "and 3 more" in said
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(UserError, match=r"None of the 8 videos .* can be read: .*\(it is empty\).*Give a folder"):
        Videos(tmp_path)


@pytest.mark.parametrize("part", [1, 3])  # all of a frame's data, and its last third, of which the decoder makes a picture nevertheless
def test_damage_found_when_reading_names_the_episode_and_spares_the_others(tmp_path, part):
    path = film(tmp_path / "a.mp4", frames=40, gop=10, draw=noise)
    film(tmp_path / "b.mp4")
    clips = Videos(tmp_path, size=(HIGH, WIDE))
    expected = clips.read(0, 0, 20)["images"]
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][25]
        at, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[at + size - size // part : at + size] = b"\xff" * (size // part)
    path.write_bytes(data)
    clips = Videos(tmp_path, size=(HIGH, WIDE))
    assert np.array_equal(clips.read(0, 0, 20)["images"], expected) and not clips.broken
    with pytest.raises(BrokenEpisode, match="a.mp4: its frames 25 to 26"):
        clips.read(0, 25, 27)
    assert list(clips.broken) == [0] and len(list(clips)) == 1
    path.unlink()
    with pytest.raises(BrokenEpisode, match="No such file"):
        clips.read(0, 30, 31)


class Careless:
    """A container that seeks to whatever frame is nearest, key or not."""

    def __init__(self, container):
        self._container = container

    def __getattr__(self, name):
        return getattr(self._container, name)

    def seek(self, stamp, stream):
        self._container.seek(stamp + 2, stream=stream, any_frame=True)


def test_a_container_that_seeks_elsewhere_is_read_from_its_beginning(tmp_path, monkeypatch):
    path = film(tmp_path / "a.avi", "mpeg4", gop=8)
    expected = Videos(path, size=(HIGH, WIDE))[0]["images"]
    really = module._open
    monkeypatch.setattr(module, "_open", lambda path: Careless(really(path)))
    clips = Videos(path, size=(HIGH, WIDE))
    for start in range(24):
        assert np.array_equal(clips.read(0, start, start + 1)["images"], expected[start : start + 1])


def test_only_changed_files_are_looked_into_again(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name)
    looked = []
    look = module.index_video
    monkeypatch.setattr(module, "index_video", lambda path: looked.append(path.name) or look(path))
    first = Videos(tmp_path)[1]["images"]
    assert sorted(looked) == ["a.mp4", "b.mp4"] and (tmp_path / NAME).is_file()
    film(tmp_path / "a.mp4", frames=8)
    assert Videos(tmp_path).lengths.tolist() == [8, 24] and sorted(looked[2:]) == ["a.mp4"]
    Videos(tmp_path / "b.mp4")
    assert len(looked) == 3
    for damage in ("{", "[]", json.dumps({"version": 99, "files": {}}), json.dumps({"version": 1, "files": {"a.mp4": 3, "b.mp4": {}}})):
        (tmp_path / NAME).write_text(damage)
        assert np.array_equal(Videos(tmp_path)[1]["images"], first)
    assert len(looked) == 3 + 4 * 2


def test_a_read_only_folder_is_indexed_in_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    film(folder / "a.mp4")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    Videos(folder)
    assert not (folder / NAME).exists() and len(list((tmp_path / "cache").rglob("*.json"))) == 1
    monkeypatch.setattr(module, "index_video", None)
    assert len(Videos(folder)) == 1


def test_threads_and_a_forked_process_read_the_same(tmp_path):
    for name in ("a.mp4", "b.mkv"):  # each larger than what a process reads ahead
        film(tmp_path / name, b=2, draw=noise, frames=60, gop=12)
    clips = Videos(tmp_path, size=(HIGH, WIDE))
    expected = [clips[0]["images"], clips[1]["images"]]

    def same(at):
        start = 7 * at % 57
        return np.array_equal(clips.read(at % 2, start, start + 3)["images"], expected[at % 2][start : start + 3])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(120)))
    child = os.fork()
    if not child:
        os._exit(0 if all(map(same, range(60))) and not clips.broken else 1)
    assert all(map(same, range(60))) and os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux shows them")
def test_few_files_stay_open(tmp_path):
    for number in range(8):
        film(tmp_path / f"{number}.mp4", frames=4)
    clips = Videos(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        list(clips)
    assert len(os.listdir("/proc/self/fd")) - before <= module.OPEN_FILES


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"fps": 0}, "fps=0 is not possible"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"size": 0}, "size=0"),
        ({"size": (224, -1)}, "size=-1"),
        ({"size": (1, 2, 3)}, "one number of pixels, or two"),
        ({"size": "big"}, "size=big"),
        ({"fit": "crp"}, "Did you mean fit=crop"),
    ],
)
def test_settings_that_are_not_possible(tmp_path, how, said):
    film(tmp_path / "a.mp4", frames=2)
    with pytest.raises(UserError, match=said):
        Videos(tmp_path, **how)


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        Videos(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no videos: it is empty.*\.webm.*data=images"):
        Videos(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="only 1 .txt"):
        Videos(tmp_path)


def test_no_torch_and_no_zarr_for_videos(tmp_path):
    film(tmp_path / "a.mp4", frames=2)
    code = (
        f"import sys, robo_repr.data.videos as v; v.Videos({str(tmp_path)!r})[0]; sys.exit(bool({{'torch', 'zarr'}} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_folders_of_one_name_within_each_other_are_two_sequences(tmp_path):
    for folder, level in ((tmp_path / "seq", 10), (tmp_path / "seq" / "seq", 200)):
        folder.mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / f"{i}.png")
    clips = Videos(tmp_path / "seq", size=8)
    assert sorted(int(clip["images"].mean()) for clip in clips) == [10, 200]
