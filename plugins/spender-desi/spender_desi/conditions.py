"""How spectra of DESI were taken, for mocks that are to look like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from astropy.io import fits

from spender_core.errors import DamagedFileError
from spender_core.interfaces.loader import FileConditions
from spender_desi.coadd import GRID, Camera, coadd_cameras

EQUAL_LIGHT = {3900: 5.5, 4400: 5.0, 5000: 4.0, 6000: 3.3, 7000: 2.6, 9000: 2.4}
"""Flux of an object, 1e-17 erg/s/cm2/Angstrom, whose photons double the variance, by wavelength
in Angstrom. Found by fitting 1 / ivar = v (1 + flux / equal_light), in windows of 500 Angstrom,
to the ten spectra of tile 80693 (EDR; exposures of dark time), with one v for each petal; they
follow it to 2 to 15 percent. A dark sky of 1.2 an arcsec^2 at 6200 Angstrom gives 2.1 in a fibre
of 1.5 arcsec, to which detector noise adds."""

SEAMS = (5780.0, 7570.0)
"""Middle of the overlaps of the cameras, Angstrom."""


def read_conditions(cameras: Mapping[str, Camera], hdus: fits.HDUList) -> FileConditions:
    """Return the joined resolution matrices, shape (N, K, L), or none if the file has none.

    Args:
        cameras: Their spectra, by name.
        hdus: The file.
    """
    light_L = np.interp(GRID.wave, list(EQUAL_LIGHT), list(EQUAL_LIGHT.values()))
    light = np.broadcast_to(light_L, (len(cameras["B"].flux), GRID.size))
    if any(f"{name}_RESOLUTION" not in hdus for name in cameras):
        return FileConditions(light, seams=SEAMS)
    full = {}
    for name, camera in cameras.items():
        data = np.asarray(hdus[f"{name}_RESOLUTION"].data, dtype=np.float64)
        n, pixels = camera.flux.shape
        if data.ndim != 3 or data.shape[::2] != (n, pixels) or data.shape[1] % 2 == 0:
            raise DamagedFileError(
                f"{name}_RESOLUTION has shape {data.shape}, not {(n, 11, pixels)}"
            )
        if not np.isfinite(data).all():
            raise DamagedFileError(f"{name}_RESOLUTION is not finite")
        full[name] = replace(camera, resolution=data)
    return FileConditions(light, resolution=coadd_cameras(full).resolution, seams=SEAMS)
