"""Weight files: good ones load, every other one is refused with a reason, and nothing is executed."""

import argparse
import pickle
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from robo_repr import list_encoders, load_encoder
from robo_repr.core.download import digest_of
from robo_repr.core.errors import UserError
from robo_repr.encoders import registry as registry_module
from robo_repr.encoders.mvp import MVP, Random
from robo_repr.encoders.weights import save_weights


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
    save_weights(trained, path, {"trained_by": "a test"})
    loaded = load_encoder("mvp", weights=str(path))
    assert loaded.trained_by == "a test" and loaded.weights_sha256 == digest_of(path)
    assert torch.equal(loaded.net.pos_embed, trained.net.pos_embed)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(images).pooled, trained(images).pooled, atol=0.02, rtol=0.02)
    assert loaded.fingerprint() != trained.fingerprint()


def test_an_official_training_file_loads(trained, images, tmp_path):
    extra = {"decoder_embed.weight": torch.zeros(2, 2), "mask_token": torch.zeros(1, 1, 2), "head.bias": torch.zeros(3)}
    content = {"model": {**trained.net.state_dict(), **extra}, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "official.pth")
    loaded = load_encoder("mvp", weights=str(tmp_path / "official.pth"))
    assert torch.equal(loaded(images).pooled, trained(images).pooled)
    assert loaded.trained_by == "the file official.pth"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_executed(trained, tmp_path, legacy):
    trap, path = tmp_path / "executed", tmp_path / "bomb.pth"
    torch.save({"model": trained.net.state_dict(), "bomb": Bomb(trap)}, path, _use_new_zipfile_serialization=not legacy)
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
        torch.save(trained.net.state_dict(), path)
    else:
        save_weights(trained, path, {})
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x93not weights at all" * 50}[damage])
    with pytest.raises(UserError, match=f"weights.{suffix}"):
        MVP(weights=str(path))


def test_files_that_do_not_fit_say_how(trained, tmp_path):
    path = tmp_path / "other.safetensors"
    state = {key: value.contiguous() for key, value in trained.net.state_dict().items()}

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
        MVP("vits-mae-in", str(path))


def test_torch_files_without_tensors_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no table of tensors"):
        MVP(weights=str(tmp_path / "list.pth"))


def test_absent_files_say_the_ways_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist.*weights=random"):
        MVP(weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="is a folder, but not one of a run"):
        MVP(weights=str(tmp_path))
    with pytest.raises(UserError, match="not on this machine.*fetch_weights.py mvp-vitb-mae-egosoup.*weights=FILE"):
        MVP("vitb-mae-egosoup")
    monkeypatch.setattr(registry_module, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match="The registry lists none"):
        MVP()


def test_the_bundled_file_is_small_half_precision_and_has_its_card():
    path = registry_module.bundled_file("mvp", "tiny")
    state = load_file(path)
    assert sum(value.numel() for value in state.values()) <= 2_000_000
    assert {value.dtype for key, value in state.items() if key != "pos_embed"} == {torch.float16}
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert digest_of(path) in card and "not the paper's model" in card
    assert "not the paper's weights" in MVP().trained_by


# --- the registry ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Writes a registry of its own; files lie in tmp_path/fetched."""
    monkeypatch.setenv("ROBO_WEIGHTS", str(tmp_path / "fetched"))
    (tmp_path / "fetched").mkdir()

    def write(**entries):
        common = {"encoder": "mvp", "variant": "tiny", "licence": "MIT", "source": "a test", "status": "alive", "url": "http://x/y.pth"}
        path = tmp_path / "registry.yaml"
        path.write_text(yaml.safe_dump({name.replace("_", "-"): {**common, **entry} for name, entry in entries.items()}))
        monkeypatch.setattr(registry_module, "REGISTRY", path)
        return tmp_path / "fetched"

    return write


def test_the_registry_is_well_formed():
    encoders = set(list_encoders())
    for name, release in registry_module.releases().items():
        assert release.encoder in encoders and name.startswith(release.encoder), name
        assert release.status in ("alive", "dead", "private", "unverified"), name
        assert release.url or release.package or release.status == "private", name
        assert release.status != "dead" or release.alternatives, f"{name} is dead: say what to use instead"
        assert not release.sha256 or re.fullmatch("[0-9a-f]{64}", release.sha256), name
        assert not release.md5 or re.fullmatch("[0-9a-f]{32}", release.md5), name


def test_a_fetched_release_is_found_by_name_and_by_variant(trained, images, registry):
    folder = registry(mvp_one={})
    with pytest.raises(UserError, match="weights=mvp-one is not on this machine. Fetch it with: python scripts/fetch_weights.py mvp-one"):
        MVP(weights="mvp-one")
    torch.save({"model": trained.net.state_dict()}, folder / "mvp-one.pth")
    loaded = load_encoder("mvp", weights="mvp-one")
    assert torch.equal(loaded(images).pooled, trained(images).pooled)
    assert loaded.trained_by == "mvp-one, a test"


def test_a_release_with_another_digest_is_refused(trained, registry):
    folder = registry(mvp_one={"sha256": "0" * 64})
    torch.save({"model": trained.net.state_dict()}, folder / "mvp-one.pth")
    with pytest.raises(UserError, match="is not mvp-one: its SHA-256 is"):
        MVP(weights="mvp-one")


def test_a_release_of_another_encoder_or_variant_is_refused(registry):
    registry(r3m_one={"encoder": "r3m", "variant": "resnet18"}, mvp_big={"variant": "vits-mae-in"})
    with pytest.raises(UserError, match="is for encoder=r3m variant=resnet18, not for encoder=mvp variant=tiny"):
        MVP(weights="r3m-one")
    with pytest.raises(UserError, match="is for encoder=mvp variant=vits-mae-in"):
        MVP(weights="mvp-big")


def test_dead_and_private_releases_say_what_else_there_is(registry):
    registry(
        mvp_gone={"status": "dead", "since": "2024-05", "alternatives": ["the hub's copy"]},
        mvp_secret={"status": "private", "url": None, "alternatives": ["weights=random"]},
    )
    with pytest.raises(UserError, match=r"dead since 2024-05\). Instead: the hub's copy"):
        MVP(weights="mvp-gone")
    with pytest.raises(UserError, match="never public. Instead: weights=random"):
        MVP(weights="mvp-secret")


def test_expected_missing_keys_keep_their_untrained_values(trained, registry):
    folder = registry(mvp_one={"expected_missing": ["norm.bias"]}, mvp_two={})
    state = {key: value for key, value in trained.net.state_dict().items() if key != "norm.bias"}
    for name in ("mvp-one", "mvp-two"):
        torch.save({"model": state}, folder / f"{name}.pth")
    assert not MVP(weights="mvp-one").net.norm.bias.any()
    with pytest.raises(UserError, match="norm.bias is missing"):
        MVP(weights="mvp-two")


def test_registry_entries_with_typing_errors_are_refused(registry):
    registry(mvp_one={"megabyte": 3})
    with pytest.raises(UserError, match="megabytes"):
        registry_module.releases()


def test_a_run_folder_gives_what_the_run_trained_or_used(trained, images, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("names: {encoder: mvp}\nweights: null\n")
    assert load_encoder("mvp", weights=str(run)).weights_sha256 == load_encoder("mvp").weights_sha256
    with pytest.raises(UserError, match="encoder is mvp, not r3m"):
        registry_module.find_weights("r3m", "resnet18", str(run))
    for step, encoder in ((900, Random(seed=5)), (1000, trained)):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        save_weights(encoder, run / "checkpoints" / str(step) / "encoder.safetensors", {})
    newest = load_encoder("mvp", weights=str(run))
    torch.testing.assert_close(newest(images).pooled, trained(images).pooled, atol=0.02, rtol=0.02)


def test_a_hub_repository_without_network_is_one_paragraph(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(UserError, match="could not be reached .no route to host.*pass weights=FILE"):
        MVP(weights="somebody/some-vit")


def test_a_file_of_another_method_is_named(tmp_path):
    torch.save({"r3m": {"module.convnet.conv1.weight": torch.zeros(1)}}, tmp_path / "r3m.pt")
    with pytest.raises(UserError, match="By its keys it is made for encoder=r3m"):
        MVP(weights=str(tmp_path / "r3m.pt"))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "clip.pt")
    with pytest.raises(UserError, match="TorchScript"):
        MVP(weights=str(tmp_path / "clip.pt"))


def test_a_safetensors_header_that_lies_is_refused(trained, tmp_path):
    path = tmp_path / "lies.safetensors"
    save_weights(trained, path, {})
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    header = bytes(content[8 : 8 + size])
    for lie in (header.replace(b"F16", b"F64", 1), header.replace(b'"shape":[', b'"shape":[9', 1)):
        path.write_bytes(len(lie).to_bytes(8, "little") + lie + bytes(content[8 + size :]))
        with pytest.raises(UserError, match="not a readable safetensors file"):
            MVP(weights=str(path))
    path.write_bytes((2**40).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        MVP(weights=str(path))
