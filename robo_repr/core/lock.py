"""One writer per folder."""

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path

from robo_repr.core.errors import UserError


def take_lock(folder: Path, otherwise: str) -> int:
    """Locks <folder>/lock, in which the owner's process id stands. The system drops the lock when its owner dies, however it dies.

    Args:
        otherwise: what to do instead of waiting for another process, for the message.

    Returns:
        What `drop_lock` takes.

    Raises:
        UserError: another process holds it.
        OSError: the folder is not writable.
    """
    while True:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            raise UserError(f"Process {owner} is writing to {folder} already. Wait for it, stop it, or {otherwise}.") from None
        try:
            if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
                break
        except FileNotFoundError:
            pass
        os.close(lock)  # its last owner deleted this file just now: look for a new one
    if owner := os.pread(lock, 20, 0).decode(errors="replace").strip():
        print(f"taking over {folder} from a process that is gone ({owner})", file=sys.stderr)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError:
        os.close(lock)  # on a full disk nobody would hold it knowingly
        raise
    return lock


def drop_lock(folder: Path, lock: int) -> None:
    """Gives back what `take_lock` gave."""
    with suppress(OSError):  # a folder that became read-only keeps the file; the lock itself goes with the descriptor
        (folder / "lock").unlink(missing_ok=True)
    os.close(lock)
