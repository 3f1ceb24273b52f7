"""Pictures of latents: corner plots, what a latent does, and mocks beside their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import plot
from spender_core.errors import InputError
from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.plot.corners import LEVELS, _levels


class Mine(Instrument):
    name = "mine"
    grid = Linear(4000.0, 2.0, 2000)
    loader: Any = None


class Lines(Model):
    """A model whose latents are the slope of the continuum, and a line at 5000 Angstrom."""

    config: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__([Mine()], Log(3.5, 2e-4, 2000))
        self.level = torch.nn.Parameter(torch.ones(1))

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return flux_BL[:, :2]

    def decode(self, s_BS: Tensor) -> Tensor:
        wave = self.wave_rest.float()
        shapes = torch.stack([(wave - 5000) / 5000, torch.exp(-0.5 * ((wave - 5000) / 20) ** 2)])
        return self.level + s_BS @ shapes


def sample(n: int, latents: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal((n, latents))


def test_a_corner_has_a_panel_for_each_pair() -> None:
    figure = plot.corner(torch.from_numpy(sample(500)), labels=["a", "b", "c"])
    assert len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in figure.axes[-3:]] == ["a", "b", "c"]
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["b", "c"]
    diagonal = [axes for axes in figure.axes if axes.get_title()]
    middle = np.median(sample(500), axis=0)
    for value, axes in zip(middle, diagonal, strict=True):
        assert f"${value:.2f}_" in axes.get_title()


def test_latents_are_named_as_in_tables() -> None:
    labels = [axes.get_xlabel() for axes in plot.corner(sample(30, 12)).axes]
    assert [label for label in labels if label] == [
        *("s₀", "s₁", "s₂", "s₃", "s₄", "s₅", "s₆", "s₇", "s₈", "s₉", "s₁₀", "s₁₁")
    ]


def test_contours_enclose_their_shares() -> None:
    x, y = sample(200_000, 2).T
    edges = np.linspace(-5, 5, 61)
    counts = np.histogram2d(x, y, (edges, edges))[0]
    levels = _levels(counts)
    inside = [counts[counts >= level].sum() / counts.sum() for level in levels]
    np.testing.assert_allclose(inside, LEVELS, atol=0.02)
    assert levels == sorted(levels)
    # of a Gaussian in two dimensions, the share p lies within sqrt(-2 ln(1 - p))
    radius = np.hypot(*np.meshgrid(0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] + edges[:-1])))
    assert radius[counts >= levels[1]].max() == pytest.approx(np.sqrt(-2 * np.log(0.32)), abs=0.25)


def test_objects_beyond_the_contours_are_points() -> None:
    points = plot.corner(sample(2000, 2)).axes[1].lines[0]
    x = np.asarray(points.get_xdata())
    assert 0.02 < len(x) / 2000 < 0.12
    few = plot.corner(sample(20, 2)).axes[1].lines[0]
    assert len(np.asarray(few.get_xdata())) == 20


@pytest.mark.parametrize("n", [200, 6000])
def test_colours_tell_a_quantity(n: int) -> None:
    s = sample(n, 2)
    colour = s[:, 0].copy()
    colour[:50] = np.nan
    figure = plot.corner(s, colour=colour, colour_label="z")
    bar = figure.axes[-1]
    assert bar.get_xlabel() == "z"
    assert f"{n - 50:,} with a colour" in figure.texts[0].get_text()
    (drawn,) = figure.axes[1].collections
    place = np.asarray(drawn.get_offsets())[:, 0]
    values = np.asarray(drawn.get_array())
    assert np.corrcoef(place, values)[0, 1] > 0.98
    low, high = drawn.get_clim()
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(colour, [2, 98])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latents": np.zeros(5)}, "shape"),
        ({"latents": np.zeros((5, 1))}, "two latents"),
        ({"latents": np.full((5, 2), np.nan)}, "5 of 5 objects"),
        ({"latents": np.zeros((5, 2)), "labels": ["a"]}, "1 labels for 2"),
        ({"latents": np.zeros((5, 2)), "colour": np.zeros(4)}, r"must have shape \(5,\)"),
        ({"latents": np.zeros((5, 2)), "colour": np.full(5, np.nan)}, "no value of the colour"),
    ],
)
def test_a_corner_of_nonsense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot.corner(**arguments)


def test_equal_latents_can_be_drawn(tmp_path: Path) -> None:
    plot.write([plot.corner(np.ones((100, 2)))], [tmp_path / "a.pdf"])
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_travel_varies_one_latent_at_a_time() -> None:
    s = sample(1001, 2) * [0.1, 2.0] + [0.0, 5.0]
    made = plot.travel(Lines(), s, percentiles=(10, 90), steps=3)
    np.testing.assert_allclose(made.values, np.percentile(s, [10, 50, 90], axis=0).T)
    line = int(np.argmin(abs(made.wave - 5000)))
    median = np.median(s, axis=0)
    np.testing.assert_allclose(made.restframe[1, :, line], 1 + made.values[1], rtol=1e-3)
    np.testing.assert_allclose(made.restframe[0, :, line], 1 + median[1], rtol=1e-3)
    np.testing.assert_allclose(made.restframe[0, 1], made.middle, rtol=1e-6)
    slope = (made.wave - 5000) / 5000
    expected = 1 + made.values[0, 2] * slope + (made.middle - 1 - median[0] * slope)
    np.testing.assert_allclose(made.restframe[0, 2], expected, atol=1e-5)


def test_a_traversal_draws_each_latent() -> None:
    figure = plot.traversal(Lines(), sample(100, 2), steps=5, zoom="4861:200, 5000:100")
    axes = [one for one in figure.axes if one.get_label() != "<colorbar>"]
    assert len(axes) == 6
    assert [one.get_title() for one in axes[:3]] == ["restframe", "4861 Å", "5000 Å"]
    assert [one.get_ylabel() for one in (axes[0], axes[3])] == ["s₀", "s₁"]
    made = plot.travel(Lines(), sample(100, 2), steps=5)
    curves = [np.asarray(line.get_ydata()) for line in axes[3].lines]
    assert len(curves) == 5
    assert sorted(curve[500] for curve in curves) == pytest.approx(
        sorted(made.restframe[1, :, 500])
    )
    assert axes[2].get_xlim() == (4950, 5050)
    assert "rms change" in axes[0].texts[0].get_text()
    assert figure.axes[-1].get_xlabel().startswith("percentile of the latent")
    beyond = plot.traversal(Lines(), sample(9, 2), zoom="lya").axes[1]
    assert beyond.texts[0].get_text() == "beyond\nthe model"


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        (np.zeros((0, 2)), {}, "N > 0"),
        (np.full((3, 2), np.nan), {}, "finite"),
        (np.zeros((3, 5)), {}, "decodes no 5 latents"),
        (np.zeros((3, 2)), {"percentiles": (98, 2)}, "rise within 0 to 100"),
        (np.zeros((3, 2)), {"steps": 1}, "2 at least"),
        (np.zeros((3, 2)), {"labels": ["a"]}, "1 labels for 2"),
    ],
)
def test_a_traversal_of_nonsense_is_refused(
    latents: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plot.traversal(Lines(), latents, **options)


def mock_panel(**changes: Any) -> plot.Panel:
    wave = Mine.grid.wave
    rest = plot.Curve(np.linspace(3000.0, 9000.0, 3000), np.full(3000, 1.2))
    arguments: dict[str, Any] = {
        "title": "mock", "wave": wave, "flux": np.ones(2000), "sigma": np.full(2000, 0.1),
        "model": np.ones(2000), "z": 0.1, "restframe": rest,
        "truth": plot.Curve(np.linspace(2000.0, 8500.0, 4000), np.ones(4000)),
    }  # fmt: skip
    return plot.Panel(**(arguments | changes))


def test_an_overview_compares_restframe_and_truth() -> None:
    figure = plot.overview([mock_panel(), mock_panel()])
    assert len(figure.axes) == 8
    left, right, residuals, errors = figure.axes[:4]
    assert left.get_xlim() == (4000, 7998)
    assert right.get_xlim() == (3000, 9000)
    assert residuals.get_ylabel() == "residual\n(σ)"
    assert errors.get_ylabel() == "model /\ntruth − 1"
    seen, beyond = (np.asarray(line.get_ydata()) for line in errors.lines[-2:])
    np.testing.assert_allclose(seen[np.isfinite(seen)], 0.2, atol=1e-9)
    np.testing.assert_allclose(beyond[np.isfinite(beyond)], 0.2, atol=1e-9)
    x = np.asarray(errors.lines[-2].get_xdata())
    inside = (x > 4000 / 1.1) & (x < 7998 / 1.1)
    assert (np.isfinite(seen) == inside).all()
    assert x.max() < 8530, "the truth ends at 8500"


@pytest.mark.parametrize("lacking", ["z", "restframe", "truth"])
def test_an_overview_needs_the_truth(lacking: str) -> None:
    with pytest.raises(InputError, match="mock lacks"):
        plot.overview([mock_panel(**{lacking: np.nan if lacking == "z" else None})])
    with pytest.raises(InputError, match="no spectrum"):
        plot.overview([])
