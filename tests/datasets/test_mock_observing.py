"""Laws of `observe`: noise as ivar says, lines where they belong, S/N as asked, seeds kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from spender_desi.instrument import DESI
from spender_sdss.instrument import SDSS

from spender_core.datasets.mock.artefacts import Artefacts, draw_hits
from spender_core.datasets.mock.broadening import LogShift
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.observing import Observed, _Plan, observe
from spender_core.datasets.mock.sources import FINE, Sources
from spender_core.errors import InputError, RedshiftError
from spender_core.interfaces.instrument import Instrument
from spender_core.ops.redshift import redshift

INSTRUMENTS = pytest.mark.parametrize("instrument", [DESI(), SDSS()], ids=lambda i: i.name)


def sources(n: int, z: tuple[float, float] = (0.0, 0.5), seed: int = 0) -> Sources:
    """Return sources of a wavy continuum, each with an emission line of its own."""
    g = torch.Generator().manual_seed(seed)
    wave = torch.tensor(FINE.wave, dtype=torch.float32)
    phase = 6 * torch.rand(n, 1, generator=g)
    centre = 4500 + 1500 * torch.rand(n, 1, generator=g)
    line = torch.exp(-0.5 * ((wave - centre) / 3).square())
    z_B = z[0] + (z[1] - z[0]) * torch.rand(n, generator=g).double()
    restframe = 1 + 0.3 * torch.sin(wave / 200 + phase) + 3 * line
    return Sources(restframe, z_B, torch.zeros(n, dtype=torch.int8))


def conditions(instrument: Instrument, n: int = 8, **options: Any) -> Conditions:
    return Conditions.parametric(instrument, n, torch.Generator().manual_seed(1), **options)


def look(seen: Sources, instrument: Instrument, seed: int = 2, **options: Any) -> Observed:
    how = options.pop("conditions", None) or conditions(instrument)
    return observe(seen, instrument, how, torch.Generator().manual_seed(seed), **options)


@INSTRUMENTS
def test_noise_is_what_ivar_says(instrument: Instrument) -> None:
    made = look(sources(48), instrument, snr=(3.0, 20.0), artefacts=Artefacts.none())
    pull = ((made.batch.flux - made.truth) * made.batch.ivar.sqrt())[made.batch.good]
    assert len(pull) > 1e5
    assert abs(float(pull.mean())) < 5 / math.sqrt(len(pull))
    assert float(pull.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * len(pull)))
    neighbours = (pull[1:] * pull[:-1]).mean()
    assert abs(float(neighbours)) < 5 / math.sqrt(len(pull))


@INSTRUMENTS
def test_the_median_signal_to_noise_is_as_asked(instrument: Instrument) -> None:
    wanted = torch.logspace(-1, 2, 24)
    made = look(sources(24), instrument, snr=wanted, artefacts=Artefacts.none())
    ratio = (made.truth * made.batch.ivar.sqrt()).masked_fill(~made.batch.good, math.nan)
    torch.testing.assert_close(ratio.nanmedian(dim=1).values, wanted, rtol=2e-4, atol=0)


def test_a_range_of_signal_to_noise_is_filled_evenly_in_the_logarithm() -> None:
    made = look(sources(400), SDSS(), snr=(2.0, 50.0), noiseless=True)
    share = (made.batch.snr.log() - math.log(2)) / math.log(25)
    assert share.min() > -0.01
    assert share.max() < 1.01
    assert abs(float(share.mean()) - 0.5) < 4 / math.sqrt(12 * 400)


def test_without_signal_to_noise_fluxes_are_kept() -> None:
    seen = sources(4)
    made = look(seen, SDSS(), noiseless=True)
    archive = made.truth * made.batch.norm[:, None]
    expected = redshift(seen.restframe, torch.tensor(FINE.wave), torch.tensor(SDSS().wave), seen.z)
    smooth = archive.median(dim=1).values / expected[0].median(dim=1).values
    torch.testing.assert_close(smooth, torch.ones(4).double(), rtol=2e-3, atol=0)


@INSTRUMENTS
def test_the_same_seed_gives_the_same_bytes(instrument: Instrument) -> None:
    first, again, other = (
        look(sources(20), instrument, seed=seed, snr=(3.0, 9.0)) for seed in (5, 5, 6)
    )
    for name in ("flux", "ivar", "norm"):
        assert torch.equal(getattr(first.batch, name), getattr(again.batch, name))
    assert torch.equal(first.truth, again.truth)
    assert not torch.equal(first.batch.flux, other.batch.flux)


@INSTRUMENTS
def test_index_arithmetic_equals_the_transform_of_the_models(instrument: Instrument) -> None:
    seen = sources(16, z=(-0.1, 3.0))
    expected, valid = redshift(
        seen.restframe.double(), torch.tensor(FINE.wave), torch.tensor(instrument.wave), seen.z
    )
    shift = LogShift(FINE, instrument.grid)
    found = shift(seen.restframe, seen.z).double()
    first, after = shift.reach(seen.z)
    pixel = torch.arange(len(instrument.wave))
    reached = (pixel >= first[:, None]) & (pixel < after[:, None])
    assert torch.equal(reached, valid)
    assert float((found - expected)[valid].abs().max()) < 2e-6 * float(expected.max())


@INSTRUMENTS
@pytest.mark.parametrize("z", [0.0, 0.1234567, 0.4])
def test_a_line_lies_at_its_redshifted_wavelength(instrument: Instrument, z: float) -> None:
    rest, width = 4862.71, 2.5
    wave = torch.tensor(FINE.wave)
    profile = torch.exp(-0.5 * ((wave - rest) / width).square()).float()[None]
    line = Sources(profile, torch.tensor([z]).double(), torch.zeros(1, dtype=torch.int8))
    made = look(line, instrument, noiseless=True, artefacts=Artefacts.none())
    seen, obs = made.truth[0].double(), torch.tensor(instrument.wave)
    near = (obs - rest * (1 + z)).abs() < 12 * width
    centre = (seen * obs)[near].sum() / seen[near].sum()
    pixel = torch.tensor(np.gradient(instrument.wave))[near].mean()
    assert abs(float(centre - rest * (1 + z))) < 0.05 * float(pixel)
    # the observed width is that of the line and of the instrument, in quadrature
    spread = (seen * (obs - centre).square())[near].sum() / seen[near].sum()
    how = conditions(instrument)
    offset = torch.arange(how.lsf.shape[1]) - how.lsf.shape[1] // 2
    taps = how.lsf[int(made.condition)][:, near].mean(dim=1).double()
    lsf = (taps * offset.square()).sum().sqrt() * pixel
    assert float(spread.sqrt()) == pytest.approx(math.hypot(width * (1 + z), float(lsf)), rel=0.02)


def test_pixels_beyond_the_restframe_are_masked_and_zero() -> None:
    seen, desi = sources(6, z=(2.0, 3.5)), DESI()
    made = look(seen, desi, snr=(5.0, 9.0))
    beyond = torch.tensor(desi.wave) < FINE.wave[0] * (1 + seen.z[:, None])
    assert bool(beyond.any())
    assert bool((made.batch.ivar[beyond] == 0).all())
    assert bool((made.batch.flux[beyond] == 0).all())
    assert bool((made.truth[beyond] == 0).all())


def test_a_source_that_is_not_reached_at_all_is_empty() -> None:
    made = look(sources(2).at(torch.tensor([0.1, 12.0])), SDSS(), snr=(5.0, 9.0))
    assert int(made.batch.good[0].sum()) > 1000
    assert int(made.batch.good[1].sum()) == 0
    assert not bool(made.batch.flux[1].any())


def test_masked_pixels_have_no_weight_and_finite_flux() -> None:
    made = look(sources(64), SDSS(), snr=(5.0, 9.0), artefacts=Artefacts(dead_columns=20.0))
    clean = look(sources(64), SDSS(), snr=(5.0, 9.0), artefacts=Artefacts.none())
    assert bool(made.batch.flux.isfinite().all())
    assert bool((made.batch.ivar >= 0).all())
    lost = (made.batch.ivar == 0).sum() - (clean.batch.ivar == 0).sum()
    # 20 runs of 10.5 pixels on average, some of them on masked pixels, or on each other
    assert 0.6 < float(lost) / (64 * 20 * 10.5) < 1


def test_noiseless_copies_share_masks_and_ivar_with_noisy_ones() -> None:
    seen, snr = sources(16), torch.full((16,), 8.0)
    noisy = look(seen, DESI(), snr=snr)
    quiet = look(seen, DESI(), snr=snr, noiseless=True)
    assert torch.equal(noisy.batch.ivar > 0, quiet.batch.ivar > 0)
    sound = noisy.record.blend < 0
    ratio = (noisy.batch.ivar / noisy.batch.norm[:, None].square())[sound]
    ratio = ratio / (quiet.batch.ivar / quiet.batch.norm[:, None].square())[sound]
    torch.testing.assert_close(
        ratio[noisy.batch.good[sound]], torch.ones(int(noisy.batch.good[sound].sum())).double(),
        rtol=1e-5, atol=0,
    )  # fmt: skip
    reached = quiet.batch.good
    torch.testing.assert_close(
        quiet.batch.flux[reached], quiet.truth[reached], rtol=1e-5, atol=1e-6
    )


def test_fluxing_errors_are_as_large_as_said_and_jump_at_seams() -> None:
    only = Artefacts(**{**vars(Artefacts.none()), "fluxing": 0.03, "seams": 0.02})
    desi, n = DESI(), 200
    how = conditions(desi, seams=(5780.0,))
    made = look(
        sources(n, z=(0, 0)), desi, conditions=how, snr=torch.full((n,), 1e5), artefacts=only
    )
    # lightly noisy: the pixels of one spectrum share a norm, which the median takes out
    error = (made.batch.flux / made.truth).masked_fill(~made.batch.good, math.nan)
    error = error / error.nanmedian(dim=1, keepdim=True).values - 1
    middle, ends = error[:, 2500:5200], error[:, 500:900]
    assert 0.015 < float(middle.square().nanmean().sqrt()) < 0.05
    assert float(ends.square().nanmean()) > 1.5 * float(middle.square().nanmean())
    seam = int(np.searchsorted(desi.wave, 5780.0))
    jump = error[:, seam : seam + 4].nanmean(dim=1) - error[:, seam - 4 : seam].nanmean(dim=1)
    assert 0.5 * 0.02 / math.sqrt(3) < float(jump.nan_to_num().std()) < 1.5 * 0.02 / math.sqrt(3)
    assert float(jump.nan_to_num().abs().max()) < 0.03


def test_blends_and_cosmic_rays_are_recorded() -> None:
    rates = Artefacts(
        **{**vars(Artefacts.none()), "blends": 0.5, "cosmic_rays": 10.0, "masked": 0.5}
    )
    n, sdss = 120, SDSS()
    made = look(sources(n), sdss, snr=torch.full((n,), 500.0), artefacts=rates)
    blended = made.record.blend >= 0
    assert abs(float(blended.float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert bool((made.record.blend != torch.arange(n)).all())
    assert bool((made.record.share[blended] > 0).all())
    assert not bool(made.record.share[~blended].any())
    pull = ((made.batch.flux - made.truth) * made.batch.ivar.sqrt())[~blended]
    row, pixel = made.record.cosmic_rays.T
    struck = torch.zeros_like(made.batch.good).index_put((row, pixel), torch.tensor(True))
    good = made.batch.good[~blended]
    assert abs(float(pull[good & ~struck[~blended]].std()) - 1) < 0.01
    assert float(pull[good & struck[~blended]].mean()) > 3
    # a guest adds its share of light, which shows where nothing else but noise differs
    bright = blended & (made.record.share > 0.3)
    chi2 = ((made.batch.flux - made.truth).square() * made.batch.ivar).sum(dim=1)
    assert bool((chi2[bright] > 3 * made.batch.good[bright].sum(dim=1)).all())


def test_sky_residuals_have_both_signs_and_add_to_the_scatter() -> None:
    how = conditions(DESI())
    only = Artefacts(**{**vars(Artefacts.none()), "residuals": 1.0})
    made = look(sources(96), DESI(), conditions=how, snr=torch.full((96,), 3.0), artefacts=only)
    pull = (made.batch.flux - made.truth) * made.batch.ivar.sqrt()
    lines = (how.residual != 0).any(dim=0)
    away, near = (made.batch.good & where for where in (~lines, lines))
    assert abs(float(pull[away].std()) - 1) < 0.01
    assert int(near.sum()) > 1000
    assert float(pull[near].std()) > 1.05
    assert bool((made.record.residual > 0).any())
    assert bool((made.record.residual < 0).any())


@pytest.mark.parametrize(
    ("snr", "message"),
    [
        (torch.ones(3), "one value for each of 4 objects"),
        (torch.tensor([1.0, -1.0, 1.0, 1.0]), "snr must be finite"),
        ((0.0, 3.0), "0 < low <= high"),
        ((5.0, 3.0), "0 < low <= high"),
    ],
)
def test_a_wrong_signal_to_noise_is_refused(snr: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        look(sources(4), SDSS(), snr=snr)


def test_conditions_of_another_instrument_and_unknown_redshifts_are_refused() -> None:
    with pytest.raises(InputError, match="have 3921 pixels, desi has 7781"):
        look(sources(2), DESI(), conditions=conditions(SDSS()))
    with pytest.raises(InputError, match="no sources to observe"):
        look(sources(2)[:0], SDSS())
    for z in (math.nan, -1.0, math.inf):
        with pytest.raises(RedshiftError, match=r"rows \[1\] have none"):
            look(sources(2).at(torch.tensor([0.1, z])), SDSS())


@pytest.mark.parametrize(
    ("name", "value"), [("fluxing", -0.1), ("masked", 1.5), ("noise", math.nan)]
)
def test_impossible_rates_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Artefacts(**{name: value})


def test_rates_may_be_whole_numbers() -> None:
    whole, real = (
        draw_hits(5, 900, Artefacts(cosmic_rays=rate), torch.Generator().manual_seed(0))
        for rate in (2, 2.0)
    )
    assert len(whole.row) > 0
    assert torch.equal(whole.height, real.height)


def test_cosmic_rays_that_hit_one_pixel_add_up() -> None:
    instrument, seen = SDSS(), sources(4)
    how, rates = conditions(instrument), Artefacts(cosmic_rays=100, masked=0.0, noise=0.0)
    rates = replace(rates, dead_columns=0, fluxing=0, seams=0, blends=0, residuals=0)
    shift = LogShift(seen.grid, instrument.grid, how.lsf.shape[1] // 2)
    plan = _Plan(seen, instrument, how, shift, torch.Generator().manual_seed(4), None, rates)
    hits, pixels = plan.hits, instrument.grid.size
    place = hits.row * pixels + hits.pixel
    assert len(place.unique()) < len(place)
    flux, ivar = plan.expose(slice(0, 4), torch.ones(4, pixels), noiseless=False)
    added = torch.zeros(4 * pixels).index_add_(0, place, hits.height).view(4, pixels)
    rest = ((flux - 1) * ivar.sqrt() - added)[ivar > 0]
    assert float(rest.abs().max()) < 6  # nothing but the noise
