"""Laws of the measures: known lines and breaks give known values, errors are what scatters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.evaluation.indices import (
    ABSORPTION,
    BLUE,
    EMISSION,
    GREEN,
    RED,
    Line,
    colour,
    d4000,
    equivalent_width,
    indices,
)
from spender_core.grid import Grid, Linear, Log

GRIDS = (Log(3.5563, 1e-4, 4620), Linear(3600.0, 0.8, 7781))  # of BOSS and DESI
HALPHA = next(line for line in EMISSION if line.name == "Hα")
CENTRES = {"[O II]": 3727.3, "Hβ": 4862.7, "[O III]": 5008.24, "Hα": 6564.6, "[N II]": 6585.27}


def made(flux_BL: Tensor, z: float, sigma: float = 0.1) -> SpectrumBatch:
    """Return spectra, float64, with the same noise in every pixel, whether it is there or not."""
    return SpectrumBatch(flux_BL, torch.full_like(flux_BL, sigma**-2), z=[z] * len(flux_BL))


def with_line(grid: Grid, z: float, centre: float, width: float, sigma: float = 2.0) -> Tensor:
    """Return a sloping continuum with a Gaussian line, averaged over each pixel, (1, L)."""
    rest = torch.tensor(grid.edges) / (1 + z)
    below = 0.5 * (1 + torch.erf((rest - centre) / (sigma * math.sqrt(2))))
    profile = below.diff() / rest.diff()
    wave = 0.5 * (rest[1:] + rest[:-1])
    return ((1 + 0.2 * (wave / centre - 1)) * (1 + width * profile))[None]


@pytest.mark.parametrize("grid", GRIDS, ids=["log", "linear"])
@pytest.mark.parametrize("line", EMISSION, ids=lambda line: line.name)
@pytest.mark.parametrize("width", [-2.0, 0.0, 7.0, 300.0])
@pytest.mark.parametrize("z", [0.05, 0.31])
def test_a_known_line_has_its_width(grid: Grid, line: Line, width: float, z: float) -> None:
    centre = CENTRES[line.name]
    found = equivalent_width(made(with_line(grid, z, centre, width), z), grid, line)
    # what of a Gaussian of 2 Angstrom falls into the window
    edges = (torch.tensor(line.window) - centre) / (2 * math.sqrt(2))
    expected = width * 0.5 * float(torch.erf(edges).diff())
    assert float(found.value) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_neighbours_are_told_apart() -> None:
    """A line in the window of [N II] does not change that of H alpha."""
    grid, z = GRIDS[1], 0.1
    found = indices(made(with_line(grid, z, 6585.27, 20.0), z), grid)
    assert float(found["Hα"].value) == pytest.approx(0.0, abs=0.01)
    assert float(found["[N II]"].value) == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize("grid", GRIDS, ids=["log", "linear"])
@pytest.mark.parametrize("step", [0.5, 1.0, 1.83])
def test_a_step_in_frequency_is_d4000(grid: Grid, step: float) -> None:
    wave = torch.tensor(grid.wave) / 1.2
    density = torch.where(wave < 3975, 1.0, step) / wave**2  # flat per frequency
    found = d4000(made(1e7 * density[None], 0.2), grid)
    assert float(found.value) == pytest.approx(step, rel=1e-5)


def test_colour_of_a_power_law() -> None:
    grid, z = GRIDS[1], 0.1
    wave = torch.tensor(grid.wave) / (1 + z)
    batch = made((wave / 5000)[None] ** -1.7, z)
    for first, second in ((BLUE, GREEN), (GREEN, RED), (RED, BLUE)):
        ratio = np.mean(second) / np.mean(first)
        expected = -1.7 * math.log10(ratio)
        assert float(colour(batch, grid, first, second).value) == pytest.approx(expected, abs=2e-4)


def test_units_do_not_matter_and_redshift_does_not_either() -> None:
    grid = GRIDS[0]
    one = indices(made(with_line(grid, 0.05, 6564.6, 30.0), 0.05), grid)
    scaled = indices(made(1e-3 * with_line(grid, 0.05, 6564.6, 30.0), 0.05, sigma=1e-4), grid)
    moved = indices(made(with_line(grid, 0.3, 6564.6, 30.0), 0.3), grid)
    for name in one:
        torch.testing.assert_close(scaled[name], one[name])
    for name in ("D4000", "colour 4200-5500", "Hα", "Hβ"):
        assert float(moved[name].value) == pytest.approx(float(one[name].value), 1e-3, 5e-3)


@pytest.mark.parametrize("grid", GRIDS, ids=["log", "linear"])
def test_errors_are_the_scatter_of_noise(grid: Grid) -> None:
    """Over 1500 realisations, with noise that varies by a factor of 3 and masked pixels."""
    z, n = 0.12, 1500
    clean = with_line(grid, z, 6564.6, 25.0)
    sigma_L = 0.03 * (2 + torch.sin(torch.arange(grid.size) / 7.0))
    generator = torch.Generator().manual_seed(5)
    noise_BL = torch.randn(n, grid.size, generator=generator, dtype=torch.float64)
    ivar_BL = (sigma_L**-2).double().expand(n, -1).clone()
    rest = torch.tensor(grid.wave) / (1 + z)
    ivar_BL[:, (rest > 6630) & (rest < 6640)] = 0
    ivar_BL[:, (rest > 4030) & (rest < 4050)] = 0
    batch = SpectrumBatch(clean + sigma_L * noise_BL, ivar_BL, z=[z] * n)
    for name, found in indices(batch, grid).items():
        known = found.value.isfinite()
        assert known.all(), name  # HδA too, of which a part of a side is masked
        ratio = float(found.value.std() / found.error.mean())
        assert ratio == pytest.approx(1, abs=0.07), name  # 4 standard errors of a scatter
        pull = (found.value - found.value.mean()) / found.error
        assert float(pull.abs().median()) == pytest.approx(0.6745, abs=0.07), name


def test_weights_leave_noisy_pixels_of_the_sides_out() -> None:
    """A side with useless pixels, far off the continuum, gives the width all the same."""
    grid, z = GRIDS[1], 0.1
    flux = with_line(grid, z, 6564.6, 10.0)
    ivar = torch.full_like(flux, 100.0)
    rest = torch.tensor(grid.wave) / (1 + z)
    flux[:, (rest > 6485) & (rest < 6490)] += 50
    ivar[:, (rest > 6485) & (rest < 6490)] = 1e-6
    found = equivalent_width(SpectrumBatch(flux, ivar, z=[z]), grid, HALPHA)
    assert float(found.value) == pytest.approx(10.0, abs=0.05)


def test_what_was_not_seen_is_not_a_number() -> None:
    grid = GRIDS[0]
    rest = torch.tensor(grid.wave)
    flux = with_line(grid, 0.0, 6564.6, 10.0).repeat(6, 1)
    ivar = torch.ones_like(flux)
    ivar[1, (rest > 6563) & (rest < 6566)] = 0  # the top of the line
    ivar[2, (rest > 6483) & (rest < 6505)] = 0  # most of a side
    ivar[3, (rest > 6483) & (rest < 6490)] = 0  # a little of it
    flux[4, (rest > 6400) & (rest < 6700)] *= -1
    z = [0.0, 0.0, 0.0, 0.0, 0.0, math.nan]
    found = equivalent_width(SpectrumBatch(flux, ivar, z=z), grid, HALPHA)
    expected = [True, False, False, True, False, False]
    assert found.value.isfinite().tolist() == expected
    assert found.error.isfinite().tolist() == expected
    far = indices(SpectrumBatch(flux[:1], ivar[:1], z=[0.7]), grid)
    seen = {name for name, measure in far.items() if bool(measure.value.isfinite())}
    assert {"D4000", "Hβ", "[O III]", "[O II]"} <= seen
    assert not seen & {"Hα", "[N II]", "colour 5500-7000"}


def test_absorption_is_negative() -> None:
    grid, z = GRIDS[1], 0.1
    centres = {"HδA": 4102.9, "Mg b": 5176.6, "Na D": 5894.6}
    for line in ABSORPTION:
        batch = made(with_line(grid, z, centres[line.name], -3.0, sigma=4.0), z)
        assert float(equivalent_width(batch, grid, line).value) == pytest.approx(-3.0, abs=0.03)


def test_another_grid_is_refused() -> None:
    batch = made(torch.ones(1, 100, dtype=torch.float64), 0.1)
    with pytest.raises(InputError, match="100 pixels and the grid has 4620"):
        d4000(batch, GRIDS[0])
