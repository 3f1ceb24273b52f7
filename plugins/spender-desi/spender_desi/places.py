"""Where DESI data are: coadds by healpix, by UNIQPIX and by tile, and catalogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives import configuration
from spender_core.archives.fits.hdus import open_hdus
from spender_core.archives.fits.tables import whole_numbers
from spender_core.archives.location import join
from spender_core.archives.releases import Archive, Cutouts, Release
from spender_core.archives.templates import Value
from spender_core.errors import InputError
from spender_core.interfaces import Source

TILE = "tile"
"""First element of the id of a tile's spectra."""

_IDS = (
    "ids of DESI spectra are (survey, program, healpix) or (survey, program, healpix, TARGETID), "
    "and ('tile', TILEID, night, petal) or ('tile', TILEID, night, petal, TARGETID)"
)

_TILES = {"tile": 10**8, "night": 10**8, "petal": 10}
"""Numbers in the names of tiles' files, and what they are below."""


def archive() -> Archive:
    """Return DESI's archive, with the user's own releases."""
    return configuration.archive("desi", resources.files("spender_desi") / "releases.toml")


def catalogue(name: str, root: str | None, release: str | None, **fields: Value) -> str:
    """Return path or URL of a catalogue: "tilepix", "zcatalog", or "redrock" of a healpix.

    Args:
        name: Its name.
        root: As of `Archive.root`.
        release: The data release; None for the default.
        fields: For "redrock": survey, program, healpix; its group follows.

    Raises:
        InputError: The release is unknown, or has no such catalogue.
    """
    if "healpix" in fields:
        fields["group"] = int(fields["healpix"]) // 100
    return archive().catalogue(name, root, release, fields)


def find(ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
    """Return where spectra are, by their ids.

    Args:
        ids: (survey, program, healpix[, TARGETID]), in a release that is ordered by UNIQPIX with
            that number instead of healpix; ("tile", TILEID, night, petal[, TARGETID]), the night
            as YYYYMMDD; or rows of `SpectrumBatch.ids`. Without TARGETID, all targets of a file.
        root: As of `Archive.root`.
        release: The data release; None for the default.

    Raises:
        InputError: One is no id of DESI, or the release has nothing of the kind.
    """
    desi = archive()
    name, entry = desi.release(release)
    top = desi.root(root, entry)
    places: dict[_Wanted, str] = {}
    sources = []
    for row in ids:
        wanted, target = _parse(row)
        if wanted not in places:
            places[wanted] = join(top, _path(desi, name, entry, wanted))
        sources.append(Source((places[wanted],), {} if target is None else {"TARGETID": target}))
    return sources


def positions(url: str) -> NDArray[np.void]:
    """Return TARGETID, RA and DEC (degrees) of the targets of a coadd."""
    kinds = {"TARGETID": "iu", "TARGET_RA": "f", "TARGET_DEC": "f"}
    with open_hdus(url) as hdus:
        found = hdus["FIBERMAP"].table(kinds)
    rows = np.zeros(len(found["TARGETID"]), [("TARGETID", "i8"), ("RA", "f8"), ("DEC", "f8")])
    rows["TARGETID"] = found["TARGETID"]
    rows["RA"], rows["DEC"] = found["TARGET_RA"], found["TARGET_DEC"]
    return rows


def cutouts() -> Cutouts:
    """Return the service that has images of the Legacy Surveys."""
    service = archive().cutouts
    if service is None:
        raise InputError("the archive of DESI names no cutout service")
    return service


@dataclass(frozen=True)
class _Wanted:
    """A file: name of the collection, text and numbers of its path."""

    collection: str
    texts: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, int], ...]


def _path(desi: Archive, name: str, release: Release, wanted: _Wanted) -> str:
    """Return the path of a file below the root."""
    collections = release.collections.get(wanted.collection, ())
    if not collections:
        raise InputError(
            f"release {name} has no {wanted.collection}; it has {list(release.collections)}"
        )
    fields: dict[str, Value] = {**dict(wanted.texts), **dict(wanted.numbers)}
    faults = []
    for collection in collections:
        strange = [
            f"{key} {text!r:.80} is not in release {name}; it has {list(collection.values[key])}"
            for key, text in wanted.texts
            if text not in collection.values.get(key, (text,))
        ]
        beyond = collection.beyond(fields)
        if not strange and not beyond:
            return desi.paths(collection, "coadd", fields)[0]
        faults.append(strange[0] if strange else f"in release {name}, {beyond}")
    raise InputError(faults[0])


def _parse(row: Any) -> tuple[_Wanted, int | None]:
    """Return the file that an id names, and its TARGETID."""
    if isinstance(row, np.void):
        row = _of_fields(row)
    if not isinstance(row, (tuple, list)) or not row:
        raise InputError(f"{_IDS}; got {row!r:.80}")
    if row[0] == TILE:
        if len(row) not in (4, 5):
            raise InputError(f"{_IDS}; got {row!r:.80}")
        *numbers, target = _numbers("TILEID, night, petal and TARGETID", row[1:], 3)
        found = [(key, n) for key, n in zip(_TILES, numbers, strict=True) if n is not None]
        for key, number in found:
            if not 0 <= number < _TILES[key]:
                raise InputError(f"{key} {number} is not between 0 and {_TILES[key] - 1}")
        return _Wanted("tiles", (), tuple(found)), target
    if len(row) not in (3, 4) or not all(isinstance(text, str) for text in row[:2]):
        raise InputError(f"{_IDS}; got {row!r:.80}")
    pixel, target = _numbers("healpix and TARGETID", row[2:], 1)
    if pixel is None or pixel < 0:
        raise InputError(f"healpix {pixel} is negative; {_IDS}")
    texts = (("survey", str(row[0])), ("program", str(row[1])))
    return _Wanted("pixels", texts, (("pixel", pixel), ("group", pixel // 100))), target


def _numbers(what: str, values: Sequence[Any], needed: int) -> list[int | None]:
    """Return the needed numbers, and the last one or None."""
    found: list[int | None] = [*whole_numbers(what, values)]
    return found if len(found) > needed else [*found, None]


def _of_fields(row: np.void) -> tuple[Any, ...]:
    """Return the id that a row of a structured array is."""
    fields = {name.upper(): row[name] for name in row.dtype.names or ()}
    target = tuple(fields[name] for name in ("TARGETID",) if name in fields)
    pixel = fields.get("UNIQPIX", -1)
    pixel = pixel if pixel >= 0 else fields.get("HEALPIX", -1)
    if pixel >= 0 and {"SURVEY", "PROGRAM"} <= set(fields):
        return (str(fields["SURVEY"]), str(fields["PROGRAM"]), pixel, *target)
    tile = [fields.get(name, -1) for name in ("TILEID", "NIGHT", "PETAL")]
    if all(number >= 0 for number in tile):
        return (TILE, *tile, *target)
    whose = f"target {target[0]}" if target else f"the id {row!r:.80}"
    if fields.get("TILEID", -1) >= 0:
        raise InputError(
            f"{whose} was read from a tile, and its NIGHT or PETAL is not known, so that ids "
            "cannot find it again; read the tile's coadd by its path"
        )
    raise InputError(f"{whose} has no HEALPIX, SURVEY and PROGRAM, which tell its file; {_IDS}")
