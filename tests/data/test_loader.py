"""Batches: which frames they hold, that nothing but (seed, step) decides it, and that threads and memory are given back."""

import gc
import os
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from clip_samples import SIZE, VIEWS, frames
from scipy.stats import chisquare

from robo_repr.core.errors import Failure, UserError
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.loader import Batches
from robo_repr.data.store import ClipStore, ClipWriter


class Memory(Clips):
    """Episodes whose pixels say where they are: (episode, frame, view) in the three channels."""

    name, views, size, fps = "memory", ["front", "left", "wrist"], (2, 3), 10.0

    def __init__(self, lengths, damaged=(), pause=0.0, size=(2, 3)):
        self.size = size
        self.fields = {
            "images": Field((3, 3, *size), np.dtype(np.uint8)),
            "state": Field((2,), np.dtype(np.float32)),
            "camera": Field((3, 8), np.dtype(np.float32)),
        }
        self.lengths = np.array(lengths, dtype=np.int64)
        self.episodes = [{"language": f"episode {i}", "terminal": i % 2 == 1} for i in range(len(lengths))]
        self.broken, self.damaged, self.pause, self.calls = {}, set(damaged), pause, 0

    def read_fields(self, episode, start, stop, keys):
        self.calls += 1
        if self.pause:
            time.sleep(self.pause * (self.calls % 3))  # so that later batches may be ready before earlier ones
        if episode in self.damaged:
            raise BrokenEpisode(f"memory: episode {episode} is damaged")
        step = np.arange(start, stop)
        images = np.zeros((len(step), 3, 3, *self.size), dtype=np.uint8)
        images[:, :, 0], images[:, :, 1] = episode, step[:, None, None, None]
        images[:, :, 2] = np.arange(3)[:, None, None]
        made = {
            "images": images,
            "state": np.stack([np.full(len(step), episode), step], axis=1).astype(np.float32),
            "camera": np.broadcast_to(np.arange(3.0)[:, None], (len(step), 3, 8)).astype(np.float32),
        }
        return {key: made[key] for key in keys}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key] for key, value in one.items())


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (4, 1), (3, 5), (2, 40)])
def test_every_sample_is_the_window_that_it_says_it_is(length, stride):
    clips = Memory([1, 2, 11, 30])
    seen = [set() for _ in clips.lengths]
    for step in range(20):
        batch = Batches(clips, 32, length, stride).batch(step)
        assert batch["images"].shape == (32, length, 3, 3, 2, 3) and batch["images"].dtype == torch.uint8
        assert batch["state"].shape == (32, length, 2) and batch["camera"].shape == (32, length, 3, 8)
        for row, episode in enumerate(batch["episode"].tolist()):
            end, start = int(clips.lengths[episode]), int(batch["frame"][row, 0])
            wanted = start + stride * np.arange(length)
            frame = np.minimum(wanted, end - 1)
            seen[episode].add(start)
            assert batch["frame"][row].tolist() == frame.tolist()
            assert batch["is_padding"][row].tolist() == (wanted >= end).tolist()
            assert start == 0 or wanted[-1] < end, "only an episode that is too short is padded, and from its start"
            assert batch["is_first"][row].tolist() == (frame == 0).tolist()
            assert batch["is_last"][row].tolist() == (frame == end - 1).tolist()
            assert batch["is_terminal"][row].tolist() == ((frame == end - 1) & (episode % 2 == 1)).tolist()
            assert (batch["images"][row, :, :, 0] == episode).all() and (batch["images"][row, :, 0, 1, 0, 0].numpy() == frame).all()
            assert (batch["state"][row, :, 1].numpy() == frame).all() and batch["language"][row] == f"episode {episode}"
    expected = [max(1, int(end) - (length - 1) * stride) for end in clips.lengths]
    assert [len(starts) for starts in seen] == expected, "640 draws meet every place where a window can begin"


@pytest.mark.parametrize("length", [1, 3])
def test_all_places_are_equally_likely(length):
    clips = Memory([1, 4, 20])
    counts = np.zeros((3, 20))
    loader = Batches(clips, 500, length, keys=["state"])
    for step in range(16):
        batch = loader.batch(step)
        np.add.at(counts, (batch["episode"].numpy(), batch["frame"][:, 0].numpy()), 1)
    places = np.concatenate([counts[episode, : max(1, end - length + 1)] for episode, end in enumerate(clips.lengths)])
    assert places.sum() == 8000 and chisquare(places).pvalue > 1e-3


def test_views_and_keys_are_chosen_in_the_order_given():
    batch = Batches(Memory([9]), 4, 2, keys=["camera", "images"], views=["wrist", "front"]).batch(0)
    assert (batch["images"][:, :, :, 2, 0, 0] == torch.tensor([2, 0])).all()
    assert (batch["camera"][..., 0] == torch.tensor([2.0, 0.0])).all()
    assert "state" not in batch


def test_a_batch_is_a_function_of_seed_and_step_whatever_the_workers():
    lengths = [5, 1, 17]
    plain = Batches(Memory(lengths), 6, 2, seed=3)
    alone = [plain.batch(step) for step in range(7, 27)]
    for workers in (1, 3):
        batches = Batches(Memory(lengths, pause=0.0003), 6, 2, seed=3, workers=workers).start(step=7)
        assert all(equal(batch, expected) for batch, expected in zip(batches, alone, strict=False))
        batches.close()
    assert not equal(alone[0], alone[1]) and not equal(alone[0], Batches(Memory(lengths), 6, 2, seed=4).batch(7))
    assert equal(next(iter(plain)), plain.batch(0))


@pytest.mark.parametrize("damaged", [(), (1, 2)])
def test_ranks_together_are_one_rank(damaged):
    whole = Batches(Memory([9, 3, 20], damaged), 8, 2, seed=1).batch(5)
    parts = [Batches(Memory([9, 3, 20], damaged), 8, 2, seed=1, rank=rank, world_size=4).batch(5) for rank in range(4)]
    joined = {key: sum((part[key] for part in parts), []) if key == "language" else torch.cat([p[key] for p in parts]) for key in whole}
    assert equal(whole, joined)


def test_what_is_broken_is_replaced_alike_whether_or_not_it_was_known(capfd):
    lengths = [10, 40, 5]
    sound, hurt = (Batches(Memory(lengths, damaged), 16, seed=2) for damaged in ((), (1,)))
    batches = [hurt.batch(step) for step in range(5)]
    assert capfd.readouterr().err.count("\n") == 1, "one line for an episode, not one for each window"
    assert equal(hurt.batch(0), batches[0]), "now that the damage is known"
    assert equal(Batches(Memory(lengths, (1,)), 16, seed=2).batch(4), batches[4]), "resumed there"
    for step, batch in enumerate(batches):
        expected = sound.batch(step)
        kept = expected["episode"] != 1
        assert 0 < kept.sum() < 16 and (batch["episode"] != 1).all()
        assert torch.equal(batch["images"][kept], expected["images"][kept]), "the other samples stay what they were"


def test_replacements_are_drawn_like_the_first_ones_and_for_each_row_anew():
    batch = Batches(Memory([1, 60, 600], (2,)), 300).batch(0)
    counts = np.bincount(batch["frame"][batch["episode"] == 1][:, 0].numpy(), minlength=60)
    assert counts.max() < 25, "rows share no replacement"
    assert (batch["episode"] == 0).sum() < 30, "every frame is as likely, not every episode"


def test_the_one_whole_episode_is_found_among_many_damaged_ones():
    batch = Batches(Memory([3000, *[500] * 20, 1], range(21)), 3).batch(0)
    assert batch["episode"].tolist() == [21] * 3


def test_all_broken_is_one_paragraph_from_the_iterator_too():
    with pytest.raises(UserError, match=r"Nothing of memory can be read.*2 episodes.*damaged"):
        next(Batches(Memory([4, 4], (0, 1)), 2).start())
    assert not loader_threads()


def test_a_damaged_chunk_of_a_store_is_left_out(tmp_path):
    with ClipWriter(tmp_path / "clips", views=VIEWS, size=SIZE, fps=20) as out:
        for i in range(4):
            out.add(frames(1000, i), language=f"episode {i}")
    chunk = tmp_path / "clips" / "data" / "images" / "c" / "1" / "0" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    clips = ClipStore(tmp_path / "clips")
    batches = [batch["frame"][batch["episode"] == 0] for batch in islice(Batches(clips, 64, 2), 6)]
    length = zarr.open_group(tmp_path / "clips", mode="r")["data/images"].chunks[0]
    used = torch.cat(batches).flatten()
    assert list(clips.broken) == [0] and len(used) and not ((used >= length) & (used < 2 * length)).any(), "its other chunks are used"
    for step, frame in enumerate(batches):
        later = Batches(clips, 64, 2).batch(step)
        assert torch.equal(later["frame"][later["episode"] == 0], frame), "now that the damage is known"


def test_leaving_the_iterator_ends_its_threads():
    loader = Batches(Memory([50], pause=0.0003), 8, workers=3)
    for batch in loader.start():
        assert loader_threads() and len(batch["frame"]) == 8
        break
    assert not loader_threads(), "left by break"
    with pytest.raises(KeyError):
        for _ in loader:
            raise KeyError
    assert not loader_threads(), "left by an error"
    kept = loader.start()
    next(kept)
    kept.close()
    assert not loader_threads(), "closed"
    never = loader.start()  # nothing was taken from it
    del never
    gc.collect()
    for _ in range(200):
        if not loader_threads():
            break
        time.sleep(0.01)
    assert not loader_threads(), "dropped"


def test_errors_of_a_worker_reach_the_consumer_at_their_step():
    class Failing(Memory):
        def read_fields(self, episode, start, stop, keys):
            if self.calls == 12:
                raise Failure("the disk is gone")
            return super().read_fields(episode, start, stop, keys)

    batches = Batches(Failing([9]), 4, workers=1).start()
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(Failure, match="the disk is gone"):
        next(batches)
    assert not loader_threads()


def test_reading_ahead_is_bounded():
    clips = Memory([50])
    batches = Batches(clips, 4, workers=2).start()
    next(batches)
    time.sleep(0.1)
    assert clips.calls <= 4 * 4
    batches.close()


def test_memory_stays_flat():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    batches = Batches(Memory([50], size=(64, 64)), 32).start()  # 1.1 MB of images in a batch
    for _ in islice(batches, 40):
        pass
    before = resident()
    for _ in islice(batches, 300):
        pass
    assert resident() - before < 40
    batches.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 6, "world_size": 4}, "such as 8"),
        ({"frames": 0}, "frames=0"),
        ({"stride": -1}, "stride=-1"),
        ({"workers": 0}, "workers=0"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"keys": ["actions"]}, "memory has no actions"),
        ({"keys": ["image"]}, "key=images"),
        ({"views": ["rist"]}, "view=wrist"),
    ],
)
def test_mistakes_are_explained(changes, words):
    with pytest.raises(UserError, match=words):
        Batches(Memory([4]), **{"batch_size": 4, **changes})


def test_clips_without_episodes_are_refused():
    with pytest.raises(UserError, match="memory holds no episode"):
        Batches(Memory([]), 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_batches_are_those_of_the_cpu():
    for step, batch in enumerate(islice(Batches(Memory([9, 30]), 8, 2, device="cuda"), 5)):
        assert batch["images"].is_cuda and batch["frame"].is_cuda
        on_cpu = {key: value if key == "language" else value.cpu() for key, value in batch.items()}
        assert equal(on_cpu, Batches(Memory([9, 30]), 8, 2).batch(step))
