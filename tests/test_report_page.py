"""The report's page in a browser: it renders without network, nothing in it is empty, and nothing is wider than the window."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

from robo_repr.core.report.page import Cell, Figure, Film, Row, Section, Table, read_report, render, write_report
from tests.made_up_runs import make_benchmark, make_run, make_views, three

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The page allows no script, so that another page looks into it. What it finds becomes the text of its <pre>.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><pre></pre>
<iframe src="PAGE" style="width:WIDTHpx;height:3000px;border:0"></iframe>
<script>
function shades(image) {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 64;
  const context = canvas.getContext("2d"); context.drawImage(image, 0, 0, 64, 64);
  return new Set(new Uint32Array(context.getImageData(0, 0, 64, 64).data.buffer)).size;
}
document.querySelector("iframe").onload = async event => {
  const frame = event.target.contentWindow, page = frame.document, root = page.documentElement;
  page.querySelectorAll("details").forEach(each => each.open = true);
  const films = [...page.querySelectorAll("video")];
  await Promise.all(films.map(film => film.readyState > 0 || film.error || new Promise(r => film.onloadedmetadata = film.onerror = r)));
  const found = {
    width: [root.scrollWidth, root.clientWidth],
    height: root.scrollHeight,
    images: [...page.images].map(image => [image.naturalWidth, image.naturalWidth ? shades(image) : 0]),
    films: films.map(film => film.videoWidth),
    empty: [...page.querySelectorAll("figure, section, tbody, td, h2, h3, p, figcaption")]
      .filter(each => each.matches("figure") ? !each.querySelector("img, video") : each.matches("section")
        ? !each.querySelector("table, img, video, .lead") : each.matches("tbody") ? !each.rows.length : !each.textContent.trim())
      .map(each => each.outerHTML.slice(0, 80)),
    requests: frame.performance.getEntriesByType("resource").map(each => each.name).filter(name => !name.startsWith("data:")),
    cut: [...page.querySelectorAll(".scroll")].filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent.trim()),
    titles: [...page.querySelectorAll("h2")].map(each => each.textContent),
  };
  document.querySelector("pre").textContent = JSON.stringify(found);
};
</script>"""

needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium (apt-get install chromium)")


def seen(page: Path, width: int = 1280) -> dict:
    """What a browser makes of a page in a window so wide."""
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files", "--mute-audio"]
    flags += ["--virtual-time-budget=20000", f"--user-data-dir={page.parent / 'browser'}", "--window-size=1400,3000", "--dump-dom"]
    done = subprocess.run([str(BROWSER), *flags, probe.as_uri()], capture_output=True, text=True, timeout=60)
    text = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert text and text[1], f"the page did not load: {done.stderr[-500:]}"
    return json.loads(html.unescape(text[1]))


def faults(found: dict) -> list[str]:
    """What is wrong with a page."""
    wrong = [f"image {i} is {'empty' if width else 'broken'}" for i, (width, shades) in enumerate(found["images"]) if shades < 2]
    wrong += [f"film {i} is broken" for i, width in enumerate(found["films"]) if not width]
    wrong += [f"empty: {each}" for each in found["empty"]] + [f"asks for {name}" for name in found["requests"]]
    wrong += [f"needs a scrollbar: {' '.join(each.split())[:80]}" for each in found["cut"] if found["width"][1] > 1000]
    return wrong + ([f"wider than the window: {found['width']}"] if found["width"][0] > found["width"][1] else [])


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The page of a benchmark of two tasks, three encoders, two numbers of demonstrations and three seeds, one of whose cells failed."""
    encoders = {"mvp": 30, "random": 12, "identity": 44}
    folder = make_benchmark(tmp_path_factory.mktemp("made_up"), ("reach", "button"), encoders, demos=(5, 25), seeds=(0, 1, 2))
    return write_report(read_report([folder]), folder)


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_benchmark(benchmark, width):
    found = seen(benchmark, width)
    assert faults(found) == []
    assert len(found["films"]) == 6 and len(found["images"]) == len(list((benchmark.parent / "report").glob("*.png"))) == 8
    assert found["titles"] == [
        "Does pretraining help?",
        "All tasks together",
        "Task by task",
        "How runs are spread",
        "More demonstrations",
        "Learning curves",
        "Films",
        "The papers' numbers",
        "Cells that did not finish",
        "Runs, and how to repeat them",
    ]


@needs_browser
def test_the_page_of_reinforcement_learning_leaves_out_what_it_lacks(tmp_path):
    three(tmp_path / "mvp", 40, 41, 42)
    make_run(tmp_path / "pixels", 0, 20, encoder="pixels")
    found = seen(write_report(read_report([tmp_path]), tmp_path))
    assert faults(found) == [] and len(found["images"]) == 3
    titles = ["Does pretraining help?", "Methods", "Task by task", "How runs are spread", "Learning curves", "Runs, and how to repeat them"]
    assert found["titles"] == titles


@needs_browser
def test_the_page_of_moved_cameras(tmp_path):
    page = write_report(read_report([make_views(tmp_path / "runs", seeds=(0, 1))]), tmp_path)
    for width in (1280, 400):
        found = seen(page, width)
        assert faults(found) == [] and len(found["films"]) == 32
        assert len(found["images"]) == len(list((tmp_path / "report").glob("*.png"))) == 6
    assert found["titles"] == [
        "How far cameras can move",
        "Level by level",
        "Against the control arms",
        "Where the camera stood",
        "What the cameras saw",
        "Films under moved cameras",
        "Published settings on our tasks",
        "Single factors and controls",
        "Encoders without a policy",
        "Runs, and how to repeat them",
    ]


@needs_browser
def test_the_check_finds_what_is_wrong(tmp_path):
    """The control of the tests above."""
    wrong = [
        Section("Broken", figures=[Figure("x", b"no picture", "x")], films=[Film(b"no film", "x")]),
        Section("Nothing"),
        Section("No rows", tables=[Table(["x"], [])]),
        Section("Wide", tables=[Table(["x"], [Row([Cell("w" * 59)] * 4)])]),
    ]
    text = render("A page", [("a", ["b"])], [], wrong)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '<link rel="stylesheet" href="http://127.0.0.1:9/x.css">', text)
    page = tmp_path / "report.html"
    page.write_text(text.replace("</main>", '<div style="width:2000px">.</div></main>'))
    found = "\n".join(faults(seen(page)))
    for says in (
        "image 0 is broken",
        "film 0 is broken",
        "empty: <section",
        "empty: <tbody",
        "needs a scrollbar: x",
        "asks for http://127",
        "wider than the window",
    ):
        assert says in found


def test_nothing_on_the_page_comes_from_elsewhere(benchmark):
    text = benchmark.read_text()
    loaded = re.findall(r"""(?:src|srcset|poster)=["']([^"']{0,40})|url\(([^)]{0,40})|@import""", text)
    assert loaded and all(source.startswith("data:") for source, _ in loaded) and "<script" not in text
    assert "default-src 'none'" in text  # the browser refuses the rest


def test_what_was_named_is_text_not_markup(tmp_path):
    cell = Cell("<script>alert(1)</script> & more", colour="red")
    text = render("<b>", [("commands", ["python x '<i>'"])], ["<u>"], [Section("<s>", tables=[Table(["<h>"], [Row([cell])])])])
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert not re.search(r"<(b|i|u|s|h)>", text)


def test_the_page_says_what_the_benchmark_showed(benchmark):
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"base64,[^\"]*|<style>.*?</style>", "", benchmark.read_text(), flags=re.DOTALL)))
    text = re.sub(r"\s+", " ", text)
    assert "python run_imitation.py benchmark=made_up tasks" in text  # the head's command, without a cell
    assert "Better than untrained: mvp, 5 demos; mvp, 25 demos." in text
    assert "The disk is full. Make room & start again. python run_imitation.py benchmark=made_up cell=99" in text
    assert "1 of 37 cells did not finish" in text and "too few for a claim" not in text
    assert text.count("told the state") >= 6 and text.count("expert reference") == text.count("random policy reference") == 3
    facts = json.loads((benchmark.parent / "report.json").read_text())
    assert {fact["arm"] for fact in facts["methods"]} == {"pretrained", "random", "state"} and len(facts["methods"]) == 6
    [verdict] = [each for each in facts["verdicts"] if each["method"] == "mvp, 25 demos"]
    assert verdict["control"] == "random, 25 demos" and verdict["outcome"] == "better" and verdict["difference"] == pytest.approx(0.36)


def test_links_lead_to_the_runs_whatever_their_names(tmp_path):
    folder = tmp_path / "a#1 50%25?<b>:é"
    make_run(folder, 0)
    os.rename(folder, os.fsencode(folder) + b"\xff")
    text = write_report(read_report([tmp_path]), tmp_path).read_text(encoding="utf-8")
    [link] = re.findall(r'<td[^>]*><a href="([^"#]*)"', text)
    assert link.startswith("./") and os.path.isdir(os.fsencode(tmp_path) + b"/" + unquote_to_bytes(link))


def test_films_are_few_and_small(tmp_path):
    folder = make_benchmark(tmp_path / "runs", tasks=("reach", "button"), encoders={"mvp": 30, "random": 9}, seeds=(0,), failed=False)
    for film in folder.glob("*/s0/videos/success.mp4"):
        if "mvp" in str(film):
            film.write_bytes(np.random.default_rng(0).bytes(1_600_000))  # too large
    page = write_report(read_report([folder]), folder)
    captions = re.findall(r"<video.*?<figcaption>(.*?)</figcaption>", page.read_text(), re.DOTALL)
    assert [caption.split(".")[0] for caption in captions] == ["mvp: failure", "random: success", "random: failure"]
