"""One HDU of a FITS file: an image, compressed or not, or a table, of which any rows are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits import fields
from spender_core.archives.fits.claims import Claim
from spender_core.archives.fits.compressed import (
    Lines,
    NotLinesError,
    by_astropy,
    image_shape,
    lines_of,
)
from spender_core.archives.fits.headers import Header, Layout
from spender_core.archives.fits.pixels import Scale, scale_of
from spender_core.archives.fits.spans import Chosen, Parts, Rows, chosen, gather
from spender_core.archives.remote.bytefile import Range
from spender_core.errors import DamagedFileError


class Hdu:
    """A part of a FITS file: an image, a table, or neither.

    Attributes:
        number: Its number, from 0 on.
        name: EXTNAME in capitals; "PRIMARY" for the first one if it has none, else "".
        header: Its keywords and their values.
    """

    def __init__(self, parts: Parts, layout: Layout, content: bytes, data: int) -> None:
        self._parts, self._layout, self._content = parts, layout, content
        self.number, self.start = layout.number, data
        self.header: Header = layout.header
        self.paired = False

    @cached_property
    def name(self) -> str:
        """EXTNAME in capitals; "PRIMARY" for the first HDU if it has none, else ""."""
        name = self.header.get("EXTNAME", "PRIMARY" if self.number == 0 else "")
        return name.strip().upper() if isinstance(name, str) else ""

    @cached_property
    def _claim(self) -> Claim:
        return self._layout.claim(self.start)

    @cached_property
    def kind(self) -> str:
        """What it is: "image", "compressed", "table", "empty", or "other"."""
        keys = self._layout.keys
        extension = self._claim.text("XTENSION")
        if extension in ("BINTABLE", "A3DTABLE"):
            return "table" if keys.get("ZIMAGE", False) is False else "compressed"
        if self.number and extension not in ("IMAGE", "IUEIMAGE"):
            return "other"
        plain = keys.get("PCOUNT", 0) == 0 and keys.get("GCOUNT", 1) == 1
        return "empty" if self._layout.size == 0 else "image" if plain else "other"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, in numpy's order; of a table, (rows,)."""
        if self.kind == "compressed":
            return image_shape(self._claim, self._parts.size)
        if self.kind == "table":
            return (self._claim.whole("NAXIS2"),)
        axes = self._claim.whole("NAXIS")
        return tuple(self._claim.whole(f"NAXIS{axis}") for axis in range(axes, 0, -1))

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __repr__(self) -> str:
        return f"<HDU {self.number} {self.name!r}: {self.kind} {self.shape}>"

    def _be(self, *kinds: str) -> None:
        if self.kind not in kinds:
            article = "an" if kinds[0] == "image" else "a"
            raise DamagedFileError(
                f"HDU {self.number} {self.name} is not {article} {kinds[0]}, but {self.kind}"
            )

    @cached_property
    def _scale(self) -> Scale:
        bits = self._layout.keys["ZBITPIX" if self.kind == "compressed" else "BITPIX"]
        return scale_of(self.header, int(bits))

    @cached_property
    def _lines(self) -> Lines | None:
        """How it is compressed; None if only astropy reads it."""
        try:
            return lines_of(self._claim, self._layout.columns, self.header, self._parts.size)
        except NotLinesError:
            return None

    @cached_property
    def _table(self) -> fields.Table:
        self._be("table")
        return fields.table_of(self._layout)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels of an image, as `image` returns them."""
        self._be("image", "compressed")
        return self._scale.dtype

    def image(self, rows: Chosen = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return pixels of an image, in the machine's byte order.

        BSCALE, BZERO and BLANK are applied; whole numbers without a sign are those.

        Args:
            rows: Which of the first axis in numpy's order, as a slice or in any order; None for all.
            out: Where they go, of their shape; a new array if it is None.

        Raises:
            DamagedFileError: It is not an image, or damaged.
        """
        self._be("image", "compressed")
        some = chosen(rows, len(self))
        if self.kind == "image":
            return self._scale.physical(self._stored(some), out)
        if out is None:
            out = np.empty((len(some), *self.shape[1:]), dtype=self._scale.dtype)
        return self._tiled(some, out, mask=False)

    def image_raw(self, rows: Chosen = None) -> NDArray[Any]:
        """Return stored pixels of an image that is not compressed, big-endian and unscaled.

        They are a view of what was read, and cannot be written to.
        """
        self._be("image")
        return self._stored(chosen(rows, len(self)))

    def nonzero(
        self, rows: Chosen = None, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return 1 where a pixel is not 0, as in a mask, else 0."""
        self._be("image", "compressed")
        some = chosen(rows, len(self))
        if self.kind == "image":
            found = self._scale.nonzero(self._stored(some))
            if out is None:
                return found
            out[...] = found
            return out
        if out is None:
            out = np.empty((len(some), *self.shape[1:]), dtype=np.uint8)
        return self._tiled(some, out, mask=True)

    @property
    def _width(self) -> int:
        """Bytes of a row of an image that is not compressed."""
        return math.prod(self.shape[1:]) * self._scale.stored.itemsize

    def _stored(self, rows: Rows) -> NDArray[Any]:
        raw = gather(self._parts, self.start, self._width, rows)
        stored = self._scale.stored.newbyteorder(">")
        return raw.view(stored).reshape(len(rows), *self.shape[1:])

    def _tiled(self, rows: Rows, out: NDArray[Any], mask: bool) -> NDArray[Any]:
        if self._lines is not None:
            try:
                found = self._lines.read(self._parts, rows, mask)
                if mask:
                    np.copyto(out, found)
                    return out
                return self._scale.physical(found, out)
            except NotLinesError:
                pass
        values = by_astropy(self._parts, self._content, self._claim, rows)
        np.copyto(out, (values != 0) if mask else values, casting="unsafe")
        return out

    @property
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        """Types of a table's columns by name, with their shapes; of those that can be read."""
        return self._table.types()

    def table(
        self, names: Sequence[str] | Mapping[str, str], rows: Chosen = None
    ) -> dict[str, NDArray[Any]]:
        """Return columns of a table, in the machine's byte order.

        TSCAL and TZERO are applied, TNULL is not. Strings are bytes, without spaces at their end.

        Args:
            names: Their names, in any case; or for each the letters of numpy's types that it
                may have, with one value a row, e.g. {"Z": "f", "PLATE": "iu"}.
            rows: Which rows, as a slice or in any order; None for all.

        Raises:
            DamagedFileError: A column is absent, there twice, of another type or of variable
                length; or it is not a table.
        """
        wanted = fields.named(names)
        found = [self._table.field(name, kinds) for name, kinds in wanted.items()]
        values = self._table.read(self._parts, self.start, found, chosen(rows, self._table.rows))
        return dict(zip(wanted, values, strict=True))

    def ranges(self, rows: Rows) -> list[Range]:
        """Return the parts of the file that are read for some rows, less the tiles."""
        if self.kind == "image":
            return rows.ranges(self.start, self._width)
        if self.kind == "table":
            table = self._table
            chunks = [some for _, some in table.chunks(rows)]
            return [one for some in chunks for one in some.ranges(self.start, table.width)]
        if self.kind == "compressed":
            if self._lines is None:
                return [(self.start, self.start + self._claim.size)]
            return [self._lines.table]
        return []

    def tile_ranges(self, rows: Rows) -> list[Range]:
        """Return the parts of the file that hold tiles of some rows."""
        if self.kind != "compressed" or self._lines is None or len(rows) == 0:
            return []
        try:
            return self._lines.ranges(*self._lines.places(self._parts, rows))[0]
        except NotLinesError:
            return []
