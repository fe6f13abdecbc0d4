"""Pictures of any kind and size come out upright, in one size and in eight bits; broken ones are named and left out."""

import numpy as np
import pytest
from PIL import Image

from robo_repr.core.errors import UserError
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.images import Images


def quarters(height=48, width=64):
    """Red, green / blue, white."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = (255, 0, 0), (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


def corners(image):
    """The colours' letters in reading order, of (3, H, W)."""
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "-"}
    height, width = image.shape[1:]
    places = [(y, x) for y in (height // 5, -height // 5) for x in (width // 5, -width // 5)]
    return "".join(names[tuple((image[:, y, x] > 127).astype(int).tolist())] for y, x in places)


def test_pictures_of_all_kinds(tmp_path):
    picture = Image.fromarray(quarters())
    picture.save(tmp_path / "a.JPG", quality=95)
    (tmp_path / "deep").mkdir()
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "deep" / "palette.png")
    picture.convert("RGBA").save(tmp_path / "deep" / "see through.webp", lossless=True)
    picture.convert("CMYK").save(tmp_path / "print.tif")
    clips = Images(tmp_path, size=(24, 32))
    assert [episode["source"] for episode in clips.episodes] == ["a.JPG", "deep/palette.png", "deep/see through.webp", "print.tif"]
    assert clips.lengths.tolist() == [1] * 4 and clips.fields["images"].shape == (1, 3, 24, 32)
    for clip in clips:
        assert clip["images"].shape == (1, 1, 3, 24, 32) and clip["images"].dtype == np.uint8 and corners(clip["images"][0, 0]) == "rgbw"
        assert clip["is_first"].all() and clip["is_last"].all()


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    assert (Images(tmp_path, size=4)[0]["images"] == 40_000 // 256).all()


@pytest.mark.parametrize(("orientation", "seen"), [(1, "rgbw"), (2, "grwb"), (3, "wbgr"), (6, "brwg"), (7, "wgbr"), (8, "gwrb")])
def test_the_exif_orientation_turns_a_picture(tmp_path, orientation, seen):
    picture = Image.fromarray(quarters())
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = Images(tmp_path, size=(40, 40), fit="pad")[0]["images"][0, 0]
    rows, columns = np.flatnonzero(shown.max(axis=(0, 2)) > 60), np.flatnonzero(shown.max(axis=(0, 1)) > 60)
    assert (len(rows), len(columns)) == pytest.approx((40, 30) if orientation > 4 else (30, 40), abs=1)
    assert corners(shown[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]) == seen


@pytest.mark.parametrize("shape", [(48, 64), (301, 97), (1, 1), (3, 500), (1600, 2400)])
@pytest.mark.parametrize("size", [(32, 32), (31, 17), (1, 1)])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_any_size_fits_any_other(tmp_path, shape, size, fit):
    Image.fromarray(np.full((*shape, 3), 200, np.uint8)).save(tmp_path / "a.jpg")
    shown = Images(tmp_path, size=size, fit=fit)[0]["images"][0, 0]
    assert shown.shape == (3, *size) and abs(int(shown.max()) - 200) < 3
    assert fit == "pad" or shown.min() > 196


def test_the_middle_is_kept_and_details_are_averaged(tmp_path):
    picture = np.zeros((96, 288, 3), np.uint8)  # black thirds left and right of lines of one pixel
    picture[::2, 96:192] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.abs(Images(tmp_path, size=32)[0]["images"][..., 2:-2, 2:-2].astype(int) - 127).max() < 6


def test_broken_pictures_are_skipped_named_and_counted(tmp_path, capsys):
    Image.fromarray(quarters()).save(tmp_path / "good.jpg")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:3000])
    clips = Images(tmp_path)
    assert clips.skipped.keys() == {"text.png", "empty.png"} and "2 of 4 files skipped" in capsys.readouterr().err
    with pytest.raises(BrokenEpisode, match=r"half\.png"):
        clips.read(1)
    assert len(list(clips)) == 1 and list(clips.broken) == [1]
    (tmp_path / "good.jpg").unlink()
    (tmp_path / "half.png").unlink()
    with pytest.raises(UserError, match="None of the 2 images"):
        Images(tmp_path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        Images(tmp_path / "nowhere")
    (tmp_path / "a.mp4").write_text("")
    with pytest.raises(UserError, match=r"no images: only 1 \.mp4.*data=videos"):
        Images(tmp_path)
    with pytest.raises(UserError, match="Did you mean fit=squash"):
        Images(tmp_path, fit="sqash")
