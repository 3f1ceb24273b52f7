"""Matrices of each spectrum, given by their diagonals.

Shapes: B spectra, L pixels, K diagonals, M matrices. B is a multiple of M, and row r takes the
matrix r % M: that is one for each spectrum, one for all, or, under `vmap`, something between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.ops.lsf import compiled
from spender_core.ops.lsf.folding import fold, fold_parameter, in_turns, total, unfold
from spender_core.ops.resample import on_host

Offsets = tuple[int, ...]

_CHUNK, _LARGE_CHUNK = 1 << 17, 1 << 22
"""Pixels worked on together: on a CPU, where sums are to stay in its cache, and elsewhere, where
there are to be enough to do, and few enough for what is made of each pixel."""


def apply_banded(y_BL: Tensor, data: Tensor, offsets: Sequence[int]) -> Tensor:
    """Multiply spectra by matrices that are given by their diagonals, as they are.

    The layout is that of `scipy.sparse.dia_matrix`: element data[..., k, j] is in column j and
    row j - offsets[k]. So pixel i of the result is the sum over k of
    data[..., k, i + offsets[k]] y[i + offsets[k]], where it is within the spectrum. Resolution
    matrices of DESI have this layout, with offsets K // 2, ..., -(K // 2)
    (Guy et al. 2023, AJ 165, 144).

    Args:
        y_BL: Spectra, shape (B, L).
        data: Diagonals, shape (B, K, L), or (K, L) for all spectra alike. They are converted to
            the type of `y_BL`; in the same type, no copy of them is made.
        offsets: Which diagonals, K whole numbers.

    Returns:
        Spectra, shape (B, L), in the type of `y_BL`. Gradients flow to `y_BL` and `data`.

    Raises:
        InputError: Shapes do not fit.
    """
    steps = tuple(int(offset) for offset in offsets)
    data_MKL = data[None] if data.ndim == 2 else data
    rows, pixels = _shape(y_BL)
    if data_MKL.ndim != 3 or data_MKL.shape[1:] != (len(steps), pixels):
        raise InputError(
            f"{len(steps)} diagonals for {pixels} pixels must have shape (B, {len(steps)}, "
            f"{pixels}) or ({len(steps)}, {pixels}), got {tuple(data.shape)}"
        )
    if data.ndim == 3 and len(data) != rows:
        raise InputError(f"{len(data)} matrices for {rows} spectra; give one for each")
    common = working_type(y_BL, data)
    made = _differentiable_product(data_MKL.to(common), y_BL.to(common), steps, False)
    return made.to(y_BL.dtype)


def working_type(y_BL: Tensor, parameter: Tensor) -> torch.dtype:
    """Return the type to work in: of the spectra, or of the parameters if that is a short one."""
    long = [one.dtype for one in (y_BL, parameter) if one.dtype in (torch.float32, torch.float64)]
    return long[0] if long else torch.float32


def _shape(y_BL: Tensor) -> tuple[int, int]:
    if y_BL.ndim != 2:
        raise InputError(f"spectra must have shape (B, L), got {tuple(y_BL.shape)}")
    return y_BL.shape[0], y_BL.shape[1]


def product(data_MKL: Tensor, y_BL: Tensor, offsets: Offsets, transposed: bool) -> Tensor:
    """Multiply by matrices or by their transposes, without gradients."""
    if compiled.available(data_MKL, y_BL):
        return compiled.banded(data_MKL, y_BL, offsets, transposed)
    out_BL = torch.zeros_like(y_BL, memory_format=torch.contiguous_format)
    y_QML, out_QML = in_turns(y_BL, len(data_MKL)), in_turns(out_BL, len(data_MKL))
    for q, m in chunks(y_QML):
        for k, (row, column) in enumerate(_bands(offsets, y_BL.shape[1])):
            to, near = (column, row) if transposed else (row, column)
            out_QML[q, m, to].addcmul_(data_MKL[m, k, column], y_QML[q, m, near])
    return out_BL


def outer(x_BL: Tensor, y_BL: Tensor, offsets: Offsets, matrices: int) -> Tensor:
    """Return x[r, j] y[r, j - offsets[k]], summed over the rows r of each matrix, (M, K, L)."""
    if compiled.available(x_BL, y_BL):
        return compiled.outer(x_BL, y_BL, offsets, matrices)
    out_MKL = x_BL.new_zeros((matrices, len(offsets), x_BL.shape[1]))
    x_QML, y_QML = in_turns(x_BL, matrices), in_turns(y_BL, matrices)
    for q, m in chunks(x_QML):
        for k, (row, column) in enumerate(_bands(offsets, x_BL.shape[1])):
            out_MKL[m, k, column] += (x_QML[q, m, column] * y_QML[q, m, row]).sum(dim=0)
    return out_MKL


def _bands(offsets: Offsets, pixels: int) -> Iterator[tuple[slice, slice]]:
    """Give the rows and the columns of each diagonal that are within a matrix."""
    for offset in offsets:
        first, after = min(max(0, -offset), pixels), max(min(pixels, pixels - offset), 0)
        after = max(first, after)
        yield slice(first, after), slice(first + offset, after + offset)


def chunks(y_QML: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut the first two dimensions into parts, by the size of which memory is bounded."""
    turns, matrices, pixels = y_QML.shape
    size = _CHUNK if on_host(y_QML) else _LARGE_CHUNK
    many = max(1, size // max(pixels, 1))
    wide = max(1, min(many, matrices))
    tall = max(1, many // wide)
    for m in range(0, matrices, wide):
        for q in range(0, turns, tall):
            yield slice(q, q + tall), slice(m, m + wide)


class _Product(torch.autograd.Function):
    """`product`, differentiable: it is linear in the matrices and in the spectra."""

    @staticmethod
    def forward(data_MKL: Tensor, y_BL: Tensor, offsets: Offsets, transposed: bool) -> Tensor:
        return product(data_MKL, y_BL, offsets, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        data_MKL, y_BL, ctx.offsets, ctx.transposed = inputs
        ctx.save_for_backward(data_MKL, y_BL)
        ctx.save_for_forward(data_MKL, y_BL)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        data_MKL, y_BL = ctx.saved_tensors
        (g_BL,) = cotangents
        to_data = to_y = None
        if g_BL is not None and ctx.needs_input_grad[0]:
            pair = (g_BL, y_BL) if ctx.transposed else (y_BL, g_BL)
            to_data = _differentiable_outer(*pair, ctx.offsets, len(data_MKL))
        if g_BL is not None and ctx.needs_input_grad[1]:
            to_y = _differentiable_product(data_MKL, g_BL, ctx.offsets, not ctx.transposed)
        return to_data, to_y, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        data_MKL, y_BL = ctx.saved_tensors
        pairs = (tangents[0], y_BL), (data_MKL, tangents[1])
        return total(
            _differentiable_product(data, y, ctx.offsets, ctx.transposed)
            for data, y in pairs
            if data is not None and y is not None
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        data, y, offsets, transposed = inputs
        data_MKL, own = fold_parameter(data, in_dims[0])
        y_BL = fold(y, in_dims[1], info.batch_size, own)
        made = _differentiable_product(data_MKL, y_BL, offsets, transposed)
        return unfold(made, info.batch_size, own), 0


class _Outer(torch.autograd.Function):
    """`outer`, differentiable: it is linear in both spectra."""

    @staticmethod
    def forward(x_BL: Tensor, y_BL: Tensor, offsets: Offsets, matrices: int) -> Tensor:
        return outer(x_BL, y_BL, offsets, matrices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x_BL, y_BL, ctx.offsets, ctx.matrices = inputs
        ctx.save_for_backward(x_BL, y_BL)
        ctx.save_for_forward(x_BL, y_BL)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        x_BL, y_BL = ctx.saved_tensors
        (g_MKL,) = cotangents
        to_x = to_y = None
        if g_MKL is not None and ctx.needs_input_grad[0]:
            to_x = _differentiable_product(g_MKL, y_BL, ctx.offsets, True)
        if g_MKL is not None and ctx.needs_input_grad[1]:
            to_y = _differentiable_product(g_MKL, x_BL, ctx.offsets, False)
        return to_x, to_y, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        x_BL, y_BL = ctx.saved_tensors
        pairs = (tangents[0], y_BL), (x_BL, tangents[1])
        return total(
            _differentiable_outer(x, y, ctx.offsets, ctx.matrices)
            for x, y in pairs
            if x is not None and y is not None
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        x, y, offsets, matrices = inputs
        x_BL, y_BL = (
            fold(tensor, dim, info.batch_size, matrices)
            for tensor, dim in zip((x, y), in_dims[:2], strict=True)
        )
        made = _differentiable_outer(x_BL, y_BL, offsets, info.batch_size * matrices)
        return made.unflatten(0, (info.batch_size, matrices)), 0


_differentiable_product: Callable[..., Tensor] = _Product.apply
_differentiable_outer: Callable[..., Tensor] = _Outer.apply
