"""Gaussians, each pixel with its own width.

The taps of pixel j are T_t = exp(-t^2 / (2 sigma_j^2)) / S, for displacements t, with S their
sum, so that flux is kept. With a = (t^2 - <t^2>) / sigma^3, where <...> is the mean over the taps,
their derivatives with respect to sigma are T a and T (a^2 - 3 a / sigma - v / sigma^6), where
v = <t^4> - <t^2>^2.

Shapes: B spectra, L pixels, K taps, M sets of widths; row r takes the set r % M.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.ops.lsf import compiled
from spender_core.ops.lsf.banded import chunks, product, working_type
from spender_core.ops.lsf.folding import fold, fold_parameter, in_turns, total, unfold

_REACH = {torch.float32: 6.0, torch.float64: 8.5}
"""Widths at which taps end: 2e-9 and 2e-17 of the flux lies beyond."""
_SHARPEST = 0.02
"""Widths below this, in pixels, count as this: exp(-1 / (2 * 0.02^2)) is 0."""

_LONGEST = 4
"""Spectra that a Gaussian may be long, on either side; a bound for widths that make no sense."""


def convolve_gaussian(y_BL: Tensor, sigma: Tensor, widest: float | None = None) -> Tensor:
    """Spread the flux of each pixel over its neighbours, by a Gaussian of the pixel's own width.

    The width is that at the input pixel, from which light comes. Taps are taken at the middles
    of pixels, as in the column `wdisp` of SDSS, and divided by their sum, so that flux is kept,
    but for what goes beyond the ends. A width of 0 leaves a pixel as it is.

    Args:
        y_BL: Spectra, shape (B, L).
        sigma: Standard deviations, shape (B, L), or (L,) for all spectra alike, in pixels, much
            fewer than there are. They are converted to the type of `y_BL`.
        widest: Largest of them, if it is known; on a GPU, the host otherwise waits for it.

    Returns:
        Spectra, shape (B, L), in the type of `y_BL`. Gradients flow to both arguments, to
        sigma up to the second.

    Raises:
        InputError: Shapes do not fit.
    """
    sigma_ML = sigma[None] if sigma.ndim == 1 else sigma
    if y_BL.ndim != 2 or sigma_ML.ndim != 2 or sigma_ML.shape[1] != y_BL.shape[1]:
        raise InputError(
            f"spectra must have shape (B, L) and widths (B, L) or (L,), got {tuple(y_BL.shape)} "
            f"and {tuple(sigma.shape)}"
        )
    if sigma.ndim == 2 and len(sigma) != len(y_BL):
        raise InputError(f"widths of {len(sigma)} spectra for {len(y_BL)}; give them for each")
    common = working_type(y_BL, sigma)
    made = _differentiable_spread(sigma_ML.to(common), y_BL.to(common), 0, False, widest)
    return made.to(y_BL.dtype)


def spread(
    sigma_ML: Tensor, y_BL: Tensor, order: int, transposed: bool, widest: float | None
) -> Tensor:
    """Apply Gaussians, or derivatives of them by sigma, or transposes, without gradients."""
    own = len(sigma_ML) > 1 or len(y_BL) == 1
    if own and order < 2 and compiled.available(sigma_ML, y_BL):
        return compiled.gaussian(sigma_ML, y_BL, _REACH[y_BL.dtype], order, transposed)
    out_BL = torch.empty_like(y_BL, memory_format=torch.contiguous_format)
    matrices = len(sigma_ML)
    y_QML, out_QML = in_turns(y_BL, matrices), in_turns(out_BL, matrices)
    for _, m in chunks(y_QML[:1]):
        part_QML = y_QML[:, m]
        data_MKL = _taps(sigma_ML[m], order, widest)
        radius = data_MKL.shape[1] // 2
        offsets = tuple(range(radius, -radius - 1, -1))
        rows_BL = part_QML.reshape(-1, y_BL.shape[1])
        out_QML[:, m] = product(data_MKL, rows_BL, offsets, transposed).view_as(part_QML)
    return out_BL


def _taps(sigma_ML: Tensor, order: int, widest: float | None) -> Tensor:
    """Return taps or their derivatives by sigma, shape (M, K, L), K odd, as diagonals."""
    sigma_M1L = sigma_ML.abs().clamp(min=_SHARPEST)[:, None]
    if widest is None:
        widest = float(sigma_M1L.nan_to_num(0.0).max()) if sigma_ML.numel() else 0.0
    far, longest = _REACH[sigma_ML.dtype] * widest, _LONGEST * sigma_ML.shape[1]
    radius = math.floor(far) + 1 if far < longest else longest
    step_K = torch.arange(-radius, radius + 1, dtype=sigma_ML.dtype, device=sigma_ML.device)
    square_K1 = step_K[:, None].square()
    tap_MKL = (square_K1 / sigma_M1L.square()).mul_(-0.5).exp_()
    tap_MKL /= tap_MKL.sum(dim=1, keepdim=True)
    if order == 0:
        return tap_MKL
    mean_M1L = (tap_MKL * square_K1).sum(dim=1, keepdim=True)
    slope_MKL = (square_K1 - mean_M1L) / sigma_M1L**3
    if order == 1:
        return tap_MKL * slope_MKL
    spread_M1L = (tap_MKL * (square_K1 - mean_M1L).square()).sum(dim=1, keepdim=True)
    bend_MKL = slope_MKL.square() - 3 * slope_MKL / sigma_M1L - spread_M1L / sigma_M1L**6
    return tap_MKL * bend_MKL


class _Spread(torch.autograd.Function):
    """`spread`, differentiable: linear in the spectra, its derivatives by sigma the next orders."""

    @staticmethod
    def forward(
        sigma_ML: Tensor, y_BL: Tensor, order: int, transposed: bool, widest: float | None
    ) -> Tensor:
        if order > 2:
            raise InputError("Gaussians can be differentiated twice with respect to their widths")
        return spread(sigma_ML, y_BL, order, transposed, widest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        sigma_ML, y_BL, ctx.order, ctx.transposed, ctx.widest = inputs
        ctx.save_for_backward(sigma_ML, y_BL)
        ctx.save_for_forward(sigma_ML, y_BL)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        sigma_ML, y_BL = ctx.saved_tensors
        (g_BL,) = cotangents
        to_sigma = to_y = None
        if g_BL is not None and ctx.needs_input_grad[0]:
            source_BL, seen_BL = (g_BL, y_BL) if ctx.transposed else (y_BL, g_BL)
            gathered_BL = _differentiable_spread(sigma_ML, seen_BL, ctx.order + 1, True, ctx.widest)
            to_sigma = in_turns(source_BL * gathered_BL, len(sigma_ML)).sum(dim=0)
        if g_BL is not None and ctx.needs_input_grad[1]:
            to_y = _differentiable_spread(sigma_ML, g_BL, ctx.order, not ctx.transposed, ctx.widest)
        return to_sigma, to_y, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        sigma_ML, y_BL = ctx.saved_tensors
        by_sigma_ML, by_y_BL = tangents[:2]
        spread_by = partial(_differentiable_spread, sigma_ML)
        terms = []
        if by_y_BL is not None:
            terms.append(spread_by(by_y_BL, ctx.order, ctx.transposed, ctx.widest))
        if by_sigma_ML is not None:
            turns = len(y_BL) // max(len(sigma_ML), 1)
            wider_BL = by_sigma_ML.repeat(turns, 1)
            if ctx.transposed:
                made = wider_BL * spread_by(y_BL, ctx.order + 1, True, ctx.widest)
            else:
                made = spread_by(wider_BL * y_BL, ctx.order + 1, False, ctx.widest)
            terms.append(made)
        return total(terms)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        sigma, y, *others = inputs
        sigma_ML, own = fold_parameter(sigma, in_dims[0])
        y_BL = fold(y, in_dims[1], info.batch_size, own)
        made = _differentiable_spread(sigma_ML, y_BL, *others)
        return unfold(made, info.batch_size, own), 0


_differentiable_spread: Callable[..., Tensor] = _Spread.apply
