"""DESI's catalogues: which tables answer a query.

Where a part of the sky is asked for, tilepix.fits tells the healpix coadds that touch it, and the
redrock files beside those (0.4 MB each) have all that the redshift catalogue of GBs tells of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.conditions import Cut
from spender_core.archives.catalogues.rowsets import check_kinds, open_rows
from spender_core.archives.catalogues.scanning import (
    Catalogue,
    CatalogueFile,
    CatalogueRequest,
    Derived,
)
from spender_core.archives.catalogues.skies import Region
from spender_core.archives.catalogues.values import Columns
from spender_core.errors import DamagedFileError, InputError, SpenderWarning
from spender_desi import places
from spender_desi.targets import mask_columns, primary_of, quality_cut, target_cut

MOST_FILES = 4096
"""Redrock files that are read in place of the redshift catalogue, at most."""

NSIDE = 64

_IDS = {
    "TARGETID": ("TARGETID",),
    "SURVEY": ("SURVEY",),
    "PROGRAM": ("PROGRAM",),
    "HEALPIX": ("HEALPIX", "UNIQPIX", "HPXPIXEL"),
}
_POSITION = (("TARGET_RA", "RA", "MEAN_FIBER_RA"), ("TARGET_DEC", "DEC", "MEAN_FIBER_DEC"))
_SHOWN = ("TARGET_RA", "TARGET_DEC", "Z", "ZERR", "ZWARN", "SPECTYPE", "DELTACHI2")
_KINDS = (
    dict.fromkeys(("TARGETID", "ZWARN", "COADD_FIBERSTATUS", *_IDS["HEALPIX"]), "iu")
    | dict.fromkeys(mask_columns(), "iu")
    | dict.fromkeys(("SURVEY", "PROGRAM", "OBJTYPE", "SPECTYPE"), "S")
    | dict.fromkeys(("Z", "ZERR", "DELTACHI2", "TSNR2_LRG", *_POSITION[0], *_POSITION[1]), "fiu")
    | dict.fromkeys(("ZCAT_PRIMARY", "SV_PRIMARY", "MAIN_PRIMARY"), "biu")
)
_PRIMARY = {True: "ZCAT_PRIMARY", "SV": "SV_PRIMARY", "MAIN": "MAIN_PRIMARY"}


def of_query(asked: CatalogueRequest) -> Catalogue:
    """Return the catalogue that answers a query.

    Raises:
        InputError: The release, a target class or `primary` is unknown.
        FileError: tilepix.fits is missing or damaged.
    """
    _primary(asked.primary)
    if asked.target:
        target_cut(asked.target, {"SURVEY", *mask_columns()})  # refuses names before any reading
    if asked.catalogue is not None:
        return _zcatalog(asked, asked.catalogue)
    if asked.region is not None:
        groups = coadds(asked.region, asked.root, asked.release)
        if sum(map(len, groups.values())) <= MOST_FILES:
            return _redrocks(asked, groups)
    return _zcatalog(asked, places.catalogue("zcatalog", asked.root, asked.release))


def coadds(
    region: Region, root: str | None, release: str | None
) -> dict[int, list[tuple[str, str]]]:
    """Return the coadds that a part of the sky needs, by tilepix.fits of the archive.

    Returns:
        For each healpix, in order, the surveys and programs that observed in it. Some may not
        exist: the release lists them all the same.

    Raises:
        FileError: tilepix.fits is missing or damaged.
    """
    wanted = region.pixels(NSIDE)
    found: set[tuple[int, str, str]] = set()
    with open_rows(places.catalogue("tilepix", root, release)) as rows:
        for _, columns in rows.chunks(("HEALPIX", "SURVEY", "PROGRAM"), None):
            check_kinds(columns, _KINDS)
            here = np.isin(columns["HEALPIX"], wanted)
            pixels = columns["HEALPIX"][here].tolist()
            names = (_folders(columns[name][here]) for name in ("SURVEY", "PROGRAM"))
            found |= set(zip(pixels, *names, strict=True))
    groups: dict[int, list[tuple[str, str]]] = {}
    for pixel, survey, program in sorted(found):
        groups.setdefault(pixel, []).append((survey, program))
    return groups


def _folders(names: NDArray[Any]) -> list[str]:
    """Return names of folders as text.

    Raises:
        DamagedFileError: One is no word.
    """
    found = [name.decode().strip() for name in names.tolist()]
    for name in found:
        if not (name.isascii() and name.replace("_", "").isalnum()):
            raise DamagedFileError(f"{name!r:.60} in it is no survey or program")
    return found


def _zcatalog(asked: CatalogueRequest, url: str) -> Catalogue:
    return Catalogue(
        parts=((CatalogueFile(url),),),
        ids=_IDS,
        position=_POSITION,
        shown=_SHOWN,
        cuts=lambda known: _cuts(asked, known),
        kinds=_KINDS,
    )


def _redrocks(asked: CatalogueRequest, groups: dict[int, list[tuple[str, str]]]) -> Catalogue:
    parts = tuple(
        tuple(
            CatalogueFile(
                places.catalogue(
                    "redrock",
                    asked.root,
                    asked.release,
                    survey=survey,
                    program=program,
                    healpix=pixel,
                ),
                {
                    "SURVEY": np.bytes_(survey.encode()),
                    "PROGRAM": np.bytes_(program.encode()),
                    "HEALPIX": np.int64(pixel),
                },
            )
            for survey, program in pairs
        )
        for pixel, pairs in groups.items()
    )
    return Catalogue(
        parts=parts,
        ids=_IDS,
        position=_POSITION,
        shown=_SHOWN,
        cuts=lambda known: _cuts(asked, known),
        kinds=_KINDS,
        tables=("REDSHIFTS", "FIBERMAP", "TSNR2"),
        key="TARGETID",
        optional=dict.fromkeys(mask_columns(), np.dtype(np.int64)),
        derived=_PRIMARIES,
        missing=True,
        whole=True,
    )


def _cuts(asked: CatalogueRequest, known: Collection[str]) -> list[Cut]:
    """Return the survey's conditions, for a table with these columns."""
    cuts = []
    absent = [name for name, options in _IDS.items() if not set(options) & set(known)]
    if absent and "TILEID" not in known:
        warnings.warn(
            f"the catalogue has no column {', '.join(absent)}, so that `read` cannot tell where the "
            "spectra of its rows are",
            SpenderWarning,
            stacklevel=2,
        )
    if asked.target:
        cuts.append(target_cut(asked.target, known))
    primary = _primary(asked.primary)
    if primary is not None:
        if primary not in known:
            raise InputError(
                f"the catalogue has no column {primary}, so that it does not tell the best "
                "spectrum of each object; query with primary=False"
            )
        cuts.append(Cut((primary,), lambda columns: columns[primary] != 0, primary))
    if asked.quality:
        cuts.append(quality_cut(known))
    return cuts


def _primary(primary: bool | str) -> str | None:
    """Return the column that tells primary rows, None if all rows are wanted."""
    if primary is False:
        return None
    key = primary.upper() if isinstance(primary, str) else primary
    if key not in _PRIMARY:
        raise InputError(
            f"primary must be True (best spectrum of all), 'sv', 'main' or False, not {primary!r:.60}"
        )
    return _PRIMARY[key]


def _surveys(columns: Columns, kind: str) -> NDArray[np.bool_]:
    survey = columns["SURVEY"]
    if kind == "main":
        return np.asarray(survey == b"main")
    return np.isin(survey, np.array([b"sv1", b"sv2", b"sv3"]))


def _best(kind: str | None) -> Derived:
    """Return a column that tells the best spectra of objects, among those of some surveys."""

    def compute(columns: Columns) -> NDArray[Any]:
        rows = np.ones(len(columns["TARGETID"]), bool) if kind is None else _surveys(columns, kind)
        result = np.zeros(len(rows), dtype=bool)
        names = ("TARGETID", "ZWARN", "TSNR2_LRG")
        result[rows] = primary_of(*(columns[name][rows] for name in names))
        return result

    return Derived(("TARGETID", "ZWARN", "TSNR2_LRG", "SURVEY"), compute)


_PRIMARIES = {
    "ZCAT_PRIMARY": _best(None),
    "SV_PRIMARY": _best("sv"),
    "MAIN_PRIMARY": _best("main"),
}
