"""robomimic's files and those that others publish in its layout, made here after their documentation."""

import json
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from robo_repr.core.errors import UserError
from robo_repr.data import formats
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.formats.robomimic import RobomimicClips

LENGTHS = {"demo_0": 4, "demo_1": 3, "demo_2": 6, "demo_10": 5, "demo_9": 2}
ORDER = ["demo_0", "demo_1", "demo_2", "demo_9", "demo_10"]
HAND = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}


def fill(group, length, values, seed):
    """Observations of one demonstration: name -> width of a vector, or shape of a picture."""
    generator = np.random.default_rng(seed)
    for name, shape in values.items():
        if isinstance(shape, tuple):
            group[name] = generator.integers(0, 256, (length, *shape), dtype=np.uint8)
        else:
            group[name] = generator.normal(size=(length, shape))


@pytest.fixture
def path(tmp_path):
    """A file as robomimic's own script makes it, with next_obs in all but demo_1."""
    observations = {"agentview_image": (12, 16, 3), "robot0_eye_in_hand_image": (12, 16, 3), **HAND, "robot0_joint_pos": 7, "object": 10}
    with h5py.File(tmp_path / "image.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS.values())
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_type": 1, "env_kwargs": {"control_freq": 25}})
        for seed, (name, length) in enumerate(LENGTHS.items()):
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            fill(demo.create_group("obs"), length, observations, seed)
            if name != "demo_1":
                fill(demo.create_group("next_obs"), length, observations, seed + 100)
            demo["actions"] = np.random.default_rng(seed).uniform(-1, 1, (length, 7))
            demo["rewards"] = np.arange(length) == (length - 1 if name != "demo_2" else length)
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64) * (name != "demo_2")
            demo["states"] = np.zeros((length, 32))
        file["mask/train"] = np.array([b"demo_10", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_0"])
    return tmp_path / "image.hdf5"


def test_demonstrations_in_the_order_of_their_numbers(path):
    clips = RobomimicClips(path)
    assert (clips.views, clips.size, clips.fps) == (["agentview", "robot0_eye_in_hand"], (12, 16), 25.0)
    assert {key: field.shape for key, field in clips.fields.items()} == {
        "images": (2, 3, 12, 16),
        "state": (9,),
        "actions": (7,),
        "reward": (),
    }
    assert clips.lengths.tolist() == [5, 3, 7, 3, 6] and [e["source"].split(":")[-1] for e in clips.episodes] == ORDER
    with h5py.File(path) as file:
        for i, name in enumerate(ORDER):
            demo, clip, steps = file["data"][name], clips[i], LENGTHS[name]
            rows = {key: demo["obs"][key][:] for key in demo["obs"]}
            if "next_obs" in demo:
                rows = {key: np.concatenate([value, demo["next_obs"][key][-1:]]) for key, value in rows.items()}
            images = np.stack([rows["agentview_image"], rows["robot0_eye_in_hand_image"]], axis=1).transpose(0, 1, 4, 2, 3)
            assert np.array_equal(clip["images"], images)
            assert np.array_equal(clip["state"], np.concatenate([rows[key] for key in HAND], axis=1).astype(np.float32))
            assert np.array_equal(clip["actions"][:steps], demo["actions"][:].astype(np.float32)) and not clip["actions"][steps:].any()
            assert np.array_equal(clip["reward"][:steps], demo["rewards"][:]) and clip["is_terminal"].sum() == (name != "demo_2")
            assert (clips.episodes[i]["success"], clips.episodes[i]["task"]) == (name != "demo_2", "Lift")
        for start, stop in [(0, 2), (3, 6), (5, 6), (2, 5)]:
            window, whole = clips.read(4, start, stop), clips[4]
            assert all(np.array_equal(window[key], whole[key][start:stop]) for key in clips.fields)


def test_parts_states_and_views(path):
    assert [e["source"].split(":")[-1] for e in RobomimicClips(path, filter="train").episodes] == ["demo_2", "demo_10"]
    chosen = RobomimicClips(path, state=["robot0_joint_pos", "object"], views=["robot0_eye_in_hand_image"])
    assert (chosen.views, chosen.fields["state"].shape) == (["robot0_eye_in_hand"], (17,))
    with h5py.File(path) as file:
        assert np.array_equal(chosen[1]["state"][:, 7:], file["data/demo_1/obs/object"][:].astype(np.float32))
        assert np.array_equal(chosen[1]["images"][:, 0].transpose(0, 2, 3, 1), file["data/demo_1/obs/robot0_eye_in_hand_image"][:])
    for wrong, message in [
        ({"filter": "trian"}, "Did you mean filter=train"),
        ({"state": ["robot0_eef_po"]}, "Did you mean state=robot0_eef_pos"),
        ({"views": ["agent_view"]}, "Did you mean views=agentview"),
        ({"views": ["agentview", "agentview_image"]}, "twice"),
        *(({"fps": fps}, "fps=") for fps in (0, -5, float("nan"), float("inf"))),
    ]:
        with pytest.raises(UserError, match=message):
            RobomimicClips(path, **wrong)


@pytest.mark.parametrize("frequency", [0, -5, float("nan"), float("inf"), "abc"])
def test_a_noted_frame_rate_that_is_not_possible_counts_as_none(path, frequency):
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": frequency}})
    assert RobomimicClips(path).fps == 20 and RobomimicClips(path, fps=7).fps == 7


def test_threads_read_at_once(path):
    clips = RobomimicClips(path)
    expected = [clip["images"] for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: clips[i % 5]["images"], range(100)))
    assert all(np.array_equal(images, expected[i % 5]) for i, images in enumerate(found))


@pytest.mark.parametrize("convention", ["opengl", "opencv", None])
def test_libero(tmp_path, convention):
    path = tmp_path / "KITCHEN_demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"problem_name": "kitchen", "language_instruction": "turn on the stove"})
        data.attrs["env_args"] = json.dumps({"env_name": "Libero_Kitchen", "env_kwargs": {"control_freq": 20}})
        if convention:
            data.attrs["macros_image_convention"] = convention
        demo = data.create_group("demo_0")
        views = {"agentview_rgb": (8, 8, 3), "eye_in_hand_rgb": (8, 8, 3)}
        fill(demo.create_group("obs"), 4, {**views, "ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}, 0)
        demo["actions"], demo["rewards"] = np.zeros((4, 7)), np.array([0, 0, 0, 1], dtype=np.uint8)
        demo["dones"] = np.array([0, 0, 0, 1], dtype=np.uint8)
        stored = demo["obs/agentview_rgb"][:].transpose(0, 3, 1, 2)
        state = np.concatenate([demo[f"obs/{key}"][:] for key in ("ee_pos", "ee_ori", "gripper_states")], axis=1)
    clips = RobomimicClips(path)
    clip = clips[0]
    assert clips.views == ["agentview", "eye_in_hand"] and clip["language"] == "turn on the stove" and clips.episodes[0]["success"]
    assert np.array_equal(clip["images"][:, 0], stored[:, :, ::-1] if convention == "opengl" else stored)
    assert np.array_equal(RobomimicClips(path, upside_down=True)[0]["images"][:, 0], stored[:, :, ::-1])
    assert np.array_equal(clip["state"], state.astype(np.float32)) and clip["actions"].shape == (4, 7)


def test_instructions_of_each_demonstration_and_odd_files(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i in range(2):
            demo = file.create_group(f"data/demo_{i}")
            fill(demo.create_group("obs"), 2 + i, {"front": (6, 8, 3), "object_pose": 3, "b": 2, "a": 1}, i)
            demo["obs/mode"] = np.arange(2 + i)
            demo["actions"] = np.ones((2, 3))  # one action less than frames in demo_1
            demo.attrs["ep_meta"] = json.dumps({"lang": f"do {i}"})
    clips = RobomimicClips(tmp_path / "a.hdf5")
    assert (clips.views, clips.fps, clips.lengths.tolist()) == (["front"], 20.0, [2, 3]) and "reward" not in clips.fields
    assert [clip["language"] for clip in clips] == ["do 0", "do 1"] and clips[1]["actions"][:, 0].tolist() == [1, 1, 0]
    assert clips.fields["state"].shape == (4,) and clips[1]["state"][:, 3].tolist() == [0, 1, 2]
    assert "success" not in clips.episodes[0]


def test_demonstrations_that_differ_are_left_out(path):
    with h5py.File(path, "a") as file:
        data = file["data"]
        del data["demo_1/obs/agentview_image"], data["demo_9/actions"], data["demo_10/obs/robot0_eef_pos"]
        data["demo_1/obs/agentview_image"] = np.zeros((3, 6, 6, 3), np.uint8)
        data["demo_9/actions"] = np.zeros((9, 7))
    clips = RobomimicClips(path)
    assert list(clips.broken) == [1, 3, 4] and len(list(clips)) == 2
    for episode, word in [(1, "obs/agentview_image"), (3, "9 actions|rewards"), (4, "robot0_eef_pos")]:
        with pytest.raises(BrokenEpisode, match=f"{ORDER[episode]} .*({word})"):
            clips[episode]


def test_damage(path, tmp_path):
    whole = path.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.hdf5").write_text("no HDF5")
    for name, message in [
        ("cut.hdf5", "cut.hdf5 is damaged or no HDF5 file.*truncated"),
        ("text.hdf5", "text.hdf5 is damaged or no HDF5 file"),
        ("gone.hdf5", "gone.hdf5 is not there"),
        (".", "is a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            RobomimicClips(tmp_path / name)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["frames"] = np.zeros(3)
    with pytest.raises(UserError, match="no group `data`, only frames"):
        RobomimicClips(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(UserError, match="no demonstrations"):
        RobomimicClips(tmp_path / "empty.hdf5")


def test_no_images(path):
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["obs/agentview_image"], demo["obs/robot0_eye_in_hand_image"]
    with pytest.raises(UserError, match="no images.*dataset_states_to_obs.py"):
        RobomimicClips(path)


def test_a_damaged_chunk(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i in range(2):
            file.create_dataset(f"data/demo_{i}/obs/front_image", data=values, chunks=(1, 8, 8, 3), fletcher32=True)
        offset = file["data/demo_1/obs/front_image"].id.get_chunk_info(2).byte_offset
    with open(tmp_path / "a.hdf5", "r+b") as file:
        file.seek(offset + 5)
        file.write(b"\0\1\2")
    clips = RobomimicClips(tmp_path / "a.hdf5")
    with pytest.raises(BrokenEpisode, match="demo_1 cannot be read"):
        clips[1]
    assert len(clips[0]["images"]) == 4 and list(clips.broken) == [1]


def test_formats_by_name():
    assert formats.reader("robomimic") is RobomimicClips
    assert formats.exporter("r3m").__module__.endswith("r3m")
    with pytest.raises(UserError, match="only read.*lerobot, minari, r3m"):
        formats.exporter("robomimic")
    with pytest.raises(UserError, match="Did you mean format=minari"):
        formats.reader("minary")
