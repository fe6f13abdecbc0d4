"""Run folders that are made up, so that what should be said of them is known."""

import io
import json
from pathlib import Path

import numpy as np
import yaml

from robo_repr.core.film import write_film
from robo_repr.core.metrics import append_row
from robo_repr.core.stats import wilson

EPISODES = 50
SETTINGS = {
    "encoder": {"_target_": "robo_repr.encoders.mvp.MVP", "variant": "tiny"},
    "agent": {"_target_": "agents.sb3.SAC", "gamma": 0.95},
    "task": "reach",
    "weights": None,
    "camera": "L1",
    "eval_camera": "L1",
    "appearance": "plain",
    "horizon": None,
    "steps": 1000,
    "eval_episodes": EPISODES,
    "views": ["front"],
    "seed": 0,
    "device": "cpu",
    "logger": "tensorboard",
    "tag": None,
    "run_dir": None,
    "fresh": False,
    "names": {"encoder": "mvp", "agent": "sac", "budget": "default"},
}


def outcome(successes, seed, episodes=EPISODES, lists=True):
    """An evaluation in which this many of the episodes succeeded, which ones being drawn."""
    won = np.random.default_rng(seed).permutation(episodes) < successes
    row = {"success": successes / episodes, "success_ci95": wilson(successes, episodes), "success_end": successes / episodes}
    row |= {"success_ever": successes / episodes, "return": float(10 + 20 * won.mean()), "episodes": episodes, "bad_physics": 0}
    return row | ({"episode_success": won.astype(int), "episode_return": 10 + 20.0 * won} if lists else {})


def make_run(folder, seed=0, successes=40, status="finished", lists=True, encoder="mvp", summary=(), **settings):
    """A run folder as run_rl.py leaves it."""
    settings = {**SETTINGS, **settings, "seed": seed, "names": {**SETTINGS["names"], "encoder": encoder}}
    settings["encoder"] = {"_target_": f"robo_repr.encoders.{encoder}.X", **({"variant": "tiny"} if encoder == "mvp" else {})}
    path = Path(folder) / f"s{seed}"
    (path / "videos").mkdir(parents=True)
    (path / "checkpoints" / "1000").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (path / "overrides.txt").write_text(f"encoder={encoder}\nseed={seed}\nviews=[front]\n")
    trained = outcome(successes, seed, settings["eval_episodes"], lists)
    facts = {"command": "rl", "status": status, **{key: value for key, value in trained.items() if not key.startswith("episode_")}}
    facts |= {"env_steps": 1000, "updates": 200, "wall_s": 90.0, "task": settings["task"], "seed": seed, "agent": "sac"}
    facts |= {key: settings[key] for key in ("camera", "eval_camera", "appearance")}
    facts |= {"encoder": {"name": encoder, "weights_sha256": None, "trained_by": "nobody"}, "warnings": {}, **dict(summary)}
    (path / "summary.json").write_text(json.dumps(facts))
    for step in (250, 500, 750, 1000):
        share = successes / settings["eval_episodes"] * step / 1000
        row = {"env_steps": step, "train/success": share, "train/return": 10 + 20 * share, "eval/episodes": EPISODES}
        append_row(path / "metrics.jsonl", row | {"eval/success": share, "eval/return": 10 + 20 * share})
    where = {"camera": settings["eval_camera"], "appearance": settings["appearance"]}
    for policy, won in (("random", 1), ("expert", settings["eval_episodes"])):
        append_row(
            path / "evaluations.jsonl", {"policy": policy, "env_steps": 0, **where, **outcome(won, seed, settings["eval_episodes"], lists)}
        )
    append_row(path / "evaluations.jsonl", {"policy": "trained", "env_steps": 1000, **where, **trained})
    return path


def three(folder, *successes, **settings):
    """A group of one run per number, with the seeds 0, 1, 2 and so on."""
    return [make_run(folder, seed, number, **settings) for seed, number in enumerate(successes)]


KINDS = ("success", "return", "episodes")
IMITATION = {
    "encoder": {"_target_": "robo_repr.encoders.mvp.MVP", "variant": "tiny"},
    "policy": {"_target_": "agents.imitation.policies.bc_r3m.BCR3M", "learning_rate": 0.001},
    "task": "reach",
    "variant": None,
    "weights": None,
    "encoder_mode": "frozen",
    "privileged": False,
    "camera": "L1",
    "eval_camera": "L1",
    "appearance": "plain",
    "horizon": None,
    "demos": 25,
    "demo_data": None,
    "steps": 1000,
    "evaluations": 5,
    "eval_episodes": EPISODES,
    "eval_starts": "fixed",
    "score": "last",
    "seed": 0,
    "device": "cpu",
    "logger": "tensorboard",
    "tag": None,
    "run_dir": None,
    "fresh": False,
    "benchmark": None,
    "encoders": None,
    "cell": None,
    "names": {"encoder": "mvp", "policy": "bc_r3m", "budget": "default"},
}


def make_imitation(folder, seed=0, successes=40, encoder="mvp", policy="bc_r3m", films=False, evaluations=None, **settings):
    """A run folder as run_imitation.py leaves it.

    Args:
        successes: of the last evaluation; of several tasks a list, one for each.
        evaluations: of each evaluation in training, in place of a rise to `successes`; lists for several tasks.
    """
    settings = {**IMITATION, **settings, "seed": seed, "names": {**IMITATION["names"], "encoder": encoder, "policy": policy}}
    settings["encoder"] = {"_target_": f"robo_repr.encoders.{encoder}.X", **({"variant": "tiny"} if encoder == "mvp" else {})}
    path = Path(folder) / f"s{seed}"
    (path / "checkpoints" / "1000").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (path / "overrides.txt").write_text(f"encoder={encoder}\nseed={seed}\ntask={settings['task']}\n")
    tasks = settings["task"] if isinstance(settings["task"], list) else [settings["task"]]
    last = successes if isinstance(successes, list) else [successes] * len(tasks)
    each = evaluations or [[number * k // 5 for number in last] for k in range(1, 6)]
    episodes, where = settings["eval_episodes"], {"camera": settings["eval_camera"], "appearance": settings["appearance"]}

    def row(policy, step, numbers, salt=0):
        parts = [outcome(number, seed + 100 * index + salt, episodes) for index, number in enumerate(numbers)]
        lists = {key: np.concatenate([part[key] for part in parts]) for key in ("episode_success", "episode_return")}
        success = float(lists["episode_success"].mean())
        facts = {"success": success, "success_ci95": wilson(round(success * episodes * len(tasks)), episodes * len(tasks))}
        facts |= {"success_end": success, "success_ever": success, "return": float(lists["episode_return"].mean()), "bad_physics": 0}
        facts |= {"episodes": episodes * len(tasks)}
        if len(tasks) > 1:
            facts["tasks"] = {task: {"success": part["success"], "episodes": episodes} for task, part in zip(tasks, parts, strict=True)}
        return {"policy": policy, "step": step, **where, **facts}, lists

    rows = [row("trained", 200 * (k + 1), numbers if isinstance(numbers, list) else [numbers], k) for k, numbers in enumerate(each)]
    known = [row(reference, 0, [won] * len(tasks)) for reference, won in (("random", 1), ("expert", episodes))]
    lines = [facts | {key: values.tolist() for key, values in lists.items()} for facts, lists in [*known, *rows]]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"step": facts["step"], "loss": 1 / facts["step"], **{f"eval/{key}": facts[key] for key in KINDS}} for facts, _ in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    all_scores = [facts["success"] for facts, _ in rows]
    scores = {"last": all_scores[-1], "mean_last5": float(np.mean(all_scores[-5:])), "max": max(all_scores)}
    summary = {**rows[-1][0], "command": "imitation", "status": "finished", "policy": policy, "success": scores[settings["score"]]}
    summary |= {"scores": scores, "score": settings["score"], "demos": settings["demos"], "steps": 1000, "updates": 1000, "env_steps": 0}
    summary |= {"wall_s": 60.0, "task": ",".join(tasks), "seed": seed, "warnings": {}, "eval_camera": settings["eval_camera"]}
    summary |= {"encoder": {"name": encoder, "weights_sha256": None, "trained_by": "nobody"}}
    (path / "summary.json").write_text(json.dumps(summary))
    if films:
        (path / "videos").mkdir()
        for name, grey in (("success", 200), ("failure", 60)):
            write_film(path / "videos" / f"{name}.mp4", np.full((2, 16, 16, 3), grey, dtype=np.uint8), fps=2)
    return path


def make_benchmark(folder, tasks=("reach", "button", "drawer"), encoders=None, demos=(25,), seeds=(0, 1), films=True, failed=True):
    """A benchmark's folder: runs, and results.jsonl with a cell that failed.

    Args:
        encoders: how many of `EPISODES` succeed on the first task with the fewest demonstrations, by encoder.
    """
    encoders = encoders or {"mvp": 30, "pixels": 18, "random": 12, "identity": 44}
    for encoder, base in encoders.items():
        for index, task in enumerate(tasks):
            for level, count in enumerate(demos):
                for seed in seeds:
                    won = min(EPISODES, max(0, base + 4 * level - 3 * index + (5 * seed + 3 * index) % 7 - 3))
                    name = f"{task}-{encoder}-{count}"
                    settings = {"task": task, "demos": count, "privileged": encoder == "identity", "films": films and seed == 0}
                    make_imitation(folder / name, seed, won, encoder, **settings)
                    cell = {"cell": f"{name}/s{seed}", "name": name, "status": "finished", "encoder": encoder, "task": task}
                    row = {**cell, "demos": count, "seed": seed, "run": f"{name}/s{seed}", "error": None}
                    append_row(folder / "results.jsonl", {**row, "rerun": f"python run_imitation.py benchmark=made_up cell={len(name)}"})
    if failed:
        row = {"cell": "push-mvp-25/s0", "status": "failed", "run": "push-mvp-25/s0", "error": "The disk is full. Make room & start again."}
        append_row(folder / "results.jsonl", {**row, "rerun": "python run_imitation.py benchmark=made_up cell=99"})
    return folder


REGIMES = {"fixed": "L0", "wide": "L3", "several": "among:front+left+right"}
REACH = {0: 0.0, 1: 5.0, 2: 10.0, 3: 20.0, 4: 45.0, 5: 75.0}  # degrees of azimuth


def view_rows(condition, kind, camera, shares, seed, episodes, level=None, tasks=1, appearance="plain"):
    """The rows of views.jsonl of one condition, of the policy and of the expert.

    Args:
        shares: how likely the policy and the expert succeed; the same episodes succeed first at every level.
    """
    moved = np.random.default_rng([seed, 7])
    reach = REACH.get(level or 3, 20.0) if camera != "L0" else 0.0
    views = {}
    for name in ("wrist", "front"):
        scale = 0.0 if name == "wrist" else 1.0
        factors = {"azimuth": reach, "elevation": reach / 3, "roll": reach / 5, "fov": reach / 4}
        views[name] = {key: (scale * moved.uniform(-most, most, episodes * tasks)).round(2).tolist() for key, most in factors.items()}
        views[name]["distance"] = [1.0] * episodes * tasks
    luck = np.random.default_rng([seed, 3]).random(episodes * tasks)
    rows = []
    for policy, share in zip(("trained", "expert"), shares, strict=True):
        won = (luck < share).astype(int)
        successes = {"success": float(won.mean()), "success_ci95": wilson(won.sum(), len(won)), "success_end": float(won.mean())}
        facts = {"condition": condition, "kind": kind, "level": level, "camera": camera, "appearance": appearance, "calibration": 0.0}
        facts |= {"policy": policy, **successes, "success_ever": float(won.mean()), "return": float(10 + 20 * won.mean())}
        facts |= {"episodes": len(won), "bad_physics": 0, "episode_success": won.tolist(), "episode_return": (10 + 20.0 * won).tolist()}
        facts |= {"seeds_sha256": f"{seed}-{len(won)}", "views_drawn": len(won) + 4, "views_rejected": 4, "views": views, "seconds": 1.0}
        rows.append(facts)
    return rows


def make_view(
    folder,
    seed=0,
    levels=None,
    encoder="mvp",
    regime="fixed",
    presets=None,
    factors=None,
    controls=None,
    episodes=EPISODES,
    drift=None,
    status="finished",
    films=False,
    summary=(),
    **settings,
):
    """A run folder as run_viewpoint.py leaves it.

    Args:
        levels, presets, factors, controls: how likely the policy succeeds, by level, camera setting, factor, and control's name and camera.
        drift: feature drift by level.
        settings: of the policy's training.
    """
    levels = {0: 0.9, 3: 0.5} if levels is None else levels
    trained = {**SETTINGS, "camera": REGIMES.get(regime, regime), "camera_input": False, **settings, "seed": seed}
    trained["names"] = {**SETTINGS["names"], "encoder": encoder}
    trained["encoder"] = {"_target_": f"robo_repr.encoders.{encoder}.X", **({"variant": "tiny"} if encoder == "mvp" else {})}
    tasks = trained["task"] if isinstance(trained["task"], list) else [trained["task"]]
    path = Path(folder) / f"s{seed}"
    path.mkdir(parents=True)
    asked = {"run": f"runs/rl/x/s{seed}", "levels": list(levels), "presets": list(presets or []), "factors": list(factors or [])}
    asked |= {"controls": list(controls or []), "episodes": episodes, "appearance": None, "seed": None, "task": None, "names": {}}
    (path / "config.yaml").write_text(yaml.safe_dump(asked))
    (path / "trained.yaml").write_text(yaml.safe_dump(trained))
    (path / "overrides.txt").write_text(f"run=runs/rl/x/s{seed}\nepisodes={episodes}\n")
    rows = []
    for level, share in levels.items():
        camera = f"L{level}:shell" if level else "L0"
        rows += view_rows(f"L{level}", "level", camera, (share, 1.0), seed, episodes, level, len(tasks))
    for preset, share in (presets or {}).items():
        rows += view_rows(preset, "preset", preset, (share, 0.98), seed, episodes, tasks=len(tasks))
    for factor, share in (factors or {}).items():
        rows += view_rows(f"L3:{factor}", "factor", f"L3:{factor}:shell", (share, 1.0), seed, episodes, tasks=len(tasks))
    for (control, camera), share in (controls or {}).items():
        rows += view_rows(control, "control", camera, (share, 1.0), seed, episodes, tasks=len(tasks))
    (path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {
        "command": "viewpoint",
        "status": status,
        "run": asked["run"],
        "trained_by": "rl",
        "regime": regime,
        "env_steps": 1000,
        "updates": 200,
    }
    facts |= {"train_camera": trained["camera"], "encoder": {"name": encoder}, "seed": seed, "task": ",".join(tasks), "wall_s": 60.0}
    facts |= {"presets": {name: {"published": "azimuth ±45° about the robot's base, radius σ 5 cm"} for name in presets or {}}}
    (path / "summary.json").write_text(json.dumps({**facts, **dict(summary)}))
    if drift:
        (path / "drift.json").write_text(json.dumps(made_up_drift(drift, tasks[0])))
    if films:
        (path / "videos").mkdir()
        for level in levels:
            for name, grey in (("success", 200), ("failure", 60)):
                write_film(path / "videos" / f"L{level}-{name}.mp4", np.full((2, 64, 64, 3), grey + level, dtype=np.uint8), fps=2)
        (path / "strip.png").write_bytes(made_up_strip(levels))
    return path


def made_up_drift(drift, task="reach"):
    """drift.json of feature drifts by level."""
    conditions = {}
    for level, value in drift.items():
        facts = {"camera": f"L{level}:shell", "feature_drift": value, "feature_drift_ci95": [0.9 * value, 1.1 * value]}
        conditions[f"L{level}"] = {**facts, "probe_cm": 2 + 5 * value, "probe_cm_ci95": [1.5 + 5 * value, 2.5 + 5 * value]}
        conditions[f"L{level}"] |= {"ceiling_cm": 2 + value, "ceiling_cm_ci95": [1.5 + value, 2.5 + value]}
    return {"task": task, "episodes": 100, "same_scene": 0.3, "other_scene": 1.0, "no_picture_cm": 9.0, "conditions": conditions}


def made_up_strip(levels):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 255, (84, 84 * len(levels), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def make_encoder_view(folder, encoder="r3m", seed=0, drift=None):
    """A folder of run_viewpoint.py that judged an encoder alone."""
    path = Path(folder) / f"s{seed}"
    path.mkdir(parents=True)
    asked = {"run": None, "levels": [0, 3], "presets": [], "factors": [], "controls": [], "episodes": 100, "seed": seed, "task": None}
    (path / "config.yaml").write_text(yaml.safe_dump({**asked, "variant": None, "weights": None, "readout": None, "appearance": None}))
    (path / "overrides.txt").write_text(f"encoder={encoder}\n")
    facts = {"command": "viewpoint", "status": "finished", "run": None, "encoder": {"name": encoder}, "task": "reach", "views": ["front"]}
    (path / "summary.json").write_text(json.dumps({**facts, "seed": seed}))
    (path / "drift.json").write_text(json.dumps(made_up_drift(drift or {0: 0.0, 3: 0.5})))
    return path


def make_views(folder, seeds=(0, 1, 2), episodes=EPISODES, films=True, encoders=("mvp", "random"), **settings):
    """Two encoders and two regimes under levels 0, 1, 3 and 4, with presets, a factor and controls, and an encoder alone."""
    for encoder in encoders:
        good = 0.92 if encoder != "random" else 0.55
        for regime in ("fixed", "wide"):
            falls = {0: 1.0, 1: 0.95, 3: 0.45, 4: 0.15} if regime == "fixed" else {0: 0.96, 1: 0.95, 3: 0.85, 4: 0.4}
            for seed in seeds:
                shares = {level: good * share - 0.04 * (seed % 3) for level, share in falls.items()}
                presets = {"vista:arc": 0.3 * good, "maniwhere": 0.4 * good, "L3:jitter": 0.7 * good}
                controls = {("together", "L3:shell@together"): 0.4 * good, ("background", "L3:shell"): 0.3 * good}
                controls[("alone:front", "L3:shell@front")] = 0.6 * good
                drift = {level: (0.1 + 0.2 * level) * (1 if encoder == "mvp" else 1.4) if level else 0.0 for level in falls}
                factors = {"azimuth": 0.6 * good, "roll": 0.8 * good}
                more = {"films": films and seed == seeds[0], "presets": presets, "factors": factors, "controls": controls}
                place = folder / f"reach-{encoder}-{regime}"
                make_view(place, seed, shares, encoder, regime, episodes=episodes, drift=drift, **more, **settings)
    make_encoder_view(folder / "reach-r3m-encoder", drift={0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8})
    return folder
