"""What comes of one request for a file or a part of it, and whether it is what was asked for.

Whatever comes is checked: that it is the part that was asked for, that it is whole, and that it
is no web page sent in place of a file.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from spender_core.archives.downloads.asking import PassingError
from spender_core.archives.downloads.transport import AGAIN, retry_after, title_of
from spender_core.archives.location import is_page, redacted
from spender_core.archives.remote.hosts import NoPartsError
from spender_core.errors import (
    DamagedFileError,
    FileError,
    MissingFileError,
    OfflineError,
    SpenderError,
)
from spender_core.records import printable

LARGEST = 256 << 20
"""Bytes of an answer beyond which it is not taken."""

STEP = 1 << 14
"""Bytes that must come within those seconds."""

TRIES_SILENT = 3
"""Requests to a server that goes silent, each of which takes those seconds."""

SURPLUS = 4 << 20
"""Bytes beyond those asked for that are taken along, where a server does not send parts."""

PAGE = 512
"""First bytes of an answer, by which a web page is recognised."""

_GZIP = ("gzip", "x-gzip")


class Trouble(PassingError):  # noqa: N818  as its family is called
    """A failure that may pass.

    Attributes:
        kind: What it becomes if it does not.
        refused: Whether the server said that it has too much to do.
        unconnected: Whether there was no connection at all.
    """

    def __init__(
        self,
        text: str,
        wait: float = 0.0,
        tries: int = 1000,
        kind: type[SpenderError] = OfflineError,
        refused: bool = False,
        unconnected: bool = False,
    ) -> None:
        super().__init__(text, wait, tries)
        self.kind, self.refused, self.unconnected = kind, refused, unconnected


@dataclass(frozen=True)
class Part:
    """What is wanted of a file: bytes from `start` to `stop`, or to the end; None means all."""

    url: str
    start: int | None
    stop: int | None

    @property
    def header(self) -> str:
        """The range as http writes it, or ""."""
        if self.start is None:
            return ""
        return f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"


@dataclass(frozen=True)
class Found:
    """Some bytes of a file: where they begin, how large the file is (or -1), its version (or "")."""

    data: bytes
    start: int
    size: int
    version: str


@dataclass(frozen=True)
class Answer:
    """The head of an answer, and its body as it comes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


async def taken(part: Part, answer: Answer, stall: float, came: Callable[[int], None]) -> Found:
    """Take what was sent, if it is what was asked for."""
    _check_status(part, answer)
    _check_encoding(part, answer)
    headers, shown = answer.headers, redacted(part.url)
    length = _number(headers.get("content-length", ""))
    start, size = 0, length
    if answer.status == 206:
        start, size = _check_range(part, headers)
    elif part.start and part.stop and length > part.stop - part.start + SURPLUS:
        raise NoPartsError(f"cannot read {shown}: its server does not send parts of files")
    if length > LARGEST:
        ranges = "; its server does not send parts of files" if part.header else ""
        raise FileError(
            f"cannot read {shown}: the answer has {length / 1e6:.0f} MB, and at most "
            f"{LARGEST / 1e6:.0f} MB are read at once{ranges}; download it, and read the copy"
        )
    page = "text/html" in headers.get("content-type", "").lower()
    pieces: list[bytes] = []
    there, mark, since, begin = 0, time.monotonic(), 0, b""
    try:
        async for piece in answer.body:
            if there < PAGE:
                begin += piece[: PAGE - there]
                _refuse_page(begin, page or (start == 0 and is_page(begin)))
            pieces.append(piece)
            there += len(piece)
            came(len(piece))
            if there > LARGEST:
                raise FileError(f"cannot read {shown}: the answer has no end")
            now = time.monotonic()
            if there - since >= STEP:
                mark, since = now, there
            elif now - mark > stall:
                text = f"only {there - since} bytes came in {stall:.0f} s"
                raise Trouble(text, tries=TRIES_SILENT)
    except (aiohttp.ClientPayloadError, ConnectionError) as error:
        raise _cut(there, length) from error
    except TimeoutError:
        raise Trouble(
            f"nothing came for {stall:.0f} s, with {there} bytes there{_of(length)}",
            tries=TRIES_SILENT,
        ) from None
    if there < length:
        raise _cut(there, length)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if answer.status == 200 and size < 0:
        size = there
    version = headers.get("etag", "") or headers.get("last-modified", "")
    return Found(data, start, size, version[:200])


def _refuse_page(begin: bytes, page: bool) -> None:
    if page:
        raise Trouble(
            f"the server sent a web page instead of the file{title_of(begin)}: it may be overloaded "
            "or ask for a login, or the address may be wrong; open it in a browser",
            kind=FileError,
        )


def _cut(there: int, length: int) -> Trouble:
    return Trouble(
        f"the file was cut off: the connection was lost with {there} bytes there{_of(length)}",
        kind=FileError,
    )


def _of(length: int) -> str:
    return f" of {length}" if length >= 0 else ""


def _check_status(part: Part, answer: Answer) -> None:
    status, shown = answer.status, redacted(part.url)
    said = f"the server answered {status} {printable(answer.reason)[:60]}".strip()
    if status in (200, 206):
        return
    if status in (404, 410):
        raise MissingFileError(f"there is no file {shown}; check the path, or the root ({status})")
    if status in (401, 403):
        store = part.url.startswith("s3:")
        how = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to those of somebody "
            "who may read it"
            if store
            else "set HF_TOKEN, or give the URL with user and password"
        )
        raise OfflineError(f"cannot reach {shown}: {said}; if it is private, {how}")
    if status == 416:
        raise DamagedFileError(f"{shown} is shorter than byte {part.start}, which was asked for")
    if status in AGAIN:
        wait = retry_after(answer.headers.get("retry-after", ""))
        raise Trouble(said, wait=wait, refused=status in (429, 503))
    raise OfflineError(f"cannot reach {shown}: {said}")


def _check_encoding(part: Part, answer: Answer) -> None:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    # S3 says "aws-chunked" of objects that were uploaded so; a .gz is compressed as it is stored
    stored = encoding in _GZIP and urlsplit(part.url).path.endswith(".gz")
    if encoding not in ("", "identity", "aws-chunked") and not stored:
        raise OfflineError(
            f"cannot reach {redacted(part.url)}: the server sends it compressed "
            f"({printable(encoding)[:20]})"
        )


def _check_range(part: Part, headers: Mapping[str, str]) -> tuple[int, int]:
    """Return where an answer of status 206 begins, and the size of the file, or -1."""
    said = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("content-range", ""), re.ASCII
    )
    length = _number(headers.get("content-length", ""))
    if said is not None and part.start is not None:
        first, last, size = int(said[1]), int(said[2]), _number(said[3])
        most = size if size >= 0 else last + 1
        stop = most if part.stop is None else min(part.stop, most)
        if first == part.start and last == stop - 1 and length in (-1, last - first + 1):
            return first, size
    raise Trouble("the server sent another part than the one asked for", kind=FileError)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else -1
