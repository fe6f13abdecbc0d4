import dataclasses

import pytest
import torch

from robo_repr.core.errors import UserError
from robo_repr.encoders.base import EncoderSpec, Features
from robo_repr.encoders.controls import Identity, Pixels
from robo_repr.encoders.readout import READOUTS, Readout

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


@pytest.mark.parametrize(("name", "dim"), [("grid4", 2 * 16 * 4), ("pooled", 2 * 8), ("keypoints", 2 * 4 * 4), ("tokens", 2 * 36 * 4)])
def test_shape_and_spread(name, dim):
    readout = calibrated(name, channels=4)
    out = readout(features(64))
    assert out.shape == (64, dim) and out.dtype == torch.float32 and readout.dim == dim
    assert out.abs().max() <= 5
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(dim), atol=1e-4, rtol=0)
    assert 0.5 < out.std(dim=0).mean() < 1  # divided by a little more than the deviation


def principal_maps(data, view, channels=4):
    """First components of one view's tokens about their mean at each position, (64, channels, 6, 6), by a singular value decomposition."""
    tokens = data.tokens.view(64, 2, 36, -1)[:, view].double()
    centred = tokens - tokens.mean(dim=0)
    _, _, components = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)
    components = components[:channels]
    components = components * components.gather(1, components.abs().argmax(dim=1, keepdim=True)).sign()
    return (centred @ components.T).transpose(1, 2).unflatten(2, (6, 6))


def by_grid4(maps):
    return torch.nn.functional.adaptive_avg_pool2d(maps, 4).flatten(2).transpose(1, 2)


def by_tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def by_keypoints(maps):
    maps = maps / maps.std(dim=(0, 2, 3), correction=0)[:, None, None]
    points = []
    for sign in (1, -1):
        share = (sign * maps).exp() / (sign * maps).exp().sum(dim=(2, 3), keepdim=True)
        line = torch.tensor([-1, -0.6, -0.2, 0.2, 0.6, 1], dtype=torch.float64)
        points.append(torch.stack([share.sum(dim=3) @ line, share.sum(dim=2) @ line], dim=2))
    return torch.stack(points, dim=1)


@pytest.mark.parametrize(("name", "recipe"), [("grid4", by_grid4), ("tokens", by_tokens), ("keypoints", by_keypoints)])
def test_equals_the_recipe_step_by_step(name, recipe):
    data = features(64)
    readout = Readout(name, SPEC, VIEWS, channels=4)
    readout.calibrate(data)
    out = readout(data).view(64, 2, -1)
    for view in range(2):
        cells = recipe(principal_maps(data, view)).flatten(1)
        cells = cells - cells.mean(dim=0)
        deviation = cells.std(dim=0, correction=0)
        expected = (cells / (deviation + 0.3 * deviation.mean())).clamp(-5, 5)
        torch.testing.assert_close(out[:, view], expected.float(), atol=1e-4, rtol=1e-3)


def blobs(places):
    """Features of pictures with one blob each on an 8 x 8 grid: it shines in one direction of the tokens, the rest is faint noise."""
    generator = torch.Generator().manual_seed(3)
    line = torch.arange(8.0)
    heights = torch.exp(-((line[:, None, None] - places[:, 0]) ** 2 + (line[None, :, None] - places[:, 1]) ** 2) / 2).permute(2, 0, 1)
    tokens = 10 * heights.flatten(1)[:, :, None] * torch.nn.functional.one_hot(torch.tensor(5), 24)
    tokens = tokens + 0.01 * torch.randn(tokens.shape, generator=generator)
    return Features(tokens.mean(dim=1), tokens)


def test_keypoints_find_a_blob_and_means_do_not():
    grid = dataclasses.replace(SPEC, dim=24, grid=(8, 8))
    places = torch.cartesian_prod(torch.arange(2, 6), torch.arange(2, 6)).float()  # away from the border, so every mean is the same
    found = {}
    for name in ("keypoints", "pooled"):
        readout = Readout(name, grid, ["front"], channels=1)
        readout.calibrate(blobs(places))
        found[name] = readout(blobs(places))
    for axis in range(2):  # the first two numbers: row and column of where the component is large
        correlation = torch.corrcoef(torch.stack([found["keypoints"][:, axis], places[:, axis]]))[0, 1]
        other = torch.corrcoef(torch.stack([found["keypoints"][:, axis], places[:, 1 - axis]]))[0, 1]
        assert correlation > 0.98 and abs(other) < 0.1
        blind = torch.corrcoef(torch.cat([found["pooled"].T, places.T[axis : axis + 1]]))[-1, :-1]
        assert blind[5].abs() < 0.3  # of the direction that shines


def test_stored_as_float16_features_keep_three_digits():
    """EmbedEnv and the replay hold features as float16. The clip at 5 bounds what that costs; without it large values overflow."""
    readout = calibrated("tokens")
    data = features(64, seed=4)
    exact = readout(data)
    stored = exact.half().float()
    normal = exact.abs() >= 2**-14  # below that float16 has steps of 2**-24 instead of 11 significant bits
    assert ((stored - exact).abs() <= 2**-11 * exact.abs())[normal].all()
    assert ((stored - exact).abs() <= 2**-25)[~normal].all()

    # A ridge prediction w @ x moves by at most 2**-11 * sum |w| * 5.
    target = torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = exact.double()
    weights = x.T @ torch.linalg.solve(x @ x.T + 10 * torch.eye(64, dtype=torch.float64), target)
    change = (stored.double() @ weights - x @ weights).abs()
    assert 0 < change.max() <= 2**-11 * 5 * weights.abs().sum() and change.max() < 1e-3 * target.std()

    readout.scale.mul_(1e-5)
    cells = readout._cells(data)
    unclipped = ((cells - readout.centre[:, None]) / readout.scale[:, None]).flatten(1)
    assert unclipped.half().isinf().any() and readout(data).half().isfinite().all()


@pytest.mark.parametrize("name", READOUTS)
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


@pytest.mark.parametrize("name", ["grid4", "keypoints"])
def test_calibration_does_not_depend_on_the_order_of_the_pictures(name):
    data = features(64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    shuffled = Features(*(x.unflatten(0, (64, 2))[order].flatten(0, 1) for x in data))
    one, two = Readout(name, SPEC, VIEWS), Readout(name, SPEC, VIEWS)
    one.calibrate(data)
    two.calibrate(shuffled)
    for key, value in one.state().items():
        torch.testing.assert_close(two.state()[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READOUTS)
def test_state_goes_round(name):
    first, second = calibrated(name), Readout(name, SPEC, VIEWS)
    with pytest.raises(RuntimeError, match="not calibrated"):
        second(features(2))
    second.load_state(first.state())
    assert torch.equal(first(features(5, seed=9)), second(features(5, seed=9)))
    assert first.fingerprint() == second.fingerprint()
    with pytest.raises(UserError, match="another encoder, read-out or number of views"):
        Readout(name, SPEC, ["front"]).load_state(first.state())


def test_calibrations_of_other_readouts_are_refused():
    for one in READOUTS:
        for other in set(READOUTS) - {one}:
            with pytest.raises(UserError, match="another encoder, read-out or number of views"):
                Readout(other, SPEC, VIEWS).load_state(calibrated(one).state())


def test_fingerprint_changes_with_calibration_and_views():
    other = Readout("grid4", SPEC, VIEWS)
    other.calibrate(features(64, seed=5))
    renamed = Readout("grid4", SPEC, ["front", "left"])
    renamed.load_state(calibrated().state())
    assert len({calibrated().fingerprint(), other.fingerprint(), renamed.fingerprint()}) == 3


@pytest.mark.parametrize(("name", "dim"), [("grid4", 64), ("keypoints", 16), ("tokens", 144)])
def test_frames_share_their_views_statistics(name, dim):
    readout = calibrated(name, frames=2, channels=4)
    data = features(3, frames=2)
    out = readout(data)
    assert out.shape == (3, readout.dim) and readout.dim == 2 * 2 * dim
    swapped = Features(data.pooled, data.tokens.unflatten(2, (2, -1)).flip(2).flatten(2))
    torch.testing.assert_close(readout(swapped).view(3, 2, 2, -1), out.view(3, 2, 2, -1).flip(2))


def test_an_encoder_that_takes_whole_stacks_gives_one_feature_for_them():
    readout = Readout("grid4", dataclasses.replace(SPEC, frames=3), VIEWS, frames=3, channels=4)
    readout.calibrate(features(64))
    assert readout(features(5)).shape == (5, 2 * 16 * 4)


@pytest.mark.parametrize("name", READOUTS)
def test_a_view_that_never_changes_stays_zero(name):
    readout = Readout(name, SPEC, ["dark"])
    readout.calibrate(Features(torch.ones(8, 8), torch.ones(8, 36, 24)))
    assert not readout(Features(torch.ones(2, 8), torch.ones(2, 36, 24))).any()


def test_encoders_without_tokens_get_the_pooled_rule():
    encoder = Pixels().freeze()
    images = torch.randint(0, 256, (12, 3, 84, 84), dtype=torch.uint8)
    outputs = []
    for name in READOUTS:
        readout = Readout(name, encoder.spec, VIEWS)
        readout.calibrate(encoder(images))
        outputs.append(readout(encoder(images)))
    assert outputs[0].shape == (6, 2 * 432) and all(torch.equal(outputs[0], other) for other in outputs[1:])


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
