"""Distances between all pairs of spectra of a batch, without a tensor of pairs and pixels.

Where all pairs weigh a pixel alike, distances follow from a matrix product; where the weight
belongs to the pair, the pairs are taken one row at a time. Both go through the pixels in pieces
that stay in the cache, and both compute the pieces again on the way back.

Shapes: N spectra, P pixels; C pixels of a piece; M spectra that follow one of the N.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spender_core.ops.first_order import first_order
from spender_core.ops.resample import on_host

PRODUCT_PIECE = 1 << 18
"""Values of one piece of a matrix product, in float64: 2 MiB, half of it read twice."""
PAIRS_PIECE = 1 << 17
"""Values of one piece of pairs; four such pieces are in use at a time."""
ELSEWHERE = 1 << 22
"""Values of a piece on a GPU, where each function costs a launch and 32 MiB are not missed."""
LEAST_WEIGHT = 1e-6
"""Weights up to this one count as masked, as in spender 0.3."""


def distances(x_NP: Tensor, weight_P: Tensor, scale_N: Tensor | None = None) -> Tensor:
    """Return the weighted squared distances `sum_P weight (x_i/scale_i - x_j/scale_j)**2`.

    They come from sums of squares and of products of two spectra. One of the spectra, whose
    highest pixel is the median of the batch, is taken off all, and the sums are in float64, so
    that the small difference of large sums is exact enough for float32 spectra that hardly
    differ; neither autocast nor TF32 has a say in it. Distances are exact to some 1e-15 of the
    squares of how far both spectra are from that one.

    Args:
        x_NP: Spectra, shape (N, P), any floating type.
        weight_P: Weights of the pixels, shape (P,), >= 0; no gradient flows to them.
        scale_N: What each spectrum is divided by, shape (N,); 1 if absent.

    Returns:
        Shape (N, N), symmetric, >= 0, with a diagonal of 0; in float64 where the device has it.
        Gradients flow to `x_NP` and `scale_N`, once.
    """
    scale_N = x_NP.new_ones(len(x_NP)) if scale_N is None else scale_N
    return _ProductDistances.apply(x_NP, scale_N, weight_P.detach())  # type: ignore[no-any-return, no-untyped-call]


def pair_distances(x_NP: Tensor, weight_NP: Tensor) -> Tensor:
    """Return mean squared distances in units of the error of each difference.

    That is `sum_P w (x_i - x_j)**2 / n` with `w = 1 / (1/weight_i + 1/weight_j)` over the n
    pixels in which both weights exceed `LEAST_WEIGHT`; 0 for pairs that share no pixel.

    Args:
        x_NP: Spectra, shape (N, P), finite, any floating type; half precision is computed in
            float32.
        weight_NP: Their inverse variances, shape (N, P), any floating type.

    Returns:
        Shape (N, N), symmetric, with a diagonal of 0; in float64 where the device has it.
        Gradients flow to `x_NP` and `weight_NP`, once; that of a masked weight is 0.
    """
    dtype = torch.promote_types(at_least_float32(x_NP), weight_NP.dtype)
    return _PairDistances.apply(x_NP.to(dtype), weight_NP.to(dtype))  # type: ignore[no-any-return, no-untyped-call]


def wide(device: torch.device) -> torch.dtype:
    """Return the type in which to sum on a device: float64 where it exists."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(values: Tensor) -> torch.dtype:
    """Return the type in which to compute a loss: half precision overflows at 65,504."""
    return torch.promote_types(values.dtype, torch.float32)


def _pieces(x_NP: Tensor, most: int, share: int = 1) -> Iterator[slice]:
    """Cut the pixels so that a piece of one in `share` rows has about `most` values on a host."""
    rows, pixels = -(-len(x_NP) // share), x_NP.shape[1]
    most = most if on_host(x_NP) else ELSEWHERE
    width = max(most // max(rows, 1), 64)
    for start in range(0, pixels, width):
        yield slice(start, min(start + width, pixels))


class _ProductDistances(torch.autograd.Function):
    """Distances by a matrix product; see `distances`."""

    @staticmethod
    def forward(ctx: Any, x_NP: Tensor, scale_N: Tensor, weight_P: Tensor) -> Tensor:
        middle_1 = _middle(x_NP, scale_N)
        ctx.save_for_backward(x_NP, scale_N, weight_P, middle_1)
        n = len(x_NP)
        dtype = wide(x_NP.device)
        gram_NN = torch.zeros(n, n, dtype=dtype, device=x_NP.device)
        share_N1, root_P = 1 / scale_N.to(dtype)[:, None], weight_P.to(dtype).sqrt()
        for piece in _pieces(x_NP, PRODUCT_PIECE):
            y_NC = x_NP[:, piece] * share_N1
            y_NC = (y_NC - y_NC[middle_1]).mul_(root_P[piece])
            gram_NN.addmm_(y_NC, y_NC.T)
        power_N = gram_NN.diagonal()
        square_NN = (power_N[:, None] + power_N) - (gram_NN + gram_NN.T)
        square_NN.fill_diagonal_(0)  # before a negative rounding error is cut off
        return square_NN.clamp_(min=0)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NP, scale_N, weight_P, middle_1 = ctx.saved_tensors
        n = len(x_NP)
        dtype = wide(x_NP.device)
        # d/dy_i sum_ij g_ij w (y_i - y_j)**2 = 2 w sum_j (g_ij + g_ji) (y_i - y_j)
        graph_NN = -2 * (grads[0] + grads[0].T).to(dtype)
        graph_NN.diagonal().sub_(graph_NN.sum(dim=1))
        grad_x_NP = torch.empty_like(x_NP)
        grad_scale_N = torch.zeros(n, dtype=dtype, device=x_NP.device)
        share_N1 = 1 / scale_N.to(dtype)[:, None]
        for piece in _pieces(x_NP, PRODUCT_PIECE):
            y_NC = x_NP[:, piece] * share_N1
            grad_NC = graph_NN @ (y_NC - y_NC[middle_1])
            grad_NC.mul_(weight_P[piece].to(dtype)).mul_(share_N1)
            grad_x_NP[:, piece] = grad_NC
            if ctx.needs_input_grad[1]:
                grad_scale_N -= (grad_NC * y_NC).sum(dim=1)
        return grad_x_NP, grad_scale_N.to(scale_N) if ctx.needs_input_grad[1] else None, None


class _PairDistances(torch.autograd.Function):
    """Distances with a weight for each pair; see `pair_distances`."""

    @staticmethod
    def forward(ctx: Any, x_NP: Tensor, weight_NP: Tensor) -> Tensor:
        n = len(x_NP)
        dtype = wide(x_NP.device)
        sum_NN = torch.zeros(n, n, dtype=dtype, device=x_NP.device)
        shared_NN = torch.zeros_like(sum_NN)
        for piece in _pieces(x_NP, PRODUCT_PIECE):
            good_NC = (weight_NP[:, piece] > LEAST_WEIGHT).to(dtype)
            shared_NN.addmm_(good_NC, good_NC.T)
        shared_NN.clamp_(min=1)
        part_NN = x_NP.new_zeros(n, n)
        for piece in _pieces(x_NP, PAIRS_PIECE, share=2):
            x_NC, variance_NC = x_NP[:, piece].contiguous(), _variance(weight_NP[:, piece])
            for i in range(n - 1):
                difference_MC, share_MC = _differences(x_NC, variance_NC, i)
                torch.sum(share_MC.mul_(difference_MC), dim=1, out=part_NN[i, i + 1 :])
            sum_NN += part_NN
        ctx.save_for_backward(x_NP, weight_NP, shared_NN)
        return (sum_NN + sum_NN.T) / shared_NN

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NP, weight_NP, shared_NN = ctx.saved_tensors
        n = len(x_NP)
        factor_NN = ((grads[0] + grads[0].T) / shared_NN).to(x_NP.dtype)
        grad_x_NP, grad_weight_NP = torch.zeros_like(x_NP), torch.zeros_like(weight_NP)
        for piece in _pieces(x_NP, PAIRS_PIECE, share=2):
            x_NC, variance_NC = x_NP[:, piece].contiguous(), _variance(weight_NP[:, piece])
            gx_NC, gv_NC = torch.zeros_like(x_NC), torch.zeros_like(variance_NC)
            for i in range(n - 1):
                _, share_MC = _differences(x_NC, variance_NC, i)
                scaled_MC = factor_NN[i, i + 1 :, None] * share_MC
                gx_NC[i].add_(scaled_MC.sum(dim=0))
                gx_NC[i + 1 :].sub_(scaled_MC)
                if ctx.needs_input_grad[1]:
                    scaled_MC.mul_(share_MC)
                    gv_NC[i].sub_(scaled_MC.sum(dim=0))
                    gv_NC[i + 1 :].sub_(scaled_MC)
            grad_x_NP[:, piece] = 2 * gx_NC
            # d(1/w)/dw; pixels with no weight have taken no part, and infinity times 0 is NaN
            slope_NC = torch.where(variance_NC.isinf(), 0, -variance_NC.square())
            grad_weight_NP[:, piece] = gv_NC * slope_NC
        return grad_x_NP, grad_weight_NP


def _middle(x_NP: Tensor, scale_N: Tensor) -> Tensor:
    """Return the row of a spectrum that is no outlier, shape (1,), or (0,) if there is none."""
    if not len(x_NP):
        return torch.zeros(0, dtype=torch.int64, device=x_NP.device)
    height_N = torch.maximum(x_NP.amax(dim=1), -x_NP.amin(dim=1)).to(wide(x_NP.device))
    middle = (height_N / scale_N.abs()).nanmedian(dim=0, keepdim=True)
    return torch.as_tensor(middle.indices)


def _variance(weight_NC: Tensor) -> Tensor:
    """Return the inverse of weights; infinity, which no pair survives, where they are masked."""
    return torch.where(weight_NC > LEAST_WEIGHT, 1 / weight_NC, torch.inf)


def _differences(x_NC: Tensor, variance_NC: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Return `x_i - x_j` for all j > i, and the same over the variance of this difference."""
    difference_MC = x_NC[i] - x_NC[i + 1 :]
    variance_MC = variance_NC[i] + variance_NC[i + 1 :]
    return difference_MC, torch.div(difference_MC, variance_MC, out=variance_MC)
