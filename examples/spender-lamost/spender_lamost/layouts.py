"""The two layouts of LAMOST's files, and what both of them hold.

| release | where the spectrum is |
|---|---|
| pilot to DR7 | the primary HDU, an image of five rows: flux, inverse variance, a third row, and the masks |
| DR8 and later | the table COADD, one row of vectors: FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK, NORMALIZATION |

The third row of the image is the wavelength in some releases, and the spectrum less its continuum in
others; so wavelengths of images come from the keywords COEFF0 and COEFF1 where they are given.
Keywords are in the primary header in either layout.

Sources: "Fits Files" of https://www.lamost.org/public/dr/algorithms/ff (rows of the image, frame,
meaning of the masks); the reader of the survey's https://github.com/fandongwei/pylamost (both
layouts, COEFF0 and COEFF1); columns of COADD as public readers of DR10's files name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spender_core.errors import DamagedFileError

TABLE = "COADD"
FLUX, IVAR, WAVELENGTH, ANDMASK = range(4)  # rows of an image


@dataclass(frozen=True)
class Recorded:
    """A spectrum as its file has it; M pixels.

    Attributes:
        header: Header of the primary HDU.
        wave: Wavelengths, vacuum Angstrom, shape (M,).
        flux: Flux per Angstrom, calibrated relatively, shape (M,).
        ivar: Its inverse variance, shape (M,); 0 where nothing was measured.
        andmask: Bits that are set in all exposures of a pixel, shape (M,).
    """

    header: Any
    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    andmask: NDArray[np.int64]


def is_lamost(hdus: Any) -> bool:
    """Tell whether an open FITS file is a LAMOST spectrum of low resolution, from headers alone.

    Those of medium resolution have tables named for arms and exposures in place of one COADD.
    """
    header = hdus[0].header
    ours = "LAMOST" in str(header.get("TELESCOP", "")).upper() or "PLANID" in header
    return ours and "OBSID" in header and (TABLE in hdus or header.get("NAXIS2") == 5)


def recorded(hdus: Any) -> Recorded:
    """Return the spectrum of an open file, in whichever layout.

    Raises:
        DamagedFileError: It holds no spectrum.
    """
    header = hdus[0].header
    if TABLE in hdus:
        (row,) = hdus[TABLE].data
        wave, flux, ivar, andmask = (row[n] for n in ("WAVELENGTH", "FLUX", "IVAR", "ANDMASK"))
    elif header.get("NAXIS2") == 5:
        image = hdus[0].data
        flux, ivar, andmask = image[FLUX], image[IVAR], image[ANDMASK]
        wave = image[WAVELENGTH]
        if "COEFF0" in header:
            wave = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(image.shape[1]))
    else:
        raise DamagedFileError(f"it has neither a table {TABLE} nor an image of 5 rows")
    # FITS has big-endian numbers: copies in those of this machine. Masks are stored as floats.
    return Recorded(
        header,
        np.array(wave, dtype=np.float64),
        np.array(flux, dtype=np.float32),
        np.array(ivar, dtype=np.float32),
        np.nan_to_num(np.array(andmask, dtype=np.float64), nan=1.0).astype(np.int64),
    )
