"""What `compare_mocks.py` measures of single pixels: masks, outliers, noise by wavelength.

Shapes: B spectra, L observed pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core import SpectrumBatch
from spender_core.datasets.mock.conditions import Conditions
from spender_core.interfaces import Instrument
from spender_core.plot import lines

FloatArray = NDArray[np.float64]

BINS = 14
"""Bins of wavelength in which noise is compared."""
WINDOW = 25
"""Good pixels of the running median."""
SMOOTH = 101
"""Pixels of the running median that is the light whose photons make noise."""
NEAR = 1500.0 / 299792.458
"""Distance from a line, in ln(wavelength), within which pixels are not judged."""


def pixels(batch: SpectrumBatch, instrument: Instrument) -> dict[str, FloatArray]:
    """Return, for each spectrum, what is wrong with its pixels, shape (B,) each.

    Pulls are (flux - running median) / sigma of good pixels away from lines.
    """
    wave = instrument.wave
    good_BL = batch.good.numpy()
    result: dict[str, list[float]] = {"masked, %": [], "beyond 5 sigma, %": []}
    result |= {"scatter of pulls": [], "correlation of neighbours": []}
    line = np.log([wave for wave, _, _ in lines()])
    for row in range(len(batch)):
        place = np.flatnonzero(good_BL[row])
        result["masked, %"].append(100 * float(1 - good_BL[row].mean()))
        flux = batch.flux[row].numpy()[place].astype(np.float64)
        root = np.sqrt(batch.ivar[row].numpy()[place].astype(np.float64))
        if len(place) < 10 * WINDOW:
            for name in list(result)[1:]:
                result[name].append(float("nan"))
            continue
        padded = np.pad(flux, WINDOW // 2, mode="reflect")
        median = np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1)
        pull = (flux - median) * root
        z = float(batch.z[row])
        if np.isfinite(z) and z > 0:
            rest = np.log(wave[place] / (1 + z))
            pull[np.abs(rest[:, None] - line).min(axis=1) < NEAR] = np.nan
        there = pull[np.isfinite(pull)]
        result["beyond 5 sigma, %"].append(100 * float(np.mean(np.abs(there) > 5)))
        result["scatter of pulls"].append(1.4826 * float(np.median(np.abs(there))))
        both = pull[:-1] * pull[1:]
        both = both[np.isfinite(both) & (np.diff(place) == 1) & (np.abs(both) < 16)]
        result["correlation of neighbours"].append(
            float(both.mean() / np.mean(there[np.abs(there) < 4] ** 2))
        )
    return {name: np.array(values) for name, values in result.items()}


def sigma_bins(batch: SpectrumBatch, instrument: Instrument) -> tuple[FloatArray, FloatArray]:
    """Return the middles of bins of wavelength, and the median sigma of each spectrum in them.

    Sigma is in the archive's units, shape (B, bins); NaN where nothing is seen.
    """
    wave = instrument.wave
    edges = np.linspace(wave[0], wave[-1] + 1e-6, BINS + 1)
    place = np.searchsorted(edges, wave, side="right") - 1
    sigma_BL = np.full(batch.flux.shape, np.nan)
    good = batch.good.numpy()
    sigma_BL[good] = batch.ivar.numpy()[good] ** -0.5
    sigma_BL *= batch.norm.numpy()[:, None]
    binned = np.full((len(batch), BINS), np.nan)
    for k in range(BINS):
        part = sigma_BL[:, place == k]
        seen = np.isfinite(part).sum(axis=1) > 10
        binned[seen, k] = np.nanmedian(part[seen], axis=1)
    return 0.5 * (edges[1:] + edges[:-1]), binned


def expected_sigma(
    batch: SpectrumBatch, instrument: Instrument, conditions: Conditions
) -> SpectrumBatch:
    """Return the batch with the noise that the conditions would give to its own light.

    The variance is the median over all conditions of variance + photons * flux.
    """
    ivar = torch.zeros_like(batch.ivar)
    for row in range(len(batch)):
        place = np.flatnonzero(batch.good[row].numpy())
        flux = batch.flux[row].numpy()[place].astype(np.float64) * float(batch.norm[row])
        padded = np.pad(flux, SMOOTH // 2, mode="reflect")
        light = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH), axis=1)
        photons, dark = conditions.photons[:, place], conditions.variance[:, place]
        variance = (dark + photons * torch.tensor(light).clamp(min=0)).median(dim=0).values
        ivar[row, place] = (float(batch.norm[row]) ** 2 / variance).to(ivar.dtype)
    return batch.replace(ivar=ivar)
