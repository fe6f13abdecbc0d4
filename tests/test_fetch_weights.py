"""Downloads of weights from a server that behaves badly: what lies in the folder afterwards, and what the user is told."""

import errno
import hashlib
import shutil
import sys
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from robo_repr.core import download as module
from robo_repr.core.download import direct
from robo_repr.core.errors import UserError
from robo_repr.encoders import registry

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fetch_weights  # noqa: E402

CONTENT = bytes(range(256)) * 4000
OTHER = CONTENT[::-1]
FINAL = "toy.pth"


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path, with the faults that its attributes set.

    Attributes:
        breaks: for each coming request that sends content, after how many bytes it breaks off; None: not.
        seen: path and headers of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.type, self.ranges, self.says_length = "application/octet-stream", True, True
        self.breaks: list = []
        self.status: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.seen: list = []

    def handle_error(self, request, client_address):
        pass  # clients hang up here

    def address(self, path="/toy.pth"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            return self.end_headers()
        if self.path in server.status:
            return self.send_error(server.status[self.path])
        body, start = server.content, 0
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range", server.etag) == server.etag
        if asked and server.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.type)
        if server.says_length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(body[start:] if stop is None else body[start : start + stop])


@pytest.fixture
def server():
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The weights folder; nothing in these tests waits."""
    monkeypatch.setenv("ROBO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    return tmp_path / "weights"


@pytest.fixture
def fetch(server, folder, monkeypatch, capsys):
    """Runs the command on a registry of one entry; returns exit code, standard output and standard error."""

    def call(*arguments, **fields):
        entry = {"url": server.address(), "sha256": hashlib.sha256(CONTENT).hexdigest(), **fields}
        toy = registry.Release(
            **{"name": "toy", "encoder": "toy", "variant": None, "licence": "MIT", "source": "us", "status": "alive", **entry}
        )
        monkeypatch.setattr(registry, "releases", lambda: {"toy": toy})
        code = fetch_weights.main(list(arguments or ["toy"]))
        return code, *capsys.readouterr()

    return call


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_arrives_whole_and_is_not_fetched_twice(fetch, server, folder):
    code, out, err = fetch()
    assert (code, err) == (0, "") and hashlib.sha256(CONTENT).hexdigest() in out
    assert names(folder) == [FINAL] and (folder / FINAL).read_bytes() == CONTENT
    code, out, _ = fetch()
    assert code == 0 and "already" in out and len(server.seen) == 1


def test_md5_alone_is_compared_too(fetch, folder):
    assert fetch(sha256=None, md5=hashlib.md5(CONTENT).hexdigest())[0] == 0
    assert names(folder) == [FINAL]
    (folder / FINAL).unlink()
    code, _, err = fetch(sha256=None, md5="0" * 32)
    assert code == 2 and hashlib.md5(CONTENT).hexdigest() in err and "0" * 32 in err and names(folder) == []


def test_without_a_known_digest_it_is_printed(fetch):
    code, out, _ = fetch(sha256=None)
    assert code == 0 and hashlib.sha256(CONTENT).hexdigest() in out and "none is known" in out


def test_a_broken_connection_is_resumed_in_the_same_call(fetch, server, folder):
    server.breaks = [300_000, 200_000]
    code, _, err = fetch()
    assert (code, err) == (0, "") and (folder / FINAL).read_bytes() == CONTENT and names(folder) == [FINAL]
    assert [headers.get("Range") for _, headers in server.seen] == [None, "bytes=300000-", "bytes=500000-"]
    assert server.seen[1][1]["If-Range"] == '"one"'


def test_broken_three_times_keeps_the_part_and_the_next_call_goes_on(fetch, server, folder):
    server.breaks = [100_000, 100_000, 100_000]
    code, _, err = fetch()
    assert code == 2 and "goes on from there" in err and "300000 of 1024000" in err
    assert names(folder) == [f"{FINAL}.part", f"{FINAL}.part.json"]
    assert (folder / f"{FINAL}.part").read_bytes() == CONTENT[:300_000]
    assert fetch()[0] == 0
    assert server.seen[-1][1]["Range"] == "bytes=300000-"
    assert names(folder) == [FINAL] and (folder / FINAL).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(fetch, server, folder):
    server.ranges, server.breaks = False, [300_000]
    assert fetch()[0] == 0
    assert (folder / FINAL).read_bytes() == CONTENT and len(server.seen) == 2


def test_a_file_that_changed_meanwhile_is_never_joined(fetch, server, folder):
    server.breaks = [300_000] * 3
    assert fetch(sha256=None)[0] == 2
    server.content, server.etag = OTHER, '"two"'
    assert fetch(sha256=None)[0] == 0
    assert server.seen[-1][1]["If-Range"] == '"one"' and (folder / FINAL).read_bytes() == OTHER


def test_without_mark_and_digest_nothing_is_joined(fetch, server, folder):
    server.etag, server.breaks = None, [300_000]
    assert fetch(sha256=None)[0] == 0
    assert [headers.get("Range") for _, headers in server.seen] == [None, None] and (folder / FINAL).read_bytes() == CONTENT
    # The control: with a digest, a wrong joint would show, so the part is used.
    (folder / FINAL).unlink()
    server.breaks = [300_000]
    assert fetch()[0] == 0 and server.seen[-1][1]["Range"] == "bytes=300000-"


def test_a_file_that_shrank_is_fetched_anew(fetch, server, folder):
    server.breaks = [600_000, 1, 1]
    assert fetch(sha256=None)[0] == 2
    server.content = CONTENT[:1000]  # under the same mark, so that the server answers 416
    assert fetch(sha256=None)[0] == 0
    assert (folder / FINAL).read_bytes() == CONTENT[:1000] and names(folder) == [FINAL]


def test_a_part_that_is_whole_needs_no_request(fetch, server, folder):
    server.breaks = [len(CONTENT) - 1, 0, 0]
    assert fetch()[0] == 2
    with (folder / f"{FINAL}.part").open("ab") as file:
        file.write(CONTENT[-1:])
    seen = len(server.seen)
    assert fetch()[0] == 0 and len(server.seen) == seen and names(folder) == [FINAL]


def test_a_wrong_digest_leaves_nothing(fetch, server, folder):
    server.content = OTHER
    code, _, err = fetch()
    assert code == 2 and hashlib.sha256(OTHER).hexdigest() in err and hashlib.sha256(CONTENT).hexdigest() in err
    assert names(folder) == []


def test_a_damaged_file_from_before_is_replaced(fetch, folder):
    folder.mkdir()
    (folder / FINAL).write_bytes(b"half")
    code, _, err = fetch()
    assert code == 0 and "removed" in err and (folder / FINAL).read_bytes() == CONTENT


def test_redirects_are_followed_and_resumed(fetch, server, folder):
    server.redirects, server.breaks = {"/here": server.address("/there")}, [300_000]
    assert fetch(url=server.address("/here"))[0] == 0
    assert server.seen[-1][0] == "/there" and server.seen[-1][1]["Range"] == "bytes=300000-"
    assert [path.read_bytes() for path in folder.iterdir()] == [CONTENT]


def test_404_names_the_alternatives(fetch, server, folder):
    server.status = {"/toy.pth": 404}
    code, _, err = fetch(alternatives=("encoder=dinov2",))
    assert code == 2 and "404" in err and "dead now" in err and "encoder=dinov2" in err and names(folder) == []
    assert err.count("\n") == 1


def test_404_tries_the_mirrors(fetch, server, folder):
    server.status = {"/toy.pth": 404}
    code, _, _ = fetch(mirrors=(server.address("/mirror"),))
    assert code == 0 and server.seen[-1][0] == "/mirror" and names(folder) == [FINAL]


def test_a_licence_wall_is_named(fetch, server):
    server.status = {"/toy.pth": 403}
    code, _, err = fetch()
    assert code == 2 and "403" in err and "licence" in err and "weights=FILE" in err


def test_a_server_in_trouble_is_asked_again(fetch, server):
    server.status = {"/toy.pth": 503}
    code, _, err = fetch()
    assert code == 2 and "503" in err and len(server.seen) == 3


def test_a_web_page_is_refused(fetch, server, folder):
    server.type, server.content = "text/html; charset=utf-8", b"<html>Google Drive can't scan this file for viruses"
    code, _, err = fetch(sha256=None)
    assert code == 2 and "web page" in err and "browser" in err and "weights=FILE" in err and names(folder) == []


def test_a_refusal_keeps_an_older_part(fetch, server, folder):
    server.breaks = [100_000] * 3
    fetch()
    server.type = "text/html"
    server.etag = '"a page"'
    assert fetch()[0] == 2
    assert (folder / f"{FINAL}.part").read_bytes() == CONTENT[:300_000]


def test_no_network_is_one_paragraph(fetch, folder):
    code, _, err = fetch(url="http://127.0.0.1:9/toy.pth")
    assert code == 2 and "cannot be reached" in err and err.count("\n") == 1 and names(folder) == []


@pytest.mark.parametrize("status", ["dead", "private"])
def test_what_cannot_be_had_is_not_even_tried(fetch, server, folder, status):
    code, _, err = fetch(status=status, since="2023-04" if status == "dead" else None, alternatives=("encoder=r3m",))
    assert code == 2 and "encoder=r3m" in err and ("2023-04" if status == "dead" else "never public") in err
    assert server.seen == [] and names(folder) == []


def test_a_full_disk_is_seen_before_the_download(fetch, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "total used free")(10**6, 10**6, 1000))
    code, _, err = fetch()
    assert code == 2 and "MB free" in err and names(folder) == []


def test_a_disk_that_fills_up_keeps_the_part(fetch, folder, monkeypatch):
    def full(answer, file, done, total, watch):
        file.write(b"x" * 10)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    code, _, err = fetch()
    assert code == 2 and "No space left" in err and FINAL not in names(folder)


def test_an_unusable_folder_is_one_paragraph(fetch, folder):
    folder.write_text("a file where the folder should be")
    code, _, err = fetch()
    assert code == 2 and str(folder) in err and err.count("\n") == 1


def test_ctrl_c_keeps_the_part(fetch, server, folder, monkeypatch):
    copy = module._copy

    def interrupted(answer, file, done, total, watch):
        def stop(done, total):
            if done >= 100_000:
                raise KeyboardInterrupt

        return copy(answer, file, done, total, stop)

    monkeypatch.setattr(module, "_copy", interrupted)
    code, _, err = fetch()
    assert code == 130 and "same command" in err
    kept = (folder / f"{FINAL}.part").read_bytes()
    assert len(kept) >= 100_000 and CONTENT.startswith(kept) and FINAL not in names(folder)
    monkeypatch.setattr(module, "_copy", copy)
    assert fetch()[0] == 0
    assert server.seen[-1][1]["Range"] == f"bytes={len(kept)}-" and (folder / FINAL).read_bytes() == CONTENT


def test_two_downloads_do_not_mix(folder, server):
    folder.mkdir()
    with module._locked(folder / f"{FINAL}.part"), pytest.raises(UserError, match="another process"):
        module.download([server.address()], folder / FINAL)


def test_unknown_names_are_refused_before_anything_is_fetched(fetch, server):
    code, _, err = fetch("toy", "toi")
    assert code == 2 and "Did you mean name=toy" in err and server.seen == []


def test_list_shows_what_is_here(fetch):
    code, out, _ = fetch("--list", megabytes=90.0)
    assert code == 0 and out.split("\n")[1].split() == ["toy", "90", "MIT", "alive"]
    fetch()
    assert fetch("--list")[1].split("\n")[1].split()[-1] == "here"


def test_the_registry_itself_can_be_listed(capsys):
    assert fetch_weights.main(["--list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} >= set(registry.releases())


@pytest.mark.parametrize("address", ["https://drive.google.com/uc?id=A1b_-", "https://drive.google.com/file/d/A1b_-/view?usp=sharing"])
def test_google_drive_pages_become_files(address):
    assert direct(address) == "https://drive.usercontent.google.com/download?id=A1b_-&export=download&confirm=t"
    assert direct("https://example.org/uc?id=A1b_-") == "https://example.org/uc?id=A1b_-"


def test_a_length_that_is_not_said_is_fine_when_the_digest_is_right(fetch, server, folder):
    server.says_length = False
    assert fetch()[0] == 0 and (folder / FINAL).read_bytes() == CONTENT
