"""What the report says of made-up viewpoint runs, so that what it should say is known."""

import html
import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from robo_repr.core.errors import UserError
from robo_repr.core.report import page, view_sections
from robo_repr.core.report.page import read_report, write_report
from robo_repr.core.report.view_sections import view_facts, view_warnings
from robo_repr.core.report.views import area_under, covered, effects, fixed_of, retention_under, sort_views, titles
from tests.made_up_runs import make_encoder_view, make_view, make_views, three

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import report as command  # noqa: E402

PNG = b"\x89PNG"


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take seconds; the page in a browser is tested elsewhere."""
    for name in ("draw_levels", "draw_views", "draw_drift"):
        monkeypatch.setattr(view_sections, name, lambda *arguments, **keywords: PNG)


def arena_of(folder):
    views = read_report([folder]).views
    [arena] = views.arenas
    return arena


def text_of(folder):
    """The page's words."""
    written = write_report(read_report([folder]), folder).read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", " ", re.sub(r"base64,[^\"]*|<style>.*?</style>", "", written, flags=re.DOTALL))
    return re.sub(r"\s+", " ", html.unescape(text))


# ---- reading ---------------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_method_named_by_encoder_and_regime(tmp_path):
    make_views(tmp_path, seeds=(0, 1), films=False)
    report = read_report([tmp_path])
    [arena] = report.views.arenas
    assert [method.label for method in arena.methods] == ["mvp, fixed", "mvp, wide", "random, fixed", "random, wide"]
    assert all(method.groups["reach"].seeds == [0, 1] for method in arena.methods) and report.groups == [] == report.left_out
    assert titles(arena.methods, "level") == ["L0", "L1", "L3", "L4"] and titles(arena.methods, "factor") == ["L3:azimuth", "L3:roll"]
    assert [encoder.label for encoder in report.views.encoders] == ["r3m, views=[front]"]
    assert {method.label for method in arena.methods if method.arm == "random"} == {"random, fixed", "random, wide"}
    assert len(set(method.colour for method in arena.methods)) == 4


def test_a_run_of_no_table_is_named_by_its_training_camera(tmp_path):
    make_view(tmp_path / "a", regime="L2", summary={"regime": None})
    make_view(tmp_path / "b", regime="L3", camera_input="rays", summary={"regime": "conditioned"})
    make_view(tmp_path / "c", regime="L3", summary={"regime": None})
    labels = [method.label for method in arena_of(tmp_path).methods]
    assert labels == ["mvp, trained at L2", "mvp, conditioned", "mvp, trained at L3"]


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path):
    folder = tmp_path / "x"
    make_view(folder, 0)
    make_view(folder, 1, status="interrupted")
    make_view(folder, 2).joinpath("summary.json").unlink()
    make_view(folder, 3).joinpath("views.jsonl").unlink()
    make_view(folder, 4).joinpath("views.jsonl").write_text('{"condition": "L0", "pol')
    make_view(folder, 5).joinpath("trained.yaml").write_text("- [")
    make_view(folder, 6).joinpath("drift.json").write_text('{"conditions": {"L3": {"feature_drift": "far", "probe_cm": 1}}}')
    make_view(folder, 7).joinpath("trained.yaml").unlink()
    path = make_view(folder, 8)
    rows = [json.loads(line) for line in (path / "views.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("episode_success")
    (path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_view(folder, 9, summary={"command": "rl"})
    make_view(folder, 10).joinpath("views.jsonl").write_text(json.dumps({**rows[0], "views": [1], "episode_success": [1] * 50}) + "\n")
    report = read_report([tmp_path])
    assert [run.seed for run in report.views.runs] == [0]
    reasons = {path.name: reason for path, reason in report.left_out}
    expected = {
        "s1": "interrupted",
        "s2": "summary.json",
        "s3": "views.jsonl",
        "s4": "no camera setting",
        "s5": "broken",
        "s6": "drift.json",
    }
    expected |= {"s7": "trained.yaml", "s8": "how each episode", "s9": "finished viewpoint run", "s10": "broken"}
    assert reasons.keys() == expected.keys() and all(word in reasons[name] for name, word in expected.items())
    with pytest.raises(UserError, match="no finished run"):
        read_report([folder / "s1"])


def test_a_condition_that_was_not_run_to_its_end_does_not_count(tmp_path):
    path = make_view(tmp_path, levels={0: 0.9, 3: 0.5})
    rows = [json.loads(line) for line in (path / "views.jsonl").read_text().splitlines()]
    partly = {**rows[-2], "condition": "L4", "level": 4, "episodes": 20, "episode_success": [1] * 20, "episode_return": [1.0] * 20}
    again = {**rows[-2], "episode_success": [1] * 50, "success": 1.0}
    (path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, partly, again, rows[-1]]) + '{"condition": "L5')
    [method] = arena_of(tmp_path).methods
    assert titles([method], "level") == ["L0", "L3"]
    [run] = method.groups["reach"].runs
    assert run.conditions["L3"].own.success.mean() == 1  # of two rows the later one counts


def test_two_evaluations_of_one_policy_are_one_run(tmp_path):
    older = make_view(tmp_path / "levels", levels={0: 0.9, 3: 0.5})
    newer = make_view(tmp_path / "presets", levels={0: 0.9}, presets={"vista:arc": 0.3})
    for path, time in ((older, 1000), (newer, 2000)):
        os.utime(path / "summary.json", (time, time))
    report = read_report([tmp_path])
    [run] = report.views.runs
    assert list(run.conditions) == ["L0", "L3", "vista:arc"] and report.left_out == []
    other = make_view(tmp_path / "other", levels={0: 0.9, 4: 0.5}, summary={"env_steps": 500})  # of an earlier checkpoint
    os.utime(other / "summary.json", (500, 500))
    report = read_report([tmp_path])
    assert list(report.views.runs[0].conditions) == ["L0", "L3", "vista:arc"] and [path for path, _ in report.left_out] == [other]


def test_runs_with_several_tasks_count_on_each(tmp_path, undrawn):
    path = make_view(tmp_path, task=["reach", "push"], episodes=50)
    rows = [json.loads(line) for line in (path / "views.jsonl").read_text().splitlines()]
    for row in rows:
        row["episode_success"] = [1] * 50 + [0] * 50 if row["policy"] == "trained" else [1] * 100
    (path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [method] = arena_of(tmp_path).methods
    assert list(method.groups) == ["reach", "push"]
    assert [method.groups[task].runs[0].conditions["L3"].own.success.mean() for task in ("reach", "push")] == [1, 0]
    assert len(method.groups["push"].runs[0].conditions["L3"].outside["azimuth"]) == 50
    text = text_of(tmp_path)
    assert "Levels, all tasks together" in text and "Interquartile mean of the success of all seeds on 2 tasks" in text
    assert "1 policy (seeds 0)" in text


# ---- figures ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("camera", "levels"),
    [
        ("L0", [0]),
        ("L3", [0, 1, 2, 3]),
        ("L0..L2", [0, 1, 2]),
        ("L4:shell", [4]),
        ("among:front+left", [0]),
        ("L3:azimuth", [0]),
        ("vista:arc", [0]),
    ],
)
def test_what_training_covered(camera, levels):
    assert [level for level in range(6) if covered(camera, level)] == levels


def test_without_nominal_success_or_level_there_is_no_retention(tmp_path, undrawn):
    make_view(tmp_path / "a", levels={0: 0.0, 3: 0.0})
    make_view(tmp_path / "b", levels={3: 0.5}, encoder="pixels")
    arena = arena_of(tmp_path)
    for method in arena.methods:
        assert retention_under(method.groups["reach"], "L3") is None and area_under(method.groups["reach"], ["L0", "L3"]) is None
    assert all(fact["conditions"]["L3"]["retention"] is None for fact in view_facts(read_report([tmp_path]).views))
    assert "retention, success as a share" not in text_of(tmp_path)


def test_too_few_seeds_or_episodes_are_said_and_nothing_is_called(tmp_path, undrawn):
    for seeds, episodes in ((3, 100), (5, 50)):
        folder = make_views(tmp_path / f"{seeds}", seeds=tuple(range(seeds)), episodes=episodes, films=False)
        report = read_report([folder])
        [warning] = view_warnings(report.views)
        assert f"{seeds} training seeds and {episodes} episodes per level are too few for a claim" in warning
        text = text_of(folder)
        assert "Nothing is called: too few for a claim" in text and " is better than " not in text
    folder = make_views(tmp_path / "enough", seeds=range(5), episodes=100, films=False)
    assert view_warnings(read_report([folder]).views) == []


@pytest.mark.parametrize(("kept", "outcome"), [(0.2, "better"), (0.85, "no difference shown"), (1.0, "worse")])
def test_an_effect_is_called_from_five_seeds_of_a_hundred_episodes(tmp_path, kept, outcome):
    """And beside it that of the control arm."""
    for seed in range(5):
        for encoder in ("mvp", "random"):
            for regime, share in (("fixed", kept if encoder == "mvp" else 0.5), ("wide", 0.85 if encoder == "mvp" else 0.5)):
                make_view(tmp_path / f"{encoder}-{regime}", seed, {0: 0.95, 3: share}, encoder, regime, episodes=100)
    arena = arena_of(tmp_path)
    pairs = [(method, fixed) for method in arena.methods if (fixed := fixed_of(method, arena.methods))]
    assert [(method.label, fixed.label) for method, fixed in pairs] == [("mvp, wide", "mvp, fixed"), ("random, wide", "random, fixed")]
    found = {(effect.method.label, effect.condition): effect for effect in effects(pairs, ["L0", "L3"])}
    assert found["mvp, wide", "L3"].outcome == outcome and found["random, wide", "L3"].outcome == "no difference shown"
    assert found["mvp, wide", "L3"].estimate.value == pytest.approx(0.85 - kept, abs=0.06)
    assert found["mvp, wide", "L0"].outcome == "no difference shown"


def test_no_regime_is_its_own_control(tmp_path):
    make_view(tmp_path / "a", regime="fixed")
    make_view(tmp_path / "b", regime="wide", encoder="pixels")  # of another encoder
    arena = arena_of(tmp_path)
    assert [fixed_of(method, arena.methods) for method in arena.methods] == [None, None] and sort_views([]) == []


def test_the_ceiling_is_a_policy_trained_at_that_very_view(tmp_path, undrawn):
    make_view(tmp_path / "fixed", levels={0: 0.9, 3: 0.5})
    text = text_of(tmp_path)
    assert "No ceiling was run" in text and "camera=L3:shell seed=0" in text and "python run_rl.py encoder=mvp task=reach" in text
    make_view(tmp_path / "ceiling", regime="L3:shell", levels={0: 0.6, 3: 0.8})
    text = text_of(tmp_path)
    row = re.search(r"gap to the ceiling, points \[95 %\] method L0 L3 mvp, L3:shell (.*?) mvp, fixed (.*?) Area", text)
    assert row and row[1].endswith("is the ceiling") and re.fullmatch(r"is the ceiling \+26 \[\+\d+ to \+\d+\]", row[2])


# ---- the page --------------------------------------------------------------------------------------------------------------------


def test_a_page_of_viewpoint_runs_alone(tmp_path, undrawn):
    make_views(tmp_path, seeds=(0,))
    text = text_of(tmp_path)
    assert f"{tmp_path.name}: 4 methods on reach" in text and "1 training seed and 50 episodes per level are too few for a claim" in text
    for says in (
        "Less than half of the success at L0 is left from L3 (random, fixed); from L4 (mvp, fixed / mvp, wide / random, wide)",
        "expert reference - 100 % 100 % 100 % 100 %",
        "views drawn again - 7.4 %",
        "With one seed an interval knows chance between episodes alone",
        "the ranges match, the tasks differ",
        "vista:arc azimuth ±45° about the robot's base",
        "background (L3:shell)",
        "r3m, views=[front]",
        "a rank correlation needs five policies",
        "python run_viewpoint.py run=runs/rl/x/s0 episodes=50",
    ):
        assert says in text, says
    assert "Does pretraining help?" not in text and not (tmp_path / "report.png").exists()
    written = (tmp_path / "report.html").read_text()
    assert (
        len(re.findall("<video", written)) == 4 * 4 * 2
        and "mvp, wide, L4: failure" in text
        and (tmp_path / "report" / "strip-1.png").exists()
    )
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["groups"] == [] and len(facts["viewpoint"]) == 4
    assert facts["viewpoint"][0]["conditions"]["L3"]["retention"] == pytest.approx(0.46, abs=0.1)


def test_trained_runs_and_viewpoint_runs_on_one_page(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(page, "draw_groups", lambda groups, path: path)
    three(tmp_path / "rl", 40, 41, 42)
    make_view(tmp_path / "viewpoint" / "x")
    text = text_of(tmp_path)
    assert "Learning curves" in text and "How far cameras can move" in text and "python run_rl.py" in text


def test_an_encoder_alone_and_a_single_run(tmp_path, undrawn):
    encoder = make_encoder_view(tmp_path / "encoder")
    text = text_of(encoder)
    assert "1 encoder on reach" in text and "feature drift [95 %]" in text and "How far cameras can move" not in text
    assert "too few for a claim" not in text
    run = make_view(tmp_path / "policy", levels={0: 0.9})
    text = text_of(run)
    assert "1 method on reach" in text and "L0" in text


def test_drift_is_ranked_against_what_policies_keep(tmp_path, undrawn):
    for index, encoder in enumerate(("mvp", "r3m", "vip", "clip", "dino", "random")):
        drift = {0: 0.0, 3: 0.3 + 0.1 * index}
        make_view(tmp_path / encoder, 0, {0: 0.9, 3: 0.8 - 0.12 * index}, encoder, drift=drift, episodes=100)
    text = text_of(tmp_path)
    assert re.search(r"L3 6 -1\.00 \[-1\.00 to -0\.\d\d\] -1\.00", text)


def test_the_command_prints_a_table(tmp_path, capsys, undrawn):
    make_view(tmp_path / "x")
    make_view(tmp_path / "y").joinpath("views.jsonl").unlink()
    assert command.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "reach under moved cameras, plain, 50 episodes" in out and "too few for a claim" in out and "left out:" in out
    assert "report.png" not in out and "report.html" in out


def test_a_published_range_that_is_not_told_is_a_dash(tmp_path, undrawn):
    path = make_view(tmp_path, presets={"vista:arc": 0.3})
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "presets": None}))
    assert "vista:arc - mvp" in text_of(tmp_path)


def test_the_settings_of_evaluations_make_no_other_method(tmp_path):
    make_view(tmp_path / "a", 0)
    path = make_view(tmp_path / "a", 1)
    trained = yaml.safe_load((path / "trained.yaml").read_text())
    (path / "trained.yaml").write_text(yaml.safe_dump({**trained, "eval_camera": "L5", "eval_episodes": 7, "device": "cuda"}))
    [method] = arena_of(tmp_path).methods
    assert method.groups["reach"].seeds == [0, 1]
