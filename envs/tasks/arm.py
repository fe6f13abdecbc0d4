"""The arm of the native tasks: start poses and end-effector delta control by damped differential inverse kinematics."""

import numpy as np

from envs.cameras import quaternion_to_matrix
from envs.render import mujoco
from envs.sim import ThreadsSim
from robo_repr.core.errors import UserError

JOINTS = 7
HOME = np.array([0.0, 0.0, 0.0, -np.pi / 2, 0.0, np.pi / 2, np.pi / 4])  # the hand points straight down, its palm's front along +x
DOWN = np.diag([1.0, -1.0, -1.0])
MAX_STEP = 0.03  # metres the target moves per control step at action 1
LEASH = 0.06  # metres the target may be ahead of the tool; without it the target winds up against an obstacle
DAMPING = 0.02
MAX_TURN = 0.25  # radians per joint and control step
MAX_START_TURN = 1.0  # radians per joint and iteration while a start pose is looked for
MAX_START_ERROR = 1e-4  # metres and radians
POSTURE_GAIN = 0.1
FINGER_TRAVEL = 0.04  # metres that each finger opens


class Arm:
    """Turns tool displacements into joint targets for N worlds.

    Args:
        model: with the bodies and actuators of scene.xml.
        workspace: (2, 3) lowest and highest tool position in metres; targets are kept inside.
    """

    def __init__(self, model: mujoco.MjModel, workspace: np.ndarray):
        self.model, self.workspace = model, workspace
        self.hand = model.body("hand").id

    def start(self, tool: np.ndarray, opening: float, qpos: np.ndarray, ctrl: np.ndarray) -> None:
        """Writes the arm's part of joint positions (n, nq) and controls (n, nu): tools at (n, 3), pointing down, and at rest.

        Args:
            opening: of each finger in metres.

        Raises:
            UserError: the arm cannot hold its tool there, pointing down.
        """
        data = mujoco.MjData(self.model)
        site = self.model.site("tool").id
        jacobian = np.empty((6, self.model.nv))
        lowest, highest = self.model.jnt_range[:JOINTS].T
        for row, target in enumerate(tool):
            data.qpos[:] = 0
            data.qpos[:JOINTS] = HOME
            for _ in range(100):
                mujoco.mj_kinematics(self.model, data)
                mujoco.mj_comPos(self.model, data)
                error = _pose_error(target - data.site_xpos[site], data.site_xmat[site].reshape(3, 3))
                if np.abs(error).max() < 1e-7:
                    break
                mujoco.mj_jacSite(self.model, data, jacobian[:3], jacobian[3:], site)
                turn = _solve(jacobian[:, :JOINTS], error, np.zeros(JOINTS), damping=1e-3)
                # In short turns: far from HOME whole ones run away.
                data.qpos[:JOINTS] += turn * min(1.0, MAX_START_TURN / max(np.abs(turn).max(), 1e-9))
            joints = data.qpos[:JOINTS]
            if np.abs(error).max() > MAX_START_ERROR or (joints < lowest - 1e-6).any() or (joints > highest + 1e-6).any():
                raise UserError(
                    f"The arm cannot begin an episode with its tool at {np.round(target, 3).tolist()} m, pointing down: this is out of its "
                    "reach or beyond a joint's range. Change the task's start_box."
                )
            qpos[row, :JOINTS] = ctrl[row, :JOINTS] = joints
        qpos[:, JOINTS : JOINTS + 2] = ctrl[:, JOINTS] = opening

    def control(self, sim: ThreadsSim, tool: np.ndarray, quaternion: np.ndarray, target: np.ndarray, opening: np.ndarray) -> np.ndarray:
        """Controls (N, nu) that bring the tools, at (N, 3) with orientation wxyz (N, 4), to the targets (N, 3), pointing down, and each
        finger to its opening (N,) in metres."""
        jacobian = sim.jacobian(self.hand, tool)[:, :, :JOINTS]
        error = _pose_error(target - tool, quaternion_to_matrix(quaternion))
        joints = sim.qpos()[:, :JOINTS]
        turn = np.clip(_solve(jacobian, error, POSTURE_GAIN * (HOME - joints), DAMPING), -MAX_TURN, MAX_TURN)
        ctrl = np.zeros((len(tool), self.model.nu))
        ctrl[:, :JOINTS], ctrl[:, JOINTS] = joints + turn, opening
        return ctrl

    def move_target(self, target: np.ndarray, tool: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Next targets (N, 3): moved by the action (N, 3) in [-1, 1], kept on the leash and inside the workspace."""
        lead = target + MAX_STEP * action - tool
        length = np.linalg.norm(lead, axis=-1, keepdims=True)
        return np.clip(tool + lead * np.minimum(1, LEASH / np.maximum(length, 1e-9)), *self.workspace)


def _pose_error(offset: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Position and rotation error (..., 6) to the downward pose, in the world's frame."""
    turn = DOWN @ np.swapaxes(rotation, -1, -2)
    axis = np.stack([turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0], turn[..., 1, 0] - turn[..., 0, 1]], axis=-1)
    return np.concatenate([offset, axis / 2], axis=-1)


def _solve(jacobian: np.ndarray, error: np.ndarray, posture: np.ndarray, damping: float) -> np.ndarray:
    """Joint steps (..., J): damped least squares for the error (..., 6), and the posture step (..., J) where it does not move the tool."""
    transposed = np.swapaxes(jacobian, -1, -2)
    gram = jacobian @ transposed + damping**2 * np.eye(6)
    wanted = error - (jacobian @ posture[..., None])[..., 0]
    return posture + (transposed @ np.linalg.solve(gram, wanted[..., None]))[..., 0]
