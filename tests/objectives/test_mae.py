"""The masked autoencoder against an independent one, and its golden values."""

import pytest
import torch

from robo_repr.encoders.base import Encoder, EncoderSpec
from robo_repr.encoders.controls import Pixels
from robo_repr.encoders.mvp import Random
from robo_repr.objectives.mae import MAE, patchify, random_masking
from tests.vit_reference import mae


def small(**settings):
    return MAE(Random(seed=1), decoder_dim=32, decoder_depth=2, decoder_heads=4, **settings)


def batch(size=4):
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (size, 3, 84, 84), dtype=torch.uint8, generator=generator),
        "noise": torch.rand(size, 36, generator=generator),
    }


class Plain224(Encoder):
    """Pixels as they are, cut as in the paper: 224 x 224, patch 16."""

    prefix_tokens = 1

    def __init__(self):
        super().__init__(EncoderSpec("plain", (224, 224), 8, 1, 8, (14, 14), (0, 0, 0), (1, 1, 1), can=frozenset({"mask"})))

    def visible(self, images, keep, prefix=False):
        return torch.zeros(len(keep), keep.shape[1] + prefix, 8)


def plain():
    return MAE(Plain224(), decoder_dim=16, decoder_depth=1, decoder_heads=2)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_loss_and_predictions_equal_the_reference(ratio):
    objective, data = small(mask_ratio=ratio), batch()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    decoder = {key: value for key, value in objective.state_dict().items() if not key.startswith("encoder.")}
    pixels = objective.encoder.preprocess(data["images"])
    loss, predictions, mask = mae(pixels, data["noise"], ratio, objective.encoder.net.state_dict(), 4, decoder, 4)
    ours, hidden = objective.predict(data["images"], data["noise"])
    assert torch.equal(hidden, mask)
    torch.testing.assert_close(ours, predictions, atol=1e-5, rtol=1e-4)
    assert objective(data)["loss"].item() == pytest.approx(loss.item(), abs=1e-6)


def test_golden_ramp():
    objective = plain()
    c, i, j = torch.meshgrid(torch.arange(3), torch.arange(224), torch.arange(224), indexing="ij")
    ramp = ((50176 * c + 224 * i + j).double() / 150528).float()[None]
    torch.testing.assert_close(patchify(ramp, 16)[0, 0, :4], torch.tensor([0, 1 / 3, 2 / 3, 6.643e-6]), atol=1e-6, rtol=0)
    target = objective.target(ramp)
    expected = torch.tensor([-1.264700, -0.041150, 1.182400, -1.264676])
    torch.testing.assert_close(target[0, 0, :4], expected, atol=2e-5, rtol=0)
    assert target.square().mean().item() == pytest.approx(0.998684, abs=1e-5)


@pytest.mark.parametrize(("make", "size", "values"), [(plain, 224, 768), (small, 84, 588)])
def test_a_decoder_that_says_zero_has_the_known_loss(make, size, values):
    objective = make()
    torch.nn.init.zeros_(objective.decoder_pred.weight)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert objective({"images": images})["loss"].item() == pytest.approx(1 - 1 / values, abs=1e-4)


def test_only_hidden_patches_count():
    objective, data = small(), batch()
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    objective.decoder_pred.register_forward_hook(keep)
    objective(data)["loss"].backward()
    gradient = kept[0].grad[:, 1:]
    _, _, hidden = random_masking(data["noise"], 0.75)
    assert not gradient[hidden == 0].any()
    assert gradient[hidden == 1].abs().sum(dim=1).gt(0).all()


def test_masking_keeps_the_smallest_noise_and_can_be_undone():
    noise = torch.rand(5, 196, generator=torch.Generator().manual_seed(0))
    keep, restore, hidden = random_masking(noise, 0.75)
    assert keep.shape == (5, 49) and (hidden.sum(dim=1) == 147).all()
    assert (hidden.gather(1, keep) == 0).all()
    assert torch.equal(noise.sort(dim=1).values.gather(1, restore), noise)
    assert noise[hidden == 0].max() < noise[hidden == 1].max()
    # int(K * (1 - ratio)) as in the official code: 19 of 196 stay at 0.9.
    assert random_masking(noise, 0.9)[0].shape[1] == 19
    assert random_masking(torch.rand(1, 36), 0.75)[0].shape[1] == 9


def test_decay_spares_biases_and_norms_alone():
    objective = small()
    decayed, spared = (set(map(id, group["params"])) for group in objective.param_groups(0.05))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    assert {"encoder.net.cls_token", "mask_token"} <= {names[i] for i in decayed}
    assert all(names[i].endswith("bias") or "norm" in names[i] for i in spared)
    assert not any(names[i].endswith("bias") or "norm" in names[i] for i in decayed)
    assert len(decayed | spared) == sum(parameter.requires_grad for parameter in objective.parameters())
    assert [group["weight_decay"] for group in objective.param_groups(0.05)] == [0.05, 0.0]


def test_the_batch_is_only_read_and_everything_learns():
    objective, data = small(), batch()
    kept = {key: value.clone() for key, value in data.items()}
    out = objective(data)
    assert set(out) == {"loss", "loss/mae", "metric/prediction_std"}
    assert all(value.ndim == 0 and value.isfinite() for value in out.values())
    out["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)
    assert all(torch.equal(data[key], kept[key]) for key in kept)
    assert objective(data)["loss"] == out["loss"]


def test_it_learns_a_simple_picture():
    objective, data = small(), batch()
    ramp = torch.linspace(0, 1, 84).expand(4, 3, 84, 84)
    data["images"] = (ramp * torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))).contiguous()
    optimizer = torch.optim.AdamW(objective.param_groups(0.05), lr=3e-3)
    first = objective(data)["loss"].item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(data)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_encoders_that_cannot_mask_are_refused():
    with pytest.raises(ValueError, match="pixels cannot"):
        MAE(Pixels())
