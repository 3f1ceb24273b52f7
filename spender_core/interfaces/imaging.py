"""Images of the objects whose spectra an instrument took."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.opening import reading
from spender_core.archives.images import cutout_urls, fetch_images
from spender_core.archives.location import redacted
from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    InputError,
    MissingFileError,
    PartialReadWarning,
    SpenderError,
)
from spender_core.interfaces.asked import are_paths, listed, paths_of, root_of
from spender_core.interfaces.loader import Loader, Source
from spender_core.interfaces.locating import located

_COLUMNS = (("TARGET_RA", "TARGET_DEC"), ("PLUG_RA", "PLUG_DEC"), ("RA", "DEC"))
"""Columns of tables in which positions are looked for, in this order."""


class Imaging:
    """What gives an instrument images of its objects."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Name of the instrument."""

        @property
        def loader(self) -> Loader | None:
            """What reads its files."""

    def image(
        self,
        where: Any,
        *,
        size: int = 256,
        pixel_scale: float | None = None,
        layer: str | None = None,
        root: str | os.PathLike[str] | None = None,
        release: str | None = None,
    ) -> NDArray[np.uint8]:
        """Return colour images of objects or positions, from the survey's public cutout service.

        Where several are asked for and some cannot be had, or their positions cannot, these are
        black, with a `PartialReadWarning`.

        Args:
            where: (ra, dec) in degrees, numbers or arrays; pairs of them, an array (N, 2) of real
                numbers; angles or a SkyCoord of astropy; a table with columns RA and DEC (or
                TARGET_RA, PLUG_RA); or whatever `read` takes, or a batch, whose positions are read
                from the survey's files.
            size: Width and height, pixels.
            pixel_scale: Size of a pixel, arcsec; None for that of the service.
            layer: Which images; None for the first that the service has.
            root: As of `read`.
            release: As of `read`.

        Returns:
            Red, green and blue (size, size, 3), north up and east left; of several, the same
            for each (N, size, size, 3).

        Raises:
            InputError: A position, the size or the layer is not possible; or the instrument knows
                no such service.
            FileError: No image, or no position, could be had.
            OfflineError: The service cannot be reached.
        """
        loader = self.loader
        if loader is None:
            raise InputError(f"{self.name} has no survey from which images could come")
        service = loader.cutouts()
        size, pixel_scale = _plain(size), _plain(pixel_scale)
        given, single = _positions(self.name, loader, where, root_of(root), release)
        sky_N2 = np.array([place for place in given if not isinstance(place, SpenderError)])
        urls = cutout_urls(service, sky_N2.reshape(-1, 2), size, pixel_scale, layer)
        images = iter(fetch_images(urls, size))
        found = [one if isinstance(one, SpenderError) else next(images) for one in given]
        failed = [one for one in found if isinstance(one, SpenderError)]
        first = next((k for k, one in enumerate(found) if isinstance(one, SpenderError)), 0)
        if len(failed) == len(found):
            raise failed[0]
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(found)} images could not be had, and are black. The first, "
                f"number {first}: {failed[0]}",
                PartialReadWarning,
                stacklevel=2,
            )
        result = np.zeros((len(found), size, size, 3), dtype=np.uint8)
        for place, one in enumerate(found):
            if not isinstance(one, SpenderError):
                result[place] = one
        return result[0] if single else result


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _positions(
    name: str, loader: Loader, where: Any, root: str | None, release: str | None
) -> tuple[list[NDArray[np.float64] | SpenderError], bool]:
    """Return right ascension and declination (2,), degrees, of each object or why there is none.

    Also whether one alone was asked for.
    """
    given = _told(where)
    if given is not None:
        if given[0].shape != given[1].shape or given[0].ndim > 1:
            raise InputError(
                f"right ascension and declination differ in length: {given[0].shape} and "
                f"{given[1].shape}"
            )
        if given[0].size == 0:
            raise InputError("there are no positions to have images of")
        sky_N2 = np.stack(given, axis=-1)
        return list(np.atleast_2d(sky_N2)), sky_N2.ndim == 1
    alone = isinstance(where, (str, bytes, os.PathLike, tuple, np.void))
    if isinstance(where, SpectrumBatch):
        where = where.ids
    entries = listed(where, loader)
    sources = (
        [Source((path,)) for path in paths_of(entries)]
        if are_paths(entries)
        else located(name, loader, entries, root, release)
    )
    files: dict[tuple[str, ...], NDArray[np.void] | SpenderError] = {}
    found: list[NDArray[np.float64] | SpenderError] = []
    for source in sources:
        if isinstance(source, SpenderError):
            found.append(source)
            continue
        if source.urls not in files:
            files[source.urls] = _of_file(loader, source.urls)
        found += _of_source(name, source, files[source.urls])
    return found, len(found) == 1 and alone


def _of_source(
    name: str, source: Source, rows: NDArray[np.void] | SpenderError
) -> list[NDArray[np.float64] | SpenderError]:
    """Return the positions of the rows of a file that a source asks for, or why there are none."""
    if isinstance(rows, SpenderError):
        return [rows]
    keep = np.ones(len(rows), dtype=bool)
    for field, value in source.rows.items():
        keep &= rows[field] == value
    if not keep.any():
        shown = ", ".join(map(redacted, source.urls))
        return [MissingFileError(f"{name} has no position of {dict(source.rows)} in {shown}")]
    return list(np.stack([rows["RA"][keep], rows["DEC"][keep]], axis=1).astype(np.float64))


def _of_file(loader: Loader, urls: Sequence[str]) -> NDArray[np.void] | SpenderError:
    """Return what the first of these files that exists says of positions, or why none does."""
    failure = MissingFileError("no file was given")
    for url in urls:
        try:
            with reading(url):
                return loader.positions(url)
        except MissingFileError as error:
            failure = error
        except SpenderError as error:
            return error
    return failure


def _told(where: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return positions that were given as such, degrees; None if these are ids or paths."""
    if hasattr(where, "icrs"):
        return np.asarray(where.icrs.ra.deg), np.asarray(where.icrs.dec.deg)
    if hasattr(where, "colnames"):
        known = {str(name).upper(): name for name in where.colnames}
        for names in _COLUMNS:
            if set(names) <= set(known):
                return _degrees(where[known[names[0]]]), _degrees(where[known[names[1]]])
        return None
    if isinstance(where, tuple) and len(where) == 2 and all(map(_is_number, where)):
        return _degrees(where[0]), _degrees(where[1])
    if isinstance(where, (np.ndarray, list)):
        pairs = _reals(where)
        if pairs is not None and pairs.ndim in (1, 2) and pairs.shape[-1] == 2:
            return pairs[..., 0], pairs[..., 1]
    return None


def _reals(values: Any) -> NDArray[np.float64] | None:
    """Return real numbers as an array; None if these are others, such as those of ids."""
    try:
        found = np.asarray(values)
    except ValueError:  # of lists that differ in length
        return None
    return found.astype(np.float64) if found.dtype.kind == "f" else None


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number, or an array of them, with a unit or without."""
    if isinstance(value, list):
        return _reals(value) is not None
    plain = getattr(value, "value", value)
    return not isinstance(plain, (str, bytes, tuple)) and np.asarray(plain).dtype.kind in "fiu"


def _degrees(values: Any) -> NDArray[np.float64]:
    """Return angles in degrees; those without a unit are degrees."""
    if getattr(values, "unit", None) is not None:
        try:
            values = values.to("deg").value
        except Exception as error:  # of a kind that only astropy's units know
            raise InputError(f"{values!r:.60} are no angles ({error})") from None
    if np.ma.getmaskarray(np.ma.asarray(values)).any():
        raise InputError("the positions have rows without a value")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"positions must be numbers, degrees, not {values!r:.60}") from None
