"""What a user may ask an instrument to read: paths, URLs, ids, and tables of ids."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import InputError
from spender_core.interfaces.loader import Loader

if TYPE_CHECKING:
    from astropy.table import Table

_PATHS = (str, bytes, os.PathLike)


def listed(source: Any, loader: Loader | None) -> list[Any]:
    """Return the paths or ids of what was asked for, in order.

    Args:
        source: A path or URL, or an id; several of them in anything that has an order; or an
            astropy Table with a column for each field of the ids. Its other columns are ignored.
        loader: The instrument's, which knows the fields.

    Raises:
        InputError: There is nothing in it, it has no order, or a table lacks fields of ids.
    """
    if hasattr(source, "as_void"):  # a row of an astropy table
        source = source.as_void()
    if hasattr(source, "colnames"):  # importing astropy.table takes a while
        return list(_rows(source, loader))
    if isinstance(source, (np.ndarray, np.void)) and source.dtype.names:
        source = _in_text(source)
    if isinstance(source, np.ndarray) and source.ndim == 0:
        source = source[()]
    if isinstance(source, (*_PATHS, np.void)) or _is_one_id(source):
        return [source]
    if isinstance(source, (Set, Mapping)):
        raise InputError(
            f"a {type(source).__name__} has no order to return spectra in; give a list"
        )
    try:
        entries = [] if isinstance(source, io.IOBase) else list(source)
    except TypeError:
        entries = []
    if not entries:
        raise InputError(
            f"nothing to read in {source!r:.60}: give a path, a list of paths, or a list of ids"
        )
    return entries


def _in_text(rows: NDArray[np.void] | np.void) -> Any:
    """Return rows with text in place of bytes, as FITS readers give it."""
    kinds = [(name, rows.dtype[name]) for name in rows.dtype.names or ()]
    if not any(kind.kind == "S" for _, kind in kinds):
        return rows
    text = [(name, f"U{k.itemsize}" if k.kind == "S" else k) for name, k in kinds]
    return np.asarray(rows).astype(text)[()]


def are_paths(entries: list[Any]) -> bool:
    """Tell whether all entries are paths or URLs."""
    return all(isinstance(entry, _PATHS) for entry in entries)


def paths_of(entries: list[Any]) -> list[str]:
    """Return paths as plain strings.

    Raises:
        InputError: One is empty.
    """
    paths = [str(os.fsdecode(path)) for path in entries]  # no str of numpy
    if "" in paths:
        raise InputError("no path was given: it is empty; give the path or URL of a file")
    return paths


def root_of(root: Any) -> str | None:
    """Return the root of an archive as a string, None for the survey's own.

    Raises:
        InputError: It is no path.
    """
    if root is None:
        return None
    if not isinstance(root, (str, os.PathLike)) or not os.fspath(root):
        raise InputError(
            f"root must be the folder or URL of a copy of the archive, not {root!r:.60}; leave it "
            "out for the survey's own"
        )
    return str(os.fsdecode(root))


def _rows(table: Table, loader: Loader | None) -> NDArray[np.void]:
    """Return the id fields of a table's rows, in the order in which the loader has them."""
    if loader is None:
        raise InputError("this instrument reads no files; bring its spectra in with `batch`")
    if len(table) == 0:
        raise InputError("the table of ids has no rows, so there is nothing to read")
    kinds = loader.id_dtype
    places = {name: _place(table, name) for name in kinds.names or ()}
    columns = {
        name: id_column(table[place], kinds[name], f"the column {place} of the table")
        for name, place in places.items()
        if place is not None
    }
    if not columns:
        raise InputError(
            f"the table has none of the columns of an id, {', '.join(kinds.names or ())}; it has "
            f"{', '.join(map(str, table.colnames[:20]))}"
        )
    rows = np.empty(len(table), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def _place(table: Table, field: str) -> Any:
    """Return the column of a table that holds a field of ids, None if it lacks it."""
    if field in table.colnames:
        return field
    found = [name for name in table.colnames if str(name).upper() == field.upper()]
    if len(found) > 1:
        raise InputError(f"the table has more than one column {field}: {', '.join(found)}")
    return found[0] if found else None


def id_column(column: Any, kind: np.dtype[Any], shown: str) -> NDArray[Any]:
    """Return a field of ids as the loader has it: text, or whole numbers that fit its type.

    Args:
        column: Values of the field, shape (N,). For text, whole numbers will do.
        kind: Type of the field.
        shown: What to call the column in messages.

    Raises:
        InputError: It holds anything else, or rows without a value.
    """
    masked = np.ma.asarray(column)
    if np.ma.getmaskarray(masked).any():
        raise InputError(f"{shown} has rows without a value")
    values, text = np.asarray(masked), kind.kind in "US"
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.ndim != 1 or values.dtype.kind not in ("USiu" if text else "iu"):
        needed = "text" if text else "whole numbers"
        shape = f" of shape {values.shape[1:]}" if values.ndim > 1 else ""
        raise InputError(f"{shown} must hold {needed}, not {values.dtype}{shape}")
    if text:
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8", "replace")
        return np.char.strip(values.astype(str))
    limits = np.iinfo(kind)
    if len(values) and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise InputError(
            f"{shown} holds {values.min()} to {values.max()}, which does not fit into {kind}"
        )
    return values.astype(kind)


def _is_one_id(source: Any) -> bool:
    """A tuple is one id, unless it holds ids or nothing but paths."""
    parts = (str, os.PathLike)
    return (
        isinstance(source, tuple)
        and len(source) > 0
        and not all(isinstance(part, parts) for part in source)
        and not any(isinstance(part, (tuple, list, np.void)) for part in source)
    )
