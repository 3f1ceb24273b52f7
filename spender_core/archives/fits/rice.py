"""Tiles compressed by the coding of Rice, decoded by the compiled kernel."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import DamagedFileError
from spender_core.native import library, share_rows

Integers = NDArray[np.int64]

SHARED = 4_000_000
"""Pixels from which on threads share the work; below, waiting for them may take longer."""


def decode(
    content: bytes,
    places: Integers,
    lengths: Integers,
    pixels: int,
    block: int,
    size: int,
    zero: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8]] | None:
    """Return the pixels of tiles, and which tiles do not hold theirs; None without the kernel.

    Args:
        content: Bytes that hold all tiles.
        places: Where each begins, bytes, shape (T,).
        lengths: Bytes of each, shape (T,).
        pixels: Pixels of each.
        block: Pixels of a block, as the header tells it.
        size: Bytes of a pixel: 1, 2 or 4.
        zero: The value of which the others are told: pixels are then 0 where they have it, else 1.

    Raises:
        DamagedFileError: A tile is not in the content.

    Returns:
        The pixels, shape (T, pixels), whole numbers with a sign but for those of one byte; and 1
        for each damaged tile, shape (T,).
    """
    native = library()
    if native is None:
        return None
    if len(places) and not (
        places.min() >= 0 <= lengths.min() and (places <= len(content) - lengths).all()
    ):
        raise DamagedFileError("a compressed tile lies outside of what was read")
    kind = np.uint8 if zero is not None else np.dtype({1: "u1", 2: "i2", 4: "i4"}[size])
    out = np.empty((len(places), pixels), dtype=kind)
    bad = np.empty(len(places), dtype=np.uint8)
    kernel = getattr(native, f"spender_rice_{'mask_' if zero is not None else ''}{8 * size}")
    arrays = [np.ascontiguousarray(part, dtype=np.int64) for part in (places, lengths)]
    fixed = (
        ctypes.c_char_p(content),
        *(ctypes.c_void_p(part.ctypes.data) for part in arrays),
        ctypes.c_int64(pixels),
        ctypes.c_int(block),
        ctypes.c_uint32((zero or 0) & 0xFFFFFFFF),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_void_p(bad.ctypes.data),
    )

    def work(first: int, last: int) -> None:
        kernel(*fixed, ctypes.c_int64(first), ctypes.c_int64(last))

    if out.size < SHARED:
        work(0, len(places))
    else:
        share_rows(work, len(places), pixels)
    return out, bad
