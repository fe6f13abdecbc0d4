import inspect
from importlib import import_module

import numpy as np
import pytest
from clip_samples import SIZE, VIEWS, frames
from PIL import Image

from robo_repr.core.config import config_names, load_part
from robo_repr.core.errors import UserError
from robo_repr.data import open_clips
from robo_repr.data.store import ClipWriter
from robo_repr.data.videos import Videos


def store(path, lengths=(3, 2), first=0, meta=None, drop=(), **changes):
    settings = {"views": VIEWS, "size": SIZE, "fps": 20, **changes}
    with ClipWriter(path, **settings, meta={"task": path.name, **(meta or {})}) as out:
        for i, length in enumerate(lengths):
            made = frames(length, first + i, len(settings["views"]), settings["size"])
            out.add({key: value for key, value in made.items() if key not in drop}, language=f"{path.name} {i}")
    return path


def test_several_stores_are_read_as_one(tmp_path):
    store(tmp_path / "all" / "push", (3, 2), 0)
    store(tmp_path / "all" / "reach", (4,), 7)
    with ClipWriter(tmp_path / "all" / "unborn", views=VIEWS, size=SIZE, fps=20):
        pass
    for clips in (open_clips(tmp_path / "all"), open_clips([tmp_path / "all" / "push", str(tmp_path / "all" / "reach")])):
        assert clips.lengths.tolist() == [3, 2, 4] and [clips.language(i) for i in range(3)] == ["push 0", "push 1", "reach 0"]
        for i, (length, seed) in enumerate([(3, 0), (2, 1), (4, 7)]):
            assert all(np.array_equal(clips[i][key], value) for key, value in frames(length, seed).items())
        assert clips.read(2, 1, 3, ["state"])["is_first"].tolist() == [False, False] and "task" not in clips.meta


def test_a_damaged_episode_of_one_store_is_known_under_its_number_in_all(tmp_path):
    store(tmp_path / "push")
    store(tmp_path / "reach", (300, 4))
    next(file for file in (tmp_path / "reach" / "data" / "images" / "c" / "0").rglob("0") if file.is_file()).unlink()
    clips = open_clips([tmp_path / "push", tmp_path / "reach"])
    assert [clip["language"] for clip in clips] == ["push 0", "push 1", "reach 1"] and list(clips.broken) == [2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"views": ["front", "left"]}, "has views front, wrist, the second front, left"),
        ({"size": (12, 20)}, "an image size of 12 x 16, the second 12 x 20"),
        ({"fps": 10}, "frames per second 20, the second 10"),
    ],
)
def test_what_was_seen_otherwise_is_not_read_as_one(tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        open_clips([store(tmp_path / "push"), store(tmp_path / "reach", **changes)])


def test_what_only_some_stores_have_is_left_out_and_named_when_asked_for(tmp_path):
    one = store(tmp_path / "one", meta={"pose_names": ["block"]})
    clips = open_clips([one, store(tmp_path / "two", drop=["actions"])])
    assert set(clips.fields) == {"images", "state", "reward", "camera"}
    with pytest.raises(UserError, match=r"actions is not the same everywhere \(.*one: \(3,\) of float32; .*two: none\)"):
        clips.read(0, keys=["actions"])
    with pytest.raises(UserError, match="has no depth"):
        clips.read(0, keys=["depth"])


def test_films_and_pictures_are_known_by_what_is_there(tmp_path):
    for folder, names in (("films/take", ["000001.png", "000002.png"]), ("loose", ["cat.png", "dog.png"])):
        (tmp_path / folder).mkdir(parents=True)
        for i, name in enumerate(names):
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(tmp_path / folder / name)
    films = open_clips(tmp_path / "films", size=8)
    assert isinstance(films, Videos) and films.lengths.tolist() == [2] and films[0]["images"].shape == (2, 1, 3, 8, 8)
    assert open_clips(tmp_path / "loose", size=8).lengths.tolist() == [1, 1] == open_clips(tmp_path / "films", "images").lengths.tolist()
    for wrong, says in (
        ({"path": tmp_path / "films", "kind": "vidoes"}, "Did you mean data=videos"),
        ({"path": tmp_path / "films", "kind": "clips"}, "holds no clip store"),
        ({"path": tmp_path / "films", "sise": 8}, "key=sise is not known. Did you mean key=size"),
        ({"path": tmp_path / "nowhere"}, "is not there"),
        ({"path": []}, "the list of paths is empty"),
    ):
        with pytest.raises(UserError, match=says):
            open_clips(**wrong)


@pytest.mark.parametrize("name", config_names("data"))
def test_a_yaml_has_the_keywords_of_what_it_names(name):
    part = load_part("data", name)
    module, function = part.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(import_module(module), function)).parameters
    assert list(part) == list(parameters)
    assert all(part[key] == parameter.default for key, parameter in parameters.items() if key != "path")
