"""Tables, curves and verdicts from run folders that are made up here, so that what they should say is known."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from robo_repr.core import curves, report
from robo_repr.core.curves import draw_curve, draw_groups
from robo_repr.core.errors import Failure, UserError
from robo_repr.core.metrics import append_row
from robo_repr.core.report import compare, figures, page, read_cells
from robo_repr.core.report.aggregate import Interval
from robo_repr.core.report.methods import Method, arenas, difference_over
from robo_repr.core.report.runs import FinishedRun, Group, Outcomes
from robo_repr.core.stats import wilson
from robo_repr.core.summary import find_evaluation, print_run, read_evaluations, read_summary
from tests.made_up_runs import EPISODES, SETTINGS, make_benchmark, make_imitation, make_run, outcome, three

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import report as command  # noqa: E402


def read_runs(paths):
    """The groups of runs, and what was left out."""
    found = page.read_report(paths)
    return found.groups, found.left_out


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Runs scripts/report.py in tmp_path, without the pictures, which take seconds; returns exit code, output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "draw_groups", lambda groups, path: path)
    monkeypatch.setattr(page, "_sections", lambda report, found, out: [])

    def call(*arguments):
        code = command.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# ---- several runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("better", ["mvp", "pixels"])
def test_the_better_group_is_named_in_both_directions(ask, tmp_path, better):
    for encoder in ("mvp", "pixels"):
        three(tmp_path / encoder, *((47, 45, 48) if encoder == better else (10, 12, 8)), encoder=encoder)
    code, out, _ = ask("mvp", "pixels")
    other = {"mvp": "pixels", "pixels": "mvp"}[better]
    assert code == 0 and f"encoder={better} is better than encoder={other} by 73 points [" in out
    assert "not compared" not in out and "no difference" not in out and "over seeds" in out
    [comparison] = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    assert comparison["verdict"] == "better" and comparison["first"] == f"encoder={better}" and comparison["level"] == 0.05
    assert comparison["difference"] == pytest.approx(0.7333, abs=1e-3) and 0 < comparison["interval"][0] < comparison["difference"]


def test_equal_groups_show_no_difference(ask, tmp_path):
    three(tmp_path / "mvp", 40, 20, 30)
    three(tmp_path / "pixels", 30, 41, 21, encoder="pixels")
    _, out, _ = ask(".")
    assert "encoder=pixels and encoder=mvp: no difference shown (1 points [" in out and "is better" not in out


def test_fewer_than_three_seeds_are_refused_and_the_command_for_more_is_said(ask, tmp_path):
    make_run(tmp_path / "mvp", 1, 50)
    three(tmp_path / "pixels", 1, 0, encoder="pixels")
    code, out, _ = ask(".")
    assert code == 0 and "is better" not in out and "no difference" not in out and "Wilson" in out
    assert "not compared: encoder=mvp has 1 seed, which says nothing about the method; 3 are needed." in out
    assert "python run_rl.py -m encoder=mvp 'views=[front]' seed=0,2\n" in out
    assert "encoder=pixels has 2 seeds" in out and "python run_rl.py encoder=pixels 'views=[front]' seed=2\n" in out
    [comparison] = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    assert comparison["verdict"] == "not compared" and "encoder=mvp has 1 seed" in comparison["reason"] and "difference" not in comparison


def test_the_difference_is_the_mean_over_unequal_seeds(tmp_path):
    three(tmp_path / "mvp", 50, 40, 45, 45)
    three(tmp_path / "pixels", 10, 20, 15, encoder="pixels")
    [comparison] = compare(read_runs([tmp_path])[0])
    assert comparison.estimate.value == pytest.approx(0.6) and not comparison.paired and comparison.verdict == "better"


def test_pairing_needs_the_same_seeds_and_the_order_of_episodes(tmp_path):
    three(tmp_path / "a", 50, 40, 45, 45, 41)
    three(tmp_path / "b", 10, 20, 15, 12, 13, encoder="pixels")
    assert [each.paired for each in compare(read_runs([tmp_path])[0])] == [True]
    three(tmp_path / "c", 10, 20, 15, 12, 13, encoder="random", lists=False)  # an older folder
    for seed in range(1, 6):
        make_run(tmp_path / "d", seed, 30, encoder="clip")
    paired = [{each.first, each.second} for each in compare(read_runs([tmp_path])[0]) if each.paired]
    assert paired == [{"encoder=mvp", "encoder=pixels"}]


def test_older_folders_count_successes(tmp_path):
    """Without a list per episode the number of successes gives the same interval."""
    three(tmp_path / "new" / "x", 31, 22, 40)
    three(tmp_path / "old" / "x", 31, 22, 40, lists=False)
    (new,), _ = read_runs([tmp_path / "new"])
    (old,), _ = read_runs([tmp_path / "old"])
    a, b = (report.success_interval([run.own for run in group.runs]) for group in (new, old))
    assert a[0] == b[0] == pytest.approx(0.62) and a[1] == pytest.approx(b[1], abs=0.02)
    assert new.runs[0].own.in_order and not old.runs[0].own.in_order
    assert new.runs[0].own.success.sum() == old.runs[0].own.success.sum() == 31


def test_lists_of_another_evaluation_are_not_used(tmp_path):
    """The row that counts is the one that the summary tells of."""
    path = make_run(tmp_path, successes=31)
    row = {"policy": "trained", "env_steps": 500, "camera": "L1", "appearance": "plain", **outcome(7, 0)}
    append_row(path / "evaluations.jsonl", row)
    append_row(path / "evaluations.jsonl", {**row, "camera": "L5"})
    (group,), _ = read_runs([path])
    assert group.runs[0].own.success.sum() == 31


def test_what_cannot_be_used_is_left_out_with_the_reason(ask, tmp_path):
    folder = tmp_path / "mvp"
    make_run(folder, 0)
    make_run(folder, 1, status="failed")
    make_run(folder, 2).joinpath("summary.json").unlink()
    make_run(folder, 3).joinpath("summary.json").write_text('{"command": "rl", "stat')
    make_run(folder, 4).joinpath("summary.json").write_text('{"status": "finished"}')
    make_run(folder, 5).joinpath("config.yaml").write_text("- [")
    make_run(folder, 6, summary={"command": "pretrain"})
    make_run(folder, 8, summary={"env_steps": 999})  # its settings were changed to more steps, and it was killed before it got there
    make_run(folder, 9, summary={"episodes": EPISODES - 1})
    make_run(folder, 7).rename(folder / "s7.old-1")
    (groups, left_out) = read_runs([tmp_path])
    assert [group.seeds for group in groups] == [[0]]
    reasons = {path.name: reason for path, reason in left_out}
    expected = {"s1": "failed", "s2": "summary.json", "s3": "broken", "s4": "broken: summary.json", "s5": "broken", "s6": "pretrain"}
    expected |= {"s7.old-1": "fresh=true", "s8": "of other steps", "s9": "evaluation episodes"}
    assert reasons.keys() == expected.keys() and all(word in reasons[name] for name, word in expected.items())
    code, out, _ = ask(".")
    assert code == 0 and all(f"mvp/{name}: " in out for name in expected)
    assert read_runs([folder / "s7.old-1"])[0][0].seeds == [7]  # named itself it counts


@pytest.mark.parametrize("rubbish", [b"[]", b"null", b"[" * 5000, b'{"status": "finished", "success": 5.0}', b"\xff"])
def test_a_summary_of_rubbish_is_no_finished_run(tmp_path, rubbish):
    path = make_run(tmp_path)
    assert read_summary(path)
    (path / "summary.json").write_bytes(rubbish)
    assert read_summary(path) is None
    with pytest.raises(UserError, match="s0: is broken"):
        read_runs([tmp_path])


@pytest.mark.parametrize("damage", [{"success": "much"}, {"success": 7}, {"return": None}, {"env_steps": 5}, {"success": None}])
def test_damaged_evaluations_are_none(tmp_path, damage):
    path = make_run(tmp_path, successes=47)
    good = find_evaluation(read_evaluations(path), "trained", "L1", EPISODES, 1000)
    append_row(path / "evaluations.jsonl", {**good, **damage, "episode_success": [9] * EPISODES})
    (group,), _ = read_runs([path])
    assert group.runs[0].own.success.mean() == pytest.approx(47 / EPISODES)
    assert "94 %" in printed(path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"demos": [3]}, r"config\.yaml has demos=\[3\]"),
        ({"demos": "abc"}, "demos=abc"),
        ({"task": None}, "task=null"),
        ({"task": []}, r"task=\[\]"),
        ({"task": ["reach", "reach"]}, r"task=\[reach,reach\]"),
        ({"seed": True}, "seed=true"),
        ({"score": "foo"}, "score=foo"),
        ({"steps": "many"}, "steps=many"),
    ],
)
def test_strange_settings_are_a_broken_run(tmp_path, settings, says):
    path = make_imitation(tmp_path)
    text = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(text | settings))
    with pytest.raises(UserError, match=f"s0: is broken: .*{says}"):
        read_runs([tmp_path])


@pytest.mark.parametrize("tasks", [{"reach": 0.5, "push": 0.5}, {"reach": {"success": "much"}}, 7])
def test_evaluations_with_strange_tasks_are_a_broken_run(tmp_path, tasks):
    path = make_imitation(tmp_path, 0, [40, 30], task=["reach", "push"])
    row = read_evaluations(path)[-1]
    append_row(path / "evaluations.jsonl", {**row, "tasks": tasks})
    with pytest.raises(UserError, match=r"s0: is broken: evaluations\.jsonl has tasks"):
        read_runs([tmp_path])


def test_a_folder_whose_name_is_no_text(ask, tmp_path):
    three(tmp_path / "a", 40, 41, 42)
    make_run(tmp_path / "b", 0, 3, encoder="pixels")
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/b\xff")
    make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")), 1, status="failed")
    code, out, _ = ask(".")
    assert code == 0 and r"b\udcff/s1: is not finished" in out and (tmp_path / "report.html").read_text(encoding="utf-8")
    [group] = read_runs([Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))])[0]  # its label is the folder's name
    draw_groups([group], tmp_path / "curves.png")
    (tmp_path / "a" / "s0" / "overrides.txt").write_bytes(b"task=\xff")
    assert "its own command" in report.more_seeds(read_runs([tmp_path / "a" / "s0"])[0][0])


def test_dollar_signs_are_no_formula(tmp_path, monkeypatch):
    for name in "ab":
        make_run(tmp_path / name, 0, weights=f"/{name}/$a^$.pt")
    groups, _ = read_runs([tmp_path])
    [arena] = arenas(groups)
    assert draw_groups(groups, tmp_path / "x.png").exists()
    assert figures.draw_profiles(arena.methods, arena.tasks)
    assert figures.draw_intervals([(method, Interval(0.5, 0.4, 0.6)) for method in arena.methods], "x")
    monkeypatch.setattr(figures, "plain", str)  # the control
    with pytest.raises(ValueError, match="Parse"):
        figures.draw_profiles(arena.methods, arena.tasks)


def test_of_two_runs_with_one_seed_the_newer_counts(tmp_path):
    older, newer = make_run(tmp_path / "a", 0, 10), make_run(tmp_path / "b", 0, 40, tag="again", device="cuda")
    for path, time in ((older, 1000), (newer, 2000)):
        os.utime(path / "summary.json", (time, time))
    for order in ([older, newer], [newer, older], [newer, older, newer.parent]):  # a run named twice is one run
        (group,), left_out = read_runs(order)
        assert [run.path for run in group.runs] == [newer]
        assert [(path, str(newer) in reason and "newer" in reason) for path, reason in left_out] == [(older, True)]


@pytest.mark.parametrize(
    ("setting", "value"), [("task", "push"), ("eval_camera", "L3"), ("appearance", "varied"), ("horizon", 50), ("eval_episodes", 20)]
)
def test_other_episodes_are_not_compared(ask, tmp_path, setting, value):
    three(tmp_path / "a", 20, 19, 18)
    three(tmp_path / "b", 1, 2, 3, **{setting: value})
    code, out, _ = ask(".")
    assert code == 0 and "is better" not in out and "no difference" not in out
    both = " and ".join(sorted((str(SETTINGS[setting]), str(value))))
    assert f"not compared: groups of different tables, their episodes are not the same ({setting} {both})" in out
    assert out.count("random policy") == 2  # each table has its own reference lines
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["comparisons"] == [] and both in facts["not_compared"]  # one line, however many pairs there are


def test_a_training_setting_may_differ(tmp_path):
    three(tmp_path / "a", 49, 48, 50)
    three(tmp_path / "b", 1, 2, 3, camera="L3")
    [comparison] = compare(read_runs([tmp_path])[0])
    assert str(comparison).startswith("camera=L1 is better than camera=L3 by ")


def test_labels_say_what_differs(tmp_path):
    make_run(tmp_path / "a")
    assert [group.label for group in read_runs([tmp_path])[0]] == ["a"]
    make_run(tmp_path / "b", encoder="pixels")  # its class and keys differ too, which the name says already
    assert [group.label for group in read_runs([tmp_path])[0]] == ["encoder=mvp", "encoder=pixels"]
    make_run(tmp_path / "c", views=["front", "wrist"], weights="random", agent={**SETTINGS["agent"], "gamma": 0.9})
    assert [group.label for group in read_runs([tmp_path])[0]] == [
        "encoder=mvp agent.gamma=0.95 weights=null views=[front]",
        "encoder=pixels agent.gamma=0.95 weights=null views=[front]",
        "encoder=mvp agent.gamma=0.9 weights=random views=[front,wrist]",
    ]


def test_titles_with_brackets_are_printed_as_they_are(ask, tmp_path):
    make_imitation(tmp_path / "a", 0, [40, 30], task=["reach", "push"])
    assert "[reach,push], camera L1, plain" in ask(".")[1]


def test_how_often_a_run_logs_makes_no_other_method(tmp_path):
    make_imitation(tmp_path / "a", 0, log_every=100, checkpoint_every=500, cache=True)
    make_imitation(tmp_path / "b", 1, log_every=500, checkpoint_every=900, cache=False)
    assert [group.seeds for group in read_runs([tmp_path])[0]] == [[0, 1]]
    make_imitation(tmp_path / "c", 2, augment="crop")  # the control
    assert len(read_runs([tmp_path])[0]) == 2


def test_labels_with_brackets_are_printed_as_they_are(ask, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", views=["front", "wrist"])  # rich would take [front,wrist] for a colour
    _, out, _ = ask(".")
    assert "│ views=[front,wrist] " in out and "not compared: views=[front,wrist] has" in out


def test_many_groups_are_compared_with_the_best_and_counted_all(ask, tmp_path):
    for index in range(10):
        three(tmp_path / f"g{index}", 4 * index, 4 * index + 2, 4 * index + 1, encoder=f"e{index}")
    found = compare(read_runs([tmp_path])[0])
    assert len(found) == 9 and {each.first for each in found} == {"encoder=e9"}
    assert min(each.level for each in found) == pytest.approx(0.05 / 45)  # 45 pairs, though 9 are shown
    for each in found:
        low, high = each.estimate.interval(each.level)
        assert (each.verdict == "better") == (low > 0 or high < 0)
    assert {each.verdict for each in found} == {"better", "no difference shown"}
    _, out, _ = ask(".")
    assert "Holm" in out and "only pairs with the best are shown" in out


def test_references_count_each_seed_once(ask, tmp_path):
    three(tmp_path / "a", 40, 41, 42)
    three(tmp_path / "b", 20, 21, 22, encoder="pixels")
    groups, _ = read_runs([tmp_path])
    assert len(report.references(groups, "random")) == 3
    _, out, _ = ask(".")
    [line] = [line for line in out.splitlines() if "random policy" in line]
    assert "0-2" in line and "2 % [0 to 11]" in line


def test_steps_to_ninety_percent_are_those_of_the_first_such_evaluation(ask, tmp_path):
    """The runs' evaluations rise evenly over their 1000 steps to the final success."""
    three(tmp_path / "runs", 50, 46, 40)
    code, out, _ = ask("runs")
    assert code == 0 and "1000, 1000, -" in out
    append_row(tmp_path / "runs" / "s0" / "metrics.jsonl", {"env_steps": 1250, "eval/success": 1.0})
    [group], _ = read_runs([tmp_path / "runs"])
    assert [run.steps_to(0.7) for run in group.runs] == [750, 1000, 1000] and command.steps_to_90(group) == [1000, 1000, None]


def test_report_files(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "draw_groups", draw_groups)
    three(tmp_path / "runs" / "a", 40, 41, 42)
    code, out, _ = ask("runs/a/s0", "runs/a/s1")
    assert code == 0 and "written to runs/a/report.html, runs/a/report.png and runs/a/report.json" in out
    [group] = json.loads((tmp_path / "runs" / "a" / "report.json").read_text())["groups"]
    assert group["seeds"] == [0, 1] and group["success"] == pytest.approx(0.81) and group["interval"] == "seeds"
    assert group["random"]["success"] == pytest.approx(0.02) and group["runs"] == ["runs/a/s0", "runs/a/s1"]
    code, out, _ = ask("runs", "out=elsewhere/deep")
    assert (tmp_path / "elsewhere" / "deep" / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "No run is named"),
        (["nowhere"], "nowhere does not exist"),
        (["file"], "file is a file"),
        (["empty"], "no run in empty"),
        (["failed"], "no finished run in failed"),
        (["good", "ot=x"], "out=FOLDER"),
        (["good", "out="], "out= is empty"),
        (["good", "out=file"], "out=file cannot be made"),
        (["good", "--json"], "--json"),
    ],
)
def test_mistakes(ask, tmp_path, arguments, says):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "failed", status="failed")
    make_run(tmp_path / "good")
    code, out, err = ask(*arguments)
    assert code == 2 and out == "" and says in err and err.count("\n") == 1


def test_it_needs_no_torch(tmp_path):
    three(tmp_path / "a", 40, 41, 42)
    script = "import sys; sys.path.insert(0, 'scripts'); import report; report.main(sys.argv[1:]); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in out and "'matplotlib.figure'" in out and "'torch'" not in out and "'matplotlib.pyplot'" not in out


# ---- imitation, tasks and controls -----------------------------------------------------------------------------------------------


def imitations(folder, **successes):
    """Three seeds per encoder and task, such as ``mvp={"reach": 40}``; identity is told the state."""
    for encoder, by_task in successes.items():
        for task, won in by_task.items():
            for seed in range(3):
                privileged = encoder == "identity"
                make_imitation(folder / f"{task}-{encoder}", seed, won + seed, encoder, task=task, privileged=privileged)
    return arenas(read_runs([folder])[0])


@pytest.mark.parametrize(("score", "successes"), [("last", 20), ("mean_last5", 24), ("max", 50)])
def test_the_score_says_which_evaluation_counts(ask, tmp_path, score, successes):
    make_imitation(tmp_path / "a", 0, evaluations=[50, 50, 5, 45, 20, 30, 20], score=score)  # the first two are not among the last five
    [group], _ = read_runs([tmp_path])
    assert group.runs[0].own.success.mean() == pytest.approx(successes / EPISODES) and group.runs[0].own.in_order
    _, out, _ = ask("a")
    assert f"{100 * successes // EPISODES} % [" in out and ("score=" in out) == (score != "last") and "updates" in out


def test_other_scores_are_not_compared(tmp_path):
    for seed in range(3):
        make_imitation(tmp_path / "a", seed, 40)
        make_imitation(tmp_path / "b", seed, 20, score="max")
    groups, _ = read_runs([tmp_path])
    assert compare(groups) == [] and report.unequal_contests(groups) == "their episodes are not the same (score last and max)"
    assert report.unequal_contests(groups[:1]) == ""


def test_an_unfinished_or_changed_imitation_is_left_out(tmp_path):
    make_imitation(tmp_path / "a", 0)
    for seed, change in ((1, {"updates": 999}), (2, {"episodes": 49})):
        path = make_imitation(tmp_path / "a", seed) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    [group], left_out = read_runs([tmp_path])
    assert group.seeds == [0] and all("of other steps or evaluation episodes" in reason for _, reason in left_out) and len(left_out) == 2


def test_both_commands_beside_each_other(ask, tmp_path):
    three(tmp_path / "rl", 40, 41, 42)
    for seed in range(2):
        make_imitation(tmp_path / "bc", seed, 20)
    _, out, _ = ask(".")
    groups, _ = read_runs([tmp_path])
    assert sorted(group.label for group in groups) == ["agent=sac", "policy=bc_r3m"]
    assert "python run_imitation.py encoder=mvp task=reach seed=2\n" in out and "steps" in out


def test_runs_with_several_tasks_count_on_each(tmp_path):
    for seed in range(3):
        make_imitation(tmp_path / "both", seed, [40, 10], task=["reach", "push"])
        make_imitation(tmp_path / "one", seed, 30)
    [arena] = arenas(read_runs([tmp_path])[0])
    assert sorted(arena.tasks) == ["push", "reach"]
    shares = {(m.label, task): [run.own.success.mean() for run in group.runs] for m in arena.methods for task, group in m.groups.items()}
    assert shares["mvp, tasks=[reach,push]", "reach"] == [0.8] * 3 and shares["mvp, tasks=[reach,push]", "push"] == [0.2] * 3
    assert len(shares) == 3 and [m.label for m in arena.complete] == ["mvp, tasks=[reach,push]"]
    [both] = [group for method in arena.complete for task, group in method.groups.items() if task == "push"]
    assert both.runs[0].references["expert"].success.mean() == 1 and len(both.runs[0].own.success) == EPISODES
    assert both.runs[0].learning()[1].tolist() == [0.04, 0.08, 0.12, 0.16, 0.2]
    path = both.runs[0].path / "evaluations.jsonl"
    append_row(
        path, {**read_evaluations(path.parent)[-1], "by": "scripts/evaluate.py", "tasks": {"push": {"success": 1.0, "episodes": 50}}}
    )
    assert both.runs[0].learning()[1].tolist() == [0.04, 0.08, 0.12, 0.16, 0.2]


def learned(name, rates, seeds, random, one_policy):
    """A method whose runs succeed at these rates, (tasks, seeds)."""
    settings = {"eval_camera": "L1", "names.encoder": name, **({"tasks": list("abc")} if one_policy else {})}
    groups = {}
    for task, each in zip("abc", rates, strict=True):
        own = [Outcomes((random.random(EPISODES) < rate).astype(float), np.zeros(1), True) for rate in each]
        runs = [FinishedRun(Path(name), {**settings, "task": task, "seed": seed}, {}, own[seed], {}) for seed in range(seeds)]
        groups[task] = Group(runs, name)
    return Method(name, settings, groups)


@pytest.mark.parametrize("seeds", [3, 5])
def test_policies_that_learned_all_tasks_are_seldom_called_better_by_chance(seeds):
    """What a seed brings it brings on all tasks. The control takes the same figures for those of a policy per task."""
    random = np.random.default_rng(seeds)
    called = {True: 0, False: 0}
    for _ in range(300):
        rates = np.clip(0.5 + random.normal(0, 0.2, (2, 1, seeds)), 0.02, 0.98).repeat(3, axis=1)
        for one_policy in called:
            again = np.random.default_rng(int(1e6 * rates[0, 0, 0]))
            first, second = (learned(name, rates[i], seeds, again, one_policy) for i, name in enumerate(("mvp", "random")))
            called[one_policy] += difference_over(first, second, list("abc")).p_value() < 0.05
    assert called[True] <= 0.07 * 300 < 0.13 * 300 < called[False]


def test_page_terminal_and_json_call_the_same(ask, tmp_path):
    """Each task is a family of its own: two tasks with three methods each are corrected for three pairs, not for six."""
    found = imitations(tmp_path, mvp={"reach": 42, "push": 40}, pixels={"reach": 38, "push": 37}, random={"reach": 10, "push": 12})
    _, out, _ = ask(".")
    facts = json.loads((tmp_path / "report.json").read_text())
    in_json = {frozenset((each["first"], each["second"])): each for each in facts["comparisons"]}
    assert len(in_json) == 6 and min(each["level"] for each in in_json.values()) == pytest.approx(0.05 / 3)
    assert {each["verdict"] for each in in_json.values()} == {"better", "no difference shown"}
    assert all(each["text"] in out for each in in_json.values())
    [section] = [page._tasks(arena, "") for arena in found]
    for task, table in zip(found[0].tasks, section.tables, strict=True):
        for each in (each for each in in_json.values() if f"task={task}" in each["first"]):
            first, second = (re.search(r"encoder=(\w+)", each[name])[1] for name in ("first", "second"))
            better, unclear = f"{first} is better than {second} by ", f"{first} and {second}"
            assert {"better": better, "no difference shown": unclear}[each["verdict"]] in " ".join(table.notes)
    assert not any(cell.tag in ("better", "worse") for table in section.tables for row in table.rows for cell in row.cells)


def test_runs_with_several_tasks_are_compared_on_each(ask, tmp_path):
    for seed in range(3):
        make_imitation(tmp_path / "a", seed, [40, 25], task=["reach", "push"])
        make_imitation(tmp_path / "b", seed, [10, 25], "pixels", task=["reach", "push"])
    _, out, _ = ask(".")
    assert "encoder=mvp on reach is better than encoder=pixels on reach by 60 points" in out
    assert re.search("encoder=(mvp|pixels) on push and encoder=(mvp|pixels) on push: no difference shown", out)


@pytest.mark.parametrize(("won", "outcome"), [(40, "better"), (12, "no difference shown"), (2, "worse")])
def test_the_verdict_on_pretraining_is_honest_either_way(tmp_path, won, outcome):
    [arena] = imitations(tmp_path, mvp={"reach": won, "push": won}, random={"reach": 14, "push": 10}, pixels={"reach": 45})
    [verdict] = [each for each in arena.verdicts if each.method.arm == "pretrained"]
    assert verdict.outcome == outcome and verdict.control.label == "random" and verdict.seeds == 3
    assert verdict.tasks == arena.tasks and verdict.estimate.value == pytest.approx((won - 12) / EPISODES)
    low, high = verdict.estimate.interval(verdict.level)
    assert {"better": low > 0, "worse": high < 0, "no difference shown": low < 0 < high}[outcome]
    assert verdict.improvement.value == {"better": 1, "worse": 0}.get(outcome, verdict.improvement.value)
    assert [method.arm for method in arena.methods if method not in arena.complete] == ["pixels"]  # it was run on one task of two


def test_few_seeds_give_a_hint_but_no_claim(tmp_path):
    for seed in range(2):
        make_imitation(tmp_path / "a", seed, 49)
        make_imitation(tmp_path / "b", seed, 1, encoder="random")
    [arena] = arenas(read_runs([tmp_path])[0])
    [verdict] = arena.verdicts
    assert verdict.outcome == "too few seeds" and "is a hint; no claim" in str(verdict) and "+96 points [" in str(verdict)
    [arena] = arenas(read_runs([tmp_path / "a" / "s0", tmp_path / "b" / "s0"])[0])
    assert "knows these policies alone" in str(arena.verdicts[0]) and arena.verdicts[0].estimate.interval()[0] > 0.8


def test_a_control_differs_in_its_encoder_alone(tmp_path):
    make_imitation(tmp_path / "a", 0, 40)
    make_imitation(tmp_path / "b", 0, 10, encoder="random", demos=5)
    make_imitation(tmp_path / "c", 0, 10, encoder="random", policy="bc_mvp")
    [arena] = arenas(read_runs([tmp_path])[0])
    assert arena.verdicts == []
    make_imitation(tmp_path / "d", 0, 12, encoder="random")
    [arena] = arenas(read_runs([tmp_path])[0])
    assert [(each.method.label, each.control.label) for each in arena.verdicts] == [("mvp, bc_r3m, 25 demos", "random, bc_r3m, 25 demos")]
    make_imitation(tmp_path / "e", 0, 9, weights="random")  # the same network untrained is the better control
    [arena] = arenas(read_runs([tmp_path])[0])
    [verdict] = [each for each in arena.verdicts if each.method.arm == "pretrained"]
    assert verdict.control.settings["weights"] == "random" and verdict.control.settings["names.encoder"] == "mvp"


def test_arms_and_colours(tmp_path):
    for index, (encoder, demos) in enumerate([("mvp", 5), ("mvp", 25), ("random", 5), ("random", 25), ("pixels", 25), ("identity", 25)]):
        make_imitation(tmp_path / str(index), 0, 20, encoder, demos=demos, privileged=encoder == "identity")
    make_imitation(tmp_path / "x", 0, 20, "r3m", demos=25, weights="random")
    [arena] = arenas(read_runs([tmp_path])[0])
    found = {method.label: method for method in arena.methods}
    assert {label: method.arm for label, method in found.items()} == {
        "mvp, 5 demos": "pretrained",
        "mvp, 25 demos": "pretrained",
        "random, 5 demos": "random",
        "random, 25 demos": "random",
        "pixels, 25 demos": "pixels",
        "state, 25 demos": "state",
        "r3m, weights=random, 25 demos": "random",
    }
    assert found["mvp, 5 demos"].colour == found["mvp, 25 demos"].colour and found["mvp, 5 demos"].dash != found["mvp, 25 demos"].dash
    colours = [method.colour for method in found.values() if method.demos == 25]
    assert len(set(colours)) == len(colours) == 5


def test_stores_of_demonstrations_are_no_part_of_a_method(tmp_path):
    for task in ("reach", "push"):
        make_imitation(tmp_path / task, 0, task=task, demo_data=f"demos/{task}")
    [arena] = arenas(read_runs([tmp_path])[0])
    assert [list(method.groups) for method in arena.methods] == [["push", "reach"]]
    make_imitation(tmp_path / "other", 0, task="reach", demo_data="others/reach")  # two stores of one task are compared
    [arena] = arenas(read_runs([tmp_path])[0])
    assert len(arena.methods) == 3 and all(len(method.groups) == 1 for method in arena.methods)


def test_cells_are_read_with_their_runs(tmp_path):
    folder = make_benchmark(tmp_path / "quick", ("reach",), {"mvp": 30}, seeds=(0,), films=False)
    for path in (tmp_path, folder):
        finished, failed = read_cells([path])
        assert finished["run"].resolve() == (folder / "reach-mvp-25" / "s0").resolve() and finished["status"] == "finished"
        assert failed["status"] == "failed" and "The disk is full" in failed["error"]
    assert read_cells([folder / "reach-mvp-25"]) == []


def test_a_curve_on_demonstrations_shows_the_loss(tmp_path, monkeypatch):
    path = make_imitation(tmp_path, 0, [40, 10], task=["reach", "push"])
    figures = []
    monkeypatch.setattr(curves, "_save", lambda figure, path: figures.append(figure))
    draw_curve(path)
    success, loss = figures[0].axes
    assert loss.get_ylabel() == "loss" and loss.get_lines()[0].get_ydata()[0] == pytest.approx(1 / 200)
    assert success.get_xlabel() == loss.get_xlabel() == "gradient updates"
    lines = {line.get_label(): line for line in success.get_lines()}
    assert lines["expert"].get_ydata()[0] == 1 and success.containers[0].lines[0].get_ydata()[-1] == pytest.approx(0.5)


# ---- one run ---------------------------------------------------------------------------------------------------------------------


def printed(run):
    console = Console(width=200)
    with console.capture() as captured:
        print_run(run, console)
    return captured.get()


def test_the_table_of_a_run(tmp_path):
    path = make_run(tmp_path, successes=47)
    out = printed(path)
    assert re.search(r"trained +│ +94 % \[84 to 98\]", out) and out.index("trained") < out.index("random ") < out.index("expert ")
    assert "200 updates; 1 min 30 s" in out and f"checkpoint  {path / 'checkpoints' / '1000'}" in out and "films       none" in out
    assert "curve " not in out and "bad physics" not in out
    draw_curve(path)
    assert f"curve       {path / 'curve.png'}" in printed(path)


def test_the_table_names_bad_physics(tmp_path):
    path = make_run(tmp_path, summary={"warnings": {"badqacc": 2, "badqpos": 1, "contactfull": 0}})
    assert "bad physics 3 training episodes ended by MuJoCo's warnings (badqacc 2, badqpos 1)\n" in printed(path)
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "bad_physics": 4}))
    assert "; 4 of 50 evaluation episodes" in printed(path)


@pytest.mark.parametrize("agent", ["random", "expert"])
def test_the_table_of_a_reference_agent(tmp_path, agent):
    path = make_run(tmp_path, summary={"agent": agent, "env_steps": 0, "updates": 0})
    (path / "checkpoints" / "1000").rmdir()
    rows = [row for row in read_evaluations(path) if row["policy"] != "trained"]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = printed(path)
    assert "trained" not in out and out.count(f"│ {agent} ") == 1 and "checkpoint  none" in out and "does not learn" in out
    other = {"random": "expert", "expert": "random"}[agent]
    assert out.count(f"│ {other} ") == 1 and out.index(f"│ {agent} ") < out.index(f"│ {other} ")


def test_the_table_of_an_older_run(tmp_path):
    path = make_run(tmp_path, lists=False)
    summary = json.loads((path / "summary.json").read_text())
    del summary["agent"], summary["warnings"]
    (path / "summary.json").write_text(json.dumps(summary))
    assert re.search("trained +│", printed(path))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"env_steps": 100}],
        [{"env_steps": 100, "train/success": 0.5, "train/return": None, "eval/success": 0.2}],  # no eval/episodes
        [{"env_steps": 100, "eval/success": None, "eval/return": None, "eval/episodes": 5}, {"step": 3}],
        [{"env_steps": step, "train/success": step / 300, "eval/success": 1.0, "eval/episodes": 5} for step in (100, 200, 300)],
    ],
)
def test_a_curve_is_drawn_whatever_rows_there_are(tmp_path, rows):
    path = make_run(tmp_path)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"env_st')
    assert draw_curve(path) == path / "curve.png" and (path / "curve.png").stat().st_size > 5000
    groups, _ = read_runs([path])
    assert draw_groups(groups, tmp_path / "report.png").stat().st_size > 5000


def test_a_curve_that_cannot_be_written_is_a_failure(tmp_path):
    path = make_run(tmp_path)
    (path / "curve.png.tmp").mkdir()
    with pytest.raises(Failure, match=r"curve\.png cannot be written \(Is a directory\)"):
        draw_curve(path)


def test_a_curve_shows_the_metrics(tmp_path, monkeypatch):
    path = make_run(tmp_path, successes=40)
    figures = []
    monkeypatch.setattr(curves, "_save", lambda figure, path: figures.append(figure))
    draw_curve(path)
    success, returns = figures[0].axes
    lines = {line.get_label(): line for line in success.get_lines()}
    assert lines["training"].get_xydata().tolist() == [[250, 0.2], [500, 0.4], [750, 0.6], [1000, 0.8]]
    assert lines["random policy"].get_ydata()[0] == 0.02 and lines["expert"].get_ydata()[0] == 1
    [bars] = success.containers[0].lines[2]
    assert [tuple(bar[:, 1]) for bar in bars.get_segments()][-1] == pytest.approx(wilson(40, 50))
    assert [text.get_text() for text in figures[0].legends[0].get_texts()][-2:] == ["random policy", "expert"]
    assert returns.get_lines()[0].get_ydata()[-1] == pytest.approx(26)


def test_curves_of_groups_are_means_with_the_range(tmp_path, monkeypatch):
    three(tmp_path / "a", 10, 20, 45)
    figures = []
    monkeypatch.setattr(curves, "_save", lambda figure, path: figures.append(figure))
    draw_groups(read_runs([tmp_path])[0], tmp_path / "x.png")
    success = figures[0].axes[0]
    assert success.get_lines()[0].get_ydata().tolist() == pytest.approx([0.125, 0.25, 0.375, 0.5])
    corners = success.collections[0].get_paths()[0].vertices
    assert corners[corners[:, 0] == 1000][:, 1].min() == pytest.approx(0.2) and corners[:, 1].max() == pytest.approx(0.9)


def test_no_path_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no config.yaml"):
        read_runs([tmp_path])
