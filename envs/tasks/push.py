"""Push: push a red block over the table onto a spot that is only drawn.

Neither the block's nor the spot's place is in the state, unless ``privileged``.
"""

import numpy as np
import torch

from envs.tasks.base import ArmTask, near, scaled

TOLERANCE = 0.04  # metres from the block's centre to the spot's
HALF = 0.03  # of the block's edge
LOW = 0.035  # height of the tool that pushes
BLOCK_BOX = np.array([[0.44, -0.12], [0.54, 0.12]])
DISTANCE = (0.10, 0.18)  # metres that the block has to go
DIRECTION = 0.9  # radians, at most, to either side of straight ahead


class Push(ArmTask):
    """See the module. The hand starts between the robot and the block; the spot lies ahead."""

    name = "push"
    horizon = 75
    instructions = (
        "push the red block to the target spot",
        "slide the block onto the marked spot",
        "move the red cube to the circle on the table",
        "push the cube until it covers the spot",
        "bring the block to the white spot by pushing it",
        "shove the red block onto the ring",
    )
    start_box = np.array([[0.32, -0.10, 0.11], [0.36, 0.10, 0.17]])
    hidden_size = 5
    shown = ("block", "spot")
    keep_clear = (0.38, -0.29, 0.76, 0.29)

    def place(self, generator, tool):
        block = generator.uniform(*BLOCK_BOX)
        turn = generator.uniform(-np.pi / 4, np.pi / 4)
        direction = generator.uniform(-DIRECTION, DIRECTION)
        spot = block + generator.uniform(*DISTANCE) * np.array([np.cos(direction), np.sin(direction)])
        return {"block": np.array([*block, HALF, np.cos(turn / 2), 0, 0, np.sin(turn / 2)]), "spot": np.array([*spot, 0.0])}

    def hidden(self, readings):
        return torch.cat([scaled(readings["block_position"]), scaled(readings["spot_position"])[:, :2]], dim=1)

    def distance(self, readings: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) metres over the table from block to spot."""
        return (readings["block_position"] - readings["spot_position"])[:, :2].norm(dim=1)

    def reward(self, readings):
        apart = (readings["tool_position"] - readings["block_position"]).norm(dim=1)
        # Touching the block is worth as much everywhere, so pushing it past the spot or away from the hand earns nothing.
        return (0.2 * (1 - torch.tanh(5 * (apart - 0.05).clamp(min=0))) + 0.8 * near(self.distance(readings))).float()

    def success(self, readings):
        """The block's centre is within 4 cm of the spot's."""
        return self.distance(readings) < TOLERANCE

    def expert(self, readings):
        tool, block = readings["tool_position"].numpy(), readings["block_position"].numpy()
        way = (readings["spot_position"].numpy() - block)[:, :2]
        length = np.linalg.norm(way, axis=1)[:, None]
        ahead = way / np.maximum(length, 1e-6)
        offset = (tool - block)[:, :2]
        along = (offset * ahead).sum(axis=1)[:, None]
        aside = offset - along * ahead
        low, behind = tool[:, 2:] < 0.055, (along < -0.035) & (np.linalg.norm(aside, axis=1)[:, None] < 0.015)
        # Over the table to a place behind the block, down, and ahead: gently at the end, and leaning against what has gone aside.
        start = block[:, :2] - 0.085 * ahead
        there = np.linalg.norm(tool[:, :2] - start, axis=1)[:, None] < 0.02
        push = tool[:, :2] - 0.8 * aside + np.minimum(0.03, 0.6 * length) * ahead
        point = np.where(low & behind, _at(push, LOW), np.where(there, _at(start, LOW), _at(start, 0.13)))
        # Done: off the block, so that nothing moves it any more.
        rest = block[:, :2] + 0.085 * offset / np.maximum(np.linalg.norm(offset, axis=1)[:, None], 1e-6)
        return self.towards(np.where(length < 0.012, _at(rest, tool[:, 2:]), point))


def _at(place: np.ndarray, height: np.ndarray | float) -> np.ndarray:
    """Places on the table (N, 2) with a height -> (N, 3)."""
    return np.concatenate([place, np.broadcast_to(height, (len(place), 1))], axis=1)
