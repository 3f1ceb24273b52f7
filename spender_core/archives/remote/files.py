"""Files wherever they are, as bytes: opened by path or URL, read in parts through the cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress

import numpy as np

from spender_core.archives.location import is_remote, normal, offline, redacted
from spender_core.archives.remote import ahead, blocks, fetching, keeping, whole
from spender_core.archives.remote.ahead import Ahead
from spender_core.archives.remote.blocks import BLOCK
from spender_core.archives.remote.bytefile import (
    ByteFile,
    LocalFile,
    MemoryFile,
    Range,
    Reader,
    check_range,
)
from spender_core.archives.remote.hosts import NoPartsError
from spender_core.errors import FileError, MissingFileError, OfflineError, SpenderError

__all__ = ["Ahead", "ByteFile", "LocalFile", "MemoryFile", "Range", "Reader", "open_bytes"]

FIRST = 4 * BLOCK
"""Bytes of the first request for a file, which tells how long it is."""

LONGEST = 4 << 20
"""Bytes that one request asks for at most; several at once are faster, and less is lost of one."""

GAP = 1
"""Blocks that are fetched though nobody asked for them, where that saves a request."""

SPARE = 4 << 20
SPARE_WITHOUT_DISK = 256 << 20
"""Bytes of blocks that an open file keeps in memory, and where nothing is kept on disk."""

_Run = tuple[int, int]


@contextmanager
def open_bytes(url: str) -> Iterator[ByteFile]:
    """Open a file by its path or URL.

    Raises:
        MissingFileError: The file does not exist.
        FileError: It cannot be read.
        OfflineError: Its server cannot be reached; or SPENDER_OFFLINE is set, and what is
            needed of it is not in the cache.
    """
    file = _open(normal(url))
    try:
        yield file
    finally:
        file.close()


def _open(url: str) -> ByteFile:
    if not is_remote(url):
        return LocalFile(url)
    content = ahead.taken(url)
    if content is not None:
        return MemoryFile(url, content)
    kept = whole.load(url)
    if kept is not None:
        return MemoryFile(url, kept.content)
    entry = blocks.Entry.open(url)
    if entry is not None:
        return RemoteFile(url, entry.size, entry.version, entry)
    if offline():
        if whole.is_absent(url, ever=True):
            raise MissingFileError(f"there was no file {redacted(url)}, when it was last asked for")
        raise _not_there(url, "it")
    try:
        fetched = fetching.submit(url, 0, FIRST).result()
    except MissingFileError:
        whole.note_absent(url)
        raise
    if fetched.start == 0 and len(fetched.data) == fetched.size:
        blocks.save(url, fetched.data, fetched.version)
        keeping.tell()
        return MemoryFile(url, fetched.data)
    if fetched.start != 0 or fetched.size < len(fetched.data):
        fetched = fetching.submit(url).result()
        blocks.save(url, fetched.data, fetched.version)
        return MemoryFile(url, fetched.data)
    entry = blocks.Entry.create(url, fetched.size, fetched.version)
    file = RemoteFile(url, fetched.size, fetched.version, entry)
    file.put(fetched)
    return file


def forget(url: str) -> None:
    """Remove what the cache has of a file that turned out to be damaged."""
    url = normal(url)
    if is_remote(url) and not offline():
        with suppress(OSError):
            whole.path_of(url, "whole").unlink(missing_ok=True)
            blocks.drop(url)


def _not_there(url: str, what: str) -> OfflineError:
    return OfflineError(
        f"SPENDER_OFFLINE is set, and {what} of {redacted(url)} is not in the cache, "
        f"{keeping.folder()}: unset it, or read it from a local copy"
        if what != "it"
        else f"SPENDER_OFFLINE is set, and {redacted(url)} is not in the cache, {keeping.folder()}: "
        "unset it, or read it from a local copy"
    )


class RemoteFile:
    """A large file on a server, of which blocks are fetched as they are needed.

    Attributes:
        url: Its URL.
        size: Its size, bytes.
        version: What its server calls the version that is read; no other one is mixed in.
    """

    remote = True

    def __init__(self, url: str, size: int, version: str, entry: blocks.Entry | None) -> None:
        self.url, self.size, self.version = url, size, version
        self._entry = entry
        self._spare: OrderedDict[int, bytes | memoryview] = OrderedDict()
        self._room = (SPARE if entry is not None else SPARE_WITHOUT_DISK) // BLOCK
        self._flying: dict[Future[fetching.Fetched], _Run] = {}
        self._lock = threading.RLock()

    def read_at(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`; see `ByteFile`."""
        return self.read_ranges([(start, stop)])[0]

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts; see `ByteFile`."""
        for start, stop in ranges:
            check_range(start, stop, self.size)
        with self._lock:
            parts = self._parts(_blocks(ranges))
            return [_joined(parts, start, stop) for start, stop in ranges]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Begin to fetch parts; see `ByteFile`."""
        if offline():
            return
        with self._lock:
            wanted = np.fromiter(_blocks(ranges), np.int64)
            self._ask(self._absent(wanted)[: max(self._room, SPARE_WITHOUT_DISK // BLOCK)])

    def as_file(self) -> Reader:
        """Return it as a file with a position."""
        return Reader(self)

    def close(self) -> None:
        """Let go of it; what has come and was not yet read is kept on disk."""
        with self._lock:
            for one in list(self._flying):
                one.cancel()
                if one.done() and not one.cancelled():
                    with suppress(SpenderError):
                        self.put(one.result())
            self._flying.clear()
            self._spare.clear()
            if self._entry is not None:
                self._entry.close()
            self._entry = None
        keeping.tell()

    def put(self, fetched: fetching.Fetched) -> dict[int, memoryview]:
        """Take blocks that came, keep them on disk if that can be, and return them.

        Raises:
            ChangedError: They are of another version of the file.
            FileError: They are not what was asked for.
        """
        resized = fetched.size not in (-1, self.size)
        if (resized and not self.version) or (
            self.version and fetched.version and fetched.version != self.version
        ):
            self._drop()
            raise fetching.ChangedError(
                f"{redacted(self.url)} changed while it was read, or machines of its server do not "
                "agree on its version; read it again, or download it and read the copy"
            )
        if resized or fetched.start % BLOCK:
            raise FileError(
                f"cannot read {redacted(self.url)}: its server sent something else than a part of it "
                f"({len(fetched.data)} bytes); try again later"
            )
        stop = fetched.start + len(fetched.data)
        usable = len(fetched.data) if stop == self.size else len(fetched.data) // BLOCK * BLOCK
        view, first = memoryview(fetched.data)[:usable], fetched.start // BLOCK
        if self._entry is None or not self._entry.write(first, view):
            self._room = SPARE_WITHOUT_DISK // BLOCK
        parts = {first + k // BLOCK: view[k : k + BLOCK] for k in range(0, usable, BLOCK)}
        self._keep(parts)
        return parts

    def _parts(self, wanted: Sequence[int]) -> dict[int, bytes | memoryview]:
        """Return blocks: from memory, from disk, and the rest from the server, all at once."""
        parts: dict[int, bytes | memoryview] = {}
        for block in wanted:
            if block in self._spare:
                self._spare.move_to_end(block)
                parts[block] = self._spare[block]
        left = [block for block in wanted if block not in parts]
        read = self._from_disk(left)
        parts |= read
        self._keep(read)
        left = [block for block in left if block not in parts]
        if left:
            self._fetch(left, parts)
        return parts

    def _fetch(self, left: list[int], parts: dict[int, bytes | memoryview]) -> None:
        """Add blocks from the server to those that are there."""
        if offline():
            raise _not_there(self.url, f"byte {left[0] * BLOCK} and {len(left) - 1} more blocks")
        self._ask([block for block in left if not self._in_flight(block)])
        need = set(left)
        awaited = [
            one
            for one, (first, stop) in self._flying.items()
            if not need.isdisjoint(range(first, stop))
        ]
        try:
            for one in as_completed(awaited):
                self._flying.pop(one, None)
                fetched = self._part_or_whole(one)
                parts.update(self.put(fetched))
                if len(fetched.data) == self.size:
                    self._cancel()
                    break
        except SpenderError as error:
            if isinstance(error, fetching.ChangedError):
                self._drop()
            raise
        missing = [block for block in left if block not in parts]
        if missing:
            raise FileError(
                f"cannot read {redacted(self.url)}: its server sent less than was asked for, from byte "
                f"{missing[0] * BLOCK} on"
            )

    def _part_or_whole(self, part: Future[fetching.Fetched]) -> fetching.Fetched:
        """Return a part that comes, or all of the file once, if its server sends no parts."""
        try:
            return part.result()
        except NoPartsError:
            self._cancel()
            return fetching.submit(self.url, version=self.version).result()

    def _cancel(self) -> None:
        for one in self._flying:
            one.cancel()
        self._flying.clear()

    def _ask(self, absent: Sequence[int]) -> None:
        for first, stop in _runs(absent):
            end = min(stop * BLOCK, self.size)
            self._flying[fetching.submit(self.url, first * BLOCK, end, self.version)] = (
                first,
                stop,
            )

    def _absent(self, wanted: np.ndarray) -> list[int]:
        """Return which blocks are neither there nor on their way."""
        left = [b for b in wanted.tolist() if b not in self._spare and not self._in_flight(b)]
        if self._entry is None or not left:
            return left
        there = self._entry.has(left[0], left[-1] + 1)
        return [block for block in left if not there[block - left[0]]]

    def _in_flight(self, block: int) -> bool:
        return any(first <= block < stop for first, stop in self._flying.values())

    def _from_disk(self, left: list[int]) -> dict[int, memoryview]:
        if self._entry is None:
            return {}
        found: dict[int, memoryview] = {}
        for first, stop in _runs(left, gap=0, longest=1 << 62):
            found |= self._entry.read(first, stop)
        return found

    def _keep(self, parts: dict[int, memoryview]) -> None:
        """Keep blocks in memory, copies of them, unless they are many that the disk has."""
        if len(parts) > self._room and self._room <= SPARE // BLOCK:
            return
        for block, part in parts.items():
            self._spare[block] = bytes(part)
            self._spare.move_to_end(block)
        while len(self._spare) > self._room:
            self._spare.popitem(last=False)

    def _drop(self) -> None:
        """Forget what is on disk, if it is of the version that is read."""
        entry, self._entry = self._entry, None
        if entry is not None:
            blocks.drop_same(self.url, entry)
            entry.close()
        self._spare.clear()


def _blocks(ranges: Iterable[Range]) -> list[int]:
    """Return the numbers of the blocks that hold parts of a file, in order."""
    runs = [range(a // BLOCK, -(-b // BLOCK)) for a, b in ranges if b > a]
    if len(runs) == 1:
        return list(runs[0])
    return sorted({block for run in runs for block in run})


def _runs(wanted: Sequence[int], gap: int = GAP, longest: int = LONGEST // BLOCK) -> list[_Run]:
    """Return requests for blocks: runs of them, joined over small gaps, none too long."""
    runs: list[_Run] = []
    for block in wanted:
        if runs and block - runs[-1][1] <= gap and block + 1 - runs[-1][0] <= longest:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs


def _joined(parts: dict[int, bytes | memoryview], start: int, stop: int) -> bytes:
    """Return the bytes from `start` to `stop` of the blocks that hold them."""
    first, last = start // BLOCK, -(-stop // BLOCK)
    pieces = [parts[block] for block in range(first, last)] if stop > start else []
    if pieces:
        pieces[-1] = memoryview(pieces[-1])[: stop - (last - 1) * BLOCK]
        pieces[0] = memoryview(pieces[0])[start - first * BLOCK :]
    return b"".join(pieces)
