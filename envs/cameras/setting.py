"""Camera settings: the strings that say how far cameras move, such as ``L3``, ``L3:shell@front`` or ``colosseum``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from envs.cameras.levels import LEVELS, Drift, Gaussian, Grid, Jitter, Schedule, Sphere, Sweep, Uniform, Zoom
from envs.cameras.manifest import read_manifest
from envs.cameras.pose import FACTORS, Factors, NominalCamera, find_factors, neutral, nominal_cameras
from envs.cameras.presets import PRESETS, find_preset
from envs.cameras.samplers import Drawn, Occasion, Sampler
from envs.render import mujoco
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.seeding import rng

KINDS: dict[str, Callable[[int], Sampler]] = {
    "gaussian": Gaussian,
    "grid": Grid,
    "sphere": Sphere,
    "jitter": Jitter,
    "sweep": Sweep,
    "drift": Drift,
    "zoom": Zoom,
}
WAYS = (
    "Levels are L0 to L5, alone or as L3:shell, L3:azimuth (or another factor), L3:gaussian, L3:sweep and the like; L0..L3 moves over a "
    f"training; presets are {', '.join(PRESETS)}; among:front+left takes the place of one of these cameras; a manifest is a .json file"
)


@dataclass(frozen=True)
class Among(Sampler):
    """Outside cameras stand, in each episode, where one of some cameras stands nominally.

    Attributes:
        poses: of the cameras to choose from, (n, 8); known once it is bound to a model.
    """

    names: tuple[str, ...]
    poses: list[np.ndarray]

    def bind(self, model: mujoco.MjModel, task: str, views: Sequence[str]) -> None:
        cameras = nominal_cameras(model, list(self.names), f"camera=among:{'+'.join(self.names)}: the camera")
        if mounted := [camera.name for camera in cameras if camera.mounted]:
            raise UserError(f"camera=among:{'+'.join(self.names)}: {mounted[0]} is carried by the hand. Name cameras that stand outside.")
        self.poses[:] = [camera.pose for camera in cameras]

    def perturbs(self, camera: NominalCamera) -> bool:
        return not camera.mounted

    def draw(self, camera: NominalCamera, generator: np.random.Generator, occasion: Occasion) -> Factors:
        return find_factors(camera, self.poses[int(generator.integers(len(self.poses)))][None])


class CameraSetting:
    """What a camera setting means.

    Args:
        text: the setting as it was written.
        sampler: what it draws from.
        only: cameras that move, or "outside" for those that stand in the world; empty for all.
        together: whether they share one draw.

    Attributes:
        moves: whether cameras move within an episode.
        is_schedule: whether it changes over a training.
        sha256: of the manifest's content; None where it is none. The text and this tell what is drawn.
    """

    def __init__(self, text: str, sampler: Sampler, only: frozenset[str] = frozenset(), together: bool = False):
        self.text, self._sampler, self._only = text, sampler, only
        self.together, self.moves, self.is_schedule = together, sampler.moves, sampler.is_schedule
        self.sha256 = sampler.sha256

    def __repr__(self) -> str:
        return f"CameraSetting({self.text!r})"

    def bind(self, model: mujoco.MjModel, task: str, views: Sequence[str]) -> None:
        """Checks that the setting fits a task and its views, and takes what it needs of the model.

        Raises:
            UserError: it names a camera that is not among the views, or is a manifest of another task.
        """
        if views and (lacking := [name for name in sorted(self._only) if name not in (*views, "outside")]):
            raise UserError(
                f"camera={self.text} moves {lacking[0]}, but no such camera is looked through here. Behind @ stand {', '.join(views)}, "
                "outside (all that stand in the world) or together, joined by +."
            )
        cameras = nominal_cameras(model, list(views))
        self._sampler.bind(model, task, [camera.name for camera in cameras if self._perturbs(camera)])

    def draw(self, cameras: Sequence[NominalCamera], seed: int, occasion: Occasion, attempts: Sequence[int] | None = None) -> list[Drawn]:
        """The views of one episode, one for each camera: a function of the seed, the episode and the attempt alone. Each camera has its own
        stream, so that adding one leaves the others alone.

        Args:
            attempts: for each camera how often its views were drawn and rejected before.

        Raises:
            UserError: a field of view that no picture can have.
        """
        views = []
        for camera, attempt in zip(cameras, attempts or [0] * len(cameras), strict=True):
            if not self._perturbs(camera):
                views.append(Drawn(neutral(), camera.pose[None]))
                continue
            stream = "camera/together" if self.together else f"camera/{camera.name}"
            generator = rng(seed, stream, *occasion.episode, *([f"attempt {attempt}"] if attempt else []))
            views.append(self._sampler.view(camera, generator, occasion))
            fov = views[-1].poses[:, 7]
            if len(beyond := fov[(fov <= 0) | (fov >= 180)]):
                raise UserError(
                    f"camera={self.text}: camera {camera.name}, whose field of view is nominally {camera.pose[7]:g} degrees, would have "
                    f"one of {beyond[0]:g}. It must lie between 0 and 180: choose a smaller level, or another fovy in the task's XML."
                )
        return views

    def _perturbs(self, camera: NominalCamera) -> bool:
        meant = not self._only or camera.name in self._only or ("outside" in self._only and not camera.mounted)
        return meant and self._sampler.perturbs(camera)


def parse_camera(key: str, value: object) -> CameraSetting:
    """What a string says of how cameras move.

    Args:
        key: the setting that was read, such as ``"eval_camera"``, for messages.

    Raises:
        UserError: it is no such string; names the nearest.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value!r} is not possible. {WAYS}. Such as {key}=L3.")
    path, ending, behind = value.rpartition(".json")  # in a path an @ means nothing
    name, at, who = behind.partition("@")
    text, words = path + ending + name, who.split("+") if at else []
    if not all(re.fullmatch(r"\w+", word) for word in words):
        raise UserError(f"{key}={value} is not possible: after @ stand names of cameras, outside, or together, joined by +.")
    only = frozenset(word for word in words if word != "together")
    return CameraSetting(value, _sampler(key, text or value), only, "together" in words)


def _sampler(key: str, text: str) -> Sampler:
    name, _, argument = text.partition(":")
    if text.endswith(".json"):
        return read_manifest(text)
    if name == "among":
        return Among(tuple(filter(None, argument.split("+"))) or _refuse_empty(key), [])
    first, dots, last = name.partition("..")
    if not re.fullmatch(r"[lL]\d+", first):
        if name not in PRESETS:
            raise unknown(key, text, [*LEVELS, *PRESETS, "among", "a manifest's path (.json)"])
        return find_preset(text, key)
    for level in (first, last) if dots else (first,):
        if level not in LEVELS:
            raise unknown(key, text, LEVELS)
    number = int(first[1])
    if dots:
        if argument or ":" in text:
            raise UserError(f"{key}={text} is not possible: a level that moves over the training takes nothing behind it. Write {name}.")
        return Schedule(number, int(last[1]))
    parts = argument.split(":") if ":" in text else []
    factors, rest = [part for part in parts if part in FACTORS], [part for part in parts if part not in FACTORS]
    if len(parts) == 1 and parts[0] in KINDS:
        return KINDS[parts[0]](number)
    for part in rest:
        if part not in ("shell", *KINDS):
            raise unknown(key, f"{name}:{part}", [f"{name}:{word}" for word in ("shell", *FACTORS, *KINDS)])
    if len(factors) > 1 or rest not in ([], ["shell"]):
        raise UserError(
            f"{key}={text} is not possible: behind a level stands one factor, shell, or both (L3:azimuth:shell), or one of "
            f"{', '.join(KINDS)}."
        )
    return Uniform(number, factors[0] if factors else None, bool(rest))


def _refuse_empty(key: str) -> tuple[str, ...]:
    raise UserError(f"{key}=among: names no camera. Write {key}=among:front+left.")
