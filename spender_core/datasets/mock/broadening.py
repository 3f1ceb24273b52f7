"""Put restframe spectra on an observed grid, and broaden them as an instrument does.

Comparisons, masks and integers cost several times what sums of floats do, so that what is
reached is kept as the first and last pixel of a run.

Shapes: B objects, M pixels of the fine restframe grid, L observed pixels, P with a margin,
C conditions, K taps of a line spread function.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from spender_core.grid import Grid, Log

_CHUNK = 16
"""Spectra placed together: their arrays stay in the cache."""
_FAR = 0.15
"""Distance of the sum of a matrix's row from 1 beyond which it is not used: away from masked
pixels, sums are 0.93 to 1.10 in DESI's coadds."""


class LogShift:
    """Redshifts spectra from a logarithmic grid to any observed grid, by arithmetic alone.

    In log10 of the wavelength, a redshift moves all pixels by the same distance, so that no
    search is needed. The result is that of `ops.redshift.redshift`, which is linear in
    wavelength between two pixels, to 1e-8 of their difference.

    Args:
        rest: Restframe grid.
        observed: Observed grid.
        margin: Pixels on either side of a pixel that its line spread function needs.
    """

    def __init__(self, rest: Log, observed: Grid, margin: int = 0) -> None:
        self.rest, self.margin = rest, margin
        self._position = (np.log10(observed.wave) - rest.start) / rest.step
        self._padded_P = torch.from_numpy(np.pad(self._position, margin, mode="edge"))
        # a share f of a step of the logarithm is f (1 - c (1 - f)) of it in wavelength
        self._curvature = rest.step * math.log(10) / 2

    def __call__(self, restframe_BM: Tensor, z_B: Tensor) -> Tensor:
        """Return spectra at redshifts, shape (B, L + 2 margin).

        Beyond the observed grid, and beyond the restframe one, the last values are repeated.
        """
        position_BP = self._padded_P - self._shift(z_B)[:, None]
        position_BP.clamp_(0, self.rest.size - 1.000001)
        floor_BP = position_BP.floor()
        share_BP = position_BP.sub_(floor_BP).float()
        left_BP = floor_BP.long()
        weight_BP = share_BP * (1 - self._curvature * (1 - share_BP))
        x0_BP = restframe_BM.gather(1, left_BP)
        x1_BP = restframe_BM[:, 1:].gather(1, left_BP)
        return torch.lerp(x0_BP, x1_BP, weight_BP)

    def reach(self, z_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first pixel and the one after the last that are reached, shape (B,) each.

        A pixel counts as reached if those within the margin are too, as far as the grid goes.
        """
        shift, pixels = self._shift(z_B).numpy(), len(self._position)
        first = np.searchsorted(self._position, shift)
        after = np.searchsorted(self._position, shift + self.rest.size - 1, "right")
        first = np.where(first > 0, np.minimum(first + self.margin, pixels), 0)
        after = np.where(after < pixels, np.maximum(after - self.margin, first), pixels)
        return torch.from_numpy(first), torch.from_numpy(after)

    def _shift(self, z_B: Tensor) -> Tensor:
        return (1 + z_B.double()).log10() / self.rest.step


def place(
    restframe_BM: Tensor, z_B: Tensor, shift: LogShift, lsf_CKL: Tensor, condition_B: Tensor
) -> Tensor:
    """Redshift and broaden spectra, each with the line spread function of its condition.

    Args:
        restframe_BM: Spectra in restframe.
        z_B: Redshifts.
        shift: What redshifts them, with a margin of K // 2.
        lsf_CKL: Line spread functions, as in `Conditions.lsf`.
        condition_B: Which of them, int64.

    Returns:
        The spectra, shape (B, L); what they are where not reached means nothing.
    """
    _, taps, pixels = lsf_CKL.shape
    flux_BL, weighted_KL = torch.empty(len(z_B), pixels), torch.empty(taps, pixels)
    for first in range(0, len(z_B), _CHUNK):
        rows = slice(first, first + _CHUNK)
        moved_BP = shift(restframe_BM[rows], z_B[rows])
        # element k, i is pixel i + k - K // 2: the same memory, read with overlaps
        neighbours_BKL = moved_BP.unfold(1, pixels, 1)
        kinds = condition_B[rows].tolist()
        for out_L, neighbours_KL, kind in zip(flux_BL[rows], neighbours_BKL, kinds, strict=True):
            torch.mul(neighbours_KL, lsf_CKL[kind], out=weighted_KL)
            torch.sum(weighted_KL, 0, out=out_L)
    return flux_BL


def gaussian_taps(sigma_CL: Tensor, reach: float = 4.0) -> Tensor:
    """Return the taps of Gaussian line spread functions, normalised to a sum of 1.

    Args:
        sigma_CL: Standard deviations, shape (C, L), pixels, > 0.
        reach: Half width of the taps in units of the largest of them.

    Returns:
        Shape (C, K, L), K odd, as in `Conditions.lsf`.
    """
    half = max(1, math.ceil(reach * float(sigma_CL.max())))
    offset_K1 = torch.arange(-half, half + 1, dtype=sigma_CL.dtype)[:, None]
    taps_CKL = torch.exp(-0.5 * (offset_K1 / sigma_CL[:, None]).square())
    return taps_CKL / taps_CKL.sum(dim=1, keepdim=True)


def matrix_taps(resolution_CKL: Tensor) -> Tensor:
    """Return the taps of resolution matrices, from their diagonals.

    Beyond the ends, where a matrix has no columns, the last ones are repeated. Rows whose sum
    is far from 1, as they are around masked pixels, are those of the nearest pixel where it is
    not. Nothing else is changed: rows need not sum to 1.

    Args:
        resolution_CKL: Element k of column j belongs to row j + k - K // 2, shape (C, K, L).

    Returns:
        Shape (C, K, L), as in `Conditions.lsf`.
    """
    taps, pixels = resolution_CKL.shape[1:]
    columns = torch.arange(pixels) + torch.arange(taps)[:, None] - taps // 2
    columns = columns.clamp(0, pixels - 1).expand(resolution_CKL.shape)
    rows_CKL = resolution_CKL.flip(1).gather(2, columns)
    sound_CL = (rows_CKL.sum(dim=1) - 1).abs() < _FAR
    return torch.stack(
        [rows[:, _nearest(sound)] for rows, sound in zip(rows_CKL, sound_CL, strict=True)]
    )


def diagonals(lsf_CKL: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return line spread functions as matrices by their diagonals, without what is beyond the ends.

    Args:
        lsf_CKL: Tap k of pixel i weighs pixel i + k - K // 2, as in `Conditions.lsf`.

    Returns:
        Diagonals, shape (C, K, L), and their offsets K // 2, ..., -(K // 2), as `BandedLSF` and
        files of DESI have them: element k of column j is in row j - offsets[k].
    """
    taps, pixels = lsf_CKL.shape[1:]
    offsets = tuple(range(taps // 2, -(taps // 2) - 1, -1))
    data_CKL = torch.zeros_like(lsf_CKL)
    for k, offset in enumerate(offsets):
        rows = slice(max(0, -offset), max(0, min(pixels, pixels - offset)))
        columns = slice(rows.start + offset, rows.stop + offset)
        if rows.start < rows.stop:
            data_CKL[:, k, columns] = lsf_CKL[:, taps - 1 - k, rows]
    return data_CKL, offsets


def _nearest(wanted_L: Tensor) -> Tensor:
    """Return the nearest pixel that is wanted, shape (L,); the pixel itself if none is."""
    pixels = torch.arange(len(wanted_L))
    known = wanted_L.nonzero()[:, 0]
    if len(known) == 0:
        return pixels
    middle = (known[1:] + known[:-1]) / 2
    return known[torch.searchsorted(middle, pixels.to(middle))]
