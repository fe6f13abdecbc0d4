"""Parity of the CLIP encoder with transformers' CLIPModel on the same weights, in every published layout."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders.clip import CLIP, MEAN, STD, VARIANTS, build_clip, from_hugging_face
from robo_repr.nn.untrained import untrained

TEXTS = ["open the drawer", "a robot", "Push the red block to the LEFT!"]


# Name, picture and text width, blocks, embedding; the full size is the same code with more layers.
SIZES = [("tiny", 128, 64, 2, 48), pytest.param(("vitb32", 768, 512, 12, 512), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: size[0])
def oracle(request, tmp_path_factory):
    """transformers' model with random weights whose norms and biases are random too; its size is among the variants."""
    import open_clip
    from transformers import CLIPConfig, CLIPModel

    variant, width, text_width, depth, dim = request.param
    vision = {"layers": depth, "width": width, "patch_size": 32}
    text = {"width": text_width, "heads": text_width // 64, "layers": depth}
    settings = {"embed_dim": dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    file = tmp_path_factory.mktemp("config") / "clip-test.json"
    file.write_text(json.dumps(settings))
    open_clip.add_model_config(file)
    towers = [
        {"hidden_size": size, "intermediate_size": 4 * size, "num_hidden_layers": depth, "num_attention_heads": size // 64}
        for size in (width, text_width)
    ]
    config = CLIPConfig(vision_config=towers[0], text_config={**towers[1], "eos_token_id": 49407}, projection_dim=dim)
    model = untrained(lambda: perturbed(CLIPModel(config)), 0)
    kept = dict(VARIANTS)
    VARIANTS.setdefault(variant, ("clip-test", 32, dim, width))
    yield model, variant
    VARIANTS.clear()
    VARIANTS.update(kept)


@torch.no_grad()
def perturbed(model):
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def encoders(oracle, tmp_path_factory):
    """The oracle's weights read back from a file in each layout."""
    (model, variant), folder = oracle, tmp_path_factory.mktemp("clip")
    state = model.state_dict()
    positions = {f"{tower}.embeddings.position_ids": torch.arange(77)[None] for tower in ("vision_model", "text_model")}
    openai = {key: value.contiguous() for key, value in to_openai(state).items()}
    torch.save({**state, **positions}, folder / "pytorch_model.bin")
    save_file(openai, folder / "open_clip_model.safetensors")
    torch.save({**openai, "input_resolution": torch.tensor(224)}, folder / "plain.pt")
    files = {"hugging face": "pytorch_model.bin", "open_clip": "open_clip_model.safetensors", "openai": "plain.pt"}
    return {layout: load_encoder("clip", variant=variant, weights=str(folder / file)) for layout, file in files.items()}


def to_openai(state):
    """The layout of github.com/openai/CLIP from transformers', written without the encoder's key map."""
    found = {"visual.proj": state["visual_projection.weight"].T, "text_projection": state["text_projection.weight"].T}
    found["logit_scale"] = state["logit_scale"]
    for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
        embeddings = f"{tower}.embeddings"
        found[f"{prefix}positional_embedding"] = state[f"{embeddings}.position_embedding.weight"]
        if tower == "vision_model":
            found["visual.class_embedding"] = state[f"{embeddings}.class_embedding"]
            found["visual.conv1.weight"] = state[f"{embeddings}.patch_embedding.weight"]
            norms = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
        else:
            found["token_embedding.weight"] = state[f"{embeddings}.token_embedding.weight"]
            norms = {"ln_final": "final_layer_norm"}
        for kind in ("weight", "bias"):
            for ours, theirs in norms.items():
                found[f"{prefix}{ours}.{kind}"] = state[f"{tower}.{theirs}.{kind}"]
            for layer in range(sum(key.startswith(tower) and key.endswith("layer_norm1.bias") for key in state)):
                here, there = f"{prefix}transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
                found[f"{here}.attn.in_proj_{kind}"] = torch.cat([state[f"{there}.self_attn.{part}_proj.{kind}"] for part in "qkv"])
                found[f"{here}.attn.out_proj.{kind}"] = state[f"{there}.self_attn.out_proj.{kind}"]
                for ours, theirs in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
                    found[f"{here}.{ours}.{kind}"] = state[f"{there}.{theirs}.{kind}"]
    return found


LAYOUTS = ["hugging face", "open_clip", "openai"]


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_features_equal_transformers(oracle, encoders, layout):
    encoder, model = encoders[layout], oracle[0]
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    vision = model.vision_model(encoder.preprocess(images))
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, model.visual_projection(vision.pooler_output), atol=2e-5, rtol=1e-4)
    expected = model.vision_model.post_layernorm(vision.last_hidden_state)[:, 1:]
    torch.testing.assert_close(tokens, expected, atol=5e-5, rtol=1e-4)
    assert not torch.allclose(tokens, vision.last_hidden_state[:, 1:], atol=1e-2)  # the norm counts


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_texts_equal_transformers(oracle, encoders, layout):
    import open_clip

    ids = open_clip.tokenize(TEXTS)
    expected = oracle[0].text_projection(oracle[0].text_model(ids).pooler_output)
    embeddings = encoders[layout].encode_text(TEXTS)
    assert embeddings.shape == (3, encoders[layout].spec.dim) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected, atol=2e-5, rtol=1e-4)
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-2


def test_golden_tokens():
    import open_clip

    for text, ids in {"a robot": [320, 8797], "open the drawer": [1488, 518, 23219]}.items():
        expected = [49406, *ids, 49407]
        assert open_clip.tokenize([text])[0].tolist() == expected + [0] * (77 - len(expected))
    assert open_clip.SimpleTokenizer().vocab_size == 49408


def test_long_texts_are_cut_before_the_end_sign(encoders):
    embeddings = encoders["openai"].encode_text(["robot " * 75, "robot " * 200, "robot " * 74])
    torch.testing.assert_close(embeddings[0], embeddings[1])
    assert (embeddings[0] - embeddings[2]).abs().max() > 1e-3


def test_preprocessing_equals_the_official_recipe(encoders):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    picture = np.random.default_rng(0).integers(64, 192, (90, 130, 3), dtype=np.uint8)
    # Middling contrast: PIL also clips between its two passes, which shows at hard edges alone.
    official = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), Normalize(MEAN, STD)])
    expected = official(Image.fromarray(picture))
    ours = encoders["openai"].preprocess(torch.from_numpy(picture).movedim(-1, 0)[None])[0]
    assert (ours - expected).abs().max() < 1.5 / 255 / min(STD)  # and it rounds after each


@pytest.mark.parametrize("texts", ["open", [], [3], None])
def test_wrong_texts_are_refused(encoders, texts):
    with pytest.raises(ValueError, match="Texts"):
        encoders["openai"].encode_text(texts)


def test_unfrozen_texts_have_gradients_and_frozen_ones_none(oracle, encoders):
    assert not encoders["openai"].encode_text(["a robot"]).requires_grad
    assert CLIP(oracle[1], "random").encode_text(["a robot"]).requires_grad


def test_untrained_weights_are_a_function_of_the_seed(oracle):
    before = torch.get_rng_state()
    one, same, other = (CLIP(oracle[1], "random", seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("variant", "millions", "patches", "text_width"), [("vitb32", 151, 49, 512), ("vitb16", 149, 196, 512), ("vitl14", 427, 256, 768)]
)
def test_sizes_and_every_name_of_the_published_ones(variant, millions, patches, text_width):
    from transformers import CLIPConfig, CLIPModel

    config, patch, dim, width = VARIANTS[variant]
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "patch_size": patch}
    vision |= {"num_hidden_layers": 24, "num_attention_heads": 16} if variant == "vitl14" else {}
    text = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_attention_heads": text_width // 64}
    with torch.device("meta"):
        net, published = build_clip(config), CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=dim))
    assert sum(parameter.numel() for parameter in net.parameters()) // 10**6 == millions
    assert net.visual.positional_embedding.shape == (patches + 1, width)
    assert {"QuickGELU", "GELU"} & {type(module).__name__ for module in net.modules()} == {"QuickGELU"}
    converted = {key: value.shape for key, value in from_hugging_face(published.state_dict()).items()}
    assert converted == {key: value.shape for key, value in net.state_dict().items()}


def test_a_missing_query_is_named(oracle, tmp_path):
    model, variant = oracle
    state = {key: value for key, value in model.state_dict().items() if key != "text_model.encoder.layers.1.self_attn.q_proj.bias"}
    torch.save(state, tmp_path / "cut.bin")
    with pytest.raises(UserError, match=r"transformer\.resblocks\.1\.attn\.in_proj_bias is missing"):
        load_encoder("clip", variant=variant, weights=str(tmp_path / "cut.bin"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_archives_are_refused_with_the_way_out(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(UserError, match=r"TorchScript.*Hugging Face"):
        load_encoder("clip", variant="vitb32", weights=str(tmp_path / "ViT-B-32.pt"))
