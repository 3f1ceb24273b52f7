"""Latents that fit a spectrum best, beginning with those of the encoder.

An encoder maps spectra to latents in one step, for all of them at once; what it misses, a few
steps of least squares on the spectrum itself recover, where its redshift is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spender_core.interfaces.least_squares import Spectra, minimise

if TYPE_CHECKING:
    from spender_core.batch import SpectrumLSF
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model

PRIOR = 1.0
"""Standard deviation, about the encoder's latents, that keeps unconstrained ones where they are."""


@torch.no_grad()
def refined(
    model: Model,
    flux_BL: Tensor,
    weight_BL: Tensor,
    instrument: Instrument,
    z_B: Tensor,
    start_BS: Tensor,
    steps: int,
    prior: float = PRIOR,
    lsf: SpectrumLSF | None = None,
) -> Tensor:
    """Return latents of least weighted squares, by the Levenberg-Marquardt method.

    Minimised is the chi square of the decoded spectrum with its best amplitude, plus
    ((s - start) / prior)^2. A step that does not lower it is not taken, so that the result is
    never worse than the start. Transforms are taken to be linear, as calibrations that multiply are.

    Args:
        model: Decodes and transforms; its decoder must be differentiable.
        flux_BL: Normalised spectra, shape (B, L).
        weight_BL: Inverse variances, 0 where masked or not reached, shape (B, L).
        instrument: Which observed them.
        z_B: Redshifts, shape (B,).
        start_BS: Latents to begin with, shape (B, S).
        steps: Number of trials.
        prior: Width of the prior, the same for all latents and in their own units, whatever their
            scale: a model whose latents scatter by much more than 1 needs a larger one.
        lsf: Line spread function of each spectrum, if the model uses it.

    Returns:
        Latents, shape (B, S).
    """
    spectra = Spectra(model, instrument, flux_BL, weight_BL, start_BS, prior, lsf)
    return minimise(spectra, start_BS, z_B, steps, free_z=False).s
