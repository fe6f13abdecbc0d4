"""Parity of CURL's encoder with the authors' network, written plainly, and with their files."""

import pytest
import torch
import torch.nn.functional as F

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.curl import CURL, PixelNet, map_side


def stacks(size, frames=3, batch=2):
    return torch.randint(0, 256, (batch, frames, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def official(state, channels_first):
    """The authors' forward: (B, 9, H, W) in 0..255 to the latent, and the last map."""
    maps = channels_first.float() / 255
    for layer in range(sum(key.startswith("convs.") for key in state) // 2):
        maps = torch.relu(F.conv2d(maps, state[f"convs.{layer}.weight"], state[f"convs.{layer}.bias"], stride=1 if layer else 2))
    latent = F.linear(maps.reshape(len(maps), -1), state["fc.weight"], state["fc.bias"])
    return F.layer_norm(latent, latent.shape[1:], state["ln.weight"], state["ln.bias"]), maps


def network(size=84, layers=4, channels=9, filters=32, seed=1):
    """A state dict with every tensor random."""
    net = PixelNet(channels, layers, filters, map_side(size, layers), 50)
    generator = torch.Generator().manual_seed(seed)
    return {key: value + 0.05 * torch.randn(value.shape, generator=generator) for key, value in net.state_dict().items()}


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def head(prefix, inputs=50):
    return {f"{prefix}.{layer}.{kind}": torch.zeros(2, inputs) for layer in (0, 2, 4) for kind in ("weight", "bias")}


@pytest.mark.parametrize(("size", "layers"), [(84, 4), (84, 2), (84, 6), (64, 4), (63, 3)])
def test_features_equal_the_official_ones(size, layers, tmp_path):
    state, images = network(size, layers), stacks(size)
    torch.save(state, tmp_path / "encoder.pt")
    encoder = load_encoder("curl", size=size, layers=layers, weights=str(tmp_path / "encoder.pt"))
    pooled, tokens = encoder(images)
    expected, maps = official(state, images.flatten(1, 2))
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    rows, columns = encoder.spec.grid
    assert (rows, columns) == maps.shape[2:] and tokens.shape == (2, rows * columns, 32)
    torch.testing.assert_close(tokens[:, columns + 2], maps[:, :, 1, 2], atol=1e-5, rtol=1e-5)
    assert pooled.abs().max() > 1  # no tanh


def test_frames_of_the_stack_are_not_interchangeable():
    encoder, images = CURL(weights="random").freeze(), stacks(84)
    assert (encoder(images).pooled - encoder(images.flip(1)).pooled).abs().max() > 1e-3
    with pytest.raises(ValueError, match="stacks of exactly 3"):
        encoder(images[:, 0])


def test_a_single_frame_is_possible():
    encoder = CURL(frames=1, weights="random").freeze()
    images = stacks(84, frames=1)
    expected, _ = official(encoder.net.state_dict(), images[:, 0])
    torch.testing.assert_close(encoder(images[:, 0]).pooled, expected, atol=1e-5, rtol=1e-5)


def test_the_middle_of_a_larger_picture_is_seen():
    encoder, images = CURL(weights="random").freeze(), stacks(100)
    torch.testing.assert_close(encoder(images).pooled, encoder(images[..., 8:92, 8:92]).pooled)
    assert (encoder(images).pooled - encoder(images[..., 7:91, 8:92]).pooled).abs().max() > 1e-4


@pytest.mark.parametrize(("size", "count"), [(84, 1_990_518), (64, 1_030_518)])
def test_counts(size, count):
    assert sum(parameter.numel() for parameter in PixelNet(9, 4, 32, map_side(size, 4), 50).parameters()) == count


def test_initialisation_is_delta_orthogonal():
    net = CURL(weights="random").net
    for layer, conv in enumerate(net.convs):
        centre = conv.weight[:, :, 1, 1]
        torch.testing.assert_close(centre.T @ centre, 2 * torch.eye(9 if layer == 0 else 32), atol=1e-5, rtol=0)
        outside = conv.weight.clone()
        outside[:, :, 1, 1] = 0
        assert not outside.any() and not conv.bias.any()
    torch.testing.assert_close(net.fc.weight @ net.fc.weight.T, torch.eye(50), atol=1e-5, rtol=0)
    assert not net.fc.bias.any() and not net.ln.bias.any() and (net.ln.weight == 1).all()


def test_untrained_weights_are_a_function_of_the_seed():
    one, same, other = (CURL(weights="random", seed=seed).freeze() for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_every_file_of_the_authors_loads(tmp_path):
    """actor_*.pt and critic_*.pt share their convolutions; fc and ln are their own."""
    critic, target = network(seed=1), network(seed=2)
    actor = {**critic, **{key: value for key, value in network(seed=3).items() if not key.startswith("convs.")}}
    files = {
        "curl": {"W": torch.rand(50, 50), **prefixed("encoder.", critic), **prefixed("encoder_target.", target)},
        "critic": {**prefixed("encoder.", critic), **head("Q1.trunk", 56), **head("Q2.trunk", 56)},
        "actor": {**prefixed("encoder.", actor), **head("trunk")},
        "whole": {**prefixed("critic.encoder.", critic), **head("critic.Q1.trunk"), **prefixed("CURL.encoder.", critic)},
    }
    encoders = {}
    for name, state in files.items():
        torch.save(state, tmp_path / f"{name}.pt")
        encoders[name] = load_encoder("curl", weights=str(tmp_path / f"{name}.pt"))
    images = stacks(84)
    for name, encoder in encoders.items():
        expected, _ = official(actor if name == "actor" else critic, images.flatten(1, 2))
        torch.testing.assert_close(encoder(images).pooled, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(encoder(images).tokens, encoders["curl"](images).tokens)
    assert not torch.equal(encoders["actor"](images).pooled, encoders["critic"](images).pooled)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"size": 64}, "size=64 instead of 84"),
        ({"layers": 2}, "layers=2 instead of 4"),
        ({"channels": 12}, "frames=4 instead of 3"),
        ({"filters": 16}, "filters=16 instead of 32"),
    ],
)
def test_files_of_other_settings_say_which(made, text, tmp_path):
    torch.save(prefixed("encoder.", network(**made)), tmp_path / "other.pt")
    with pytest.raises(UserError, match=text):
        load_encoder("curl", weights=str(tmp_path / "other.pt"))


def test_an_actor_of_unknown_kind_is_refused(tmp_path):
    torch.save({**network(), "actor.encoder.ln.bias": torch.zeros(50)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="actor.encoder.ln.bias is unknown"):
        load_encoder("curl", weights=str(tmp_path / "other.pt"))


def test_mistakes_say_what_to_do():
    with pytest.raises(UserError, match="The registry lists none.*weights=random"):
        load_encoder("curl")
    for settings, says in (
        ({"size": 14}, "encoder.size=14 is too small for encoder.layers=4.*at least 15"),
        ({"frames": 0}, "encoder.frames=0 .*at least 1"),
        ({"layers": 0}, "encoder.layers=0 .*at least 1"),
        ({"dim": 0}, "encoder.dim=0 .*at least 1"),
        ({"filters": 10**9}, "encoder.filters=1000000000 .*at most 1024"),
        ({"size": 1280, "dim": 4096}, "last layer .* weights"),
        ({"seed": -1}, "encoder.seed=-1 .*at least 0"),
    ):
        with pytest.raises(UserError, match=says):
            load_encoder("curl", weights="random", **settings)
    assert load_encoder("curl", weights="random", size=15).spec.grid == (1, 1)
