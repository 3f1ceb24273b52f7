"""Joins the three cameras of DESI to one spectrum.

`join` is what files are read with: by the kernel of native/coadd.c where it is compiled, else by
`coadd_cameras`, which says what the kernel must give.

Shapes: N targets, n pixels of one camera, L pixels of the union, K diagonals.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core import native
from spender_core.errors import DamagedFileError
from spender_core.grid import Linear

FloatArray = NDArray[np.float64]

GRID = Linear(3600.0, 0.8, 7781)
"""The union of the cameras' wavelengths, vacuum Angstrom."""

_ROWS = 32
"""Targets whose cameras numpy joins together."""

MIN_IVAR = 1e-6
"""Pixels with less inverse variance than this, in archive units, count as masked."""

TOLERANCE = 1e-4
"""Largest distance between wavelengths of the same pixel, Angstrom."""


@dataclass(frozen=True)
class Camera:
    """The spectra of one camera: wave (n,), flux, ivar and mask (N, n), resolution (N, K, n)."""

    wave: FloatArray
    flux: NDArray[Any]
    ivar: NDArray[Any]
    mask: NDArray[Any]
    resolution: NDArray[Any] | None = None

    @property
    def weight(self) -> FloatArray:
        """The ivar, 0 where masked, in float64."""
        return np.where(self.mask != 0, 0.0, self.ivar).astype(np.float64)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Pixels that the survey holds for good, whose values cannot be: shape (N, n)."""
        used = (self.mask == 0) & (self.ivar != 0)
        sound = np.isfinite(self.flux) & np.isfinite(self.ivar) & (self.ivar > 0)
        return np.asarray(used & ~sound, dtype=bool)

    def __getitem__(self, rows: slice) -> Camera:
        """Select targets."""
        resolution = None if self.resolution is None else self.resolution[rows]
        return Camera(self.wave, self.flux[rows], self.ivar[rows], self.mask[rows], resolution)


@dataclass(frozen=True)
class Coadd:
    """Spectra on `GRID`: flux, ivar and mask (N, L), resolution (N, K, L) or None."""

    flux: FloatArray
    ivar: FloatArray
    mask: NDArray[np.int32]
    resolution: FloatArray | None


def coadd_cameras(cameras: Mapping[str, Camera]) -> Coadd:
    """Join cameras: copied where one sees a pixel, averaged where two do.

    Where cameras overlap, flux is the mean weighted by inverse variance, ivar the sum,
    and the mask the union of bits, cleared where any camera has a good pixel. The
    resolution is averaged diagonal by diagonal with the ivar of the pixel from which
    each element draws. A pixel with any mask bit counts as ivar 0.

    This is `desispec.coaddition.coadd_cameras` (desispec 0.70; BSD licence), which
    leaves it to the pipeline to zero the ivar of masked pixels.

    Args:
        cameras: By name ("B", "R", "Z"), in any order; each must lie on `GRID`.

    Raises:
        DamagedFileError: A camera's wavelengths are not on `GRID`.
    """
    slices, seen = _places(cameras)
    shape = (len(next(iter(cameras.values())).flux), GRID.size)
    total, ivar, copied = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    mask = np.zeros(shape, dtype=np.int32)
    for name, camera in cameras.items():
        where = slices[name]
        total[:, where] += camera.weight * np.where(camera.weight > 0, camera.flux, 0.0)
        ivar[:, where] += camera.weight
        copied[:, where] = camera.flux
        mask[:, where] |= camera.mask.astype(np.int32)
    mean = np.divide(total, ivar, out=np.zeros(shape), where=ivar > 0)
    flux = np.where(seen > 1, mean, copied)
    mask[ivar > 0] = 0
    return Coadd(flux, ivar, mask, coadd_resolution(cameras))


def join(
    cameras: Mapping[str, Camera], flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Write the joined spectra into arrays, masked, and return which had broken pixels, (N,).

    Flux is finite, and 0 where no camera tells it; ivar is 0 where masked, broken or less than
    `MIN_IVAR`.

    Args:
        cameras: By name, each on `GRID`; float32 in any order of bytes.
        flux: Written to, shape (N, L).
        ivar: Written to, shape (N, L).

    Raises:
        DamagedFileError: A camera's wavelengths are not on `GRID`.
    """
    slices, seen = _places(cameras)
    library = native.library()
    stored = {part.dtype.str for camera in cameras.values() for part in (camera.flux, camera.ivar)}
    if library is None or seen.max() > 2 or len(stored) > 1 or not stored <= {"<f4", ">f4"}:
        return _joined(cameras, flux, ivar)
    if seen.min() == 0:
        flux[:, seen == 0] = ivar[:, seen == 0] = 0
    parts = [
        tuple(map(np.ascontiguousarray, (camera.flux, camera.ivar, camera.mask != 0)))
        for camera in cameras.values()
    ]
    ranges = list(slices.values())
    entries = [
        _Camera(*(part.ctypes.data for part in arrays), where.start, where.stop - where.start)
        for arrays, where in zip(parts, ranges, strict=True)
    ]
    shared = [
        _Overlap(i, j, first, last)
        for (i, one), (j, other) in combinations(enumerate(ranges), 2)
        if (first := max(one.start, other.start)) < (last := min(one.stop, other.stop))
    ]
    broken = np.zeros(len(flux), dtype=bool)
    least = np.float32(MIN_IVAR)
    if least > MIN_IVAR:
        least = np.nextafter(least, np.float32(0))
    arguments = (
        (_Camera * len(entries))(*entries),
        ctypes.c_int64(len(entries)),
        (_Overlap * len(shared))(*shared),
        ctypes.c_int64(len(shared)),
        ctypes.c_int64(GRID.size),
        ctypes.c_double(MIN_IVAR),
        ctypes.c_float(float(least)),
        ctypes.c_int32(stored != {np.dtype(np.float32).str}),
        *(ctypes.c_void_p(array.ctypes.data) for array in (flux, ivar, broken)),
    )
    # by one thread: it takes less than reading does, and others would have to be waited for
    library.spender_join_cameras(*arguments, ctypes.c_int64(0), ctypes.c_int64(len(flux)))
    return broken


class _Camera(ctypes.Structure):
    """`spender_camera` of native/coadd.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("flux", "ivar", "mask")),
        *((name, ctypes.c_int64) for name in ("start", "pixels")),
    ]


class _Overlap(ctypes.Structure):
    """`spender_overlap` of native/coadd.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("one", "other", "first", "last")]


def _joined(
    cameras: Mapping[str, Camera], flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Do what `join` does, a few targets at a time."""
    broken = np.empty(len(flux), dtype=bool)
    for first in range(0, len(flux), _ROWS):
        rows = slice(first, first + _ROWS)
        part = {name: camera[rows] for name, camera in cameras.items()}
        lost = broken_pixels(part)
        with np.errstate(over="ignore", invalid="ignore"):
            coadd = coadd_cameras(part)
            flux[rows], ivar[rows] = coadd.flux, coadd.ivar
        bad = lost | (coadd.mask != 0) | ~(coadd.ivar > MIN_IVAR)
        bad |= ~np.isfinite(flux[rows]) | ~np.isfinite(ivar[rows])
        flux[rows][lost | ~np.isfinite(flux[rows])] = 0
        ivar[rows][bad] = 0
        broken[rows] = lost.any(axis=1)
    return broken


def broken_pixels(cameras: Mapping[str, Camera]) -> NDArray[np.bool_]:
    """Return the pixels of `GRID` to which a camera gave values that cannot be, (N, L)."""
    broken = np.zeros((len(next(iter(cameras.values())).flux), GRID.size), dtype=bool)
    for name, camera in cameras.items():
        broken[:, _on_grid(name, camera.wave)] |= camera.broken
    return broken


def _places(cameras: Mapping[str, Camera]) -> tuple[dict[str, slice], NDArray[np.int64]]:
    """Return where on `GRID` each camera is, and how many see each pixel, (L,)."""
    slices = {name: _on_grid(name, camera.wave) for name, camera in cameras.items()}
    seen = np.zeros(GRID.size, dtype=np.int64)
    for where in slices.values():
        seen[where] += 1
    return slices, seen


def _on_grid(name: str, wave: FloatArray) -> slice:
    if not np.isfinite(wave).all():
        raise DamagedFileError(f"wavelengths of camera {name} are not finite")
    start = round((float(wave[0]) - GRID.start) / GRID.step)
    stop = start + len(wave)
    if start < 0 or stop > GRID.size or np.abs(GRID.wave[start:stop] - wave).max() > TOLERANCE:
        raise DamagedFileError(
            f"camera {name} covers {wave[0]:.3f} to {wave[-1]:.3f} Angstrom in {len(wave)} pixels, "
            f"which is not on the DESI grid of {GRID.wave[0]:g} to {GRID.wave[-1]:g} in steps of {GRID.step}"
        )
    return slice(start, stop)


def coadd_resolution(
    cameras: Mapping[str, Camera], out: NDArray[Any] | None = None
) -> NDArray[Any] | None:
    """Return the resolution as `coadd_cameras` joins it, (N, K, L); None if a camera has none.

    Args:
        cameras: By name, each on `GRID`.
        out: Where it goes, of any floating type; a new array in float64 if it is None.
    """
    sizes = [
        camera.resolution.shape[1] for camera in cameras.values() if camera.resolution is not None
    ]
    if len(sizes) != len(cameras):
        return None
    slices, seen = _places(cameras)
    shape = (len(next(iter(cameras.values())).flux), max(sizes), GRID.size)
    result = np.empty(shape) if out is None else out
    result[...] = 0
    shared = np.flatnonzero(seen > 1)
    total, norm = (np.zeros((*shape[:2], len(shared))) for _ in range(2))
    for name, camera in cameras.items():
        assert camera.resolution is not None
        where, (diagonals, n) = slices[name], camera.resolution.shape[1:]
        first = (max(sizes) - diagonals) // 2
        rows = slice(first, first + diagonals)
        result[:, rows, where] = camera.resolution
        # element k of column j belongs to the row j + k - K // 2 of the matrix
        column = np.flatnonzero(seen[where] > 1)
        offset = np.arange(diagonals) - diagonals // 2
        weight = camera.weight[:, (column + offset[:, None]) % n]
        place = np.searchsorted(shared, column + where.start)
        total[:, rows, place] += weight * camera.resolution[:, :, column]
        norm[:, rows, place] += weight
    result[:, :, shared] = np.divide(total, norm, out=np.zeros(total.shape), where=norm > 0)
    return result
