"""DINOv2 from files in both published layouts, against transformers' own forward of the same weights."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.dinov2 import VARIANTS, resize_positions

BOTH = pytest.mark.parametrize("variant", ["vits14", "vits14_reg4"])


def transformers_model(variant, picture=518):
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    settings = {"hidden_size": 384, "num_attention_heads": 6, "image_size": picture, "patch_size": 14}
    if variant == "vits14":
        return Dinov2Model(Dinov2Config(**settings)).eval()
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings)).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Per variant: transformers' model with every tensor random, the repository's file and the authors' file of it."""
    made = {}
    for variant in ("vits14", "vits14_reg4"):
        folder = tmp_path_factory.mktemp(variant)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = transformers_model(variant)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        torch.save(authors(load_file(folder / "model.safetensors")), folder / f"dinov2_{variant}_pretrain.pth")
        made[variant] = model, folder / "model.safetensors", folder / f"dinov2_{variant}_pretrain.pth"
    return made


def authors(state):
    """The state dict of facebookresearch's class, from that of the Hugging Face repository."""
    made = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "mask_token": state["embeddings.mask_token"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    if "embeddings.register_tokens" in state:
        made["register_tokens"] = state["embeddings.register_tokens"]
    for end in ("weight", "bias"):
        made[f"patch_embed.proj.{end}"] = state[f"embeddings.patch_embeddings.projection.{end}"]
        for i in range(12):
            old, new = f"encoder.layer.{i}", f"blocks.{i}"
            made[f"{new}.attn.qkv.{end}"] = torch.cat([state[f"{old}.attention.attention.{p}.{end}"] for p in ("query", "key", "value")])
            made[f"{new}.attn.proj.{end}"] = state[f"{old}.attention.output.dense.{end}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                made[f"{new}.{name}.{end}"] = state[f"{old}.{name}.{end}"]
    for i in range(12):
        for k in "12":
            made[f"blocks.{i}.ls{k}.gamma"] = state[f"encoder.layer.{i}.layer_scale{k}.lambda1"]
    return made


def pictures(batch=2):
    return torch.randint(0, 256, (batch, 3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def reference(variant, model, pixels):
    """transformers' sequence; without registers its positions are replaced by those of the authors' resizing, which is another."""
    if variant == "vits14":
        table = model.embeddings.position_embeddings.detach()
        grid = table[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 256, 384)
        small = transformers_model(variant, 224)
        small.load_state_dict({**model.state_dict(), "embeddings.position_embeddings": torch.cat([table[:, :1], grid], dim=1)})
        model = small
    with torch.no_grad():
        return model(pixels).last_hidden_state


@BOTH
@pytest.mark.parametrize("layout", ["hub", "authors"])
def test_published_files_give_transformers_features(published, variant, layout):
    model, hub, own = published[variant]
    encoder = load_encoder("dinov2", variant=variant, weights=str(hub if layout == "hub" else own))
    assert encoder.net.pos_embed.shape[1] == (257 if variant == "vits14" else 256)
    expected = reference(variant, model, encoder.preprocess(pictures()))
    pooled, tokens = encoder(pictures())
    torch.testing.assert_close(pooled, expected[:, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(tokens, expected[:, -256:], atol=1e-4, rtol=1e-3)
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2  # the two pictures differ


def test_the_authors_resizing_is_not_transformers(published):
    model, hub, _ = published["vits14"]
    encoder = load_encoder("dinov2", weights=str(hub))
    with torch.no_grad():
        other = model(encoder.preprocess(pictures())).last_hidden_state
    assert (encoder(pictures()).tokens - other[:, 1:]).abs().max() > 1e-2


@pytest.mark.parametrize(("registers", "scale", "other"), [(False, 37 / 16.1, 37 / 16), (True, 37 / 16, 37 / 16.1)])
def test_positions_are_sampled_where_the_authors_sample(registers, scale, other):
    ramp = torch.arange(37.0).expand(37, 37)  # the value is the column; torch's cubic keeps it linear to 0.05
    table = torch.stack([ramp, ramp.T], dim=-1).reshape(1, 37 * 37, 2)
    resized = resize_positions(table, 16, registers).reshape(16, 16, 2)
    inside = torch.arange(1, 15)
    for values in (resized[3, inside, 0], resized[inside, 3, 1]):
        torch.testing.assert_close(values, (inside + 0.5) * scale - 0.5, atol=0.06, rtol=0)
        assert (values[-1] - (14.5 * other - 0.5)).abs() > 0.12  # the other rule's place


@pytest.mark.parametrize(
    ("variant", "change", "text"),
    [
        ("vits14", {"blocks.3.attn.qkv.bias": None}, "blocks.3.attn.qkv.bias is missing"),
        ("vits14", {"pos_embed": torch.zeros(1, 1 + 20 * 20, 384)}, "pos_embed has the shape"),
        ("vits14", {"cls_token": None}, "cls_token is missing"),
        ("vits14", {"head.weight": torch.zeros(2)}, "head.weight is unknown"),
        ("vits14_reg4", {}, "reg_token is missing"),
        ("vitb14", {}, "instead of"),
    ],
)
def test_other_files_are_refused(tmp_path, published, variant, change, text):
    state = {**torch.load(published["vits14"][2], weights_only=True), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=text):
        load_encoder("dinov2", variant=variant, weights=str(tmp_path / "x.pth"))


def test_a_hub_file_without_one_key_is_refused(tmp_path, published):
    state = load_file(published["vits14"][1])
    del state["encoder.layer.5.attention.attention.key.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="blocks.5.attn.qkv.weight is missing"):
        load_encoder("dinov2", weights=str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_dimensions(variant):
    import timm

    dim, body = VARIANTS[variant]
    with torch.device("meta"):
        net = timm.create_model(body, num_classes=0, img_size=224)
    assert net.num_features == dim and net.num_prefix_tokens == (5 if "reg4" in variant else 1)
