"""Stellar populations from formulas, held against the published ones that they imitate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.parametric import star_spectra
from spender_core.datasets.mock.sources import FINE
from spender_core.datasets.mock.templates import read_populations

wave = FINE.wave
# line, blue and red pseudo-continuum: Worthey et al. 1994, ApJS 94, 687; Worthey & Ottaviani
# 1997, ApJS 111, 377; moved to vacuum
INDICES = {
    "H delta": ((4084.7, 4123.4), (4042.8, 4081.5), (4129.7, 4163.0)),
    "H beta": ((4849.2, 4877.9), (4829.2, 4849.2), (4878.0, 4892.9)),
    "Mg b": ((5161.6, 5194.1), (5119.1, 5162.8), (5192.8, 5207.8)),
    "Fe 5270": ((5247.1, 5287.1), (5234.6, 5249.6), (5287.1, 5319.6)),
    "Na D": ((5878.5, 5910.9), (5862.3, 5877.3), (5923.8, 5949.8)),
}


def mean(flux: NDArray[np.float64], low: float, high: float) -> float:
    return float(flux[(wave > low) & (wave < high)].mean())


def width(flux: NDArray[np.float64], index: str) -> float:
    line, blue, red = INDICES[index]
    level = np.interp(wave, [np.mean(blue), np.mean(red)], [mean(flux, *blue), mean(flux, *red)])
    inside = (wave > line[0]) & (wave < line[1])
    return float(((1 - flux / level) * np.gradient(wave))[inside].sum())


def d4000(flux: NDArray[np.float64]) -> float:
    return mean(flux, 4001, 4101) / mean(flux, 3851, 3951) * (4050 / 3900) ** 2


@pytest.fixture(scope="module")
def made() -> NDArray[np.float64]:
    return parametric.populations().flux.double().numpy()


def test_ages_and_fluxes_are_those_of_populations(made: NDArray[np.float64]) -> None:
    age = parametric.populations().age.numpy()
    assert np.allclose(np.diff(np.log10(age)), 0.25)
    assert made.min() > 0
    assert np.isfinite(made).all()


def test_old_stars_are_fainter_redder_and_have_deeper_metal_lines(
    made: NDArray[np.float64],
) -> None:
    """Below 10 Myr, stars are on their way to becoming the brightest."""
    level = [mean(flux, 5300, 5700) for flux in made[1:]]
    assert (np.diff(level) < 0).all()
    break_depth = np.array([d4000(flux) for flux in made])
    assert break_depth[0] < 1.05
    assert (np.diff(break_depth[6:]) > 0).all()
    assert break_depth[-1] > 2
    metal = np.array([width(flux, "Mg b") for flux in made])
    assert (np.diff(metal[6:]) > 0).all()
    balmer = np.array([width(flux, "H delta") for flux in made])
    assert 7 <= balmer.argmax() <= 9


def test_balmer_lines_are_at_their_wavelengths(made: NDArray[np.float64]) -> None:
    for line in (4102.89, 4341.69, 4862.71, 6564.6):
        near = np.abs(wave - line) < 15
        assert wave[near][made[7][near].argmin()] == pytest.approx(line, abs=0.7)


def test_stars_have_the_marks_of_their_class() -> None:
    stars = star_spectra()
    assert list(stars) == ["A", "F", "G", "K", "M", "WD"]
    halpha = {
        name: 1 - mean(flux[0], 6562, 6567) / mean(flux[0], 6620, 6680)
        for name, flux in stars.items()
    }
    assert halpha["A"] > halpha["G"] > halpha["K"] > halpha["M"]
    colour = {
        name: mean(flux[1], 4450, 4550) / mean(flux[1], 6950, 7050) for name, flux in stars.items()
    }
    order = ["A", "F", "G", "K", "M"]
    assert sorted(order, key=lambda name: -colour[name]) == order
    titanium = stars["M"][-1]
    assert mean(titanium, 7060, 7150) < 0.8 * mean(titanium, 7020, 7050)


def test_contrast_deepens_what_absorbs() -> None:
    plain, deep = star_spectra(1.0)["G"][1], star_spectra(1.5)["G"][1]
    assert width(deep, "Mg b") > 1.3 * width(plain, "Mg b")


def test_they_look_like_the_published_populations(
    made: NDArray[np.float64], real_data: Path
) -> None:
    real = read_populations(real_data / "templates").flux.double().numpy()
    # (low, high, how far apart at most): 2500 is a cliff of the old ones
    for centre, most in (
        (2000, 0.15), (2500, 0.35), (3000, 0.15), (3600, 0.15), (4200, 0.15), (7000, 0.15),
        (9000, 0.15),
    ):  # fmt: skip
        colour, true = (
            np.array([mean(f, centre - 40, centre + 40) / mean(f, 5460, 5540) for f in flux])
            for flux in (made, real)
        )
        assert np.abs(colour / true - 1).max() < most, centre
    brightness = [
        mean(a, 5460, 5540) / mean(b, 5460, 5540) for a, b in zip(made, real, strict=True)
    ]
    assert np.abs(np.array(brightness) - 1).max() < 0.05
    breaks = [d4000(a) / d4000(b) for a, b in zip(made, real, strict=True)]
    assert np.abs(np.array(breaks) - 1).max() < 0.1
    for index in INDICES:
        mine, theirs = (np.array([width(f, index) for f in flux]) for flux in (made, real))
        # equivalent widths within 30 percent, or 0.65 Angstrom
        near = np.abs(mine - theirs) < np.maximum(0.3 * np.abs(theirs), 0.65)
        if index == "H delta":  # in old ones, the blends beside the line count, not the line
            near = near[:10]
        assert near.all(), (index, mine, theirs)
