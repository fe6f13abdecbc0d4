"""The catalogue says what the encoders and tasks themselves say, loads no weights, and does not fall over one of them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robo_repr.core import config
from robo_repr.encoders import load_encoder, registry

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import catalog  # noqa: E402

SOME = ["identity", "mvp", "pixels", "r3m", "random"]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A configs folder of some encoders, to which tests add."""
    folder = tmp_path / "configs"
    (folder / "encoder").mkdir(parents=True)
    for name in SOME:
        shutil.copy(config.CONFIGS / "encoder" / f"{name}.yaml", folder / "encoder")
    monkeypatch.setattr(config, "CONFIGS", folder)
    monkeypatch.setattr(catalog, "CONFIGS", folder)
    monkeypatch.setenv("ROBO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("COLUMNS", "80")
    return folder / "encoder"


@pytest.fixture
def rows(configs, capsys):
    """Reads --json; rows by (name, variant)."""

    def read(code=0):
        assert catalog.main(["encoders", "--json"]) == code
        return {(row["name"], row["variant"]): row for row in json.loads(capsys.readouterr().out)}

    return read


def test_rows_are_what_the_built_encoders_say(rows):
    found = rows()
    assert {name for name, _ in found} == set(SOME) and len([name for name, _ in found if name == "r3m"]) == 3
    real = {
        ("identity", None): load_encoder("identity"),
        ("pixels", None): load_encoder("pixels"),
        ("mvp", "tiny"): load_encoder("mvp"),
        ("random", "tiny"): load_encoder("random"),
        ("r3m", "resnet18"): load_encoder("r3m", variant="resnet18", weights="random"),
        ("r3m", "resnet50"): load_encoder("r3m", variant="resnet50", weights="random"),
    }
    for key, encoder in real.items():
        row, spec = found[key], encoder.spec
        assert (row["pixels"], row["D"], row["frames"]) == (list(spec.size), spec.dim, spec.frames)
        assert row["grid"] == (None if spec.grid is None else list(spec.grid)) and (row["token D"] or 0) == spec.token_dim
        assert row["inputs"] == list(spec.inputs) and (row["can"] or []) == sorted(spec.can)


def test_head_of_the_yaml_and_weights_of_the_controls(rows):
    found = rows()
    assert found["pixels", None]["what"].startswith("Control: the raw picture") and "our own" in found["pixels", None]["source"]
    assert [found[key]["weights"] for key in [("pixels", None), ("random", "tiny"), ("mvp", "tiny")]] == [
        "none needed",
        "untrained",
        "bundled",
    ]


def test_networks_are_built_without_memory():
    hollow = catalog._hollow(config.load_part("encoder", "r3m"), "resnet50")
    assert {parameter.device.type for parameter in hollow.parameters()} == {"meta"}


WAYS = [
    ({"status": "alive", "megabytes": 90.4}, "fetch toy, 90 MB"),
    ({"status": "unverified", "hub": "us/toy"}, "fetch toy (untried); hub us/toy"),
    ({"status": "dead", "since": "2023-04"}, "dead since 2023-04"),
    ({"status": "private", "url": None}, "never public"),
    ({"status": "alive", "package": "no_such_package", "file": "x.pth"}, "in the package no_such_package, missing: make setup"),
]


@pytest.mark.parametrize(("fields", "text"), WAYS, ids=[text.split(",")[0] for _, text in WAYS])
def test_the_way_to_the_weights(rows, monkeypatch, fields, text):
    entry = {"url": "https://example.org/toy.pt", "encoder": "r3m", "variant": "resnet18", "licence": "MIT", "source": "us", **fields}
    toy = registry.Release(name="toy", **entry)
    monkeypatch.setattr(registry, "releases", lambda: {"toy": toy})
    found = rows()
    row = found["r3m", "resnet18"]
    assert (row["weights"], row["at_hand"], row["licence"], row["releases"]) == (text, False, "MIT", ["toy"])
    assert found["r3m", "resnet50"]["weights"] == "none published"


def test_fetched_weights_are_at_hand(rows, monkeypatch):
    toy = registry.Release("toy", "r3m", "resnet18", "MIT", "us", "alive", url="https://example.org/toy.pt")
    monkeypatch.setattr(registry, "releases", lambda: {"toy": toy})
    path = registry.fetched_file(toy)
    path.parent.mkdir()
    path.write_bytes(b"not looked at")
    row = rows()["r3m", "resnet18"]
    assert row["weights"] == "fetched" and row["at_hand"] is True


@pytest.mark.parametrize("target", ["robo_repr.encoders.nowhere.Lost", "robo_repr.encoders.controls.Lost"])
def test_a_broken_encoder_says_so_in_its_row_and_the_others_stay(configs, capsys, target):
    (configs / "lost.yaml").write_text(f"# Lost: it cannot be built.\n# Source: nowhere.\n_target_: {target}\n")
    assert catalog.main(["encoders", "--json"]) == 1
    out, err = capsys.readouterr()
    found = {(row["name"], row["variant"]): row for row in json.loads(out)}
    assert "error" in found["lost", None] and "lost" in err
    assert {name for name, _ in found} == {*SOME, "lost"} and found["pixels", None]["D"] == 432
    assert catalog.main(["encoders"]) == 1
    out, _ = capsys.readouterr()
    assert "broken" in out and "pixels" in out


def test_a_yaml_that_is_none_is_a_row_too(configs, capsys):
    (configs / "lost.yaml").write_text("a: [\n")
    assert catalog.main(["encoders"]) == 1
    assert "broken" in capsys.readouterr().out


def test_the_table_fits_80_columns_with_nothing_cut(configs, capsys):
    assert catalog.main(["encoders"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out
    assert all(word in out for word in [*SOME, "vitl-256-mae-egosoup", "14x14", "2048", "bundled"])


def test_unknown_groups(capsys):
    assert catalog.main(["encoder"]) == 2
    assert "Did you mean group=encoders" in capsys.readouterr().err
    assert catalog.main([]) == 2
    assert "encoders" in capsys.readouterr().err


def test_encoders_are_listed_without_a_simulator(configs, monkeypatch):
    for name in ("mujoco", "envs"):
        monkeypatch.setitem(sys.modules, name, None)  # its import fails
    assert catalog.main(["encoders"]) == 0


# --- tasks --------------------------------------------------------------------------------------------------------------------------------
def test_tasks_are_as_their_worlds_are(capsys):
    from envs import make_env
    from envs.checks import has_expert
    from envs.registry import TASKS

    assert catalog.main(["tasks", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(found) == list(TASKS)
    for name, row in found.items():
        env, privileged = (make_env(name, views=row["cameras"], image_size=8, privileged=privileged) for privileged in (False, True))
        sizes = [e.single_observation_space["state"].shape[0] for e in (env, privileged)]
        assert (row["horizon"], row["actions"], [row["state"], row["privileged"]]) == (env.horizon, env.single_action_space.shape[0], sizes)
        assert row["what"].lower().startswith(name) and row["instructions"] == list(env.task.instructions)
        assert row["expert"] == ("yes" if has_expert(env.task) else "no")
        env.close()
        privileged.close()


def test_a_broken_task_says_so_in_its_row_and_the_others_stay(capsys, monkeypatch):
    from envs.registry import TASKS

    monkeypatch.setitem(TASKS, "lost", "envs.tasks.nowhere:Lost")
    assert catalog.main(["tasks"]) == 1
    out, err = capsys.readouterr()
    assert "nowhere" in out and "lost" in err and "red ball" in out


# --- cameras ------------------------------------------------------------------------------------------------------------------------------
def test_the_sheet_shows_each_camera_at_each_level(tmp_path, monkeypatch, capsys):
    import sheets

    monkeypatch.setattr(sheets, "EPISODES", 6)
    path = tmp_path / "new" / "sheet.png"
    words = ["task=button", "views=[front, wrist]", "appearance=random", f"out={path}"]
    assert catalog.main(["cameras", *words]) == 0
    printed = capsys.readouterr().out
    assert all(word in "".join(printed.split()) for word in ["front", "wrist", "L5", "sheet.png"]) and "left" not in printed
    image = np.asarray(Image.open(path))
    size, step = sheets.CELL, sheets.CELL + sheets.GAP
    pictures = image[sheets.TITLE + sheets.HEADER :, image.shape[1] - 6 * step :]
    cells = [pictures[step * row :, step * column :][:size, :size] for row in range(2) for column in range(6)]
    assert path.stat().st_size < 250_000 and all(cell.std() > 10 for cell in cells)
    assert len({cell.tobytes() for cell in cells}) == 12


def test_the_share_of_episodes_is_counted_where_an_object_is_out_of_sight(tmp_path, monkeypatch, capsys):
    import sheets

    monkeypatch.setattr(sheets, "EPISODES", 6)
    monkeypatch.setattr(sheets, "seen", lambda env: np.arange(6)[:, None, None] < np.array([[[6, 6], [3, 5]]]))
    assert catalog.main(["cameras", "--json", "task=push", "views=front,top", f"out={tmp_path / 'x.png'}"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["camera"], row["L0"], row["L5"], row["episodes"]) for row in rows] == [("front", 100, 100, 6), ("top", 50, 50, 6)]


def test_settings_have_a_row_for_each_camera_that_they_move(tmp_path, monkeypatch, capsys):
    import sheets

    monkeypatch.setattr(sheets, "EPISODES", 6)
    path = tmp_path / "sheet.png"
    words = ["task=push", "views=[front,wrist]", "levels=[0,3]", "presets=[colosseum, squint,L3:sweep@front,colosseum]", f"out={path}"]
    assert catalog.main(["cameras", "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    both, alone = ["L0", "L3:shell", "squint"], ["colosseum", "L3:sweep@front"]
    assert {(row["setting"], row["camera"]) for row in rows} == {
        *((setting, camera) for setting in both for camera in ("front", "wrist")),
        *((setting, "front") for setting in alone),
    }
    assert all(sum(row[key] for key in ("counts", "unseen", "inside", "below")) in (99, 100, 101) for row in rows)
    assert all(row["counts"] == 100 for row in rows if row["setting"] == "L0")  # nominal views always count
    with Image.open(path) as image:
        assert image.height == sheets.TITLE + 2 * sheets.LINE + sheets.HEADER + len(rows) * (sheets.SMALL + sheets.GAP)
    assert path.stat().st_size < 100_000


def test_views_that_do_not_count_are_counted_and_framed(tmp_path, monkeypatch, capsys):
    """A camera that is below the floor in every second view of a manifest, and stands well in the others."""
    import sheets

    from envs import sample_views
    from envs.cameras import write_manifest

    monkeypatch.setattr(sheets, "EPISODES", 8)
    nominal = sample_views("L0", task="reach", views="front")["poses"][0, 0]
    below = nominal.copy()
    below[2] = -3
    views = write_manifest(tmp_path / "views.json", "reach", [{"front": nominal}, {"front": below}], "by hand", 0)
    path = tmp_path / "sheet.png"
    assert catalog.main(["cameras", "--json", f"presets=[{views}]", "views=front", f"out={path}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["counts"], row["below"], row["unseen"], row["inside"]) == (50, 50, 0, 0)
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    step, drawn = sheets.SMALL + sheets.GAP, np.linspace(0, 7, sheets.DRAWS).astype(int)
    left, top = image.shape[1] - step * sheets.DRAWS, len(image) - step
    edges = [image[top, left + step * column :][: sheets.SMALL] for column in range(sheets.DRAWS)]
    assert [bool((np.abs(edge - sheets.UNSEEN).max(axis=1) < 12).all()) for edge in edges] == [bool(i % 2) for i in drawn]


def test_a_camera_that_moves_is_taken_at_other_frames():
    import sheets

    from envs.cameras import find_factors, nominal_cameras, parse_camera
    from envs.checks import compile_task
    from envs.registry import task_class

    cameras = nominal_cameras(compile_task(task_class("reach")), ["front"])
    for text, way in (("L3:sweep", [0, 10, 20]), ("L3:azimuth@wrist", [0, 0, 0])):
        poses = np.concatenate([sheets._poses(parse_camera("presets", text), cameras, i) for i in (0, 50, sheets.EPISODES - 1)])
        assert np.allclose(np.abs(find_factors(cameras[0], poses)["azimuth"]), way, atol=0.2)


def test_presets_are_listed_as_they_can_be_asked_for(capsys):
    from envs.cameras import PRESETS, parse_camera

    assert catalog.main(["presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(PRESETS) and all(row["source"] and row["what"] and row["ranges"] for row in rows)
    for row in rows:
        assert parse_camera("presets", row["setting"]).moves == (row["within an episode"] == "moves")
    assert {row["setting"] for row in rows if "absolute" in row["its poses"]} >= {"mvmwm:weak", "kitchenshift"}


def test_rows_in_blocks_stand_side_by_side():
    import sheets

    sheet = sheets.Sheet("", ["a", "b", "c"], ["0", "1"], cell=20, blocks=2)
    for row in range(3):
        for column in range(2):
            sheet.paste(np.full((40, 40, 3), 100 + 40 * row + 10 * column, np.uint8), row, column)
    image = np.asarray(sheet._image)
    areas = {value: np.argwhere((image == value).all(axis=2)) for value in (100, 110, 140, 150, 180, 190)}
    assert all(len(area) == 400 for area in areas.values())
    corners = {value: area.min(axis=0) for value, area in areas.items()}
    assert (corners[140] - corners[100]).tolist() == [24, 0] and (corners[110] - corners[100]).tolist() == [0, 24]
    assert corners[180][0] == corners[100][0] and corners[180][1] > corners[110][1] + 24


@pytest.mark.parametrize(
    "words, answer",
    [
        (["cameras", "task=pusch"], "Did you mean task=push?"),
        (["cameras", "views=frnt"], "views=front"),
        (["cameras", "tsk=push"], "Did you mean key=task?"),
        (["cameras", "appearance=rand"], "appearance=random"),
        (["cameras", "push"], "key=value"),
        (["cameras", "out=x.jpg"], ".png"),
        (["cameras", "views=top", "out=/dev/null/x.png"], "cannot be written"),
        (["tasks", "task=push"], "key=task is not known"),
        (["tasks", "--foo"], "unrecognized arguments: --foo"),
        (["tasks", "--json=5"], "--json"),
        (["encoders", "task=push"], "takes no settings"),
        (["presets", "task=push"], "takes no settings"),
        (["cameras", "presets=dcs:5"], "presets=dcs:5 is not possible"),
        (["cameras", "presets=[dcs:0.1,colosseun]"], "presets=colosseum"),
        (["cameras", "presets=[movie:shakin]"], "movie:shaking"),
        (["cameras", "presets=L3@frnt"], "front"),
        (["cameras", "presets=[]"], "No setting is named"),
        (["cameras", "levels=[0,7]"], "levels=7"),
    ],
)
def test_wrong_words_are_one_paragraph(words, answer, capsys, monkeypatch):
    import sheets

    monkeypatch.setattr(sheets, "EPISODES", 6)
    assert catalog.main(words) == 2
    out, err = capsys.readouterr()
    assert answer in err and len(err.splitlines()) == 1 and not out


@pytest.mark.slow
def test_no_encoder_of_the_suite_is_broken(capsys):
    assert catalog.main(["encoders", "--json"]) == 0, capsys.readouterr().out
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(config.config_names("encoder")) and all(row["what"] and row["source"] for row in rows)


def test_the_experts_are_drawn_at_work(tmp_path, monkeypatch, capsys):
    """A row per task, whose pictures change while its expert works; what stands still is the scene."""
    import sheets

    monkeypatch.setattr(sheets, "STEPS", (0, 9))
    path = tmp_path / "deep" / "tasks.png"
    assert catalog.main(["tasks", f"out={path}", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    step, top = sheets.CELL + sheets.GAP, sheets.TITLE + sheets.HEADER
    left = image.shape[1] - 2 * step
    assert len(image) == top + step * len(names)
    for row in range(len(names)):
        before, after = (image[top + row * step :, left + column * step :][: sheets.CELL, : sheets.CELL] for column in range(2))
        assert 0.02 < (np.abs(before - after).max(axis=2) > 30).mean() < 0.5


def test_a_task_that_breaks_at_work_is_left_out_of_the_picture(tmp_path, monkeypatch, capsys):
    import sheets

    from envs.registry import TASKS
    from envs.tasks.push import Push
    from envs.tasks.reach import Reach

    def broken(self, readings):
        raise ZeroDivisionError("of the expert")

    for name in list(TASKS):
        if name not in ("push", "reach"):
            monkeypatch.delitem(TASKS, name)
    monkeypatch.setitem(TASKS, "lost", "envs.tasks.nowhere:Lost")
    monkeypatch.setattr(sheets, "STEPS", (0, 1))
    monkeypatch.setattr(Push, "expert", broken)
    monkeypatch.setattr(Reach, "expert", None)
    path = tmp_path / "tasks.png"
    assert catalog.main(["tasks", f"out={path}"]) == 1
    out, err = capsys.readouterr()
    assert "ZeroDivisionError: of the expert" in out and "red ball" in out and "push, lost" in err
    with Image.open(path) as image:
        assert image.height == sheets.TITLE + sheets.HEADER + sheets.CELL + sheets.GAP


def test_a_place_that_cannot_be_written_is_told_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    import sheets

    drawn = []
    monkeypatch.setattr(sheets, "expert_at_work", drawn.append)
    monkeypatch.setattr(sheets, "draw_sheet", lambda *_: drawn.append("a sheet"))
    for words in (["tasks"], ["cameras"]):
        assert catalog.main([*words, "out=/dev/null/x.png"]) == 2
        assert "cannot be written" in capsys.readouterr().err and not drawn
    monkeypatch.undo()
    assert catalog.main(["cameras", "appearance=rand", f"out={tmp_path / 'x.png'}"]) == 2
    assert not list(tmp_path.iterdir())  # trying whether it can be written leaves nothing


def test_long_names_do_not_run_under_the_pictures():
    import sheets

    name = "a_task_of_a_very_long_name"
    sheet = sheets.Sheet("", [name], ["L0"])
    empty = sheets.Sheet("", [""], ["L0"])
    words = np.asarray(sheet._image)[sheets.TITLE + sheets.HEADER :]
    left = words.shape[1] - sheets.CELL - sheets.GAP
    assert (words[:, : left - 4] != sheets.BACKGROUND).any() and (words[:, left - 4 :] == sheets.BACKGROUND).all()
    assert sheet._image.width > empty._image.width + 100
