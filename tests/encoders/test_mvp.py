"""Parity of the MVP encoder with a ViT written independently."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.base import Encoder
from robo_repr.encoders.mvp import MVP, VARIANTS, Random, build_vit
from robo_repr.nn.positions import sincos_2d
from tests.vit_reference import encode

SIZES = [
    "tiny",
    "vits-mae-in",
    pytest.param("vitb-mae-egosoup", marks=pytest.mark.slow),
    pytest.param("vitl-256-mae-egosoup", marks=pytest.mark.slow),
]


def scrambled(variant):
    """An encoder whose every parameter is random, norms and biases too."""
    encoder = MVP(variant, "random", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return encoder.freeze()


def pictures(encoder, batch=2):
    return torch.rand(batch, 3, *encoder.spec.size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("variant", SIZES)
def test_features_equal_the_reference(variant):
    encoder = scrambled(variant)
    images = pictures(encoder)
    expected = encode(encoder.preprocess(images), encoder.net.state_dict(), VARIANTS[variant].heads)
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, expected[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens, expected[:, 1:], atol=1e-5, rtol=1e-4)


def test_six_heads_do_not_match_the_small_model():
    encoder = scrambled("vits-mae-in")
    images = pictures(encoder, 1)
    wrong = encode(encoder.preprocess(images), encoder.net.state_dict(), heads=6)
    assert (encoder(images).pooled - wrong[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("variant", "parameters", "tokens"),
    [
        ("tiny", 873_600, 37),
        ("vits-mae-in", 21_665_664, 197),
        ("vitb-mae-egosoup", 85_798_656, 197),
        ("vitl-256-mae-egosoup", 303_363_072, 257),
    ],
)
def test_counts(variant, parameters, tokens):
    vit = build_vit(VARIANTS[variant])
    assert sum(parameter.numel() for parameter in vit.parameters()) == parameters
    assert vit.pos_embed.shape[1] == tokens


def test_preprocessing_is_imagenets():
    encoder = Random()
    extremes = encoder.preprocess(torch.stack([torch.zeros(3, 84, 84), torch.ones(3, 84, 84)]))
    assert extremes.min().item() == pytest.approx(-2.1179, abs=1e-4)
    assert extremes.max().item() == pytest.approx(2.6400, abs=1e-4)


def test_pooled_is_the_class_token_after_the_final_norm():
    encoder = scrambled("tiny")
    images = pictures(encoder)
    kept = []
    encoder.net.blocks.register_forward_hook(lambda module, inputs, output: kept.append(output))
    pooled = encoder(images).pooled
    norm = encoder.net.norm
    torch.testing.assert_close(pooled, F.layer_norm(kept[0][:, 0], (encoder.spec.dim,), norm.weight, norm.bias, eps=1e-6))


def test_positions_are_fixed():
    encoder = Random()
    assert torch.equal(encoder.net.pos_embed[0], sincos_2d(128, (6, 6), prefix=1))
    assert not encoder.net.pos_embed.requires_grad


def test_visible_patches_see_each_other_only():
    encoder = scrambled("tiny")
    images = pictures(encoder)
    keep = torch.tensor([[5, 0, 35], [7, 8, 9]])
    sequence = encoder.visible(images, keep, prefix=True)
    torch.testing.assert_close(sequence, encode(encoder.preprocess(images), encoder.net.state_dict(), 4, keep), atol=1e-5, rtol=1e-4)
    assert torch.equal(encoder.visible(images, keep), sequence[:, 1:])
    changed = images.clone()
    changed[:, :, 42:56, 42:56] = 0  # patch 21, which is hidden in both
    assert torch.equal(encoder.visible(changed, keep, prefix=True), sequence)
    everything = torch.arange(36).expand(2, -1)
    torch.testing.assert_close(encoder.visible(images, everything), encoder(images).tokens, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="Fold the frames"):
        encoder.visible(images[:, None], keep)


def test_gradients_reach_the_first_block_unless_frozen():
    encoder = Random()
    encoder(pictures(encoder)).pooled.square().sum().backward()
    assert encoder.net.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    encoder.freeze()
    assert not encoder(pictures(encoder).requires_grad_()).pooled.requires_grad


def test_the_official_freeze_leaves_the_final_norm_trainable():
    encoder = Random().freeze(official=True)
    assert {name for name, parameter in encoder.net.named_parameters() if parameter.requires_grad} == {"norm.weight", "norm.bias"}
    encoder(pictures(encoder)).pooled.square().sum().backward()
    assert encoder.net.norm.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.net.blocks.parameters())
    assert not any(parameter.requires_grad for parameter in Random().freeze().parameters())


@pytest.mark.parametrize("variant", ["vits-mae-hoi", pytest.param("vitl-256-mae-egosoup", marks=pytest.mark.slow)])
def test_a_file_in_the_official_layout_loads_strictly(variant, tmp_path):
    original = scrambled(variant)
    extra = {
        "decoder_pred.weight": torch.zeros(2, 2),
        "mask_token": torch.zeros(1, 1, 2),
        "head.bias": torch.zeros(3),
        "fc_norm.bias": torch.ones(1),
    }
    path = tmp_path / "official.pth"
    torch.save({"model": {**original.net.state_dict(), **extra}}, path)
    loaded = load_encoder("mvp", variant=variant, weights=str(path))
    images = pictures(original, 1)
    expected = encode(original.preprocess(images), original.net.state_dict(), VARIANTS[variant].heads)
    torch.testing.assert_close(loaded(images).pooled, expected[:, 0], atol=1e-5, rtol=1e-4)
    state = original.net.state_dict()
    state["pos_embed"] = state["pos_embed"][:, :-1]
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match="pos_embed has the shape"):
        load_encoder("mvp", variant=variant, weights=str(path))


def test_the_wrist_cameras_middle_is_columns_37_to_260():
    """Card of the paper's simulator: 298 x 224 rendered, the middle 224 columns kept."""
    ramp = torch.arange(298).expand(1, 3, 224, 298) / 297
    spec = replace(Random("vits-mae-in").spec, mean=(0, 0, 0), std=(1, 1, 1), resize=224)
    kept = Encoder(spec).preprocess(ramp)
    torch.testing.assert_close(kept[0, 0, 0, [0, -1]], torch.tensor([37, 260]) / 297)


def test_float32_also_under_autocast():
    encoder = Random().freeze()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, tokens = encoder(pictures(encoder))
    assert pooled.dtype == tokens.dtype == torch.float32


def test_untrained_weights_are_a_function_of_the_seed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = Random(seed=1), Random(seed=1), Random(seed=2)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert torch.equal(torch.get_rng_state(), before)  # and leaves the global generator alone
