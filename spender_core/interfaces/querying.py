"""Queries: rows of a survey's catalogues, as a table of ids that `Instrument.read` takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.conditions import conditions
from spender_core.archives.catalogues.scanning import CatalogueRequest, Wanted, select
from spender_core.archives.catalogues.skies import region
from spender_core.archives.location import redacted
from spender_core.errors import DamagedFileError, InputError
from spender_core.interfaces.asked import id_column, root_of
from spender_core.interfaces.loader import Loader

if TYPE_CHECKING:
    from astropy.table import Table


def query_table(
    name: str,
    loader: Loader,
    where: str | Mapping[str, Any] | None = None,
    *,
    columns: Sequence[str] | None = None,
    cone: tuple[float, float, float] | None = None,
    box: tuple[float, float, float, float] | None = None,
    healpix: tuple[int, int | Iterable[int]] | None = None,
    target: str | Sequence[str] | None = None,
    primary: bool | str = True,
    quality: bool = True,
    limit: int | None = None,
    root: str | os.PathLike[str] | None = None,
    release: str | None = None,
    catalogue: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Table:
    """Answer `Instrument.query`, whose arguments these are, for the instrument of a loader.

    Raises:
        InputError: An argument is malformed, or the instrument knows no catalogue.
        FileError: A catalogue is missing or cannot be used.
        OfflineError: Its server cannot be reached.
    """
    whole = isinstance(limit, (int, np.integer)) and not isinstance(limit, bool)
    if limit is not None and (not whole or limit < 1):
        raise InputError(f"limit must be a whole number above 0, or None for all, not {limit!r}")
    part = region(cone, box, healpix)
    wanted = Wanted(conditions(where), part, _names("columns", columns), limit and int(limit))
    asked = CatalogueRequest(
        region=part,
        target=tuple(_names("target", target) or ()),
        primary=primary,
        quality=quality,
        root=root_of(root),
        release=release,
        catalogue=None if catalogue is None else _path(catalogue),
    )
    found = loader.catalogue(asked)
    return _table(name, select(found, wanted, progress), loader.id_dtype, asked)


def _names(argument: str, given: str | Sequence[str] | None) -> list[str] | None:
    """Return the names that an argument holds: one, or several."""
    if given is None:
        return None
    names = [given] if isinstance(given, str) else list(given)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{argument} must be a name or a list of names, not {given!r:.80}")
    return list(dict.fromkeys(name.strip().upper() for name in names))


def _path(catalogue: Any) -> str:
    if not isinstance(catalogue, (str, os.PathLike)) or not os.fspath(catalogue):
        raise InputError(f"catalogue must be the path or URL of a file, not {catalogue!r:.60}")
    return str(os.fsdecode(catalogue))


def _table(
    name: str,
    columns: Mapping[str, NDArray[Any]],
    ids: np.dtype[np.void],
    asked: CatalogueRequest,
) -> Table:
    from astropy.table import Table

    table = Table({key: _column(key, values, ids, asked) for key, values in columns.items()})
    table.meta["INSTRUME"] = name
    if asked.release is not None:
        table.meta["RELEASE"] = asked.release
    if asked.catalogue is not None:
        table.meta["CATALOG"] = redacted(asked.catalogue)
    return table


def _column(
    name: str, values: NDArray[Any], ids: np.dtype[np.void], asked: CatalogueRequest
) -> NDArray[Any]:
    """Return a column as people want it: text as such, ids of the type that the loader has."""
    if name in (ids.names or ()):
        if not len(values):
            return values.astype(ids[name])
        place = "the catalogue" if asked.catalogue is None else redacted(asked.catalogue)
        try:
            return id_column(values, ids[name], f"its column {name}")
        except InputError as error:
            raise DamagedFileError(f"cannot use {place}: {error}") from None
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
