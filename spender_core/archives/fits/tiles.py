"""Compressed images and arrays of variable length in FITS files, checked before they are read.

What decompresses them trusts what it is given: a stream of gzip may expand a thousand times,
and a damaged one of Rice is followed beyond its end. So each is followed here first.
Section 10 of the FITS standard 4.0 describes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import DamagedFileError

Integers = NDArray[np.int64]

STEP = 1 << 17
"""Bytes of a file that are looked at together."""

LARGEST = 1 << 15
"""Pixels of the largest tile."""

GZIP = ("GZIP_1", "GZIP_2")
RICE = ("RICE_1", "RICE_ONE")

_RICE_BITS = {1: (3, 6), 2: (4, 14), 4: (5, 25)}
"""By bytes of a pixel: bits of a block's code, and the code less 1 of pixels stored as they are."""


class Column(NamedTuple):
    """A column of a table: its type's letter, elements, place in a row (bytes).

    For arrays of variable length, `item` is the size of their elements, bytes.
    """

    name: str
    kind: str
    repeat: int
    offset: int
    item: int = 0

    @property
    def variable(self) -> bool:
        """Whether its cells point to arrays in the heap."""
        return self.kind in "PQ" and self.repeat > 0


@dataclass(frozen=True)
class Heap:
    """A table whose cells may point to its heap; places in the file in bytes."""

    number: int
    start: int
    width: int
    rows: int
    heap: int
    size: int
    columns: tuple[Column, ...]

    def check(self, file: BinaryIO) -> dict[str, tuple[Integers, Integers]]:
        """Return the counts and offsets of all arrays, by column, once they fit the heap.

        Raises:
            DamagedFileError: They lie outside of the heap, or overlap.
        """
        found, total = {}, 0
        for column in self.columns:
            if not column.variable:
                continue
            counts, offsets = self._descriptors(file, column)
            lengths = counts * column.item
            if (counts < 0).any() or (offsets < 0).any() or (counts > self.size).any():
                raise DamagedFileError(f"HDU {self.number} points outside of its heap")
            # the sum may overflow
            if ((offsets > self.size - lengths) & (lengths > 0)).any():
                raise DamagedFileError(f"HDU {self.number} points outside of its heap")
            total += int(lengths.sum())
            found[column.name.upper()] = counts, offsets
        if total > self.size:
            raise DamagedFileError(f"arrays of HDU {self.number} overlap in its heap")
        return found

    def _descriptors(self, file: BinaryIO, column: Column) -> tuple[Integers, Integers]:
        kind = np.dtype(">i4" if column.kind == "P" else ">i8")
        pairs = np.empty((self.rows, 2), dtype=np.int64)
        step = max(STEP // self.width, 1)
        for first in range(0, self.rows, step):
            rows = min(step, self.rows - first)
            file.seek(self.start + first * self.width)
            raw = np.frombuffer(file.read(rows * self.width), np.uint8).reshape(rows, -1)
            cells = raw[:, column.offset : column.offset + 2 * kind.itemsize]
            pairs[first : first + rows] = np.ascontiguousarray(cells).view(kind)
        return pairs[:, 0], pairs[:, 1]

    def read(self, file: BinaryIO, count: int, offset: int) -> bytes:
        """Return bytes of the heap."""
        file.seek(self.start + self.heap + offset)
        return file.read(count)


@dataclass(frozen=True)
class Tiles:
    """How an image is compressed: sizes along each axis, the first one fastest."""

    method: str
    image: tuple[int, ...]
    tile: tuple[int, ...]
    block: int
    pixel: int
    """Pixels of a block and bytes of a pixel, for Rice."""

    @property
    def pixels(self) -> Integers:
        """Pixels of each tile, in the order of the table's rows."""
        edges = [
            [min(tile, size - first) for first in range(0, size, tile)]
            for size, tile in zip(self.image, self.tile, strict=True)
        ]
        sizes = [int(np.prod(lengths)) for lengths in product(*reversed(edges))]
        return np.array(sizes, dtype=np.int64)


def check_tiles(file: BinaryIO, table: Heap, tiles: Tiles) -> None:
    """Refuse a compressed image whose tiles do not hold exactly what they should.

    Raises:
        DamagedFileError: A tile is missing, damaged, or expands to more than its pixels.
    """
    arrays, pixels = table.check(file), tiles.pixels
    if table.rows != len(pixels) or "COMPRESSED_DATA" not in arrays:
        raise DamagedFileError(
            f"HDU {table.number} has {table.rows} tiles, and should have {len(pixels)}"
        )
    counts, offsets = arrays["COMPRESSED_DATA"]
    there = counts > 0
    if tiles.method in RICE:
        for rows in _groups(np.flatnonzero(there), counts):
            streams = [table.read(file, int(counts[row]), int(offsets[row])) for row in rows]
            if not follow_rice(streams, pixels[rows], tiles.block, tiles.pixel):
                raise DamagedFileError(f"a compressed tile of HDU {table.number} is damaged")
    elif tiles.method in GZIP:
        _check_gzip(file, table, (counts, offsets), pixels)
    if "GZIP_COMPRESSED_DATA" in arrays:
        _check_gzip(file, table, arrays["GZIP_COMPRESSED_DATA"], pixels)


def _groups(rows: Integers, counts: Integers) -> Iterator[Integers]:
    """Split rows so that each group has some `STEP` bytes."""
    place = np.cumsum(counts[rows]) // STEP
    for group in np.unique(place):
        yield rows[place == group]


def _check_gzip(
    file: BinaryIO, table: Heap, arrays: tuple[Integers, Integers], pixels: Integers
) -> None:
    for count, offset, most in zip(*map(np.ndarray.tolist, (*arrays, pixels)), strict=True):
        if count == 0:
            continue
        inflater = zlib.decompressobj(31)
        try:
            size = len(
                inflater.decompress(table.read(file, int(count), int(offset)), int(8 * most))
            )
        except zlib.error as error:
            raise DamagedFileError(
                f"a compressed tile of HDU {table.number} is damaged: {error}"
            ) from error
        if not inflater.eof or inflater.unused_data or size not in [most * n for n in (1, 2, 4, 8)]:
            raise DamagedFileError(
                f"a compressed tile of HDU {table.number} does not hold its {most} pixels"
            )


def follow_rice(streams: list[bytes], pixels: Integers, block: int, pixel: int) -> bool:
    """Tell whether streams of Rice hold their pixels, following all of them together.

    The coding is that of Pence, White & Seaman (2010, PASP 122, 1065). Each block begins with
    a code of its own: 0 for pixels like the last one; the largest for pixels as they are; else
    each is a number of 0s, a 1, and code - 1 bits.

    Args:
        streams: The compressed tiles.
        pixels: Pixels of each, shape (number of streams,).
        block: Pixels of a block.
        pixel: Bytes of a pixel: 1, 2 or 4.
    """
    width, plain = _RICE_BITS[pixel]
    lengths = np.array([len(stream) for stream in streams], dtype=np.int64)
    bits = np.unpackbits(np.frombuffer(b"".join(streams) + bytes(2), dtype=np.uint8))
    beyond = len(bits)
    ones = np.append(np.flatnonzero(bits), beyond)
    ends = 8 * np.cumsum(lengths)
    place = ends - 8 * lengths + 8 * pixel
    left, powers = pixels.copy(), 1 << np.arange(width)[::-1]
    while left.any():
        if (place + width > ends)[left > 0].any():
            return False
        now = np.minimum(left, block)
        at = np.minimum(place, beyond - width)[:, None] + np.arange(width)
        code = bits[at] @ powers - 1
        place = np.where(now > 0, place + width, place)
        place += np.where(code == plain, now * 8 * pixel, 0)
        coded = np.flatnonzero((code >= 0) & (code != plain) & (now > 0))
        for step in range(int(now[coded].max()) if len(coded) else 0):
            rows = coded[now[coded] > step]
            place[rows] = ones[np.searchsorted(ones[:-1], place[rows])] + 1 + code[rows]
        if (place > ends).any():
            return False
        left -= now
    return True
