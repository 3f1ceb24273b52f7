"""The process of `range_server`: what answers, how it fails, and what it counts.

Usage: python range_process.py FOLDER LATENCY SEED; it prints its port, and ends with its input.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from range_server import Seen

PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Service overloaded</title></head>"
    b"<body><p>Please try again later.</p></body></html>\n"
)
PIECE = 1 << 18
TICK = 0.05


@dataclass
class Rule:
    """A fault, and whom it strikes."""

    kind: str
    paths: frozenset[str] | None
    match: re.Pattern[str]
    times: int
    chance: float
    options: dict[str, Any]
    struck: Counter[str] = field(default_factory=Counter)

    def strikes(self, path: str, draw: random.Random) -> bool:
        """Tell whether this request suffers the fault, and count it."""
        if self.paths is not None and path not in self.paths:
            return False
        if not self.match.search(path) or (0 <= self.times <= self.struck[path]):
            return False
        if self.chance < 1 and draw.random() >= self.chance:
            return False
        self.struck[path] += 1
        return True


class Archive:
    """The server."""

    def __init__(self, folder: Path, latency: float, seed: int) -> None:
        self.folder, self.latency, self.draw = folder.resolve(), latency, random.Random(seed)
        self.rules: list[Rule] = []
        self.seen, self.running, self.versions = Seen(), 0, 0
        self.paths: Counter[str] = Counter()
        self.path_bytes: Counter[str] = Counter()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_get("/files/{path:.*}", self.answer)
        application.router.add_post("/control/{what}", self.control)
        return application

    async def control(self, request: web.Request) -> web.Response:
        what, content = request.match_info["what"], await request.json()
        if what == "fault":
            paths = None if content["paths"] is None else frozenset(content["paths"])
            match = re.compile(content["match"])
            self.rules.append(Rule(**content | {"paths": paths, "match": match}))
        elif what == "heal":
            self.rules.clear()
        elif what == "latency":
            self.latency = content["seconds"]
        elif what == "forget":
            self.seen = Seen()
            self.paths.clear()
            self.path_bytes.clear()
        found = {**vars(self.seen), "paths": dict(self.paths), "path_bytes": dict(self.path_bytes)}
        return web.json_response(found if what == "seen" else None)

    @asynccontextmanager
    async def counted(self, request: web.Request, path: str) -> AsyncIterator[None]:
        login = request.headers.get("Authorization", "")
        self.seen.log.append([path, request.headers.get("Range", ""), login])
        self.seen.requests += 1
        self.paths[path] += 1
        self.running += 1
        self.seen.most = max(self.seen.most, self.running)
        try:
            yield
        finally:
            self.running -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        async with self.counted(request, path):
            if self.latency:
                await asyncio.sleep(self.latency)
            file = (self.folder / path).resolve()
            rule = next((rule for rule in self.rules if rule.strikes(path, self.draw)), None)
            sent = Sending(self, request, file)
            if rule is not None:
                response: web.StreamResponse = await getattr(Faults, rule.kind)(
                    sent, **rule.options
                )
                return response
            return await sent.content()


class Sending:
    """One answer."""

    def __init__(self, archive: Archive, request: web.Request, file: Path) -> None:
        self.archive, self.request, self.file = archive, request, file
        self.path = request.match_info["path"]

    async def content(
        self,
        until: int | None = None,
        ranges: bool = True,
        length: bool = True,
        shift: int = 0,
        cut: int = 0,
        version: str = "",
        flip: bool = False,
        encoding: str = "",
        pause: float = 0.0,
        piece: int = PIECE,
    ) -> web.StreamResponse:
        """Send the file or the range that is asked for.

        Args:
            until: Bytes of the body after which no more comes; its last byte never does.
            ranges: Heed ranges.
            length: Say how long the body is.
            shift: Added to what the answer says of its place.
            cut: Bytes at the end of the file that are left out.
            version: Added to the ETag.
            flip: Change a bit of the first byte.
            encoding: What the answer says of its encoding.
            pause: Seconds between pieces of `piece` bytes.
        """
        if not self.file.is_relative_to(self.archive.folder) or not self.file.is_file():
            return web.Response(status=404, text="not found")
        data, status = await asyncio.to_thread(self.file.stat), 200
        size = max(data.st_size - cut, 0)
        etag = hashlib.sha256(f"{data.st_size} {data.st_mtime_ns} {version}".encode()).hexdigest()
        headers = {"ETag": f'"{etag[:20]}"', "Accept-Ranges": "bytes" if ranges else "none"}
        if encoding:
            headers["Content-Encoding"] = encoding
        first, last = 0, size - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", ""))
        if asked and ranges:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            if first >= size:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {first + shift}-{last + shift}/{size}"
            status = 206
        response = web.StreamResponse(status=status, headers=headers)
        response.content_type = "application/octet-stream"
        if length:
            response.content_length = last - first + 1
        else:
            response.enable_chunked_encoding()
        await response.prepare(self.request)
        end = last + 1 if until is None else min(first + until, last)
        with open(self.file, "rb") as file:
            file.seek(first)
            while first < end:
                body = file.read(min(piece, end - first))
                if not body:
                    break
                first += len(body)
                await self.write(response, bytes([body[0] ^ 1]) + body[1:] if flip else body)
                flip = False
                if pause:
                    await asyncio.sleep(pause)
        if until is None:
            await response.write_eof()
        return response

    async def write(self, response: web.StreamResponse, body: bytes) -> None:
        self.archive.seen.bytes += len(body)
        self.archive.path_bytes[self.path] += len(body)
        await response.write(body)

    def close(self, reset: bool = False) -> None:
        """Close the connection, after what was written or at once."""
        transport = self.request.transport
        if transport is None:
            return
        if reset:
            linger = struct.pack("ii", 1, 0)
            plain = transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()

    async def wait(self) -> None:
        """Wait until the client has gone, at most a minute."""
        for _ in range(int(60 / TICK)):
            transport = self.request.transport
            if transport is None or transport.is_closing():
                return
            await asyncio.sleep(TICK)


class Faults:
    """The ways of failing."""

    @staticmethod
    async def status(sent: Sending, code: int, headers: dict[str, str] | None = None) -> Any:
        """Answer with an error, such as 404, or 429 and {"Retry-After": "2"}."""
        return web.Response(status=code, headers=headers, text=f"error {code}")

    @staticmethod
    async def page(sent: Sending, declared: str = "text/html", status: int = 200) -> Any:
        """Send a web page."""
        sent.archive.seen.bytes += len(PAGE)
        return web.Response(status=status, body=PAGE, headers={"Content-Type": declared})

    @staticmethod
    async def drop(sent: Sending, after: int = 1000) -> Any:
        """Close the connection after some bytes of the body."""
        response = await sent.content(until=after)
        sent.close()
        return response

    @staticmethod
    async def stall(sent: Sending, after: int = 1000) -> Any:
        """Go silent after some bytes of the body."""
        response = await sent.content(until=after)
        await sent.wait()
        sent.close()
        return response

    @staticmethod
    async def silence(sent: Sending) -> Any:
        """Never answer."""
        await sent.wait()
        sent.close()
        return web.Response(status=500)

    @staticmethod
    async def reset(sent: Sending) -> Any:
        """Reset the connection without an answer."""
        sent.close(reset=True)
        return web.Response(status=500)

    @staticmethod
    async def drip(sent: Sending, pause: float = 0.1, piece: int = 1) -> Any:
        """Send some bytes now and then."""
        return await sent.content(pause=pause, piece=piece)

    @staticmethod
    async def short(sent: Sending, by: int = 1000) -> Any:
        """Send a file that lacks its end, and say nothing of it."""
        return await sent.content(cut=by)

    @staticmethod
    async def altered(sent: Sending) -> Any:
        """Send another first byte."""
        return await sent.content(flip=True)

    @staticmethod
    async def whole(sent: Sending) -> Any:
        """Heed no range: send the whole file."""
        return await sent.content(ranges=False)

    @staticmethod
    async def wrong_range(sent: Sending, shift: int = 1) -> Any:
        """Say that the answer is of another place."""
        return await sent.content(shift=shift)

    @staticmethod
    async def no_length(sent: Sending) -> Any:
        """Do not say how long the body is: send it in chunks."""
        return await sent.content(length=False)

    @staticmethod
    async def encoded(sent: Sending, encoding: str = "gzip") -> Any:
        """Say that the body is compressed."""
        return await sent.content(encoding=encoding)

    @staticmethod
    async def new_version(sent: Sending) -> Any:
        """Give another ETag with every answer."""
        sent.archive.versions += 1
        return await sent.content(version=str(sent.archive.versions))

    @staticmethod
    async def redirect(sent: Sending, to: str, code: int = 302) -> Any:
        """Send the client elsewhere; "{path}" in `to` stands for the path of the file."""
        return web.Response(status=code, headers={"Location": to.replace("{path}", sent.path)})

    @staticmethod
    async def login(sent: Sending, authorization: str) -> Any:
        """Serve those only whose header begins so."""
        if sent.request.headers.get("Authorization", "").startswith(authorization):
            return await sent.content()
        return web.Response(status=401, headers={"WWW-Authenticate": "Basic"}, text="who is there?")


async def run(archive: Archive) -> None:
    runner = web.AppRunner(archive.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the parent has gone


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("latency", type=float)
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    asyncio.run(run(Archive(given.folder, given.latency, given.seed)))


if __name__ == "__main__":
    main()
