"""Conditions: parametric ones, and those drawn from real files, which they must look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import BOSS, SDSS

from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.mock.artefacts import Artefacts
from spender_core.datasets.mock.broadening import LogShift, gaussian_taps, matrix_taps, place
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.observing import observe
from spender_core.datasets.mock.sources import FINE, Sources
from spender_core.errors import InputError, NoSpectraError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader

SDSS_FILES = "sdss/sas/dr17/sdss/**/spec*.fits"
BOSS_FILES = "sdss/sas/*/eboss/**/spec*.fits"
DESI_FILES = "desi/**/coadd*.fits"


@pytest.fixture(scope="session")
def drawn(real_data: Path) -> Callable[[str], tuple[Instrument, list[str], Conditions]]:
    """Return a function that draws conditions from all real files of an instrument, once."""

    @cache
    def draw(name: str) -> tuple[Instrument, list[str], Conditions]:
        instrument, pattern = {
            "sdss": (SDSS(), SDSS_FILES),
            "boss": (BOSS(), BOSS_FILES),
            "desi": (DESI(), DESI_FILES),
        }[name]
        files = sorted(map(str, real_data.glob(pattern)))
        return instrument, files, Conditions.from_files(instrument, files)

    return draw


def made_up(n: int = 3, pixels: int = 40) -> dict[str, Any]:
    ones = torch.ones(n, pixels)
    taps = gaussian_taps(ones)
    return {
        "variance": ones,
        "photons": 0.1 * ones,
        "residual": 0 * ones,
        "good": ones.bool(),
        "lsf": taps,
    }


def test_parametric_noise_rises_at_the_ends_and_on_sky_lines() -> None:
    desi = DESI()
    made = Conditions.parametric(desi, 32, torch.Generator().manual_seed(0))
    sigma = made.variance.sqrt().median(dim=0).values
    wave = torch.tensor(desi.wave)
    quiet = sigma[(wave > 4800) & (wave < 5400)].median()
    assert sigma[:30].median() > 1.5 * quiet
    assert sigma[-30:].median() > 1.2 * quiet
    assert sigma[(wave - 5578.9).abs() < 1].min() > 1.5 * quiet
    assert len(made) == 32
    assert made.lsf.shape[1] % 2 == 1
    assert 0.95 < float(made.good.float().mean()) < 1


def test_parametric_conditions_repeat_with_their_seed() -> None:
    first, again, other = (
        Conditions.parametric(SDSS(), 4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    for name in ("variance", "photons", "residual", "good", "lsf"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.variance, other.variance)


def test_conditions_can_be_selected() -> None:
    made = Conditions.parametric(SDSS(), 5, torch.Generator().manual_seed(3), seams=(6000.0,))
    part = made[torch.tensor([3, 1])]
    assert len(part) == 2
    assert torch.equal(part.lsf[0], made.lsf[3])
    assert part.seams == (6000.0,)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("photons", torch.ones(3, 41), "photons has shape"),
        ("good", torch.ones(2, 40).bool(), "good has shape"),
        ("lsf", torch.ones(3, 8, 40), "K odd"),
        ("lsf", torch.ones(3, 9, 39), "K odd"),
        ("variance", torch.zeros(3, 40), "variance > 0"),
        ("variance", torch.full((3, 40), torch.inf), "variance > 0"),
        ("photons", torch.full((3, 40), -1.0), "photons >= 0"),
        ("residual", torch.full((3, 40), torch.nan), "must be finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Conditions(**made_up() | {name: value})


def test_no_conditions_are_refused() -> None:
    with pytest.raises(InputError, match="C > 0"):
        Conditions(**{name: values[:0] for name, values in made_up().items()})


def test_gaussian_taps_keep_flux_and_have_the_width_asked_for() -> None:
    sigma = torch.linspace(0.8, 1.6, 600, dtype=torch.float64)[None]
    taps = gaussian_taps(sigma)
    torch.testing.assert_close(taps.sum(dim=1), torch.ones_like(sigma))
    offset = (torch.arange(taps.shape[1]) - taps.shape[1] // 2)[:, None].double()
    width = (taps * offset.square()).sum(dim=1).sqrt()
    torch.testing.assert_close(width, sigma, rtol=1e-3, atol=0)


def test_broadening_keeps_the_flux_of_lines() -> None:
    grid = Linear(4000.0, 1.0, 600)
    wave = torch.tensor(FINE.wave)
    line = torch.exp(-0.5 * ((wave - 4300) / 3).square()).float()[None]
    taps = gaussian_taps(torch.full((1, 600), 1.5))
    shift, z = LogShift(FINE, grid, taps.shape[1] // 2), torch.zeros(1).double()
    broad = place(line, z, shift, taps, torch.zeros(1, dtype=torch.int64))
    assert float(broad.sum()) == pytest.approx(3 * np.sqrt(2 * np.pi), rel=1e-3)


def test_matrix_taps_are_the_rows_of_the_matrix() -> None:
    pixels, taps = 50, 7
    g = torch.Generator().manual_seed(0)
    data = 1 + 0.3 * torch.rand(1, taps, pixels, generator=g)
    data /= data.sum(dim=1, keepdim=True)
    matrix = torch.zeros(pixels, pixels)
    for k in range(taps):
        for j in range(pixels):
            if 0 <= j + k - taps // 2 < pixels:
                matrix[j + k - taps // 2, j] = data[0, k, j]
    x = torch.rand(pixels, generator=g)
    padded = torch.nn.functional.pad(x[None], (taps // 2, taps // 2))[0]
    found = (matrix_taps(data)[0] * padded.unfold(0, pixels, 1)).sum(dim=0)
    inside = slice(taps // 2, pixels - taps // 2)
    torch.testing.assert_close(found[inside], (matrix @ x)[inside])


def test_rows_of_a_matrix_that_are_empty_are_those_of_a_neighbour() -> None:
    data = torch.zeros(1, 3, 20)
    data[:, :, :] = torch.tensor([0.2, 0.6, 0.2])[:, None]
    broken = data.clone()
    broken[:, :, 8:11] = 0
    torch.testing.assert_close(matrix_taps(broken), matrix_taps(data))


class Plain(Instrument):
    """An instrument whose loader tells nothing of conditions."""

    class Files(Loader):
        id_dtype = np.dtype([("N", "i8")])

        def recognises(self, url: str) -> bool:
            return True

        def load(self, url: str) -> SpectrumBatch:
            return SpectrumBatch(torch.ones(1, 40), torch.ones(1, 40))

    name, grid = "plain", Linear(4000.0, 1.0, 40)
    loader: Loader | None = Files()


def test_an_instrument_that_tells_no_conditions_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"Conditions\.parametric"):
        Conditions.from_files(Plain(), ["a"])
    plain = Plain()
    plain.loader = None
    with pytest.raises(InputError, match=r"Conditions\.parametric"):
        Conditions.from_files(plain, ["a"])
    made = Conditions.parametric(plain, 2, torch.Generator().manual_seed(0))
    assert made.variance.shape == (2, 40)


def test_no_usable_spectrum_is_refused(drawn: Any) -> None:
    _, files, _ = drawn("desi")
    with pytest.raises(NoSpectraError, match=r"median S/N below 0\.1"):
        Conditions.from_files(DESI(), files, faint=0.1)
    with pytest.raises(NoSpectraError, match="none of 0 files"):
        Conditions.from_files(DESI(), [])


def test_mocks_have_the_ivar_of_real_sky_fibres(drawn: Any) -> None:
    """Quantiles over fibres of sigma, by wavelength: of dark mocks, and of the real fibres."""
    sdss, files, how = drawn("sdss")
    batches = [sdss.loader.load(url) for url in files]
    real = torch.cat([b.ivar[(b.flags & int(Flag.NOT_TARGET)) != 0] for b in batches])
    real = real[(real > 0).float().mean(dim=1) > 0.5]
    assert len(real) == len(how) > 30
    n = 400
    dark = Sources(
        torch.full((n, FINE.size), 1e-6), torch.zeros(n).double(), torch.zeros(n, dtype=torch.int8)
    )
    made = observe(
        dark, sdss, how, torch.Generator().manual_seed(0), artefacts=Artefacts.none()
    ).batch
    mock = made.ivar / made.norm[:, None].square()
    used = torch.from_numpy(~sdss.mask)
    for low in range(4000, 9000, 500):
        window = (torch.tensor(sdss.wave) > low) & (torch.tensor(sdss.wave) < low + 500) & used
        for quantile in (0.1, 0.5, 0.9):
            sigma = [
                torch.quantile(
                    torch.stack([row[row > 0].median() for row in ivar[:, window] if row.any()]),
                    quantile,
                ).rsqrt()
                for ivar in (real.double(), mock)
            ]
            assert float(sigma[1] / sigma[0]) == pytest.approx(1, abs=0.12), (low, quantile)


@pytest.mark.parametrize("name", ["sdss", "boss"])
def test_photons_explain_the_noise_of_bright_objects(drawn: Any, name: str) -> None:
    """1 / ivar of bright objects exceeds that of the sky as the conditions say."""
    instrument, files, how = drawn(name)
    sky = how.variance.log().median(dim=0).values
    without, explained = [], []
    for url in files:
        batch, told = instrument.loader.load(url), instrument.loader.conditions(url)
        if batch.flags.any() or float(batch.snr) < 15 or float(batch.good.float().mean()) < 0.5:
            continue
        light = torch.from_numpy(told.equal_light).float()
        where = batch.good & light.isfinite()
        excess = (-batch.ivar.log() - sky)[where]
        without.append(excess.median())
        explained.append((excess - (batch.flux.clamp(min=0) / light)[where].log1p()).median())
    assert len(without) >= 4
    # on average photons of the object more than treble the variance, and that is accounted for
    assert float(torch.stack(without).median()) > 1
    assert abs(float(torch.stack(explained).median())) < 0.35


def test_the_resolution_of_desi_is_applied_as_published(drawn: Any, real_data: Path) -> None:
    desi, files, _ = drawn("desi")
    url = next(url for url in files if "80693" in url)
    how = Conditions.from_files(desi, [url])
    told = desi.loader.conditions(url)
    faint = (desi.loader.load(url).snr < 5).nonzero()[:, 0]
    assert len(faint) == len(how)
    # x, and the matrix of the file times x by its definition, away from the ends
    x = torch.rand(desi.grid.size, generator=torch.Generator().manual_seed(0))
    data = torch.from_numpy(told.resolution[int(faint[0])])
    taps = data.shape[0]
    expected = torch.zeros(len(x)).double()
    for k in range(taps):
        column = torch.arange(20, len(x) - 20)
        expected[column + k - taps // 2] += data[k, column] * x[column]
    padded = torch.nn.functional.pad(x[None], (taps // 2, taps // 2))[0]
    found = (how.lsf[0] * padded.unfold(0, len(x), 1)).sum(dim=0)
    inside = slice(40, len(x) - 40)
    torch.testing.assert_close(found[inside].double(), expected[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("sdss", 30), ("boss", 5), ("desi", 10)])
def test_real_conditions_are_complete(drawn: Any, name: str, least: int) -> None:
    instrument, _, how = drawn(name)
    assert len(how) >= least
    assert how.variance.shape[1] == instrument.grid.size
    offset = (torch.arange(how.lsf.shape[1]) - how.lsf.shape[1] // 2)[:, None]
    width = ((how.lsf * offset.square()).sum(dim=1) / how.lsf.sum(dim=1)).sqrt()
    assert 0.8 < float(width.median()) < 1.1
    assert 0.85 < float(how.good.float().mean()) <= 1
    residual = (how.residual / how.variance.sqrt())[how.residual != 0]
    assert 0.3 < float(residual.std()) < 4
    assert all(instrument.wave[0] < seam < instrument.wave[-1] for seam in how.seams)


def test_masked_pixels_of_real_files_are_filled(drawn: Any) -> None:
    _, _, how = drawn("sdss")
    gone = ~how.good
    assert int(gone.sum()) > 1000
    ratio = how.variance[gone].log().median() - how.variance[~gone].log().median()
    assert abs(float(ratio)) < 3
    assert replace(how, good=torch.ones_like(how.good)).covered.min() == 1


def test_no_more_conditions_are_taken_than_asked_for(drawn: Any) -> None:
    """They are evenly spread over those there are, and otherwise the same."""
    sdss, files, every = drawn("sdss")
    some = Conditions.from_files(sdss, files, most=7)
    assert len(some) == 7
    chosen = np.arange(7) * len(every) // 7
    assert torch.equal(some.variance, every.variance[chosen])
    assert torch.equal(some.lsf, every.lsf[chosen])
    assert torch.equal(some.good, every.good[:7])
    with pytest.raises(InputError, match="most must be 1 or more"):
        Conditions.from_files(sdss, files, most=0)
