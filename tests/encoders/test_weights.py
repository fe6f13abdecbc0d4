"""Weight files: good ones load, every other one is refused with a reason, and nothing is executed."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from robo_repr import load_encoder
from robo_repr.core.errors import UserError
from robo_repr.encoders import weights as weights_module
from robo_repr.encoders.mvp import MVP, Random
from robo_repr.encoders.weights import file_sha256, save_weights


@pytest.fixture(scope="module")
def trained():
    return Random(seed=3).freeze()


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_our_file_comes_back_in_half_precision(trained, images, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_weights(trained.vit, path, {"trained_by": "a test"})
    loaded = load_encoder("mvp", weights=str(path))
    assert loaded.trained_by == "a test" and loaded.weights_sha256 == file_sha256(path)
    assert torch.equal(loaded.vit.pos_embed, trained.vit.pos_embed)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(images).pooled, trained(images).pooled, atol=0.02, rtol=0.02)
    assert loaded.fingerprint() != trained.fingerprint()


def test_an_official_training_file_loads(trained, images, tmp_path):
    extra = {"decoder_embed.weight": torch.zeros(2, 2), "mask_token": torch.zeros(1, 1, 2), "head.bias": torch.zeros(3)}
    content = {"model": {**trained.vit.state_dict(), **extra}, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "official.pth")
    loaded = load_encoder("mvp", weights=str(tmp_path / "official.pth"))
    assert torch.equal(loaded(images).pooled, trained(images).pooled)
    assert loaded.trained_by == "the file official.pth"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_executed(trained, tmp_path, legacy):
    trap, path = tmp_path / "executed", tmp_path / "bomb.pth"
    torch.save({"model": trained.vit.state_dict(), "bomb": Bomb(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="Nothing in it was executed"):
        MVP(weights=str(path))
    assert not trap.exists()


def test_a_bare_pickle_is_refused_and_not_executed(tmp_path):
    trap, path = tmp_path / "executed", tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps(Bomb(trap), protocol=2))
    with pytest.raises(UserError, match="Nothing in it was executed"):
        MVP(weights=str(path))
    assert not trap.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_damaged_files_are_refused(trained, tmp_path, suffix, damage):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(trained.vit.state_dict(), path)
    else:
        save_weights(trained.vit, path, {})
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x93not weights at all" * 50}[damage])
    with pytest.raises(UserError, match=f"weights.{suffix}"):
        MVP(weights=str(path))


def test_files_that_do_not_fit_say_how(trained, tmp_path):
    path = tmp_path / "other.safetensors"
    state = {key: value.contiguous() for key, value in trained.vit.state_dict().items()}

    def refused(changed, text):
        save_file(changed, path)
        with pytest.raises(UserError, match=text):
            MVP(weights=str(path))

    refused({key: value for key, value in state.items() if key != "norm.bias"}, "norm.bias is missing")
    refused({**state, "extra": torch.zeros(1)}, "extra is unknown")
    refused({**state, "pos_embed": torch.zeros(1, 50, 128)}, r"pos_embed has the shape \(1, 50, 128\) instead of \(1, 37, 128\)")
    refused({**state, "cls_token": torch.full((1, 1, 128), torch.nan)}, "not finite numbers in cls_token")
    save_file(state, path)
    with pytest.raises(UserError, match="another architecture than mvp variant=vits"):
        MVP("vits", str(path))


def test_torch_files_without_tensors_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no table of tensors"):
        MVP(weights=str(tmp_path / "list.pth"))


def test_absent_files_say_the_ways_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist.*weights=random"):
        MVP(weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="is a folder"):
        MVP(weights=str(tmp_path))
    with pytest.raises(UserError, match="variant=vitb: its weights are not bundled.*weights=FILE"):
        MVP("vitb")
    monkeypatch.setattr(weights_module, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match="bundled variants: none"):
        MVP()


def test_the_bundled_file_is_small_half_precision_and_has_its_card():
    path = weights_module.bundled_file("mvp", "tiny")
    state = load_file(path)
    assert sum(value.numel() for value in state.values()) <= 2_000_000
    assert {value.dtype for key, value in state.items() if key != "pos_embed"} == {torch.float16}
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert file_sha256(path) in card and "not the paper's model" in card
    assert "not the paper's weights" in MVP().trained_by
