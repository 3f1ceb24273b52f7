"""Pictures of `compare_mocks.py`: spectra side by side, distributions, noise by wavelength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

REAL, MOCK, OTHER, BAND = "#404040", "#D55E00", "#0072B2", "#F3C6A5"
SCALES = {"D4000": 0.08, "colour 4200-5500": 0.06, "colour 5500-7000": 0.04}
"""What counts as a difference; equivalent widths are compared as asinh(width / 3 A), by 0.3."""
WIDTHS = ("Hα", "[O III]", "[O II]", "Hβ", "[N II]")
SHOWN = (
    "D4000", "colour 4200-5500", "colour 5500-7000", "Hα", "Hβ", "[O III]", "[O II]", "[N II]",
    "HδA", "Mg b", "Na D", "masked, %",
)  # fmt: skip
PIECES = 6
LOST = 100.0
"""Squared difference of what was not seen in a mock."""


def features(values: FloatArray, name: str) -> FloatArray:
    """Return values in units of what counts as a difference."""
    if name in SCALES:
        return values / SCALES[name]
    return np.asarray(np.arcsinh(values / 3) / 0.3)


def distance(one: Any) -> FloatArray:
    """Return how far the mocks of a galaxy are from it, shape (N,)."""
    total = np.zeros(len(one.mocks))
    for name in (*SCALES, *WIDTHS):
        real, mocks = (features(values, name) for values in one.values[name])
        if np.isfinite(real[0]):
            total = total + np.nan_to_num((mocks - real[0]) ** 2, nan=LOST)
    return np.asarray(total)


def choose(compared: list[Any]) -> list[int]:
    """Return galaxies unlike each other: each next is the farthest from those before."""
    names = ("D4000", "colour 4200-5500", "Hα", "[O III]")
    rows = np.array([[features(one.values[n][0], n)[0] for n in names] for one in compared])
    bright = np.array([float(one.real.snr[0]) > 8 for one in compared])
    usable = np.flatnonzero(np.isfinite(rows).all(axis=1) & bright)
    chosen = [int(usable[np.argmax(rows[usable, 0])])]
    while len(chosen) < min(PIECES, len(usable)):
        away = np.min([np.linalg.norm(rows[usable] - rows[k], axis=1) for k in chosen], axis=0)
        chosen.append(int(usable[np.argmax(away)]))
    return sorted(chosen, key=lambda k: -float(rows[k, 0]))


def draw_nearest(compared: list[Any], path: Path) -> None:
    """Draw galaxies of different sorts, each above the two mocks most like it."""
    chosen = choose(compared)
    figure, axes = plt.subplots(len(chosen), 1, figsize=(11, 2.6 * len(chosen)))
    for axis, k in zip(np.atleast_1d(axes), chosen, strict=True):
        one = compared[k]
        wave = one.instrument.wave / (1 + float(one.real.z[0]))
        near = np.argsort(distance(one))[:2]
        top = 0.0
        rows = [(one.real, 0, REAL), (one.mocks, near[0], MOCK), (one.mocks, near[1], OTHER)]
        for level, (batch, row, colour) in enumerate(rows):
            flux = batch.flux[row].numpy().astype(float)
            flux[batch.ivar[row].numpy() == 0] = np.nan
            top = max(top, 1.25 * float(np.nanpercentile(flux, 98.5)))
            axis.plot(wave, flux - 0.9 * level, color=colour, lw=0.5)
        axis.set_ylim(-1.9, top)
        axis.set_xlim(3700, 9200)
        numbers = ", ".join(
            f"{name} {one.values[name][0][0]:.2f} ({one.values[name][1][near[0]]:.2f}, "
            f"{one.values[name][1][near[1]]:.2f})"
            for name in ("D4000", "Hα", "[O III]")
        )
        title = (
            f"{one.instrument.name} {one.real.label(0)}, {one.sort}, z {float(one.real.z[0]):.3f}"
        )
        axis.set_title(
            f"{title}, S/N {float(one.real.snr[0]):.0f}.  {numbers}", fontsize=8, loc="left"
        )
        axis.set_ylabel("flux")
    axis.set_xlabel(
        "restframe wavelength, Å.  Black: real; orange, blue: the two mocks most like it of "
        f"{len(compared[0].mocks)} of the same z and S/N, moved down by 0.9 and 1.8"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_distributions(compared: list[Any], path: Path) -> None:
    """Draw the mocks of all galaxies as histograms, real ones as ticks."""
    figure, axes = plt.subplots(3, 4, figsize=(12, 7.5))
    for axis, name in zip(axes.flat, SHOWN, strict=True):
        known = [one.values[name] for one in compared if np.isfinite(one.values[name][0][0])]
        real = np.array([values[0][0] for values in known])
        mocks = np.concatenate([values[1] for values in known])
        mocks = mocks[np.isfinite(mocks)]
        low, high = np.percentile(np.concatenate([mocks, np.repeat(real, 50)]), [0.5, 99.5])
        wide = name in WIDTHS
        if wide:
            bins = 3 * np.sinh(np.linspace(np.arcsinh(low / 3), np.arcsinh(high / 3), 40))
            axis.set_xscale(
                "function", functions=(lambda x: np.arcsinh(x / 3), lambda x: 3 * np.sinh(x))
            )
            ticks = [t for t in (-3, 0, 3, 10, 30, 100, 300, 1000) if low <= t <= high]
        else:
            bins, ticks = np.linspace(low, high, 40), None
        height = np.histogram(mocks, bins)[0] / len(mocks)
        axis.stairs(height, bins, fill=True, color=BAND)
        axis.stairs(height, bins, color=MOCK)
        axis.plot(real, np.full(len(real), -0.06 * height.max()), "|", color=REAL, ms=12)
        for level in np.percentile(real, [16, 50, 84]):
            axis.axvline(level, color=REAL, lw=0.8, ls=":")
        if ticks:
            axis.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
            axis.minorticks_off()
        axis.set_xlim(bins[0], bins[-1])
        unit = " equivalent width, Å" if wide or name in ("HδA", "Mg b", "Na D") else ""
        axis.set_xlabel(f"{name}{unit}")
        axis.set_title(f"n = {len(real)} real, {len(mocks)} mocks", fontsize=8)
    figure.suptitle(
        "Mocks of the z and S/N of the real galaxies (orange); real ones: ticks, dotted 16, 50, 84"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_noise(noise: list[Any], path: Path) -> None:
    """Draw sigma by wavelength without light, and real over expected sigma of galaxies."""
    figure, axes = plt.subplots(2, len(noise), figsize=(4.2 * len(noise), 6.5), squeeze=False)
    for column, (name, (wave, real), (_, mock), (_, ratio)) in enumerate(noise):
        axis = axes[0, column]
        for label, rows, colour in (("real", real, REAL), ("mock", mock, MOCK)):
            low, middle, high = band(rows)
            axis.fill_between(wave, low, high, color=colour, alpha=0.2, lw=0)
            axis.plot(wave, middle, color=colour, label=f"{label}, n = {len(rows)}")
        axis.set_title(f"{name}: spectra with no light, or little", fontsize=10)
        axis.set_ylabel("sigma, 1e-17 erg/s/cm²/Å")
        axis.set_yscale("log")
        axis.legend()
        axis = axes[1, column]
        axis.axhline(1, color="k", lw=0.5)
        for row in ratio:
            axis.plot(wave, row, color=REAL, lw=0.4, alpha=0.6)
        axis.plot(wave, band(ratio)[1], color=MOCK, lw=2)
        axis.set_ylim(0.3, 2.2)
        axis.set_title(f"{len(ratio)} galaxies: sigma / expected of their light", fontsize=10)
        axis.set_xlabel("observed wavelength, Å")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def band(rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the percentiles 16, 50 and 84 of columns, NaN where there is nothing."""
    with np.errstate(all="ignore"):
        there = np.isfinite(rows).any(axis=0)
        found = np.full((3, rows.shape[1]), np.nan)
        found[:, there] = np.nanpercentile(rows[:, there], [16, 50, 84], axis=0)
    return found[0], found[1], found[2]
