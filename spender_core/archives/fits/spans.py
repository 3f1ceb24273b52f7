"""Rows of arrays in files: which are wanted, where they are, and how they come together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.remote.bytefile import ByteFile, Range, check_range
from spender_core.errors import InputError

Chosen = slice | Sequence[int] | NDArray[np.integer[Any]] | None
"""Rows by number, in any order; None for all."""

Raw = NDArray[np.uint8]

GAP = 4096
"""Bytes between two parts of a file that are read too, so that both come in one."""


class Parts:
    """The parts of an open file; those brought ahead are kept until they are read."""

    def __init__(self, file: ByteFile, whole: bytes | None = None) -> None:
        self.file, self.size = file, file.size
        self._whole = whole
        self._held: dict[Range, bytes] = {}

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from one place to another."""
        if self._whole is not None:
            check_range(start, stop, self.size)
            return self._whole[start:stop]
        held = self._held.pop((start, stop), None)
        return self.file.read_at(start, stop) if held is None else held

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several parts, which come at once."""
        if len(ranges) == 1 or self._whole is not None:
            return [self.read(*one) for one in ranges]
        if not self._held:
            return self.file.read_ranges(ranges)
        missing = [one for one in ranges if one not in self._held]
        got = iter(self.file.read_ranges(missing) if missing else [])
        return [self._held.pop(one) if one in self._held else next(got) for one in ranges]

    def hold(self, ranges: Sequence[Range]) -> None:
        """Bring parts, all at once, and keep each until it is read."""
        if self._whole is None:
            missing = [one for one in dict.fromkeys(ranges) if one not in self._held]
            if missing:
                self._held |= zip(missing, self.file.read_ranges(missing), strict=True)


@dataclass(frozen=True)
class Rows:
    """Rows of an array, or parts of it that are read together.

    Attributes:
        first: Number of the first one.
        last: Number of the one after the last.
        index: Their numbers, if they are not all between.
    """

    first: int
    last: int
    index: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.last - self.first if self.index is None else len(self.index)

    def spans(self, width: int) -> list[tuple[int, int]]:
        """Return the first and last rows of the parts that are read, for rows of some bytes."""
        if self.index is None:
            return [(self.first, self.last)] if self.last > self.first else []
        if len(self.index) == 0:
            return []
        rows = np.unique(self.index)
        breaks = np.flatnonzero((np.diff(rows) - 1) * width > GAP)
        firsts, lasts = rows[np.r_[0, breaks + 1]], rows[np.r_[breaks, len(rows) - 1]] + 1
        return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

    def ranges(self, start: int, width: int) -> list[Range]:
        """Return the parts of the file that hold them; the array begins at a place."""
        return [(start + a * width, start + b * width) for a, b in self.spans(width)]

    def chunks(self, most: int) -> list[tuple[int, Rows]]:
        """Split them, at most so many together; each part with its place among them."""
        if len(self) <= most:
            return [(0, self)]
        if self.index is None:
            starts = range(self.first, self.last, most)
            return [(k - self.first, Rows(k, min(k + most, self.last))) for k in starts]
        starts = range(0, len(self.index), most)
        return [(k, Rows(self.first, self.last, self.index[k : k + most])) for k in starts]


def chosen(rows: Chosen, total: int) -> Rows:
    """Return the wanted rows of an array that has some in total.

    Raises:
        InputError: One is not among them.
    """
    if rows is None:
        return Rows(0, total)
    if isinstance(rows, slice):
        first, last, step = rows.indices(total)
        if step == 1:
            return Rows(first, max(first, last))
        rows = np.arange(first, last, step)
    index = np.asarray(rows)
    if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
        raise InputError(f"rows must be a slice or whole numbers, got {rows!r:.80}")
    index = index.astype(np.int64)
    if index.size and not (index.min() >= 0 and index.max() < total):
        raise InputError(f"rows must be between 0 and {total - 1}, got {rows!r:.80}")
    if index.size and index[-1] - index[0] == index.size - 1 and (np.diff(index) == 1).all():
        return Rows(int(index[0]), int(index[-1]) + 1)
    return Rows(0, total, index)


def gather(parts: Parts, start: int, width: int, rows: Rows) -> Raw:
    """Return rows as bytes, shape (rows, width); of one part of the file, a view of it.

    Args:
        parts: The file.
        start: Where the array begins.
        width: Bytes of a row.
        rows: The rows.
    """
    spans = rows.spans(width)
    contents = parts.read_many(rows.ranges(start, width))
    if rows.index is None:
        content = contents[0] if contents else b""
        return np.frombuffer(content, dtype=np.uint8).reshape(len(rows), width)
    order = np.argsort(rows.index, kind="stable")
    ordered = rows.index[order]
    result = np.empty((len(rows), width), dtype=np.uint8)
    for (first, last), content in zip(spans, contents, strict=True):
        some = slice(*np.searchsorted(ordered, (first, last)))
        part = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
        result[order[some]] = part[ordered[some] - first]
    return result
