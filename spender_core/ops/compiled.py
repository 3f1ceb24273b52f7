"""Resampling by the compiled kernels, for float32 and float64 in the memory of the host.

Shapes: B spectra, R restframe pixels, L observed pixels.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spender_core import native
from spender_core.native.memory import empty

if TYPE_CHECKING:
    from spender_core.ops.resampler import Placement

_FINE = 0.05
"""Least width of an observed pixel, in cells, over which float32 tells means to 2e-6: it places
edges to 6e-8 cells."""
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


class _Job(ctypes.Structure):
    """`spender_job` of native/resample.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "point", "node", "shift", "inverse", "lever")),
        *((name, ctypes.c_void_p) for name in ("scale", "offset", "first", "last", "slope")),
        *((name, ctypes.c_void_p) for name in ("y", "valid", "grad_y", "grad_x", "grad_z")),
        *((name, ctypes.c_int64) for name in ("rest", "cells", "observed")),
        ("curve", ctypes.c_float),
        ("growth", ctypes.c_float),
        ("flux", ctypes.c_int32),
    ]


def serves(x_BR: Tensor) -> bool:
    """Tell whether there are compiled kernels for a tensor."""
    return x_BR.device.type == "cpu" and x_BR.dtype in _TYPES and native.library() is not None


def forward(x_BR: Tensor, placed: Placement) -> tuple[Tensor, Tensor]:
    """Return spectra (B, L) and where they are reached, bool (B, L)."""
    shape = len(x_BR), placed.layout.pixels
    y_BL, valid_BL = empty(shape, x_BR.dtype), empty(shape, torch.bool)
    _run("forward", x_BR.contiguous(), placed, y=y_BL, valid=valid_BL)
    return y_BL, valid_BL


def backward(
    x_BR: Tensor, placed: Placement, grad_BL: Tensor, wants_x: bool, wants_z: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the spectra (B, R) and of z (B,), float64, as far as wanted."""
    grad_BR = empty(x_BR.shape, x_BR.dtype) if wants_x else None
    grad_B = torch.empty(len(x_BR), dtype=torch.float64) if wants_z else None
    _run(
        "backward",
        x_BR.contiguous(),
        placed,
        grad_y=grad_BL.contiguous(),
        grad_x=grad_BR,
        grad_z=grad_B,
    )
    return grad_BR, grad_B


def _run(direction: str, x_BR: Tensor, placed: Placement, **arrays: Tensor | None) -> None:
    layout, tables = placed.layout, placed.tables
    uniform = x_BR.dtype == torch.float32 and layout.kind != "irregular"
    if layout.conserve_flux and len(x_BR):
        uniform = uniform and layout.finest * float(placed.shrink.min()) > _FINE
    if uniform:
        name = f"spender_uniform_{direction}"
        arrays |= {"scale": placed.scale, "offset": placed.offset, "slope": placed.slope}
        arrays |= {"point": tables["coordinate"]}
        arrays |= {part: tables.get(part) for part in ("shift", "inverse", "lever")}
    else:
        name = f"spender_walk_{direction}_{_TYPES[x_BR.dtype]}"
        arrays |= {"scale": placed.shrink, "slope": -placed.shrink}
        arrays |= {part: tables[part] for part in ("point", "node")}
    arrays |= {"x": x_BR, "first": placed.first, "last": placed.last}
    job = _Job(
        rest=x_BR.shape[1],
        cells=layout.cells,
        observed=layout.pixels,
        curve=layout.curve,
        growth=layout.growth,
        flux=int(layout.conserve_flux),
        **{name: array.data_ptr() for name, array in arrays.items() if array is not None},
    )
    library = native.library()
    assert library is not None  # `serves` was asked
    kernel, at = getattr(library, name), ctypes.byref(job)

    def work(first: int, last: int) -> None:
        kernel(at, ctypes.c_int64(first), ctypes.c_int64(last))

    native.share_rows(work, len(x_BR), max(x_BR.shape[1], layout.pixels))
