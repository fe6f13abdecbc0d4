"""Actions made of what the joints did next, without frames that stand still; values by hand."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from robo_repr.core.errors import UserError
from robo_repr.data import ClipStore
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.differences import JointDifferences

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import clips as command  # noqa: E402


class Taught(Clips):
    """Episodes with the given states (T, S); a frame's pixels and reward are its number."""

    name, views, size, fps = "taught", ["front"], (2, 2), 10.0

    def __init__(self, *states, damaged=(), broken=()):
        self.states = [np.float32(state) for state in states]
        self.fields = {
            "images": Field((1, 3, 2, 2), np.dtype(np.uint8)),
            "state": Field(self.states[0].shape[1:], np.dtype(np.float32)),
            "actions": Field((9,), np.dtype(np.float32)),
            "reward": Field((), np.dtype(np.float32)),
        }
        self.lengths = np.array([len(state) for state in self.states])
        self.episodes = [{"language": f"do {i}", "terminal": True} for i in range(len(states))]
        self.meta, self.broken, self.damaged = {"task": "pick"}, {i: f"episode {i} is bent" for i in broken}, damaged

    def read_fields(self, episode, start, stop, keys):
        if episode in self.damaged and "images" in keys:
            raise BrokenEpisode(f"pictures of episode {episode} are bent")
        number = np.arange(start, stop)
        made = {
            "images": np.broadcast_to(number[:, None, None, None, None], (len(number), 1, 3, 2, 2)).astype(np.uint8),
            "state": self.states[episode][start:stop],
            "actions": np.full((len(number), 9), np.nan, np.float32),
            "reward": number.astype(np.float32),
        }
        return {key: made[key] for key in keys}


def kept(state, **how):
    """Which frames stay of one episode, and its actions."""
    clip = JointDifferences(Taught(state), **how)[0]
    assert np.array_equal(clip["images"][:, 0, 0, 0, 0], clip["reward"])
    assert np.array_equal(clip["state"], np.float32(state)[clip["reward"].astype(int)])
    return clip["reward"].tolist(), clip["actions"]


def joint(*places):
    """States of one joint and a gripper that stays open."""
    return [[place, 1] for place in places]


def test_actions_are_the_way_to_the_next_frame_that_stays():
    # Two joints and a gripper: one joint moves; nothing does; the other one does, backwards; the gripper shuts; nothing.
    state = [[0, 0, 1], [0.5, 0, 1], [0.5, 0, 1], [0.5, -0.25, 1], [0.5, -0.25, 0], [0.5, -0.25, 0]]
    frames, actions = kept(state)
    assert frames == [0, 1, 3, 4] and actions.dtype == np.float32
    assert np.array_equal(actions, np.float32([[0.5, 0, 0], [0, -0.25, 0], [0, 0, -0.2], [0, 0, 0]]))
    frames, actions = kept(state, gripper_scale=1.0)
    assert frames == [0, 1, 3, 4] and np.array_equal(actions[2], [0, 0, -1])


def test_a_joint_that_moved_by_just_the_threshold_is_still():
    assert kept(joint(0, 0.004, 0))[0] == [0]
    assert kept(joint(0, np.nextafter(np.float32(0.004), np.float32(1)), 0))[0] == [0, 1, 2]
    assert kept(joint(0, 0.5, 1, 2), still=0.5)[0] == [0, 2, 3]
    assert kept(joint(0, 0, 1e-6), still=0)[0] == [0, 2]


def test_a_slow_drift_adds_up_from_the_last_frame_that_stayed():
    # Compared with the frame before, none of these ever moves.
    drift = np.arange(12) * 0.25
    assert kept(joint(*drift), still=1)[0] == [0, 5, 10]
    frames, actions = kept(joint(*drift, 2), still=1)
    assert frames == [0, 5, 10] and actions[:, 0].tolist() == [1.25, 1.25, 0]
    # Compared with the first frame, the third would not stay; compared with the one before, the last would.
    assert kept(joint(0, 2, 0.5, 1.25, 0), still=1)[0] == [0, 1, 2]


def test_a_gripper_stays_in_whatever_the_joints_do():
    state = [[0, 1], [0, 0], [0, 0], [0, 1], [0, 0.999]]
    frames, actions = kept(state)
    assert frames == [0, 1, 3, 4] and np.allclose(actions[:, 1], [-0.2, 0.2, -0.0002, 0], atol=1e-7)
    assert kept(state, gripper=[], joints=[0])[0] == [0]  # the control: without a gripper nothing moves
    assert kept(state, gripper=[], joints=[0, 1])[0] == [0, 1, 3]  # as a joint it has to move by more than 0.004, and is not scaled
    assert kept(state, gripper=[], joints=[0, 1])[1][:, 1].tolist() == [-1, 1, 0]


def test_which_numbers_are_what():
    state = np.float32([[0, 10, 20, 30], [1, 12, 23, 34]])
    for how, action in (
        ({}, [1, 2, 3, 0.8]),
        ({"gripper": []}, [1, 2, 3, 4]),
        ({"gripper": [0]}, [2, 3, 4, 0.2]),
        ({"joints": [2, 0]}, [3, 1, 0.8]),
        ({"joints": [1], "gripper": [3, 2]}, [2, 0.8, 0.6]),
    ):
        made = JointDifferences(Taught(state), **how)
        assert made.fields["actions"] == Field((len(action),), np.dtype(np.float32))
        assert np.array_equal(made[0]["actions"], np.float32([action, np.zeros(len(action))]))


def test_an_episode_that_never_moves_is_one_frame():
    made = JointDifferences(Taught(joint(3, 3, 3), joint(0, 1)))
    clip = made[0]
    assert made.lengths.tolist() == [1, 2] and clip["actions"].tolist() == [[0, 0]] and clip["reward"].tolist() == [0]
    assert clip["is_first"].all() and clip["is_last"].all() and clip["is_terminal"].all() and clip["language"] == "do 0"


def test_windows_are_parts_of_the_whole():
    generator = np.random.default_rng(3)
    steps = generator.choice([0.0, 0.0, 0.003, 0.01], size=(40, 3)) * generator.choice([-1, 1], size=(40, 3))
    source = Taught(np.concatenate([np.cumsum(steps, axis=0), generator.integers(0, 2, (40, 1))], axis=1))
    made = JointDifferences(source)
    whole, length = made[0], int(made.lengths[0])
    assert 10 < length < 40 and source.lengths.tolist() == [40]
    for start, stop in ((0, 1), (0, 7), (5, 9), (length - 1, length), (length - 6, length)):
        for keys in (None, ["actions"], ["state", "actions"], ["reward"]):
            part = made.read(0, start, stop, keys)
            assert all(np.array_equal(part[key], whole[key][start:stop]) for key in keys or made.fields)
    made.read(0, keys=["actions"])["actions"][:] = 7  # a reader's copy
    assert np.array_equal(made[0]["actions"], whole["actions"])


def test_damaged_episodes_stay_damaged():
    gap = joint(0, np.nan, 1)
    made = JointDifferences(Taught(joint(0, 1), joint(0, 0, 1), gap, joint(0, 0, 0, 1), damaged=[3], broken=[1]))
    assert made.broken.keys() == {1, 2} and made.broken[1] == "episode 1 is bent" and "not finite" in made.broken[2]
    assert made.lengths.tolist() == [2, 3, 3, 2]
    assert [clip["language"] for clip in made] == ["do 0"] and made.broken.keys() == {1, 2, 3}
    for episode, why in ((1, "is bent"), (2, "not finite"), (3, "pictures of episode 3")):
        with pytest.raises(BrokenEpisode, match=why):
            made.read(episode)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"joints": [0, 4]}, r"joints=4 is not possible.*has 4\) must be at most 3"),
        ({"gripper": [-1]}, "gripper=-1 is not possible.*at least 0"),
        ({"joints": [0.5]}, "a whole number"),
        ({"joints": [0, 0]}, "Number 0 of the state is named twice"),
        ({"joints": [0, 3]}, "Number 3 of the state is named twice"),
        ({"joints": []}, "has no joint"),
        ({"gripper": [0, 1, 2, 3]}, "has no joint"),
        ({"still": -0.1}, "still=-0.1 is not possible"),
        ({"still": float("nan")}, "still=nan is not possible"),
        ({"gripper_scale": 0}, "gripper_scale=0 is not possible"),
    ],
)
def test_settings_that_cannot_be(how, says):
    with pytest.raises(UserError, match=says):
        JointDifferences(Taught(np.zeros((2, 4))), **how)


def test_without_a_state_there_are_no_differences():
    clips = Taught(joint(0, 1))
    del clips.fields["state"]
    with pytest.raises(UserError, match="taught has no state"):
        JointDifferences(clips)


# --- scripts/clips.py import --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def file(tmp_path):
    """A demonstration in robomimic's layout: a joint, a gripper, and two frames that stand still."""
    with h5py.File(tmp_path / "image.hdf5", "w") as out:
        demo = out.create_group("data/demo_0")
        demo["obs/agentview_image"] = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
        demo["obs/joint"] = [[0.0], [0.004], [0.5], [0.5], [0.5]]
        demo["obs/open"] = [[1.0], [1], [1], [1], [0]]
        demo["actions"] = np.full((5, 7), 9.0)
    return tmp_path / "image.hdf5"


def imported(file, *words, code=0):
    out = file.parent / "store"
    arguments = ["import", str(file), "format=robomimic", "state=[joint,open]", f"out={out}", *words]
    assert command.main(arguments) == code
    return ClipStore(out) if code == 0 else out


def test_an_import_with_differences(file, capsys):
    words = ("actions=differences", "joints=[0]", "gripper=1", "gripper_scale=0.5")
    for _ in range(2):  # the second one finds all of it there
        store = imported(file, *words)
        assert "2 of 5 frames are left out" in capsys.readouterr().err
    assert store.lengths.tolist() == [3] and store[0]["images"][:, 0, 0, 0, 0].tolist() == [0, 2, 4]
    assert store[0]["actions"].tolist() == [[0.5, 0], [0, -0.5], [0, 0]]
    assert store.meta["differences"] == {"joints": [0], "gripper": [1], "still": 0.004, "gripper_scale": 0.5}


def test_an_import_without_them_is_as_before(file):
    store = imported(file)
    assert store.lengths.tolist() == [5] and store[0]["actions"].shape == (5, 7) and "differences" not in store.meta


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["actions=diferences"], "Did you mean actions=differences"),
        (["joints=[0]"], "joints= goes with actions=differences"),
        (["actions=differences", "jionts=[0]"], "Did you mean key=joints"),
        (["actions=differences", "joints=[a]"], "joints is a whole number"),
        (["actions=differences", "gripper=[2]"], "gripper=2 is not possible"),
        (["actions=differences", "still=much"], "still is a number"),
    ],
)
def test_mistakes_on_the_command_line_are_one_paragraph(file, capsys, words, says):
    out = imported(file, *words, code=2)
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1 and not out.exists()


def test_the_help_tells_of_it(capsys):
    assert command.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("actions=differences", "joints=", "gripper=", "still=0.004", "gripper_scale=0.2"))
