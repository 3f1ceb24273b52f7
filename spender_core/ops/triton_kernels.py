"""Kernels of the fused transform: redshift, resampling, validity and LSF in one pass.

`spender_core.ops.fused` launches them; only this module and `triton_adjoints` import Triton.

Every pixel has a coordinate u = point * scale + shift, in units of restframe pixels where
those are nearly uniform, in float64: float32 would miss by 1e-3 pixel. All that follows from
the distance to a node is computed in the type of the arithmetic, float32 as a rule. Node j
lies at nodes[j], or at j where the grid is exactly uniform; a pixel lies between its nearest
node n and the other neighbour o, at the signed distances t of the pixel and h of node o from
node n, so that y = x[n] + t / h * (x[o] - x[n]) on either side.

Shapes: B spectra, L observed pixels, R restframe pixels, K LSF taps, Q bins of the points.
Flags of the compiler: UNIFORM, nodes are at 0, 1, ..; LOG, they are uniform in the logarithm;
STEPS, the halvings of a search on an irregular grid, 0 where a node is found by rounding; REAL,
the type of the arithmetic; LSF, none (0), one kernel (1) or a banded matrix a spectrum (2).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

REALS = {torch.float32: tl.float32, torch.float64: tl.float64}
"""Types of the arithmetic, as Triton calls them."""


@triton.jit
def node(nodes_ptr: tl.tensor, j: tl.tensor, UNIFORM: tl.constexpr) -> tl.tensor:
    """Return the coordinates of nodes j, float64."""
    return j.to(tl.float64) if UNIFORM else tl.load(nodes_ptr + j)


@triton.jit
def bent(t: tl.tensor, h: tl.tensor, bend: tl.tensor) -> tl.tensor:
    """Return by what t / h is to be multiplied on a logarithmic grid of step d = bend.

    The interpolation is linear in wavelength, so that the weight of the node at distance h is
    (exp(t d) - 1) / (exp(h d) - 1). Its series to second order is off by less than 6e-9 where
    d = 0.01, and has no cancellation.
    """
    return 1.0 + (t - h) * bend * (0.5 + (2.0 * t - h) * bend * (1.0 / 12.0))


@triton.jit
def bent_slope(t: tl.tensor, h: tl.tensor, bend: tl.tensor) -> tl.tensor:
    """Return by what 1 / h, the derivative of t / h, is to be multiplied there."""
    return 1.0 + bend * (t - 0.5 * h + bend * (6.0 * t * (t - h) + h * h) * (1.0 / 12.0))


@triton.jit
def search(nodes_ptr: tl.tensor, u: tl.tensor, last: tl.tensor, STEPS: tl.constexpr) -> tl.tensor:
    """Return the last node left of u, or 0; `last` is the last node of all."""
    low = tl.zeros_like(u).to(tl.int32)
    high = low + last
    for _ in range(STEPS):
        middle = (low + high) // 2
        below = tl.load(nodes_ptr + middle) < u
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle)
    return low


@triton.jit
def resampled(
    x_ptr: tl.tensor,
    points_ptr: tl.tensor,
    nodes_ptr: tl.tensor,
    i: tl.tensor,
    inside: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    last: tl.tensor,
    bend: tl.tensor,
    UNIFORM: tl.constexpr,
    LOG: tl.constexpr,
    STEPS: tl.constexpr,
    REAL: tl.constexpr,
) -> tl.tensor:
    """Return the spectrum at x_ptr in the pixels i; 0 outside.

    `last` is the index of the last node, R - 1.
    """
    point = tl.load(points_ptr + i, mask=inside, other=0.0)
    # pixels outside may lie anywhere: they must not reach the conversion to an integer
    u = tl.where(inside, point * scale + shift, 0.0)
    if STEPS > 0:
        n = search(nodes_ptr, u, last, STEPS)
        at = node(nodes_ptr, n, UNIFORM)
        t = (u - at).to(REAL)
        o = n + 1
    else:
        n = tl.floor(u + 0.5).to(tl.int32)
        n = tl.minimum(tl.maximum(n, 0), last)
        at = node(nodes_ptr, n, UNIFORM)
        t = (u - at).to(REAL)
        right = ((t > 0) | (n == 0)) & (n < last)
        o = tl.where(right, n + 1, n - 1)
    h = (node(nodes_ptr, o, UNIFORM) - at).to(REAL)
    near = tl.load(x_ptr + n, mask=inside, other=0.0).to(REAL)
    rise = tl.load(x_ptr + o, mask=inside, other=0.0).to(REAL) - near
    part = t / h
    if LOG:
        part = part * bent(t, h, bend)
    return tl.where(inside, near + rise * part, 0.0)


@triton.jit
def spread(
    g_ptr: tl.tensor,
    taps_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    i: tl.tensor,
    wanted: tl.tensor,
    L: tl.tensor,
    K: tl.tensor,
    LSF: tl.constexpr,
    REAL: tl.constexpr,
) -> tl.tensor:
    """Return the cotangent of the pixels i before the LSF, from that after it; 0 if not wanted."""
    if LSF == 0:
        total = tl.load(g_ptr + i, mask=wanted, other=0.0).to(REAL)
    else:
        total = tl.zeros_like(i).to(REAL)
        for k in range(K):
            row = i - tl.load(offsets_ptr + k)
            reached = wanted & (row >= 0) & (row < L)
            g = tl.load(g_ptr + row, mask=reached, other=0.0).to(REAL)
            if LSF == 1:
                tap = tl.load(taps_ptr + k).to(REAL)
            else:
                tap = tl.load(taps_ptr + k * L + i, mask=reached, other=0.0).to(REAL)
            total += tap * g
    return total


@triton.jit
def forward_kernel(
    x_ptr: tl.tensor,
    points_ptr: tl.tensor,
    nodes_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    first_ptr: tl.tensor,
    last_ptr: tl.tensor,
    y_ptr: tl.tensor,
    valid_ptr: tl.tensor,
    x_stride: tl.tensor,
    R: tl.tensor,
    L: tl.tensor,
    bend: tl.tensor,
    UNIFORM: tl.constexpr,
    LOG: tl.constexpr,
    STEPS: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Make BLOCK observed pixels of one spectrum; program (spectrum, block)."""
    b = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (i >= tl.load(first_ptr + b)) & (i < tl.load(last_ptr + b))
    scale, shift = tl.load(scale_ptr + b), tl.load(shift_ptr + b)
    row = x_ptr + b.to(tl.int64) * x_stride
    y = resampled(
        row,
        points_ptr,
        nodes_ptr,
        i,
        inside,
        scale,
        shift,
        R - 1,
        bend,
        UNIFORM,
        LOG,
        STEPS,
        REAL,
    )
    out = b.to(tl.int64) * L
    tl.store(y_ptr + out + i, y.to(y_ptr.dtype.element_ty), mask=i < L)
    tl.store(valid_ptr + out + i, inside.to(tl.uint8), mask=i < L)


@triton.jit
def forward_lsf_kernel(
    x_ptr: tl.tensor,
    points_ptr: tl.tensor,
    nodes_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    first_ptr: tl.tensor,
    last_ptr: tl.tensor,
    y_ptr: tl.tensor,
    valid_ptr: tl.tensor,
    taps_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    scratch_ptr: tl.tensor,
    x_stride: tl.tensor,
    R: tl.tensor,
    L: tl.tensor,
    bend: tl.tensor,
    K: tl.tensor,
    low: tl.tensor,
    useful: tl.tensor,
    tiles: tl.tensor,
    total: tl.tensor,
    UNIFORM: tl.constexpr,
    LOG: tl.constexpr,
    STEPS: tl.constexpr,
    REAL: tl.constexpr,
    LSF: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Make all pixels, `useful` of BLOCK at a time; few programs share the `total` tiles.

    A tile needs resampled pixels `low` and more beyond its own. It computes them again rather
    than wait for a neighbour, and hands them between its threads through BLOCK numbers of
    scratch of its own, which stay in the cache. `tiles` are those of one spectrum.
    """
    lane = tl.arange(0, BLOCK)
    mine = scratch_ptr + tl.program_id(0) * BLOCK
    for tile in range(tl.program_id(0), total, tl.num_programs(0)):
        b = tile // tiles
        begin = (tile % tiles) * useful
        first, last = tl.load(first_ptr + b), tl.load(last_ptr + b)
        scale, shift = tl.load(scale_ptr + b), tl.load(shift_ptr + b)
        column = begin + low + lane
        y = resampled(
            x_ptr + b.to(tl.int64) * x_stride,
            points_ptr,
            nodes_ptr,
            column,
            (column >= first) & (column < last),
            scale,
            shift,
            R - 1,
            bend,
            UNIFORM,
            LOG,
            STEPS,
            REAL,
        )
        tl.debug_barrier()  # all threads are done with the scratch of the tile before
        tl.store(mine + lane, y)
        tl.debug_barrier()  # and see all of this one
        i = begin + lane
        wanted = (lane < useful) & (i < L)
        sum_ = tl.zeros_like(lane).to(REAL)
        taps = taps_ptr
        if LSF == 2:
            taps = taps_ptr + b.to(tl.int64) * K * L
        for k in range(K):
            offset = tl.load(offsets_ptr + k)
            value = tl.load(mine + lane + offset - low, mask=wanted, other=0.0)
            if LSF == 1:
                tap = tl.load(taps + k).to(REAL)
            else:
                reached = wanted & (i + offset >= 0) & (i + offset < L)
                tap = tl.load(taps + k * L + i + offset, mask=reached, other=0.0)
            sum_ += tap.to(REAL) * value
        out = b.to(tl.int64) * L + i
        tl.store(y_ptr + out, sum_.to(y_ptr.dtype.element_ty), mask=wanted)
        tl.store(valid_ptr + out, ((i >= first) & (i < last)).to(tl.uint8), mask=wanted)
