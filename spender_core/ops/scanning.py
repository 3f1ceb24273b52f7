"""How well a restframe spectrum fits observed ones at all redshifts of a range, at once.

In ln(wavelength) a redshift is a shift, so that sums over pixels, for all shifts, are
correlations, which the fast Fourier transform makes (Tonry & Davis 1979, AJ 84, 1511). Sums with
weights, and with a model that is multiplied by a polynomial, are correlations too.

Shapes: B spectra, L observed pixels, R restframe pixels, N bins of ln(wavelength), M bins of a
model and thus of the transform, Z redshifts, J coefficients of the polynomial.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.grid import Grid, Log

STEP = 1e-4 * math.log(10)
"""Width of a bin in ln(wavelength), 69 km/s: a pixel of SDSS."""
ORDER = 1
"""Of the polynomial that a model is multiplied by, so that errors of the continuum matter less."""


class Scan:
    """Fits restframe spectra to observed ones at every redshift of a grid.

    The grid is even in ln(1 + z). Pixels of the instrument are assigned to the bins of
    ln(wavelength) that they are in: sums over pixels stay exact sums, but the model is taken at the
    centre of the bin. For instruments on a logarithmic grid with a step of `step` that is the pixel.

    Args:
        rest: Grid of the restframe spectra, R pixels.
        observed: Grid of the instrument, L pixels.
        z_range: Lowest and highest redshift, inclusive up to a step.
        step: Width of a bin, and of a step of the grid, in ln(wavelength).
        order: Of the polynomial in ln(wavelength) that multiplies the model; 0 for an amplitude.

    Attributes:
        z: The redshifts, shape (Z,), float64, on the host.

    Raises:
        InputError: The range is empty or not above -1, or step or order are not positive.
    """

    def __init__(
        self,
        rest: Grid,
        observed: Grid,
        z_range: tuple[float, float],
        step: float = STEP,
        order: int = ORDER,
    ) -> None:
        low, high = z_range
        if not -1 < low < high < math.inf:
            raise InputError(f"z_range must be low < high, both above -1, not {z_range!r}")
        if not (step > 0 and order >= 0):
            raise InputError(f"step must be above 0 and order 0 or more, not {step!r}, {order!r}")
        self.step = step
        log_observed, log_rest = np.log(observed.wave), np.log(rest.wave)
        self.is_native = isinstance(observed, Log) and math.isclose(
            observed.step * math.log(10), step, rel_tol=1e-9
        )
        bins = np.rint((log_observed - log_observed[0]) / step).astype(np.int64)
        lags = np.arange(math.floor(math.log1p(low) / step), math.ceil(math.log1p(high) / step) + 1)
        self.z = torch.from_numpy(np.expm1(lags * step))
        self._bin_L = torch.from_numpy(bins)
        self._bins = int(bins[-1]) + 1
        self._size = _fast(self._bins + len(lags) - 1)
        # bin k of the model is at the restframe wavelength that bin 0 has at the highest redshift
        centres = log_observed[0] + (np.arange(self._size) - lags[-1]) * step
        left = np.clip(np.searchsorted(log_rest, centres) - 1, 0, rest.size - 2)
        share = (np.exp(centres) - rest.wave[left]) / (rest.wave[left + 1] - rest.wave[left])
        # strictly inside, as the transform has it
        inside = (centres > log_rest[0]) & (centres < log_rest[-1])
        self._left_M = torch.from_numpy(left)
        self._share_2M = torch.from_numpy(np.where(inside, [1 - share, share], 0.0))
        self._powers_JN = (
            torch.linspace(-1, 1, self._bins, dtype=torch.float64)[None]
            ** (torch.arange(2 * order + 1)[:, None])
        )
        self._order = order
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def spectra(self, flux_BL: Tensor, weight_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Transform spectra, which serve many models.

        Args:
            flux_BL: Spectra, shape (B, L).
            weight_BL: Inverse variances, shape (B, L), 0 where masked.

        Returns:
            What `gain` takes: transforms of flux and of weights by powers of the polynomial,
            complex, shapes (B, J, M / 2 + 1) and (B, 2 J - 1, M / 2 + 1).
        """
        *_, bin_L, powers_JN = self._tables_like(flux_BL)
        shape = (len(flux_BL), self._bins)
        weighted_BN = flux_BL.new_zeros(shape).index_add_(1, bin_L, flux_BL * weight_BL)
        weight_BN = flux_BL.new_zeros(shape).index_add_(1, bin_L, weight_BL)
        terms_BJN = weighted_BN[:, None] * powers_JN[: self._order + 1]
        return (
            torch.fft.rfft(terms_BJN, self._size),
            torch.fft.rfft(weight_BN[:, None] * powers_JN, self._size),
        )

    def gain(self, spectra: tuple[Tensor, Tensor], x_BR: Tensor) -> Tensor:
        """Return by how much models lower the chi square, best amplitudes and polynomials given.

        Args:
            spectra: Of `Scan.spectra`.
            x_BR: Restframe spectra, shape (B, R), of which what is not reached counts as 0.

        Returns:
            Shape (B, Z), >= 0, up to rounding.
        """
        left_M, share_2M, *_ = self._tables_like(x_BR)
        x_BM = x_BR[:, left_M] * share_2M[0] + x_BR[:, left_M + 1] * share_2M[1]
        linear_BJZ = self._correlate(spectra[0], x_BM)
        square_BJZ = self._correlate(spectra[1], x_BM.square())
        return _explained(linear_BJZ, square_BJZ)

    def _correlate(self, data: Tensor, x_BM: Tensor) -> Tensor:
        """Return sums over bins of data and model for each shift, shape (B, J, Z)."""
        spectrum_BF = torch.fft.rfft(x_BM, self._size)
        made_BJM = torch.fft.irfft(data.conj() * spectrum_BF[:, None], self._size)
        # the model's first bin is at the highest redshift: lag 0 is the last of the grid
        made_BJZ: Tensor = made_BJM[..., : len(self.z)].flip(-1)
        return made_BJZ

    def _tables_like(self, like: Tensor) -> tuple[Tensor, ...]:
        key = like.device, like.dtype
        if key not in self._tables:
            self._tables[key] = (
                self._left_M.to(like.device),
                self._share_2M.to(like.dtype).to(like.device),
                self._bin_L.to(like.device),
                self._powers_JN.to(like.dtype).to(like.device),
            )
        return self._tables[key]


def _explained(linear_BJZ: Tensor, square_BJZ: Tensor) -> Tensor:
    """Return b^T A^-1 b for each redshift, where A_jk = square_(j + k), by elimination.

    A direction that pixels do not constrain, as where the model is not seen, explains nothing.
    """
    size = linear_BJZ.shape[1]
    right = list(linear_BJZ.unbind(1))
    rows = [[square_BJZ[:, j + k] for k in range(size)] for j in range(size)]
    floor = 1e-5 * square_BJZ[:, 0].amax(dim=1, keepdim=True)
    gain = torch.zeros_like(right[0])
    for j in range(size):
        pivot = rows[j][j]
        inverse = torch.where(pivot > floor, 1 / pivot, 0)
        gain = gain + right[j].square() * inverse
        for i in range(j + 1, size):
            factor = rows[j][i] * inverse
            right[i] = right[i] - factor * right[j]
            for k in range(i, size):
                rows[i][k] = rows[i][k] - factor * rows[j][k]
    return gain


def _fast(least: int) -> int:
    """Return the smallest size of at least so many bins whose prime factors are 2, 3 and 5."""
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three << max(0, (-(-least // three) - 1).bit_length())
            best = min(best, size) if size >= least else best
            three *= 3
        five *= 5
    return best


def peaks(values_BZ: Tensor, number: int, apart: int) -> tuple[Tensor, Tensor]:
    """Return the highest peaks of each row, at least some steps apart.

    Args:
        values_BZ: Values, shape (B, Z), finite.
        number: How many peaks.
        apart: Steps within which only the highest counts.

    Returns:
        Their places, shape (B, number), int64, highest first, and the values there; minus infinity
        where a row has fewer.
    """
    window = 2 * apart + 1
    highest_BZ = torch.nn.functional.max_pool1d(
        values_BZ[:, None], window, stride=1, padding=apart
    )[:, 0]
    lost_BZ = values_BZ < highest_BZ
    found = values_BZ.masked_fill(lost_BZ, -torch.inf).topk(min(number, values_BZ.shape[1]), dim=1)
    return found.indices, found.values
