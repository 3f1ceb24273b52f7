"""Rebin measured spectra on another grid, on the host, keeping their flux."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def rebin(
    edges: FloatArray, flux: FloatArray, ivar: FloatArray, new_edges: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Average spectra over new pixels, weighting old pixels by their overlap.

    A new pixel is the overlap-weighted mean of the good old pixels (ivar > 0) that it
    covers, so that the integrated flux is kept where nothing is masked. Its variance is
    propagated from theirs; correlations between new pixels are not tracked, so that on a
    finer grid the information counts more than once. The rule is
    that of Carnall (2017, arXiv:1705.05165), with masked pixels left out.

    Args:
        edges: Edges of the old pixels, shape (M + 1,), Angstrom.
        flux: Flux densities, shape (B, M).
        ivar: Inverse variances, shape (B, M); 0 where masked.
        new_edges: Edges of the new pixels, shape (L + 1,), Angstrom.

    Returns:
        flux and ivar on the new pixels, shape (B, L). A new pixel of which less than
        half is covered by good pixels has flux 0 and ivar 0.
    """
    pieces = np.union1d(edges, new_edges)
    pieces = pieces[
        (pieces >= max(edges[0], new_edges[0])) & (pieces <= min(edges[-1], new_edges[-1]))
    ]
    shape = (len(flux), len(new_edges) - 1)
    if len(pieces) < 2:
        return np.zeros(shape), np.zeros(shape)
    middle, width = 0.5 * (pieces[1:] + pieces[:-1]), np.diff(pieces)
    old = np.searchsorted(edges, middle) - 1
    new = np.searchsorted(new_edges, middle) - 1
    good = ivar > 0
    variance = np.divide(1.0, ivar, out=np.zeros_like(ivar, dtype=np.float64), where=good)

    def total(values: FloatArray) -> FloatArray:
        return np.stack([np.bincount(new, row, minlength=shape[1]) for row in values])

    overlap = np.where(good[:, old], width, 0.0)
    covered = total(overlap)
    enough = covered > 0.5 * np.diff(new_edges)
    scale = np.where(enough, covered, 1.0)
    mean = total(overlap * flux[:, old]) / scale
    spread = total(_merged(overlap, old, new) ** 2 * variance[:, old]) / scale**2
    inverse = np.divide(1.0, spread, out=np.zeros(shape), where=enough & (spread > 0))
    return np.where(enough, mean, 0.0), inverse


def _merged(overlap: FloatArray, old: NDArray[np.intp], new: NDArray[np.intp]) -> FloatArray:
    """Give all pieces of one (old, new) pair of pixels their summed width, on the first.

    Edges that agree up to rounding cut a pair into several pieces; their widths add
    before they are squared, since they share one measurement.
    """
    starts = np.flatnonzero(np.r_[True, (np.diff(old) != 0) | (np.diff(new) != 0)])
    merged = np.zeros_like(overlap)
    merged[:, starts] = np.add.reduceat(overlap, starts, axis=1)
    return merged
