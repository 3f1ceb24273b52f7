"""Errors of the restframe: none for a perfect model, and those that one puts in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.errors import InputError
from spender_core.evaluation.measures import reconstruct
from spender_core.evaluation.restframe import (
    WINDOWS,
    amplitude_of,
    at_resolution,
    errors,
    observed_range,
    profile,
    restframes,
)
from spender_core.grid import Log
from spender_core.nn.layers import ConstantLSF

Take = Callable[..., Any]
OBSERVED, BLUER, REDDER = WINDOWS


def judged(model: Any, mocks: Any) -> Any:
    made = reconstruct(model, mocks.batch)
    return restframes(mocks, made.restframe, model.rest, model.instrument.wave)


def test_a_perfect_model_has_no_error(take: Take, exact: Any) -> None:
    found = errors(judged(exact, take(20, noise=0.0)))
    assert list(found) == list(WINDOWS)
    for values in found.values():
        assert np.nanmax(values) < 2e-4
        assert np.isfinite(values).sum() > 10


def test_a_known_error_is_found_where_it_is(take: Take, exact: Any) -> None:
    """The restframe redder than 5000 A is 10 percent too bright, after fitting the amplitude."""
    mocks = take(10, noise=0.0)
    rests = judged(exact, mocks)
    wave = rests.wave
    rests.model[:, wave > 5000] *= 1.1
    found = errors(rests)
    np.testing.assert_allclose(found[REDDER], 0.1, atol=5e-4)
    assert np.nanmax(found[BLUER]) < 5e-4
    for row in range(10):
        inside = ((wave >= rests.low[row]) & (wave <= rests.high[row])).numpy()
        truth = rests.truth[row].numpy()
        wrong = 0.1 * truth[inside & (wave.numpy() > 5000)].sum() / truth[inside].sum()
        assert found[OBSERVED][row] == pytest.approx(wrong, abs=5e-4)


def test_windows_begin_at_the_good_pixels_of_each_spectrum(take: Take, survey: Any) -> None:
    batch = take(3).batch
    ivar = batch.ivar.clone()
    ivar[0, :50] = 0
    ivar[1, 700:] = 0
    ivar[2] = 0
    low, high = observed_range(batch.replace(ivar=ivar), survey.wave)
    stretch = 1 + batch.z.numpy()
    for row in range(2):
        good = survey.wave[(ivar[row] > 0).numpy()]
        assert float(low[row]) == pytest.approx(good[0] / stretch[row], rel=1e-12)
        assert float(high[row]) == pytest.approx(good[-1] / stretch[row], rel=1e-12)
    assert low[2].isnan()
    assert high[2].isnan()


def test_windows_that_are_not_reached_whole_count_as_none(take: Take, exact: Any) -> None:
    rests = judged(exact, take(50, noise=0.0))
    found = errors(rests, beyond=1000.0)
    reached = (rests.low - 1000 >= rests.wave[0]).numpy()
    assert 0 < reached.sum() < 50
    np.testing.assert_array_equal(np.isfinite(found[BLUER]), reached)
    assert not np.isfinite(errors(rests, beyond=1e4)[REDDER]).any()


def test_the_amplitude_is_that_of_the_batch(take: Take, exact: Any, survey: Any) -> None:
    mocks = take(8)
    factor = amplitude_of(mocks.sources, mocks.truth, mocks.batch, survey.wave)
    rests = judged(exact, mocks)
    np.testing.assert_allclose(rests.truth, mocks.sources.restframe * factor[:, None], rtol=1e-5)
    seen, _ = exact.transform(rests.truth, survey, mocks.batch.z)
    good = mocks.batch.good
    np.testing.assert_allclose(seen[good], mocks.truth[good], rtol=1e-4)


def test_the_truth_is_interpolated_on_other_grids(take: Take, survey: Any) -> None:
    mocks = take(2)
    rest = Log(3.44, 1e-4, 4700)  # 2754 to 8127 A: beyond the truth at both ends
    rests = restframes(mocks, torch.zeros(2, rest.size), rest, survey.wave)
    factor = amplitude_of(mocks.sources, mocks.truth, mocks.batch, survey.wave)
    own = mocks.sources.grid.wave
    known = (rest.wave >= own[0]) & (rest.wave <= own[-1])
    np.testing.assert_array_equal(rests.known, known)
    for row in range(2):
        truth = np.interp(rest.wave[known], own, mocks.sources.restframe[row].double().numpy())
        np.testing.assert_allclose(rests.truth[row, known], truth * float(factor[row]), rtol=1e-5)
    assert not rests.truth[:, torch.tensor(~known)].any()


def test_the_profile_tells_observed_from_not(take: Take, exact: Any) -> None:
    rests = judged(exact, take(30, noise=0.0))
    rests.model.mul_(1.05)
    edges = np.arange(2900.0, 7900.0, 100.0)
    within, beyond = profile(rests, edges)
    for row in range(30):
        inside = (edges[:-1] >= float(rests.low[row])) & (edges[1:] <= float(rests.high[row]))
        outside = (edges[1:] <= float(rests.low[row])) | (edges[:-1] >= float(rests.high[row]))
        np.testing.assert_array_equal(np.isfinite(within[row]), inside)
        np.testing.assert_array_equal(np.isfinite(beyond[row]), outside)
    np.testing.assert_allclose(within[np.isfinite(within)], 0.05, atol=5e-4)
    np.testing.assert_allclose(beyond[np.isfinite(beyond)], 0.05, atol=5e-4)
    with pytest.raises(InputError, match="must increase"):
        profile(rests, edges[::-1])


def test_a_truth_without_light_has_no_error(take: Take, exact: Any) -> None:
    rests = judged(exact, take(2, noise=0.0))
    rests.truth[0] = 0
    found = errors(rests)
    assert all(np.isnan(values[0]) for values in found.values())
    assert np.isfinite(found[OBSERVED][1])


def test_the_truth_has_the_resolution_of_the_model(take: Take, exact: Any, survey: Any) -> None:
    """Without an LSF a model makes what the instrument saw; with one, what the object sent."""
    mocks = take(4)
    blurred = torch.nn.functional.avg_pool1d(mocks.truth[:, None], 21, 1, 10)[:, 0]
    seen = replace(mocks, truth=blurred)
    blank = torch.zeros(4, exact.rest.size)
    rests = at_resolution(exact, survey, seen, blank)
    objects = restframes(seen, blank, exact.rest, survey.wave).truth
    wave = survey.wave
    for row in range(4):
        rest = wave / (1 + float(mocks.batch.z[row]))
        inside = ((rests.wave > rest[20]) & (rests.wave < rest[-20])).numpy()
        expected = np.interp(exact.rest.wave[inside], rest, blurred[row].double().numpy())
        np.testing.assert_allclose(rests.truth[row, inside], expected, rtol=1e-4)
        beyond = ((rests.wave < rest[0] - 1) | (rests.wave > rest[-1] + 1)).numpy()
        assert torch.equal(rests.truth[row, beyond], objects[row, beyond])
    assert not torch.allclose(rests.truth, objects, rtol=1e-2)
    exact.lsf["survey"] = ConstantLSF(1)
    assert torch.equal(at_resolution(exact, survey, seen, blank).truth, objects)
