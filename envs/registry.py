"""Names to environments: `make_env`, `list_tasks`, `sample_views`."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.appearance import APPEARANCES
from envs.batch_env import MAX_SIZE, REWARDS, BatchEnv
from envs.cameras import FACTORS, Occasion, nominal_cameras, parse_camera
from envs.checks import check_device, check_episode_ids, check_task, check_views, check_whole, compile_task
from envs.gym_env import GymEnv
from envs.render import QUALITIES
from envs.tasks.base import ArmTask
from robo_repr.core.errors import UserError, unknown
from robo_repr.core.seeding import rng

FOLDER = Path(__file__).parent / "tasks"
NO_TASKS = ("__init__", "arm", "base", "scene")  # what lies there beside the tasks
# A task is a Python file with an XML of the same name beside it: press_key.py and press_key.xml hold the class PressKey.
TASKS = {
    path.stem: f"envs.tasks.{path.stem}:{path.stem.title().replace('_', '')}"
    for path in sorted(FOLDER.glob("*.py"))
    if path.with_suffix(".xml").is_file()
}
APIS = ("batch", "gymnasium")
SIMS = ("threads",)
SAMPLED_HORIZON = 100  # of the episodes in which `sample_views` looks for moving cameras: those of MoVie's sweep


def list_tasks() -> list[str]:
    """Names that `make_env` takes."""
    return sorted(TASKS)


def task_class(task: object) -> type[ArmTask]:
    """The class of a task's name, whole; a `UserError` offers the nearest name or says what the class or its files lack."""
    if isinstance(task, Sequence) and not isinstance(task, str):
        raise UserError(f"task={','.join(map(str, task))} names {len(task)} tasks, worlds have one. For one run after the other, use -m.")
    if not isinstance(task, str) or task not in TASKS:
        for there, lacks in ((".py", ".xml"), (".xml", ".py")):
            if task in [path.stem for path in FOLDER.glob(f"*{there}") if path.stem not in NO_TASKS]:
                raise UserError(
                    f"task={task} is half there: envs/tasks/{task}{there} has no {task}{lacks} beside it. A task is a Python file and its "
                    "XML file, both of the task's name."
                )
        raise unknown("task", str(task), TASKS)
    module, name = TASKS[task].split(":")
    file = f"{module.replace('.', '/')}.py"
    if not name.isidentifier():
        raise UserError(
            f"task={task}: {file} would have to hold a class {name}, which Python does not take for a name. Name both of the task's files "
            "with letters, digits and underscores, a letter first, such as press_key.py with its class PressKey."
        )
    try:
        found = vars(import_module(module))
    except Exception as error:  # a user's file: anything can happen in it
        raise UserError(
            f"task={task}: {file}, which should hold the class {name}, cannot be imported ({type(error).__name__}: "
            f"{' '.join(str(error).split())}). Correct it; python -c 'import {module}' shows the place."
        ) from error
    tasks = {key: value for key, value in found.items() if isinstance(value, type) and issubclass(value, ArmTask)}
    if name not in tasks:
        own = [key for key, value in tasks.items() if value.__module__ == module]
        raise UserError(
            f"task={task}: {file} has no class {name} that is a child of envs.tasks.base.ArmTask, but {', '.join(own) or 'none'}. A task's "
            f"class bears the name of its file: write class {name}(ArmTask), or rename both of the task's files."
        )
    cls = tasks[name]
    check_task(cls)
    if cls.name != task:
        raise UserError(
            f'task={task}: its class {module}.{name} has the name {cls.name!r}, so it would load {cls.name}.xml. Write name = "{task}" '
            "in the class; a class derived from another task needs its own name and XML file."
        )
    return cls


class Settings(TypedDict, total=False):
    """Keywords of `make_env` that mean the same whatever it makes."""

    num_envs: int
    views: Sequence[str] | str | None
    camera: str
    camera_steps: int | None
    valid_views: bool
    horizon: int | None
    seed: int
    appearance: str
    quality: str
    image_size: int
    privileged: bool
    reward: str
    frame_stack: int
    sim: str
    device: str
    episode_ids: Iterable[int] | None
    render_threads: int | None
    autoreset: bool


@overload
def make_env(task: str, *, api: Literal["batch"] = "batch", **settings: Unpack[Settings]) -> BatchEnv: ...


@overload
def make_env(task: str, *, api: Literal["gymnasium"], render_mode: str | None = None, **settings: Unpack[Settings]) -> GymEnv: ...


def make_env(
    task: str,
    *,
    api: str = "batch",
    render_mode: str | None = None,
    num_envs: int = 1,
    views: Sequence[str] | str | None = None,
    camera: str = "L1",
    camera_steps: int | None = None,
    valid_views: bool = False,
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
    episode_ids: Iterable[int] | None = None,
    render_threads: int | None = None,
    autoreset: bool = True,
) -> BatchEnv | GymEnv:
    """N worlds of a task, stepped and drawn together; see `BatchEnv` for what they give.

    Args:
        task: a name of `list_tasks`.
        api: ``"batch"``, or ``"gymnasium"``: one world as a plain `gymnasium.Env`, see `GymEnv` for what it gives.
        render_mode: with ``api="gymnasium"``, None or ``"rgb_array"``.
        num_envs: N.
        views: cameras to draw, in this order; an empty list draws none. Default: front and wrist.
        camera: how the cameras deviate from their nominal pose in each episode, such as ``"L0"`` (not at all) to ``"L5"``,
            ``"L3:shell"``, ``"colosseum"`` or the path of a manifest; see `envs.cameras.parse_camera` and docs/viewpoint.md.
        camera_steps: steps of all worlds over which a camera that changes with the training, such as ``"L0..L3"``, goes from its first
            to its last level.
        valid_views: draws views anew (up to 10 times) that do not show the gripper or what the task shows, or that lie inside something;
            see `envs.validity.ViewFilter`. ``view_counts`` of the environment tells how many were drawn and rejected.
        horizon: steps per episode; default the task's own.
        seed: root of all random streams.
        appearance: ``"plain"``, or ``"random"``: table, floor, light and three distractors change with every episode.
        quality: ``"fast"``, or ``"full"``: shadows, reflections and antialiasing as MuJoCo draws them by default.
        image_size: height and width of the pictures in pixels.
        privileged: adds the task's hidden quantities (such as the ball's position) to the state.
        reward: ``"dense"``, or ``"sparse"``: 1 while the success condition holds, else 0.
        frame_stack: F > 1 gives the last F pictures per view.
        sim: the engine; ``"threads"`` steps worlds on CPU threads.
        device: where the observations live; torch's name of it, such as ``"cuda"``.
        episode_ids: None numbers episodes without end, for training. Whole numbers give fixed evaluation episodes: world w runs ids[w],
            ids[w + N], ... and starts over at the end.
        render_threads: worker threads that draw; default the machine's cores, at most 2.
        autoreset: False leaves a world whose episode ended as it is, until `reset` begins the next episodes.

    Raises:
        UserError: an unknown name or a number out of range, with the nearest name or the range; a task that lacks something; a device
            that is not there; more worlds than memory has room for.
    """
    given = dict(locals())
    cls = task_class(task)
    for key, value, options in (
        ("api", api, APIS),
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
        ("image_size", image_size, 8, MAX_SIZE),
        ("frame_stack", frame_stack, 1, 64),
        ("seed", seed, 0, 2**63 - 1),
    ):
        check_whole(key, value, low, high)
    for key, value in (("privileged", privileged), ("autoreset", autoreset), ("valid_views", valid_views)):
        if not isinstance(value, bool | np.bool_):
            raise UserError(f"{key}={value!r} is not possible. {key} must be True or False.")
    if render_threads is not None:
        check_whole("render_threads", render_threads, 1, 1024)
    check_device(device)
    ids = None if episode_ids is None else check_episode_ids(episode_ids)
    setting = parse_camera("camera", camera)
    if camera_steps is not None:
        check_whole("camera_steps", camera_steps, 1)
    if setting.is_schedule and (camera_steps is None or ids is not None):
        raise UserError(
            f"camera={camera} changes over a training, "
            + ("but evaluation episodes belong to none." if ids else "whose length is not known.")
            + " Choose one level, such as L3, or in a training of your own give camera_steps=STEPS."
        )
    plain = api == "gymnasium"
    if plain and num_envs != 1:
        raise UserError(f"num_envs={num_envs} does not go with api=gymnasium, which is one world. Leave num_envs out, or use api=batch.")
    if render_mode is not None and not plain:
        raise UserError(f"render_mode={render_mode} goes with api=gymnasium alone. Of a batch, render_at draws any worlds and views.")
    worlds = BatchEnv(
        cls,
        num_envs=num_envs,
        views=check_views(views),
        camera=setting,
        camera_steps=camera_steps,
        valid_views=valid_views,
        horizon=horizon,
        seed=seed,
        appearance=appearance,
        quality=quality,
        image_size=image_size,
        privileged=privileged,
        reward=reward,
        frame_stack=frame_stack,
        device=device,
        episode_ids=ids,
        render_threads=render_threads,
        autoreset=autoreset and not plain,
    )
    if not plain:
        return worlds
    del given["render_mode"]
    kwargs = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()} | {"episode_ids": ids}
    # The horizon is told to those who ask the spec; gymnasium's own limit then ends an episode in the step in which it ends anyway.
    spec = EnvSpec(f"robo_repr/{task}", entry_point="envs.registry:make_env", kwargs=kwargs, max_episode_steps=horizon)
    return GymEnv(worlds, render_mode, spec)


def sample_views(camera: str, n: int = 1, *, task: str = "reach", views: Sequence[str] | str | None = None, seed: int = 0) -> dict:
    """n draws of a camera setting, as training episodes would see them; of a camera that moves within an episode, one frame of each of n
    episodes of 100 steps, and of one that changes over a training, its n even parts.

    Returns:
        ``factors``: name -> (n, V) deviations from the nominal view in degrees (azimuth, elevation, roll, fov), as a factor (distance), or
        (n, V, 3) in metres (look_at); ``poses``: (n, V, 8), position in metres, quaternion wxyz and vertical field of view in degrees, in
        the frame of the camera's parent body (the world, or the hand).

    Raises:
        UserError: there is no such setting, task or view; n or seed is no whole number in range.
    """
    check_whole("n", n, 1)
    check_whole("seed", seed, 0)
    setting, model = parse_camera("camera", camera), compile_task(task_class(task))
    cameras = nominal_cameras(model, check_views(views))
    setting.bind(model, task, [each.name for each in cameras])
    drawn = []
    for i in range(n):
        occasion = Occasion(("training", 0, i), SAMPLED_HORIZON, (i + 1) / n)
        frame = int(rng(seed, "sampled frame", i).integers(SAMPLED_HORIZON + 1))
        rows = [(view, min(frame, len(view.poses) - 1)) for view in setting.draw(cameras, seed, occasion)]
        drawn.append([({name: view.factors[name][row] for name in FACTORS}, view.poses[row]) for view, row in rows])
    return {
        "factors": {name: np.array([[factors[name] for factors, _ in row] for row in drawn]) for name in FACTORS},
        "poses": np.array([[pose for _, pose in row] for row in drawn]),
    }
