"""Nested state to disk and back: arrays in safetensors, the rest in JSON, nothing pickled, nothing half-written read."""

import hashlib
import json
from pathlib import Path
from typing import Any

from robo_repr.core.errors import UserError
from robo_repr.core.files import sync_folder, write_whole

FORMAT = 1


class DamagedCheckpoint(UserError):
    """A checkpoint's file is missing, or is not what was written. An older checkpoint may be whole."""


def save_state(folder: Path, name: str, state: dict) -> str:
    """Writes ``<name>.safetensors`` and ``<name>.json``, each beside and then renamed.

    Args:
        folder: exists.
        name: of the two files.
        state: nested dicts (string keys), lists and tuples of torch tensors, numpy arrays, numbers, strings, booleans and None.

    Returns:
        The checksum of both files, for `load_state`.

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
    write_whole(folder / f"{name}.safetensors", data)
    digest = _digest(FORMAT, structure, data)
    write_whole(folder / f"{name}.json", json.dumps({"format": FORMAT, "sha256": digest, "state": structure}).encode())
    sync_folder(folder)
    return digest


def load_state(folder: Path, name: str, sha256: str | None = None) -> dict:
    """The state that `save_state` wrote, arrays as arrays and tensors as CPU tensors.

    Args:
        sha256: the checksum that `save_state` returned, where another file keeps it.

    Raises:
        DamagedCheckpoint: a file is missing or damaged, or is another one than the checksum says.
        UserError: of a newer format.
    """
    from safetensors.torch import load

    try:
        data = (folder / f"{name}.safetensors").read_bytes()
        saved = json.loads((folder / f"{name}.json").read_bytes())
        whole = _digest(saved["format"], saved["state"], data) == saved["sha256"] == (sha256 or saved["sha256"])
        if whole and saved["format"] > FORMAT:
            raise UserError(f"{folder / name} was written by a newer version (format {saved['format']}, this one reads {FORMAT}). Update.")
        arrays = load(data) if whole else {}
        structure = saved["state"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{folder / name} of a checkpoint cannot be read ({type(error).__name__}: {error}).") from error
    if not whole:
        raise DamagedCheckpoint(f"{folder / name} of a checkpoint is damaged: it does not have the checksum it was written with.")

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


def _digest(version: int, structure: Any, data: bytes) -> str:
    """One checksum for both files."""
    digest = hashlib.sha256(json.dumps([version, structure]).encode())
    digest.update(data)
    return digest.hexdigest()
