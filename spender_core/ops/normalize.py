"""The amplitude of a spectrum: from a flat part of its restframe, or fitted to a model."""

from __future__ import annotations

import torch
from torch import Tensor

from spender_core.ops.resample import coordinate_device

NORM_WINDOW = (5300.0, 5850.0)
"""Restframe wavelengths in which galaxy spectra are rather flat, Angstrom; observed by
SDSS out to z ~ 0.5 (Melchior et al. 2023, AJ 166, 74)."""


def normalization(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    window: tuple[float, float] = NORM_WINDOW,
) -> tuple[Tensor, Tensor]:
    """Return the positive amplitude by which each spectrum is divided.

    It is the median of the good pixels (ivar > 0) in the restframe window. Where z is
    unknown, the window unobserved, or the median not positive, it is the RMS of all
    good pixels; and 1 for a spectrum without any good pixel or without any flux.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L).
        z_B: Redshifts, shape (B,); NaN where unknown.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        window: Restframe range, Angstrom.

    Returns:
        The amplitudes, shape (B,), > 0, and where the median was *not* used, bool (B,).
    """
    good_BL = ivar_BL > 0
    home = coordinate_device(flux_BL.device)
    rest_BL = wave_obs_L.to(home) / (1 + z_B.to(home, torch.float64)[:, None])
    inside_BL = ((rest_BL > window[0]) & (rest_BL < window[1])).to(flux_BL.device)
    windowed_BL = flux_BL.masked_fill(~(inside_BL & good_BL), float("nan"))
    median_B = windowed_BL.nanmedian(dim=1).values
    count_B = good_BL.sum(dim=1).clamp(min=1)
    # in units of the brightest pixel, so that squares neither overflow nor underflow
    peak_B = flux_BL.abs().masked_fill(~good_BL, 0).amax(dim=1)
    peak_B = torch.where(peak_B > 0, peak_B, torch.ones_like(peak_B))
    square_B = (flux_BL / peak_B[:, None]).masked_fill(~good_BL, 0).square().sum(dim=1)
    rms_B = peak_B * (square_B / count_B).sqrt()
    rms_B = torch.where(rms_B > 0, rms_B, torch.ones_like(rms_B))
    usable_B = median_B > 0  # False for NaN
    return torch.where(usable_B, median_B, rms_B), ~usable_B


def amplitude(model_BL: Tensor, flux_BL: Tensor, weight_BL: Tensor) -> Tensor:
    """Return the factor that fits each model best to a spectrum, by weighted least squares.

    Args:
        model_BL: Models, shape (B, L).
        flux_BL: Spectra, shape (B, L).
        weight_BL: Inverse variances, 0 where model or spectrum are invalid, shape (B, L).

    Returns:
        Amplitudes, shape (B,); 1 where no pixel constrains them.
    """
    weighted_BL = model_BL * weight_BL
    power_B = (weighted_BL * model_BL).sum(dim=1)
    free_B = power_B == 0
    best_B = (weighted_BL * flux_BL).sum(dim=1) / torch.where(free_B, 1, power_B)
    return torch.where(free_B, torch.ones_like(best_B), best_B)
