"""Line spread functions against dense matrices in float64, and the laws of linear maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spender_core.errors import InputError
from spender_core.ops.lsf import apply_banded, compiled, convolve_constant, convolve_gaussian

sparse = pytest.importorskip("scipy.sparse", reason="the oracle scipy is not installed")

Array = NDArray[np.float64]
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
SIZES = {
    "offsets": st.lists(st.integers(-12, 12), min_size=1, max_size=6, unique=True),
    "rows": st.integers(1, 4),
    "pixels": st.integers(1, 300),
    "seed": st.integers(0, 1000),
}
law = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["compiled", "eager"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test with the compiled kernels and without them."""
    if request.param == "eager":
        monkeypatch.setattr(compiled, "library", lambda: None)
    elif compiled.library() is None:
        pytest.skip("no compiled kernels here: `python -m spender_core.native.build` makes them")
    return str(request.param)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype)


def widths(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return widths of 0 to 2.5 pixels, some of them 0."""
    made = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((3 * made - 0.5).clamp(min=0)).to(dtype)


def dense_gaussian(sigma: Tensor) -> Array:
    """Return the matrix whose column j is a Gaussian of width sigma[j] about row j."""
    width = np.maximum(sigma.double().numpy(), 1e-3)
    pixel = np.arange(len(width))
    far = np.arange(-60, 61)[:, None]
    weight = np.exp(-0.5 * ((pixel[:, None] - pixel) / width) ** 2)
    return np.asarray(weight / np.exp(-0.5 * (far / width) ** 2).sum(axis=0))


def dense_banded(data: Tensor, offsets: list[int]) -> Array:
    size = data.shape[1]
    matrix = sparse.dia_matrix((data.double().numpy(), offsets), shape=(size, size))
    return np.asarray(matrix.toarray())


def check(made: Tensor, expected: Array, scale: float = 1.0) -> None:
    found = made.detach().double().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= ROUNDING[made.dtype] * scale


# ---- dense references ----------------------------------------------------------------------


@TYPES
@given(**SIZES)
@law
def test_banded_matrices_are_those_of_scipy(
    dtype: torch.dtype, offsets: list[int], rows: int, pixels: int, seed: int
) -> None:
    y, data = draw(seed, rows, pixels, dtype=dtype), draw(seed + 1, rows, len(offsets), pixels)
    data = data.to(dtype)
    dense = np.stack([dense_banded(matrix, offsets) for matrix in data])
    values = y.double().numpy()
    scale = float(max(np.abs(values).max(), 1) * max(np.abs(dense).max(), 1) * len(offsets))
    check(apply_banded(y, data, offsets), np.einsum("bij,bj->bi", dense, values), scale)
    check(apply_banded(y, data[0], offsets), values @ dense[0].T, scale)


@TYPES
@given(rows=SIZES["rows"], pixels=st.integers(10, 300), seed=SIZES["seed"])
@law
def test_gaussians_are_those_of_a_dense_matrix(
    dtype: torch.dtype, rows: int, pixels: int, seed: int
) -> None:
    y, sigma = draw(seed, rows, pixels, dtype=dtype), widths(seed, rows, pixels, dtype=dtype)
    values = y.double().numpy()
    expected = np.stack([dense_gaussian(s) @ v for s, v in zip(sigma, values, strict=True)])
    scale = float(np.abs(values).max())
    check(convolve_gaussian(y, sigma), expected, scale)
    check(convolve_gaussian(y, sigma[0]), values @ dense_gaussian(sigma[0]).T, scale)


@TYPES
def test_wide_gaussians_and_long_spectra(dtype: torch.dtype) -> None:
    """Sums over many taps stay exact, across all tiles that the kernels work on."""
    sigma = torch.linspace(0.3, 9.0, 2000, dtype=torch.float64).to(dtype)
    y = 1 + draw(3, 2, 2000, dtype=dtype).abs()
    far = np.arange(-90, 91)[:, None]
    total = np.exp(-0.5 * (far / sigma.double().numpy()) ** 2).sum(axis=0)
    pixel = np.arange(2000)
    weight = np.exp(-0.5 * ((pixel[:, None] - pixel) / sigma.double().numpy()) ** 2) / total
    expected = y.double().numpy() @ weight.T
    for shape in (sigma, sigma.expand(2, -1)):
        check(convolve_gaussian(y, shape), expected, float(y.max()))


@TYPES
def test_transposes_are_those_of_dense_matrices(dtype: torch.dtype) -> None:
    """Gradients are products with transposed matrices, and outer products on the diagonals."""
    offsets, y, g = [2, 0, -1, 300], draw(1, 3, 700, dtype=dtype), draw(2, 3, 700, dtype=dtype)
    data = draw(3, 3, 4, 700, dtype=dtype).requires_grad_()
    y.requires_grad_()
    to_data, to_y = torch.autograd.grad(apply_banded(y, data, offsets), (data, y), g)
    dense = [dense_banded(matrix.detach(), offsets) for matrix in data]
    check(to_y, np.stack([m.T @ v.double().numpy() for m, v in zip(dense, g, strict=True)]), 20)
    values, seen = y.detach().double().numpy(), g.double().numpy()
    expected = np.zeros(data.shape)
    for k, offset in enumerate(offsets):
        column = np.arange(max(0, offset), min(700, 700 + offset))
        expected[:, k, column] = values[:, column] * seen[:, column - offset]
    check(to_data, expected, 20)


# ---- laws ----------------------------------------------------------------------------------


def maps(seed: int, rows: int, pixels: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return all kinds of line spread functions, as maps of spectra alone."""
    sigma, data = widths(seed, rows, pixels), draw(seed, rows, 3, pixels)
    kernel = 0.1 + draw(seed, 4).abs()
    return {
        "constant": lambda y: convolve_constant(y, kernel),
        "gaussian": lambda y: convolve_gaussian(y, sigma),
        "gaussian of all": lambda y: convolve_gaussian(y, sigma[0]),
        "banded": lambda y: apply_banded(y, data, (3, 0, -1)),
        "banded of all": lambda y: apply_banded(y, data[0], (3, 0, -1)),
    }


@given(rows=SIZES["rows"], pixels=SIZES["pixels"], seed=SIZES["seed"], factor=st.floats(-9, 9))
@law
def test_they_are_linear(rows: int, pixels: int, seed: int, factor: float) -> None:
    one, other = draw(seed, rows, pixels), draw(seed + 1, rows, pixels)
    for name, spread in maps(seed, rows, pixels).items():
        expected = spread(one) + factor * spread(other)
        torch.testing.assert_close(
            spread(one + factor * other), expected, rtol=1e-12, atol=1e-12, msg=name
        )


@given(rows=SIZES["rows"], pixels=SIZES["pixels"], seed=SIZES["seed"])
@law
def test_gradients_are_adjoint(rows: int, pixels: int, seed: int) -> None:
    """<A y, g> = <y, A^T g>."""
    y, g = draw(seed, rows, pixels).requires_grad_(), draw(seed + 1, rows, pixels)
    for name, spread in maps(seed, rows, pixels).items():
        seen = spread(y)
        (back,) = torch.autograd.grad(seen, y, g)
        torch.testing.assert_close(
            (seen * g).sum(), (y * back).sum(), rtol=1e-11, atol=1e-11, msg=name
        )


@given(pixels=st.integers(90, 300), seed=SIZES["seed"])
@law
def test_flux_is_kept_away_from_the_ends(pixels: int, seed: int) -> None:
    y = draw(seed, 2, pixels)
    y[:, :40] = 0
    y[:, -40:] = 0
    for name, spread in maps(seed, 2, pixels).items():
        if not name.startswith("banded"):  # those say themselves what they keep
            torch.testing.assert_close(
                spread(y).sum(dim=1), y.sum(dim=1), rtol=1e-12, atol=1e-12, msg=name
            )


@given(pixels=st.integers(60, 200), seed=SIZES["seed"], by=st.integers(-9, 9))
@law
def test_what_is_the_same_everywhere_commutes_with_shifts(pixels: int, seed: int, by: int) -> None:
    y = draw(seed, 2, pixels)
    y[:, :25] = 0
    y[:, -25:] = 0
    kernel, sigma = 0.1 + draw(seed, 5).abs(), torch.full((2, pixels), 0.9, dtype=torch.float64)
    for spread in (lambda x: convolve_constant(x, kernel), lambda x: convolve_gaussian(x, sigma)):
        moved = spread(y.roll(by, 1))
        torch.testing.assert_close(moved, spread(y).roll(by, 1), rtol=1e-12, atol=1e-12)


@TYPES
@pytest.mark.parametrize("width", [0.0, 1e-30, 1e-6, 0.01])
def test_sharp_gaussians_leave_spectra_as_they_are(dtype: torch.dtype, width: float) -> None:
    y = draw(1, 2, 300, dtype=dtype)
    for shape in ((300,), (2, 300)):
        sigma = torch.full(shape, width, dtype=dtype, requires_grad=True)
        made = convolve_gaussian(y, sigma)
        assert torch.equal(made, y)
        (slope,) = torch.autograd.grad(made.sum(), sigma)
        assert (slope == 0).all()


@TYPES
def test_a_delta_leaves_spectra_as_they_are(dtype: torch.dtype) -> None:
    y = draw(1, 3, 50, dtype=dtype)
    data = torch.zeros(3, 3, 50, dtype=dtype)
    data[:, 1] = 1
    assert torch.equal(apply_banded(y, data, (1, 0, -1)), y)


def test_width_is_that_of_the_pixel_from_which_light_comes() -> None:
    line = torch.zeros(1, 41, dtype=torch.float64)
    line[0, 20] = 1
    sigma = torch.full((1, 41), 3.0, dtype=torch.float64)
    sigma[0, 20] = 0.0
    assert torch.equal(convolve_gaussian(line, sigma), line)


# ---- derivatives ---------------------------------------------------------------------------


def arguments(name: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    y = draw(1, 3, 9).requires_grad_()
    made: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
        "constant": (convolve_constant, 0.2 + draw(2, 4).abs()),
        "gaussian": (convolve_gaussian, 0.3 + widths(3, 3, 9)),
        "gaussian of all": (convolve_gaussian, 0.3 + widths(4, 9)),
        "banded": (lambda y, d: apply_banded(y, d, (2, 0, -1, -20)), draw(5, 3, 4, 9)),
        "banded of all": (lambda y, d: apply_banded(y, d, (2, 0, -1, -20)), draw(6, 4, 9)),
    }
    function, parameter = made[name]
    return function, (y, parameter.requires_grad_())


own_use = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
"""torch warns of its own use of torch.jit.script, in forward derivatives"""

KINDS = pytest.mark.parametrize(
    "kind", ["constant", "gaussian", "gaussian of all", "banded", "banded of all"]
)


@own_use
@KINDS
def test_derivatives(kind: str) -> None:
    """First and second ones, backward and forward, of every argument."""
    function, given_ = arguments(kind)
    assert torch.autograd.gradcheck(function, given_, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, given_)


@own_use
@KINDS
@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (None, 0)], ids=str)
def test_vmap_is_a_loop(kind: str, mapped: tuple[int | None, int | None]) -> None:
    function, given_ = arguments(kind)
    stacked = [
        values.detach() if dim is None else torch.stack([values.detach() * (1 + k) for k in (0, 1)])
        for values, dim in zip(given_, mapped, strict=True)
    ]

    def slopes(*values: Tensor) -> tuple[Tensor, ...]:
        made, back = torch.func.vjp(function, *values)
        forward = torch.func.jvp(function, values, tuple(v.flip(-1) for v in values))[1]
        return made, forward, *back(made.cos())

    made = torch.func.vmap(slopes, in_dims=mapped)(*stacked)
    for k in (0, 1):
        one = slopes(*(v if d is None else v[k] for v, d in zip(stacked, mapped, strict=True)))
        for found, expected in zip(made, one, strict=True):
            torch.testing.assert_close(found[k], expected, rtol=1e-12, atol=1e-12)


def test_gaussians_are_not_differentiated_a_third_time() -> None:
    sigma = torch.full((1, 9), 1.0, dtype=torch.float64, requires_grad=True)
    slope: Tensor = convolve_gaussian(draw(1, 1, 9), sigma).square().sum()
    for _ in range(2):
        (slope,) = torch.autograd.grad(slope.sum(), sigma, create_graph=True)
    with pytest.raises(InputError, match="differentiated twice"):
        torch.autograd.grad(slope.sum(), sigma)


# ---- types, layouts and refusals -----------------------------------------------------------


def test_strided_arguments_give_the_same() -> None:
    """Slices of larger arrays, turned and repeated ones, as callers have them."""
    y, data, sigma = draw(1, 40, 6).T, draw(2, 40, 6, 5).permute(1, 2, 0), widths(3, 40, 6).T
    offsets = (2, 1, 0, -1, -2)
    for made, expected in (
        (apply_banded(y, data, offsets), apply_banded(y.contiguous(), data.contiguous(), offsets)),
        (
            apply_banded(y[::2, 5:30], data[::2, ::2, 5:30], (2, 0, -2)),
            apply_banded(y[::2, 5:30].clone(), data[::2, ::2, 5:30].clone(), (2, 0, -2)),
        ),
        (convolve_gaussian(y, sigma), convolve_gaussian(y.contiguous(), sigma.contiguous())),
    ):
        torch.testing.assert_close(made, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16], ids=str)
def test_short_types_are_rounded_only_once(short: torch.dtype) -> None:
    y = draw(1, 2, 50).to(short)
    data, sigma = draw(2, 2, 3, 50, dtype=torch.float32), widths(3, 2, 50, dtype=torch.float32)
    exact = apply_banded(y.float(), data, (1, 0, -1)).to(short)
    assert torch.equal(apply_banded(y, data, (1, 0, -1)), exact)
    assert torch.equal(convolve_gaussian(y, sigma), convolve_gaussian(y.float(), sigma).to(short))
    assert convolve_gaussian(y, sigma.to(short)).dtype == short


def test_parameters_take_the_type_of_the_spectra() -> None:
    y, data = draw(1, 2, 50, dtype=torch.float32), draw(2, 2, 3, 50)
    made = apply_banded(y, data, (1, 0, -1))
    assert made.dtype == torch.float32
    assert torch.equal(made, apply_banded(y, data.float(), (1, 0, -1)))


def test_no_spectra_are_no_trouble() -> None:
    nothing = torch.empty(0, 40, requires_grad=True)
    data = torch.empty(0, 3, 40, requires_grad=True)
    made = apply_banded(nothing, data, (1, 0, -1)) + convolve_gaussian(nothing, nothing)
    assert made.shape == (0, 40)
    made.sum().backward()
    assert data.grad is not None
    assert data.grad.shape == (0, 3, 40)
    assert convolve_constant(nothing, torch.ones(3)).shape == (0, 40)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: apply_banded(y, torch.ones(2, 3, 9), (1, 0)), r"must have shape \(B, 2, 10\)"),
        (lambda y: apply_banded(y, torch.ones(3, 2, 10), (1, 0)), "3 matrices for 2 spectra"),
        (lambda y: apply_banded(y, torch.ones(1, 2, 10), (1, 0)), "1 matrices for 2 spectra"),
        (lambda y: apply_banded(y[0], torch.ones(2, 10), (1, 0)), r"shape \(B, L\), got \(10,\)"),
        (lambda y: convolve_gaussian(y, torch.ones(9)), r"widths \(B, L\) or \(L,\)"),
        (lambda y: convolve_gaussian(y, torch.ones(3, 10)), "widths of 3 spectra for 2"),
        (lambda y: convolve_gaussian(y[0], torch.ones(10)), r"got \(10,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(torch.ones(2, 10))


def test_threads_change_nothing(backend: str) -> None:
    y, data = draw(1, 300, 900, dtype=torch.float32), draw(2, 300, 5, 900, dtype=torch.float32)
    offsets, sigma = (2, 1, 0, -1, -2), widths(3, 300, 900, dtype=torch.float32)

    def all_of_it() -> list[Tensor]:
        given_ = [t.clone().requires_grad_() for t in (y, data, data[0], sigma)]
        made = apply_banded(given_[0], given_[1], offsets)
        made = made + apply_banded(given_[0], given_[2], offsets)
        made = made + convolve_gaussian(given_[0], given_[3])
        return [made, *torch.autograd.grad(made.square().sum(), given_)]

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(all_of_it())
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        if backend == "compiled":
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
