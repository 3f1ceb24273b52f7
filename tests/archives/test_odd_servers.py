"""Servers that answer in odd ways, and what was moved within the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from spender_core.archives.images import fetch_images
from spender_core.archives.remote import blocks, fetching, keeping, whole
from spender_core.archives.remote.files import open_bytes
from spender_core.errors import (
    DamagedFileError,
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
)

LARGE = 3_000_000


class Odd:
    """A server whose answers are set as the test goes.

    Attributes:
        content: The file, whatever the path.
        etag: Its version.
        ranges: Whether parts are sent.
        instead: What is sent in its place, in these pieces, if anything.
        status: The status of that.
        headers: Its headers.
        asked: Paths of the requests so far.
    """

    def __init__(self) -> None:
        self.content, self.etag, self.ranges = b"x" * LARGE, '"1"', True
        self.instead: list[bytes] | None = None
        self.status, self.headers = 200, dict[str, str]()
        self.asked: list[str] = []
        self.url = ""

    def answer(self, handler: Any) -> None:
        self.asked.append(handler.path)
        said = handler.headers.get("Range", "")
        if self.instead is not None:
            pieces, status, headers = self.instead, self.status, dict(self.headers)
        elif said and self.ranges:
            first, _, last = said.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1 if last else LARGE, len(self.content))
            pieces, status = [self.content[int(first) : stop]], 206
            headers = {"Content-Range": f"bytes {first}-{stop - 1}/{len(self.content)}"}
            headers["ETag"] = self.etag
        else:
            pieces, status, headers = [self.content], 200, {"ETag": self.etag}
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name, text)
        handler.send_header("Content-Length", str(sum(map(len, pieces))))
        handler.end_headers()
        for number, piece in enumerate(pieces):
            if number:
                threading.Event().wait(0.1)
            handler.wfile.write(piece)
            handler.wfile.flush()


@contextmanager
def odd_server() -> Iterator[Odd]:
    odd = Odd()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            odd.answer(self)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        odd.url = f"http://127.0.0.1:{server.server_port}/file.bin"
        try:
            yield odd
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def odd() -> Iterator[Odd]:
    with odd_server() as server:
        yield server


def part(url: str, start: int, stop: int) -> bytes:
    with open_bytes(url) as file:
        return file.read_at(start, stop)


def test_another_answer_in_place_of_a_part_costs_nothing_that_is_kept(odd: Odd) -> None:
    part(odd.url, 0, 2_000_000)
    odd.instead = [b'{"error": "busy"}']
    with pytest.raises(FileError, match="something else than a part of it"):
        part(odd.url, 2_900_000, 2_900_100)
    odd.instead, before = None, len(odd.asked)
    assert part(odd.url, 0, 2_000_000) == b"x" * 2_000_000
    assert len(odd.asked) == before


def test_a_server_that_sends_parts_no_longer(odd: Odd) -> None:
    """It sends the whole file each time; once is enough, and once for the part at its begin."""
    odd.content = b"x" * 20_000_000
    part(odd.url, 0, 100)
    odd.ranges, before = False, fetching.traffic().bytes
    with open_bytes(odd.url) as file:
        assert file.read_at(0, 20_000_000) == odd.content
        assert file.read_at(5_000_000, 5_000_010) == b"x" * 10
    assert fetching.traffic().bytes - before < 50_000_000


def test_a_page_in_pieces_is_a_page(odd: Odd) -> None:
    odd.instead = [b"<", b"!doctype html><html><title>Log in</title></html>"]
    with pytest.raises(FileError, match=r"web page instead of the file.*Log in"):
        part(odd.url, 0, 1)


def test_what_was_not_there_is_known_offline(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coadd whose redrock file does not exist can be read offline as it was online."""
    odd.instead, odd.status = [b""], 404
    with pytest.raises(MissingFileError):
        part(odd.url, 0, 1)
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    with pytest.raises(MissingFileError, match="was no file"):
        part(odd.url, 0, 1)
    with pytest.raises(OfflineError):
        part(f"{odd.url}.other", 0, 1)
    monkeypatch.delenv("SPENDER_OFFLINE")
    odd.instead = None
    assert part(odd.url, 0, 1) == b"x"  # it may have come since


@pytest.mark.parametrize("size", [1000, LARGE])
def test_an_entry_that_was_moved_to_another_is_none(odd: Odd, size: int) -> None:
    odd.content = b"x" * size
    other = f"{odd.url}.other"
    assert part(odd.url, 0, size) == odd.content
    for kind in ("whole", "index"):
        ours, theirs = whole.path_of(odd.url, kind), whole.path_of(other, kind)
        if ours.exists():
            theirs.parent.mkdir(parents=True, exist_ok=True)
            ours.replace(theirs)
            for path in ours.parent.glob(f"{ours.stem}.*.blocks"):
                path.replace(theirs.parent / path.name.replace(ours.stem, theirs.stem))
    odd.content, odd.etag = b"y" * size, '"2"'
    assert part(other, 0, size) == odd.content


def test_a_server_that_asks_to_wait_for_long_is_left_in_peace(odd: Odd) -> None:
    odd.instead, odd.status, odd.headers = [b""], 429, {"Retry-After": "3600"}
    for number in range(20):
        with pytest.raises(OfflineError, match=r"429.* asks to wait 3600 s"):
            part(f"{odd.url}.{number}", 0, 1)
    assert len(odd.asked) == 1


def test_pruning_does_not_mind_what_others_write(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    part(odd.url, 0, LARGE)
    before, made = keeping.used(), whole.path_of(f"{odd.url}.new", "whole")

    def used(*arguments: Any) -> list[keeping.Used]:
        if made.exists() or not before:
            return real(*arguments)
        blocks.save(f"{odd.url}.new", b"z" * 1000, '"1"')  # by another process, after the look
        return before

    real = keeping.used
    monkeypatch.setattr(keeping, "used", used)
    assert keeping.clear() > LARGE
    assert made.exists()


def test_logins_of_buckets_are_refused_without_being_shown() -> None:
    with pytest.raises(SpenderError) as error:
        part("s3://bob:swordfish@bucket/a.fits", 0, 1)
    assert "AWS_ACCESS_KEY_ID" in str(error.value)
    assert "swordfish" not in str(error.value)


def test_an_answer_that_is_no_image_is_not_kept(odd: Odd) -> None:
    odd.instead = [b"error: busy"]
    for _ in range(2):
        (found,) = fetch_images([odd.url], 16)
        assert isinstance(found, DamagedFileError)
    assert len(odd.asked) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("SPENDER_CONNECTIONS", "0"), ("SPENDER_TIMEOUT", "abc"), ("SPENDER_CACHE_SIZE", "lots")],
)
def test_settings_that_cannot_be_are_told_once(
    name: str, value: str, odd: Odd, monkeypatch: pytest.MonkeyPatch, picky: Callable[[], Any]
) -> None:
    """They are no fault of the files."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        picky().read([odd.url, f"{odd.url}.other"])
    assert not odd.asked


@pytest.fixture
def picky() -> Callable[[], Any]:
    """An instrument whose files are never looked into."""
    from pixel_survey import Tiny

    return Tiny
