import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from envs import make_env, render
from envs.cameras import LEVELS
from robo_repr.core.errors import Failure


@pytest.fixture(scope="module")
def env():
    env = make_env("reach", num_envs=2, views=["front", "wrist"], camera="L3", quality="full", appearance="plain", render_threads=1)
    env.reset()
    yield env
    env.close()


def test_full_quality_is_what_mujoco_draws_with_that_camera(env):
    """Our moved cameras against mujoco's own renderer on a copy of the model whose camera was edited."""
    import mujoco

    model = env._model.__copy__()
    data = mujoco.MjData(model)
    for world in range(2):
        mujoco.mj_setState(model, data, env.sim.get_state()[world], mujoco.mjtState.mjSTATE_INTEGRATION)
        for column, view in enumerate(env.views):
            camera = model.camera(view)
            camera.pos[:], camera.quat[:], camera.fovy[:] = np.split(env._poses[world, column], [3, 7])
            mujoco.mj_forward(model, data)
            with mujoco.Renderer(model, 84, 84) as renderer:
                renderer.update_scene(data, view)
                expected = renderer.render().astype(int)
            found = env.observation()["images"][world, column].permute(1, 2, 0).numpy().astype(int)
            difference = np.abs(found - expected)
            assert difference.mean() < 0.1, (world, view, difference.mean())
            assert difference.mean() < 0.02 * np.abs(np.roll(found, 3, axis=1) - expected).mean()  # it is this view, not any view


def test_drawing_leaves_no_trace_in_the_model(env):
    before = env._model.cam_pos.copy(), env._model.geom_rgba.copy()
    colourful = make_env("reach", num_envs=2, views=["front"], camera="L5", appearance="random", image_size=32)
    colourful.reset()
    assert np.array_equal(env._model.cam_pos, before[0]) and np.array_equal(env._model.geom_rgba, before[1])
    one, two = colourful.observation()["images"][:, 0]
    assert (one.float() - two.float()).abs().mean() > 5
    colourful.close()


def test_threads_draw_the_same_pictures():
    pictures = []
    for threads in (1, 2):
        env = make_env("reach", num_envs=4, views=["front", "wrist"], appearance="random", render_threads=threads)
        env.reset()
        env.step(np.ones((4, 3)))
        pictures.append(env.observation()["images"].clone())
        env.close()
    assert torch.equal(*pictures)


def test_the_ball_is_in_the_picture():
    """In (nearly) every start state the wrist camera sees the red ball; the control is a picture without it."""
    env = make_env("reach", num_envs=40, views=["wrist", "front"], camera="L1")
    env.reset()

    def red(images):
        r, g, b = images.float().unbind(dim=2)
        return ((r > 100) & (r > 2 * g) & (r > 2 * b)).sum(dim=(-1, -2))

    pixels = red(env.observation()["images"])
    assert (pixels[:, 0] >= 4).float().mean() >= 0.95 and (pixels[:, 1] >= 4).float().mean() >= 0.95
    env.sim._batch.bind("mocap_pos")[:, 0, 2] = -5
    hidden = torch.from_numpy(env.render_at(84)).permute(0, 1, 4, 2, 3)
    assert red(hidden).max() == 0
    env.close()


def test_films_can_be_drawn_from_cameras_that_are_not_observed():
    env = make_env("reach", num_envs=2, views=[], camera="L0")
    env.reset()
    assert env.render_at(64, worlds=[1], views=["front", "left", "wrist"]).shape == (1, 3, 64, 64, 3)
    env.close()


@pytest.mark.parametrize("level", list(LEVELS))
def test_the_observed_camera_is_the_drawn_one(level):
    """render_at with the same size repeats the observation."""
    env = make_env("reach", num_envs=1, views=["front"], camera=level, image_size=48)
    env.reset()
    assert np.array_equal(env.render_at(48)[0, 0], env.observation()["images"][0, 0].permute(1, 2, 0).numpy())
    env.close()


def run(code, **env):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120)


def test_an_optimiser_can_be_built_after_a_context():
    """torch loads a second LLVM with its first optimiser; after a software GL context that used to end the process."""
    code = (
        "import torch; from envs import make_env; env = make_env('reach', views=['front'], image_size=32); env.reset();"
        "torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]); env.step(env.expert_actions()); print('alive')"
    )
    result = run(code)
    assert result.returncode == 0 and result.stdout.strip() == "alive" and "Error" not in result.stderr, result.stderr


def test_without_opengl_only_pictures_fail():
    code = (
        "from envs import make_env; from robo_repr.core.errors import UserError\n"
        "env = make_env('reach', views=[]); env.reset(); env.step(env.expert_actions())\n"
        "try: make_env('reach', views=['front']).reset()\n"
        "except UserError as error: print(error)"
    )
    result = run(code, MUJOCO_GL="off")
    assert result.returncode == 0 and "libegl1" in result.stdout, result.stderr


@pytest.fixture
def drawing():
    """A small environment with one worker, after its reset."""
    env = make_env("reach", num_envs=2, views=["front"], camera="L3", image_size=32, render_threads=1)
    env.reset()
    yield env
    env.close()


STILL = np.zeros((2, 3))


@pytest.mark.parametrize(
    "error, words",
    [
        (None, ""),
        (render.mujoco.FatalError("Default framebuffer is not complete"), "gave up.*OpenGL context.*framebuffer is not complete"),
        (MemoryError("8 MiB"), "ran out of memory.*8 MiB"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_worker_that_cannot_draw_is_one_clear_failure(drawing, monkeypatch, error, words):
    calls, draw = [], render._Worker.draw

    def failing(self, shots, out):
        calls.append(len(shots))
        if len(calls) == 3 and error is not None:
            raise error
        draw(self, shots, out)

    monkeypatch.setattr(render._Worker, "draw", failing)
    for _ in range(2):
        drawing.step(STILL)
    if error is None:
        drawing.step(STILL)
        return
    with pytest.raises(Failure, match=f"could not be drawn: .*{words}.*last checkpoint.*num_envs") as failure:
        drawing.step(STILL)
    assert failure.value.exit_code == 1
    began = time.monotonic()
    drawing.close()
    assert time.monotonic() - began < 5


def test_a_worker_that_is_no_more_is_not_waited_for(drawing):
    renderer = drawing.sim._renderer
    renderer._jobs.put(None)
    began = time.monotonic()
    with pytest.raises(Failure, match="has ended"):
        drawing.step(STILL)
    drawing.close()
    assert time.monotonic() - began < 15 and not any(thread.is_alive() for thread in renderer._threads)


def test_an_interrupted_drawing_leaves_nothing_for_the_next(drawing, monkeypatch):
    """Its late answer must not pass for that of the next drawing, which would return before its pictures are there."""
    draw, answer = render._Worker.draw, render.Renderer._answer

    def slow(self, shots, out):
        time.sleep(0.3)
        draw(self, shots, out)

    def interrupted(self, done, count):
        raise KeyboardInterrupt

    monkeypatch.setattr(render._Worker, "draw", slow)
    expected = drawing.render_at(32)
    monkeypatch.setattr(render.Renderer, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drawing.render_at(32)
    monkeypatch.setattr(render.Renderer, "_answer", answer)
    assert np.array_equal(drawing.render_at(32), expected)


def test_a_scene_without_room_for_all_geoms_is_refused(monkeypatch):
    scene = render.mujoco.MjvScene
    monkeypatch.setattr(render.mujoco, "MjvScene", lambda model, maxgeom: scene(model, 5))
    env = make_env("reach", views=["front"], image_size=32)
    with pytest.raises(Failure, match="more geoms than the 5 .*VGEOMFULL"):
        env.reset()
    env.close()


def test_a_lost_context_is_noticed():
    """Without its context OpenGL draws and reads nothing, and reports no error: the pictures would be whatever lay in memory."""
    code = (
        "import numpy as np\nfrom envs.render import Look, Shot, _Worker, mujoco\n"
        "model = mujoco.MjModel.from_xml_path('envs/tasks/reach.xml'); data = mujoco.MjData(model)\n"
        "state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))\n"
        "mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)\n"
        "shot = Shot(state, np.array([[1.5, 0, 1, 1, 0, 0, 0, 40]]), Look()); out = np.zeros((1, 1, 32, 32, 3), np.uint8)\n"
        "worker = _Worker(model, 'fast'); worker.draw([shot], out); worker.check(); print('drawn')\n"
        "worker.gl.free(); worker.draw([shot], out)\n"
        "try: worker.check()\n"
        "except RuntimeError as error: print(error)\n"
        "worker.context.free(); worker.gl.free()"
    )
    result = run(code)
    assert result.stdout.splitlines() == ["drawn", "the OpenGL context is lost: pictures cannot be read back"], result.stderr
    assert result.returncode == 0


def test_one_thread_at_a_time_is_inside_opengl(monkeypatch):
    """Mesa's software driver walks through the other contexts' unfinished pictures, whose threads must stand still meanwhile."""
    lock, at_work, seen, calls = threading.Lock(), [], set(), 0

    def watched(name):
        call = getattr(render.mujoco, name)

        def wrapped(*arguments):
            nonlocal calls
            with lock:
                calls += 1
                seen.update((name, other) for other in at_work)
                at_work.append(name)
            try:
                time.sleep(0.002)
                return call(*arguments)
            finally:
                with lock:
                    at_work.remove(name)

        monkeypatch.setattr(render.mujoco, name, wrapped)

    for name in ("mjr_render", "mjr_readPixels", "MjrContext"):
        watched(name)
    envs = [make_env("reach", num_envs=4, views=["front", "wrist"], render_threads=2, image_size=16) for _ in range(2)]
    for env in envs:
        env.reset()
    workers = [threading.Thread(target=lambda env=env: [env.render_at(16) for _ in range(4)]) for env in envs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for env in envs:
        env.close()
    assert calls > 40 and not seen
