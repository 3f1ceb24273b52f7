"""The parts of a spectrum's picture: flux and model, residuals, lines, zooms.

Shapes: L observed pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spender_core.plot.naming import TELLURIC, Zoom, lines, spread
from spender_core.plot.panels import BoolArray, FloatArray, Panel
from spender_core.plot.styles import Colours, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST = 6.0  # sigma shown of residuals
_PEAK = 10.0  # peaks higher than this many times the bright continuum are cut off
_LINE = {  # emission and absorption differ in dashes and slant too
    "emission": (Colours.EMISSION, "-", "normal"),
    "absorption": (Colours.ABSORPTION, (0, (4, 3)), "italic"),
}
_LETTER = 0.56  # width of a letter, relative to the size of its font, upper limit for labels
_LEADER = 0.07  # from a line to its label, inches


@dataclass(frozen=True)
class Frame:
    """Where a panel is drawn: in which frame, with which sizes.

    Attributes:
        style: Sizes of letters and lines.
        rest: Whether wavelengths are restframe ones.
        width: Of the axes, inches, about.
        height: Of the axes, inches, about.
    """

    style: Style
    rest: bool
    width: float
    height: float

    def stretch(self, one: Panel) -> float:
        """Return the ratio of observed wavelengths to those on the axis."""
        return 1 + one.z if self.rest else 1.0

    def headroom(self, one: Panel, low: float, high: float) -> float:
        """Return the fraction of the axes, at the top, that labels of lines take.

        Args:
            one: What is drawn.
            low: First wavelength on the axis, Angstrom.
            high: Last one.
        """
        inside = named(one, self.stretch(one), low, high)
        if not inside:
            return 0.02
        longest = max(len(label) for *_, label in inside)
        letters = longest * _LETTER * 0.9 * self.style.small_font / 72
        return min(0.5, (letters + _LEADER + 0.05) / self.height)

    def limits(self, lowest: float, highest: float, headroom: float) -> tuple[float, float]:
        """Return limits of the axis that leave a margin below, and the headroom above."""
        span = (highest - lowest) or 1.0
        foot = lowest - 0.08 * span
        return foot, foot + 1.11 * span / (1 - headroom)


def draw_flux(axes: Axes, one: Panel, frame: Frame) -> None:
    """Draw flux, error band, model, masked pixels, the atmosphere, and named lines."""
    x = one.wave / frame.stretch(one)
    low, high = _x_limits(one, frame)
    headroom = frame.headroom(one, low, high)
    axes.set_xlim(low, high)
    axes.set_ylim(*frame.limits(*_y_range(one, frame), headroom))
    _draw_data(axes, x, one, frame.style)
    _draw_models(axes, x, one, frame)
    _keep_below(axes, 1 - headroom)
    _mark_peaks(axes, x, one, 1 - headroom, frame.style)
    _draw_masks(axes, x, one)
    _draw_atmosphere(axes, one, frame)
    name_lines(axes, one, frame)
    unit = f"\n({one.unit})" if one.unit else ""
    axes.set_ylabel(f"flux density{unit}")
    if frame.rest:
        _draw_edges(axes, x)


def other_axis(axes: Axes, one: Panel, frame: Frame) -> None:
    """Put the wavelengths of the other frame on top: restframe, or observed ones."""
    factor = 1 + one.z if frame.rest else 1 / (1 + one.z)
    top = axes.secondary_xaxis("top", functions=(_scaling(factor), _scaling(1 / factor)))
    name = "observed wavelength, vacuum" if frame.rest else "restframe wavelength"
    top.set_xlabel(f"{name} (Å)", fontsize=frame.style.small_font)
    top.tick_params(labelsize=frame.style.small_font, pad=1)


def draw_residuals(axes: Axes, one: Panel, frame: Frame) -> None:
    """Draw (data - model) / sigma; what is beyond the axis is marked at its edge."""
    style = frame.style
    axes.axhspan(-1, 1, color=Colours.QUIET, lw=0)
    axes.axhline(0, color=Colours.ZERO, lw=0.6 * style.line)
    x = one.wave / frame.stretch(one)
    if one.model is not None:
        pull = np.where(one.good, (one.flux - one.model) / one.sigma, np.nan)
        axes.plot(x, pull, color=Colours.DATA, lw=0.4 * style.line, label="residual")
        for sign, marker in ((1, "^"), (-1, "v")):
            beyond = x[sign * pull > _WORST]
            if len(beyond):
                axes.plot(
                    beyond, np.full(len(beyond), sign * 0.9 * _WORST), marker, ls="", mew=0,
                    ms=2.2 * style.line, color=Colours.MODEL, label="beyond the axis",
                )  # fmt: skip
    else:
        text = "no model" if one.known else "no model: the redshift is unknown"
        axes.text(
            0.5, 0.72, text, transform=axes.transAxes, ha="center", va="center",
            fontsize=style.small_font,
        )  # fmt: skip
    axes.set_ylim(-_WORST, _WORST)
    axes.set_yticks([-5, 0, 5])
    axes.set_ylabel("residual\n(σ)")
    frame_name = "restframe wavelength" if frame.rest else "observed wavelength, vacuum"
    axes.set_xlabel(f"{frame_name} (Å)")


def draw_zoom(axes: Axes, one: Panel, zoom: Zoom, frame: Frame, beyond: bool = False) -> None:
    """Draw a restframe range of a spectrum; a sentence if it was not observed.

    Args:
        axes: Where.
        one: What.
        zoom: Which range.
        frame: Sizes; a restframe one.
        beyond: Draw what the model tells beyond the observed range, and the truth, too.
    """
    axes.set_title(zoom.name, fontsize=frame.style.small_font, pad=3)
    axes.set_xlim(zoom.low, zoom.high)
    rest = one.wave / (1 + one.z)
    inside = (rest > zoom.low) & (rest < zoom.high)
    seen = inside & one.good
    curves = [curve for curve in (one.restframe, one.truth) if beyond and curve is not None]
    others = [c.flux[(c.wave > zoom.low) & (c.wave < zoom.high)] for c in curves]
    values = [one.flux[seen], *others]
    if one.model is not None:
        values.append(one.model[inside])
    shown = np.concatenate(values)
    shown = shown[np.isfinite(shown)]
    if not one.known or len(shown) == 0 or (not seen.any() and not others):
        text = "not observed" if one.known else "redshift\nunknown"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xlabel("restframe (Å)")
    headroom = frame.headroom(one, zoom.low, zoom.high)
    axes.set_ylim(*frame.limits(float(shown.min()), float(shown.max()), headroom))
    part = _cut(one, _widened(inside))
    _draw_data(axes, part.wave / (1 + one.z), part, frame.style, steps=True)
    _draw_masks(axes, part.wave / (1 + one.z), part)
    whole = one if beyond else replace(one, restframe=None, truth=None)
    _draw_models(axes, one.wave / (1 + one.z), whole, frame)
    name_lines(axes, one, frame)
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)


def name_lines(axes: Axes, one: Panel, frame: Frame) -> None:
    """Mark lines and write their names on top, moved aside where they would overlap.

    Where there is no room for all, those that come first in the table of lines are named.
    """
    low, high = axes.get_xlim()
    inside = named(one, frame.stretch(one), low, high)
    inch = (high - low) / frame.width
    height = 1.25 * 0.9 * frame.style.small_font / 72  # of a letter, inches
    room = int((frame.width - height) / height) + 1
    chosen = sorted(inside[:room])
    top = 1 - frame.headroom(one, low, high)
    foot = top + _LEADER / frame.height
    half = 0.5 * height * inch
    places = spread([wave for wave, *_ in chosen], height * inch, low + half, high - half)
    for (wave, kind, label), place in zip(chosen, places, strict=True):
        colour, dashes, slant = _LINE[kind]
        look: Any = {"color": colour, "ls": dashes, "transform": axes.get_xaxis_transform()}
        look |= {"lw": 0.5 * frame.style.line, "zorder": 0.5}
        axes.plot([wave, wave], [0.05, top], alpha=0.4, **look)
        axes.plot([wave, place], [top, foot], label=f"{kind} line", **look)
        axes.annotate(
            label, (wave, top), xytext=(float(place), foot + 0.01),
            xycoords=axes.get_xaxis_transform(), rotation=90, ha="center", va="bottom",
            fontsize=0.9 * frame.style.small_font, color=colour, style=slant,
            annotation_clip=False,
        )  # fmt: skip


def named(one: Panel, stretch: float, low: float, high: float) -> list[tuple[float, str, str]]:
    """Return the lines within limits of an axis: place on it, kind and label; none without z.

    Args:
        one: The spectrum.
        stretch: Ratio of observed wavelengths to those on the axis.
        low: First wavelength on the axis, Angstrom.
        high: Last one.
    """
    factor = (1 + one.z) / stretch
    placed = [(wave * factor, kind, label) for wave, kind, label in lines()]
    return [line for line in placed if low < line[0] < high]


def runs(mask: BoolArray) -> list[tuple[int, int]]:
    """Return first and last pixel of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _draw_data(axes: Axes, x: FloatArray, one: Panel, style: Style, steps: bool = False) -> None:
    flux = np.where(one.good, one.flux, np.nan)
    sigma = np.where(one.good, one.sigma, np.nan)
    step: Any = "mid" if steps else None
    axes.fill_between(
        x, flux - sigma, flux + sigma, step=step, color=Colours.BAND, alpha=0.35, lw=0,
        label="1σ error",
    )  # fmt: skip
    drawstyle = "steps-mid" if steps else "default"
    if one.raw is not None:
        raw = np.where(one.good, one.raw, np.nan)
        axes.plot(
            x, raw, color=Colours.RAW, lw=0.4 * style.line, label="data", drawstyle=drawstyle,
            zorder=1.5,
        )  # fmt: skip
    label = f"smoothed: {one.smoothing}" if one.smoothing else "data"
    axes.plot(x, flux, color=Colours.DATA, lw=0.55 * style.line, label=label, drawstyle=drawstyle)


def _draw_models(axes: Axes, x: FloatArray, one: Panel, frame: Frame) -> None:
    """Draw the model where it is observed, and in restframe what is beyond, and the truth."""
    width = frame.style.line
    if frame.rest and one.truth is not None:
        axes.plot(
            one.truth.wave, one.truth.flux, color=Colours.TRUTH, lw=1.5 * width,
            label="truth", zorder=1.8,
        )  # fmt: skip
    if frame.rest and one.restframe is not None:
        wave = one.restframe.wave
        seen = (wave >= one.wave[0] / (1 + one.z)) & (wave <= one.wave[-1] / (1 + one.z))
        axes.plot(
            wave, np.where(seen, np.nan, one.restframe.flux), color=Colours.BEYOND,
            lw=0.8 * width, label="model beyond the data", zorder=2.2,
        )  # fmt: skip
    if one.model is not None:
        axes.plot(x, one.model, color=Colours.MODEL, lw=0.9 * width, label="model", zorder=2.5)


def _draw_masks(axes: Axes, x: FloatArray, one: Panel) -> None:
    """Show at the foot, in two thin rows, which pixels are masked and why."""
    sky = np.zeros(len(x), dtype=bool) if one.sky is None else np.asarray(one.sky)
    rows = (
        (~one.good & ~sky, 0.0, Colours.MASKED, "masked"),
        (sky, 0.022, Colours.SKY, "sky lines, masked"),
    )
    for mask, foot, colour, label in rows:
        spans = [(x[a], max(x[b] - x[a], 0.0)) for a, b in runs(mask)]
        if spans:
            axes.broken_barh(
                spans, (foot, 0.018), transform=axes.get_xaxis_transform(), facecolors=colour,
                edgecolors=colour, lw=0.3, label=label, zorder=3,
            )  # fmt: skip


def _draw_atmosphere(axes: Axes, one: Panel, frame: Frame) -> None:
    stretch = frame.stretch(one)
    for low, high, _ in TELLURIC:
        first, last = max(low, one.wave[0]) / stretch, min(high, one.wave[-1]) / stretch
        if first >= last:
            continue
        axes.axvspan(first, last, color=Colours.QUIET, alpha=0.55, lw=0, zorder=0.1,
                     label="⊕ atmosphere absorbs")  # fmt: skip
        axes.annotate(
            "⊕", ((first + last) / 2, 0.05), xycoords=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=0.9 * frame.style.small_font, color=Colours.ZERO,
        )  # fmt: skip


def _draw_edges(axes: Axes, x: FloatArray) -> None:
    """Mark in restframe where the observed range ends."""
    for edge in (x[0], x[-1]):
        axes.axvline(edge, color=Colours.ZERO, lw=0.7, ls=(0, (1, 1.5)), zorder=0.6,
                     label="ends of the data")  # fmt: skip


def _mark_peaks(axes: Axes, x: FloatArray, one: Panel, fraction: float, style: Style) -> None:
    """Put carets where a peak is cut off at a fraction of the axis, one each."""
    low, high = axes.get_ylim()
    top = low + (high - low) * fraction
    model = np.nan if one.model is None else one.model
    over = np.fmax(np.where(one.good, one.flux, np.nan), model) > top
    peaks = [(x[a] + x[b]) / 2 for a, b in runs(_widened(over, 3))]
    if peaks:
        axes.plot(
            peaks, np.full(len(peaks), top), "^", ls="", ms=3.2 * style.line, mew=0,
            color=Colours.DATA, label="beyond the axis", zorder=4,
        )  # fmt: skip


def _keep_below(axes: Axes, fraction: float) -> None:
    """Cut off what is drawn so far at a fraction of the axes: above are the labels."""
    from matplotlib.patches import Rectangle

    room = Rectangle((0, 0), 1, fraction, transform=axes.transAxes)
    for artist in (*axes.lines, *axes.collections):
        artist.set_clip_path(room)


def _x_limits(one: Panel, frame: Frame) -> tuple[float, float]:
    x = one.wave / frame.stretch(one)
    if not frame.rest or one.restframe is None:
        return float(x[0]), float(x[-1])
    return float(min(x[0], one.restframe.wave[0])), float(max(x[-1], one.restframe.wave[-1]))


def _y_range(one: Panel, frame: Frame) -> tuple[float, float]:
    """Return a range that shows the spectrum and its model, not single outliers.

    Peaks far above the continuum are cut off, so that the continuum can be seen.
    """
    values = one.flux[one.good]
    if len(values) == 0:
        return -1.0, 1.0
    low, bright, high = np.percentile(values, [0.5, 97, 99.9])
    for model in (one.model, one.restframe.flux if frame.rest and one.restframe else None):
        if model is not None and np.isfinite(model).any():
            low, high = min(low, np.nanpercentile(model, 0.5)), max(high, np.nanmax(model))
    if bright > 0:
        high = min(high, _PEAK * bright)
    return min(float(low), 0.0), float(high)


def _cut(one: Panel, keep: BoolArray) -> Panel:
    """Return a stretch of a panel."""

    def part(values: Any) -> Any:
        return None if values is None else values[keep]

    return replace(
        one, wave=one.wave[keep], flux=one.flux[keep], sigma=one.sigma[keep],
        model=part(one.model), raw=part(one.raw), sky=part(one.sky),
    )  # fmt: skip


def _widened(mask: BoolArray, by: int = 1) -> BoolArray:
    """Return the mask with some more pixels at either end of each stretch."""
    wide = mask.copy()
    for offset in range(1, by + 1):
        wide[offset:] |= mask[:-offset]
        wide[:-offset] |= mask[offset:]
    return wide


def _scaling(factor: float) -> Callable[[Any], Any]:
    return lambda wave: np.asarray(wave) * factor
