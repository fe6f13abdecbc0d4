"""One root seed, many named random streams.

Every stream is a hash of (root seed, name, ids), so drawing more from one (a camera, a distractor) never shifts another (start states).
"""

import hashlib

import numpy as np


def stream_seed(root: int, stream: str, *ids: int | str) -> int:
    """A 63-bit seed that depends on every argument and on nothing else.

    Args:
        root: the run's seed.
        stream: the stream's name, such as ``"start"`` or ``"camera/front"``.
        ids: which draw of the stream, usually an episode's id.
    """
    text = "\0".join([str(int(root)), stream, *map(str, ids)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(root: int, stream: str, *ids: int | str) -> np.random.Generator:
    """A fresh numpy generator on the stream; see `stream_seed`."""
    return np.random.default_rng(stream_seed(root, stream, *ids))
