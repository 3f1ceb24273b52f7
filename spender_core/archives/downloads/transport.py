"""One file from one server: resumed, retried, and given up within a stated time.

A server that makes no progress is left after `patience` seconds (90, or SPENDER_TIMEOUT).
Progress is 1 MiB, or the rest of the file. Within them, a lost connection, a stall, and the
answers 408, 425, 429, 500, 502, 503 and 504 are tried again, with growing pauses or after the
time that the server asks for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from spender_core.archives.downloads.asking import Conversation, PassingError, Reply, Session
from spender_core.archives.location import is_page, redacted
from spender_core.archives.writing import free_space
from spender_core.errors import FileError, InputError, MissingFileError, OfflineError, SpenderError
from spender_core.records import printable

PATIENCE = 90.0
"""Seconds without progress after which a server is given up."""

STEP = 1 << 20
"""Bytes that count as progress."""

LARGEST = 50 << 30
"""Bytes beyond which no body is taken for weights."""

AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which another try may go well."""

_log = logging.getLogger(__name__)

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there, and with their final number where it is known."""


@dataclass(frozen=True)
class Answer:
    """What a server told about a file it sent: the commit is that of a Hugging Face repository."""

    commit: str = ""
    resumed: bool = False
    whole: bool = True
    """Whether the server told where the file ends."""


def patience() -> float:
    """Return the seconds without progress after which a server is given up.

    Raises:
        InputError: SPENDER_TIMEOUT is not a number of seconds, at most a day.
    """
    text = os.environ.get("SPENDER_TIMEOUT", "") or str(PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise InputError(
            f"SPENDER_TIMEOUT must be a number of seconds above 0, at most 86400, not {text!r:.40}"
        )
    return seconds


def retrieve(
    url: str, part: Path, report: Report | None = None, alive: Callable[[], None] | None = None
) -> Answer:
    """Download `url` to the file `part`, going on where an earlier attempt stopped.

    What is there of `part` is kept when the connection fails, and used only if the server
    says that its file is still the same.

    Args:
        url: An address of http or https.
        part: The file.
        report: Told of the progress.
        alive: Called at each attempt.

    Raises:
        MissingFileError: The server does not have the file.
        OfflineError: The server cannot be reached, fails, or sends something else.
        FileError: The file cannot be written, or the disk is full; it is removed.
    """
    allowed = patience()
    deadline, tries = time.monotonic() + allowed, 0
    with Session() as session:
        while True:
            if alive is not None:
                alive()
            before = _size(part)
            try:
                return _attempt(session, url, part, allowed, report)
            except PassingError as trouble:
                if _size(part) >= before + STEP:
                    deadline, tries = time.monotonic() + allowed, 0
                tries += 1
                pause = max(trouble.wait, min(8.0, allowed / 360 * 2**tries))
                if tries > trouble.tries or time.monotonic() + pause > deadline:
                    raise OfflineError(_given_up(url, trouble, tries, allowed)) from trouble
                _log.info("%s: %s; trying again in %.1f s", redacted(url), trouble, pause)
                time.sleep(pause)
            except SpenderError:
                raise
            except OSError as error:
                discard(part)
                raise FileError(f"cannot write {part}: {error}") from error


def _given_up(url: str, trouble: PassingError, tries: int, allowed: float) -> str:
    text = f"cannot download {redacted(url)}: {trouble} (attempts: {tries})"
    if trouble.wait > allowed:
        return f"{text}; it asks to wait {trouble.wait:.0f} s: try again then"
    return text


def _attempt(
    session: Session, url: str, part: Path, allowed: float, report: Report | None
) -> Answer:
    """Make one request, and write what comes to the end of `part`."""
    note = _read_note(url, part)
    start = _size(part) if note.get("validator") and note.get("total") else 0
    if start > 0 and start == note.get("total"):
        return Answer(str(note.get("commit", "")), resumed=True)
    headers = {"Accept-Encoding": "identity"}
    if start > 0:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(note["validator"])}
    with closing(Conversation(session, url, headers, allowed / 3)) as server:
        reply = server.reply()
        _check_status(reply, url, part)
        resumed = reply.status == 206
        if resumed and not _continues(reply, start, note):
            discard(part)
            raise PassingError("the server sent another part than the one asked for", tries=1)
        start = start if resumed else 0
        total = note.get("total") if resumed else _length(reply)
        if (total or 0) > LARGEST:
            raise PassingError(f"the server claims a file of {total} bytes", tries=0)
        _make_room(part, (total or 0) - start)
        body = _watched(server.body(), reply, start, total, allowed)
        piece = next(body)  # before what is there is given up
        if not resumed:
            discard(part)
            _write_note(url, part, _validator(reply), total, reply.commit)
        with open(part, "ab" if resumed else "wb") as file:
            size = start
            while piece:
                file.write(piece)
                size += len(piece)
                if report is not None:
                    report(size, total)
                piece = next(body, b"")
            file.flush()
            os.fsync(file.fileno())
        chunked = "chunked" in reply.headers.get("Transfer-Encoding", "").lower()
        return Answer(reply.commit, resumed, whole=total is not None or chunked)


def _check_status(reply: Reply, url: str, part: Path) -> None:
    status, where = reply.status, redacted(url)
    said = f"the server answered {status} {printable(reply.reason)[:60]}".strip()
    if status in (404, 410):
        raise MissingFileError(f"the server has no file {where} ({status})")
    if status in (401, 403):
        raise OfflineError(
            f"cannot download {where}: {said}; if it is private, set HF_TOKEN, or give the URL "
            "with user and password"
        )
    if status == 416:
        discard(part)
        raise PassingError("the part that is there is longer than the file", tries=1)
    if status in AGAIN:
        raise PassingError(said, wait=retry_after(reply.headers.get("Retry-After", "")))
    if status not in (200, 206):
        raise OfflineError(f"cannot download {where}: {said}")
    encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise OfflineError(
            f"cannot download {where}: the server sends it compressed ({printable(encoding)[:20]})"
        )


def _watched(
    pieces: Iterator[bytes], reply: Reply, size: int, total: int | None, allowed: float
) -> Iterator[bytes]:
    """Yield the body, at least once; see that it comes in time, whole, and is no web page."""
    mark, since, first = time.monotonic(), size, True
    page = "text/html" in reply.headers.get("Content-Type", "").lower()
    while True:
        try:
            piece = next(pieces, b"")
        except PassingError as error:
            raise PassingError(f"{error}, {_of(size, total)}", error.wait, error.tries) from None
        if not piece:
            break
        if first and size == 0 and (page or is_page(piece)):
            raise PassingError(f"the server sent a web page instead{title_of(piece)}", tries=1)
        first = False
        size += len(piece)
        if size > (total or LARGEST):
            raise PassingError("the server sends more than it should", tries=0)
        yield piece
        if size - since >= STEP:
            mark, since = time.monotonic(), size
        elif time.monotonic() - mark > allowed:
            raise PassingError(f"only {size - since} bytes came in {allowed:.0f} s")
    if total is not None and size < total:
        raise PassingError(f"the connection was lost, {_of(size, total)}")
    if first:
        raise PassingError("the server sent nothing")


# -- what is kept of an interrupted download -------------------------------------------------


def _write_note(url: str, part: Path, validator: str, total: int | None, commit: str) -> None:
    """Note from where `part` comes, so that a later attempt can go on."""
    content = {"url": _key(url), "validator": validator, "total": total, "commit": commit}
    _note(part).write_text(json.dumps(content), encoding="utf-8")


def _read_note(url: str, part: Path) -> dict[str, Any]:
    """Return what was noted of `part`; nothing, if it does not come from this URL."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("url") == _key(url) else {}


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Remove what is there of a file."""
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _make_room(part: Path, needed: int) -> None:
    free = free_space(part.parent)
    if needed > free:
        discard(part)
        raise FileError(
            f"{part.parent} has {free / 1e6:.1f} MB free, {needed / 1e6:.1f} MB are needed; make "
            "room (`spender cache size`), or set SPENDER_HOME to a larger disk"
        )


# -- what a response says --------------------------------------------------------------------


def _validator(reply: Reply) -> str:
    """Return what If-Range takes: a strong ETag, or the date (RFC 9110, 13.1.5)."""
    etag = reply.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return "" if etag else reply.headers.get("Last-Modified", "")


def _continues(reply: Reply, start: int, note: Mapping[str, Any]) -> bool:
    """Tell whether an answer is the rest of the file of which there is a part."""
    said = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", reply.headers.get("Content-Range", ""), re.ASCII
    )
    if said is None or start == 0 or _validator(reply) != note.get("validator"):
        return False
    first, last, total = map(int, said.groups())
    return first == start and last == total - 1 and total == note.get("total")


def _length(reply: Reply) -> int | None:
    text = reply.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def retry_after(text: str) -> float:
    """Return the seconds of a header Retry-After (RFC 9110, 10.2.3); 0 if it tells none."""
    text = text.strip()
    try:
        return float(urllib3.Retry().parse_retry_after(text)) if 0 < len(text) < 40 else 0.0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


def title_of(chunk: bytes) -> str:
    """Return the title of a web page, to be shown in brackets; "" if it has none."""
    found = re.search(rb"<title[^>]*>([^<]{1,80})", chunk, re.I)
    if not found:
        return ""
    text = found[1].decode("utf-8", "replace")
    return f" ({''.join(c for c in ' '.join(text.split()) if c.isprintable())!r})"


def _of(size: int, total: int | None) -> str:
    return f"with {size} bytes there" + ("" if total is None else f" of {total}")
