"""Pictures of a report, in Okabe & Ito's palette, which the colour-blind tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spender_core.evaluation.invariance import Invariance
from spender_core.evaluation.measures import PullProfile
from spender_core.evaluation.report import LIMIT, Example, MockResult, Report
from spender_core.evaluation.restframe import WINDOWS

FloatArray = NDArray[np.float64]

_MODEL, _TRUTH, _DATA, _GRID = "#D55E00", "#000000", "#999999", "#DDDDDD"
_PCA = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")
_REFINED = "#E69F00"
_MARKS = {"model": "o", "refined": "X", "truth": "D"}
_PCA_MARKS = ("s", "^", "v", "P")
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "spender",
}
_LEAST = 5
"""Spectra that a bin needs to be drawn."""


def all_of(report: Report) -> dict[str, Figure]:
    """Return every picture that a report has the numbers for, by name."""
    figures = {}
    with mpl.rc_context(_STYLE):
        if report.mocks is not None:
            figures["chi2"] = chi2_figure(report.mocks)
            figures["pulls"] = pulls_figure(report.mocks.observed, report.mocks.rest)
            figures["restframe"] = restframe_figure(report.mocks)
            if report.mocks.examples:
                figures["examples"] = examples_figure(report.mocks.examples)
        if report.invariance is not None:
            figures["invariance"] = invariance_figure(report.invariance)
        if report.real:
            figures["real"] = real_figure(report)
        for figure in figures.values():
            figure.suptitle(
                f"{report.model} on {report.instrument}", x=0.01, ha="left", fontsize=10
            )
    return figures


def save(figure: Figure, path: Path) -> None:
    """Write a picture; the same one gives the same bytes."""
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with mpl.rc_context(_STYLE):
        figure.savefig(path, dpi=150, metadata=metadata)


def chi2_figure(mocks: MockResult) -> Figure:
    """Draw reduced chi square against S/N and redshift: medians, and 16-84 percent bands."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    snr = np.clip(mocks.snr, 1, 100)
    for axes, values, edges in (
        (left, snr, np.geomspace(max(1, snr.min()), snr.max() * 1.001 + 0.01, 13)),
        (right, mocks.z, np.linspace(mocks.z.min(), mocks.z.max() + 1e-6, 13)),
    ):
        _band(axes, values, edges, mocks.chi2)
        axes.axhline(1, color="#666666", lw=0.8, ls=":")
    left.set(xscale="log", xlabel="median S/N a pixel", ylabel="reduced χ²")
    _plain_numbers(left, "x", (1, 2, 3, 5, 10, 20, 30, 50, 100))
    right.set(xlabel="redshift")
    highest = _top(mocks.chi2)
    left.set_ylim(0.8, highest)
    if highest > 4:
        left.set_yscale("log")
        _plain_numbers(left, "y", (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000))
    _legend(left, loc="upper left")
    return figure


def _legend(axes: Any, **options: Any) -> None:
    """Draw a legend, if there is anything with a label: few mocks fill no bin."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**options)


def _top(chi2: dict[str, FloatArray]) -> float:
    tops = [np.nanpercentile(values, 97) for values in chi2.values() if np.isfinite(values).any()]
    return float(np.clip(max(tops, default=2), 1.5, 1e4)) * 1.05


def _plain_numbers(axes: Any, which: str, ticks: tuple[float, ...]) -> None:
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _mark(name: str, names: list[str]) -> str:
    components = [one for one in names if one.startswith("PCA")]
    return _MARKS.get(name) or _PCA_MARKS[components.index(name) % len(_PCA_MARKS)]


def _look(name: str, names: list[str]) -> dict[str, Any]:
    if name == "model":
        return {"color": _MODEL, "lw": 1.8, "ls": "-", "zorder": 4}
    if name == "refined":
        return {"color": _REFINED, "lw": 1.6, "ls": "-", "zorder": 4}
    if name == "truth":
        return {"color": _TRUTH, "lw": 1.2, "ls": "--", "zorder": 3}
    place = [one for one in names if one.startswith("PCA")].index(name)
    return {"color": _PCA[place % len(_PCA)], "lw": 1.4, "ls": ("-.", ":", "--", "-")[place % 4]}


def _band(axes: Any, by: FloatArray, edges: FloatArray, columns: dict[str, FloatArray]) -> None:
    place = np.digitize(by, edges) - 1
    names = list(columns)
    for name, values in columns.items():
        points = []
        for index in range(len(edges) - 1):
            inside = (place == index) & np.isfinite(values)
            if inside.sum() >= _LEAST:
                points.append((np.median(by[inside]), *np.percentile(values[inside], [16, 50, 84])))
        if not points:
            continue
        x, low, middle, high = np.array(points).T
        look = _look(name, names)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
        axes.plot(x, middle, label=name, marker=_mark(name, names), ms=3, **look)


def pulls_figure(observed: PullProfile, rest: PullProfile) -> Figure:
    """Draw the mean squared pull against observed and restframe wavelength."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panels = figure.subplots(2, 1)
    labels = ("observed wavelength (Å)", "restframe wavelength (Å)")
    for axes, profile, label in zip(panels, (observed, rest), labels, strict=True):
        names = list(profile.squares)
        enough = profile.pixels >= 0.02 * profile.pixels.max()
        shown = [np.where(enough, profile.mean(name), np.nan) for name in names]
        for name, values in zip(names, shown, strict=True):
            look = _look(name, names)
            axes.stairs(
                values, profile.edges, baseline=None, label=name,
                **{key: look[key] for key in ("color", "lw", "ls")},
            )  # fmt: skip
        axes.axhline(1, color="#666666", lw=0.8, ls=":")
        axes.set(xlabel=label, ylabel="mean squared pull")
        finite = np.concatenate(shown)
        finite = finite[np.isfinite(finite)]
        if len(finite) and finite.max() > 5:
            axes.set_yscale("log")
            _plain_numbers(axes, "y", (0.5, 1, 2, 3, 5, 10, 20, 50, 100, 1000, 10000))
    panels[0].legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def restframe_figure(mocks: MockResult) -> Figure:
    """Draw the restframe's error against wavelength, observed and beyond, and against S/N."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    edges = mocks.profile.edges
    middle = 0.5 * (edges[1:] + edges[:-1])
    kinds = (
        ("within the observed range", mocks.profile.within, _MODEL, "-"),
        ("beyond it", mocks.profile.beyond, _PCA[0], "--"),
    )
    for label, values, colour, style in kinds:
        enough = np.isfinite(values).sum(axis=0) >= max(_LEAST, 0.02 * len(values))
        if not enough.any():
            continue
        low, half, high = np.nanpercentile(values[:, enough], [16, 50, 84], axis=0)
        spaced = np.full((3, len(middle)), np.nan)
        spaced[:, enough] = low, half, high
        left.fill_between(middle, spaced[0], spaced[2], color=colour, alpha=0.15, lw=0)
        left.plot(middle, spaced[1], color=colour, ls=style, lw=1.5, label=label)
    left.set(xlabel="restframe wavelength (Å)", ylabel="|model − truth| / truth")
    _legend(left, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    shown = [mocks.errors[name] for name in WINDOWS]
    columns = dict(zip(("model", "PCA bluer", "PCA redder"), shown, strict=True))
    snr = np.clip(mocks.snr, 1, 100)
    _band(right, snr, np.geomspace(max(1, snr.min()), snr.max() * 1.001 + 0.01, 13), columns)
    right.set(xscale="log", xlabel="median S/N a pixel")
    _plain_numbers(right, "x", (1, 2, 3, 5, 10, 20, 30, 50, 100))
    windows = dict(zip(columns, WINDOWS, strict=True))
    for line in right.get_lines():  # a window that no mock covers has none
        line.set_label(windows[str(line.get_label())])
    _legend(right, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8,
            columnspacing=1, handlelength=1.5)  # fmt: skip
    for axes in (left, right):
        axes.axhline(LIMIT, color="#666666", lw=0.8, ls=":")
        axes.set_ylim(0.005, 1)
        axes.set_yscale("log")  # after the limits: axes may be empty
        _plain_numbers(axes, "y", (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1))
    return figure


def invariance_figure(found: Invariance) -> Figure:
    """Draw latent distances of two views of one object, beside those of different objects."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(found.views))
    kinds = (("Euclidean", found.plain, _MODEL, "o"), ("whitened", found.whitened, _PCA[0], "s"))
    for index, (label, spreads, colour, mark) in enumerate(kinds):
        low, middle, high = np.array([(one.low, one.median, one.high) for one in spreads]).T
        axes.errorbar(
            middle, place + 0.16 * (2 * index - 1), xerr=[middle - low, high - middle],
            fmt=mark, ms=5, color=colour, label=f"{label}, one object", capsize=2,
        )  # fmt: skip
    others = found.others[0]
    axes.axvspan(others.low, others.high, color=_DATA, alpha=0.25, lw=0, label="different objects")
    axes.axvline(others.median, color=_DATA, lw=1)
    axes.set_yticks(place, found.views)
    axes.invert_yaxis()
    axes.set(
        xlabel="latent distance / median of different objects",
        xlim=(0, max(1.8, others.high * 1.1)),
    )
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    return figure


def examples_figure(examples: tuple[Example, ...]) -> Figure:
    """Draw example spectra with their descriptions and residuals."""
    figure = Figure(figsize=(7.5, 2.6 * len(examples) + 0.3), layout="constrained")
    panels = figure.subplots(
        2 * len(examples), 1, sharex=True, height_ratios=[2.2, 1] * len(examples), squeeze=False
    )[:, 0]
    for number, one in enumerate(examples):
        upper, lower = panels[2 * number : 2 * number + 2]
        names = list(one.fits)
        upper.plot(one.wave, one.flux, color=_DATA, lw=0.4, label="mock")
        for name in [name for name in names if name in ("truth", "model")]:
            look = _look(name, names) | {"lw": 0.8, "ls": "-"}
            upper.plot(one.wave, one.fits[name], label=name, **look)
        quoted = ", ".join(f"{name} {value:.2f}" for name, value in one.chi2.items())
        upper.set_title(
            f"{one.title}: z = {one.z:.3f}, S/N {one.snr:.1f}, χ²/ν: {quoted}", fontsize=8,
            loc="left",
        )  # fmt: skip
        shown = one.fits.get("truth", one.flux)
        _frame(upper, np.where(np.isfinite(one.flux), shown, np.nan), one)
        for name in [name for name in names if name != "truth"]:
            pull = _smooth((one.flux - one.fits[name]) / one.sigma)
            look = _look(name, names) | {"lw": 0.8}
            lower.plot(one.wave, pull, label=name, **look)
        lower.axhline(0, color="#666666", lw=0.6)
        lower.set(ylabel="pull, mean\nof 15 px", ylim=(-4, 4))
        upper.set_ylabel("flux / norm")
    if examples:
        panels[0].legend(loc="upper right", fontsize=7, ncols=3)
        panels[1].legend(loc="upper right", fontsize=7, ncols=4)
        panels[-1].set_xlabel("observed wavelength (Å)")
    return figure


def _frame(axes: Any, shown: FloatArray, one: Example) -> None:
    finite = shown[np.isfinite(shown)]
    if len(finite):
        low, high = np.percentile(finite, [0.5, 99])  # the brightest lines are cut
        noise = np.nanmedian(one.sigma)
        axes.set_ylim(min(0, low - 2 * noise), high + max(3 * noise, 0.15 * abs(high)))


def _smooth(values: FloatArray, width: int = 15) -> FloatArray:
    """Return the running mean of the finite values; NaN where few of them are."""
    kernel = np.ones(width)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0), kernel, mode="same")
    count = np.convolve(finite, kernel, mode="same")
    mean = np.full(len(values), np.nan)
    np.divide(total, count, out=mean, where=count > width / 3)
    return mean


def real_figure(report: Report) -> Figure:
    """Draw reduced chi square of real spectra against S/N, model and PCA."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    snr = [one.snr for one in report.real]
    names = list(report.real[0].chi2)
    for name in names:
        values = [one.chi2[name] for one in report.real]
        colour = _look(name, names)["color"]
        filled = colour if name == "model" else "none"
        axes.plot(
            snr, values, ls="", marker=_mark(name, names), ms=5, color=colour, mfc=filled,
            label=name,
        )  # fmt: skip
    for value in (1, 2):
        axes.axhline(value, color="#666666", lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="median S/N a pixel", ylabel="reduced χ²")
    _plain_numbers(axes, "x", (1, 2, 3, 5, 10, 20, 30, 50, 100))
    _plain_numbers(axes, "y", (0.5, 1, 2, 3, 5, 10, 20, 50, 100))
    axes.legend()
    return figure
