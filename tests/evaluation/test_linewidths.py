"""Widths of lines: those of known Gaussians, blended and noisy, on any grid and at any redshift."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.errors import InputError
from spender_core.evaluation.linewidths import BLENDS, LIGHT, Blend, widths
from spender_core.grid import Grid, Linear, Log

HALPHA, OIII, HBETA = BLENDS
FINE = Log(3.66, 5e-5, 4000)  # 4571 to 7244 Angstrom, 34.5 km/s


def line(wave: Tensor, centre: float, area: Any, sigma: Any, velocity: Any = 0.0) -> Tensor:
    """Return a Gaussian in ln(wavelength) of some area (Angstrom) and width (km/s)."""
    sigma, velocity = torch.as_tensor(sigma), torch.as_tensor(velocity)
    away = LIGHT * (wave / centre).log() - velocity[..., None]
    height = torch.as_tensor(area) / (centre * sigma / LIGHT * math.sqrt(2 * math.pi))
    profile: Tensor = height[..., None] * torch.exp(-0.5 * (away / sigma[..., None]).square())
    return profile


def blend(
    sigma: Tensor, area: float = 30.0, n2: float = 0.5, velocity: float = 0.0, grid: Grid = FINE
) -> Tensor:
    """Return H alpha with [N II] on a sloping continuum of 1 at H alpha."""
    wave = torch.tensor(grid.wave)
    lines = [(6564.60, area), (6585.27, n2 * area), (6549.86, n2 * area / 2.96)]
    sloping = 1 + 0.3 * (wave / 6564.6).log()
    shift = torch.full_like(sigma, velocity)
    return sloping + torch.stack([line(wave, *one, sigma, shift) for one in lines]).sum(0)


@settings(max_examples=40, deadline=None)
@given(
    sigma=st.floats(36.0, 350.0),
    n2=st.floats(0.05, 2.0),
    velocity=st.floats(-60.0, 60.0),
    area=st.floats(2.0, 300.0),
)
def test_a_blend_without_noise_gives_its_width(
    sigma: float, n2: float, velocity: float, area: float
) -> None:
    flux = blend(torch.tensor([sigma]).double(), area, n2, velocity)
    found = widths(torch.tensor(FINE.wave), 7.5 * flux, HALPHA)
    assert float(found.sigma) == pytest.approx(sigma, rel=1e-3)
    assert float(found.velocity) == pytest.approx(velocity, abs=0.2)
    assert float(found.strength) == pytest.approx(area, rel=0.01)
    assert float(found.error) < 0.02 * sigma


@pytest.mark.parametrize(
    ("blended", "lines"),
    [(OIII, [(5008.24, 20.0), (4960.30, 20.0 / 2.98)]), (HBETA, [(4862.71, 12.0)])],
    ids=["[O III]", "Hβ"],
)
@pytest.mark.parametrize("grid", [FINE, Linear(4600.0, 0.7, 4000)], ids=["log", "linear"])
def test_other_lines_and_grids_do_alike(
    blended: Blend, lines: list[tuple[float, float]], grid: Grid
) -> None:
    sigma, wave = torch.tensor([50.0, 120.0, 300.0]).double(), torch.tensor(grid.wave)
    flux = torch.stack([line(wave, centre, 2 * area, sigma) for centre, area in lines]).sum(0) + 2
    found = widths(wave, flux, blended)
    torch.testing.assert_close(found.sigma, sigma, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        found.strength, torch.full((3,), lines[0][1]).double(), rtol=0.01, atol=0
    )


def test_redshifted_wavelengths_are_moved_to_the_restframe() -> None:
    grid, z = Log(3.66, 1e-4, 3000), torch.tensor([0.0, 0.1, 0.35])
    sigma = torch.tensor([70.0, 90.0, 130.0]).double()
    wave = torch.tensor(grid.wave)
    flux = torch.stack(
        [
            blend(sigma[row : row + 1], grid=Log(3.66 - math.log10(1 + float(one)), 1e-4, 3000))[0]
            for row, one in enumerate(z)
        ]
    )
    found = widths(wave, flux, HALPHA, z)
    torch.testing.assert_close(found.sigma, sigma, rtol=1e-3, atol=0)
    # lines that leave the instrument are not measured
    assert not bool(widths(wave, flux, HALPHA, torch.full((3,), 0.6)).sigma.isfinite().any())


def test_broadening_adds_in_squares() -> None:
    """What an instrument does: a spectrum on a log grid, convolved with a Gaussian."""
    sigma = torch.tensor([60.0, 100.0, 200.0]).double()
    offset = torch.arange(-14, 15).double()
    kernel = torch.exp(-0.5 * (offset * 34.51488 / 68.0).square())
    flux = torch.nn.functional.conv1d(
        blend(sigma)[:, None], (kernel / kernel.sum())[None, None], padding=14
    )[:, 0]
    found = widths(torch.tensor(FINE.wave), flux, HALPHA).sigma
    torch.testing.assert_close(found, (sigma.square() + 68.0**2).sqrt(), rtol=2e-3, atol=0)


def test_errors_are_those_of_many_draws() -> None:
    grid, n = Log(3.66, 1e-4, 2000), 400
    sigma = torch.full((n,), 110.0).double()
    flux, noise = blend(sigma, area=25.0, grid=grid), 0.15
    drawn = flux + noise * torch.randn(flux.shape, generator=torch.Generator().manual_seed(1))
    wave, ivar = torch.tensor(grid.wave), torch.full_like(flux, noise**-2)
    for options in ({"ivar": ivar}, {}):
        found = widths(wave, drawn, HALPHA, **options)
        pull = (found.sigma - sigma) / found.error
        assert bool(pull.isfinite().all())
        assert abs(float(pull.mean())) < 5 / math.sqrt(n)
        assert float(pull.std()) == pytest.approx(1, abs=0.2)
        assert 0.01 < float(found.error.median()) / 110 < 0.1


def test_masked_pixels_do_not_count() -> None:
    sigma = torch.tensor([80.0, 160.0]).double()
    flux = blend(sigma)
    ivar = torch.ones_like(flux)
    wave = torch.tensor(FINE.wave)
    for place in (6567.0, 6590.0, 6520.0):
        struck = (wave - place).abs() < 0.5
        flux[:, struck], ivar[:, struck] = 100.0, 0
    torch.testing.assert_close(
        widths(wave, flux, HALPHA, ivar=ivar).sigma, sigma, rtol=1e-3, atol=0
    )
    known = widths(wave, 1e-3 * flux, HALPHA, ivar=ivar > 0)
    torch.testing.assert_close(known.sigma, sigma, rtol=1e-3, atol=0)
    assert bool((known.error < 1).all())  # of the scatter, not of a variance of 1
    ivar[:, (wave > 6550) & (wave < 6580)] = 0
    assert not bool(widths(wave, flux, HALPHA, ivar=ivar).sigma.isfinite().any())


def test_what_is_no_line_has_no_width() -> None:
    wave = torch.tensor(FINE.wave)
    sigma = torch.tensor([100.0]).double()
    generator = torch.Generator().manual_seed(2)
    noise = 1 + 0.1 * torch.randn(1, FINE.size, generator=generator)
    dip = 2 - line(wave, 6564.6, 8.0, sigma)
    none = torch.cat([noise, dip, torch.zeros_like(dip), torch.ones_like(dip)])
    found = widths(wave, none, HALPHA)
    for column in (found.sigma, found.error, found.velocity, found.strength):
        assert not bool(column.isfinite().any())
    # beside one that is
    mixed = widths(wave, torch.cat([none, blend(sigma)]), HALPHA)
    assert mixed.sigma.isfinite().tolist() == [False] * 4 + [True]
    assert float(mixed.sigma[-1]) == pytest.approx(100, rel=1e-3)
    assert len(widths(wave, blend(sigma)[:0], HALPHA).sigma) == 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    wave, flux = torch.tensor(FINE.wave), torch.ones(2, FINE.size)
    with pytest.raises(InputError, match="wave does not fit"):
        widths(wave[1:], flux, HALPHA)
    with pytest.raises(InputError, match="z does not fit"):
        widths(wave, flux, HALPHA, z=torch.zeros(3))
    with pytest.raises(InputError, match="ivar does not fit"):
        widths(wave, flux, HALPHA, ivar=flux[:1])
