"""Rebinning: flux is kept, and specutils agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spender_core.grid import Log, Table
from spender_core.ops.rebin import rebin

Array = NDArray[np.float64]


def random_grid(rng: np.random.Generator, first: float, last: float, size: int) -> Table:
    """Return an irregular grid; steps differ by up to a factor of 5."""
    steps = rng.uniform(0.2, 1.0, size - 1)
    return Table(first + (last - first) * np.r_[0.0, np.cumsum(steps)] / steps.sum())


def random_spectra(rng: np.random.Generator, n: int, size: int) -> tuple[Array, Array]:
    return rng.normal(2.0, 1.0, (n, size)), rng.uniform(0.5, 5.0, (n, size))


@given(seed=st.integers(0, 10_000), size=st.integers(5, 60), new_size=st.integers(2, 60))
@settings(deadline=None, max_examples=40)
def test_flux_is_conserved(seed: int, size: int, new_size: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = random_grid(rng, 4000, 4100, size), random_grid(rng, 3800, 4300, new_size)
    edges = np.union1d(new.edges, [old.edges[0], old.edges[-1]])  # no pixel is half covered
    flux, ivar = random_spectra(rng, 2, size)
    made, _ = rebin(old.edges, flux, ivar, edges)
    before = (flux * np.diff(old.edges)).sum(axis=1)
    after = (made * np.diff(edges)).sum(axis=1)
    np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "new_size"), [(200, 40), (40, 200), (100, 101)])
def test_specutils_agrees(seed: int, size: int, new_size: int) -> None:
    pytest.importorskip("specutils", reason="the oracle specutils is not installed")
    import astropy.units as u
    from astropy.nddata import InverseVariance
    from specutils import Spectrum
    from specutils.manipulation import FluxConservingResampler

    rng = np.random.default_rng(seed)
    old, new = random_grid(rng, 4000, 4200, size), random_grid(rng, 4020, 4180, new_size)
    flux, ivar = random_spectra(rng, 1, size)
    spectrum = Spectrum(
        spectral_axis=old.wave * u.AA, flux=flux[0] * u.Jy, uncertainty=InverseVariance(ivar[0])
    )
    theirs: Any = FluxConservingResampler()(spectrum, new.wave * u.AA)
    made, information = rebin(old.edges, flux, ivar, new.edges)
    np.testing.assert_allclose(made[0], theirs.flux.value, rtol=1e-8)
    np.testing.assert_allclose(information[0], theirs.uncertainty.array, rtol=1e-8)


def test_the_same_pixels_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    grid = random_grid(rng, 4000, 4100, 50)
    flux, ivar = random_spectra(rng, 3, 50)
    ivar[1, 7] = 0
    made, information = rebin(grid.edges, flux, ivar, grid.edges)
    np.testing.assert_allclose(information, ivar, rtol=1e-12)
    np.testing.assert_allclose(made, np.where(ivar > 0, flux, 0), rtol=1e-12)


def test_edges_that_agree_up_to_rounding_count_as_the_same() -> None:
    rng = np.random.default_rng(1)
    grid = Log(3.58, 1e-4, 300)
    flux, ivar = random_spectra(rng, 2, 300)
    nearly = grid.edges * (1 + 1e-14 * rng.choice([-1, 0, 1], 301))
    made, information = rebin(grid.edges, flux, ivar, nearly)
    np.testing.assert_allclose(made, flux, rtol=1e-6)
    np.testing.assert_allclose(information, ivar, rtol=1e-6)


def test_two_pixels_become_their_mean() -> None:
    edges, new_edges = np.array([0.0, 1.0, 3.0]), np.array([0.0, 3.0])
    made, information = rebin(edges, np.array([[3.0, 6.0]]), np.array([[1.0, 4.0]]), new_edges)
    assert made[0, 0] == pytest.approx((1 * 3 + 2 * 6) / 3)
    variance = (1**2 * 1.0 + 2**2 * 0.25) / 3**2
    assert information[0, 0] == pytest.approx(1 / variance)


def test_masked_pixels_are_left_out() -> None:
    edges = np.arange(5.0)
    flux = np.array([[1.0, 1e9, 3.0, 5.0]])
    ivar = np.array([[1.0, 0.0, 1.0, 1.0]])
    made, information = rebin(edges, flux, ivar, np.array([0.0, 1.9, 4.0]))
    assert made[0] == pytest.approx([1.0, 4.0])
    assert information[0] == pytest.approx([1.0, 2.0])


def test_pixels_less_than_half_covered_are_masked() -> None:
    edges, flux, ivar = np.arange(5.0), np.ones((1, 4)), np.ones((1, 4))
    made, information = rebin(edges, flux, ivar, np.array([-2.0, 0.9, 2.0, 3.0, 4.9, 6.0]))
    assert (information[0] > 0).tolist() == [False, True, True, True, False]
    assert made[0] == pytest.approx([0.0, 1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("shift", [-100.0, 100.0, 4.0])
def test_nothing_comes_from_elsewhere(shift: float) -> None:
    edges = np.arange(5.0)
    made, information = rebin(edges, np.ones((2, 4)), np.ones((2, 4)), edges + shift)
    assert made.shape == information.shape == (2, 4)
    assert not made.any()
    assert not information.any()
