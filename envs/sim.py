"""The threads engine: N worlds of one MuJoCo model stepped on CPU threads, and drawn by render workers."""

import os
import warnings
from collections.abc import Callable

import numpy as np
import torch

from envs.render import PICTURES, Look, Renderer, Shot, mujoco
from robo_repr.core.errors import Failure

# MuJoCo's warnings by number: INERTIA, CONTACTFULL, CNSTRFULL, BADQPOS, BADQVEL, BADQACC, BADCTRL. After the first three its physics is
# wrong, after a bad position, velocity or acceleration it has put the world back to the model's default pose; it goes on in silence.
WARNINGS = {int(kind): kind.name.removeprefix("mjWARN_") for kind in map(mujoco.mjtWarning, range(mujoco.mjtWarning.mjNWARNING))}
ERROR = "ERROR"  # the engine gave up on a world, such as for lack of the model's memory; the world stays as it was before the call
_VELOCITY = int(mujoco.mjtStage.mjSTAGE_VEL)


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
        self._healthy = self._batch.state.copy()  # each world as it was when it was last found in order

    def write(self, ids: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Puts worlds back to the model's defaults, then writes state fields (n, ...), such as ``qpos``; follow it with `forward`."""
        self._batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        for name, value in values.items():
            self._batch.bind(name)[ids] = value

    def forward(self, ids: np.ndarray) -> dict[int, str]:
        """Makes the readings of worlds current after a write. Returns the worlds that cannot go on from there, as `step` does."""
        broken = self._watched(lambda: self._batch.forward(ids))
        self._healthy[ids] = self._batch.state[ids]
        return broken

    def step(self, ctrl: np.ndarray, substeps: int) -> dict[int, str]:
        """Advances all worlds; the readings describe the new state.

        Returns:
            The worlds whose physics broke down, with the warning's name (`WARNINGS`, the first where there are several) or `ERROR`. They
            were put back to the state before the step, so what is read of them is finite; their episode must end.
        """
        self._ctrl[:] = ctrl
        # Up to the velocity stage, or the sensors would describe the state before the last substep, and what broke in it stay unseen.
        broken = self._watched(lambda: self._batch.step(nstep=substeps, stage=_VELOCITY))
        if broken:
            ids = np.array(sorted(broken))
            self._batch.state[ids] = self._healthy[ids]
            self._batch.forward(ids, stage=_VELOCITY)
        np.copyto(self._healthy, self._batch.state)
        return broken

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

    def render(self, cameras: np.ndarray, ids: np.ndarray, looks: list[Look], size: int, picture: str = "colours") -> np.ndarray:
        """Pictures (n, V, size, size, ...) of worlds `ids` from camera poses (n, V, 8) in the world's frame; `picture` is one of
        `envs.render.PICTURES`, which says what a pixel holds."""
        if self._renderer is None:
            self._renderer = Renderer(self.model, self._quality, self._render_threads)
        kind, shape = PICTURES[picture]
        out = np.empty((*cameras.shape[:2], size, size, *shape), dtype=kind)
        states = self._batch.state
        self._renderer.draw([Shot(states[i], poses, look) for i, poses, look in zip(ids, cameras, looks, strict=True)], out)
        return out

    def get_state(self) -> np.ndarray:
        """The integration state (N, nstate) of every world: what a step depends on, control and warm start included."""
        return self._batch.state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Restores `get_state`; the next steps give the same bits.

        Raises:
            Failure: it holds numbers that are not finite or beyond what MuJoCo takes.
        """
        bad = ~(np.abs(state) <= mujoco.mjMAXVAL).all(axis=1)
        if bad.any():
            raise Failure(
                f"The snapshot's state of world {int(np.flatnonzero(bad)[0])} holds numbers that are not finite or larger than "
                f"{mujoco.mjMAXVAL:g}; a simulator's state is finite. Resume from an older checkpoint."
            )
        self._batch.state[:] = state
        # As far as a step computes, so that what a step did not find is left for the next one, as if nothing had happened.
        self._batch.forward(stage=_VELOCITY)
        np.copyto(self._healthy, self._batch.state)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _watched(self, call: Callable[[], None]) -> dict[int, str]:
        """Makes a call of the batch; world -> the first kind of warning in MuJoCo's order, or `ERROR`."""
        # A world that MuJoCo puts back to its default pose begins to count anew: a rise of the count would miss its second breakdown.
        self._batch.warning[:] = 0
        given_up = []
        try:
            call()
        except mujoco.batch.SimulationError as error:
            given_up = error.ids.tolist()
            warnings.warn(f"MuJoCo gave up on a world: {self._batch.error(given_up[0])}", RuntimeWarning, stacklevel=2)
        warned = {world: WARNINGS[kind] for world, kind in np.argwhere(self._batch.warning[:, :, 1])[::-1].tolist()}
        return warned | dict.fromkeys(given_up, ERROR)
