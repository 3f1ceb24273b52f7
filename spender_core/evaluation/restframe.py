"""Error of the restframe that a model reconstructs, where it was observed and beyond.

Shapes: B objects, M pixels of the truth's grid, R of the model's, L observed, W bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.evaluation.measures import Mock, Truth
from spender_core.grid import Grid
from spender_core.interfaces import Instrument, Model
from spender_core.ops.redshift import redshift
from spender_core.ops.resample import interpolate

FloatArray = NDArray[np.float64]

BEYOND = 500.0
"""How far beyond either edge of the observed range the restframe is judged, Angstrom."""
WINDOWS = ("observed", "500 Å bluer", "500 Å redder")
"""Names of the windows: between the first and last good pixel, and beyond either."""


@dataclass(frozen=True)
class Restframes:
    """True and reconstructed restframe of the same objects, on one grid.

    Attributes:
        wave: Wavelengths, shape (R,), float64, Angstrom.
        model: Reconstructions in the units of the batch, shape (B, R).
        truth: Truths in the same units, shape (B, R), 0 where unknown.
        known: Where the truth is known, bool (R,).
        low: Restframe wavelength of the first good pixel of each, shape (B,); NaN if none is.
        high: That of the last one.
    """

    wave: Tensor
    model: Tensor
    truth: Tensor
    known: Tensor
    low: Tensor
    high: Tensor


def restframes(mock: Mock, model_BR: Tensor, rest: Grid, wave_obs: FloatArray) -> Restframes:
    """Bring the truth of mocks to the grid and the units of a model's reconstructions.

    Args:
        mock: The mocks.
        model_BR: Reconstructions with fitted amplitude, shape (B, R).
        rest: Their grid.
        wave_obs: Observed wavelengths, shape (L,), Angstrom.
    """
    wave = torch.tensor(rest.wave)
    nodes = torch.tensor(mock.sources.grid.wave)
    known = (wave >= nodes[0]) & (wave <= nodes[-1])
    truth_BR = torch.zeros_like(model_BR)
    points = wave[known].expand(len(model_BR), -1)
    truth_BR[:, known] = interpolate(mock.sources.restframe.to(model_BR), nodes, points)
    truth_BR *= amplitude_of(mock.sources, mock.truth, mock.batch, wave_obs)[:, None]
    low, high = observed_range(mock.batch, wave_obs)
    return Restframes(wave, model_BR, truth_BR, known, low, high)


def at_resolution(model: Model, instrument: Instrument, mock: Mock, model_BR: Tensor) -> Restframes:
    """Bring the truth of mocks to a model's reconstructions, at the resolution that they have.

    If the model applies no LSF of the instrument, its restframe holds the instrument's
    resolution, and the truth is as broadened by it where it was observed; else that of objects.

    Args:
        model: Whose reconstructions.
        instrument: What observed the mocks.
        mock: The mocks.
        model_BR: Reconstructions with fitted amplitude, shape (B, R).
    """
    rests = restframes(mock, model_BR, model.rest, instrument.wave)
    if instrument.name in model.lsf:
        return rests
    seen_BR, reached_BR = to_restframe(model, instrument, mock.truth, mock.batch.z)
    return replace(rests, truth=torch.where(reached_BR, seen_BR.to(rests.truth), rests.truth))


def to_restframe(
    model: Model, instrument: Instrument, values_BL: Tensor, z_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Interpolate on a model's restframe grid, (B, R), and tell where it is reached."""
    inverse_B = 1 / (1 + z_B.double()) - 1  # a redshift by the inverse factor
    return redshift(values_BL, torch.tensor(instrument.wave), model.wave_rest, inverse_B)


def amplitude_of(
    sources: Truth, truth_BL: Tensor, batch: SpectrumBatch, wave_obs: FloatArray
) -> Tensor:
    """Return what the restframe of each source is multiplied with in its batch, shape (B,).

    It is the ratio of the summed noiseless fluxes, with and without the instrument, since
    broadening keeps the sum.
    """
    bare_BL, valid_BL = redshift(
        sources.restframe.to(truth_BL), torch.tensor(sources.grid.wave), torch.tensor(wave_obs),
        sources.z,
    )  # fmt: skip
    used_BL = valid_BL & (batch.ivar > 0)
    total_B = (bare_BL * used_BL).double().sum(dim=1)
    seen_B = (truth_BL * used_BL).double().sum(dim=1)
    return (seen_B / torch.where(total_B == 0, torch.nan, total_B)).to(truth_BL)


def observed_range(batch: SpectrumBatch, wave_obs: FloatArray) -> tuple[Tensor, Tensor]:
    """Return the restframe wavelengths of first and last good pixel, shape (B,); NaN if none."""
    wave = torch.tensor(wave_obs)
    good_BL = batch.good
    first = good_BL.int().argmax(dim=1)
    last = good_BL.shape[1] - 1 - good_BL.flip(1).int().argmax(dim=1)
    none = ~good_BL.any(dim=1)
    stretch = 1 + batch.z.double()
    return (
        (wave[first] / stretch).masked_fill(none, torch.nan),
        (wave[last] / stretch).masked_fill(none, torch.nan),
    )


def errors(rests: Restframes, beyond: float = BEYOND) -> dict[str, FloatArray]:
    """Return mean |x - t| / mean t of each object in the windows `WINDOWS`, shape (B,).

    A window counts only where model and truth reach all of it; elsewhere the error is
    NaN, as it is where the mean of the truth is not positive.
    """
    bounds = {
        WINDOWS[0]: (rests.low, rests.high),
        WINDOWS[1]: (rests.low - beyond, rests.low),
        WINDOWS[2]: (rests.high, rests.high + beyond),
    }
    reach = rests.wave[rests.known]
    found = {}
    for name, (low, high) in bounds.items():
        if name == WINDOWS[0]:
            # judged where model and truth reach, since their grids decide what can be observed
            low, high = low.clamp(min=float(reach[0])), high.clamp(max=float(reach[-1]))
        inside_BR = (rests.wave >= low[:, None]) & (rests.wave <= high[:, None]) & rests.known
        whole = (low >= reach[0]) & (high <= reach[-1]) & inside_BR.any(dim=1)
        found[name] = _ratio(rests, inside_BR, whole)
    return found


def _ratio(rests: Restframes, inside_BR: Tensor, whole: Tensor) -> FloatArray:
    deviation = ((rests.model - rests.truth).abs() * inside_BR).double().sum(dim=1)
    level = (rests.truth * inside_BR).double().sum(dim=1)
    usable = whole & (level > 0)
    return (deviation / level.where(usable, torch.nan)).numpy()


def profile(rests: Restframes, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the error of each object in bins of wavelength, observed and not.

    Args:
        rests: The restframes.
        edges: Edges of the bins, shape (W + 1,), Angstrom, at least two pixels wide.

    Returns:
        mean |x - t| / mean t in bins that lie within the observed range, and in those
        that lie outside, shape (B, W) each; NaN elsewhere.
    """
    if not np.all(np.diff(edges) > 0):
        raise InputError("the edges of a profile must increase")
    place = torch.bucketize(rests.wave, torch.tensor(edges), right=True)
    use = rests.known & (place > 0) & (place < len(edges))
    index = place[use] - 1

    def total(values_BR: Tensor) -> Tensor:
        sums = torch.zeros(len(values_BR), len(edges) - 1, dtype=torch.float64)
        return sums.index_add_(1, index, values_BR[:, use].double())

    level = total(rests.truth)
    error = total((rests.model - rests.truth).abs()) / torch.where(level > 0, level, torch.nan)
    low, high = torch.tensor(edges[:-1]), torch.tensor(edges[1:])
    within = (low >= rests.low[:, None]) & (high <= rests.high[:, None])
    without = (high <= rests.low[:, None]) | (low >= rests.high[:, None])
    complete = (low >= rests.wave[rests.known][0]) & (high <= rests.wave[rests.known][-1])
    nan = torch.full_like(error, torch.nan)
    return (
        torch.where(within & complete, error, nan).numpy(),
        torch.where(without & complete, error, nan).numpy(),
    )
