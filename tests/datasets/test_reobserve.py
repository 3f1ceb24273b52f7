"""Spectra observed again at another redshift: what stays in its pixel, what moves, what is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.datasets import augment as module
from spender_core.datasets.augment import (
    Augmentation,
    CappedRedshift,
    RedshiftRule,
    UniformRedshift,
    at_redshift,
    augment_spectra,
)
from spender_core.datasets.reobserving import Reobserved, other_conditions, reobserve_spectra
from spender_core.errors import InputError
from spender_core.grid import Linear, Log

WAVES = {"linear": Linear(4000.0, 2.0, 900).wave, "log": Log(3.6, 3e-4, 900).wave}
MOVED = Augmentation(UniformRedshift(0.0, 0.4), noise=0)
grids = pytest.mark.parametrize("kind", WAVES)
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectra(n: int = 30, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return spectra of which pixels are masked, alone and in a row, and both ends unobserved."""
    flux = 2 + torch.randn(n, 900, dtype=torch.float64)
    ivar = 0.5 + torch.rand(n, 900, dtype=torch.float64)
    ivar = ivar.masked_fill(torch.rand(n, 900) < 0.03, 0)
    ivar[:, 300:330], ivar[::2, :40], ivar[::3, -60:] = 0, 0, 0
    flux[::2, :40] = 0
    return flux.to(dtype), ivar.to(dtype), 0.4 * torch.rand(n, dtype=torch.float64)


def made(
    given: tuple[Tensor, Tensor, Tensor],
    settings: Augmentation = MOVED,
    kind: str = "linear",
    seed: int = 0,
) -> Reobserved:
    return reobserve_spectra(*given, torch.tensor(WAVES[kind]), generator(seed), settings)


def sources(
    ivar_BL: Tensor, z_B: Tensor, z_new_B: Tensor, wave: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what part of each pixel is of such as are masked or missing, and which are missing."""
    ratio_B1 = ((1 + z_B) / (1 + z_new_B)).numpy()[:, None]
    point_BL = wave * ratio_B1
    left_BL = np.clip(np.searchsorted(wave, point_BL) - 1, 0, len(wave) - 2)
    share_BL = (point_BL - wave[left_BL]) / (wave[left_BL + 1] - wave[left_BL])
    bad = ivar_BL.numpy() == 0
    rows = np.arange(len(bad))[:, None]
    lost_BL = bad[rows, left_BL] * (1 - share_BL) + bad[rows, left_BL + 1] * share_BL
    missing_BL = (point_BL <= wave[0]) | (point_BL >= wave[-1])
    return np.where(missing_BL, 1.0, lost_BL), missing_BL


@grids
@types
def test_gaps_are_where_a_masked_or_missing_pixel_would_contribute(
    kind: str, dtype: torch.dtype
) -> None:
    given = spectra(dtype=dtype)
    seen = made(given, kind=kind)
    lost, missing = sources(given[1], given[2], seen.z, WAVES[kind])
    good = given[1].numpy() > 0
    sure = (lost == 0) | (lost > 2e-5)  # of less, nothing is lost
    assert sure.mean() > 0.999
    assert np.array_equal(seen.gaps.numpy()[sure], ((lost > 0) & good)[sure])
    alone = seen.gaps.numpy() & ~missing
    assert 0.05 < alone.mean() < 0.3
    assert 0.05 < (seen.gaps.numpy() & missing).mean() < 0.5


@grids
@types
def test_known_pixels_are_those_that_are_moved(kind: str, dtype: torch.dtype) -> None:
    flux, ivar, z = spectra(dtype=dtype)
    seen = made((flux, ivar, z), kind=kind)
    expected, _, _ = at_redshift(flux, ivar, torch.tensor(WAVES[kind]), z, seen.z)
    known = (ivar > 0) & ~seen.gaps
    assert known.double().mean() > 0.3
    near = 1e-5 * float(flux.abs().max())
    torch.testing.assert_close(seen.flux[known], expected[known], rtol=0, atol=near)
    assert seen.flux.dtype == seen.ivar.dtype == dtype


@types
def test_inverse_variances_and_masked_pixels_stay(dtype: torch.dtype) -> None:
    flux, ivar, z = spectra(dtype=dtype)
    copy = flux.clone(), ivar.clone(), z.clone()
    seen = made((flux, ivar, z))
    assert torch.equal(seen.ivar, ivar)
    assert torch.equal(seen.flux[ivar == 0], flux[ivar == 0])
    assert bool((seen.flux[seen.gaps] != 0).all())
    for ours, before in zip((flux, ivar, z), copy, strict=True):
        assert torch.equal(ours, before)
    assert seen.ivar.data_ptr() != ivar.data_ptr()


@pytest.mark.parametrize("rule", [MOVED.redshifts, lambda z, _: z + 1e-9 * (1 + z)])
def test_what_masked_pixels_hold_is_in_no_other(rule: RedshiftRule) -> None:
    """Not even a millionth of it, at pixels that are moved by as much."""
    flux, ivar, z = spectra(dtype=torch.float32)
    wild = torch.where(ivar > 0, flux, 1e9)
    settings = replace(MOVED, redshifts=rule, noise=0.1)
    seen, other = made((flux, ivar, z), settings), made((wild, ivar, z), settings)
    good = ivar > 0
    assert torch.equal(seen.flux[good], other.flux[good])
    assert torch.equal(seen.ivar, other.ivar)


def test_hits_and_the_masked_stretch() -> None:
    flux, ivar, z = spectra()
    ivar[:, 300:330] = 1
    settings = replace(MOVED, mask=0.1)
    calm = made((flux, ivar, z), settings, seed=4)
    hit = made((flux, ivar, z), replace(settings, noise=0.3, amplitude=0.5), seed=4)
    (columns,) = torch.nonzero((calm.ivar == 0).all(dim=0), as_tuple=True)
    assert len(columns) == 90
    stretch = slice(int(columns[0]), int(columns[0]) + 90)
    for seen in (calm, hit):
        assert not seen.ivar[:, stretch].any()
        assert not seen.flux[:, stretch].any()
        assert not seen.gaps[:, stretch].any()
    rest = torch.ones(900, dtype=torch.bool)
    rest[stretch] = False
    assert torch.equal(calm.ivar[:, rest], ivar[:, rest])
    noise = (hit.flux - calm.flux)[:, rest]
    expected = ivar[:, rest] / (1 + ivar[:, rest] * noise.square())
    torch.testing.assert_close(hit.ivar[:, rest], expected, rtol=1e-9, atol=0)
    good = ivar[:, rest] > 0
    assert not noise[~good].any()
    n = int(good.sum())
    assert float((noise[good] != 0).double().mean()) == pytest.approx(
        0.3, abs=5 * (0.3 * 0.7 / n) ** 0.5
    )
    # its amplitude is that of the spectrum, not of what is left of it, or of the noise in gaps
    highest = flux.masked_fill(ivar == 0, -torch.inf).amax(dim=1, keepdim=True)
    unit = (noise / (0.5 * highest))[noise != 0]
    assert float(unit.var()) == pytest.approx(1, abs=5 * (2 / len(unit)) ** 0.5)
    assert torch.equal(hit.gaps, calm.gaps)


@pytest.mark.parametrize("level", [0.01, 1.0, 400.0])
def test_noise_in_gaps_has_the_variance_of_the_pixel(level: float) -> None:
    """Whatever the flux, and wherever the light of the pixel came from."""
    n = 60
    flux, z = 1e3 * torch.ones(n, 900, dtype=torch.float64), torch.zeros(n).double()
    ivar = level * (1 + torch.linspace(0, 8, 900).double().expand(n, 900))
    seen = made((flux, ivar, z), Augmentation(UniformRedshift(0.3, 0.4), noise=0))
    unit = (seen.flux * ivar.sqrt())[seen.gaps]
    count = len(unit)
    assert count > 10_000
    assert float(unit.mean()) == pytest.approx(0, abs=5 / count**0.5)
    assert float(unit.var()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    assert float((unit**4).mean()) == pytest.approx(3, abs=5 * (96 / count) ** 0.5)
    lag = unit[1:] * unit[:-1]
    assert float(lag.mean()) == pytest.approx(0, abs=5 / count**0.5)


def test_a_seed_repeats_it_and_another_does_not() -> None:
    given, settings = spectra(), Augmentation(CappedRedshift(0.3), noise=0.1, mask=0.05)
    first, again, other = (made(given, settings, seed=seed) for seed in (1, 1, 2))
    for name in ("flux", "ivar", "z", "gaps"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    assert bool(((first.z >= 0) & (first.z <= 0.3)).all())


def test_redshifts_are_those_of_other_augmented_spectra() -> None:
    given, settings = spectra(), Augmentation(UniformRedshift(-0.1, 0.3))
    _, _, z = augment_spectra(*given, torch.tensor(WAVES["log"]), generator(7), settings)
    assert torch.equal(made(given, settings, "log", seed=7).z, z)


@grids
@types
def test_the_same_redshift_gives_the_spectrum_back(kind: str, dtype: torch.dtype) -> None:
    flux, ivar, z = spectra(dtype=dtype)
    seen = made((flux, ivar, z), Augmentation(lambda z, _: z, noise=0), kind)
    assert torch.equal(seen.z, z)
    assert not seen.gaps[:, 1:-1].any()  # the ends of the grid count as unobserved
    assert torch.equal(seen.gaps[:, [0, -1]], ivar[:, [0, -1]] > 0)
    torch.testing.assert_close(seen.flux[:, 1:-1], flux[:, 1:-1], rtol=1e-5, atol=1e-5)
    assert torch.equal(seen.ivar, ivar)


def test_a_spectrum_that_leaves_its_instrument_is_all_gaps() -> None:
    flux, ivar, z = spectra()
    seen = made((flux, ivar, z), Augmentation(UniformRedshift(8.0, 9.0)))
    assert torch.equal(seen.gaps, ivar > 0)
    assert torch.equal(seen.ivar == 0, ivar == 0)


def test_a_spectrum_without_good_pixels_stays_as_it_is() -> None:
    flux, ivar, z = spectra(4)
    ivar.zero_()
    seen = made((flux, ivar, z), Augmentation(UniformRedshift(), noise=0.5))
    assert torch.equal(seen.flux, flux)
    assert not seen.ivar.any()
    assert not seen.gaps.any()


def test_spectra_that_lie_in_memory_by_pixel() -> None:
    flux, ivar, z = spectra()
    turned = flux.T.contiguous().T, ivar.T.contiguous().T, z
    settings = Augmentation(UniformRedshift(), mask=0.1)
    expected, seen = made((flux, ivar, z), settings), made(turned, settings)
    for name in ("flux", "ivar", "gaps"):
        assert torch.equal(getattr(seen, name), getattr(expected, name))


def test_pieces_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = spectra()
    whole = made(given, replace(MOVED, mask=0.1))
    monkeypatch.setattr(module, "ROWS", 7)
    assert torch.equal(made(given, replace(MOVED, mask=0.1)).flux, whole.flux)


def test_what_cannot_be_done_is_refused() -> None:
    flux, ivar, z = spectra(4)
    with pytest.raises(InputError, match="keep their redshift have no gaps to fill; give a rule"):
        made((flux, ivar, z), Augmentation(redshifts=None))
    with pytest.raises(InputError, match="must both have shape"):
        made((flux, ivar.float(), z))
    with pytest.raises(InputError, match="as many redshifts and wavelengths"):
        made((flux, ivar, z[:2]))
    with pytest.raises(InputError, match="finite and above -1"):
        made((flux, ivar, z), Augmentation(lambda z, _: z - 3))
    elsewhere = flux.to("meta"), ivar.to("meta"), z.to("meta")
    with pytest.raises(InputError, match="the generator is on cpu, the spectra are on meta"):
        made(elsewhere)


def test_under_the_conditions_of_others_nothing_of_the_own_ones_is_left() -> None:
    flux, ivar, z = spectra(n=6)
    conditions = other_conditions(ivar, generator(3))
    seen = reobserve_spectra(
        flux, ivar, z, torch.tensor(WAVES["log"]), generator(), MOVED, conditions_BL=conditions
    )
    assert torch.equal(seen.ivar, conditions)
    # masks are those of the spectrum before, and only the level follows the own one
    assert torch.equal(conditions > 0, ivar.roll(1, dims=0) > 0)
    ratio = (conditions / ivar.roll(1, dims=0)).nan_to_num(0)
    for row, mask in zip(ratio, conditions > 0, strict=True):
        assert row[mask].std() < 1e-12 * row[mask].mean()
    share = conditions.sqrt().sum(dim=1) / (conditions > 0).sum(dim=1)
    share = share / (ivar.sqrt().sum(dim=1) / (ivar > 0).sum(dim=1))
    assert bool(((share >= 0.5) & (share <= 1)).all())
    assert share.std() > 0.01


def test_noise_is_added_up_to_what_other_conditions_ask_for() -> None:
    n = 400
    flux, ivar = torch.ones(n, 900, dtype=torch.float64), torch.full((n, 900), 100.0).double()
    z = torch.full((n,), 0.2, dtype=torch.float64)
    noisy = flux + 0.1 * torch.randn(n, 900, generator=generator(5), dtype=torch.float64)
    settings = Augmentation(UniformRedshift(0.2, 0.2), noise=0)  # nothing moves
    wave = torch.tensor(WAVES["log"])
    asked = torch.full_like(ivar, 25.0)
    seen = reobserve_spectra(noisy, ivar, z, wave, generator(), settings, conditions_BL=asked)
    assert int(seen.gaps.sum()) <= 2 * n  # the ends, by what rounding says
    assert float((seen.flux - 1)[~seen.gaps].std()) == pytest.approx(0.2, rel=0.01)
    better = torch.full_like(ivar, 400.0)  # noise that is there cannot be taken away
    seen = reobserve_spectra(noisy, ivar, z, wave, generator(), settings, conditions_BL=better)
    assert torch.allclose(seen.flux[~seen.gaps], noisy[~seen.gaps], rtol=1e-9)


def test_conditions_of_empty_spectra_are_finite() -> None:
    ivar = torch.ones(3, 50)
    ivar[1] = 0
    conditions = other_conditions(ivar, generator())
    assert bool(conditions.isfinite().all())
    assert not bool(conditions[1:].any())  # none at all, or scaled to the level of an empty one
