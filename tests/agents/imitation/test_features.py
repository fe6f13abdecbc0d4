"""Features of demonstrations: the same numbers from the disk as from the encoder, or none from the disk."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from agents.evaluate import Interrupted
from agents.eyes import Eyes
from agents.imitation import features as module
from agents.imitation.demos import Worlds, find_demos
from agents.imitation.features import calibrate, demo_features
from robo_repr import load_encoder
from robo_repr.core import checkpoint
from robo_repr.core.config import ImitationConfig
from robo_repr.core.errors import Failure
from robo_repr.data.store import ClipWriter
from robo_repr.encoders.base import Encoder, EncoderSpec, Features

VIEWS = ["front", "wrist"]


class Weighing(Encoder):
    """Each picture's mean colour, times a weight; notes how many pictures each call had."""

    def __init__(self, weight=1.0, pause=0.0):
        super().__init__(EncoderSpec("weighing", (4, 4), 3))
        self.net = nn.Linear(3, 3, bias=False)
        self.net.weight.data = weight * torch.eye(3)
        self.calls, self.pause = [], pause
        self.freeze()

    def forward(self, images):
        self.calls.append(len(images))
        time.sleep(self.pause)
        return super().forward(images)

    def encode(self, images):
        return Features(self.net(images.mean(dim=(2, 3))), None)


def store(name, seed=0):
    """Eight episodes of each of two tasks, in turn."""
    with ClipWriter(name, views=VIEWS, size=(8, 8), fps=10) as writer:
        for episode in range(16):
            generator, frames = np.random.default_rng([seed, episode]), 5 + episode // 2
            images = generator.integers(0, 256, (frames, 2, 3, 8, 8), dtype=np.uint8)
            numbers = {"state": np.zeros((frames, 2), np.float32), "actions": np.zeros((frames, 1), np.float32)}
            writer.add({"images": images, **numbers}, task=("even", "odd")[episode % 2])


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with a store."""
    monkeypatch.chdir(tmp_path)
    store("clips")
    return tmp_path


def demos_of(demos, tasks=("even",), frame_stack=1, data="clips"):
    worlds = Worlds(VIEWS, (8, 8), frame_stack, 2, 1)
    return [find_demos(ImitationConfig(demos=demos, task=list(tasks), demo_data=data), task, worlds) for task in tasks]


def seen(demos, encoder=None, cache=True, readout="pooled", lines=None, frame_stack=1, fusion="concatenate"):
    """Features by fresh eyes."""
    eyes = Eyes(encoder or Weighing(), VIEWS, frame_stack, readout, fusion)
    say = (lambda line: None) if lines is None else lines.append
    calibrate(eyes, demos, cache, say)
    return demo_features(eyes, demos, cache, say)


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("frame_stack", "fusion"), [(1, "concatenate"), (2, "mean")])
def test_cached_and_computed_are_the_same_numbers(work, frame_stack, fusion):
    demos, encoder = demos_of(3, ["odd", "even"], frame_stack), load_encoder("mvp")
    how = {"encoder": encoder, "readout": "grid4", "frame_stack": frame_stack, "fusion": fusion}
    plain = seen(demos, cache=False, **how)
    assert not (work / "runs").exists()
    assert equal(seen(demos, **how), plain) and equal(seen(demos, **how), plain)
    assert [len(value) for value in plain] == [5, 6, 7] * 2 and plain[0].dtype == torch.float16
    eyes = Eyes(encoder, VIEWS, frame_stack, "grid4", fusion)
    calibrate(eyes, demos, cache=True)
    assert torch.equal(plain[4], eyes.see(demos[1].images(1))) and not torch.equal(plain[4], plain[1])


def test_what_is_there_is_not_encoded_again_and_what_is_missing_is_added(work):
    encoder, lines = Weighing(), []
    five = seen(demos_of(5), encoder)
    assert encoder.calls == [2 * (5 + 6 + 7 + 8 + 9), *(2 * frames for frames in (5, 6, 7, 8, 9))]
    encoder.calls.clear()
    seven = seen(demos_of(7), encoder, lines=lines)
    assert encoder.calls == [2 * 10, 2 * 11] and equal(seven[:5], five)
    assert "features of 7 demonstrations, 5 from runs/features/" in lines[0] and ", 2 encoded in" in lines[0]
    encoder.calls.clear()
    assert equal(seen(demos_of(6), encoder), seven[:6]) and not encoder.calls
    two = seen(demos_of(2), encoder)  # these are calibrated on fewer
    assert encoder.calls == [2 * (5 + 6), 2 * 5, 2 * 6] and not torch.equal(two[0], five[0])


def test_what_changes_the_features_is_not_mixed_up(work):
    plain = seen(demos_of(3))
    store("others", seed=1)
    for change in ({"encoder": Weighing(-1.0)}, {"fusion": "mean"}, {"demos": demos_of(3, data="others")}, {"demos": demos_of(3, ["odd"])}):
        how = {"demos": demos_of(3), **change}
        kept, computed = seen(**how), seen(**how, cache=False)
        assert equal(kept, computed) and not equal(kept, plain)


def test_calibration_sees_at_most_256_frames_spread_evenly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ClipWriter("clips", views=VIEWS, size=(8, 8), fps=10) as writer:
        for episode in range(7):
            images = np.full((100, 2, 3, 8, 8), episode, np.uint8)
            images[:, :, 1] = np.arange(100)[:, None, None, None]
            writer.add({"images": images, "state": np.zeros((100, 2), np.float32), "actions": np.zeros((100, 1), np.float32)}, task="even")
    demos = demos_of(7)[0]
    frames = module._spread_frames([(demos, number) for number in range(5)])
    assert frames.shape == (256, 2, 3, 8, 8)
    places = 100 * frames[:, 0, 0, 0, 0].long() + frames[:, 0, 1, 0, 0]
    assert places[0] == 0 and places[-1] == 499 and set(places.diff().tolist()) == {1, 2}
    encoder = Weighing()
    seen([demos], encoder)
    assert encoder.calls[0] == 2 * 256


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def _save(path, value, about=None):
    state = checkpoint.load_state(path.parent, path.stem)
    checkpoint.save_state(path.parent, path.stem, {"about": about or state["about"], "tensors": {"features": value}})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip, "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is damaged"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: _save(path, torch.full((6, 6), torch.nan, dtype=torch.float16)), "not finite"),
        (lambda path: _save(path, torch.zeros(5, 6, dtype=torch.float16)), "other sizes"),
        (lambda path: _save(path, torch.zeros(6, 6)), "other sizes"),
        (lambda path: _save(path, torch.zeros(6, 6, dtype=torch.float16), about="another encoder"), "of another encoder"),
    ],
)
def test_what_does_not_fit_is_computed_again(work, damage, says, capsys):
    encoder = Weighing()
    plain = seen(demos_of(3), encoder)
    (path,) = (work / "runs/features").glob("*/episode2.safetensors")
    damage(path)
    encoder.calls.clear()
    assert equal(seen(demos_of(3), encoder), plain) and encoder.calls == [2 * 6]
    assert says in (said := capsys.readouterr().err) and "episode2 is computed again" in said
    encoder.calls.clear()
    assert equal(seen(demos_of(3), encoder), plain) and not encoder.calls and not capsys.readouterr().err


def test_a_damaged_calibration_is_made_again(work, capsys):
    plain = seen(demos_of(3))
    (path,) = (work / "runs/features").glob("*/calibration.safetensors")
    _flip(path)
    assert equal(seen(demos_of(3)), plain) and "calibration is computed again" in capsys.readouterr().err
    _save(path, torch.zeros(3))
    assert equal(seen(demos_of(3)), plain) and "calibration is computed again" in capsys.readouterr().err


@pytest.mark.parametrize("written", range(4))
def test_without_room_the_run_goes_on_and_nothing_partial_stays(work, monkeypatch, capsys, written):
    plain, count = seen(demos_of(4), cache=False), 0
    write = checkpoint.write_whole

    def full(path, data):
        nonlocal count
        count += 1
        if count > written + 2:  # the calibration is there
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    assert equal(seen(demos_of(4)), plain)
    assert capsys.readouterr().err.count("cannot be written (No space left on device)") == 1
    assert len(list((work / "runs/features").glob("*/episode*"))) == written // 2 * 2
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert equal(seen(demos_of(4)), plain) and len(list((work / "runs/features").glob("*/episode*"))) == 8


def test_where_nothing_can_be_written_nothing_is_kept(work, capsys):
    (work / "runs").write_text("a file")
    assert equal(seen(demos_of(3)), seen(demos_of(3), cache=False)) and "cannot be written" in capsys.readouterr().err


def test_two_at_once_share_the_work(work):
    encoders = [Weighing(pause=0.05), Weighing(pause=0.05)]
    results: dict[int, list] = {}
    demos = demos_of(5)
    threads = [threading.Thread(target=lambda i=i: results.update({i: seen(demos, encoders[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal(results[0], results[1]) and len(encoders[0].calls + encoders[1].calls) == 6


def test_one_that_is_stopped_keeps_what_it_has(work):
    encoder, asked = Weighing(), iter(range(100))
    eyes = Eyes(encoder, VIEWS, 1, "pooled", "concatenate")
    calibrate(eyes, demos_of(5), cache=True)
    with pytest.raises(Interrupted):
        demo_features(eyes, demos_of(5), True, stop=lambda: next(asked) == 3)
    encoder.calls.clear()
    demo_features(eyes, demos_of(5), True)
    assert len(encoder.calls) == 2


def test_an_encoder_that_sees_nothing_leaves_nothing(work):
    values = seen(demos_of(3, ["even", "odd"]), load_encoder("identity"))
    assert [tuple(value.shape) for value in values] == [(5, 0), (6, 0), (7, 0)] * 2 and not (work / "runs").exists()


def test_features_that_are_not_finite_stop_the_run(work):
    encoder = Weighing(float("nan"))
    with pytest.raises(Failure, match="features of episode 0 of clips are not finite"):
        seen(demos_of(2), encoder)
    assert not list((work / "runs/features").glob("*/episode*"))
