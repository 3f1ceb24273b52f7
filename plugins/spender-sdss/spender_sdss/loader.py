"""Reads `spec-PLATE-MJD-FIBER.fits` files of SDSS, BOSS and eBOSS, lite and full.

The data model is https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray

from spender_core.archives.location import join, redacted
from spender_core.archives.opening import open_fits
from spender_core.archives.tables import column, names, whole_numbers
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import DamagedFileError, FileError, InputError
from spender_core.grid import Log
from spender_core.interfaces import Loader, Source
from spender_core.interfaces.loader import FileConditions
from spender_core.line_spread import GaussianLSF
from spender_sdss.conditions import read_conditions, read_widths

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

_LARGEST = {"PLATE": 99_999, "MJD": 99_999, "FIBERID": 1_000}
"""Largest values of ids."""

_FARTHEST = 20_000
"""Pixels from the grid, at most, of any row; files have some 5,000 rows."""

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
        with open_fits(url, contents=False) as hdus:
            return _is_spec(hdus) and _generation(hdus) == self.instrument

    def load(self, url: str) -> SpectrumBatch:
        """Read a spec file: one spectrum, on the instrument's grid."""
        with self._opened(url) as hdus:
            return self._spectrum(hdus[1], hdus[2])

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read a spec file, and the widths of its Gaussian line spread function (`wdisp`)."""
        with self._opened(url) as hdus:
            sigma_BL = read_widths(hdus[1], self._pixels(hdus[1]), self.grid)
            lsf = GaussianLSF(torch.from_numpy(sigma_BL.astype(np.float32)))
            return self._spectrum(hdus[1], hdus[2]).replace(lsf=lsf)

    @contextmanager
    def _opened(self, url: str) -> Iterator[fits.HDUList]:
        """Open a spec file of this generation of spectrographs; refuse others."""
        with open_fits(url, contents=False) as hdus:
            if not _is_spec(hdus):
                raise FileError(
                    f"{redacted(url)} is not a spec file: its first table must have the columns "
                    "flux, loglam, ivar and and_mask, its second one row with PLATE, MJD, FIBERID "
                    "and RUN2D. SDSS-V files (wresl, no plate) are not supported"
                )
            if _generation(hdus) != self.instrument:
                other = _generation(hdus)
                raise FileError(
                    f"{redacted(url)} comes from the {other} spectrograph, not from "
                    f"{self.instrument}; read it with registry.instrument({other!r})"
                )
            yield hdus

    def conditions(self, url: str) -> FileConditions:
        """Return sky and line spread function of a spec file."""
        with open_fits(url, contents=False) as hdus:
            if not _is_spec(hdus):
                raise FileError(f"{redacted(url)} is not a spec file; see `load`")
            return read_conditions(hdus[1], self._pixels(hdus[1]), self.grid, self.instrument)

    def _spectrum(self, table: fits.BinTableHDU, catalogue: fits.BinTableHDU) -> SpectrumBatch:
        index, values = self._pixels(table), {}
        for name in ("flux", "ivar"):
            with np.errstate(over="ignore"):
                values[name] = column(table, name, "iuf").astype(np.float32)
        flux, ivar = values["flux"], values["ivar"]
        finite = np.isfinite(flux) & np.isfinite(ivar)
        used = (column(table, "and_mask", "iu") == 0) & (ivar != 0)
        broken = used & ~(finite & (ivar > 0))
        ivar = np.where(used & finite & (ivar > MIN_IVAR), ivar, 0)
        flux = np.where(finite & ~broken, flux, 0)
        inside = (index >= 0) & (index < self.grid.size)
        flux_BL, ivar_BL = np.zeros((2, 1, self.grid.size), dtype=np.float32)
        flux_BL[0, index[inside]] = flux[inside]
        ivar_BL[0, index[inside]] = ivar[inside]
        flags, row = _flags(catalogue), {n: _cell(catalogue, n, "f") for n in ("Z", "Z_ERR")}
        if broken[inside].any():
            flags |= Flag.BAD_VALUES
        z, zerr = row["Z"], row["Z_ERR"]
        known = not flags & Flag.NOT_TARGET and np.isfinite(z) and z > -1
        plate = [_cell(catalogue, name, "iu") for name in ("PLATE", "MJD", "FIBERID")]
        return SpectrumBatch(
            torch.from_numpy(flux_BL),
            torch.from_numpy(ivar_BL),
            z=[float(z) if known else float("nan")],
            zerr=[float(zerr) if known and zerr >= 0 else float("inf")],
            ids=self._ids([(*plate, _run2d(catalogue))]),
            instrument=self.instrument,
            flags=[int(flags)],
        )

    def _pixels(self, table: fits.BinTableHDU) -> NDArray[np.int64]:
        """Return the pixel of the grid in which each row of a file is."""
        position = (column(table, "loglam", "f").astype(np.float64) - self.grid.start) / (
            self.grid.step
        )
        if not (np.abs(position) < _FARTHEST).all():
            raise DamagedFileError("loglam is not finite, or far from the grid of SDSS")
        index = np.rint(position).astype(np.int64)
        if np.abs(position - index).max() > 0.1 or (np.diff(index) < 1).any():
            raise DamagedFileError("loglam does not lie on the grid of SDSS, multiples of 1e-4")
        return index

    def _ids(self, rows: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.void]]:
        filled: list[tuple[Any, ...]] = []
        for row in rows:
            numbers = whole_numbers("plate, mjd and fiberid", tuple(row)[:3])
            run2d = row[3] if len(row) > 3 else ""
            if not isinstance(run2d, str) or len(run2d.strip()) > 8:
                raise InputError(
                    f"run2d must be a string of at most 8 characters, not {run2d!r:.60}"
                )
            filled.append((*numbers, run2d.strip()))
        return np.array(filled, dtype=self.id_dtype)

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
            if not all(0 < row[name] <= most for name, most in _LARGEST.items()):
                raise InputError(f"there is no plate, mjd and fiberid {row.item()[:3]}: {_LARGEST}")
            run2d = str(row["RUN2D"])
            if run2d and not re.fullmatch(r"\w+", run2d, re.ASCII):
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
    columns, row = set(names(hdus[1])), set(names(hdus[2]))
    return (
        {"FLUX", "LOGLAM", "IVAR", "AND_MASK"} <= columns
        and {"PLATE", "MJD", "FIBERID", "RUN2D"} <= row
        and 0 < hdus[1].header["NAXIS2"] <= 2 * _FARTHEST
        and hdus[2].header["NAXIS2"] == 1
    )


def _cell(catalogue: fits.BinTableHDU, name: str, kinds: str) -> Any:
    """Return a value of the only row of a catalogue."""
    return column(catalogue, name, kinds)[0]


def _run2d(catalogue: fits.BinTableHDU) -> str:
    return str(_cell(catalogue, "RUN2D", "SU")).strip()


def _generation(hdus: fits.HDUList) -> str:
    """SDSS-I and -II have plain numbers as run2d, BOSS and eBOSS versions like v5_13_0."""
    return "sdss" if _run2d(hdus[2]).isdigit() else "boss"


def _flags(catalogue: fits.BinTableHDU) -> Flag:
    flags, known = Flag(0), names(catalogue)
    warning = int(_cell(catalogue, "ZWARNING", "iu"))
    kinds = {
        str(_cell(catalogue, name, "SU")).strip().upper()
        for name in ("OBJTYPE", "SOURCETYPE")
        if name in known
    }
    if warning & _ZWARNING_NOT_TARGET or "SKY" in kinds:
        flags |= Flag.NOT_TARGET
    if warning & ~_ZWARNING_NOT_TARGET:
        flags |= Flag.Z_WARNING
    return flags
