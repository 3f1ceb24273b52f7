"""Distances of latents: zero for views that are the same, and known ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.sources import Sources
from spender_core.errors import InputError
from spender_core.evaluation.invariance import Metric, MockViews, invariance, with_room

Take = Callable[..., Any]


@pytest.fixture
def views(take: Take, survey: Any) -> MockViews:
    sources = take(40).sources
    conditions = Conditions.parametric(survey, 8, torch.Generator().manual_seed(0), sigma=0.3)
    return MockViews(sources, survey, conditions)


def test_a_perfect_model_is_invariant(views: MockViews, exact: Any) -> None:
    found = invariance(exact, views, shifts=(0.03, 0.1), ratios=(5.0, 20.0))
    assert found.views == ("dz = 0.03", "dz = 0.1", "S/N 5", "S/N 20")
    for one in (*found.plain[:2], *found.whitened[:2]):
        assert one.n == 40
        assert one.high < 0.01
    noisy, clean = found.plain[2:]
    assert noisy.median == pytest.approx(4 * clean.median, rel=0.4)
    assert clean.median > 0.001


def test_different_objects_are_at_one(views: MockViews, exact: Any) -> None:
    others = invariance(exact, views, (), ()).others
    assert [one.n for one in others] == [40 * 39 // 2] * 2
    assert [one.median for one in others] == pytest.approx([1, 1], abs=0.01)


def test_the_table_has_a_line_for_every_pair(views: MockViews, exact: Any) -> None:
    found = invariance(exact, views, (0.1,), (5.0,))
    table = found.table()
    assert [row[0] for row in table.rows] == ["dz = 0.1", "S/N 5", "different objects"]
    assert table.column("Euclidean")[:2] == list(found.plain)


def test_distances_are_in_units_of_the_median_one() -> None:
    a = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    metric = Metric.of(a)
    assert metric.unit == 5.0
    assert metric.between(a, a + torch.tensor([0.0, 2.5])).tolist() == [0.5, 0.5, 0.5]
    assert metric.others.n == 3


def test_whitening_forgets_the_scale_of_latents() -> None:
    a = torch.randn(300, 3, dtype=torch.float64)
    b = a + 0.1 * torch.randn(300, 3, dtype=torch.float64)
    mix = torch.tensor([[1.0, 50.0, 0.0], [0.0, 3.0, 0.0], [0.3, 0.0, 0.01]], dtype=torch.float64)
    one = Metric.of(a, whiten=True).between(a, b)
    other = Metric.of(a @ mix, whiten=True).between(a @ mix, b @ mix)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    plain = Metric.of(a @ mix).between(a @ mix, b @ mix)
    assert not np.allclose(one, plain, rtol=0.1)


def test_whitening_leaves_out_latents_that_never_change() -> None:
    a = torch.randn(50, 3, dtype=torch.float64)
    a[:, 1] = 7
    metric = Metric.of(a, whiten=True)
    assert metric.scale.shape == (3, 2)
    assert bool(metric.between(a, a.flip(0)).isfinite().all())


def test_views_differ_in_what_is_asked_for_alone(views: MockViews) -> None:
    first, again, shifted = views(dz=0.0), views(dz=0.0), views(dz=0.1)
    assert torch.equal(first.flux, again.flux)
    assert torch.equal(first.z + 0.1, shifted.z)
    one, two = views(snr=5.0, seed=1), views(snr=5.0, seed=2)
    assert torch.equal(one.good, two.good)
    assert not torch.equal(one.flux, two.flux)
    raw = [batch.ivar / batch.norm[:, None].float() ** 2 for batch in (one, two)]
    np.testing.assert_allclose(raw[0], raw[1], rtol=1e-4)
    assert float(one.snr.median()) == pytest.approx(5, rel=0.1)


def test_redshifts_are_squeezed_to_leave_room(take: Take) -> None:
    sources: Sources = take(50).sources
    moved = with_room(sources, (0.0, 0.25), 0.2)
    assert 0 <= float(moved.z.min()) <= float(moved.z.max()) <= 0.05
    np.testing.assert_allclose(moved.z, sources.z / 5, rtol=1e-9)
    with pytest.raises(InputError, match=r"leave no room for shifts of 0\.3"):
        with_room(sources, (0.0, 0.3), 0.3)


def test_a_unit_needs_objects_that_differ(exact: Any, take: Take) -> None:
    with pytest.raises(InputError, match="at least two"):
        Metric.of(torch.ones(1, 3))
    with pytest.raises(InputError, match="the same"):
        Metric.of(torch.ones(5, 3))
    with pytest.raises(InputError, match="latents of shapes"):
        Metric.of(torch.randn(5, 3)).between(torch.ones(5, 3), torch.ones(4, 3))


def test_any_view_will_do(take: Take, exact: Any) -> None:
    batch: SpectrumBatch = take(70, noise=0.0).batch
    found = invariance(exact, lambda **asked: batch, (0.2,), (3.0,))
    assert [one.high for one in found.plain] == [0, 0]
