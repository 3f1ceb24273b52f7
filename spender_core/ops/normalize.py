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
    median_B = _window_median(flux_BL, ivar_BL, z_B, wave_obs_L, window)
    usable_B = median_B > 0  # False for NaN
    if bool(usable_B.all()):
        return median_B, ~usable_B
    return torch.where(usable_B, median_B, _rms(flux_BL, ivar_BL > 0)), ~usable_B


def _window_median(
    flux_BL: Tensor, ivar_BL: Tensor, z_B: Tensor, wave_obs_L: Tensor, window: tuple[float, float]
) -> Tensor:
    """Return medians of the good pixels in a restframe window, shape (B,); NaN if there is none.

    Only the few pixels that can be in the window are looked at.
    """
    home = coordinate_device(flux_BL.device)
    obs_L, stretch_B1 = wave_obs_L.to(home), 1 + z_B.to(home, torch.float64)[:, None]
    # one pixel more on either side; what is inside is decided below, without rounding
    ends_B2 = torch.searchsorted(obs_L, torch.tensor(window, device=home).double() * stretch_B1)
    first_B1 = (ends_B2[:, :1] - 1).clamp(0, len(obs_L) - 1)
    most = int((ends_B2[:, 1:] + 1 - first_B1).clamp(1, len(obs_L)).max()) if len(z_B) else 1
    pixel_BW = first_B1 + torch.arange(most, device=home)
    inside_BW = pixel_BW < len(obs_L)
    pixel_BW.clamp_(max=len(obs_L) - 1)
    rest_BW = obs_L[pixel_BW] / stretch_B1
    inside_BW &= (rest_BW > window[0]) & (rest_BW < window[1])
    pixel_BW, inside_BW = (t.to(flux_BL.device) for t in (pixel_BW, inside_BW))
    lost_BW = ~(inside_BW & (ivar_BL.gather(1, pixel_BW) > 0))
    windowed_BW = flux_BL.gather(1, pixel_BW).masked_fill(lost_BW, float("nan"))
    return windowed_BW.nanmedian(dim=1).values


def _rms(flux_BL: Tensor, good_BL: Tensor) -> Tensor:
    """Return the RMS of the good pixels, shape (B,); 1 where it is 0."""
    count_B = good_BL.sum(dim=1).clamp(min=1)
    # in units of the brightest pixel, so that squares neither overflow nor underflow
    peak_B = flux_BL.abs().masked_fill(~good_BL, 0).amax(dim=1)
    peak_B = torch.where(peak_B > 0, peak_B, torch.ones_like(peak_B))
    square_B = (flux_BL / peak_B[:, None]).masked_fill(~good_BL, 0).square().sum(dim=1)
    rms_B = peak_B * (square_B / count_B).sqrt()
    return torch.where(rms_B > 0, rms_B, torch.ones_like(rms_B))


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
