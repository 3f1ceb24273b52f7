"""Observe sources with an instrument: redshift, broaden, add noise and what goes wrong.

Shapes: B objects, L observed pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.artefacts import (
    Artefacts,
    Fluxing,
    Hits,
    Record,
    draw_blends,
    draw_hits,
)
from spender_core.datasets.mock.broadening import LogShift, place
from spender_core.datasets.mock.conditions import Conditions, KnownLSF
from spender_core.datasets.mock.sources import Draw, Sources
from spender_core.errors import InputError, RedshiftError
from spender_core.interfaces.instrument import Instrument

_CHUNK = 16
"""Spectra exposed together: their arrays stay in the cache."""
_DARK = 1e-30
"""What counts as no flux."""


@dataclass(frozen=True)
class Observed:
    """Spectra as an instrument took them, and the truth.

    Attributes:
        batch: The spectra, normalised and masked as if they had been read from files, with the
            line spread function of each if it was asked for.
        truth: Their flux without noise, sky residuals, fluxing errors, cosmic rays and
            blends, but broadened, in the units of `batch`, shape (B, L); 0 where the
            restframe of the source does not reach.
        sources: What was observed.
        condition: Which of the conditions gave noise, mask and LSF, shape (B,), int64.
        record: What went wrong.
    """

    batch: SpectrumBatch
    truth: Tensor
    sources: Sources
    condition: Tensor
    record: Record


def observe(
    sources: Sources,
    instrument: Instrument,
    conditions: Conditions,
    generator: torch.Generator,
    snr: tuple[float, float] | Tensor | None = None,
    artefacts: Artefacts | None = None,
    noiseless: bool = False,
    lsf: KnownLSF = False,
) -> Observed:
    """Observe sources with an instrument.

    The inverse variance is what a pipeline would tell: that of the sky and the detector,
    and of the object's own photons. Sky residuals, fluxing errors and unmasked cosmic rays
    are not in it.

    Args:
        sources: What to observe; every object needs a redshift above -1.
        instrument: With which grid and mask.
        conditions: How it observes; each object draws one of them, and the sky residual of
            another.
        generator: Source of randomness: the same state gives the same bytes.
        snr: Wanted median of flux over sigma, without noise, over the pixels that count (with
            data and off sky lines): one value an object, shape (B,), or a range from which it
            is drawn log-uniformly. None takes the restframe flux to be in 1e-17
            erg/s/cm2/Angstrom.
        artefacts: How much goes wrong; the defaults of `Artefacts` if None.
        noiseless: Leave out noise and all that goes wrong with the flux; the inverse
            variance (but for the photons of blends), the masks and what was drawn for them
            stay as they would be.
        lsf: Put the line spread function of each spectrum into `batch.lsf`: True for the one
            that is applied, K numbers a pixel; "gaussian" for its widths alone, if it is a
            Gaussian (`Conditions.known_lsf`).

    Raises:
        InputError: The conditions are not of this instrument, or `snr` is not positive, or they
            have no widths.
        RedshiftError: A redshift is unknown or not above -1.
    """
    artefacts = Artefacts() if artefacts is None else artefacts
    _check(sources, instrument, conditions)
    shift = LogShift(sources.grid, instrument.grid, conditions.lsf.shape[1] // 2)
    plan = _Plan(sources, instrument, conditions, shift, generator, snr, artefacts)
    truth_BL = place(sources.restframe, sources.z, shift, conditions.lsf, plan.condition)
    batches = []
    for first in range(0, len(sources), _CHUNK):
        rows = slice(first, first + _CHUNK)
        flux_BL, ivar_BL = plan.expose(rows, truth_BL, noiseless)
        z_B = sources.z[rows]
        raw = SpectrumBatch(flux_BL, ivar_BL, z_B, torch.zeros_like(z_B), instrument=instrument)
        batches.append(instrument.prepare(raw))
    batch = SpectrumBatch.cat(batches)
    if lsf is not False:
        batch = batch.replace(lsf=conditions.known_lsf(plan.condition, lsf))
    truth_BL /= batch.norm[:, None].float()
    return Observed(batch, truth_BL, sources, plan.condition, plan.record())


class _Plan:
    """All that is drawn before a pixel is computed, and what follows from it for a few rows."""

    def __init__(
        self,
        sources: Sources,
        instrument: Instrument,
        conditions: Conditions,
        shift: LogShift,
        generator: torch.Generator,
        snr: tuple[float, float] | Tensor | None,
        artefacts: Artefacts,
    ) -> None:
        n, pixels = len(sources), instrument.grid.size
        draw = Draw(n, generator)
        self.conditions, self.generator = conditions, generator
        mask = instrument.mask
        self.keep_L = None if mask is None else torch.from_numpy(~mask).float()
        self.first, self.after = shift.reach(sources.z)
        self.condition = (draw.uniform() * len(conditions)).long().clamp(max=len(conditions) - 1)
        self.sky = (draw.uniform() * len(conditions)).long().clamp(max=len(conditions) - 1)
        self.noise = torch.exp(draw.normal(0.0, artefacts.noise))
        self.residual = draw.normal(0.0, artefacts.residuals)
        self.snr = _wanted(snr, draw)
        self.blend, self.share = draw_blends(n, artefacts, generator)
        self.hits: Hits = draw_hits(n, pixels, artefacts, generator)
        self.fluxing = Fluxing(n, instrument.wave, conditions.seams, artefacts, generator)

    def expose(self, rows: slice, clean_BL: Tensor, noiseless: bool) -> tuple[Tensor, Tensor]:
        """Return flux and ivar of some of the spectra, shape (rows, L).

        Args:
            rows: Which.
            clean_BL: All spectra without noise, since some shine into others; those asked for
                are scaled in place to their signal-to-noise ratio, and 0 where not reached.
            noiseless: As in `observe`.
        """
        which, how = self.condition[rows], self.conditions
        noise_B1, own_BL = self.noise[rows, None], clean_BL[rows]
        variance_BL, photons_BL = (t.index_select(0, which) for t in (how.variance, how.photons))
        weight_BL = self._trim(rows, how.weight.index_select(0, which))
        self._trim(rows, own_BL)
        if self.snr is not None:
            ratio_B1 = (self.snr * self.noise)[rows, None]
            own_BL *= self._amplitude(own_BL, variance_BL, photons_BL, weight_BL, ratio_B1)[:, None]
        light_BL = own_BL if noiseless else self._blended(rows, clean_BL)
        variance_BL.addcmul_(photons_BL, light_BL.clamp(min=0)).mul_(noise_B1.square())
        ivar_BL = weight_BL.div_(variance_BL)
        row, pixel, height, masked = self._hits(rows)
        ivar_BL[row[masked], pixel[masked]] = 0
        if noiseless:
            return light_BL.clone(), ivar_BL
        sigma_BL = variance_BL.sqrt_()
        flux_BL = torch.randn(light_BL.shape, generator=self.generator).mul_(sigma_BL)
        flux_BL.addcmul_(light_BL, self.fluxing.factor(rows))
        strength_B1 = (self.residual * self.noise)[rows, None]
        flux_BL.addcmul_(how.residual.index_select(0, self.sky[rows]), strength_B1)
        # two cosmic rays may hit one pixel
        flux_BL.index_put_((row, pixel), height * sigma_BL[row, pixel], accumulate=True)
        return self._trim(rows, flux_BL.mul_(how.covered.index_select(0, which))), ivar_BL

    def _amplitude(
        self,
        flux_BL: Tensor,
        variance_BL: Tensor,
        photons_BL: Tensor,
        weight_BL: Tensor,
        ratio_B1: Tensor,
    ) -> Tensor:
        """Return the factors that give spectra the wanted medians of flux over sigma, shape (B,).

        A pixel of flux f, sky variance v and photon variance p a f has the ratio q at the
        amplitude a = q (q p + sqrt(q^2 p^2 + 4 v)) / (2 f). As its ratio grows with a, the
        median of the ratios is q where a is the median of these amplitudes.
        """
        counted_BL = weight_BL if self.keep_L is None else weight_BL * self.keep_L
        photon_BL = photons_BL * ratio_B1
        root_BL = photon_BL.square().add_(variance_BL, alpha=4).sqrt_()
        # a pixel without flux, or that does not count, reaches the ratio at no amplitude
        bright_BL = (flux_BL * counted_BL).clamp_(min=_DARK)
        amplitude_BL = root_BL.add_(photon_BL).mul_(ratio_B1 / 2).div_(bright_BL)
        return _median(amplitude_BL, counted_BL.sum(dim=1))

    def _trim(self, rows: slice, values_BL: Tensor) -> Tensor:
        """Set pixels that the sources do not reach to 0, in place."""
        ends = zip(self.first[rows].tolist(), self.after[rows].tolist(), strict=True)
        for values_L, (first, after) in zip(values_BL, ends, strict=True):
            values_L[:first] = 0
            values_L[after:] = 0
        return values_BL

    def _blended(self, rows: slice, clean_BL: Tensor) -> Tensor:
        """Return spectra with the light of other objects, of which only the shape counts."""
        light_BL, blend_B = clean_BL[rows], self.blend[rows]
        guests = (blend_B >= 0).nonzero()[:, 0].tolist()
        if guests:
            light_BL = light_BL.clone()
        for row in guests:
            other_L = clean_BL[blend_B[row]]
            brightness = other_L.mean()
            if brightness > 0:
                scale = self.share[rows][row] * light_BL[row].mean() / brightness
                light_BL[row].add_(other_L * scale)
        return light_BL

    def _hits(self, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the hits of some rows: row among them, pixel, height, masked."""
        ends = torch.searchsorted(self.hits.row, torch.tensor([rows.start, rows.stop]))
        part = slice(*ends.tolist())
        row = self.hits.row[part] - rows.start
        return row, self.hits.pixel[part], self.hits.height[part], self.hits.masked[part]

    def record(self) -> Record:
        """Return what went wrong."""
        left = ~self.hits.masked
        struck = torch.stack([self.hits.row[left], self.hits.pixel[left]], dim=1)
        return Record(self.blend, self.share, struck, self.noise, self.residual)


def _median(values_BL: Tensor, count_B: Tensor) -> Tensor:
    """Return the upper medians of the `count` smallest values of each row; 1 if unbounded.

    The upper median of amplitudes belongs to the lower median of ratios, `SpectrumBatch.snr`.
    """
    places = [int(count) // 2 for count in count_B.tolist()]
    medians = [np.partition(row, k)[k] for row, k in zip(values_BL.numpy(), places, strict=True)]
    median_B = torch.from_numpy(np.array(medians, dtype=np.float32))
    return torch.where(median_B < 1e-6 / _DARK, median_B, 1.0)


def _wanted(snr: tuple[float, float] | Tensor | None, draw: Draw) -> Tensor | None:
    if snr is None:
        return None
    if isinstance(snr, Tensor):
        if snr.shape != (draw.n,) or not bool(((snr > 0) & snr.isfinite()).all()):
            raise InputError(
                f"snr must be finite and > 0, one value for each of {draw.n} objects, got shape "
                f"{tuple(snr.shape)}; or give a range (low, high)"
            )
        return snr.float()
    low, high = snr
    if not 0 < low <= high < math.inf:
        raise InputError(f"snr must be a range with 0 < low <= high, not {snr!r}")
    return low * (high / low) ** draw.uniform()


def _check(sources: Sources, instrument: Instrument, conditions: Conditions) -> None:
    if len(sources) == 0:
        raise InputError("there are no sources to observe; draw at least one")
    pixels = conditions.variance.shape[1]
    if pixels != instrument.grid.size:
        raise InputError(
            f"the conditions have {pixels} pixels, {instrument.name} has {instrument.grid.size}; "
            "make them with Conditions.parametric or from_files for this instrument"
        )
    bad = (~((sources.z > -1) & sources.z.isfinite())).nonzero()[:, 0].tolist()
    if bad:
        raise RedshiftError(
            f"objects need finite redshifts above -1 to be observed; rows {bad[:5]} have none. "
            "Give some with sources.at(z)"
        )
