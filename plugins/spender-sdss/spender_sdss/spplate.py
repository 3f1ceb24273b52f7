"""Reads `spPlate-PLATE-MJD.fits`: all spectra of a plate in images of fibres by pixels.

Redshifts come from `spZbest-PLATE-MJD.fits`, which the archive has in a folder beside it. The data
model is https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/PLATE4/spPlate.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.hdu import Hdu
from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.archives.fits.opening import beside
from spender_core.archives.location import redacted
from spender_core.errors import DamagedFileError, FileError, MissingFileError
from spender_core.grid import Log
from spender_sdss.spectra import (
    FARTHEST,
    Spectra,
    flagged,
    ids,
    line_spread,
    pixels,
    placed,
    redshifts,
)

_FLUX, _IVAR, _AND_MASK, _WIDTHS, _FIBRES = 0, 1, 2, 4, 5
"""Numbers of the HDUs; their names differ by release."""

_MOST_FIBRES = 1_000
_ZBEST = {"FIBERID": "iu", "Z": "f", "Z_ERR": "f", "ZWARNING": "iu"}
_FOLDER = re.compile(r"/(?P<run2d>\w{1,8})/\d{4,5}/spPlate-[^/]*$", re.ASCII)


def is_plate(hdus: Hdus) -> bool:
    """Tell whether a file is an spPlate file."""
    if hdus[_FLUX].kind != "image" or len(hdus[_FLUX].shape) != 2:
        return False
    if any(name not in hdus[_FLUX].header for name in ("COEFF0", "COEFF1", "PLATEID", "MJD")):
        return False
    first = list(islice(hdus, _FIBRES + 1))
    if len(first) <= _FIBRES:
        return False
    shape, fibres = first[_FLUX].shape, first[_FIBRES]
    return (
        all(first[number].shape == shape for number in (_IVAR, _AND_MASK, _WIDTHS))
        and fibres.kind == "table"
        and fibres.shape[0] == shape[0]
        and 0 < shape[0] <= _MOST_FIBRES
        and 0 < shape[1] <= 2 * FARTHEST
    )


def reduction(hdus: Hdus, url: str) -> str:
    """Return run2d of an spPlate file: from its header, or from the folder that it is in.

    Raises:
        FileError: Neither tells.
    """
    given = str(hdus[_FLUX].header.get("RUN2D", "")).strip()
    if given:
        return given
    found = _FOLDER.search(url.partition("?")[0])
    if found is None:
        raise FileError(
            f"the header of {redacted(url)} has no RUN2D; put the file into folders named as in the "
            "archive, RUN2D/PLATE/, so that its spectrograph is known"
        )
    return found["run2d"]


def read(hdus: Hdus, url: str, grid: Log, lsf: bool) -> Spectra:
    """Read the spectra of all fibres, in the order of the file.

    Args:
        hdus: The spPlate file.
        url: Its path or URL.
        grid: The grid.
        lsf: Read line spread functions too.

    Raises:
        DamagedFileError: A value cannot be.
        FileError: The spZbest file cannot be read.
        MissingFileError: There is none.
    """
    images = [_FLUX, _IVAR, _AND_MASK, *([_WIDTHS] if lsf else [])]
    hdus.prefetch([(hdus[number], None, None) for number in (*images, _FIBRES)])
    header = hdus[_FLUX].header
    index = pixels(_loglam(header, hdus[_FLUX].shape[1]), grid)
    lost = hdus[_AND_MASK].image() != 0
    flux_BL, ivar_BL, flags = placed(_real(hdus[_FLUX]), _real(hdus[_IVAR]), lost, index, grid)
    fibres = hdus[_FIBRES].table({"FIBERID": "iu", "OBJTYPE": "S"})
    fit = _redshifts(url, reduction(hdus, url), fibres["FIBERID"])
    flags |= flagged(fit["ZWARNING"], [fibres["OBJTYPE"]])
    z, zerr = redshifts(fit["Z"], fit["Z_ERR"], flags)
    count = len(lost)
    plate, mjd = (np.full(count, _whole(header, name)) for name in ("PLATEID", "MJD"))
    run2d = np.full(count, reduction(hdus, url).encode())
    spread = line_spread(_real(hdus[_WIDTHS]), index, grid) if lsf else None
    return Spectra(
        flux_BL, ivar_BL, z, zerr, flags, ids(plate, mjd, fibres["FIBERID"], run2d), spread
    )


def _redshifts(url: str, run2d: str, fiberid: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return redshifts by fibre, from the spZbest file in this folder or in that of the reduction."""
    near = beside(url, "spPlate", "spZbest")
    if near is None:
        raise FileError(
            f"{redacted(url)} is an spPlate file, whose name must begin with spPlate, so that its "
            "redshifts are found in the file that begins with spZbest"
        )
    folder, slash, name = near.rpartition("/")
    # spectroscopic reductions have their own folder, of the same name but for reruns
    for place in (f"{folder}{slash}{run2d}/{name}", near):
        with suppress(MissingFileError), open_hdus(place) as hdus:
            return _matched(hdus, fiberid)
    raise MissingFileError(
        f"{redacted(url)} holds no redshifts, and there is neither {redacted(near)} nor the same "
        f"file in a folder {run2d} beside it; copy it there"
    )


def _matched(hdus: Hdus, fiberid: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the rows of a catalogue in the order of fibres."""
    table = hdus[1].table(_ZBEST)
    order = np.argsort(table["FIBERID"], kind="stable")
    known = table["FIBERID"][order]
    place = np.searchsorted(known, fiberid).clip(max=max(len(known) - 1, 0))
    if len(known) == 0 or (known[place] != fiberid).any() or (np.diff(known) == 0).any():
        raise DamagedFileError("its fibres are not those of the spPlate file, each once")
    return {name: values[order[place]] for name, values in table.items()}


def _loglam(header: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    start, step = (header[name] for name in ("COEFF0", "COEFF1"))
    if not all(isinstance(value, (int, float)) for value in (start, step)):
        raise DamagedFileError(f"its COEFF0 and COEFF1 are no numbers: {start!r}, {step!r}")
    if not abs(step / 1e-4 - 1) < 1e-3:
        raise DamagedFileError(f"its pixels are {step} wide in log10; those of SDSS are 1e-4")
    return np.asarray(start + step * np.arange(count), dtype=np.float64)


def _real(hdu: Hdu) -> NDArray[Any]:
    image = hdu.image()
    if image.dtype.kind != "f":
        raise DamagedFileError(f"its HDU {hdu.number} holds {image.dtype}, not real numbers")
    return image


def _whole(header: Mapping[str, Any], name: str) -> int:
    value = header[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise DamagedFileError(f"its {name} is {value!r}, no positive whole number")
    return value
