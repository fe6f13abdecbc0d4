"""Weight files: found, read without executing anything, and compared key by key."""

import argparse
import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robo_repr.core.errors import UserError

BUNDLED = Path(__file__).parent.parent / "weights"
# Left in MAE training files beside the encoder.
NOT_ENCODER = ("decoder_", "mask_token", "head.", "fc_norm.")


def bundled_file(name: str, variant: str) -> Path:
    """The file of an encoder's bundled weights, which need not exist."""
    return BUNDLED / f"{name}_{variant}.safetensors"


def find_weights(name: str, variant: str, weights: str | None) -> Path:
    """The existing file that `weights` means: None is the bundled one, anything else a path.

    Raises:
        UserError: there is no such file.
    """
    ways = "Pass weights=FILE (.safetensors, or .pth as the authors released it), or weights=random for an untrained network."
    if weights is None:
        path = bundled_file(name, variant)
        if not path.is_file():
            have = sorted(file.stem.removeprefix(f"{name}_") for file in BUNDLED.glob(f"{name}_*.safetensors"))
            raise UserError(
                f"encoder={name} variant={variant}: its weights are not bundled (bundled variants: {', '.join(have) or 'none'}). {ways}"
            )
        return path
    path = Path(weights).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"weights={weights} {found}; expected a weights file. {ways}")
    return path


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text metadata of a file; of a torch file, the entry ``"model"`` if there is one, and no metadata.

    Raises:
        UserError: the file is damaged, is a pickle of something else than tensors (which is not executed), or holds no tensors.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a readable safetensors file ({error}): it is damaged, cut off or of another kind. Copy it again."
            ) from None
    try:
        # Training scripts keep their arguments beside the weights; a Namespace only stores values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was not loaded: it is a pickle that may run code, or no weights file at all. Expected tensors only. Nothing in it was "
            "executed; save the state dict alone, best as .safetensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} is not a readable torch weights file ({_first_line(error)}): it is damaged, cut off or of another kind. "
            "Copy or download it again."
        ) from None
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no table of tensors; expected a state dict, or a dict with one under 'model'. Save it that way.")
    return state, {}


def load_weights(module: nn.Module, path: Path, what: str) -> dict[str, str]:
    """Copies a file's tensors into a module, every one of them and nothing else; returns the file's metadata.

    Args:
        what: the architecture in the error text, such as ``"mvp variant=tiny"``.

    Raises:
        UserError: also when names or shapes are not those of the module, or a value is not finite.
    """
    state, metadata = read_weights(path)
    state = {key: value for key, value in state.items() if not key.startswith(NOT_ENCODER)}
    expected = module.state_dict()
    problems = [
        *(f"{key} is missing" for key in sorted(expected.keys() - state.keys())),
        *(f"{key} is unknown" for key in sorted(state.keys() - expected.keys())),
        *(
            f"{key} has the shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{path} is of another architecture than {what}: {'; '.join(problems[:3])}{more}. Choose the variant= that the file was "
            "made for, or another file. (Other picture sizes are refused too: position tables are never stretched.)"
        )
    broken = sorted(key for key, value in state.items() if not value.is_floating_point() or not value.isfinite().all())
    if broken:
        raise UserError(f"{path} has values that are not finite numbers in {', '.join(broken[:3])}: the file is broken. Use another one.")
    module.load_state_dict(state)  # also turns half precision back into the module's own
    return metadata


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes a module's tensors as fp16 safetensors; the position table, whose exact values are known, stays float32."""
    state = {key: (value if key == "pos_embed" else value.half()).detach().cpu().contiguous() for key, value in module.state_dict().items()}
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(save(state, metadata))
    beside.replace(path)


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
