"""Button: press a red button that stands on the table, and hold it down.

Neither the button's place nor how far it is pressed is in the state, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.base import ArmTask, near, scaled

TRAVEL = 0.02  # metres
PRESSED = 0.015
BUTTON_BOX = np.array([[0.44, -0.20, 0.0], [0.65, 0.20, 0.0]])


class Button(ArmTask):
    """See the module."""

    name = "button"
    horizon = 50
    instructions = (
        "press the red button",
        "push the button down",
        "press the button and hold it",
        "put the gripper on the red button and push",
        "hold the red button down",
        "go to the button on the table and press it",
    )
    start_box = np.array([[0.38, -0.10, 0.28], [0.48, 0.10, 0.36]])  # nearer to the robot than the button, which it would hide from above
    hidden_size = 4
    shown = ("button",)
    keep_clear = (0.38, -0.26, 0.71, 0.26)

    def place(self, generator, tool):
        return {"button_base": generator.uniform(*BUTTON_BOX)}

    def hidden(self, readings):
        return torch.cat([scaled(readings["button_position"]), self.pressed(readings)[:, None]], dim=1)

    def pressed(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) part of the button's travel, 0 to 1."""
        return (readings["button_depth"][:, 0] / TRAVEL).clamp(0, 1)

    def reward(self, readings):
        distance = (readings["tool_position"] - readings["button_position"]).norm(dim=1)
        return (0.5 * near(distance) + 0.5 * self.pressed(readings)).float()

    def success(self, readings):
        """The button is pressed by more than 15 of its 20 mm."""
        return readings["button_depth"][:, 0] > PRESSED

    def expert(self, readings):
        tool, button = readings["tool_position"].numpy(), readings["button_position"].numpy()
        aside = np.linalg.norm((tool - button)[:, :2], axis=1)[:, None]
        over = (aside < 0.015) | ((aside < 0.03) & (tool[:, 2:] < button[:, 2:] + 0.01))
        return self.towards(button + np.where(over, -0.05, 0.04) * [0, 0, 1])
