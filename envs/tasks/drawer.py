"""Drawer: pull a drawer out of its cabinet by a red handle.

Neither the cabinet's place nor how far the drawer is open is in the state, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.base import ArmTask, near, scaled

TURN = 0.35  # radians, at most, that the cabinet is turned to either side
ENOUGH = 0.75  # of the way to wholly open


class Drawer(ArmTask):
    """See the module. Anything with a handle that is hooked from above and pulled is done alike.

    Attributes:
        wholly: position of the joint that counts as wholly open, metres or radians.
        cabinet_box: (2, 3) where the cabinet's origin may be, metres.
    """

    name = "drawer"
    horizon = 50
    instructions = (
        "open the drawer",
        "pull the drawer open by its red handle",
        "reach behind the red handle and pull",
        "slide the drawer out of the cabinet",
        "hook the handle and draw it towards the front",
        "pull out the drawer",
    )
    start_box = np.array([[0.33, -0.10, 0.18], [0.38, 0.10, 0.24]])  # above the cabinet, so that going straight down hooks nothing
    hidden_size = 5
    shown = ("handle",)
    keep_clear = (0.07, -0.37, 0.71, 0.37)
    wholly = 0.16
    cabinet_box = np.array([[0.33, -0.18, 0.0], [0.43, 0.18, 0.0]])

    def place(self, generator, tool):
        turn = generator.uniform(-TURN, TURN)
        return {"cabinet": np.array([*generator.uniform(*self.cabinet_box), np.cos(turn / 2), 0, 0, np.sin(turn / 2)])}

    def hidden(self, readings):
        # Of the pull's direction the part to the side; what is left of its length is ahead.
        return torch.cat([scaled(readings["hook_position"]), readings["pull_direction"][:, 1:2], self.opened(readings)[:, None]], dim=1)

    def opened(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) part of the way to wholly open, 0 to 1."""
        return (readings["opening"][:, 0] / self.wholly).clamp(0, 1)

    def reward(self, readings):
        apart = (readings["tool_position"] - readings["hook_position"]).norm(dim=1)
        return (0.3 * near(apart) + 0.7 * self.opened(readings)).float()

    def success(self, readings):
        """It is open by more than three quarters: the drawer by 12 cm, the door by 45 degrees."""
        return self.opened(readings) > ENOUGH

    def expert(self, readings):
        tool, hook, pull = (readings[name].numpy() for name in ("tool_position", "hook_position", "pull_direction"))
        offset = tool - hook
        along = np.abs((offset * pull).sum(axis=1))
        aside = np.abs(offset[:, 0] * pull[:, 1] - offset[:, 1] * pull[:, 0])
        height = offset[:, 2]
        hooked = (along < 0.03) & (aside < 0.04) & (height < 0.015)
        over = (along < 0.012) & (aside < 0.03)
        done = self.opened(readings).numpy() > 0.97
        # Up where it is, then above the gap behind the handle, then down into it, then pull.
        point = np.where((height > 0.05)[:, None], hook, tool) * [1, 1, 0] + (hook[:, 2:] + 0.07) * [0, 0, 1]
        point = np.where((over | hooked)[:, None], hook, point)
        point = np.where((hooked & ~done)[:, None], hook + 0.045 * pull, point)
        return self.towards(point)
