"""The LAMOST low-resolution spectrographs: wavelengths, mask, and what reads their files."""

from __future__ import annotations

from spender_core import Instrument
from spender_core.grid import Log
from spender_core.ops.mask import sky_line_mask

from spender_lamost.loader import LamostLoader


class LAMOST(Instrument):
    """LAMOST in its low-resolution mode (LRS), R = 1800 at 5500 Angstrom.

    The survey describes its spectra as 3690 to 9100 Angstrom, logarithmic and in vacuum. Those of
    DR5 have 3909 pixels from log10 = 3.5682, in steps of 1e-4; the first pixel of others may differ
    by whole steps. The grid spans what all of them can cover.

    References:
        Luo et al. 2015, arXiv:1505.01570 (DR1); http://dr5.lamost.org/v3/doc/data-production-description
        (range and resolution); astroNN, `astroNN.lamost.wavelength_solution` (pixels of DR5).
    """

    name = "lamost"

    # 3689.8 to 9101.2 Angstrom; log10 of the nodes has four decimals, as in the files.
    grid = Log(3.567, 1e-4, 3922)

    loader = LamostLoader(grid)

    # 5 Angstrom, or more for brighter ones, on either side of the lines of the night sky.
    mask = sky_line_mask(grid.wave, width=5.0)
