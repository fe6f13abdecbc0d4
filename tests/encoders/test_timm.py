"""encoder=timm against plain timm, over families that lay their features out differently."""

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.nn.functional import interpolate

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.timm import Timm

# (B, C, H, W), (B, H, W, C), (B, 1 + K, C), (B, K, C), pooled by attention, and a head that changes the pooled length
MODELS = ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_vit", "test_vit3", "test_vit_relpos", "test_nfnet"]


@pytest.fixture(params=MODELS)
def published(request, tmp_path):
    """A classifier of that name, and its file as the hub has it."""
    torch.manual_seed(1)
    model = timm.create_model(request.param, num_classes=1000).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    return request.param, model, str(tmp_path / "model.pth")


@torch.no_grad()
def test_features_equal_timms(published):
    name, model, path = published
    encoder = load_encoder("timm", model=name, weights=path)
    data = resolve_model_data_config(model)
    images = torch.randint(0, 256, (2, 3, *data["input_size"][1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = encoder.preprocess(images)
    pooled, tokens = encoder(images)
    features = model.forward_features(pixels)
    torch.testing.assert_close(pooled, model.forward_head(features, pre_logits=True), atol=1e-5, rtol=1e-4)
    rows, columns = encoder.spec.grid
    assert tokens.shape == (2, rows * columns, encoder.spec.token_dim) and pooled.shape == (2, encoder.spec.dim)
    second_row_third = {
        3: lambda: features[:, columns + 2 + model.num_prefix_tokens],
        4: lambda: features[:, 1, 2] if name == "test_mambaout" else features[:, :, 1, 2],
    }[features.ndim]()
    torch.testing.assert_close(tokens[:, columns + 2], second_row_third, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(200, 260), (84, 84)])
def test_pictures_are_prepared_as_timm_does(shape):
    encoder = Timm("test_vit", "random").freeze()
    # Smooth: between its two passes PIL rounds, and clips what bicubic overshoots.
    noise = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    images = (255 * interpolate(noise, shape, mode="bilinear")).to(torch.uint8)
    transform = create_transform(**resolve_model_data_config(encoder.net))
    expected = transform(Image.fromarray(images[0].movedim(0, -1).numpy()))
    difference = (encoder.preprocess(images)[0] - expected).abs()
    colour = 1 / 255 / 0.5  # of 255, divided by the deviation
    assert difference.max() < 2 * colour and difference.mean() < colour / 2
    assert (expected - expected.roll(1, 2)).abs().mean() > colour  # a shift by one pixel would show


def test_the_crop_is_the_models_own():
    cropped, squashed = Timm("test_vit", "random").spec, Timm("tf_efficientnetv2_b3", "random").spec
    assert cropped.size == (160, 160) and cropped.resize == 168  # floor(160 / 0.95)
    assert squashed.size == (240, 240) and squashed.resize is None


@torch.no_grad()
def test_a_swin_gives_its_rows_in_order():
    encoder = load_encoder("timm", model="swin_tiny_patch4_window7_224", weights="random")
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    features = encoder.net.forward_features(encoder.preprocess(images))
    assert encoder.spec.grid == (7, 7) and encoder.spec.resize == 248
    assert torch.equal(encoder(images).tokens[:, 9], features[:, 1, 2])


def test_models_without_a_grid_have_no_tokens():
    encoder = load_encoder("timm", model="pit_ti_224", weights="random")
    assert encoder.spec.grid is None and encoder.spec.token_dim == 0
    assert encoder(torch.zeros(1, 3, 84, 84, dtype=torch.uint8)).tokens is None


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="Did you mean model=resnet18") as caught:
        load_encoder("timm", model="resnet81", weights="random")
    assert len(str(caught.value)) < 400
    with pytest.raises(UserError, match="resnet18.a1_in1k"):
        load_encoder("timm", model="resnet18.a9_in1k", weights="random")


def test_without_weights_the_hub_id_is_named():
    with pytest.raises(UserError, match=r"weights=timm/resnet18\.\w+.*weights=FILE.*weights=random"):
        load_encoder("timm")
    with pytest.raises(UserError, match="Pass weights=FILE"):  # has none on the hub
        load_encoder("timm", model="test_coatnet")


def test_models_of_another_kind_are_refused():
    with pytest.raises(UserError, match="gives no feature that this encoder understands"):
        load_encoder("timm", model="crossvit_tiny_240", weights="random")


def test_another_models_file_is_refused(published):
    name, _, path = published
    other = "test_resnet" if name != "test_resnet" else "test_vit"
    with pytest.raises(UserError, match="of another architecture"):
        load_encoder("timm", model=other, weights=path)


def test_untrained_weights_are_a_function_of_the_seed():
    one, same, other = (Timm("test_vit", "random", seed=seed).freeze() for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
