"""Bytes of remote files: many requests at once, on one event loop in a thread of its own.

Whatever may pass is tried again, at most five times: lost connections, stalls, answers that are
cut off, web pages in place of files, and the answers 408, 425, 429, 500, 502, 503 and 504. A server
that asks to wait (Retry-After) is left in peace by all requests. Settings are SPENDER_CONNECTIONS
(requests to one server at a time) and SPENDER_TIMEOUT (seconds without a byte).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spender_core.archives.location import normal, redacted, require_network
from spender_core.archives.remote.hosts import Host, UnreachableError, connections, host_of
from spender_core.errors import FileError, InputError, OfflineError, SpenderError

if TYPE_CHECKING:
    from spender_core.archives.remote.answers import Trouble
    from spender_core.archives.remote.requesting import Requester

TRIES = 5
"""Requests for a thing before it is given up."""

TRIES_UNCONNECTED = 3
"""The same, while a server never answered at all."""

PAUSE = 0.5
"""Seconds before the second try; they double with each."""

LONGEST_PAUSE = 20.0
LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait; beyond that it is given up."""

Want = tuple[str, int | None, int | None, str]
"""A URL, the bytes from and to which it is wanted (None: from the start, to the end), and the
version that is expected, or ""."""

_log = logging.getLogger(__name__)


class ChangedError(FileError):
    """A file has another version on its server than before."""


@dataclass(frozen=True)
class Fetched:
    """Some bytes of a file.

    Attributes:
        data: The bytes. They may be fewer than were asked for where the file ends, and are the
            whole file where its server does not send parts of files.
        start: Where in the file they begin.
        size: Bytes of the whole file; -1 if that is not known.
        version: What tells this version of the file from others: its ETag, or else its date; "" if
            its server tells neither.
    """

    data: bytes
    start: int
    size: int
    version: str


@dataclass(frozen=True)
class Traffic:
    """What this process asked of servers so far.

    Attributes:
        requests: Requests, repeated ones too.
        bytes: Bytes that came, those of failures too.
        retries: Requests that were made again since the one before had failed.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0


def traffic() -> Traffic:
    """Return what this process asked of servers so far."""
    return Traffic(_counts.requests, _counts.bytes, _counts.retries)


def check_settings() -> None:
    """Check what the environment says of how servers are asked.

    Raises:
        InputError: SPENDER_CONNECTIONS, SPENDER_TIMEOUT or SPENDER_CACHE_SIZE makes no sense.
    """
    from spender_core.archives.downloads.transport import patience
    from spender_core.archives.remote.keeping import bound

    connections()
    patience()
    bound()


def submit(
    url: str, start: int | None = None, stop: int | None = None, version: str = ""
) -> Future[Fetched]:
    """Begin to fetch a remote file, or a part of it, and return at once.

    Args:
        url: Its URL: http, https, s3, or whatever fsspec knows.
        start: First byte that is wanted; None for the whole file.
        stop: The byte behind the last one; None for all to the end.
        version: The version that is expected, or "".

    Returns:
        What will hold the answer. Its `result` raises MissingFileError where there is no such file;
        OfflineError where the server cannot be reached, fails, or asks who one is, and where
        SPENDER_OFFLINE is set; ChangedError where the file has another version; FileError where
        what comes is cut off or a web page, each time; and InputError for settings that cannot
        be.
    """
    url = normal(url)
    try:
        if start is not None and (start < 0 or (stop is not None and stop <= start)):
            raise InputError(f"bytes {start} to {stop} are no part of a file")
        require_network(url)
        return _engine().begin((url, start, stop, version), host_of(url), connections())
    except SpenderError as error:
        failed: Future[Fetched] = Future()
        failed.set_exception(error)
        return failed


def fetch_all(wants: Sequence[Want]) -> list[Fetched | SpenderError]:
    """Fetch several files or parts of files at once, and wait for all of them.

    Args:
        wants: What is wanted.

    Returns:
        What came of each, or why nothing did, in the same order.
    """
    running = [submit(*want) for want in wants]
    found: list[Fetched | SpenderError] = []
    try:
        for one in running:
            try:
                found.append(one.result())
            except SpenderError as error:
                found.append(error)
    finally:
        for one in running:
            one.cancel()
    return found


def cancel_all() -> None:
    """End all that this process fetches at present; whoever waits for it gets a CancelledError."""
    with _lock:
        running = _running
    if running is not None:
        running.loop.call_soon_threadsafe(running.cancel)


# -- the thread ------------------------------------------------------------------------------


class _Counts:
    """Counters that one thread writes."""

    def __init__(self) -> None:
        self.requests = self.bytes = self.retries = 0

    def asked(self) -> None:
        self.requests += 1

    def came(self, number: int) -> None:
        self.bytes += number


class _Engine:
    """An event loop in a thread, and what is known of the servers that are asked on it."""

    def __init__(self) -> None:
        from spender_core.archives.remote.requesting import Requester

        self.loop = asyncio.new_event_loop()
        self._requester: Requester = Requester(_counts.asked, _counts.came)
        self._hosts: dict[str, Host] = {}
        self._thread = threading.Thread(target=self._run, name="spender-fetching", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def begin(self, want: Want, host: str, most: int) -> Future[Fetched]:
        return asyncio.run_coroutine_threadsafe(self._fetch(want, host, most), self.loop)

    def stop(self) -> None:
        """End what is running, and close all connections."""
        ended = asyncio.run_coroutine_threadsafe(self._end(), self.loop)
        try:
            ended.result(timeout=2.0)
        except Exception as error:  # the process ends anyway
            _log.debug("connections were not closed: %s", error)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self.loop.close()

    def cancel(self) -> list[asyncio.Task[Any]]:
        """End what is running; called in the thread."""
        tasks = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        for task in tasks:
            task.cancel()
        return list(tasks)

    async def _end(self) -> None:
        await asyncio.gather(*self.cancel(), return_exceptions=True)
        await self._requester.close()

    async def _fetch(self, want: Want, server: str, most: int) -> Fetched:
        """Fetch, and try again what may pass."""
        from spender_core.archives.remote.answers import Part, Trouble

        url, start, stop, version = want
        host = self._hosts.setdefault(server, Host(most))
        host.most = most
        tries = 0
        while True:
            try:
                async with host.turn(again=tries > 0):
                    tries += 1
                    found = await self._requester.get(Part(url, start, stop))
                host.went_well()
            except UnreachableError as error:
                raise _given_up(OfflineError, url, str(error), tries) from None
            except SpenderError:
                host.reached = True
                raise
            except Trouble as trouble:
                await asyncio.sleep(_pause(host, url, tries, trouble))
                _counts.retries += 1
                continue
            if version and found.version and found.version != version:
                raise ChangedError(f"{redacted(url)} changed on its server; read it again")
            return Fetched(found.data, found.start, found.size, found.version)


def _pause(host: Host, url: str, tries: int, trouble: Trouble) -> float:
    """Return the seconds until the next try.

    Raises:
        SpenderError: There is to be none.
    """
    text = str(trouble)
    if trouble.refused:
        host.refused()
    elif not trouble.unconnected:
        host.reached = True
    most = TRIES if host.reached else TRIES_UNCONNECTED
    if tries >= min(most, trouble.tries):
        if trouble.unconnected:
            host.close(text)
        raise _given_up(trouble.kind, url, text, tries) from None
    if trouble.wait > LONGEST_WAIT:
        text += f"; it asks to wait {trouble.wait:.0f} s"
        host.close(text, trouble.wait)
        raise _given_up(trouble.kind, url, text, tries) from None
    if trouble.wait > 0:
        host.pause(trouble.wait)
    pause: float = min(PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
    pause = max(pause, trouble.wait)
    _log.info("%s: %s; trying again in %.1f s", redacted(url), text, pause)
    return pause


def _given_up(kind: type[SpenderError], url: str, cause: str, tries: int) -> SpenderError:
    doing = "reach" if kind is OfflineError else "read"
    attempts = f" (attempts: {tries})" if tries else ""
    return kind(f"cannot {doing} {redacted(url)}: {cause}{attempts}; try again later")


_counts = _Counts()
_running: _Engine | None = None
_lock = threading.Lock()
_left_behind: list[object] = []


def _engine() -> _Engine:
    global _running
    with _lock:
        if _running is None:
            _running = _Engine()
        return _running


def _stop() -> None:
    """Close all connections when the process ends."""
    global _running
    with _lock:
        running, _running = _running, None
    if running is not None:
        running.stop()


def _begin_anew() -> None:
    """Forget the thread of the parent, which a forked process does not have."""
    global _running, _lock, _counts
    # kept, since whatever frees the parent's connections would complain of them, or close them
    _left_behind.append(_running)
    _running, _lock, _counts = None, threading.Lock(), _Counts()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
