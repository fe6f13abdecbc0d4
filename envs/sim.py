"""The threads engine: N worlds of one MuJoCo model stepped on CPU threads, and drawn by render workers."""

import os

import numpy as np
import torch

from envs.render import Look, Renderer, Shot, mujoco

# A world in one of these states was silently put back to the model's default pose by MuJoCo.
_BAD_STATE = [int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in ("BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")]


class ThreadsSim:
    """N worlds of one model.

    Args:
        model: shared by all worlds and never changed.
        num_envs: N.
        quality: of the pictures, see `envs.render`.
        render_threads: worker threads that draw; they start at the first picture.
    """

    def __init__(self, model: mujoco.MjModel, num_envs: int, quality: str = "fast", render_threads: int | None = None):
        self.model, self.num_envs = model, num_envs
        self._quality = quality
        self._render_threads = render_threads or min(2, os.cpu_count() or 1)
        self._renderer: Renderer | None = None
        self._batch = mujoco.batch.Batch(model, num_envs, nthread=min(num_envs, os.cpu_count() or 1))
        self._ctrl = self._batch.bind("ctrl")
        self._sensors = self._batch.bind("sensordata")
        self._positions, self._quaternions = self._batch.bind("xpos"), self._batch.bind("xquat")
        self._slices = {
            sensor.name: slice(sensor.adr[0], sensor.adr[0] + sensor.dim[0]) for sensor in map(model.sensor, range(model.nsensor))
        }
        self._warnings = self._bad_states()

    def write(self, ids: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Puts worlds back to the model's defaults, then writes state fields (n, ...), such as ``qpos``; follow it with `forward`."""
        self._batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        for name, value in values.items():
            self._batch.bind(name)[ids] = value

    def forward(self, ids: np.ndarray) -> None:
        """Makes the readings of worlds current after a write."""
        self._batch.forward(ids)
        self._warnings = self._bad_states()

    def step(self, ctrl: np.ndarray, substeps: int) -> np.ndarray:
        """Advances all worlds; the readings describe the new state. Returns (N,) True where the physics broke down and was reset."""
        self._ctrl[:] = ctrl
        # Up to the velocity stage, or the sensors would describe the state before the last substep.
        self._batch.step(nstep=substeps, stage=int(mujoco.mjtStage.mjSTAGE_VEL))
        before, self._warnings = self._warnings, self._bad_states()
        return self._warnings > before

    def readings(self) -> dict[str, torch.Tensor]:
        """Sensor name -> (N, dim) float64, a copy."""
        sensors = torch.from_numpy(self._sensors.copy())
        return {name: sensors[:, part] for name, part in self._slices.items()}

    def qpos(self) -> np.ndarray:
        """Joint positions (N, nq), a copy."""
        return self._batch.bind("qpos").copy()

    def jacobian(self, body: int, points: np.ndarray) -> np.ndarray:
        """Jacobians (N, 6, nv), translation first, of world points (N, 3) on a body."""
        return np.concatenate(self._batch.jac(body, points), axis=1)

    def body_pose(self, bodies: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """World positions (N, len(bodies), 3) and quaternions wxyz (N, len(bodies), 4)."""
        return self._positions[:, bodies], self._quaternions[:, bodies]

    def render(self, cameras: np.ndarray, ids: np.ndarray, looks: list[Look], size: int) -> np.ndarray:
        """Pictures (n, V, size, size, 3) uint8 of worlds `ids` from camera poses (n, V, 8) in the world's frame."""
        if self._renderer is None:
            self._renderer = Renderer(self.model, self._quality, self._render_threads)
        out = np.empty((*cameras.shape[:2], size, size, 3), dtype=np.uint8)
        states = self._batch.state
        self._renderer.draw([Shot(states[i], poses, look) for i, poses, look in zip(ids, cameras, looks, strict=True)], out)
        return out

    def get_state(self) -> np.ndarray:
        """The integration state (N, nstate) of every world: what a step depends on, control and warm start included."""
        return self._batch.state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Restores `get_state`; the next steps give the same bits."""
        self._batch.state[:] = state
        self.forward(np.arange(self.num_envs))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _bad_states(self) -> np.ndarray:
        return self._batch.warning[:, _BAD_STATE, 1].sum(axis=1)
