"""Rows of tables in FITS and Parquet files, a part at a time, of chosen columns only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

KINDS = {"S": "text", "iu": "whole numbers", "fiu": "numbers", "biu": "truths", "Siu": "text"}
"""Kinds of columns, by the letters of numpy's types, in words."""


class Rows(Protocol):
    """A table that is open.

    Attributes:
        names: Its columns, in capitals.
        count: Its rows.
    """

    names: tuple[str, ...]
    count: int

    def chunks(self, names: Sequence[str], first: int | None) -> Iterator[Chunk]:
        """Return columns of all rows, a part at a time; of a table without rows, one of none.

        Text is given as bytes without blanks at its end; whole numbers are masked in rows that
        have none.

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
        while start < max(self.count, 1):
            stop = min(start + size, self.count)
            yield stop - start, self._hdu.table(names, slice(start, stop)) if names else {}
            start, size = max(stop, 1), min(2 * size, largest)


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
        yield self.count, columns

    def _all(self, part: _Table, names: list[str]) -> dict[str, NDArray[Any]]:
        pieces = [piece for _, piece in part.chunks(names, None)]
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
        import pyarrow as pa

        stored = [self._stored[name] for name in names]
        size = 65_536 if first is None else min(first, 65_536)
        for batch in self._file.iter_batches(batch_size=size, columns=stored):
            yield (
                batch.num_rows,
                {name: _array(batch.column(k), name) for k, name in enumerate(names)},
            )
        if not self.count:
            kinds = [self._file.schema_arrow.field(name).type for name in stored]
            yield (
                0,
                {n: _array(pa.array([], kind), n) for n, kind in zip(names, kinds, strict=True)},
            )


def _array(values: Any, name: str) -> NDArray[Any]:
    """Return a column of Arrow as numpy has it; where it is null NaN, "", false, or masked."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind, null = values.type, values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        parts = _array(values.values.slice(values.offset * size, len(values) * size), name)
        return _without(parts.reshape(len(values), size), null)
    if any(is_text(kind) for is_text in _texts()):
        texts = [b"" if text is None else text for text in values.to_pylist()]
        plain = [text.encode() if isinstance(text, str) else text for text in texts]
        return np.char.rstrip(np.array(plain, dtype=bytes), b" \0")
    if pa.types.is_boolean(kind):
        values = pc.fill_null(values, False)
    elif pa.types.is_integer(kind):
        return _without(np.array(pc.fill_null(values, 0).to_numpy(zero_copy_only=False)), null)
    elif not pa.types.is_floating(kind):
        raise DamagedFileError(f"its column {name} holds {kind}, not numbers or text")
    return np.array(values.to_numpy(zero_copy_only=False))


def _texts() -> list[Any]:
    """Return what tells types of Arrow that are text; those for views are not in old versions."""
    from pyarrow import types

    kinds = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    known = [f"is_{kind}" for kind in (*kinds, "fixed_size_binary")]
    return [getattr(types, name) for name in known if hasattr(types, name)]


def _without(values: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    """Return a column without the values of rows that have none."""
    if not null.any():
        return values
    if values.dtype.kind in "iu":
        return np.ma.masked_array(
            values, np.ma.getmaskarray(values) | null.reshape(-1, *[1] * (values.ndim - 1))
        )
    values = values.copy()
    values[null] = np.nan if values.dtype.kind == "f" else np.zeros((), values.dtype)
    return values


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return parts of a column one after another."""
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    result: NDArray[Any] = (np.ma.concatenate if masked else np.concatenate)(parts)
    return result


def check_kinds(columns: Mapping[str, NDArray[Any]], kinds: Mapping[str, str]) -> None:
    """Check that columns hold what they should: one value a row, of a type.

    Args:
        columns: The columns, by name.
        kinds: Letters of the types of numpy that a column may have, as of `KINDS`; a column that
            is not in it may hold anything.

    Raises:
        DamagedFileError: One holds something else.
    """
    for name, values in columns.items():
        allowed = kinds.get(name)
        if allowed is not None and (values.ndim != 1 or values.dtype.kind not in allowed):
            shape = f" of shape {values.shape[1:]}" if values.ndim > 1 else ""
            raise DamagedFileError(
                f"its column {name} holds {values.dtype}{shape}, not {KINDS[allowed]}"
            )
