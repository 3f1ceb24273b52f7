"""What surveys look at: redshifts and signal-to-noise ratios of their samples.

They are rough on purpose: a distribution of redshift by a few nodes, one of the ratio by a
median and a scatter, with a tail of bright objects that no sample of a paper has so many of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import InputError

WHAT = ("galaxies", "quasars", "stars")
"""What a survey can look at."""
_BRIGHT = 0.15  # share of objects in the tail of bright ones
_BRIGHTEST = 80.0


@dataclass(frozen=True)
class Sample:
    """Objects that a survey selected in one way.

    Attributes:
        name: What the survey calls it.
        share: Its share of the survey's objects, relative.
        redshifts: Nodes (z, density) of the distribution of redshift, linear between them;
            the density is relative.
        snr: Median of the signal-to-noise ratio a pixel.
        scatter: Standard deviation of its logarithm, dex.
        spread: Standard deviation of Gaussian velocities over the speed of light, which
            comes on top of the nodes.
    """

    name: str
    share: float
    redshifts: tuple[tuple[float, float], ...]
    snr: float
    scatter: float = 0.25
    spread: float = 0.0


@dataclass(frozen=True)
class Survey:
    """What one survey observes of one kind of object.

    Attributes:
        samples: At least one.
        z_range: Redshifts outside are left out.
        snr_range: Signal-to-noise ratios outside are left out too.

    Raises:
        InputError: A range is empty, or the samples have no redshift within it.
    """

    samples: tuple[Sample, ...]
    z_range: tuple[float, float] = (-0.01, 10.0)
    snr_range: tuple[float, float] = (1.0, _BRIGHTEST)

    def __post_init__(self) -> None:
        low, high = self.snr_range
        if not 0 < low <= high < math.inf:
            raise InputError(f"snr_range must be 0 < low <= high, not {self.snr_range!r}")
        if not self.z_range[0] < self.z_range[1]:
            raise InputError(f"z_range must be low < high, not {self.z_range!r}")
        if not self.samples or not sum(self._shares()) > 0:
            reach = [z for sample in self.samples for z, _ in sample.redshifts]
            raise InputError(
                f"no object has a redshift within {self.z_range[0]:g} to {self.z_range[1]:g}; "
                f"the samples reach from {min(reach, default=0):g} to {max(reach, default=0):g}"
            )

    def within(
        self,
        z_range: tuple[float, float] | None = None,
        snr_range: tuple[float, float] | None = None,
    ) -> Self:
        """Return the same survey with other limits."""
        return replace(self, z_range=z_range or self.z_range, snr_range=snr_range or self.snr_range)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n objects.

        Returns:
            Redshifts, shape (n,), float64; and signal-to-noise ratios a pixel, shape (n,),
            float32: 15 percent of them are bright, even in the logarithm from the median of
            their sample to 80. Both distributions are cut at the limits, where nothing piles up.

        Raises:
            InputError: n is below 1.
        """
        if n < 1:
            raise InputError(f"a survey draws 1 object or more, not {n}")
        shares = torch.tensor(self._shares(), dtype=torch.float64)
        which = torch.multinomial(shares, n, replacement=True, generator=generator)
        place, bright, height = torch.rand(3, n, generator=generator, dtype=torch.float64)
        scatter, motion = torch.randn(2, n, generator=generator, dtype=torch.float64)
        z, snr = torch.empty(2, n, dtype=torch.float64)
        for index, sample in enumerate(self.samples):
            rows = which == index
            z[rows] = _moved(sample, _at_share(sample, place[rows], self.z_range), motion[rows],
                             self.z_range)  # fmt: skip
            snr[rows] = _ratios(sample, scatter[rows], bright[rows], height[rows], self.snr_range)
        # rounding may lead a hair beyond the limits
        return z.clamp(*self.z_range), snr.float().clamp(*self.snr_range)

    def _shares(self) -> list[float]:
        """Return the share of each sample within the range of redshift."""
        return [s.share * float(_cumulative(s, self.z_range)[1][-1]) for s in self.samples]


def survey(instrument: str, what: str = "galaxies") -> Survey:
    """Return what the survey of an instrument looks at.

    Args:
        instrument: Name of the instrument; one that is not known here gets a survey of
            wide ranges.
        what: One of `WHAT`.

    Raises:
        InputError: There is no such kind of object.
    """
    if what not in WHAT:
        raise InputError(f"what must be one of {', '.join(WHAT)}, not {what!r}")
    if what == "stars":
        return Survey(_STARS)
    known = _GALAXIES if what == "galaxies" else _QUASARS
    return Survey(known.get(instrument, known["any"]))


def _even(low: float, high: float) -> tuple[tuple[float, float], ...]:
    return (low, 1.0), (high, 1.0)


def _peak(low: float, top: float, high: float) -> tuple[tuple[float, float], ...]:
    """Return a distribution that rises from nothing, and falls to nothing with a tail."""
    middle = (top + high) / 2
    return (low, 0.0), ((low + top) / 2, 0.6), (top, 1.0), (middle, 0.3), (high, 0.0)


# SDSS: main sample, r < 17.77, median redshift 0.1 (Strauss et al. 2002, AJ 124, 1810), and
# luminous red galaxies, 12 of 100 targets (Eisenstein et al. 2001, AJ 122, 2267).
# BOSS: LOWZ 0.15 to 0.43, CMASS 0.43 to 0.7 (Dawson et al. 2013, AJ 145, 10; numbers after Reid
# et al. 2016, MNRAS 455, 1553). DESI: BGS to 0.6 (Hahn et al. 2023, AJ 165, 253), LRG 0.4 to 1.1
# (Zhou et al. 2023, AJ 165, 58), ELG 0.6 to 1.6, here as far as templates reach (Raichoor et al.
# 2023, AJ 165, 126). Nearby bright galaxies, of which there are few, are there to be learned.
# Signal-to-noise ratios are of the order of those of public files.
_NEARBY = Sample("nearby", 0.1, _peak(0.002, 0.03, 0.1), 20.0, 0.3)
_GALAXIES = {
    "sdss": (
        Sample("main", 0.78, _peak(0.005, 0.09, 0.28), 12.0, 0.22),
        Sample("LRG", 0.12, _peak(0.16, 0.36, 0.52), 8.0, 0.2),
        _NEARBY,
    ),
    "boss": (
        Sample("LOWZ", 0.3, _peak(0.1, 0.32, 0.46), 8.0, 0.25),
        Sample("CMASS", 0.6, _peak(0.4, 0.54, 0.8), 4.0, 0.25),
        _NEARBY,
    ),
    "desi": (
        Sample("BGS", 0.5, _peak(0.01, 0.2, 0.6), 6.0, 0.3),
        Sample("LRG", 0.25, _peak(0.35, 0.8, 1.1), 3.0, 0.25),
        Sample("ELG", 0.15, _even(0.6, 1.2), 1.2, 0.2),
        _NEARBY,
    ),
    "any": (Sample("all", 0.9, _even(0.0, 0.8), 6.0, 0.35), _NEARBY),
}
# SDSS: Schneider et al. 2010, AJ 139, 2360. BOSS and eBOSS: the Lyman alpha sample above 2.15
# (Ross et al. 2012, ApJS 199, 3), the others 0.8 to 2.2 (Myers et al. 2015, ApJS 221, 27). DESI:
# Chaussidon et al. 2023, ApJ 944, 107.
_QUASARS = {
    "sdss": (Sample("quasars", 1.0, ((0.08, 0.3), (1.6, 1.0), (2.2, 0.5), (3.5, 0.1)), 8.0),),
    "boss": (
        Sample("eBOSS", 0.5, _peak(0.5, 1.5, 2.4), 4.0),
        Sample("Lyman alpha", 0.5, _peak(2.0, 2.4, 3.5), 5.0),
    ),
    "desi": (Sample("quasars", 1.0, ((0.1, 0.1), (0.8, 0.6), (1.7, 1.0), (3.5, 0.1)), 4.0),),
    "any": (Sample("quasars", 1.0, _even(0.1, 3.5), 6.0),),
}
# Disc and halo: 40 and 120 km/s.
_STARS = (
    Sample("disc", 0.7, ((-1e-6, 1.0), (1e-6, 1.0)), 15.0, 0.35, 1.3e-4),
    Sample("halo", 0.3, ((-1e-6, 1.0), (1e-6, 1.0)), 10.0, 0.3, 4.0e-4),
)


def _cumulative(sample: Sample, z_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return redshifts within a range, and the share of the sample up to each."""
    nodes, density = (np.array(column) for column in zip(*sample.redshifts, strict=True))
    low, high = max(nodes[0], z_range[0]), min(nodes[-1], z_range[1])
    if low >= high:
        return torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    z = np.linspace(low, high, 513)
    middle = np.interp((z[1:] + z[:-1]) / 2, nodes, density)
    area = np.concatenate([[0.0], np.cumsum(middle) * (z[1] - z[0])])
    everything = float(np.sum((density[1:] + density[:-1]) / 2 * np.diff(nodes)))
    return torch.from_numpy(z), torch.from_numpy(area / everything)


def _at_share(sample: Sample, share: Tensor, z_range: tuple[float, float]) -> Tensor:
    """Return the redshifts below which some shares of the sample within a range lie."""
    z, area = _cumulative(sample, z_range)
    wanted = share.numpy() * float(area[-1])
    return torch.from_numpy(np.interp(wanted, area.numpy(), z.numpy()))


def _moved(sample: Sample, z: Tensor, motion: Tensor, z_range: tuple[float, float]) -> Tensor:
    """Return redshifts with the Gaussian velocities of a sample, those within a range."""
    if sample.spread == 0:
        return z
    low, high = ((limit - z) / sample.spread for limit in z_range)
    return z + sample.spread * _cut(motion, low, high)


def _ratios(
    sample: Sample, scatter: Tensor, bright: Tensor, height: Tensor, limits: tuple[float, float]
) -> Tensor:
    """Return signal-to-noise ratios within limits, from normal and twice even random numbers."""
    low, high = (math.log10(limit) for limit in limits)
    middle, top = math.log10(sample.snr), math.log10(_BRIGHTEST)
    first, last = (max(min(limit, top), middle) for limit in (low, high))
    width = max(sample.scatter, 1e-9)
    a, b = (torch.tensor((limit - middle) / width, dtype=torch.float64) for limit in (low, high))
    tail_share = _BRIGHT * (last - first) / (top - middle) if top > middle else 0.0
    usual_share = (1 - _BRIGHT) * float(_area(a, b))
    if not tail_share + usual_share > 0:  # limits that the sample never reaches
        return 10 ** (low + (high - low) * height)
    tail = first + (last - first) * height
    usual = middle + width * _cut(scatter, a, b) if usual_share > 0 else tail
    is_tail = bright * (tail_share + usual_share) < tail_share
    return 10 ** torch.where(is_tail, tail, usual)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Return the probability of a standard normal number between two, exact in either tail."""
    mirrored = low > 0
    a, b = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    area: Tensor = torch.special.ndtr(b) - torch.special.ndtr(a)
    return area


def _cut(normal: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Turn normal numbers into those of a normal distribution cut at low and high.

    They keep their order: the share of the distribution below each stays the same.
    """
    sign = torch.where(low > 0, -1.0, 1.0).double()  # the left tail has the precision
    a, b = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    share = torch.special.ndtr(sign * normal)
    below = torch.special.ndtr(a)
    cut = torch.special.ndtri(below + share * (torch.special.ndtr(b) - below))
    inside: Tensor = sign * torch.minimum(torch.maximum(cut, a), b)
    return inside
