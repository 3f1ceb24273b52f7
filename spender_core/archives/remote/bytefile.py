"""Files as bytes that are read at any place: on disk, or in memory."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from spender_core.errors import DamagedFileError, FileError

Range = tuple[int, int]
"""Where a part of a file begins and ends, bytes; the end is no longer part of it."""

_LONGEST_READ = 1 << 30
_FIRST_AHEAD, _MOST_AHEAD = 1 << 16, 4 << 20


class ByteFile(Protocol):
    """A file that is open for reading at any place, by any thread.

    Attributes:
        url: Its path or URL, as it was given.
        size: Its size, bytes.
        remote: Whether reading may need the network.
    """

    url: str
    size: int
    remote: bool

    def read_at(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, all of them.

        Raises:
            DamagedFileError: The file ends before, or has become shorter.
        """
        ...

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts; those that must come over the network come at once."""
        ...

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Begin to bring parts that will be read soon; nothing is said of what goes wrong."""
        ...

    def as_file(self) -> Reader:
        """Return it as a file with a position."""
        ...

    def close(self) -> None:
        """Let go of it. Nothing can be read any more."""
        ...


class LocalFile:
    """A file on disk, each part of which is read straight to where it is returned."""

    remote = False

    def __init__(self, path: str) -> None:
        """Open a file.

        Raises:
            FileError: It is no regular file, and may have no end.
        """
        self.url = path
        self._file = -1
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            raise FileError(f"{path} is a folder, not a file; give the files in it")
        if not stat.S_ISREG(kind):
            raise FileError(f"{path} is no regular file, so that it may have no end; make a copy")
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self._file).st_size

    def read_at(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`; see `ByteFile`."""
        check_range(start, stop, self.size)
        if stop - start <= _LONGEST_READ:
            part = os.pread(self._file, stop - start, start)
            if len(part) == stop - start:
                return part
        whole = bytearray(stop - start)
        self.read_into(start, memoryview(whole))
        return bytes(whole)

    def read_into(self, start: int, place: memoryview) -> None:
        """Fill a buffer of bytes with the content from `start` on."""
        check_range(start, start + len(place), self.size)
        done = 0
        while done < len(place):
            part = place[done : done + _LONGEST_READ]
            count = os.preadv(self._file, [part], start + done)
            if count <= 0:
                raise DamagedFileError(
                    f"it has become shorter: byte {start + done} of {self.size} is gone"
                )
            done += count

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts; see `ByteFile`."""
        return [self.read_at(start, stop) for start, stop in ranges]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Do nothing: the system reads ahead by itself."""

    def as_file(self) -> Reader:
        """Return it as a file with a position."""
        return Reader(self)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class MemoryFile:
    """A file whose content is in memory."""

    def __init__(self, url: str, content: bytes, remote: bool = True) -> None:
        self.url, self.size, self.remote = url, len(content), remote
        self._content = content

    def read_at(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`; see `ByteFile`."""
        check_range(start, stop, self.size)
        return self._content[start:stop]

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts; see `ByteFile`."""
        return [self.read_at(start, stop) for start, stop in ranges]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Do nothing: it is all there."""

    def as_file(self) -> Reader:
        """Return it as a file with a position."""
        return Reader(self)

    def close(self) -> None:
        """Forget the content."""
        self._content, self.size = b"", 0


class Reader(io.RawIOBase):
    """A `ByteFile` as a file with a position, e.g. for astropy and gzip.

    Closing it leaves the other open. Where the other is remote and reading goes on where it
    stopped, ever larger parts are asked for at once.
    """

    mode = "rb"

    def __init__(self, file: ByteFile) -> None:
        super().__init__()
        self._file, self._position = file, 0
        self._end, self._ahead = -1, 0
        self.size, self.remote = file.size, file.remote

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, bytes from the start."""
        return self._position

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + place < 0:
            raise ValueError(f"cannot move to byte {base + place}, before the start")
        self._position = base + place
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        """Return the next bytes: all that are left, or at most `count`."""
        start = min(self._position, self.size)
        left = self.size - start
        stop = start + (left if count is None or count < 0 else min(count, left))
        if self.remote and stop > start:
            self._look_ahead(start, stop)
        part = self._file.read_at(start, stop)
        self._position = max(self._position, stop)
        return part

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read(-1)

    def readinto(self, place: object) -> int:
        """Fill a buffer with the next bytes, and return how many there were."""
        view = memoryview(place).cast("B")  # type: ignore[arg-type]
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)

    def _look_ahead(self, start: int, stop: int) -> None:
        going_on = start <= self._end <= stop
        self._ahead = min(max(2 * self._ahead, _FIRST_AHEAD), _MOST_AHEAD) if going_on else 0
        self._end = stop
        self._file.prefetch([(start, min(max(stop, start + self._ahead), self.size))])


def check_range(start: int, stop: int, size: int) -> None:
    """Refuse a part that is not in the file.

    Raises:
        DamagedFileError: It goes beyond the end.
    """
    if not 0 <= start <= stop <= size:
        raise DamagedFileError(f"bytes {start} to {stop} are not in it, it has {size}: truncated?")
