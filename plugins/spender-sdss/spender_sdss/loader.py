"""Reads `spec-PLATE-MJD-FIBER.fits` files of SDSS, BOSS and eBOSS, lite and full.

The data model is https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.io import fits

from spender_core.archives.opening import join, open_fits
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, InputError
from spender_core.grid import Log
from spender_core.interfaces import Loader, Source

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

_ZWARNING_NOT_TARGET = 0x01 | 0x80
"""Bits SKY and UNPLUGGED of ZWARNING (https://www.sdss4.org/dr17/algorithms/bitmasks)."""


class SpecLoader(Loader):
    """Loader of spec files, for one of the two generations of spectrographs.

    Args:
        instrument: "sdss" or "boss".
        grid: Its grid.
    """

    id_dtype = np.dtype([("PLATE", "i8"), ("MJD", "i8"), ("FIBERID", "i8"), ("RUN2D", "U8")])

    def __init__(self, instrument: str, grid: Log) -> None:
        self.instrument = instrument
        self.grid = grid

    def recognises(self, url: str) -> bool:
        """Tell whether a file is a spec file of this generation of spectrographs."""
        with open_fits(url) as hdus:
            return _is_spec(hdus) and _generation(hdus) == self.instrument

    def load(self, url: str) -> SpectrumBatch:
        """Read a spec file: one spectrum, on the instrument's grid."""
        with open_fits(url) as hdus:
            if not _is_spec(hdus):
                raise FileError(
                    f"{url} is not a spec file: its first table must have the columns flux, "
                    "loglam, ivar and and_mask. SDSS-V files (wresl, no plate) are not supported"
                )
            if _generation(hdus) != self.instrument:
                other = _generation(hdus)
                raise FileError(
                    f"{url} comes from the {other} spectrograph, not from {self.instrument}; "
                    f"read it with registry.instrument({other!r})"
                )
            try:
                return self._spectrum(url, hdus[1].data, hdus[2].data[0])
            except (OSError, TypeError, ValueError, KeyError, IndexError) as error:
                if isinstance(error, FileError):
                    raise
                raise FileError(f"{url} is damaged: {error}; get it again") from error

    def _spectrum(self, url: str, coadd: fits.FITS_rec, row: fits.FITS_record) -> SpectrumBatch:
        position = (
            np.asarray(coadd["loglam"], dtype=np.float64) - self.grid.start
        ) / self.grid.step
        index = np.rint(position).astype(int)
        if np.abs(position - index).max() > 0.1 or (np.diff(index) < 1).any():
            raise FileError(f"{url}: loglam does not lie on the grid of SDSS, multiples of 1e-4")
        flux, ivar = (np.asarray(coadd[name], dtype=np.float32) for name in ("flux", "ivar"))
        bad = (np.asarray(coadd["and_mask"]) != 0) | ~(ivar > MIN_IVAR)
        bad |= ~np.isfinite(flux) | ~np.isfinite(ivar)
        ivar = np.where(bad, 0, ivar)
        flux = np.where(np.isfinite(flux), flux, 0)
        inside = (index >= 0) & (index < self.grid.size)
        flux_BL, ivar_BL = np.zeros((2, 1, self.grid.size), dtype=np.float32)
        flux_BL[0, index[inside]] = flux[inside]
        ivar_BL[0, index[inside]] = ivar[inside]
        flags = _flags(row)
        known = not flags & Flag.NOT_TARGET and np.isfinite(row["Z"]) and row["Z"] > -1
        zerr = float(row["Z_ERR"])
        return SpectrumBatch(
            torch.from_numpy(flux_BL),
            torch.from_numpy(ivar_BL),
            z=[float(row["Z"]) if known else float("nan")],
            zerr=[zerr if known and zerr >= 0 else float("inf")],
            ids=self._ids([tuple(row[name] for name in ("PLATE", "MJD", "FIBERID", "RUN2D"))]),
            instrument=self.instrument,
            flags=[int(flags)],
        )

    def _ids(self, rows: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.void]]:
        try:
            filled: list[tuple[Any, ...]] = [
                (*map(int, tuple(row)[:3]), str(row[3]).strip() if len(row) > 3 else "")
                for row in rows
            ]
        except (TypeError, ValueError) as error:
            raise InputError(f"plate, mjd and fiberid must be whole numbers: {error}") from error
        made = np.array(filled, dtype=self.id_dtype)
        if long := [row[3] for row in filled if len(row[3]) > 8]:
            raise InputError(f"run2d {long[0]!r} has more than 8 characters")
        return made

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Find (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d) in the archive.

        Lite files are preferred to full ones. Without run2d, all reductions of the
        release are tried.
        """
        archive = releases()
        known = [name for name, entry in archive["releases"].items() if self.instrument in entry]
        release = release or archive["default"]
        if release not in known:
            raise InputError(f"release {release!r} has no {self.instrument} data; known: {known}")
        if any(not hasattr(row, "__len__") or len(row) not in (3, 4) for row in ids):
            raise InputError(
                "ids of SDSS spectra are (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d)"
            )
        entry = archive["releases"][release][self.instrument]
        sources = []
        for row in self._ids(ids):
            run2d = str(row["RUN2D"])
            if run2d and not re.fullmatch(r"\w+", run2d):
                raise InputError(f"run2d {run2d!r} may only have letters, digits and underscores")
            paths = [
                entry["path"].format(
                    kind=kind,
                    run2d=reduction,
                    plate=row["PLATE"],
                    mjd=row["MJD"],
                    fiberid=row["FIBERID"],
                )
                for kind in ("lite", "full")
                for reduction in ([run2d] if run2d else entry["run2d"])
            ]
            sources.append(Source(tuple(join(root or archive["root"], path) for path in paths)))
        return sources


@cache
def releases() -> dict[str, Any]:
    """Return the data releases: roots, path templates and reductions."""
    text = (resources.files("spender_sdss") / "releases.toml").read_text()
    return tomllib.loads(text)


def _is_spec(hdus: fits.HDUList) -> bool:
    if len(hdus) < 3 or not all(isinstance(hdus[k], fits.BinTableHDU) for k in (1, 2)):
        return False
    columns = {name.lower() for name in hdus[1].columns.names}
    if hdus[2].header["NAXIS2"] == 0:
        return False
    row = {name.upper() for name in hdus[2].columns.names}
    return {"flux", "loglam", "ivar", "and_mask"} <= columns and {
        "PLATE",
        "MJD",
        "FIBERID",
        "RUN2D",
    } <= row


def _generation(hdus: fits.HDUList) -> str:
    """SDSS-I and -II have plain numbers as run2d, BOSS and eBOSS versions like v5_13_0."""
    return "sdss" if str(hdus[2].data["RUN2D"][0]).strip().isdigit() else "boss"


def _flags(row: fits.FITS_record) -> Flag:
    flags, names = Flag(0), {name.upper() for name in row.array.names}
    warning = int(row["ZWARNING"])
    kinds = {str(row[name]).strip().upper() for name in ("OBJTYPE", "SOURCETYPE") if name in names}
    if warning & _ZWARNING_NOT_TARGET or "SKY" in kinds:
        flags |= Flag.NOT_TARGET
    if warning & ~_ZWARNING_NOT_TARGET:
        flags |= Flag.Z_WARNING
    return flags
