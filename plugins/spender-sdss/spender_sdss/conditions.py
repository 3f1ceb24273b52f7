"""How spectra of SDSS and BOSS were taken, for mocks that are to look like them."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from spender_core.archives.tables import column
from spender_core.errors import DamagedFileError
from spender_core.grid import Log
from spender_core.interfaces.loader import FileConditions

PHOTON_SHARE = {
    "sdss": {3800: 0.3, 4200: 0.55, 4600: 0.7, 5400: 0.85, 6200: 1, 7400: 1, 8200: 0.6, 9000: 0.3},
    "boss": {3800: 0.5, 4200: 0.65, 4600: 0.8, 7000: 0.8, 8200: 0.7, 9000: 0.6, 9600: 0.7},
}
"""Share of sky photons in the variance of a spectrum without an object, by wavelength in
Angstrom; the rest comes from the detector, mostly. It was found by fitting, in windows of 400
Angstrom, 1 / ivar = v (1 + share flux / sky) to 88 spectra of SDSS (DR17, run2d 26) and 20 of
BOSS (v5_10_0, v5_13_0). For single windows it is uncertain by some 0.2."""

SEAMS = {"sdss": (6000.0,), "boss": (6100.0,)}
"""Where the blue and the red arm meet, Angstrom, in the middle of their overlap: 5800 to 6150
in SDSS (Stoughton et al. 2002, AJ 123, 485), 5650 to 6500 in BOSS (Smee et al. 2013, AJ 146, 32)."""


def read_conditions(
    table: fits.BinTableHDU, index: NDArray[np.int64], grid: Log, instrument: str
) -> FileConditions:
    """Return what the columns `sky` and `wdisp` of a spec file tell.

    Args:
        table: The first table of the file.
        index: Pixel of the grid in which each of its rows is.
        grid: The grid.
        instrument: "sdss" or "boss".
    """
    curve = PHOTON_SHARE[instrument]
    share_L = np.interp(grid.wave, list(curve), list(curve.values()))
    values = {name: _placed(table, name, index, grid) for name in ("sky", "wdisp")}
    return FileConditions(
        equal_light=values["sky"] / share_L, sigma=values["wdisp"], seams=SEAMS[instrument]
    )


def read_widths(
    table: fits.BinTableHDU, index: NDArray[np.int64], grid: Log
) -> NDArray[np.float64]:
    """Return the column `wdisp` of a spec file, shape (1, L), pixels of 1e-4 in log10.

    It is the standard deviation of a Gaussian line spread function, as the data model of spec
    files says. Pixels where it is unknown take it from their neighbours: their light reaches
    pixels that were observed.

    Args:
        table: The first table of the file.
        index: Pixel of the grid in which each of its rows is.
        grid: The grid.

    Raises:
        DamagedFileError: It is known in no pixel of the grid.
    """
    widths = _placed(table, "wdisp", index, grid)[0]
    known = np.flatnonzero(np.isfinite(widths))
    if len(known) == 0:
        raise DamagedFileError(
            "its column wdisp has no positive value, so that its line spread function is unknown; "
            "read it without lsf=True"
        )
    filled: NDArray[np.float64] = np.interp(np.arange(grid.size), known, widths[known])
    return filled[None]


def _placed(table: Any, name: str, index: NDArray[np.int64], grid: Log) -> NDArray[np.float64]:
    """Return a column on the grid, shape (1, L), NaN where it tells nothing."""
    values = column(table, name, "iuf").astype(np.float64)
    placed = np.full((1, grid.size), np.nan)
    used = (index >= 0) & (index < grid.size) & np.isfinite(values) & (values > 0)
    placed[0, index[used]] = values[used]
    return placed
