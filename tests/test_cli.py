"""The command line: what a newcomer reads, and what every mistake answers."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from robo_repr.core import config
from robo_repr.core.cli import compose, help_page, main
from robo_repr.core.config import ImitationConfig, RecordConfig, RLConfig, ViewpointConfig, build, config_names, load_part, run_name
from robo_repr.core.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the front door in this process; returns exit code, standard error and the configurations that would have run."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        ran = []

        def run(cfg, overrides):
            ran.append((cfg, overrides))
            return 0

        monkeypatch.setattr(sys, "argv", ["run_rl.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            main(RLConfig, run)
        out, err = capsys.readouterr()
        return stop.value.code, err, ran, out

    return call


def test_defaults(command):
    code, err, ran, _ = command()
    assert code == 0 and err == "" and len(ran) == 1
    cfg, overrides = ran[0]
    assert overrides == [] and cfg.names == {"encoder": "mvp", "agent": "sac", "budget": "default"}
    assert (cfg.task, cfg.camera, cfg.eval_camera, cfg.readout, cfg.encoder_mode, cfg.seed) == ("reach", "L1", "L1", "grid4", "frozen", 0)
    assert cfg.encoder["_target_"].endswith("MVP") and cfg.agent["gamma"] == 0.95
    assert RLConfig(**yaml.safe_load(yaml.safe_dump(dataclasses.asdict(cfg)))) == cfg


def test_overrides_win_over_the_budget(command):
    _, _, ran, _ = command("budget=tiny", "num_envs=3", "agent.gamma=0.9", "views=[front,wrist]", "encoder=pixels")
    cfg, _ = ran[0]
    tiny = load_part("budget/rl", "tiny")
    assert cfg.num_envs == 3 and cfg.steps == tiny["steps"] and cfg.agent["gamma"] == 0.9 and cfg.views == ["front", "wrist"]
    assert cfg.names["encoder"] == "pixels"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encoder=mvpp"], ["encoder=mvpp", "encoder=mvp", "pixels"]),
        (["agent=sca"], ["agent=sca", "agent=sac"]),
        (["budget=huge"], ["budget=huge", "tiny"]),
        (["stepz=3"], ["stepz", "steps"]),
        (["+stepz=3"], ["+stepz=3", "key=value"]),
        (["agent.gama=3"], ["agent.gama", "agent.gamma"]),
        (["names.encoder=x"], ["names.encoder"]),
        (["steps=-5"], ["steps=-5", "at least 1"]),
        (["steps=many"], ["steps", "many"]),
        (["steps="], ["steps"]),
        (["num_envs=0"], ["num_envs=0", "at least 1"]),
        (["seed=x"], ["seed", "x"]),
        (["seed=1.5"], ["seed", "1.5"]),
        (["camera_input=perhaps"], ["camera_input=perhaps", "false, pose, rays, true"]),
        (["camera_input=ray"], ["camera_input=ray", "Did you mean camera_input=rays"]),
        (["camera_input=[rays]"], ["camera_input=[rays]"]),
        (["camera_input=0.5"], ["camera_input=0.5", "rays"]),
        (["reward=spars"], ["reward=spars", "reward=sparse"]),
        (["encoder_mode=full"], ["encoder_mode=full", "frozen"]),
        (["device=gpu"], ["device=gpu", "cuda"]),
        (["views=[a"], ["views"]),
        (["hello"], ["hello", "key=value"]),
        (["--steps", "3"], ["--steps", "key=value"]),
        (["-m", "seed=0,1", "run_dir=x"], ["run_dir", "-m"]),
        (["seed=0,1"], ["seed=0,1", "-m"]),
        (["views=front,wrist"], ["views=[front,wrist]"]),
        (["steps=1e5"], ["steps=100000"]),
        (["seed=[0,1]"], ["seed=0,1", "-m"]),
        (["seed=99999999999"], ["at most"]),
        (["updates_per_step=nan"], ["updates_per_step=nan"]),
        (["mvp"], ["encoder=mvp"]),
        (["encoder=null"], ["encoder=None", "mvp"]),
        (["encoder={a: 1}"], ["encoder=", "mvp"]),
        (["encoder=mvp,random"], ["-m"]),
        (["agent.gamma.x=1"], ["agent.gamma", "VALUE"]),
        (["agent.gamma=high"], ["agent.gamma=high", "a number", "agent.gamma=0.95"]),
        (["encoder=pixels", "encoder.size=big"], ["encoder.size=big", "a whole number", "encoder.size=12"]),
        (["encoder=pixels", "encoder.size=null"], ["encoder.size=null", "encoder.size=12"]),
        (["encoder=timm", "encoder.model=5"], ["encoder.model=5", "text", "resnet18"]),
        (["tag="], ["tag=", "VALUE"]),
        (["tag=../x"], ["tag=", "folder"]),
        (['tag="a'], ["tag=", "Quote"]),
        (["steps=${nope}"], ["steps", "nope"]),
        (["steps=${task}"], ["steps", "task"]),
        (["~task"], ["~task", "key=value"]),
        (["hydra.run.dir=x"], ["-m"]),
        (["-m", "seed=0,x"], ["seed=x"]),
        (["-m", "encoder=mvp,mvpp"], ["encoder=mvp"]),
        (["-m", "encoder=0", "task=range(1,0)"], ["gives no values", "seed=0,1,2"]),
        (["-m", "eval_episodes=1,2"], ["same folder", "tag="]),
    ],
)
def test_mistakes_get_one_paragraph(command, arguments, says):
    code, err, ran, out = command(*arguments)
    assert code == 2 and not ran and out == ""
    assert len(err.strip().splitlines()) == 1 and len(err) < 500, err
    assert all(part in err for part in says), err
    assert "hydra" not in err.replace("hydra.run.dir=x", "").lower() and "Traceback" not in err


def test_a_sweep_runs_every_combination(command):
    code, _, ran, _ = command("-m", "seed=0,1", "encoder=pixels,identity")
    assert code == 0 and [(cfg.seed, cfg.names["encoder"]) for cfg, _ in ran] == [
        (0, "pixels"),
        (0, "identity"),
        (1, "pixels"),
        (1, "identity"),
    ]


def test_the_last_one_of_two_words_counts(command):
    _, _, ran, _ = command("encoder=mvp", "task=reach", "encoder=pixels", "steps=5", "steps=6")
    cfg, overrides = ran[0]
    assert (cfg.names["encoder"], cfg.steps) == ("pixels", 6) and overrides == ["task=reach", "encoder=pixels", "steps=6"]


def test_quotes_and_references(command):
    _, _, ran, _ = command("tag=s${seed}", "seed=4", "weights=' a=b, c.st '", 'readout="pooled"')
    cfg, _ = ran[0]
    assert (cfg.tag, cfg.weights, cfg.readout) == ("s4", " a=b, c.st ", "pooled")


def test_a_sweep_stops_when_a_job_was_interrupted(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(sys, "argv", ["run_rl.py", "-m", "seed=0,1"])
    with pytest.raises(SystemExit) as stop:
        main(RLConfig, lambda cfg, overrides: ran.append(cfg.seed) or 130)
    assert stop.value.code == 130 and ran == [0]


def test_a_late_mistake_and_its_traceback(command, monkeypatch, capsys):
    def run(cfg, overrides):
        raise UserError("found\nthis")

    for arguments in ([], ["-m", "seed=0,1"]):
        monkeypatch.setattr(sys, "argv", ["run_rl.py", *arguments])
        for debug in ("0", "1"):
            monkeypatch.setenv("ROBO_DEBUG", debug)
            with pytest.raises(SystemExit) as stop:
                main(RLConfig, run)
            err = capsys.readouterr().err
            assert stop.value.code == 2 and "found this" in err and ("Traceback" in err) == (debug == "1")


def test_cfg_prints_the_settings(command):
    code, _, ran, out = command("--cfg", "job", "seed=4")
    assert code == 0 and not ran and RLConfig(**yaml.safe_load(out)).seed == 4


def test_names_of_runs(command):
    def name(*arguments):
        return run_name(*command(*arguments)[2][0])

    assert name() == "reach-mvp-sac-L1"
    assert name("encoder=pixels", "camera=L3", "seed=4", "steps=7", "run_dir=x") == "reach-pixels-sac-L3"
    assert name("readout=pooled", "agent.gamma=0.9") == "reach-mvp-sac-L1-agent.gamma_0.9-readout_pooled"
    assert name("readout=pooled", "tag=mine") == "reach-mvp-sac-L1-mine"
    assert name('readout="pooled"') == name("readout=pooled") != name() == name("readout=grid4", "budget=default")
    assert name("budget=tiny", "num_envs=8") == "reach-mvp-sac-L1-budget_tiny"
    assert name("weights=/a/b c.st") == "reach-mvp-sac-L1-weights_a-b-c.st"
    views = name("views=[front,wrist]")
    assert "=" not in views and "[" not in views and "front" in views and views != name("views=[wrist,front]")
    assert len(name("agent.net=[" + ",".join(["256"] * 60) + "]")) <= 120


def test_each_camera_input_has_one_value_and_one_name(command):
    def given(*arguments):
        cfg, overrides = command(*arguments)[2][0]
        return cfg.camera_input, run_name(cfg, overrides).removeprefix("reach-mvp-sac-L1")

    assert given() == given("camera_input=false") == (False, "")
    assert given("camera_input=true") == given("camera_input=pose") == (True, "-camera_input_true")
    assert given("camera_input=rays") == ("rays", "-camera_input_rays")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["run=runs/rl/reach-mvp-sac-L1/s3"], "reach-mvp-sac-L1/s3"),
        (["run=../here/reach-mvp-sac-L1/s3/", "device=auto", "fresh=true"], "reach-mvp-sac-L1/s3"),
        (["run=a/s3", "levels=[0,1,2,3,4,5]", "episodes=100"], "a/s3"),
        (["run=a/s3", "seed=4", "levels=[0,3]"], "a-levels_0,3-seed_4/s3"),
        (["run=a/s3", "seed=4", "presets=['vista:arc']", "tag=mine"], "a-mine/s3"),
        (["run=mine"], "mine"),
        ([], "reach-mvp-encoder/s0"),
        (["encoder=pixels", "encoder.size=8", "task=push", "seed=2"], "push-pixels-encoder-encoder.size_8/s2"),
    ],
)
def test_an_evaluation_is_named_after_its_run(words, folder):
    assert str(compose(ViewpointConfig, words)[0].folder(words)) == folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run=a", "encoder=pixels"], ["encoder=pixels", "run=a", "Leave out one"]),
        (["run=a", "encoder.seed=3"], ["encoder=mvp", "run=a"]),
        *(
            (["run=a", word], [word, "run=a"])
            for word in ("task=reach", "views=[front]", "weights=random", "readout=grid4", "variant=tiny")
        ),
        *(
            (use + [word], [word, "belongs to a table"])
            for word in ("regime=wide", "regimes=[wide]", "encoders=[mvp]", "learner=ppo", "steps=5", "demos=5", "cell=0")
            for use in (["run=a"], [])
        ),
        (["episodes=0"], ["episodes=0", "at least 1"]),
        (["calibration=-1"], ["calibration=-1", "at least 0"]),
        (["seed=-1"], ["seed=-1"]),
        (["device=gpu"], ["device=gpu", "cuda"]),
        (["tag=a/b"], ["tag='a/b'"]),
        (["appearance=rando"], ["appearance=rando", "appearance=random"]),
        (["camera=L3"], ["camera"]),
    ],
)
def test_the_keys_of_a_viewpoint_run_belong_to_one_use(words, says):
    with pytest.raises(UserError) as refused:
        compose(ViewpointConfig, words)
    assert all(part in str(refused.value) for part in says), refused.value


def test_a_key_may_be_called_like_a_folder_of_parts(monkeypatch, tmp_path):
    """Hydra alone would take ``policy=noisy_expert`` of a command that has no such group for the choice of a part."""
    monkeypatch.chdir(tmp_path)
    cfg, words = compose(RecordConfig, ["policy=noisy_expert", "noise=0.1", "episodes=3"])
    assert (cfg.policy, cfg.noise, cfg.episodes) == ("noisy_expert", 0.1, 3) and words[0] == "policy=noisy_expert"
    assert compose(RecordConfig, [])[0].policy == "expert"
    ran = []
    monkeypatch.setattr(sys, "argv", ["record_clips.py", "-m", "policy=random,expert", "noise=0.1"])
    with pytest.raises(SystemExit) as stop:
        main(RecordConfig, lambda cfg, overrides: ran.append((cfg.policy, overrides)) or 0)
    assert stop.value.code == 0
    assert ran == [("random", ["policy=random", "noise=0.1"]), ("expert", ["policy=expert", "noise=0.1"])]


def test_every_key_of_imitation_can_be_set():
    words = ["demo_data=a/b", "encoder_mode=last:2", "instruction=language", "policy.net=[8]", "budget=tiny", "score=max"]
    cfg, kept = compose(ImitationConfig, words)
    assert kept == words and (cfg.demo_data, cfg.encoder_mode, cfg.score, cfg.policy["net"]) == ("a/b", "last:2", "max", [8])
    assert cfg.steps == load_part("budget/imitation", "tiny")["steps"]


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("encoder", "agent", "data") for n in config_names(g)])
def test_parts_name_their_class_and_a_source(group, name):
    text = (config.CONFIGS / group / f"{name}.yaml").read_text()
    assert text.startswith("#") and "_target_" in load_part(group, name)


def test_build_calls_the_target_if_a_yaml_names_it():
    assert (
        build({**load_part("encoder", "pixels"), "size": 4}).spec.size == build(load_part("encoder", "pixels"), size=4).spec.size == (4, 4)
    )
    for target in ("fractions.Fraction", "robo_repr.core.download.download", None):
        with pytest.raises(UserError, match=f"_target_={target} is no part"):
            build({"_target_": target})


def test_help_is_for_a_newcomer_and_quick():
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "run_rl.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and time.perf_counter() - began < 3
    for part in ("encoder=", "task=", "mvp, ", "python run_rl.py encoder=mvp task=reach", "tiny"):
        assert part in result.stdout
    assert all(item.name in result.stdout for item in dataclasses.fields(RLConfig) if item.name != "names")


@pytest.mark.parametrize("config_class", [RLConfig, ImitationConfig, RecordConfig, ViewpointConfig])
def test_help_shows_defaults_as_they_are_typed(config_class):
    lines = help_page(config_class).splitlines()
    shown = dict(line.split()[0].split("=", 1) for line in lines if line.startswith("  ") and "=" in line.split()[0])
    keys = {item.name: item for item in dataclasses.fields(config_class) if item.name != "names"}
    assert keys.keys() <= shown.keys()
    for name, item in keys.items():
        assert name in config_class.groups or yaml.safe_load(shown[name]) == config.default_of(item), name


def test_the_core_needs_no_torch():
    core = ", ".join(f"robo_repr.core.{path.stem}" for path in sorted((ROOT / "robo_repr/core").glob("[a-z]*.py")))
    code = f"import robo_repr, envs, agents, {core}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
