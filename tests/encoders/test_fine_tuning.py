"""Encoders that learn, wholly or in their last blocks, and that come back from what was saved."""

import pytest
import torch
from torch import nn

from robo_repr import list_encoders, load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.weights import save_weights

# The smallest of each, untrained.
SETTINGS = {
    "clip": {"variant": "vitb32"},
    "curl": {"size": 32},
    "imagenet": {"size": 32},
    "r3m": {"variant": "resnet18"},
    "theia": {"variant": "tiny"},
    "timm": {"model": "test_vit"},
}
BLOCKS = {"clip": 12, "curl": 4, "dinov2": 12, "dinov3": 12, "imagenet": 16, "mvp": 4, "r3m": 8, "random": 4, "siglip": 12}
BLOCKS |= {"theia": 12, "timm": 6, "vc1": 12}
CONTROLS = ("identity", "pixels")
DEEP = ("dinov2", "dinov3", "theia", "vc1")  # three of their blocks show as much as twelve
LARGE = ("clip", "siglip", "vc1")  # seconds to build
LEARNING = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in list_encoders() if name not in CONTROLS]


def untrained(name, **settings):
    weights = {} if name in ("random", *CONTROLS) else {"weights": "random"}
    return load_encoder(name, **weights, **{**SETTINGS.get(name, {}), **settings})


def pictures(encoder, count=2, seed=0):
    frames = (encoder.spec.frames,) if encoder.spec.frames > 1 else ()
    shape = (count, *frames, 3, *encoder.spec.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def loss_of(encoder, images, feature=None):
    features = encoder(images)
    total = torch.zeros(())
    for name, value in features._asdict().items():
        if value is not None and feature in (None, name):
            # Whatever a norm's outputs sum up to, weighted they depend on its inputs.
            total = total + (value * torch.linspace(-1, 1, value.numel()).view_as(value).sin()).sum()
    return total


def learning(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def reached(encoder, feature=None):
    """Names of the parameters that a backward pass gives a gradient."""
    encoder.zero_grad(set_to_none=True)
    loss_of(encoder, pictures(encoder), feature).backward()
    return {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}


def values(encoder):
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def changed(encoder, before):
    return {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("name", LEARNING)
def test_all_of_it_learns_or_the_last_blocks_or_nothing(name):
    encoder = untrained(name)
    assert len(encoder.blocks()) == BLOCKS[name]
    if name in DEEP:
        encoder.net.blocks = encoder.net.blocks[:3]
    images, fixed = pictures(encoder), {f"net.{key}" for key in (["pos_embed"] if name in ("mvp", "random") else [])}
    frozen, blocks = encoder(images), encoder.blocks()

    encoder.unfreeze("full")
    torch.testing.assert_close(encoder(images).pooled, frozen.pooled, atol=1e-5, rtol=1e-5)
    if frozen.tokens is not None:
        torch.testing.assert_close(encoder(images).tokens, frozen.tokens, atol=1e-5, rtol=1e-5)
    assert learning(encoder) == reached(encoder)
    assert all(value.grad.isfinite().all() for value in encoder.parameters() if value.grad is not None)
    assert any(value.grad.abs().sum() > 0 for value in blocks[0].parameters() if value.grad is not None)
    seeing = {key for key, _ in encoder.named_parameters() if not key.startswith(("net.transformer.", "net.text."))}
    words = {"net.logit_scale", "net.logit_bias", "net.text_projection", "net.token_embedding.weight", "net.positional_embedding"}
    words |= {"net.ln_final.weight", "net.ln_final.bias"} if name == "clip" else set()
    assert learning(encoder) == seeing - words - fixed

    encoder.train().unfreeze("last:1").train()
    last = learning(encoder)
    assert last == reached(encoder)
    assert all(parameter.requires_grad for parameter in blocks[-1].parameters())
    assert blocks[-1].training and not any(module.training for module in blocks[-2].modules())
    assert not any(parameter.requires_grad for block in blocks[:-1] for parameter in block.parameters())
    first = next(key for key, _ in encoder.named_parameters() if any(part in key for part in ("patch_embed", "conv1", "stem", "convs.0")))
    assert first not in last
    encoder.unfreeze("last:2")
    assert last < learning(encoder) == reached(encoder)

    encoder.freeze().train()
    assert not learning(encoder) and not any(module.training for module in encoder.modules())
    assert torch.equal(encoder(images).pooled, frozen.pooled) and not encoder(images).pooled.requires_grad


@pytest.mark.parametrize("name", ["mvp", "r3m", "curl", "imagenet"])
def test_what_comes_after_the_last_block_learns_too(name):
    after = {
        "mvp": {"net.norm.weight", "net.norm.bias"},
        "r3m": set(),
        "curl": {"net.fc.weight", "net.fc.bias", "net.ln.weight", "net.ln.bias"},
        "imagenet": {"net.conv_head.weight", "net.bn2.weight", "net.bn2.bias"},
    }
    encoder = untrained(name).unfreeze("last:1")
    inside = {id(parameter) for parameter in encoder.blocks()[-1].parameters()}
    outside = {key for key, value in encoder.named_parameters() if value.requires_grad and id(value) not in inside}
    assert outside == after[name]


def test_the_last_blocks_are_counted_back_from_the_feature_that_is_used():
    encoder = untrained("imagenet")  # its tokens leave it eleven blocks deep
    assert {key[:14] for key in learning(encoder.unfreeze("last:1", feature="tokens"))} == {"net.blocks.4.2"}
    assert learning(encoder) == reached(encoder, "tokens")
    assert not reached(encoder.unfreeze("last:1", feature="pooled"), "pooled") - learning(encoder)
    with pytest.raises(UserError, match="has 11 blocks"):
        encoder.unfreeze("last:12", feature="tokens")
    encoder.unfreeze("last:12", feature="pooled")


@pytest.mark.parametrize(
    ("model", "count"),
    [("resnet10t", 4), ("convnext_atto", 12), ("swin_tiny_patch4_window7_224", 12), ("regnetx_002", 13), ("mobilenetv3_small_050", 12)],
)
def test_models_of_timm_whose_blocks_stand_in_stages(model, count):
    encoder = untrained("timm", model=model)
    blocks = encoder.blocks()
    assert len(blocks) == count
    encoder.unfreeze("last:2")
    assert learning(encoder) == reached(encoder)
    inside = [any(parameter.requires_grad for parameter in block.parameters()) for block in blocks]
    assert inside == [False] * (len(blocks) - 2) + [True] * 2


def test_blocks_that_are_not_known():
    encoder = untrained("timm", model="pit_ti_224")
    with pytest.raises(UserError, match="no known blocks. Give encoder_mode=full"):
        encoder.unfreeze("last:1")
    assert not learning(encoder)
    assert learning(encoder.unfreeze("full")) == reached(encoder)


@pytest.mark.parametrize(
    ("name", "mode", "bn", "text"),
    [
        ("mvp", "last:5", "frozen", r"encoder=mvp \(tiny\) has 4 blocks: give last:1 to last:4, or encoder_mode=full"),
        ("mvp", "last:0", "frozen", "encoder_mode=last:0 is not possible"),
        ("mvp", "ful", "frozen", "encoder_mode=ful is not possible. Give full, or last:N"),
        ("mvp", "full", "trian", "Did you mean encoder_bn=train"),
        ("pixels", "full", "frozen", "encoder=pixels has nothing to train"),
        ("identity", "last:1", "frozen", "encoder=identity has nothing to train"),
    ],
)
def test_mistakes_get_one_paragraph(name, mode, bn, text):
    encoder = untrained(name)
    with pytest.raises(UserError, match=text):
        encoder.unfreeze(mode, bn)
    encoder.train()
    assert not learning(encoder) and not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("mode", ["full", "last:1"])
@pytest.mark.parametrize("bn", ["frozen", "train"])
def test_batch_norms_statistics_move_where_they_are_asked_to(mode, bn):
    encoder = untrained("r3m").unfreeze(mode, bn)
    before, kinds = values(encoder), ("running_mean", "running_var", "num_batches_tracked")
    encoder.eval()
    loss_of(encoder, pictures(encoder))
    assert not changed(encoder, before)
    nn.ModuleList([encoder]).train()  # as part of a larger module
    loss_of(encoder, pictures(encoder)).backward()
    moved = changed(encoder, before)
    if bn == "frozen":
        assert not moved
    else:
        assert moved and all(key.endswith(kinds) for key in moved)
        assert ("net.bn1.running_mean" in moved) == (mode == "full")
        assert all(key.startswith("net.layer4.1.") for key in moved) or mode == "full"
    assert encoder.net.layer4[1].bn2.weight.grad.abs().sum() > 0
    encoder.freeze().train()
    before = values(encoder)
    encoder(pictures(encoder))
    assert not changed(encoder, before)


def test_batch_statistics_are_those_of_the_whole_batch():
    encoder = untrained("r3m").unfreeze("full", "train").train()
    images = pictures(encoder, 12)  # more than a CPU encodes at a time
    with torch.no_grad():
        once = encoder(images).pooled
    torch.testing.assert_close(once, encoder(images).pooled.detach(), atol=1e-4, rtol=1e-4)


def test_a_gradient_is_that_of_single_pictures():
    encoder = untrained("random").unfreeze("full").train()
    images = pictures(encoder, 270)  # more than a CPU encodes at a time
    weight = encoder.net.blocks[0].attn.qkv.weight
    encoder(images).pooled.square().sum().backward()
    together = weight.grad.clone()
    encoder.zero_grad()
    for some in images.split(90):
        encoder(some).pooled.square().sum().backward()
    torch.testing.assert_close(together, weight.grad, atol=1e-3, rtol=1e-3)


def test_begins_frozen_learns_later_and_is_frozen_again():
    encoder, images = untrained("random"), pictures(untrained("random"))
    target, fingerprints, losses = torch.zeros(2, 128), [encoder.fingerprint()], []
    fixed = values(encoder)
    encoder.unfreeze("last:1").train()
    optimiser = torch.optim.Adam([parameter for parameter in encoder.parameters() if parameter.requires_grad], 1e-3)
    for _ in range(5):
        loss = (encoder(images).pooled - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert changed(encoder, fixed) == learning(encoder)
    learnt = encoder(images).pooled.detach()
    encoder.freeze()
    fingerprints.append(encoder.fingerprint())
    torch.testing.assert_close(encoder(images).pooled, learnt, atol=1e-5, rtol=1e-5)  # with the new weights
    assert fingerprints[0] != fingerprints[1]
    plain = untrained("random")
    plain.net.load_state_dict(encoder.net.state_dict())
    assert torch.equal(plain(images).pooled, encoder(images).pooled)


def test_the_run_of_a_fine_tuned_encoder_gives_it_back(tmp_path):
    for name, settings in (("mvp", {}), ("r3m", {"variant": "resnet18"}), ("imagenet", {"size": 32})):
        encoder = untrained(name).unfreeze("full", "train").train()
        optimiser = torch.optim.SGD([parameter for parameter in encoder.parameters() if parameter.requires_grad], 1e-3)
        loss_of(encoder, pictures(encoder)).backward()
        optimiser.step()
        encoder.eval()
        folder = tmp_path / name / "checkpoints" / "100"
        folder.mkdir(parents=True)
        save_weights(encoder, folder / "encoder.safetensors", {"trained_by": "fine-tuned in a test"}, half=False)
        loaded = load_encoder(name, weights=str(tmp_path / name), **settings)
        assert loaded.trained_by == "fine-tuned in a test"
        assert loaded.fingerprint() == encoder.fingerprint() != untrained(name).fingerprint()
        torch.testing.assert_close(loaded(pictures(encoder)).pooled, encoder(pictures(encoder)).pooled.detach(), atol=1e-5, rtol=1e-5)
