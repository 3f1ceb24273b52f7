"""Mocks with their line spread functions: the true restframe and these give the truth again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS
from torch import Tensor

from spender_core import Instrument
from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.broadening import diagonals
from spender_core.datasets.mock.conditions import Conditions, KnownLSF
from spender_core.datasets.mock.galaxies import galaxies, prepare
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.datasets.mock.sources import FINE, Sources
from spender_core.datasets.mock.stream import MockSurvey, Templates
from spender_core.errors import InputError
from spender_core.evaluation.universe import Universe
from spender_core.grid import Log
from spender_core.line_spread import BandedLSF, GaussianLSF
from spender_core.ops.resampler import Resampler

INSTRUMENTS: dict[str, Callable[[], Instrument]] = {"sdss": SDSS, "boss": BOSS, "desi": DESI}
FILES = {
    "sdss": "sdss/sas/dr17/sdss/**/spec*.fits",
    "boss": "sdss/sas/*/eboss/**/spec*.fits",
    "desi": "desi/**/coadd*.fits",
}
EACH = pytest.mark.parametrize("name", list(INSTRUMENTS))


class Mine(Instrument):
    name = "mine"
    grid = Log(3.6, 4e-4, 600)
    loader = None


def lines(n: int) -> Sources:
    """Return sources with emission lines all along, which a wrong LSF shows."""
    wave = torch.tensor(FINE.wave)
    x = torch.linspace(0, 1, FINE.size)
    comb = (((wave.log10() / 3e-3) % 1 - 0.5) / 0.05).square().mul(-0.5).exp().float()
    shift = torch.rand(n, 1, generator=torch.Generator().manual_seed(4))
    restframe = 1 + 0.5 * torch.sin(9 * (x + shift)) + 2 * comb
    z = torch.linspace(0.02, 0.3, n).double()
    return Sources(restframe, z, torch.zeros(n, dtype=torch.int8))


def look(
    instrument: Instrument, conditions: Conditions, lsf: KnownLSF = True, **options: Any
) -> Observed:
    generator = torch.Generator().manual_seed(2)
    return observe(lines(6), instrument, conditions, generator, lsf=lsf, **options)


def again(made: Observed, instrument: Instrument) -> Tensor:
    """Return what the transform makes of the true restframe with the LSF, scaled to the truth."""
    assert made.batch.lsf is not None
    resampler = Resampler(FINE.wave, instrument.wave)
    y_BL, valid_BL = resampler(made.sources.restframe, made.sources.z, lsfs=[made.batch.lsf])
    assert bool(valid_BL.all())
    inside = slice(100, -100)
    scale = made.truth[:, inside].sum(dim=1) / y_BL[:, inside].sum(dim=1)
    return y_BL * scale[:, None]


def error(made: Observed, instrument: Instrument) -> float:
    """Return the largest difference away from the edges, in units of the largest flux."""
    edge = 20
    apart = (again(made, instrument) - made.truth)[:, edge:-edge].abs().max(dim=1).values
    return float((apart / made.truth.max(dim=1).values).max())


@EACH
def test_the_true_restframe_and_the_lsf_give_the_truth(name: str) -> None:
    instrument = INSTRUMENTS[name]()
    conditions = Conditions.parametric(instrument, 4, torch.Generator().manual_seed(1))
    made = look(instrument, conditions, snr=(5.0, 20.0))
    assert isinstance(made.batch.lsf, BandedLSF)
    assert error(made, instrument) < 5e-6
    # the measure is one: the LSF of another spectrum does not do
    spoilt = made.batch.replace(lsf=made.batch.lsf[[1, 0, 3, 2, 5, 4]])
    assert bool((made.condition[[1, 0]] != made.condition[:2]).any())
    other = Observed(spoilt, made.truth, made.sources, made.condition, made.record)
    assert error(other, instrument) > 1e-3


@EACH
def test_it_does_so_under_real_conditions(name: str, real_data: Path) -> None:
    instrument = INSTRUMENTS[name]()
    files = sorted(map(str, real_data.glob(FILES[name])))[:12]
    made = look(instrument, Conditions.from_files(instrument, files, faint=99.0, most=6))
    assert isinstance(made.batch.lsf, BandedLSF)
    assert error(made, instrument) < 5e-6


@EACH
def test_widths_of_parametric_conditions_say_the_same(name: str) -> None:
    instrument = INSTRUMENTS[name]()
    conditions = Conditions.parametric(instrument, 4, torch.Generator().manual_seed(1))
    made = look(instrument, conditions, lsf="gaussian")
    assert isinstance(made.batch.lsf, GaussianLSF)
    assert error(made, instrument) < 1e-4


def test_widths_of_real_files_say_nearly_the_same(real_data: Path) -> None:
    """They jump between the arms, where this LSF keeps flux and the mock the continuum."""
    files = sorted(map(str, real_data.glob(FILES["sdss"])))[:6]
    made = look(SDSS(), Conditions.from_files(SDSS(), files, faint=99.0), lsf="gaussian")
    apart = ((again(made, SDSS()) - made.truth) / made.truth.max(dim=1, keepdim=True).values).abs()
    assert float(apart[:, 20:-20].max()) < 0.03
    assert float(apart[:, 20:-20].median()) < 1e-4


def test_what_is_observed_is_the_same_with_and_without() -> None:
    sdss = SDSS()
    conditions = Conditions.parametric(sdss, 4, torch.Generator().manual_seed(1))
    plain, banded, gaussian = (look(sdss, conditions, lsf=k) for k in (False, True, "gaussian"))
    assert plain.batch.lsf is None
    for made in (banded, gaussian):
        assert made.batch.lsf is not None
        assert torch.equal(made.batch.flux, plain.batch.flux)
        assert torch.equal(made.batch.ivar, plain.batch.ivar)
        part = made.batch[[4, 2]]
        assert part.lsf is not None
        assert torch.equal(part.lsf(plain.truth[[4, 2]]), made.batch.lsf(plain.truth)[[4, 2]])
        assert len(SpectrumBatch.cat([made.batch, part])) == 8


@settings(max_examples=60, deadline=None)
@given(
    taps=st.integers(0, 4).map(lambda half: 2 * half + 1),
    pixels=st.integers(1, 12),
    n=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_diagonals_are_those_of_the_dense_matrix(taps: int, pixels: int, n: int, seed: int) -> None:
    """Tap k of pixel i weighs pixel i + k - K // 2."""
    lsf = torch.randn(n, taps, pixels, generator=torch.Generator().manual_seed(seed)).double()
    data, offsets = diagonals(lsf)
    for row in range(n):
        dense = torch.zeros(pixels, pixels).double()
        for i in range(pixels):
            for k in range(taps):
                if 0 <= i + k - taps // 2 < pixels:
                    dense[i, i + k - taps // 2] = lsf[row, k, i]
        columns = BandedLSF(data[row].expand(pixels, -1, -1), offsets)(torch.eye(pixels).double())
        assert torch.equal(columns.T, dense)


def test_surveys_and_universes_pass_them_on() -> None:
    mine, templates = Mine(), Templates()
    survey = MockSurvey(mine, n=5, size=3, templates=templates, lsf="gaussian")
    assert [type(made.batch.lsf) for made in survey] == [GaussianLSF, GaussianLSF]
    plain = MockSurvey(mine, n=5, size=3, templates=templates).batch(1)
    assert plain.batch.lsf is None
    assert torch.equal(plain.batch.flux, survey.batch(1).batch.flux)
    conditions = Conditions.parametric(mine, 4, torch.Generator().manual_seed(1))
    universe = Universe(mine, templates.galaxies(), conditions, (0.0, 0.2), size=2, lsf=True)
    assert [type(made.batch.lsf) for made in islice(universe, 2)] == [BandedLSF, BandedLSF]


def test_galaxies_too_give_the_truth_again() -> None:
    """With all that goes wrong, none of which is in the truth."""
    boss = BOSS()
    conditions = Conditions.parametric(boss, 3, torch.Generator().manual_seed(1))
    prepared = prepare(parametric.populations())
    sources = galaxies(6, prepared, torch.Generator().manual_seed(3)).at(torch.full((6,), 0.1))
    generator = torch.Generator().manual_seed(5)
    options = {"snr": (5.0, 9.0), "artefacts": Artefacts(blends=0.5), "lsf": True}
    made = observe(sources, boss, conditions, generator, **options)  # type: ignore[arg-type]
    assert error(made, boss) < 5e-6


@cache
def matrices() -> Conditions:
    """Return conditions whose line spread functions are no Gaussians."""
    ones = torch.ones(1, 600)
    lsf = torch.full((1, 3, 600), 1 / 3)
    return Conditions(ones, 0 * ones, 0 * ones, ones.bool(), lsf)


def test_widths_of_what_has_none_are_refused() -> None:
    with pytest.raises(InputError, match="no Gaussians; ask for them with lsf=True"):
        look(Mine(), matrices(), lsf="gaussian")
    with pytest.raises(InputError, match="True, False or 'gaussian', not 'banded'"):
        look(Mine(), matrices(), lsf="banded")  # type: ignore[arg-type]
    fields = {name: getattr(matrices(), name) for name in ("variance", "photons", "residual")}
    with pytest.raises(InputError, match=r"sigma must have shape \(1, 600\)"):
        Conditions(**fields, good=matrices().good, lsf=matrices().lsf, sigma=torch.ones(1, 599))
