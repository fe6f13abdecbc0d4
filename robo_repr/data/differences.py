"""Demonstrations whose actions are what the joints did next, without the frames in which nothing moves.

A person who guides a real arm pauses, and what is recorded then would teach a policy to stand still. MVP (Radosavovic et al. 2022,
https://arxiv.org/abs/2210.03109; `mvp/bc/dataset.py` of https://github.com/ir413/mvp) leaves such frames out and learns the differences
between those that remain.
"""

from collections.abc import Sequence

import numpy as np

from robo_repr.core.errors import UserError, check_range
from robo_repr.data.base import BrokenEpisode, Clips, Field


class JointDifferences(Clips):
    """Clips with the frames that move alone, and with the differences to the next of them as actions.

    An episode's first frame stays. Each later one stays if a joint is further than `still` from where it was in the last frame that
    stayed, or if the gripper is other than there; so a slow drift is not lost. ``actions`` (A,) are the changes of the joints and then of
    the gripper, times `gripper_scale`, up to the next frame that stays; zeros in the last one. All else is what the frames that stay hold:
    ``state`` is not scaled, a ``reward`` is that of one step, and `fps` is that of the recording. `meta` says under
    ``differences`` how they were made. All states are read at once; an episode with numbers in them that are not finite is damaged.

    Args:
        clips: with a state.
        joints: which numbers of the state are joints, counted from 0; default all that are not the gripper's.
        gripper: which are the gripper's, such as 1 for open and 0 for closed; default the last one; empty where there is none.
        still: how far a joint may be from the last frame that stayed, in the state's unit (the paper's are radians), and count as still.
        gripper_scale: of the gripper's part of the actions.

    Raises:
        UserError: the clips have no state, or not these numbers; a setting that cannot be.
    """

    def __init__(
        self,
        clips: Clips,
        joints: Sequence[int] | None = None,
        gripper: Sequence[int] | None = None,
        still: float = 0.004,
        gripper_scale: float = 0.2,
    ):
        check_range("still", still, 0, 1e6, "the largest distance that counts as none")
        check_range("gripper_scale", gripper_scale, 1e-6, 1e6, "a factor of the gripper's action")
        clips.check_keys(["state"])
        count = clips.fields["state"].shape[0]
        self.source = clips
        self._gripper = list(range(count)[-1:] if gripper is None else gripper)
        self._joints = [number for number in range(count) if number not in self._gripper] if joints is None else list(joints)
        _check_numbers(self._joints, self._gripper, count, clips.name)
        self._still, self._scale = float(still), float(gripper_scale)
        self.name, self.views, self.size, self.fps, self.episodes = clips.name, clips.views, clips.size, clips.fps, clips.episodes
        self.fields = {**clips.fields, "actions": Field((len(self._joints) + len(self._gripper),), np.dtype(np.float32))}
        how = {"joints": self._joints, "gripper": self._gripper, "still": self._still, "gripper_scale": self._scale}
        self.meta = {**clips.meta, "differences": how}
        self.broken = dict(clips.broken)
        self.lengths = clips.lengths.copy()
        self._moves: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # the frames that stay and their actions
        for episode in range(len(clips)):
            if episode not in self.broken:
                try:
                    self._moves[episode] = self._find_moves(episode)
                    self.lengths[episode] = len(self._moves[episode][0])
                except BrokenEpisode as error:
                    self.broken[episode] = str(error)

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if episode not in self._moves:
            raise BrokenEpisode(self.broken[episode])
        kept, actions = self._moves[episode]
        frames = kept[start:stop]
        first, last = int(frames[0]), int(frames[-1])
        others = [key for key in keys if key != "actions"]
        found = self.source.read_fields(episode, first, last + 1, others) if others else {}
        return {key: actions[start:stop].copy() if key == "actions" else found[key][frames - first] for key in keys}

    def _find_moves(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        state = self.source.read(episode, keys=["state"])["state"]
        joints, gripper = state[:, self._joints], state[:, self._gripper]
        if not (np.isfinite(joints).all() and np.isfinite(gripper).all()):
            raise BrokenEpisode(f"{self.name}: episode {episode} is damaged (its state has numbers that are not finite)")
        kept = _moving(joints, gripper, self._still)
        places = np.concatenate([joints, gripper * np.float64(self._scale)], axis=1)[kept]
        return kept, np.diff(places, axis=0, append=places[-1:]).astype(np.float32)


def _moving(joints: np.ndarray, gripper: np.ndarray, still: float) -> np.ndarray:
    """Which of T frames stay, given joints (T, J) and gripper (T, G)."""
    limit = np.float32(still)  # as exact as the joints, so that a joint which moved by just `still` has not moved
    kept = [0]
    for frame in range(1, len(joints)):
        if (np.abs(joints[frame] - joints[kept[-1]]) > limit).any() or (gripper[frame] != gripper[kept[-1]]).any():
            kept.append(frame)
    return np.array(kept)


def _check_numbers(joints: Sequence[int], gripper: Sequence[int], count: int, name: str) -> None:
    """Refuses numbers that a state of `count` numbers does not have, or that are named twice, and no joint at all."""
    for key, numbers in (("joints", joints), ("gripper", gripper)):
        for number in numbers:
            check_range(key, number, 0, count - 1, f"numbers of the state of {name}, which has {count}", whole=True)
    if not joints:
        raise UserError(
            f"The state of {name} has no joint: of its {count} numbers {len(gripper)} are named gripper. Name the joints: joints=[0, 1]."
        )
    named = [*joints, *gripper]
    twice = [number for number in named if named.count(number) > 1]
    if twice:
        raise UserError(
            f"Number {twice[0]} of the state is named twice: joints={list(joints)}, gripper={list(gripper)}. Name each one once; without "
            "gripper= it is the last one."
        )
