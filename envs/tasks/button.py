"""Button: press a red button that stands on the table, and hold it down.

Neither the button's place nor how far it is pressed is in the state, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.base import ArmTask, near, scaled

TRAVEL = 0.02  # metres
PRESSED = 0.015
BUTTON_BOX = np.array([[0.40, -0.16, 0.0], [0.60, 0.16, 0.0]])


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
    start_box = np.array([[0.40, -0.10, 0.30], [0.60, 0.10, 0.38]])
    hidden_size = 4
    shown = ("button",)
    keep_clear = (0.33, -0.23, 0.67, 0.23)

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
        return readings["button_depth"][:, 0] > PRESSED

    def expert(self, readings):
        tool, button = readings["tool_position"].numpy(), readings["button_position"].numpy()
        above = np.linalg.norm((tool - button)[:, :2], axis=1) < 0.015
        return self.towards(button + np.where(above, -0.04, 0.04)[:, None] * [0, 0, 1])
