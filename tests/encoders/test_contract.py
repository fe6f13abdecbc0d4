"""What every encoder of configs/encoder promises."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from robo_repr import list_encoders, load_encoder
from robo_repr.core.config import config_names, load_part
from robo_repr.core.errors import UserError
from robo_repr.encoders.base import Encoder, EncoderSpec, Features

NAMES = config_names("encoder")
SEEING = [name for name in NAMES if name != "identity"]
QUICK = {"r3m": {"variant": "resnet18"}, "timm": {"model": "test_vit"}}  # smaller than the default, where that is slow


def load(name):
    """With its weights where they are at hand, else untrained."""
    settings = QUICK.get(name, {})
    try:
        return load_encoder(name, **settings)
    except UserError:
        return load_encoder(name, weights="random", **settings)


@pytest.fixture(scope="module")
def encoders():
    return {name: load(name) for name in NAMES}


@pytest.fixture(scope="module")
def fingerprints(encoders):
    return {name: encoder.fingerprint() for name, encoder in encoders.items()}


def for_encoder(encoder, images):
    """Pictures (B, 3, H, W) as they are, or each repeated to a stack for an encoder that needs several frames."""
    frames = encoder.spec.frames
    return images if frames == 1 else images[:, None].expand(-1, frames, -1, -1, -1)


def pictures(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_folder_is_the_registry():
    assert list_encoders() == NAMES
    assert {"mvp", "random", "pixels", "identity"} <= set(NAMES)


def test_importing_the_package_costs_no_torch():
    code = "import sys, robo_repr; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_keys_are_the_constructors_keywords(name):
    node = load_part("encoder", name)
    module, cls = node.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(import_module(module), cls)).parameters
    assert set(node) == set(parameters)
    assert all(node[key] == parameter.default for key, parameter in parameters.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3, 84, 84), (1, 3, 60, 100), (1, 3, 3, 84, 84)], ids=["square", "oblong", "stack"])
def test_shapes_types_and_a_batch_that_is_only_read(encoders, name, shape):
    encoder, images = encoders[name], pictures(*shape)
    if len(shape) == 4:
        images = for_encoder(encoder, images)
    kept = images.clone()
    pooled, tokens = encoder(images)
    frames = shape[1] if len(shape) == 5 and encoder.spec.frames == 1 else 1
    assert pooled.shape == (shape[0], frames * encoder.spec.dim) and pooled.dtype == torch.float32
    if encoder.spec.grid is None:
        assert tokens is None
    else:
        rows, columns = encoder.spec.grid
        assert tokens.shape == (shape[0], rows * columns, frames * encoder.spec.token_dim) and tokens.dtype == torch.float32
    assert torch.equal(images, kept)
    again = encoder(images)
    assert torch.equal(again.pooled, pooled)
    assert pooled.isfinite().all() and not pooled.requires_grad


@pytest.mark.parametrize("name", SEEING)
def test_frames_of_a_stack_stand_side_by_side(encoders, name):
    if encoders[name].spec.frames > 1:
        pytest.skip("one feature for all frames")
    images = pictures(1, 3, 3, 84, 84)
    stacked = encoders[name](images)
    for frame in range(3):
        single = encoders[name](images[:, frame])
        torch.testing.assert_close(stacked.pooled.unflatten(1, (3, -1))[:, frame], single.pooled, atol=1e-4, rtol=1e-4)
        if single.tokens is not None:
            torch.testing.assert_close(stacked.tokens.unflatten(2, (3, -1))[:, :, frame], single.tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SEEING)
def test_float_pictures_give_the_same(encoders, name):
    images = for_encoder(encoders[name], pictures(1, 3, 84, 84))
    torch.testing.assert_close(encoders[name](images / 255).pooled, encoders[name](images).pooled)


@pytest.mark.parametrize("name", SEEING)
@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.zeros(3, 84, 84), "images\\[None\\]"),
        (torch.zeros(2, 84, 84, 3), "movedim"),
        (torch.zeros(2, 4, 84, 84), "3 colour channels"),
        (torch.zeros(0, 3, 84, 84), "empty"),
        (torch.zeros(2, 3, 84, 84) + 2, "range from 2 to 2"),
        (torch.zeros(2, 3, 84, 84) - 1, "undo the normalisation"),
        (torch.full((2, 3, 84, 84), float("nan")), "NaN"),
        (torch.zeros(2, 3, 84, 84, dtype=torch.int64), "uint8"),
        ([[0]], "torch.from_numpy"),
    ],
)
def test_wrong_pictures_are_refused(encoders, name, images, text):
    if isinstance(images, torch.Tensor) and images.ndim == 4 and len(images) and images.shape[1] == 3:
        images = for_encoder(encoders[name], images)  # what is wrong lies in the values
    with pytest.raises(ValueError, match=text):
        encoders[name](images)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stays_frozen(encoders, name):
    encoder = encoders[name]
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_fingerprint_is_a_function_of_what_is_loaded(encoders, fingerprints, name):
    assert list(fingerprints.values()).count(fingerprints[name]) == 1
    if sum(parameter.numel() for parameter in encoders[name].parameters()) < 3e7:  # the others take seconds to build again
        assert load(name).fingerprint() == fingerprints[name]


@pytest.mark.parametrize("name", NAMES)
def test_says_where_its_weights_come_from(encoders, name):
    assert isinstance(encoders[name].trained_by, str) and encoders[name].trained_by
    untrained = "untrained" in encoders[name].trained_by or "nothing to train" in encoders[name].trained_by
    assert (encoders[name].weights_sha256 is None) == untrained


@pytest.mark.parametrize("name", ["mvp", "imagenet"])
def test_weights_that_need_no_download(encoders, name):
    assert encoders[name].weights_sha256


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("mvpp", {}, "Did you mean encoder=mvp"),
        ("mvp", {"variant": "tinny"}, "Did you mean variant=tiny"),
        ("mvp", {"sed": 1}, "seed"),
        ("mvp", {"seed": "one"}, "seed=one is not possible: seed is a whole number, such as seed=0"),
        ("pixels", {"size": None}, "size=null is not possible"),
        ("timm", {"model": 5}, "model is text, such as model=resnet18"),
        ("random", {"weights": "random"}, "takes no weights="),
        ("pixels", {"variant": "tiny"}, "takes no variant="),
        ("identity", {"weights": "x.pth"}, "takes no weights="),
    ],
)
def test_mistakes_get_one_paragraph(name, settings, text):
    with pytest.raises(UserError, match=text):
        load_encoder(name, **settings)


def test_pixels_are_area_averages(encoders):
    images = pictures(1, 3, 84, 84)
    means = images.float().div(255).unflatten(2, (12, 7)).unflatten(4, (12, 7)).mean(dim=(3, 5))
    torch.testing.assert_close(encoders["pixels"](images).pooled, means.flatten(1))


class Pairs(Encoder):
    """Needs two frames at once."""

    def __init__(self):
        super().__init__(EncoderSpec("pairs", (8, 8), 1, frames=2, mean=(0, 0, 0), std=(1, 1, 1)))

    def encode(self, images):
        return Features((images[:, 1] - images[:, 0]).mean(dim=(1, 2, 3))[:, None], None)


def test_an_encoder_of_several_frames_gets_the_stack_whole():
    images = torch.stack([torch.zeros(3, 3, 8, 8), torch.full((3, 3, 8, 8), 0.25)], dim=1)
    torch.testing.assert_close(Pairs()(images).pooled, torch.full((3, 1), 0.25))
    with pytest.raises(ValueError, match="stacks of exactly 2"):
        Pairs()(images[:, 0])
