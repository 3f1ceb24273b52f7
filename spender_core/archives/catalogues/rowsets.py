"""Rows of tables in FITS and Parquet files, a part at a time, of chosen columns only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.opening import reading
from spender_core.archives.remote.files import open_bytes
from spender_core.errors import DamagedFileError, InputError

if TYPE_CHECKING:
    from spender_core.archives.fits.hdu import Hdu

CHUNK = 16 << 20
"""Bytes of a table that are read at once."""

_MOST = 1_000_000
"""Rows of tables that are joined, at most."""

Chunk = tuple[int, dict[str, NDArray[Any]]]
"""Rows of a part, and their columns."""


class Rows(Protocol):
    """A table that is open.

    Attributes:
        names: Its columns, in capitals.
        count: Its rows.
    """

    names: tuple[str, ...]
    count: int

    def chunks(self, names: Sequence[str], first: int | None) -> Iterator[Chunk]:
        """Return columns of all rows, a part at a time; text as bytes without blanks at its end.

        Args:
            names: The columns.
            first: Rows of the first part; each further one has twice as many, up to some MB.
                None for parts of some MB at once.
        """


@contextmanager
def open_rows(url: str, tables: Sequence[str] = (), key: str = "") -> Iterator[Rows]:
    """Open a table of a FITS or a Parquet file.

    Args:
        url: Its path or URL.
        tables: HDUs of a FITS file whose rows belong together; none for its first table.
        key: Column by which the rows of several are joined.

    Raises:
        MissingFileError: The file does not exist.
        FileError: It cannot be read, or holds no such table.
        OfflineError: Its server cannot be reached.
    """
    if _is_parquet(url):
        if find_spec("pyarrow") is None:
            raise InputError(
                'reading Parquet needs pyarrow: pip install "spender-core[parquet]"; or give a FITS '
                "file"
            )
        with reading(url), open_bytes(url) as file:
            yield _Parquet(file.as_file())
        return
    from spender_core.archives.fits.hdus import open_hdus

    with open_hdus(url) as hdus:
        if not tables:
            found = next((hdu for hdu in hdus if hdu.kind == "table"), None)
            if found is None:
                raise DamagedFileError("it has no table")
            yield _Table(found)
            return
        absent = [name for name in tables if name not in hdus]
        if absent:
            raise DamagedFileError(f"it has no table {', '.join(absent)}")
        parts = [_Table(hdus[name]) for name in tables]
        yield _Joined(parts, key) if len(parts) > 1 else parts[0]


def _is_parquet(url: str) -> bool:
    return url.partition("?")[0].lower().endswith((".parquet", ".parq", ".pq"))


class _Table:
    """A table of a FITS file."""

    def __init__(self, hdu: Hdu) -> None:
        if hdu.kind != "table":
            raise DamagedFileError(f"its HDU {hdu.name or hdu.number} is no table")
        self._hdu = hdu
        self.names = tuple(hdu.columns)
        self.count, self._width = int(hdu.header["NAXIS2"]), int(hdu.header["NAXIS1"])

    def chunks(self, names: Sequence[str], first: int | None) -> Iterator[Chunk]:
        """Return columns of all rows, a part at a time."""
        largest = max(CHUNK // max(self._width, 1), 1)
        size, start = largest if first is None else min(first, largest), 0
        while start < self.count:
            stop = min(start + size, self.count)
            yield stop - start, self._hdu.table(names, slice(start, stop)) if names else {}
            start, size = stop, min(2 * size, largest)


class _Joined:
    """Tables of one file with a row for each of the same objects, in any order."""

    def __init__(self, parts: Sequence[_Table], key: str) -> None:
        if any(part.count != parts[0].count for part in parts) or parts[0].count > _MOST:
            raise DamagedFileError(
                f"its tables have {' and '.join(str(part.count) for part in parts)} rows"
            )
        self._parts, self._key = parts, key
        self.count = parts[0].count
        self._place: dict[str, _Table] = {}
        for part in parts:
            for name in part.names:
                self._place.setdefault(name, part)
        self.names = tuple(self._place)

    def chunks(self, names: Sequence[str], first: int | None) -> Iterator[Chunk]:
        """Return columns of all rows at once, in the order of the first table."""
        key = self._key
        lead = self._all(self._parts[0], [key])[key]
        columns: dict[str, NDArray[Any]] = {}
        for part in self._parts:
            own = [name for name in names if self._place[name] is part]
            if not own:
                continue
            read = self._all(part, [key, *(name for name in own if name != key)])
            order = _order(read[key], lead)
            columns |= {name: read[name] if order is None else read[name][order] for name in own}
        if self.count:
            yield self.count, columns

    def _all(self, part: _Table, names: list[str]) -> dict[str, NDArray[Any]]:
        pieces = [piece for _, piece in part.chunks(names, None)]
        if not pieces:
            return {name: np.zeros(0, dtype=np.int64) for name in names}
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def _order(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the rows of a table in the order of another's keys; None if they are in it."""
    if np.array_equal(keys, wanted):
        return None
    order = np.argsort(keys, kind="stable")
    back = np.empty(len(order), dtype=np.int64)
    back[np.argsort(wanted, kind="stable")] = order
    if not np.array_equal(keys[back], wanted):
        raise DamagedFileError("its tables have rows of different objects")
    return back


class _Parquet:
    """A Parquet file; only the columns that are asked for are read of it."""

    def __init__(self, file: Any) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(file)
        plain = [field.name for field in self._file.schema_arrow]
        self._stored = {name.upper(): name for name in plain}
        if len(self._stored) < len(plain):
            raise DamagedFileError("it has columns whose names differ in capitals only")
        self.names, self.count = tuple(self._stored), self._file.metadata.num_rows

    def chunks(self, names: Sequence[str], first: int | None) -> Iterator[Chunk]:
        """Return columns of all rows, a part at a time."""
        stored = [self._stored[name] for name in names]
        size = 65_536 if first is None else min(first, 65_536)
        for batch in self._file.iter_batches(batch_size=size, columns=stored):
            yield (
                batch.num_rows,
                {name: _array(batch.column(k), name) for k, name in enumerate(names)},
            )


def _array(values: Any, name: str) -> NDArray[Any]:
    """Return a column of Arrow as numpy has it: text as bytes; NaN, 0 or "" where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_fixed_size_list(kind):
        return np.asarray(values.flatten().to_numpy(zero_copy_only=False)).reshape(
            len(values), kind.list_size
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        texts = pc.fill_null(values, "" if not pa.types.is_binary(kind) else b"").to_pylist()
        return np.array([t.encode() if isinstance(t, str) else t for t in texts], dtype=bytes)
    if pa.types.is_boolean(kind):
        values = pc.fill_null(values, False)
    elif pa.types.is_integer(kind):
        values = pc.fill_null(values, 0)
    elif not pa.types.is_floating(kind):
        raise DamagedFileError(f"its column {name} holds {kind}, not numbers or text")
    return np.array(values.to_numpy(zero_copy_only=False))
