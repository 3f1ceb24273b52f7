"""Redshift, resampling and constant LSFs: laws, gradients, and numpy as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.nn.layers import ConstantLSF
from spender_core.ops.lsf import convolve_constant
from spender_core.ops.redshift import redshift
from spender_core.ops.resample import interpolate

REST = torch.tensor(Log(3.3, 2e-4, 2500).wave)  # 1995 to 6307 Angstrom
OBS = torch.tensor(Linear(3600.0, 0.8, 7781).wave)
Array = NDArray[np.float64]


def spectra(n: int, pixels: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.rand(n, pixels, generator=generator, dtype=torch.float64)


def by_numpy(x: Tensor, rest: Tensor, obs: Tensor, z: Tensor) -> tuple[Array, NDArray[np.bool_]]:
    """Return the redshifted spectra by numpy.interp, 0 where the model does not reach."""
    at = [obs.numpy() / (1 + float(value)) for value in z]
    inside = np.stack([(points > rest[0].item()) & (points < rest[-1].item()) for points in at])
    values = [
        np.interp(points, rest.numpy(), row) for points, row in zip(at, x.numpy(), strict=True)
    ]
    return np.where(inside, values, 0.0), inside


def test_redshift_is_linear_interpolation() -> None:
    z = torch.tensor([0.0, 0.1, 0.31415926, 0.9], dtype=torch.float64)
    x = spectra(4, len(REST))
    y, valid = redshift(x, REST, OBS, z)
    expected, inside = by_numpy(x, REST, OBS, z)
    assert (valid.numpy() == inside).all()
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11)


@given(
    rest=st.lists(st.floats(0.1, 20), min_size=1, max_size=30),
    obs=st.lists(st.floats(0.1, 20), min_size=1, max_size=30),
    z=st.floats(-0.5, 5),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_redshift_is_linear_interpolation_on_any_grids(
    rest: list[float], obs: list[float], z: float, seed: int
) -> None:
    nodes = torch.tensor([1000.0, *rest], dtype=torch.float64).cumsum(0)
    points = torch.tensor([1000.0, *obs], dtype=torch.float64).cumsum(0)
    x = spectra(1, len(nodes), seed)
    y, valid = redshift(x, nodes, points, torch.tensor([z], dtype=torch.float64))
    expected, inside = by_numpy(x, nodes, points, torch.tensor([z], dtype=torch.float64))
    near_an_end = np.isclose(points.numpy() / (1 + z), nodes[0]) | np.isclose(
        points.numpy() / (1 + z), nodes[-1]
    )
    assert ((valid.numpy() == inside) | near_an_end).all()
    both = valid.numpy() & inside
    np.testing.assert_allclose(y.numpy()[both], expected[both], rtol=1e-8)
    assert (y[~valid] == 0).all()


def test_model_reaches_strictly_between_its_ends() -> None:
    rest = torch.tensor([1000.0, 1001.0, 1002.0], dtype=torch.float64)
    obs = torch.tensor([1999.0, 2000.0, 2001.0, 2004.0, 2005.0], dtype=torch.float64)
    y, valid = redshift(torch.ones(1, 3), rest, obs, torch.tensor([1.0]))
    assert valid.tolist() == [[False, False, True, False, False]]
    assert y.tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0]]


def test_redshift_zero_is_the_identity() -> None:
    x = spectra(2, len(REST))
    y, valid = redshift(x, REST, REST, torch.zeros(2))
    torch.testing.assert_close(y[:, 1:-1], x[:, 1:-1], rtol=1e-15, atol=0)
    assert valid[:, 1:-1].all()
    assert not valid[:, [0, -1]].any()


def test_redshift_is_linear_in_flux() -> None:
    a, b = spectra(3, len(REST), 1), spectra(3, len(REST), 2)
    z = torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)

    def apply(x: Tensor) -> Tensor:
        return redshift(x, REST, OBS, z)[0]

    torch.testing.assert_close(apply(2 * a - 3 * b), 2 * apply(a) - 3 * apply(b))


def test_redshift_by_whole_pixels_of_a_log_grid_is_a_shift() -> None:
    grid = Log(3.55, 1e-4, 3000)
    wave, x = torch.tensor(grid.wave), spectra(1, grid.size)
    for pixels in (1, 17, 200):
        z = torch.tensor([10 ** (pixels * grid.step) - 1], dtype=torch.float64)
        y, valid = redshift(x, wave, wave, z)
        seen, source = slice(pixels + 1, None), slice(1, -pixels)
        torch.testing.assert_close(y[:, seen], x[:, source], rtol=1e-8, atol=0)
        assert valid[:, seen].all()
        assert not valid[:, :pixels].any()


def test_float32_spectra_have_float64_coordinates() -> None:
    x = spectra(3, len(REST))
    z = torch.tensor([0.0, 0.12345, 0.4], dtype=torch.float64)
    exact, valid = redshift(x, REST, OBS, z)
    single, valid_single = redshift(x.float(), REST, OBS, z)
    assert single.dtype == torch.float32
    assert torch.equal(valid, valid_single)
    assert (single - exact).abs().max() < 2e-6 * exact.max()


def test_gradients_of_redshift() -> None:
    """In float64, at points away from nodes, where the derivative in z is defined."""
    rest = torch.linspace(3000, 3020, 11, dtype=torch.float64)  # every 2 Angstrom
    obs = 3005.0 + torch.tensor([0.3, 1.1, 2.7, 5.9, 8.6], dtype=torch.float64)
    x = spectra(2, 11).requires_grad_()
    z = torch.tensor([0.0, 1e-4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: redshift(a, rest, obs, b)[0], (x, z), eps=1e-7)


def test_gradients_do_not_come_from_beyond_the_model() -> None:
    rest = torch.linspace(3000, 3020, 11, dtype=torch.float64)
    obs = torch.tensor([2000.0, 2999.0, 3021.0, 5000.0], dtype=torch.float64)
    x = spectra(1, 11).requires_grad_()
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    redshift(x, rest, obs, z)[0].sum().backward()
    assert x.grad is not None
    assert z.grad is not None
    assert (x.grad == 0).all()
    assert (z.grad == 0).all()


def test_interpolation_extrapolates_from_the_last_interval() -> None:
    nodes = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    points = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    values = interpolate(torch.tensor([[0.0, 1.0, 5.0]]), nodes, points)
    assert values.tolist() == [[-1.0, 0.0, 0.5, 1.0, 3.0, 5.0, 9.0]]


def kernel(taps: int, seed: int = 3) -> Tensor:
    return 0.1 + torch.rand(taps, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("taps", [1, 3, 5, 11])
def test_odd_kernels_are_numpys_convolution(taps: int) -> None:
    y, k = spectra(2, 40), kernel(taps)
    expected = [np.convolve(row, (k / k.sum()).numpy(), mode="same") for row in y.numpy()]
    np.testing.assert_allclose(convolve_constant(y, k).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("taps", [2, 4, 10])
def test_even_kernels_are_centred_on_tap_half_their_length(taps: int) -> None:
    """The centre is tap K // 2; that of numpy's mode "same" would be tap K // 2 - 1."""
    y, k = spectra(2, 40), kernel(taps)
    full = np.stack([np.convolve(row, (k / k.sum()).numpy()) for row in y.numpy()])
    expected = full[:, taps // 2 : taps // 2 + 40]
    np.testing.assert_allclose(convolve_constant(y, k).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
def test_a_kernel_begins_as_the_identity(taps: int) -> None:
    y = spectra(2, 40)
    torch.testing.assert_close(ConstantLSF(taps).double()(y), y, rtol=0, atol=0)


def test_taps_run_with_wavelength() -> None:
    line = torch.zeros(1, 9)
    line[0, 4] = 1.0
    broadened = convolve_constant(line, torch.tensor([1.0, 2.0, 5.0]))
    assert broadened[0, 3:6].tolist() == pytest.approx([0.125, 0.25, 0.625])


@given(taps=st.integers(1, 9), pixels=st.integers(20, 40), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_flux_is_kept_away_from_the_edges(taps: int, pixels: int, seed: int) -> None:
    y = spectra(1, pixels, seed)
    y[:, :taps] = 0
    y[:, -taps:] = 0
    broadened = convolve_constant(y, kernel(taps, seed))
    torch.testing.assert_close(broadened.sum(), y.sum(), rtol=1e-12, atol=0)


def test_scale_of_the_kernel_does_not_matter() -> None:
    y, k = spectra(1, 30), kernel(5)
    torch.testing.assert_close(convolve_constant(y, k), convolve_constant(y, 7 * k))


def test_gradients_of_the_convolution() -> None:
    y, k = spectra(2, 12).requires_grad_(), kernel(4).requires_grad_()
    assert torch.autograd.gradcheck(convolve_constant, (y, k))


def test_a_kernel_needs_a_tap() -> None:
    with pytest.raises(
        InputError, match="the taps of an LSF kernel must be positive integers, got 0"
    ):
        ConstantLSF(0)
