"""Lines are measured on every kind of grid, so that correct plugins pass and wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from testing.mutants import air_of

from spender_core import Instrument, SpectrumBatch
from spender_core.grid import Linear, Log, Table
from spender_core.testing import ContractError, Example, Line
from spender_core.testing.checks.lines import air, check_line_flux, check_line_wavelength
from spender_core.testing.subject import Subject

GRIDS = {
    "fine": Linear(4800.0, 0.1, 4000),
    "desi": Linear(3600.0, 0.8, 7781),
    "sdss": Log(3.578, 1e-4, 3921),
    "coarse": Linear(3500.0, 4.0, 1500),
    "uneven": Table(np.concatenate([np.arange(4000, 5100, 1.0), np.arange(5100, 6000, 1.5)])),
}


def subject_of(grid, truth, line, folder, noise=0.02):
    """An instrument of a grid, and a spectrum whose pixels truly are elsewhere."""
    wave = truth.wave
    profile = np.exp(-0.5 * ((wave - line.wave) / line.sigma) ** 2)
    flux = (
        5 + wave / 5000 + noise * np.random.default_rng(int(line.wave)).standard_normal(len(wave))
    )
    flux += line.flux * profile / (line.sigma * np.sqrt(2 * np.pi))
    batch = SpectrumBatch(
        torch.from_numpy(flux)[None], torch.full((1, len(wave)), noise**-2, dtype=torch.float64)
    )
    made = type("Made", (Instrument,), {"name": "made", "grid": grid, "loader": None})
    path = folder / "made"
    path.touch()
    subject = Subject(made, folder, Example((path,), line))
    subject._raw[path] = batch
    return subject


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("place", [4912.3, 5100.2, 5130.9])
@pytest.mark.parametrize("width", [1.2, 3.0])
def test_a_line_is_found_where_it_is(name, place, width, tmp_path):
    grid = GRIDS[name]
    pixel = np.interp(place, grid.wave, np.gradient(grid.wave))
    line = Line(place, 60.0 * pixel, 0, width * pixel)
    subject = subject_of(grid, grid, line, tmp_path)
    check_line_wavelength(subject)
    check_line_flux(subject)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("share", [-0.5, 0.5])
def test_half_a_pixel_is_told(name, share, tmp_path):
    truth = GRIDS[name]
    grid = Table(truth.wave + share * np.gradient(truth.wave))
    pixel = np.interp(5130.0, truth.wave, np.gradient(truth.wave))
    line = Line(5130.0, 60.0 * pixel, 0, 1.5 * pixel)
    with pytest.raises(ContractError, match=rf"\({share:+.1f}\d? pixel|0\.4[89] pixel|0\.5. pixel"):
        check_line_wavelength(subject_of(grid, truth, line, tmp_path))


@pytest.mark.parametrize("name", ["fine", "desi", "sdss"])
@pytest.mark.parametrize("twice", [False, True])
def test_air_is_told(name, twice, tmp_path):
    """Wavelengths in air, and vacuum ones that were taken for air and converted."""
    truth = GRIDS[name]
    shift = truth.wave - air_of(truth.wave)
    grid = Table(truth.wave + shift if twice else truth.wave - shift)
    pixel = np.interp(5130.0, truth.wave, np.gradient(truth.wave))
    line = Line(5130.0, 60.0 * pixel, 0, 1.5 * pixel)
    words = "shift of air wavelengths, converted twice" if twice else "shift of air wavelengths"
    with pytest.raises(ContractError, match=rf"{words}\n"):
        check_line_wavelength(subject_of(grid, truth, line, tmp_path))


@pytest.mark.parametrize("flux", [1e-9, -60.0])
def test_a_line_that_is_not_there(flux, tmp_path):
    grid = GRIDS["desi"]
    subject = subject_of(grid, grid, Line(5130.0, flux, 0, 1.2), tmp_path)
    with pytest.raises(ContractError, match=r"no emission line|off by"):
        check_line_wavelength(subject)


def test_a_spectrum_without_anything(tmp_path):
    grid = GRIDS["desi"]
    subject = subject_of(grid, grid, Line(5130.0, 60.0, 0, 1.2), tmp_path)
    batch = subject.raw()
    subject._raw = dict.fromkeys(subject._raw, batch.replace(flux=torch.zeros_like(batch.flux)))
    with pytest.raises(ContractError, match="no emission line"):
        check_line_wavelength(subject)


@pytest.mark.parametrize(
    ("wave", "shift"), [(3727.092, 1.060), (5008.240, 1.397), (6564.61, 1.813)]
)
def test_air_of_two_formulas(wave, shift):
    """That of core agrees with Edlen's, and with [O II] 3726.03, [O III] 5006.84, H alpha in air."""
    assert air(wave) == pytest.approx(air_of(wave), abs=0.01)
    assert wave - air(wave) == pytest.approx(shift, abs=0.005)
