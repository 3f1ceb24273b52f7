"""A server on this machine that speaks as the Hugging Face Hub does, and fails as servers do."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

REPOSITORY = "pmelchior/spender"
CATALOGUES = "datasets/pmelchior/spender-catalogs"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Fault = Callable[["Handler", bytes], None]
"""Answers a request for a file in a way of its own."""


class Hub(ThreadingHTTPServer):
    """A server of files, which sends a client from the repository on to another address.

    Attributes:
        files: The files by name.
        requests: What was asked for, as "GET /path", and `headers` of each.
        whole: How often each file was sent to its end.
        faults: What happens to the next requests for content, one each; then all is well.
        always: What happens to every request for content, if anything.
        pause: Seconds between pieces of `piece` bytes of a body.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.whole: dict[str, int] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.ranges = self.etags = True
        self.pause, self.piece = 0.0, 1 << 16
        self.closing = Event()
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def offer(self, name: str, content: bytes) -> str:
        """Offer a file, and return where it is."""
        self.files[name] = content
        return f"hf:{REPOSITORY}/{name}"

    def next_fault(self) -> Fault | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always

    def start(self) -> Hub:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that go away."""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def answer(self) -> None:
        with self.server.lock:
            self.server.requests.append(f"{self.command} {self.path}")
            self.server.headers.append(dict(self.headers))
        prefix, _, name = self.path.rpartition("/")
        content = self.server.files.get(name)
        place = re.fullmatch(rf"/({REPOSITORY}|{CATALOGUES})/resolve/[\w.-]+", prefix)
        if content is None or not (place or prefix in ("/cdn", "/mirror")):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif place:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", f"{self.server.url}/cdn/{name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            fault = self.server.next_fault()
            (fault or Handler.send_content)(self, content)

    def send_content(self, content: bytes, until: int | None = None, **changes: str) -> None:
        """Send a file, or the range that is asked for; only the first bytes, if told so."""
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", etag) == etag
        first, last = 0, len(content) - 1
        if asked and self.server.ranges and same:
            first, last = int(asked[1]), int(asked[2] or last)
            if first >= len(content):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(HTTPStatus.OK)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(last - first + 1),
            "Accept-Ranges": "bytes" if self.server.ranges else "none",
        }
        if self.server.etags:
            headers["ETag"] = etag
        if self.path.startswith("/cdn/"):  # huggingface_hub follows a redirect within a host
            headers["X-Repo-Commit"] = COMMIT
        for header, value in (headers | changes).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        part = content[first : last + 1][:until]
        for start in range(0, len(part), self.server.piece):
            self.wfile.write(part[start : start + self.server.piece])
            self.server.closing.wait(self.server.pause)
        self.wfile.flush()
        if until is None:
            name = self.path.rpartition("/")[2]
            with self.server.lock:
                self.server.whole[name] = self.server.whole.get(name, 0) + 1


# -- the ways of failing --------------------------------------------------------------------


def status(code: int, **headers: str) -> Fault:
    """Answer with an error."""

    def act(handler: Handler, content: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return act


def drop(after: int) -> Fault:
    """Close the connection after some bytes of the body."""

    def act(handler: Handler, content: bytes) -> None:
        handler.send_content(content, until=after)
        handler.close_connection = True

    return act


def reset(handler: Handler, content: bytes) -> None:
    """Reset the connection without an answer."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def stall(after: int) -> Fault:
    """Go silent after some bytes of the body."""

    def act(handler: Handler, content: bytes) -> None:
        handler.send_content(content, until=after)
        handler.server.closing.wait(60)

    return act


def silence(handler: Handler, content: bytes) -> None:
    """Never answer."""
    handler.server.closing.wait(60)


def drip(handler: Handler, content: bytes) -> None:
    """Send a byte now and then."""
    handler.send_content(content, until=0)
    end = time.monotonic() + 60
    for byte in content:
        if handler.server.closing.wait(0.2) or time.monotonic() > end:
            return
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def page(declared: str) -> Fault:
    """Send a web page with status 200."""

    def act(handler: Handler, content: bytes) -> None:
        body = b"<!DOCTYPE html>\n<html><head><title>Service overloaded</title></head></html>"
        handler.send_response(HTTPStatus.OK)
        handler.send_header("Content-Type", declared)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def short(by: int) -> Fault:
    """Send fewer bytes than there are, and say so."""
    return lambda handler, content: handler.send_content(content[:-by])


def altered(handler: Handler, content: bytes) -> None:
    """Send other bytes of the same number."""
    handler.send_content(content[:-1] + bytes([content[-1] ^ 1]))
