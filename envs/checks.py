"""What is checked before worlds are built and when they first begin: a mistake in a task or a setting shows at once, not after an hour."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch

from envs.render import mujoco
from envs.tasks.arm import JOINTS, Arm
from envs.tasks.base import ArmTask
from robo_repr.core.errors import UserError, unknown

DEFAULT_VIEWS = ("front", "wrist")
INSTRUCTIONS = 6  # ways to ask for the same
GIVEN = ("name", "horizon", "instructions", "start_box", "hidden_size", "shown", "place", "hidden", "reward", "success")  # by every task
ARM_JOINTS = (*(f"joint{i + 1}" for i in range(JOINTS)), "finger_left", "finger_right")
ARM_ACTUATORS = (*(f"joint{i + 1}" for i in range(JOINTS)), "grip")
ARM_NAMES = {
    "body": ("hand",),
    "site": ("tool", "look_at"),
    "sensor": ("tool_position", "tool_quaternion", "tool_velocity", *ARM_ACTUATORS),
}
STATES = 4  # how often a world's state is held in memory: by the batch, its copies, readings and Jacobians
STACKS = 3  # how often its stack of pictures is: observed, and in the `final_obs` of this step and of the one before
DRAWN = 2  # how often a picture is beside the stacks while it is drawn


class Readings(dict[str, torch.Tensor]):
    """Sensor name -> (N, dim) float64. A sensor that the model lacks is a `UserError`."""

    def __init__(self, task: str, values: dict[str, torch.Tensor]):
        super().__init__(values)
        self.task = task

    def __missing__(self, sensor: str) -> torch.Tensor:
        raise UserError(
            f"task={self.task} reads a sensor that its model does not have: {unknown('sensor', sensor, self)} Correct the name in the "
            "task's class, or add the sensor to the <sensor> section of its XML file."
        )


def has_expert(task: ArmTask | type[ArmTask]) -> bool:
    """Whether a task, or its class, has a scripted expert. ``expert = None`` drops an inherited one."""
    return callable(getattr(task, "expert", None))


def check_task(cls: type[ArmTask]) -> None:
    """Refuses a task's class that lacks something of what `ArmTask` asks for, or gives what cannot be right."""
    missing = [name for name in GIVEN if getattr(cls, name, None) is getattr(ArmTask, name, None)]
    if missing:
        raise UserError(
            f"The task's class {cls.__module__}.{cls.__qualname__} does not give {', '.join(missing)}. A task gives "
            f"{', '.join(GIVEN)}; envs.tasks.base.ArmTask says what each of them is."
        )
    space = np.asarray(cls.workspace).tolist()
    for name, right, expected in (
        ("instructions", _are_words(cls.instructions, INSTRUCTIONS), f"a tuple of {INSTRUCTIONS} different sentences"),
        ("shown", _are_words(cls.shown), "a tuple of names of geoms, such as ('ball',)"),
        ("start_box", _is_inside(cls.start_box, cls.workspace), f"an array (2, 3), low and high, inside the workspace {space}"),
        ("reward_range", _holds_zero(cls.reward_range), "(low, high) with 0 between, the reward of a world whose physics broke down"),
    ):
        if not right:
            found = " ".join(repr(getattr(cls, name)).split())
            raise UserError(
                f"The task's class {cls.__module__}.{cls.__qualname__} gives {name} = {found}. It must be {expected}; see "
                "envs.tasks.base.ArmTask."
            )


def compile_task(cls: type[ArmTask]) -> mujoco.MjModel:
    """The compiled model of a task's class.

    Raises:
        UserError: it cannot be read or compiled, lacks a part of the arm or a geom of `shown`, or cannot start all over its start_box.
    """
    try:
        model = cls.spec().compile()
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"task={cls.name}: MuJoCo cannot build its model ({words}). Look at the task's XML file and its spec().") from error
    found = {
        "body": [model.body(i).name for i in range(model.nbody)],
        "site": [model.site(i).name for i in range(model.nsite)],
        "sensor": [model.sensor(i).name for i in range(model.nsensor)],
    }
    missing = [f"{kind} {name}" for kind, names in ARM_NAMES.items() for name in names if name not in found[kind]]
    # The arm's part of positions and controls is taken to be their first one.
    joints, actuators = ([of(i).name for i in range(n)] for of, n in ((model.joint, model.njnt), (model.actuator, model.nu)))
    for kind, names, expected in (("joint", joints, ARM_JOINTS), ("actuator", actuators, ARM_ACTUATORS)):
        if tuple(names[: len(expected)]) != expected:
            missing.append(f"the arm's {kind}s ({', '.join(expected)}) before all others")
    if missing:
        raise UserError(
            f"task={cls.name}: its model lacks {'; '.join(missing)}. Begin the task's XML file with <include file='scene.xml'/>, which "
            "has the arm, its sensors and the cameras, and add the task's own objects after it."
        )
    geoms = [model.geom(i).name for i in range(model.ngeom)]
    for geom in cls.shown:
        if geom not in geoms:
            raise UserError(
                f"task={cls.name}: shown names a geom that its model does not have. {unknown('shown', geom, filter(None, geoms))} Correct "
                "the name in the task's class, or name the geom in its XML file."
            )
    # Its corners are tried now, or an episode that starts beside one might stop a run after an hour.
    corners = np.array(list(product(*cls.start_box.T)))
    Arm(model, cls.workspace).start(corners, 0.0, np.zeros((len(corners), model.nq)), np.zeros((len(corners), model.nu)))
    return model


def check_outputs(task: ArmTask, readings: dict[str, torch.Tensor], privileged: bool) -> None:
    """Calls a task's maths once and refuses results of another shape or kind than `ArmTask` asks for."""
    n = len(readings["tool_position"])
    for name, value, shape, kinds in (
        ("hidden", task.hidden(readings), (n, task.hidden_size), (torch.float32, torch.float64)),
        ("reward", task.reward(readings), (n,), (torch.float32,)),
        ("success", task.success(readings), (n,), (torch.bool,)),
        ("observe", task.observe(readings, privileged), (n, task.state_size(privileged)), (torch.float32,)),
    ):
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape or value.dtype not in kinds:
            raise UserError(
                f"task={task.name}: {name} gives {_kind(value)} for {n} worlds. It must give a torch tensor {shape} of "
                f"{' or '.join(map(str, kinds))}; see envs.tasks.base.ArmTask."
            )
    if has_expert(task):
        _check_actions(task, task.expert(readings), (n, task.action_dim()))


def _check_actions(task: ArmTask, actions: object, shape: tuple[int, int]) -> None:
    """Refuses what an expert gives where it is no array of actions."""
    if not isinstance(actions, np.ndarray) or actions.shape != shape or not np.issubdtype(actions.dtype, np.floating):
        found = f"{_kind(actions)} for {shape[0]} worlds"
    elif not (np.abs(actions) <= 1).all():
        world = int(np.flatnonzero(~(np.abs(actions) <= 1).all(axis=1))[0])
        found = f"{actions[world]} for world {world}"
    else:
        return
    raise UserError(
        f"task={task.name}: expert gives {found}. It must give a numpy array {shape} of floats in [-1, 1], as the task's towards(point) "
        "does; see envs.tasks.base.ArmTask."
    )


def check_expert(task: ArmTask) -> None:
    """Refuses a task without a scripted expert."""
    if not has_expert(task):
        raise UserError(
            f"task={task.name} has no scripted expert. Choose another agent than expert and noisy_expert, or write a method "
            "expert(readings) in the task's class, which returns actions (worlds, action size) in [-1, 1]."
        )


def check_whole(key: str, value: object, low: int, high: int = 2**63 - 1) -> None:
    """Refuses what is no whole number in [low, high]; one of numpy's is taken too."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key}={value!r} is not possible. {key} must be a whole number from {low} to {high}.")


def check_views(views: object) -> list[str]:
    """A list of camera names from one name, a sequence of names, or None (the default views)."""
    if views is None:
        return list(DEFAULT_VIEWS)
    if isinstance(views, str):
        return [views]
    if isinstance(views, Sequence) and all(isinstance(view, str) for view in views):
        return list(views)
    raise UserError(f"views={views!r} is not a list of camera names. Write one name (views=wrist) or a list (views=[front,wrist]).")


def check_episode_ids(ids: object) -> list[int]:
    """The ids of evaluation episodes as a list."""
    try:
        found = list(ids)  # pyright: ignore[reportArgumentType]  # what is no iterable is refused below
    except TypeError:
        found = None
    if not found or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) and 0 <= i < 2**63 for i in found):
        raise UserError(
            f"episode_ids={ids!r} is not possible. Give one or more whole numbers of at least 0, such as range(100), or None for training "
            "episodes."
        )
    return [int(i) for i in found]


def check_device(device: str) -> None:
    """Refuses a device that torch does not know or find."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if found is None or not there.get(found.type) or (found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={device} is not there: torch {torch.__version__} does not find it. Use device=cpu.")


def check_memory(model: mujoco.MjModel, num_envs: int, views: int, frame_stack: int, image_size: int) -> None:
    """Refuses worlds that would need more memory than is free, before anything is allocated."""
    free = free_memory()
    state = 8 * mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
    world = STATES * state + (STACKS * frame_stack + DRAWN) * views * 3 * image_size**2
    if free is None or num_envs * world <= free:
        return
    room = f"There is room for num_envs={free // world}." if free >= world else "Not even one world fits."
    raise UserError(
        f"num_envs={num_envs} does not fit into memory: with {views} views of image_size={image_size} and frame_stack={frame_stack} the "
        f"worlds need about {_gigabytes(num_envs * world)}, and {_gigabytes(free)} are free. {room} Use fewer worlds, smaller pictures, "
        "fewer views or a shorter frame_stack."
    )


def free_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:  # macOS: what the machine has at all
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    return min([machine, *_free_in_containers(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _free_in_containers(groups: Path, root: Path) -> list[int]:
    """What the limits of this process's control groups and of those around them leave, in bytes."""
    free = []
    try:
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, limit, used, cache = root, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                top, limit, used, cache = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            else:
                continue
            here = top / path.lstrip("/")
            # Inside a container its own group is mounted as the top, so that the path may lead nowhere.
            for folder in [here, *here.parents][: len(here.parts) - len(top.parts) + 1]:
                try:
                    most, now = int((folder / limit).read_text()), int((folder / used).read_text())
                    stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                except (OSError, ValueError):  # no limit ("max"), or not there
                    continue
                free.append(max(0, most - now + int(stat[cache])))  # files that were read make room
    except (OSError, ValueError):
        pass
    return free


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"a {type(value).__name__.lower()} {tuple(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"


def _are_words(value: object, number: int | None = None) -> bool:
    """Whether it is a list of different words or sentences, `number` of them or at least one."""
    if not isinstance(value, tuple | list) or not all(isinstance(word, str) and word.strip() for word in value):
        return False
    return len(set(value)) == len(value) == (number or max(1, len(value)))


def _is_inside(box: object, space: np.ndarray) -> bool:
    if not isinstance(box, np.ndarray) or box.shape != (2, 3):
        return False
    return bool((np.diff([space[0], *box, space[1]], axis=0) >= 0).all())


def _holds_zero(bounds: object) -> bool:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not all(isinstance(bound, int | float) for bound in bounds):
        return False
    return bounds[0] <= 0 <= bounds[1]
