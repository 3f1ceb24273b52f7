"""Columns of FITS tables and numbers of ids, of the types that they should have."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from spender_core.errors import DamagedFileError, InputError

LONGEST = 256
"""Bytes of the longest string that is read."""


def names(table: fits.BinTableHDU) -> list[str]:
    """Return the names of a table's columns in capitals; "" where it has none."""
    return [(name or "").upper() for name in table.columns.names]


def column(table: Any, name: str, kinds: str) -> NDArray[Any]:
    """Return a column of a FITS table that has one value a row, in the machine's byte order.

    Args:
        table: The HDU of the table.
        name: Name of the column, in any case.
        kinds: Letters of the types of numpy that it may have, e.g. "iuf" for real numbers.

    Raises:
        DamagedFileError: It is absent, there twice, or of another type.
    """
    if not isinstance(table, fits.BinTableHDU):
        raise DamagedFileError(f"it has no table where the column {name} should be")
    places = [k for k, other in enumerate(names(table)) if other == name.upper()]
    if len(places) != 1:
        many = "more than one column" if places else "no column"
        raise DamagedFileError(
            f"it has {many} {name}; its columns are {', '.join(names(table)[:20])}"
        )
    stored = table.columns.dtype[places[0]]
    if stored.shape or stored.itemsize == 0 or stored.itemsize > LONGEST:
        raise DamagedFileError(f"its column {name} does not hold one value a row, but {stored}")
    values = np.asarray(table.data.field(places[0]))
    if values.dtype.kind not in kinds or values.ndim != 1:
        raise DamagedFileError(
            f"its column {name} has the type {values.dtype.name}, not one of {kinds!r}"
        )
    return values.astype(values.dtype.newbyteorder("="))


def whole_numbers(name: str, values: Sequence[Any]) -> list[int]:
    """Return numbers of an id as integers of 64 bits.

    Raises:
        InputError: One is no whole number, or does not fit.
    """
    try:
        found = [operator.index(value) for value in values]
    except TypeError:
        found = []
    if len(found) != len(values) or any(isinstance(value, (bool, np.bool_)) for value in values):
        raise InputError(f"{name} must be whole numbers, got {tuple(values)!r:.80}")
    if any(not -(2**63) <= value < 2**63 for value in found):
        raise InputError(f"{name} must fit into 64 bits, got {tuple(values)!r:.80}")
    return found
