"""A small made-up coadd with its redshifts, for `spender check desi`.

The HDUs are those that the loader reads, as in the data model:
https://desidatamodel.readthedocs.io/en/latest/DESI_SPECTRO_REDUX/SPECPROD/healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM/coadd-SURVEY-PROGRAM-PIXNUM.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from spender_core.testing import Example, Line

_CAMERAS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
"""First wavelength, vacuum Angstrom, and pixels of 0.8 Angstrom."""
_STEP = 0.8
_Z = (0.1, 0.2, 0.3)
_LINE = 6564.61 * (1 + _Z[0])
"""H alpha, vacuum Angstrom (https://classic.sdss.org/dr7/algorithms/linestable.php), observed."""
_FLUX, _WIDTH = 120.0, 1.6  # 1e-17 erg/s/cm2, and Angstrom
_CONTINUUM, _NOISE = 5.0, 0.1  # 1e-17 erg/s/cm2/Angstrom
_LSF = 1.25  # pixels
_BAD = 500
_TARGETS = (39627000000000007, 39627000000000001, 39627000000000003)
_SURVEY, _PROGRAM, _HEALPIX = "sv3", "bright", 57


def write_desi(folder: Path) -> Example:
    """Write a coadd of three galaxies and its redrock file, and return what is true of them."""
    name = f"{_SURVEY}-{_PROGRAM}-{_HEALPIX}.fits"
    place = folder / f"dr1/spectro/redux/iron/healpix/{_SURVEY}/{_PROGRAM}/0/{_HEALPIX}"
    place.mkdir(parents=True)
    path = place / f"coadd-{name}"
    primary = fits.PrimaryHDU()
    primary.header.update({"SURVEY": _SURVEY, "PROGRAM": _PROGRAM, "HPXPIXEL": _HEALPIX})
    count = len(_TARGETS)
    fibermap = {
        "TARGETID": _TARGETS, "COADD_FIBERSTATUS": np.zeros(count, dtype="i4"),
        "OBJTYPE": ["TGT"] * count, "DESI_TARGET": np.zeros(count, dtype="i8"),
    }  # fmt: skip
    hdus = [primary, fits.BinTableHDU(Table(fibermap), name="FIBERMAP")]
    rng = np.random.default_rng(1)
    for camera, (first, pixels) in _CAMERAS.items():
        hdus += _images(camera, first + _STEP * np.arange(pixels), rng)
    fits.HDUList(hdus).writeto(path)
    redshifts = {
        "TARGETID": _TARGETS, "Z": _Z, "ZERR": [1e-5] * count, "ZWARN": [0] * count,
        "DELTACHI2": [1000.0] * count, "SPECTYPE": ["GALAXY"] * count,
    }  # fmt: skip
    tables = [fits.BinTableHDU(Table(redshifts), name="REDSHIFTS"), hdus[1].copy()]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(place / f"redrock-{name}")
    none = (-1, -1, -1)  # TILEID, NIGHT and PETAL, which coadds of a healpix have not
    return Example(
        (path,),
        line=Line(_LINE, _FLUX, sigma=_WIDTH),
        ids=[(target, _SURVEY, _PROGRAM, _HEALPIX, *none) for target in _TARGETS],
        z=_Z,
        sigma=_LSF,
        bad=(0, _BAD),
        ivar=(0, 0, _NOISE**-2),
        root=folder,
    )


def _images(camera: str, wave: np.ndarray[Any, Any], rng: np.random.Generator) -> list[Any]:
    """Return the images of a camera; the first target has the line, and a bad pixel in the blue."""
    shape = (len(_TARGETS), len(wave))
    flux = _CONTINUUM + rng.normal(0.0, _NOISE, shape)
    profile = np.exp(-0.5 * ((wave - _LINE) / _WIDTH) ** 2) / (_WIDTH * np.sqrt(2 * np.pi))
    flux[0] += _FLUX * profile
    mask = np.zeros(shape, dtype="i4")
    mask[0, _BAD] = camera == "B"
    taps = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (taps / _LSF) ** 2)
    resolution = np.broadcast_to((kernel / kernel.sum())[:, None], (shape[0], 11, shape[1]))
    return [
        fits.ImageHDU(wave, name=f"{camera}_WAVELENGTH"),
        fits.ImageHDU(flux.astype("f4"), name=f"{camera}_FLUX"),
        fits.ImageHDU(np.full(shape, _NOISE**-2, dtype="f4"), name=f"{camera}_IVAR"),
        fits.CompImageHDU(mask, name=f"{camera}_MASK"),
        fits.ImageHDU(resolution.astype("f4"), name=f"{camera}_RESOLUTION"),
    ]
