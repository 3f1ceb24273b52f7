"""How spectra of DESI were taken, for mocks that are to look like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from astropy.io import fits

from spender_core.errors import DamagedFileError
from spender_core.interfaces.loader import FileConditions
from spender_core.line_spread import BandedLSF
from spender_desi.coadd import GRID, Camera, coadd_resolution

EQUAL_LIGHT = {3900: 5.5, 4400: 5.0, 5000: 4.0, 6000: 3.3, 7000: 2.6, 9000: 2.4}
"""Flux of an object, 1e-17 erg/s/cm2/Angstrom, whose photons double the variance, by wavelength
in Angstrom. Found by fitting 1 / ivar = v (1 + flux / equal_light), in windows of 500 Angstrom,
to the ten spectra of tile 80693 (EDR; exposures of dark time), with one v for each petal; they
follow it to 2 to 15 percent. A dark sky of 1.2 an arcsec^2 at 6200 Angstrom gives 2.1 in a fibre
of 1.5 arcsec, to which detector noise adds."""

SEAMS = (5780.0, 7570.0)
"""Middle of the overlaps of the cameras, Angstrom."""

_ROWS = 4
"""Targets whose resolution matrices are joined together, in float64."""


def read_conditions(cameras: Mapping[str, Camera], hdus: fits.HDUList) -> FileConditions:
    """Return the joined resolution matrices, shape (N, K, L), or none if the file has none.

    Args:
        cameras: Their spectra, by name.
        hdus: The file.
    """
    light_L = np.interp(GRID.wave, list(EQUAL_LIGHT), list(EQUAL_LIGHT.values()))
    light = np.broadcast_to(light_L, (len(cameras["B"].flux), GRID.size))
    full = with_resolution(cameras, hdus)
    if full is None:
        return FileConditions(light, seams=SEAMS)
    return FileConditions(light, resolution=coadd_resolution(full), seams=SEAMS)


def read_lsf(cameras: Mapping[str, Camera], hdus: fits.HDUList) -> BandedLSF:
    """Return the resolution matrices, joined over the cameras, as they are.

    Args:
        cameras: Their spectra, by name.
        hdus: The file.

    Raises:
        DamagedFileError: The file has none, or they do not fit the spectra.
    """
    full = with_resolution(cameras, hdus)
    if full is None:
        raise DamagedFileError(
            "it holds no resolution matrices (B_RESOLUTION, R_RESOLUTION and Z_RESOLUTION); read it "
            "without lsf=True"
        )
    n, taps = len(cameras["B"].flux), max(hdus[f"{name}_RESOLUTION"].shape[1] for name in cameras)
    data_BKL = np.empty((n, taps, GRID.size), dtype=np.float32)
    for first in range(0, n, _ROWS):
        rows = slice(first, first + _ROWS)
        data_BKL[rows] = coadd_resolution({name: camera[rows] for name, camera in full.items()})
    return BandedLSF(torch.from_numpy(data_BKL), range(taps // 2, -(taps // 2) - 1, -1))


def with_resolution(cameras: Mapping[str, Camera], hdus: fits.HDUList) -> dict[str, Camera] | None:
    """Return cameras with their resolution matrices, or None if the file lacks any.

    Pixels whose values cannot be have no weight where cameras are joined.
    """
    if any(f"{name}_RESOLUTION" not in hdus for name in cameras):
        return None
    full = {}
    for name, camera in cameras.items():
        hdu = hdus[f"{name}_RESOLUTION"]
        n, pixels = camera.flux.shape
        if len(hdu.shape) != 3 or hdu.shape[::2] != (n, pixels) or hdu.shape[1] % 2 == 0:
            raise DamagedFileError(
                f"{name}_RESOLUTION has shape {hdu.shape}, not {(n, 11, pixels)}"
            )
        data = hdu.data
        del hdu.data
        if not np.isfinite(data).all():
            raise DamagedFileError(f"{name}_RESOLUTION is not finite")
        ivar = np.where(camera.broken, 0, camera.ivar)
        full[name] = replace(camera, ivar=ivar, resolution=data)
    return full
