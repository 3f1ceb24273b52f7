"""Compressed images of whole numbers in FITS files, of which any rows are read by themselves.

Section 10 of the FITS standard 4.0 describes them. Read here are those with a tile for each line of
pixels, as surveys write their masks; of others astropy reads the whole.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from spender_core.archives.fits.claims import BLOCK, Claim, columns_of, heap_of, tiles_of
from spender_core.archives.fits.headers import Header
from spender_core.archives.fits.pixels import Scale, scale_of
from spender_core.archives.fits.spans import GAP, Parts, Rows, gather
from spender_core.archives.fits.tiles import GZIP, RICE, Column, Heap, Tiles, check_tiles
from spender_core.archives.remote.bytefile import Range
from spender_core.errors import DamagedFileError

Integers = NDArray[np.int64]

_ELSEWHERE = frozenset(("ZSCALE", "ZZERO", "ZBLANK", "NULL_PIXEL_MASK"))
"""Columns, or keywords, of images that only astropy reads here: floats that were quantised."""


class NotLinesError(Exception):
    """An image is not compressed line by line, or in a way that only astropy reads."""


@dataclass
class Lines:
    """An image of which each line of pixels is a tile of its own.

    Attributes:
        heap: The table that points to the tiles.
        tiles: How they are compressed.
        shape: Shape of the image, in numpy's order.
        scale: How stored values become physical ones.
        column: The column that points to the tiles.
    """

    heap: Heap
    tiles: Tiles
    shape: tuple[int, ...]
    scale: Scale
    column: Column
    _pointers: tuple[Integers, Integers] | None = None

    @property
    def pixels(self) -> int:
        """Pixels of a line."""
        return self.shape[-1]

    @property
    def lines(self) -> int:
        """Lines of a row, which is what the first axis counts."""
        return math.prod(self.shape[1:-1])

    @property
    def table(self) -> Range:
        """The part of the file that points to the tiles."""
        return self.heap.start, self.heap.start + self.heap.width * self.heap.rows

    def places(self, parts: Parts, rows: Rows) -> tuple[Integers, Integers]:
        """Return lengths and offsets in the heap of the tiles of some rows, bytes.

        Raises:
            DamagedFileError: They lie outside of the heap, or all tiles together do not fit it.
            NotLinesError: One is elsewhere.
        """
        if self._pointers is None:
            self._pointers = self._read_pointers(parts)
        counts, offsets = self._pointers
        wanted = slice(rows.first * self.lines, rows.last * self.lines)
        if rows.index is None:
            counts, offsets = counts[wanted], offsets[wanted]
        else:
            lines = (rows.index[:, None] * self.lines + np.arange(self.lines)).ravel()
            counts, offsets = counts[lines], offsets[lines]
        if (counts == 0).any():
            raise NotLinesError
        return counts, offsets

    def _read_pointers(self, parts: Parts) -> tuple[Integers, Integers]:
        heap = self.heap
        raw = gather(parts, heap.start, heap.width, Rows(0, heap.rows))
        pair = np.dtype(">i4" if self.column.kind == "P" else ">i8")
        cells = raw[:, self.column.offset : self.column.offset + 2 * pair.itemsize]
        pairs = np.ascontiguousarray(cells).view(pair).astype(np.int64)
        counts, offsets = pairs[:, 0], pairs[:, 1]
        if ((counts < 0) | (offsets < 0) | (counts > heap.size)).any():
            raise DamagedFileError(f"HDU {heap.number} points outside of its heap")
        if ((offsets > heap.size - counts) & (counts > 0)).any():  # the sum may overflow
            raise DamagedFileError(f"HDU {heap.number} points outside of its heap")
        if int(counts.sum()) > heap.size:
            raise DamagedFileError(f"arrays of HDU {heap.number} overlap in its heap")
        return counts, offsets

    def ranges(self, counts: Integers, offsets: Integers) -> tuple[list[Range], Integers]:
        """Return the parts of the file that hold tiles, and where each begins in them together."""
        start = self.heap.start + self.heap.heap
        order = np.argsort(offsets, kind="stable")
        first, last = offsets[order], np.maximum.accumulate((offsets + counts)[order])
        breaks = np.flatnonzero(first[1:] > last[:-1] + GAP) + 1
        begins, ends = first[np.r_[0, breaks]], last[np.r_[breaks - 1, len(last) - 1]]
        before = np.cumsum(ends - begins) - (ends - begins)
        span = np.searchsorted(begins, offsets, side="right") - 1
        places: Any = offsets - begins[span] + before[span]
        ranges = zip((begins + start).tolist(), (ends + start).tolist(), strict=True)
        return list(ranges), places

    def read(self, parts: Parts, rows: Rows, mask: bool = False) -> NDArray[Any]:
        """Return stored values of some rows, in some byte order; or where they are not 0.

        Args:
            parts: The file.
            rows: The rows.
            mask: Return 1 where the physical value is not 0, else 0.

        Raises:
            DamagedFileError: A tile does not hold its pixels.
            NotLinesError: Only astropy can read them.
        """
        shape = (len(rows), *self.shape[1:])
        if math.prod(shape) == 0:
            return np.empty(shape, dtype=np.uint8 if mask else self.scale.stored)
        counts, offsets = self.places(parts, rows)
        ranges, places = self.ranges(counts, offsets)
        content = b"".join(parts.read_many(ranges))
        if self.tiles.method in RICE:
            return self._rice(content, counts, places, mask).reshape(shape)
        found = self._plain(content, counts, places).reshape(shape)
        return self.scale.nonzero(found) if mask else found

    def _rice(self, content: bytes, counts: Integers, places: Integers, mask: bool) -> NDArray[Any]:
        from spender_core.archives.fits.rice import decode

        tiles, zero = self.tiles, self.scale.zero
        if 8 * tiles.pixel != self.scale.bits:
            raise NotLinesError
        only = zero if mask else None
        found = decode(content, places, counts, self.pixels, tiles.block, tiles.pixel, only)
        if found is None:
            raise NotLinesError
        values, bad = found
        if bad.any():
            raise DamagedFileError(f"a compressed tile of HDU {self.heap.number} is damaged")
        return self.scale.nonzero(values) if mask and zero is None else values

    def _plain(self, content: bytes, counts: Integers, places: Integers) -> NDArray[Any]:
        """Return the pixels of tiles compressed by gzip, or not at all."""
        stored = self.scale.stored.newbyteorder(">")
        size = self.pixels * stored.itemsize
        made = np.empty((len(counts), size), dtype=np.uint8)
        known: dict[bytes, int] = {}
        view = memoryview(content)
        for line, (count, place) in enumerate(zip(counts.tolist(), places.tolist(), strict=True)):
            tile = bytes(view[place : place + count])
            # rows without a bad pixel are all the same
            twin = known.setdefault(tile, line)
            if twin == line:
                made[line] = np.frombuffer(self._line(tile, size), dtype=np.uint8)
            else:
                made[line] = made[twin]
        if self.tiles.method == "GZIP_2" and stored.itemsize > 1:
            shuffled = made.reshape(len(counts), stored.itemsize, self.pixels)
            made = np.ascontiguousarray(shuffled.transpose(0, 2, 1)).reshape(len(counts), size)
        return made.view(stored)

    def _line(self, tile: bytes, size: int) -> bytes:
        if self.tiles.method == "NOCOMPRESS":
            content, ended = tile, True
        else:
            inflater = zlib.decompressobj(31)
            try:
                content = inflater.decompress(tile, 8 * self.pixels)
            except zlib.error as error:
                raise DamagedFileError(
                    f"a compressed tile of HDU {self.heap.number} is damaged: {error}"
                ) from error
            ended = inflater.eof and not inflater.unused_data
        if ended and len(content) != size and len(content) in [self.pixels << k for k in range(4)]:
            raise NotLinesError  # stored wider, or narrower, than the image is
        if not ended or len(content) != size:
            raise DamagedFileError(
                f"a compressed tile of HDU {self.heap.number} does not hold its {self.pixels} pixels"
            )
        return content


def image_shape(claim: Claim, size: int) -> tuple[int, ...]:
    """Return the shape of a compressed image.

    Raises:
        DamagedFileError: It claims what the file cannot hold.
    """
    return tuple(reversed(tiles_of(claim, size).image))


def lines_of(claim: Claim, columns: tuple[Column, ...], header: Header, size: int) -> Lines:
    """Return how an image is compressed.

    Args:
        claim: What its HDU claims.
        columns: The columns of its table.
        header: Its header.
        size: Size of the file.

    Raises:
        DamagedFileError: It claims what the file cannot hold.
        NotLinesError: Only astropy can read it.
    """
    tiles, heap = tiles_of(claim, size), heap_of(claim, columns)
    bits, lines = claim.whole("ZBITPIX", low=-64), math.prod(tiles.image[1:])
    if heap.rows != lines and tiles.tile == (tiles.image[0], *[1] * (len(tiles.image) - 1)):
        raise DamagedFileError(f"HDU {claim.number} has {heap.rows} tiles, and should have {lines}")
    places = [column for column in columns if column.name.upper() == "COMPRESSED_DATA"]
    names = {column.name.upper() for column in columns}
    if (
        len(tiles.image) == 1
        or heap.rows != lines
        or math.prod(tiles.tile[1:]) != 1
        or len(places) != 1
        or not places[0].variable
        or places[0].item != 1
        or names & _ELSEWHERE
        or any(name in header for name in _ELSEWHERE)
        or claim.text("ZQUANTIZ") not in ("", "NONE")
        or (bits < 0 and tiles.method not in GZIP)
    ):
        raise NotLinesError
    scale = scale_of(header, bits)
    if scale.blank is not None:
        raise NotLinesError
    return Lines(heap, tiles, tuple(reversed(tiles.image)), scale, places[0])


def by_astropy(parts: Parts, content: bytes, claim: Claim, rows: Rows) -> NDArray[Any]:
    """Return physical values of some rows, read by astropy from a file of this HDU alone.

    Args:
        parts: The file.
        content: The header of the HDU.
        claim: What it claims.
        rows: The rows.

    Raises:
        DamagedFileError: A tile does not hold its pixels.
    """
    data = parts.read(claim.start, claim.start + claim.size)
    primary = _primary()
    alone = io.BytesIO(b"".join((primary, content, data, bytes(-len(data) % BLOCK))))
    there = replace(claim, start=len(primary) + len(content))
    check_tiles(alone, heap_of(there, columns_of(there)), tiles_of(there, parts.size))
    alone.seek(0)
    try:
        with warnings.catch_warnings(), fits.open(alone, memmap=False) as hdus:
            warnings.simplefilter("ignore", AstropyUserWarning)
            values = hdus[1].data
    except Exception as error:  # astropy raises whatever its parts raise
        raise DamagedFileError(f"HDU {claim.number} cannot be decompressed: {error}") from error
    taken = values[rows.first : rows.last] if rows.index is None else values[rows.index]
    return np.ascontiguousarray(taken, dtype=values.dtype.newbyteorder("="))


def _primary() -> bytes:
    """Return the header of a file without an image of its own."""
    values = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "0"}
    cards = [*(f"{key:8s}= {value:>20s}" for key, value in values.items()), "END"]
    return "".join(f"{card:80s}" for card in cards).ljust(BLOCK).encode()
