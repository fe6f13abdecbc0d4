"""Manifests: lists of views as JSON files, so that anyone reruns exactly those views, on any engine and with any learner.

    {"format": "views/1", "task": "reach", "camera": "L3:shell", "seed": 0,
     "views": [{"front": [[x, y, z, qw, qx, qy, qz, fovy], ...], "wrist": [...]}, ...],
     "sha256": "..."}

Each view holds for each camera its poses in the frame of its parent body (the world, or the hand), in metres, quaternion wxyz and degrees:
one, or of a camera that moves one for each frame of the episode, of which the last stays. Evaluation episode i takes view i, beginning
again after the last one; a training episode takes one at random. ``camera`` and ``seed`` tell where the views come from; ``sha256`` is
that of everything else, however its numbers are written.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.cameras.pose import NominalCamera, find_factors
from envs.cameras.samplers import Drawn, Occasion, Sampler
from envs.render import mujoco
from robo_repr.core.errors import UserError
from robo_repr.core.files import home_expanded, write_whole

FORMAT = "views/1"
UNIT = 1e-6  # how far a quaternion's length may be from 1
MOST = mujoco.mjMAXVAL  # as large as the simulator's numbers may be


@dataclass
class Manifest(Sampler):
    """The views of a manifest.

    Attributes:
        views: for each view, camera name -> poses (T, 8).
        sha256: of what the file holds.
    """

    path: str
    task: str
    views: list[dict[str, np.ndarray]]
    sha256: str

    def __post_init__(self):
        self.moves = any(len(poses) > 1 for view in self.views for poses in view.values())

    def bind(self, model: mujoco.MjModel, task: str, views: Sequence[str]) -> None:
        if task != self.task:
            raise UserError(
                f"{self.path} is a manifest of views for task={self.task}, not for task={task}. Choose a manifest of that task."
            )
        if lacking := [view for view in views if view not in self.views[0]]:
            raise UserError(
                f"{self.path} has no view of camera {', '.join(lacking)}, but of {', '.join(self.views[0])}. Choose "
                f"views=[{','.join(self.views[0])}], or move these alone: camera={self.path}@{'+'.join(self.views[0])}."
            )

    def view(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Drawn:
        """The poses as they stand in the file, to the last bit."""
        kind, number = occasion.episode[0], occasion.episode[-1]
        chosen = number % len(self.views) if kind == "evaluation" else int(generator.integers(len(self.views)))
        poses = self.views[chosen][camera.name]
        return Drawn(find_factors(camera, poses), poses)


def write_manifest(path: str | Path, task: str, views: Sequence[dict[str, np.ndarray]], camera: str, seed: int) -> Path:
    """Writes a manifest.

    Args:
        path: ends in .json, by which camera settings know a manifest.
        views: for each view, camera name -> poses (8,) or (T, 8) in the frame of the camera's parent body; see `sample_views`.
        camera, seed: the setting and the seed that the views were drawn from.

    Raises:
        UserError: the path or the views are not such.
        OSError: the file cannot be written.
    """
    path = home_expanded(path)
    if path.suffix != ".json":
        raise UserError(f"{path} is no name for a manifest of views: camera settings know one by its ending. Name it {path.name}.json.")
    content: dict[str, Any] = {"format": FORMAT, "task": task, "camera": camera, "seed": int(seed)}
    try:
        # Without negative zeros, which not every program writes as such.
        content["views"] = [
            {name: (np.atleast_2d(np.asarray(poses, dtype=float)) + 0.0).tolist() for name, poses in view.items()} for view in views
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"The views are not such as a manifest holds ({error}). Give for each view a dictionary of cameras' poses (8,) or (T, 8), as "
            "env.view_poses() does."
        ) from error
    content["sha256"] = _hash(content, _check(str(path), content))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content) + "\n")
    return path


def read_manifest(path: str | Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        UserError: there is no such file, it is no manifest, or was changed since it was written.
    """
    try:
        content = json.loads(home_expanded(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read as a manifest of views ({reason}). Name a JSON file that envs.write_manifest wrote."
        ) from error
    views = _check(str(path), content)
    if content.get("sha256") != (found := _hash(content, views)):
        raise UserError(
            f"{path} was changed since it was written: its content has the SHA-256 {found[:16]}..., but it notes "
            f"{str(content.get('sha256'))[:16]}... Get the file again, or write your own views with envs.write_manifest."
        )
    return Manifest(str(path), content["task"], views, found)


def _hash(content: dict[str, Any], views: list[dict[str, np.ndarray]]) -> str:
    """Of everything but the hash, whatever the order of keys, the spaces and the spelling of the views' numbers (1 or 1.0)."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    rest["views"] = [{name: rows.tolist() for name, rows in view.items()} for view in views]
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check(path: str, content: Any) -> list[dict[str, np.ndarray]]:
    """The views of a manifest's content as arrays; refuses what is none."""

    def broken(why: str) -> UserError:
        return UserError(
            f"{path} is no manifest of views: {why}. Name a JSON file that envs.write_manifest wrote; docs/viewpoint.md shows one."
        )

    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("task"), str):
        raise broken(f'it lacks "format": "{FORMAT}" or its task')
    views = content.get("views")
    if not isinstance(views, list) or not views or not all(isinstance(view, dict) and view for view in views):
        raise broken("its views are not a list of cameras' poses")
    checked = []
    for number, view in enumerate(views):
        if view.keys() != views[0].keys():
            raise broken(f"view {number} is of the cameras {', '.join(view)}, and view 0 of {', '.join(views[0])}")
        try:
            found = {name: np.array(rows) for name, rows in view.items()}
        except (ValueError, OverflowError):  # rows of different lengths; a whole number without end
            raise broken(f"view {number} holds something else than rows of 8 numbers") from None
        for name, rows in found.items():
            if rows.ndim != 2 or rows.shape[1] != 8 or not len(rows) or rows.dtype.kind not in "iuf" or not (abs(rows) < MOST).all():
                raise broken(f"camera {name} of view {number} has no rows of 8 numbers below {MOST:g}")
            if (np.abs(np.linalg.norm(rows[:, 3:7], axis=1) - 1) > UNIT).any():
                raise broken(f"camera {name} of view {number} has a quaternion that is not of length 1")
            if not ((rows[:, 7] > 0) & (rows[:, 7] < 180)).all():
                raise broken(f"camera {name} of view {number} has a field of view that is not between 0 and 180 degrees")
        checked.append({name: rows.astype(float) for name, rows in found.items()})
    return checked
