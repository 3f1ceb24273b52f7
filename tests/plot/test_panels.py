"""What is drawn of a spectrum, and how it is smoothed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spender_core import plot
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Reconstruction

LIGHT = 299792.458


class Mine(Instrument):
    name = "mine"
    grid = Linear(4000.0, 2.0, 2000)
    loader: Any = None


def noisy(wave: Any, sigma: Any, **changes: Any) -> plot.Panel:
    noise = np.random.default_rng(1).standard_normal(len(wave))
    flux = np.where(np.isfinite(sigma), 1 + noise * np.where(np.isfinite(sigma), sigma, 0), 0)
    arguments = {"title": "a", "wave": wave, "flux": flux, "sigma": sigma, "model": None, "z": 0.1}
    return plot.Panel(**(arguments | changes))


def test_a_panel_is_in_the_units_of_the_archive() -> None:
    flux, ivar = torch.full((2, 2000), 0.5), torch.full((2, 2000), 4.0)
    ivar[1, :7] = 0
    ids = np.array([(1,), (42,)], dtype=[("TARGETID", "i8")])
    batch = SpectrumBatch(
        flux, ivar, z=np.array([0.1, 0.2]), norm=[1.0, 10.0], ids=ids, instrument="mine"
    )
    observed = torch.full((1, 2000), 0.6)
    valid = torch.ones(1, 2000, dtype=torch.bool)
    valid[0, -3:] = False
    made = Reconstruction(torch.zeros(1, 2), torch.full((1, 5), 0.7), observed, valid)
    rest = torch.linspace(3000, 8000, 5)
    one = plot.panel(batch, 1, Mine(), made, made_row=0, wave_rest=rest)
    assert one.title == "42"
    assert one.z == 0.2
    np.testing.assert_allclose(one.flux, 5.0)
    np.testing.assert_allclose(one.sigma[7:], 5.0)
    assert np.isinf(one.sigma[:7]).all()
    assert one.good.sum() == 1993
    assert one.model is not None
    np.testing.assert_allclose(one.model[:-3], 6.0, rtol=1e-6)
    assert np.isnan(one.model[-3:]).all()
    assert one.restframe is not None
    np.testing.assert_allclose(one.restframe.flux, 7.0, rtol=1e-6)
    np.testing.assert_allclose(one.restframe.wave, rest)
    assert plot.panel(batch, 0, Mine(), title="mine").model is None


@pytest.mark.parametrize(
    ("text", "sigma", "unit"),
    [
        ("3", 3, "pixels"),
        ("2.5 px", 2.5, "pixels"),
        ("4 pixels", 4, "pixels"),
        ("150km/s", 150, "km/s"),
        ("150 KM/S", 150, "km/s"),
        ("80kms", 80, "km/s"),
    ],
)
def test_smoothing_is_asked_for_in_pixels_or_km_s(text: str, sigma: float, unit: str) -> None:
    assert plot.kernel(text) == plot.Kernel(sigma, unit)


@pytest.mark.parametrize("text", ["", "0", "-3", "much", "nan", "inf", "3 Å", "km/s"])
def test_other_smoothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="above 0"):
        plot.kernel(text)


def test_smoothing_weights_by_inverse_variance() -> None:
    """Against the sum written out for one pixel."""
    rng = np.random.default_rng(2)
    wave = Linear(4000.0, 2.0, 200).wave
    sigma = rng.uniform(0.1, 3.0, 200)
    one = noisy(wave, sigma)
    smooth = plot.smoothed(one, plot.Kernel(2.0, "pixels"))
    weight = np.exp(-0.5 * ((np.arange(200) - 90) / 2.0) ** 2) * (abs(np.arange(200) - 90) <= 8)
    expected = np.sum(weight * one.flux / sigma**2) / np.sum(weight / sigma**2)
    error = np.sqrt(np.sum(weight**2 / sigma**2)) / np.sum(weight / sigma**2)
    assert smooth.flux[90] == pytest.approx(expected, rel=1e-12)
    assert smooth.sigma[90] == pytest.approx(error, rel=1e-12)
    np.testing.assert_array_equal(smooth.raw, one.flux)


def test_the_smoothed_error_is_that_of_the_smoothed_flux() -> None:
    wave = Log(3.6, 1e-4, 20_000).wave
    smooth = plot.smoothed(noisy(wave, np.full(20_000, 0.3)), plot.Kernel(3.0, "pixels"))
    inner = slice(50, -50)
    pull = (smooth.flux - 1)[inner] / smooth.sigma[inner]
    assert np.std(pull) == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("grid", [Linear(3600.0, 0.8, 7781), Log(3.55, 1e-4, 4686)])
def test_a_line_is_broadened_by_the_velocity(grid: Any) -> None:
    """Whatever the grid, and wherever the line is."""
    wave = grid.wave
    for centre in (4000.0, 8500.0):
        speed = LIGHT * np.log(wave / centre)
        line = np.exp(-0.5 * (speed / 150.0) ** 2)
        one = noisy(wave, np.full(len(wave), 1.0), flux=line, model=line)
        smooth = plot.smoothed(one, plot.Kernel(200.0, "km/s"))
        weight = np.gradient(speed)
        width = np.sqrt(np.sum(weight * smooth.flux * speed**2) / np.sum(weight * smooth.flux))
        assert width == pytest.approx(np.hypot(150, 200), rel=0.01)
        np.testing.assert_allclose(smooth.model, smooth.flux, atol=1e-12)


def test_masked_pixels_have_no_say_and_stay_masked() -> None:
    wave = Linear(4000.0, 2.0, 300).wave
    sigma = np.full(300, 0.1)
    sigma[100:110] = np.inf
    flux = np.ones(300)
    flux[100:110] = 1e9
    model = np.ones(300)
    model[:20] = np.nan
    smooth = plot.smoothed(noisy(wave, sigma, flux=flux, model=model), plot.Kernel(4, "pixels"))
    np.testing.assert_allclose(smooth.flux[smooth.good], 1.0)
    assert (smooth.good == np.isfinite(sigma)).all()
    assert smooth.model is not None
    np.testing.assert_allclose(smooth.model[20:], 1.0)
    assert np.isnan(smooth.model[:20]).all()


def test_smoothing_is_told_in_the_legend() -> None:
    wave = Linear(4000.0, 2.0, 300).wave
    one = plot.smoothed(noisy(wave, np.full(300, 0.1)), plot.kernel("150km/s"))
    (legend,) = plot.spectra([one]).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["data", "smoothed: Gaussian of σ = 150 km/s, ivar-weighted"]


def test_a_wide_kernel_and_an_empty_spectrum_do_no_harm() -> None:
    wave = Linear(4000.0, 2.0, 50).wave
    wide = plot.smoothed(noisy(wave, np.full(50, 0.1)), plot.Kernel(1e4, "pixels"))
    np.testing.assert_allclose(wide.flux, wide.flux.mean(), rtol=1e-3)
    empty = plot.smoothed(noisy(wave, np.full(50, np.inf)), plot.Kernel(2, "pixels"))
    assert not empty.good.any()
