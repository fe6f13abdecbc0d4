"""Tables of viewpoint runs: which policies a cell trains, and that a policy is trained once."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from agents.viewpoint.cell import ViewpointCell, run_cell, table, training_of
from agents.viewpoint.regimes import REGIMES, regime_words
from agents.viewpoint.run import OtherCheckpoint
from envs import list_tasks
from envs.cameras import write_manifest
from robo_repr.core.cli import compose
from robo_repr.core.config import ImitationConfig, RLConfig, run_name
from robo_repr.core.errors import UserError
from robo_repr.core.run import NoWholeCheckpoint, RunDir

ROOT = Path(__file__).parents[2]
WIDE = ["task=reach", "encoder=mvp", "regime=wide", "seed=3", "steps=100", "levels=[0,3]"]


class Calls:
    """What the training commands and the evaluation were called with, in place of both."""

    def __init__(self, monkeypatch):
        self.trained: list[tuple[str, list[str]]] = []
        self.evaluated: list[ViewpointCell] = []
        self.code, self.broken, self.outdated = 0, False, False
        monkeypatch.setattr("agents.train.train", self.train)
        monkeypatch.setattr("agents.imitation.train.imitate", self.train)
        monkeypatch.setattr("agents.viewpoint.run.evaluate_views", self.evaluate)

    def train(self, cfg, words) -> int:
        """Opens the run's folder as the training commands do."""
        self.trained.append((cfg.command, words))
        settled = dataclasses.replace(cfg, frame_stack=1)
        with RunDir.open(cfg.command, run_name(cfg, words), dataclasses.asdict(settled), words, cfg.seed, cfg.run_dir, cfg.fresh) as run:
            run.note_settings()
            run.write_json("summary.json", {"status": "interrupted" if self.code else "finished"})
        return self.code

    def evaluate(self, cfg, words) -> int:
        self.evaluated.append(cfg)
        if self.broken:
            raise NoWholeCheckpoint("None is whole.")
        if self.outdated and not cfg.fresh:
            raise OtherCheckpoint("It is of step 100.")
        return 0


@pytest.fixture
def calls(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Calls(monkeypatch)


def run(*given: str) -> int:
    cell, words = compose(ViewpointCell, list(given))
    return run_cell(dataclasses.replace(cell, run_dir=f"table/{len(list(Path().glob('table/*')))}"), words)


# ---- which policies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regime", "camera", "camera_input"),
    [
        ("fixed", "L0", False),
        ("narrow", "L1", False),
        ("wide", "L3", False),
        ("several", "among:front+left+right", False),
        ("conditioned", "L3", "rays"),
        ("L3:shell", "L3:shell", False),
        ("L0..L3", "L0..L3", False),
        ("L2:azimuth@front+left", "L2:azimuth@front+left", False),
    ],
)
def test_a_regime_is_how_the_cameras_stand_in_training(regime, camera, camera_input):
    cell, words = compose(ViewpointCell, [f"regime={regime}", "seed=0"])
    config, _ = training_of(cell, words)
    assert (config.camera, config.camera_input) == (camera, camera_input)


def test_a_manifest_may_be_a_regime_whatever_it_is_called(tmp_path):
    path = tmp_path / 'my "views", = 3.json'
    write_manifest(path, "reach", [{"front": np.array([1.0, 0, 1, 1, 0, 0, 0, 45])}], "L2", seed=0)
    config, _ = compose(RLConfig, regime_words(str(path)))
    assert config.camera == str(path)


@pytest.mark.parametrize(
    ("regime", "says"), [("wid", "regime=wide"), ("L7", "regime=L5"), ("vista:ark", "vista:arc"), ("gone.json", "gone.json")]
)
def test_what_is_no_regime_is_refused(regime, says):
    with pytest.raises(UserError, match=says):
        regime_words(regime)


def test_a_cell_says_what_the_training_command_needs():
    words = ["encoder=random", "variant=tiny", "weights=random", "encoder.seed=4", "readout=pooled", "task=push", "views=[front]", "seed=5"]
    others = ["levels=[0,4]", "presets=[maniwhere]", "episodes=7", "films=false", "device=auto"]
    cell, kept = compose(ViewpointCell, [*words, *others, "regime=narrow", "steps=70"])
    config, told = training_of(cell, kept)
    assert isinstance(config, RLConfig) and set(told) == {*words, "steps=70", "device=auto", "agent=sac", "camera=L1"}
    assert (config.names["encoder"], config.encoder["seed"], config.views, config.seed) == ("random", 4, ["front"], 5)
    cell, kept = compose(ViewpointCell, [*words, "regime=fixed", "learner=bc_mvp", "demos=9", "steps=null"])
    config, told = training_of(cell, kept)
    assert isinstance(config, ImitationConfig) and (config.names["policy"], config.demos, config.camera) == ("bc_mvp", 9, "L0")
    assert config.steps == compose(ImitationConfig, [])[0].steps


# ---- a policy is trained once -----------------------------------------------------------------------------------------------------


def test_a_finished_policy_is_used_by_every_table(calls):
    assert run(*WIDE) == 0
    assert calls.trained == [("rl", ["task=reach", "encoder=mvp", "seed=3", "steps=100", "agent=sac", "camera=L3"])]
    trained = "runs/rl/reach-mvp-sac-L3/s3"  # where run_rl.py has it
    assert RunDir(Path(trained)).finished
    assert run(*WIDE, "episodes=7", "presets=[maniwhere]", "learner=sac") == 0
    assert len(calls.trained) == 1
    assert [(cfg.run, cfg.run_dir, cfg.episodes, cfg.regime) for cfg in calls.evaluated] == [
        (trained, "table/0", 100, "wide"),
        (trained, "table/0", 7, "wide"),
    ]
    run(*WIDE, "regime=fixed")
    run(*WIDE, "encoder=random")
    run(*WIDE, "seed=4")
    run(*WIDE, "learner=bc_mvp")
    assert len(calls.trained) == 5 and len({cfg.run for cfg in calls.evaluated}) == 5, "others are policies of their own"


def test_an_evaluation_is_fresh_where_the_policy_learned_on(calls):
    """Whoever let it learn on: this cell, the same cell before it was killed, or another table."""
    run(*WIDE)
    run(*WIDE)
    calls.outdated = True
    run(*WIDE, "steps=200")
    run(*WIDE, "steps=200")
    assert [cfg.fresh for cfg in calls.evaluated] == [False, False, *[False, True] * 2] and len(calls.trained) == 2
    run(*WIDE, "steps=200", "fresh=true")
    assert calls.evaluated[-1].fresh and len(calls.trained) == 2, "fresh=true is for the evaluation"


def test_a_policy_that_learned_for_longer_is_another_one(calls):
    run(*WIDE)
    with pytest.raises(UserError, match="steps=100, but the table asks for steps=50.*Start the table with steps=100"):
        run(*WIDE, "steps=50")
    assert len(calls.trained) == len(calls.evaluated) == 1


def test_a_run_with_other_settings_is_not_used(calls):
    run(*WIDE)
    path = Path("runs/rl/reach-mvp-sac-L3/s3/config.yaml")
    settings = yaml.safe_load(path.read_text())
    for harmless in ({"eval_episodes": 3}, {"logger": "none"}):
        path.write_text(yaml.safe_dump(settings | harmless))
        run(*WIDE)
    assert len(calls.trained) == 1
    path.write_text(yaml.safe_dump(settings | {"quality": "full"}))
    with pytest.raises(UserError, match="quality: full before, fast now"):
        run(*WIDE)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        run(*WIDE)


def test_a_training_that_is_stopped_is_not_evaluated_and_goes_on(calls):
    calls.code = 143
    assert run(*WIDE) == 143 and not calls.evaluated
    calls.code = 0
    assert run(*WIDE) == 0 and len(calls.trained) == 2 and len(calls.evaluated) == 1


def test_a_broken_policy_says_how_to_train_it_anew(calls):
    calls.broken = True
    with pytest.raises(UserError, match="None is whole.*python run_rl.py .*seed=3 .*camera=L3 fresh=true"):
        run(*WIDE)


# ---- the tables -------------------------------------------------------------------------------------------------------------------


def cells(*words: str) -> list[ViewpointCell]:
    return [cell.config for cell in table(list(words), print).cells]


def test_quick_is_four_cells_from_weights_that_are_here():
    found = cells("benchmark=quick")
    assert {(cell.names["encoder"], cell.regime) for cell in found} == {(e, r) for e in ("mvp", "random") for r in ("fixed", "wide")}
    assert len(found) == 4 and {(cell.task, cell.seed, cell.weights) for cell in found} == {("reach", 0, None)}


def test_standard_has_all_regimes_and_seeds():
    found = cells("benchmark=standard", "task=reach", "encoder=random")
    assert {(cell.regime, cell.seed) for cell in found} == {(regime, seed) for regime in REGIMES for seed in (0, 1, 2)}
    assert {cell.task for cell in cells("benchmark=standard", "seed=0", "encoder=random", "regime=fixed")} == set(list_tasks())
    assert {"mvp", "pixels", "random"} < {cell.names["encoder"] for cell in cells("benchmark=standard", "task=reach", "regime=fixed")}


def test_regimes_and_encoders_are_axes_of_a_table():
    found = cells("benchmark=quick", "regimes=[L3:shell,conditioned]", "encoders=[pixels]", "levels=[0,3]", "seed=[1,2]")
    assert {(cell.regime, cell.names["encoder"], cell.seed) for cell in found} == {
        (regime, encoder, seed) for regime in ("L3:shell", "conditioned") for encoder in ("pixels", "random") for seed in (1, 2)
    }
    assert all(cell.levels == [0, 3] for cell in found)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run=runs/rl/x/s0"], ["run=runs/rl/x/s0", "Leave out one"]),
        (["regimes=[wide,wid]"], ["regime=wid", "regime=wide"]),
        (["regime=null"], ["regime=null"]),
        (["seed=null"], ["seed=null"]),
        (["learner=sca"], ["learner=sca", "learner=sac"]),
        (["learner=sac", "demos=5"], ["demos=5", "demos=null", "bc_r3m"]),
        (["levels=[0,6]"], ["levels=[0,6]"]),
        (["presets=[vista:ark]"], ["vista:arc"]),
        (["factors=[azimut]"], ["factors=azimuth"]),
        (["regime=fixed", "controls=[calibration]"], ["controls=calibration"]),
    ],
)
def test_mistakes_show_before_anything_is_trained(monkeypatch, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        table(["benchmark=quick", *words], print)
    assert all(part in str(refused.value) for part in says), refused.value
    assert not list(tmp_path.iterdir())


def test_a_listing_needs_no_torch():
    code = (
        "import sys; from agents.viewpoint.cell import table; text = table(['benchmark=quick'], print).listing(); "
        "assert 'torch' not in sys.modules; print(text)"
    )
    listed = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 4 and "regime=wide encoder=mvp" in listed


@pytest.mark.slow
def test_a_cell_from_end_to_end_and_with_a_broken_policy(tmp_path):
    learning = ["learner=sac", "demos=null", "steps=900"]
    words = ["benchmark=quick", "encoder=pixels", "regime=wide", *learning, "levels=[0,3]", "films=false", "cell=0"]

    def start(tag: str, episodes: int) -> tuple[subprocess.CompletedProcess, dict]:
        command = [sys.executable, str(ROOT / "run_viewpoint.py"), *words, f"tag={tag}", f"episodes={episodes}"]
        done = subprocess.run(command, cwd=tmp_path, timeout=280, capture_output=True, text=True)
        (row,) = (tmp_path / f"runs/viewpoint-benchmarks/quick-{tag}/results.jsonl").read_text().splitlines()
        return done, json.loads(row)

    done, row = start("whole", 2)
    assert done.returncode == 0, done.stderr
    levels = {level: found["episodes"] for level, found in row["levels"].items()}
    assert row["status"] == "finished" and levels == {"L0": 2, "L3": 2}
    for file in tmp_path.glob("runs/rl/reach-pixels-sac-L3/s0/checkpoints/*/policy.*"):
        file.write_bytes(b"")
    done, row = start("broken", 3)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "is whole" in done.stderr
    assert (row["status"], row["levels"]) == ("failed", None) and "is whole" in row["error"]
