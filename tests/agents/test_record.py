import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from agents.base import ExpertPolicy
from agents.evaluate import evaluate, evaluation_env
from agents.recording import processes
from agents.recording.record import _waves, _worlds, record, record_all
from agents.recording.recorder import FIRST_ID, Recorder, Run, load_run_of, plan
from envs import make_env, write_manifest
from robo_repr.core.config import RecordConfig
from robo_repr.core.errors import Failure, UserError
from robo_repr.data.store import ClipStore, ClipWriter

SMALL = {"views": ["wrist", "front"], "image_size": 16, "horizon": 15, "episodes": 5, "num_envs": 2, "camera": "L2"}


def made(out, task="reach", stop=lambda: False, waves=None, **settings):
    waves = [] if waves is None else waves
    cfg = RecordConfig(**{**SMALL, **settings})
    return record(cfg, load_run_of(cfg, task), out, command="here", on_wave=lambda r: waves.append(r.episodes), stop=stop)


def equal(one, other):
    one, other = ClipStore(one), ClipStore(other)
    assert one.lengths.tolist() == other.lengths.tolist() and one.episodes == other.episodes and set(one.fields) == set(other.fields)
    return all(np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in one.fields)


def test_what_is_recorded_is_what_the_worlds_did(tmp_path):
    recorded = made(tmp_path / "clips", policy="noisy_expert", ground_truth=["depth", "segmentation", "poses", "keypoints"])
    clips = ClipStore(tmp_path / "clips")
    assert (len(clips), clips.views, clips.size, clips.fps) == (5, ["wrist", "front"], (16, 16), 20)
    assert clips.lengths.tolist() == [16] * 5 and recorded.pictures == 5 * 16 * 2
    # The same episodes once more, one by one, driven by the recorded actions.
    settings = {"views": ["wrist", "front"], "camera": "L2", "image_size": 16, "horizon": 15}
    env = make_env("reach", **settings, episode_ids=[FIRST_ID + i for i in range(5)], autoreset=False)
    for clip, details in zip(clips, clips.episodes, strict=True):
        obs, _ = env.reset() if details["episode_id"] > FIRST_ID else env.reset(seed=0)
        for step in range(15):
            assert all(np.array_equal(obs[key][0], clip[key][step]) for key in ("images", "state", "camera"))
            assert np.abs(clip["actions"][step]).max() > 0
            obs, reward, *_, info = env.step(clip["actions"][step][None])
            assert reward[0] == clip["reward"][step]
        assert all(np.array_equal(obs[key][0], clip[key][15]) for key in ("images", "state", "camera"))
        assert not clip["actions"][15].any() and clip["reward"][15] == 0 and clip["is_last"].tolist() == [False] * 15 + [True]
        assert details["success"] == bool(info["success"][0]) and not clip["is_terminal"].any()
        assert clip["language"] in env.task.instructions
    env.close()
    assert clip["depth"].shape == clip["segmentation"].shape == (16, 2, 16, 16)
    assert clip["poses"].shape[1] == len(clips.meta["pose_names"]) and clip["keypoints"].shape[2] == len(clips.meta["keypoint_names"])
    assert clips.meta["segment_names"][int(clip["segmentation"].max())]


def test_relabelled_actions_are_what_the_expert_would_have_done(tmp_path):
    for name, settings in {"noisy": {}, "relabelled": {"relabel": True}, "random": {"policy": "random", "relabel": True}}.items():
        made(tmp_path / name, **{"policy": "noisy_expert", **settings})
    noisy, relabelled, random = (ClipStore(tmp_path / name) for name in ("noisy", "relabelled", "random"))
    assert relabelled.meta["relabelled"] and "relabelled" not in noisy.meta
    for one, other in zip(noisy, relabelled, strict=True):
        assert np.array_equal(one["images"], other["images"]) and np.array_equal(one["state"], other["state"])  # the same was done
        difference = (one["actions"] - other["actions"])[:-1]
        assert 0.1 < difference.std() < 0.4 and abs(difference.mean()) < 0.1
    # Far from the ball the expert goes as fast as it can, whoever acts.
    assert np.abs(random[0]["actions"][:-1]).max(axis=1).mean() > 0.9


@pytest.mark.parametrize("policy", ["noisy_expert", "random"])
def test_a_recording_goes_on_as_if_it_had_not_been_stopped(tmp_path, policy):
    made(tmp_path / "whole", policy=policy)
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked > 20  # in the second wave

    waves: list[int] = []
    assert made(tmp_path / "parts", policy=policy, stop=stop, waves=waves).episodes == 2 and waves == [2]
    assert made(tmp_path / "parts", policy=policy, episodes=4, num_envs=16).episodes == 4
    assert made(tmp_path / "parts", policy=policy).pictures == 32  # one more episode
    assert made(tmp_path / "parts", policy=policy).pictures == 0
    assert equal(tmp_path / "whole", tmp_path / "parts")
    made(tmp_path / "other", policy=policy, seed=1)
    assert not np.array_equal(ClipStore(tmp_path / "whole")[0]["state"], ClipStore(tmp_path / "other")[0]["state"])


@pytest.mark.parametrize(("done", "episodes", "most"), [(0, 7, 3), (2, 7, 3), (6, 7, 3), (3, 50, 16), (0, 1, 16), (49, 50, 16)])
def test_waves_cover_what_is_missing(done, episodes, most):
    first, waves, worlds = _waves(done, episodes, most, exact=True)
    assert first == done and waves * worlds - (episodes - done) < waves and worlds <= most
    first, waves, worlds = _waves(done, episodes, most, exact=False)
    assert worlds == most and first % most == 0 and first <= done < first + most  # the episodes that were together stay together
    assert first + (waves - 1) * worlds < episodes <= first + waves * worlds


def test_full_quality_is_drawn_and_noted(tmp_path):
    for quality in ("fast", "full"):
        made(tmp_path / quality, quality=quality, episodes=1, image_size=48, ground_truth=["depth"])
    fast, full = (ClipStore(tmp_path / quality) for quality in ("fast", "full"))
    assert full.meta["quality"] == "full" and not np.array_equal(fast[0]["images"], full[0]["images"])
    depths = np.stack([clips[0]["depth"].astype(float) for clips in (fast, full)])
    assert (np.isinf(depths[0]) == np.isinf(depths[1])).mean() > 0.99  # round forms have more facets
    seen = depths[:, np.isfinite(depths).all(axis=0)]
    assert np.median(np.abs(seen[0] - seen[1])) == 0


def test_evaluations_and_recordings_share_no_episode(tmp_path):
    made(tmp_path / "clips", episodes=2)
    env = make_env("reach", views=[], horizon=15, num_envs=2, episode_ids=[0, 1], seed=0)
    obs, _ = env.reset()
    env.close()
    assert not {tuple(row) for row in obs["state"].tolist()} & {tuple(clip["state"][0].tolist()) for clip in ClipStore(tmp_path / "clips")}


def test_the_expert_succeeds_in_recordings_too(tmp_path):
    recorded = made(tmp_path / "clips", horizon=None, episodes=4, num_envs=4)
    with evaluation_env(4, task="reach", views=[]) as env:
        assert evaluate(env, ExpertPolicy(env), 4).success.sum() == recorded.success == 4
    assert made(tmp_path / "random", policy="random", horizon=None, episodes=4).success == 0


def test_a_killed_recording_goes_on(tmp_path):
    words = ["episodes=4", "num_envs=1", "views=[front]", "image_size=16", "horizon=12", f"out={tmp_path}/killed"]
    code = (
        "import os, signal, sys; import robo_repr.data.store as store\n"
        "add = store.ClipWriter.add\n"
        "def killed(self, *args, **details):\n"
        "    if len(self) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, *args, **details)\n"
        "store.ClipWriter.add = killed\n"
        "from scripts.record_clips import run, main, RecordConfig; main(RecordConfig, run)"
    )
    assert subprocess.run([sys.executable, "-c", code, *words], capture_output=True).returncode == -signal.SIGKILL
    assert len(ClipStore(tmp_path / "killed")) == 2
    for place in ("killed", "whole"):
        made(tmp_path / place, episodes=4, num_envs=1, views=["front"], horizon=12, camera="L1")
    assert equal(tmp_path / "killed", tmp_path / "whole")


def test_privileged_state_is_recorded_where_asked_and_shown_to_no_policy_without_it(tmp_path):
    for place, privileged in (("plain", False), ("told", True)):
        made(tmp_path / place, episodes=1, privileged=privileged)
    plain, told = (ClipStore(tmp_path / place) for place in ("plain", "told"))
    env = make_env("reach", views=[], horizon=15, privileged=True, episode_ids=[FIRST_ID])
    obs, _ = env.reset(seed=0)
    env.close()
    assert np.array_equal(told[0]["state"][0], obs["state"][0]) and np.array_equal(told[0]["state"][:, :13], plain[0]["state"])
    assert told.meta["privileged_numbers"] == 3 and "privileged_numbers" not in plain.meta
    sizes = []

    class Acting:
        def act(self, obs):
            sizes.append(obs["state"].shape[1])
            return np.zeros((1, 3), np.float32)

        def reset(self, mask):
            pass

    trained = SimpleNamespace(agent=SimpleNamespace(policy=lambda env: Acting()))
    for run_sees in (False, True):
        for privileged in (False, True):
            cfg = RecordConfig(**{**SMALL, "horizon": 2}, privileged=privileged)
            run = Run("reach", trained, {"privileged": run_sees})
            with closing(Recorder(plan(cfg, run), run)) as recorder:
                ((frames, _),) = next(recorder.waves(lambda: False))
            assert frames["state"].shape == (3, 13 + 3 * privileged) and set(sizes) == {13 + 3 * run_sees}
            sizes.clear()


@pytest.mark.slow
def test_workers_that_die_are_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_work", _die)
    with pytest.raises(Failure, match="ended with code -9"):
        made(tmp_path / "clips", workers=2)


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_killed_while_it_hands_over_is_noticed():
    cfg = RecordConfig(**{**SMALL, "image_size": 64, "num_envs": 4})
    ids = [FIRST_ID + i for i in range(16)]
    waves = processes.waves_of_processes(plan(cfg, load_run_of(cfg, "reach")), 4, ids, 2, lambda: False)
    assert len(next(waves)) == 4
    time.sleep(5)  # the next waves are larger than what a pipe holds, so their senders wait
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(Failure, match="ended with code -9"):
        list(waves)


@pytest.mark.slow
def test_workers_record_the_same_in_the_same_order(tmp_path):
    for place, workers in (("one", 1), ("two", 2)):
        cfg = RecordConfig(**SMALL, task=["reach", "drawer"], out=str(tmp_path / place), workers=workers, policy="noisy_expert")
        assert record_all(cfg, "here") == 0
    assert all(equal(tmp_path / "one" / task, tmp_path / "two" / task) for task in ("reach", "drawer"))


def test_a_full_disk_stops_the_recording_and_keeps_what_was_written(tmp_path, monkeypatch):
    add = ClipWriter.add

    def full(self, *args, **details):
        if len(self) == 3:
            raise Failure("No space left on device")
        add(self, *args, **details)

    monkeypatch.setattr(ClipWriter, "add", full)
    with pytest.raises(Failure, match="No space left"):
        made(tmp_path / "clips")
    monkeypatch.undo()
    made(tmp_path / "clips")
    made(tmp_path / "whole")
    assert equal(tmp_path / "clips", tmp_path / "whole")


def test_what_is_wrong_with_the_last_task_shows_before_the_first_is_recorded(tmp_path):
    (tmp_path / "clips" / "drawer").mkdir(parents=True)
    (tmp_path / "clips" / "drawer" / "mine.txt").touch()
    with pytest.raises(UserError, match="drawer is there and is no clip store"):
        record_all(RecordConfig(**SMALL, task=["reach", "drawer"], out=str(tmp_path / "clips")), "here")
    assert not (tmp_path / "clips" / "reach").exists()


@pytest.mark.parametrize("exact", [True, False])
def test_worlds_fit_into_memory(monkeypatch, exact):
    monkeypatch.setattr("agents.recording.record.free_memory", lambda: 10**9)
    assert _worlds(16, 10**6, 2, exact) == 16
    if exact:
        assert _worlds(16, 4 * 10**7, 2, exact) == 4
    else:
        with pytest.raises(UserError, match="8 worlds and 2 processes need"):
            _worlds(16, 4 * 10**7, 2, exact)
    with pytest.raises(UserError, match="do not fit into memory"):
        _worlds(16, 10**9, 1, exact)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"policy": "expret"}, "Did you mean policy=expert"),
        ({"task": "reech"}, "Did you mean task=reach"),
        ({"task": ["reach", "reach"]}, "several different ones"),
        ({"task": []}, "Name one task"),
        ({"views": ["frnt"]}, "Did you mean views=front"),
        ({"views": []}, "records no pictures"),
        ({"camera": "L9"}, "camera=L9 is not known"),
        ({"ground_truth": ["detph"]}, "Did you mean ground_truth=depth"),
        ({"horizon": 100_000, "image_size": 1280}, "do not fit into memory"),
        ({"ground_truth": 3}, "ground_truth=3 is not possible"),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        record_all(RecordConfig(**{**SMALL, **settings}, out=str(tmp_path / "clips")), "here")
    assert not (tmp_path / "clips").exists()


def test_cameras_of_a_manifest_are_recorded_as_they_move_and_another_one_is_not_mixed_in(tmp_path):
    out, path, moving = tmp_path / "clips", tmp_path / "views.json", {"views": ["front"], "horizon": 6, "episodes": 1}
    for camera in ("L4:sweep", "L4:drift"):
        with closing(make_env("reach", camera=camera, views=["front"], horizon=6, image_size=8)) as env:
            env.reset()
            poses = env.view_poses()[0]["front"]
            write_manifest(path, "reach", env.view_poses(), camera, 0)
        if camera == "L4:sweep":
            made(out, camera=str(path), **moving)
            assert np.array_equal(ClipStore(out)[0]["camera"][:, 0], poses.astype(np.float32)) and np.ptp(poses, axis=0).any()
    with pytest.raises(UserError, match="camera_sha256"):
        made(out, camera=str(path), **{**moving, "episodes": 2})


def test_other_settings_do_not_go_into_the_same_store(tmp_path):
    made(tmp_path / "clips", episodes=1)
    for change, says in (
        ({"camera": "L3"}, "camera: L2 before, L3 now"),
        ({"policy": "random"}, "policy: expert before"),
        ({"seed": 1}, "seed: 0"),
    ):
        with pytest.raises(UserError, match=says):
            made(tmp_path / "clips", **change)
    assert len(ClipStore(tmp_path / "clips")) == 1
