"""What goes wrong when spectra are taken: cosmic rays, dead columns, fluxing errors, blends.

Shapes: B objects, L observed pixels, N knots of the fluxing error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.datasets.mock.sources import Draw
from spender_core.errors import InputError

_KNOTS = 9
"""Knots of the fluxing error: it varies over some 700 Angstrom of SDSS or DESI."""


@dataclass(frozen=True)
class Artefacts:
    """How often, and how much, things go wrong.

    Attributes:
        cosmic_rays: Mean number of cosmic rays left in a coadded spectrum.
        masked: Share of them that the pipeline finds and masks.
        dead_columns: Mean number of masked runs of pixels in a spectrum.
        fluxing: RMS of the smooth multiplicative error of flux calibration; twice at the ends.
        seams: Largest jump where two arms meet, as a share of the flux.
        blends: Share of spectra that another object of the batch shines into.
        residuals: RMS of the factor by which a condition's sky residual is multiplied.
        noise: RMS of the natural logarithm of the factor by which sigma is multiplied.

    Raises:
        InputError: A rate is negative, or a share above 1.
    """

    cosmic_rays: float = 1.5
    masked: float = 0.85
    dead_columns: float = 0.3
    fluxing: float = 0.025
    seams: float = 0.02
    blends: float = 0.01
    residuals: float = 1.0
    noise: float = 0.15

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            most = 1.0 if entry.name in ("masked", "blends", "fluxing", "seams") else 100.0
            if not 0 <= value <= most:
                raise InputError(f"{entry.name} must be between 0 and {most:g}, not {value!r}")

    @classmethod
    def none(cls) -> Artefacts:
        """Return artefacts that change nothing: noise as the conditions have it, no more."""
        return cls(*(0.0 for _ in fields(cls)))


@dataclass(frozen=True)
class Record:
    """What went wrong with each spectrum.

    Attributes:
        blend: Row of the object that shines in, shape (B,), int64; -1 if none.
        share: Its median flux over that of the object, shape (B,), float32; 0 if none.
        cosmic_rays: Rows and pixels hit by a cosmic ray that is not masked, shape (n, 2).
        noise: Factor by which sigma was multiplied, shape (B,), float32.
        residual: Factor by which the sky residual was multiplied, shape (B,), float32.
    """

    blend: Tensor
    share: Tensor
    cosmic_rays: Tensor
    noise: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Hits:
    """Pixels hit by cosmic rays or lost to dead columns, sorted by row.

    Attributes:
        row: Spectrum of each pixel, shape (n,), int64.
        pixel: Which pixel, shape (n,), int64.
        height: What is added to the flux, in units of sigma, shape (n,); 0 in dead columns.
        masked: Whether the pipeline masks the pixel, shape (n,), bool.
    """

    row: Tensor
    pixel: Tensor
    height: Tensor
    masked: Tensor


def draw_hits(n: int, pixels: int, rates: Artefacts, generator: torch.Generator) -> Hits:
    """Draw the cosmic rays (1 to 4 pixels wide) and dead columns (1 to 20) of n spectra."""
    parts = []
    for mean, longest, cosmic in (
        (rates.cosmic_rays, 4, True),
        (rates.dead_columns, 20, False),
    ):
        count_B = torch.poisson(torch.full((n,), float(mean)), generator=generator).long()
        row = torch.arange(n).repeat_interleave(count_B)
        draw = Draw(len(row), generator)
        start = (draw.uniform() * pixels).long()
        length = 1 + (draw.uniform() * longest).long()
        height = 10 ** draw.normal(1.0, 0.4) * cosmic
        masked = draw.chance(rates.masked if cosmic else 1.0)
        step = torch.arange(longest).expand(len(row), longest)
        inside = (step < length[:, None]) & (start[:, None] + step < pixels)
        # the charge of a cosmic ray falls off along its pixels
        spread = height[:, None] * torch.exp(-0.7 * step)
        parts.append(
            Hits(
                row[:, None].expand_as(step)[inside],
                (start[:, None] + step)[inside],
                spread[inside],
                masked[:, None].expand_as(step)[inside],
            )
        )
    joined = [torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Hits)]
    order = joined[0].argsort(stable=True)
    return Hits(*(column[order] for column in joined))


def draw_blends(n: int, rates: Artefacts, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which object shines into which, -1 if none, and how brightly, shape (n,) each."""
    draw = Draw(n, generator)
    happens = draw.chance(rates.blends) & (n > 1)
    other = (
        torch.arange(n) + 1 + (draw.uniform() * (n - 1)).long().clamp(max=max(n - 2, 0))
    ) % max(n, 1)
    share = 10 ** draw.uniform(-1.3, 0.0)
    return torch.where(happens, other, -1), torch.where(happens, share, 0.0)


class Fluxing:
    """Smooth multiplicative errors of flux calibration, with jumps where arms meet.

    Args:
        n: Number of spectra.
        wave: Observed wavelengths, shape (L,), Angstrom.
        seams: Where arms meet, Angstrom.
        rates: How large.
        generator: Source of randomness.
    """

    def __init__(
        self,
        n: int,
        wave: NDArray[np.float64],
        seams: tuple[float, ...],
        rates: Artefacts,
        generator: torch.Generator,
    ) -> None:
        self._basis = _basis(len(wave))
        size = rates.fluxing * (1 + torch.linspace(-1, 1, _KNOTS).abs() ** 4)
        self._knots = size * torch.randn(n, _KNOTS, generator=generator)
        self._edges = [int(np.searchsorted(wave, seam)) for seam in seams]
        jumps = 2 * torch.rand(n, len(seams), generator=generator) - 1
        self._jumps = rates.seams * jumps

    def factor(self, rows: slice) -> Tensor:
        """Return what the flux of some spectra is multiplied by, shape (rows, L)."""
        factor_BL = 1 + self._knots[rows] @ self._basis
        for k, edge in enumerate(self._edges):
            factor_BL[:, edge:] += self._jumps[rows, k, None]
        return factor_BL


def _basis(pixels: int) -> Tensor:
    """Return weights of the knots in every pixel, cubic B-splines, shape (N, L), RMS of 1."""
    position = torch.linspace(0, _KNOTS - 1, pixels) - torch.arange(_KNOTS)[:, None]
    t = position.abs()
    inner = (4 - 6 * t**2 + 3 * t**3) / 6
    outer = (2 - t).clamp(min=0) ** 3 / 6
    spline = torch.where(t < 1, inner, outer)
    return spline / spline.square().sum(dim=0).sqrt()
