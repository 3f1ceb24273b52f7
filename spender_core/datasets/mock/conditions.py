"""How an instrument observes: its noise, sky, masks and line spread function, many times over.

Shapes: C conditions, B spectra, L observed pixels, K taps of a line spread function.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from spender_core.datasets.mock.broadening import diagonals, gaussian_taps
from spender_core.datasets.mock.drawn import FAINT, MOST, read_conditions
from spender_core.datasets.mock.sources import Draw
from spender_core.errors import InputError
from spender_core.interfaces.instrument import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.ops.mask import sky_lines

SKY = 8.0
"""Flux of the dark sky's continuum in a fibre, 1e-17 erg/s/cm2/Angstrom: of the order of what
SDSS and DESI files tell. Photons of an object as bright as this double the variance."""
SIGMA = 1.0
"""Standard deviation of a line spread function, pixels. Medians of real files: 0.86 of SDSS, 0.93
of BOSS (column wdisp) and 0.85 of DESI (resolution matrices)."""

KnownLSF = bool | Literal["gaussian"]
"""Whether spectra come with their line spread function: False, True, or "gaussian" for widths
alone (`Conditions.known_lsf`)."""

_FAINT_LINES = 120
"""Faint sky lines of parametric conditions."""


@dataclass(frozen=True)
class Conditions:
    """How one instrument observed C times.

    Attributes:
        variance: Variance of the flux without any light of an object, shape (C, L), float32,
            (1e-17 erg/s/cm2/Angstrom)^2, > 0 everywhere.
        photons: Variance added per unit of object flux, shape (C, L), float32, >= 0.
        residual: What is left of the sky where it was subtracted wrongly, in units of flux,
            shape (C, L), float32; 0 away from sky lines.
        good: Pixels with data, shape (C, L), bool.
        lsf: Line spread functions, shape (C, K, L), float32, K odd. Pixel i of what is
            observed is the sum over k of lsf[:, k, i] x[i + k - K // 2].
        seams: Where the arms of the spectrograph meet, Angstrom.
        sigma: Where the line spread functions are Gaussians, their standard deviations at the
            pixels that are observed, shape (C, L), pixels; else None.

    Raises:
        InputError: Shapes do not fit each other, or values are not as said.
    """

    variance: Tensor
    photons: Tensor
    residual: Tensor
    good: Tensor
    lsf: Tensor
    seams: tuple[float, ...] = ()
    sigma: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.variance.shape)
        for name in ("variance", "photons", "residual", "good"):
            if tuple(getattr(self, name).shape) != shape or len(shape) != 2 or shape[0] == 0:
                raise InputError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}; variance, photons, "
                    f"residual and good must all be (C, L) with C > 0, and variance is {shape}"
                )
        taps = tuple(self.lsf.shape)
        if len(taps) != 3 or taps[::2] != shape or taps[1] % 2 == 0:
            raise InputError(f"lsf must have shape ({shape[0]}, K, {shape[1]}), K odd, got {taps}")
        if self.sigma is not None and tuple(self.sigma.shape) != shape:
            raise InputError(f"sigma must have shape {shape}, got {tuple(self.sigma.shape)}")
        finite = all(bool(getattr(self, n).isfinite().all()) for n in ("residual", "lsf"))
        positive = bool(((self.variance > 0) & (self.variance < math.inf)).all())
        if not (
            finite and positive and bool(((self.photons >= 0) & self.photons.isfinite()).all())
        ):
            raise InputError(
                "conditions must be finite, with variance > 0 and photons >= 0 in every pixel; "
                "fill pixels without data, and tell them by good = False"
            )

    def __len__(self) -> int:
        return len(self.variance)

    def __getitem__(self, index: Any) -> Self:
        """Select conditions by a slice, indices or a mask, shape (C,)."""
        return type(self)(
            self.variance[index],
            self.photons[index],
            self.residual[index],
            self.good[index],
            self.lsf[index],
            self.seams,
            None if self.sigma is None else self.sigma[index],
        )

    def known_lsf(
        self, condition_B: Tensor, kind: Literal[True, "gaussian"] = True
    ) -> BandedLSF | GaussianLSF:
        """Return the line spread functions of spectra, as `SpectrumBatch.lsf` carries them.

        Args:
            condition_B: Which of the conditions each was taken under, int64.
            kind: True for what is applied, pixel by pixel: K numbers a pixel. "gaussian" for
                widths alone, as the files of SDSS tell them. `GaussianLSF` gives light the width
                at the pixel that it comes from, and keeps flux, where mocks take the width at the
                pixel that is observed, and keep continua. For the smooth widths of parametric
                conditions that is the same, but for the 6e-5 of the light beyond their taps;
                where real widths jump, as they do between the arms of SDSS and BOSS, continua
                differ by some percent.

        Raises:
            InputError: Widths are asked for, and these are no Gaussians; or there is no such kind.
        """
        if kind is True:
            used, place_B = condition_B.unique(return_inverse=True)
            data_CKL, offsets = diagonals(self.lsf[used])
            return BandedLSF(data_CKL[place_B], offsets)
        if kind != "gaussian":
            raise InputError(f"lsf must be True, False or 'gaussian', not {kind!r}")
        if self.sigma is None:
            raise InputError(
                "these line spread functions are no Gaussians; ask for them with lsf=True"
            )
        return GaussianLSF(self.sigma[condition_B])

    @cached_property
    def weight(self) -> Tensor:
        """1 where `good`, else 0, shape (C, L), float32."""
        return self.good.float()

    @cached_property
    def covered(self) -> Tensor:
        """1 between the first and the last good pixel, else 0, shape (C, L), float32."""
        seen = self.good.to(torch.uint8)
        after = seen.cummax(dim=1).values
        before = seen.flip(1).cummax(dim=1).values.flip(1)
        return (after & before).float()

    @classmethod
    def parametric(
        cls,
        instrument: Instrument,
        n: int,
        generator: torch.Generator,
        sigma: float = SIGMA,
        seams: Sequence[float] = (),
    ) -> Self:
        """Make conditions from formulas, for an instrument of which no data is at hand.

        The noise rises towards both ends and on sky lines; objects add photon noise; the
        line spread function is a Gaussian whose width varies along the spectrum by some 10
        percent; pixels are missing at the ends, and sometimes inside.

        Args:
            instrument: Which wavelengths.
            n: Number of conditions.
            generator: Source of randomness.
            sigma: Standard deviation of the line spread function, pixels.
            seams: Where arms meet, Angstrom.
        """
        draw, wave = _Columns(n, generator), torch.tensor(instrument.wave)
        x = torch.linspace(0, 1, len(wave))
        blue = draw.uniform(1.0, 4.0) * torch.exp(-x / draw.uniform(0.03, 0.08))
        red = draw.uniform(0.3, 2.0) * torch.exp((x - 1) / draw.uniform(0.03, 0.1))
        floor = (1 + blue + red) * (1 + draw.uniform(-0.3, 0.3) * (x - 0.5))
        level = 10 ** draw.normal(0.0, 0.15)
        continuum = (level * floor).square()
        lines = _sky_light(wave, sigma, generator) * draw.uniform(0.5, 1.5)
        variance = continuum * (1 + lines)
        wander = torch.randn(n, len(wave), generator=generator)
        wander = torch.nn.functional.avg_pool1d(wander, 3, 1, 1) * math.sqrt(3)
        # where lines make the noise, what is left of them is comparable to it, as in DESI's files
        excess = (continuum * lines).sqrt()
        photons = continuum / (SKY * draw.uniform(0.7, 1.4))
        residual = draw.uniform(0.4, 1.2) * wander * excess * (lines > 0.1)
        good = _seen(draw, len(wave))
        widths = _widths(draw, x, sigma)
        return cls(
            variance=variance,
            photons=photons,
            residual=residual,
            good=good,
            lsf=gaussian_taps(widths),
            seams=tuple(seams),
            sigma=widths,
        )

    @classmethod
    def from_files(
        cls,
        instrument: Instrument,
        files: Iterable[str],
        faint: float = FAINT,
        most: int = MOST,
    ) -> Self:
        """Draw conditions from real spectra: of sky fibres, or else of faint objects.

        Args:
            instrument: Whose files; its loader must have `conditions`.
            files: Paths or URLs.
            faint: Where there is no sky fibre, spectra with a median signal-to-noise ratio a
                pixel below this are used.
            most: Conditions at most, evenly chosen among more.

        Raises:
            FileError: A file cannot be read.
            InputError: The loader does not tell how spectra were taken, or most is below 1.
            NoSpectraError: No file holds a spectrum of the sky, or of a faint object.
        """
        return cls(**read_conditions(instrument, files, faint, most))


class _Columns(Draw):
    """Random numbers of shape (n, 1)."""

    def normal(self, mean: float = 0.0, sigma: float = 1.0) -> Tensor:
        return super().normal(mean, sigma)[:, None]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return super().uniform(low, high)[:, None]


def _widths(draw: _Columns, x: Tensor, sigma: float) -> Tensor:
    """Return widths that change smoothly along the spectrum, shape (n, L)."""
    slope = draw.normal(0.0, 0.06) * (2 * x - 1) + draw.normal(0.0, 0.04) * (6 * x * (1 - x) - 1)
    return sigma * (1 + draw.normal(0.0, 0.05) + slope).clamp(0.6, 1.4)


def _sky_light(wave: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Return the light of sky lines in units of the sky's continuum, shape (L,).

    To the bright lines of the table, near which instruments mask pixels, come faint ones
    between 7000 and 10,500 Angstrom, where the bands of OH are, at places made up.
    """
    centres, intensity = sky_lines()
    faint = Draw(_FAINT_LINES, generator)
    places = faint.uniform(7000.0, 10500.0).double().numpy()
    heights = -3 * faint.uniform(1e-3, 1.0).log().numpy()
    # some lines of the list outshine all others in one place of the sky, not in all
    lines = zip(
        np.append(centres, places), np.append(intensity.clip(max=60.0), heights), strict=True
    )
    obs, step = wave.numpy(), np.gradient(wave.numpy())
    light = np.zeros(len(wave))
    for centre, strength in lines:
        light += 0.25 * strength * np.exp(-0.5 * ((obs - centre) / (1.2 * sigma * step)) ** 2)
    return torch.from_numpy(light).float()


def _seen(draw: _Columns, pixels: int) -> Tensor:
    """Return pixels with data: some are missing at both ends, and now and then inside."""
    x = torch.arange(pixels) / pixels
    seen = (x >= 0.02 * draw.uniform().square()) & (x < 1 - 0.02 * draw.uniform().square())
    start, width = draw.uniform(), draw.uniform(0.0, 0.004)
    hole = (x >= start) & (x < start + width) & (draw.uniform() < 0.3)
    return seen & ~hole
