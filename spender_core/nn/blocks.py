"""Convolution, instance normalisation, PReLU and max pooling as one operation.

A block of the encoder is pool(prelu(norm(conv(x)))). Normalisation keeps the order of values, so
that the pooling may come first, while the outputs of the convolution are still in the cache;
everything after it is then as many times smaller as the pooling is long. For slopes a < 0, a PReLU
is not monotone, but its largest value in a window is at the largest or at the smallest input:
max prelu(v) = max(prelu(max v), prelu(min v)). The bias of the convolution drops out of the
normalisation. Channels come last, since all steps then work on long contiguous rows.

Shapes: B spectra, L pixels, C channels in, O channels out, K taps, W windows of the pooling; J
tiles, T outputs of a tile, Q windows of a tile, M products (see `nn.frequency`), X = B J.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spender_core.nn.frequency import (
    Tile,
    analyse,
    analyse_adjoint,
    best_tile,
    kernel_products,
    kernel_products_adjoint,
    n_tiles,
    transforms,
)
from spender_core.ops.first_order import first_order

COLUMNS = 256
"""Tiles of a piece of work: few enough for the cache, and enough for few and large steps, since
threads that wait for each other after many small ones lose their time on a busy machine."""


def tile_of(length: int, weight_OCK: Tensor, pool: int) -> Tile:
    """Return the tile with which so many pixels are convolved and pooled."""
    n_out, n_in, taps = weight_OCK.shape
    return best_tile(length + pool // 2, taps, pool, n_in, n_out)


class Layout:
    """Where the tiles, the windows of the pooling and the pixels of a block are.

    Tile 0 begins at the first window, `pool // 2` pixels before the first pixel.

    Args:
        length: Number L of pixels.
        weight_OCK: The taps, an odd number.
        pool: Length of the pooling's windows, odd; 1 for no pooling.
    """

    def __init__(self, length: int, weight_OCK: Tensor, pool: int) -> None:
        taps = weight_OCK.shape[2]
        self.length, self.pool, self.margin = length, pool, pool // 2
        self.windows = (length + 2 * self.margin - pool) // pool + 1
        self.tile = tile_of(length, weight_OCK, pool)
        self.tiles = n_tiles(length + self.margin, self.tile)
        self.per_tile = self.tile.outputs // pool
        self.before = taps // 2 + self.margin
        self.piece = max(1, COLUMNS // self.tiles)
        self.after = self.tiles * self.tile.outputs + taps - 1 - length - self.before

    def pieces(self, n_batch: int) -> list[slice]:
        """Return the spectra of each piece of work."""
        starts = range(0, n_batch, self.piece)
        return [slice(i, min(i + self.piece, n_batch)) for i in starts]

    def padded(self, x_BLC: Tensor, centre_BC: Tensor) -> Tensor:
        """Return inputs with the zeros around them, less their centre.

        What is normalised next does not depend on it, but rounding does.
        """
        n_batch, length, n_in = x_BLC.shape
        made = x_BLC.new_empty(n_batch, self.before + length + self.after, n_in)
        inside = slice(self.before, self.before + length)
        made[:, : inside.start] = made[:, inside.stop :] = -centre_BC[:, None]
        torch.sub(x_BLC, centre_BC[:, None], out=made[:, inside])
        return made

    def fill_outside(self, y_TBJO: Tensor, value: float) -> None:
        """Set the outputs that belong to no pixel."""
        y_TBJO[: self.margin, :, 0] = value
        end = self.length + self.margin - (self.tiles - 1) * self.tile.outputs
        y_TBJO[end:, :, -1] = value

    def as_windows(self, u_QBJO: Tensor) -> Tensor:
        """Return the windows in their order, shape (B, W, O)."""
        n_batch, n_out = u_QBJO.shape[1], u_QBJO.shape[3]
        return u_QBJO.permute(1, 2, 0, 3).reshape(n_batch, -1, n_out)[:, : self.windows]

    def as_tiles(self, u_BWO: Tensor) -> Tensor:
        """Return windows as the tiles hold them, shape (Q, B, J, O); 0 beyond the last."""
        n_batch, _, n_out = u_BWO.shape
        missing = self.tiles * self.per_tile - self.windows
        u_BJQO = F.pad(u_BWO, (0, 0, 0, missing)).view(n_batch, self.tiles, self.per_tile, n_out)
        return u_BJQO.permute(2, 0, 1, 3).contiguous()


def mean_output(x_BLC: Tensor, centre_BC: Tensor, weight_OCK: Tensor) -> Tensor:
    """Return the mean of the convolution of x - centre, shape (B, O), from sums of the inputs."""
    length, taps = x_BLC.shape[1], weight_OCK.shape[2]
    means = []
    for shift in range(-(taps // 2), taps // 2 + 1):
        missed = x_BLC[:, :shift] if shift > 0 else x_BLC[:, max(0, length + shift) :]
        means.append(-missed.sum(dim=1) / length)
    # the mean of all pixels is the centre
    mean_BO: Tensor = torch.einsum("kbc,ock->bo", torch.stack(means), weight_OCK)
    return mean_BO


def low_is_larger(low: Tensor, high: Tensor, slope_O: Tensor) -> Tensor:
    """Return where the PReLU of the smallest value of a window exceeds that of the largest."""
    return prelu_last(low, slope_O) > prelu_last(high, slope_O)


def pooled(y_TBJO: Tensor, layout: Layout, slope_O: Tensor) -> Tensor:
    """Return the value of each window at which its PReLU is largest, shape (Q, B, J, O)."""
    if layout.pool == 1:
        return y_TBJO
    windows = y_TBJO.unflatten(0, (-1, layout.pool))
    layout.fill_outside(y_TBJO, -torch.inf)
    u_QBJO: Tensor = windows.amax(dim=1)
    falling = slope_O < 0
    if bool(falling.any()):
        layout.fill_outside(y_TBJO, torch.inf)
        low, high = windows[..., falling].amin(dim=1), u_QBJO[..., falling]
        low_wins = low_is_larger(low, high, slope_O[falling])
        u_QBJO[..., falling] = torch.where(low_wins, low, high)
    u_QBJO[layout.windows - (layout.tiles - 1) * layout.per_tile :, :, -1] = 0
    return u_QBJO


def convolved(padded_BLC: Tensor, kernel_MCO: Tensor, mean_BO: Tensor, layout: Layout) -> Tensor:
    """Return the convolution less its mean, shape (T, B, J, O)."""
    n_batch, n_out = mean_BO.shape
    tile = layout.tile
    y_MXO = torch.bmm(analyse(padded_BLC, tile, layout.tiles), kernel_MCO)
    # frequency 0, of which the inverse transform is 1 / N everywhere
    y_MXO[0].view(n_batch, -1, n_out).sub_(tile.inputs * mean_BO[:, None])
    synthesis_TM = transforms(tile, y_MXO.dtype).synthesis
    y_TX = synthesis_TM @ y_MXO.view(tile.products, -1)
    return y_TX.view(tile.outputs, n_batch, layout.tiles, n_out)


def prelu_last(n: Tensor, slope_O: Tensor) -> Tensor:
    """Apply a PReLU to channels that come last."""
    return torch.prelu(n.transpose(1, -1), slope_O).transpose(1, -1)


def through_prelu(grad: Tensor, u: Tensor, scale: Tensor, slope_O: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of u in prelu(scale u), and of the slopes; channels come last."""
    share_O = (u.clamp(max=0) * scale).mul_(grad).flatten(0, -2).sum(dim=0)
    # 0 and 1 as numbers of u's type, since masks are many times slower than products
    above = torch.gt(u, 0, out=torch.empty_like(u))
    return torch.addcmul(slope_O, above, 1 - slope_O).mul_(scale).mul_(grad), share_O


def take_first(left: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
    """Take out of `left`, and return, what belongs to pixels that hold the chosen values.

    Called for the pixels of a window in turn, the first of equal values takes all, as in
    `torch.max_pool1d`.
    """
    taken = torch.eq(values, chosen, out=torch.empty_like(left)).mul_(left)
    left -= taken
    return taken


def through_norm(
    grad_u: Tensor, u_QBJO: Tensor, y_TBJO: Tensor, scale_BO: Tensor, layout: Layout
) -> Tensor:
    """Return the gradient of the convolution, shape (T, B, J, O), from that of chosen values.

    It goes to the chosen pixels, and by way of the mean and the variance to all.
    """
    offset_BO = grad_u.sum(dim=0).sum(dim=1) / layout.length
    pull_BO = (grad_u * u_QBJO).sum(dim=0).sum(dim=1) * scale_BO.square() / layout.length
    grad_y = (y_TBJO * -pull_BO[:, None]).sub_(offset_BO[:, None])
    if layout.pool == 1:
        grad_y += grad_u
    else:
        left = grad_u.clone()
        values = y_TBJO.unflatten(0, (-1, layout.pool))
        grads = grad_y.unflatten(0, (-1, layout.pool))
        for i in range(layout.pool):
            grads[:, i] += take_first(left, values[:, i], u_QBJO)
    layout.fill_outside(grad_y, 0.0)
    return grad_y


class ConvNormPool(torch.autograd.Function):
    """The block of which a convolution with many channels is the costly part."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BLC: Tensor,
        weight_OCK: Tensor,
        bias_O: Tensor,
        slope_O: Tensor,
        kernel_MCO: Tensor | None,
        eps: float,
        pool: int,
    ) -> Tensor:
        """Return the windows, shape (B, W, O); see `conv_norm_pool`."""
        layout = Layout(x_BLC.shape[1], weight_OCK, pool)
        if kernel_MCO is None:
            kernel_MCO = kernel_products(weight_OCK, layout.tile)
        centre_BC = x_BLC.mean(dim=1)
        mean_BO = mean_output(x_BLC, centre_BC, weight_OCK)
        out_BWO = x_BLC.new_empty(len(x_BLC), layout.windows, len(slope_O))
        kept: list[Tensor] = []
        for piece in layout.pieces(len(x_BLC)):
            padded = layout.padded(x_BLC[piece], centre_BC[piece])
            y_TBJO = convolved(padded, kernel_MCO, mean_BO[piece], layout)
            layout.fill_outside(y_TBJO, 0.0)
            square_BO = (y_TBJO * y_TBJO).sum(dim=0).sum(dim=1)
            scale_BO = (square_BO / layout.length + eps).rsqrt()
            u_QBJO = pooled(y_TBJO, layout, slope_O)
            n_BWO = layout.as_windows(u_QBJO) * scale_BO[:, None]
            out_BWO[piece] = prelu_last(n_BWO, slope_O)
            if any(ctx.needs_input_grad):
                kept += [y_TBJO, u_QBJO, scale_BO]
        ctx.layout = layout
        ctx.save_for_backward(x_BLC, centre_BC, kernel_MCO, slope_O, *kept)
        return out_BWO

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_BWO: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, from that of the windows."""
        x_BLC, centre_BC, kernel_MCO, slope_O, *kept = ctx.saved_tensors
        need_x, need_weight, need_bias, need_slope = ctx.needs_input_grad[:4]
        layout: Layout = ctx.layout
        tile = layout.tile
        grad_x = torch.empty_like(x_BLC) if need_x else None
        grad_kernel = torch.zeros_like(kernel_MCO) if need_weight else None
        grad_slope = torch.zeros_like(slope_O)
        for i, piece in enumerate(layout.pieces(len(x_BLC))):
            y_TBJO, u_QBJO, scale_BO = kept[3 * i : 3 * i + 3]
            grad_QBJO = layout.as_tiles(grad_BWO[piece])
            grad_u, share_O = through_prelu(grad_QBJO, u_QBJO, scale_BO[:, None], slope_O)
            grad_slope += share_O
            grad_y = through_norm(grad_u, u_QBJO, y_TBJO, scale_BO, layout)
            synthesis_TM = transforms(tile, grad_y.dtype).synthesis
            grad_MXO = (synthesis_TM.T @ grad_y.view(tile.outputs, -1)).view(
                tile.products, -1, len(slope_O)
            )
            if grad_kernel is not None:
                padded = layout.padded(x_BLC[piece], centre_BC[piece])
                columns_MXC = analyse(padded, tile, layout.tiles)
                grad_kernel.baddbmm_(columns_MXC.transpose(1, 2), grad_MXO)
            if grad_x is not None:
                columns_MXC = torch.bmm(grad_MXO, kernel_MCO.transpose(1, 2))
                grad_padded = analyse_adjoint(columns_MXC, tile, len(grad_y[0]))
                grad_x[piece] = grad_padded[:, layout.before : layout.before + layout.length]
        grad_weight = None if grad_kernel is None else kernel_products_adjoint(grad_kernel, tile)
        grad_bias = torch.zeros_like(slope_O) if need_bias else None
        return grad_x, grad_weight, grad_bias, grad_slope if need_slope else None, None, None, None


def conv_norm_pool(
    x_BLC: Tensor,
    weight_OCK: Tensor,
    bias_O: Tensor,
    slope_O: Tensor,
    eps: float,
    pool: int = 1,
    kernel_MCO: Tensor | None = None,
) -> Tensor:
    """Return pool(prelu(norm(conv(x)))), shape (B, W, O), with W = ceil(L / pool).

    Args:
        x_BLC: Inputs, channels last.
        weight_OCK: Taps, an odd number.
        bias_O: Has no effect, since it is normalised away; its gradient is 0.
        slope_O: Slopes of the PReLU below 0.
        eps: Added to variances.
        pool: Length of the pooling's windows, odd; 1 for no pooling.
        kernel_MCO: `kernel_products` of the taps for `tile_of` such inputs, if they are known.
    """
    out_BWO: Tensor = ConvNormPool.apply(  # type: ignore[no-untyped-call]
        x_BLC, weight_OCK, bias_O, slope_O, kernel_MCO, eps, pool
    )
    return out_BWO
