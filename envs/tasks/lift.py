"""Lift: grasp a red block, lift it off the table, and hold it up.

The block's place is not in the state, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.arm import FINGER_TRAVEL
from envs.tasks.base import ArmTask, near, scaled

HALF = 0.022  # of the block's edge, metres
IN_HAND = 0.03  # from the tool to the block's centre
HEIGHT = 0.10  # of the block above where it lay
BLOCK_BOX = np.array([[0.46, -0.12], [0.60, 0.12]])


class Lift(ArmTask):
    """See the module."""

    name = "lift"
    horizon = 75
    instructions = (
        "lift the red block",
        "pick up the red cube",
        "grasp the block and raise it",
        "take the cube off the table and hold it up",
        "grab the red block and hold it in the air",
        "raise the cube above the table",
    )
    gripper = True
    start_box = np.array([[0.38, -0.10, 0.20], [0.46, 0.10, 0.28]])  # nearer to the robot than the block, which it would hide from above
    workspace = np.array([[0.28, -0.25, 0.02], [0.72, 0.25, 0.50]])
    hidden_size = 3
    shown = ("block",)
    keep_clear = (0.40, -0.18, 0.66, 0.18)

    def place(self, generator, tool):
        block, turn = generator.uniform(*BLOCK_BOX), generator.uniform(-0.3, 0.3)
        return {"block": np.array([*block, HALF, np.cos(turn / 2), 0, 0, np.sin(turn / 2)])}

    def hidden(self, readings):
        return scaled(readings["block_position"])

    def height(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) metres that the block is above where it lay."""
        return readings["block_position"][:, 2] - HALF

    def apart(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) metres from the tool to the block's centre."""
        return (readings["tool_position"] - readings["block_position"]).norm(dim=1)

    def grasped(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) 0 to 1: how far the fingers have closed on the block. Beside it, or shut with nothing between them, 0."""
        opening = readings["grip"][:, 0]
        closed = (FINGER_TRAVEL - opening) / (FINGER_TRAVEL - HALF)
        return torch.where((self.apart(readings) < IN_HAND) & (opening > HALF - 0.003), closed.clamp(0, 1), 0.0)

    def reward(self, readings):
        # Height pays in the fingers only: a block that was thrown is not lifted.
        grasped, lifted = self.grasped(readings), (self.height(readings) / HEIGHT).clamp(0, 1)
        return (0.25 * near(self.apart(readings)) + 0.15 * grasped + 0.6 * grasped * lifted).float()

    def success(self, readings):
        """The block is in the fingers and more than 8 cm above where it lay."""
        return (self.height(readings) > 0.8 * HEIGHT) & (self.apart(readings) < IN_HAND)

    def expert(self, readings):
        tool, block = readings["tool_position"].numpy(), readings["block_position"].numpy()
        aside = np.linalg.norm((tool - block)[:, :2], axis=1)[:, None]
        around = (aside < 0.012) & (np.abs(tool - block)[:, 2:] < 0.012)
        gripped = (aside < 0.03) & (np.abs(tool - block)[:, 2:] < 0.03) & (readings["grip"].numpy() < HALF + 0.003)
        # Over the block, down around it, and up once the fingers hold it. Raised to a height above the table, not by a displacement, which
        # would never end.
        point = np.where(aside < 0.012, block, block + [0, 0, 0.08])
        point = np.where(gripped, np.c_[tool[:, :2], np.full(len(tool), HALF + 1.2 * HEIGHT)], point)
        return np.c_[self.towards(point), np.where(around | gripped, 1.0, -1.0)].astype(np.float32)
