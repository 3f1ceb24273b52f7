"""Parametric mock galaxies: a smooth continuum with a break, absorption and emission lines.

They are made from formulas alone, so that the software can be tried and its embedded
models be trained without any data. They look like galaxies, and are no substitute for
them: two stellar populations, a dust screen, one kinematic width for all stars and one
for all gas.

Shapes: B galaxies, M pixels of the fine restframe grid, L observed pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.grid import Log
from spender_core.interfaces.instrument import Instrument
from spender_core.ops.mask import sky_line_mask
from spender_core.ops.redshift import redshift

FINE = Log(3.26, 5e-5, 15800)
"""Restframe grid of the mocks, 1820 to 11219 Angstrom, 34.5 km/s a pixel."""

_KMS = 5e-5 * np.log(10) * 299792.458  # km/s of a pixel of FINE

# Vacuum wavelength (Angstrom) and strength of stellar absorption lines, as equivalent
# width in Angstrom, in an old and in a young population. Wavelengths: NIST.
_ABSORPTION = (
    (2796.35, 4.0, 1.5), (2803.53, 4.0, 1.5), (2852.96, 3.0, 0.5), (3798.98, 0.8, 4.5),
    (3836.47, 1.5, 5.0), (3890.17, 1.5, 5.5), (3934.78, 9.0, 1.0), (3969.59, 8.0, 5.5),
    (4102.89, 1.0, 6.0), (4227.92, 1.2, 0.2), (4305.61, 5.0, 0.5), (4341.69, 0.8, 5.5),
    (4384.78, 2.0, 0.3), (4532.0, 2.0, 0.3), (4862.71, 1.6, 5.0), (5016.0, 2.0, 0.3),
    (5168.76, 1.6, 0.2), (5174.13, 2.2, 0.3), (5185.05, 2.4, 0.3), (5271.0, 2.4, 0.3),
    (5331.0, 1.8, 0.2), (5407.0, 1.2, 0.1), (5891.58, 1.9, 0.3), (5897.56, 1.7, 0.3),
    (6564.60, 1.0, 3.0), (8500.35, 1.4, 0.8), (8544.44, 3.2, 2.0), (8664.52, 2.8, 1.8),
)  # fmt: skip
# Broad molecular bands of an old population: centre, width (Angstrom), depth.
_BANDS = ((4300.0, 18.0, 0.10), (5170.0, 45.0, 0.09), (6190.0, 60.0, 0.04), (7120.0, 90.0, 0.07))


@dataclass(frozen=True)
class MockGalaxies:
    """Mock galaxies in restframe.

    Attributes:
        restframe: Flux densities on `FINE`, shape (B, M), float32, about 1 at 5500 Angstrom.
        z: Redshifts, shape (B,), float64.
    """

    restframe: Tensor
    z: Tensor


def galaxies(n: int, z_range: tuple[float, float], generator: torch.Generator) -> MockGalaxies:
    """Draw n galaxies, with redshifts uniform in a range."""
    draw = _Draw(n, generator)
    wave = torch.tensor(FINE.wave, dtype=torch.float32)
    young_fraction = torch.sigmoid(draw.normal(-0.6, 1.8))
    restframe = _continuum(draw, wave, young_fraction)
    restframe += _emission(draw, wave, young_fraction)
    z = z_range[0] + (z_range[1] - z_range[0]) * draw.uniform().double()[:, 0]
    return MockGalaxies(restframe, z)


def observe(
    mock: MockGalaxies,
    instrument: Instrument,
    generator: torch.Generator,
    snr: tuple[float, float] = (2.0, 40.0),
    ragged: float = 0.0,
) -> SpectrumBatch:
    """Observe mock galaxies with an instrument: redshift, resample, add noise, normalise.

    Args:
        mock: The galaxies.
        instrument: Which grid and mask to use.
        generator: Source of randomness.
        snr: Range of the median signal-to-noise ratio a pixel, drawn log-uniformly.
        ragged: Largest fraction of pixels without data at either end of a spectrum.
    """
    draw = _Draw(len(mock.z), generator)
    obs_L = torch.tensor(instrument.wave)
    flux_BL, _ = redshift(mock.restframe, torch.tensor(FINE.wave), obs_L, mock.z)
    flux_BL *= 10 ** draw.normal(0.5, 0.5)
    ratio = snr[0] * (snr[1] / snr[0]) ** draw.uniform()
    level = flux_BL.median(dim=1, keepdim=True).values.clamp(min=1e-3)
    sigma_BL = (
        level
        / ratio
        * _noise_shape(instrument)
        * (0.6 + 0.4 * (flux_BL / level).clamp(0.05, 20).sqrt())
    )
    flux_BL = flux_BL + sigma_BL * torch.randn(flux_BL.shape, generator=generator)
    pixel = torch.linspace(0, 1, len(obs_L))
    seen_BL = (pixel >= ragged * draw.uniform()) & (pixel <= 1 - ragged * draw.uniform())
    return instrument.prepare(
        SpectrumBatch(
            torch.where(seen_BL, flux_BL, 0),
            torch.where(seen_BL, sigma_BL**-2, 0),
            z=mock.z,
            zerr=torch.zeros_like(mock.z),
            instrument=instrument,
        )
    )


class _Draw:
    """Columns of random numbers, shape (n, 1)."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def normal(self, mean: float, sigma: float) -> Tensor:
        return mean + sigma * torch.randn(self.n, 1, generator=self.generator)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(self.n, 1, generator=self.generator)


def _continuum(draw: _Draw, wave: Tensor, young_fraction: Tensor) -> Tensor:
    x = wave / 5500
    strength = draw.uniform(0.6, 1.3)  # a proxy of metallicity
    break_depth = draw.uniform(0.38, 0.58)
    old = x ** draw.normal(0.2, 0.25) * torch.exp(-((3000 / wave) ** 4) * draw.uniform(0.3, 1.2))
    old = old / (1 + 0.12 * (x - 1).clamp(min=0) ** 2)
    old = old * (1 - break_depth * torch.sigmoid((3985 - wave) / 45))
    for centre, width, depth in _BANDS:
        old = old * (1 - strength * depth * torch.exp(-0.5 * ((wave - centre) / width) ** 2))
    young = x ** draw.normal(-1.6, 0.4) * (
        1 - draw.uniform(0.1, 0.4) * torch.sigmoid((3690 - wave) / 35)
    )
    lines, old_width, young_width = (
        torch.tensor(column) for column in zip(*_ABSORPTION, strict=True)
    )
    sigma = (10 ** draw.normal(2.2, 0.12)).square().add(70.0**2).sqrt()
    old = old * (1 - _lines(wave, lines, strength * old_width, 1.8 * sigma)).clamp(min=0.05)
    young = young * (
        1 - _lines(wave, lines, draw.uniform(0.5, 1.1) * young_width, 2.2 * sigma)
    ).clamp(min=0.05)
    dust = 10 ** (-0.4 * draw.normal(0.5, 0.4).clamp(min=0) * (x**-0.7 - 1))
    return (young_fraction * young + (1 - young_fraction) * old) * dust


def _emission(draw: _Draw, wave: Tensor, young_fraction: Tensor) -> Tensor:
    halpha = 10 ** (draw.normal(0.2, 0.35) + 1.4 * young_fraction) - 1.2
    halpha = halpha.clamp(min=0.0)  # equivalent width, Angstrom
    metal = draw.normal(0.0, 0.35)
    nii = 10 ** (-0.55 + metal).clamp(max=0.25)
    oiii = 10 ** (-0.1 - 1.2 * metal + draw.normal(0.0, 0.25)).clamp(-1.5, 0.9)
    reddening = 10 ** (-draw.normal(0.15, 0.1).clamp(min=0))
    oii = reddening * 10 ** draw.normal(0.0, 0.2)
    sii = 10 ** draw.normal(-0.75, 0.12)
    hbeta = reddening / 2.86
    # Balmer ratios of case B at 10,000 K; [O III] and [N II] doublets 1 : 3
    # (Osterbrock & Ferland 2006, tables 4.4 and 3.12). Wavelengths: NIST, vacuum.
    ratios = {
        6564.60: 1 + 0 * nii, 6585.27: nii, 6549.86: nii / 3.05, 6718.29: 0.58 * sii,
        6732.67: 0.42 * sii, 6302.05: 0.12 * sii, 5877.25: 0.1 * hbeta, 4862.71: hbeta,
        4341.69: 0.468 * hbeta, 4102.89: 0.259 * hbeta, 3971.20: 0.159 * hbeta,
        5008.24: oiii * hbeta, 4960.30: oiii * hbeta / 2.98, 3727.10: 0.43 * oii,
        3729.86: 0.57 * oii, 3869.86: 0.08 * oiii * hbeta, 9071.10: 0.12 * sii, 9533.20: 0.3 * sii,
        7137.77: 0.03 * oiii * hbeta,
    }  # fmt: skip
    sigma = (10 ** draw.normal(1.95, 0.15)).square().add(65.0**2).sqrt()
    lines = torch.tensor(list(ratios))
    return _lines(wave, lines, halpha * torch.cat(list(ratios.values()), dim=1), sigma)


def _lines(wave: Tensor, centres: Tensor, widths: Tensor, sigma: Tensor) -> Tensor:
    """Sum Gaussians of equivalent widths (B, lines) Angstrom and dispersion (B, 1) km/s."""
    half = 80
    middle = (torch.log10(centres.double()) - FINE.start) / FINE.step
    nearest = middle.round().long()
    offset = torch.arange(-half, half + 1)
    distance = (nearest[:, None] + offset - middle[:, None]).float()  # (lines, pixels)
    index = (nearest[:, None] + offset).clamp(0, len(wave) - 1).reshape(1, -1)
    pixel_sigma = (sigma / _KMS)[:, :, None]
    profile = torch.exp(-0.5 * (distance / pixel_sigma) ** 2)
    width = pixel_sigma[:, :, 0] * np.sqrt(2 * np.pi) * centres * FINE.step * np.log(10)
    profile *= (widths / width)[:, :, None]
    total = torch.zeros(len(widths), len(wave))
    return total.scatter_add_(1, index.expand(len(widths), -1), profile.flatten(1))


def _noise_shape(instrument: Instrument) -> Tensor:
    """Relative noise along the spectrum: more at both ends and on sky lines, median 1."""
    wave = instrument.wave
    position = (wave - wave[0]) / (wave[-1] - wave[0])
    shape = 1 + 2.5 * np.exp(-position / 0.05) + 1.2 * position**3
    shape *= np.where(sky_line_mask(wave, min_intensity=8.0, width=2.0), 2.5, 1.0)
    return torch.tensor(shape / np.median(shape), dtype=torch.float32)
