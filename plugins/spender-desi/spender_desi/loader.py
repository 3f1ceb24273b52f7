"""Reads DESI coadds, by healpix or by tile, with the redrock file beside them if there is one.

The data model is https://desidatamodel.readthedocs.io, files coadd-*.fits and redrock-*.fits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray

from spender_core.archives.opening import join, open_fits, parent_and_name
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, InputError, MissingFileError
from spender_core.interfaces import Loader, Source
from spender_desi.coadd import Camera, coadd_cameras

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

CAMERAS = ("B", "R", "Z")
PROGRAMS = ("backup", "bright", "dark", "other")

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

    def recognises(self, url: str) -> bool:
        """Tell whether a file is one of DESI's, of spectra or of redshifts."""
        with open_fits(url) as hdus:
            names = {hdu.name for hdu in hdus}
        return {"FIBERMAP", "B_FLUX"} <= names or {"FIBERMAP", "REDSHIFTS"} <= names

    def load(self, url: str) -> SpectrumBatch:
        """Read all spectra of a coadd file, joined over the cameras."""
        with open_fits(url) as hdus:
            _refuse_others(url, hdus)
            try:
                cameras = {name: _camera(hdus, name) for name in CAMERAS}
                fibermap = hdus["FIBERMAP"].data
                ids, flags = self._ids(hdus[0].header, fibermap), _fiber_flags(fibermap)
            except (OSError, TypeError, ValueError, KeyError, IndexError) as error:
                raise FileError(f"{url} is damaged or incomplete: {error}; get it again") from error
        try:
            coadd = coadd_cameras(cameras)
        except (FileError, ValueError) as error:
            raise FileError(f"{url}: {error}") from error
        bad = (coadd.mask != 0) | ~(coadd.ivar > MIN_IVAR) | ~np.isfinite(coadd.flux)
        bad |= ~np.isfinite(coadd.ivar)
        flux = np.where(np.isfinite(coadd.flux), coadd.flux, 0).astype(np.float32)
        ivar = np.where(bad, 0, coadd.ivar).astype(np.float32)
        z, zerr, z_flags = _redshifts(url, fibermap)
        return SpectrumBatch(
            torch.from_numpy(flux),
            torch.from_numpy(ivar),
            z=z,
            zerr=zerr,
            ids=ids,
            instrument="desi",
            flags=flags | z_flags,
        )

    def _ids(self, header: fits.Header, fibermap: fits.FITS_rec) -> NDArray[np.void]:
        ids = np.zeros(len(fibermap), dtype=self.id_dtype)
        ids["TARGETID"] = fibermap["TARGETID"]
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
            f"TARGETID), got {row!r}"
        )
    try:
        healpix, target = int(row[2]), int(row[3]) if len(row) == 4 else None
    except (TypeError, ValueError) as error:
        raise InputError(f"healpix and TARGETID must be whole numbers, got {row!r}") from error
    survey, program = str(row[0]), str(row[1])
    if survey not in surveys:
        raise InputError(f"survey {survey!r} is not in release {release}; it has {surveys}")
    if program not in PROGRAMS:
        raise InputError(f"program {program!r} is not known; use one of {PROGRAMS}")
    return survey, program, healpix, target


def _refuse_others(url: str, hdus: fits.HDUList) -> None:
    names = {hdu.name for hdu in hdus}
    if "REDSHIFTS" in names:
        raise FileError(
            f"{url} is a redrock file: redshifts without spectra. Give the coadd file of the "
            "same name; the redshifts beside it are found by themselves"
        )
    missing = {
        "FIBERMAP",
        *(f"{c}_{part}" for c in CAMERAS for part in ("WAVELENGTH", "FLUX", "IVAR", "MASK")),
    } - names
    if missing:
        raise FileError(
            f"{url} is not a DESI coadd: it lacks the HDUs {', '.join(sorted(missing))}"
        )
    columns = set(hdus["FIBERMAP"].columns.names)
    if "COADD_FIBERSTATUS" not in columns and {"FIBERSTATUS", "EXPID"} & columns:
        raise FileError(
            f"{url} holds single exposures, not coadded spectra. Give the coadd file of the same "
            "name, or coadd it first with desi_coadd_spectra"
        )


def _camera(hdus: fits.HDUList, name: str) -> Camera:
    def data(part: str, dtype: Any) -> NDArray[Any]:
        return np.asarray(hdus[f"{name}_{part}"].data, dtype=dtype)

    return Camera(
        wave=data("WAVELENGTH", np.float64),
        flux=data("FLUX", np.float32),
        ivar=data("IVAR", np.float32),
        mask=data("MASK", np.int64),
    )


def _fiber_flags(fibermap: fits.FITS_rec) -> NDArray[np.int64]:
    flags = np.zeros(len(fibermap), dtype=np.int64)
    names = fibermap.names
    if "COADD_FIBERSTATUS" in names:
        flags[np.asarray(fibermap["COADD_FIBERSTATUS"]) != 0] |= int(Flag.FIBRE)
    if "OBJTYPE" in names:
        flags[np.char.strip(np.asarray(fibermap["OBJTYPE"], dtype="U3")) != "TGT"] |= int(
            Flag.NOT_TARGET
        )
    return flags


def _redshifts(
    url: str, fibermap: fits.FITS_rec
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return z, zerr and flags of the targets, from the redrock file beside the coadd."""
    n = len(fibermap)
    z, zerr, flags = np.full(n, np.nan), np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    folder, name = parent_and_name(url)
    if not name.startswith("coadd-"):
        return z, zerr, flags
    partner = folder + name.replace("coadd-", "redrock-", 1)
    try:
        with open_fits(partner) as hdus:
            table = hdus["REDSHIFTS"].data
            columns = ("TARGETID", "Z", "ZERR", "ZWARN", "DELTACHI2")
            target, redshift, error, warning, delta = (np.asarray(table[c]) for c in columns)
    except MissingFileError:
        return z, zerr, flags
    except (TypeError, ValueError, KeyError) as problem:
        raise FileError(f"{partner} is damaged: {problem}; get it again, or remove it") from problem
    order = np.argsort(target, kind="stable")
    wanted = np.asarray(fibermap["TARGETID"])
    place = np.searchsorted(target[order], wanted).clip(max=max(len(target) - 1, 0))
    found = np.zeros(n, dtype=bool) if len(target) == 0 else target[order][place] == wanted
    row = order[place[found]] if len(target) else np.zeros(0, dtype=int)
    z[found] = np.where(np.isfinite(redshift[row]) & (redshift[row] > -1), redshift[row], np.nan)
    zerr[found] = np.where(np.isfinite(error[row]), np.abs(error[row]), np.inf)
    flags[found] |= np.where(warning[row] != 0, int(Flag.Z_WARNING), 0)
    uncertain = _uncertain(_desi_target(fibermap)[found], z[found], zerr[found], delta[row])
    flags[found] |= np.where(uncertain, int(Flag.Z_UNCERTAIN), 0)
    return z, zerr, flags


def _desi_target(fibermap: fits.FITS_rec) -> NDArray[np.int64]:
    """Join the DESI_TARGET bits of all phases of the survey."""
    columns = [name for name in fibermap.names if name.endswith("DESI_TARGET")]
    bits = np.zeros(len(fibermap), dtype=np.int64)
    for name in columns:
        bits |= np.asarray(fibermap[name], dtype=np.int64)
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
