"""The compiled kernels of line spread functions (`spender_core/native/lsf.c`).

Shapes: B spectra, L pixels, K diagonals, M matrices; row r takes matrix r % M.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spender_core.native import library, pointer, share_rows

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_WIDTH = 128
"""Pixels of a tile of `spender_banded_outer`: NARROW of lsf.c."""
_I64, _INT, _POINTER = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
_ARGUMENTS: dict[str, list[Any]] = {
    "banded": [_POINTER, _I64, _I64, _I64, _POINTER, _I64, _POINTER, _I64, _INT, _POINTER],
    "banded_outer": [_POINTER, _POINTER, _I64, _I64, _POINTER, _I64, _I64, _POINTER],
    "gaussian": [_POINTER, _I64, ctypes.c_double, _INT, _POINTER, _I64, _INT, _POINTER],
}


def available(*tensors: Tensor) -> bool:
    """Tell whether there are kernels for these tensors: of one type, in the host's memory."""
    types = {tensor.dtype for tensor in tensors}
    here = all(tensor.device.type == "cpu" for tensor in tensors)
    return here and len(types) == 1 and types <= _SUFFIX.keys() and library() is not None


def banded(data_MKL: Tensor, y_BL: Tensor, offsets: Sequence[int], transposed: bool) -> Tensor:
    """Return `banded.product`."""
    if data_MKL.stride(2) != 1:
        data_MKL = data_MKL.contiguous()
    y_BL = y_BL.contiguous()
    out_BL = torch.empty_like(y_BL)
    rows, pixels = y_BL.shape
    steps, kernel = _integers(offsets), _kernel("banded", y_BL.dtype)

    def work(first: int, last: int) -> None:
        kernel(
            *(pointer(data_MKL), data_MKL.stride(0), data_MKL.stride(1), len(data_MKL)),
            *(steps, len(offsets), pointer(y_BL), pixels, transposed, pointer(out_BL), first, last),
        )

    share_rows(work, rows, pixels)
    return out_BL


def outer(x_BL: Tensor, y_BL: Tensor, offsets: Sequence[int], matrices: int) -> Tensor:
    """Return `banded.outer`."""
    x_BL, y_BL = x_BL.contiguous(), y_BL.contiguous()
    rows, pixels = x_BL.shape
    out_MKL = x_BL.new_empty((matrices, len(offsets), pixels))
    steps, kernel = _integers(offsets), _kernel("banded_outer", x_BL.dtype)

    def work(first: int, last: int) -> None:
        kernel(
            *(pointer(x_BL), pointer(y_BL), rows, pixels, steps, len(offsets), matrices),
            *(pointer(out_MKL), first, last),
        )

    items = matrices * -(-pixels // _WIDTH)
    share_rows(work, items, _WIDTH * len(offsets) * max(1, rows // max(matrices, 1)))
    return out_MKL


def gaussian(sigma_ML: Tensor, y_BL: Tensor, reach: float, order: int, transposed: bool) -> Tensor:
    """Return `gaussian.spread` of order 0 or 1."""
    sigma_ML, y_BL = sigma_ML.contiguous(), y_BL.contiguous()
    out_BL = torch.empty_like(y_BL)
    rows, pixels = y_BL.shape
    kernel = _kernel("gaussian", y_BL.dtype)

    def work(first: int, last: int) -> None:
        kernel(
            *(pointer(sigma_ML), len(sigma_ML), reach, order),
            *(pointer(y_BL), pixels, transposed, pointer(out_BL), first, last),
        )

    share_rows(work, rows, pixels)
    return out_BL


def _integers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


@cache
def _kernel(stem: str, dtype: torch.dtype) -> Any:
    function = getattr(library(), f"spender_{stem}_{_SUFFIX[dtype]}")
    function.argtypes, function.restype = [*_ARGUMENTS[stem], _I64, _I64], None
    return function
