"""Joins the three cameras of DESI to one spectrum.

Shapes: N targets, n pixels of one camera, L pixels of the union, K diagonals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import DamagedFileError
from spender_core.grid import Linear

FloatArray = NDArray[np.float64]

GRID = Linear(3600.0, 0.8, 7781)
"""The union of the cameras' wavelengths, vacuum Angstrom."""

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


def coadd_resolution(cameras: Mapping[str, Camera]) -> FloatArray | None:
    """Return the resolution as `coadd_cameras` joins it, (N, K, L); None if a camera has none."""
    sizes = [
        camera.resolution.shape[1] for camera in cameras.values() if camera.resolution is not None
    ]
    if len(sizes) != len(cameras):
        return None
    slices, seen = _places(cameras)
    shape = (len(next(iter(cameras.values())).flux), max(sizes), GRID.size)
    total, norm, copied = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for name, camera in cameras.items():
        assert camera.resolution is not None
        diagonals, n = camera.resolution.shape[1:]
        first = (max(sizes) - diagonals) // 2
        rows = slice(first, first + diagonals)
        # element k of column j belongs to the row j + k - K // 2 of the matrix
        offset = np.arange(diagonals) - diagonals // 2
        weight = camera.weight[:, (np.arange(n) + offset[:, None]) % n]
        total[:, rows, slices[name]] += weight * camera.resolution
        norm[:, rows, slices[name]] += weight
        copied[:, rows, slices[name]] = camera.resolution
    mean = np.divide(total, norm, out=np.zeros(shape), where=norm > 0)
    return np.where(seen > 1, mean, copied)
