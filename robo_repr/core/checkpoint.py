"""Nested state on disk without pickle: arrays in <name>.safetensors, everything else in <name>.json.

The JSON keeps the structure. Plain values stand for themselves; containers and arrays are objects with one tag:
``{"dict": {...}}``, ``{"pairs": [[key, value], ...]}`` (keys that are no strings), ``{"tuple": [...]}``, ``{"array": "a0"}``,
``{"tensor": "a1"}``, ``{"scalar": "a2"}`` (a numpy scalar) and ``{"bfloat16": "a3"}`` (a tensor numpy has no type for).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from robo_repr.core.errors import UserError
from robo_repr.core.files import write_whole


def save_state(folder: Path, name: str, state: Any) -> None:
    """Writes a nested state; each file appears whole or not at all.

    Args:
        folder: an existing folder.
        name: the files' stem.
        state: dicts, lists and tuples whose leaves are tensors, numpy arrays or scalars, bool, int, float, str or None.

    Raises:
        TypeError: a leaf of another type; the message names its place.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    structure = _encode(state, arrays, name)
    data = save(arrays)
    write_whole(Path(folder) / f"{name}.safetensors", data)
    write_whole(Path(folder) / f"{name}.json", json.dumps({"sha256": _digest(structure, data), "structure": structure}))


def load_state(folder: Path, name: str) -> Any:
    """Reads what `save_state` wrote: numpy arrays come back as numpy, tensors as tensors on the CPU, with the same types and shapes.

    Raises:
        UserError: a file is missing or its content is not what was written.
    """
    from safetensors.numpy import load

    path = Path(folder) / f"{name}.json"
    try:
        document = json.loads(path.read_bytes())
        data = path.with_suffix(".safetensors").read_bytes()
        if document["sha256"] != _digest(document["structure"], data):
            raise ValueError("the checksum differs")
        return _decode(document["structure"], load(data))
    except FileNotFoundError as error:
        raise UserError(
            f"The checkpoint {folder} has no {Path(error.filename).name}. Expected both {name}.json and {name}.safetensors; "
            "use another checkpoint of the run, or start it again with fresh=true."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # whatever damaged bytes can look like
        raise UserError(
            f"The checkpoint {path} is damaged ({error}), so nothing was read from it. Delete the folder {folder} to continue from the "
            "checkpoint before it, or start the run again with fresh=true."
        ) from error


def _encode(value: Any, arrays: dict[str, np.ndarray], place: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        encoded = [(key, _encode(item, arrays, f"{place}.{key}")) for key, item in value.items()]
        if all(type(key) is str for key in value):
            return {"dict": dict(encoded)}
        if all(key is None or type(key) in (bool, int, float, str) for key in value):
            return {"pairs": [list(pair) for pair in encoded]}
        raise TypeError(f"{place} has keys that are neither text nor numbers: {list(value)[:3]}.")
    if isinstance(value, (list, tuple)):
        items = [_encode(item, arrays, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}

    tag = "array"
    if isinstance(value, np.generic):
        tag, value = "scalar", np.asarray(value)
    elif type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        import torch

        tag, value = "tensor", value.detach().cpu()
        if value.dtype == torch.bfloat16:
            tag, value = "bfloat16", value.contiguous().view(torch.int16)
        value = value.numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise TypeError(f"{place} is a {getattr(value, 'dtype', type(value).__name__)}; expected tensors, numbers, text, dicts and lists.")
    key = f"a{len(arrays)}"
    arrays[key] = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    return {tag: key}


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "dict":
        return {key: _decode(item, arrays) for key, item in content.items()}
    if tag == "pairs":
        return {key: _decode(item, arrays) for key, item in content}
    if tag == "tuple":
        return tuple(_decode(item, arrays) for item in content)
    array = arrays[content]
    if tag == "scalar":
        return array[()]
    array = array.copy()  # the loaded one may be a read-only view of the file's bytes
    if tag == "array":
        return array
    import torch

    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tag == "bfloat16" else tensor


def _digest(structure: Any, data: bytes) -> str:
    digest = hashlib.sha256(json.dumps(structure).encode())
    digest.update(data)
    return digest.hexdigest()
