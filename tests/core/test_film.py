import av
import numpy as np
import pytest

from robo_repr.core.film import write_film


def pictures(count, height, width):
    """A bright square that moves to the right."""
    for i in range(count):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[5:15, 4 * i : 4 * i + 10] = 250
        yield picture


@pytest.mark.parametrize(("height", "width", "fps"), [(31, 45, 20), (32, 44, 24000 / 1001), (33, 44, 0.5)])
def test_films_of_any_size_and_speed(tmp_path, height, width, fps):
    write_film(tmp_path / "new" / "film.mp4", pictures(6, height, width), fps)
    with av.open(str(tmp_path / "new" / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        found = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(found) == 6 and found[0].shape == (height + height % 2, width + width % 2, 3)
    for picture, frame in zip(pictures(6, height, width), found, strict=True):
        assert np.abs(picture.astype(int) - frame[:height, :width]).mean() < 8
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["film.mp4"]


def test_a_film_that_breaks_off_leaves_what_was_there(tmp_path):
    def broken():
        yield from pictures(3, 20, 20)
        raise KeyboardInterrupt

    (tmp_path / "film.mp4").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "film.mp4", broken(), 20)
    with pytest.raises(ValueError):
        write_film(tmp_path / "film.mp4", [], 20)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("film.mp4", b"before")]


def test_frames_are_not_gathered(tmp_path):
    alive = []

    class Counted(np.ndarray):
        def __del__(self):
            alive.pop()

    def counted():
        for picture in pictures(8, 20, 40):
            alive.append(1)
            assert len(alive) < 4
            yield picture.view(Counted)

    write_film(tmp_path / "film.mp4", counted(), 20)
