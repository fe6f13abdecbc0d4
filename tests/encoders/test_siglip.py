"""Parity of the SigLIP encoder with transformers' SiglipModel on the same weights, in both published layouts."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders import siglip
from robo_repr.encoders.siglip import VARIANTS, SigLIP, build_siglip, from_hugging_face
from robo_repr.nn.untrained import untrained

WORDS = ["<pad>", "</s>", "<unk>", "open", "the", "drawer", "robot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the weights in both layouts and a vocabulary of seven words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("siglip")
    vocabulary = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    ending = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    vocabulary.post_processor = ending  # type: ignore[assignment]
    vocabulary.enable_padding(length=10)  # files carry such settings; they must not count
    vocabulary.enable_truncation(5)
    vocabulary.save(str(folder / "tokenizer.json"))
    return folder


# Name, width, blocks; the full size is the same code with more layers.
SIZES = [("tiny", 128, 2), pytest.param(("vitb16", 768, 12), marks=pytest.mark.slow)]


@register_model
def vit_siglip_test(pretrained=False, **settings):
    """timm's body of SigLIP, small."""
    size = {"embed_dim": 128, "depth": 2, "num_heads": 2, "patch_size": 16, "class_token": False}
    return VisionTransformer(**size, global_pool=settings["global_pool"], num_classes=settings["num_classes"])


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: size[0])
def oracle(request, tmp_path_factory):
    """transformers' model with random weights whose norms and biases are random too; its size is among the variants."""
    from transformers import SiglipConfig, SiglipModel

    variant, width, depth = request.param
    settings = open_clip.get_model_config("ViT-B-16-SigLIP")
    assert settings is not None
    settings["embed_dim"] = width
    settings["vision_cfg"]["timm_model_name"] = "vit_siglip_test"
    settings["text_cfg"] |= {"width": width, "heads": width // 64, "layers": depth}
    file = tmp_path_factory.mktemp("config") / "siglip-test.json"
    file.write_text(json.dumps(settings))
    open_clip.add_model_config(file)
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
    config = SiglipConfig(vision_config=tower, text_config={**tower, "projection_size": width})
    model = untrained(lambda: perturbed(SiglipModel(config)), 0)
    kept = dict(VARIANTS)
    VARIANTS.setdefault(variant, ("siglip-test", 16, width))
    yield model, variant
    VARIANTS.clear()
    VARIANTS.update(kept)


@torch.no_grad()
def perturbed(model):
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def encoders(oracle, folder):
    """The oracle's weights read back from a file in each layout."""
    model, variant = oracle
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    save_file({key: value.contiguous() for key, value in to_open_clip(state).items()}, folder / "open_clip_model.safetensors")
    files = {"hugging face": "model.safetensors", "open_clip": "open_clip_model.safetensors"}
    return {layout: load_encoder("siglip", variant=variant, weights=str(folder / file)) for layout, file in files.items()}


def to_open_clip(state):
    """The layout of timm/ViT-B-16-SigLIP from transformers', written without the encoder's key map."""
    trunk, vision, text, words = "visual.trunk", "vision_model", "text", "text_model"
    depth = sum(key.startswith(words) and key.endswith("layer_norm1.bias") for key in state)
    found = {
        "logit_scale": state["logit_scale"][0],
        "logit_bias": state["logit_bias"][0],
        f"{trunk}.pos_embed": state[f"{vision}.embeddings.position_embedding.weight"][None],
        f"{trunk}.attn_pool.latent": state[f"{vision}.head.probe"],
        f"{text}.positional_embedding": state[f"{words}.embeddings.position_embedding.weight"],
        f"{text}.token_embedding.weight": state[f"{words}.embeddings.token_embedding.weight"],
    }
    pairs = {
        f"{trunk}.patch_embed.proj": f"{vision}.embeddings.patch_embedding",
        f"{trunk}.norm": f"{vision}.post_layernorm",
        f"{trunk}.attn_pool.proj": f"{vision}.head.attention.out_proj",
        f"{trunk}.attn_pool.norm": f"{vision}.head.layernorm",
        f"{trunk}.attn_pool.mlp.fc1": f"{vision}.head.mlp.fc1",
        f"{trunk}.attn_pool.mlp.fc2": f"{vision}.head.mlp.fc2",
        f"{text}.ln_final": f"{words}.final_layer_norm",
        f"{text}.text_projection": f"{words}.head",
    }
    for layer in range(depth):
        here, there = f"{trunk}.blocks.{layer}", f"{vision}.encoder.layers.{layer}"
        pairs |= {f"{here}.norm{n}": f"{there}.layer_norm{n}" for n in "12"} | {f"{here}.mlp.fc{n}": f"{there}.mlp.fc{n}" for n in "12"}
        pairs[f"{here}.attn.proj"] = f"{there}.self_attn.out_proj"
        here, there = f"{text}.transformer.resblocks.{layer}", f"{words}.encoder.layers.{layer}"
        pairs |= {f"{here}.ln_{n}": f"{there}.layer_norm{n}" for n in "12"}
        pairs |= {f"{here}.mlp.c_fc": f"{there}.mlp.fc1", f"{here}.mlp.c_proj": f"{there}.mlp.fc2"}
        pairs[f"{here}.attn.out_proj"] = f"{there}.self_attn.out_proj"
    for kind in ("weight", "bias"):
        found |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for ours, theirs in pairs.items()}
        width = len(state[f"{vision}.post_layernorm.bias"])
        pool = state[f"{vision}.head.attention.in_proj_{kind}"]
        found[f"{trunk}.attn_pool.q.{kind}"], found[f"{trunk}.attn_pool.kv.{kind}"] = pool[:width], pool[width:]
        for layer in range(depth):
            for name, tower in (
                (f"{trunk}.blocks.{layer}.attn.qkv.", vision),
                (f"{text}.transformer.resblocks.{layer}.attn.in_proj_", words),
            ):
                found[f"{name}{kind}"] = torch.cat(
                    [state[f"{tower}.encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                )
    return found


@pytest.mark.parametrize("layout", ["hugging face", "open_clip"])
@torch.no_grad()
def test_features_equal_transformers(oracle, encoders, layout):
    encoder = encoders[layout]
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    expected = oracle[0].vision_model(encoder.preprocess(images))
    pooled, tokens = encoder(images)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(tokens, expected.last_hidden_state, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["hugging face", "open_clip"])
@torch.no_grad()
def test_texts_equal_transformers(oracle, encoders, layout):
    ids = torch.tensor([[3, 4, 5] + [1] * 61, [6] * 63 + [1]])
    expected = oracle[0].text_model(ids).pooler_output
    embeddings = encoders[layout].encode_text(["Open the\tDRAWER!", "robot " * 80])
    assert embeddings.shape == expected.shape and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected, atol=5e-5, rtol=1e-4)


@torch.no_grad()
def test_the_exact_activation_would_differ(oracle, encoders):
    encoder = SigLIP(oracle[1], "random")
    encoder.net.load_state_dict(encoders["open_clip"].net.state_dict())
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder(images).pooled, encoders["open_clip"](images).pooled)
    changed = [module for module in encoder.net.modules() if isinstance(module, torch.nn.GELU)]
    assert len(changed) in (2 + 1 + 2, 12 + 1 + 12)  # image blocks, the pool, text blocks
    for module in changed:
        module.approximate = "none"
    assert (encoder(images).pooled - encoders["open_clip"](images).pooled).abs().max() > 1e-4


def test_preprocessing_squashes_bicubically(encoders):
    picture = np.random.default_rng(0).integers(64, 192, (90, 130, 3), dtype=np.uint8)
    # Middling contrast: PIL also clips between its two passes, which shows at hard edges alone.
    expected = torch.from_numpy(np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC)).astype(np.float32))
    ours = encoders["open_clip"].preprocess(torch.from_numpy(picture).movedim(-1, 0)[None])[0]
    assert (ours - (expected.movedim(-1, 0) / 127.5 - 1)).abs().max() < 1.5 / 127.5  # and it rounds after each


def test_the_vocabulary_is_found_or_asked_for(oracle, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    encoder = SigLIP(oracle[1], "random")
    with pytest.raises(UserError, match=r"tokenizer\.json.*hf download google/siglip-base-patch16-224.*tokenizer=FILE"):
        encoder.encode_text(["open the drawer"])
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(folder / "tokenizer.json"))
    assert encoder.encode_text(["open the drawer"]).shape == (1, encoder.spec.dim)
    with pytest.raises(UserError, match="is no file"):
        SigLIP(oracle[1], "random", tokenizer=str(tmp_path / "none.json"))
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(UserError, match="no tokenizer"):
        siglip._read_tokenizer(tmp_path / "damaged.json", 32000)
    with pytest.raises(UserError, match="7 words, with </s>; expected at most 6"):
        siglip._read_tokenizer(folder / "tokenizer.json", 6)


def test_the_tokenizer_key_wins_over_the_file_beside_the_weights(oracle, encoders, folder, tmp_path):
    text = (folder / "tokenizer.json").read_text().replace('"open"', '"shut"')
    (tmp_path / "other.json").write_text(text)
    weights = str(folder / "model.safetensors")
    other = load_encoder("siglip", variant=oracle[1], weights=weights, tokenizer=str(tmp_path / "other.json"))
    torch.testing.assert_close(other.encode_text(["shut the drawer"]), encoders["hugging face"].encode_text(["open the drawer"]))


@pytest.mark.parametrize("texts", ["open", [], [3], None])
def test_wrong_texts_are_refused(encoders, texts):
    with pytest.raises(ValueError, match="Texts"):
        encoders["open_clip"].encode_text(texts)


def test_untrained_weights_are_a_function_of_the_seed(oracle):
    before = torch.get_rng_state()
    one, same, other = (SigLIP(oracle[1], "random", seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


def test_size_and_every_name_of_the_published_one():
    from transformers import SiglipConfig, SiglipModel

    config, _, width = VARIANTS["vitb16"]
    with torch.device("meta"):
        net, published = build_siglip(config), SiglipModel(SiglipConfig())
    assert sum(parameter.numel() for parameter in net.parameters()) // 10**6 == 203
    converted = {key: value.shape for key, value in from_hugging_face(published.state_dict()).items()}
    assert converted == {key: value.shape for key, value in net.state_dict().items()}
    assert converted["visual.trunk.pos_embed"] == (1, 196, width)
