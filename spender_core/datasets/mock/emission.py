"""Emission lines of mock galaxies: of gas ionised by young stars, by AGN, and of old galaxies.

Ratios are physical where physics fixes them (Balmer and Paschen lines by case B at 10,000 K and
100 per cm3, doublets by atomic constants; Osterbrock & Ferland 2006, tables 4.2, 4.4 and 3.12),
and follow the observed sequences elsewhere. Wavelengths: NIST, vacuum.

Shapes: B galaxies, N lines, M pixels of `FINE`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spender_core.datasets.mock.sources import FINE, KMS, STEP, Draw

# Strength of hydrogen lines relative to H beta.
_HYDROGEN = {
    6564.60: 2.863, 4862.71: 1.0, 4341.69: 0.468, 4102.89: 0.259, 3971.20: 0.159,
    3890.17: 0.105, 3836.47: 0.0731, 3798.98: 0.0530, 3771.70: 0.0398, 3751.22: 0.0307,
    10052.6: 0.0554, 9548.8: 0.0366, 9231.5: 0.0254, 9017.8: 0.0184, 8865.3: 0.0138,
}  # fmt: skip
# Helium relative to H beta, with 0.08 atoms of it for one of hydrogen.
_HELIUM = {5877.25: 0.115, 4472.73: 0.039, 6680.0: 0.032, 7067.1: 0.021, 3889.75: 0.08}
_SODIUM = (5891.58, 5897.56)
"""Absorbed by the gas: some 0.5 Angstrom each where the optical depth of dust is 1, with scatter;
twice that at most."""
_MOST = 9.0
"""Widest narrow line, in pixels of `FINE`: 310 km/s."""
_HALF = 36
_BROAD = {6564.60: 3.1, 4862.71: 1.0, 4341.69: 0.45, 4102.89: 0.22, 2799.1: 1.6, 5877.25: 0.15,
          4687.02: 0.12}  # fmt: skip
"""Broad lines of AGN, relative to H beta. The ratios are of our own, between those of case B and
of the composite of Vanden Berk et al. 2001, AJ 122, 549; H alpha: Dong et al. 2008, MNRAS 383,
581."""


def add_emission(
    restframe: Tensor,
    draw: Draw,
    halpha: Tensor,
    metal: Tensor,
    dispersion: Tensor,
    maturity: Tensor,
    transmission: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Add lines to galaxies in place.

    Args:
        restframe: Galaxies, shape (B, M), about 1 at 5500 Angstrom.
        draw: Source of randomness.
        halpha: H alpha flux that young stars cause, before dust, shape (B,), Angstrom.
        metal: Metallicity proxy, about 1, shape (B,).
        dispersion: Of the stars, km/s, shape (B,).
        maturity: From -1, young, to 1, old, shape (B,).
        transmission: What dust lets through, (N,) Angstrom -> (B, N).

    Returns:
        Parameters: H alpha flux of HII regions, narrow AGN or old stars (after dust, in units of
        the mean flux density at 5500 Angstrom, Angstrom), logarithms of [N II] / H alpha and
        [O III] / H beta, their width (km/s), flux and width of broad H alpha.
    """
    stars = halpha * 10 ** draw.normal(0.1, 0.2)
    # narrow lines of AGN, and the weak ones of old galaxies
    seyfert, faint = draw.chance(0.10), draw.chance(0.6)
    active = torch.where(seyfert, 10 ** draw.normal(1.0, 0.45), torch.zeros_like(halpha))
    active = active + torch.where(faint, 10 ** draw.normal(0.0, 0.3), torch.zeros_like(halpha))
    n2, o3 = _ratios(draw, metal, stars, active, seyfert)
    total = stars + active
    share = active / total.clamp(min=1e-6)
    lines = _narrow(draw, n2, o3, share, metal, total / 2.863)
    wave = torch.tensor(list(lines))
    flux = torch.stack(list(lines.values()), dim=1) * transmission(wave)
    gas = dispersion * draw.uniform(0.45, 1.05) * torch.where(seyfert, draw.uniform(1.0, 1.5), 1.0)
    gas = gas.clamp(36, _MOST * KMS)
    _add_lines(restframe, wave, flux, gas)
    sodium = -transmission(torch.tensor(_SODIUM)).log() * 10 ** draw.normal(-0.3, 0.2)[:, None]
    _add_lines(restframe, torch.tensor(_SODIUM), -sodium.clamp(max=1.0), gas)
    broad = draw.chance(0.04)
    strength = torch.where(broad, 10 ** draw.normal(1.9, 0.35), torch.zeros_like(halpha))
    width = 10 ** draw.normal(3.15, 0.18)
    _add_broad(restframe, broad, strength, width, draw)
    return {
        "halpha": flux[:, 0], "log_n2": n2.log10(), "log_o3": o3.log10(),
        "gas_dispersion": gas, "agn_share": share, "broad_halpha": strength,
        "broad_dispersion": width,
    }  # fmt: skip


def _ratios(
    draw: Draw, metal: Tensor, stars: Tensor, active: Tensor, seyfert: Tensor
) -> tuple[Tensor, Tensor]:
    """Return [N II] 6585 / H alpha and [O III] 5008 / H beta, shape (B,) each.

    HII regions lie on the local sequence (Kewley et al. 2013, ApJ 774, 100, at z = 0)
    by their metallicity; what an AGN adds lies on the other branch (Kauffmann et al. 2003,
    MNRAS 346, 1055).
    """
    log_n2 = (-0.48 + 1.3 * (metal - 1) + draw.normal(0, 0.22)).clamp(-1.9, -0.25)
    # stronger bursts have harder fields and less nitrogen
    log_n2 = (log_n2 - 0.35 * (stars.clamp(min=1).log10() - 1.7).clamp(min=0)).clamp(min=-1.9)
    log_o3 = (0.61 / (log_n2 + 0.08) + 1.1 + draw.normal(0, 0.12)).clamp(-1.2, 0.9)
    agn_n2 = torch.where(seyfert, draw.normal(-0.05, 0.15), draw.normal(0.05, 0.12))
    agn_o3 = torch.where(seyfert, draw.normal(0.8, 0.2), draw.normal(0.25, 0.15))
    share = active / (stars + active).clamp(min=1e-6)
    n2 = (1 - share) * 10**log_n2 + share * 10**agn_n2
    o3 = (1 - share) * 10**log_o3 + share * 10**agn_o3
    return n2, o3


def _narrow(
    draw: Draw, n2: Tensor, o3: Tensor, share: Tensor, metal: Tensor, hbeta: Tensor
) -> dict[float, Tensor]:
    """Return the flux of each narrow line before dust, shape (B,); H alpha is the first."""
    one = torch.ones_like(hbeta)
    halpha = 2.863 * hbeta
    # [O II] / H beta peaks where [O III] / H beta is between weak and strong
    o2 = hbeta * 10 ** (0.45 - 0.35 * (o3.log10() - 0.2) ** 2 + draw.normal(0, 0.12))
    s2 = halpha * 10 ** (-0.55 + 0.25 * share - 0.2 * (metal - 1) + draw.normal(0, 0.1))
    o1 = halpha * 10 ** (-1.55 + 0.75 * share + draw.normal(0, 0.12))
    s3 = halpha * 10 ** (-1.0 + 0.15 * o3.log10() + draw.normal(0, 0.08))
    low_density = draw.uniform(1.15, 1.45)  # ratio of either doublet
    strong = o3 * hbeta
    lines = {wave: ratio * hbeta for wave, ratio in _HYDROGEN.items()}
    lines |= {wave: ratio * hbeta * one for wave, ratio in _HELIUM.items()}
    lines |= {
        6585.27: n2 * halpha, 6549.86: n2 * halpha / 2.96, 5756.19: 0.012 * n2 * halpha,
        5008.24: strong, 4960.30: strong / 2.98, 4364.44: 0.008 * strong,
        3729.86: o2 * low_density / (1 + low_density), 3727.10: o2 / (1 + low_density),
        7322.0: 0.016 * o2, 7332.2: 0.013 * o2,
        6718.29: s2 * low_density / (1 + low_density), 6732.67: s2 / (1 + low_density),
        4069.75: 0.05 * s2, 6302.05: o1, 6365.54: o1 / 3.03,
        9071.10: s3, 9533.20: 2.47 * s3, 6313.81: 0.04 * s3,
        3869.86: 0.085 * strong, 3968.59: 0.026 * strong, 7137.77: 0.1 * hbeta * o3.sqrt(),
        4687.02: 0.2 * share * hbeta, 3426.85: 0.06 * share * strong, 3346.79: 0.022 * share * strong,
    }  # fmt: skip
    return lines


def _add_lines(restframe: Tensor, wave: Tensor, flux: Tensor, sigma: Tensor) -> None:
    """Add Gaussian lines of flux (B, N) and dispersion (B,) km/s."""
    middle = (wave.double().log10() - FINE.start) / STEP
    nearest = middle.round().long()
    offset = torch.arange(-_HALF, _HALF + 1)
    away = (nearest - middle).float()[:, None] + offset
    pixels = (sigma / KMS)[:, None, None]
    profile = torch.exp(-0.5 * (away / pixels) ** 2)
    area = pixels[:, :, 0] * (np.sqrt(2 * np.pi) * STEP * np.log(10)) * wave
    profile.mul_((flux / area)[:, :, None])
    index = (nearest[:, None] + offset).reshape(1, -1).expand(len(flux), -1)
    restframe.scatter_add_(1, index, profile.flatten(1))


def _add_broad(
    restframe: Tensor, chosen: Tensor, halpha: Tensor, sigma: Tensor, draw: Draw
) -> None:
    """Add broad lines, and a share of power law, to the chosen galaxies."""
    share, slope = draw.uniform(0.0, 0.6), draw.normal(-1.5, 0.4)
    scatter = [10 ** draw.normal(0, 0.1) for _ in _BROAD]
    if not bool(chosen.any()):
        return
    wave = torch.tensor(FINE.wave, dtype=torch.float32)
    rows = restframe[chosen]
    part = share[chosen, None]
    rows = (1 - part) * rows + part * torch.exp(slope[chosen, None] * torch.log(wave / 5500))
    for (line, ratio), extra in zip(_BROAD.items(), scatter, strict=True):
        away = (torch.log(wave / line)) * 299792.458 / sigma[chosen, None]
        area = np.sqrt(2 * np.pi) * line * sigma[chosen, None] / 299792.458
        flux = (halpha * extra)[chosen, None] * ratio / 3.1
        rows = rows + flux / area * torch.exp(-0.5 * away**2)
    restframe[chosen] = rows
