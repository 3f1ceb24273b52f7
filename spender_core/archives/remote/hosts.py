"""How many requests a server is asked at once, and when it is left in peace.

All of it is used on one event loop, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from spender_core.archives.location import redacted
from spender_core.errors import FileError, InputError

CONNECTIONS = 32
"""Requests to one server at a time, unless SPENDER_CONNECTIONS says otherwise."""

MOST_CONNECTIONS = 256

CLOSED = 10.0
"""Seconds for which a server is not asked after nobody could connect to it."""

_STORM = 0.3
LONGEST_CLOSED = 60.0
"""Seconds for which a server that asks for more is left in peace: somebody may ask by hand."""

_MEMORY = 0.1


class NoPartsError(FileError):
    """A server sends a whole file, far larger than the part that was asked for."""


class UnreachableError(Exception):
    """Nobody can connect to a server at present; the text is the cause that was met."""


def connections() -> int:
    """Return how many requests may be made to one server at a time.

    Raises:
        InputError: SPENDER_CONNECTIONS is no number from 1 to 256.
    """
    text = os.environ.get("SPENDER_CONNECTIONS", "") or str(CONNECTIONS)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= number <= MOST_CONNECTIONS:
        raise InputError(
            f"SPENDER_CONNECTIONS must be a whole number from 1 to {MOST_CONNECTIONS}, "
            f"not {text!r:.40}"
        )
    return number


def host_of(url: str) -> str:
    """Return what is asked for a URL: scheme and server, or the bucket, without a login.

    Raises:
        InputError: It is no URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(
            f"{redacted(url)} is no URL: {error}; check the path, or the root"
        ) from None
    if parts.scheme == "s3":
        return f"s3://{parts.netloc} at {os.environ.get('AWS_ENDPOINT_URL', '')}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


class Host:
    """One server: turns to ask it, handed out in order, and fewer of them where it is overloaded.

    The number of turns is halved when three of ten answers or more are refusals (429, 503), and
    grows by one with each round of answers that went well, as TCP does with its window.

    Attributes:
        reached: Whether it ever answered.
    """

    def __init__(self, most: int) -> None:
        self.most, self.reached = most, False
        self._limit, self._refused = float(most), 0.0
        self._running, self._waiting = 0, deque[asyncio.Future[None]]()
        self._paused_until = self._closed_until = 0.0
        self._cause = ""

    @property
    def limit(self) -> int:
        """Turns at one time."""
        return max(1, int(min(self._limit, self.most)))

    @asynccontextmanager
    async def turn(self, again: bool) -> AsyncIterator[None]:
        """Wait for a turn; those who try again come before those who never did.

        Raises:
            UnreachableError: Somebody found in vain for a server here, some seconds ago.
        """
        await self._enter(again)
        try:
            while (pause := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            if time.monotonic() < self._closed_until:
                raise UnreachableError(self._cause)
            yield
        finally:
            self._leave()

    async def _enter(self, again: bool) -> None:
        if self._running < self.limit and not self._waiting:
            self._running += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._running -= 1
        while self._waiting and self._running < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self._running += 1
                place.set_result(None)

    def went_well(self) -> None:
        """Count an answer."""
        self.reached, self._closed_until = True, 0.0
        self._refused *= 1 - _MEMORY
        self._limit = min(self._limit + 1 / self._limit, self.most)

    def refused(self) -> None:
        """Count a refusal of an overloaded server."""
        self.reached = True
        self._refused += _MEMORY * (1 - self._refused)
        if self._refused > _STORM:
            self._limit, self._refused = max(1.0, self._limit / 2), 0.0

    def pause(self, seconds: float) -> None:
        """Ask nothing for some time."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def close(self, cause: str, seconds: float = 0.0) -> None:
        """Let all who wait fail at once, for some seconds."""
        seconds = max(CLOSED, min(seconds, LONGEST_CLOSED))
        self._cause, self._closed_until = cause, time.monotonic() + seconds
