"""Nested state to disk and back: arrays in safetensors, the rest in JSON, nothing pickled, nothing half-written read."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError

FORMAT = 1


def save_state(folder: Path, name: str, state: dict) -> None:
    """Writes ``<name>.safetensors`` and ``<name>.json``, each beside and then renamed.

    Args:
        folder: exists.
        name: of the two files.
        state: nested dicts (string keys), lists and tuples of torch tensors, numpy arrays, numbers, strings, booleans and None.

    Raises:
        TypeError: a leaf of another type, with its place.
    """
    import numpy as np
    import torch
    from safetensors.torch import save

    arrays: dict[str, Any] = {}

    def plain(value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor | np.ndarray):
            kind = "tensor" if isinstance(value, torch.Tensor) else "array"
            tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value).copy())
            key = str(len(arrays))
            arrays[key] = tensor.reshape(value.shape).clone(memory_format=torch.contiguous_format)
            return {"$": kind, "key": key}
        if isinstance(value, dict):
            if not all(isinstance(key, str) and key != "$" for key in value):
                raise TypeError(f"{place}: keys of a saved dict must be strings")
            return {key: plain(item, f"{place}.{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"$": "tuple", "items": items}
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{place}: cannot save a {type(value).__name__}")

    structure = plain(state, name)
    data = save(arrays)
    _write(folder / f"{name}.safetensors", data)
    text = json.dumps({"format": FORMAT, "sha256": _digest(structure, data), "state": structure})
    _write(folder / f"{name}.json", text.encode())


def load_state(folder: Path, name: str) -> dict:
    """The state that `save_state` wrote, arrays as arrays and tensors as CPU tensors.

    Raises:
        UserError: a file is missing or damaged, or of a newer format.
    """
    from safetensors.torch import load

    try:
        data = (folder / f"{name}.safetensors").read_bytes()
        saved = json.loads((folder / f"{name}.json").read_bytes())
        whole = _digest(saved["state"], data) == saved["sha256"]
        if whole and saved["format"] > FORMAT:
            raise UserError(f"{folder / name} was written by a newer version (format {saved['format']}, this one reads {FORMAT}). Update.")
        arrays = load(data) if whole else {}
        structure = saved["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The checkpoint {folder / name} cannot be read ({type(error).__name__}: {error}). Delete that folder to go on from the "
            "checkpoint before it, or start over with fresh=true."
        ) from error
    if not whole:
        raise UserError(
            f"The checkpoint {folder / name} is damaged: it does not have the checksum it was written with. Delete that folder "
            "to go on from the checkpoint before it, or start over with fresh=true."
        )

    def full(value: Any) -> Any:
        if isinstance(value, list):
            return [full(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value.get("$")
        if kind == "tuple":
            return tuple(full(item) for item in value["items"])
        if kind in ("tensor", "array"):
            return arrays[value["key"]] if kind == "tensor" else arrays[value["key"]].numpy()
        return {key: full(item) for key, item in value.items()}

    return full(structure)


def _digest(structure: Any, data: bytes) -> str:
    """One checksum for both files."""
    digest = hashlib.sha256(json.dumps(structure).encode())
    digest.update(data)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
