"""Files that are no weights of the encoder asked for: every loader refuses them, says why, and executes nothing."""

import json
import resource
import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from robo_repr import list_encoders, load_encoder
from robo_repr.core.config import load_part
from robo_repr.core.errors import UserError
from robo_repr.encoders.curl import CURL
from robo_repr.encoders.weights import read_weights, save_weights

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


SMALL = {"size": 12, "frames": 1, "layers": 2, "filters": 2, "dim": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Three files of a network of 70 numbers, as bytes by their names, and its tensors."""
    folder, encoder = tmp_path_factory.mktemp("tiny"), CURL(weights="random", **SMALL)
    generator = torch.Generator().manual_seed(0)
    for value in encoder.net.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator).half())  # our own files hold half precision
    state = encoder.net.state_dict()
    save_weights(encoder, folder / "ours.safetensors", {})
    torch.save({"model": state}, folder / "zip.pth")
    torch.save({"model": state}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, state


places = st.one_of(st.floats(0, 1), st.floats(0, 0.05), st.floats(0.95, 1))  # heads and tails say where everything else is
edits = st.tuples(st.sampled_from(["flip", "set", "insert", "cut", "end"]), places, st.binary(min_size=1, max_size=8))


def damaged(content, changes):
    content = bytearray(content)
    for what, place, data in changes:
        at = int(place * len(content))
        if what == "insert":
            content[at:at] = data
        elif what == "cut":
            del content[at : at + len(data)]
        elif what == "end":
            del content[at:]
        elif at < len(content):
            content[at] = data[0] if what == "set" else content[at] ^ (1 << data[0] % 8)
    return bytes(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["ours.safetensors", "zip.pth", "legacy.pt"]), st.lists(edits, min_size=1, max_size=3))
@example("ours.safetensors", [("end", 0.0, b"x")])  # empty
@example("zip.pth", [("end", 0.0, b"x")])
@example("ours.safetensors", [("set", 0.0, b"\xff"), ("insert", 0.0, b"\xff" * 8)])
def test_damaged_bytes_load_unchanged_or_are_refused(tiny, tmp_path, name, changes):
    contents, state = tiny
    path = tmp_path / name
    path.write_bytes(damaged(contents[name], changes))
    try:
        loaded = CURL(weights=str(path), **SMALL).net.state_dict()
    except UserError as error:
        assert "\n" not in str(error) and name in str(error)
        return
    assert loaded.keys() == state.keys() and all(value.isfinite().all() for value in loaded.values())
    if name == "ours.safetensors":  # torch's own formats have no digest of their own
        assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_every_changed_number_of_our_own_files_is_noticed(tiny, tmp_path):
    contents, state = tiny
    content, path = contents["ours.safetensors"], tmp_path / "ours.safetensors"
    path.write_bytes(content)
    assert all(torch.equal(value, state[key]) for key, value in CURL(weights=str(path), **SMALL).net.state_dict().items())
    numbers = 2 * sum(value.numel() for value in state.values())
    for at in range(len(content) - numbers, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError, match="ours.safetensors is damaged"):
            read_weights(path)


def test_no_memory_is_taken_for_a_length_that_lies(tmp_path):
    """The first eight bytes of a safetensors file are its header's length: it is compared with the file before anything is read."""
    path = tmp_path / "long.safetensors"
    for length in (2**20, 2**33, 2**63 - 1, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        before = peak_memory_mb()
        with pytest.raises(UserError, match="not a readable safetensors file"):
            CURL(weights=str(path), **SMALL)
        assert peak_memory_mb() - before < 100


def peak_memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
