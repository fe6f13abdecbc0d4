"""Both sides of the bench of moving cameras draw the same pictures, and the peer rebuilds its model as often as it says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.render import mujoco

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import bench_viewpoint  # noqa: E402


@pytest.mark.parametrize("camera, rebuilds", [("L3:jitter", 4), ("L3:shell", 2)])
def test_the_rebuilt_model_gives_our_pictures(monkeypatch, camera, rebuilds):
    """Of both worlds and both steps of their episodes; a view that lasts is built once."""
    monkeypatch.setattr(bench_viewpoint, "WORLDS", 2)
    monkeypatch.setattr(bench_viewpoint, "HORIZON", 3)
    frame, count, close = bench_viewpoint.ours(camera)
    mine = np.stack([frame().numpy().copy() for _ in range(2)]).transpose(1, 0, 2, 4, 5, 3)  # worlds, steps, views, H, W, 3
    close()
    assert count == 4
    opened = []
    renderer = mujoco.Renderer
    monkeypatch.setattr(mujoco, "Renderer", lambda *of: opened.append(renderer(*of)) or opened[-1])
    frame, count, close = bench_viewpoint.rebuilt(camera)
    theirs = np.array([[frame() for _ in range(2)] for _ in range(2)])
    close()
    assert count == 2 and len(opened) == rebuilds
    assert np.abs(theirs.astype(int) - mine).max() == 0
    pictures = mine.reshape(8, *mine.shape[3:])
    assert len({picture.tobytes() for picture in pictures}) == 8 and all(
        picture.std() > 10 for picture in pictures
    )  # else anything is equal


def test_the_figures_are_those_of_the_pairs(tmp_path, monkeypatch, capsys):
    asked = []

    def compare(mine, theirs, pairs, core, seconds):
        asked.append((mine.args, theirs.args, core))
        return np.array([[30.0, 10.0]] * pairs), []

    monkeypatch.setattr(bench_viewpoint, "compare", compare)
    monkeypatch.setattr(sys, "argv", ["bench_viewpoint.py", "--pairs", "5", "--json", str(tmp_path / "x.json")])
    bench_viewpoint.main()
    found = json.loads((tmp_path / "x.json").read_text())
    assert {"moving_camera_images", "rebuild_model_images"} <= set(found["ratio"]) and set(found["ratio"].values()) == {3.0}
    assert found["n"] == 5 and asked[0] == (("L3:jitter",), ("L0",), None) and asked[1][0] == asked[1][1]  # the same views on both sides
    assert "moving_camera_images (images/s)" in capsys.readouterr().out
