"""Reads DESI coadds, by healpix or by tile, with the redrock file beside them if there is one.

The data model is https://desidatamodel.readthedocs.io, files coadd-*.fits and redrock-*.fits. Of a
file only the HDUs and rows are read that are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.archives.catalogues.scanning import Catalogue, CatalogueRequest
from spender_core.archives.fits.hdu import Hdu
from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.archives.fits.opening import beside
from spender_core.archives.releases import Cutouts
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import DamagedFileError, MissingFileError
from spender_core.interfaces import Loader, Source
from spender_core.interfaces.loader import FileConditions
from spender_core.native.memory import empty
from spender_desi import places
from spender_desi.cameras import (
    CAMERAS,
    blocks,
    open_coadd,
    read_cameras,
    read_waves,
)
from spender_desi.catalogue import of_query
from spender_desi.coadd import GRID, join
from spender_desi.conditions import Matrices, read_conditions
from spender_desi.targets import joined_bits, uncertain

Columns = Mapping[str, NDArray[Any]]

_REDSHIFTS = {"TARGETID": "iu", "ZWARN": "iu", "Z": "f", "ZERR": "f", "DELTACHI2": "f"}


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
            ("NIGHT", "i8"),
            ("PETAL", "i8"),
        ]
    )
    dataset_columns = {"TARGETID": "target_id"}

    def recognises(self, url: str) -> bool:
        """Tell whether a file is one of DESI's, of spectra or of redshifts."""
        with open_hdus(url) as hdus:
            return "FIBERMAP" in hdus and ("B_FLUX" in hdus or "REDSHIFTS" in hdus)

    def load(self, url: str) -> SpectrumBatch:
        """Read all spectra of a coadd file, joined over the cameras."""
        return self._read(url, {}, lsf=False)

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        """Read all spectra of a coadd file with their resolution matrices, as published."""
        return self._read(url, {}, lsf=True)

    def load_rows(self, url: str, rows: Mapping[str, tuple[Any, ...]], lsf: bool) -> SpectrumBatch:
        """Read some spectra of a coadd file, e.g. those with {"TARGETID": (39627, 39628)}."""
        return self._read(url, rows, lsf)

    def conditions(self, url: str) -> FileConditions:
        """Return the resolution matrices of a coadd file, joined over the cameras."""
        with open_coadd(url, lsf=True) as hdus:
            return read_conditions(hdus)

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        """Find spectra in the archive; `places.find` says what ids there are."""
        return places.find(ids, root, release)

    def catalogue(self, asked: CatalogueRequest) -> Catalogue:
        """Return the redshift catalogue, or the redrock files of a part of the sky."""
        return of_query(asked)

    def positions(self, url: str) -> NDArray[np.void]:
        """Return positions on the sky of the objects of a file."""
        return places.positions(url)

    def cutouts(self) -> Cutouts:
        """Return the service that images of the sky come from."""
        return places.cutouts()

    def _read(self, url: str, wanted: Mapping[str, tuple[Any, ...]], lsf: bool) -> SpectrumBatch:
        with open_coadd(url, lsf) as hdus:
            waves = [(hdus[f"{name}_WAVELENGTH"], None, None) for name in CAMERAS]
            hdus.prefetch([(hdus["FIBERMAP"], None, None), *waves])
            fibermap = _fibermap(hdus["FIBERMAP"])
            ids = self._ids(hdus[0].header, fibermap["TARGETID"])
            keep = np.ones(len(ids), dtype=bool)
            for name, values in wanted.items():
                keep &= np.isin(ids[name], values)
            rows = np.flatnonzero(keep)
            flux, ivar, broken, matrices = _spectra(hdus, rows, lsf)
        flags = _fiber_flags(fibermap, len(ids))[rows] | np.where(broken, int(Flag.BAD_VALUES), 0)
        target = joined_bits(fibermap)[rows]
        z, zerr, z_flags = _redshifts(url, ids["TARGETID"][rows], target)
        return SpectrumBatch(
            flux,
            ivar,
            z=z,
            zerr=zerr,
            ids=ids[rows],
            instrument="desi",
            lsf=matrices.lsf() if matrices else None,
            flags=flags | z_flags,
        )

    def _ids(self, header: Mapping[str, Any], targets: NDArray[Any]) -> NDArray[np.void]:
        ids = np.zeros(len(targets), dtype=self.id_dtype)
        ids["TARGETID"] = targets
        for name in ("SURVEY", "PROGRAM"):
            text = str(header.get(name) or "")
            if len(text) > self.id_dtype[name].itemsize // 4:
                raise DamagedFileError(f"its {name} {text!r:.40} is longer than 8 characters")
            ids[name] = text
        ids["HEALPIX"] = header.get("UNIQPIX", header.get("HPXPIXEL", -1))
        ids["TILEID"] = header.get("TILEID", -1)
        cumulative = header.get("SPGRP") == "cumulative"
        ids["NIGHT"] = header.get("SPGRPVAL", -1) if cumulative else -1
        ids["PETAL"] = header.get("PETAL", -1) if cumulative else -1
        return ids


def _spectra(
    hdus: Hdus, rows: NDArray[np.int64], lsf: bool
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_], Matrices | None]:
    """Return flux and ivar (N, L), masked, which rows have broken pixels (N,), and the LSFs."""
    shape = len(rows), GRID.size
    flux, ivar = (empty(shape, torch.float32) for _ in range(2))
    broken = np.zeros(len(rows), dtype=bool)
    matrices = Matrices(hdus, len(rows)) if lsf else None
    waves = read_waves(hdus)
    for some, wanted in blocks(hdus, rows, lsf):
        cameras = read_cameras(hdus, waves, wanted)
        broken[some] = join(cameras, flux[some].numpy(), ivar[some].numpy())
        if matrices is not None:
            matrices.add(cameras, some, wanted)
    return flux, ivar, broken, matrices


def _fibermap(table: Hdu) -> Columns:
    """Return the columns that tell what was observed, as far as there are any."""
    known = table.columns
    kinds = {"TARGETID": "iu"}
    kinds |= {name: "iu" for name in known if name.endswith("DESI_TARGET")}
    optional = {"COADD_FIBERSTATUS": "iu", "OBJTYPE": "SU"}
    kinds |= {name: letters for name, letters in optional.items() if name in known}
    return table.table(kinds)


def _fiber_flags(fibermap: Columns, n: int) -> NDArray[np.int64]:
    flags = np.zeros(n, dtype=np.int64)
    if "COADD_FIBERSTATUS" in fibermap:
        flags[fibermap["COADD_FIBERSTATUS"] != 0] |= int(Flag.FIBRE)
    if "OBJTYPE" in fibermap:
        kinds = np.char.strip(fibermap["OBJTYPE"].astype("S3"))
        flags[kinds != b"TGT"] |= int(Flag.NOT_TARGET)
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
        with open_hdus(partner, ["REDSHIFTS"]) as hdus:
            table = hdus["REDSHIFTS"].table(_REDSHIFTS)
    except MissingFileError:
        return z, zerr, flags
    target, warning, redshift, error, delta = table.values()
    order = np.argsort(target, kind="stable")
    place = np.searchsorted(target[order], wanted).clip(max=max(len(target) - 1, 0))
    found = np.zeros(n, dtype=bool) if len(target) == 0 else target[order][place] == wanted
    row = order[place[found]] if len(target) else np.zeros(0, dtype=int)
    z[found] = np.where(np.isfinite(redshift[row]) & (redshift[row] > -1), redshift[row], np.nan)
    zerr[found] = np.where(np.isfinite(error[row]), np.abs(error[row]), np.inf)
    flags[found] |= np.where(warning[row] != 0, int(Flag.Z_WARNING), 0)
    unsure = uncertain(bits[found], z[found], zerr[found], delta[row])
    flags[found] |= np.where(unsure, int(Flag.Z_UNCERTAIN), 0)
    return z, zerr, flags
