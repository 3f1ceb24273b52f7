"""Real spectra: chi square, and the windows that spoil it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.evaluation.measures import reconstruct
from spender_core.evaluation.pca import RestframePCA
from spender_core.evaluation.real import (
    WIDTH,
    _name,
    judge_real,
    real_dict,
    real_table,
    usable,
)
from spender_core.records import ModelCard

Take = Callable[..., Any]
HBETA = 4862.71


def spoiled(take: Take, survey: Any, rest: float, height: float = 8.0, width: float = 6.0) -> Any:
    """Return mocks with a line, in units of sigma, that no model knows."""
    batch = take(6).batch
    wave = torch.tensor(survey.wave) / (1 + batch.z[:, None])
    sigma = torch.where(batch.good, batch.ivar, 1).rsqrt()
    line = height * torch.exp(-0.5 * ((wave - rest) / width) ** 2).float()
    return batch.replace(flux=batch.flux + line * sigma)


def test_clean_spectra_have_chi_square_one_everywhere(take: Take, exact: Any, survey: Any) -> None:
    batch = take(20).batch
    found = judge_real(exact, survey, batch)
    assert len(found) == 20
    for row, one in enumerate(found):
        assert one.label == f"row {row}"
        assert one.instrument == "survey"
        assert (one.z, one.snr) == (float(batch.z[row]), float(batch.snr[row]))
        assert one.chi2["model"] == pytest.approx(1, abs=0.25)
        assert one.causes == ()


def test_the_line_that_spoils_a_spectrum_is_named(take: Take, exact: Any, survey: Any) -> None:
    batch = spoiled(take, survey, HBETA)
    for row, one in enumerate(judge_real(exact, survey, batch)):
        worst = one.worst[0]
        assert worst.name == "Hβ"
        assert worst.rest == pytest.approx(HBETA, abs=8)
        assert worst.observed == pytest.approx(worst.rest * (1 + one.z), abs=2)
        assert worst.excess > 100
        assert one.chi2["model"] > 1.15
        assert one.elsewhere == pytest.approx(1, abs=0.25)
        assert worst.share == pytest.approx(worst.excess / int(batch.good[row].sum()), rel=1e-6)
        assert [w.excess for w in one.worst] == sorted((w.excess for w in one.worst), reverse=True)


def test_away_from_lines_it_is_the_continuum(take: Take, exact: Any, survey: Any) -> None:
    for one in judge_real(exact, survey, spoiled(take, survey, 4650.0)):
        assert one.worst[0].name == "continuum"


def test_the_worst_window_is_the_worst_of_all(take: Take, exact: Any, survey: Any) -> None:
    batch = spoiled(take, survey, HBETA)
    made = reconstruct(exact, batch)
    for row, one in enumerate(judge_real(exact, survey, batch)):
        weight = batch.ivar[row] * made.valid[row]
        square = (weight * (batch.flux[row] - made.observed[row]).square()).double().numpy()
        used = (weight > 0).numpy()
        near = np.abs(np.log(survey.wave[:, None] / survey.wave)) <= WIDTH / 2 * (1 + 1e-12)
        excess = (near * (square - used)).sum(axis=1)
        assert one.worst[0].excess == pytest.approx(excess.max(), rel=1e-5)
        lost = one.chi2["model"] * (used.sum() - 4) - one.elsewhere * (used.sum() - 4)
        assert lost > sum(w.excess for w in one.worst) * 0.8


def test_windows_do_not_overlap(take: Take, exact: Any, survey: Any) -> None:
    """One strong line, however it falls on the pixels, is named once."""
    for one in judge_real(exact, survey, spoiled(take, survey, HBETA, height=30.0), most=2):
        assert [window.name for window in one.worst].count("Hβ") == 1


@pytest.mark.parametrize(
    ("rest", "observed", "sky", "name"),
    [
        (6564.6, 7000.0, False, "Hα"),
        (6564.6, 7650.0, False, "Hα, telluric O₂"),
        (6400.0, 6900.0, False, "telluric O₂"),
        (6400.0, 7300.0, False, "telluric H₂O"),
        (6400.0, 7100.0, True, "sky line"),
        (6564.6, 7100.0, True, "Hα"),
        (6400.0, 7100.0, False, "continuum"),
    ],
)
def test_windows_are_named_by_lines_bands_and_sky(
    rest: float, observed: float, sky: bool, name: str
) -> None:
    assert _name(float(np.log(rest)), observed, sky) == name


def test_an_empty_spectrum_has_no_windows(take: Take, exact: Any, survey: Any) -> None:
    batch = take(3).batch
    ivar = batch.ivar.clone()
    ivar[1] = 0
    one = judge_real(exact, survey, batch.replace(ivar=ivar))[1]
    assert one.worst == ()
    assert np.isnan(one.elsewhere)
    assert np.isnan(one.chi2["model"])


def test_the_table_has_a_line_a_spectrum_and_one_of_all(
    take: Take, exact: Any, survey: Any
) -> None:
    pca = RestframePCA.learn(take(50, seed=1).sources.restframe, exact.rest, 2)
    batch = spoiled(take, survey, HBETA)
    found = judge_real(exact, survey, batch, pca, (2,))
    table = real_table(found)
    assert table.columns[:6] == ("object", "instrument", "z", "S/N", "model", "PCA 2")
    assert len(table.rows) == len(batch) + 1
    assert table.rows[-1][0] == "all 6"
    assert "Hβ 48" in str(table.rows[0][7])
    content = real_dict(found)
    assert content[0]["worst"][0]["name"] == "Hβ"
    assert set(content[0]["chi2"]) == {"model", "PCA 2"}
    assert real_table([]).rows == ()


def test_spectra_without_a_redshift_in_range_are_left_out(take: Take, exact: Any) -> None:
    batch = take(5).batch
    z = batch.z.clone()
    z[0], z[1], z[2] = float("nan"), 30.0, 0.2
    ivar = batch.ivar.clone()
    ivar[3] = 0
    batch = batch.replace(z=z, ivar=ivar)
    assert usable(exact, batch).tolist() == [False, False, True, False, True]
    exact.card = ModelCard(
        name="exact", architecture="exact", latents=3, z_range=(float(z[4]), float(z[4]))
    )
    assert usable(exact, batch).tolist() == [False, False, False, False, True]
