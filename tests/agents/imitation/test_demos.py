"""Demonstrations: recorded once by experts, or given; only successful ones, just as the worlds would have shown them."""

import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.evaluate import Interrupted
from agents.imitation import demos as module
from agents.imitation.demos import Worlds, find_demos, one_at_a_time
from agents.recording.recorder import FIRST_ID
from envs import make_env, write_manifest
from envs.registry import task_class
from robo_repr.core.config import ImitationConfig, RecordConfig
from robo_repr.core.errors import UserError
from robo_repr.data.store import ClipStore, ClipWriter

# So short that the expert does not always get there in time.
SETTINGS = {"views": ["front", "wrist"], "image_size": 16, "horizon": 16, "camera": "L2"}
WORLDS = Worlds(["front", "wrist"], (16, 16), 1, 13, 3)
GIVEN = Worlds(["front", "wrist"], (4, 4), 1, 5, 2)


def config(demos, **changes):
    return ImitationConfig(**{**SETTINGS, "demos": demos, **changes})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder in which two demonstrations were asked for, then four."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = [find_demos(config(demos), "reach", WORLDS) for demos in (2, 4)]
    return folder, *found


@pytest.fixture
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(module, "record", lambda *_, **__: pytest.fail("it recorded"))


def test_failed_episodes_are_dropped_and_counted(recorded):
    folder, two, four = recorded
    (store,) = [path for path in (folder / "runs/demos").iterdir() if path.is_dir()]
    marks = [known["success"] for known in ClipStore(store).episodes]
    successful = [episode for episode, success in enumerate(marks) if success]
    assert four.episodes == successful[:4] and two.episodes == successful[:2]
    for demos in (two, four):
        assert demos.dropped == marks[: demos.episodes[-1]].count(False) > 0
    assert len(ClipStore(store)) >= 5 and four.key == two.key
    assert all(torch.equal(a, b) for a, b in zip(two.actions, four.actions, strict=False))


def test_one_store_serves_all_arms_and_orders(recorded, monkeypatch, nothing_recorded):
    folder, _, four = recorded
    monkeypatch.chdir(folder)
    again = find_demos(config(3, views=["wrist", "front"]), "reach", replace(WORLDS, views=["wrist", "front"]))
    assert (again.key, again.episodes) == (four.key, four.episodes[:3])
    assert torch.equal(again.images(2).flip(1), four.images(2)) and not torch.equal(again.images(2), four.images(2))
    assert torch.equal(again.cameras(2).flip(1), four.cameras(2))
    blind = find_demos(config(4, privileged=True), "reach", Worlds([], (16, 16), 1, 16, 3))
    assert blind.episodes == four.episodes and blind.images(0).shape[1] == 0
    assert all(told.shape == (17, 16) and torch.equal(told[:, :13], plain) for told, plain in zip(blind.state, four.state, strict=True))


def test_they_are_what_the_worlds_would_have_shown(recorded, monkeypatch):
    folder, *_ = recorded
    monkeypatch.chdir(folder)
    shown = {**SETTINGS, "views": ["wrist", "front"], "frame_stack": 3, "privileged": True}
    env = make_env("reach", **shown, autoreset=False, episode_ids=[FIRST_ID + 1])
    obs, _ = env.reset(seed=0)
    demos = find_demos(config(4, views=shown["views"], privileged=True), "reach", Worlds.of(env))
    number = demos.episodes.index(1)
    images, cameras = demos.images(number), demos.cameras(number)
    for step in range(17):
        assert torch.equal(obs["images"][0], images[step]) and torch.equal(obs["camera"][0], cameras[step])
        assert torch.equal(obs["state"][0], demos.state[number][step])
        if step < 16:  # noise leads the arm astray, and what is learned is what the expert would have done there
            assert np.array_equal(demos.actions[number][step], env.expert_actions()[0])
            obs, *_ = env.step(env.expert_actions(config(4).demo_noise))
    env.close()
    done = find_demos(config(4, policy={"labels": "done"}), "reach", WORLDS)
    assert done.key != demos.key and (done.actions[0] - demos.actions[0]).std() > 0.1  # a control
    assert len(demos.actions[number]) == 16 and demos.language[number] in env.task.instructions
    assert not torch.equal(images[5, :, 0], images[5, :, 2])  # a control: the stack's frames differ


def test_whatever_changes_the_recording_changes_its_address(monkeypatch):
    reach, push = task_class("reach"), task_class("push")
    plain = RecordConfig(task="reach", views=["front"], horizon=50, image_size=84, quality="fast")
    changes = {"views": ["wrist"], "camera": "L2", "appearance": "random", "quality": "full", "image_size": 64, "horizon": 51, "seed": 1}
    found = {module._address(plain, reach), module._address(plain, push)}
    found |= {module._address(replace(plain, **{key: value}), reach) for key, value in changes.items()}
    assert len(found) == 2 + len(changes) and module._address(replace(plain), reach) in found
    spec = reach.spec()
    spec.body("ball").pos[0] += 0.01
    monkeypatch.setattr(reach, "spec", classmethod(lambda cls: spec))
    assert module._address(plain, reach) not in found


def test_another_manifest_at_the_same_path_is_another_address(tmp_path):
    addresses = []
    for height in (0.5, 0.6, 0.5):
        path = write_manifest(tmp_path / "views.json", "reach", [{"front": [1.4, 0, height, 1, 0, 0, 0, 40]}], "L2", 0)
        addresses.append(module._address(RecordConfig(task="reach", views=["front"], camera=str(path)), task_class("reach")))
    assert addresses[0] == addresses[2] != addresses[1]


def test_an_expert_that_fails_is_not_asked_for_ever(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"succeeded in 0 of 12 episodes with horizon=4, too seldom for demos=3. Give it more time"):
        find_demos(config(3, horizon=4, views=["front"]), "reach", replace(WORLDS, views=["front"]))


def test_a_task_without_an_expert_needs_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_class("reach"), "expert", None)
    with pytest.raises(UserError, match="task=reach has no scripted expert.* demo_data=FOLDER"):
        find_demos(config(1), "reach", WORLDS)
    assert not list(tmp_path.iterdir())


def test_the_second_process_waits_and_then_finds_what_the_first_recorded(recorded, tmp_path, monkeypatch, nothing_recorded):
    folder, _, four = recorded
    monkeypatch.chdir(tmp_path)
    store, lines, first = Path("runs/demos") / f"reach-{four.key}", [], ExitStack()
    first.enter_context(one_at_a_time(store.with_name(f".{store.name}.lock"), lambda: None, lambda: False))
    with pytest.raises(Interrupted):
        find_demos(config(4), "reach", WORLDS, lines.append, stop=lambda: lines)
    assert "waiting for another process" in lines[0] and not store.exists()

    def record_and_go():
        time.sleep(0.3)
        shutil.copytree(folder / store, store)
        first.close()

    threading.Thread(target=record_and_go).start()
    assert find_demos(config(4), "reach", WORLDS).episodes == four.episodes


def test_an_interrupted_recording_goes_on(recorded, tmp_path, monkeypatch):
    _, two, _ = recorded
    monkeypatch.chdir(tmp_path)
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):
        find_demos(config(2), "reach", WORLDS, stop=lambda: next(asked) > 20)
    (store,) = Path("runs/demos").glob("reach-*")
    assert len(ClipStore(store)) == 2  # of the three that it takes
    again = find_demos(config(2), "reach", WORLDS)
    assert again.episodes == two.episodes and torch.equal(again.images(1), two.images(1)) and torch.equal(again.state[1], two.state[1])


def write(
    path, episodes, frames=6, views=("front", "wrist"), size=(4, 4), state=5, keys=("images", "state", "actions"), meta=None, seed=0, dim=1
):
    """A store whose episodes are known as `episodes` says; the numbers of each are a function of its place alone."""
    with ClipWriter(path, views=list(views), size=size, fps=10, meta=meta) as writer:
        for number, known in enumerate(episodes):
            generator = np.random.default_rng([seed, number])
            known = dict(known)
            length = known.pop("length", frames)
            actions = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
            actions[-1] = np.nan  # of no meaning
            actions *= known.pop("scale", 1)
            made = {
                "images": generator.integers(0, 256, (length, len(views), 3, *size), dtype=np.uint8) // dim,
                "state": np.full((length, state), known.pop("fill", number), np.float32),
                "actions": actions,
            }
            writer.add({key: made[key] for key in keys}, **known)
    return str(path)


def given(path, demos, task="lift", worlds=GIVEN, lines=None, **changes):
    cfg = ImitationConfig(demos=demos, demo_data=path, task=task, **changes)
    return find_demos(cfg, task if isinstance(task, str) else task[0], worlds, (lambda line: None) if lines is None else lines.append)


def test_given_episodes_without_a_mark_count_as_successful(tmp_path):
    path = write(tmp_path / "clips", [{}, {"success": False}, {"success": True, "language": "lift it"}, {"length": 1}, {"success": None}])
    demos = given(path, 3)
    assert (demos.episodes, demos.dropped, demos.found) == ([0, 2, 4], 2, 3) and demos.language == ["", "lift it", ""]
    assert [len(actions) for actions in demos.actions] == [5, 5, 5] and [len(state) for state in demos.state] == [6, 6, 6]
    assert given(path, 2).dropped == 1
    with pytest.raises(UserError, match="demos=4 are too many.* has 3 of task=lift that can be used, and 2 that failed"):
        given(path, 4)


def test_damaged_episodes_are_left_out(tmp_path):
    path = write(tmp_path / "clips", [{}, {}, {}], frames=300, size=(48, 48))
    chunk = tmp_path / "clips/data/state/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    demos = given(path, 1, worlds=replace(GIVEN, size=(48, 48)))
    assert (demos.episodes, demos.dropped, demos.state[0][0, 0]) == ([1], 1, 1)
    for picture in filter(Path.is_file, (tmp_path / "clips/data/images/c").rglob("*")):
        picture.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged.*one of the demonstrations of task=lift. Put back"):
        demos.images(0)


def test_of_several_tasks_each_gets_its_own(tmp_path):
    known = [{"task": "reach"}, {"task": "lift"}, {}, {"task": "lift", "success": False}, {"task": "lift"}]
    path = write(tmp_path / "clips", known)
    assert given(path, 2, ["lift", "reach"]).episodes == [1, 4] and given(path, 1, ["reach", "lift"]).episodes == [0]
    with pytest.raises(UserError, match=r"no episode of this task.*Did you mean task=lift"):
        given(path, 1, "lft")
    unmarked = write(tmp_path / "unmarked", [{}])
    assert given(unmarked, 1).episodes == [0]
    with pytest.raises(UserError, match="does not say which of its episodes"):
        given(unmarked, 1, ["lift", "reach"])


def test_tasks_in_stores_of_their_own_may_differ_in_their_state(tmp_path):
    for task, state in (("lift", 5), ("reach", 4)):
        write(tmp_path / "clips" / task, [{"task": task, "fill": state}], state=state)
    for task, state in (("lift", 5), ("reach", 4)):
        assert given(str(tmp_path / "clips"), 1, task, replace(GIVEN, state=state)).state[0].unique() == state


@pytest.mark.parametrize(
    ("store", "worlds", "says"),
    [
        ({"views": ["front"]}, {}, r"shows views=\[front\], but .* with views=\[front,wrist\]"),
        ({"size": (6, 6)}, {}, "6 x 6 pixels, but .* 4 x 4. Use image_size=6"),
        ({"size": (4, 6)}, {}, "4 x 6 pixels, but .* Import square"),
        ({}, {"actions": 3}, "actions of 2 numbers, but task=lift takes 3"),
        ({}, {"state": 4}, "state of 5 numbers, but .* has 4"),
        ({"meta": {"privileged_numbers": 2}}, {"state": 4}, "state of 5 numbers, but .* has 4"),
        ({"keys": ["images", "state"]}, {}, "has no actions: its frames hold images, state"),
        ({"keys": ["images"]}, {}, "has no state and no actions"),
    ],
)
def test_clips_that_do_not_fit_the_worlds_are_refused(tmp_path, store, worlds, says):
    path = write(tmp_path / "clips", [{}], **store)
    with pytest.raises(UserError, match=says):
        given(path, 1, worlds=replace(GIVEN, **worlds))


def test_clips_with_more_views_and_more_state_fit_too(tmp_path):
    path = write(tmp_path / "clips", [{}], views=["left", "wrist", "front"], meta={"privileged_numbers": 2})
    demos = given(path, 1, worlds=replace(GIVEN, state=3))
    assert torch.equal(demos.images(0), torch.from_numpy(ClipStore(path)[0]["images"][:, [2, 1]])) and demos.state[0].shape == (6, 3)
    assert given(write(tmp_path / "square", [{}], size=(9, 9)), 1, worlds=replace(GIVEN, views=[])).images(0).shape[1] == 0


def test_actions_out_of_range_are_clipped_and_said(tmp_path):
    lines: list[str] = []
    demos = given(write(tmp_path / "clips", [{}, {"scale": 4}]), 2, lines=lines)
    beyond = np.abs(ClipStore(tmp_path / "clips")[1]["actions"][:-1]) > 1
    assert f"{beyond.sum()} of 20 numbers of the actions lie beyond [-1, 1]" in lines[0] and 0 < beyond.sum() < 10
    assert np.array_equal(demos.actions[1].abs() == 1, beyond) and not (demos.actions[0].abs() == 1).any()
    lines.clear()
    given(str(tmp_path / "clips"), 1, lines=lines)
    assert len(lines) == 1  # a control: the first one is within


@pytest.mark.parametrize("what", [{"scale": np.inf}, {"fill": np.nan}])
def test_numbers_that_are_not_finite_are_refused(tmp_path, what):
    path = write(tmp_path / "clips", [{}, what])
    with pytest.raises(UserError, match="in episode 1 are not finite"):
        given(path, 2)
    assert given(path, 1).episodes == [0]


def test_the_key_tells_contents_and_not_places(tmp_path):
    known = [{"task": "lift"}, {"task": "lift"}, {"task": "reach"}]
    path = write(tmp_path / "clips", known)
    shutil.copytree(path, tmp_path / "copy")
    key = given(path, 1).key
    assert given(str(tmp_path / "copy"), 2).key == key
    others = {
        "pictures": {"dim": 2},
        "lengths": {"frames": 7},
        "views": {"views": ["wrist", "front"]},
        "fewer": {"episodes": known[:1]},
        "state": {"episodes": [known[0], {**known[1], "fill": 9}]},
        "actions": {"episodes": [known[0], {**known[1], "scale": 0.5}]},
    }
    keys = {given(write(tmp_path / name, **{"episodes": known, **how}), 1).key for name, how in others.items()}
    assert len(keys | {key, given(path, 1, "reach").key}) == len(others) + 2
