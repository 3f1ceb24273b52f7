"""The spectra of a coadd file, camera by camera, of which only the rows asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.hdu import Hdu
from spender_core.archives.fits.hdus import Hdus, open_hdus
from spender_core.archives.fits.spans import Chosen
from spender_core.archives.location import is_remote, redacted
from spender_core.errors import DamagedFileError, FileError
from spender_desi.coadd import GRID, Camera

CAMERAS = ("B", "R", "Z")
PARTS = ("WAVELENGTH", "FLUX", "IVAR", "MASK")

TOGETHER = 256
"""Targets that are read together, which bounds the memory that is needed beside the result."""


@contextmanager
def open_coadd(url: str, lsf: bool) -> Iterator[Hdus]:
    """Open a coadd and check its headers: over the network, those of what is read.

    Args:
        url: Its path or URL.
        lsf: Whether resolution matrices are read.

    Raises:
        FileError: It is missing, damaged, or a file of another kind.
    """
    parts = (*PARTS, "RESOLUTION") if lsf else PARTS
    names = ["FIBERMAP", *(f"{camera}_{part}" for camera in CAMERAS for part in parts)]
    with open_hdus(url, names if is_remote(url) else None) as hdus:
        _check(url, hdus)
        if not is_remote(url):
            len(hdus)  # the last headers tell whether the end is missing
        yield hdus


def _check(url: str, hdus: Hdus) -> None:
    """Refuse other files, and arrays that do not fit each other, by the headers alone."""
    _refuse_others(url, hdus)
    rows = len(hdus["FIBERMAP"])
    if rows == 0:
        raise DamagedFileError("its FIBERMAP has no rows, so that there are no targets")
    for camera in CAMERAS:
        pixels = hdus[f"{camera}_WAVELENGTH"].shape
        if len(pixels) != 1 or not 0 < pixels[0] <= GRID.size:
            raise DamagedFileError(f"{camera}_WAVELENGTH has shape {pixels}, not one value a pixel")
        for part in ("FLUX", "IVAR", "MASK"):
            found = hdus[f"{camera}_{part}"].shape
            if found != (rows, *pixels):
                raise DamagedFileError(f"{camera}_{part} has shape {found}, not {(rows, *pixels)}")
    if 8 * rows * GRID.size > hdus.size:
        raise DamagedFileError(f"it is too small for the {rows} spectra that it claims")


def _refuse_others(url: str, hdus: Hdus) -> None:
    needed = {"FIBERMAP", *(f"{camera}_{part}" for camera in CAMERAS for part in PARTS)}
    missing = [name for name in sorted(needed) if name not in hdus]
    if missing and "REDSHIFTS" in hdus:
        raise FileError(
            f"{redacted(url)} is a redrock file: redshifts without spectra. Give the coadd file of the "
            "same name; the redshifts beside it are found by themselves"
        )
    if missing:
        raise FileError(
            f"{redacted(url)} is not a DESI coadd: it lacks the HDUs {', '.join(missing)}"
        )
    if hdus["FIBERMAP"].kind != "table":
        raise DamagedFileError("its FIBERMAP is not a table")
    columns = hdus["FIBERMAP"].columns.keys()
    if "COADD_FIBERSTATUS" not in columns and {"FIBERSTATUS", "EXPID"} & columns:
        raise FileError(
            f"{redacted(url)} holds single exposures, not coadded spectra. Give the coadd file of the same "
            "name, or coadd it first with desi_coadd_spectra"
        )


def read_waves(hdus: Hdus) -> dict[str, NDArray[np.float64]]:
    """Return the wavelengths of each camera, vacuum Angstrom, by its name."""
    return {
        name: np.asarray(hdus[f"{name}_WAVELENGTH"].image(), dtype=np.float64) for name in CAMERAS
    }


def read_cameras(
    hdus: Hdus, waves: Mapping[str, NDArray[np.float64]], rows: Chosen
) -> dict[str, Camera]:
    """Return the cameras of some targets, as the file holds them."""
    return {
        name: Camera(
            wave=wave,
            flux=_floats(hdus[f"{name}_FLUX"], rows),
            ivar=_floats(hdus[f"{name}_IVAR"], rows),
            mask=hdus[f"{name}_MASK"].nonzero(rows),
        )
        for name, wave in waves.items()
    }


def diagonals(hdus: Hdus) -> int | None:
    """Return how many diagonals resolution matrices have at most; None if a camera has none.

    Raises:
        DamagedFileError: They do not fit the spectra.
    """
    names = [f"{name}_RESOLUTION" for name in CAMERAS]
    if any(name not in hdus for name in names):
        return None
    for camera, name in zip(CAMERAS, names, strict=True):
        n, pixels = hdus[f"{camera}_FLUX"].shape
        shape = hdus[name].shape
        if len(shape) != 3 or shape[::2] != (n, pixels) or shape[1] % 2 == 0:
            raise DamagedFileError(f"{name} has shape {shape}, not {(n, 11, pixels)}")
    return max(hdus[name].shape[1] for name in names)


def with_resolution(cameras: Mapping[str, Camera], hdus: Hdus, rows: Chosen) -> dict[str, Camera]:
    """Return cameras with their resolution matrices, which the file must have.

    Pixels whose values cannot be have no weight where cameras are joined.

    Args:
        cameras: Of these targets.
        hdus: The file.
        rows: The targets.

    Raises:
        DamagedFileError: The matrices are not finite.
    """
    full = {}
    for name, camera in cameras.items():
        data = hdus[f"{name}_RESOLUTION"].image(rows)
        if not np.isfinite(data).all():
            raise DamagedFileError(f"{name}_RESOLUTION is not finite")
        ivar = np.where(camera.broken, 0, camera.ivar)
        full[name] = replace(camera, ivar=ivar, resolution=data)
    return full


def blocks(hdus: Hdus, rows: NDArray[np.int64], lsf: bool) -> Iterator[tuple[slice, Chosen]]:
    """Yield some targets at a time: their places in the result, and their rows in the file.

    Over the network, all that is read of them comes at once.
    """
    names = [f"{camera}_{part}" for camera in CAMERAS for part in PARTS if part != "WAVELENGTH"]
    if lsf:
        names += [name for camera in CAMERAS if (name := f"{camera}_RESOLUTION") in hdus]
    for first in range(0, len(rows), TOGETHER):
        places = slice(first, min(first + TOGETHER, len(rows)))
        some = rows[places]
        together = some[-1] - some[0] == len(some) - 1
        wanted = slice(int(some[0]), int(some[-1]) + 1) if together else some
        hdus.prefetch([(hdus[name], wanted, None) for name in names])
        yield places, wanted


def _floats(hdu: Hdu, rows: Chosen) -> NDArray[Any]:
    """Return an image in float32, without a copy where the file has just that."""
    if hdu.kind == "image" and hdu.dtype == np.float32 and not _is_scaled(hdu):
        return hdu.image_raw(rows)
    with np.errstate(over="ignore"):
        return hdu.image(rows).astype(np.float32)


def _is_scaled(hdu: Hdu) -> bool:
    return hdu.header.get("BSCALE", 1) != 1 or hdu.header.get("BZERO", 0) != 0
