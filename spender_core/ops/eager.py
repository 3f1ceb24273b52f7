"""Resampling by torch's own functions: for any device, and where nothing was compiled.

On the host spectra are taken a few at a time, so that what lies between two functions stays in
the cache of the processor. Elsewhere nothing depends on values in a way for which the host would
have to wait: what is rarely needed is done always.

Shapes: B spectra, R restframe pixels, L observed pixels, C cells between nodes, P observed points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spender_core.ops.resample import on_host

if TYPE_CHECKING:
    from spender_core.ops.resampler import Placement

_CHUNK = 1 << 18
"""Pixels taken at a time on the host."""
_CHUNK_DEVICE = 1 << 24
"""And elsewhere, where it only bounds the memory."""
_ROUNDING = 1e-6
"""Cells: more than float32 errs by in the place of a point within its cell."""


def forward(x_BR: Tensor, placed: Placement) -> tuple[Tensor, Tensor]:
    """Return spectra (B, L) and where they are reached, bool (B, L)."""
    shape = len(x_BR), placed.layout.pixels
    y_BL = torch.empty(shape, dtype=x_BR.dtype, device=x_BR.device)
    valid_BL = torch.empty(shape, dtype=torch.bool, device=x_BR.device)
    by_arithmetic = placed.layout.kind == "linear" and _finds_by_arithmetic(x_BR, placed)
    scratch: _Scratch | None = None
    for rows in _chunks(x_BR, placed):
        part, size = placed[rows], len(x_BR[rows])
        if placed.layout.conserve_flux:
            y_BL[rows] = _averaged(x_BR[rows], part, *_placed(part, x_BR))
        elif by_arithmetic:
            if scratch is None or len(scratch.at) != size:
                scratch = _Scratch(size, x_BR.shape[1], placed.layout.pixels, x_BR.device)
            _interpolate(x_BR[rows], part, y_BL[rows], scratch)
        else:
            cell, share = _placed(part, x_BR)
            left, right = x_BR[rows].gather(1, cell), x_BR[rows, 1:].gather(1, cell)
            torch.lerp(left, right, share, out=y_BL[rows])
        _clear(y_BL[rows], part, valid_BL[rows])
    return y_BL, valid_BL


def backward(
    x_BR: Tensor, placed: Placement, grad_BL: Tensor, wants_x: bool, wants_z: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the spectra (B, R) and of z (B,), float64, as far as wanted."""
    grad_BR = torch.zeros_like(x_BR, memory_format=torch.contiguous_format) if wants_x else None
    grad_B = torch.empty(len(x_BR), dtype=torch.float64, device=x_BR.device) if wants_z else None
    for rows in _chunks(x_BR, placed):
        part, x, grad = placed[rows], x_BR[rows], grad_BL[rows].clone()
        _clear(grad, part)
        cell, share = _placed(part, x_BR)
        if grad_BR is not None and placed.layout.conserve_flux:
            grad_BR[rows] = _spread(grad, part, cell, share, x_BR.shape[1])
        elif grad_BR is not None:
            after = grad * share
            grad_BR[rows].scatter_add_(1, cell, grad - after)
            grad_BR[rows, 1:].scatter_add_(1, cell, after)
        if grad_B is not None:
            grad_B[rows] = grad.mul_(_slopes(x, part, cell, share)).sum(dim=1, dtype=torch.float64)
    return grad_BR, grad_B


def slope(x_BR: Tensor, placed: Placement) -> Tensor:
    """Return the derivatives of spectra by their redshifts, shape (B, L)."""
    slope_BL = _slopes(x_BR, placed, *_placed(placed, x_BR))
    _clear(slope_BL, placed)
    return slope_BL


def _chunks(x_BR: Tensor, placed: Placement) -> Iterator[slice]:
    most = _CHUNK if on_host(x_BR) else _CHUNK_DEVICE
    rows = max(1, most // max(x_BR.shape[1], placed.layout.pixels))
    for first in range(0, len(x_BR), rows):
        yield slice(first, first + rows)


def _clear(y_BL: Tensor, placed: Placement, valid_BL: Tensor | None = None) -> None:
    """Set to 0 what the model does not reach; write down what it does."""
    first_B1, last_B1 = placed.first[:, None], placed.last[:, None]
    pixels = placed.layout.pixels
    parts = [slice(0, pixels)]
    if on_host(first_B1):  # only where some spectra are reached and others are not
        start, end = int(first_B1.max()), int(last_B1.min())
        parts = parts if start >= end else [slice(0, start), slice(end, pixels)]
        if valid_BL is not None:
            valid_BL.fill_(True)
    for part in parts:
        pixel_L = torch.arange(part.start, part.stop, dtype=torch.int32, device=first_B1.device)
        reached = (pixel_L >= first_B1) & (pixel_L < last_B1)
        y_BL[:, part].masked_fill_(~reached, 0)
        if valid_BL is not None:
            valid_BL[:, part] = reached


def _finds_by_arithmetic(x_BR: Tensor, placed: Placement) -> bool:
    """Tell whether points are found without a search, which is exact enough for float32.

    Where nodes are off their places, the few points that they have passed are looked for.
    """
    layout = placed.layout
    if x_BR.dtype != torch.float32 or layout.kind == "irregular":
        return False
    return layout.shift is None or on_host(x_BR)


def _placed(placed: Placement, x_BR: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells of points, int64 (B, P), and the shares of them to the left, (B, P).

    Where flux is conserved, these are float64: differences are taken of what they lead to. Beyond
    the ends, where nothing is used, they are finite.
    """
    tables, layout = placed.tables, placed.layout
    if _finds_by_arithmetic(x_BR, placed):
        cell, share = _by_arithmetic(placed)
        if not layout.conserve_flux:
            return cell, share
        at = placed.shrink[:, None] * tables["point"]
    else:
        at = placed.shrink[:, None] * tables["point"]
        cell = torch.searchsorted(tables["node"], at).sub_(1).clamp_(0, layout.cells - 1)
    share = at.sub_(tables["node"].take(cell)).div_(tables["width"].take(cell))
    return cell, share if layout.conserve_flux else share.to(x_BR.dtype)


class _Scratch:
    """What lies between two functions: fresh memory costs more than most of them."""

    def __init__(self, rows: int, rest: int, pixels: int, device: torch.device) -> None:
        def empty(size: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(rows, size, dtype=dtype, device=device)

        self.at, self.cell = empty(pixels, torch.float64), empty(pixels, torch.int64)
        self.left, self.rise = empty(pixels, torch.float32), empty(pixels, torch.float32)
        self.near = empty(pixels, torch.bool)
        self.offset_BR, self.rise_BR = (empty(rest, torch.float32) for _ in range(2))


def _interpolate(x_BR: Tensor, placed: Placement, y_BL: Tensor, scratch: _Scratch) -> None:
    """Interpolate on a nearly linear grid, with as few passes as torch allows.

    In cell j, y = offset_j + rise_j f, where f is the distance from where arithmetic puts node j,
    not from the node itself: so only two tables are read at every point.
    """
    tables, layout, got = placed.tables, placed.layout, scratch
    # nodes may have passed points that are nearer to them than this; all points are moved by it,
    # so that these are the ones below twice of it
    doubt = layout.largest_shift + _ROUNDING if layout.shift is not None else 0.0
    offset_B1 = (placed.offset + doubt)[:, None]
    torch.addcmul(offset_B1, tables["coordinate"], placed.scale[:, None], out=got.at)
    # what was moved past the last node lands just after it, where it counts as near; what lies
    # beyond, and is not used, does not
    got.at.clamp_(0, layout.cells + 3 * doubt)
    got.cell.copy_(got.at)
    share = y_BL.copy_(got.at.frac_())
    offset_BR, rise_BR = x_BR, got.rise_BR
    torch.sub(x_BR[:, 1:], x_BR[:, :-1], out=rise_BR[:, :-1])
    rise_BR[:, -1] = 0
    if layout.shift is not None:
        rise_BR[:, :-1].mul_(tables["inverse"])
        moved = tables["shift"] + doubt
        offset_BR = torch.addcmul(x_BR, rise_BR, moved, value=-1, out=got.offset_BR)
        torch.lt(share, 2 * doubt, out=got.near)
    torch.gather(offset_BR, 1, got.cell, out=got.left)
    torch.gather(rise_BR, 1, got.cell, out=got.rise)
    torch.addcmul(got.left, got.rise, share, out=y_BL)
    if layout.shift is None:
        return
    row, point = got.near.nonzero(as_tuple=True)
    exact = placed.shrink[row] * tables["point"][point]
    found = torch.searchsorted(tables["node"], exact).sub_(1).clamp_(0, layout.cells - 1)
    part = exact.sub_(tables["node"][found]).div_(tables["width"][found]).float()
    y_BL[row, point] = torch.lerp(x_BR[row, found], x_BR[row, found + 1], part)


def _by_arithmetic(placed: Placement) -> tuple[Tensor, Tensor]:
    tables, layout = placed.tables, placed.layout
    at = torch.addcmul(placed.offset[:, None], tables["coordinate"], placed.scale[:, None])
    at.clamp_(0, layout.cells * (1 - 1e-15))
    cell = at.long()
    share = at.frac_().float()
    if layout.shift is not None:
        cell, share = _on_true_nodes(placed, cell, share)
    if layout.curve:
        share = torch.addcmul(share, share, share - 1, value=0.5 * layout.curve)
    return cell, share


def _on_true_nodes(placed: Placement, cell: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Correct for nodes that are not where arithmetic puts them."""
    tables, layout = placed.tables, placed.layout
    shift, inverse = (tables[name].expand(len(cell), -1) for name in ("shift", "inverse"))
    # the few points that a node may have passed
    near = layout.largest_shift + _ROUNDING
    doubtful = ((share - 0.5).abs_() > 0.5 - near).view(-1).nonzero()[:, 0]
    if len(doubtful):
        flat, part = cell.view(-1), share.view(-1)[doubtful]
        found = flat[doubtful]
        over = (part > tables["shift"][found + 1] + 1) & (found < layout.cells - 1)
        under = (part <= tables["shift"][found]) & (found > 0)
        move = over.long() - under.long()
        flat[doubtful] = found + move
        share.view(-1)[doubtful] = part - move
    return cell, share.sub_(shift.gather(1, cell)).mul_(inverse.gather(1, cell))


def _slopes(x_BR: Tensor, placed: Placement, cell: Tensor, share: Tensor) -> Tensor:
    """Return the derivatives by z at every pixel, shape (B, L), also where nothing is reached."""
    tables, layout = placed.tables, placed.layout
    shrink_B1 = placed.shrink[:, None]
    if layout.conserve_flux:
        y_BL = _averaged(x_BR, placed, cell, share)
        left, right = x_BR.gather(1, cell[:, :-1]), x_BR.gather(1, cell[:, 1:])
        lever_L = tables["point"][1:] / tables["point"].diff()
        return ((right - left) * lever_L + (left - y_BL)).mul_(-shrink_B1).to(x_BR)
    step = x_BR[:, 1:].gather(1, cell).sub_(x_BR.gather(1, cell))
    reach = tables["point"] * shrink_B1.square() / tables["width"].take(cell)
    return step.mul_(reach.neg_())


def _averaged(x_BR: Tensor, placed: Placement, cell: Tensor, share: Tensor) -> Tensor:
    """Return means over observed pixels: differences of the integral at their edges, (B, L)."""
    lost_BC = ~x_BR.isfinite()
    if on_host(x_BR) and not bool(lost_BC.any()):
        return _mean(x_BR, placed, cell, share)
    # sums over pixels would carry it to all that follow
    mean_BL = _mean(x_BR.masked_fill(lost_BC, 0), placed, cell, share)
    count_BC = torch.nn.functional.pad(lost_BC.cumsum(dim=1), (1, 0))
    inside_BL = count_BC.gather(1, cell[:, 1:] + 1) > count_BC.gather(1, cell[:, :-1])
    return mean_BL.masked_fill(inside_BL, torch.nan)


def _mean(x_BR: Tensor, placed: Placement, cell: Tensor, share: Tensor) -> Tensor:
    """Return what `_averaged` does, of finite spectra."""
    tables = placed.tables
    mass_BC = x_BR * tables["width"]
    below_BC = mass_BC.cumsum(dim=1) - mass_BC
    integral_BP = below_BC.gather(1, cell) + mass_BC.gather(1, cell) * share
    covered_BL = tables["point"].diff() * placed.shrink[:, None]
    return (integral_BP.diff(dim=1) / covered_BL).to(x_BR)


def _spread(grad_BL: Tensor, placed: Placement, cell: Tensor, share: Tensor, rest: int) -> Tensor:
    """Return the adjoint of `_averaged`, shape (B, R)."""
    tables = placed.tables
    covered_BL = tables["point"].diff() * placed.shrink[:, None]
    density_BL = grad_BL / covered_BL
    edge_BP = torch.nn.functional.pad(density_BL, (1, 0)) - torch.nn.functional.pad(
        density_BL, (0, 1)
    )
    own_BR = edge_BP.new_zeros(len(grad_BL), rest)
    after_BR = own_BR.scatter_add(1, cell, edge_BP)
    own_BR.scatter_add_(1, cell, edge_BP * share)
    above_BR = after_BR.sum(dim=1, keepdim=True) - after_BR.cumsum(dim=1)
    return ((own_BR + above_BR) * tables["width"]).to(grad_BL.dtype)
