"""Door: open a low cabinet's hinged door by a red handle.

Neither the cabinet's place nor how far the door is open is in the state, unless ``privileged``.
"""

import numpy as np

from envs.tasks.drawer import Drawer


class Door(Drawer):
    """See the module. All but the cabinet is as with the drawer."""

    name = "door"
    instructions = (
        "open the door",
        "open the cabinet by its red handle",
        "swing the cabinet door open",
        "hook the red handle and pull the door open",
        "pull the door of the cabinet",
        "turn the door on its hinge until it stands open",
    )
    keep_clear = (0.09, -0.31, 0.71, 0.38)
    wholly = np.pi / 3
    cabinet_box = np.array([[0.33, -0.13, 0.0], [0.43, 0.16, 0.0]])
