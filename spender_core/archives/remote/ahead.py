"""Small files fetched whole, many at once, before whoever reads them comes to them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Self

from spender_core.archives.location import is_remote, normal, offline, redacted, told
from spender_core.archives.remote import blocks, fetching, keeping, whole
from spender_core.errors import FileError, MissingFileError, SpenderError

HELD = 256 << 20
"""Bytes that may be there and not yet taken; beyond them no further file is asked for."""

WAITING = 4096
"""Files that may be asked for and not there yet."""

TAKEN = 64 << 20
"""Bytes of files that are kept in memory after they were taken, for whoever takes them again."""

STEP = 256
"""Files that are looked for at a time, so that the first of many cached ones is not waited for."""

_GUESS = 256 << 10
_active: list[Ahead] = []
_lock = threading.Lock()


class _Gate:
    """What threads wait at until it is opened, once and for all.

    A signal may interrupt `wait` at any step. It may leave the lock of a `threading.Event` held,
    so that the thread that is to set it never ends; here no lock is taken but in C.
    """

    def __init__(self) -> None:
        self._open = False
        self._passes: SimpleQueue[None] = SimpleQueue()

    def open(self) -> None:
        self._open = True
        self._passes.put(None)

    def is_open(self) -> bool:
        return self._open

    def wait(self) -> None:
        if not self._open:
            self._passes.get()
            self._passes.put(None)  # for the next who waits


@dataclass
class _Job:
    """One of the files that are wanted: where it may be, and what came of each place."""

    urls: list[str]
    at: int = 0
    done: _Gate = field(default_factory=_Gate)
    found: dict[str, bytes | SpenderError | None] = field(default_factory=dict)
    running: Future[fetching.Fetched] | None = None


class Ahead:
    """Fetches files in order, while it is entered; `open_bytes` then gives what came of them.

    A file may have several places; a later one is asked only where those before do not have the
    file. What failed is not tried again, and `open_bytes` raises the same.

    Args:
        files: The URLs of each file, in the order in which they are wanted. Local paths are left
            out.
        ahead: Files that may be asked for and not there yet.
    """

    def __init__(self, files: Sequence[Sequence[str]], ahead: int = WAITING) -> None:
        self._jobs: list[_Job] = []
        self._of: dict[str, _Job] = {}
        self._most = max(ahead, 1)
        for places in files:
            urls = [normal(url) for url in ([places] if isinstance(places, str) else places)]
            urls = [url for url in urls if is_remote(url) and url not in self._of]
            if urls:
                self._jobs.append(_Job(urls))
                self._of.update(dict.fromkeys(urls, self._jobs[-1]))
        self._next = self._waiting = self._held = self._came = self._files = 0
        self._state = threading.RLock()
        self._taken: OrderedDict[str, bytes] = OrderedDict()
        self._taken_bytes = 0
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="spender-saving")
        self._over = False

    def __enter__(self) -> Self:
        keeping.bound()  # refuses a wrong setting before anything is asked for
        with _lock:
            _active.append(self)
        try:
            self._go_on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with _lock:
            if self not in _active:  # of the process that was forked from, and so are its threads
                return
            _active.remove(self)
        with self._state:
            self._over = True
            running = [job.running for job in self._jobs if job.running is not None]
        for one in running:
            one.cancel()
        self._saver.shutdown()
        for job in self._jobs:
            job.done.open()
            job.found.clear()
        self._taken.clear()
        keeping.tell()

    def knows(self, url: str) -> bool:
        """Tell whether the file is one of those that are wanted."""
        return url in self._of

    def take(self, url: str) -> bytes | None:
        """Wait for a file and return it; None if it is to be looked for as any other.

        Raises:
            SpenderError: It could not be fetched.
        """
        job = self._of[url]
        with self._state:
            if url in self._taken:
                self._taken.move_to_end(url)
                return self._taken[url]
            if job.running is None and not job.done.is_open() and not self._over:
                self._begin(job)
        job.done.wait()
        with self._state:
            found = job.found.get(url)
            if isinstance(found, bytes):
                job.found[url] = None
                self._held -= len(found)
                self._taken[url] = found
                self._taken_bytes += len(found)
                while self._taken_bytes > TAKEN and len(self._taken) > 1:
                    self._taken_bytes -= len(self._taken.popitem(last=False)[1])
        self._go_on()
        if isinstance(found, SpenderError):
            raise type(found)(*found.args)
        return found

    def _go_on(self) -> None:
        """Ask for further files, a step of them, as far as may be."""
        for _ in range(STEP):
            with self._state:
                mean = self._came // self._files if self._files else _GUESS
                room = HELD - self._held - self._waiting * mean
                if self._over or self._waiting >= self._most or room <= 0:
                    return
                if self._next == len(self._jobs):
                    return
                job = self._jobs[self._next]
                self._next += 1
                if job.running is None and not job.done.is_open():
                    self._begin(job)

    def _begin(self, job: _Job) -> None:
        """Ask for a file at the next of its places; what goes wrong is for whoever takes it."""
        try:
            self._ask(job)
        except Exception as error:
            self._fail(job, error)

    def _ask(self, job: _Job) -> None:
        if offline():
            _find_cached(job)
            return
        while not self._over:
            url = job.urls[job.at]
            if blocks.is_complete(url):
                break
            if len(job.urls) > job.at + 1 and whole.is_absent(url):
                job.found[url] = _missing(url)
                job.at += 1
                continue
            job.running = fetching.submit(url)
            self._waiting += 1
            job.running.add_done_callback(lambda came: self._arrived(job, came))
            return
        job.done.open()

    def _arrived(self, job: _Job, came: Future[fetching.Fetched]) -> None:
        """Hand what came to the thread that saves it: the network waits for no disk and no lock."""
        try:
            self._saver.submit(self._keep, job, came)
        except RuntimeError as error:  # all is over, or the process ends
            self._fail(job, error)

    def _keep(self, job: _Job, came: Future[fetching.Fetched]) -> None:
        """Save a file, or look for it elsewhere. Whatever goes wrong, nobody waits for ever."""
        with self._state:
            self._waiting -= 1
        try:
            self._take_in(job, came)
        except BaseException as error:
            self._fail(job, error)
        self._go_on()

    def _take_in(self, job: _Job, came: Future[fetching.Fetched]) -> None:
        url = job.urls[job.at]
        try:
            fetched = came.result()
        except MissingFileError as error:
            if job.at + 1 == len(job.urls):
                raise
            whole.note_absent(url)
            with self._state:
                job.found[url] = error
                job.at += 1
                self._begin(job)
            return
        # before anybody has it, so that whoever finds it damaged can remove it
        saved = blocks.save(url, fetched.data, fetched.version)
        size = len(fetched.data)
        with self._state:
            self._came, self._files = self._came + size, self._files + 1
            if saved and self._held > HELD // 4:
                job.found[url] = None  # it can be had from the disk
            else:
                job.found[url] = fetched.data
                self._held += size
        job.done.open()
        job.running = None  # it holds the content, too

    def _fail(self, job: _Job, error: BaseException) -> None:
        url = job.urls[job.at]
        if not isinstance(error, SpenderError):
            error = FileError(f"cannot read {redacted(url)}: {told(error)}")
        job.found[url] = error
        job.done.open()
        job.running = None


def _find_cached(job: _Job) -> None:
    """Where no server can be asked: a place that the cache has counts as the first that exists."""
    there = next((k for k, url in enumerate(job.urls) if blocks.is_complete(url)), None)
    if there is not None:
        job.found.update({url: _missing(url) for url in job.urls[:there]})
    job.done.open()


def _missing(url: str) -> MissingFileError:
    return MissingFileError(f"there is no file {redacted(url)}; check the path, or the root")


def taken(url: str) -> bytes | None:
    """Return a file that is being fetched ahead; None if it is none of those.

    Raises:
        SpenderError: It could not be fetched.
    """
    with _lock:
        knowing = [ahead for ahead in _active if ahead.knows(url)]
    return knowing[-1].take(url) if knowing else None


def _begin_anew() -> None:
    """Forget what the parent fetches: a forked process has none of the threads that would bring it."""
    global _lock
    _lock = threading.Lock()
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
