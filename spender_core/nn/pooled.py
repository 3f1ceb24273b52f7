"""The first block of the encoder: convolution of a spectrum, normalised, activated and pooled.

Spectra have one channel and the block makes many, so that the outputs of its convolution are by
far the largest tensor of a naive encoder. They are never stored: mean and variance of the outputs
of a convolution with taps w are w m and w C w, from the mean m of the K shifted copies of the
spectrum and their covariance C; and the pooling comes first, one phase of the windows at a time
(see `nn.blocks`). The backward pass computes the phases again.

Shapes: B spectra, L pixels, O channels, K taps; the pooling's windows have K pixels too. X rows,
one for each window of a piece of work and one more for each spectrum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spender_core.nn.blocks import low_is_larger, prelu_last, take_first, through_prelu
from spender_core.ops.first_order import first_order

PIECE = 4
"""Spectra of a piece of work, which stays in the cache."""


def pieces(n_batch: int) -> list[slice]:
    """Return the spectra of each piece of work."""
    return [slice(i, min(i + PIECE, n_batch)) for i in range(0, n_batch, PIECE)]


def tap_moments(x_BL: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return means (B, K), and means of products (B, K, K), of what each tap sees, in float64."""
    length = x_BL.shape[1]
    shifted_BKL = F.pad(x_BL.double(), (taps // 2, taps // 2)).unfold(1, length, 1)
    return shifted_BKL.mean(dim=2), shifted_BKL @ shifted_BKL.transpose(1, 2) / length


def tap_statistics(x_BL: Tensor, weight_OK: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance over pixels of convolutions, padded by zeros, shape (B, O).

    The sums are in float64; the results have the type of the spectra.
    """
    parts = [tap_moments(x_BL[piece], weight_OK.shape[1]) for piece in pieces(len(x_BL))]
    mean_BK, moment_BKK = (torch.cat(part) for part in zip(*parts, strict=True))
    covariance_BKK = moment_BKK - mean_BK[:, :, None] * mean_BK[:, None]
    weight = weight_OK.double()
    variance_BO = ((weight @ covariance_BKK) * weight).sum(dim=2)
    return (mean_BK @ weight.T).to(x_BL.dtype), variance_BO.to(x_BL.dtype)


class Phases:
    """Spectra as the taps see them, one pixel of every window at a time.

    Args:
        x_BL: Spectra.
        taps: Number K of taps, odd.
    """

    def __init__(self, x_BL: Tensor, taps: int) -> None:
        self.taps, (n_batch, self.length) = taps, x_BL.shape
        self.windows = -(-self.length // taps)
        self.rows = self.windows + 1
        self.flat = x_BL.new_zeros((n_batch * self.rows + 1) * taps)
        self.spectra(self.flat).copy_(x_BL)

    def spectra(self, flat: Tensor) -> Tensor:
        """Return the place of the spectra, (B, L), in a tensor like `flat`.

        Windows begin K // 2 pixels before the spectrum, and their taps K // 2 before them.
        """
        padded = flat[: -self.taps].view(-1, self.rows * self.taps)
        return padded[:, self.taps - 1 : self.taps - 1 + self.length]

    def inputs(self, flat: Tensor, piece: slice, phase: int) -> Tensor:
        """Return a view of what the taps see in one phase of some spectra, shape (X, K)."""
        n_rows = (piece.stop - piece.start) * self.rows
        offset = piece.start * self.rows * self.taps + phase
        return flat.as_strided((n_rows, self.taps), (self.taps, 1), offset)

    def outputs(self, weight_OK: Tensor, piece: slice) -> Tensor:
        """Return the convolution of some spectra, shape (K, B, W + 1, O); the last W is void."""
        count, weight_KO = piece.stop - piece.start, weight_OK.T.contiguous()
        y_KBWO = weight_OK.new_empty(self.taps, count, self.rows, len(weight_OK))
        for phase in range(self.taps):
            rows_XK = self.inputs(self.flat, piece, phase)
            torch.mm(rows_XK, weight_KO, out=y_KBWO[phase].view(-1, len(weight_OK)))
        return y_KBWO

    def fill_outside(self, y_KBWO: Tensor, value: float) -> None:
        """Set the outputs that belong to no pixel."""
        y_KBWO[: self.taps // 2, :, 0] = value
        y_KBWO[self.length + self.taps // 2 - (self.windows - 1) * self.taps :, :, -2] = value

    def chosen(self, y_KBWO: Tensor, mean_BO: Tensor, slope_O: Tensor) -> Tensor:
        """Return the output of each window of which the PReLU is largest, (B, W + 1, O)."""
        self.fill_outside(y_KBWO, -torch.inf)
        u_BWO = y_KBWO.amax(dim=0)
        falling = slope_O < 0
        if bool(falling.any()):
            self.fill_outside(y_KBWO, torch.inf)
            low, high = y_KBWO[..., falling].amin(dim=0), u_BWO[..., falling]
            mean = mean_BO[:, None, falling]
            low_wins = low_is_larger(low - mean, high - mean, slope_O[falling])
            u_BWO[..., falling] = torch.where(low_wins, low, high)
        return u_BWO


class FirstBlock(torch.autograd.Function):
    """The first block, given the mean and the variance of its convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BL: Tensor,
        weight_OK: Tensor,
        bias_O: Tensor,
        slope_O: Tensor,
        mean_BO: Tensor,
        variance_BO: Tensor,
        eps: float,
    ) -> Tensor:
        """Return the windows, shape (B, W, O); see `first_block`."""
        phases = Phases(x_BL, weight_OK.shape[1])
        scale_BO = (variance_BO + eps).rsqrt()
        out_BWO = x_BL.new_empty(len(x_BL), phases.windows, len(slope_O))
        for piece in pieces(len(x_BL)):
            y_KBWO = phases.outputs(weight_OK, piece)
            u_BWO = phases.chosen(y_KBWO, mean_BO[piece], slope_O)[:, :-1]
            n_BWO = u_BWO.sub_(mean_BO[piece, None]).mul_(scale_BO[piece, None])
            out_BWO[piece] = prelu_last(n_BWO, slope_O)
        ctx.save_for_backward(x_BL, weight_OK, slope_O, mean_BO, scale_BO)
        return out_BWO

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_BWO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, from that of the windows."""
        x_BL, weight_OK, slope_O, mean_BO, scale_BO = ctx.saved_tensors
        phases = Phases(x_BL, weight_OK.shape[1])
        grad_flat = torch.zeros_like(phases.flat) if ctx.needs_input_grad[0] else None
        grad_weight, grad_slope = torch.zeros_like(weight_OK), torch.zeros_like(slope_O)
        grad_mean, grad_variance = torch.empty_like(mean_BO), torch.empty_like(mean_BO)
        for piece in pieces(len(grad_BWO)):
            scale = scale_BO[piece, None]
            y_KBWO = phases.outputs(weight_OK, piece)
            u_BWO = phases.chosen(y_KBWO, mean_BO[piece], slope_O)
            v_BWO = u_BWO[:, :-1] - mean_BO[piece, None]
            grad_u, share_O = through_prelu(grad_BWO[piece], v_BWO, scale, slope_O)
            grad_slope += share_O
            grad_mean[piece] = -grad_u.sum(dim=1)
            # of scale = (variance + eps)^(-1/2)
            grad_variance[piece] = (grad_u * v_BWO).sum(dim=1) * scale[:, 0].square() / -2
            left = F.pad(grad_u, (0, 0, 0, 1))
            for phase in range(phases.taps):
                taken_XO = take_first(left, y_KBWO[phase], u_BWO).view(-1, len(slope_O))
                grad_weight += taken_XO.T @ phases.inputs(phases.flat, piece, phase)
                if grad_flat is not None:
                    phases.inputs(grad_flat, piece, phase).add_(taken_XO @ weight_OK)
        grad_x = None if grad_flat is None else phases.spectra(grad_flat)
        return (
            grad_x,
            grad_weight,
            torch.zeros_like(slope_O),
            grad_slope,
            grad_mean,
            grad_variance,
            None,
        )


def first_block(
    x_BL: Tensor, weight_OK: Tensor, bias_O: Tensor, slope_O: Tensor, eps: float
) -> Tensor:
    """Return pool(prelu(norm(conv(x)))) of spectra, shape (B, W, O), with W = ceil(L / K).

    Args:
        x_BL: Spectra.
        weight_OK: Taps of each channel, an odd number; the pooling's windows are as long.
        bias_O: Has no effect, since it is normalised away; its gradient is 0.
        slope_O: Slopes of the PReLU below 0.
        eps: Added to variances.
    """
    mean_BO, variance_BO = tap_statistics(x_BL, weight_OK)
    out_BWO: Tensor = FirstBlock.apply(  # type: ignore[no-untyped-call]
        x_BL, weight_OK, bias_O, slope_O, mean_BO, variance_BO, eps
    )
    return out_BWO
