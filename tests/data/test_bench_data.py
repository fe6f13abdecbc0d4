"""What the bench of the data counts and reads is what it says."""

import sys
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import bench_data  # noqa: E402


def test_the_plain_reader_reads_the_frame_that_is_asked_for(tmp_path):
    levels = np.arange(25, dtype=np.uint8) * 10
    clip = {"images": np.broadcast_to(levels[:, None, None, None, None], (25, 1, 3, 32, 48))}

    class Clips(list):
        views, fps, size = ["front"], 20.0, (32, 48)

    bench_data.write_films(Clips([clip]), tmp_path)
    for frame in (0, 9, 10, 11, 24):
        picture = bench_data.read_film(tmp_path / "0_front.mp4", frame)
        assert picture.shape == (32, 48, 3) and abs(picture.mean() - levels[frame]) < 4


def test_rates_count_what_was_handled_and_all_the_time(monkeypatch):
    clock = iter(np.arange(0, 100, 0.5))
    monkeypatch.setattr(bench_data, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(bench_data, "SECONDS", 2.0)
    assert bench_data.per_second(repeat(10)) == 3 * 10 / 2.5  # checked at 0.5, 1.0 and 1.5, stopped at 2.0, read at 2.5


def test_sizes_count_the_chunks_alone(tmp_path, monkeypatch):
    from zarr.codecs import Crc32cCodec

    monkeypatch.setattr(bench_data, "READS", 2)
    episodes = [np.zeros((16, 3, 3, 8, 8), np.uint8) + 1, np.full((16, 3, 3, 8, 8), 2, np.uint8)]
    found = bench_data.measure_array(episodes, tmp_path / "array", 16, (Crc32cCodec(),))
    assert abs(found["smaller"] - 1) < 0.01 and all(found[key] > 0 for key in ("written", "single", "windows"))
