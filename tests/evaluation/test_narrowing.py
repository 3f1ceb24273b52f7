"""Lines of restframes: as narrow as the truth counts 1, as wide as seen 0, and what is between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import galaxies
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.datasets.mock.sources import FINE, KMS, Sources
from spender_core.datasets.mock.stream import Templates
from spender_core.evaluation.narrowing import (
    Narrowing,
    narrowing,
    narrowing_of,
    narrowing_table,
)
from spender_core.grid import Log
from spender_core.interfaces import Instrument, Model
from spender_core.interfaces.reconstruction import Reconstruction

LINES = {4862.71: 8.0, 4960.30: 8.0, 5008.24: 24.0, 6549.86: 5.0, 6564.60: 24.0, 6585.27: 15.0}
"""Wavelengths of lines, and their areas in Angstrom."""
SIGMA = 1.1
"""Width of the line spread function, pixels of 69 km/s."""


class Mine(Instrument):
    name = "mine"
    grid = Log(3.66, 1e-4, 2300)  # 4571 to 7762 Angstrom
    loader: Any = None


class Stub(Model):
    """Holds what it decodes: the latent of a spectrum is its row."""

    def __init__(self, restframes: Tensor, level: Tensor) -> None:
        super().__init__([Mine()], FINE)
        self.restframes, self.level, self.told = restframes, level, 0

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        first, self.told = self.told, self.told + len(flux_BL)
        return torch.arange(first, self.told)[:, None]

    def decode(self, s_BS: Tensor) -> Tensor:
        rows = s_BS[:, 0]
        return self.restframes[rows] * self.level[rows, None]

    @property
    def config(self) -> dict[str, Any]:
        return {}


def lined(sigma_B: Tensor) -> Sources:
    """Return flat sources with lines of known width, km/s."""
    wave = torch.tensor(FINE.wave)
    flux = torch.ones(len(sigma_B), FINE.size).double()
    for centre, area in LINES.items():
        away = 299792.458 * (wave / centre).log() / sigma_B[:, None]
        height = area / (centre * sigma_B[:, None] / 299792.458 * np.sqrt(2 * np.pi))
        flux += height * torch.exp(-0.5 * away.square())
    z = torch.linspace(0.01, 0.1, len(sigma_B)).double()
    return Sources(flux.float(), z, torch.zeros(len(sigma_B), dtype=torch.int8))


def broadened(x_BM: Tensor, sigma: float) -> Tensor:
    """Return restframes broadened by a Gaussian of sigma km/s."""
    offset = torch.arange(-20, 21).double() * KMS
    kernel = torch.exp(-0.5 * (offset / sigma).square())
    kernel = (kernel / kernel.sum()).to(x_BM)[None, None]
    return torch.nn.functional.conv1d(x_BM[:, None], kernel, padding=20)[:, 0]


@pytest.fixture(scope="module")
def mock() -> Observed:
    generator = torch.Generator().manual_seed(0)
    conditions = Conditions.parametric(Mine(), 6, generator, sigma=SIGMA)
    sources = lined(torch.linspace(60, 180, 24).double())
    return observe(sources, Mine(), conditions, generator, snr=(3.0, 20.0))


def added(mock: Observed) -> float:
    """Return what the instrument adds, km/s: its LSF, and sampling between pixels of 34.5 km/s."""
    return float(narrowing(mock, Mine(), mock.sources.restframe, FINE)[0].added.median().sqrt())


def measured(mock: Observed, restframes: Tensor) -> tuple[Narrowing, ...]:
    level = torch.linspace(0.1, 9.0, len(restframes))
    return narrowing_of(Stub(restframes, level), Mine(), mock, chunk=7)


def test_the_instrument_adds_its_line_spread_function(mock: Observed) -> None:
    pixel = 299792.458 * np.log(10) * 1e-4
    # interpolation between two pixels of the truth adds f (1 - f) of their distance squared
    expected = np.hypot(SIGMA * pixel, KMS * np.sqrt(1 / 6))
    assert added(mock) == pytest.approx(expected, rel=0.06)


def test_a_restframe_that_is_the_truth_removes_all(mock: Observed) -> None:
    for one in measured(mock, mock.sources.restframe):
        assert int(one.shares.isfinite().sum()) == 24
        torch.testing.assert_close(one.shares, torch.ones(24).double(), rtol=1e-5, atol=0)
        assert one.share == pytest.approx(1, abs=1e-5)
        # as they were made
        expected = torch.linspace(60, 180, 24).double()
        torch.testing.assert_close(one.true, expected, rtol=2e-3, atol=0)


def test_a_restframe_that_holds_the_resolution_removes_nothing(mock: Observed) -> None:
    for one in measured(mock, broadened(mock.sources.restframe, added(mock))):
        assert one.share == pytest.approx(0, abs=0.05)
        assert abs(float(one.shares.nanmedian())) < 0.1


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_what_is_between_is_between(mock: Observed, part: float) -> None:
    held = added(mock) * np.sqrt(1 - part)
    for one in measured(mock, broadened(mock.sources.restframe, held)):
        assert one.share == pytest.approx(part, abs=0.05)


def test_lines_that_are_weak_or_unobserved_are_left_out(mock: Observed) -> None:
    strong = narrowing(mock, Mine(), mock.sources.restframe, FINE, least=50.0)
    assert [int(one.true.isfinite().sum()) for one in strong] == [0, 0, 0]
    assert np.isnan(strong[0].share)
    generator = torch.Generator().manual_seed(0)
    conditions = Conditions.parametric(Mine(), 6, generator, sigma=SIGMA)
    far = mock.sources.at(torch.linspace(0.0, 0.4, 24))
    taken = observe(far, Mine(), conditions, generator, noiseless=True)
    halpha = narrowing(taken, Mine(), far.restframe, FINE)[0]
    # 6635 Angstrom leave the instrument at z = 0.17
    assert bool((halpha.seen.isfinite() == (far.z < Mine().wave[-1] / 6635 - 1)).all())
    short = Log(3.66, 5e-5, 2800)  # to 6310 Angstrom
    model_BR = torch.ones(24, short.size)
    assert not bool(narrowing(taken, Mine(), model_BR, short)[0].model.isfinite().any())


def test_galaxies_too_have_lines_as_wide_as_the_instrument_makes_them() -> None:
    generator = torch.Generator().manual_seed(3)
    sources = galaxies(90, Templates().galaxies(), generator).at(torch.full((90,), 0.05))
    conditions = Conditions.parametric(Mine(), 6, generator, sigma=SIGMA)
    mock = observe(sources, Mine(), conditions, generator, snr=(5.0, 9.0))
    halpha = narrowing(mock, Mine(), sources.restframe, FINE)[0]
    assert int(halpha.true.isfinite().sum()) > 20
    assert float(halpha.added.nanmedian().sqrt()) == pytest.approx(SIGMA * 69, rel=0.08)
    narrow = sources.parameters["broad_halpha"] == 0
    ratio = (halpha.true / sources.parameters["gas_dispersion"])[narrow]
    # absorption by stars below the line makes it look a little narrower
    assert 0.95 < float(ratio.nanmedian()) <= 1


def test_the_table_has_a_line_for_each(mock: Observed) -> None:
    table = narrowing_table(measured(mock, mock.sources.restframe))
    assert table.column("line") == ["Hα", "[O III]", "Hβ"]
    assert table.column("n") == [24, 24, 24]
    assert table.column("of medians") == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)
    assert "removed" in table.markdown()


def test_refined_restframes_are_those_of_reconstruct(mock: Observed) -> None:
    """A model whose encoder holds the resolution, and which is free of it once refined."""

    class Refined(Stub):
        def reconstruct(self, spectra: Any, *args: Any, **options: Any) -> Reconstruction:
            assert options == {"refine": 3}
            s_BS = self.encode(spectra)
            sharp_BR = mock.sources.restframe[s_BS[:, 0]]
            return Reconstruction(s_BS, sharp_BR, spectra.flux, spectra.good)

    model = Refined(broadened(mock.sources.restframe, added(mock)), torch.ones(24))
    found = narrowing_of(model, Mine(), mock, refine=3, chunk=7)
    assert [one.share for one in found] == pytest.approx([1, 1, 1], abs=1e-5)
