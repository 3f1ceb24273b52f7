"""Take a user's own arrays, or a spectrum of specutils, onto an instrument's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import InputError
from spender_core.grid import Grid, Table
from spender_core.ops.rebin import rebin

FloatArray = NDArray[np.float64]


def onto_grid(
    grid: Grid, wave: ArrayLike, flux: ArrayLike, ivar: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return flux and ivar on a grid, shape (B, L), from arrays on other wavelengths.

    Raises:
        GridError: The wavelengths do not increase.
        InputError: They are no numbers, shapes differ, ivar is negative, flux is not finite where ivar > 0,
            or nothing of the grid is covered.
    """
    source = Table(numbers("wave", wave))
    flux_BM = np.atleast_2d(numbers("flux", flux))
    ivar_BM = np.atleast_2d(numbers("ivar", ivar))
    if flux_BM.shape != ivar_BM.shape or flux_BM.shape[-1] != source.size or flux_BM.ndim != 2:
        raise InputError(
            f"wave has {source.size} pixels, flux has shape {np.shape(flux)} and ivar "
            f"{np.shape(ivar)}; give flux and ivar as (M,) or (B, M) for M wavelengths"
        )
    if not np.isfinite(ivar_BM).all() or (ivar_BM < 0).any():
        raise InputError("ivar must be finite and >= 0; use 0 for masked pixels")
    if not np.isfinite(flux_BM[ivar_BM > 0]).all():
        raise InputError("flux is not finite in some pixels with ivar > 0; set their ivar to 0")
    flux_BM = np.where(np.isfinite(flux_BM), flux_BM, 0.0)
    first = int(np.searchsorted(grid.wave, source.wave[0] - 1e-6))
    stretch = grid.wave[first : first + source.size]
    if len(stretch) == source.size and np.allclose(stretch, source.wave, rtol=0, atol=1e-4):
        flux_BL, ivar_BL = (np.zeros((len(flux_BM), grid.size)) for _ in range(2))
        flux_BL[:, first : first + source.size] = flux_BM
        ivar_BL[:, first : first + source.size] = ivar_BM
    else:
        flux_BL, ivar_BL = rebin(source.edges, flux_BM, ivar_BM, grid.edges)
    if source.wave[-1] < grid.wave[0] or source.wave[0] > grid.wave[-1]:
        raise InputError(
            f"the spectrum covers {source.wave[0]:.1f} to {source.wave[-1]:.1f}, the grid "
            f"{grid.wave[0]:.1f} to {grid.wave[-1]:.1f} Angstrom; is it in vacuum Angstrom?"
        )
    return flux_BL, ivar_BL


def numbers(name: str, values: ArrayLike) -> FloatArray:
    """Return real numbers as an array of float64.

    Raises:
        InputError: They are something else, or of different lengths.
    """
    try:
        array = np.asarray(values)
    except Exception as error:  # whatever an array-like object raises
        raise InputError(f"{name} cannot be used as an array: {error}") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} must hold real numbers, not {array.dtype} as in {values!r:.60}")
    return array.astype(np.float64)


def from_specutils(
    spectrum: Any,
) -> tuple[FloatArray, FloatArray, FloatArray, float | FloatArray | None]:
    """Return wave, flux, ivar and z of a `specutils` spectrum; wavelengths as in its axis.

    The spectral axis must be in the observed frame and in vacuum. Masked pixels get ivar 0.

    Raises:
        InputError: It has no uncertainty.
    """
    from astropy.nddata import InverseVariance

    if spectrum.uncertainty is None:
        raise InputError("the spectrum has no uncertainty; set spectrum.uncertainty")
    wave = spectrum.spectral_axis.to_value("AA")
    flux = np.asarray(spectrum.flux.value, dtype=np.float64)
    ivar = spectrum.uncertainty.represent_as(InverseVariance)
    inverse = np.asarray(ivar.quantity.to_value(spectrum.flux.unit**-2), dtype=np.float64)
    bad = ~np.isfinite(flux) | ~np.isfinite(inverse)
    if spectrum.mask is not None:
        bad |= np.asarray(spectrum.mask, dtype=bool)
    inverse = np.where(bad, 0.0, inverse)
    redshift = getattr(spectrum, "redshift", None)
    z = None if redshift is None or not np.any(redshift.value) else np.asarray(redshift.value)
    if wave[0] > wave[-1]:
        wave, flux, inverse = wave[::-1], flux[..., ::-1], inverse[..., ::-1]
    return np.asarray(wave), flux, inverse, z
