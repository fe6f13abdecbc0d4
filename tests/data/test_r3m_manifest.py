"""Folders of numbered JPEGs and the table that R3M's loader reads."""

import csv
import resource

import numpy as np
import pytest
from clip_samples import SIZE, VIEWS, frames
from PIL import Image

from robo_repr.core.errors import Failure, UserError
from robo_repr.data.base import BrokenEpisode
from robo_repr.data.formats.r3m import ManifestClips, export
from robo_repr.data.store import ClipStore, ClipWriter


def pictures(folder, count, size=(8, 10), shade=100, kind="RGB"):
    """JPEGs of one colour each, which JPEG keeps: frame i is shade + 10 i."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size[::-1], (shade + 10 * i,) * 3).convert(kind).save(folder / f"{i + 1:06}.jpg", quality=95)
    return folder


def manifest(folder, rows, head=("path", "len", "txt"), name="manifest.csv"):
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return folder


def test_paths_texts_and_frames(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    pictures(data / "beside", 3, shade=10)
    pictures(tmp_path / "elsewhere" / "absolute", 4, shade=60, kind="L")
    pictures(tmp_path / "here" / "working", 2, shade=110)
    monkeypatch.chdir(tmp_path / "here")
    rows = [
        ("0", "beside", 3, 'C says "hi", and\nleaves'),
        ("1", tmp_path / "elsewhere" / "absolute", "3.0", "C opens a door"),
        ("2", "working", 2, ""),
    ]
    clips = ManifestClips(manifest(data, rows, ("", "path", "len", "txt")))
    assert (clips.views, clips.size, clips.lengths.tolist(), clips.skipped) == (["video"], (8, 10), [3, 3, 2], {})
    assert [clip["language"] for clip in clips] == ['C says "hi", and\nleaves', "C opens a door", ""]
    assert [clip["images"][:, 0, 0, 0, 0].tolist() for clip in clips] == [[10, 20, 30], [60, 70, 80], [110, 120]]
    assert clips.read(0, 1, 3)["images"].shape == (2, 1, 3, 8, 10) and capsys.readouterr().err == ""


def test_what_is_not_there_is_named_and_left_out(tmp_path, capsys):
    for name in ("good", "short", "hole", "later"):
        pictures(tmp_path / name, 4)
    (tmp_path / "hole" / "000002.jpg").unlink()
    pictures(tmp_path / "torn", 2)
    (tmp_path / "torn" / "000001.jpg").write_bytes(b"no picture")
    rows = [("gone", 3, "C a"), ("short", 9, "C b"), ("hole", 4, "C c"), ("torn", 2, "C d"), ("good", 3, "C e"), ("later", "x", "C f")]
    clips = ManifestClips(manifest(tmp_path, [*rows, ("good",), ("good", 0, "C g")]))
    assert [episode["language"] for episode in clips.episodes] == ["C e"] and clips.lengths.tolist() == [3]
    assert list(clips.skipped) == ["gone", "short", "hole", "torn", "later", "good"]
    assert "000005.jpg" in clips.skipped["short"] and "000002.jpg" in clips.skipped["hole"] and "x" in clips.skipped["later"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "gone: there is no such folder" in said
    (tmp_path / "good" / "000002.jpg").write_bytes((tmp_path / "good" / "000002.jpg").read_bytes()[:100])
    with pytest.raises(BrokenEpisode, match="000002.jpg"):
        clips[0]
    assert len(clips.read(0, 2, 3)["images"]) == 1


def test_sizes(tmp_path):
    pictures(tmp_path / "a", 1, (20, 40))
    pictures(tmp_path / "b", 1, (30, 10))
    # Left, middle and right thirds differ: only the middle of a wide picture is to be seen.
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20, 0], wide[:, 20:40, 1], wide[:, 40:, 2] = 255, 255, 255
    Image.fromarray(wide).save(tmp_path / "a" / "000001.jpg", quality=100, subsampling=0)
    manifest(tmp_path, [("a", 1, "C a"), ("b", 1, "C b")])
    with pytest.raises(UserError, match="several sizes.*20 x 60.*30 x 10.*size=224"):
        ManifestClips(tmp_path)
    clips = ManifestClips(tmp_path, size=10)
    assert clips.size == (10, 10) and clips[1]["images"].shape == (1, 1, 3, 10, 10)
    middle = clips[0]["images"][0, 0, :, :, 1:-1].mean(axis=(1, 2))
    assert middle[1] > 240 and middle[0] < 15 and middle[2] < 15
    assert ManifestClips(tmp_path, size=[5, 12])[1]["images"].shape == (1, 1, 3, 5, 12)
    for wrong in (0, [8], [8, 8, 8]):
        with pytest.raises(UserError, match="size="):
            ManifestClips(tmp_path, size=wrong)


def test_a_size_that_changes_within_a_clip(tmp_path):
    pictures(tmp_path / "a", 3)
    Image.new("RGB", (3, 3)).save(tmp_path / "a" / "000002.jpg")
    clips = ManifestClips(manifest(tmp_path, [("a", 3, "C a")]))
    with pytest.raises(BrokenEpisode, match="000002.jpg is 3 x 3"):
        clips[0]


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match="manifest.csv cannot be read"):
        ManifestClips(tmp_path)
    with pytest.raises(UserError, match="lacks the column len, txt.*path,length"):
        ManifestClips(manifest(tmp_path, [], ("path,length", "x", "path"), "other.csv") / "other.csv")
    (tmp_path / "latin.csv").write_bytes("path,len,txt\na,1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        ManifestClips(tmp_path / "latin.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match="holds nothing"):
        ManifestClips(tmp_path / "empty.csv")
    with pytest.raises(UserError, match="no clip that is there"):
        ManifestClips(manifest(tmp_path, [("gone", 3, "C a")]))


@pytest.fixture
def store(tmp_path):
    with ClipWriter(tmp_path / "clips", views=VIEWS, size=SIZE, fps=25) as out:
        for i, length in enumerate([4, 2, 3]):
            smooth = np.linspace(0, 255 - i, length * 2 * 3, dtype=np.uint8).reshape(length, 2, 3, 1, 1)
            images = np.broadcast_to(smooth, (length, 2, 3, *SIZE))
            out.add({**frames(length, i), "images": images.copy()}, language=["", "too short", 'C it\'s, "quoted"'][i])
    return ClipStore(tmp_path / "clips")


def test_export_as_r3m_reads_it(store, tmp_path, monkeypatch, capsys):
    assert export(store, tmp_path / "out") == [0, 2]
    assert "episode 1" in capsys.readouterr().err
    monkeypatch.chdir("/")  # R3M's loader takes paths as they are
    with open(tmp_path / "out" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["len"]), row["txt"][2:]) for row in rows] == [(4, "")] * 2 + [(3, 'it\'s, "quoted"')] * 2
    for row, (episode, view) in zip(rows, [(0, 0), (0, 1), (2, 0), (2, 1)], strict=True):
        for frame in range(int(row["len"])):
            found = np.asarray(Image.open(f"{row['path']}/{frame + 1:06}.jpg"), dtype=int)
            assert np.abs(found - store[episode]["images"][frame, view].transpose(1, 2, 0)).max() <= 3
    (tmp_path / "out").rename(tmp_path / "moved")
    clips = ManifestClips(tmp_path / "moved")
    assert clips.lengths.tolist() == [4, 4, 3, 3] and not clips.skipped and clips.size == SIZE
    assert np.abs(clips[3]["images"][:, 0].astype(int) - store[2]["images"][:, 1]).max() <= 3


def test_any_text_stays_in_its_cell(tmp_path):
    texts = ["C a\rb", "C a\r\nb", 'C "', "C a,b", "C \r"]
    with ClipWriter(tmp_path / "clips", views=["front"], size=SIZE, fps=25) as out:
        for text in texts:
            out.add({"images": frames(3, views=1)["images"]}, language=text)
    export(ClipStore(tmp_path / "clips"), tmp_path / "out")
    clips = ManifestClips(tmp_path / "out")
    assert [clips.language(i) for i in range(len(clips))] == texts and not clips.skipped


@pytest.mark.parametrize("fps", [0, -5, float("nan"), float("inf")])
def test_frame_rates_that_are_not_possible(fps, tmp_path):
    with pytest.raises(UserError, match="fps="):
        ManifestClips(tmp_path, fps=fps)


def test_letters_that_are_not_of_utf_8_are_one_mistake(store, tmp_path):
    with pytest.raises(UserError, match="UTF-8"):
        export(store, tmp_path / "caf\udce9")  # as the shell gives a name in another encoding: the table holds it
    with pytest.raises(UserError, match="cannot be the name"):
        export(store, tmp_path / "\ud800")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clips"]


def test_a_full_disk(store, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))  # less than a picture, more than the table
        with pytest.raises(Failure, match="nothing of it was left"):
            export(store, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["clips"]


def test_nothing_to_export(tmp_path):
    with ClipWriter(tmp_path / "clips", views=["front"], size=SIZE, fps=25) as out:
        out.add({"images": frames(2, views=1)["images"]})
    with pytest.raises(UserError, match="no episode of 3 frames"):
        export(ClipStore(tmp_path / "clips"), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clips"]
