"""Small made-up spec files of both spectrographs, for `spender check sdss` and `check boss`.

The columns are those that the loader reads, of the data model's types:
https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from spender_core.testing import Example, Line

_Z = 0.1
_LINE = 6564.61 * (1 + _Z)
"""H alpha, vacuum Angstrom (https://classic.sdss.org/dr7/algorithms/linestable.php), observed."""
_FLUX, _WIDTH = 120.0, 1.5  # 1e-17 erg/s/cm2, and pixels
_CONTINUUM, _NOISE = 5.0, 0.1  # 1e-17 erg/s/cm2/Angstrom
_WDISP = 1.1  # pixels
_BAD = 500
_FIBRES = (308, 12, 640)


def write_sdss(folder: Path) -> Example:
    """Write three spec files of SDSS-II into a folder, and return what is true of them."""
    return _write(folder, "dr17/sdss", (412, 52254, "26"), 3.5811, 3820, 31)


def write_boss(folder: Path) -> Example:
    """Write three spec files of BOSS into a folder, and return what is true of them."""
    return _write(folder, "dr16/eboss", (3655, 55240, "v5_13_0"), 3.5514, 4600, 24)


def _write(
    folder: Path,
    survey: str,
    reduction: tuple[int, int, str],
    start: float,
    pixels: int,
    before: int,
) -> Example:
    """Write a file for each fibre, where the archive has them; the first has the line.

    Args:
        folder: The root of the archive.
        survey: Its part of the survey.
        reduction: Plate, MJD and RUN2D.
        start: log10 of the first wavelength.
        pixels: Number of pixels, of 1e-4 in log10.
        before: Pixels of the instrument's grid before the first one.
    """
    plate, mjd, run2d = reduction
    rng = np.random.default_rng(1)
    loglam = start + 1e-4 * np.arange(pixels)
    wave = 10**loglam
    sigma = _WIDTH * _LINE * 1e-4 * np.log(10)  # Angstrom
    profile = np.exp(-0.5 * ((wave - _LINE) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    mask = np.zeros(pixels, dtype="i4")
    mask[_BAD] = 1 << 24  # NODATA
    paths = []
    place = folder / survey / f"spectro/redux/{run2d}/spectra/lite/{plate:04d}"
    place.mkdir(parents=True)
    for fibre in _FIBRES:
        flux = _CONTINUUM + rng.normal(0.0, _NOISE, pixels)
        flux += _FLUX * profile * (fibre == _FIBRES[0])
        columns = {
            "flux": flux.astype("f4"), "loglam": loglam.astype("f4"),
            "ivar": np.full(pixels, _NOISE**-2, dtype="f4"), "and_mask": mask, "or_mask": mask,
            "wdisp": np.full(pixels, _WDISP, dtype="f4"),
        }  # fmt: skip
        row = {
            "PLATE": [plate], "MJD": [mjd], "FIBERID": [fibre], "RUN2D": [run2d], "Z": [_Z],
            "Z_ERR": [2e-5], "ZWARNING": [0], "CLASS": ["GALAXY"],
        }  # fmt: skip
        path = place / f"spec-{plate:04d}-{mjd}-{fibre:04d}.fits"
        tables = fits.BinTableHDU(Table(columns)), fits.BinTableHDU(Table(row))
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
        paths.append(path)
    return Example(
        tuple(paths),
        line=Line(_LINE, _FLUX, sigma=sigma),
        ids=[(plate, mjd, _FIBRES[0], run2d)],
        z=[_Z],
        sigma=_WDISP,
        bad=(0, before + _BAD),
        ivar=(0, before, _NOISE**-2),
        root=folder,
    )
