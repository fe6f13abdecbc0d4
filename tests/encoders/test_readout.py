import dataclasses

import pytest
import torch

from robo_repr.core.errors import UserError
from robo_repr.encoders.base import EncoderSpec, Features
from robo_repr.encoders.controls import Identity, Pixels
from robo_repr.encoders.readout import Readout

SPEC = EncoderSpec("toy", (84, 84), 8, token_dim=24, grid=(6, 6))
VIEWS = ["front", "wrist"]


def features(worlds, views=2, frames=1, seed=0, spread=1.0):
    """Features of (worlds * views) pictures whose views have statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linspace(0.1, 2, SPEC.token_dim * frames)
    tokens = torch.randn(worlds, views, 36, SPEC.token_dim * frames, generator=generator) * mixing + torch.arange(36)[:, None] / 9
    pooled = torch.randn(worlds, views, SPEC.dim * frames, generator=generator) + 3
    offset = torch.arange(views)[:, None]
    return Features((spread * (pooled + offset)).flatten(0, 1), (spread * (tokens + offset[..., None])).flatten(0, 1))


def calibrated(name="grid4", **settings):
    readout = Readout(name, SPEC, VIEWS, **settings)
    readout.calibrate(features(64, frames=settings.get("frames", 1)))
    return readout


@pytest.mark.parametrize(("name", "dim"), [("grid4", 2 * 16 * 4), ("pooled", 2 * 8)])
def test_shape_and_spread(name, dim):
    readout = calibrated(name, channels=4)
    out = readout(features(64))
    assert out.shape == (64, dim) and out.dtype == torch.float32 and readout.dim == dim
    assert out.abs().max() <= 5
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(dim), atol=1e-4, rtol=0)
    assert 0.5 < out.std(dim=0).mean() < 1  # divided by a little more than the deviation


def test_grid4_equals_the_recipe_step_by_step():
    data = features(64)
    readout = Readout("grid4", SPEC, VIEWS, channels=4)
    readout.calibrate(data)
    out = readout(data).view(64, 2, 16, 4)
    for view in range(2):
        tokens = data.tokens.view(64, 2, 36, -1)[:, view].double()
        centred = tokens - tokens.mean(dim=0)
        _, _, components = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)
        components = components[:4]
        components = components * components.gather(1, components.abs().argmax(dim=1, keepdim=True)).sign()
        maps = (centred @ components.T).transpose(1, 2).unflatten(2, (6, 6))
        cells = torch.nn.functional.adaptive_avg_pool2d(maps, 4).flatten(2).transpose(1, 2)
        deviation = cells.std(dim=0, correction=0)
        expected = (cells / (deviation + 0.3 * deviation.mean())).clamp(-5, 5)
        torch.testing.assert_close(out[:, view], expected.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["grid4", "pooled"])
def test_each_view_has_its_own_slice(name):
    readout = calibrated(name)
    before = features(3)
    changed = Features(before.pooled.clone(), before.tokens.clone())
    changed.pooled[1::2] += 0.5
    changed.tokens[1::2] += 0.5
    one, two = readout(before), readout(changed)
    half = readout.dim // 2
    assert torch.equal(one[:, :half], two[:, :half])
    assert not torch.equal(one[:, half:], two[:, half:])


def test_affine_before_the_clip():
    readout = calibrated()
    a, b = features(4, seed=1, spread=0.3), features(4, seed=2, spread=0.3)
    readout.centre.zero_()
    readout.scale.mul_(100)  # far from the clip
    middle = Features((a.pooled + b.pooled) / 2, (a.tokens + b.tokens) / 2)
    torch.testing.assert_close(readout(middle), (readout(a) + readout(b)) / 2, atol=1e-5, rtol=1e-4)


def test_calibration_does_not_depend_on_the_order_of_the_pictures():
    data = features(64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = Features(*(x.unflatten(0, (64, 2))[order].flatten(0, 1) for x in data))
    one, two = Readout("grid4", SPEC, VIEWS), Readout("grid4", SPEC, VIEWS)
    one.calibrate(data)
    two.calibrate(shuffled)
    for key, value in one.state().items():
        torch.testing.assert_close(two.state()[key], value, atol=1e-5, rtol=1e-4)


def test_state_goes_round():
    first, second = calibrated(), Readout("grid4", SPEC, VIEWS)
    with pytest.raises(RuntimeError, match="not calibrated"):
        second(features(2))
    second.load_state(first.state())
    assert torch.equal(first(features(5, seed=9)), second(features(5, seed=9)))
    assert first.fingerprint() == second.fingerprint()
    with pytest.raises(UserError, match="another encoder, read-out or number of views"):
        Readout("grid4", SPEC, ["front"]).load_state(first.state())


def test_fingerprint_changes_with_calibration_and_views():
    other = Readout("grid4", SPEC, VIEWS)
    other.calibrate(features(64, seed=5))
    renamed = Readout("grid4", SPEC, ["front", "left"])
    renamed.load_state(calibrated().state())
    assert len({calibrated().fingerprint(), other.fingerprint(), renamed.fingerprint()}) == 3


def test_frames_share_their_views_statistics():
    readout = calibrated(frames=2, channels=4)
    data = features(3, frames=2)
    out = readout(data)
    assert out.shape == (3, readout.dim) and readout.dim == 2 * 2 * 16 * 4
    swapped = Features(data.pooled, data.tokens.unflatten(2, (2, -1)).flip(2).flatten(2))
    torch.testing.assert_close(readout(swapped).view(3, 2, 2, -1), out.view(3, 2, 2, -1).flip(2))


def test_a_view_that_never_changes_stays_zero():
    readout = Readout("grid4", SPEC, ["dark"])
    readout.calibrate(Features(torch.ones(8, 8), torch.ones(8, 36, 24)))
    assert not readout(Features(torch.ones(2, 8), torch.ones(2, 36, 24))).any()


def test_encoders_without_tokens_get_the_pooled_rule():
    encoder = Pixels().freeze()
    images = torch.randint(0, 256, (12, 3, 84, 84), dtype=torch.uint8)
    outputs = []
    for name in ("grid4", "pooled"):
        readout = Readout(name, encoder.spec, VIEWS)
        readout.calibrate(encoder(images))
        outputs.append(readout(encoder(images)))
    assert outputs[0].shape == (6, 2 * 432) and torch.equal(*outputs)


def test_an_encoder_that_sees_nothing_gives_nothing():
    readout = Readout("grid4", Identity().spec, VIEWS)
    readout.calibrate(Features(torch.zeros(6, 0), None))
    assert readout.dim == 0 and readout(Features(torch.zeros(6, 0), None)).shape == (3, 0)


def test_mistakes_say_what_to_do():
    with pytest.raises(UserError, match="Did you mean readout=grid4"):
        Readout("grid", SPEC, VIEWS)
    with pytest.raises(UserError, match="tokens of 24 numbers"):
        Readout("grid4", SPEC, VIEWS, channels=25)
    with pytest.raises(ValueError, match="do not fit 2 views"):
        calibrated()(Features(torch.zeros(3, 8), torch.zeros(3, 36, 24)))
    with pytest.raises(ValueError, match="needs the encoder's tokens"):
        calibrated()(Features(torch.zeros(2, 8), None))


def test_grids_smaller_than_four_are_spread_out():
    readout = Readout("grid4", dataclasses.replace(SPEC, grid=(3, 3)), ["front"])
    tokens = torch.randn(8, 9, 24, generator=torch.Generator().manual_seed(0))
    readout.calibrate(Features(torch.zeros(8, 8), tokens))
    assert readout(Features(torch.zeros(8, 8), tokens)).shape == (8, 256)
