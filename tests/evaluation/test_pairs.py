"""One object seen by two instruments: known distances, and a model that knows the universe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.datasets.mock.conditions import Conditions
from spender_core.errors import InputError
from spender_core.evaluation.invariance import Metric, MockViews, View
from spender_core.evaluation.pairs import agreement
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Model


class Blue(Instrument):
    name = "blue"
    grid = Linear(4000.0, 3.0, 700)
    loader: Any = None


class Red(Blue):
    name = "red"
    grid = Linear(4300.0, 3.5, 700)


class Wide(Blue):
    name = "wide"
    grid = Linear(4100.0, 3.2, 700)


BLUE, RED, WIDE = Blue(), Red(), Wide()


class Told(Model):
    """Its latents are rows of a table, in turn or by the spectrum, moved for each instrument."""

    flux: Tensor | None = None
    """Spectra to which the rows belong; without, they are given out in turn."""

    def __init__(self, table: Tensor, moved: dict[str, float]) -> None:
        super().__init__([BLUE, RED, WIDE], Linear(3000.0, 5.0, 900))
        self.table, self.moved = table, moved
        self.count = 0

    def encode_weighted(self, flux_BL: Tensor, ivar_BL: Tensor, instrument: str) -> Tensor:
        if self.flux is None:
            rows = (torch.arange(len(flux_BL)) + self.count) % len(self.table)
            self.count += len(flux_BL)
        else:
            rows = torch.cdist(flux_BL, self.flux).argmin(dim=1)
        offset = torch.zeros(self.table.shape[1])
        offset[0] = self.moved[instrument]
        return self.table[rows] + offset

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return self.encode_weighted(flux_BL, flux_BL, instrument)

    def decode(self, s_BS: Tensor) -> Tensor:
        return s_BS[:, :1].expand(-1, self.rest.size)

    @property
    def config(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def views(take: Callable[..., Any]) -> dict[str, MockViews]:
    sources = take(20).sources
    return {
        one.name: MockViews(
            sources, one, Conditions.parametric(one, 4, torch.Generator().manual_seed(0))
        )
        for one in (BLUE, RED, WIDE)
    }


def test_distances_are_in_units_of_those_between_objects(views: dict[str, MockViews]) -> None:
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    unit = float(torch.pdist(table.double()).median())
    moved = {"blue": 0.0, "red": 0.5, "wide": 40.0}
    found = agreement(Told(table, moved), views, ratios=(20.0,))
    assert found.views == (
        "blue and red, noiseless", "blue and red, S/N 20",
        "blue and wide, noiseless", "blue and wide, S/N 20",
        "red and wide, noiseless", "red and wide, S/N 20",
    )  # fmt: skip
    # even 40, which is far beyond all objects, does not make the unit longer
    expected = [0.5 / unit] * 2 + [40 / unit] * 2 + [39.5 / unit] * 2
    assert [one.median for one in found.plain] == pytest.approx(expected, rel=1e-5)
    assert [one.n for one in found.plain] == [20] * 6
    assert [one.median for one in found.others] == pytest.approx([1] * 6, abs=0.01)
    assert all(one.n == 2 * (20 * 19 // 2) for one in found.others)


def test_latents_that_are_unrelated_are_as_far_apart_as_objects(
    views: dict[str, MockViews],
) -> None:
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))

    def rolled(**how: Any) -> SpectrumBatch:
        return views["blue"](**how)[torch.arange(20).roll(7)]

    apart: dict[str, View] = {"blue": views["blue"], "again": rolled}
    model = Told(table, {"blue": 0.0})
    model.flux = views["blue"]().flux
    found = agreement(model, apart, ratios=())
    assert found.plain[0].median == pytest.approx(1, abs=0.35)
    assert found.whitened[0].median == pytest.approx(1, abs=0.35)


def test_views_of_different_numbers_are_refused(views: dict[str, MockViews]) -> None:
    def fewer(**how: Any) -> SpectrumBatch:
        return views["red"](**how)[3:]

    model = Told(torch.randn(20, 4), {"blue": 0.0, "red": 0.0})
    with pytest.raises(InputError, match="latents of shapes"):
        agreement(model, {"blue": views["blue"], "red": fewer}, ratios=())


def test_a_model_that_knows_the_universe_agrees_with_itself(
    take: Callable[..., Any], exact: Any, survey: Instrument
) -> None:
    """Noise keeps latents apart; two looks with the same instrument differ by noise alone."""
    conditions = Conditions.parametric(survey, 8, torch.Generator().manual_seed(0), sigma=0.3)
    sources = take(40).sources
    twice = {
        name: MockViews(sources, survey, conditions, seed) for name, seed in (("a", 0), ("b", 1))
    }
    found = agreement(exact, twice, ratios=(20.0, 5.0))
    clean, good, poor = found.plain
    assert clean.high < 0.01
    assert 0.001 < good.median < 0.3
    assert poor.median == pytest.approx(4 * good.median, rel=0.4)
    table = found.table()
    assert table.column("two views") == ["a and b, noiseless", "a and b, S/N 20", "a and b, S/N 5"]
    assert table.column("Euclidean") == list(found.plain)


def test_noise_of_two_instruments_is_not_the_same(views: dict[str, MockViews]) -> None:
    seen: list[SpectrumBatch] = []

    def view(name: str) -> Callable[..., SpectrumBatch]:
        def look(**how: Any) -> SpectrumBatch:
            seen.append(views["blue"](**how))
            return seen[-1]

        return look

    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    model = Told(table, {"blue": 0.0})
    agreement(model, {"one": view("one"), "other": view("other")}, ratios=(5.0,))
    assert len(seen) == 4
    one, other = seen[2:]
    apart = one.flux * one.norm[:, None] - other.flux * other.norm[:, None]
    pull = (apart * (one.ivar / one.norm[:, None].square() / 2).sqrt())[one.good & other.good]
    assert float(pull.std()) == pytest.approx(1, abs=0.05)


def test_one_instrument_is_refused(views: dict[str, MockViews]) -> None:
    model = Told(torch.randn(20, 2), {"blue": 0.0})
    with pytest.raises(InputError, match="in pairs; got blue"):
        agreement(model, {"blue": views["blue"]})


def test_references_count_alike_and_apart() -> None:
    a = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    b = 100 + torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, 18.0]])
    metric = Metric.of(a, b)
    assert metric.others.n == 1 + 3
    assert metric.unit == 9.0
    whitened = Metric.of(a - 7, b, whiten=True)
    moved = Metric.of(a, b, whiten=True)
    torch.testing.assert_close(whitened.scale, moved.scale)
