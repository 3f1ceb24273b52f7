"""Mock galaxies in restframe: stars of many ages behind dust, gas that they ionise, AGN.

What is drawn, and from what:

- star formation: a delayed exponential, cut short in some galaxies, with a burst on top in others;
- metallicity, by a proxy: how deep metal lines are, and how red the continuum is with them,
  correlated with age and with the ratios of nebular lines;
- dust in two components, one around stars younger than 10 Myr and all gas, one around
  everything (Charlot & Fall 2000, ApJ 539, 718);
- one velocity dispersion of stars; lines of gas in `emission`.

Shapes: B galaxies, A ages, M pixels of `FINE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.datasets.mock.emission import add_emission
from spender_core.datasets.mock.sources import FINE, KINDS, KMS, Draw, Sources
from spender_core.datasets.mock.templates import Populations
from spender_core.errors import InputError

_DISPERSIONS = (50.0, 130.0, 210.0, 330.0)  # km/s, between which templates are interpolated
_CONTRASTS = (0.5, 1.5)  # of metal lines
_TILT = 0.5  # power of wavelength that goes with a contrast of metal lines one higher
_BIRTH_CLOUD = 0.01  # Gyr
_LATELY = 0.35  # Gyr
_BALMER = (3771.7, 3798.98, 3836.47, 3890.17, 3971.2, 4102.89, 4341.69, 4862.71, 6564.6)
_WAVE = torch.tensor(FINE.wave, dtype=torch.float32)
_LOG_X = torch.log(_WAVE / 5500)
_CLOUD_CURVE = torch.exp(-1.3 * _LOG_X)
"""Extinction of birth clouds, of slope 1.3: da Cunha et al. 2008, MNRAS 388, 1595."""
_CHUNK = 16
"""Galaxies reddened together: their arrays stay in the cache."""
_WINDOW = slice(*np.searchsorted(FINE.wave, [5300.0, 5850.0]).tolist())


@dataclass(frozen=True)
class PreparedPopulations:
    """Populations broadened and with shallower and deeper metal lines, ready to be mixed.

    Attributes:
        populations: What was prepared.
        mixture: Shape (contrasts, dispersions, A, M), float32.
    """

    populations: Populations
    mixture: Tensor


def prepare(populations: Populations) -> PreparedPopulations:
    """Prepare populations for mixing; takes some seconds, once.

    The metallicity proxy multiplies the depth of all features narrower than 3000 km/s, in the
    logarithm, and tilts the continuum; Balmer lines of stars below 2 Gyr keep their depth.
    """
    flux = populations.flux.double().numpy()
    age = populations.age.numpy()
    log_flux = np.log(flux)
    continuum = _smoothed(log_flux, 3000 / KMS)
    wave = FINE.wave
    hydrogen = np.max([np.exp(-0.5 * ((wave - line) / 25) ** 2) for line in _BALMER], axis=0)
    kept = hydrogen * (age[:, None] < 2)
    tilt = np.log(wave / 5500)
    prepared: list[NDArray[np.float64]] = []
    for contrast in _CONTRASTS:
        change = (contrast - 1) * ((1 - kept) * (log_flux - continuum) + _TILT * tilt)
        changed = np.exp(log_flux + change)
        prepared += [_smoothed(changed, dispersion / KMS) for dispersion in _DISPERSIONS]
    shape = (len(_CONTRASTS), len(_DISPERSIONS), *flux.shape)
    mixture = torch.tensor(np.array(prepared), dtype=torch.float32).reshape(shape)
    return PreparedPopulations(populations, mixture)


def _smoothed(rows: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Convolve rows with a Gaussian of some pixels; beyond the ends, the last value counts."""
    reach = int(4 * sigma) + 1
    padded = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    frequency = np.fft.rfftfreq(padded.shape[1])
    spectrum = np.fft.rfft(padded) * np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    smooth: NDArray[np.float64] = np.fft.irfft(spectrum, padded.shape[1])
    return smooth[:, reach:-reach]


def galaxies(n: int, prepared: PreparedPopulations, generator: torch.Generator) -> Sources:
    """Draw n galaxies at redshift 0; `Sources.at` moves them.

    Returns:
        Their restframes have a mean of 1 from 5300 to 5850 Angstrom, without the lines of gas
        and the light of AGN. The parameters are the mass-weighted age (log10 Gyr), metal
        contrast, optical depths at 5500 Angstrom of the two dust components and the slope of
        the first, stellar dispersion (km/s, with what the populations have of their own), and
        those of `emission.add_emission`.

    Raises:
        InputError: n is below 1.
    """
    if n < 1:
        raise InputError(f"the number of galaxies must be 1 or more, not {n}")
    draw = Draw(n, generator)
    age = prepared.populations.age
    mass_BA = _formed_mass(draw, age)
    log_age = (mass_BA @ age.log10()) / mass_BA.sum(dim=1)
    # older galaxies are richer in metals and move faster; both with scatter
    maturity = ((log_age + 0.2) / 1.2).clamp(-1, 1).float()
    metal = (1.0 + 0.15 * maturity + draw.normal(0, 0.2)).clamp(*_CONTRASTS)
    dispersion = (10 ** (2.02 + 0.15 * maturity + draw.normal(0, 0.13))).clamp(50, 330)
    # dust goes with gas: where stars formed lately, but for the barest bursts, and with metals
    lately = mass_BA[:, age < _LATELY].sum(dim=1) / mass_BA.sum(dim=1)
    lately = lately.clamp(min=1e-6).log10().float()
    activity = ((lately + 3.5) / 2).clamp(0, 1)
    bare = (lately + 1).clamp(min=0)
    tau = -0.7 + 0.7 * activity - bare + 0.8 * (metal - 1) + draw.normal(0, 0.3)
    tau = (10**tau).clamp(max=3.0)
    slope = draw.normal(0.8, 0.15).clamp(0.4, 1.3)
    cloud = tau * draw.uniform(0.2, 1.4)
    share_BW = _shares(metal, dispersion)
    young = age <= 1.05 * _BIRTH_CLOUD
    hidden = _mix(mass_BA, share_BW, prepared.mixture, young)
    restframe = _mix(mass_BA, share_BW, prepared.mixture, ~young)
    for first in range(0, n, _CHUNK):
        rows = slice(first, first + _CHUNK)
        # exp(-tau x^-n) of each screen, the young stars behind both
        behind = torch.exp(-cloud[rows, None] * _CLOUD_CURVE)
        screen = (-slope[rows, None] * _LOG_X).exp_().mul_(-tau[rows, None]).exp_()
        restframe[rows].addcmul_(hidden[rows], behind).mul_(screen)
    level = restframe[:, _WINDOW].mean(dim=1, keepdim=True)
    restframe.div_(level)
    extinction = Extinction(tau, slope, cloud)
    ionised = _ionised(mass_BA.float(), prepared, share_BW) / level[:, 0]
    seen = (dispersion.square() + prepared.populations.dispersion**2).sqrt()
    parameters = {
        "log_age": log_age.float(), "metal": metal, "dispersion": seen,
        "tau": tau, "dust_slope": slope, "tau_cloud": cloud,
    }  # fmt: skip
    parameters |= add_emission(
        restframe, draw, ionised, metal, dispersion, maturity, extinction.transmission
    )
    kind = torch.full((n,), KINDS.index("galaxy"), dtype=torch.int8)
    return Sources(restframe, torch.zeros(n, dtype=torch.float64), kind, parameters)


@dataclass(frozen=True)
class Extinction:
    """The dust in front of the gas of each galaxy."""

    tau: Tensor
    slope: Tensor
    cloud: Tensor

    def transmission(self, wave: Tensor) -> Tensor:
        """Return the transmitted fraction at wavelengths (N,), shape (B, N)."""
        log_x = torch.log(wave / 5500)
        depth = self.tau[:, None] * torch.exp(-self.slope[:, None] * log_x)
        return torch.exp(-depth - self.cloud[:, None] * torch.exp(-1.3 * log_x))


def _formed_mass(draw: Draw, age: Tensor) -> Tensor:
    """Return the mass formed in each bin of age, shape (B, A), float64, relative."""
    log_age = age.log10()
    step = float(log_age[1] - log_age[0])
    edges = 10 ** torch.cat([log_age - step / 2, log_age[-1:] + step / 2])
    edges[0] = 0.0
    width, age_1A = edges.diff()[None], age[None]
    start = draw.uniform(2.5, 12.5).double()[:, None]  # Gyr ago
    tau = 10 ** draw.uniform(-0.7, 1.2).double()[:, None]
    since = (start - age_1A).clamp(min=0)
    rate = since / tau * torch.exp(-since / tau)
    rate = torch.where(rate.sum(dim=1, keepdim=True) > 0, rate, (age_1A == age[-1]).double())
    quenched = draw.chance(0.2)[:, None] & (age_1A < 10 ** draw.uniform(-1.5, 0.3)[:, None])
    rate = torch.where(quenched, rate * 10 ** -draw.uniform(1, 4).double()[:, None], rate)
    mass = rate * width
    mass = mass / mass.sum(dim=1, keepdim=True)
    when, spread = draw.uniform(-2.5, 0.3)[:, None], draw.uniform(0.08, 0.3)[:, None]
    burst = torch.exp(-0.5 * ((log_age[None] - when) / spread) ** 2) * age_1A
    strength = torch.where(draw.chance(0.3), 10 ** draw.uniform(-3.5, -0.3), torch.zeros(draw.n))
    mass = mass + strength.double()[:, None] * burst / burst.sum(dim=1, keepdim=True)
    # starbursts: the survey's emission-line galaxies
    recent = torch.exp(-0.5 * ((log_age[None] - draw.uniform(-2.6, -1.7)[:, None]) / 0.2) ** 2)
    recent = recent * age_1A
    strength = torch.where(draw.chance(0.2), 10 ** draw.uniform(-2.7, 0.7), torch.zeros(draw.n))
    return mass + strength.double()[:, None] * recent / recent.sum(dim=1, keepdim=True)


def _shares(metal: Tensor, dispersion: Tensor) -> Tensor:
    """Return the share of each prepared (contrast, dispersion), shape (B, contrasts * dispersions).

    Linear in the square of the dispersion, as broadening is to first order.
    """
    nodes = torch.tensor(_DISPERSIONS) ** 2
    square = dispersion**2
    upper = torch.searchsorted(nodes, square).clamp(1, len(nodes) - 1)
    part = ((square - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1])).clamp(0, 1)
    along = torch.zeros(len(metal), len(nodes))
    along.scatter_(1, upper[:, None], part[:, None])
    along.scatter_(1, upper[:, None] - 1, 1 - part[:, None])
    deep = (metal - _CONTRASTS[0]) / (_CONTRASTS[1] - _CONTRASTS[0])
    contrast = torch.stack([1 - deep, deep], dim=1)
    return (contrast[:, :, None] * along[:, None, :]).flatten(1)


def _mix(mass_BA: Tensor, share_BW: Tensor, mixture: Tensor, chosen: Tensor) -> Tensor:
    """Return the light of the chosen ages, shape (B, M)."""
    weights = share_BW[:, :, None] * mass_BA[:, None, chosen].float()
    return weights.flatten(1) @ mixture[:, :, chosen].flatten(0, 2)


# Equivalent width of H alpha, Angstrom, in a burst of this age (Gyr) of normal stars, if all
# its ionising photons count: Leitherer et al. 1999, ApJS 123, 3, figures 83 and 84.
_HALPHA_WIDTH = ((0.0032, 2200.0), (0.0056, 600.0), (0.01, 90.0), (0.018, 8.0), (0.032, 1.0))


def _ionised(mass_BA: Tensor, prepared: PreparedPopulations, share_BW: Tensor) -> Tensor:
    """Return the H alpha flux that the stars cause, before dust, shape (B,)."""
    age = prepared.populations.age
    known, width = (torch.tensor(column) for column in zip(*_HALPHA_WIDTH, strict=True))
    nearest = (age.log10()[:, None] - known.log10().double()).abs().argmin(dim=1)
    width_A = torch.where(age < 0.04, width[nearest], 0.0).float()
    red = int(np.searchsorted(FINE.wave, 6564.6))
    continuum = prepared.mixture[:, :, :, red - 200 : red + 200].median(dim=-1).values
    emitted = continuum.flatten(0, 1) * width_A  # (W, A)
    return (share_BW @ emitted * mass_BA).sum(dim=1)
