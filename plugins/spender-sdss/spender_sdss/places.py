"""Where SDSS data are: spectra of plates and of SDSS-V's fields, whole plates, and catalogues."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives import configuration
from spender_core.archives.fits.hdus import open_hdus
from spender_core.archives.fits.tables import whole_numbers
from spender_core.archives.location import join
from spender_core.archives.releases import Archive, Collection, Cutouts
from spender_core.archives.templates import Value
from spender_core.errors import InputError
from spender_core.interfaces import Source

_IDS = (
    "ids of SDSS spectra are (plate, mjd, fiberid) or (plate, mjd, fiberid, run2d), those of "
    "SDSS-V (field, mjd, catalogid), and (plate, mjd) is a whole plate"
)

_POSITIONS = (("PLUG_RA", "PLUG_DEC"), ("FIBER_RA", "FIBER_DEC"), ("RACAT", "DECCAT"))
"""Columns of positions in spec files: of plates, and of SDSS-V (spAll of v6_0 and v6_1)."""


def archive() -> Archive:
    """Return SDSS's archive, with the user's own releases."""
    return configuration.archive("sdss", resources.files("spender_sdss") / "releases.toml")


def catalogue(
    instrument: str, name: str, root: str | None, release: str | None, **fields: Value
) -> str:
    """Return path or URL of a catalogue: "specobj", or "spall" of SDSS-V's spectra.

    Args:
        instrument: "sdss" or "boss".
        name: The catalogue's name.
        root: As of `Archive.root`.
        release: The data release; None for the default.
        fields: What its path is filled with.

    Raises:
        InputError: The release is unknown, has no such data, or no such catalogue.
    """
    sdss = archive()
    title, _ = sdss.release(release, instrument)
    return sdss.catalogue(name, root, title, fields)


def find(
    instrument: str, ids: Sequence[Any], root: str | None, release: str | None
) -> list[Source]:
    """Return where spectra are, by their ids.

    Lite files are preferred to full ones. Without run2d, all reductions of the release are
    tried. Where no release is asked for, and the default one lacks the run2d, or can have no such
    numbers, the latest release that can is tried first.

    Args:
        instrument: "sdss" or "boss".
        ids: (plate, mjd, fiberid[, run2d]); of SDSS-V (field, mjd, catalogid[, run2d]); (plate,
            mjd) for all spectra of a plate; or rows of an array with these fields.
        root: As of `Archive.root`.
        release: The data release; None for the default.

    Raises:
        InputError: One is no id of SDSS, or the release has no data of this instrument.
    """
    sdss = archive()
    sdss.release(release, instrument)
    tops: dict[str, str] = {}
    return [Source(tuple(_urls(sdss, instrument, row, root, release, tops))) for row in ids]


def positions(url: str) -> NDArray[np.void]:
    """Return RA and DEC (degrees) of the object of a spec file."""
    with open_hdus(url) as hdus:
        known = hdus[2].columns
        pair = next((pair for pair in _POSITIONS if set(pair) <= set(known)), _POSITIONS[0])
        found = hdus[2].table(dict.fromkeys(pair, "f"))
    rows = np.zeros(len(found[pair[0]]), [("RA", "f8"), ("DEC", "f8")])
    rows["RA"], rows["DEC"] = found[pair[0]], found[pair[1]]
    return rows


def cutouts() -> Cutouts:
    """Return the service that has images of SDSS."""
    service = archive().cutouts
    if service is None:
        raise InputError("the archive of SDSS names no cutout service")
    return service


def _urls(
    sdss: Archive,
    instrument: str,
    row: Any,
    root: str | None,
    release: str | None,
    tops: dict[str, str],
) -> list[str]:
    """Return where the file of an id may be, the likeliest place first; `tops` keeps roots."""
    fields, run2d = _parse(row)
    kind = "spectrum" if "fiberid" in fields else "plate"
    urls: list[str] = []
    for name in _releases(sdss, instrument, fields, run2d, release):
        _, entry = sdss.release(name, instrument)
        if name not in tops:
            tops[name] = sdss.root(root, entry)
        for collection, reductions in _fitting(
            sdss, entry.collections[instrument], kind, fields, run2d
        ):
            paths = [sdss.paths(collection, kind, {**fields, "run2d": one}) for one in reductions]
            urls += [join(tops[name], path) for same in zip(*paths, strict=True) for path in same]
    if not urls:
        name, entry = sdss.release(release, instrument)
        told = {one.beyond(fields) for one in entry.collections[instrument]} - {""}
        why = " and ".join(sorted(told)) or "it names no run2d"
        others = ", ".join(_having(sdss, instrument, fields, "")) or "none"
        raise InputError(
            f"release {name} has no spectra of {instrument} with {fields}: {why}. Releases that may "
            f"have them: {others}"
        )
    return list(dict.fromkeys(urls))


def _releases(
    sdss: Archive, instrument: str, fields: dict[str, Value], run2d: str, release: str | None
) -> Iterator[str]:
    """Yield the releases to try."""
    having = _having(sdss, instrument, fields, run2d) if release is None else []
    if having and sdss.default not in having:
        yield having[-1]
    yield sdss.release(release, instrument)[0]


def _having(sdss: Archive, instrument: str, fields: dict[str, Value], run2d: str) -> list[str]:
    """Return the releases that may have a spectrum, oldest first."""
    return [
        name
        for name, entry in sdss.releases.items()
        if any(
            run2d in one.values.get("run2d", ()) if run2d else not one.beyond(fields)
            for one in entry.collections.get(instrument, ())
        )
    ]


def _fitting(
    sdss: Archive,
    collections: Sequence[Collection],
    kind: str,
    fields: dict[str, Value],
    run2d: str,
) -> Iterator[tuple[Collection, Sequence[str]]]:
    """Yield the collections that may have a file, and the reductions to try in each."""
    within = [
        one for one in collections if kind in sdss.layouts[one.layout] and not one.beyond(fields)
    ]
    naming = [one for one in within if run2d in one.values.get("run2d", ())]
    for collection in naming or within:
        yield collection, (run2d,) if run2d else collection.values.get("run2d", ())


def _parse(row: Any) -> tuple[dict[str, Value], str]:
    """Return the numbers of an id by their names, and run2d, "" if it is not told."""
    if isinstance(row, np.void) and row.dtype.names:
        known = {name.upper(): row[name] for name in row.dtype.names}
        if not {"PLATE", "MJD"} <= set(known):
            raise InputError(f"{_IDS}; the row has {', '.join(row.dtype.names)}")
        fibre = [known["FIBERID"]] if "FIBERID" in known else []
        row = (known["PLATE"], known["MJD"], *fibre, *([str(known.get("RUN2D", ""))] * len(fibre)))
    if not hasattr(row, "__len__") or isinstance(row, (str, bytes)) or len(row) not in (2, 3, 4):
        raise InputError(f"{_IDS}; got {row!r:.80}")
    numbers = whole_numbers("plate, mjd and fiberid", tuple(row)[:3])
    run2d = row[3] if len(row) > 3 else ""
    if not isinstance(run2d, str):
        raise InputError(f"run2d must be a string, not {run2d!r:.60}")
    run2d = run2d.strip()
    if run2d and not re.fullmatch(r"\w{1,32}", run2d, re.ASCII):
        raise InputError(f"run2d {run2d!r:.60} may only have letters, digits and underscores")
    names = ("plate", "mjd", "fiberid")[: len(numbers)]
    return dict(zip(names, numbers, strict=True)), run2d
