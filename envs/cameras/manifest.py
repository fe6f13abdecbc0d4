"""Manifests: lists of views as JSON files, so that anyone reruns exactly those views, on any engine and with any learner.

    {"format": "views/1", "task": "reach", "camera": "L3:shell", "seed": 0,
     "views": [{"front": [[x, y, z, qw, qx, qy, qz, fovy], ...], "wrist": [...]}, ...],
     "sha256": "..."}

Each view holds for each camera its poses in the frame of its parent body (the world, or the hand), in metres, quaternion wxyz and degrees:
one, or of a camera that moves one for each frame of the episode. Evaluation episode i takes view i, beginning again after the last one; a
training episode takes one at random. ``camera`` and ``seed`` tell where the views come from; ``sha256`` is that of everything else.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.cameras.pose import Factors, NominalCamera, find_factors
from envs.cameras.samplers import Occasion, Sampler
from envs.render import mujoco
from robo_repr.core.errors import UserError
from robo_repr.core.files import home_expanded, write_whole

FORMAT = "views/1"
UNIT = 1e-6  # how far a quaternion's length may be from 1


@dataclass
class Manifest(Sampler):
    """The views of a manifest.

    Attributes:
        views: for each view, camera name -> poses (T, 8).
    """

    path: str
    task: str
    views: list[dict[str, np.ndarray]]

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

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        return find_factors(camera, self.poses(camera, generator, occasion))

    def poses(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> np.ndarray:
        """The poses (T, 8) themselves, to the last bit."""
        kind, number = occasion.episode[0], occasion.episode[-1]
        chosen = number % len(self.views) if kind == "evaluation" else int(generator.integers(len(self.views)))
        return self.views[chosen][camera.name]


def write_manifest(path: str | Path, task: str, views: Sequence[dict[str, np.ndarray]], camera: str, seed: int) -> Path:
    """Writes a manifest.

    Args:
        views: for each view, camera name -> poses (8,) or (T, 8) in the frame of the camera's parent body; see `sample_views`.
        camera, seed: the setting and the seed that the views were drawn from.

    Raises:
        UserError: the views are not such.
        OSError: the file cannot be written.
    """
    path = home_expanded(path)
    content: dict[str, Any] = {"format": FORMAT, "task": task, "camera": camera, "seed": seed}
    content["views"] = [{name: np.atleast_2d(poses).tolist() for name, poses in view.items()} for view in views]
    _check(str(path), content)
    content["sha256"] = _hash(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content) + "\n")
    return path


def read_manifest(path: str | Path) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        UserError: there is no such file, it is no manifest, or was changed since it was written.
    """
    try:
        content = json.loads(home_expanded(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read as a manifest of views ({reason}). Name a JSON file that envs.write_manifest wrote."
        ) from error
    views = _check(str(path), content)
    if content.get("sha256") != (found := _hash(content)):
        raise UserError(
            f"{path} was changed since it was written: its content has the SHA-256 {found[:16]}..., but it notes "
            f"{str(content.get('sha256'))[:16]}... Get the file again, or write your own views with envs.write_manifest."
        )
    return Manifest(str(path), content["task"], views)


def _hash(content: dict[str, Any]) -> str:
    """Of everything but the hash, whatever the order of keys and the spaces."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
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
            poses = {name: np.array(rows, dtype=float) for name, rows in view.items()}
        except (ValueError, TypeError):
            raise broken(f"view {number} holds something else than numbers") from None
        for name, rows in poses.items():
            if rows.ndim != 2 or rows.shape[1] != 8 or not len(rows) or not np.isfinite(rows).all():
                raise broken(f"camera {name} of view {number} has no rows of 8 finite numbers")
            if (np.abs(np.linalg.norm(rows[:, 3:7], axis=1) - 1) > UNIT).any():
                raise broken(f"camera {name} of view {number} has a quaternion that is not of length 1")
            if not ((rows[:, 7] > 0) & (rows[:, 7] < 180)).all():
                raise broken(f"camera {name} of view {number} has a field of view that is not between 0 and 180 degrees")
        checked.append(poses)
    return checked
