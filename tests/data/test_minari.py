"""Minari's package is the judge: it reads what we write, and writes what we read."""

import json
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from clip_samples import VIEWS, frames
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from robo_repr.core.errors import Failure, UserError
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.formats.minari import MinariClips, export
from robo_repr.data.store import ClipStore, ClipWriter

LENGTHS = [5, 2, 1, 19]
SIZE = (32, 34)  # large enough that Minari would make JPEGs of them, if it were let
MORE = {"camera_level": {"front": [1, None]}, "seed": 7, "path": "a/b", "success": None}


@pytest.fixture
def store(tmp_path):
    with ClipWriter(tmp_path / "clips", views=VIEWS, size=SIZE, fps=25, meta={"task": "reach", "pose_names": ["ball"]}) as out:
        for i, length in enumerate(LENGTHS):
            depth = np.full((length, 2, *SIZE), np.inf, dtype=np.float16)
            segmentation = np.full((length, 2, *SIZE), -i, dtype=np.int16)
            more = MORE if i == 1 else {"success": i == 0}
            out.add(
                {**frames(length, i, size=SIZE), "depth": depth, "segmentation": segmentation},
                **{"language": f"go, {i}", "task": "reach", "terminal": i == 3, **more},
            )
    return ClipStore(tmp_path / "clips")


def test_what_we_write_minari_reads_and_we_read_again(store, tmp_path, capsys):
    done = []
    assert export(store, tmp_path / "out", done.append) == [0, 1, 3]
    assert done == [1, 2, 3, 4] and "episode 2" in capsys.readouterr().err
    dataset, clips = minari.MinariDataset(tmp_path / "out" / "data"), MinariClips(tmp_path / "out")
    assert (clips.views, clips.size, clips.fps, clips.fields, clips.meta) == (VIEWS, SIZE, 25.0, store.fields, store.meta)
    kept = [0, 1, 3]
    assert len(dataset) == len(clips) == 3 and dataset.total_steps == 4 + 1 + 18 and "EpisodeData" in repr(dataset[0])
    for i, source in enumerate(kept):
        theirs, ours, was = dataset[i], clips[i], store[source]
        assert np.array_equal(theirs.observations["images"]["wrist"], was["images"][:, 1].transpose(0, 2, 3, 1))
        assert np.array_equal(theirs.actions, was["actions"][:-1]) and np.array_equal(theirs.rewards.astype(np.float32), was["reward"][:-1])
        assert theirs.terminations.tolist() == was["is_terminal"][1:].tolist()
        assert (theirs.terminations | theirs.truncations).tolist() == was["is_last"][1:].tolist()
        for key, value in was.items():
            if key in ("actions", "reward"):
                assert np.array_equal(ours[key][:-1], value[:-1]) and not ours[key][-1].any()
            else:
                assert np.array_equal(ours[key], value)
        known = dict(store.episodes[source])
        del known["episode"]
        assert clips.episodes[i] == known
    assert next(iter(dataset.storage.get_episode_metadata([0])))["language"] == "go, 0"
    assert np.array_equal(clips.read(2, 3, 6)["images"], store[3]["images"][3:6])


def test_what_belongs_to_a_view_follows_it(store, tmp_path):
    export(store, tmp_path / "out")
    for views, places in ((["wrist", "front"], [1, 0]), (["wrist"], [1])):
        clips = MinariClips(tmp_path / "out", views=views)
        assert clips.fields["camera"].shape == (len(views), 8) and clips.fields["depth"].shape == (len(views), *SIZE)
        for key in ("images", "camera", "depth", "segmentation"):
            assert np.array_equal(clips[0][key], store[0][key][:, places])
        assert np.array_equal(clips[0]["state"], store[0]["state"])


@pytest.mark.parametrize("noted", [[1], {"fps": "abc"}, {"fps": -1}, {"meta": [1]}, {"views": 3}, {"fields": [[]]}, {"fps": None}])
def test_damaged_notes_of_ours_are_named(store, tmp_path, noted):
    export(store, tmp_path / "out")
    file = tmp_path / "out" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "robo_repr": {**metadata["robo_repr"], **noted} if isinstance(noted, dict) else noted}))
    with pytest.raises(UserError, match="metadata.json.*is damaged"):
        MinariClips(tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        *(({"fps": fps}, "fps=") for fps in (0, -5, float("nan"), float("inf"))),
        ({"views": ["wrist", "wrist"]}, "wrist twice"),
    ],
)
def test_settings_that_are_not_possible(store, tmp_path, how, says):
    export(store, tmp_path / "out")
    with pytest.raises(UserError, match=says):
        MinariClips(tmp_path / "out", **how)


def test_threads_read_at_once(store, tmp_path):
    export(store, tmp_path / "out")
    clips = MinariClips(tmp_path / "out")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: clips.read(2, i % 8, 19)["images"], range(64)))
    assert all(np.array_equal(images, store[3]["images"][i % 8 :]) for i, images in enumerate(found))


class Steps(gym.Env):
    """Observations as environments have them: nested, pictures in both orders, other pictures, texts."""

    observation_space = spaces.Dict(
        {
            "robot": spaces.Dict({"joints": spaces.Box(-1, 1, (2, 3), np.float64), "grip": spaces.Discrete(4)}),
            "cameras": spaces.Tuple([spaces.Dict({"top": spaces.Box(0, 255, (3, 40, 36), np.uint8)})]),
            "pixels": spaces.Box(0, 255, (40, 36, 3), np.uint8),
            "heights": spaces.Box(0, 9, (20, 20), np.float32),
            "mission": spaces.Text(40),
        }
    )
    action_space = spaces.Dict({"move": spaces.Box(-1, 1, (2,), np.float32), "grasp": spaces.Discrete(2)})


def collected(folder, monkeypatch, space=Steps.observation_space, lengths=(4, 2), **how):
    """A data set that Minari's own functions made, and what was put into it."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    space.seed(0)
    Steps.action_space.seed(0)
    episodes = []
    for i, steps in enumerate(lengths):
        observations = [space.sample() for _ in range(steps + 1)]
        actions = [Steps.action_space.sample() for _ in range(steps)]
        episodes.append(
            EpisodeBuffer(
                id=i,
                observations=nested(space, observations),
                actions=nested(Steps.action_space, actions),
                rewards=[float(t) for t in range(steps)],
                terminations=[i == 1 and t == steps - 1 for t in range(steps)],
                truncations=[i == 0 and t == steps - 1 for t in range(steps)],
                infos={},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = {"data_format": "hdf5", "jpeg_encoding": False, **how}
        minari.create_dataset_from_buffers("toy/steps-v0", episodes, action_space=Steps.action_space, observation_space=space, **how)
    return folder / "toy" / "steps-v0", episodes


def nested(space, samples):
    if isinstance(space, spaces.Dict):
        return {key: nested(part, [sample[key] for sample in samples]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nested(part, [sample[i] for sample in samples]) for i, part in enumerate(space))
    return samples if isinstance(space, spaces.Text) else np.array(samples)


@pytest.mark.parametrize("kind", ["hdf5", "arrow"])
def test_a_data_set_of_minaris_own(tmp_path, monkeypatch, kind):
    path, episodes = collected(tmp_path, monkeypatch, data_format=kind)
    clips = MinariClips(path)
    assert (clips.views, clips.size, clips.lengths.tolist(), clips.meta) == (["top", "pixels"], (40, 36), [5, 3], {})
    assert {key: field.shape for key, field in clips.fields.items()} == {
        "images": (2, 3, 40, 36),
        "state": (7,),
        "actions": (3,),
        "reward": (),
    }
    for clip, episode in zip(clips, episodes, strict=True):
        seen, steps = episode.observations, len(episode.rewards)
        assert np.array_equal(clip["images"][:, 0], seen["cameras"][0]["top"])
        assert np.array_equal(clip["images"][:, 1], seen["pixels"].transpose(0, 3, 1, 2))
        state = np.concatenate([seen["robot"]["grip"][:, None], seen["robot"]["joints"].reshape(steps + 1, 6)], axis=1)
        assert np.array_equal(clip["state"], state.astype(np.float32))
        actions = np.concatenate([episode.actions["grasp"][:, None], episode.actions["move"]], axis=1)
        assert np.array_equal(clip["actions"], np.concatenate([actions, np.zeros((1, 3))]).astype(np.float32))
        assert clip["reward"].tolist() == [*episode.rewards, 0] and clip["language"] == seen["mission"][0]
        assert clip["is_terminal"].tolist() == [False, *episode.terminations]
    assert MinariClips(path / "data", views=["pixels"], fps=10).fields["images"].shape == (1, 3, 40, 36)
    with pytest.raises(UserError, match="views=pixel "):
        MinariClips(path, views=["pixel"])


def test_jpegs_and_pixels_alone(tmp_path, monkeypatch):
    path, episodes = collected(tmp_path, monkeypatch, spaces.Box(0, 255, (48, 32, 3), np.uint8), jpeg_encoding=True)
    clips = MinariClips(path)
    assert (clips.views, clips.size, list(clips.fields)) == (["image"], (48, 32), ["images", "actions", "reward"])
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        assert file["episode_0/observations"].ndim == 2 or file["episode_0/observations"].dtype == object  # JPEGs indeed
    theirs = minari.MinariDataset(path / "data")[0].observations
    assert np.array_equal(clips[0]["images"][:, 0], theirs.transpose(0, 3, 1, 2))


def test_views_of_one_key_are_named_by_their_way(tmp_path, monkeypatch):
    eye = spaces.Dict({"rgb": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    path, _ = collected(tmp_path, monkeypatch, spaces.Dict({"left": eye, "right": spaces.Dict(dict(eye.items()))}))
    assert MinariClips(path).views == ["left.rgb", "right.rgb"]


def test_views_of_several_sizes_can_be_chosen_from(tmp_path, monkeypatch):
    boxes = {"near": spaces.Box(0, 255, (8, 8, 3), np.uint8), "wide": spaces.Box(0, 255, (8, 16, 3), np.uint8)}
    path, _ = collected(tmp_path, monkeypatch, spaces.Dict(boxes))
    with pytest.raises(UserError, match="different sizes .*near 8 x 8, wide 8 x 16"):
        MinariClips(path)
    assert MinariClips(path, views=["wide"]).size == (8, 16)


def test_no_images(tmp_path, monkeypatch):
    path, _ = collected(tmp_path, monkeypatch, spaces.Box(-1, 1, (5,), np.float32))
    with pytest.raises(UserError, match="no images.*observation .5"):
        MinariClips(path)


def test_damage(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no data/metadata.json"):
        MinariClips(tmp_path)
    path, _ = collected(tmp_path, monkeypatch)
    main = path / "data" / "main_data.hdf5"
    whole = main.read_bytes()
    with h5py.File(main, "a") as file:
        del file["episode_0/observations/robot"]
    clips = MinariClips(path)
    with pytest.raises(BrokenEpisode, match="episode 0.*robot"):
        clips[0]
    assert len(clips[1]["images"]) == 3 and list(clips.broken) == [0]
    with h5py.File(main, "a") as file:
        del file["episode_0/terminations"]
    assert list(MinariClips(path).broken) == [0] and len(list(MinariClips(path))) == 1
    main.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="steps-v0.*truncated"):
        MinariClips(path)
    metadata = path / "data" / "metadata.json"
    found = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**found, "minari_version": "9.0.0"}))
    with pytest.raises(UserError, match="made by Minari 9.0.0"):
        MinariClips(path)
    metadata.write_text("{")
    with pytest.raises(UserError, match="steps-v0 cannot be read"):
        MinariClips(path)
    metadata.unlink()
    with pytest.raises(UserError, match="older than 0.5"):
        MinariClips(path)


def test_one_damaged_episode_of_an_export(store, tmp_path):
    export(store, tmp_path / "out")
    (tmp_path / "out" / "data" / "1" / "part-0.arrow").unlink()
    clips = MinariClips(tmp_path / "out")
    assert list(clips.broken) == [1] and [len(clip["images"]) for clip in clips] == [5, 19]


def test_export_leaves_nothing_where_it_cannot_be(store, tmp_path):
    out = tmp_path / "out"
    with ClipWriter(tmp_path / "films", views=["video"], size=SIZE, fps=25) as writer:
        writer.add({"images": frames(views=1, size=SIZE)["images"]})
    with pytest.raises(UserError, match="no actions"):
        export(ClipStore(tmp_path / "films"), out)
    with pytest.raises(UserError, match="lies in the clip store"):
        export(store, tmp_path / "films" / "inside")
    export(store, tmp_path / "fits")
    data = tmp_path / "fits" / "data"
    described, last = ((data / name).stat().st_size for name in ("metadata.json", "2/part-0.arrow"))
    assert described < last - 1000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (last - 1000, limits[1]))
        with pytest.raises(Failure, match="nothing of it was left"):
            export(store, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clips", "films", "fits"]
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export(store, out)
    assert [entry.name for entry in out.iterdir()] == ["mine.txt"]
