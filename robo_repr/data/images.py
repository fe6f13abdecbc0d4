"""Pictures of any size, brought to one size; folders of loose pictures as episodes of one frame each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from robo_repr.core.errors import UserError, check_range, unknown
from robo_repr.data.base import BrokenEpisode, Clips, Field
from robo_repr.data.index import Unusable, find_files, listed, look_into, nothing_found, report_skipped

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FITS = ("crop", "squash", "pad")


def check_size(size: int | Sequence[int], fit: str) -> tuple[int, int]:
    """(H, W) of one number or of two.

    Raises:
        UserError: it is neither, or the fit is not known.
    """
    if fit not in FITS:
        raise unknown("fit", str(fit), FITS)
    try:
        height, width = (size, size) if isinstance(size, int) else size
    except (TypeError, ValueError) as error:
        raise UserError(f"size={size} is not possible. Give one number of pixels, or two: height and width.") from error
    for each in (height, width):
        check_range("size", each, 1, what="pixels", whole=True)
    return height, width


def scaled_size(shown: tuple[float, float], size: tuple[int, int], fit: str) -> tuple[int, int]:
    """(width, height) to which a whole picture is scaled before `place` crops or pads it.

    Args:
        shown: (width, height) of the picture as it should be seen, in square pixels.
        size: (H, W) wanted.
        fit: ``"crop"`` covers all of `size` and loses what stands out, ``"pad"`` shows all and leaves bars, ``"squash"`` distorts.
    """
    (width, height), (high, wide) = shown, size
    if fit == "squash":
        return wide, high
    scale = (max if fit == "crop" else min)(wide / width, high / height)
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    # Rounding must not leave a line uncovered.
    return (max(wide, scaled[0]), max(high, scaled[1])) if fit == "crop" else (min(wide, scaled[0]), min(high, scaled[1]))


def place(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture (h, w, 3), or the picture in the middle of black: (3, H, W), a view or a fresh array."""
    for axis, length in enumerate(size):
        have = picture.shape[axis]
        if have > length:
            first = (have - length) // 2
            picture = picture[first : first + length] if axis == 0 else picture[:, first : first + length]
        elif have < length:
            bars = [(0, 0)] * 3
            bars[axis] = ((length - have) // 2, length - have - (length - have) // 2)
            picture = np.pad(picture, bars)
    return picture.transpose(2, 0, 1)


def read_picture(path: Path, size: tuple[int, int], fit: str) -> np.ndarray:
    """A picture file as (3, H, W) uint8: turned as its EXIF says, without its transparency, 16 bits cut to 8.

    Raises:
        BrokenEpisode: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            wide, high = image.size
            width, height = scaled_size((high, wide) if turned else (wide, high), size, fit)
            side = 2 * max(width, height)
            image.draft("RGB", (side, side))  # JPEGs far larger than needed are decoded at a half, quarter or eighth
            if image.mode.startswith("I"):
                shades = np.asarray(image)
                upright = Image.fromarray((shades >> 8 if shades.max() > 255 else shades).astype(np.uint8))
            else:
                upright = ImageOps.exif_transpose(image)
            pixels = upright.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return place(np.asarray(pixels), size)
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise BrokenEpisode(f"{path} cannot be decoded ({error}). Replace or remove it.") from error


def check_picture(path: Path) -> list[int]:
    """[width, height] by a picture's first bytes, nothing decoded.

    Raises:
        Unusable: it is no picture.
    """
    try:
        with Image.open(path) as image:
            return list(image.size)
    except UnidentifiedImageError as error:
        raise Unusable("no picture, or damaged") from error
    except OSError:
        raise
    except Exception as error:  # as above
        raise Unusable(f"damaged: {error}") from error


class Images(Clips):
    """A folder of loose pictures, each an episode of one frame.

    Args:
        path: a folder, searched with the folders below it; or a single picture.
        size: pixels; one number, or (H, W).
        fit: ``"crop"`` (the short side to size, then the middle), ``"squash"``, or ``"pad"`` with black.

    Attributes:
        skipped: pictures left out -> why; also printed.

    Raises:
        UserError: there is no picture that can be read, or the size or fit is not possible.
    """

    def __init__(self, path: str | Path, size: int | Sequence[int] = 224, fit: str = "crop"):
        self.size, self.fit = check_size(size, fit), fit
        self.name, path = str(path), Path(path).expanduser()
        root, files, self.skipped = find_files(path, "images")
        pictures = [file for file in files if file.suffix.lower() in ENDINGS]
        if not pictures:
            raise nothing_found(path, files, "images", ENDINGS, "For videos use data=videos.")
        said, unusable = look_into(root, pictures, check_picture)
        self.skipped |= unusable
        if not said:
            raise UserError(
                f"None of the {len(pictures)} images in {path} can be read: {listed(self.skipped)}. Give a folder that has some."
            )
        report_skipped(self.name, self.skipped, len(pictures))
        self._root = root
        self.views, self.fps, self.meta, self.broken = ["image"], 1.0, {}, {}
        self.fields = {"images": Field((1, 3, *self.size), np.dtype(np.uint8))}
        self.lengths = np.ones(len(said), dtype=np.int64)
        self.episodes = [{"source": file.relative_to(root).as_posix(), "language": ""} for file in said]

    def read_fields(self, episode: int, start: int, stop: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        if "images" not in keys:
            return {}
        picture = read_picture(self._root / self.episodes[episode]["source"], self.size, self.fit)
        return {"images": np.ascontiguousarray(picture)[None, None]}
