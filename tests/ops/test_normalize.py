"""Normalisation and amplitude: which pixels count, and how they scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.ops.normalize import NORM_WINDOW, amplitude, normalization

WAVE = torch.linspace(4000, 9000, 501, dtype=torch.float64)  # every 10 Angstrom
UNKNOWN = float("nan")


def norm_of(flux: Tensor, ivar: Tensor | None = None, z: float = 0.0) -> tuple[float, bool]:
    """Return the norm of one spectrum, and whether it is the RMS."""
    ivar = torch.ones_like(flux) if ivar is None else ivar
    norm, used_rms = normalization(flux[None], ivar[None], torch.tensor([z]), WAVE)
    return norm.item(), bool(used_rms)


def window(z: float = 0.0) -> Tensor:
    """Return the pixels in the window, by its definition."""
    rest = WAVE / (1 + z)
    return (rest > NORM_WINDOW[0]) & (rest < NORM_WINDOW[1])


@pytest.mark.parametrize("z", [0.0, 0.1, 0.5])
def test_norm_is_the_median_in_the_window(z: float) -> None:
    flux = 1 + torch.rand(501, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flux[~window(z)] = 1000.0
    norm, used_rms = norm_of(flux, z=z)
    assert norm == flux[window(z)].median()
    assert not used_rms


def test_the_lower_of_two_medians_is_taken() -> None:
    inside = window().nonzero()[:, 0]
    ivar = torch.zeros(501)
    ivar[inside[:4]] = 1.0
    flux = torch.zeros(501)
    flux[inside[:4]] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert norm_of(flux, ivar) == (2.0, False)


def test_masked_pixels_do_not_count() -> None:
    flux = torch.full((501,), 2.0)
    ivar = torch.ones(501)
    bad = window().nonzero()[::2, 0]
    flux[bad], ivar[bad] = 1e9, 0.0
    assert norm_of(flux, ivar) == (2.0, False)


def assert_is_rms(flux: Tensor, ivar: Tensor | None = None, z: float = 0.0) -> None:
    good = torch.ones_like(flux) if ivar is None else (ivar > 0)
    expected = ((flux.double() ** 2 * good).sum() / good.sum()).sqrt().item()
    norm, used_rms = norm_of(flux, ivar, z)
    assert used_rms
    assert norm == pytest.approx(expected, rel=1e-6)


def test_rms_where_the_redshift_is_unknown() -> None:
    assert_is_rms(torch.linspace(-1, 3, 501), z=UNKNOWN)


def test_rms_where_the_window_is_not_observed() -> None:
    assert_is_rms(torch.linspace(-1, 3, 501), z=1.5)


@pytest.mark.parametrize("level", [-2.0, 0.0])
def test_rms_where_the_median_is_not_positive(level: float) -> None:
    flux = torch.linspace(1, 3, 501)
    flux[window()] = level
    assert_is_rms(flux)


def test_rms_of_good_pixels_where_the_window_is_masked() -> None:
    flux, ivar = torch.linspace(1, 3, 501), torch.ones(501)
    flux[window()], ivar[window()] = 1e6, 0.0
    assert_is_rms(flux, ivar)


def test_one_where_nothing_is_known() -> None:
    flux = torch.linspace(1, 3, 501)
    assert norm_of(flux, torch.zeros(501)) == (1.0, True)
    assert norm_of(torch.zeros(501)) == (1.0, True)
    assert norm_of(flux, torch.zeros(501), UNKNOWN) == (1.0, True)


def test_spectra_of_a_batch_are_independent() -> None:
    flux = torch.stack([torch.full((501,), 2.0), torch.full((501,), -3.0), torch.ones(501)])
    ivar = torch.ones(3, 501)
    ivar[2] = 0
    norm, used_rms = normalization(flux, ivar, torch.tensor([0.0, 0.0, UNKNOWN]), WAVE)
    assert norm.tolist() == [2.0, 3.0, 1.0]
    assert used_rms.tolist() == [False, True, True]


@given(
    exponent=st.floats(-20, 20),
    z=st.sampled_from([0.0, 0.3, 2.0, UNKNOWN]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_norm_scales_with_the_flux(exponent: float, z: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    flux = torch.randn(501, generator=generator, dtype=torch.float64) + 0.3
    scale = 10.0**exponent
    norm, used_rms = norm_of(flux, z=z)
    scaled, used_rms_scaled = norm_of(scale * flux, z=z)
    assert scaled == pytest.approx(scale * norm, rel=1e-12)
    assert used_rms == used_rms_scaled
    assert scaled > 0


def test_amplitude_recovers_what_was_planted() -> None:
    generator = torch.Generator().manual_seed(5)
    model = torch.rand(3, 50, generator=generator, dtype=torch.float64) + 0.5
    weight = torch.rand(3, 50, generator=generator, dtype=torch.float64)
    planted = torch.tensor([0.1, -2.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(amplitude(model, planted[:, None] * model, weight), planted)


def test_amplitude_is_the_best_fit() -> None:
    generator = torch.Generator().manual_seed(6)
    model, flux, weight = torch.rand(3, 1, 50, generator=generator, dtype=torch.float64)
    best = amplitude(model, flux, weight)[:, None]

    def chi2(factor: Tensor) -> Tensor:
        return (weight * (flux - factor * model) ** 2).sum()

    assert chi2(best) < chi2(best + 1e-3)
    assert chi2(best) < chi2(best - 1e-3)


def test_amplitude_is_one_where_unconstrained() -> None:
    model, flux = torch.ones(2, 5), torch.full((2, 5), 7.0)
    assert amplitude(model, flux, torch.zeros(2, 5)).tolist() == [1.0, 1.0]
    assert amplitude(0 * model, flux, torch.ones(2, 5)).tolist() == [1.0, 1.0]


def test_gradients_of_an_unconstrained_amplitude_are_finite() -> None:
    model = torch.ones(2, 5, requires_grad=True)
    weight = torch.ones(2, 5)
    weight[1] = 0
    amplitude(model, torch.full((2, 5), 7.0), weight).sum().backward()
    assert model.grad is not None
    assert model.grad.isfinite().all()
