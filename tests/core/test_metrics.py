import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robo_repr.core.errors import Failure
from robo_repr.core.metrics import Metrics, append_row, read_metrics
from robo_repr.core.seeding import rng, stream_seed
from robo_repr.core.stats import wilson

ROOT = Path(__file__).parents[2]


def test_rows_are_plain_json_lines(tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl")
    metrics.write({"env_steps": 1, "loss/critic": np.float32(0.5), "eval/success": None})
    metrics.close()
    assert read_metrics(tmp_path / "m.jsonl") == [{"env_steps": 1, "loss/critic": 0.5, "eval/success": None}]


def write(path, *rows):
    metrics = Metrics(path)
    for row in rows:
        metrics.write(row)
    metrics.close()


def whole_rows(content):
    """What a person would read out of a file: every line that is an object."""
    found = []
    for line in content.split(b"\n"):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            continue
        found += [row] if isinstance(row, dict) else []
    return found


ROWS = [{"env_steps": step, "name": f"Grüße {step} 🤖", "loss/critic": step / 3, "eval/success": None} for step in (1, 20, 300)]


@pytest.fixture(scope="module")
def whole():
    """A file's bytes, some of them in letters of several bytes."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def test_a_cut_at_any_byte_costs_the_row_it_hits_alone(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # of some 700 writes
    path = tmp_path / "m.jsonl"
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]  # a row is whole where its line end alone is missing
    for cut in range(len(whole) + 1):
        before = ROWS[: sum(end <= cut for end in ends)]
        path.write_bytes(whole[:cut])
        assert read_metrics(path) == before
        write(path, {"env_steps": 9})
        assert read_metrics(path) == [*before, {"env_steps": 9}] == [json.loads(line) for line in path.read_bytes().splitlines()]
        path.write_bytes(whole[:cut])
        append_row(path, {"env_steps": 9})
        assert read_metrics(path) == [*before, {"env_steps": 9}] and path.read_bytes().startswith(whole[:cut])
    assert [path] == list(tmp_path.iterdir())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.tuples(st.just(0), st.just(b"\0" * 4096)),  # as after a power loss
        st.tuples(st.integers(0, 60), st.binary(max_size=40)),
        st.tuples(
            st.integers(0, 60), st.sampled_from([b"[" * 5000, b"9" * 5000, b"{}", b"{}\n", b"\xff\xfe{}", b"\n\n[1]\n3\n", b"\r", b"\xc3"])
        ),
    )
)
def test_any_damage_to_the_last_line_costs_that_line_alone(tmp_path, whole, damage):
    path = tmp_path / "m.jsonl"
    back, junk = damage
    path.write_bytes(whole[: len(whole) - back] + junk)
    expected = whole_rows(path.read_bytes())
    assert read_metrics(path) == expected and expected[:2] == ROWS[:2]
    write(path, {"env_steps": 400})
    assert read_metrics(path) == [*expected, {"env_steps": 400}] == [json.loads(line) for line in path.read_bytes().splitlines()]
    Metrics(path).keep_until(20)
    assert read_metrics(path)[:2] == ROWS[:2] and all(row.get("env_steps", 99) <= 20 for row in read_metrics(path))


def test_a_broken_line_in_the_middle_hides_no_other(tmp_path, whole):
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "m.jsonl"
    for broken in (lines[1][:-9] + b"\n", b"\0\0\0\n", b"[1]\n", b"\n", lines[1][:30] + b"\xff" + lines[1][31:]):
        path.write_bytes(lines[0] + broken + lines[2])
        assert read_metrics(path) == [ROWS[0], ROWS[2]]
        Metrics(path).close()
        assert path.read_bytes() == lines[0] + lines[2]


def test_several_processes_append_to_one_file(tmp_path):
    """A run notes an evaluation while scripts/evaluate.py does: nothing is lost or mixed, whoever opened the file first."""
    path, count = tmp_path / "e.jsonl", 150
    code = (
        "import sys; from pathlib import Path; from robo_repr.core.metrics import append_row\n"
        f"for i in range({count}): append_row(Path(sys.argv[1]), {{'who': int(sys.argv[2]), 'i': i, 'text': 'x' * 5000}})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)], cwd=ROOT) for who in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(rows) == 3 * count and all([row["i"] for row in rows if row["who"] == who] == list(range(count)) for who in range(3))


@pytest.mark.parametrize("taken", [0, 7])
@pytest.mark.parametrize("append", [False, True], ids=["write", "append_row"])
def test_a_full_disk_leaves_a_file_that_can_be_read_and_goes_on(tmp_path, monkeypatch, whole, append, taken):
    path = tmp_path / "m.jsonl"
    path.write_bytes(whole)
    metrics = Metrics(path)
    real = os.write

    def full(file, data):
        if taken and data.endswith(b'"env_steps": 400}\n') and data.startswith(b"{"):
            return real(file, data[:taken])  # a part fits
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    row = {"loss": 0.5, "env_steps": 400}
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Failure, match="m.jsonl cannot be written .No space left on device"):
        append_row(path, row) if append else metrics.write(row)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    append_row(path, row) if append else metrics.write(row)
    metrics.close()
    assert path.read_bytes() == whole + json.dumps(row).encode() + b"\n"


def test_cleaning_needs_no_room_on_the_disk_and_spoils_nothing(tmp_path, monkeypatch, whole):
    path = tmp_path / "m.jsonl"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    path.write_bytes(whole + b'{"env')
    Metrics(path).close()  # the end is cut off in place
    assert path.read_bytes() == whole
    path.write_bytes(b"broken\n" + whole)
    with pytest.raises(Failure):
        Metrics(path)
    assert path.read_bytes() == b"broken\n" + whole and list(tmp_path.iterdir()) == [path]


def test_seconds_are_those_of_writing(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path / "m.jsonl")
    synced = []

    def slow(file):
        synced.append(os.fstat(file).st_size)
        time.sleep(0.05)

    monkeypatch.setattr(os, "fsync", slow)
    metrics.write({"env_steps": 1})
    written = metrics.seconds
    time.sleep(0.05)
    metrics.sync()
    assert 0 < written < 0.05 <= metrics.seconds - written < 0.5 and synced == [(tmp_path / "m.jsonl").stat().st_size] and synced[0] > 0
    metrics.close()


def test_rows_beyond_a_checkpoint_are_dropped(tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl", tensorboard=tmp_path / "tb")
    for step in (10, 20, 30):
        metrics.write({"env_steps": step, "train/return": 1.0})
    metrics.close()
    metrics = Metrics(tmp_path / "m.jsonl", tensorboard=tmp_path / "tb")
    metrics.keep_until(20)
    metrics.write({"env_steps": 25, "train/return": 2.0})
    metrics.close()
    assert [json.loads(line)["env_steps"] for line in (tmp_path / "m.jsonl").read_text().splitlines()] == [10, 20, 25]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tb"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/return")] == [(10, 1.0), (20, 1.0), (25, 2.0)]


def test_what_is_not_finite_becomes_null(tmp_path):
    row = {"env_steps": 1, "loss": float("nan"), "x": np.float32("inf"), "list": [np.nan, np.int64(2)], "array": np.array([[1.5, -np.inf]])}
    write(tmp_path / "m.jsonl", row)
    append_row(tmp_path / "a.jsonl", row)
    expected = '{"env_steps": 1, "loss": null, "x": null, "list": [null, 2], "array": [[1.5, null]]}\n'
    assert (tmp_path / "m.jsonl").read_text() == (tmp_path / "a.jsonl").read_text() == expected


def test_streams_differ_by_every_argument_and_repeat():
    seeds = {
        stream_seed(*a) for a in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0), (0, "a1"), (0, "a"), (10, "", "a")]
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "a", 1) == 6837818373028041864
    assert rng(3, "x", 1).random() == rng(3, "x", 1).random() != rng(3, "x", 2).random()


def test_wilson_against_published_values():
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(50, 100)
    assert abs(low - 0.4038) < 1e-3 and abs(high - 0.5962) < 1e-3
    assert wilson(10, 10)[1] > 0.9999 and abs(wilson(10, 10)[0] - 0.7225) < 1e-3
