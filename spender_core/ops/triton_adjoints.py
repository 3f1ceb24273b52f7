"""Kernels of the backward pass of the fused transform; see `triton_kernels` for their terms.

The gradient of restframe pixel j gathers the observed pixels between nodes j - 1 and j + 1,
which are neighbours, so that nothing is added atomically and results repeat bit for bit. Where
those pixels begin and end is read from a table: the points are counted in Q bins of equal
width, and bins[q] is the number of points before bin q.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spender_core.ops.triton_kernels import bent, bent_slope, node, resampled, spread

SLACK = tl.constexpr(1e-6)
"""By which a range of bins is widened, in bins, against rounding."""


@triton.jit
def bin_of(
    at: tl.tensor, scale: tl.tensor, shift: tl.tensor, Q: tl.tensor, BEYOND: tl.constexpr
) -> tl.tensor:
    """Return the bin that holds the coordinates, or with BEYOND the one after it; 0 to Q."""
    if BEYOND:
        q = tl.floor(at * scale + (shift + SLACK)) + 1.0
    else:
        q = tl.floor(at * scale + (shift - SLACK))
    # float32 keeps whole numbers up to 2**24, and rounds larger ones to larger ones than Q
    whole = q.to(tl.float32)
    return tl.minimum(tl.maximum(whole, 0.0), Q.to(tl.float32)).to(tl.int32)


@triton.jit
def backward_kernel(
    g_ptr: tl.tensor,
    x_ptr: tl.tensor,
    points_ptr: tl.tensor,
    nodes_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    first_ptr: tl.tensor,
    last_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    bin_scale_ptr: tl.tensor,
    bin_shift_ptr: tl.tensor,
    taps_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    grad_x_ptr: tl.tensor,
    grad_z_ptr: tl.tensor,
    g_stride: tl.tensor,
    x_stride: tl.tensor,
    R: tl.tensor,
    L: tl.tensor,
    bend: tl.tensor,
    K: tl.tensor,
    Q: tl.tensor,
    UNIFORM: tl.constexpr,
    LOG: tl.constexpr,
    REAL: tl.constexpr,
    LSF: tl.constexpr,
    GRAD_X: tl.constexpr,
    GRAD_Z: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Make the gradients of BLOCK restframe pixels, and their share of that of the redshift.

    That is to be multiplied by the derivative of the shift on logarithmic grids, of the scale over
    the scale on others.

    The share of node j is that of the pixels between it and node j + 1, whose values are
    subtracted first: sums of single values would cancel.
    """
    b = tl.program_id(0)
    block = tl.program_id(1)
    j = block * BLOCK + tl.arange(0, BLOCK)
    own = j < R
    j = tl.minimum(j, R - 1)
    before = node(nodes_ptr, tl.maximum(j - 1, 0), UNIFORM)
    here = node(nodes_ptr, j, UNIFORM)
    after = node(nodes_ptr, tl.minimum(j + 1, R - 1), UNIFORM)
    bin_scale, bin_shift = tl.load(bin_scale_ptr + b), tl.load(bin_shift_ptr + b)
    i = tl.load(bins_ptr + bin_of(before, bin_scale, bin_shift, Q, False))
    end = tl.load(bins_ptr + bin_of(after, bin_scale, bin_shift, Q, True))
    i = tl.maximum(i, tl.load(first_ptr + b))
    end = tl.where(own, tl.minimum(end, tl.load(last_ptr + b)), 0)

    scale, shift = tl.load(scale_ptr + b), tl.load(shift_ptr + b)
    h_left = tl.where(j > 0, (before - here).to(REAL), -1.0)
    h_right = tl.where(j < R - 1, (after - here).to(REAL), 1.0)
    # the first and the last interval take what rounding puts beyond the ends
    per_left = tl.where(j > 0, 1.0 / h_left, 0.0)
    per_right = tl.where(j < R - 1, 1.0 / h_right, 0.0)
    least = tl.where(j > 0, 0.0, -1.0)
    border = tl.where(j < R - 2, after, float("inf"))
    lever = (here - shift).to(REAL)

    g_row = g_ptr + b.to(tl.int64) * g_stride
    taps = taps_ptr
    if LSF == 2:
        taps = taps_ptr + b.to(tl.int64) * K * L
    grad_x = tl.zeros_like(h_left)
    slope = tl.zeros_like(h_left)
    for _ in range(tl.max(end - i, axis=0)):
        live = i < end
        u = tl.load(points_ptr + i, mask=live, other=0.0) * scale + shift
        t = (u - here).to(REAL)
        if LOG:
            h = tl.where(t > 0, h_right, h_left)
            part = t * tl.where(t > 0, per_right, per_left) * bent(t, h, bend)
            part = tl.maximum(1.0 - part, 0.0)
        else:
            part = tl.maximum(tl.minimum(1.0 - t * per_right, 1.0 - t * per_left), 0.0)
        if LSF == 0:
            g = tl.load(g_row + i, mask=live, other=0.0).to(REAL)
        else:
            g = spread(g_row, taps, offsets_ptr, i, live & (part > 0), L, K, LSF, REAL)
        if GRAD_X:
            grad_x += part * g
        if GRAD_Z:
            change = g * (bent_slope(t, h_right, bend) if LOG else lever + t)
            slope += tl.where((t > least) & (u <= border), change, 0.0)
        i += 1
    if GRAD_X:
        out = grad_x_ptr + b.to(tl.int64) * R + j
        tl.store(out, grad_x.to(grad_x_ptr.dtype.element_ty), mask=own)
    if GRAD_Z:
        row = x_ptr + b.to(tl.int64) * x_stride
        inner = own & (j < R - 1)
        here_x = tl.load(row + j, mask=inner, other=0.0).to(REAL)
        rise = tl.load(row + j + 1, mask=inner, other=0.0).to(REAL) - here_x
        share = tl.sum((rise * per_right * slope).to(tl.float64), axis=0)
        tl.store(grad_z_ptr + b.to(tl.int64) * tl.num_programs(1) + block, share)


@triton.jit
def taps_kernel(
    g_ptr: tl.tensor,
    x_ptr: tl.tensor,
    points_ptr: tl.tensor,
    nodes_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    first_ptr: tl.tensor,
    last_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    g_stride: tl.tensor,
    x_stride: tl.tensor,
    R: tl.tensor,
    L: tl.tensor,
    bend: tl.tensor,
    K: tl.tensor,
    UNIFORM: tl.constexpr,
    LOG: tl.constexpr,
    STEPS: tl.constexpr,
    REAL: tl.constexpr,
    LSF: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Make the gradient of a banded matrix, or the share of BLOCK pixels in that of a kernel."""
    b = tl.program_id(0)
    block = tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = (i >= tl.load(first_ptr + b)) & (i < tl.load(last_ptr + b))
    scale, shift = tl.load(scale_ptr + b), tl.load(shift_ptr + b)
    y = resampled(
        x_ptr + b.to(tl.int64) * x_stride,
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
    g_row = g_ptr + b.to(tl.int64) * g_stride
    for k in range(K):
        row = i - tl.load(offsets_ptr + k)
        reached = (i < L) & (row >= 0) & (row < L)
        change = y * tl.load(g_row + row, mask=reached, other=0.0).to(REAL)
        if LSF == 1:
            share = grad_ptr + (b.to(tl.int64) * tl.num_programs(1) + block) * K + k
            tl.store(share, tl.sum(change, axis=0))
        else:
            out = grad_ptr + (b.to(tl.int64) * K + k) * L + i
            tl.store(out, change.to(grad_ptr.dtype.element_ty), mask=i < L)
