import json
import os
import shutil
import signal
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from agents import train
from agents.evaluate import evaluation_env
from agents.imitation.agent import ImitationAgent
from agents.imitation.train import build_parts
from agents.parts import env_settings
from agents.viewpoint import run as viewpoint
from agents.viewpoint.conditions import find_conditions
from agents.viewpoint.policies import Miscalibrated, Watched
from agents.viewpoint.run import Viewpoint, evaluate_views
from envs import BatchEnv, make_env
from envs.cameras import quaternion_to_matrix, read_manifest
from envs.sim import ThreadsSim
from envs.validity import Fault, ViewFilter
from robo_repr.core.config import ImitationConfig, RLConfig, ViewpointConfig, load_part
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.metrics import read_metrics
from robo_repr.core.run import RunDir

EPISODES = 3
PIXELS = {"encoder": {**load_part("encoder", "pixels"), "size": 4}, "names": {"policy": "bc_r3m", "budget": "default", "encoder": "pixels"}}
STATE = {"encoder": load_part("encoder", "identity"), "names": {**PIXELS["names"], "encoder": "identity"}, "privileged": True}

pytestmark = pytest.mark.usefixtures("restored")


RENDER, FIND_FAULTS = ThreadsSim.render, ViewFilter.find_faults


def paint(self, cameras, ids, looks, size, picture="colours"):
    """Pictures that depend on where the cameras stand, without a renderer, which takes a while to begin."""
    tone = (cameras @ np.arange(1, 9))[..., None, None, None]
    y, x, c = np.ogrid[:size, :size, :3]
    return (128 + 127 * np.sin(tone * (1 + x) + y + c)).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Without what other tests are about: rendering, the filter of views, drift, and the page."""
    figures = {"feature_drift": 0.5, "feature_drift_ci95": [0.4, 0.6], "probe_cm": 3.0, "probe_cm_ci95": [2.0, 4.0]}

    def drift(eyes, settings, conditions, *_):
        return {"conditions": {name: {"camera": camera, **figures} for name, camera, _ in conditions}}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ThreadsSim, "render", paint)
        patched.setattr(ViewFilter, "find_faults", lambda self, sim, poses, *_: np.zeros(poses.shape[:2], dtype=int))
        patched.setattr(viewpoint, "measure_drift", drift)
        patched.setattr(Viewpoint, "_write_page", lambda self: None)
        yield


@pytest.fixture
def rendered(monkeypatch):
    """With true pictures all the same."""
    monkeypatch.setattr(ThreadsSim, "render", RENDER)
    monkeypatch.setattr(ViewFilter, "find_faults", FIND_FAULTS)


def make_run(folder, seed=0, **settings):
    """A run with a checkpoint of a policy that has learned nothing: what it does depends on all that it is told."""
    policy = {**load_part("policy", "bc_r3m"), "net": [8]}
    small = {"horizon": 8, "image_size": 16, "logger": "none", "policy": policy, "camera_input": True, **PIXELS, **settings}
    cfg = ImitationConfig(**small, seed=seed)
    parts = build_parts(cfg, "cpu")
    with closing(parts.env), RunDir.open("imitation", "made", vars(cfg), ["task=reach"], seed, str(folder)) as run:
        if parts.agent.eyes.dim:
            with closing(make_env(**env_settings(cfg, "L0", True, "reach"), num_envs=4)) as env:
                parts.agent.eyes.calibrate(parts.agent.eyes.encode(env.reset()[0]["images"]))
        with run.new_checkpoint(5) as checkpoint:
            parts.agent.save(checkpoint)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "reach" / "s0")


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """An evaluation from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert start(made, folder) == 0
    return folder


def start(made, out, **settings):
    """Runs the command in this process; returns its exit code."""
    parts = {"encoder": load_part("encoder", "mvp"), "names": {"encoder": "mvp"}}
    keys = {**parts, "run": str(made), "levels": [0, 4], "episodes": EPISODES, "films": False, "run_dir": str(out), **settings}
    cfg = ViewpointConfig(**keys)
    cfg.validate()
    return evaluate_views(cfg, [])


def rows(folder, policy="trained"):
    """Rows by condition, without what the clock decides."""
    found = [row for row in read_metrics(folder / "views.jsonl") if row["policy"] == policy]
    return {row["condition"]: {key: value for key, value in row.items() if key != "seconds"} for row in found}


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_everything_that_can_be_asked_for(made, tmp_path, capsys):
    asked = {
        "presets": ["L2:sweep", "rlvigen_dmc:hard"],
        "factors": ["azimuth"],
        "controls": ["together", "alone", "background", "calibration"],
    }
    assert start(made, tmp_path / "out", levels=[4, 0, 3], **asked) == 0
    result, found = summary(tmp_path / "out"), rows(tmp_path / "out")
    cameras = {name: row["camera"] for name, row in found.items()}
    assert cameras == {
        **{"L0": "L0", "L3": "L3:shell", "L4": "L4:shell", "L2:sweep": "L2:sweep", "rlvigen_dmc:hard": "rlvigen_dmc:hard"},
        "L3:azimuth": "L3:azimuth:shell",
        **{"together": "L3:shell@together", "alone:front": "L3:shell@front", "alone:wrist": "L3:shell@wrist"},
        **{"background": "L3:shell", "calibration:2": "L3:shell"},
    }
    assert list(result["levels"]) == ["L0", "L3", "L4"] and list(result["factors"]) == ["L3:azimuth"]
    assert "0.15 m" in result["presets"]["rlvigen_dmc:hard"]["published"] and "published" not in result["presets"]["L2:sweep"]
    assert list(result["controls"]) == ["together", "alone:front", "alone:wrist", "background", "calibration:2"]
    assert [name for name, row in found.items() if row["appearance"] == "random"] == ["background"]
    assert result["status"] == "finished" and result["trained_by"] == "imitation" and result["policy"] == "bc_r3m"
    assert result["episodes"] == EPISODES and result["success"] == result["levels"]["L0"]["success"] == found["L0"]["success"]
    assert result["drift"].keys() == {"L0", "L3", "L4"} and result["encoder"]["fingerprint"] == result["encoder"]["fingerprint_end"]
    assert len({row["seeds_sha256"] for row in found.values()}) == 1 and all(
        len(row["episode_return"]) == EPISODES for row in found.values()
    )
    assert yaml.safe_load((tmp_path / "out" / "trained.yaml").read_text())["names"]["policy"] == "bc_r3m"
    assert not (tmp_path / "out" / "checkpoints").exists() and (tmp_path / "out" / "strip.png").exists()

    # The views are those that were asked for.
    views = {name: {view: np.array(factors["azimuth"]) for view, factors in row["views"].items()} for name, row in found.items()}
    assert not views["L0"]["front"].any() and views["L3"]["front"].all() and views["L3"]["wrist"].all()
    assert not views["alone:front"]["wrist"].any() and np.array_equal(views["alone:front"]["front"], views["L3"]["front"])
    assert not np.any(found["L3:azimuth"]["views"]["front"]["elevation"]) and (np.abs(views["L3:azimuth"]["front"]) > 10).all()
    assert (np.abs(views["L4"]["front"]) <= 45).all() and result["levels"]["L4"]["views_rejected"] is not None

    # The expert on the same episodes, once for each condition; and what is printed.
    expert = rows(tmp_path / "out", "expert")
    assert expert.keys() == found.keys() and len({tuple(row["episode_return"]) for row in expert.values()}) == 1
    shown = capsys.readouterr().out
    for words in (
        "writing to",
        "11/11 calibration:2",
        "measuring how features move",
        "alone:wrist",
        "strip.png",
        "manifests",
        "next:",
        "camera=L3",
    ):
        assert words in shown, words

    # Again: only the table.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert start(made, tmp_path / "out", levels=[4, 0, 3], **asked) == 0
    assert "alone:wrist" in capsys.readouterr().out and all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_repeats_agree_bit_for_bit_and_other_seeds_do_not(made, whole, tmp_path):
    assert start(made, tmp_path / "again") == 0 == start(made, tmp_path / "other", levels=[0], seed=7)
    assert rows(tmp_path / "again") == (first := rows(whole))
    other = rows(tmp_path / "other")
    assert other["L0"]["seeds_sha256"] != first["L0"]["seeds_sha256"] and other["L0"]["episode_return"] != first["L0"]["episode_return"]


def test_an_evaluation_that_is_stopped_goes_on_where_it_was(made, whole, tmp_path, monkeypatch, capsys):
    append, folder = Viewpoint._append, tmp_path / "out"

    def stopping(self, condition, policy, *rest):
        row = append(self, condition, policy, *rest)
        if (condition.name, policy) == ("L4", "expert"):
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    with monkeypatch.context() as patched:
        patched.setattr(Viewpoint, "_append", stopping)
        assert start(made, folder) == 128 + signal.SIGTERM
    assert summary(folder)["status"] == "interrupted" and list(rows(folder)) == ["L0"] and "goes on" in capsys.readouterr().out
    (folder / "views.jsonl").write_text((folder / "views.jsonl").read_text() + '{"condition": "L4", "pol')  # as a kill leaves it
    kept = (folder / "views.jsonl").read_text().splitlines()[:3]
    assert start(made, folder) == 0 and "2/2 L4" in capsys.readouterr().out
    assert rows(folder) == rows(whole) and rows(folder, "expert") == rows(whole, "expert")
    result = summary(folder)
    assert (folder / "views.jsonl").read_text().splitlines()[:3] == kept and result["resumed"] == 1 and result["status"] == "finished"


def test_the_manifest_of_an_evaluation_shows_the_very_same_views(made, tmp_path, monkeypatch):
    """Also those that were drawn anew. The control, at the same level, has other views."""
    seen, step = [], BatchEnv.step

    def every_other(self, sim, poses, nominal, ids, looks):
        return np.where((1e4 * poses[..., 0] % 2 < 1) & (poses != nominal).any(axis=2), Fault.UNSEEN, Fault.NONE)

    def watched(self, actions):
        found = step(self, actions)
        if self.num_envs == EPISODES and self.views:
            seen.append((self.camera, *(found[0][key].numpy().tobytes() for key in ("images", "camera"))))
        return found

    monkeypatch.setattr(BatchEnv, "step", watched)
    monkeypatch.setattr(ViewFilter, "find_faults", every_other)
    assert start(made, tmp_path / "first", levels=[4], presets=["L4:jitter"]) == 0
    files = {name: str(tmp_path / "first" / "manifests" / f"{file}.json") for name, file in (("L4", "L4"), ("L4:jitter", "L4-jitter"))}
    assert start(made, tmp_path / "again", levels=[], presets=list(files.values())) == 0
    first, again = rows(tmp_path / "first"), rows(tmp_path / "again")
    assert first["L4"]["views_rejected"] > 0
    for name, path in files.items():
        changed = {key for key in first[name] if first[name][key] != again[path][key]}
        assert changed <= {"condition", "kind", "level", "camera", "manifest", "views", "views_drawn", "views_rejected"}
        before, after = ([each[1:] for each in seen if each[0] == camera] for camera in (first[name]["camera"], path))
        assert before == after and len(before) >= 8
    assert first["L4"]["episode_return"] != first["L4:jitter"]["episode_return"]

    # One that was written anew is no result that is there already.
    os.replace(files["L4:jitter"], files["L4"])
    assert start(made, tmp_path / "again", levels=[], presets=[files["L4"]]) == 0
    assert rows(tmp_path / "again")[files["L4"]]["episode_return"] == first["L4:jitter"]["episode_return"]


def test_more_levels_are_added_to_those_that_are_there(made, tmp_path, capsys):
    assert start(made, tmp_path / "out", levels=[0]) == 0
    first = (tmp_path / "out" / "views.jsonl").read_text()
    capsys.readouterr()
    assert start(made, tmp_path / "out", levels=[0, 4]) == 0
    assert (tmp_path / "out" / "views.jsonl").read_text().startswith(first) and list(rows(tmp_path / "out")) == ["L0", "L4"]
    shown = capsys.readouterr().out
    assert "2/2 L4" in shown and "1/2 L0" not in shown
    assert list(summary(tmp_path / "out")["levels"]) == ["L0", "L4"]


class Blind:
    """Acts on the robot's state alone."""

    def act(self, obs):
        return torch.tanh(obs["state"][:, :3]).numpy()

    def reset(self, mask):
        pass


def test_cameras_change_pictures_only(made, whole, tmp_path, monkeypatch):
    """A policy that looks at no pictures does the same at every level; the control, which does look, does not."""
    seeing = rows(whole)
    assert seeing["L0"]["episode_return"] != seeing["L4"]["episode_return"]
    monkeypatch.setattr(ImitationAgent, "policy", lambda self, env: Blind())
    assert start(made, tmp_path / "blind", controls=["background", "calibration"], presets=["L5:jitter"]) == 0
    returns = {name: row["episode_return"] for name, row in rows(tmp_path / "blind").items()}
    assert len(returns) == 5 and all(each == returns["L0"] for each in returns.values()) and len(set(returns["L0"])) == EPISODES


def test_a_policy_without_pictures(tmp_path, capsys):
    run = make_run(tmp_path / "run", camera_input=False, **STATE)
    assert start(run, tmp_path / "out") == 0
    result, found = summary(tmp_path / "out"), rows(tmp_path / "out")
    assert "cameras change nothing for it" in capsys.readouterr().out
    assert result["views"] == [] and result["drift"] is None and result["levels"]["L4"]["views_rejected"] is None
    assert found["L0"]["episode_return"] == found["L4"]["episode_return"] and not (tmp_path / "out" / "strip.png").exists()
    with pytest.raises(UserError, match="controls=together changes what cameras show, but this policy looks at no pictures"):
        start(run, tmp_path / "other", controls=["together"])


def test_several_tasks_and_stacks_of_pictures(tmp_path):
    run = make_run(tmp_path / "run", task=["reach", "push"], frame_stack=2)
    assert start(run, tmp_path / "out", levels=[4]) == 0
    row, result = rows(tmp_path / "out")["L4"], summary(tmp_path / "out")
    assert row["episodes"] == len(row["episode_success"]) == len(row["views"]["front"]["fov"]) == 2 * EPISODES
    assert row["tasks"].keys() == {"reach", "push"} and result["task"] == "reach,push" and result["episodes"] == 2 * EPISODES
    for task in ("reach", "push"):
        manifest = read_manifest(tmp_path / "out" / "manifests" / f"L4-{task}.json")
        assert manifest.task == task and len(manifest.views) == EPISODES


@pytest.mark.timeout(60)
def test_a_run_of_reinforcement_learning_with_films(tmp_path, monkeypatch, rendered):
    monkeypatch.setattr("agents.policy_run.record_film", lambda *_: [])
    names = {"agent": "sac", "budget": "default", "encoder": "pixels"}
    agent = {**load_part("agent", "sac"), "learning_starts": 8, "net": [8], "batch_size": 4}
    small: dict[str, Any] = {
        "num_envs": 2,
        "horizon": 12,
        "steps": 16,
        "eval_episodes": 2,
        "log_every": 8,
        "checkpoint_every": 8,
        "image_size": 16,
    }
    cfg = RLConfig(**small, logger="none", agent=agent, encoder=PIXELS["encoder"], names=names, run_dir=str(tmp_path / "run"))
    assert train.train(cfg, ["seed=0"]) == 0
    assert start(tmp_path / "run", tmp_path / "out", levels=[3], films=True) == 0
    result = summary(tmp_path / "out")
    assert result["trained_by"] == "rl" and result["agent"] == "sac" and result["env_steps"] == 16
    assert result["updates"] == summary(tmp_path / "run")["updates"] > 0
    assert result["levels"]["L3"]["retention"] is None and result["retention_area"] is None  # without the nominal level
    outcomes = {("success", "failure")[not won] for won in rows(tmp_path / "out")["L3"]["episode_success"]}
    assert {path.name for path in (tmp_path / "out" / "videos").iterdir()} == {f"L3-{outcome}.mp4" for outcome in outcomes}


def test_a_run_that_does_not_learn(tmp_path):
    names = {"agent": "expert", "budget": "default", "encoder": "identity"}
    parts = {"agent": load_part("agent", "expert"), "encoder": STATE["encoder"], "names": names}
    cfg = RLConfig(**parts, horizon=30, eval_episodes=2, logger="none", run_dir=str(tmp_path / "run"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("agents.policy_run.record_film", lambda *_: [])
        assert train.train(cfg, []) == 0
    assert start(tmp_path / "run", tmp_path / "out") == 0
    result = summary(tmp_path / "out")
    assert result["success"] == 1 == result["levels"]["L4"]["success"] == result["levels"]["L4"]["expert"] and result["agent"] == "expert"


def broken_drift(*_):
    raise Failure("The features are not finite.")


def test_a_failure_of_what_comes_last_loses_no_result(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(viewpoint, "measure_drift", broken_drift)
    assert start(made, tmp_path / "out") == 0
    result = summary(tmp_path / "out")
    assert result["status"] == "finished" and result["drift"] is None and list(result["levels"]) == ["L0", "L4"]
    assert "how features move is not known: The features are not finite" in capsys.readouterr().out
    with pytest.raises(Failure, match="not finite"):  # of an encoder alone it is all there is
        start(None, tmp_path / "alone", run=None, encoder=PIXELS["encoder"], names={"encoder": "pixels"})
    assert summary(tmp_path / "alone")["status"] == "failed"


def test_a_film_shows_what_its_name_says(made, whole, tmp_path, monkeypatch):
    """Filmed alone an episode may end otherwise: then there is no film of it."""
    filmed = []

    def film(path, *_):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        filmed.append(path.name)
        return ["failure" not in path.name]  # the other outcome

    monkeypatch.setattr(viewpoint, "record_film", film)
    assert start(made, tmp_path / "out", levels=[0], films=True) == 0
    outcomes = rows(tmp_path / "out")["L0"]["episode_success"]
    assert outcomes == [0] * EPISODES and filmed == ["L0-failure.mp4"] and len(list((tmp_path / "out" / "videos").iterdir())) == 1
    monkeypatch.setattr(viewpoint, "record_film", lambda path, *_: [not film(path)[0]])
    assert start(made, tmp_path / "other", levels=[0], films=True) == 0
    assert len(filmed) == 1 + EPISODES and not list((tmp_path / "other" / "videos").iterdir())


def test_a_finished_evaluation_whose_rows_are_gone_is_made_again(made, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    lines = (tmp_path / "out" / "views.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "views.jsonl").write_text("".join(lines[:-1]))
    assert start(made, tmp_path / "out") == 0
    assert rows(tmp_path / "out") == rows(whole)


def test_a_run_is_the_same_however_it_is_spelled(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.parent)
    monkeypatch.setenv("HOME", str(made.parent))
    (tmp_path / "link").symlink_to(made)
    spelled = [made.name, f"./{made.name}/", f"../{made.parent.name}//{made.name}", str(made), f"~/{made.name}", str(tmp_path / "link")]
    found = [ViewpointConfig(run=run, names={"encoder": "mvp"}) for run in spelled]
    assert {cfg.run for cfg in found} == {made.name}
    assert {cfg.folder([f"run={run}"]) for cfg, run in zip(found, spelled, strict=True)} == {f"{made.parent.name}/{made.name}"}
    with pytest.raises(UserError, match="no folder of a run"):
        start("~nobody-is-called-so/s0", tmp_path / "out")


def test_an_encoder_alone(tmp_path, capsys):
    names = {"encoder": "pixels"}
    given = {"run": None, "encoder": PIXELS["encoder"], "names": names, "readout": "pooled", "views": ["front"], "factors": ["fov"]}
    assert start(None, tmp_path / "out", **given) == 0
    result = summary(tmp_path / "out")
    assert result["drift"].keys() == {"L0", "L4", "L3:fov"} and result["levels"] == {} and result["success"] is None
    assert result["encoder"]["name"] == "pixels" and result["trained_by"] is None and result["readout"] == "pooled"
    assert "success" not in (shown := capsys.readouterr().out) and "probe, cm" in shown
    with pytest.raises(UserError, match="encoder=identity sees no pictures"):
        start(None, tmp_path / "other", **{**given, "encoder": STATE["encoder"], "names": STATE["names"]})
    assert not (tmp_path / "other").exists()


def test_a_run_that_went_on_since_is_not_mixed_in(tmp_path):
    run = make_run(tmp_path / "run")
    assert start(run, tmp_path / "out", levels=[0]) == 0
    before = (tmp_path / "out" / "views.jsonl").read_bytes()
    checkpoint = run / "checkpoints" / "5"
    checkpoint.rename(checkpoint.with_name("9"))
    assert start(run, tmp_path / "out", levels=[0]) == 0  # the same policy under another number
    make_run(tmp_path / "other", seed=1)
    for file in (tmp_path / "other" / "checkpoints" / "5").iterdir():
        file.rename(run / "checkpoints" / "9" / file.name)
    with pytest.raises(UserError, match=r"evaluates the checkpoint of step 5 of .*, but the run's latest is another one now \(step 9\)"):
        start(run, tmp_path / "out", levels=[0])
    assert (tmp_path / "out" / "views.jsonl").read_bytes() == before
    assert start(run, tmp_path / "out", levels=[0], fresh=True) == 0
    assert {row["step"] for row in rows(tmp_path / "out").values()} == {9} and (tmp_path / "out.old-1" / "views.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": [0, 6]}, r"levels=\[0,6\] is not possible: 6 is no level.*from 0.*to 5"),
        ({"levels": [-1]}, "-1 is no level"),
        ({"levels": [1.5]}, "1.5 is no level"),
        ({"levels": [True]}, "True is no level"),
        ({"levels": "L3"}, "L3 is no level"),
        ({"levels": []}, "asks for nothing"),
        ({"presets": ["colloseum"]}, "Did you mean presets=colosseum"),
        ({"presets": ["L0..L3"]}, "presets=L0..L3 changes over a training"),
        ({"presets": [3]}, "3 is no name"),
        ({"presets": ["L3@left"]}, "moves left.*front"),
        ({"presets": ["nowhere.json"]}, "nowhere.json cannot be read"),
        ({"factors": ["asimuth"]}, "Did you mean factors=azimuth"),
        ({"controls": ["alne"]}, "Did you mean controls=alone"),
        ({"controls": ["calibration"], "calibration": 0.0}, "misleads nobody"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(made, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        start(made, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_or_has_no_checkpoint(made, tmp_path):
    with pytest.raises(UserError, match="is no folder of a run"):
        start(tmp_path, tmp_path / "out")
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_bytes((made / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="has no checkpoint yet"):
        start(tmp_path / "young", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_views_of_which_hardly_any_counts_are_refused(made, tmp_path, monkeypatch):
    def unseen(self, sim, poses, nominal, ids, looks):
        moved = np.abs(poses - nominal).max(axis=2) > 1e-9
        return np.where(moved, Fault.UNSEEN, Fault.NONE)

    monkeypatch.setattr(ViewFilter, "find_faults", unseen)
    with pytest.raises(UserError, match="camera setting L4:shell, .* do not count"):
        start(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_asked_for_twice_is_run_once(made):
    cfg = ViewpointConfig(levels=[3, 3, 0], presets=["L3:shell", "squint", "squint"], factors=["fov", "fov"])
    assert [condition.name for condition in find_conditions(cfg, ["front"], "plain", False)] == ["L0", "L3", "squint", "L3:fov"]
    with pytest.raises(UserError, match="this one is not told of them"):
        find_conditions(ViewpointConfig(controls="calibration"), ["front"], "plain", False)


def test_no_two_cameras_share_a_name():
    cfg = ViewpointConfig(levels=[3, 4], presets=["L4", "L3:fov", "L3:fov:shell", "L4:sweep"], factors=["fov"])
    found = find_conditions(cfg, ["front"], "plain", False)
    assert [each.camera for each in found] == ["L3:shell", "L4:shell", "L4", "L3:fov", "L3:fov:shell", "L4:sweep"]
    assert len({each.name for each in found}) == len({each.file for each in found}) == len(found)


@pytest.mark.parametrize(("levels", "name"), [([0, 1, 2], "L2:fov"), ([0, 3, 5], "L3:fov"), ([0, 4, 5], "L3:fov"), ([], "L3:fov")])
def test_single_factors_are_moved_as_far_as_the_highest_level_up_to_3(levels, name):
    cfg = ViewpointConfig(levels=levels, factors=["fov"])
    assert find_conditions(cfg, ["front"], "plain", False)[-1].name == name


class Told:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def act(self, obs):
        self.told.append({key: value.clone() for key, value in obs.items()})
        return np.zeros((len(obs["state"]), 3), dtype=np.float32)

    def reset(self, mask):
        pass


def test_a_wrong_calibration_changes_what_is_told_of_cameras_and_nothing_else():
    heard, true = Told(), Told()
    with evaluation_env(3, task="reach", camera="L2", horizon=4, image_size=16) as env:
        policy, obs = Miscalibrated(heard, env, 5.0), env.reset(seed=0)[0]
        policy.reset(np.ones(3, dtype=bool))
        for _ in range(3):
            true.act(obs)
            obs, *_ = env.step(policy.act(obs))
    for told, obs in zip(heard.told, true.told, strict=True):
        assert all(torch.equal(told[key], obs[key]) for key in ("images", "state")) and told["camera"].dtype == torch.float32
    told, right = (torch.stack([obs["camera"] for obs in each.told]).double().numpy() for each in (heard, true))  # (T, N, V, 8)
    assert np.array_equal(told[..., 7], right[..., 7])
    turn = np.swapaxes(quaternion_to_matrix(right[..., 3:7]), -1, -2) @ quaternion_to_matrix(told[..., 3:7])
    angle = np.degrees(np.arccos((np.trace(turn, axis1=-2, axis2=-1) - 1) / 2))
    assert np.allclose(angle, 5, atol=0.01) and np.allclose(np.linalg.norm(told[..., :3] - right[..., :3], axis=-1), 0.05, atol=1e-5)
    assert np.allclose(turn, turn[:1], atol=1e-4)  # constant in an episode, also of the camera that the hand moves
    assert np.abs(turn[0, 0] - turn[0, 1]).max() > 0.01 < np.abs(turn[0, :, 0] - turn[0, :, 1]).max()  # its own for each episode and camera


def test_views_are_noted_once_for_each_episode(rendered):
    with closing(make_env("reach", camera="L3:shell", horizon=2, image_size=16, valid_views=True, num_envs=2, episode_ids=range(5))) as env:
        policy, obs = Watched(Told(), env), env.reset(seed=0)[0]
        policy.reset(np.ones(2, dtype=bool))
        for _ in range(9):
            obs, _, _, truncated, _ = env.step(policy.act(obs))
            policy.reset(truncated.numpy())
        assert policy.counts["drawn"] - policy.counts["rejected"] >= 2 * 5
        found, drawn = policy.views(5), policy.counts["drawn"]
    again = make_env("reach", camera="L3:shell", image_size=16, valid_views=True, num_envs=5, episode_ids=range(5))
    with closing(again):
        again.reset()
        assert np.allclose(found["front"]["azimuth"], again.view_factors()["azimuth"][:, 0], atol=1e-4)
        assert np.allclose(found["wrist"]["fov"], again.view_factors()["fov"][:, 1], atol=1e-4)
        assert again.view_counts["drawn"] <= drawn < 2 * again.view_counts["drawn"] + 10
