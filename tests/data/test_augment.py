"""Augmentation: each operation against torchvision's, what the draws are distributed like, and what they depend on."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from scipy.stats import chisquare, kstest

from robo_repr.core.errors import UserError
from robo_repr.data.augment import Augment

EVERYTHING = {
    "shift": 2, "crop": (0.4, 0.9), "size": (10, 14), "flip": 0.5, "jitter": 0.7, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3,
    "hue": 0.1, "grayscale": 0.3, "blur": 0.5,
}  # fmt: skip


def pictures(batch=6, frames=2, views=3, size=(12, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, views, 3, *size), dtype=torch.uint8, generator=generator)


def one_by_one(augment, images, operation):
    """The oracle: an operation on each sample's pictures (T, V, 3, H, W) in [0, 1] with that sample's draws."""
    draws = augment.draw(len(images), images.shape[2], tuple(images.shape[4:]), seed=1, step=2)
    return torch.stack([operation(image / 255, {key: value[i].item() for key, value in draws.items()}) for i, image in enumerate(images)])


def compare(augment, images, operation, tolerance):
    found, expected = augment(images, seed=1, step=2), one_by_one(augment, images, operation)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance
    assert not torch.equal(expected, images / 255), "the oracle did nothing"


def test_by_default_nothing_happens():
    images = pictures()
    assert torch.equal(Augment()(images, seed=0, step=0), images / 255)
    idle = Augment(flip=0, jitter=0, hue=0.5, brightness=1, shift=1, crop=(1, 1), size=(12, 16), aspect=(4 / 3, 4 / 3))
    draws = idle.draw(6, 3, (12, 16), seed=0, step=3)
    still = (draws["top"] == 0) & (draws["left"] == 0)
    assert still.any() and torch.equal(idle(images, seed=0, step=3)[still], (images / 255)[still]), "through the resampling, yet exact"


@pytest.mark.parametrize("size", [(12, 16), (84, 84), (7, 5)])
def test_shifts_are_exact_and_repeat_the_edge(size):
    def shifted(image, draw):
        rows = (torch.arange(size[0]) + draw["top"]).clamp(0, size[0] - 1)
        columns = (torch.arange(size[1]) + draw["left"]).clamp(0, size[1] - 1)
        return image[..., rows, :][..., columns]

    compare(Augment(shift=4), pictures(size=size), shifted, 0)


def test_flips_are_exact():
    compare(Augment(flip=0.5), pictures(), lambda image, draw: image.flip(-1) if draw["flip"] else image, 0)


@pytest.mark.parametrize(("source", "target"), [((12, 16), (10, 14)), ((9, 30), (20, 7)), ((40, 33), (8, 8)), ((24, 24), None)])
def test_crops_are_those_of_torchvision(source, target):
    def cropped(image, draw):
        box = [draw[key] for key in ("top", "left", "height", "width")]
        return F.resized_crop(image.flatten(0, 1), *box, target or source, antialias=True).unflatten(0, image.shape[:2])

    compare(Augment(crop=(0.2, 0.8), size=target), pictures(size=source), cropped, 2e-6)


def test_size_alone_resizes():
    images = pictures(size=(30, 21))
    found = Augment(size=8)(images, seed=0, step=0)
    assert (found - F.resize((images / 255).flatten(0, 2), [8, 8], antialias=True).unflatten(0, (6, 2, 3))).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("key", "strength", "operation", "tolerance"),
    [
        ("brightness", 0.6, F.adjust_brightness, 1e-6),
        ("contrast", 0.6, F.adjust_contrast, 3e-4),  # the two weigh the colours of gray with 3 and with 4 digits
        ("saturation", 0.6, F.adjust_saturation, 3e-4),
        ("hue", 0.5, F.adjust_hue, 1e-5),
    ],
)
def test_colours_are_those_of_torchvision(key, strength, operation, tolerance):
    augment = Augment(jitter=0.6, **{key: strength})
    compare(augment, pictures(), lambda image, draw: operation(image, draw[key]) if draw["jitter"] else image, tolerance)


def test_gray_and_blur_are_those_of_torchvision():
    gray = Augment(grayscale=0.5)
    compare(gray, pictures(), lambda image, draw: F.rgb_to_grayscale(image, 3) if draw["grayscale"] else image, 3e-4)

    def blurred(image, draw):
        if not draw["blur"]:
            return image
        padded = F.pad(image.flatten(0, 1), [6] * 4, padding_mode="edge")
        return F.gaussian_blur(padded, [13, 13], [draw["sigma"]] * 2)[..., 6:-6, 6:-6].unflatten(0, image.shape[:2])

    compare(Augment(blur=0.6), pictures(), blurred, 1e-6)


def test_everything_together_stays_in_range_and_small_pictures_work():
    for size in ((1, 1), (2, 5), (33, 9)):
        found = Augment(**EVERYTHING)(pictures(size=size), seed=0, step=0)
        assert found.shape == (6, 2, 3, 3, 10, 14) and found.min() >= 0 and found.max() <= 1


def test_a_sample_depends_on_its_row_alone():
    augment, images = Augment(**EVERYTHING), pictures(8)
    whole = augment(images, seed=5, step=9)
    parts = [augment(images[first : first + 2], seed=5, step=9, first_row=first) for first in range(0, 8, 2)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    changed = images.clone()
    changed[0] = 0
    assert torch.allclose(whole[1:], augment(changed, seed=5, step=9)[1:], atol=1e-6)
    for other in ({"seed": 6, "step": 9}, {"seed": 5, "step": 8}, {"seed": 5, "step": 9, "stream": "second look"}):
        assert not torch.allclose(whole, augment(images, **other), atol=0.1)
    same = pictures(1).expand(8, -1, -1, -1, -1, -1)
    assert len({tuple(row.flatten().tolist()) for row in augment(same, seed=0, step=0)}) == 8, "each row has draws of its own"


def test_adding_an_operation_moves_no_other():
    plain, more = Augment(shift=3), Augment(shift=3, brightness=0.5, flip=0.5)
    one, other = (augment.draw(50, 1, (20, 20), seed=0, step=0) for augment in (plain, more))
    assert np.array_equal(one["top"], other["top"]) and np.array_equal(one["left"], other["left"])


@pytest.mark.parametrize("per_view", [False, True])
def test_frames_share_their_draws_and_views_do_unless_told_otherwise(per_view):
    images = pictures(5, 1, 1).expand(-1, 4, 3, -1, -1, -1)
    found = Augment(**EVERYTHING, per_view=per_view)(images, seed=0, step=1)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-6)
    same = [torch.allclose(sample[:, 0], sample[:, view], atol=1e-3) for sample in found for view in (1, 2)]
    assert all(same) if not per_view else sum(same) <= 1


def test_per_view_draws_go_to_their_view():
    images = pictures(4, 2, 3)
    augment = Augment(shift=2, per_view=True)
    draws = augment.draw(4, 3, (12, 16), seed=1, step=2)
    found = augment(images, seed=1, step=2)
    for row in range(4):
        for view in range(3):
            top, left = (draws[key].reshape(4, 3)[row, view] for key in ("top", "left"))
            rows, columns = (torch.arange(12) + top).clamp(0, 11), (torch.arange(16) + left).clamp(0, 15)
            assert torch.equal(found[row, :, view], images[row, :, view][..., rows, :][..., columns] / 255)


def test_draws_are_distributed_as_promised():
    count = 20_000
    draws = Augment(shift=3, flip=0.3, jitter=0.2, hue=0.25, contrast=0.4, grayscale=0.1).draw(count, 1, (84, 84), seed=0, step=0)
    for key in ("top", "left"):
        assert chisquare(np.bincount(draws[key] + 3, minlength=7)).pvalue > 1e-3 and draws[key].min() == -3
    assert abs(np.corrcoef(draws["top"], draws["left"])[0, 1]) < 0.03
    for key, share in (("flip", 0.3), ("jitter", 0.2), ("grayscale", 0.1)):
        assert abs(draws[key].mean() - share) < 0.015
    assert kstest(draws["hue"], "uniform", (-0.25, 0.5)).pvalue > 1e-3
    assert kstest(draws["contrast"], "uniform", (0.6, 0.8)).pvalue > 1e-3


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (500, 500)])
def test_crops_fill_their_ranges_and_fit(size):
    draws = Augment(crop=(0.2, 0.9)).draw(20_000, 1, size, seed=0, step=0)
    area = draws["height"] * draws["width"] / (size[0] * size[1])
    aspect = draws["width"] / draws["height"]
    assert kstest(area, "uniform", (0.2, 0.7)).statistic < 0.01
    assert aspect.min() > 3 / 4 - 0.01 and aspect.max() < 4 / 3 + 0.01 and aspect.max() - aspect.min() > 0.5
    for start, extent, edge in (("top", "height", size[0]), ("left", "width", size[1])):
        room = edge - draws[extent]
        wide = room > 50
        assert draws[start].min() == 0 and (draws[start] <= room).all() and (draws[start] == room)[wide].any()
        assert kstest(draws[start][wide] / room[wide], "uniform").statistic < 0.02


def test_a_crop_that_cannot_have_its_area_keeps_its_aspect():
    draws = Augment(crop=(0.9, 1.0)).draw(100, 1, (90, 400), seed=0, step=0)
    assert (draws["height"] == 90).all() and (draws["width"] == 120).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shift": -1}, "shift=-1"),
        ({"shift": 1.5}, "whole number"),
        ({"flip": 1.2}, "a probability"),
        ({"crop": (0.5, 1.2)}, r"crop\[1\]=1.2"),
        ({"crop": (0.5, 0.2)}, r"crop\[1\]=0.2"),
        ({"crop": (0, 1)}, r"crop\[0\]=0"),
        ({"crop": [0.5]}, "two numbers"),
        ({"crop": 0.5}, "two numbers"),
        ({"size": 0}, "size=0"),
        ({"size": (8,)}, "height and width"),
        ({"hue": 0.7}, "full turn"),
        ({"brightness": float("nan")}, "brightness=nan"),
    ],
)
def test_mistakes_are_explained(changes, words):
    with pytest.raises(UserError, match=words):
        Augment(**changes)


def test_other_pictures_are_refused():
    with pytest.raises(ValueError, match=r"torch.uint8 \(B, T, V, 3, H, W\)"):
        Augment()(pictures() / 255, seed=0, step=0)
    with pytest.raises(ValueError, match="takes"):
        Augment()(pictures()[0], seed=0, step=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_does_what_the_cpu_does():
    images, augment = pictures(), Augment(**EVERYTHING)
    found = augment(images.cuda(), seed=0, step=0)
    assert found.is_cuda and (found.cpu() - augment(images, seed=0, step=0)).abs().max() < 1e-5
    shift = Augment(shift=3)
    assert torch.equal(shift(images.cuda(), seed=0, step=0).cpu(), shift(images, seed=0, step=0))
