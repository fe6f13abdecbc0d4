"""Files that are whole or not there, whatever happens while they are written."""

import os
import shutil
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes a file beside and renames it; it is on the disk when this returns. A failure leaves what was there before.

    Raises:
        OSError: the system refuses, such as on a full disk.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        if beside.is_file():
            beside.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes whatever stands there: a folder with all it holds, a file, or a link but not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def home_expanded(path: str | Path) -> Path:
    """With ``~`` replaced by the home folder, where there is one of that name."""
    return Path(os.path.expanduser(path))
