"""Names to environments: `make_env`, `list_tasks`, `sample_views`."""

from collections.abc import Sequence
from importlib import import_module

import numpy as np

from envs.appearance import APPEARANCES
from envs.batch_env import REWARDS, BatchEnv
from envs.cameras import FACTORS, apply_factors, check_level, nominal_cameras, sample_factors
from envs.render import QUALITIES
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.seeding import rng

TASKS = {name: f"envs.tasks.{name}:{name.capitalize()}" for name in ("reach", "button", "push", "lift")}
SIMS = ("threads",)
DEFAULT_VIEWS = ("front", "wrist")


def list_tasks() -> list[str]:
    """Names that `make_env` takes."""
    return sorted(TASKS)


def task_class(task: object) -> type:
    """The class of a task's name; a `UserError` offers the nearest name."""
    if not isinstance(task, str) or task not in TASKS:
        raise unknown("task", str(task), TASKS)
    module, name = TASKS[task].split(":")
    return getattr(import_module(module), name)


def check_views(views: object) -> list[str]:
    """A list of camera names from one name, a sequence of names, or None (the default views)."""
    if views is None:
        return list(DEFAULT_VIEWS)
    if isinstance(views, str):
        return [views]
    if isinstance(views, Sequence) and all(isinstance(view, str) for view in views):
        return list(views)
    raise UserError(f"views={views!r} is not a list of camera names. Write one name (views=wrist) or a list (views=[front,wrist]).")


def make_env(
    task: str,
    *,
    num_envs: int = 1,
    views: Sequence[str] | str | None = None,
    camera: str = "L1",
    horizon: int | None = None,
    seed: int = 0,
    appearance: str = "plain",
    quality: str = "fast",
    image_size: int = 84,
    privileged: bool = False,
    reward: str = "dense",
    frame_stack: int = 1,
    sim: str = "threads",
    device: str = "cpu",
    episode_ids: Sequence[int] | None = None,
    render_threads: int | None = None,
) -> BatchEnv:
    """N worlds of a task, stepped and drawn together; see `BatchEnv` for what they give.

    Args:
        task: a name of `list_tasks`.
        num_envs: N.
        views: cameras to draw, in this order; an empty list draws none. Default: the task's own choice.
        camera: how far the cameras may deviate from their nominal pose in each episode, ``"L0"`` (not at all) to ``"L5"``.
        horizon: steps per episode; default the task's own.
        seed: root of all random streams.
        appearance: ``"plain"``, or ``"random"``: table, floor, light and three distractors change with every episode.
        quality: ``"fast"``, or ``"full"``: shadows, reflections and antialiasing as MuJoCo draws them by default.
        image_size: height and width of the pictures in pixels.
        privileged: adds the task's hidden quantities (the ball's position) to the state.
        reward: ``"dense"``, or ``"sparse"``: 1 while the success condition holds, else 0.
        frame_stack: F > 1 gives the last F pictures per view.
        sim: the engine; ``"threads"`` steps worlds on CPU threads.
        device: where the observations live.
        episode_ids: None numbers episodes without end, for training. A list gives fixed evaluation episodes: world w runs ids[w],
            ids[w + N], ... and starts over at the end.
        render_threads: worker threads that draw; default the machine's cores, at most 2.

    Raises:
        UserError: an unknown name or a number out of range, with the nearest name or the range.
    """
    cls = task_class(task)
    for key, value, options in (
        ("sim", sim, SIMS),
        ("appearance", appearance, APPEARANCES),
        ("quality", quality, QUALITIES),
        ("reward", reward, REWARDS),
    ):
        if value not in options:
            raise unknown(key, str(value), options)
    horizon = cls.horizon if horizon is None else horizon
    for key, value, low, high in (
        ("num_envs", num_envs, 1, 65536),
        ("horizon", horizon, 1, 100_000),
        ("image_size", image_size, 8, 1280),
        ("frame_stack", frame_stack, 1, 64),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
            raise UserError(f"{key}={value!r} is not possible. {key} must be a whole number from {low} to {high}.")
    if episode_ids is not None and len(episode_ids) == 0:
        raise UserError("episode_ids is empty. Give at least one episode id, or None for training episodes.")
    return BatchEnv(
        cls,
        num_envs=num_envs,
        views=check_views(views),
        camera=check_level("camera", camera),
        horizon=horizon,
        seed=seed,
        appearance=appearance,
        quality=quality,
        image_size=image_size,
        privileged=privileged,
        reward=reward,
        frame_stack=frame_stack,
        device=device,
        episode_ids=None if episode_ids is None else [int(i) for i in episode_ids],
        render_threads=render_threads,
    )


def sample_views(camera: str, n: int = 1, *, task: str = "reach", views: Sequence[str] | str | None = None, seed: int = 0) -> dict:
    """n draws of a camera setting, as training episodes would see them.

    Returns:
        ``factors``: name -> (n, V) deviations from the nominal view in degrees (azimuth, elevation, roll, fov), as a factor (distance), or
        (n, V, 3) in metres (look_at); ``poses``: (n, V, 8), position in metres, quaternion wxyz and vertical field of view in degrees, in
        the frame of the camera's parent body (the world, or the hand).
    """
    level = check_level("camera", camera)
    cameras = nominal_cameras(task_class(task).spec().compile(), check_views(views))
    drawn = [[sample_factors(c, level, rng(seed, f"camera/{c.name}", "training", 0, i)) for c in cameras] for i in range(n)]
    return {
        "factors": {name: np.array([[factors[name] for factors in row] for row in drawn]) for name in FACTORS},
        "poses": np.array([[apply_factors(c, factors) for c, factors in zip(cameras, row, strict=True)] for row in drawn]),
    }
