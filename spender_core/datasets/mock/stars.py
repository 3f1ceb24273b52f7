"""Mock stars: models and archetypes of single stars, reddened by dust.

Shapes: B stars, M pixels of `STAR`, T templates of a class, V vectors of a basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.archives.fits.opening import open_fits
from spender_core.datasets.mock.parametric import star_spectra
from spender_core.datasets.mock.sources import FINE, KINDS, STEP, Draw, Sources
from spender_core.errors import InputError
from spender_core.grid import Log

FloatArray = NDArray[np.float64]

FIRST = 5550
"""The pixel of `FINE` with which `STAR` begins."""
STAR = Log(3.4775, STEP, FINE.size - FIRST)
"""Fine restframe grid of stars, the part of `FINE` above 3003 Angstrom."""
WEIGHTS: Mapping[str, float] = {"A": 1.0, "F": 2.5, "G": 2.0, "K": 2.5, "M": 2.0, "WD": 0.5}
"""Spectral classes, and how often each is drawn: all of them often enough to be learned, not as
the sky has them. `Sources.parameters["class"]` counts in this order."""
STAR_FILES = "rrtemplate-STAR-*.fits"
"""Bases and archetypes as published with redrock (github.com/desihub/redrock-templates)."""

_WINDOW = slice(*np.searchsorted(STAR.wave, [5300.0, 5850.0]).tolist())
_NEGATIVE = 0.02  # largest share of pixels below 0 in an archetype that is used
_MEAN_AV = 0.15  # mag


@dataclass(frozen=True)
class StarClass:
    """Stars of one class: their spectra are coefficients @ basis, 1 around 5500 Angstrom.

    Attributes:
        basis: Shape (V, M), float32.
        coefficients: Shape (T, V), float32.
    """

    basis: Tensor
    coefficients: Tensor


@dataclass(frozen=True)
class StarLibrary:
    """What stars are drawn from.

    Attributes:
        classes: By name, a key of `WEIGHTS`.
        source: Where they come from, for provenance.
        grid: The restframe grid.
    """

    classes: dict[str, StarClass]
    source: str
    grid: Log = STAR

    def __post_init__(self) -> None:
        strange = set(self.classes) - set(WEIGHTS)
        if strange or not self.classes:
            raise InputError(
                f"classes of stars must be among {', '.join(WEIGHTS)}, at least one; "
                f"got {', '.join(sorted(self.classes)) or 'none'}"
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the stars of redrock from a folder, or from any folder below it.

        A file holds a basis on even vacuum wavelengths (CRVAL1, CDELT1), and archetypes as
        coefficients of it. Those that are negative in more than 2 percent of their pixels,
        which a basis of 5 vectors makes of a few, are left out.

        Raises:
            InputError: There is no such file, or its axes are not those.
        """
        files = sorted(Path(folder).rglob(STAR_FILES))
        classes: dict[str, StarClass] = {}
        for file in files:
            name = file.name.removeprefix("rrtemplate-STAR-").split("-")[0]
            if name in WEIGHTS:
                classes[name] = _read_class(file)
        if not classes:
            raise InputError(
                f"no {STAR_FILES} of classes {', '.join(WEIGHTS)} in {folder} or below; give a "
                "folder with the templates of redrock, or none for the parametric stars"
            )
        return cls(classes, f"{', '.join(file.name for file in files)}, redrock")

    @classmethod
    def parametric(cls) -> Self:
        """Make stars from formulas alone, some of each class."""
        spectra = [star_spectra(contrast) for contrast in (0.7, 1.0, 1.2)]
        classes = {
            name: _star_class(np.concatenate([one[name][:, FIRST:] for one in spectra]))
            for name in spectra[0]
        }
        return cls(classes, "parametric")


def stars(
    n: int,
    library: StarLibrary,
    generator: torch.Generator,
    weights: Mapping[str, float] | None = None,
) -> Sources:
    """Draw n stars at redshift 0; `Sources.at` moves them.

    Half of the stars are a template of the library, half lie between two of one class.

    Args:
        n: Number of stars.
        library: What they are drawn from.
        generator: Source of randomness.
        weights: How often each class is drawn, of those in the library; `WEIGHTS` if None.

    Returns:
        Their restframes have a mean near 1 from 5300 to 5850 Angstrom. The parameters are the
        class (index into `WEIGHTS`), the extinction A_V (mag), and the share of a second
        template.

    Raises:
        InputError: n is below 1; or weights name a class that the library lacks, or are not
            positive.
    """
    if n < 1:
        raise InputError(f"the number of stars must be 1 or more, not {n}")
    weights = _weights(library, weights)
    draw = Draw(n, generator)
    names = list(weights)
    which = draw.choice([weights[name] for name in names])
    place, other = draw.uniform(), draw.uniform()
    share = draw.uniform(0.0, 0.5) * draw.chance(0.5)
    # exponential, by the inverse of its distribution; none above 1.4 mag
    extinction = -_MEAN_AV * torch.log1p(-draw.uniform(0.0, 0.9999))
    restframe = torch.empty(n, STAR.size)
    kind = torch.empty(n)
    for index, name in enumerate(names):
        rows = (which == index).nonzero()[:, 0]
        stars_of = library.classes[name]
        count = len(stars_of.coefficients)
        first, second = (
            stars_of.coefficients[(u[rows] * count).long().clamp(max=count - 1)]
            for u in (place, other)
        )
        mixed = torch.lerp(first, second, share[rows, None])
        restframe[rows] = (mixed @ stars_of.basis).clamp_(min=0)
        kind[rows] = float(list(WEIGHTS).index(name))
    dimmed = torch.tensor(_relative_extinction(STAR.wave), dtype=torch.float32)
    restframe *= torch.exp(-0.4 * np.log(10) * extinction[:, None] * dimmed)
    return Sources(
        restframe,
        torch.zeros(n, dtype=torch.float64),
        torch.full((n,), KINDS.index("star"), dtype=torch.int8),
        {"class": kind, "extinction": extinction, "second": share},
        STAR,
    )


def reddening(wave: FloatArray) -> FloatArray:
    """Return A(wavelength) / A(V) of the Milky Way with R_V = 3.1.

    The formula of Cardelli, Clayton & Mathis 1989, ApJ 345, 245, with the optical
    coefficients of O'Donnell 1994, ApJ 422, 158; those hold from 3030 to 9090 Angstrom, and
    are used down to 3000.

    Args:
        wave: Wavelengths, Angstrom, 3000 or more.
    """
    x = 1e4 / wave  # 1 / micron
    y = np.minimum(x, 3.34) - 1.82
    a = np.polyval([-0.505, 1.647, -0.827, -1.718, 1.137, 0.701, -0.609, 0.104, 1.0], y)
    b = np.polyval([3.347, -10.805, 5.491, 11.102, -7.985, -3.989, 2.908, 1.952, 0.0], y)
    optical = a + b / 3.1
    infrared = (0.574 - 0.527 / 3.1) * x**1.61
    law: FloatArray = np.where(x > 1.1, optical, infrared)
    return law


def _relative_extinction(wave: FloatArray) -> FloatArray:
    """Return the extinction relative to that at 5500 Angstrom, in units of A(V)."""
    return reddening(wave) - float(reddening(np.array([5500.0]))[0])


def _weights(library: StarLibrary, weights: Mapping[str, float] | None) -> dict[str, float]:
    if weights is None:
        return {name: WEIGHTS[name] for name in library.classes}
    unknown = sorted(set(weights) - set(library.classes))
    if unknown or not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise InputError(
            f"weights must be >= 0 and not all 0, for classes of the library "
            f"({', '.join(library.classes)}); got {dict(weights)}"
        )
    return dict(weights)


def _read_class(file: Path) -> StarClass:
    with open_fits(str(file)) as hdus:
        header = hdus[0].header
        basis = np.asarray(hdus[0].data, dtype=np.float64)
        coefficients = np.asarray(hdus["ARCHETYPE_COEFF"].data, dtype=np.float64)
        start, step = float(header["CRVAL1"]), float(header["CDELT1"])
    wave = start + step * np.arange(basis.shape[-1])
    if header.get("LOGLAM", 0) or basis.ndim != 2 or coefficients.shape[1:] != basis.shape[:1]:
        raise InputError(f"{file} has no basis of stars on even wavelengths with archetypes")
    if wave[0] > STAR.edges[0] or wave[-1] < STAR.edges[-1]:
        raise InputError(
            f"{file} covers {wave[0]:.0f} to {wave[-1]:.0f} Angstrom; needed are "
            f"{STAR.edges[0]:.0f} to {STAR.edges[-1]:.0f}"
        )
    means = _pixel_means(basis, start, step)
    sound = [(row @ means < 0).mean() <= _NEGATIVE for row in coefficients]
    return _star_class(means, coefficients[np.array(sound)])


def _pixel_means(rows: FloatArray, start: float, step: float) -> FloatArray:
    """Return the means over the pixels of `STAR` of rows on even wavelengths."""
    integral = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1) * step], axis=1)
    borders = start + step * (np.arange(rows.shape[1] + 1) - 0.5)
    means: FloatArray = np.stack(
        [np.diff(np.interp(STAR.edges, borders, row)) for row in integral]
    ) / np.diff(STAR.edges)
    return means


def _star_class(
    basis: Sequence[FloatArray] | FloatArray, rows: FloatArray | None = None
) -> StarClass:
    """Scale stars to a mean of 1 in the window; without coefficients, the basis are the stars."""
    basis = np.asarray(basis)
    rows = np.eye(len(basis)) if rows is None else rows
    level = rows @ basis[:, _WINDOW].mean(axis=1)
    rows = rows[level > 0] / level[level > 0, None]
    return StarClass(
        torch.tensor(basis, dtype=torch.float32), torch.tensor(rows, dtype=torch.float32)
    )
