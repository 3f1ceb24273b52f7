"""Data in the restframe, and weights of restframe pixels, for the similarity losses.

Shapes: B spectra, L observed pixels, R restframe pixels. Wavelengths are vacuum Angstrom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spender_core.ops.redshift import redshift
from spender_core.ops.resample import coordinate_device


def to_restframe(
    flux_BL: Tensor, ivar_BL: Tensor, wave_obs_L: Tensor, wave_rest_R: Tensor, z_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Interpolate spectra and their inverse variances linearly at restframe wavelengths.

    A restframe pixel is looked up at `wave_rest * (1 + z)`, as `resample_to_restframe` of
    spender 0.3 does, with coordinates in float64. Outside of the observed range, its ends
    included, flux and inverse variance are 0; spender extrapolates the flux there.

    Args:
        flux_BL: Observed spectra, shape (B, L).
        ivar_BL: Inverse variances, 0 where masked, shape (B, L).
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        wave_rest_R: Restframe wavelengths, shape (R,), float64, Angstrom.
        z_B: Redshifts, shape (B,), finite and > -1.

    Returns:
        Flux and inverse variance in the restframe, each of shape (B, R). Gradients flow to
        `flux_BL`, `ivar_BL` and `z_B`.
    """
    home = coordinate_device(flux_BL.device)
    # a spectrum at z is moved to 0, that is, from 0 to -z / (1 + z)
    back_B = 1 / (1 + z_B.to(home, torch.float64)) - 1
    flux_BR, _ = redshift(flux_BL, wave_obs_L, wave_rest_R, back_B)
    ivar_BR, _ = redshift(ivar_BL, wave_obs_L, wave_rest_R, back_B)
    return flux_BR, ivar_BR


def restframe_weight(wave_rest_R: Tensor, centre: float = 5000.0, sigma: float = 2000.0) -> Tensor:
    """Return the weights `exp(-((wave - centre) / (2 * sigma))**2)` of restframe pixels.

    The function is that of spender 0.3. As a Gaussian its standard deviation is
    `sqrt(2) * sigma`, since the half is squared with the rest.

    Args:
        wave_rest_R: Restframe wavelengths, shape (R,), Angstrom.
        centre: Where the weight is 1, Angstrom.
        sigma: Width, Angstrom.

    Returns:
        Weights, shape (R,), with the type of the wavelengths.
    """
    return torch.exp(-(((wave_rest_R - centre) / (2 * sigma)) ** 2))
