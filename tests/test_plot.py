"""Pictures: what they hold, and that they can be written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spender_core import plot
from spender_core.batch import SpectrumBatch
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Reconstruction

WAVE = Linear(4000.0, 2.0, 2000).wave  # to 7998 Angstrom
MASKED = [(0, 9), (500, 520), (1999, 1999)]


class Mine(Instrument):
    name = "mine"
    grid = Linear(4000.0, 2.0, 2000)
    loader: Any = None


def panel(z: float = 0.1, **changes: Any) -> plot.Panel:
    sigma = np.full(2000, 0.1)
    for first, last in MASKED:
        sigma[first : last + 1] = np.inf
    flux = 1 + 0.3 * np.sin(WAVE / 100)
    arguments = {
        "title": "my object", "wave": WAVE, "flux": flux, "sigma": sigma, "model": flux + 0.05, "z": z,
    }  # fmt: skip
    return plot.Panel(**(arguments | changes))


def axes_of(one: plot.Panel) -> tuple[Axes, Axes]:
    upper, lower = plot.spectra([one]).axes
    return upper, lower


def upper_labels(axes: Axes) -> list[str]:
    return [child.get_xlabel() for child in axes.child_axes]


def line_named(axes: Axes, label: str) -> np.ndarray[Any, Any]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_ydata())


def test_a_panel_has_flux_above_residuals() -> None:
    upper, lower = axes_of(panel())
    assert upper.get_ylabel() == "flux density"
    assert lower.get_ylabel() == "residual (σ)"
    assert lower.get_xlabel() == "observed wavelength, vacuum (Å)"
    assert upper.get_title(loc="left") == "my object   z = 0.1000"
    legend = upper.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["1σ error", "data", "masked", "model"]


def test_masked_pixels_are_not_drawn_as_data() -> None:
    upper, _ = axes_of(panel())
    gaps = np.isnan(line_named(upper, "data"))
    assert gaps.nonzero()[0].tolist() == [*range(10), *range(500, 521), 1999]
    spans = [patch.get_extents().transformed(upper.transData.inverted()) for patch in upper.patches]
    limits = [(round(span.x0, 3), round(span.x1, 3)) for span in spans]
    assert limits == [(WAVE[first], WAVE[last]) for first, last in MASKED]


def test_restframe_is_on_top_where_the_redshift_is_known() -> None:
    upper, _ = axes_of(panel(z=0.1))
    assert upper_labels(upper) == ["restframe wavelength (Å)"]
    texts = [text.get_text() for text in upper.texts]
    assert "Hβ" in texts


def test_lines_are_named_at_their_observed_wavelengths() -> None:
    upper, _ = axes_of(panel(z=0.1))
    (text,) = [text for text in upper.texts if text.get_text() == "Hβ"]
    assert text.xy[0] == pytest.approx(1.1 * 4862.7, abs=0.2)  # type: ignore[attr-defined]
    inside = [text.xy[0] for text in upper.texts]  # type: ignore[attr-defined]
    assert all(WAVE[0] < x < WAVE[-1] for x in inside)
    assert np.diff(sorted(inside)).min() > 0.013 * (WAVE[-1] - WAVE[0])


def test_an_unknown_redshift_has_no_restframe() -> None:
    upper, lower = axes_of(panel(z=float("nan"), model=None))
    assert upper_labels(upper) == []
    assert upper.get_title(loc="left") == "my object   z unknown"
    assert list(upper.texts) == []
    assert [text.get_text() for text in lower.texts] == ["no model: the redshift is unknown"]


def test_residuals_are_in_units_of_sigma() -> None:
    _, lower = axes_of(panel())
    values = np.asarray(lower.lines[-1].get_ydata())
    good = np.isfinite(panel().sigma)
    np.testing.assert_allclose(values[good], -0.5, rtol=1e-9)
    assert (values[~good] == 0).all()


def test_the_range_ignores_outliers_and_shows_the_model() -> None:
    flux = np.ones(2000)
    flux[1000] = 1e6
    upper, _ = axes_of(panel(flux=flux, model=np.full(2000, 3.0)))
    low, high = upper.get_ylim()
    assert low < 0
    assert 3 < high < 10


def test_the_range_follows_the_units() -> None:
    upper, _ = axes_of(panel(flux=1e-17 * panel().flux, sigma=1e-17 * panel().sigma, model=None))
    low, high = upper.get_ylim()
    assert 1e-17 < high - low < 3e-17


@pytest.mark.parametrize("kind", ["all masked", "zero", "model elsewhere"])
def test_odd_spectra_can_be_drawn(kind: str, tmp_path: Path) -> None:
    changes = {
        "all masked": {"sigma": np.full(2000, np.inf)},
        "zero": {"flux": np.zeros(2000), "model": np.zeros(2000)},
        "model elsewhere": {"model": np.full(2000, np.nan)},
    }[kind]
    figure = plot.spectra([panel(**changes)])
    figure.savefig(tmp_path / "odd.png", dpi=40)
    low, high = figure.axes[0].get_ylim()
    assert np.isfinite([low, high]).all()
    assert low < high


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
@pytest.mark.parametrize("z", [0.1, 2.5, float("nan")])
def test_pictures_are_written(tmp_path: Path, suffix: str, z: float) -> None:
    """At z = 2.5 Lyman alpha is in the range; missing glyphs would be warnings."""
    path = tmp_path / f"picture.{suffix}"
    title = "a title   χ²/ν = 1.02"
    figure = plot.spectra([panel(z=z, title=title), panel(z=z, model=None)])
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 4
    figure.savefig(path, dpi=40)
    start = path.read_bytes()[:100]
    assert path.stat().st_size > 5000
    assert {"png": b"PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix] in start


def test_pictures_leave_the_state_of_pyplot_alone() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot.spectra([panel()])
    assert pyplot.get_fignums() == before


def test_a_panel_is_in_the_units_of_the_archive() -> None:
    flux, ivar = torch.full((2, 2000), 0.5), torch.full((2, 2000), 4.0)
    ivar[1, :7] = 0
    ids = np.array([(1,), (42,)], dtype=[("TARGETID", "i8")])
    batch = SpectrumBatch(
        flux, ivar, z=np.array([0.1, 0.2]), norm=[1.0, 10.0], ids=ids, instrument="mine"
    )
    observed = torch.full((1, 2000), 0.6)
    valid = torch.ones(1, 2000, dtype=torch.bool)
    valid[0, -3:] = False
    made = Reconstruction(torch.zeros(1, 2), torch.zeros(1, 5), observed, valid)
    one = plot.panel(batch, 1, Mine(), made, made_row=0)
    assert one.title == "42"
    assert one.z == 0.2
    np.testing.assert_allclose(one.flux, 5.0)
    np.testing.assert_allclose(one.sigma[7:], 5.0)
    assert np.isinf(one.sigma[:7]).all()
    assert one.model is not None
    np.testing.assert_allclose(one.model[:-3], 6.0, rtol=1e-6)
    assert np.isnan(one.model[-3:]).all()
    assert plot.panel(batch, 0, Mine(), title="mine").model is None


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ("", []),
        ("...", []),
        ("###", [(0, 2)]),
        ("#..##.#", [(0, 0), (3, 4), (6, 6)]),
        (".#.", [(1, 1)]),
    ],
)
def test_runs(mask: str, runs: list[tuple[int, int]]) -> None:
    assert plot._runs(np.array([letter == "#" for letter in mask], dtype=bool)) == runs
    assert runs == [(m.start(), m.end() - 1) for m in re.finditer("#+", mask)]


def test_named_lines_are_in_vacuum() -> None:
    waves = [wave for wave, _, _ in plot.lines()]
    names = {label: wave for wave, _, label in plot.lines()}
    assert len(set(waves)) == len(waves) > 20
    assert {kind for _, kind, _ in plot.lines()} <= {"emission", "absorption"}
    assert names["Hα"] == pytest.approx(6564.6, abs=0.1), "6562.8 would be in air"
