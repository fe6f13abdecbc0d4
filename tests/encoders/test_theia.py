"""Theia from a file in the Hugging Face repositories' layout, against transformers' own forward of the same weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.theia import VARIANTS


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """transformers' DeiT with every tensor random, and Theia's file of it with a translator."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("theia")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        model = ViTModel(ViTConfig(**settings), add_pooling_layer=False).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    state = {f"backbone.model.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    state["translator.backbone_adapter.adapter.0.weight"] = torch.zeros(4)
    save_file(state, folder / "theia.safetensors")
    return model, folder / "theia.safetensors"


def test_published_file_gives_transformers_features(published):
    model, path = published
    encoder = load_encoder("theia", variant="tiny", weights=str(path))
    images = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(encoder.preprocess(images)).last_hidden_state
    pooled, tokens = encoder(images)
    torch.testing.assert_close(tokens, expected[:, 1:], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(pooled, expected[:, 1:].mean(dim=1), atol=1e-4, rtol=1e-3)
    assert (pooled - expected[:, 0]).abs().max() > 1e-2  # not the class token
    assert all(module.eps == 1e-12 for module in encoder.net.modules() if isinstance(module, torch.nn.LayerNorm))


def test_preprocessing_is_that_of_transformers_processor():
    from transformers import ViTImageProcessor

    images = torch.randint(0, 256, (2, 3, 60, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    expected = ViTImageProcessor(**settings)(list(images), return_tensors="pt")["pixel_values"]
    encoder = load_encoder("theia", variant="tiny", weights="random")
    # The processor rounds to whole grey levels after each direction: together at most one level, which is 2 / 255 here.
    torch.testing.assert_close(encoder.preprocess(images), expected, atol=2.1 / 255, rtol=0)
    assert (encoder.preprocess(images) - expected).mean().abs() < 0.1 / 255  # rounding has no bias


@pytest.mark.parametrize(
    ("variant", "change", "text"),
    [
        ("tiny", {"backbone.model.encoder.layer.3.attention.attention.key.bias": None}, "blocks.3.attn.qkv.bias is missing"),
        ("tiny", {"backbone.model.layernorm.bias": None}, "norm.bias is missing"),
        ("tiny", {"backbone.model.embeddings.reg_token": torch.zeros(1, 7, 192)}, "reg_token is unknown"),
        ("small", {}, "instead of"),
    ],
)
def test_other_files_are_refused(tmp_path, published, variant, change, text):
    state = {**load_file(published[1]), **change}
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=text):
        load_encoder("theia", variant=variant, weights=str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_dimensions(variant):
    import timm

    dim, body = VARIANTS[variant]
    with torch.device("meta"):
        net = timm.create_model(body, num_classes=0)
    assert net.num_features == dim and net.pos_embed.shape[1] == 197
