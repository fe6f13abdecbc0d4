import os
import signal

import numpy as np
import pytest
from clip_samples import SIZE, VIEWS, frames

from robo_repr.core.errors import UserError
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.store import ClipStore, ClipWriter
from robo_repr.data.transfer import copy

LENGTHS = [4, 1, 6, 3]


class Source(ClipStore):
    """A store some episodes of which cannot be read; notes which ones were asked for."""

    def __init__(self, path, damaged=()):
        super().__init__(path)
        self.damaged, self.asked = damaged, []

    def read_fields(self, episode, start, stop, keys):
        self.asked.append(episode)
        if episode in self.damaged:
            raise BrokenEpisode(f"episode {episode} is bent")
        return super().read_fields(episode, start, stop, keys)


@pytest.fixture
def store(tmp_path):
    with ClipWriter(tmp_path / "source", views=VIEWS, size=SIZE, fps=15, meta={"task": "reach", "made_by": {"seed": 7}}) as out:
        for i, length in enumerate(LENGTHS):
            out.add(frames(length, i), language=f"do {i}", success=i == 2, terminal=i == 1)
    return tmp_path / "source"


def check_copied(out, episodes):
    clips = ClipStore(out)
    assert [known["source_episode"] for known in clips.episodes] == episodes
    for number, episode in enumerate(episodes):
        clip = clips[number]
        for key, value in frames(LENGTHS[episode], episode).items():
            assert np.array_equal(clip[key], value) and clip[key].dtype == value.dtype
        assert clip["language"] == f"do {episode}" and clip["is_terminal"].any() == (episode == 1)
        assert clips.episodes[number]["success"] == (episode == 2) and clips.episodes[number]["episode"] == number
    return clips


def test_a_copy_is_the_same_without_what_is_damaged(store, tmp_path):
    done = []
    copied = copy(Source(store, damaged=[1]), tmp_path / "out", command="try", progress=done.append)
    clips = check_copied(tmp_path / "out", [0, 2, 3])
    assert (copied.before, copied.signal, list(copied.broken), done) == (0, None, [1], [1, 2, 3, 4]) and "bent" in copied.broken[1]
    assert (clips.views, clips.size, clips.fps, clips.meta["task"]) == (VIEWS, SIZE, 15, "reach")
    made_by = clips.meta["made_by"]
    assert (
        made_by["command"] == "try" and made_by["source"] == str(store) and made_by["source_made_by"] == {"seed": 7} and made_by["versions"]
    )


def test_an_interrupted_copy_goes_on(store, tmp_path):
    def interrupt(done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    first = copy(Source(store, damaged=[0]), tmp_path / "out", command="try", progress=interrupt)
    assert first.signal == signal.SIGTERM and list(first.broken) == [0]
    check_copied(tmp_path / "out", [1])
    source = Source(store)  # what was damaged has been mended
    second = copy(source, tmp_path / "out", command="try")
    assert (second.before, second.signal, second.broken, source.asked) == (1, None, {}, [0, 2, 3])
    check_copied(tmp_path / "out", [1, 0, 2, 3])


def test_interrupted_before_its_first_episode_nothing_is_left(store, tmp_path):
    copied = copy(Source(store, damaged=[0]), tmp_path / "out", command="try", progress=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert copied.signal == signal.SIGINT and not list((tmp_path / "out").iterdir())


def test_only_a_copy_of_the_same_is_gone_on_with(store, tmp_path):
    copy(ClipStore(store), tmp_path / "out", command="try")
    with ClipWriter(tmp_path / "recorded", views=VIEWS, size=SIZE, fps=15, meta={"task": "reach"}) as out:
        out.add(frames(4))
    for source, into, command, says in (
        (tmp_path / "recorded", "out", "try", "holds .*source, made by `try`"),
        (store, "out", "try with=other", "made by `try`"),
        (store, "recorded", "try", "not copied from elsewhere"),
    ):
        with pytest.raises(UserError, match=says):
            copy(ClipStore(source), tmp_path / into, command=command)
    changed = ClipStore(store)
    changed.lengths = np.array([4, 1, 5, 3])
    with pytest.raises(UserError, match="as it was before"):
        copy(changed, tmp_path / "out", command="try")
    check_copied(tmp_path / "out", [0, 1, 2, 3])
    assert len(ClipStore(tmp_path / "recorded")) == 1


def test_nothing_is_left_where_nothing_can_be_read(store, tmp_path):
    with pytest.raises(UserError, match="no episode that can be read.*episode 0 is bent"):
        copy(Source(store, damaged=range(4)), tmp_path / "out", command="try")
    assert not list((tmp_path / "out").iterdir())


def test_a_copy_that_fails_at_once_is_not_in_the_way_of_the_next(store, tmp_path):
    clips = ClipStore(store)
    clips.read_fields = lambda *_: {**frames(4, 0), "camera": np.zeros((4, 2, 9), np.float32)}
    with pytest.raises(UserError, match="a frame's camera is"):
        copy(clips, tmp_path / "out", command="first")
    assert not list((tmp_path / "out").iterdir())
    copy(ClipStore(store), tmp_path / "out", command="second")
    check_copied(tmp_path / "out", [0, 1, 2, 3])
