"""Mock quasars: a mean spectrum, how quasars differ from it, and the Lyman alpha forest.

Shapes: B quasars, M pixels of `QUASAR`, V vectors of a basis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv1d

from spender_core.archives.fits.opening import open_fits
from spender_core.datasets.mock.quasar_lines import BROAD, IRON, NARROW
from spender_core.datasets.mock.sources import KINDS, STEP, Sources
from spender_core.errors import InputError
from spender_core.grid import Log

FloatArray = NDArray[np.float64]

QUASAR = Log(2.89, STEP, 22600)
"""Fine restframe grid of quasars, 776 to 10470 Angstrom."""
QUASAR_FILES = {"LOZ": "rrtemplate-QSO-LOZ-*.fits", "HIZ": "rrtemplate-QSO-HIZ-*.fits"}
"""Bases as published with redrock (github.com/desihub/redrock-templates)."""

LYMAN_ALPHA = 1215.67
_LIMIT = 911.76
_BORDER = 1.5
"""Redshift from which the basis HIZ is used: either covers what BOSS and DESI observe."""
_WINDOW = slice(*np.searchsorted(QUASAR.wave, [1700.0, 2300.0]).tolist())
_TRIES = 6
_CLUMPY = 1.3
_COHERENT = 2.5


@dataclass(frozen=True)
class QuasarSet:
    """Quasars of a range of redshift: a mean spectrum, and normal deviations from it.

    Attributes:
        basis: The mean spectrum and what is added to it, shape (V, M), float32.
        mean: Mean coefficients of the basis after the first, whose is 1, shape (V - 1,).
        scatter: Their standard deviations, shape (V - 1,).
        least: Where spectra must be positive: from this wavelength on, Angstrom.
        most: And up to this one.
    """

    basis: Tensor
    mean: Tensor
    scatter: Tensor
    least: float
    most: float

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw spectra that are positive within the limits, shape (n, M).

        The deviations of those that are not are halved until they are.
        """
        away = self.scatter * torch.randn(n, len(self.mean), generator=generator)
        inside = slice(*np.searchsorted(QUASAR.wave, [self.least, self.most]).tolist())
        first = self.basis[0] + self.mean @ self.basis[1:]
        flux = torch.addmm(first, away, self.basis[1:])
        for _ in range(_TRIES):
            bad = (flux[:, inside].amin(dim=1) <= 0).nonzero()[:, 0]
            if len(bad) == 0:
                break
            away[bad] *= 0.5
            flux[bad] = torch.addmm(first, away[bad], self.basis[1:])
        return flux.clamp_(min=0)


@dataclass(frozen=True)
class QuasarLibrary:
    """What quasars are drawn from.

    Attributes:
        near: Quasars below redshift 1.5.
        far: Those above; the same set if it serves both.
        source: Where they come from, for provenance.
        grid: The restframe grid.
    """

    near: QuasarSet
    far: QuasarSet
    source: str
    grid: Log = QUASAR

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the bases of redrock from a folder, or from any folder below it.

        Raises:
            InputError: There are no such files, or their axes are not those.
        """
        found = {name: sorted(Path(folder).rglob(QUASAR_FILES[name])) for name in QUASAR_FILES}
        missing = [QUASAR_FILES[name] for name, files in found.items() if not files]
        if missing:
            raise InputError(
                f"no {' and no '.join(missing)} in {folder} or below; give a folder with the "
                "templates of redrock, or none for the parametric quasars"
            )
        near, far = found["LOZ"][-1], found["HIZ"][-1]
        return cls(
            _read_set(near, *_LOZ), _read_set(far, *_HIZ), f"{near.name}, {far.name}, redrock"
        )

    @classmethod
    def parametric(cls) -> Self:
        """Make quasars from formulas alone."""
        one = _parametric_set()
        return cls(one, one, "parametric")


# Mean and standard deviation of the coefficients relative to the first one, and where the spectra
# must be positive. HIZ: least-squares fits redward of 1225 Angstrom to 27 quasars of SDSS and BOSS
# at redshift 2.0 to 3.3 with S/N above 2. LOZ: rounded from the 6 quasars of those files at 0.2 to
# 0.9 that it fits; few, so rough.
_LOZ = ((110.0, -10.0, 0.0), (110.0, 12.0, 30.0), 1340.0, 9600.0)
_HIZ = ((14.0, 7.0, -1.0), (30.0, 18.0, 4.0), 1030.0, 4480.0)


def quasars(z: Tensor, library: QuasarLibrary, generator: torch.Generator) -> Sources:
    """Draw a quasar at each redshift; they are made for it, and must not be moved.

    Args:
        z: Redshifts, shape (B,), > -1.
        library: What they are drawn from.
        generator: Source of randomness.

    Returns:
        Their restframes have a mean of 1 from 1700 to 2300 Angstrom. Blueward of Lyman alpha
        they are absorbed by what lies in front, as its mean over many lines of sight tells
        and with fluctuations. The parameter is the slope between 1700 and 3000 Angstrom.

    Raises:
        InputError: There is no redshift, or one is not finite or not above -1.
    """
    z = z.double()
    bad = (~((z > -1) & z.isfinite())).nonzero()[:, 0].tolist()
    if bad or not len(z):
        raise InputError(
            f"quasars are made for one redshift or more, finite and above -1; got {len(z)}, of which "
            f"rows {bad[:5]} are not"
        )
    restframe = torch.empty(len(z), QUASAR.size)
    far = z >= _BORDER
    for rows, chosen in ((~far, library.near), (far, library.far)):
        restframe[rows] = chosen.draw(int(rows.sum()), generator)
    level = restframe[:, _WINDOW].mean(dim=1, keepdim=True).clamp(min=1e-6)
    restframe /= level
    _absorb(restframe, z, generator)
    return Sources(
        restframe,
        z,
        torch.full((len(z),), KINDS.index("quasar"), dtype=torch.int8),
        {"slope": _slope(restframe)},
        QUASAR,
    )


def mean_depth(wave: FloatArray, z: FloatArray) -> FloatArray:
    """Return the effective optical depth in front of quasars, shape (B, M).

    Of Lyman alpha 0.00554 (1 + z)^3.182 (Kamble et al. 2020, ApJ 892, 70), where z is that of
    the absorbing gas; of Lyman beta the same times the ratio of oscillator strength times
    wavelength, 0.160. Below the Lyman limit an optical depth is made up, that grows from 0.

    Args:
        wave: Restframe wavelengths of the quasars, shape (M,), Angstrom.
        z: Redshifts of the quasars, shape (B,).
    """
    seen = wave * (1 + z[:, None])
    depth = np.zeros(seen.shape)
    for line, strength in ((LYMAN_ALPHA, 1.0), (1025.72, 0.160)):
        depth += (wave < line) * strength * 0.00554 * (seen / line) ** 3.182
    depth += 20 * (1 - wave / _LIMIT).clip(min=0) * ((1 + z[:, None]) / 4) ** 3
    return depth


def _absorb(restframe: Tensor, z: Tensor, generator: torch.Generator) -> None:
    """Absorb quasars, in place; the mean over many of them is that of `mean_depth`.

    Optical depths are log-normal, of a Gaussian field coherent over 90 km/s or so.
    """
    blue = int(np.searchsorted(QUASAR.wave, LYMAN_ALPHA))
    field = torch.randn(len(z), blue + 2 * _REACH, generator=generator)
    field = conv1d(field[:, None], _kernel()[None, None])[:, 0]
    effective = mean_depth(QUASAR.wave[:blue], z.numpy())
    middle = np.interp(effective, *_middle_depth())
    clumps = torch.tensor(middle, dtype=torch.float32) * torch.exp(_CLUMPY * field)
    restframe[:, :blue] *= torch.exp(-clumps)


_REACH = int(4 * _COHERENT) + 1


def _kernel() -> Tensor:
    """Return a Gaussian that keeps the variance of white noise."""
    offset = torch.arange(-_REACH, _REACH + 1)
    kernel: Tensor = torch.exp(-0.5 * (offset / _COHERENT) ** 2)
    return torch.nn.functional.normalize(kernel, dim=0)


@cache
def _middle_depth() -> tuple[FloatArray, FloatArray]:
    """Return effective optical depths, and the medians of log-normal ones that cause them."""
    middle = np.concatenate([[0.0], np.geomspace(1e-5, 1e4, 400)])
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    through = np.exp(-middle[:, None] * np.exp(_CLUMPY * nodes)) @ (weights / weights.sum())
    return -np.log(through), middle


def _slope(restframe: Tensor) -> Tensor:
    """Return the power of wavelength between 1700 and 3000 Angstrom, shape (B,)."""
    blue, red = (
        restframe[:, torch.from_numpy(np.abs(QUASAR.wave - wave) < 30)].mean(dim=1)
        for wave in (1700.0, 3000.0)
    )
    return torch.log(red.clamp(min=1e-6) / blue.clamp(min=1e-6)).div(float(np.log(3000 / 1700)))


def _read_set(
    file: Path, mean: tuple[float, ...], scatter: tuple[float, ...], least: float, most: float
) -> QuasarSet:
    """Read a basis; beyond the wavelengths from least to most, its last values are repeated."""
    with open_fits(str(file)) as hdus:
        header, basis = hdus[0].header, np.asarray(hdus[0].data, dtype=np.float64)
    if not header.get("LOGLAM", 0) or basis.ndim != 2 or len(basis) != len(mean) + 1:
        raise InputError(
            f"{file} has no basis of {len(mean) + 1} quasar spectra on even log10 wavelengths"
        )
    loglam = header["CRVAL1"] + header["CDELT1"] * np.arange(basis.shape[1])
    if 10 ** loglam[0] > least or 10 ** loglam[-1] < most:
        raise InputError(
            f"{file} covers {10 ** loglam[0]:.0f} to {10 ** loglam[-1]:.0f} Angstrom; needed "
            f"are {least:.0f} to {most:.0f}"
        )
    fine = np.log10(QUASAR.wave).clip(np.log10(least), np.log10(most))
    rows = np.stack([np.interp(fine, loglam, row) for row in basis])
    figures = [torch.tensor(values, dtype=torch.float32) for values in (rows, mean, scatter)]
    return QuasarSet(figures[0], figures[1], figures[2], least, most)


def _parametric_set() -> QuasarSet:
    """Make a set from the lines of `quasar_lines` on a broken power law.

    Powers of wavelength -1.56 and, beyond 5000 Angstrom, 0.45: Vanden Berk et al. 2001, AJ 122, 549
    (powers of frequency -0.44 and -2.45).
    """
    wave = QUASAR.wave
    x = np.log(wave / 3000)
    turn = np.log(5000 / 3000)
    continuum = np.exp(-1.56 * np.minimum(x, turn) + 0.45 * np.maximum(x - turn, 0))
    broad = {factor: continuum * _cusps(BROAD, factor) for factor in (0.6, 1.0)}
    high = continuum * _cusps([line for line in BROAD if line[0] < 1700], 1.0)
    narrow, iron = continuum * _emission(NARROW, 1.0), continuum * _emission(IRON, 1.0)
    basis = [
        continuum + broad[1.0] + narrow + iron,
        continuum * x,
        broad[0.6] - broad[1.0],
        high,
        broad[1.0],
        narrow,
        iron,
    ]
    rows = torch.tensor(np.stack(basis), dtype=torch.float32)
    scatter = torch.tensor([0.3, 0.3, 0.25, 0.2, 0.5, 0.4])
    return QuasarSet(rows, torch.zeros(6), scatter, 800.0, 10400.0)


def _emission(lines: list[tuple[float, float, float]], factor: float) -> FloatArray:
    """Return Gaussian lines over the continuum; their widths times a factor, flux kept, (M,)."""
    total = np.zeros(QUASAR.size)
    for centre, width, sigma in lines:
        scaled = factor * sigma
        height = width / (scaled * np.sqrt(2 * np.pi))
        total += height * np.exp(-0.5 * ((QUASAR.wave - centre) / scaled) ** 2)
    return total


def _cusps(lines: list[tuple[float, float, float]], factor: float) -> FloatArray:
    """Return lines with narrower cores and wider feet than Gaussians, half the flux in each."""
    return 0.5 * (_emission(lines, 0.45 * factor) + _emission(lines, 1.25 * factor))
