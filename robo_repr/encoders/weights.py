"""Weight files: read without executing anything, and compared key by key."""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robo_repr.core.download import digest_of
from robo_repr.core.errors import UserError
from robo_repr.encoders.base import Encoder, hash_tensors
from robo_repr.encoders.registry import Source

# Under these keys training scripts keep the state dict of a model.
CONTAINERS = ("model", "r3m", "state_dict", "teacher", "model_state_dict")
# Keys by which a file of another method is recognised, to say so.
SIGNS = (
    ("convnet.", "r3m"),
    ("convs.0.", "curl"),
    ("storage_tokens", "dinov3"),
    ("ls1.gamma", "dinov2"),
    ("layer_scale1.", "dinov2 or dinov3"),
    ("backbone.model.", "theia"),
    ("visual.trunk.", "siglip"),
    ("text_model.", "clip or siglip"),
    ("visual.", "clip"),
    ("blocks.0.attn.qkv", "mvp or vc1"),
)

# What the two libraries raise for bytes that are not theirs. (AssertionError and struct.error: torch; MemoryError: a length that lies.)
DAMAGED = (
    *(SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(AssertionError, MemoryError, OverflowError, struct.error, zipfile.BadZipFile),
)

State = dict[str, Tensor]


def read_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and text metadata of a file; of a torch file, what lies under one of `CONTAINERS` if there is one, and no metadata.

    Raises:
        UserError: the file is damaged, is a pickle of something else than tensors (which is not executed), or holds no tensors.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
        except DAMAGED as error:
            raise UserError(
                f"{path} is not a readable safetensors file ({_first_line(error)}): it is damaged, cut off or of another kind. "
                "Copy it again."
            ) from None
        if metadata.get("tensors", digest := hash_tensors(state.items(), "")) != digest:
            raise UserError(f"{path} is damaged: its tensors are not those that were saved. Copy it again.")
        return state, metadata
    try:
        # Training scripts keep their arguments beside the weights; a Namespace only stores values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said again by the error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was not loaded: it is a pickle that may run code, or no weights file at all. Expected tensors only. Nothing in it was "
            "executed; save the state dict alone, best as .safetensors."
        ) from None
    except DAMAGED as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive, a program beside its tensors, and was not loaded. Pass the plain tensors of the same "
                "weights, as in the Hugging Face repository (for CLIP: python scripts/fetch_weights.py clip-vitb16, or "
                "weights=openai/clip-vit-base-patch16)."
            ) from None
        raise UserError(
            f"{path} is not a readable torch weights file ({_first_line(error)}): it is damaged, cut off or of another kind. "
            "Copy or download it again."
        ) from None
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no table of tensors; expected a state dict, or a dict with one under 'model'. Save it that way.")
    return state, {}


def rename(state: State, *rules: tuple[str, str | None]) -> State:
    """The state dict with other keys: to each, the first rule (regular expression, replacement) that matches is applied.

    A replacement None drops the key; keys that no rule matches stay.
    """
    renamed = {}
    for key, value in state.items():
        pattern, replacement = next((rule for rule in rules if re.search(rule[0], key)), ("^", ""))
        if replacement is not None:
            renamed[re.sub(pattern, replacement, key)] = value
    return renamed


def fill(encoder: Encoder, source: Source | None, seed: int) -> None:
    """Copies a file's tensors into an encoder's network, every one of them and nothing else, and notes where they come from.

    Args:
        source: None leaves the network as it was drawn with `seed`.

    Raises:
        UserError: also when names or shapes are not those of the network, a value is not finite, or a known digest is another.
    """
    if source is None:
        encoder.trained_by = f"untrained, drawn with seed {seed}"
        return
    path, release = source.path, source.release
    state, metadata = read_weights(path)
    digest = digest_of(path)
    if release and release.sha256 and digest != release.sha256:
        raise UserError(f"{path} is not {release.name}: its SHA-256 is {digest}, not {release.sha256}. Delete it and fetch it again.")
    what = " variant=".join(text for text in (encoder.spec.name, encoder.variant) if text)
    made_for = metadata.get("encoder", _method(encoder))
    if made_for != _method(encoder):
        raise UserError(f"{path} was saved from encoder={made_for}, not {what}. Choose that encoder, or another file.")
    if "encoder" not in metadata:  # else it has the network's own names already
        state = encoder.convert(state)
    load_strictly(encoder.net, state, path, what, release.expected_missing if release else ())
    encoder.weights_sha256 = digest
    encoder.trained_by = metadata.get("trained_by") or (f"{release.name}, {release.source}" if release else f"the file {path.name}")


def load_strictly(module: nn.Module, state: State, path: Path, what: str, expected_missing: tuple[str, ...] = ()) -> None:
    """Copies tensors into a module, or raises a UserError that says how they do not fit and leaves the module as it was."""
    expected = module.state_dict()
    problems = [
        *(f"{key} is missing" for key in sorted(expected.keys() - state.keys() - set(expected_missing))),
        *(f"{key} is unknown" for key in sorted(state.keys() - expected.keys())),
        *(
            f"{key} has the shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        likely = next((names for sign, names in SIGNS if any(sign in key for key in state)), None)
        hint = f" By its keys it is made for encoder={likely}." if likely and what.split()[0] not in likely else ""
        raise UserError(
            f"{path} is of another architecture than {what}: {'; '.join(problems[:3])}{more}.{hint} Choose the variant= that the file was "
            "made for, or another file. (Files for other picture sizes are refused too.)"
        )
    floats = [key for key, value in expected.items() if value.is_floating_point() and key in state]
    broken = sorted(key for key in floats if not state[key].is_floating_point() or not state[key].isfinite().all())
    if broken:
        raise UserError(f"{path} has values that are not finite numbers in {', '.join(broken[:3])}: the file is broken. Use another one.")
    module.load_state_dict(state, strict=not expected_missing)  # also turns half precision back into the module's own


def save_weights(encoder: Encoder, path: Path, metadata: dict[str, str], half: bool = True) -> None:
    """Writes an encoder's network as safetensors, to be read back by ``weights=``.

    Args:
        metadata: texts; ``trained_by`` is what the encoder then says of itself.
        half: what it learnt in fp16, buffers and position tables as they are; False: everything as it is.
    """
    learnt = {key for key, _ in encoder.net.named_parameters() if half and not key.endswith("pos_embed")}
    state = {key: value.half() if key in learnt else value for key, value in encoder.net.state_dict().items()}
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    beside = path.with_name(path.name + ".tmp")
    own = {"encoder": _method(encoder), "variant": str(encoder.variant), "tensors": hash_tensors(state.items(), "")}
    beside.write_bytes(save(state, {**own, **metadata}))
    beside.replace(path)


def _method(encoder: Encoder) -> str:
    """Whose weights it takes: the module's name, which the untrained control shares with mvp."""
    return type(encoder).__module__.rsplit(".", 1)[-1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
