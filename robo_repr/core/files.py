"""Files that are whole or absent."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes beside and renames, so that a crash or a full disk never leaves half a file under the final name."""
    beside = path.with_name(f".{path.name}.tmp")
    with open(beside, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
