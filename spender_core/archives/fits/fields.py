"""Columns of binary tables in FITS files, read by themselves.

Section 7.3 of the FITS standard 4.0 (Pence et al. 2010, A&A 524, A42, and its updates).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.headers import Header, Layout
from spender_core.archives.fits.spans import Parts, Raw, Rows, gather
from spender_core.archives.fits.tables import LONGEST
from spender_core.archives.fits.tiles import Column
from spender_core.errors import DamagedFileError

CHUNK = 4 << 20
"""Bytes of rows that are read together."""

_TYPES = dict(zip("LBIJKEDCM", ("?", "u1", "i2", "i4", "i8", "f4", "f8", "c8", "c16"), strict=True))
_DIMENSIONS = re.compile(r" *\(([ \d]+(?:,[ \d]+)*)\) *")
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Field:
    """A column: where it is in a row, and how its bytes become values.

    Attributes:
        column: Its type and place.
        number: Its number in the header, from 1 on.
        stored: Type of its bytes, of which each has the shape `shape`.
        dtype: Type of its values.
        shape: Shape of the values of a row; empty for one value.
        factor: TSCAL.
        offset: TZERO.
    """

    column: Column
    number: int
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    factor: float = 1
    offset: float = 0

    def values(self, raw: Raw, out: NDArray[Any]) -> None:
        """Put the values of some rows, given as bytes of shape (rows, width), where they belong."""
        size = self.stored.itemsize * math.prod(self.shape)
        if self.column.kind == "X":
            start = self.column.offset
            bits = np.unpackbits(raw[:, start : start + -(-self.column.repeat // 8)], axis=1)
            out[...] = bits[:, : self.column.repeat].view(bool)
            return
        if size == 0 or len(raw) == 0:
            out[...] = np.zeros((), dtype=out.dtype)
            return
        cells = np.ndarray(
            (len(raw), *self.shape),
            self.stored,
            raw,
            self.column.offset,
            (raw.strides[0], *_strides(self.shape, self.stored.itemsize)),
        )
        if self.column.kind == "L":
            np.equal(cells, ord("T"), out=out)
        elif self.column.kind == "A":
            out[...] = np.char.rstrip(cells, b" \0")
        elif self.dtype.newbyteorder("=") == self.stored.newbyteorder("="):
            out[...] = cells
        elif self.factor == 1 and self.dtype.kind in "ui":
            # an offset of half the range: only the highest bit is another
            signed = out.view(self.stored.newbyteorder("="))
            signed[...] = cells
            signed ^= np.array(_half(self.column.kind)).astype(signed.dtype)
        else:
            out[...] = cells
            with np.errstate(all="ignore"):
                if self.factor != 1:
                    out *= self.factor
                if self.offset != 0:
                    out += self.offset


def _strides(shape: tuple[int, ...], itemsize: int) -> list[int]:
    return [itemsize * math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _half(kind: str) -> int:
    """Return the least whole number of a type; 0 less it is the offset of those without a sign."""
    return -(1 << (8 * np.dtype(_TYPES[kind]).itemsize - 1))


@dataclass(frozen=True)
class Table:
    """A binary table: its rows, of some bytes each, and its columns."""

    width: int
    rows: int
    columns: tuple[Column, ...]
    header: Header
    _known: dict[tuple[str, str], Field] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Names of all columns, in capitals; "" where there is none."""
        return [column.name.upper() for column in self.columns]

    @cached_property
    def readable(self) -> dict[str, int]:
        """Places of columns that can be read, by name; the last one of several."""
        pairs = enumerate(zip(self.names, self.columns, strict=True))
        return {name: place for place, (name, one) in pairs if name and one.kind not in "PQ"}

    def types(self) -> Mapping[str, np.dtype[Any]]:
        """Return the types of columns by name, with their shapes; of those that can be read."""
        return _Types(self)

    def type_of(self, place: int) -> np.dtype[Any]:
        """Return the type of a column, with its shape."""
        field = self._field(place)
        return np.dtype((field.dtype, field.shape)) if field.shape else field.dtype

    def field(self, name: str, kinds: str = "") -> Field:
        """Return a column.

        Args:
            name: Its name, in any case.
            kinds: Letters of numpy's types that it may have, with one value a row; "" if it may
                have any type and shape.

        Raises:
            DamagedFileError: It is absent, there twice, or of another type; or its arrays have
                no fixed length.
        """
        if (name, kinds) not in self._known:
            self._known[name, kinds] = self._checked(name, kinds)
        return self._known[name, kinds]

    def _checked(self, name: str, kinds: str) -> Field:
        names, sought = self.names, name.upper()
        if names.count(sought) != 1:
            many = "more than one column" if sought in names else "no column"
            raise DamagedFileError(f"it has {many} {name}; its columns are {', '.join(names[:20])}")
        found = self._field(names.index(sought))
        if kinds and (found.shape or not 0 < found.dtype.itemsize <= LONGEST):
            raise DamagedFileError(
                f"its column {name} does not hold one value a row, but {found.shape} of {found.dtype}"
            )
        if kinds and found.dtype.kind not in kinds:
            raise DamagedFileError(
                f"its column {name} has the type {found.dtype.name}, not one of {kinds!r}"
            )
        return found

    def _field(self, place: int) -> Field:
        column, number = self.columns[place], place + 1
        if column.kind in "PQ":
            raise DamagedFileError(
                f"its column {column.name} holds arrays of variable length, which are not read"
            )
        if column.kind == "X":
            bits = (column.repeat,)
            return Field(column, number, np.dtype("u1"), np.dtype(bool), bits)
        shape = self._shape(column, number)
        if column.kind == "A":
            text = np.dtype(f"S{shape[-1]}")
            return Field(column, number, text, text, shape[:-1])
        stored = np.dtype("u1" if column.kind == "L" else _TYPES[column.kind]).newbyteorder(">")
        factor = self.header.number(f"TSCAL{number}", 1)
        offset = self.header.number(f"TZERO{number}", 0)
        dtype = _dtype(column.kind, factor, offset)
        return Field(column, number, stored, dtype, shape, factor, offset)

    def _shape(self, column: Column, number: int) -> tuple[int, ...]:
        """Return the shape of a cell; of strings, the last axis holds their bytes."""
        text = self.header.get(f"TDIM{number}", "")
        match = _DIMENSIONS.fullmatch(text) if isinstance(text, str) and len(text) < 80 else None
        if match and match[1].count(",") < _MOST_DIMENSIONS:
            sizes = match[1].replace(" ", "").split(",")
            dimensions = tuple(int(size or 0) for size in reversed(sizes))
            if math.prod(dimensions) == column.repeat and column.repeat:
                return dimensions
        if column.kind == "A":
            return (column.repeat,)
        return () if column.repeat == 1 else (column.repeat,)

    def read(
        self, parts: Parts, start: int, fields: Sequence[Field], rows: Rows
    ) -> list[NDArray[Any]]:
        """Return the values of columns in some rows, each of shape (rows, *shape).

        Args:
            parts: The file.
            start: Where the table begins.
            fields: The columns.
            rows: The rows.
        """
        made = [np.empty((len(rows), *one.shape), dtype=one.dtype) for one in fields]
        for place, some in self.chunks(rows):
            raw = gather(parts, start, self.width, some)
            for one, out in zip(fields, made, strict=True):
                one.values(raw, out[place : place + len(some)])
        return made

    def chunks(self, rows: Rows) -> list[tuple[int, Rows]]:
        """Split rows into parts of some `CHUNK` bytes, each with its place among them."""
        return rows.chunks(max(CHUNK // max(self.width, 1), 1))


class _Types(Mapping[str, np.dtype[Any]]):
    """The types of a table's columns by name; each is looked up when it is asked for."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._places = table.readable

    def __getitem__(self, name: str) -> np.dtype[Any]:
        return self._table.type_of(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


def _dtype(kind: str, factor: float, offset: float) -> np.dtype[Any]:
    """Return the type of values, as astropy chooses it."""
    stored = np.dtype(_TYPES[kind])
    if kind in "LCM" or (factor == 1 and offset == 0):
        return stored
    if factor == 1 and kind in "IJK" and offset == -_half(kind):
        return np.dtype(f"u{stored.itemsize}")
    return np.dtype("f8")


def table_of(layout: Layout) -> Table:
    """Return the table that a header tells of; made once for headers that are remembered.

    Raises:
        DamagedFileError: Its columns do not fill its rows.
    """
    if layout.table is None:
        claim = layout.claim(0)
        width, rows = claim.whole("NAXIS1"), claim.whole("NAXIS2")
        layout.table = Table(width, rows, layout.columns, layout.header)
    table: Table = layout.table
    return table


def named(wanted: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the types that are allowed by column: "" for any."""
    return dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, "")
