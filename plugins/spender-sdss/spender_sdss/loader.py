"""Reads files of SDSS, BOSS, eBOSS and SDSS-V: spec files, lite and full, and spPlate files.

The data models are https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
and https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/PLATE4/spPlate.html
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.scanning import Catalogue, CatalogueRequest
from spender_core.archives.fits.hdu import Hdu
from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.archives.fits.opening import reading
from spender_core.archives.location import redacted
from spender_core.archives.releases import Cutouts
from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError, MissingFileError, SpenderError
from spender_core.grid import Log
from spender_core.interfaces import Loader, Source
from spender_core.interfaces.loader import FileConditions
from spender_sdss import places, spplate
from spender_sdss.catalogue import of_query
from spender_sdss.conditions import file_conditions
from spender_sdss.spectra import (
    FARTHEST,
    ID_DTYPE,
    Spectra,
    flagged,
    ids,
    joined,
    line_spread,
    pixels,
    placed,
    redshifts,
    texts,
)

_COLUMNS = {"LOGLAM": "f", "FLUX": "iuf", "IVAR": "iuf", "AND_MASK": "iu"}
_ROW = {"ZWARNING": "iu", "Z": "f", "Z_ERR": "f", "MJD": "iu", "RUN2D": "S"}
_KINDS = ("OBJTYPE", "SOURCETYPE")
_PLATE, _FIELD = ("PLATE", "FIBERID"), ("FIELD", "CATALOGID")
"""What a spectrum is known by beside its MJD, up to SDSS-IV and in SDSS-V."""


class SpecLoader(Loader):
    """Loader of spec and spPlate files, for one of the two generations of spectrographs.

    Args:
        instrument: "sdss" or "boss".
        grid: Its grid.
    """

    id_dtype = ID_DTYPE
    whole = True

    def __init__(self, instrument: str, grid: Log) -> None:
        self.instrument = instrument
        self.grid = grid

    def recognises(self, url: str) -> bool:
        """Tell whether a file comes from this generation of spectrographs."""
        with open_hdus(url) as hdus:
            if spplate.is_plate(hdus):
                return _generation(spplate.reduction(hdus, url)) == self.instrument
            return _is_spec(hdus) and _generation(_run2d(hdus[2])) == self.instrument

    def load(self, url: str) -> SpectrumBatch:
        """Read a spec file, which has one spectrum, or all spectra of an spPlate file."""
        return joined([self._spectra(url, lsf=False)], self.instrument)

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read a file, and the widths of Gaussian line spread functions in it."""
        return joined([self._spectra(url, lsf=True)], self.instrument)

    def load_many(
        self, files: Sequence[Sequence[str]], lsf: bool
    ) -> tuple[SpectrumBatch | None, list[slice | SpenderError]]:
        """Read many files into one batch, which takes half the time of one batch a file.

        Args:
            files: Where each of them may be; the first that exists counts.
            lsf: Read line spread functions too.

        Returns:
            The spectra of all that could be read, in order, None if there are none; and for each
            file its rows in that batch, or what was wrong with it.
        """
        parts: list[Spectra] = []
        told: list[slice | SpenderError] = []
        row = 0
        for urls in files:
            try:
                part = self._first(urls, lsf)
            except SpenderError as error:
                told.append(error)
                continue
            parts.append(part)
            told.append(slice(row, row + len(part.z)))
            row += len(part.z)
        return (joined(parts, self.instrument) if parts else None), told

    def conditions(self, url: str) -> FileConditions:
        """Return sky and line spread function of a spec file."""
        with open_hdus(url) as hdus:
            if not _is_spec(hdus):
                raise FileError(f"{redacted(url)} is not a spec file; see `load`")
            return file_conditions(hdus[1], self.grid, self.instrument)

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Find (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d) in the archive.

        Lite files are preferred to full ones. Without run2d, all reductions of the
        release are tried.
        """
        return places.find(self.instrument, ids, root, release)

    def catalogue(self, asked: CatalogueRequest) -> Catalogue:
        """Return the catalogue of the release: specObj, or spAll of SDSS-V."""
        return of_query(self.instrument, asked)

    def positions(self, url: str) -> NDArray[np.void]:
        """Return positions on the sky of the objects of a file."""
        return places.positions(url)

    def cutouts(self) -> Cutouts:
        """Return the service that images of the sky come from."""
        return places.cutouts()

    def _first(self, urls: Sequence[str], lsf: bool) -> Spectra:
        """Read the first of these files that exists."""
        for url in urls:
            try:
                with reading(url):
                    return self._spectra(url, lsf)
            except MissingFileError:
                if len(urls) == 1:
                    raise
        shown = ", ".join(map(redacted, urls))
        raise MissingFileError(f"none of these files exists: {shown}; check the id and the root")

    def _spectra(self, url: str, lsf: bool) -> Spectra:
        """Read a file of this generation of spectrographs; refuse others."""
        with open_hdus(url) as hdus:
            if spplate.is_plate(hdus):
                self._check(spplate.reduction(hdus, url), url)
                return spplate.read(hdus, url, self.grid, lsf)
            if not _is_spec(hdus):
                raise FileError(
                    f"{redacted(url)} is not a spec file: its first table must have the columns "
                    "flux, loglam, ivar and and_mask, its second one row with PLATE, MJD, FIBERID "
                    "and RUN2D, or in SDSS-V with FIELD, MJD, CATALOGID and RUN2D; nor is it an "
                    "spPlate file"
                )
            row = _read_row(hdus[2])
            self._check(texts(row["RUN2D"])[0], url)
            len(hdus)  # looks at all headers: is the file complete?
            return _read_spec(hdus[1], row, self.grid, lsf)

    def _check(self, run2d: str, url: str) -> None:
        other = _generation(run2d)
        if other != self.instrument:
            raise FileError(
                f"{redacted(url)} comes from the {other} spectrograph, not from "
                f"{self.instrument}; read it with registry.instrument({other!r})"
            )


def _read_row(catalogue: Hdu) -> dict[str, NDArray[Any]]:
    """Return what the catalogue tells of the spectrum, in columns of one row."""
    there = catalogue.columns
    texts_of = [name for name in _KINDS if name in there]
    numbers = [name for name in (*_names(there), "FIBERID") if name in there]
    return catalogue.table(_ROW | dict.fromkeys(numbers, "iu") | dict.fromkeys(texts_of, "S"))


def _read_spec(table: Hdu, row: Mapping[str, NDArray[Any]], grid: Log, lsf: bool) -> Spectra:
    """Return the spectrum of a spec file, and its line spread function on request."""
    values = table.table(_COLUMNS | ({"WDISP": "iuf"} if lsf else {}))
    index = pixels(values["LOGLAM"], grid)
    flux_BL, ivar_BL, flags = placed(
        values["FLUX"][None], values["IVAR"][None], values["AND_MASK"][None] != 0, index, grid
    )
    flags |= flagged(row["ZWARNING"], [row[name] for name in _KINDS if name in row])
    z, zerr = redshifts(row["Z"], row["Z_ERR"], flags)
    spread = line_spread(values["WDISP"][None], index, grid) if lsf else None
    plate, number = (row[name] for name in _names(row))
    if number[0] == 0 and "FIBERID" in row:  # SDSS-V names a file without catalogid by its fibre
        number = row["FIBERID"]
    return Spectra(
        flux_BL, ivar_BL, z, zerr, flags, ids(plate, row["MJD"], number, row["RUN2D"]), spread
    )


def _is_spec(hdus: Hdus) -> bool:
    first = list(islice(hdus, 3))
    if len(first) < 3:
        return False
    _, table, catalogue = first
    if table.kind != "table" or catalogue.kind != "table":
        return False
    pixels_of, row = table.columns, catalogue.columns
    return (
        all(name in pixels_of for name in _COLUMNS)
        and all(name in row for name in ("MJD", "RUN2D", *_names(row)))
        and 0 < table.shape[0] <= 2 * FARTHEST
        and catalogue.shape[0] == 1
    )


def _names(there: Container[str]) -> tuple[str, str]:
    """Return the columns that an id has beside its MJD; no file before SDSS-V has CATALOGID."""
    return _FIELD if all(name in there for name in _FIELD) else _PLATE


def _run2d(catalogue: Hdu) -> str:
    return texts(catalogue.table({"RUN2D": "S"})["RUN2D"])[0]


def _generation(run2d: str) -> str:
    """SDSS-I and -II have plain numbers as run2d, BOSS and later versions like v5_13_0."""
    return "sdss" if run2d.isdigit() else "boss"
