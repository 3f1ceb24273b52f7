"""The SDSS and the BOSS spectrograph."""

from __future__ import annotations

from spender_core.grid import Log
from spender_core.interfaces import Instrument
from spender_core.ops.mask import sky_line_mask
from spender_sdss.loader import SpecLoader


class SDSS(Instrument):
    """The spectrographs of SDSS-I and -II: 3784 to 9332 Angstrom, 69 km/s a pixel.

    The nodes are exact multiples of 1e-4 in log10. The grid of spender 0.3 is the same
    up to its float32 arithmetic, which moves its nodes by up to 0.0025 pixel.
    """

    name = "sdss"
    grid = Log(3.578, 1e-4, 3921)
    loader = SpecLoader("sdss", grid)
    mask = sky_line_mask(grid.wave)


class BOSS(Instrument):
    """The spectrographs of BOSS and eBOSS: 3540 to 10411 Angstrom, 69 km/s a pixel.

    The grid of spender 0.3 differs from these nodes by up to 0.0045 pixel.
    """

    name = "boss"
    grid = Log(3.549, 1e-4, 4686)
    loader = SpecLoader("boss", grid)
    mask = sky_line_mask(grid.wave)
