"""How spectra of DESI were taken, for mocks that are to look like them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spender_core.archives.fits.hdus import Hdus
from spender_core.archives.fits.spans import Chosen
from spender_core.errors import DamagedFileError
from spender_core.interfaces.loader import FileConditions
from spender_core.line_spread import BandedLSF
from spender_desi.cameras import diagonals, read_cameras, read_waves, with_resolution
from spender_desi.coadd import GRID, Camera, coadd_resolution

EQUAL_LIGHT = {3900: 5.5, 4400: 5.0, 5000: 4.0, 6000: 3.3, 7000: 2.6, 9000: 2.4}
"""Flux of an object, 1e-17 erg/s/cm2/Angstrom, whose photons double the variance, by wavelength
in Angstrom. Found by fitting 1 / ivar = v (1 + flux / equal_light), in windows of 500 Angstrom,
to the ten spectra of tile 80693 (EDR; exposures of dark time), with one v for each petal; they
follow it to 2 to 15 percent. A dark sky of 1.2 an arcsec^2 at 6200 Angstrom gives 2.1 in a fibre
of 1.5 arcsec, to which detector noise adds."""

SEAMS = (5780.0, 7570.0)
"""Middle of the overlaps of the cameras, Angstrom."""


def read_conditions(hdus: Hdus) -> FileConditions:
    """Return the joined resolution matrices, shape (N, K, L), or none if the file has none."""
    cameras = read_cameras(hdus, read_waves(hdus), None)
    light_L = np.interp(GRID.wave, list(EQUAL_LIGHT), list(EQUAL_LIGHT.values()))
    light = np.broadcast_to(light_L, (len(cameras["B"].flux), GRID.size))
    if diagonals(hdus) is None:
        return FileConditions(light, seams=SEAMS)
    resolution = coadd_resolution(with_resolution(cameras, hdus, None))
    return FileConditions(light, resolution=resolution, seams=SEAMS)


class Matrices:
    """Resolution matrices of some targets, joined over the cameras, as they are read.

    Args:
        hdus: The file.
        n: How many targets.

    Raises:
        DamagedFileError: The file has none, or they do not fit the spectra.
    """

    def __init__(self, hdus: Hdus, n: int) -> None:
        taps = diagonals(hdus)
        if taps is None:
            raise DamagedFileError(
                "it holds no resolution matrices (B_RESOLUTION, R_RESOLUTION and Z_RESOLUTION); "
                "read it without lsf=True"
            )
        self.hdus, self.taps = hdus, taps
        self.data_BKL = np.empty((n, taps, GRID.size), dtype=np.float32)

    def add(self, cameras: Mapping[str, Camera], places: slice, rows: Chosen) -> None:
        """Join those of some targets.

        Args:
            cameras: Their spectra, by name.
            places: Where they are among all targets.
            rows: Their rows in the file.

        Raises:
            DamagedFileError: They are not finite.
        """
        coadd_resolution(with_resolution(cameras, self.hdus, rows), self.data_BKL[places])

    def lsf(self) -> BandedLSF:
        """Return them as a line spread function."""
        half = self.taps // 2
        return BandedLSF(torch.from_numpy(self.data_BKL), range(half, -half - 1, -1))
