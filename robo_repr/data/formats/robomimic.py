"""Demonstrations in robomimic's HDF5, also as LIBERO, MimicGen and RoboCasa publish theirs. Read only.

Layout: https://robomimic.github.io/docs/datasets/overview.html: ``data/demo_<i>/obs/<key>`` (N, ...), ``actions``, ``rewards`` and
``dones`` (N, ...), perhaps ``next_obs``; ``mask/<name>`` lists the demonstrations of a part.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robo_repr.core.errors import UserError, unknown
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.formats import check_fps, check_views

# What the state is made of where nothing is said, robot by robot: pose of the hand and the fingers' joints.
STATES = (r"robot\d+_eef_pos", r"robot\d+_eef_quat", r"robot\d+_gripper_qpos")
LIBERO_STATES = ("ee_pos", "ee_ori", "gripper_states")


class RobomimicClips(Clips):
    """Demonstrations of one HDF5 file, ``demo_10`` after ``demo_9``.

    Views are all uint8 observations (N, H, W, 3); ``agentview_image``, and LIBERO's ``agentview_rgb``, are the view ``agentview``. Where
    ``next_obs`` is there, its last row is the final frame. LIBERO notes how its pictures were drawn (``macros_image_convention``): those of
    the convention ``opengl`` have their lowest row first and are turned over here. Its script, other than robomimic's, notes each picture
    after the action beside it; they are left as they are. An episode is terminal where the last of ``dones`` is 1; it has ``success``
    where all rewards of the file are 0 or 1 and any is 1. ``language`` comes from RoboCasa's ``ep_meta`` or LIBERO's ``problem_info``.

    Args:
        path: the file.
        filter: a part of the file as named under ``mask``, such as train or valid; default all.
        state: observations that make the state, in this order. Default: ``robot0_eef_pos, robot0_eef_quat, robot0_gripper_qpos`` (and
            those of further robots); in LIBERO's files ``ee_pos, ee_ori, gripper_states``; where none of these is there, all vectors in
            sorted order but for ``object...``, which no robot can measure.
        views: which views, and in which order; default all.
        fps: frames per second; default the environment's ``control_freq``, else 20.
        upside_down: whether the pictures' lowest row is first; default what the file says, else not.

    Raises:
        UserError: the file is damaged or no such file, it has no images, no such part, state or view, or views of different sizes.
    """

    def __init__(
        self,
        path: str | Path,
        filter: str | None = None,
        state: Sequence[str] | None = None,
        views: Sequence[str] | None = None,
        fps: float | None = None,
        upside_down: bool | None = None,
    ):
        check_fps(fps)
        self.path, self.name, self.meta = Path(path), str(path), {}
        try:
            with self._open() as file:
                data = file.get("data")
                if not isinstance(data, h5py.Group):
                    raise UserError(
                        f"{path} has no group `data`, only {', '.join(file) or 'nothing'}. It is no file of robomimic's layout."
                    )
                self._demos = _part(file, _demos(data), filter, self.name)
                self._read_header(data, state, views)
                convention = _text(data.attrs.get("macros_image_convention"))
                self._turn = convention == "opengl" if upside_down is None else upside_down
                env = _attribute(data, "env_args")
                frequency = _mapping(env.get("env_kwargs")).get("control_freq")
                noted = float(frequency) if isinstance(frequency, int | float) and 1e-3 <= frequency <= 1e6 else 20.0
                self.fps = float(fps) if fps is not None else noted
                self.lengths, self.episodes, self.broken = self._scan(data, str(env.get("env_name", "")))
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({_words(error)}). Download or make it again.") from error
        if len(self.broken) == len(self.lengths):
            raise UserError(f"{path} has no demonstration that can be read; the first: {self.broken[0]}. Download or make it again.")

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if episode in self.broken:
            raise BrokenEpisode(self.broken[episode])
        try:
            with self._open() as file:
                demo: Any = file["data"][self._demos[episode]]  # pyright: ignore[reportIndexIssue]
                return {key: self._read(demo, key, start, stop) for key in keys}
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise BrokenEpisode(f"{self.name}: {self._demos[episode]} cannot be read ({_words(error)})") from error

    def _open(self) -> h5py.File:
        # Opened for every read: that costs less than a millisecond, and threads and processes share nothing.
        try:
            return h5py.File(self.path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            what = "is a folder" if self.path.is_dir() else "is not there" if not self.path.exists() else "may not be read"
            raise UserError(f"{self.path} {what}. Give an HDF5 file of demonstrations, such as image.hdf5.") from error
        except OSError as error:
            raise UserError(f"{self.path} is damaged or no HDF5 file ({_words(error)}). Download or make it again.") from error

    def _read_header(self, data: h5py.Group, state: Sequence[str] | None, views: Sequence[str] | None) -> None:
        """Sets views, size, fields and what they are read from, after the first demonstration that has images."""
        named: dict[str, str] = {}
        for name in self._demos:
            demo: Any = data[name]
            obs: Any = demo.get("obs") if isinstance(demo, h5py.Group) else None
            if isinstance(obs, h5py.Group) and (named := _views(obs)):
                break
        else:
            raise UserError(
                f"{self.name} has no images: no demonstration has an observation (N, H, W, 3) of uint8 under obs. Render them from the "
                "states that the file holds with robomimic's own script: python robomimic/scripts/dataset_states_to_obs.py --dataset FILE "
                "--output_name image.hdf5 --done_mode 2 --camera_names agentview robot0_eye_in_hand --camera_height 84 --camera_width 84"
            )
        if views:
            # Full names are taken too: that is what is seen in the file.
            known = {**{key: key for key in named.values()}, **named}
            check_views([known.get(view, view) for view in views], [*named.values(), *named])
            names = {key: view for view, key in named.items()}
            named = {names[known[view]]: known[view] for view in views}
        self.views, self._images = list(named), list(named.values())
        sizes = {view: obs[key].shape[1:3] for view, key in named.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{view} {height} x {width}" for view, (height, width) in sizes.items())
            raise UserError(f"{self.name} has views of different sizes ({listed}). Read those of one size: views=[{self.views[0]}].")
        self.size = sizes[self.views[0]]
        self._state = _state(obs, state)
        self.fields = {"images": Field((len(named), 3, *self.size), np.dtype(np.uint8))}
        if self._state:
            width = sum(int(np.prod(obs[key].shape[1:])) for key in self._state)
            self.fields["state"] = Field((width,), np.dtype(np.float32))
        if "actions" in demo:
            self.fields["actions"] = Field(demo["actions"].shape[1:], np.dtype(np.float32))
        if "rewards" in demo:
            self.fields["reward"] = Field((), np.dtype(np.float32))
        self._shapes = {key: obs[key].shape[1:] for key in (*self._images, *self._state)}

    def _scan(self, data: h5py.Group, task: str) -> tuple[np.ndarray, list[dict[str, Any]], dict[int, str]]:
        """Length of each demonstration, what is known of it, and which cannot be read."""
        lengths, episodes, broken = [], [], {}
        spoken = _spoken(_attribute(data, "problem_info").get("language_instruction"))
        rewards: dict[int, np.ndarray] = {}
        for i, name in enumerate(self._demos):
            known: dict[str, Any] = {"language": spoken, "task": task, "source": f"{self.name}:{name}"}
            try:
                demo: Any = data[name]
                lengths.append(self._length(demo))
                known["language"] = _spoken(_attribute(demo, "ep_meta").get("lang")) or spoken
                known["terminal"] = "dones" in demo and bool(demo["dones"][-1])
                if "reward" in self.fields:
                    rewards[i] = demo["rewards"][:]
            except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
                lengths[i:] = [1]
                broken[i] = f"{self.name}: {name} cannot be read ({_words(error)})"
            episodes.append(known)
        if all(np.isin(values, (0, 1)).all() for values in rewards.values()) and any(values.any() for values in rewards.values()):
            for i, values in rewards.items():
                episodes[i]["success"] = bool(values.any())
        return np.array(lengths, dtype=np.int64), episodes, broken

    def _length(self, demo: Any) -> int:
        """Frames of a demonstration; ValueError where its shapes are not those of the others."""
        obs = demo["obs"]
        frames = obs[self._images[0]].shape[0]
        steps = demo["actions"].shape[0] if "actions" in self.fields else frames
        for key, shape in self._shapes.items():
            found = obs[key].shape
            if found != (frames, *shape):
                raise ValueError(f"obs/{key} has the shape {found} instead of {(frames, *shape)}")
            if key in self._images and obs[key].dtype != np.uint8:
                raise ValueError(f"obs/{key} is {obs[key].dtype} instead of uint8")
        for key, field in (("actions", "actions"), ("rewards", "reward")):
            if field in self.fields and demo[key].shape != (steps, *self.fields[field].shape):
                raise ValueError(f"{key} has the shape {demo[key].shape} instead of {(steps, *self.fields[field].shape)}")
        if frames < 1 or frames - steps not in (0, 1):
            raise ValueError(f"it has {frames} frames and {steps} actions")
        after = demo.get("next_obs")
        if frames > steps or after is None or any(key not in after or after[key].shape != obs[key].shape for key in self._shapes):
            return frames
        return frames + 1

    def _read(self, demo: Any, key: str, start: int, stop: int) -> np.ndarray:
        if key == "images":
            views = np.stack([_frames(demo, name, start, stop) for name in self._images], axis=1)
            views = views[:, :, ::-1] if self._turn else views
            return np.ascontiguousarray(np.moveaxis(views, -1, 2))
        if key == "state":
            parts = [_frames(demo, name, start, stop).reshape(stop - start, -1) for name in self._state]
            return np.concatenate(parts, axis=1).astype(np.float32)
        values = demo["rewards" if key == "reward" else key]
        found = np.zeros((stop - start, *values.shape[1:]), dtype=np.float32)
        taken = values[start:stop]  # one less than frames where the final frame is there
        found[: len(taken)] = taken
        return found


def _frames(demo: Any, name: str, start: int, stop: int) -> np.ndarray:
    """Rows of an observation, the row behind the last of which is the final one of next_obs."""
    rows = demo["obs"][name]
    found = rows[start:stop]
    return found if stop <= len(rows) else np.concatenate([found, demo["next_obs"][name][-1:]])


def _demos(data: h5py.Group) -> list[str]:
    """Names of the groups, by the numbers in them."""
    names = [str(name) for name in data if data.get(name, getclass=True) is h5py.Group]
    return sorted(names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)])


def _part(file: h5py.File, demos: list[str], filter: str | None, name: str) -> list[str]:
    if filter is not None:
        mask: Any = file.get("mask", {})
        if filter not in mask:
            raise unknown("filter", filter, mask)
        listed = {_text(value) for value in mask[filter][:]}
        absent = sorted(listed - set(demos))
        if absent:
            raise UserError(
                f"{name}: mask/{filter} lists {', '.join(absent[:5])}, which the file does not hold. Download or make it again."
            )
        demos = [demo for demo in demos if demo in listed]
    if not demos:
        raise UserError(f"{name} has no demonstrations{'' if filter is None else f' under mask/{filter}'}. Choose another file or part.")
    return demos


def _views(obs: h5py.Group) -> dict[str, str]:
    """View -> name of its pictures, without _image and _rgb where that leaves the names different."""
    pictures = [key for key, rows in obs.items() if isinstance(rows, h5py.Dataset) and _is_picture(rows)]
    short = [re.sub(r"_(image|rgb)$", "", key) for key in pictures]
    return dict(zip(short if len(set(short)) == len(short) else pictures, pictures, strict=True))


def _is_picture(rows: h5py.Dataset) -> bool:
    return rows.dtype == np.uint8 and rows.ndim == 4 and rows.shape[-1] == 3


def _state(obs: h5py.Group, asked: Sequence[str] | None) -> list[str]:
    """Names of the observations that make the state."""
    vectors = [key for key, rows in obs.items() if isinstance(rows, h5py.Dataset) and rows.ndim in (1, 2) and rows.dtype.kind in "fiub"]
    if asked is not None:
        for key in asked:
            if key not in vectors:
                raise unknown("state", key, vectors)
        return list(asked)
    robots = sorted({match[0] for key in vectors if (match := re.match(r"robot\d+", key))}, key=lambda robot: int(robot[5:]))
    usual = [key for robot in robots for pattern in STATES for key in vectors if key.startswith(f"{robot}_") and re.fullmatch(pattern, key)]
    return usual or [key for key in LIBERO_STATES if key in vectors] or [key for key in vectors if not key.startswith("object")]


def _attribute(group: h5py.Group, name: str) -> dict[str, Any]:
    """An attribute that holds a JSON object; empty where there is none."""
    try:
        return _mapping(json.loads(_text(group.attrs.get(name))))
    except ValueError:
        return {}


def _mapping(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _spoken(found: Any) -> str:
    """An instruction, which LIBERO notes as a text or as a list of words, and sometimes in quotes."""
    words = " ".join(map(str, found)) if isinstance(found, list) else found if isinstance(found, str) else ""
    return words.strip().strip('"')


def _text(found: Any) -> str:
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found) if found is not None else ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
