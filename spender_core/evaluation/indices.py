"""Standard measures of galaxy spectra: the 4000 A break, colours of the continuum, line widths.

They need no model: what they tell of real spectra and of mocks can be compared. All windows are
in restframe vacuum Angstrom. Equivalent widths are in restframe Angstrom too, and positive in
emission. Where a window is not observed, or too much of it is masked, or the continuum is not
positive, value and error are NaN.

Shapes: B spectra, L observed pixels, W pixels around a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Grid

Range = tuple[float, float]

BREAK: tuple[Range, Range] = ((3850.0, 3950.0), (4000.0, 4100.0))
"""Windows of D4000: Balogh et al. 1999, ApJ 527, 54; their numbers are taken for vacuum, 1.1
Angstrom from those in air, which moves D4000 by about a percent."""
BLUE: Range = (4150.0, 4250.0)
GREEN: Range = (5450.0, 5550.0)
RED: Range = (6900.0, 7000.0)
"""Windows of the continuum without strong lines, for colours."""

_ENOUGH = 0.5
"""Share of a window of the continuum that must be good."""


@dataclass(frozen=True)
class Line:
    """Where an equivalent width is measured, restframe vacuum Angstrom.

    Attributes:
        name: Under which `indices` returns it.
        window: What is summed.
        sides: Where the continuum is seen, on either side.
    """

    name: str
    window: Range
    sides: tuple[Range, Range]


_NEAR_HALPHA: tuple[Range, Range] = ((6483.0, 6513.0), (6623.0, 6653.0))

EMISSION = (
    Line("[O II]", (3716.3, 3738.3), ((3706.3, 3716.3), (3738.6, 3748.6))),
    Line("Hβ", (4852.7, 4872.7), ((4798.9, 4838.9), (4885.6, 4925.6))),
    Line("[O III]", (4998.2, 5018.2), ((4978.2, 4998.2), (5028.2, 5048.2))),
    Line("Hα", (6557.6, 6571.6), _NEAR_HALPHA),
    Line("[N II]", (6575.3, 6595.3), _NEAR_HALPHA),
)
"""Windows of SDSS-IV MaNGA (Westfall et al. 2019, AJ 158, 231; its file elbmpl9.par). They hold
95 percent of a line of up to 160 km/s in H alpha, 228 km/s in [N II], 300 km/s in the others."""

ABSORPTION = (
    Line("HδA", (4084.7, 4123.4), ((4042.7, 4082.6), (4129.7, 4162.2))),
    Line("Mg b", (5161.6, 5194.1), ((5119.1, 5144.1), (5192.8, 5207.8))),
    Line("Na D", (5878.5, 5911.0), ((5862.3, 5877.3), (5923.8, 5949.8))),
)
"""Lick indices, moved from air to vacuum: H delta of Worthey & Ottaviani 1997, ApJS 111, 377;
the others of Trager et al. 1998, ApJS 116, 1."""


class Measure(NamedTuple):
    """What was measured, shape (B,), float64, and its standard error; NaN where it was not."""

    value: Tensor
    error: Tensor


def indices(
    batch: SpectrumBatch, grid: Grid, lines: Sequence[Line] = (*EMISSION, *ABSORPTION)
) -> dict[str, Measure]:
    """Return D4000, two colours and equivalent widths of spectra, by name.

    Args:
        batch: Spectra of any instrument, in any units of flux density per wavelength.
        grid: The instrument's grid.
        lines: Whose equivalent widths are wanted.

    Raises:
        InputError: The grid is not that of the spectra.
    """
    found = {
        "D4000": d4000(batch, grid),
        "colour 4200-5500": colour(batch, grid, BLUE, GREEN),
        "colour 5500-7000": colour(batch, grid, GREEN, RED),
    }
    return found | {line.name: equivalent_width(batch, grid, line) for line in lines}


def d4000(batch: SpectrumBatch, grid: Grid) -> Measure:
    """Return the ratio of the mean flux densities per frequency, red over blue of 4000 A.

    The means are plain, as the definition has them: weights would change what is measured, since
    noise follows the flux across the H and K lines of calcium.
    """
    blue, red = (_mean(_cut(batch, grid, window), True) for window in BREAK)
    return _ratio(red, blue)


def colour(batch: SpectrumBatch, grid: Grid, first: Range, second: Range) -> Measure:
    """Return log10 of the mean flux density per wavelength in the second window over the first.

    The means are weighted by inverse variance. Larger is redder, if the second window is.
    """
    low, high = (_mean(_cut(batch, grid, window)) for window in (first, second))
    ratio = _ratio(high, low)
    positive = (ratio.value > 0) & (low.value > 0)
    value = torch.where(positive, ratio.value, torch.nan)
    return Measure(value.log10(), ratio.error / value / np.log(10))


def equivalent_width(batch: SpectrumBatch, grid: Grid, line: Line) -> Measure:
    """Return the equivalent width of a line, Angstrom, positive in emission.

    The continuum is a straight line, fitted to the good pixels of the sides with their inverse
    variances. Its uncertainty is part of the error. All pixels of the window must be good: what a
    masked one would have added to a line cannot be known.
    """
    centre = 0.5 * (line.window[0] + line.window[1])
    sides = [_cut(batch, grid, side) for side in line.sides]
    level_B, slope_B, covariance = _straight(sides, centre)
    window = _cut(batch, grid, line.window)
    x_BW = (window.rest - centre) / centre
    continuum_BW = level_B[:, None] + slope_B[:, None] * x_BW
    inside_BW = window.part > 0
    known_B = window.covered & (window.good | ~inside_BW).all(dim=1)
    known_B &= ((continuum_BW > 0) | ~inside_BW).all(dim=1)
    for side in sides:
        known_B &= side.covered & (side.share >= _ENOUGH)
    safe_BW = torch.where(continuum_BW > 0, continuum_BW, 1.0)
    value_B = (window.part * (window.flux / safe_BW - 1)).sum(dim=1)
    noise_B = (window.part.square() * window.variance / safe_BW.square()).sum(dim=1)
    # derivatives of the width by level and slope of the continuum
    weight_BW = -window.part * window.flux / safe_BW.square()
    by_level_B, by_slope_B = weight_BW.sum(dim=1), (weight_BW * x_BW).sum(dim=1)
    level_var_B, both_B, slope_var_B = covariance
    noise_B = noise_B + by_level_B.square() * level_var_B + by_slope_B.square() * slope_var_B
    noise_B = noise_B + 2 * by_level_B * by_slope_B * both_B
    return Measure(
        torch.where(known_B, value_B, torch.nan),
        torch.where(known_B, noise_B.clamp(min=0).sqrt(), torch.nan),
    )


class _Window(NamedTuple):
    """The pixels around a window: restframe wavelength, width inside it, flux, ivar; (B, W)."""

    rest: Tensor
    part: Tensor
    flux: Tensor
    ivar: Tensor
    covered: Tensor

    @property
    def good(self) -> Tensor:
        return self.ivar > 0

    @property
    def variance(self) -> Tensor:
        return torch.where(self.good, 1 / self.ivar, 0.0)

    @property
    def share(self) -> Tensor:
        """Which part of the window is good, shape (B,)."""
        seen: Tensor = (self.part * self.good).sum(dim=1) / self.part.sum(dim=1)
        return seen


def _cut(batch: SpectrumBatch, grid: Grid, window: Range) -> _Window:
    """Return the pixels of every spectrum that a restframe window touches."""
    if batch.flux.shape[1] != grid.size:
        raise InputError(
            f"the spectra have {batch.flux.shape[1]} pixels and the grid has {grid.size}; "
            "give the grid of the instrument that observed them"
        )
    edges = grid.edges
    stretch = 1 + batch.z.detach().double().cpu().numpy()
    low, high = window[0] * stretch, window[1] * stretch
    covered = (low >= edges[0]) & (high <= edges[-1])  # false where z is NaN
    first = np.where(covered, np.searchsorted(edges, low, side="right") - 1, 0)
    after = np.where(covered, np.searchsorted(edges, high, side="left"), 1)
    width = max(1, int((after - first).max(initial=1)))
    pixel = (first[:, None] + np.arange(width)).clip(max=grid.size - 1)
    new = first[:, None] + np.arange(width) < grid.size  # else the last pixel again
    begin, end = edges[pixel], edges[pixel + 1]
    inside = np.minimum(end, high[:, None]) - np.maximum(begin, low[:, None])
    part = np.where(new & covered[:, None], inside.clip(min=0), 0) / stretch[:, None]
    place = torch.from_numpy(pixel)
    flux, ivar = (
        values.detach().cpu().double().gather(1, place) for values in (batch.flux, batch.ivar)
    )
    rest = torch.from_numpy(grid.wave[pixel] / stretch[:, None])
    return _Window(
        rest, torch.from_numpy(part).nan_to_num(0.0), flux, ivar, torch.from_numpy(covered)
    )


def _mean(window: _Window, plain_frequency: bool = False) -> Measure:
    """Return mean flux densities: by wavelength and weighted, or by frequency and plain."""
    scale = window.rest.square() if plain_frequency else torch.ones_like(window.rest)
    weight = window.part * (window.good if plain_frequency else window.ivar)
    total = weight.sum(dim=1)
    known = window.covered & (window.share >= _ENOUGH)
    total = torch.where(known, total, torch.nan)
    value = (weight * scale * window.flux).sum(dim=1) / total
    variance = ((weight * scale).square() * window.variance).sum(dim=1) / total.square()
    return Measure(value, variance.sqrt())


def _ratio(top: Measure, bottom: Measure) -> Measure:
    positive = torch.where(bottom.value > 0, bottom.value, torch.nan)
    value = top.value / positive
    error = ((top.error / positive).square() + (value * bottom.error / positive).square()).sqrt()
    return Measure(value, error)


def _straight(
    sides: Sequence[_Window], centre: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Fit lines a + b x, x = (wavelength - centre) / centre, by weighted least squares.

    A pixel partly in a side counts by that part. Returns a and b, shape (B,), and their
    variances and covariance (of a, of both, of b).
    """
    sums = [torch.zeros(len(sides[0].flux), dtype=torch.float64) for _ in range(5)]
    noise = [torch.zeros_like(sums[0]) for _ in range(3)]
    for side in sides:
        x = (side.rest - centre) / centre
        share = side.part / side.part.amax(dim=1, keepdim=True).clamp(min=1e-12)
        weight, one = share * side.ivar, torch.ones_like(x)
        for k, term in enumerate((one, x, x * x, side.flux, x * side.flux)):
            sums[k] = sums[k] + (weight * term).sum(dim=1)
        for k, term in enumerate((one, x, x * x)):
            noise[k] = noise[k] + (weight * share * term).sum(dim=1)
    n, x, xx, y, xy = sums
    determinant = n * xx - x * x
    determinant = torch.where(determinant > 0, determinant, torch.nan)
    level, slope = (xx * y - x * xy) / determinant, (n * xy - x * y) / determinant
    # the estimate is M^-1 sum(w (1, x) y), so that its covariance is M^-1 N M^-1
    a, b, d = xx / determinant, -x / determinant, n / determinant
    p, q, r = noise
    top, middle = a * p + b * q, a * q + b * r
    below, last = b * p + d * q, b * q + d * r
    return level, slope, (top * a + middle * b, top * b + middle * d, below * b + last * d)
