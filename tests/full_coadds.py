"""Fabricates coadds of DESI, with the redrock file beside, as large as those of the archive.

HDUs, their order, the columns of all tables and their widths are those of EDR's
coadd-sv3-dark-26065.fits and redrock-special-dark-27247.fits. Masks are compressed in tiles of one
row with Rice's method, as `astropy.io.fits.CompImageHDU` does it by default. 500 targets take
208 MB, of which resolution matrices are 84 percent; 223 MB and 79 percent with plain masks. The
values are made up: a smooth continuum of some colour, a break, noise, bad pixels in runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

CAMERAS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
"""First wavelength in Angstrom, and pixels, of each camera."""

STEP, TAPS = 0.8, 11

FIBERMAP = """
TARGETID:K COADD_FIBERSTATUS:J TARGET_RA:D TARGET_DEC:D PMRA:E PMDEC:E REF_EPOCH:E FA_TARGET:K
FA_TYPE:B OBJTYPE:3A SUBPRIORITY:D OBSCONDITIONS:J RELEASE:I BRICKNAME:8A BRICKID:J
BRICK_OBJID:J MORPHTYPE:4A EBV:E FLUX_G:E FLUX_R:E FLUX_Z:E FLUX_W1:E FLUX_W2:E FLUX_IVAR_G:E
FLUX_IVAR_R:E FLUX_IVAR_Z:E FLUX_IVAR_W1:E FLUX_IVAR_W2:E FIBERFLUX_G:E FIBERFLUX_R:E
FIBERFLUX_Z:E FIBERTOTFLUX_G:E FIBERTOTFLUX_R:E FIBERTOTFLUX_Z:E MASKBITS:I SERSIC:E SHAPE_R:E
SHAPE_E1:E SHAPE_E2:E REF_ID:K REF_CAT:2A GAIA_PHOT_G_MEAN_MAG:E GAIA_PHOT_BP_MEAN_MAG:E
GAIA_PHOT_RP_MEAN_MAG:E PARALLAX:E PHOTSYS:1A PRIORITY_INIT:K NUMOBS_INIT:K {phase}DESI_TARGET:K
{phase}BGS_TARGET:K {phase}MWS_TARGET:K {phase}SCND_TARGET:K PLATE_RA:D PLATE_DEC:D
COADD_NUMEXP:I COADD_EXPTIME:E COADD_NUMNIGHT:I COADD_NUMTILE:I MEAN_DELTA_X:E RMS_DELTA_X:E
MEAN_DELTA_Y:E RMS_DELTA_Y:E MEAN_FIBER_RA:D STD_FIBER_RA:E MEAN_FIBER_DEC:D STD_FIBER_DEC:E
MEAN_PSF_TO_FIBER_SPECFLUX:E
"""

EXP_FIBERMAP = """
TARGETID:K PRIORITY:J SUBPRIORITY:D NIGHT:J EXPID:J MJD:D TILEID:J EXPTIME:D PETAL_LOC:I
DEVICE_LOC:J LOCATION:K FIBER:J FIBERSTATUS:J FIBERASSIGN_X:E FIBERASSIGN_Y:E LAMBDA_REF:E
PLATE_RA:D PLATE_DEC:D NUM_ITER:K FIBER_X:D FIBER_Y:D DELTA_X:D DELTA_Y:D FIBER_RA:D FIBER_DEC:D
PSF_TO_FIBER_SPECFLUX:D
"""

REDSHIFTS = """
TARGETID:K Z:D ZERR:D ZWARN:K CHI2:D COEFF:10D FITMETHOD:4A NPIXELS:K SPECTYPE:6A SUBTYPE:20A
NCOEFF:K DELTACHI2:D
"""

_LIGHT = [f"{what}_COADD_{of}" for what, of in (("INTEG", "FLUX"), ("MEDIAN", "FLUX"))]
_DEPTHS = [
    f"TSNR2_{kind}"
    for kind in ("GPBDARK", "ELG", "GPBBRIGHT", "LYA", "BGS", "GPBBACKUP", "QSO", "LRG")
]
_BANDS = [f"{name}_{camera}" for camera in CAMERAS for name in _DEPTHS] + _DEPTHS
TSNR2 = " ".join(["TARGETID:K", *(f"{name}:E" for name in _BANDS)])
SCORES = " ".join(
    [
        "TARGETID:K",
        *(f"{name}_{c}:E" for c in CAMERAS for name in (*_LIGHT, "MEDIAN_COADD_SNR")),
        *(f"{name}:E" for name in _BANDS),
    ]
)

_TYPES = {"K": ">i8", "J": ">i4", "I": ">i2", "B": "u1", "D": ">f8", "E": ">f4"}
_DEPENDENCIES = 22
"""Packages and folders whose versions are in headers of tables and of the file."""


@dataclass(frozen=True)
class Fabricated:
    """A coadd and what is in it.

    Attributes:
        coadd: Its path.
        redrock: The path of the file with redshifts.
        targets: TARGETID, by row of the coadd.
        z: The redshift of each.
    """

    coadd: Path
    redrock: Path
    targets: NDArray[np.int64]
    z: NDArray[np.float64]


def write(
    root: Path,
    n_targets: int = 500,
    *,
    survey: str = "sv3",
    program: str = "dark",
    healpix: int = 26065,
    seed: int = 0,
    resolution: bool = True,
    compressed: bool = True,
    exposures: int = 2,
    shuffled: bool = False,
    targets: NDArray[np.int64] | None = None,
) -> Fabricated:
    """Write a coadd and its redrock file where a release keeps them.

    Args:
        root: Where "{survey}/{program}/{group}/{healpix}" begins, e.g. ".../fuji/healpix".
        n_targets: Targets.
        survey: Of the header and the name; "main" has columns without a prefix.
        program: Of the header and the name.
        healpix: Of the header and the name.
        seed: Of all that is random.
        resolution: Write resolution matrices too.
        compressed: Compress masks. Later releases have plain images.
        exposures: Rows of EXP_FIBERMAP for each target.
        shuffled: Write the rows of the redrock file in another order.
        targets: TARGETID of each; random by default.
    """
    rng = np.random.default_rng([seed, healpix])
    if targets is None:
        targets = 39627000000000000 + 7 * rng.permutation(10 * n_targets)[:n_targets]
    z = rng.uniform(0.02, 0.7, n_targets)
    phase = "" if survey == "main" else f"{survey.upper()}_"
    folder = root / survey / program / str(healpix // 100) / str(healpix)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{survey}-{program}-{healpix}.fits"
    fibermap = _fibermap(targets, phase, rng)
    visits = _exposures(targets, exposures, healpix, rng)
    keywords = {
        "SPGRP": "healpix",
        "SPGRPVAL": healpix,
        "HPXPIXEL": healpix,
        "HPXNSIDE": 64,
        "HPXNEST": True,
        "SURVEY": survey,
        "PROGRAM": program,
    }
    hdus = [_primary(keywords), _hdu("FIBERMAP", fibermap), _hdu("EXP_FIBERMAP", visits)]
    for camera in CAMERAS:
        hdus += _images(camera, z, rng, resolution, compressed)
    hdus.append(_hdu("SCORES", _random(SCORES, n_targets, rng, TARGETID=targets)))
    coadd, redrock = folder / f"coadd-{name}", folder / f"redrock-{name}"
    fits.HDUList(hdus).writeto(coadd, overwrite=True)
    order = rng.permutation(n_targets) if shuffled else np.arange(n_targets)
    redshifts = _redshifts(targets, z, rng)[order]
    depths = _random(TSNR2, n_targets, rng, TARGETID=targets)[order]
    tables = {"REDSHIFTS": redshifts, "FIBERMAP": fibermap[order], "EXP_FIBERMAP": visits}
    made = [_hdu(key, table) for key, table in (tables | {"TSNR2": depths}).items()]
    fits.HDUList([_primary(keywords), *made]).writeto(redrock, overwrite=True)
    return Fabricated(coadd, redrock, targets, z)


def _images(
    camera: str,
    z: NDArray[np.float64],
    rng: np.random.Generator,
    resolution: bool,
    compressed: bool,
) -> list[Any]:
    first, pixels = CAMERAS[camera]
    wave, n = first + STEP * np.arange(pixels), len(z)
    shape = (n, pixels)
    # faint, so that no median is near 0; the 4000 Angstrom break tells the redshift
    level = 2 + 3 * ((np.arange(n) * 0.618) % 1)[:, None]
    continuum = (
        level * (wave / 6000) ** (1 + z[:, None]) * (1 - 0.4 * (wave < 4000 * (1 + z[:, None])))
    )
    ivar = (3 + np.sin(wave / 50) + 0.5 * rng.random(shape)).astype(np.float32)
    flux = (continuum + rng.standard_normal(shape) / np.sqrt(ivar)).astype(np.float32)
    mask = np.zeros(shape, dtype=np.uint32)
    hits = max(1, shape[0] * shape[1] // 400)
    rows, starts = rng.integers(n, size=hits), rng.integers(pixels, size=hits)
    bits = 1 << rng.integers(0, 12, size=hits)
    for shift in range(4):
        mask[rows, np.minimum(starts + shift, pixels - 1)] |= bits.astype(np.uint32)
    ivar[mask != 0] *= rng.random(int((mask != 0).sum())) < 0.5
    kind: Any = fits.CompImageHDU if compressed else fits.ImageHDU
    hdus = [
        fits.ImageHDU(wave, name=f"{camera}_WAVELENGTH"),
        fits.ImageHDU(flux, name=f"{camera}_FLUX"),
        fits.ImageHDU(ivar, name=f"{camera}_IVAR"),
        kind(mask if compressed else mask.astype(np.int32), name=f"{camera}_MASK"),
    ]
    hdus[0].header["BUNIT"] = "Angstrom"
    hdus[1].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    hdus[2].header["BUNIT"] = "10**+34 (s2 cm4 Angstrom2) / erg2"
    if resolution:
        hdus.append(fits.ImageHDU(_resolution(wave, n, rng), name=f"{camera}_RESOLUTION"))
    return hdus


def _resolution(wave: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return Gaussians whose width changes with wavelength and target, (N, K, n)."""
    offset = np.arange(TAPS, dtype=np.float32) - TAPS // 2
    made = np.empty((n, TAPS, len(wave)), dtype=np.float32)
    trend = ((wave - wave[0]) / (wave[-1] - wave[0])).astype(np.float32)
    for row, width in enumerate(rng.uniform(1.0, 1.3, n)):
        sigma = np.float32(width) + np.float32(0.3) * trend
        made[row] = np.exp(-0.5 * (offset[:, None] / sigma) ** 2)
        made[row] /= made[row].sum(axis=0)
    return made


def _fibermap(targets: NDArray[Any], phase: str, rng: np.random.Generator) -> NDArray[np.void]:
    n = len(targets)
    known = {
        "TARGETID": targets,
        "COADD_FIBERSTATUS": 0,
        "OBJTYPE": b"TGT",
        "TARGET_RA": rng.uniform(210, 211, n),
        "TARGET_DEC": rng.uniform(3, 4, n),
        f"{phase}DESI_TARGET": 1 << rng.choice([0, 1, 2, 60], size=n),
    }
    return _random(FIBERMAP.format(phase=phase), n, rng, **known)


def _exposures(
    targets: NDArray[Any], exposures: int, tile: int, rng: np.random.Generator
) -> NDArray[np.void]:
    known = {"TARGETID": np.repeat(targets, exposures), "TILEID": tile, "FIBERSTATUS": 0}
    return _random(EXP_FIBERMAP, exposures * len(targets), rng, **known)


def _redshifts(
    targets: NDArray[Any], z: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.void]:
    known = {"TARGETID": targets, "Z": z, "ZWARN": 0, "SPECTYPE": b"GALAXY", "NPIXELS": 7900}
    sure = {"ZERR": rng.uniform(1e-5, 1e-4, len(z)), "DELTACHI2": rng.uniform(50, 5000, len(z))}
    return _random(REDSHIFTS, len(z), rng, **known, **sure)


def _random(layout: str, n: int, rng: np.random.Generator, **known: Any) -> NDArray[np.void]:
    """Return a table of columns "NAME:FORMAT", random where nothing is known of them."""
    fields: list[Any] = []
    for entry in layout.split():
        name, form = entry.split(":")
        count, code = form[:-1] or "1", form[-1]
        kind = f"S{count}" if code == "A" else _TYPES[code]
        fields.append((name, kind) if code == "A" or count == "1" else (name, kind, int(count)))
    table = np.zeros(n, dtype=fields)
    for name in table.dtype.names or ():
        stored = table.dtype[name].base
        size = table[name].shape
        if name in known:
            table[name] = known[name]
        elif stored.kind == "S":
            letters = rng.integers(65, 91, size=(*size, stored.itemsize), dtype=np.uint8)
            table[name] = letters.view(f"S{stored.itemsize}").reshape(size)
        elif stored.kind == "f":
            table[name] = rng.standard_normal(size)
        else:
            table[name] = rng.integers(0, 100, size=size)
    return table


def _hdu(name: str, table: NDArray[np.void]) -> fits.BinTableHDU:
    hdu = fits.BinTableHDU(table, name=name)
    _depend(hdu.header)
    return hdu


def _primary(keywords: dict[str, Any]) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU()
    hdu.header.update(keywords)
    _depend(hdu.header)
    hdu.header["LONGSTRN"] = "OGIP 1.0"
    hdu.header["DEPVER21"] = "/a/folder/whose/name/is/so/long/" * 3  # continued on a second card
    return hdu


def _depend(header: fits.Header) -> None:
    for number in range(_DEPENDENCIES):
        header[f"DEPNAM{number:02}"] = f"package{number}"
        header[f"DEPVER{number:02}"] = f"1.{number}.0"


if __name__ == "__main__":
    import sys

    print(write(Path(sys.argv[1]), int(sys.argv[2])).coadd)
