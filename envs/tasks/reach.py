"""Reach: bring the tool to a red ball that hangs in the air, and hold it there.

The ball's place is not in the state: it is seen in the pictures only, unless ``privileged``.
"""

from pathlib import Path

import numpy as np
import torch

from envs.render import mujoco
from envs.sim import ThreadsSim
from envs.tasks.arm import HOME, JOINTS, MAX_STEP, Arm

TOLERANCE = 0.05  # metres
BALL_BOX = np.array([[0.36, -0.15, 0.05], [0.64, 0.15, 0.31]])
START_BOX = np.array([[0.40, -0.10, 0.39], [0.60, 0.10, 0.45]])  # above the ball, so that the hand's camera sees it
MIN_START_DISTANCE = 0.08
WORKSPACE = np.array([[0.28, -0.25, 0.03], [0.72, 0.25, 0.50]])
CENTRE = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64)


class Reach:
    """See the module. Actions (N, 3): tool displacement in units of 3 cm per step of 50 ms."""

    name = "reach"
    horizon = 50
    substeps = 10
    action_dim = 3
    reward_range = (0.0, 1.0)
    instructions = (
        "reach the red ball",
        "move the gripper to the red ball",
        "touch the red sphere with your fingers",
        "go to the red ball and stay there",
        "bring the hand to the ball",
        "hold the fingertips at the red ball",
    )

    @staticmethod
    def spec() -> mujoco.MjSpec:
        return mujoco.MjSpec.from_file(str(Path(__file__).with_name("reach.xml")))

    @staticmethod
    def state_size(privileged: bool) -> int:
        return 16 if privileged else 13

    def __init__(self, model: mujoco.MjModel, num_envs: int):
        self.arm = Arm(model, WORKSPACE)
        self.target = np.zeros((num_envs, 3))

    def reset(self, generators: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Start states of n episodes: state fields (n, ...) to write."""
        ball, tool = np.empty((len(generators), 3)), np.empty((len(generators), 3))
        for row, generator in enumerate(generators):
            tool[row] = generator.uniform(*START_BOX)
            ball[row] = generator.uniform(*BALL_BOX)
            while np.linalg.norm(ball[row] - tool[row]) < MIN_START_DISTANCE:
                ball[row] = generator.uniform(*BALL_BOX)
        qpos = self.arm.start(tool)
        ctrl = np.zeros((len(generators), self.arm.model.nu))
        ctrl[:, :JOINTS] = qpos[:, :JOINTS]
        return {"qpos": qpos, "ctrl": ctrl, "mocap_pos": ball[:, None]}

    def begin(self, ids: np.ndarray, readings: dict[str, torch.Tensor]) -> None:
        """Forgets what the task remembers of the worlds' last episodes."""
        self.target[ids] = readings["tool_position"][ids].numpy()

    def control(self, sim: ThreadsSim, readings: dict[str, torch.Tensor], action: np.ndarray) -> np.ndarray:
        """Controls (N, nu) for actions (N, A)."""
        tool = readings["tool_position"].numpy()
        self.target = self.arm.move_target(self.target, tool, action)
        return self.arm.control(sim, tool, readings["tool_quaternion"].numpy(), self.target)

    def observe(self, readings: dict[str, torch.Tensor], privileged: bool) -> torch.Tensor:
        """(N, 13) tool position and velocity, joint angles, all scaled to about 1; with ``privileged`` (N, 16), the ball's position too."""
        joints = torch.cat([readings[f"joint{i + 1}"] for i in range(JOINTS)], dim=1)
        parts = [(readings["tool_position"] - CENTRE) / 0.15, readings["tool_velocity"] / 0.5, (joints - torch.from_numpy(HOME)) / 0.5]
        if privileged:
            parts.append((readings["ball_position"] - CENTRE) / 0.15)
        return torch.cat(parts, dim=1).float()

    def distance(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) metres from tool to ball."""
        return (readings["tool_position"] - readings["ball_position"]).norm(dim=1)

    def reward(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) in [0, 1]: half for coming near, half for the last centimetres."""
        distance = self.distance(readings)
        return (0.5 * (1 - torch.tanh(4 * distance)) + 0.5 * (1 - torch.tanh(20 * distance))).float()

    def success(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) bool: within 5 cm of the ball's centre now."""
        return self.distance(readings) < TOLERANCE

    def expert(self, readings: dict[str, torch.Tensor]) -> np.ndarray:
        """(N, 3) straight to the ball."""
        return np.clip((readings["ball_position"].numpy() - self.target) / MAX_STEP, -1, 1).astype(np.float32)

    def state_dict(self) -> dict:
        return {"target": self.target.copy()}

    def load_state_dict(self, state: dict) -> None:
        self.target = np.array(state["target"])
