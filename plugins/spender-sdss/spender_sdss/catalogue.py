"""Catalogues of SDSS: specObj, spAll and spAll-lite, one row a spectrum."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.conditions import Cut
from spender_core.archives.catalogues.scanning import Catalogue, CatalogueFile, CatalogueRequest
from spender_core.archives.catalogues.values import Columns
from spender_core.errors import InputError
from spender_sdss import places

CLASSES = ("GALAXY", "QSO", "STAR")

_IDS = {
    "PLATE": ("PLATE", "FIELD"),
    "MJD": ("MJD",),
    "FIBERID": ("CATALOGID", "FIBERID"),
    "RUN2D": ("RUN2D",),
}
_POSITION = (("PLUG_RA", "RACAT", "RA", "FIBER_RA"), ("PLUG_DEC", "DECCAT", "DEC", "FIBER_DEC"))
_KINDS = (
    dict.fromkeys(("PLATE", "FIELD", "MJD", "CATALOGID", "FIBERID", "ZWARNING"), "iu")
    | dict.fromkeys(("Z", *_POSITION[0], *_POSITION[1]), "fiu")
    | {"RUN2D": "Siu", "CLASS": "S", "SPECPRIMARY": "biu"}
)
_SHOWN = (
    *("PLUG_RA", "PLUG_DEC", "RACAT", "DECCAT", "CLASS", "SUBCLASS", "Z", "Z_ERR", "ZWARNING"),
    *("SN_MEDIAN_ALL", "SURVEY"),
)


def of_query(instrument: str, asked: CatalogueRequest) -> Catalogue:
    """Return the catalogue that answers a query.

    Args:
        instrument: "sdss" or "boss": only its spectra are found.
        asked: What is asked of it; `target` are classes of the pipeline.

    Raises:
        InputError: The release, a class or `primary` is unknown.
    """
    unknown = [name for name in asked.target if name not in CLASSES]
    if unknown:
        raise InputError(
            f"target {unknown[0]!r} is no class of SDSS, which are {', '.join(CLASSES)}; other "
            "choices are conditions on the bits of its targeting columns, in `where`"
        )
    if not isinstance(asked.primary, bool):
        raise InputError(f"primary must be True or False, not {asked.primary!r:.60}")
    url = asked.catalogue
    if url is None:
        _, release = places.archive().release(asked.release, instrument)
        only_lite = instrument == "boss" and "specobj" not in release.catalogues
        name = "spall" if only_lite else "specobj"
        url = places.catalogue(instrument, name, asked.root, asked.release)
    return Catalogue(
        parts=((CatalogueFile(url),),),
        ids=_IDS,
        position=_POSITION,
        shown=_SHOWN,
        cuts=lambda known: _cuts(instrument, asked, known),
        kinds=_KINDS,
    )


def _cuts(instrument: str, asked: CatalogueRequest, known: Collection[str]) -> list[Cut]:
    """Return the survey's conditions, for a table with these columns."""
    cuts = [_generation(instrument)] if "RUN2D" in known else []
    if asked.primary:
        if "SPECPRIMARY" not in known:
            raise InputError(
                "the catalogue has no column SPECPRIMARY, so that it does not tell the best "
                "spectrum of each object; query with primary=False"
            )
        cuts.append(Cut(("SPECPRIMARY",), lambda c: c["SPECPRIMARY"] > 0, "SPECPRIMARY"))
    if asked.quality:
        cuts.append(Cut(("ZWARNING",), lambda c: c["ZWARNING"] == 0, "ZWARNING == 0"))
    if asked.target:
        wanted = np.array([name.encode() for name in asked.target])
        cuts.append(Cut(("CLASS",), lambda c: np.isin(c["CLASS"], wanted), "CLASS"))
    return cuts


def _generation(instrument: str) -> Cut:
    """SDSS-I and -II have plain numbers as RUN2D, BOSS and eBOSS versions like v5_13_2."""

    def keep(columns: Columns) -> NDArray[np.bool_]:
        run2d = np.ma.getdata(columns["RUN2D"]).astype(bytes)  # it may be stored as whole numbers
        kinds, place = np.unique(run2d, return_inverse=True)
        ours = np.array([kind.strip().isdigit() == (instrument == "sdss") for kind in kinds])
        result: NDArray[np.bool_] = ours[place.reshape(-1)]
        return result

    return Cut(("RUN2D",), keep, f"spectra of {instrument}")
