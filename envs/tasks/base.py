"""What the native tasks share: an arm whose hand points down, moved by displacements of the tool, and what the robot knows of itself."""

from pathlib import Path

import numpy as np
import torch

from envs.render import mujoco
from envs.sim import ThreadsSim
from envs.tasks.arm import FINGER_TRAVEL, HOME, JOINTS, MAX_STEP, Arm
from robo_repr.core.errors import UserError, unknown

CENTRE = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64)  # of the workspace; positions in the state are scaled about it


class ArmTask:
    """A task of the arm, batched over N worlds. A child gives the attributes below and what is not implemented here.

    It may also give ``expert(readings)``, a scripted one: actions (N, A), numpy floats in [-1, 1]. That must hang on the readings and on
    what the task remembers alone and change neither, for it may be asked more than once in a step. A child whose parent has one drops it
    with ``expert = None``.

    Actions (N, 3), or (N, 4) with `gripper`: tool displacement in units of 3 cm per step of 50 ms, and how far the fingers are to close,
    from -1 (8 cm apart) to 1 (shut). Without `gripper` the fingers stay shut.

    Attributes:
        name: the task's, and that of its XML file beside this one. A child of another task needs its own.
        horizon: steps of an episode.
        substeps: simulator steps of a control step.
        reward_range: (low, high) that no reward leaves. A reward beyond it, or one that is not finite, stops the run (see `BatchEnv`), so
            that a mistake in a reward does not end in a trained policy. It should hold 0, the reward of a world whose physics broke down.
        instructions: six different sentences that ask for the same.
        gripper: whether a fourth action moves the fingers.
        start_box, workspace: (2, 3) lowest and highest tool position in metres, at the start and ever.
        hidden_size: numbers that `hidden` gives.
        shown: the geoms that tell what is to be done; every camera should see each of them.
        keep_clear: (x low, y low, x high, y high) in metres: where appearance=random puts no distractor, so that it hides no object.
    """

    name: str
    horizon: int
    instructions: tuple[str, ...]
    start_box: np.ndarray
    hidden_size: int
    shown: tuple[str, ...]
    keep_clear: tuple[float, float, float, float] | None = None
    substeps = 10
    reward_range = (0.0, 1.0)
    gripper = False
    workspace = np.array([[0.28, -0.25, 0.03], [0.72, 0.25, 0.50]])

    @classmethod
    def spec(cls) -> mujoco.MjSpec:
        return mujoco.MjSpec.from_file(str(Path(__file__).with_name(f"{cls.name}.xml")))

    @classmethod
    def action_dim(cls) -> int:
        return 4 if cls.gripper else 3

    @classmethod
    def state_size(cls, privileged: bool) -> int:
        return 13 + cls.gripper + (cls.hidden_size if privileged else 0)

    def __init__(self, model: mujoco.MjModel, num_envs: int):
        self.arm = Arm(model, self.workspace)
        self.target = np.zeros((num_envs, 3))

    def place(self, generator: np.random.Generator, tool: np.ndarray) -> dict[str, np.ndarray]:
        """Where one episode's objects begin, the tool (3,) known.

        Returns:
            For a mocap body or one with a free joint, by its name: position (3,), or position and quaternion wxyz (7,). For a hinge or
            slide joint, by its name: its position in radians or metres. What is not named stands as in the XML.
        """
        raise NotImplementedError

    def hidden(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N, hidden_size) what the pictures show and the robot does not feel, scaled to about 1: the end of the privileged state."""
        raise NotImplementedError

    def reward(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) float32 in `reward_range`."""
        raise NotImplementedError

    def success(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) bool: whether the condition holds now."""
        raise NotImplementedError

    def reset(self, generators: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Start states of n episodes: state fields (n, ...) to write."""
        model, n = self.arm.model, len(generators)
        tool = np.stack([generator.uniform(*self.start_box) for generator in generators])
        # The arm last: it takes a hundred times longer, and a mistake in a place should show before.
        values = {
            "qpos": np.tile(model.qpos0, (n, 1)),
            "ctrl": np.zeros((n, model.nu)),
            "mocap_pos": np.tile(model.body_pos[model.body_mocapid >= 0], (n, 1, 1)),
            "mocap_quat": np.tile(model.body_quat[model.body_mocapid >= 0], (n, 1, 1)),
        }
        for row, generator in enumerate(generators):
            for name, pose in self.place(generator, tool[row]).items():
                _write_pose(model, {key: value[row] for key, value in values.items()}, name, np.atleast_1d(pose))
        opening = FINGER_TRAVEL if self.gripper else 0.0
        self.arm.start(tool, opening, values["qpos"], values["ctrl"])
        return {key: value for key, value in values.items() if value.size}

    def begin(self, ids: np.ndarray, readings: dict[str, torch.Tensor]) -> None:
        """Forgets what the task remembers of the worlds' last episodes."""
        self.target[ids] = readings["tool_position"][ids].numpy()

    def control(self, sim: ThreadsSim, readings: dict[str, torch.Tensor], action: np.ndarray) -> np.ndarray:
        """Controls (N, nu) for actions (N, A)."""
        tool = readings["tool_position"].numpy()
        self.target = self.arm.move_target(self.target, tool, action[:, :3])
        opening = FINGER_TRAVEL * (1 - action[:, 3]) / 2 if self.gripper else np.zeros(len(action))
        return self.arm.control(sim, tool, readings["tool_quaternion"].numpy(), self.target, opening)

    def observe(self, readings: dict[str, torch.Tensor], privileged: bool) -> torch.Tensor:
        """(N, S) scaled to about 1: tool position and velocity, joint angles, with `gripper` the fingers' opening; then `hidden`."""
        joints = torch.cat([readings[f"joint{i + 1}"] for i in range(JOINTS)], dim=1)
        parts = [scaled(readings["tool_position"]), readings["tool_velocity"] / 0.5, (joints - torch.from_numpy(HOME)) / 0.5]
        if self.gripper:
            parts.append(2 * readings["grip"] / FINGER_TRAVEL - 1)
        if privileged:
            parts.append(self.hidden(readings))
        return torch.cat(parts, dim=1).float()

    def towards(self, point: np.ndarray) -> np.ndarray:
        """(N, 3) the displacement action that brings the tool to points (N, 3) fastest; for experts."""
        return np.clip((point - self.target) / MAX_STEP, -1, 1).astype(np.float32)

    def state_dict(self) -> dict:
        """What the task remembers between steps. A task that remembers more (a phase, a counter) must add it here, in `load_state_dict`
        and in `begin`: a snapshot carries nothing else of it, so a resumed run would go on otherwise than the one that was cut off."""
        return {"target": self.target.copy()}

    def load_state_dict(self, state: dict) -> None:
        """Restores `state_dict`."""
        self.target = np.array(state["target"])


def scaled(position: torch.Tensor) -> torch.Tensor:
    """World positions (..., 3) in metres as the state holds them."""
    return (position - CENTRE) / 0.15


def near(distance: torch.Tensor) -> torch.Tensor:
    """1 at distance 0 m, falling to 0: half of it for coming near, half for the last centimetres."""
    return 0.5 * (1 - torch.tanh(4 * distance)) + 0.5 * (1 - torch.tanh(20 * distance))


def _write_pose(model: mujoco.MjModel, values: dict[str, np.ndarray], name: str, pose: np.ndarray) -> None:
    """Writes what `ArmTask.place` gives for one name into one world's fields."""
    bodies = {model.body(i).name: i for i in range(model.nbody)}
    joints = {model.joint(i).name: i for i in range(model.njnt) if model.jnt_type[i] != mujoco.mjtJoint.mjJNT_FREE}
    body, joint = bodies.get(name, 0), joints.get(name, -1)
    free = model.body_jntadr[body] if model.body_dofnum[body] == 6 else -1
    if joint >= 0 and pose.shape == (1,):
        values["qpos"][model.jnt_qposadr[joint]] = pose[0]
    elif model.body_mocapid[body] >= 0 and pose.shape in ((3,), (7,)):
        slot = model.body_mocapid[body]
        values["mocap_pos"][slot] = pose[:3]
        values["mocap_quat"][slot] = pose[3:] if len(pose) == 7 else values["mocap_quat"][slot]
    elif free >= 0 and pose.shape in ((3,), (7,)):
        address = model.jnt_qposadr[free]
        values["qpos"][address : address + len(pose)] = pose
    elif name in joints or model.body_mocapid[body] >= 0 or free >= 0:
        raise UserError(
            f"place gives an array {pose.shape} for {name}. A mocap or free body takes its position (3,), or position and quaternion (7,); "
            "a hinge or slide joint takes one number."
        )
    else:
        movable = [body for body, i in bodies.items() if model.body_mocapid[i] >= 0 or model.body_dofnum[i] == 6]
        raise unknown("place", name, [*movable, *joints])
