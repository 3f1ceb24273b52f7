"""Latents that fit a spectrum best, beginning with those of the encoder.

An encoder maps spectra to latents in one step, for all of them at once; what it misses, a few
steps of least squares on the spectrum itself recover, where its redshift is known.

Shapes: B spectra, L observed pixels, R restframe pixels, S latents.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spender_core.ops.normalize import amplitude
from spender_core.ops.resample import coordinate_device

if TYPE_CHECKING:
    from spender_core.batch import SpectrumLSF
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model

PRIOR = 1.0
"""Standard deviation, about the encoder's latents, that keeps unconstrained ones where they are."""
_FIRST_DAMPING = 1e-2
_TURNS = 3.0, 10.0  # of the damping, after a step that helped and after one that did not


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

    def observe(x_BR: Tensor) -> Tensor:
        return model.transform(x_BR, instrument, z_B, lsf)[0]

    s_BS, damping_B = start_BS, torch.full_like(z_B, _FIRST_DAMPING)
    y_BL, factor_B, cost_B = _fit(observe(model.decode(s_BS)), flux_BL, weight_BL)
    cost_B = cost_B.clone()
    for _ in range(steps):
        gram_BSS, right_BS = _normal_equations(
            model.decode, observe, s_BS, y_BL, factor_B, flux_BL, weight_BL
        )
        gram_BSS = gram_BSS + torch.eye(s_BS.shape[1]).to(gram_BSS) / prior**2
        right_BS = right_BS - (s_BS - start_BS).to(right_BS) / prior**2
        diagonal_BS = gram_BSS.diagonal(dim1=1, dim2=2)
        damped_BSS = gram_BSS + torch.diag_embed(damping_B[:, None].to(gram_BSS) * diagonal_BS)
        trial_BS = s_BS + torch.linalg.solve(damped_BSS, right_BS).to(s_BS)
        y_trial_BL, factor_trial_B, chi2_B = _fit(
            observe(model.decode(trial_BS)), flux_BL, weight_BL
        )
        cost_trial_B = chi2_B + ((trial_BS - start_BS) / prior).square().sum(dim=1)
        better_B = cost_trial_B < cost_B
        s_BS = torch.where(better_B[:, None], trial_BS, s_BS)
        y_BL = torch.where(better_B[:, None], y_trial_BL, y_BL)
        factor_B = torch.where(better_B, factor_trial_B, factor_B)
        cost_B = torch.where(better_B, cost_trial_B, cost_B)
        eased, raised = _TURNS
        damping_B = torch.where(better_B, damping_B / eased, damping_B * raised)
    return s_BS


def _fit(y_BL: Tensor, flux_BL: Tensor, weight_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return models, their best amplitudes (B,), and the chi squares (B,)."""
    factor_B = amplitude(y_BL, flux_BL, weight_BL)
    residual_BL = flux_BL - factor_B[:, None] * y_BL
    return y_BL, factor_B, (weight_BL * residual_BL.square()).sum(dim=1)


def _normal_equations(
    decode: Callable[[Tensor], Tensor],
    observe: Callable[[Tensor], Tensor],
    s_BS: Tensor,
    y_BL: Tensor,
    factor_B: Tensor,
    flux_BL: Tensor,
    weight_BL: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the normal equations of a step, the amplitude eliminated: (B, S, S) and (B, S)."""
    root_BL = weight_BL.sqrt()
    slope_SBL = _slopes(lambda s: observe(decode(s)), s_BS)
    jacobian_BSL = slope_SBL.transpose(0, 1) * (factor_B[:, None] * root_BL)[:, None]
    own_BL = torch.nn.functional.normalize(y_BL * root_BL, dim=1)
    along_BS = (jacobian_BSL @ own_BL[:, :, None])[:, :, 0]
    jacobian_BSL = jacobian_BSL - along_BS[:, :, None] * own_BL[:, None]
    residual_BL = (flux_BL - factor_B[:, None] * y_BL) * root_BL
    gram_BSS = jacobian_BSL @ jacobian_BSL.mT
    right_BS = (jacobian_BSL @ residual_BL[:, :, None])[:, :, 0]
    home = coordinate_device(s_BS.device)
    return gram_BSS.to(home, torch.float64), right_BS.to(home, torch.float64)


def _slopes(function: Callable[[Tensor], Tensor], s_BS: Tensor) -> Tensor:
    """Return the derivatives of spectra along each of the latents, shape (S, B, L)."""

    def along(unit_S: Tensor) -> Tensor:
        slope_BL: Tensor = torch.func.jvp(function, (s_BS,), (unit_S.expand_as(s_BS),))[1]
        return slope_BL

    with warnings.catch_warnings(), _no_inference_mode():
        # torch warns of its own use of torch.jit.script
        warnings.simplefilter("ignore", DeprecationWarning)
        s_BS = s_BS.clone()
        slopes_SBL: Tensor = torch.func.vmap(along)(torch.eye(s_BS.shape[1]).to(s_BS))
    return slopes_SBL


@contextmanager
def _no_inference_mode() -> Iterator[None]:
    """Leave inference mode, in which torch 2.6 has no rule for a batch of forward derivatives."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
