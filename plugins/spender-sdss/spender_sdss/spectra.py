"""Spectra of SDSS as arrays on an instrument's grid, from the tables and images of its files.

Shapes: B spectra, P pixels of a file, L pixels of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import DamagedFileError
from spender_core.grid import Log
from spender_core.line_spread import GaussianLSF

ID_DTYPE = np.dtype([("PLATE", "i8"), ("MJD", "i8"), ("FIBERID", "i8"), ("RUN2D", "U8")])
"""Ids of SDSS spectra. In SDSS-V the three numbers are field, MJD and catalogid."""

_LARGEST, _LONGEST = 2**63 - 1, 8
"""Largest number, and most characters of a reduction, in an id."""

FARTHEST = 20_000
"""Pixels from the grid, at most, of any pixel of a file; files have some 5,000."""

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

_NOT_TARGET = 0x01 | 0x80
"""Bits SKY and UNPLUGGED of ZWARNING (https://www.sdss4.org/dr17/algorithms/bitmasks)."""


class Spectra(NamedTuple):
    """Spectra of a file on the grid, flux and ivar in units of the archive.

    Attributes:
        flux: Shape (B, L), 1e-17 erg/s/cm2/Angstrom.
        ivar: Its inverse variance, same shape, 0 where masked.
        z: Redshifts, shape (B,), NaN where unknown.
        zerr: Their uncertainties, same shape, infinite where unknown.
        flags: Bits of `Flag`, same shape.
        ids: Rows of `ID_DTYPE`, same shape.
        lsf: Their line spread functions, or None.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    z: NDArray[np.float64]
    zerr: NDArray[np.float64]
    flags: NDArray[np.int64]
    ids: NDArray[np.void]
    lsf: GaussianLSF | None


def joined(parts: Sequence[Spectra], instrument: str) -> SpectrumBatch:
    """Return the spectra of several files as one batch, in order."""
    flux, ivar, z, zerr, flags = (_rows([part[k] for part in parts]) for k in range(5))
    lsf = [part.lsf for part in parts if part.lsf is not None]
    return SpectrumBatch(
        torch.from_numpy(flux),
        torch.from_numpy(ivar),
        z=torch.from_numpy(z),
        zerr=torch.from_numpy(zerr),
        ids=_rows([part.ids for part in parts]),
        instrument=instrument,
        flags=torch.from_numpy(flags),
        lsf=GaussianLSF.cat(lsf) if lsf else None,
    )


def _rows(parts: Sequence[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])


def pixels(loglam: NDArray[Any], grid: Log) -> NDArray[np.int64]:
    """Return the pixel of the grid in which each pixel of a file is, shape (P,), rising.

    Args:
        loglam: log10 of its wavelengths in vacuum Angstrom, shape (P,).
        grid: The grid; a pixel may lie outside of it.

    Raises:
        DamagedFileError: Wavelengths are none of the grid of SDSS.
    """
    position = (loglam.astype(np.float64) - grid.start) / grid.step
    if not (np.abs(position) < FARTHEST).all():
        raise DamagedFileError("loglam is not finite, or far from the grid of SDSS")
    nearest = np.rint(position)
    index = nearest.astype(np.int64)
    if np.abs(position - nearest).max() > 0.1 or (np.diff(index) < 1).any():
        raise DamagedFileError("loglam does not lie on the grid of SDSS, multiples of 1e-4")
    return index


def placed(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    lost: NDArray[np.bool_],
    index: NDArray[np.int64],
    grid: Log,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return flux and ivar on the grid, and `Flag.BAD_VALUES` of spectra that had such.

    Args:
        flux: Shape (B, P), units of the archive.
        ivar: Its inverse variance, same shape.
        lost: Pixels that the survey masked, same shape.
        index: Pixel of the grid in which each of the P pixels is, rising.
        grid: The grid.
    """
    inside, there = where(index, grid.size)
    lost = lost[:, inside]
    with np.errstate(over="ignore"):
        flux, ivar = (values[:, inside].astype(np.float32) for values in (flux, ivar))
    finite = np.isfinite(flux) & np.isfinite(ivar)
    used = ~lost & (ivar != 0)
    broken = used & ~(finite & (ivar > 0))
    flux_BL, ivar_BL = np.zeros((2, len(flux), grid.size), dtype=np.float32)
    flux_BL[:, there] = np.where(finite & ~broken, flux, 0)
    ivar_BL[:, there] = np.where(used & finite & (ivar > MIN_IVAR), ivar, 0)
    return flux_BL, ivar_BL, broken.any(axis=1) * np.int64(Flag.BAD_VALUES)


def where(index: NDArray[np.int64], size: int) -> tuple[Any, Any]:
    """Return which pixels of a file are in a grid of some size, and which ones they are there.

    As slices, which are quicker than lists, where the file leaves no pixel out.
    """
    first, last = int(index[0]), int(index[-1])
    if last - first == len(index) - 1:
        low, high = max(first, 0), min(last + 1, size)
        return slice(low - first, max(high, low) - first), slice(low, max(high, low))
    inside = (index >= 0) & (index < size)
    return inside, index[inside]


def line_spread(wdisp: NDArray[Any], index: NDArray[np.int64], grid: Log) -> GaussianLSF:
    """Return the line spread functions of B spectra on the grid.

    `wdisp` is the standard deviation of a Gaussian, in pixels of 1e-4 in log10, as the data
    model of spec files says. Pixels where it is unknown take it from their neighbours: their
    light reaches pixels that were observed.

    Args:
        wdisp: Widths, shape (B, P).
        index: Pixel of the grid in which each of the P pixels is.
        grid: The grid.

    Raises:
        DamagedFileError: It is known in no pixel of the grid.
    """
    known_BL = known(wdisp, index, grid)
    made = np.empty(known_BL.shape, dtype=np.float32)
    for row, widths in enumerate(known_BL):
        there = np.flatnonzero(np.isfinite(widths))
        if len(there) == 0:
            raise DamagedFileError(
                "its column wdisp has no positive value, so that its line spread function is "
                "unknown; read it without lsf=True"
            )
        made[row] = np.interp(np.arange(grid.size), there, widths[there])
    return GaussianLSF(torch.from_numpy(made))


def known(values: NDArray[Any], index: NDArray[np.int64], grid: Log) -> NDArray[np.float64]:
    """Return positive values on the grid, shape (B, L), NaN where there is none.

    Args:
        values: Shape (B, P).
        index: Pixel of the grid in which each of the P pixels is.
        grid: The grid.
    """
    inside, there = where(index, grid.size)
    values = values[:, inside].astype(np.float64)
    made = np.full((len(values), grid.size), np.nan)
    made[:, there] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return made


def redshifts(
    z: NDArray[Any], zerr: NDArray[Any], flags: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return redshifts and their uncertainties, shape (B,); NaN and infinite where unknown."""
    z, zerr = z.astype(np.float64), zerr.astype(np.float64)
    sound = ((flags & Flag.NOT_TARGET) == 0) & np.isfinite(z) & (z > -1)
    return np.where(sound, z, np.nan), np.where(sound & (zerr >= 0), zerr, np.inf)


def flagged(warning: NDArray[Any], kinds: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Return what the survey says of spectra and their redshifts, as bits of `Flag`, shape (B,).

    Args:
        warning: ZWARNING.
        kinds: What the fibres were put on: OBJTYPE, SOURCETYPE.
    """
    warning = warning.astype(np.int64)
    idle = (warning & _NOT_TARGET) != 0
    for kind in kinds:
        idle |= [text.upper() == "SKY" for text in texts(kind)]
    doubtful = (warning & ~np.int64(_NOT_TARGET)) != 0
    flags: NDArray[np.int64] = idle * np.int64(Flag.NOT_TARGET) | doubtful * np.int64(
        Flag.Z_WARNING
    )
    return flags


def ids(
    plate: NDArray[Any], mjd: NDArray[Any], fiberid: NDArray[Any], run2d: NDArray[Any]
) -> NDArray[np.void]:
    """Return ids, shape (B,).

    Raises:
        DamagedFileError: A value does not fit.
    """
    made = np.empty(len(fiberid), dtype=ID_DTYPE)
    for name, values in (("PLATE", plate), ("MJD", mjd), ("FIBERID", fiberid)):
        if values.dtype == np.uint64 and (values > _LARGEST).any():
            raise DamagedFileError(f"its {name} does not fit into 64 bits")
        made[name] = values
    reductions = texts(run2d)
    long = [text for text in reductions if len(text) > _LONGEST]
    if long:
        raise DamagedFileError(f"its RUN2D {long[0]!r:.60} has more than {_LONGEST} characters")
    made["RUN2D"] = reductions
    return made


def texts(values: NDArray[Any]) -> list[str]:
    """Return strings of a table without the blanks around them."""
    return [text.decode("latin-1").strip() for text in values.tolist()]
