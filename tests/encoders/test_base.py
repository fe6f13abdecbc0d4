"""Preprocessing, fusion of views and speed, which all encoders share."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders import base
from robo_repr.encoders.base import PIXELS_AT_A_TIME, Encoder, EncoderSpec, Features, fuse_views
from robo_repr.encoders.mvp import Random
from robo_repr.nn.linear import FrozenLinear, freeze_linears


def picture(height, width, seed=0):
    """A smooth picture with some noise, uint8 (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return ((smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [None, 37, 32])
@pytest.mark.parametrize("size", [(84, 84), (90, 61), (20, 25), (32, 32)], ids=str)
def test_resizing_and_cropping_are_torchvisions_on_pil_pictures(mode, resize, size):
    spec = EncoderSpec("toy", (32, 32), 1, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation=mode, resize=resize)
    images = picture(*size)
    steps = [
        transforms.Resize((32, 32) if resize is None else resize, InterpolationMode(mode)),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize(spec.mean, spec.std),
    ]
    expected = transforms.Compose(steps)(Image.fromarray(images[0].permute(1, 2, 0).numpy()))
    found = Encoder(spec).preprocess(images)[0]
    # PIL rounds to whole bytes after each of its two passes; we do not.
    assert (found - expected).abs().max() <= 1.6 / 255 / min(spec.std)
    assert (found - expected).abs().mean() <= 0.4 / 255 / min(spec.std)


def test_untouched_pictures_of_the_right_size_pass_as_they_are():
    images = picture(32, 32)
    spec = EncoderSpec("toy", (32, 32), 1, mean=(0, 0, 0), std=(1, 1, 1), resize=40)
    assert not torch.allclose(Encoder(spec).preprocess(images), images / 255, atol=0.02)
    untouched = EncoderSpec("toy", (32, 32), 1, mean=(0, 0, 0), std=(1, 1, 1), resize=40, untouched=True)
    assert torch.equal(Encoder(untouched).preprocess(images), images / 255)


def test_views_side_by_side_or_averaged():
    encoder = load_encoder("mvp")
    images = torch.cat([picture(84, 84, seed) for seed in range(6)]).unflatten(0, (2, 3))
    single = [encoder(images[:, view]) for view in range(3)]
    together = encoder.encode_views(images)
    torch.testing.assert_close(together.pooled, torch.cat([features.pooled for features in single], dim=1))
    torch.testing.assert_close(together.tokens, torch.cat([features.tokens for features in single], dim=1))
    mean = encoder.encode_views(images, "mean")
    torch.testing.assert_close(mean.pooled, torch.stack([features.pooled for features in single]).mean(dim=0))
    torch.testing.assert_close(mean.tokens, torch.stack([features.tokens for features in single]).mean(dim=0))
    stacked = encoder.encode_views(images[:, :, None].expand(-1, -1, 2, -1, -1, -1))
    assert stacked.pooled.shape == (2, 3 * 2 * 128) and stacked.tokens.shape == (2, 3 * 36, 2 * 128)


def test_fusion_mistakes():
    features = Features(torch.zeros(4, 2), None)
    with pytest.raises(UserError, match="Did you mean fusion=mean"):
        fuse_views(features, 2, "means")
    with pytest.raises(ValueError, match="do not fit 3 views"):
        fuse_views(features, 3, "mean")
    with pytest.raises(ValueError, match="takes .B, V, 3, H, W."):
        load_encoder("pixels").encode_views(torch.zeros(2, 3, 8, 8))


def test_frozen_linears_compute_the_same():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 32, bias=False))
    inputs = torch.randn(5, 7, 64)
    expected = layers(inputs).detach()
    names = list(layers.state_dict())
    freeze_linears(layers)
    assert all(type(layer) is FrozenLinear for layer in layers) and list(layers.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(layers(inputs), expected, atol=1e-5, rtol=1e-5)
    layers(inputs).sum().backward()  # and still learn where they are asked to
    assert layers[0].weight.grad.abs().sum() > 0


def test_pictures_encoded_a_few_at_a_time_are_those_encoded_alone():
    encoder = Random().freeze()
    at_a_time = PIXELS_AT_A_TIME // 84**2
    images = torch.randint(0, 256, (at_a_time + 3, 3, 84, 84), dtype=torch.uint8)
    together = encoder(images)
    torch.testing.assert_close(together.pooled[-1:], encoder(images[-1:]).pooled)
    torch.testing.assert_close(together.tokens[:2], encoder(images[:2]).tokens)


def test_cores_share_the_work_without_changing_the_result(monkeypatch):
    encoder = Random().freeze()
    images = torch.randint(0, 256, (300, 3, 84, 84), dtype=torch.uint8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(base, "encoding_threads", lambda process: pytest.fail("not needed"))
            few = encoder(images[:8])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: 2)
            alone = encoder(images)
        with monkeypatch.context() as patch, ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            used = []
            patch.setattr(base, "encoding_threads", lambda process: used.append(process) or pool)
            shared = encoder(images)
        assert used == [os.getpid()]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(shared.pooled, alone.pooled) and torch.equal(shared.tokens, alone.tokens) and not shared.pooled.requires_grad
    torch.testing.assert_close(few.pooled, shared.pooled[:8])


def test_bfloat16_is_close_and_has_its_own_fingerprint():
    images = torch.cat([picture(84, 84, seed) for seed in range(4)])
    exact, fast = load_encoder("mvp"), load_encoder("mvp", precision="bfloat16")
    expected, found = exact(images).pooled, fast(images).pooled
    error = float((found - expected).norm() / expected.norm())
    assert found.dtype == torch.float32 and 0 < error < 0.03
    assert exact.fingerprint() != fast.fingerprint()
    with pytest.raises(UserError, match="precision=float16 is not known"):
        load_encoder("mvp", precision="float16")


def test_the_picture_is_not_mirrored_or_transposed():
    images = np.zeros((1, 3, 84, 84), np.uint8)
    images[0, 0, :20, 60:] = 255  # red, top right
    pooled = load_encoder("pixels")(torch.from_numpy(images)).pooled.view(3, 12, 12)
    assert pooled[0, 0, 11] == 1 and pooled[0, 11, 0] == 0 and not pooled[1:].any()
