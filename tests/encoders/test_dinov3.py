"""DINOv3 from files in both published layouts, against transformers' own forward of the same weights."""

import pytest
import torch
from safetensors.torch import load_file

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.dinov3 import VARIANTS


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Per variant: transformers' model with every tensor random, the repository's file and the authors' file of it."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    made = {}
    for variant in ("vits16", "vits16plus"):
        gated = {"use_gated_mlp": True, "hidden_act": "silu"} if variant == "vits16plus" else {}
        folder = tmp_path_factory.mktemp(variant)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4, **gated)).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
            model.save_pretrained(folder)
            torch.save(authors(load_file(folder / "model.safetensors"), bool(gated)), folder / f"dinov3_{variant}.pth")
        made[variant] = model, folder / "model.safetensors", folder / f"dinov3_{variant}.pth"
    return made


def authors(state, gated):
    """The state dict of facebookresearch's class, from that of the Hugging Face repository."""
    made = {
        "cls_token": state["embeddings.cls_token"],
        "mask_token": state["embeddings.mask_token"][0],
        "storage_tokens": state["embeddings.register_tokens"],
        "rope_embed.periods": torch.ones(16),
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    mlp = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"} if gated else {"fc1": "up_proj", "fc2": "down_proj"}
    for i in range(12):
        old, new = f"layer.{i}", f"blocks.{i}"
        q, k, v = (state[f"{old}.attention.{part}_proj.weight"] for part in "qkv")
        made[f"{new}.attn.qkv.weight"] = torch.cat([q, k, v])
        # The bias of the key stands in the file and is masked out when the network runs.
        biases = [state[f"{old}.attention.q_proj.bias"], torch.randn(384), state[f"{old}.attention.v_proj.bias"]]
        made[f"{new}.attn.qkv.bias"] = torch.cat(biases)
        made[f"{new}.attn.qkv.bias_mask"] = torch.cat([torch.ones(384), torch.zeros(384), torch.ones(384)])
        for n in "12":
            made[f"{new}.ls{n}.gamma"] = state[f"{old}.layer_scale{n}.lambda1"]
        for end in ("weight", "bias"):
            made[f"{new}.attn.proj.{end}"] = state[f"{old}.attention.o_proj.{end}"]
            for name in ("norm1", "norm2"):
                made[f"{new}.{name}.{end}"] = state[f"{old}.{name}.{end}"]
            for name, theirs in mlp.items():
                made[f"{new}.mlp.{name}.{end}"] = state[f"{old}.mlp.{theirs}.{end}"]
    return made


@pytest.mark.parametrize("variant", ["vits16", "vits16plus"])
@pytest.mark.parametrize("layout", ["hub", "authors"])
def test_published_files_give_transformers_features(published, variant, layout):
    model, hub, own = published[variant]
    encoder = load_encoder("dinov3", variant=variant, weights=str(hub if layout == "hub" else own))
    images = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(encoder.preprocess(images)).last_hidden_state
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, expected[:, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(tokens, expected[:, 5:], atol=1e-4, rtol=1e-3)
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2  # the two pictures differ


def test_preprocessing_is_the_authors_torchvision_transform():
    from torchvision.transforms import v2

    encoder = load_encoder("dinov3", weights="random")
    images = torch.rand(2, 3, 60, 100, generator=torch.Generator().manual_seed(0))
    steps = [v2.Resize((256, 256), antialias=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    torch.testing.assert_close(encoder.preprocess(images), v2.Compose(steps)(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("variant", "change", "text"),
    [
        ("vits16", {"blocks.3.attn.qkv.bias": None}, "blocks.3.attn.q_bias is missing"),
        ("vits16", {"storage_tokens": None}, "reg_token is missing"),
        ("vits16", {"local_cls_norm.weight": torch.zeros(384)}, "local_cls_norm.weight is unknown"),
        ("vits16", {"blocks.0.attn.qkv.bias": torch.zeros(1000)}, "blocks.0.attn.qkv.bias is unknown"),
        ("vits16plus", {}, "mlp.fc1_g.bias is missing"),
        ("vitb16", {}, "instead of"),
    ],
)
def test_other_files_are_refused(tmp_path, published, variant, change, text):
    state = {**torch.load(published["vits16"][2], weights_only=True), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=text):
        load_encoder("dinov3", variant=variant, weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_dimensions(variant):
    import timm

    dim, body = VARIANTS[variant]
    with torch.device("meta"):
        net = timm.create_model(body, num_classes=0, img_size=256)
    assert net.num_features == dim and net.num_prefix_tokens == 5 and net.norm.eps == 1e-5
