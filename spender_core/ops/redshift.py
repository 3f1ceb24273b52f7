"""Redshift a restframe spectrum and resample it on an observed grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from spender_core.ops.resampler import Resampler


def redshift(
    x_BR: Tensor,
    wave_rest_R: Tensor,
    wave_obs_L: Tensor,
    z_B: Tensor,
    conserve_flux: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Move restframe spectra to redshift z, on the wavelengths of an instrument.

    This follows Melchior et al. (2023, AJ 166, 74), section 2.3: the model is a flux
    density per observed wavelength, up to its normalisation, so it is not divided by
    1 + z. Pixels outside of the redshifted model are set to 0 and flagged; the model
    reaches strictly between its first and its last wavelength.

    Grids are remembered. Who resamples often between two of them keeps a `Resampler`.

    Args:
        x_BR: Restframe spectra, shape (B, R), any floating type and device.
        wave_rest_R: Restframe wavelengths, shape (R,), float64, Angstrom.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        z_B: Redshifts, shape (B,), finite; float64 keeps their full precision.
        conserve_flux: As in `Resampler`.
        backend: As in `Resampler`.

    Returns:
        The spectra, shape (B, L), and whether the model reaches the pixel, bool (B, L).
        Gradients flow to `x_BR` and `z_B`.
    """
    resampler = _resampler(_bytes(wave_rest_R), _bytes(wave_obs_L), conserve_flux)
    return resampler(x_BR, z_B, backend)


@lru_cache(maxsize=16)
def _resampler(rest: bytes, observed: bytes, conserve_flux: bool) -> Resampler:
    return Resampler(np.frombuffer(rest), np.frombuffer(observed), conserve_flux)


def _bytes(wave: Tensor) -> bytes:
    return wave.detach().cpu().double().numpy().tobytes()
