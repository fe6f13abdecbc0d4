"""One file from the web to disk: goes on where it stopped, is checked, and gets its name only when it is whole."""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

from robo_repr.core.errors import UserError

Watch = Callable[[int, int | None], None]  # bytes on disk, bytes in all (None when the server does not say)
CHUNK = 1 << 18
RETRIES = 2
PAUSE = 2.0  # seconds before a retry
TIMEOUT = 30.0  # seconds without a byte


class Unavailable(UserError):
    """An address does not give the file now; another one may."""


class BrokenOff(Exception):
    """The connection ended early; what came is on disk."""


def download(
    addresses: Sequence[str], final: Path, *, sha256: str | None = None, md5: str | None = None, watch: Watch = lambda done, total: None
) -> str:
    """Brings a file to `final` and returns its SHA-256. Meanwhile it is ``<final>.part``, which an interruption leaves for the next call.

    Args:
        addresses: tried in this order; the next one when one does not have the file or cannot be reached.
        final: the file's name, which must not exist.
        sha256, md5: expected digests, None where unknown.
        watch: called after every piece.

    Raises:
        Unavailable: no address gives the file; the text has each one's reason.
        UserError: the connection broke off again and again, the digest is wrong (nothing is kept), or the disk is full or not writable.
    """
    part, reasons = final.with_name(final.name + ".part"), []
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            for address in addresses:
                try:
                    _receive(address, file, part, bool(sha256 or md5), watch)
                except Unavailable as error:
                    reasons.append(str(error))
                    continue
                digest = _checked(address, part, sha256, md5)
                os.fsync(file.fileno())  # a power cut must not leave the name without the content
                os.replace(part, final)
                _note(part).unlink(missing_ok=True)
                return digest
    except OSError as error:
        raise UserError(
            f"{error.filename or part} cannot be written ({error.strerror or error}). Free space, or choose another folder."
        ) from None
    raise Unavailable("; ".join(reasons))


def digest_of(path: Path, kind: str = "sha256") -> str:
    """A file's digest in hex digits; `kind` is sha256 or md5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def wrong_digest(path: Path, sha256: str | None, md5: str | None) -> str | None:
    """What differs, as ``sha256 FOUND instead of EXPECTED``; None when nothing does or nothing is known."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := digest_of(path, kind)) != expected.lower():
            return f"{kind} {found} instead of {expected}"
    return None


def direct(address: str) -> str:
    """Google Drive's share addresses as those that answer with the file rather than with a page about viruses; others as they are."""
    parts = urlsplit(address)
    if parts.netloc not in ("drive.google.com", "docs.google.com"):
        return address
    in_path = re.search(r"/file/d/([^/]+)", parts.path)
    file_id = in_path[1] if in_path else parse_qs(parts.query).get("id", [None])[0]
    return f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t" if file_id else address


def _receive(address: str, file: IO[bytes], part: Path, verified: bool, watch: Watch) -> None:
    """Fills the part from one address, through broken connections."""
    for attempt in range(RETRIES + 1):
        if attempt:
            time.sleep(PAUSE)
        try:
            _attempt(address, file, part, verified, first=attempt == 0, watch=watch)
            return file.flush()
        except BrokenOff as error:
            why = error
    size = file.seek(0, os.SEEK_END)
    raise UserError(
        f"{address} broke off {RETRIES + 1} times ({why}). {size / 1e6:.1f} MB are kept in {part}; the same command goes on from there."
    )


def _attempt(address: str, file: IO[bytes], part: Path, verified: bool, first: bool, watch: Watch) -> None:
    """One request: the rest of the file where the server agrees that it is still the same file, else all of it."""
    start, note = file.seek(0, os.SEEK_END), _read_note(part)
    # Without a digest and without the server's mark, the halves of two files would be joined unnoticed.
    if note.get("address") != address or not (verified or note.get("mark")):
        start = 0
    if start and start == note.get("total"):
        return  # stopped after the last byte, before the name
    headers = {"User-Agent": "robo-repr", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if note.get("mark"):
            headers["If-Range"] = note["mark"]
    try:
        answer = urllib.request.urlopen(urllib.request.Request(direct(address), headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # shorter than what is here: another file by now
            file.truncate(0)
            raise BrokenOff("the file changed on the server") from None
        if error.code == 429 or error.code >= 500:
            raise BrokenOff(f"the server answers {error.code} {error.reason}") from None
        raise Unavailable(f"{address} {_refusal(error)}") from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        if first:
            raise Unavailable(f"{address} cannot be reached ({reason}); check the network, and https_proxy if there is a proxy") from None
        raise BrokenOff(f"cannot be reached: {reason}") from None
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise Unavailable(f"{address} answers with a web page instead of the file, perhaps one that asks for a confirmation")
        length = answer.headers["Content-Length"]
        total = int(length) if length and length.isdecimal() else None
        came_from = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers["Content-Range"] or "")
        if answer.status == 206 and came_from and int(came_from[1]) == start:
            total = int(came_from[2]) if came_from[2] != "*" else None if total is None else start + total
        elif answer.status == 206:
            file.truncate(0)
            raise BrokenOff("the server sent another piece than was asked for")
        else:
            start = 0
        _check_space(part, total)
        if start == 0:
            # In this order a kill in between leaves nothing that could be joined wrongly.
            file.truncate(0)
            file.seek(0)
            _note(part).write_text(json.dumps({"address": address, "mark": _mark(answer.headers), "total": total}))
        done = _copy(answer, file, start, total, watch)
    if total is not None and done != total:
        if done > total:
            file.truncate(0)
        raise BrokenOff(f"after {done} of {total} bytes")


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, watch: Watch) -> int:
    """Appends what comes; the number of bytes then on disk."""
    watch(done, total)
    while True:
        try:
            piece = answer.read1(CHUNK)  # what is there: a break loses nothing that came
        except (OSError, http.client.HTTPException) as error:
            raise BrokenOff(f"after {done} bytes: {error}") from None
        if not piece:
            return done
        file.write(piece)
        done += len(piece)
        watch(done, total)


def _checked(address: str, part: Path, sha256: str | None, md5: str | None) -> str:
    """The SHA-256 of the whole part, or a UserError after its removal."""
    wrong = wrong_digest(part, sha256, md5)
    if wrong:
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise UserError(
            f"{address} gave another file than expected: {wrong}. It was removed. Try again; if the digest stays the same, the file was "
            "replaced by its owners or on the way, and should not be trusted."
        )
    return digest_of(part)


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (404, 410):
        return f"answers {error.code}: the address seems to be dead now"
    if error.code in (401, 403):
        return f"answers {error.code}: it is given only to people who log in or accept a licence first"
    return f"answers {error.code} {error.reason}"


def _check_space(part: Path, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    needed = (total or 0) - part.stat().st_size  # what the part holds stays, or is about to be freed
    if needed > free:
        raise UserError(
            f"{part.parent} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed. Free space, or choose another folder."
        )


def _mark(headers: http.client.HTTPMessage) -> str | None:
    """By what the server recognises this very content, for If-Range, which refuses weak ETags."""
    etag = headers["ETag"]
    return etag if etag and not etag.startswith("W/") else headers["Last-Modified"]


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict:
    """Where the part came from; empty when it is not known."""
    try:
        note = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The part, opened for this process alone: two writers would mix their bytes. Removed again if nothing came."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(file.fileno()).st_ino == part.stat().st_ino  # else it was renamed before the lock was ours
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise UserError(f"{part} is being written by another process. Wait for that download to end.")
        try:
            yield file
        finally:
            file.flush()
            if part.exists() and not part.stat().st_size:
                part.unlink()
                _note(part).unlink(missing_ok=True)
