"""Pages of spectra: what they hold, and that they can be written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from spender_core import plot
from spender_core.errors import InputError
from spender_core.grid import Linear
from spender_core.plot.drawing import runs

WAVE = Linear(4000.0, 2.0, 2000).wave  # to 7998 Angstrom
MASKED = [(0, 9), (500, 520), (1999, 1999)]


def panel(z: float = 0.1, **changes: Any) -> plot.Panel:
    sigma = np.full(2000, 0.1)
    for first, last in MASKED:
        sigma[first : last + 1] = np.inf
    flux = 1 + 0.3 * np.sin(WAVE / 100)
    arguments = {
        "title": "my object", "wave": WAVE, "flux": flux, "sigma": sigma, "model": flux + 0.05, "z": z,
    }  # fmt: skip
    return plot.Panel(**(arguments | changes))


def restframe(z: float = 0.1) -> plot.Curve:
    wave = np.linspace(2500.0, 9000.0, 3000)
    return plot.Curve(wave, 1.05 + 0.3 * np.sin(wave * (1 + z) / 100))


def axes_of(one: plot.Panel, **options: Any) -> tuple[Axes, Axes]:
    upper, lower = plot.spectra([one], **options).axes
    return upper, lower


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(axes: Axes, label: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text() != "⊕"]


def spans(axes: Axes, label: str) -> list[tuple[float, float]]:
    (found,) = [one for one in axes.collections if one.get_label() == label]
    ends = [path.vertices[:, 0] for path in found.get_paths()]
    return [(round(x.min(), 3), round(x.max(), 3)) for x in ends]


def test_a_panel_has_flux_above_residuals() -> None:
    figure = plot.spectra([panel(notes="a model")])
    upper, lower = figure.axes
    assert upper.get_ylabel() == "flux density"
    assert lower.get_ylabel() == "residual\n(σ)"
    assert lower.get_xlabel() == "observed wavelength, vacuum (Å)"
    assert upper.get_title(loc="left") == "my object   z = 0.1000   a model"
    expected = ["data", "1σ error", "model", "emission line", "absorption line", "masked"]
    assert legend_of(figure) == [*expected, "⊕ atmosphere absorbs"]
    assert axes_of(panel(unit="mJy"))[0].get_ylabel() == "flux density\n(mJy)"


def test_what_is_drawn_is_what_was_given() -> None:
    one = panel()
    upper, _ = axes_of(one)
    x, flux = drawn(upper, "data")
    np.testing.assert_array_equal(x, WAVE)
    np.testing.assert_array_equal(flux[one.good], one.flux[one.good])
    np.testing.assert_array_equal(drawn(upper, "model")[1], one.model)


def test_masked_pixels_are_not_drawn_as_data() -> None:
    upper, _ = axes_of(panel())
    gaps = np.isnan(drawn(upper, "data")[1])
    assert gaps.nonzero()[0].tolist() == [*range(10), *range(500, 521), 1999]
    assert spans(upper, "masked") == [(WAVE[first], WAVE[last]) for first, last in MASKED]


def test_sky_lines_are_told_from_other_masks() -> None:
    sky = np.zeros(2000, dtype=bool)
    sky[500:521] = True
    upper, _ = axes_of(panel(sky=sky))
    assert spans(upper, "sky lines, masked") == [(WAVE[500], WAVE[520])]
    assert spans(upper, "masked") == [(WAVE[0], WAVE[9]), (WAVE[1999], WAVE[1999])]


def test_bands_of_the_atmosphere_are_at_observed_wavelengths() -> None:
    for rest in (False, True):
        upper, _ = axes_of(panel(), rest=rest)
        bands = [p for p in upper.patches if p.get_label() == "⊕ atmosphere absorbs"]
        extents = [b.get_extents().transformed(upper.transData.inverted()) for b in bands]
        found = [extent.x0 * (1.1 if rest else 1) for extent in extents]
        assert found == pytest.approx([6860, 7143, 7584])


def test_the_other_frame_is_on_top_where_the_redshift_is_known() -> None:
    def tops(rest: bool) -> list[str]:
        upper, _ = axes_of(panel(z=0.1), rest=rest)
        return [child.get_xlabel() for child in upper.child_axes]

    assert tops(rest=False) == ["restframe wavelength (Å)"]
    assert tops(rest=True) == ["observed wavelength, vacuum (Å)"]


def test_lines_are_named_at_their_wavelengths() -> None:
    for rest, factor in ((False, 1.1), (True, 1.0)):
        upper, _ = axes_of(panel(z=0.1), rest=rest)
        (text,) = [text for text in upper.texts if text.get_text() == "Hβ"]
        assert text.xy[0] == pytest.approx(factor * 4862.71, abs=0.01)  # type: ignore[attr-defined]
    assert {"Hβ", "Mg b", "[O III]", "Hα"} <= set(names(upper))


@pytest.mark.parametrize("look", ["paper", "column", "talk"])
def test_labels_of_lines_do_not_overlap(look: str) -> None:
    figure = plot.spectra([panel(z=0.1)], look)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() != "⊕"]
    assert len(boxes) > 10
    boxes.sort(key=lambda box: box.x0)
    for left, right in pairwise(boxes):
        assert left.x1 <= right.x0 + 0.35 * left.width, "a rotated box is wider than its letters"
    inside = figure.axes[0].get_window_extent()
    assert all(inside.y0 < box.y0 and box.y1 <= inside.y1 + 1 for box in boxes)


def test_emission_and_absorption_differ_without_colours() -> None:
    upper, _ = axes_of(panel(z=0.1))
    slants = {text.get_text(): text.get_style() for text in upper.texts}
    assert (slants["Hβ"], slants["Mg b"]) == ("normal", "italic")
    dashes = {line.get_label(): line.get_linestyle() for line in upper.lines}
    assert dashes["emission line"] != dashes["absorption line"]


def test_an_unknown_redshift_has_no_restframe() -> None:
    upper, lower = axes_of(panel(z=float("nan"), model=None), rest=True)
    assert list(upper.child_axes) == []
    assert upper.get_title(loc="left") == "my object   z unknown"
    assert names(upper) == []
    assert names(lower) == ["no model: the redshift is unknown"]
    assert lower.get_xlabel() == "observed wavelength, vacuum (Å)"


def test_residuals_are_in_units_of_sigma() -> None:
    one = panel()
    _, lower = axes_of(one)
    pull = drawn(lower, "residual")[1]
    np.testing.assert_allclose(pull[one.good], -0.5, rtol=1e-9)
    assert np.isnan(pull[~one.good]).all()


def test_what_is_beyond_the_axis_is_marked() -> None:
    flux = panel().flux.copy()
    flux[1000] += 2.0  # 19.5 sigma above the model
    _, lower = axes_of(panel(flux=flux, model=panel().model))
    assert drawn(lower, "beyond the axis")[0].tolist() == [WAVE[1000]]


def test_the_range_ignores_outliers_and_shows_the_model() -> None:
    flux = np.ones(2000)
    flux[1000] = 1e6
    upper, _ = axes_of(panel(flux=flux, model=np.full(2000, 3.0)))
    low, high = upper.get_ylim()
    assert low < 0
    assert 3 < high < 10
    assert WAVE[1000] in drawn(upper, "beyond the axis")[0]


def test_the_continuum_is_seen_below_a_bright_line() -> None:
    flux = np.ones(2000)
    model = 1 + 500 * np.exp(-0.5 * ((WAVE - 6000) / 4) ** 2)
    upper, _ = axes_of(panel(flux=flux, model=model))
    assert upper.get_ylim()[1] < 30
    x, _ = drawn(upper, "beyond the axis")
    assert x == pytest.approx([6000], abs=2)


def test_the_range_follows_the_units() -> None:
    upper, _ = axes_of(panel(flux=1e-17 * panel().flux, sigma=1e-17 * panel().sigma, model=None))
    low, high = upper.get_ylim()
    assert 1e-17 < high - low < 4e-17


def test_restframe_shows_the_model_beyond_the_data_and_the_truth() -> None:
    truth = plot.Curve(np.linspace(2000.0, 9500.0, 500), np.ones(500))
    one = panel(restframe=restframe(), truth=truth)
    upper, lower = axes_of(one, rest=True)
    x, beyond = drawn(upper, "model beyond the data")
    outside = (x < 4000 / 1.1) | (x > 7998 / 1.1)
    assert outside.any()
    assert (np.isfinite(beyond) == outside).all()
    np.testing.assert_array_equal(drawn(upper, "truth")[0], truth.wave)
    np.testing.assert_allclose(drawn(upper, "data")[0], WAVE / 1.1)
    assert upper.get_xlim() == (2500, 9000)
    ends = [line for line in upper.lines if line.get_label() == "ends of the data"]
    assert [line.get_xdata()[0] for line in ends] == pytest.approx([4000 / 1.1, 7998 / 1.1])
    assert lower.get_xlabel() == "restframe wavelength (Å)"
    observed, _ = axes_of(one)
    assert not [
        line for line in observed.lines if line.get_label() in ("truth", "ends of the data")
    ]


def test_zooms_are_below_each_spectrum() -> None:
    figure = plot.spectra([panel(), panel(z=0.5), panel(z=np.nan)], zoom="hβ,[O III],Hα")
    zoomed = [axes for axes in figure.axes if axes.get_title() in ("Hβ", "[O III]", "Hα")]
    assert len(figure.axes) == 6 + 9
    assert [axes.get_xlim() for axes in zoomed[:2]] == [
        pytest.approx((4862.71 - 60, 4862.71 + 60)),
        pytest.approx((4960.30 - 60, 5008.24 + 60)),
    ]
    assert "Hβ" in names(zoomed[0])
    assert names(zoomed[5]) == ["not observed"], "at z = 0.5, beyond 7998 Angstrom"
    assert [names(axes) for axes in zoomed[6:]] == [["redshift\nunknown"]] * 3
    x, flux = drawn(zoomed[0], "data")
    assert 4800 < x.min() < x.max() < 4925
    np.testing.assert_array_equal(flux, panel().flux[np.isin(WAVE, np.round(1.1 * x))])


def test_a_zoom_beyond_the_data_shows_the_model_in_restframe() -> None:
    one = panel(restframe=restframe())
    zoomed = plot.spectra([one], zoom="8800:200").axes[-1]
    assert names(zoomed) == ["not observed"]
    zoomed = plot.spectra([one], zoom="8800:200", rest=True).axes[-1]
    assert np.isfinite(drawn(zoomed, "model beyond the data")[1]).any()


@pytest.mark.parametrize("kind", ["all masked", "zero", "model elsewhere", "far"])
def test_odd_spectra_can_be_drawn(kind: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "all masked": {"sigma": np.full(2000, np.inf)},
        "zero": {"flux": np.zeros(2000), "model": np.zeros(2000)},
        "model elsewhere": {"model": np.full(2000, np.nan)},
        "far": {"z": 60.0, "restframe": restframe()},
    }[kind]
    figure = plot.spectra([panel(**changes)], zoom="Hβ", rest=True)
    figure.savefig(tmp_path / "odd.png", dpi=40)
    low, high = figure.axes[0].get_ylim()
    assert np.isfinite([low, high]).all()
    assert low < high


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
@pytest.mark.parametrize("z", [0.1, 2.5, float("nan")])
def test_pictures_are_written(tmp_path: Path, suffix: str, z: float) -> None:
    """At z = 2.5 Lyman alpha is in the range; missing glyphs would be warnings."""
    path = tmp_path / f"picture.{suffix}"
    figure = plot.spectra([panel(z=z, notes="χ²/ν = 1.02"), panel(z=z, model=None)])
    assert len(figure.axes) == 4
    plot.write([figure], [path])
    content = path.read_bytes()
    assert len(content) > 5000
    assert {"png": b"PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix] in content[:100]
    if suffix == "svg":
        assert "χ²/ν = 1.02" in content.decode(), "letters stay letters"
    if suffix == "pdf":
        assert b"/Type3" not in content
        assert b"/Subtype /CIDFontType2" in content or b"/Subtype /TrueType" in content


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_the_same_picture_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        plot.write([plot.spectra([panel()])], [path])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_pdf_has_a_page_for_so_many_spectra(tmp_path: Path) -> None:
    path = tmp_path / "pages.pdf"
    made: Iterator[Figure] = plot.pages([panel(title=str(k)) for k in range(5)], per_page=2)
    plot.write(made, plot.numbered(path, 3))
    assert len(re.findall(rb"/Type /Page\b", path.read_bytes())) == 3
    titles = [
        [axes.get_title(loc="left")[0] for axes in figure.axes if axes.get_title(loc="left")]
        for figure in plot.pages([panel(title=str(k)) for k in range(5)], per_page=2)
    ]
    assert titles == [["0", "1"], ["2", "3"], ["4"]]


def test_files_of_several_pages_are_numbered() -> None:
    assert plot.numbered(Path("a/b.pdf"), 12) == [Path("a/b.pdf")]
    assert plot.numbered(Path("a/b.png"), 1) == [Path("a/b.png")]
    assert plot.numbered(Path("a/b.svg"), 2) == [Path("a/b-1.svg"), Path("a/b-2.svg")]
    assert plot.numbered(Path("b.png"), 12)[8:10] == [Path("b-09.png"), Path("b-10.png")]
    with pytest.raises(InputError, match=r"must end in \.png, \.pdf, \.svg"):
        plot.numbered(Path("a.gif"), 1)


def test_styles_have_the_width_of_journals(tmp_path: Path) -> None:
    for name, width in (("paper", 7.0), ("column", 3.35)):
        path = tmp_path / f"{name}.png"
        look = plot.style(name, dpi=100)
        plot.write([plot.spectra([panel()], look)], [path], look)
        with Image.open(path) as image:
            assert image.width == pytest.approx(100 * width, abs=1)


@pytest.mark.parametrize("look", sorted(plot.STYLES))
def test_the_legend_is_within_the_page(look: str) -> None:
    one = panel(restframe=restframe(), truth=restframe())
    figure = plot.spectra([plot.smoothed(one, plot.kernel("150km/s"))], look, rest=True)
    figure.draw_without_rendering()
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert box.y1 <= page.y1


def test_pictures_leave_the_state_of_matplotlib_alone() -> None:
    from matplotlib import pyplot, rcParams

    before, figures = dict(rcParams), pyplot.get_fignums()
    plot.spectra([panel()], "talk")
    assert pyplot.get_fignums() == figures
    assert dict(rcParams) == before


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="no spectrum to draw"):
        plot.spectra([])
    with pytest.raises(InputError, match="no style named 'poster'; use one of paper, column, talk"):
        plot.spectra([panel()], "poster")
    with pytest.raises(InputError, match="at least one spectrum, not 0"):
        list(plot.pages([panel()], per_page=0))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("", []),
        ("...", []),
        ("###", [(0, 2)]),
        ("#..##.#", [(0, 0), (3, 4), (6, 6)]),
        (".#.", [(1, 1)]),
    ],
)
def test_runs(mask: str, expected: list[tuple[int, int]]) -> None:
    assert runs(np.array([letter == "#" for letter in mask], dtype=bool)) == expected
    assert expected == [(m.start(), m.end() - 1) for m in re.finditer("#+", mask)]
