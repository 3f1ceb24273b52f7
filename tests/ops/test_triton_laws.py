"""The fused transform in Triton's interpreter, beside autograd of a float64 reference."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton.py, with Triton's interpreter", allow_module_level=True)
pytest.importorskip("triton", reason="needs Triton (pip install triton, on Linux)")

from spender_core.errors import InputError
from spender_core.ops import fused
from spender_core.ops.fused import Taps
from spender_core.ops.resampler import Placement, Resampler

CPU = torch.device("cpu")
BLOCK = 128
REST, OBSERVED = 301, 263  # no multiples of the block


def grid(kind: str, size: int, start: float, stop: float, seed: int = 0) -> Tensor:
    """Return a grid of wavelengths; those with "32" are rounded as published ones are."""
    if kind.startswith("linear"):
        wave = torch.linspace(start, stop, size, dtype=torch.float64)
    elif kind.startswith("log"):
        wave = torch.linspace(np.log(start), np.log(stop), size, dtype=torch.float64).exp()
    else:
        random = torch.Generator().manual_seed(seed)
        steps = 0.05 + torch.rand(size - 1, dtype=torch.float64, generator=random)
        places = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0) / steps.sum()])
        wave = start + (stop - start) * places
    return wave.float().double() if kind.endswith("32") else wave


GRIDS = ["linear", "linear32", "log", "log32", "irregular"]
CASES = [
    (rest, observed, dtype, tolerance)
    for rest in GRIDS
    for observed, dtype, tolerance in (
        ("linear", torch.float32, 1e-6),
        ("log", torch.float32, 1e-6),
        ("irregular", torch.float32, 1e-6),
        ("irregular", torch.float64, 1e-10),
    )
]


def reference(x: Tensor, rest: Tensor, observed: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate linearly by search, in float64, as a law; differentiable."""
    stretch = 1 + z[:, None]
    points = observed / stretch
    left = (torch.searchsorted(rest, points.detach().contiguous()) - 1).clamp(0, len(rest) - 2)
    part = (points - rest[left]) / (rest[left + 1] - rest[left])
    y = x.gather(1, left) * (1 - part) + x.gather(1, left + 1) * part
    valid = (observed > rest[0] * stretch) & (observed < rest[-1] * stretch)
    return torch.where(valid, y, 0), valid


def matrices(taps: Taps, pixels: int) -> Tensor:
    """Return an LSF as dense matrices, (1 or B, L, L), by their definition."""
    values = taps.values if taps.values.ndim == 3 else taps.values[None, :, None]
    dense = values.new_zeros((len(values), pixels, pixels))
    for k, offset in enumerate(taps.offsets):
        for row in range(max(0, -offset), min(pixels, pixels - offset)):
            column = row + offset
            dense[:, row, column] = values[:, k, column if taps.values.ndim == 3 else 0]
    return dense


class Case:
    """Two grids, spectra of white noise at redshifts, and a random cotangent."""

    def __init__(self, rest: Tensor, observed: Tensor, z: list[float], seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.rest, self.observed = rest, observed
        self.z = torch.tensor(z, dtype=torch.float64)
        self.x = torch.randn(len(z), len(rest), dtype=torch.float64, generator=random)
        self.g = torch.randn(len(z), len(observed), dtype=torch.float64, generator=random)
        self.resampler = Resampler(rest.numpy(), observed.numpy())

    @property
    def placed(self) -> Placement:
        return self.resampler.place(self.z, CPU)

    def expected(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return spectra, validity and both gradients of the reference."""
        x, z = self.x.clone().requires_grad_(), self.z.clone().requires_grad_()
        y, valid = reference(x, self.rest, self.observed, z)
        return y.detach(), valid, *torch.autograd.grad(y, (x, z), self.g)

    def derivative(self) -> tuple[Tensor, Tensor]:
        """Return where pixels are between their nodes, 0 to 1, and the derivative to z."""
        stretch = 1 + self.z[:, None]
        points = self.observed / stretch
        left = (torch.searchsorted(self.rest, points) - 1).clamp(0, len(self.rest) - 2)
        width = self.rest[left + 1] - self.rest[left]
        slope = (self.x.gather(1, left + 1) - self.x.gather(1, left)) / width * -points / stretch
        return (points - self.rest[left]) / width, slope * self.expected()[1]


def case_of(rest: str, observed: str, z: list[float]) -> Case:
    return Case(grid(rest, REST, 2000, 5000), grid(observed, OBSERVED, 2300, 6000, 1), z)


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare to a fraction of the largest value."""
    scale = max(float(expected.abs().max()), 1e-300)
    assert float((got.double() - expected).abs().max()) <= tolerance * scale


Z = [0.1234, 2.5, -0.2]


@pytest.mark.parametrize(("rest", "observed", "dtype", "tolerance"), CASES)
def test_it_equals_the_reference(
    rest: str, observed: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = case_of(rest, observed, Z)
    y, valid, to_x, to_z = case.expected()
    x, g, placed = case.x.to(dtype), case.g.to(dtype), case.placed
    made, reached = fused.forward(x, placed, block=BLOCK)
    assert made.dtype == dtype
    assert torch.equal(reached, valid)
    assert_close(made, y, tolerance)
    grad_x, grad_z = fused.backward(x, placed, g, True, True, block=BLOCK)
    assert grad_x is not None
    assert grad_z is not None
    assert_close(grad_x, to_x, tolerance)
    assert_close(grad_z, to_z, tolerance)


@given(
    rest=st.sampled_from(GRIDS),
    observed=st.sampled_from(GRIDS),
    sizes=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    span=st.tuples(st.floats(1.02, 4), st.floats(0.3, 2), st.floats(1.001, 4)),
    z=st.lists(st.floats(-0.9, 20), min_size=1, max_size=3),
    block=st.sampled_from([16, 128]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_it_equals_the_reference_on_any_grids(
    rest: str,
    observed: str,
    sizes: tuple[int, int],
    span: tuple[float, float, float],
    z: list[float],
    block: int,
    seed: int,
) -> None:
    nodes = grid(rest, sizes[0], 2000, 2000 * span[0], seed)
    start = 2000 * span[1]
    case = Case(nodes, grid(observed, sizes[1], start, start * span[2], seed + 1), z, seed)
    y, valid, to_x, to_z = case.expected()
    x = case.x.float()
    made, reached = fused.forward(x, case.placed, block=block)
    assert torch.equal(reached, valid)
    # float32 may not move a value by more than 2e-6 of the largest one of the spectrum
    peak = case.x.abs().amax(dim=1, keepdim=True)
    assert bool(((made.double() - y).abs() <= 2e-6 * peak).all())
    grad_x, grad_z = fused.backward(x, case.placed, case.g.float(), True, True, block=block)
    assert grad_x is not None
    assert grad_z is not None
    assert_close(grad_x, to_x, 2e-6)
    # the law of the adjoint: <A x, g> = <x, A' g>
    left, right = (made * case.g).sum(dim=1), (case.x * grad_x).sum(dim=1)
    size = made.abs().double().norm(dim=1) * case.g.norm(dim=1)
    assert bool(((left - right).abs() <= 2e-6 * size + 1e-12).all())
    # a pixel on a node has two derivatives, so that spectra with one are left out
    part, slope = case.derivative()
    clear = ~((part.abs() < 1e-6) | ((1 - part).abs() < 1e-6)).logical_and(valid).any(dim=1)
    bound = 1e-5 * (slope * case.g).abs().sum(dim=1) + 1e-30
    assert bool(((grad_z - to_z).abs() <= bound)[clear].all())


def test_a_spectrum_on_its_own_grid_is_unchanged() -> None:
    for kind in GRIDS:
        wave = grid(kind, REST, 2000, 5000)
        case = Case(wave, wave, [0.0])
        made, valid = fused.forward(case.x.float(), case.placed, block=BLOCK)
        assert valid[0].tolist() == [False] + [True] * (REST - 2) + [False]
        inner = slice(1, -1)
        assert float((made - case.x).abs()[:, inner].max()) < 2e-6 * float(case.x.abs().max())


def test_every_pixel_on_a_node_counts_once_in_the_gradient_of_z() -> None:
    """A ramp has one slope everywhere, so that every pixel must be in it, and once."""
    wave = grid("linear32", REST, 2000, 5000)
    case = Case(wave, wave, [0.0, 0.25])
    ramp, cotangent = wave.expand(2, -1).contiguous(), torch.ones(2, REST, dtype=torch.float64)
    _, valid = fused.forward(ramp, case.placed, block=BLOCK)
    _, grad_z = fused.backward(ramp, case.placed, cotangent, False, True, block=BLOCK)
    assert grad_z is not None
    expected = -(wave * valid).sum(dim=1) / (1 + case.z).square()
    torch.testing.assert_close(grad_z, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("z", [[1e6], [5.0, 1e9], [-0.999999]])
def test_models_that_reach_nothing_are_zero(z: list[float]) -> None:
    for kind in GRIDS:
        case = case_of(kind, "linear", z)
        made, valid = fused.forward(case.x.float(), case.placed, block=BLOCK)
        assert not valid.any()
        assert not made.any()
        for gradient in fused.backward(
            case.x.float(), case.placed, case.g.float(), True, True, block=BLOCK
        ):
            assert gradient is not None
            assert not gradient.any()


def test_rows_may_lie_apart_and_batches_may_be_empty() -> None:
    case = case_of("log32", "linear", Z)
    wide = torch.full((len(Z), REST + 7), torch.nan)
    wide[:, :REST] = case.x.float()
    plain, _ = fused.forward(case.x.float(), case.placed, block=BLOCK)
    assert torch.equal(fused.forward(wide[:, :REST], case.placed, block=BLOCK)[0], plain)
    flipped = case.x.float().flip(1).contiguous().flip(1)
    assert torch.equal(fused.forward(flipped, case.placed, block=BLOCK)[0], plain)
    spread = torch.ones(1, 1).expand(len(Z), OBSERVED)
    grads = fused.backward(case.x.float(), case.placed, spread, True, True, block=BLOCK)
    again = fused.backward(case.x.float(), case.placed, spread.clone(), True, True, block=BLOCK)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))  # type: ignore[arg-type]
    none = case.resampler.place(torch.zeros(0), CPU)
    assert fused.forward(torch.zeros(0, REST), none)[0].shape == (0, OBSERVED)
    assert fused.backward(torch.zeros(0, REST), none, torch.zeros(0, OBSERVED), True, True)[
        1
    ].shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    case = case_of("linear32", "linear", Z)
    x = case.x.to(dtype)
    made, _ = fused.forward(x, case.placed, block=BLOCK)
    exact, _ = fused.forward(x.float(), case.placed, block=BLOCK)
    assert made.dtype == dtype
    # a GPU rounds to the nearest, the interpreter may cut off
    assert bool(((made.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all())


LSFS = ["kernel of 1", "kernel of 4", "kernel of 5", "kernel of 31", "banded"]


def taps_of(name: str, spectra: int) -> Taps:
    if name == "banded":
        offsets = (5, 3, 1, 0, -2, -4)
        shape = spectra, len(offsets), OBSERVED
        return Taps.banded(torch.randn(shape, dtype=torch.float64), offsets)
    return Taps.constant(0.1 + torch.rand(int(name.split()[-1]), dtype=torch.float64))


def cast(taps: Taps, dtype: torch.dtype) -> Taps:
    return Taps(taps.values.to(dtype), taps.offsets)


@pytest.mark.parametrize("lsf", LSFS)
@pytest.mark.parametrize("rest", ["linear32", "log", "irregular"])
def test_an_lsf_equals_its_dense_matrix(lsf: str, rest: str) -> None:
    dtype, tolerance = torch.float32, 1e-6
    case = case_of(rest, "linear", Z)
    taps = taps_of(lsf, len(Z))
    x, z = case.x.clone().requires_grad_(), case.z.clone().requires_grad_()
    values = taps.values.clone().requires_grad_()
    dense = matrices(Taps(values, taps.offsets), OBSERVED)
    y, valid = reference(x, case.rest, case.observed, z)
    y = (dense @ y[..., None])[..., 0]
    expected = torch.autograd.grad(y, (x, z, values), case.g)
    short, placed = cast(taps, dtype), case.placed
    inputs = case.x.to(dtype), placed, case.g.to(dtype)
    made, reached = fused.forward(inputs[0], placed, short, block=BLOCK)
    assert torch.equal(reached, valid)
    assert_close(made, y.detach(), tolerance)
    to_x, to_z = fused.backward(*inputs, True, True, short, block=BLOCK)
    assert to_x is not None
    assert to_z is not None
    assert_close(to_x, expected[0], tolerance)
    assert_close(to_z, expected[1], tolerance)
    to_values = fused.backward_taps(*inputs, short, block=BLOCK)
    assert to_values.dtype == dtype
    assert_close(to_values, expected[2], tolerance)


def test_a_kernel_is_convolve_constant_and_a_band_is_apply_banded() -> None:
    from spender_core.ops.lsf import apply_banded, convolve_constant

    case = case_of("linear32", "linear", Z)
    y, _ = fused.forward(case.x, case.placed, block=BLOCK)
    for size in (1, 4, 5):
        kernel = 0.1 + torch.rand(size, dtype=torch.float64)
        made, _ = fused.forward(
            case.x, case.placed, Taps.constant(kernel / kernel.sum()), block=BLOCK
        )
        assert_close(made, convolve_constant(y, kernel), 1e-12)
    data = torch.randn(len(Z), 3, OBSERVED, dtype=torch.float64)
    made, _ = fused.forward(case.x, case.placed, Taps.banded(data, (1, 0, -1)), block=BLOCK)
    assert_close(made, apply_banded(y, data, (1, 0, -1)), 1e-12)


class Function(torch.autograd.Function):
    """How the parts are put together, for gradcheck."""

    @staticmethod
    def forward(ctx, x, z, values, resampler, taps):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, z, values)
        ctx.others = resampler, taps
        taps = Taps(values, taps.offsets)
        return fused.forward(x, resampler.place(z, CPU), taps, block=BLOCK)[0]

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        x, z, values = ctx.saved_tensors
        resampler, taps = ctx.others
        taps, placed = Taps(values, taps.offsets), resampler.place(z, CPU)
        to_x, to_z = fused.backward(x, placed, g, True, True, taps, block=BLOCK)
        return to_x, to_z, fused.backward_taps(x, placed, g, taps, block=BLOCK), None, None


@pytest.mark.parametrize("rest", ["linear32", "log", "irregular"])
@pytest.mark.parametrize("banded", [False, True])
def test_gradcheck(rest: str, banded: bool) -> None:
    if rest == "log":  # of a small step, and long enough not to be nearly linear
        case = Case(grid("log", 50, 2000, 2095), grid("linear", 9, 2004, 2180), [1e-3, 0.05])
    else:
        case = Case(grid(rest, 12, 2000, 5000), grid("linear", 9, 2300, 5200), [0.12, 0.4])
    assert case.resampler.layout.kind == rest.removesuffix("32")
    shape = (2, 3, 9) if banded else (3,)
    values = torch.rand(shape, dtype=torch.float64)
    taps = Taps.banded(values, (1, 0, -2)) if banded else Taps.constant(values)
    inputs = [tensor.clone().requires_grad_() for tensor in (case.x, case.z, values)]
    step = 1e-7 if rest == "log" else 1e-6  # shorter than the way to the next node

    def transform(*tensors: Tensor) -> Tensor:
        made: Tensor = Function.apply(*tensors, case.resampler, taps)
        return made

    assert gradcheck(transform, inputs, eps=step, fast_mode=True)


def test_an_lsf_that_does_not_fit_is_refused() -> None:
    case = case_of("linear", "linear", Z)
    with pytest.raises(InputError, match=r"600 pixels.*at most 512"):
        fused.forward(case.x, case.placed, Taps.constant(torch.ones(601)))
    other = Taps.banded(torch.zeros(len(Z) + 1, 1, OBSERVED), (0,))
    with pytest.raises(InputError, match=r"do not fit the spectra.*\(3, 1, 263\)"):
        fused.forward(case.x, case.placed, other)
    with pytest.raises(InputError, match="3 offsets"):
        Taps.banded(torch.zeros(1, 2, 9), (1, 0, -1))


def test_the_kernels_serve_cuda_only() -> None:
    case = case_of("linear", "linear", Z)
    assert not fused.serves(case.x, case.resampler.layout)
