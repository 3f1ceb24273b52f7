"""Reads DESI coadds, by healpix or by tile, with the redrock file beside them if there is one.

The data model is https://desidatamodel.readthedocs.io, files coadd-*.fits and redrock-*.fits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray

from spender_core.archives.location import join, redacted
from spender_core.archives.opening import beside, open_fits
from spender_core.archives.tables import column, names, whole_numbers
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import DamagedFileError, FileError, InputError, MissingFileError
from spender_core.interfaces import Loader, Source
from spender_core.interfaces.loader import FileConditions
from spender_desi.coadd import GRID, Camera, broken_pixels, coadd_cameras
from spender_desi.conditions import read_conditions, read_lsf

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

CAMERAS = ("B", "R", "Z")
PROGRAMS = ("backup", "bright", "dark", "other")
HEALPIX = 12 * 64**2
"""Pixels of the sky, nested, by which files are named."""

_ROWS = 32
"""Targets whose cameras are joined together."""

_LRG, _BGS_ANY = 1 << 0, 1 << 60
"""Bits of DESI_TARGET, the same in sv1, sv2, sv3 and main (desitarget's targetmask.yaml)."""


class CoaddLoader(Loader):
    """Loader of coadded DESI spectra.

    Redshifts come from the redrock file of the same name in the same folder, joined by
    TARGETID; without it they are unknown.
    """

    id_dtype = np.dtype(
        [
            ("TARGETID", "i8"),
            ("SURVEY", "U8"),
            ("PROGRAM", "U8"),
            ("HEALPIX", "i8"),
            ("TILEID", "i8"),
        ]
    )
    dataset_columns = {"TARGETID": "target_id"}

    def recognises(self, url: str) -> bool:
        """Tell whether a file is one of DESI's, of spectra or of redshifts."""
        with open_fits(url, contents=False) as hdus:
            names = {hdu.name for hdu in hdus}
        return {"FIBERMAP", "B_FLUX"} <= names or {"FIBERMAP", "REDSHIFTS"} <= names

    def load(self, url: str) -> SpectrumBatch:
        """Read all spectra of a coadd file, joined over the cameras."""
        return self._read(url, lsf=False)

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read all spectra of a coadd file with their resolution matrices, as published."""
        return self._read(url, lsf=True)

    def _read(self, url: str, lsf: bool) -> SpectrumBatch:
        with open_fits(url) as hdus:
            _refuse_others(url, hdus)
            _check_shapes(hdus)
            fibermap = hdus["FIBERMAP"]
            ids, flags = self._ids(hdus[0].header, fibermap), _fiber_flags(fibermap)
            target = _desi_target(fibermap)
            cameras = {name: _camera(hdus, name) for name in CAMERAS}
            flux, ivar, broken = _joined(cameras)
            spread = read_lsf(cameras, hdus) if lsf else None
            del cameras
        flags |= np.where(broken, int(Flag.BAD_VALUES), 0)
        z, zerr, z_flags = _redshifts(url, ids["TARGETID"], target)
        return SpectrumBatch(
            torch.from_numpy(flux),
            torch.from_numpy(ivar),
            z=z,
            zerr=zerr,
            ids=ids,
            instrument="desi",
            lsf=spread,
            flags=flags | z_flags,
        )

    def conditions(self, url: str) -> FileConditions:
        """Return the resolution matrices of a coadd file, joined over the cameras."""
        with open_fits(url) as hdus:
            _refuse_others(url, hdus)
            _check_shapes(hdus)
            return read_conditions({name: _camera(hdus, name) for name in CAMERAS}, hdus)

    def _ids(self, header: fits.Header, fibermap: fits.BinTableHDU) -> NDArray[np.void]:
        targets = column(fibermap, "TARGETID", "iu")
        ids = np.zeros(len(targets), dtype=self.id_dtype)
        ids["TARGETID"] = targets
        ids["SURVEY"] = header.get("SURVEY") or ""
        ids["PROGRAM"] = header.get("PROGRAM") or ""
        ids["HEALPIX"] = header.get("HPXPIXEL", -1)
        ids["TILEID"] = header.get("TILEID", -1)
        return ids

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Find (survey, program, healpix) or (survey, program, healpix, TARGETID) in the archive.

        The first stands for all targets of a healpix. Rows of `SpectrumBatch.ids` are
        taken too, if they come from a healpix coadd.
        """
        archive = releases()
        release = release or archive["default"]
        if release not in archive["releases"]:
            raise InputError(
                f"release {release!r} is not known; known: {list(archive['releases'])}"
            )
        entry = archive["releases"][release]
        sources = []
        for row in ids:
            survey, program, healpix, target = _parse_id(row, entry["surveys"], release)
            path = entry["path"].format(
                survey=survey, program=program, healpix=healpix, group=healpix // 100
            )
            rows = {} if target is None else {"TARGETID": target}
            sources.append(Source((join(root or archive["root"], path),), rows))
        return sources


@cache
def releases() -> dict[str, Any]:
    """Return the data releases: roots, path templates and surveys."""
    text = (resources.files("spender_desi") / "releases.toml").read_text()
    return tomllib.loads(text)


def _parse_id(row: Any, surveys: list[str], release: str) -> tuple[str, str, int, int | None]:
    if isinstance(row, np.void) and "HEALPIX" not in (row.dtype.names or ()):
        raise InputError(f"the id {row!r} has no HEALPIX, which tells the file that holds it")
    if isinstance(row, np.void):
        if row["HEALPIX"] < 0:
            raise InputError(
                f"target {row['TARGETID']} was read from a tile, which ids cannot find again; "
                "read the tile's coadd by its path"
            )
        row = (row["SURVEY"], row["PROGRAM"], row["HEALPIX"], row["TARGETID"])
    if not isinstance(row, (tuple, list)) or len(row) not in (3, 4):
        raise InputError(
            f"ids of DESI spectra are (survey, program, healpix) or (survey, program, healpix, "
            f"TARGETID), got {row!r:.80}"
        )
    healpix, *others = whole_numbers("healpix and TARGETID", row[2:])
    if not 0 <= healpix < HEALPIX:
        raise InputError(f"healpix {healpix} is not between 0 and {HEALPIX - 1} (nside 64)")
    target = others[0] if others else None
    survey, program = str(row[0]), str(row[1])
    if survey not in surveys:
        raise InputError(f"survey {survey!r} is not in release {release}; it has {surveys}")
    if program not in PROGRAMS:
        raise InputError(f"program {program!r} is not known; use one of {PROGRAMS}")
    return survey, program, healpix, target


def _refuse_others(url: str, hdus: fits.HDUList) -> None:
    present = {hdu.name for hdu in hdus}
    if "REDSHIFTS" in present:
        raise FileError(
            f"{redacted(url)} is a redrock file: redshifts without spectra. Give the coadd file of the "
            "same name; the redshifts beside it are found by themselves"
        )
    missing = {
        "FIBERMAP",
        *(f"{c}_{part}" for c in CAMERAS for part in ("WAVELENGTH", "FLUX", "IVAR", "MASK")),
    } - present
    if missing:
        raise FileError(
            f"{redacted(url)} is not a DESI coadd: it lacks the HDUs {', '.join(sorted(missing))}"
        )
    if not isinstance(hdus["FIBERMAP"], fits.BinTableHDU):
        raise DamagedFileError("its FIBERMAP is not a table")
    columns = set(names(hdus["FIBERMAP"]))
    if "COADD_FIBERSTATUS" not in columns and {"FIBERSTATUS", "EXPID"} & columns:
        raise FileError(
            f"{redacted(url)} holds single exposures, not coadded spectra. Give the coadd file of the same "
            "name, or coadd it first with desi_coadd_spectra"
        )


def _check_shapes(hdus: fits.HDUList) -> None:
    """Refuse arrays that do not fit each other, or the file, by their headers alone."""
    rows = hdus["FIBERMAP"].header["NAXIS2"]
    if rows == 0:
        raise DamagedFileError("its FIBERMAP has no rows, so that there are no targets")
    for camera in CAMERAS:
        pixels = hdus[f"{camera}_WAVELENGTH"].shape
        if len(pixels) != 1 or not 0 < pixels[0] <= GRID.size:
            raise DamagedFileError(f"{camera}_WAVELENGTH has shape {pixels}, not one value a pixel")
        for part in ("FLUX", "IVAR", "MASK"):
            found = hdus[f"{camera}_{part}"].shape
            if found != (rows, *pixels):
                raise DamagedFileError(f"{camera}_{part} has shape {found}, not {(rows, *pixels)}")
    last = hdus[-1].fileinfo()
    if 8 * rows * GRID.size > last["datLoc"] + last["datSpan"]:
        raise DamagedFileError(f"it is too small for the {rows} spectra that it claims")


def _camera(hdus: fits.HDUList, name: str) -> Camera:
    def data(part: str, dtype: Any) -> NDArray[Any]:
        hdu = hdus[f"{name}_{part}"]
        values = np.array(hdu.data != 0 if part == "MASK" else hdu.data, dtype=dtype)
        del hdu.data
        return values

    return Camera(
        wave=data("WAVELENGTH", np.float64),
        flux=data("FLUX", np.float32),
        ivar=data("IVAR", np.float32),
        mask=data("MASK", np.uint8),
    )


def _joined(
    cameras: Mapping[str, Camera],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return flux and ivar (N, L), masked, and which spectra have broken pixels (N,)."""
    n = len(cameras["B"].flux)
    flux, ivar = (np.empty((n, GRID.size), dtype=np.float32) for _ in range(2))
    broken = np.empty(n, dtype=bool)
    for first in range(0, n, _ROWS):
        rows = slice(first, first + _ROWS)
        part = {name: camera[rows] for name, camera in cameras.items()}
        lost = broken_pixels(part)
        with np.errstate(over="ignore", invalid="ignore"):
            coadd = coadd_cameras(part)
            flux[rows], ivar[rows] = coadd.flux, coadd.ivar
        bad = lost | (coadd.mask != 0) | ~(coadd.ivar > MIN_IVAR)
        bad |= ~np.isfinite(flux[rows]) | ~np.isfinite(ivar[rows])
        flux[rows][lost | ~np.isfinite(flux[rows])] = 0
        ivar[rows][bad] = 0
        broken[rows] = lost.any(axis=1)
    return flux, ivar, broken


def _fiber_flags(fibermap: fits.BinTableHDU) -> NDArray[np.int64]:
    flags = np.zeros(fibermap.header["NAXIS2"], dtype=np.int64)
    known = names(fibermap)
    if "COADD_FIBERSTATUS" in known:
        flags[column(fibermap, "COADD_FIBERSTATUS", "iu") != 0] |= int(Flag.FIBRE)
    if "OBJTYPE" in known:
        kinds = np.char.strip(column(fibermap, "OBJTYPE", "SU").astype("U3"))
        flags[kinds != "TGT"] |= int(Flag.NOT_TARGET)
    return flags


def _redshifts(
    url: str, wanted: NDArray[np.int64], bits: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return z, zerr and flags of the targets, from the redrock file beside the coadd."""
    n = len(wanted)
    z, zerr, flags = np.full(n, np.nan), np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    partner = beside(url, "coadd-", "redrock-")
    if partner is None:
        return z, zerr, flags
    try:
        with open_fits(partner, contents=False) as hdus:
            table = hdus["REDSHIFTS"]
            target, warning = (column(table, name, "iu") for name in ("TARGETID", "ZWARN"))
            redshift, error, delta = (column(table, c, "f") for c in ("Z", "ZERR", "DELTACHI2"))
    except MissingFileError:
        return z, zerr, flags
    order = np.argsort(target, kind="stable")
    place = np.searchsorted(target[order], wanted).clip(max=max(len(target) - 1, 0))
    found = np.zeros(n, dtype=bool) if len(target) == 0 else target[order][place] == wanted
    row = order[place[found]] if len(target) else np.zeros(0, dtype=int)
    z[found] = np.where(np.isfinite(redshift[row]) & (redshift[row] > -1), redshift[row], np.nan)
    zerr[found] = np.where(np.isfinite(error[row]), np.abs(error[row]), np.inf)
    flags[found] |= np.where(warning[row] != 0, int(Flag.Z_WARNING), 0)
    uncertain = _uncertain(bits[found], z[found], zerr[found], delta[row])
    flags[found] |= np.where(uncertain, int(Flag.Z_UNCERTAIN), 0)
    return z, zerr, flags


def _desi_target(fibermap: fits.BinTableHDU) -> NDArray[np.int64]:
    """Join the DESI_TARGET bits of all phases of the survey."""
    columns = [name for name in names(fibermap) if name.endswith("DESI_TARGET")]
    bits = np.zeros(fibermap.header["NAXIS2"], dtype=np.int64)
    for name in columns:
        bits |= column(fibermap, name, "iu").astype(np.int64)
    return bits


def _uncertain(
    target: NDArray[np.int64], z: NDArray[Any], zerr: NDArray[Any], delta_chi2: NDArray[Any]
) -> NDArray[np.bool_]:
    """Cuts of the published samples (DESI Collaboration 2024, AJ 168, 58; Liang et al. 2023).

    BGS: ZERR < 0.0005 (1 + z) and DELTACHI2 > 40. LRG: DELTACHI2 > 15. Others: none.
    """
    bgs, lrg = (target & _BGS_ANY) != 0, (target & _LRG) != 0
    good_bgs = (zerr < 0.0005 * (1 + z)) & (delta_chi2 > 40)
    result: NDArray[np.bool_] = (bgs & ~good_bgs) | (lrg & ~(delta_chi2 > 15))
    return result
