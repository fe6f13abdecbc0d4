"""VC-1 from a file in the released layout, against a ViT written independently."""

import pytest
import torch

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders import vc1
from tests.vit_reference import encode

HEADS = 3


@pytest.fixture
def small(monkeypatch):
    """The variant's own body takes seconds and 350 MB; a narrower one of the same kind does here."""
    monkeypatch.setitem(vc1.VARIANTS, "vitb", (192, "vit_tiny_patch16_224"))


def released(path, drop=(), **extra):
    """Writes MAE's training file, every tensor random, and returns the encoder's part of it."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape, mean=0.0):
        return mean + 0.05 * torch.randn(*shape, generator=generator)

    dim = 192
    state = {
        "cls_token": noise(1, 1, dim),
        "pos_embed": noise(1, 197, dim),
        "patch_embed.proj.weight": noise(dim, 3, 16, 16),
        "patch_embed.proj.bias": noise(dim),
        "norm.weight": noise(dim, mean=1),
        "norm.bias": noise(dim),
    }
    for block in range(12):
        for norm in ("norm1", "norm2"):
            state[f"blocks.{block}.{norm}.weight"] = noise(dim, mean=1)
            state[f"blocks.{block}.{norm}.bias"] = noise(dim)
        for name, rows, columns in [("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)]:
            state[f"blocks.{block}.{name}.weight"] = noise(rows * dim, columns * dim)
            state[f"blocks.{block}.{name}.bias"] = noise(rows * dim)
    decoder = {"mask_token": noise(1, 1, 8), "decoder_embed.weight": noise(8, dim), "decoder_blocks.0.norm1.weight": noise(8)}
    torch.save({"model": {key: value for key, value in {**state, **decoder, **extra}.items() if key not in drop}, "epoch": 182}, path)
    return state


def test_released_file_gives_the_papers_feature(tmp_path, small):
    state = released(tmp_path / "vc1_vitb.pth")
    encoder = load_encoder("vc1", weights=str(tmp_path / "vc1_vitb.pth"))
    images = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = encode(encoder.preprocess(images), state, HEADS)
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, expected[:, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(tokens, expected[:, 1:], atol=1e-4, rtol=1e-3)
    assert pooled.std(dim=0).max() > 1e-3  # the two pictures differ


def test_preprocessing_is_the_authors_torchvision_transform():
    from torchvision.transforms import v2

    encoder = load_encoder("vc1", weights="random")
    images = torch.rand(2, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    steps = [
        v2.Resize(256, v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(224),
        v2.Lambda(lambda pixels: pixels.clamp(0, 1)),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    torch.testing.assert_close(encoder.preprocess(images), v2.Compose(steps)(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("drop", "extra", "text"),
    [
        (("norm.weight",), {}, "norm.weight is missing"),
        ((), {"head.weight": torch.zeros(2, 2)}, "head.weight is unknown"),
        ((), {"pos_embed": torch.zeros(1, 257, 192)}, "pos_embed has the shape"),
        ((), {"norm.bias": torch.full((192,), torch.nan)}, "not finite"),
    ],
)
def test_other_files_are_refused(tmp_path, small, drop, extra, text):
    released(tmp_path / "x.pth", drop, **extra)
    with pytest.raises(UserError, match=text):
        load_encoder("vc1", weights=str(tmp_path / "x.pth"))


def test_another_variant_is_refused(tmp_path):
    released(tmp_path / "x.pth")
    with pytest.raises(UserError, match="another architecture than vc1 variant=vitb"):
        load_encoder("vc1", weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize(("variant", "parameters"), [("vitb", 85_798_656), ("vitl", 303_301_632)])
def test_counts(variant, parameters):
    import timm

    dim, body = vc1.VARIANTS[variant]
    with torch.device("meta"):
        net = timm.create_model(body, num_classes=0)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert net.pos_embed.shape == (1, 197, dim) and net.norm.eps == 1e-6
