"""Least squares on spectra, by latents and, if asked, by redshift, the amplitude eliminated.

Shapes: B spectra, L observed pixels, R restframe pixels, S latents, P parameters: S, or S + 1
with the redshift as the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from spender_core.ops.normalize import amplitude
from spender_core.ops.resample import coordinate_device

if TYPE_CHECKING:
    from spender_core.batch import SpectrumLSF
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model

_FIRST_DAMPING = 1e-2
_TURNS = 3.0, 10.0  # of the damping, after a step that helped and after one that did not
LONGEST = 1e-3
"""Of a step in ln(1 + z), 300 km/s: beyond it a line is no longer under the line it is fitted to."""


@dataclass(frozen=True)
class Spectra:
    """Spectra to fit, and what is held while latents and redshifts change.

    Attributes:
        model: Decodes and observes; its decoder must be differentiable.
        instrument: Which observed them.
        flux: Shape (B, L).
        weight: Inverse variances, 0 where masked or not reached, shape (B, L).
        start: Latents about which the prior is, shape (B, S).
        prior: Standard deviation of the prior, the same for all latents.
        lsf: Line spread function of each spectrum, if the model uses it.
    """

    model: Model
    instrument: Instrument
    flux: Tensor
    weight: Tensor
    start: Tensor
    prior: float
    lsf: SpectrumLSF | None

    def __getitem__(self, rows: Tensor) -> Self:
        """Select spectra by their rows, some perhaps many times."""
        return replace(
            self,
            flux=self.flux[rows],
            weight=self.weight[rows],
            start=self.start[rows],
            lsf=None if self.lsf is None else self.lsf[rows.cpu()],
        )

    def observe(self, x_BR: Tensor, z_B: Tensor) -> Tensor:
        """Return restframe spectra (B, R) as the instrument sees them, shape (B, L)."""
        return self.model.observe(x_BR, self.instrument, z_B, self.lsf)[0]

    def penalty(self, s_BS: Tensor) -> Tensor:
        """Return what latents cost by the prior, shape (B,)."""
        return ((s_BS - self.start) / self.prior).square().sum(dim=1)


@dataclass(frozen=True)
class Fitted:
    """Where least squares arrived.

    Attributes:
        s: Latents, shape (B, S).
        z: Redshifts, shape (B,), float64.
        y: Models as observed, without their amplitude, shape (B, L).
        factor: Amplitudes, shape (B,).
        chi2: Chi squares, shape (B,).
        cost: Chi squares and what the prior adds, shape (B,).
    """

    s: Tensor
    z: Tensor
    y: Tensor
    factor: Tensor
    chi2: Tensor
    cost: Tensor

    def __getitem__(self, rows: Tensor) -> Self:
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def better_of(self, other: Fitted) -> tuple[Self, Tensor]:
        """Return for each spectrum which of two costs less, and where that is the other."""
        better_B = other.cost < self.cost

        def chosen(name: str) -> Tensor:
            own, others = getattr(self, name), getattr(other, name)
            return torch.where(better_B.reshape(-1, *[1] * (own.ndim - 1)), others, own)

        return replace(self, **{f.name: chosen(f.name) for f in fields(self)}), better_B

    def with_rows(self, rows: Tensor, other: Fitted) -> Self:
        """Return a copy in which some rows are those of another."""

        def put(name: str) -> Tensor:
            return getattr(self, name).index_copy(0, rows, getattr(other, name))  # type: ignore[no-any-return]

        return replace(self, **{f.name: put(f.name) for f in fields(self)})


@dataclass(frozen=True)
class Equations:
    """Normal equations about some latents and redshifts, float64, amplitudes eliminated.

    Attributes:
        gram: Shape (B, P, P), the prior included.
        right: Shape (B, P), likewise.
    """

    gram: Tensor
    right: Tensor


def evaluate(spectra: Spectra, s_BS: Tensor, z_B: Tensor) -> Fitted:
    """Return how well some latents at some redshifts fit."""
    y_BL = spectra.observe(spectra.model.decode(s_BS), z_B)
    return weighed(spectra, s_BS, z_B, y_BL)


def weighed(spectra: Spectra, s_BS: Tensor, z_B: Tensor, y_BL: Tensor) -> Fitted:
    """Return how well models as observed, shape (B, L), fit with their best amplitudes."""
    factor_B = amplitude(y_BL, spectra.flux, spectra.weight)
    residual_BL = spectra.flux - factor_B[:, None] * y_BL
    chi2_B = (spectra.weight * residual_BL.square()).sum(dim=1)
    cost_B = chi2_B + spectra.penalty(s_BS)
    return Fitted(s_BS, z_B, y_BL, factor_B, chi2_B, cost_B)


def equations(
    spectra: Spectra, at: Fitted, free_z: bool, slopes: tuple[Tensor, Tensor] | None = None
) -> Equations:
    """Return the normal equations of a step from where a fit is.

    Args:
        spectra: What to fit.
        at: Where the fit is.
        free_z: Whether the redshift, as ln(1 + z), is the last of the parameters.
        slopes: `Model.decode_slopes` of the latents there, if they are at hand.
    """
    jacobian_BPL, residual_BL = linearised(spectra, at, free_z, slopes)
    gram_BPP = jacobian_BPL @ jacobian_BPL.mT
    right_BP = (jacobian_BPL @ residual_BL[:, :, None])[:, :, 0]
    gram_BPP = with_prior(gram_BPP, spectra.prior, at.s.shape[1])
    right_BP = right_BP.to(gram_BPP)
    away_BS = (at.s - spectra.start).to(right_BP)
    right_BP[:, : away_BS.shape[1]] -= away_BS / spectra.prior**2
    return Equations(gram_BPP, right_BP)


def with_prior(gram_BPP: Tensor, prior: float, latents: int) -> Tensor:
    """Return a Gram matrix of slopes in float64, where there is such, with the prior of latents."""
    gram_BPP = gram_BPP.to(coordinate_device(gram_BPP.device), torch.float64)
    gram_BPP.diagonal(dim1=1, dim2=2)[:, :latents] += prior**-2
    return gram_BPP


def linearised(
    spectra: Spectra, at: Fitted, free_z: bool, slopes: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return slopes and residuals in units of the noise, shapes (B, P, L) and (B, L).

    The amplitude is that of the best fit at any latents (Kaufman 1975, BIT 15, 49).
    """
    root_BL = spectra.weight.sqrt()
    x_BR, slopes_SBR = spectra.model.decode_slopes(at.s) if slopes is None else slopes
    along = [*slopes_SBR, _shifted(spectra, x_BR)] if free_z else [*slopes_SBR]
    scale_BL = root_BL * at.factor[:, None]
    jacobian_BPL = root_BL.new_empty(len(root_BL), len(along), root_BL.shape[1])
    for index, slope_BR in enumerate(along):
        torch.mul(spectra.observe(slope_BR, at.z), scale_BL, out=jacobian_BPL[:, index])
    own_BL = torch.nn.functional.normalize(at.y * root_BL, dim=1)
    along_BP = (jacobian_BPL @ own_BL[:, :, None])[:, :, 0]
    jacobian_BPL.baddbmm_(along_BP[:, :, None], own_BL[:, None], alpha=-1)
    return jacobian_BPL, (spectra.flux - at.factor[:, None] * at.y) * root_BL


def _shifted(spectra: Spectra, x_BR: Tensor) -> Tensor:
    """Return the derivative of restframe spectra by ln(1 + z) at a fixed observed wavelength."""
    log_R = torch.tensor(spectra.model.rest.wave).log().to(x_BR.dtype).to(x_BR.device)
    slope_BR = torch.zeros_like(x_BR)
    torch.sub(x_BR[:, :-2], x_BR[:, 2:], out=slope_BR[:, 1:-1])
    slope_BR[:, 1:-1] /= log_R[2:] - log_R[:-2]
    return slope_BR


def minimise(
    spectra: Spectra, s_BS: Tensor, z_B: Tensor, steps: int, free_z: bool, tolerance: float = 0.0
) -> Fitted:
    """Go from latents and redshifts to those of least squares, by the Levenberg-Marquardt method.

    A step that does not lower the cost is not taken, so that the result is never worse than the
    start.

    Args:
        spectra: What to fit.
        s_BS: Latents to begin with, shape (B, S).
        z_B: Redshifts to begin with, shape (B,), float64.
        steps: Most trials.
        free_z: Whether the redshift is fitted too.
        tolerance: A spectrum is done when a step is expected to lower its cost by less.
    """
    best = evaluate(spectra, s_BS, z_B)
    rows_B = torch.arange(len(z_B), device=z_B.device)
    damping_B = torch.full((len(z_B),), _FIRST_DAMPING, dtype=torch.float64)
    active, here = spectra, best
    for _ in range(steps):
        made = equations(active, here, free_z)
        damping_B = damping_B.to(made.gram.device)
        step_BP = newton(made, damping_B)
        if free_z:
            step_BP[:, -1].clamp_(-LONGEST, LONGEST)
        expected_B = (step_BP * made.right).sum(dim=1)
        if tolerance:
            open_B = (expected_B > tolerance).to(rows_B.device)
            if not bool(open_B.any()):
                break
            if not bool(open_B.all()):
                keep = open_B.nonzero()[:, 0]
                rows_B, active, here = rows_B[keep], active[keep], here[keep]
                at_home = keep.to(made.gram.device)
                step_BP, damping_B = step_BP[at_home], damping_B[at_home]
        size = here.s.shape[1]
        s_trial = here.s + step_BP[:, :size].to(here.s.device, here.s.dtype)
        z_trial = here.z
        if free_z:
            z_trial = (1 + z_trial) * step_BP[:, size].to(z_trial).exp() - 1
        here, better_B = here.better_of(evaluate(active, s_trial, z_trial))
        eased, raised = _TURNS
        better_B = better_B.to(damping_B.device)
        damping_B = torch.where(better_B, damping_B / eased, damping_B * raised)
        best = here if len(rows_B) == len(best.cost) else best.with_rows(rows_B, here)
    return best


def newton(made: Equations, damping_B: Tensor | float = 0.0) -> Tensor:
    """Return the step of least squares, shape (B, P), damped by shares of the diagonal."""
    diagonal_BP = made.gram.diagonal(dim1=1, dim2=2)
    floor_B1 = 1e-12 * diagonal_BP.amax(dim=1, keepdim=True) + 1e-30
    added_BP = torch.as_tensor(damping_B).reshape(-1, 1).to(diagonal_BP) * diagonal_BP + floor_B1
    step_BP: Tensor = torch.linalg.solve(made.gram + torch.diag_embed(added_BP), made.right)
    return step_BP


def slopes_of(decode: Callable[[Tensor], Tensor], s_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Decode latents, and differentiate along each of them by torch: (B, R) and (S, B, R)."""

    def along(unit_S: Tensor) -> Tensor:
        slope_BR: Tensor = torch.func.jvp(decode, (s_BS,), (unit_S.expand_as(s_BS),))[1]
        return slope_BR

    with warnings.catch_warnings(), _no_inference_mode():
        # torch warns of its own use of torch.jit.script
        warnings.simplefilter("ignore", DeprecationWarning)
        s_BS = s_BS.clone()
        slopes_SBR: Tensor = torch.func.vmap(along)(torch.eye(s_BS.shape[1]).to(s_BS))
    return decode(s_BS), slopes_SBR


@contextmanager
def _no_inference_mode() -> Iterator[Any]:
    """Leave inference mode, in which torch 2.6 has no rule for a batch of forward derivatives."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
