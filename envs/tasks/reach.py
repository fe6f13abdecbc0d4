"""Reach: bring the tool to a red ball that hangs in the air, and hold it there.

The ball's place is not in the state: it is seen in the pictures only, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.base import ArmTask, near, scaled

TOLERANCE = 0.05  # metres
BALL_BOX = np.array([[0.36, -0.15, 0.05], [0.64, 0.15, 0.31]])
MIN_START_DISTANCE = 0.08


class Reach(ArmTask):
    """See the module."""

    name = "reach"
    horizon = 50
    instructions = (
        "reach the red ball",
        "move the gripper to the red ball",
        "touch the red sphere with your fingers",
        "go to the red ball and stay there",
        "bring the hand to the ball",
        "hold the fingertips at the red ball",
    )
    start_box = np.array([[0.40, -0.10, 0.39], [0.60, 0.10, 0.45]])  # above the ball, so that the hand's camera sees it
    hidden_size = 3
    shown = ("ball",)

    def place(self, generator, tool):
        ball = generator.uniform(*BALL_BOX)
        while np.linalg.norm(ball - tool) < MIN_START_DISTANCE:
            ball = generator.uniform(*BALL_BOX)
        return {"ball": ball}

    def hidden(self, readings):
        return scaled(readings["ball_position"])

    def distance(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) metres from tool to ball."""
        return (readings["tool_position"] - readings["ball_position"]).norm(dim=1)

    def reward(self, readings):
        return near(self.distance(readings)).float()

    def success(self, readings):
        """The tool is within 5 cm of the ball's centre."""
        return self.distance(readings) < TOLERANCE

    def expert(self, readings):
        return self.towards(readings["ball_position"].numpy())
