import json
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn

from agents.evaluate import Interrupted
from agents.eyes import Eyes
from agents.viewpoint import drift
from agents.viewpoint.drift import STATES, measure_drift
from envs import list_tasks, make_env
from envs.tasks.base import CENTRE
from envs.truth import shown_positions
from robo_repr import load_encoder
from robo_repr.core.errors import Failure, UserError
from robo_repr.encoders.base import Encoder, EncoderSpec, Features

EPISODES = 20
FAST = {"image_size": 24, "views": ["front"]}


class Seer(Encoder):
    """An encoder whose features a function reads from its normalised pictures (B, 3, 24, 24)."""

    def __init__(self, read, dim):
        super().__init__(EncoderSpec("seer", size=(24, 24), dim=dim))
        self.read, self.net = read, nn.Identity()

    def encode(self, images):
        return Features(self.read(images), None)


def eyes_of(encoder: str | Encoder = "pixels", views=("front",), frame_stack=1, readout="grid4", fusion="concatenate"):
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    return Eyes(encoder, list(views), frame_stack, readout, fusion)


def levels(*numbers):
    return [(f"L{number}", f"L{number}", "plain") for number in numbers]


def measure(eyes, conditions, task="reach", seed=0, episodes=EPISODES, **more):
    given = {key: more.pop(key) for key in ("stop", "on_progress") if key in more}
    return measure_drift(eyes, {"task": task, **FAST, **more}, conditions, seed, episodes, **given)


@pytest.fixture(scope="module")
def measured():
    return measure(eyes_of(), [*levels(0, 1, 4), ("same", "L0", "plain"), ("background", "L0", "random")], episodes=60)


def test_the_nominal_camera_is_no_drift_and_farther_ones_are_more(measured):
    found = {name: figures["feature_drift"] for name, figures in measured["conditions"].items()}
    assert found["L0"] == found["same"] == 0.0
    assert 0.1 < found["L1"] < found["L4"]
    assert found["background"] > 0.1
    assert measured["conditions"]["L0"]["feature_drift_ci95"] == [0.0, 0.0]


def test_every_figure_lies_in_its_interval(measured):
    for figures in [measured, *measured["conditions"].values()]:
        for name, (low, high) in [(key[:-5], value) for key, value in figures.items() if key.endswith("_ci95")]:
            assert low <= figures[name] <= high
    low, high = measured["conditions"]["L1"]["feature_drift_ci95"]
    assert low < high


def test_a_probe_is_led_astray_by_a_moved_camera_and_less_so_when_fitted_there(measured):
    nominal, far = (measured["conditions"][level] for level in ("L0", "L4"))
    assert nominal["probe_cm"] == nominal["ceiling_cm"] < measured["no_picture_cm"] < far["probe_cm"]
    assert nominal["ceiling_cm"] < far["ceiling_cm"] < far["probe_cm"]
    json.dumps(measured, allow_nan=False)


def test_equals_what_its_definition_says():
    eyes, settings = eyes_of(), {"task": "reach", **FAST, "seed": 3, "privileged": False}
    drift._calibrate(eyes, {**settings, "camera": "L0"}, 10, bool)
    found = measure_drift(eyes, {"task": "reach", **FAST}, levels(2), 3, 10)
    features = {}
    for camera in ("L0", "L2"):
        states = [eyes.see(obs["images"]).double() for _, _, obs in drift._walk({**settings, "camera": camera}, 10, bool)]
        features[camera] = torch.stack(states)
    moved = (features["L2"] - features["L0"]).norm(dim=2).mean()
    other = np.mean([(row[i] - row[j]).norm() for row in features["L0"] for i in range(10) for j in range(10) if i != j])
    same = np.mean([(features["L0"][0, i] - features["L0"][1, i]).norm() for i in range(10)])
    assert found["other_scene"] == pytest.approx(other) and found["same_scene"] == pytest.approx(same)
    assert found["conditions"]["L2"]["feature_drift"] == pytest.approx(float(moved / other))


def test_cameras_and_looks_change_nothing_but_pictures():
    settings = {"task": "push", **FAST, "seed": 1, "privileged": False}
    eyes = eyes_of()
    drift._calibrate(eyes, settings, 10, bool)
    nominal, moved = (
        drift._see(eyes, drift._walk({**settings, "camera": camera, "appearance": look}, 10, bool), 10, lambda done: None)
        for camera, look in (("L0", "plain"), ("L5", "random"))
    )
    assert torch.equal(nominal.state, moved.state) and torch.equal(nominal.places, moved.places)
    assert not torch.equal(nominal.features, moved.features)
    assert nominal.places.shape == (10, STATES, 6)


def test_places_are_the_ones_that_the_task_knows():
    with closing(make_env("push", num_envs=3, views=[], privileged=True)) as env:
        obs, _ = env.reset()
        block, spot = shown_positions(env).swapaxes(0, 1)
    hidden = obs["state"][:, -5:].numpy()
    np.testing.assert_allclose((block - CENTRE.numpy()) / 0.15, hidden[:, :3], atol=1e-5)
    np.testing.assert_allclose((spot - CENTRE.numpy())[:, :2] / 0.15, hidden[:, 3:], atol=1e-5)


def test_the_same_command_gives_the_same_numbers_and_another_seed_others():
    first, second, other = (measure(eyes_of(), levels(1), seed=seed, episodes=10) for seed in (0, 0, 1))
    assert first == second != other
    # What is asked for is not told to the probe, and other conditions change nothing of one.
    told = measure(eyes_of(), levels(5, 1), episodes=10, privileged=True, camera="L5")
    assert told["no_picture_cm"] == first["no_picture_cm"] and told["conditions"]["L1"] == first["conditions"]["L1"]


def test_eyes_of_a_run_keep_their_calibration():
    eyes = eyes_of()
    first = measure(eyes, levels(0), episodes=10)
    kept = eyes.fingerprint()
    eyes.load_state({key: value * 2 if key == "scale" else value for key, value in eyes.state().items()})
    changed = eyes.fingerprint()
    second = measure(eyes, levels(0), episodes=10)
    assert eyes.fingerprint() == changed != kept
    assert second["other_scene"] < 0.8 * first["other_scene"]


@pytest.mark.slow
@pytest.mark.parametrize("task", list_tasks())
def test_every_task(task):
    found = measure(eyes_of(), levels(2), task=task, episodes=10)
    assert found["conditions"]["L2"]["feature_drift"] > 0 and found["no_picture_cm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "settings"),
    [
        ({"views": ["wrist", "front"], "fusion": "mean"}, {"views": ["wrist", "front"]}),
        ({"frame_stack": 3}, {"frame_stack": 3}),
        ({"encoder": "curl"}, {"frame_stack": 3}),
        ({"encoder": "random", "readout": "keypoints"}, {"horizon": 1}),
    ],
    ids=["views averaged", "stacked", "stack encoder", "short episodes"],
)
def test_other_eyes(more, settings):
    if more.get("encoder") == "curl":
        more = {**more, "encoder": load_encoder("curl", weights="random"), "frame_stack": 3}
    assert measure(eyes_of(**more), levels(3), episodes=10, **settings)["conditions"]["L3"]["feature_drift"] > 0


def test_a_camera_that_moves_is_seen_all_over_its_way():
    found = measure(eyes_of(), [("L4:sweep", "L4:sweep", "plain"), *levels(1)])["conditions"]
    assert found["L4:sweep"]["feature_drift"] > found["L1"]["feature_drift"]


def test_a_camera_that_stays_does_not_drift():
    found = measure(eyes_of(), [("other", "L4@outside", "plain")], views=["wrist"], episodes=10)
    assert found["conditions"]["other"]["feature_drift"] == 0


def test_progress_reaches_its_end():
    told = []
    measure(eyes_of(), levels(0, 1), episodes=53, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1] == (2 * 53 * STATES, 2 * 53 * STATES)


def test_it_stops_when_it_is_asked_to():
    asked = []
    with pytest.raises(Interrupted):
        measure(eyes_of(), levels(0, 1), stop=lambda: asked.append(0) or len(asked) > 5)
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("eyes", "episodes", "says"),
    [
        (lambda: eyes_of("identity"), EPISODES, "encoder=identity"),
        (lambda: eyes_of(views=[]), EPISODES, r"views=\[\]"),
        (eyes_of, 9, "episodes=9"),
    ],
)
def test_what_cannot_be_measured_is_refused(eyes, episodes, says):
    with pytest.raises(UserError, match=says) as error:
        measure(eyes(), levels(0, 1), episodes=episodes)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("read", "says"),
    [(lambda images: images.flatten(1) * torch.nan, "not finite"), (lambda images: images.flatten(1)[:, :2] * 0, "alike in all scenes")],
)
def test_broken_features_are_a_failure(read, says):
    dim = read(torch.zeros(1, 3, 24, 24)).shape[1]
    with pytest.raises(Failure, match=says):
        measure(eyes_of(Seer(read, dim)), levels(1), episodes=10)
