"""Checks of wavelengths and of the unit of flux, against a line of which both are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spender_core.testing.example import Line
from spender_core.testing.faults import NotApplicable, expect
from spender_core.testing.subject import Subject

TOLERANCE = 0.25
"""Pixels that a line may be off. Half a pixel must show; noise in an example is small."""
_BLOCK = 60  # pixels whose median is the continuum: more than twice the width of a line
_REACH = 8  # pixels around its place in which a line is looked for first


@dataclass(frozen=True)
class _Seen:
    """A line as it was measured: fractional pixel, Angstrom, flux, width of its pixel."""

    pixel: float
    wave: float
    flux: float
    width: float


def check_line_wavelength(subject: Subject) -> None:
    """A line of the example lies at its vacuum wavelength, to a quarter of a pixel."""
    line, wave = _line(subject), subject.instrument.wave
    hints = {"nm": 0.1, "micron": 1e-4}
    unit = next((u for u, f in hints.items() if wave[0] < line.wave * f < wave[-1]), "")
    inside = wave[0] < line.wave < wave[-1]
    expect(
        inside or not unit,
        expected=f"the line at {line.wave:g} Angstrom is on the grid",
        found=f"the grid runs from {wave[0]:g} to {wave[-1]:g}, which is {unit}, not Angstrom",
        fix="convert the unit of the grid to Angstrom",
    )
    expect(
        inside,
        expected=f"the line at {line.wave:g} Angstrom is on the grid",
        found=f"the grid runs from {wave[0]:g} to {wave[-1]:g} Angstrom",
        fix="compare first wavelength, step and pixels of the grid with the file's header",
    )
    seen = _measure(subject, line)
    expect(
        abs(seen.wave - line.wave) <= TOLERANCE * seen.width,
        expected=f"the line at vacuum {line.wave:.2f} Angstrom, to {TOLERANCE} pixel",
        found=f"at {seen.wave:.2f}, off by {seen.wave - line.wave:+.2f} Angstrom "
        f"({(seen.wave - line.wave) / seen.width:+.2f} pixel){_cause(seen, line, wave)}",
        fix="compare the grid with the file's own wavelengths: vacuum or air, the centre or the edge "
        "of pixels, linear or logarithmic, first pixel 0 or 1, order",
    )


def check_line_flux(subject: Subject) -> None:
    """A line of the example holds its flux, so that the unit of flux is kept."""
    line = _line(subject)
    seen = _measure(subject, line)
    if abs(seen.wave - line.wave) > 3 * seen.width:
        raise NotApplicable("the line is elsewhere; see its wavelength")
    expect(
        abs(seen.flux / line.flux - 1) < 0.1,
        expected=f"the line holds {line.flux:g}, in the archive's flux unit times Angstrom",
        found=f"{seen.flux:g}, {seen.flux / line.flux:.3g} times as much",
        fix="let load return flux per Angstrom in the archive's unit, neither scaled nor normalised",
    )


def air(wave: float) -> float:
    """Return a wavelength in air of one in vacuum, Angstrom.

    Index of standard air: Morton 1991, ApJS 77, 119, equation 3, as SDSS uses it.
    """
    return wave / (1.0 + 2.735182e-4 + 131.4182 / wave**2 + 2.76249e8 / wave**4)


def _line(subject: Subject) -> Line:
    line = subject.example.line
    if line is None:
        raise NotApplicable("the example states no line")
    return line


def _measure(subject: Subject, line: Line) -> _Seen:
    """Measure the line near its place, or where the strongest one is if none is there."""
    batch, wave = subject.raw(), subject.instrument.wave
    if line.row >= len(batch) or batch.flux.shape[1] != len(wave):
        raise NotApplicable("the spectrum of the line was not loaded, or is not on the grid")
    flux = (batch.flux[line.row] * batch.norm[line.row]).double().numpy()
    excess = np.where(batch.good[line.row].numpy(), flux - _continuum(flux), 0.0)
    width = np.gradient(wave)
    sums = np.convolve(excess, np.ones(5), "same")
    place = int(np.argmin(np.abs(wave - line.wave)))
    near = slice(max(place - _REACH, 0), place + _REACH + 1)
    peak = int(np.argmax(sums))
    if sums[near].max() > 0.5 * sums[peak]:
        peak = near.start + int(np.argmax(sums[near]))
    reach = max(5, int(np.ceil(4 * (line.sigma or 0.0) / width[peak])))
    for _ in range(3):
        part = slice(max(peak - reach, 0), peak + reach + 1)
        weight = excess[part] * width[part]
        expect(
            weight.sum() > 0,
            expected=f"a line at vacuum {line.wave:.2f} Angstrom in row {line.row}",
            found="no emission line there, nor elsewhere in the spectrum",
            fix="give load's flux its sign and its values; compare with a plot of the file's column",
        )
        where = float((wave[part] * weight).sum() / weight.sum())
        peak = int(np.clip(round(_pixel(wave, where)), part.start, part.stop - 1))
    return _Seen(_pixel(wave, where), where, float(weight.sum()), float(width[peak]))


def _continuum(flux: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return medians of blocks, joined by straight lines."""
    count = max(len(flux) // _BLOCK, 1)
    blocks = np.array_split(flux, count)
    ends = np.cumsum([len(block) for block in blocks])
    middles = ends - np.array([len(block) for block in blocks]) / 2
    return np.interp(np.arange(len(flux)), middles, [np.median(block) for block in blocks])


def _cause(seen: _Seen, line: Line, wave: NDArray[np.float64]) -> str:
    """Say in words what would put the line where it was seen."""
    share, last = seen.pixel / (len(wave) - 1), len(wave) - 1
    causes = {
        "; that is the shift of air wavelengths": air(line.wave),
        "; that is the shift of air wavelengths, converted twice": 2 * line.wave - air(line.wave),
        "; pixels are in the reversed order": float(
            np.interp(last - _pixel(wave, line.wave), np.arange(last + 1), wave)
        ),
    }
    for words, place in causes.items():
        if abs(seen.wave - place) <= TOLERANCE * seen.width:
            return words
    spacings = {
        "; the spacing of its pixels is logarithmic, that of the grid is not": wave[0]
        * (wave[-1] / wave[0]) ** share,
        "; the spacing of its pixels is linear, that of the grid is not": wave[0]
        + (wave[-1] - wave[0]) * share,
    }
    for words, place in spacings.items():
        if abs(place - line.wave) <= TOLERANCE * seen.width:
            return words
    return ""


def _pixel(wave: NDArray[np.float64], value: float) -> float:
    return float(np.interp(value, wave, np.arange(len(wave))))
