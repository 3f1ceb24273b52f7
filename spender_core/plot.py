"""Pictures of spectra and their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spender_core.batch import SpectrumBatch
    from spender_core.interfaces import Instrument, Reconstruction

FloatArray = NDArray[np.floating[Any]]

# Okabe & Ito's palette, told apart by the colour-blind
_DATA, _BAND, _MODEL, _MASK = "#333333", "#999999", "#D55E00", "#56B4E9"
_KIND = {"emission": "#009E73", "absorption": "#0072B2"}


@dataclass(frozen=True)
class Panel:
    """One spectrum to draw, in the archive's units.

    Attributes:
        title: What is written above it.
        wave: Observed wavelengths, shape (L,), Angstrom.
        flux: Flux density, shape (L,).
        sigma: Its uncertainty, shape (L,); infinite where masked.
        model: Reconstruction, shape (L,), NaN where the model does not reach; or None.
        z: Redshift, NaN if unknown.
        unit: Of the flux density, if it is to be named.
    """

    title: str
    wave: FloatArray
    flux: FloatArray
    sigma: FloatArray
    model: FloatArray | None
    z: float
    unit: str = ""


def panel(
    batch: SpectrumBatch,
    row: int,
    instrument: Instrument,
    made: Reconstruction | None = None,
    made_row: int | None = None,
    title: str | None = None,
    unit: str = "",
) -> Panel:
    """Return what to draw of one spectrum of a batch, and of its reconstruction.

    Args:
        batch: The spectra.
        row: Which of them.
        instrument: The instrument of the batch.
        made: Reconstructions, if there are any.
        made_row: The row of `made`, if it is another one than that of the batch.
        title: Written above; the spectrum's id by default.
        unit: Of the archive's flux density.
    """
    norm = float(batch.norm[row])
    ivar = batch.ivar[row].cpu().numpy().astype(float)
    sigma = np.full(len(ivar), np.inf)
    np.divide(norm, np.sqrt(ivar), out=sigma, where=ivar > 0)
    model = None
    if made is not None:
        index = row if made_row is None else made_row
        values = made.observed[index].detach().cpu().numpy() * norm
        model = np.where(made.valid[index].cpu().numpy(), values, np.nan)
    return Panel(
        batch.label(row) if title is None else title,
        instrument.wave,
        batch.flux[row].cpu().numpy() * norm,
        sigma,
        model,
        float(batch.z[row]),
        unit,
    )


def spectra(panels: Sequence[Panel]) -> Figure:
    """Draw spectra below each other: flux, error band, masked pixels, model, residuals.

    The restframe wavelength is on the upper axis, with named lines, where z is known.

    Returns:
        A figure of matplotlib, made without touching its global state.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2 * len(panels)), layout="constrained")
    parts = figure.subfigures(len(panels), 1, squeeze=False)
    for part, one in zip(parts[:, 0], panels, strict=True):
        upper, lower = part.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_flux(upper, one)
        _draw_residuals(lower, one)
    return figure


@cache
def lines() -> list[tuple[float, str, str]]:
    """Return vacuum wavelength (Angstrom), kind and label of the lines named in plots."""
    text = (resources.files("spender_core.resources") / "lines.txt").read_text(encoding="utf-8")
    rows = [row.split(maxsplit=2) for row in text.splitlines() if row and row[0] != "#"]
    return [(float(wave), kind, label) for wave, kind, label in rows]


def _draw_flux(axes: Axes, one: Panel) -> None:
    good = np.isfinite(one.sigma)
    flux = np.where(good, one.flux, np.nan)
    sigma = np.where(good, one.sigma, np.nan)
    low, high = flux - sigma, flux + sigma
    axes.fill_between(one.wave, low, high, color=_BAND, alpha=0.35, lw=0, label="1σ error")
    axes.plot(one.wave, flux, color=_DATA, lw=0.6, label="data")
    masked = [(a, b) for a, b in _runs(~good)]
    for number, (first, last) in enumerate(masked):
        axes.axvspan(
            one.wave[first], one.wave[last], color=_MASK, alpha=0.18, lw=0,
            label="masked" if number == 0 else None,
        )  # fmt: skip
    if one.model is not None:
        axes.plot(one.wave, one.model, color=_MODEL, lw=1.0, label="model")
    axes.set_ylim(*_limits(one, good))
    axes.set_xlim(one.wave[0], one.wave[-1])
    axes.set_ylabel("flux density" + (f"\n({one.unit})" if one.unit else ""))
    known = np.isfinite(one.z)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.16 if known else 1.0), ncols=4, fontsize=7,
        frameon=False, borderaxespad=0.2,
    )  # fmt: skip
    title = one.title + (f"   z = {one.z:.4f}" if known else "   z unknown")
    axes.set_title(title, loc="left", fontsize=10, pad=34 if known else 6)
    if known:
        rest = axes.secondary_xaxis(
            "top", functions=(_scaling(1 / (1 + one.z)), _scaling(1 + one.z))
        )
        rest.set_xlabel("restframe wavelength (Å)", fontsize=8)
        rest.tick_params(labelsize=8)
        _name_lines(axes, one)


def _draw_residuals(axes: Axes, one: Panel) -> None:
    axes.axhline(0, color=_BAND, lw=0.8)
    if one.model is not None:
        axes.plot(one.wave, (one.flux - one.model) / one.sigma, color=_DATA, lw=0.5)
    else:
        text = "no model: the redshift is unknown" if np.isnan(one.z) else "no model"
        axes.text(0.5, 0.7, text, transform=axes.transAxes, ha="center", fontsize=8)
    axes.set_ylim(-6, 6)
    axes.set_ylabel("residual (σ)")
    axes.set_xlabel("observed wavelength, vacuum (Å)")


def _limits(one: Panel, good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a range that shows the spectrum and its model, not single outliers."""
    values = one.flux[good]
    if len(values) == 0:
        return -1.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    if one.model is not None and np.isfinite(one.model).any():
        low, high = min(low, np.nanmin(one.model)), max(high, np.nanmax(one.model))
    low = min(low, 0.0)
    span = (high - low) or 1.0
    return low - 0.05 * span, high + 0.30 * span


def _name_lines(axes: Axes, one: Panel) -> None:
    """Mark lines within the observed range; labels that would collide are left out."""
    width = one.wave[-1] - one.wave[0]
    named: list[float] = []
    for rest, kind, label in lines():
        wave = rest * (1 + one.z)
        if not one.wave[0] < wave < one.wave[-1]:
            continue
        axes.axvline(wave, color=_KIND[kind], lw=0.6, ls=":", zorder=0)
        if all(abs(wave - other) > 0.013 * width for other in named):
            axes.annotate(
                label, (wave, 0.98), xycoords=("data", "axes fraction"), rotation=90,
                ha="right", va="top", fontsize=6.5, color=_KIND[kind],
            )  # fmt: skip
            named.append(wave)


def _scaling(factor: float) -> Callable[[Any], Any]:
    return lambda wave: np.asarray(wave) * factor


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last pixel of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
