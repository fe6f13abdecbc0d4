"""The replay on disk: segments that are written once, each checkpoint naming those it needs."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from robo_repr.core.checkpoint import DamagedCheckpoint, load_state, save_state
from robo_repr.core.files import remove


class ReplaySegments:
    """Keeps the replay of a stable-baselines3 model in ``checkpoints/replay/``.

    A save writes the rows (one step of all worlds each) that came since the last one, as ``<first>-<end>``; nothing is written twice, so a
    checkpoint costs the same however long the run is. Rows are counted from the run's start; the replay begins with row `_begin`, which is
    0 unless it was lost, and row r lies in its slot r - `_begin` modulo its size. A segment that no checkpoint names any more is deleted.
    """

    def __init__(self, model: Any):
        self._model, self._begin = model, 0
        self._segments: list[dict] = []  # in order: first and end row, digest

    @property
    def _rows(self) -> int:
        return self._model.num_timesteps // self._model.n_envs

    def save(self, folder: Path) -> None:
        """Writes the new rows beside the checkpoint `folder`, and the list of all segments into it."""
        rows, size = self._rows, self._model.replay_buffer.buffer_size
        replay = folder.parent / "replay"
        replay.mkdir(exist_ok=True)
        first = max(self._segments[-1]["end"] if self._segments else self._begin, rows - size)
        if first < rows:
            slots = (np.arange(first, rows) - self._begin) % size
            new = {key: array[slots] for key, array in replay_arrays(self._model.replay_buffer).items()}
            digest = save_state(replay, f"{first}-{rows}", new)
            self._segments.append({"first": first, "end": rows, "sha256": digest})
        self._segments = [segment for segment in self._segments if segment["end"] > rows - size]
        save_state(folder, "replay", {"begin": self._begin, "rows": rows, "size": size, "segments": self._segments})
        self._sweep(folder.parent)

    def load(self, folder: Path) -> None:
        """Fills the replay with a checkpoint's rows.

        Raises:
            DamagedCheckpoint: the list or a segment is missing or damaged.
        """
        state = load_state(folder, "replay")
        begin, rows, model = state["begin"], state["rows"], self._model
        if model.replay_buffer.buffer_size < rows - begin <= state["size"]:
            # The run is asked to be shorter than it is already; what it has collected is kept all the same.
            model.buffer_size = (rows - begin) * model.n_envs
            model.replay_buffer = type(model.replay_buffer)(
                model.buffer_size, model.observation_space, model.action_space, model.device, model.n_envs
            )
        replay = model.replay_buffer
        size = replay.buffer_size
        arrays = replay_arrays(replay)
        for segment in state["segments"]:
            saved = load_state(folder.parent / "replay", f"{segment['first']}-{segment['end']}", segment["sha256"])
            alive = np.arange(max(segment["first"], rows - size), segment["end"])
            for key, array in arrays.items():
                array[(alive - begin) % size] = saved[key][alive - segment["first"]]
        # A replay as long as its run is never overwritten: when the run got longer, new rows follow the old ones.
        replay.pos, replay.full = (rows - begin) % size, rows - begin >= size
        self._begin, self._segments = begin, list(state["segments"])

    def begin_anew(self) -> None:
        """Goes on with an empty replay, whose first row is the next one."""
        self._model.replay_buffer.reset()
        self._begin, self._segments = self._rows, []

    def _sweep(self, checkpoints: Path) -> None:
        """Deletes the segments that no checkpoint names, such as those of a process that was killed before its checkpoint was whole."""
        named = set()
        for listed in checkpoints.glob("*/replay.json"):
            # A damaged list was named when it was read; what it needs may be deleted.
            named |= {f"{segment['first']}-{segment['end']}" for segment in _readable(listed)}
        for file in (checkpoints / "replay").iterdir():
            # Other names are no segments, whoever put them there.
            if (name := re.match(r"(\d+-\d+)\.(json|safetensors)", file.name)) and name[1] not in named:
                remove(file)


def replay_arrays(replay: Any) -> dict[str, np.ndarray]:
    """All arrays (rows, N, ...) of a stable-baselines3 dict replay, whole allocation."""
    arrays = {key: getattr(replay, key) for key in ("actions", "rewards", "dones", "timeouts")}
    for group in ("observations", "next_observations"):
        arrays |= {f"{group}/{key}": array for key, array in getattr(replay, group).items()}
    return arrays


def _readable(listed: Path) -> list[dict]:
    try:
        return load_state(listed.parent, "replay")["segments"]
    except (DamagedCheckpoint, KeyError, TypeError):
        return []
