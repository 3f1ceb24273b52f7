"""Redshift a restframe spectrum and resample it on an observed grid."""

from __future__ import annotations

import torch
from torch import Tensor

from spender_core.ops.resample import coordinate_device, interpolate


def redshift(
    x_BR: Tensor, wave_rest_R: Tensor, wave_obs_L: Tensor, z_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Move restframe spectra to redshift z, on the wavelengths of an instrument.

    This follows Melchior et al. (2023, AJ 166, 74), section 2.3: the model is a flux
    density per observed wavelength, up to its normalisation, so it is not divided by
    1 + z. Pixels outside of the redshifted model are set to 0 and flagged; the model
    reaches strictly between its first and its last wavelength.

    Args:
        x_BR: Restframe spectra, shape (B, R), any floating type and device.
        wave_rest_R: Restframe wavelengths, shape (R,), float64, Angstrom.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        z_B: Redshifts, shape (B,), finite; float64 keeps their full precision.

    Returns:
        The spectra, shape (B, L), and whether the model reaches the pixel, bool (B, L).
        Gradients flow to `x_BR` and `z_B`.
    """
    home = coordinate_device(x_BR.device)
    stretch_B1 = 1 + z_B.to(home, torch.float64)[:, None]
    rest_R, obs_L = wave_rest_R.to(home), wave_obs_L.to(home)
    y_BL = interpolate(x_BR, rest_R, obs_L / stretch_B1)
    valid_BL = (obs_L > rest_R[0] * stretch_B1) & (obs_L < rest_R[-1] * stretch_B1)
    valid_BL = valid_BL.to(x_BR.device)
    return torch.where(valid_BL, y_BL, torch.zeros_like(y_BL)), valid_BL
