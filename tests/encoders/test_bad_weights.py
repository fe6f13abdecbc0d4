"""Files that are no weights of the encoder asked for: every loader refuses them, says why, and executes nothing."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from robo_repr import list_encoders, load_encoder
from robo_repr.core.config import load_part
from robo_repr.core.errors import UserError

# An encoder, its settings, and settings under which its files do not fit. (imagenet has one architecture.)
CASES = {
    "r3m": ({"variant": "resnet18"}, {"variant": "resnet34"}),
    "curl": ({"size": 32}, {"size": 40}),
    "imagenet": ({"size": 32}, None),
    "timm": ({"model": "test_resnet"}, {"model": "test_vit"}),
    "mvp": ({"variant": "tiny"}, {"variant": "vits-mae-in"}),
    "theia": ({"variant": "tiny"}, {"variant": "small"}),
    "dinov2": ({"variant": "vits14"}, {"variant": "vits14_reg4"}),
}
# Those whose files are larger are tried with the traps alone.
WITH_WEIGHTS = [name for name in list_encoders() if "weights" in load_part("encoder", name)]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The encoder's name, its settings, and the tensors of a file that loads."""
    name, settings = request.param, CASES[request.param][0]
    state = load_encoder(name, weights="random", **settings).net.state_dict()
    return name, settings, {key: value.contiguous() for key, value in state.items()}


def refused(case, path, text):
    name, settings, _ = case
    with pytest.raises(UserError, match=text) as caught:
        load_encoder(name, weights=str(path), **settings)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_the_whole_file_loads(case, tmp_path):
    name, settings, state = case
    torch.save(state, tmp_path / "good.pth")
    save_file(state, tmp_path / "good.safetensors")
    one, two = (load_encoder(name, weights=str(tmp_path / file), **settings) for file in ("good.pth", "good.safetensors"))
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize("other", list(CASES))
def test_another_methods_file(case, other, tmp_path):
    name, _, state = case
    if other == name:
        state = {**state, "surplus.weight": torch.zeros(1)}
    else:
        state = load_encoder(other, weights="random", **CASES[other][0]).net.state_dict()
    torch.save(state, tmp_path / "other.pth")
    refused(case, tmp_path / "other.pth", "of another architecture than")


@pytest.mark.parametrize("case", [name for name, (_, other) in CASES.items() if other], indirect=True)
def test_another_sizes_file(case, tmp_path):
    name, _, state = case
    others = CASES[name][1]
    torch.save(state, tmp_path / "size.pth")
    with pytest.raises(UserError, match="of another architecture than|of a curl with other settings"):
        load_encoder(name, weights=str(tmp_path / "size.pth"), **others)


def test_a_missing_and_a_misshapen_tensor(case, tmp_path):
    _, _, state = case
    key = next(key for key, value in state.items() if value.ndim > 1)
    torch.save({name: value for name, value in state.items() if name != key}, tmp_path / "short.pth")
    refused(case, tmp_path / "short.pth", "is missing")
    torch.save({**state, key: state[key][:-1]}, tmp_path / "shape.pth")
    with pytest.raises(UserError, match="instead of"):
        load_encoder(case[0], weights=str(tmp_path / "shape.pth"), **case[1])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_truncated_file(case, suffix, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    (torch.save if suffix == "pth" else save_file)(case[2], path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(case, path, "damaged, cut off or of another kind")


def test_values_that_are_no_numbers(case, tmp_path):
    _, _, state = case
    key = next(key for key, value in state.items() if value.ndim > 1)
    for value in (torch.nan, torch.inf):
        broken = state[key].clone()
        broken.view(-1)[3] = value
        torch.save({**state, key: broken}, tmp_path / "nan.pth")
        refused(case, tmp_path / "nan.pth", f"not finite numbers in {key}")


@pytest.mark.parametrize("lie", ["offsets", "shape", "length", "dtype"])
def test_a_lying_safetensors_header(case, lie, tmp_path):
    path = tmp_path / "lie.safetensors"
    save_file(case[2], path)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = next(value for key, value in header.items() if key != "__metadata__" and len(value["shape"]) > 1)
    if lie == "offsets":
        entry["data_offsets"][1] = 10**12  # beyond the end
    elif lie == "shape":
        entry["shape"] = [10**6, 10**6]
    elif lie == "dtype":
        entry["dtype"] = "F64"
    text = json.dumps(header).encode()
    stated = 2**60 if lie == "length" else len(text)
    path.write_bytes(struct.pack("<Q", stated) + text + data)
    refused(case, path, "not a readable safetensors file")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_no_loader_executes_anything(name, legacy, tmp_path):
    trap, path = tmp_path / "executed", tmp_path / "bomb.pth"
    torch.save({"model": {"weight": torch.zeros(1)}, "bomb": Bomb(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="Nothing in it was executed"):
        load_encoder(name, weights=str(path), **CASES.get(name, ({}, {}))[0])
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap works: an unguarded loader would have run it
    assert trap.exists()
