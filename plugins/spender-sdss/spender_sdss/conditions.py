"""How spectra of SDSS and BOSS were taken, for mocks that are to look like them."""

from __future__ import annotations

import numpy as np

from spender_core.archives.fits.hdu import Hdu
from spender_core.grid import Log
from spender_core.interfaces.loader import FileConditions
from spender_sdss.spectra import known, pixels

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


def file_conditions(table: Hdu, grid: Log, instrument: str) -> FileConditions:
    """Return what the columns `sky` and `wdisp` of a spec file tell.

    Args:
        table: The first table of the file.
        grid: The grid.
        instrument: "sdss" or "boss".
    """
    curve = PHOTON_SHARE[instrument]
    share_L = np.interp(grid.wave, list(curve), list(curve.values()))
    values = table.table({"LOGLAM": "f", "SKY": "iuf", "WDISP": "iuf"})
    index = pixels(values["LOGLAM"], grid)
    sky_BL, sigma_BL = (known(values[name][None], index, grid) for name in ("SKY", "WDISP"))
    return FileConditions(equal_light=sky_BL / share_L, sigma=sigma_BL, seams=SEAMS[instrument])
