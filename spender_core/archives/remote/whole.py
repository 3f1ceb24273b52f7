"""Small files that are kept whole on disk, and what all files of the cache have in common.

A file begins with a head that tells what it is, checked by its CRC-32, as is the content. It is
written beside its place and renamed, and nothing is forced to the disk: whatever a crash leaves
of it does not fit its CRC, and counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from spender_core.archives.location import redacted
from spender_core.archives.remote import keeping

ABSENT_FOR = 3600.0
"""Seconds for which it is remembered that a server did not have a file."""

_MAGIC = b"spender1"
_PRIVATE = ("memory", "file", "local")


@dataclass(frozen=True)
class Whole:
    """A file that is there as a whole."""

    content: bytes
    version: str


def kept(url: str) -> bool:
    """Tell whether files from there are kept on disk at all."""
    return keeping.bound() > 0 and url.partition("://")[0] not in _PRIVATE


def place(url: str) -> Path:
    """Return where a URL has its entry, less the suffix: of its hash, without user and password.

    What a bucket's name means hangs on the endpoint, if one is set.
    """
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if url.startswith("s3:") else ()
    endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return keeping.folder() / _key(url, endpoint)


@lru_cache(8192)
def _key(url: str, endpoint: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    key = hashlib.sha256(f"{url}\n{endpoint}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{key[:2]}/{key[2:]}"


def key_of(url: str) -> str:
    """Return the name of a URL's entry, by which a file is found that was moved to another."""
    return place(url).name


def path_of(url: str, kind: str) -> Path:
    """Return where a file of the cache is, by the URL that it belongs to and its suffix."""
    return Path(f"{place(url)}.{kind}")


def head(**facts: Any) -> bytes:
    """Return a head that tells some facts."""
    text = json.dumps(facts).encode()
    return _MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text


def told(content: bytes) -> tuple[dict[str, Any], int] | None:
    """Return what a head tells, and its length; None if it is no head, or damaged."""
    if len(content) < 16 or not content.startswith(_MAGIC):
        return None
    length, check = struct.unpack("<II", content[8:16])
    text = content[16 : 16 + length]
    if len(text) != length or zlib.crc32(text) != check:
        return None
    facts = json.loads(text)
    return (facts, 16 + length) if isinstance(facts, dict) else None


# -- whole files -----------------------------------------------------------------------------


def load(url: str) -> Whole | None:
    """Return a file that is kept whole, None if it is not there or damaged."""
    if not kept(url):
        return None
    path = path_of(url, "whole")
    try:
        content = path.read_bytes()
        with suppress(OSError):
            os.utime(path)
    except OSError:
        return None
    about = told(content)
    if about is None:
        return None
    facts, start = about
    body = content[start:]
    if facts.get("key") != key_of(url):  # somebody moved it
        return None
    if len(body) != facts.get("size") or zlib.crc32(body) != facts.get("crc32"):
        return None
    keeping.note_reuse(len(body))
    return Whole(body, str(facts.get("version", "")))


def save(url: str, content: bytes, version: str) -> bool:
    """Keep a file whole; tell whether it could be done."""
    if not content or not kept(url):
        return False
    if not keeping.admits(len(content) + 512):
        return False
    facts = {"size": len(content), "version": version, "crc32": zlib.crc32(content)}
    about = head(url=redacted(url), key=key_of(url), **facts)
    try:
        put(path_of(url, "whole"), about + content)
    except OSError:
        return False
    return True


def is_kept(url: str) -> bool:
    """Tell whether a file is kept whole, without a look at whether it is undamaged."""
    return kept(url) and path_of(url, "whole").exists()


def note_absent(url: str) -> None:
    """Remember that a server said that it does not have a file."""
    if kept(url) and keeping.admits(512):
        with suppress(OSError):
            put(path_of(url, "absent"), head(url=redacted(url)))


def is_absent(url: str, ever: bool = False) -> bool:
    """Tell whether a server said so, within the last hour or ever."""
    if not kept(url):
        return False
    try:
        age = time.time() - path_of(url, "absent").stat().st_mtime
    except OSError:
        return False
    return ever or 0 <= age < ABSENT_FOR


def put(path: Path, content: bytes, replace: bool = True) -> None:
    """Write a file whole or not at all.

    Raises:
        FileExistsError: There is one, and it is not to be replaced.
        OSError: It cannot be written, and then nothing will be any more.
    """
    temporary = path.parent / f"{path.name.partition('.')[0]}.{secrets.token_hex(8)}.part"
    try:
        create(temporary, content)
        if replace or not _linked(temporary, path):
            temporary.replace(path)
        else:
            temporary.unlink()
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, FileExistsError):
            keeping.give_up(error)
        raise


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file a second name, if that is free; tell whether the disk can do so."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def create(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, and make its folder if need be.

    Raises:
        OSError: It is there, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, flags, 0o666)
    try:
        write_all(file, content, 0)
    finally:
        os.close(file)


def write_all(file: int, content: bytes | memoryview, start: int) -> None:
    """Write all of the content to a place of an open file.

    Raises:
        OSError: It cannot be written.
    """
    view = memoryview(content)
    while len(view):
        count = os.pwrite(file, view[: 1 << 30], start)
        view, start = view[count:], start + count
