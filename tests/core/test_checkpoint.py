import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robo_repr.core import checkpoint
from robo_repr.core.checkpoint import DamagedCheckpoint, load_state, save_state
from robo_repr.core.errors import UserError

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5)
shapes = st.lists(st.integers(0, 3), max_size=3)
numpy_types = st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int64, np.bool_])
torch_types = st.sampled_from([torch.float16, torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
arrays = st.builds(lambda shape, kind: np.ones(shape, dtype=kind), shapes, numpy_types)
tensors = st.builds(lambda shape, kind: torch.ones(shape, dtype=kind), shapes, torch_types)
states = st.dictionaries(
    st.text("abc.", max_size=3),
    st.recursive(
        scalars | arrays | tensors,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=3,
)


def equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b) and a.shape == b.shape
    elif isinstance(a, dict):
        assert a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    else:
        assert a == b
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states)
def test_what_is_saved_comes_back(tmp_path, state):
    save_state(tmp_path, "state", state)
    assert equal(load_state(tmp_path, "state"), state)


def test_views_and_shared_memory_are_saved_as_they_look(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "turned": base.T, "row": base[1], "array": np.arange(6).reshape(2, 3).T}
    save_state(tmp_path, "state", state)
    loaded = load_state(tmp_path, "state")
    assert torch.equal(loaded["turned"], base.T) and torch.equal(loaded["row"], base[1]) and np.array_equal(loaded["array"], state["array"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_noticed(tmp_path, data):
    save_state(tmp_path, "state", {"weights": torch.arange(20.0), "step": 3})
    victim = tmp_path / data.draw(st.sampled_from(["state.safetensors", "state.json"]))
    content = bytearray(victim.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)
    try:
        loaded = load_state(tmp_path, "state")
    except DamagedCheckpoint as error:
        assert "checkpoint" in str(error)
    else:
        # The only harmless damage is in the JSON's layout, such as a blank that became a line's end.
        assert victim.suffix == ".json" and loaded["step"] == 3 and torch.equal(loaded["weights"], torch.arange(20.0))


def test_a_changed_number_is_noticed(tmp_path):
    save_state(tmp_path, "state", {"step": 3})
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace('"step": 3', '"step": 4'))
    with pytest.raises(UserError, match="checksum"):
        load_state(tmp_path, "state")


def test_a_missing_file_and_a_newer_format_are_named(tmp_path, monkeypatch):
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        load_state(tmp_path, "state")
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save_state(tmp_path, "state", {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer") as error:
        load_state(tmp_path, "state")
    assert not isinstance(error.value, DamagedCheckpoint)  # an older one would not be better


def test_another_file_than_was_written_is_noticed(tmp_path):
    digest = save_state(tmp_path, "state", {"step": 3})
    assert load_state(tmp_path, "state", digest) == {"step": 3}
    assert save_state(tmp_path, "state", {"step": 4}) != digest
    with pytest.raises(DamagedCheckpoint):
        load_state(tmp_path, "state", digest)


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match="agent.thing"):
        save_state(tmp_path, "agent", {"thing": object()})
