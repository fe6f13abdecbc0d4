"""OpenGL without a display: which backend, and worker threads that each own one context and draw worlds.

mujoco and dm_control read MUJOCO_GL once, at their import, so this module must come before them: the other modules of envs take mujoco from
here (``from envs.render import mujoco``).
"""

import os
import subprocess
import sys

# Rasterise in the thread that draws: Mesa's own threads fight with ours. Read once, at the first context.
os.environ.setdefault("LP_NUM_THREADS", "0")

import atexit  # noqa: E402
import copy  # noqa: E402
import functools  # noqa: E402
import queue  # noqa: E402
import threading  # noqa: E402
import weakref  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from importlib import import_module  # noqa: E402

import numpy as np  # noqa: E402

from robo_repr.core.errors import Failure, UserError, unknown  # noqa: E402

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libopengl0"
QUALITIES = ("fast", "full")
# What can be drawn: the type of a pixel and the shape of what it holds. Colours; the id of the geom that is seen, -1 for none; its distance
# along the optical axis in metres, infinite where there is none.
PICTURES = {"colours": (np.uint8, (3,)), "geoms": (np.int32, ()), "depth": (np.float32, ())}
_GL_OUT_OF_MEMORY = 0x0505
OFF, ON = ("off", "disable", "disabled", "false", "0"), ("", "on", "enable", "enabled", "true", "1")  # MuJoCo's other words
BACKENDS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw"}


def opens_context(backend: str) -> bool:
    """Whether a context of that backend opens; tried in a process of its own, since a failure can end the process."""
    probe = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current()"
    env = {**os.environ, "MUJOCO_GL": backend}
    env.pop("PYOPENGL_PLATFORM", None)
    return subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, timeout=60).returncode == 0


def choose_backend() -> str:
    """The value for MUJOCO_GL: the user's, or the first of glfw (with a display), egl and osmesa that opens a context, or "off"."""
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen in (*BACKENDS, *OFF):
        return chosen
    if chosen not in ON:
        raise UserError(f"MUJOCO_GL={chosen} is no backend that this suite draws with. Use {', '.join(BACKENDS)} or off, or unset it.")
    candidates = ["egl", "osmesa"]
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        candidates.insert(0, "glfw")
    return next((backend for backend in candidates if opens_context(backend)), "off")


BACKEND = choose_backend()
os.environ["MUJOCO_GL"] = BACKEND
if BACKEND in ("egl", "osmesa"):
    # mujoco sets it from MUJOCO_GL, but a stale value of the user's breaks the import.
    os.environ["PYOPENGL_PLATFORM"] = BACKEND

import mujoco  # noqa: E402
import mujoco.batch  # noqa: E402

# Warnings are counted per world (envs/sim.py) and still printed; MuJoCo's file of them would appear wherever one happens to work.
_log = mujoco.MjLogConfig.get()
_log.logto_file = False
_log.set()


@dataclass
class Look:
    """How one world differs from its model in the picture, by geom names."""

    rgba: dict[str, np.ndarray] = field(default_factory=dict)  # colour (4,)
    form: dict[str, tuple[int, np.ndarray, np.ndarray]] = field(default_factory=dict)  # mjtGeom, sizes (3,), position (3,)
    light: np.ndarray | None = None  # (4,) direction 3 of the lamp and a factor on every light's brightness 1
    clutter: bool = False


@dataclass(frozen=True)
class Shot:
    """One picture to draw: the world's integration state, its camera poses (V, 8) in the world's frame and its look."""

    state: np.ndarray
    cameras: np.ndarray
    look: Look


class Renderer:
    """Draws worlds of one model on `threads` worker threads, each with its own context for the renderer's life.

    Raises:
        UserError: no OpenGL backend works here.
    """

    def __init__(self, model: mujoco.MjModel, quality: str = "fast", threads: int = 1):
        if quality not in QUALITIES:
            raise unknown("quality", quality, QUALITIES)
        if BACKEND not in BACKENDS:
            raise UserError(
                f"No OpenGL: MUJOCO_GL is '{BACKEND}' (found by trying egl and osmesa, unless you set it), so pictures cannot be drawn. "
                f"Install the libraries (as root: apt-get install {GL_PACKAGES}) and unset MUJOCO_GL, or use encoder=identity "
                "privileged=true, which needs no pictures."
            )
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        ready: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_Worker.main, args=(model, quality, self._jobs, ready), daemon=True) for _ in range(threads)
        ]
        # torch's first optimiser imports this module and with it another LLVM, which crashes inside Mesa's once a context exists.
        import torch._dynamo  # noqa: F401

        for thread in self._threads:
            thread.start()
        _OPEN.add(self)
        failure = self._answer(ready, threads)
        _close_all_at_exit()
        if failure is not None:
            self.close()
            raise UserError(
                f"OpenGL context could not be opened with MUJOCO_GL={BACKEND}: {_words(failure)}. Unset MUJOCO_GL to let a working backend "
                f"be found, or install the libraries (as root: apt-get install {GL_PACKAGES})."
            )

    def draw(self, shots: list[Shot], out: np.ndarray) -> None:
        """Fills out (n, V, H, W, ...), row by row from the top, with what its type stands for in `PICTURES`. Geoms and depth are drawn
        without antialiasing, whatever the quality.

        Raises:
            Failure: a worker could not draw: its context is lost, memory ran out, the scene has too many geoms. `out` is not to be used.
        """
        if not shots:
            return
        # A queue of its own for every call: were a call interrupted, its late answers would pass for those of the next one.
        done: queue.SimpleQueue = queue.SimpleQueue()
        count = min(len(self._threads), len(shots))
        for part in np.array_split(np.arange(len(shots)), count):
            self._jobs.put(([shots[i] for i in part], out[part[0] : part[-1] + 1], done))
        failure = self._answer(done, count)
        if isinstance(failure, UserError):
            raise failure
        if failure is not None:
            raise Failure(
                f"Pictures could not be drawn: {_words(failure)}. What was saved before is whole: the same command goes on from a run's "
                "last checkpoint. If memory is short, use fewer worlds (num_envs), smaller pictures (image_size) or fewer views; if not, "
                "look at the graphics driver (was the card reset or the display closed?)."
            ) from failure

    def _answer(self, done: queue.SimpleQueue, count: int) -> BaseException | None:
        """Waits for `count` answers of workers and returns the first failure; never waits for a worker that is no more."""
        failures = []
        while count:
            try:
                failures.append(done.get(timeout=1))
                count -= 1
            except queue.Empty:
                if not all(thread.is_alive() for thread in self._threads):
                    failures.append(RuntimeError("a thread that draws has ended"))
                    break
        return next((failure for failure in failures if failure is not None), None)

    def close(self) -> None:
        """Ends the worker threads, each of which frees its own context."""
        _OPEN.discard(self)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=10)
        self._threads = []


def _words(failure: BaseException) -> str:
    """What happened, for people."""
    if isinstance(failure, MemoryError):
        return f"the machine ran out of memory ({type(failure).__name__}: {failure})"
    if isinstance(failure, mujoco.FatalError):
        return f"MuJoCo's renderer gave up, as it does when its OpenGL context is lost (FatalError: {failure})"
    return str(failure) if type(failure) is RuntimeError else f"{type(failure).__name__}: {failure}"


_OPEN: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


@functools.cache
def _close_all_at_exit() -> None:
    """Called once a context exists: exit handlers run last in, first out, and ours must come before the one that ends EGL's display."""
    atexit.register(lambda: [renderer.close() for renderer in list(_OPEN)])


# One thread at a time may be inside OpenGL. Mesa's software driver (22.3) looks through the unfinished pictures of all contexts of the
# process when one of them reads pixels, loads a texture or takes up vertices. The others' threads may be drawing these pictures or taking
# them down meanwhile, and the process crashes: seldom, about once in a million pictures. Scenes are prepared side by side, and processes
# draw in parallel; on a graphics card drawing takes a small part of the time.
_OPENGL = threading.Lock()


class _Worker:
    """A thread's context, scene and data; made, used and freed in that thread alone."""

    def __init__(self, model: mujoco.MjModel, quality: str):
        self.model = model = _with_quality(model, quality)
        self.data = mujoco.MjData(model)
        width, height = model.vis.global_.offwidth, model.vis.global_.offheight
        self.gl = import_module(BACKENDS[BACKEND]).GLContext(width, height)
        self.gl.make_current()
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR  # the finer one, see `_metres`
        self.scene = mujoco.MjvScene(model, maxgeom=max(200, 4 * model.ngeom))
        self.option = mujoco.MjvOption()
        self.camera = mujoco.MjvCamera()
        self.names = [model.geom(i).name for i in range(model.ngeom)]
        if quality == "fast":
            self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        mujoco.mjr_getError()  # forgets what building the context left behind
        self.unread = np.random.default_rng(0).integers(0, 256, (1, 16, 3), dtype=np.uint8)  # what no picture looks like
        self.near, self.far = model.vis.map.znear * model.stat.extent, model.vis.map.zfar * model.stat.extent

    @staticmethod
    def main(model: mujoco.MjModel, quality: str, jobs: queue.SimpleQueue, ready: queue.SimpleQueue) -> None:
        # Every failure is answered, whatever it is: someone waits for it.
        try:
            with _OPENGL:
                worker = _Worker(model, quality)
        except BaseException as error:
            ready.put(error)
            return
        ready.put(None)
        while (job := jobs.get()) is not None:
            shots, out, done = job
            try:
                worker.draw(shots, out)
                worker.check()
                done.put(None)
            except BaseException as error:
                done.put(error)
        with _OPENGL:
            worker.context.free()
            worker.gl.free()

    def draw(self, shots: list[Shot], out: np.ndarray) -> None:
        height, width = out.shape[2:4]
        shows_ids, shows_depth = (out.dtype == PICTURES[kind][0] for kind in ("geoms", "depth"))
        # As ids nothing is blended: neither edges, whose depth would be between near and far, nor a sky that is a box a few metres away.
        unblended = shows_ids or shows_depth
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = self.scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = unblended
        viewport = mujoco.MjrRect(0, 0, width, height)
        flipped = np.empty((height, width, 3), dtype=np.uint8)
        buffer = np.empty((height, width), dtype=np.float32) if shows_depth else None
        for shot, pictures in zip(shots, out, strict=True):
            mujoco.mj_setState(self.model, self.data, shot.state, mujoco.mjtState.mjSTATE_INTEGRATION)
            # What drawing needs, a third of the cost of a forward step.
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_camlight(self.model, self.data)
            self.option.geomgroup[5] = shot.look.clutter
            mujoco.mjv_updateScene(self.model, self.data, self.option, None, self.camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene)
            if self.scene.status:
                raise Failure(
                    f"A scene has more geoms than the {self.scene.maxgeom} that a picture has room for (MuJoCo's VGEOMFULL), so some would "
                    "be missing. Use a model with fewer geoms and sites, or no skins and tendons."
                )
            self._apply(shot.look)
            for pose, picture in zip(shot.cameras, pictures, strict=True):
                self._aim(pose)
                with _OPENGL:
                    mujoco.mjr_render(viewport, self.scene, self.context)
                    mujoco.mjr_readPixels(flipped, buffer, viewport, self.context)
                if buffer is not None:
                    picture[:] = self._metres(buffer[::-1])
                else:
                    picture[:] = self._geom_ids(flipped[::-1]) if shows_ids else flipped[::-1]

    def check(self) -> None:
        """Raises RuntimeError if OpenGL reports an error or reads nothing back: without its context it does nothing, in silence."""
        code = mujoco.mjr_getError()
        if code:
            raise MemoryError("on the graphics card") if code == _GL_OUT_OF_MEMORY else RuntimeError(f"OpenGL error 0x{code:04x}")
        read = self.unread.copy()
        with _OPENGL:
            mujoco.mjr_readPixels(read, None, mujoco.MjrRect(0, 0, read.shape[1], 1), self.context)
        if np.array_equal(read, self.unread):
            raise RuntimeError("the OpenGL context is lost: pictures cannot be read back")

    def _aim(self, pose: np.ndarray) -> None:
        """Moves the scene's GL cameras, so that the shared model stays untouched."""
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.ascontiguousarray(pose[3:7]))
        forward, up = -matrix[2::3], matrix[1::3]
        top = self.near * np.tan(np.radians(pose[7]) / 2)
        for camera in self.scene.camera:
            camera.pos, camera.forward, camera.up = pose[:3], forward, up
            camera.frustum_near, camera.frustum_far = self.near, self.far
            camera.frustum_top, camera.frustum_bottom = top, -top
            camera.frustum_center = camera.frustum_width = 0
        for light in self.scene.lights[: self.scene.nlight]:
            if light.headlight:
                light.pos, light.dir = pose[:3], forward

    def _geom_ids(self, colours: np.ndarray) -> np.ndarray:
        """Ids (H, W) of the geoms that the colours (H, W, 3) of a picture drawn with mjRND_IDCOLOR stand for; -1 for sites and sky."""
        ids = np.full(self.scene.ngeom + 1, -1, dtype=np.int32)  # 0 is the sky's number, then the scene's geoms follow
        for geom in self.scene.geoms[: self.scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                ids[geom.segid + 1] = geom.objid
        return ids[colours @ np.array([1, 1 << 8, 1 << 16])]

    def _metres(self, buffer: np.ndarray) -> np.ndarray:
        """Distances (H, W) along the optical axis for a depth buffer that is 1 at the near plane and 0 at the far one and beyond."""
        with np.errstate(divide="ignore"):
            near_share = buffer * (self.far - self.near) / (self.far * self.near)
            return np.where(buffer > 0, 1 / (near_share + 1 / self.far), np.inf)

    def _apply(self, look: Look) -> None:
        """Recolours and reshapes the scene's geoms; the model stays untouched."""
        if look.rgba or look.form:
            for geom in self.scene.geoms[: self.scene.ngeom]:
                if geom.objtype != mujoco.mjtObj.mjOBJ_GEOM:
                    continue
                name = self.names[geom.objid]
                if name in look.rgba:
                    geom.rgba = look.rgba[name]
                if name in look.form:
                    geom.type, geom.size, geom.pos = look.form[name]
        if look.light is not None:
            for light in self.scene.lights[: self.scene.nlight]:
                light.diffuse, light.ambient = light.diffuse * look.light[3], light.ambient * look.light[3]
                if not light.headlight:
                    light.dir = look.light[:3]


def _with_quality(model: mujoco.MjModel, quality: str) -> mujoco.MjModel:
    """A copy whose quality fields are set before a context is built from it; "full" is the model as it is."""
    model = copy.copy(model)
    if quality == "fast":
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        # Spheres and cylinders of 12 x 8 facets look the same at these sizes; numquads stays, lighting is per vertex.
        model.vis.quality.numslices, model.vis.quality.numstacks = 12, 8
    return model
