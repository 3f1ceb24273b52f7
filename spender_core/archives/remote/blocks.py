"""The cache of archive files on disk: whole small files, and the parts of large ones by blocks.

Blocks are written to a sparse file, and then noted in an index: 8 bytes a block, its CRC-32 and a
check of the note itself. Whatever is interrupted leaves a block without a note, or a note that does not
fit its block; either counts as absent, and so does all that a disk or a person damaged. An entry holds
one version of a file. Another version gets new files, so that whoever reads the old one goes on with it.
Nothing is forced to the disk: a note that reached it before its block is found out by the CRC.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.location import redacted
from spender_core.archives.remote import keeping, whole
from spender_core.archives.remote.keeping import reused

__all__ = ["BLOCK", "SMALL", "Entry", "drop", "reused", "save"]

BLOCK = 16 << 10
"""Bytes of a block.

Of a coadd of 500 targets (208 MB), one target and its redshift need 0.64, 0.74, 0.90, 1.25, 1.97 MB in
38, 36, 33, 31, 29 requests with blocks of 4, 8, 16, 32, 64 KiB.
"""

SMALL = 1 << 20
"""Bytes of the largest file that is kept whole, in one file."""

_HEADER = 4096
_LARGEST_FILE = 1 << 46


def save(url: str, content: bytes, version: str) -> bool:
    """Keep a file, by blocks unless it is small; tell whether it could be done."""
    if len(content) <= SMALL:
        return whole.save(url, content, version)
    entry = Entry.open(url)
    if entry is not None and (entry.size, entry.version) != (len(content), version):
        entry.close()
        entry = None
    if entry is None:
        entry = Entry.create(url, len(content), version)
    if entry is None:
        return False
    with entry:
        return entry.write(0, content)


def is_complete(url: str) -> bool:
    """Tell whether all of a file is kept, without a look at whether it is undamaged."""
    if whole.is_kept(url):
        return True
    entry = Entry.open(url)
    if entry is None:
        return False
    with entry:
        return bool(entry.has(0, -(-entry.size // BLOCK)).all())


class Entry:
    """The blocks that are there of one version of a file.

    Attributes:
        size: Bytes of the whole file.
        version: What its server called the version.
    """

    def __init__(self, url: str, told: dict[str, Any], index: int, content: int) -> None:
        self.size, self.version = int(told["size"]), str(told["version"])
        self._nonce = int(str(told["nonce"]), 16)
        self._stem = str(whole.place(url))
        self._index, self._content = index, content
        self._lock = threading.Lock()
        self._used = ExitStack()
        self._used.enter_context(keeping.in_use(self._stem))

    @classmethod
    def open(cls, url: str) -> Entry | None:
        """Open what is there of a file, None if nothing is."""
        if not whole.kept(url):
            return None
        path = whole.path_of(url, "index")
        try:
            index = _opened(path)
        except OSError:
            return None
        with suppress(OSError, KeyError, ValueError, TypeError):
            head = whole.told(os.pread(index, _HEADER, 0))
            told = head[0] if head else {}
            ours = told["key"] == whole.key_of(url) and str(told["version"])
            if ours and 0 < int(told["size"]) < _LARGEST_FILE:
                blocks = whole.path_of(url, f"{int(str(told['nonce']), 16):016x}.blocks")
                content = _opened(blocks)
                with suppress(OSError):
                    os.utime(path)
                return cls(url, told, index, content)
        os.close(index)
        return None

    @classmethod
    def create(cls, url: str, size: int, version: str) -> Entry | None:
        """Make an empty entry, in place of that of another version; None if that cannot be.

        Without a version, parts of different versions could not be told apart.
        """
        if not version or not whole.kept(url) or not keeping.admits(2 * _HEADER):
            return None
        with suppress(OSError):
            drop(url)
        nonce = secrets.token_hex(8)
        facts = {"size": size, "version": version, "nonce": nonce}
        told = whole.head(url=redacted(url)[:2000], key=whole.key_of(url), **facts)
        if len(told) > _HEADER:
            return None
        blocks = whole.path_of(url, f"{nonce}.blocks")
        try:
            whole.create(blocks, b"")
        except OSError as error:
            keeping.give_up(error)
            return None
        try:
            whole.put(whole.path_of(url, "index"), told.ljust(_HEADER, b"\0"), replace=False)
        except OSError:  # the disk is full, or another process has just made the same
            blocks.unlink(missing_ok=True)
        made = cls.open(url)
        if made is not None and (made.size, made.version) != (size, version):
            made.close()
            return None
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._used.close()
            for file in (self._index, self._content):
                if file >= 0:
                    os.close(file)
            self._index = self._content = -1

    def is_same(self, other: Entry) -> bool:
        """Tell whether another has the same files."""
        return self._nonce == other._nonce

    def has(self, first: int, stop: int) -> NDArray[np.bool_]:
        """Return which of the blocks from `first` to `stop` are noted, (stop - first,)."""
        return self._notes(first, stop) >= 0

    def read(self, first: int, stop: int) -> dict[int, memoryview]:
        """Return those of the blocks from `first` to `stop` that are there and undamaged."""
        notes = self._notes(first, stop)
        there = np.flatnonzero(notes >= 0)
        found: dict[int, memoryview] = {}
        for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1) if len(there) else []:
            start = first + int(run[0])
            with suppress(OSError):
                length = min((start + len(run)) * BLOCK, self.size) - start * BLOCK
                content = memoryview(os.pread(self._content, length, start * BLOCK))
                for k, note in enumerate(notes[run].tolist()):
                    part = content[k * BLOCK : (k + 1) * BLOCK]
                    if len(part) == self._length(start + k) and zlib.crc32(part) == note:
                        found[start + k] = part
        keeping.note_reuse(sum(map(len, found.values())))
        return found

    def write(self, first: int, content: bytes | memoryview) -> bool:
        """Keep the blocks from `first` on; tell whether it could be done.

        Args:
            first: Number of a block.
            content: Whole blocks, of which only the last of the file may be shorter.
        """
        view = memoryview(content)
        count = -(-len(view) // BLOCK)
        if not keeping.admits(len(view) + 8 * count):
            return False
        parts = [view[k * BLOCK : (k + 1) * BLOCK] for k in range(count)]
        if not parts or len(parts[-1]) != self._length(first + count - 1):
            return False
        crcs = np.array([zlib.crc32(part) for part in parts], np.uint32)
        notes = np.empty((count, 2), "<u4")
        notes[:, 0], notes[:, 1] = crcs, self._check(first, crcs)
        try:
            with self._lock:
                whole.write_all(self._content, view, first * BLOCK)
                whole.write_all(self._index, notes.tobytes(), _HEADER + 8 * first)
        except OSError as error:
            if self._content >= 0:
                keeping.give_up(error)
            return False
        return True

    def _length(self, block: int) -> int:
        return min(self.size - block * BLOCK, BLOCK)

    def _notes(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return the CRC-32 of each block from `first` to `stop`, -1 where it is absent."""
        try:
            content = os.pread(self._index, 8 * (stop - first), _HEADER + 8 * first)
        except OSError:
            content = b""
        notes = np.frombuffer(content.ljust(8 * (stop - first), b"\0"), "<u4").reshape(-1, 2)
        good = notes[:, 1] == self._check(first, notes[:, 0])
        return np.where(good & notes.any(axis=1), notes[:, 0].astype(np.int64), -1)

    def _check(self, first: int, crcs: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return a check of notes, by the finaliser of splitmix64 (Steele et al. 2014)."""
        block = np.arange(first, first + len(crcs), dtype=np.uint64)
        mixed = (block << np.uint64(32)) ^ crcs.astype(np.uint64) ^ np.uint64(self._nonce)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(32)).astype(np.uint32)


def drop(url: str) -> None:
    """Remove an entry. Whoever reads it goes on.

    Raises:
        OSError: It is not there, or cannot be removed.
    """
    index = whole.path_of(url, "index")
    index.unlink()
    for path in index.parent.glob(f"{index.stem}.*.blocks"):
        path.unlink(missing_ok=True)


def drop_same(url: str, entry: Entry) -> None:
    """Remove an entry, unless another process has put that of another version in its place."""
    with suppress(OSError):
        now = Entry.open(url)
        if now is not None:
            with now:
                if now.is_same(entry):
                    drop(url)


def _opened(path: Path) -> int:
    """Open a file for reading and writing, or else only for reading.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY)
