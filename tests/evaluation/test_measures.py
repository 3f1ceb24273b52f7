"""Chi square and pulls: a perfect description has 1, a known bias a known excess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.errors import InputError
from spender_core.evaluation.measures import (
    Fit,
    PullProfile,
    chi2,
    common_weight,
    fits,
    reconstruct,
    restframe_wave,
)

Take = Callable[..., Any]
N = 200


def test_truth_and_a_perfect_model_have_chi_square_one(take: Take, exact: Any) -> None:
    mocks = take(N)
    made = reconstruct(exact, mocks.batch)
    values = chi2(mocks.batch, fits(exact, mocks.batch, made, truth_BL=mocks.truth))
    pixels = float(mocks.batch.good.sum(dim=1).float().mean())
    error = 4 * np.sqrt(2 / pixels / N)
    assert list(values) == ["model", "truth"]
    assert values["truth"].mean() == pytest.approx(1, abs=error)
    assert values["model"].mean() == pytest.approx(1, abs=error)


@pytest.mark.parametrize("bias", [0.5, 2.0])
def test_a_bias_in_sigma_adds_its_square(take: Take, bias: float) -> None:
    mocks = take(N)
    batch = mocks.batch
    sigma = torch.where(batch.good, batch.ivar, 1).rsqrt()
    everywhere = torch.ones_like(batch.good)
    found = {
        "truth": Fit(mocks.truth, everywhere, 0),
        "biased": Fit(mocks.truth + bias * sigma, everywhere, 0),
    }
    values = chi2(batch, found)
    pixels = float(batch.good.sum())
    error = 4 * np.sqrt((2 + 4 * bias**2) / pixels)
    assert values["biased"].mean() == pytest.approx(1 + bias**2, abs=error)
    profile = PullProfile(np.linspace(3999, 6700, 10))
    profile.add(torch.tensor(np.linspace(4000, 6697, 900)), batch.ivar, batch.flux, found)
    fine = 4 * np.sqrt((2 + 4 * bias**2) / profile.pixels.min())
    np.testing.assert_allclose(profile.mean("biased"), 1 + bias**2, atol=fine)
    np.testing.assert_allclose(profile.mean("truth"), 1, atol=fine)


def test_all_descriptions_are_judged_on_the_same_pixels(take: Take) -> None:
    mocks = take(3)
    short = torch.ones_like(mocks.batch.good)
    short[:, 400:] = False
    wrong = mocks.truth.clone()
    wrong[:, 400:] = 1e6
    found = {"short": Fit(wrong, short, 2), "truth": Fit(mocks.truth, ~short | short, 0)}
    weight = common_weight(mocks.batch, found)
    assert not weight[:, 400:].any()
    assert torch.equal(weight[:, :400], mocks.batch.ivar[:, :400])
    values = chi2(mocks.batch, found)
    count = mocks.batch.good[:, :400].sum(dim=1).numpy()
    np.testing.assert_allclose(values["short"] * (count - 2), values["truth"] * count, rtol=1e-5)


def test_profiles_hold_the_total_chi_square(take: Take, survey: Any) -> None:
    """Sums over bins are sums over pixels, however spectra come in batches."""
    mocks = take(40)
    found = {"truth": Fit(mocks.truth, torch.ones_like(mocks.batch.good), 0)}
    wave = restframe_wave(survey.wave, mocks.batch.z)
    np.testing.assert_allclose(wave[7], survey.wave / (1 + float(mocks.batch.z[7])), rtol=1e-14)
    whole, parts = (PullProfile(np.geomspace(3000, 7000, 30)) for _ in range(2))
    whole.add(wave, mocks.batch.ivar, mocks.batch.flux, found)
    for rows in (slice(0, 7), slice(7, 40)):
        one = {"truth": Fit(mocks.truth[rows], found["truth"].valid[rows], 0)}
        parts.add(wave[rows], mocks.batch.ivar[rows], mocks.batch.flux[rows], one)
    total = (chi2(mocks.batch, found)["truth"] * mocks.batch.good.sum(dim=1).numpy()).sum()
    assert whole.squares["truth"].sum() == pytest.approx(total, rel=1e-5)
    assert whole.pixels.sum() == mocks.batch.good.sum()
    np.testing.assert_allclose(parts.squares["truth"], whole.squares["truth"], rtol=1e-9)
    np.testing.assert_array_equal(parts.pixels, whole.pixels)


def test_pixels_beyond_the_edges_count_nowhere() -> None:
    profile = PullProfile([1.0, 2.0, 4.0])
    wave = torch.tensor([0.5, 1.0, 1.5, 3.0, 4.0, 9.0])
    flux = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0, 9.0]])
    found = {"zero": Fit(torch.zeros(1, 6), torch.ones(1, 6, dtype=torch.bool), 0)}
    profile.add(wave, torch.ones(1, 6), flux, found)
    assert profile.pixels.tolist() == [2, 1]
    assert profile.mean("zero").tolist() == [2.5, 9.0]
    assert profile.middle.tolist() == [1.5, 3.0]
    assert profile.to_dict()["mean_square_pull"] == {"zero": [2.5, 9.0]}


def test_wrong_profiles_are_refused() -> None:
    for edges in ([1.0], [2.0, 1.0], [[1.0, 2.0]]):
        with pytest.raises(InputError, match="increasing edges"):
            PullProfile(edges)
    with pytest.raises(InputError, match="no description 'x'"):
        PullProfile([1.0, 2.0]).mean("x")
