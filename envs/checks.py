"""What is checked before worlds are built and when they first begin: a mistake in a task or a setting shows at once, not after an hour."""

import os
from pathlib import Path

import torch

from envs.render import mujoco
from envs.tasks.arm import JOINTS
from envs.tasks.base import ArmTask
from robo_repr.core.errors import UserError, unknown

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


def check_task(cls: type) -> None:
    """Refuses a task's class that lacks something of what `ArmTask` asks for."""
    missing = [name for name in GIVEN if getattr(cls, name, None) is getattr(ArmTask, name, None)]
    if missing:
        raise UserError(
            f"The task's class {cls.__module__}.{cls.__qualname__} does not give {', '.join(missing)}. A task gives "
            f"{', '.join(GIVEN)}; envs.tasks.base.ArmTask says what each of them is."
        )


def compile_task(cls: type[ArmTask]) -> mujoco.MjModel:
    """The compiled model of a task's class.

    Raises:
        UserError: it cannot be read or compiled, or lacks a part of the arm.
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
            found = f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise UserError(
                f"task={task.name}: {name} gives {found} for {n} worlds. It must give a torch tensor {shape} of "
                f"{' or '.join(map(str, kinds))}; see envs.tasks.base.ArmTask."
            )


def check_expert(task: ArmTask) -> None:
    """Refuses a task without a scripted expert."""
    if not hasattr(task, "expert"):
        raise UserError(
            f"task={task.name} has no scripted expert. Choose another agent than expert and noisy_expert, or write a method "
            "expert(readings) in the task's class, which returns actions (worlds, action size) in [-1, 1]."
        )


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
