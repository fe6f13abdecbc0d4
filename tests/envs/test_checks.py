"""Mistakes in a user's own task, and worlds that do not fit: one paragraph, before anything is drawn or written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from envs import checks, make_env
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


@pytest.mark.parametrize("method", ["hidden", "reward", "success"])
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
    ],
)
def test_results_of_another_shape_show_at_the_first_reset(build_own, method, result, says):
    env = build_own(type("Own", (Reach,), {method: result}), views=[])
    with pytest.raises(UserError, match=f"task=reach: {says}"):
        env.reset()


def test_a_class_that_lacks_something_is_refused(build_own):
    class Half(ArmTask):
        name, horizon, hidden_size, shown = "half", 5, 3, ("ball",)

        def place(self, generator, tool):
            return {}

    with pytest.raises(UserError, match="Half does not give instructions, start_box, hidden, reward, success"):
        build_own(Half)


def test_a_place_for_what_is_not_there_is_refused(build_own):
    env = build_own(type("Own", (Reach,), {"place": lambda self, generator, tool: {"bal": np.zeros(3)}}), views=[])
    with pytest.raises(UserError, match="bal.*ball"):
        env.reset()


class NoExpert(Reach):
    """Reach without its expert."""

    @property
    def expert(self):
        raise AttributeError("expert")


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
