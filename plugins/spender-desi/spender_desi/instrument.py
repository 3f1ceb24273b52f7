"""The DESI spectrographs."""

from __future__ import annotations

from spender_core.interfaces import Instrument
from spender_core.ops.mask import sky_line_mask
from spender_desi.coadd import GRID
from spender_desi.loader import CoaddLoader


class DESI(Instrument):
    """DESI: three cameras joined to 3600 to 9824 Angstrom, in steps of 0.8."""

    name = "desi"
    grid = GRID
    loader = CoaddLoader()
    mask = sky_line_mask(grid.wave)
