import json

import numpy as np
import pytest

from robo_repr.core.metrics import Metrics, read_metrics
from robo_repr.core.seeding import rng, stream_seed
from robo_repr.core.stats import wilson


def test_rows_are_plain_json_lines(tmp_path):
    metrics = Metrics(tmp_path / "m.jsonl")
    metrics.write({"env_steps": 1, "loss/critic": np.float32(0.5), "eval/success": None})
    metrics.close()
    assert read_metrics(tmp_path / "m.jsonl") == [{"env_steps": 1, "loss/critic": 0.5, "eval/success": None}]


@pytest.mark.parametrize("cut", range(1, 18))
def test_a_last_line_that_was_cut_short_is_removed(tmp_path, cut):
    path = tmp_path / "m.jsonl"
    metrics = Metrics(path)
    for step in (1, 2, 3):
        metrics.write({"env_steps": step})
    metrics.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Metrics(path)
    again.write({"env_steps": 9})
    again.close()
    assert [row["env_steps"] for row in read_metrics(path)] == [1, 2, 9]


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
    metrics = Metrics(tmp_path / "m.jsonl")
    metrics.write({"env_steps": 1, "loss": float("nan"), "x": np.float32("inf")})
    metrics.close()
    assert (tmp_path / "m.jsonl").read_text() == '{"env_steps": 1, "loss": null, "x": null}\n'


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
