"""Parity of R3M with the authors' forward, written plainly, and with their files."""

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.models import resnet

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.r3m import R3M, VARIANTS, build
from robo_repr.encoders.weights import load_strictly


class Official(nn.Module):
    """Pictures in 0..255; the argument `shape` decides, and not the picture, whether they are resized."""

    def __init__(self, variant, language=False):
        super().__init__()
        self.convnet = getattr(resnet, variant)(weights=None)
        self.convnet.fc = nn.Identity()
        if language:
            self.lang_enc = nn.Sequential(nn.Linear(4, 4))
            self.lang_rew = nn.Sequential(nn.Linear(4, 1))

    def forward(self, obs, shape=(3, 224, 224)):
        normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        if tuple(shape) != (3, 224, 224):
            normalize = nn.Sequential(transforms.Resize(256), transforms.CenterCrop(224), normalize)
        return self.convnet(normalize(obs.float() / 255))


def official(variant, **settings):
    """Every tensor random, the running statistics of the norms too."""
    generator = torch.Generator().manual_seed(1)
    model = Official(variant, **settings).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(value + 0.1 * noise.abs() if "running" in key else value + 0.02 * noise)
    return model


def saved(model, path):
    torch.save({"r3m": nn.DataParallel(model).state_dict(), "global_step": 5}, path)
    return str(path)


def pictures(height, width, batch=2):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_features_equal_the_official_ones(variant, tmp_path):
    model, images = official(variant), pictures(224, 224)
    encoder = load_encoder("r3m", variant=variant, weights=saved(model, tmp_path / "model.pt"))
    pooled, tokens = encoder(images)
    assert pooled.shape == (2, VARIANTS[variant]) and tokens.shape == (2, 49, VARIANTS[variant])
    expected = model(images)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    assert (pooled >= 0).all() and expected.max() > 0.1
    kept = []
    model.convnet.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
    model(images)
    torch.testing.assert_close(tokens[:, 9], kept[0][:, :, 1, 2], atol=1e-5, rtol=1e-5)  # row 1, column 2


@pytest.mark.parametrize("shape", [(256, 340), (300, 240), (84, 84)])
@torch.no_grad()
def test_other_sizes_are_resized_and_cropped(shape, tmp_path):
    model, images = official("resnet18"), pictures(*shape)
    encoder = load_encoder("r3m", variant="resnet18", weights=saved(model, tmp_path / "model.pt"))
    expected = model(images, shape=(3, *shape))
    torch.testing.assert_close(encoder(images).pooled, expected, atol=1e-5, rtol=1e-5)
    squashed = nn.functional.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
    assert (model(squashed) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_pictures_of_224_pass_untouched(tmp_path):
    model, images = official("resnet18"), pictures(224, 224)
    encoder = load_encoder("r3m", variant="resnet18", weights=saved(model, tmp_path / "model.pt"))
    assert (encoder(images).pooled - model(images, shape=(3, 225, 225))).abs().max() > 1e-3
    with pytest.raises(ValueError, match="range from"):
        encoder(images.float())  # 0..255 as float is ambiguous and refused


@pytest.mark.parametrize(("variant", "count"), [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032)])
def test_counts(variant, count):
    with torch.device("meta"):
        net = build(variant)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@torch.no_grad()
def test_language_networks_are_dropped_and_nothing_else(tmp_path):
    model = official("resnet18", language=True)
    encoder = load_encoder("r3m", variant="resnet18", weights=saved(model, tmp_path / "model.pt"))
    assert encoder.trained_by == "the file model.pt" and encoder.weights_sha256
    torch.testing.assert_close(encoder(pictures(224, 224)).pooled, model(pictures(224, 224)), atol=1e-5, rtol=1e-5)
    model.convnet.fc = nn.Linear(512, 10)
    with pytest.raises(UserError, match="fc.bias is unknown"):
        load_encoder("r3m", variant="resnet18", weights=saved(model, tmp_path / "classifier.pt"))


@torch.no_grad()
def test_the_hubs_file_loads_too(tmp_path):
    model = official("resnet18")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = load_encoder("r3m", variant="resnet18", weights=str(tmp_path / "pytorch_model.bin"))
    torch.testing.assert_close(encoder(pictures(224, 224)).pooled, model(pictures(224, 224)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_key_map_covers_every_size(variant, tmp_path):
    with torch.device("meta"):
        state = {f"module.{key}": value for key, value in Official(variant, language=True).state_dict().items()}
        own = build(variant)
    converted = R3M("resnet18", "random").convert(state)
    own.load_state_dict(converted, strict=True, assign=True)
    other = "resnet34" if variant == "resnet18" else "resnet18"
    with pytest.raises(UserError, match="of another architecture"), torch.device("meta"):
        load_strictly(build(other), converted, tmp_path, f"r3m variant={other}")


def test_without_weights_the_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBO_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="weights=random"):
        load_encoder("r3m")
    with pytest.raises(UserError, match="Did you mean variant=resnet50"):
        load_encoder("r3m", variant="resnet5")


def test_untrained_weights_are_a_function_of_the_seed():
    one, same, other = (R3M("resnet18", "random", seed=seed).freeze() for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
