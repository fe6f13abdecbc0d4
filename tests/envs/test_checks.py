"""Mistakes in a user's own task, and worlds that do not fit: one paragraph, before anything is drawn or written."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import checks, make_env, registry
from envs.render import mujoco
from envs.tasks import base
from envs.tasks.base import ArmTask
from envs.tasks.reach import Reach
from robo_repr.core.errors import UserError

SCENE = Path(base.__file__).with_name("scene.xml")


def edited(edit):
    """A `spec` that is reach's, changed by `edit`."""

    def spec():
        model = Reach.spec()
        edit(model)
        return model

    return staticmethod(spec)


def drop(kind, name):
    return edited(lambda spec: spec.delete(getattr(spec, kind)(name)))


def from_text(text):
    return staticmethod(lambda: mujoco.MjSpec.from_string(text))


WRONG_MODELS = {
    "no file": (staticmethod(lambda: mujoco.MjSpec.from_file("/nowhere/own.xml")), "cannot build its model .*/nowhere/own.xml"),
    "no XML": (from_text("<mujoco><worldbody>"), "cannot build its model .*worldbody"),
    "a word MuJoCo does not know": (from_text("<mujoco><worldbody><geom sice='1'/></worldbody></mujoco>"), "cannot build .*'sice'.*line 1"),
    "a mistake found by the compiler": (from_text("<mujoco><worldbody><geom size='0'/></worldbody></mujoco>"), "cannot build .*size"),
    "no arm": (from_text("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"), "lacks body hand; site tool; .*scene.xml"),
    "no tool": (edited(lambda spec: [spec.delete(s) for s in (*spec.sensors[:3], spec.site("tool"))]), "lacks site tool; sensor tool_pos"),
    "no point to look at": (drop("site", "look_at"), "lacks site look_at"),
    "no sensor of a joint": (drop("sensor", "joint3"), "lacks sensor joint3"),
    "no fingers": (drop("actuator", "grip"), "lacks the arm's actuators"),
    "another joint first": (
        from_text(
            "<mujoco><worldbody><body name='block'><freejoint/><geom name='ball' size='.1' mass='1'/></body></worldbody>"
            f"<include file='{SCENE}'/></mujoco>"
        ),
        "lacks the arm's joints .* before all others.*scene.xml",
    ),
}


@pytest.mark.parametrize("kind", WRONG_MODELS)
def test_a_model_that_cannot_be_used_is_refused_when_it_is_built(build_own, kind):
    spec, says = WRONG_MODELS[kind]
    with pytest.raises(UserError, match=f"task=reach: .*{says}"):
        build_own(type("Own", (Reach,), {"spec": spec}), views=[])


@pytest.mark.parametrize("method", ["hidden", "reward", "success", "expert"])
def test_a_sensor_that_is_not_there_shows_at_the_first_reset(build_own, method):
    def asks(self, readings):
        return readings["ball_positon"]

    env = build_own(type("Own", (Reach,), {method: asks}), views=[])
    with pytest.raises(
        UserError, match="task=reach reads a sensor .*sensor=ball_positon .*Did you mean sensor=ball_position.*There is: ball_p"
    ):
        env.reset()


@pytest.mark.parametrize(
    ("method", "result", "says"),
    [
        ("hidden", lambda self, r: r["ball_position"][:, :2], r"hidden gives a tensor \(3, 2\) .* must give a torch tensor \(3, 3\)"),
        ("reward", lambda self, r: self.distance(r)[:, None].float() * 0, r"reward gives a tensor \(3, 1\) .* for 3 worlds"),
        ("reward", lambda self, r: self.distance(r), "reward gives .*float64 .*torch.float32"),
        ("success", lambda self, r: self.distance(r), "success gives .* of torch.bool"),
        ("success", lambda self, r: self.distance(r).numpy() < 0.1, "success gives a ndarray"),
        ("observe", lambda self, r, privileged: r["tool_position"].float(), r"observe gives a tensor \(3, 3\) .*\(3, 13\)"),
        ("expert", lambda self, r: np.zeros((3, 4)), r"expert gives a ndarray \(3, 4\) .* for 3 worlds.*numpy array \(3, 3\)"),
        ("expert", lambda self, r: np.zeros((3, 3), int), "expert gives a ndarray .* of int64"),
        ("expert", lambda self, r: r["tool_position"], "expert gives a tensor"),
        ("expert", lambda self, r: None, "expert gives a NoneType"),
        ("expert", lambda self, r: np.array([[0, 0, 0], [0, 0, -1.5], [0, 0, 0]]), r"expert gives \[.* -1.5\] for world 1.*\[-1, 1\]"),
        ("expert", lambda self, r: np.full((3, 3), np.nan), r"expert gives \[nan nan nan\] for world 0"),
    ],
)
def test_wrong_results_show_at_the_first_reset(build_own, method, result, says):
    env = build_own(type("Own", (Reach,), {method: result}), views=[])
    for _ in range(2):  # the first one that works is the first
        with pytest.raises(UserError, match=f"task=reach: {says}"):
            env.reset()
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros((3, 3)))


def test_a_class_that_lacks_something_is_refused(build_own):
    class Half(ArmTask):
        name, horizon, hidden_size, shown = "half", 5, 3, ("ball",)

        def place(self, generator, tool):
            return {}

    with pytest.raises(UserError, match="Half does not give instructions, start_box, hidden, reward, success"):
        build_own(Half)


SIX = Reach.instructions


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"instructions": "reach the ball"}, "instructions = 'reach the ball'. It must be a tuple of 6 different sentences"),
        ({"instructions": SIX[:5]}, "6 different sentences"),
        ({"instructions": (*SIX[:5], SIX[0])}, "6 different sentences"),
        ({"instructions": (*SIX[:5], " ")}, "6 different sentences"),
        ({"shown": "ball"}, "shown = 'ball'. It must be a tuple of names"),
        ({"shown": ()}, r"shown = \(\). It must"),
        ({"start_box": Reach.start_box[::-1]}, "start_box = .* inside the workspace"),
        ({"start_box": np.array([[0.4, 0, 0.3], [0.6, 0, 0.51]])}, "start_box = .* inside the workspace"),
        ({"start_box": [[0.4, 0, 0.3], [0.6, 0, 0.4]]}, r"start_box = .* an array \(2, 3\)"),
        ({"start_box": np.zeros(3)}, r"start_box = .* an array \(2, 3\)"),
        ({"reward_range": (0.5, 1.0)}, r"reward_range = \(0.5, 1.0\). It must be .* with 0 between"),
        ({"reward_range": (1.0, -1.0)}, "with 0 between"),
        ({"reward_range": 1.0}, "with 0 between"),
    ],
)
def test_a_class_that_gives_what_cannot_be_right_is_refused(build_own, given, says):
    with pytest.raises(UserError, match=f"Own gives .*{says}"):
        build_own(type("Own", (Reach,), given))


def test_a_geom_to_be_shown_that_is_not_there_is_refused(build_own):
    with pytest.raises(UserError, match="task=reach: shown names a geom .*shown=bal is not known. Did you mean shown=ball"):
        build_own(type("Own", (Reach,), {"shown": ("ball", "bal")}))


@pytest.mark.parametrize(
    ("start_box", "workspace"),
    [
        ([[0.50, 0.00, 0.30], [0.72, 0.25, 0.50]], Reach.workspace),  # too far
        ([[0.16, -0.13, 0.06], [0.50, 0.00, 0.30]], np.array([[0.0, -0.3, 0.0], [0.8, 0.3, 0.6]])),  # a joint beyond its range
    ],
)
def test_a_start_out_of_the_arms_reach_is_refused_when_the_worlds_are_built(build_own, start_box, workspace):
    with pytest.raises(UserError, match=r"cannot begin an episode with its tool at \[.*start_box"):
        build_own(type("Own", (Reach,), {"start_box": np.array(start_box), "workspace": workspace}))


FILES = {
    "its parent's name": (
        "from envs.tasks.reach import Reach\nclass OwnTask(Reach): pass",
        'class own_task.OwnTask has the name .reach., so it would load reach.xml. Write name = "own_task"',
    ),
    "another name of the class": (
        "from envs.tasks.reach import Reach\nclass OwnTsk(Reach): name = 'own_task'",
        r"own_task.py has no class OwnTask .*, but OwnTsk\. .* write class OwnTask\(ArmTask\)",
    ),
    "a class that is no task": (
        "class OwnTask: name = 'own_task'",
        r"own_task.py has no class OwnTask that is a child of .*ArmTask, but none",
    ),
    "an import that fails": (
        "import no_such_module",
        "own_task.py, .* class OwnTask, cannot be imported .ModuleNotFoundError: .*no_such_mod",
    ),
    "no Python": (
        "class OwnTask(:",
        "own_task.py, .* class OwnTask, cannot be imported .SyntaxError: .*line 1.*python -c 'import own_task'",
    ),
    "a mistake": ("class OwnTask(ArmTask): pass", "own_task.py, .* cannot be imported .NameError: .*ArmTask"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_does_not_hold_its_task_is_refused(kind, tmp_path, monkeypatch):
    text, says = FILES[kind]
    (tmp_path / "own_task.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.TASKS, "own_task", "own_task:OwnTask")
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    with pytest.raises(UserError, match=f"task=own_task: .*{says}"):
        make_env("own_task")
    sys.modules.pop("own_task", None)


def test_a_file_whose_name_is_no_name_of_a_class_is_refused(monkeypatch):
    monkeypatch.setitem(registry.TASKS, "press-key", "envs.tasks.press-key:Press-Key")
    with pytest.raises(UserError, match="task=press-key: envs/tasks/press-key.py .* a class Press-Key.*press_key.py"):
        make_env("press-key")


def test_half_a_task_is_not_just_unknown(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="task=scene is not known"):
        make_env("scene")
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    for name in ("pin.py", "nail.xml"):
        (tmp_path / name).touch()
    for task, says in (("pin", "pin.py has no pin.xml beside it"), ("nail", "nail.xml has no nail.py"), ("pi", "task=pi is not known")):
        with pytest.raises(UserError, match=says):
            make_env(task)


def test_a_place_for_what_is_not_there_is_refused(build_own):
    env = build_own(type("Own", (Reach,), {"place": lambda self, generator, tool: {"bal": np.zeros(3)}}), views=[])
    with pytest.raises(UserError, match="bal.*ball"):
        env.reset()


class NoExpert(Reach):
    """Reach without its expert."""

    expert = None  # pyright: ignore[reportAssignmentType]


def test_a_task_without_expert_is_complete_but_for_the_expert(build_own):
    env = build_own(NoExpert, views=["front"])
    env.reset()
    env.step(np.zeros((3, 3)))
    env.render_at(16)
    with pytest.raises(UserError, match="task=reach has no scripted expert.*expert.readings"):
        env.expert_actions()


@pytest.mark.parametrize("noise", [-0.1, float("nan"), "much"])
def test_noise_is_checked(build, noise):
    env = build(views=[])
    env.reset()
    with pytest.raises(UserError, match=f"noise={noise} is not possible"):
        env.expert_actions(noise=noise)


def test_worlds_that_do_not_fit_into_memory_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(torch, "zeros", None)  # nothing may be allocated
    with pytest.raises(
        UserError, match=r"num_envs=65536 does not fit .* need about [\d,]+\.\d GB, and [\d,]+\.\d GB are free. There is room"
    ):
        make_env("reach", num_envs=65536, image_size=1280)
    monkeypatch.setattr(checks, "free_memory", lambda: 10**6)
    with pytest.raises(UserError, match="Not even one world fits"):
        make_env("reach", image_size=1280)


def test_the_room_that_is_named_is_enough(monkeypatch, build):
    monkeypatch.setattr(checks, "free_memory", lambda: 10**6)
    with pytest.raises(UserError, match="There is room for num_envs=") as error:
        build(num_envs=500)
    room = int(str(error.value).split("There is room for num_envs=")[1].split(".")[0])
    assert 0 < room < 500
    build(num_envs=room)
    with pytest.raises(UserError, match="does not fit"):
        build(num_envs=room + 1)
    monkeypatch.setattr(checks, "free_memory", lambda: None)
    build(num_envs=500)


def group(folder, names, limit, used, cache):
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(("names", "top", "line"), [(V1, "memory", "4:cpu,memory:/outer/job"), (V2, "", "0::/outer/job")])
def test_the_limits_of_containers_count(tmp_path, names, top, line):
    groups = tmp_path / "cgroup"
    groups.write_text(f"7:blkio:/elsewhere\n{line}\n")
    root = tmp_path / "fs"
    assert checks._free_in_containers(groups, root) == []
    group(root / top / "outer", names, 1000, 700, 100)
    group(root / top / "outer" / "job", names, "max", 300, 0)
    assert checks._free_in_containers(groups, root) == [400]
    (root / top / "outer" / "job" / names[0]).write_text("350\n")
    assert sorted(checks._free_in_containers(groups, root)) == [50, 400]
    groups.unlink()
    assert checks._free_in_containers(groups, root) == []


def test_what_is_free_is_a_part_of_the_machine():
    assert 10**7 < checks.free_memory() < 10**14
