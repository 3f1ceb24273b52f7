"""Two small made-up files, for the tests and for `spender check lamost`: one of each layout.

They are written as the survey writes its files, from numbers of its data model rather than of this
package's grid: whatever the loader takes for something else then shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from spender_core.testing import Example, Line

# The wavelengths of DR5's and later spectra: COEFF0 and COEFF1, log10 of vacuum Angstrom.
COEFF0, COEFF1, PIXELS = 3.5682, 1e-4, 3909

# H beta of a galaxy, vacuum Angstrom at rest (NIST), and its flux in the file's relative unit.
Z, H_BETA, LINE_FLUX = 0.0897, 4862.71, 900.0
RESOLVING_POWER = 1800.0  # FWHM of an unresolved line: wavelength / 1800

CONTINUUM, NOISE = 40.0, 0.5
BAD = 786  # a pixel that is bad in all exposures, counted from the file's first
ENDS = 12  # pixels without data at either end

# Numbers of each file: OBSID, and what its name is made of.
NEW = {"OBSID": 437513049, "LMJD": 57457, "PLANID": "KP0941", "SPID": 13, "FIBERID": 49}
OLD = {"OBSID": 6208147, "LMJD": 55862, "PLANID": "B6212", "SPID": 8, "FIBERID": 147}


class Made:
    """A spectrum to be written, as arrays of M pixels and keywords, all of which may be changed.

    Args:
        cards: Keywords that differ from those of a good galaxy; None leaves one out.
        first: log10 of the first wavelength.
        pixels: Number of pixels.
        seed: Of the noise.
    """

    def __init__(
        self,
        cards: dict[str, Any] | None = None,
        first: float = COEFF0,
        pixels: int = PIXELS,
        seed: int = 1,
    ) -> None:
        self.wave: NDArray[Any] = 10 ** (first + COEFF1 * np.arange(pixels))
        noise = np.random.default_rng(seed).normal(0.0, NOISE, pixels)
        sigma = line_sigma()
        profile = np.exp(-0.5 * ((self.wave - H_BETA * (1 + Z)) / sigma) ** 2)
        self.flux: NDArray[Any] = (
            CONTINUUM + noise + LINE_FLUX * profile / (sigma * np.sqrt(2 * np.pi))
        )
        self.ivar: NDArray[Any] = np.full(pixels, NOISE**-2)
        self.andmask: NDArray[Any] = np.zeros(pixels)
        self.ormask: NDArray[Any] = np.zeros(pixels)
        self.flux[BAD], self.andmask[BAD], self.ormask[BAD] = 1e4, 1, 1  # a cosmic ray
        for end in (slice(None, ENDS), slice(-ENDS, None)):
            self.flux[end], self.ivar[end] = np.nan, 0
        self.header = fits.Header({"TELESCOP": "LAMOST", "VACUUM": True, **NEW})
        self.header.update(COEFF0=first, COEFF1=COEFF1, HELIO=True, HELIO_RV=-3.1)
        self.header.update(FIBERTYP="Obj", FIBERMAS=0, CLASS="GALAXY", SUBCLASS="Non")
        self.header.update({"Z": Z, "Z_ERR": 1e-4, **(cards or {})})
        for name in [name for name, value in (cards or {}).items() if value is None]:
            del self.header[name]

    def table(self, path: Path) -> Path:
        """Write the layout of DR8 and later: an empty primary HDU, and a table of one row."""
        columns = {
            "FLUX": self.flux,
            "IVAR": self.ivar,
            "WAVELENGTH": self.wave,
            "ANDMASK": self.andmask,
            "ORMASK": self.ormask,
            "NORMALIZATION": self.flux / CONTINUUM,
        }
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column(name, f"{values.size}E", array=values[None].astype("f4"))
                for name, values in columns.items()
            ],
            name="COADD",
        )
        fits.HDUList([fits.PrimaryHDU(header=self.header), table]).writeto(path)
        return path

    def image(self, path: Path) -> Path:
        """Write the layout up to DR7: an image of five rows."""
        rows = [self.flux, self.ivar, self.wave, self.andmask, self.ormask]
        fits.PrimaryHDU(np.array(rows, dtype="f4"), header=self.header).writeto(path)
        return path


def line_sigma() -> float:
    """Return the standard deviation of a line at H beta that is not resolved, Angstrom."""
    return float(H_BETA * (1 + Z) / RESOLVING_POWER / np.sqrt(8 * np.log(2)))


def write_example(folder: Path) -> Example:
    """Write a file of each layout into a folder, and return what is true of the first."""
    release = folder / "dr10" / "v2.0"  # as on the survey's server
    (release / "B6212").mkdir(parents=True)
    new = Made().table(release / f"{NEW['OBSID']}.fits.gz")
    old = Made(OLD, first=3.5671, pixels=3915, seed=2).image(
        release / "B6212" / "spec-55862-B6212_sp08-147.fits.gz"
    )
    wave = H_BETA * (1 + Z)
    # Where the file's first pixel lies on a grid whose first wavelength is 10**3.567.
    shift = 12
    return Example(
        (new, old),
        line=Line(wave, LINE_FLUX, row=0, sigma=line_sigma()),
        ids=[(NEW["OBSID"],)],
        z=[Z],
        sigma=line_sigma() / (wave * COEFF1 * np.log(10)),
        bad=(0, BAD + shift),
        ivar=(0, 2000, NOISE**-2),
        root=folder,
    )
