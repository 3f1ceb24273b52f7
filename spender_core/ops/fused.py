"""The transform in one pass on a GPU, by Triton: redshift, resampling, validity and LSF.

Triton is imported only where a kernel is called. The backward pass needs nothing but the
arguments of the forward pass and adds nothing atomically, so that its results repeat bit for bit.
Beyond inputs and outputs there are 8 bytes for each block of a spectrum, and 4 for each tap and
block where the gradient of a kernel is wanted: less than a hundredth of them.

Shapes: B spectra, R restframe pixels, L observed pixels, K LSF taps, Q bins, N blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import InputError

if TYPE_CHECKING:
    from spender_core.ops.layout import Layout
    from spender_core.ops.resampler import Placement

BLOCK = 1024
"""Pixels of a program. Its 4 warps have 8 a thread: enough loads in flight to hide the latency
of memory, in few enough registers that several programs share a multiprocessor."""
BLOCK_BACKWARD = 512
"""Likewise where gradients are gathered, which takes twice the registers a pixel."""
WARPS = 4
PROGRAMS = 8
"""Programs a multiprocessor, where few share all tiles of a convolution."""
WIDEST = BLOCK // 2
"""Largest distance of the first and the last offset of an LSF."""
_BINS = 2
"""Bins for each observed pixel: then a range of bins holds about one pixel too many."""


@dataclass(frozen=True, eq=False)
class Taps:
    """An LSF: y_out[i] = sum over k of values[k] * y[i + offsets[k]], with 0 beyond the ends.

    Attributes:
        values: One kernel for all pixels, shape (K,), or matrices as `ops.lsf.apply_banded` takes
            them, shape (B, K, L): values[b, k, c] is in column c and in row c - offsets[k].
        offsets: Their offsets, K whole numbers.
    """

    values: Tensor
    offsets: tuple[int, ...]

    @classmethod
    def constant(cls, kernel_K: Tensor) -> Taps:
        """Take a kernel in the order of increasing wavelength, with its centre at tap K // 2."""
        half = len(kernel_K) // 2
        return cls(kernel_K.contiguous(), tuple(half - k for k in range(len(kernel_K))))

    @classmethod
    def banded(cls, data_BKL: Tensor, offsets: Sequence[int]) -> Taps:
        """Take the diagonals of a matrix for each spectrum."""
        if data_BKL.ndim != 3 or len(offsets) != data_BKL.shape[1] or not offsets:
            raise InputError(
                f"diagonals of shape {tuple(data_BKL.shape)} do not fit {len(offsets)} offsets; "
                "give shape (B, K, L) and K offsets, at least one"
            )
        return cls(data_BKL.contiguous(), tuple(int(offset) for offset in offsets))

    @property
    def span(self) -> int:
        """Distance of the first and the last offset."""
        return max(self.offsets) - min(self.offsets)


@dataclass(frozen=True, eq=False)
class _Tables:
    """What the kernels need of a layout beyond what a placement has, on a device.

    Attributes:
        node: Coordinates of the nodes, shape (R,), float64.
        uniform: Whether node j is at j.
        halvings: Steps of a search among the nodes, 0 where they are found by rounding.
        counts: Number of observed pixels before each of Q equal bins of their coordinate, and
            before the end of the last, shape (Q + 1,), int32.
        origin: Coordinate of the first observed pixel, where the bins begin.
        density: Bins in a unit of the coordinate.
    """

    node: Tensor
    uniform: bool
    halvings: int
    counts: Tensor
    origin: float
    density: float


_known: WeakKeyDictionary[Layout, dict[torch.device, _Tables]] = WeakKeyDictionary()


def serves(x_BR: Tensor, layout: Layout) -> bool:
    """Tell whether the kernels can be used: on CUDA, with Triton, and for interpolation."""
    return x_BR.is_cuda and not layout.conserve_flux and _installed()


def takes(taps: Taps, x_BR: Tensor) -> bool:
    """Tell whether the kernels can apply an LSF to such spectra: it is narrow, and beside them."""
    return taps.span <= WIDEST and taps.values.device == x_BR.device


def forward(
    x_BR: Tensor, placed: Placement, taps: Taps | None = None, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Return spectra (B, L) in the type of x, and where they are reached, bool (B, L).

    Args:
        x_BR: Restframe spectra.
        placed: Their redshifts.
        taps: An LSF; pixels that are not reached are 0 before it.
        block: Pixels of a program, a power of 2.
    """
    from spender_core.ops.triton_kernels import forward_kernel, forward_lsf_kernel

    x_BR, tables = _rows(x_BR), _tables(placed)
    rows, pixels = len(x_BR), placed.layout.pixels
    y_BL = x_BR.new_empty((rows, pixels))
    valid_BL = torch.empty((rows, pixels), dtype=torch.bool, device=x_BR.device)
    if not rows:
        return y_BL, valid_BL
    arrays = (*_pointers(x_BR, placed, tables), y_BL, valid_BL.view(torch.uint8))
    sizes = _sizes(x_BR, placed)
    flags = _flags(x_BR, placed, tables, block) | {"STEPS": tables.halvings}
    if taps is None:
        with torch.cuda.device_of(x_BR):
            forward_kernel[(rows, -(-pixels // block))](*arrays, *sizes, **flags)
        return y_BL, valid_BL
    lsf = _lsf(taps, x_BR, placed)
    useful = block - taps.span
    tiles = -(-pixels // useful)
    programs = min(rows * tiles, PROGRAMS * _multiprocessors(x_BR.device))
    arrays += (*lsf, x_BR.new_empty((programs, block), dtype=_real(x_BR)))
    sizes += (len(taps.offsets), min(taps.offsets), useful, tiles, rows * tiles)
    with torch.cuda.device_of(x_BR):
        forward_lsf_kernel[(programs,)](*arrays, *sizes, LSF=_kind(taps), **flags)
    return y_BL, valid_BL


def backward(
    x_BR: Tensor,
    placed: Placement,
    grad_BL: Tensor,
    wants_x: bool,
    wants_z: bool,
    taps: Taps | None = None,
    block: int = BLOCK_BACKWARD,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the spectra (B, R) and of z (B,), float64, as far as wanted."""
    from spender_core.ops.triton_adjoints import backward_kernel

    x_BR, grad_BL = _rows(x_BR), _rows(grad_BL)
    (rows, rest), tables = x_BR.shape, _tables(placed)
    blocks = -(-rest // block)
    grad_BR = torch.empty_like(x_BR, memory_format=torch.contiguous_format) if wants_x else None
    share_BN = x_BR.new_empty((rows, blocks), dtype=torch.float64)
    arguments = (
        grad_BL,
        *_pointers(x_BR, placed, tables),
        tables.counts,
        tables.density / placed.scale,
        -(placed.offset / placed.scale + tables.origin) * tables.density,
        *_lsf(taps, x_BR, placed),
        x_BR if grad_BR is None else grad_BR,
        share_BN,
        grad_BL.stride(0),
        *_sizes(x_BR, placed),
        0 if taps is None else len(taps.offsets),
        len(tables.counts) - 1,
    )
    flags = _flags(x_BR, placed, tables, block) | {"LSF": _kind(taps)}
    flags |= {"GRAD_X": wants_x, "GRAD_Z": wants_z}
    if rows and (wants_x or wants_z):
        with torch.cuda.device_of(x_BR):
            backward_kernel[(rows, blocks)](*arguments, **flags)
    if not wants_z:
        return grad_BR, None
    rate_B = placed.slope if placed.layout.kind == "log" else placed.slope / placed.scale
    return grad_BR, share_BN.sum(dim=1) * rate_B


def backward_taps(
    x_BR: Tensor, placed: Placement, grad_BL: Tensor, taps: Taps, block: int = BLOCK
) -> Tensor:
    """Return the gradient of the values of an LSF, in their shape and type."""
    from spender_core.ops.triton_adjoints import taps_kernel

    x_BR, grad_BL = _rows(x_BR), _rows(grad_BL)
    (rows, pixels), tables = grad_BL.shape, _tables(placed)
    blocks, size = -(-pixels // block), len(taps.offsets)
    constant = taps.values.ndim == 1
    made = x_BR.new_empty((rows, blocks, size), dtype=_real(x_BR)) if constant else None
    grad = torch.empty_like(taps.values) if made is None else made
    _, offsets_K = _lsf(taps, x_BR, placed)
    arrays = (grad_BL, *_pointers(x_BR, placed, tables), offsets_K, grad)
    sizes = (grad_BL.stride(0), *_sizes(x_BR, placed), size)
    flags = _flags(x_BR, placed, tables, block) | {"STEPS": tables.halvings, "LSF": _kind(taps)}
    if rows:
        with torch.cuda.device_of(x_BR):
            taps_kernel[(rows, blocks)](*arrays, *sizes, **flags)
    return grad if made is None else made.sum(dim=(0, 1), dtype=torch.float64).to(taps.values)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _tables(placed: Placement) -> _Tables:
    """Return the tables of a layout, made once for each device."""
    layout, device = placed.layout, placed.scale.device
    held = _known.setdefault(layout, {})
    if device not in held:
        scale = np.log if layout.kind == "log" else np.asarray
        node_R = (scale(layout.node) - scale(layout.node[0])) / layout.step
        counts_Q, density = _count(torch.tensor(layout.coordinate))
        held[device] = _Tables(
            node=torch.tensor(node_R, device=device),
            uniform=layout.kind != "irregular" and layout.shift is None,
            halvings=layout.cells.bit_length() if layout.kind == "irregular" else 0,
            counts=counts_Q.to(device),
            origin=float(layout.coordinate[0]),
            density=density,
        )
    return held[device]


def _count(point_L: Tensor) -> tuple[Tensor, float]:
    """Count the points before equal bins; return that and the number of bins in a unit."""
    bins = _BINS * len(point_L)
    span = float(point_L[-1] - point_L[0])
    density = (bins - 1) / span if span > 0 else 1.0
    edge_Q = torch.arange(bins + 1, dtype=torch.float64)
    counts_Q = torch.searchsorted((point_L - point_L[0]) * density, edge_Q, out_int32=True)
    return counts_Q, density


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor whose rows are contiguous; rows may lie anywhere."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _real(x_BR: Tensor) -> torch.dtype:
    """Return the type of the arithmetic."""
    return torch.float64 if x_BR.dtype == torch.float64 else torch.float32


def _kind(taps: Taps | None) -> int:
    return 0 if taps is None else 1 if taps.values.ndim == 1 else 2


def _lsf(taps: Taps | None, x_BR: Tensor, placed: Placement) -> tuple[Tensor, Tensor]:
    """Return the arrays of an LSF, or something in their place."""
    if taps is None:
        return x_BR, x_BR
    if taps.span > WIDEST:
        raise InputError(
            f"the LSF reaches over {taps.span} pixels; one pass on a GPU takes at most "
            f"{WIDEST}: resample first, then apply it by `spender_core.ops.lsf`"
        )
    expected = (len(x_BR), len(taps.offsets), placed.layout.pixels)
    if taps.values.ndim == 3 and taps.values.shape != expected:
        raise InputError(
            f"matrices of shape {tuple(taps.values.shape)} do not fit the spectra: "
            f"give (B, K, L) = {expected}"
        )
    return taps.values, _offsets(taps.offsets, x_BR.device)


@lru_cache(maxsize=64)
def _offsets(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Return offsets as a tensor, int32: a copy to a device at each call would wait for it."""
    return torch.tensor(offsets, dtype=torch.int32, device=device)


def _pointers(x_BR: Tensor, placed: Placement, tables: _Tables) -> tuple[Tensor, ...]:
    """Return the arrays that all kernels take, in their order."""
    return (
        x_BR,
        placed.tables["coordinate"],
        tables.node,
        placed.scale,
        placed.offset,
        placed.first,
        placed.last,
    )


def _sizes(x_BR: Tensor, placed: Placement) -> tuple[int | float, ...]:
    """Return the numbers that all kernels take, in their order."""
    return x_BR.stride(0), x_BR.shape[1], placed.layout.pixels, placed.layout.curve


def _flags(x_BR: Tensor, placed: Placement, tables: _Tables, block: int) -> dict[str, Any]:
    """Return the flags that all kernels take."""
    from spender_core.ops.triton_kernels import REALS

    return {
        "UNIFORM": tables.uniform,
        "LOG": placed.layout.kind == "log",
        "REAL": REALS[_real(x_BR)],
        "BLOCK": block,
        "num_warps": WARPS,
        "num_stages": 1,  # loads stay where they are written: a tile of scratch is written anew
        "enable_fp_fusion": True,  # a product and a sum are one instruction, also in float64
    }


def _multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a device has; 1 stands for the host's interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
