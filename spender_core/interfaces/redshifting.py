"""Redshifts measured with a model: a scan of the whole range, then fits where it peaks.

Shapes: B spectra, L observed pixels, S latents, Z redshifts of the scan, C candidates, N fits,
at most C a spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntFlag
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from spender_core.interfaces.least_squares import (
    LONGEST,
    Fitted,
    Spectra,
    equations,
    linearised,
    minimise,
    newton,
    weighed,
    with_prior,
)
from spender_core.ops.resample import coordinate_device
from spender_core.ops.scanning import Scan, peaks

if TYPE_CHECKING:
    from spender_core.batch import SpectrumBatch
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model

APART = 0.003
"""Two redshifts are different solutions where they differ by more than this times 1 + z."""
CANDIDATES = 5
"""Peaks of the scan that are compared, each with its own latents."""
STEPS = 12
"""Most steps of the fits."""
_LEAST_PIXELS = 20
_SMALL_GAIN = 15.0
_POOR = 0.1
_NOISE = 4.0
_BROAD = 1e-3
_TOLERANCE = 0.02
_CHUNK = 32
_HOPELESS = 150.0


class ZFlag(IntFlag):
    """What is doubtful about a measured redshift, as bits of `Redshifts.flags`."""

    SECOND = 1
    """Another redshift fits nearly as well: `delta_chi2`, over the reduced chi square where that
    is above 1, is below 15."""
    EDGE = 2
    """The best redshift is at an end of the range that was searched: the true one may be beyond."""
    NO_FIT = 4
    """There is nothing to fit: too few good pixels that the model reaches, or no positive
    amplitude anywhere. z is NaN."""
    POOR_FIT = 8
    """The model leaves more than 10 percent (root mean square, weighted) of the spectrum
    unexplained, beyond its noise: perhaps of another class of objects, or spoiled."""
    BROAD = 16
    """zerr is above 0.001 (1 + z)."""

    @property
    def causes(self) -> list[str]:
        """The bits that are set, in words."""
        return [_CAUSES[flag] for flag in ZFlag if flag in self]


_CAUSES = {
    ZFlag.SECOND: "another redshift fits nearly as well",
    ZFlag.EDGE: "at an end of the range searched",
    ZFlag.NO_FIT: "nothing to fit",
    ZFlag.POOR_FIT: "the model does not describe the spectrum",
    ZFlag.BROAD: "uncertain by more than 0.001 (1 + z)",
}


@dataclass(frozen=True)
class Redshifts:
    """Redshifts measured with a model. Columns are on the device of the model.

    Attributes:
        z: Redshifts, shape (B,), float64; NaN where there is nothing to fit.
        zerr: Their uncertainties, shape (B,): of least squares, and at least what the residuals
            say where they scatter by more than their noise. Infinite where z is NaN.
        second: Redshift of the second-best solution, shape (B,); NaN where there is none.
        delta_chi2: By how much the second-best costs more, shape (B,); infinite where none.
        chi2: Reduced chi square of the best, shape (B,); NaN where z is.
        flags: Bits of `ZFlag`, shape (B,), int64; 0 where nothing is doubtful.
        latents: Latents of the best fit, shape (B, S); those of the encoder where z is NaN.
        grid: Redshifts at which `log_posterior` is, shape (Z,), float64.
        log_posterior: Natural logarithm of the probability that z is in the step about each
            redshift of the grid, shape (B, Z), where all steps are equally likely beforehand;
            shape (B, 0) unless asked for. Amplitudes are at their best; latents are those of the fit.
    """

    z: Tensor
    zerr: Tensor
    second: Tensor
    delta_chi2: Tensor
    chi2: Tensor
    flags: Tensor
    latents: Tensor
    grid: Tensor
    log_posterior: Tensor

    def __len__(self) -> int:
        return len(self.z)

    @property
    def good(self) -> Tensor:
        """Where no flag is set, bool (B,)."""
        return self.flags == 0

    def causes(self, row: int) -> list[str]:
        """Return in words what is doubtful about one redshift."""
        return ZFlag(int(self.flags[row])).causes

    @classmethod
    def cat(cls, parts: Iterable[Self]) -> Self:
        """Join those of several batches that were searched alike."""
        parts = list(parts)
        rows = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        grid = rows.pop("grid")[0]
        return cls(grid=grid, **{name: torch.cat(columns) for name, columns in rows.items()})


@torch.no_grad()
def measured(
    model: Model,
    batch: SpectrumBatch,
    instrument: Instrument,
    scan: Scan,
    prior: float,
    finest: Scan | None = None,
) -> Redshifts:
    """Measure redshifts as `Model.redshift` says.

    Args:
        model: The model.
        batch: Spectra, on its device; their redshifts are not looked at.
        instrument: Which observed them.
        scan: Of the range of redshifts.
        prior: Standard deviation of latents about those of the encoder.
        finest: A scan of the same range with an amplitude alone, if the posterior is wanted.
    """
    if len(batch) == 0:
        return _nothing(model, batch, instrument, scan, finest is not None)
    starts = range(0, len(batch), _CHUNK)
    chunks = (batch[start : start + _CHUNK] for start in starts)
    return Redshifts.cat(_measure(model, part, instrument, scan, prior, finest) for part in chunks)


def _nothing(
    model: Model, batch: SpectrumBatch, instrument: Instrument, scan: Scan, posterior: bool
) -> Redshifts:
    """Return the redshifts of no spectra, which transforms refuse."""
    grid_Z = scan.z.to(coordinate_device(batch.flux.device))
    none_B = grid_Z.new_empty(0)
    flags_B = torch.empty(0, dtype=torch.int64, device=grid_Z.device)
    s_BS = model.encode(batch, instrument)
    log_BZ = grid_Z.new_empty(0, len(grid_Z) if posterior else 0)
    columns = (none_B, none_B, none_B, none_B, none_B)
    return Redshifts(*columns, flags_B, s_BS, grid_Z, log_BZ)


def _measure(
    model: Model,
    batch: SpectrumBatch,
    instrument: Instrument,
    scan: Scan,
    prior: float,
    finest: Scan | None,
) -> Redshifts:
    s_BS = model.encode(batch, instrument)
    lsf = model.lsf_of(batch)
    spectra = Spectra(model, instrument, batch.flux, batch.ivar, s_BS, prior, lsf)
    data = scan.spectra(spectra.flux, spectra.weight)
    gain_BZ = scan.gain(data, model.decode(s_BS)).nan_to_num(0.0)
    grid_Z = scan.z.to(coordinate_device(gain_BZ.device))
    place_BC, height_BC = peaks(gain_BZ, CANDIDATES, round(APART / scan.step))
    candidates = _compared(spectra, grid_Z[place_BC.to(grid_Z.device)], height_BC)
    best, other_cost_B, other_z_B = _two_fits(spectra, candidates)
    log_BZ = torch.empty(len(batch), 0, dtype=torch.float64, device=grid_Z.device)
    if finest is not None:
        log_BZ = _log_posterior(spectra, best, finest)
    return _Found(spectra, best, other_z_B, other_cost_B).result(grid_Z, log_BZ)


@dataclass(frozen=True)
class _Candidates:
    """Peaks of the scan, the one that is expected to cost least first.

    Attributes:
        z: Shape (B, C), float64.
        cost: As expected after a step of least squares, shape (B, C); infinite where none is.
        s: Latents after that step, shape (B, C, S).
    """

    z: Tensor
    cost: Tensor
    s: Tensor


def _compared(spectra: Spectra, z_BC: Tensor, height_BC: Tensor) -> _Candidates:
    """Order candidates by what they cost after one step of least squares, as it is expected."""
    model, start = spectra.model, spectra.start
    slopes = model.decode_slopes(start)
    costs, steps = [], []
    for z_B, height_B in zip(z_BC.unbind(1), height_BC.unbind(1), strict=True):
        at = weighed(spectra, start, z_B, spectra.observe(slopes[0], z_B))
        made = equations(spectra, at, free_z=True, slopes=slopes)
        step_BP = newton(made)
        gain_B = (step_BP * made.right).sum(dim=1)
        there_B = (at.factor > 0) & height_B.isfinite()
        cost_B = at.cost.to(gain_B) - gain_B
        costs.append(torch.where(there_B.to(cost_B.device), cost_B, torch.inf))
        steps.append(step_BP)
    cost_BC = torch.stack(costs, dim=1)
    order_BC = cost_BC.argsort(dim=1, stable=True)
    step_BCP = torch.stack(steps, dim=1)
    step_BCP = step_BCP.gather(1, order_BC[..., None].expand_as(step_BCP))
    s_BCS = start[:, None] + step_BCP[..., : start.shape[1]].to(start.device, start.dtype)
    order_BC = order_BC.to(z_BC.device)
    shift_BC = step_BCP[..., -1].to(z_BC)
    z_BC = (1 + z_BC.gather(1, order_BC)) * shift_BC.clamp(-LONGEST, LONGEST).exp() - 1
    return _Candidates(z_BC, cost_BC.to(z_BC.device).gather(1, order_BC), s_BCS)


def _two_fits(spectra: Spectra, found: _Candidates) -> tuple[Fitted, Tensor, Tensor]:
    """Fit the two best candidates; return the better, and cost and redshift of the other.

    A second one that is far from being as good as the first is not fitted: what it costs is what
    was expected of it.
    """

    def arrive(k: int, rows_B: Tensor) -> Fitted:
        s_BS, z_B = found.s[rows_B, k], found.z[rows_B, k]
        return minimise(spectra[rows_B], s_BS, z_B, STEPS, free_z=True, tolerance=_TOLERANCE)

    every_B = torch.arange(len(found.z), device=found.z.device)
    first = arrive(0, every_B)
    cost_B, z_B = found.cost[:, 1].clone(), found.z[:, 1].clone()
    pixels_B = (spectra.weight > 0).sum(dim=1).clamp(min=1)
    hopeless_B = _HOPELESS * (first.chi2 / pixels_B).clamp(min=1).to(cost_B)
    rows_B = (cost_B < first.cost.to(cost_B) + hopeless_B).nonzero()[:, 0]
    if len(rows_B) == 0:
        return first, cost_B, z_B
    second = arrive(1, rows_B)
    better, swapped_B = first[rows_B].better_of(second)
    cost_B[rows_B] = torch.where(swapped_B, first.cost[rows_B], second.cost).to(cost_B)
    z_B[rows_B] = torch.where(swapped_B.to(z_B.device), first.z[rows_B], second.z)
    return first.with_rows(rows_B, better), cost_B, z_B


@dataclass(frozen=True)
class _Found:
    """The best fit of each spectrum, and what the other one costs."""

    spectra: Spectra
    best: Fitted
    other_z: Tensor
    other_cost: Tensor

    def result(self, grid_Z: Tensor, log_BZ: Tensor) -> Redshifts:
        """Return what is told of it, with flags."""
        best, spectra = self.best, self.spectra
        zerr_B = _uncertainty(spectra, best).to(best.z) * (1 + best.z)
        pixels_B = ((spectra.weight > 0) & (best.y != 0)).sum(dim=1)
        reduced_B = best.chi2 / (pixels_B - 2 - best.s.shape[1]).clamp(min=1)
        fitted_B = (pixels_B >= _LEAST_PIXELS) & (best.factor > 0) & best.cost.isfinite()
        none_B = (~fitted_B).to(best.z.device)
        nan = float("nan")
        delta_B = (self.other_cost - best.cost).double()
        apart_B = ((self.other_z - best.z).abs() > APART * (1 + best.z)) & ~none_B
        delta_B = delta_B.masked_fill(~(apart_B.to(delta_B.device)), torch.inf)
        power_B = (spectra.weight * spectra.flux.square()).sum(dim=1)
        noise_B = pixels_B + _NOISE * (2 * pixels_B).sqrt()
        excess_B = (best.chi2 - noise_B).clamp(min=0) / (power_B - pixels_B).clamp(min=1)
        at_edge_B = (best.z <= grid_Z[0]) | (best.z >= grid_Z[-1])
        where = {
            ZFlag.SECOND: delta_B < _SMALL_GAIN * reduced_B.clamp(min=1).to(delta_B),
            ZFlag.EDGE: at_edge_B & ~none_B,
            ZFlag.NO_FIT: none_B,
            ZFlag.POOR_FIT: (excess_B.sqrt() > _POOR) & fitted_B,
            ZFlag.BROAD: (zerr_B > _BROAD * (1 + best.z)) & ~none_B,
        }
        flags_B = torch.zeros(len(best.z), dtype=torch.int64, device=best.z.device)
        for flag, there_B in where.items():
            flags_B |= int(flag) * there_B.to(flags_B)
        return Redshifts(
            best.z.masked_fill(none_B, nan),
            zerr_B.masked_fill(none_B, torch.inf),
            self.other_z.masked_fill(~apart_B, nan),
            delta_B,
            reduced_B.double().masked_fill(~fitted_B, nan),
            flags_B,
            torch.where(fitted_B[:, None], best.s, spectra.start),
            grid_Z,
            log_BZ,
        )


def _uncertainty(spectra: Spectra, best: Fitted) -> Tensor:
    """Return the standard deviation of ln(1 + z), shape (B,), float64.

    The larger of that of least squares, which believes in the noise, and of that in which each
    pixel is as uncertain as its residual (White 1980, Econometrica 48, 817).
    """
    jacobian_BPL, residual_BL = linearised(spectra, best, free_z=True)
    gram_BPP = with_prior(jacobian_BPL @ jacobian_BPL.mT, spectra.prior, best.s.shape[1])
    jacobian_BPL *= residual_BL[:, None]
    scatter_BPP = with_prior(jacobian_BPL @ jacobian_BPL.mT, spectra.prior, best.s.shape[1])
    ridge_BP = gram_BPP.diagonal(dim1=1, dim2=2).clamp(min=1e-30) * 1e-12
    inverse_BPP: Tensor = torch.linalg.inv(gram_BPP + torch.diag_embed(ridge_BP))
    row_BP = inverse_BPP[:, -1]
    robust_B = ((row_BP[:, None] @ scatter_BPP)[:, 0] * row_BP).sum(dim=1)
    return torch.maximum(row_BP[:, -1], robust_B).clamp(min=0).sqrt()


def _log_posterior(spectra: Spectra, best: Fitted, scan: Scan) -> Tensor:
    """Return the logarithm of the probability in each step of the scan, shape (B, Z).

    The restframe is that of the best fit. Steps are wider than its peak: what that holds between
    two of them is added by the method of Laplace.
    """
    data = scan.spectra(spectra.flux, spectra.weight)
    gain_BZ = scan.gain(data, spectra.model.decode(best.s)).nan_to_num(0.0)
    width_B = _uncertainty(spectra, best)
    log_BZ = 0.5 * gain_BZ.to(width_B)
    power_B = (spectra.weight * spectra.flux.square()).sum(dim=1)
    mass_B = (math.sqrt(2 * math.pi) / scan.step * width_B).clamp(min=1e-30).log()
    mass_B = mass_B + 0.5 * (power_B - best.chi2).to(mass_B)
    steps_Z = scan.z.log1p().to(mass_B)
    nearest_B = ((best.z.to(mass_B).log1p() - steps_Z[0]) / scan.step).round().long()
    nearest_B1 = nearest_B.clamp(0, len(steps_Z) - 1)[:, None]
    peak_B1 = torch.maximum(log_BZ.gather(1, nearest_B1), mass_B[:, None])
    log_BZ = log_BZ.scatter(1, nearest_B1, peak_B1)
    return log_BZ - log_BZ.logsumexp(dim=1, keepdim=True)
