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


def rewrite(path, change):
    """Changes each row of a run's views.jsonl."""
    rows = [change(json.loads(line)) for line in (path / "views.jsonl").read_text().splitlines()]
    (path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("views.jsonl", {"level": "three"}),
        ("views.jsonl", {"level": 2}),
        ("views.jsonl", {"kind": "other"}),
        ("views.jsonl", {"condition": ["L3"]}),
        ("views.jsonl", {"views_drawn": float("inf")}),
        ("views.jsonl", {"views": {"front": {"azimuth": [float("nan")] * 50}}}),
        ("drift.json", {"no_picture_cm": "much"}),
        ("drift.json", {"conditions": {"L3": {"feature_drift": 1, "probe_cm": 1, "probe_cm_ci95": [1]}}}),
        ("drift.json", {"conditions": {"L3": {"feature_drift": 1, "probe_cm": float("nan")}}}),
        ("drift.json", {"conditions": [1]}),
        ("summary.json", {"presets": ["vista:arc"]}),
        ("trained.yaml", {"camera": None}),
        ("trained.yaml", {"task": [1, 2]}),
        ("config.yaml", {"episodes": "50"}),
    ],
)
def test_files_with_what_no_command_writes_are_left_out_as_broken(tmp_path, file, change):
    path = make_view(tmp_path / "x", drift={0: 0.0, 3: 0.5}) / file
    make_view(tmp_path / "whole", 1)
    rows = [yaml.safe_load(path.read_text())] if file != "views.jsonl" else [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row.get("condition", "L3") == "L3":
            row |= change
            [row.pop(key) for key, value in change.items() if value is None]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = read_report([tmp_path])
    assert [run.seed for run in report.views.runs] == [1] and [reason.startswith("is broken: ") for _, reason in report.left_out] == [True]


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
    summary = json.loads((newer / "summary.json").read_text())
    (newer / "summary.json").write_text(json.dumps({**summary, "presets": {}}))
    os.utime(newer / "summary.json", (100, 100))  # now the older one
    assert list(read_report([tmp_path / "levels", tmp_path / "presets"]).views.runs[0].conditions) == ["L0", "vista:arc", "L3"]
    rewrite(older, lambda row: {**row, "checkpoint_sha256": "another"})  # trained anew, as far
    report = read_report([tmp_path / "levels", tmp_path / "presets"])
    assert list(report.views.runs[0].conditions) == ["L0", "L3"] and [path for path, _ in report.left_out] == [newer]


def test_nothing_is_a_share_of_what_was_won_in_other_episodes(tmp_path):
    path = make_view(tmp_path, levels={0: 0.9, 3: 0.5, 4: 0.1})
    rewrite(path, lambda row: {**row, "seeds_sha256": "others"} if row["condition"] == "L0" else row)
    [method] = arena_of(tmp_path).methods
    assert titles([method], "level") == ["L3", "L4"] and retention_under(method.groups["reach"], "L3") is None


def test_a_preset_keeps_its_published_range_when_evaluations_are_joined(tmp_path, undrawn):
    older = make_view(tmp_path / "presets", levels={0: 0.9}, presets={"vista:arc": 0.3})
    os.utime(older / "summary.json", (1000, 1000))
    make_view(tmp_path / "levels", levels={0: 0.9, 3: 0.5})
    assert "vista:arc azimuth ±45°" in text_of(tmp_path)


def test_an_encoder_that_was_judged_twice_counts_once_and_seeds_are_one_row(tmp_path, undrawn):
    for name, seed, time in (("a", 0, 1000), ("b", 0, 2000), ("b", 1, 3000)):
        os.utime(make_encoder_view(tmp_path / name, seed=seed, drift={3: time / 1000}) / "summary.json", (time, time))
    report = read_report([tmp_path])
    assert [run.path.parent.name for run in report.views.encoders] == ["b", "b"] and len(report.left_out) == 1
    text = text_of(tmp_path)
    assert "1 encoder on reach" in text and "r3m, views=[front] reach 2 2.50 [1.80 to 3.30]" in text


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


def test_seeds_are_paired_only_where_their_episodes_are_the_same(tmp_path):
    for seed in range(5):
        for regime, share in (("fixed", 0.5), ("wide", 0.6)):
            path = make_view(tmp_path / regime, seed, {0: 0.9, 3: share}, regime=regime, episodes=100)

    def estimate():
        arena = arena_of(tmp_path)
        fixed, wide = sorted(arena.methods, key=lambda method: method.label)
        [effect] = effects([(wide, fixed)], ["L3"])
        return effect.estimate

    paired = estimate()
    rewrite(path, lambda row: {**row, "seeds_sha256": "of another root"})
    assert paired.freedom == 4 < estimate().freedom


def test_drift_is_of_the_task_that_it_was_measured_on(tmp_path, undrawn):
    make_view(tmp_path, task=["reach", "push"], drift={0: 0.0, 3: 0.5})
    [method] = arena_of(tmp_path).methods
    assert [bool(method.groups[task].runs[0].drift) for task in ("reach", "push")] == [True, False]


def test_seeds_that_lack_a_level_are_told(tmp_path, undrawn):
    make_view(tmp_path / "x", 0, levels={0: 0.9, 3: 0.5, 4: 0.2})
    make_view(tmp_path / "x", 1, levels={0: 0.9, 3: 0.5})
    make_view(tmp_path / "y", 0, levels={0: 0.9, 3: 0.5}, encoder="pixels")
    text = text_of(tmp_path)
    assert re.search(r"mvp 0, 1 \d+ % \[[^]]*\] \d+ % \[[^]]*\] \d+ % \[[^]]*\] 1 of 2 seeds", text)
    assert re.search(r"pixels raw pixels \d+ % \[[^]]*\] - \d+ % \[[^]]*\] to L3 ", text)  # the area


def test_the_worst_azimuth_is_the_same_on_the_page_and_in_the_summary(tmp_path):
    from agents.viewpoint.conditions import Condition
    from agents.viewpoint.results import figures

    path = make_view(tmp_path, levels={0: 0.9, 3: 0.5, 4: 0.1}, episodes=100)
    rows = {(row["condition"], row["policy"]): row for row in map(json.loads, (path / "views.jsonl").read_text().splitlines())}
    for row in rows.values():
        row |= {"views_drawn": 1, "views_rejected": 0}
    conditions = [Condition(f"L{level}", "level", level, f"L{level}:shell", "plain") for level in (0, 3, 4)]
    told = figures(rows, conditions, "front")
    [fact] = view_facts(read_report([tmp_path]).views)
    assert told["worst_azimuth_bin"] == fact["worst_azimuth_bin"] is not None
    assert told["levels"]["L0"]["retention_ci95"] == fact["conditions"]["L0"]["retention_ci95"] == [1, 1]


def test_no_regime_is_its_own_control(tmp_path):
    make_view(tmp_path / "a", regime="fixed")
    make_view(tmp_path / "b", regime="wide", encoder="pixels")  # of another encoder
    arena = arena_of(tmp_path)
    assert [fixed_of(method, arena.methods) for method in arena.methods] == [None, None] and sort_views([]) == []


def test_the_ceiling_is_a_policy_trained_at_that_very_view(tmp_path, undrawn):
    make_view(tmp_path / "fixed", levels={0: 0.9, 3: 0.5})
    text = text_of(tmp_path)
    assert (
        "No ceiling was run for reach" in text
        and "gap to the ceiling" not in text
        and "camera=L3:shell seed=0" in text
        and "python run_rl.py encoder=mvp task=reach" in text
    )
    make_view(tmp_path / "ceiling", regime="L3:shell", levels={0: 0.6, 3: 0.8})
    text = text_of(tmp_path)
    row = re.search(r"gap to the ceiling, points \[95 %\] method L3 mvp, fixed (.*?) Area", text)
    assert row and re.fullmatch(r"\+26 \[\+\d+ to \+\d+\]", row[1])


# ---- the page --------------------------------------------------------------------------------------------------------------------


def test_a_page_of_viewpoint_runs_alone(tmp_path, undrawn):
    make_views(tmp_path, seeds=(0,))
    text = text_of(tmp_path)
    assert f"{tmp_path.name}: 4 methods on reach" in text and "1 training seed and 50 episodes per level are too few for a claim" in text
    for says in (
        "In these runs less than half of the success at L0 is left first at L3 (random, fixed); first at L4 (mvp, fixed / ",
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


def test_of_a_probe_it_is_told_what_could_be_known_and_what_is_known_blindly(tmp_path, undrawn):
    make_view(tmp_path, drift={0: 0.0, 3: 0.5})
    text = text_of(tmp_path)
    assert "mvp reach 1 2.0 [1.5 to 2.5] 4.5 [4.0 to 5.0] fitted at that level reach 1 2.0 [1.5 to 2.5] 2.5 [2.0 to 3.0]" in text
    assert "no picture reference reach 1 9.0 9.0" in text and "mvp, sac, trained at camera L0" in text
    assert text.count("how to repeat them") == 2  # the link and the section


def test_many_methods_make_a_page_that_opens(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(view_sections, "FILMS_BYTES", 20_000)
    for number in range(30):
        shares = dict.fromkeys(range(6), 0.5)
        make_view(tmp_path / f"{number}", encoder=f"e{number}", levels=shares, films=number < 5, drift=shares)
    text = text_of(tmp_path)
    written = (tmp_path / "report.html").read_text()
    assert "30 methods on reach" in text and 0 < sum(map(len, re.findall('data:video/mp4;base64,([^"]*)', written))) <= 4 / 3 * 20_000 + 200
    assert "Of these 30 methods films of L0 and L5 alone." in text and "would make the page too large" in text


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


def test_what_nobody_published_is_not_called_so(tmp_path, undrawn):
    path = make_view(tmp_path, presets={"vista:arc": 0.3, "L3:jitter": 0.4})
    summary = json.loads((path / "summary.json").read_text())
    del summary["presets"]["L3:jitter"]
    (path / "summary.json").write_text(json.dumps(summary))
    text = text_of(tmp_path)
    assert (
        re.search("publications', the task is not (.*) that nobody published .* L3:jitter mvp", text)[1].count("vista:arc azimuth ±45°")
        == 1
    )
    (path / "summary.json").write_text(json.dumps({**summary, "presets": None}))
    text = text_of(tmp_path)
    assert "Other camera settings" in text and "vista:arc mvp" in text and "publications" not in text


def test_the_settings_of_evaluations_make_no_other_method(tmp_path):
    make_view(tmp_path / "a", 0)
    path = make_view(tmp_path / "a", 1)
    trained = yaml.safe_load((path / "trained.yaml").read_text())
    (path / "trained.yaml").write_text(yaml.safe_dump({**trained, "eval_camera": "L5", "eval_episodes": 7, "device": "cuda"}))
    [method] = arena_of(tmp_path).methods
    assert method.groups["reach"].seeds == [0, 1]
