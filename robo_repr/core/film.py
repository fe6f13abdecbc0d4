"""Films that play everywhere: H.264 in mp4 files."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes an mp4 file, beside and renamed, so that no half of one is left. Frames are taken as they are needed.

    Args:
        frames: pictures (H, W, 3) uint8, all alike in size, at least one. H.264's colours need even sizes: an odd picture gets its last row
            or column twice.

    Raises:
        ValueError: there are no frames.
        OSError: the file cannot be written.
    """
    taken = iter(frames)
    first = next(taken, None)
    if first is None:
        raise ValueError(f"{path}: a film without frames")
    height, width = first.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:
            rate = Fraction(fps).limit_denominator(1001)  # 23.976 is 24000/1001
            stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
            stream.height, stream.width = height + height % 2, width + width % 2
            stream.pix_fmt = "yuv420p"
            for frame in chain([first], taken):
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frame
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
            container.mux(stream.encode())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
