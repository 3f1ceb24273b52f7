"""Noise in some pixels: which are drawn, what is added, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core.datasets import augment as augmenting
from spender_core.datasets import sparse_noise as module
from spender_core.datasets.augment import Augmentation, augment_spectra
from spender_core.datasets.sparse_noise import add_noise, sparse_pixels
from spender_core.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 5000), ratio=st.floats(0, 1), seed=st.integers(0, 1000))
def test_sparse_pixels_are_in_order_and_inside(total: int, ratio: float, seed: int) -> None:
    hits = sparse_pixels(total, ratio, generator(seed))
    assert hits.dtype == torch.int64
    assert bool((hits.diff() > 0).all())
    if len(hits):
        assert hits[0] >= 0
        assert hits[-1] < total
    if ratio == 1:
        assert len(hits) == total
    if ratio == 0:
        assert len(hits) == 0


@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.5, 0.9])
def test_sparse_pixels_are_independent_draws(ratio: float) -> None:
    """Their number, each pixel's frequency, and neighbours have the mean of a binomial."""
    total, runs = 400, 5000
    hit = torch.zeros(runs, total, dtype=torch.float64)
    for seed in range(runs):
        hit[seed, sparse_pixels(total, ratio, generator(seed))] = 1
    error = (ratio * (1 - ratio)) ** 0.5
    assert abs(hit.mean() - ratio) < 5 * error / (runs * total) ** 0.5
    assert float((hit.mean(dim=0) - ratio).abs().max()) < 5 * error / runs**0.5
    assert hit.sum(dim=1).var() == pytest.approx(total * error**2, rel=5 * (2 / runs) ** 0.5)
    together = (hit[:, 1:] * hit[:, :-1]).mean()
    assert together == pytest.approx(ratio**2, abs=7 * ratio / (runs * total) ** 0.5)


def test_more_pixels_are_drawn_where_the_first_did_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.math, "ceil", lambda _: 3)
    hits = sparse_pixels(10_000, 0.05, generator())
    assert len(hits) == pytest.approx(500, abs=120)
    assert hits[-1] > 9_500


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_as_written_down(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, dtype: torch.dtype
) -> None:
    if not compiled:
        monkeypatch.setattr(module.native, "library", lambda: None)
    elif module.native.library() is None:
        pytest.skip("no kernels compiled")
    torch.manual_seed(3)
    flux, ivar = torch.rand(2, 7, 50, dtype=dtype)
    ivar[2, 10:30] = 0
    valid, sigma = torch.rand(7, 50) > 0.3, 1 + torch.rand(7, dtype=dtype)
    hits = sparse_pixels(350, 0.4, generator())
    unit = torch.randn(len(hits), dtype=dtype)
    noise = torch.zeros(350, dtype=torch.float64)
    noise[hits] = (unit * sigma[hits // 50]).double()
    noise = noise.view(7, 50) * valid
    wanted = flux.double() + noise, 1 / (1 / ivar.double() + noise**2)
    add_noise(flux, ivar, hits, unit, sigma, valid)
    assert torch.allclose(flux.double(), wanted[0], rtol=1e-6, atol=0)
    assert torch.allclose(ivar.double(), wanted[1], rtol=1e-6, atol=0)


def test_noise_stays_in_its_pixels_and_in_its_spectra() -> None:
    flux, ivar = torch.zeros(3, 4), torch.ones(3, 4)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[2, 3] = False
    hits = torch.tensor([0, 3, 8, 11])
    sigma = torch.tensor([2.0, 5.0, 10.0])
    add_noise(flux, ivar, hits, torch.tensor([1.0, -1.0, 0.5, 7.0]), sigma, valid)
    assert flux.tolist() == [[2, 0, 0, -2], [0, 0, 0, 0], [5, 0, 0, 0]]
    expected = torch.ones(3, 4)
    expected[0, 0] = expected[0, 3] = 1 / 5
    expected[2, 0] = 1 / 26
    torch.testing.assert_close(ivar, expected)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_each_spectrum_of_each_piece_gets_its_own_noise(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Its sigma follows its own maximum, and only where it was observed at its new redshift."""
    monkeypatch.setattr(augmenting, "ROWS", rows)
    wave = torch.linspace(4000, 6000, 900, dtype=torch.float64)
    size = torch.logspace(0, 4, 40)
    flux = size[:, None] * torch.ones(40, 900)
    z, moved = torch.zeros(40).double(), torch.linspace(-0.2, 0.3, 40).double()
    choice = Augmentation(redshifts=lambda z, _: moved, noise=0.5, amplitude=0.1)
    new_flux, new_ivar, _ = augment_spectra(flux, flux, z, wave, generator(), choice)
    points = wave / (1 + moved[:, None])
    reached = (points > wave[0]) & (points < wave[-1])
    assert bool((~reached).any(dim=1).float().mean() > 0.9)
    assert not new_flux[~reached].any()
    assert not new_ivar[~reached].any()
    share = torch.where(reached, new_flux - flux, 0).double() / (0.1 * size[:, None])
    hit = share.abs() > 1e-4
    for row in range(40):
        n = int(reached[row].sum())
        assert int(hit[row].sum()) == pytest.approx(n / 2, abs=5 * (n / 4) ** 0.5)
        assert share[row, hit[row]].std() == pytest.approx(1, abs=5 / n**0.5)


def parts() -> dict[str, Tensor]:
    return {
        "flux_BL": torch.ones(4, 50),
        "ivar_BL": torch.ones(4, 50),
        "hits_H": torch.tensor([0, 60, 199]),
        "unit_H": torch.ones(3),
        "sigma_B": torch.ones(4),
        "valid_BL": torch.ones(4, 50, dtype=torch.bool),
    }


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "wrong",
    [
        {"ivar_BL": torch.ones(4, 49)},
        {"ivar_BL": torch.ones(2, 50)},
        {"ivar_BL": torch.ones(4, 50).double()},
        {"flux_BL": torch.ones(4, 50).half(), "ivar_BL": torch.ones(4, 50).half()},
        {"flux_BL": torch.ones(50, 4).T},
        {"ivar_BL": torch.ones(1, 50).expand(4, 50)},
        {"hits_H": torch.tensor([0, 60, 200])},
        {"hits_H": torch.tensor([0, 60, 2**50])},
        {"hits_H": torch.tensor([-1, 60, 199])},
        {"hits_H": torch.tensor([0, 2**50, 199])},
        {"hits_H": torch.tensor([0, 0, 199])},
        {"hits_H": torch.tensor([60, 0, 199])},
        {"hits_H": torch.tensor([0, 60, 199]).int()},
        {"hits_H": torch.tensor([[0, 60, 199]])},
        {"hits_H": torch.tensor(0)},
        {"unit_H": torch.ones(2)},
        {"unit_H": torch.ones(3).long()},
        {"sigma_B": torch.ones(3)},
        {"sigma_B": torch.ones(4, 1)},
        {"valid_BL": torch.ones(4, 49, dtype=torch.bool)},
        {"valid_BL": torch.ones(4, 50)},
    ],
    ids=lambda wrong: " ".join(f"{k} {tuple(v.shape)} {v.dtype}" for k, v in wrong.items()),
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, wrong: dict[str, Tensor]
) -> None:
    if not compiled:
        monkeypatch.setattr(module.native, "library", lambda: None)
    given_ = parts() | wrong
    before = given_["flux_BL"].clone(), given_["ivar_BL"].clone()
    with pytest.raises(InputError, match=r"must|contiguous spectra only"):
        add_noise(**given_)
    assert torch.equal(given_["flux_BL"], before[0])
    assert torch.equal(given_["ivar_BL"], before[1])


@pytest.mark.parametrize("compiled", [True, False])
def test_columns_that_lie_elsewhere_in_memory(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """Strided noise, sigma and valid pixels, of another floating type, and none at all."""
    if not compiled:
        monkeypatch.setattr(module.native, "library", lambda: None)
    a, b = parts(), parts()
    b["unit_H"] = torch.ones(6, dtype=torch.float64)[::2]
    b["sigma_B"] = torch.ones(8)[::2]
    b["valid_BL"] = torch.ones(50, 4, dtype=torch.bool).T
    b["hits_H"] = torch.tensor([0, 5, 60, 5, 199, 5])[::2]
    add_noise(**a)
    add_noise(**b)
    assert torch.equal(a["flux_BL"], b["flux_BL"])
    assert a["flux_BL"].sum() == 203
    none = torch.zeros(0)
    add_noise(a["flux_BL"], a["ivar_BL"], none.long(), none, a["sigma_B"])
    add_noise(torch.ones(0, 5), torch.ones(0, 5), none.long(), none, none)
    assert torch.equal(a["flux_BL"], b["flux_BL"])
