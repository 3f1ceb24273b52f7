"""Pixels of images in FITS files, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.headers import Header

Array = NDArray[Any]

TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
"""Types of numpy by BITPIX."""


@dataclass(frozen=True)
class Scale:
    """How stored values become physical ones: stored * factor + offset (section 4.4.2.5).

    Attributes:
        bits: BITPIX.
        factor: BSCALE.
        offset: BZERO.
        blank: The stored whole number that stands for NaN, or None.
    """

    bits: int
    factor: float = 1
    offset: float = 0
    blank: int | None = None

    @property
    def stored(self) -> np.dtype[Any]:
        """The type of stored values, in the machine's byte order."""
        return np.dtype(TYPES[self.bits])

    @property
    def other_sign(self) -> bool:
        """Whether the offset only turns whole numbers with a sign into those without, or back."""
        offset = -128 if self.bits == 8 else 1 << (self.bits - 1) if self.bits > 0 else None
        return self.factor == 1 and offset is not None and self.offset == offset

    @property
    def plain(self) -> bool:
        """Whether stored values are the physical ones."""
        return self.factor == 1 and self.offset == 0 and self.blank is None

    @property
    def zero(self) -> int | None:
        """The stored value of physical 0, or None if more than a comparison tells it."""
        if self.other_sign:
            return 128 if self.bits == 8 else -(1 << (self.bits - 1))
        return 0 if self.plain else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of physical values."""
        if self.other_sign:
            return np.dtype(f"{'i' if self.bits == 8 else 'u'}{self.bits // 8}")
        if self.plain or self.bits < 0:
            return self.stored
        return np.dtype("f8" if self.bits > 16 else "f4")

    def physical(self, stored: Array, out: Array | None = None) -> Array:
        """Return physical values, in the machine's byte order.

        Args:
            stored: Stored values, in any byte order.
            out: Where they go; a new array if it is None.
        """
        result = np.empty(stored.shape, dtype=self.dtype) if out is None else out
        if self.other_sign:
            signed = result.view(self.stored)
            np.copyto(signed, stored)
            signed ^= np.array(self.zero).astype(self.stored)
            return result
        np.copyto(result, stored, casting="unsafe")
        if self.plain:
            return result
        with np.errstate(all="ignore"):
            if self.factor != 1:
                np.multiply(result, self.factor, result)
            if self.offset != 0:
                np.add(result, self.offset, result)
        if self.blank is not None and self.bits > 0:
            result[stored == self.blank] = np.nan
        return result

    def nonzero(self, stored: Array) -> NDArray[np.uint8]:
        """Return 1 where the physical value is not 0, else 0."""
        if self.zero is None:
            found: Array = self.physical(stored) != 0
        elif stored.dtype.kind == "f":
            found = stored != 0
        else:
            # both sides in the byte order of the file: nothing has to be turned round
            plain = stored.dtype.newbyteorder("=")
            zero = np.array(self.zero).astype(stored.dtype)
            found = stored.view(plain) != zero.view(plain)
        return found.view(np.uint8)


def scale_of(header: Header, bits: int) -> Scale:
    """Return the scale that a header tells.

    Raises:
        DamagedFileError: Part of it is not a number.
    """
    blank = header.get("BLANK") if bits > 0 else None
    whole = blank if isinstance(blank, int) and not isinstance(blank, bool) else None
    limits = np.iinfo(TYPES[bits]) if bits > 0 else None
    if limits and whole is not None and not limits.min <= whole <= limits.max:
        whole = None
    return Scale(bits, header.number("BSCALE", 1), header.number("BZERO", 0), whole)
