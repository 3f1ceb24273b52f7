"""What is asked for of a new plugin: its wavelengths and its author."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spender_core.errors import InputError
from spender_core.records import printable

RANGE = (1_000.0, 100_000.0)
"""Shortest and longest wavelength of a grid, Angstrom: ultraviolet to mid infrared."""

PIXELS = (500, 100_000)
"""Fewest and most pixels of a grid."""

_FINEST = 1e-7
"""Least width of a pixel over its wavelength, a tenth of the finest spectrographs'."""

_DEFAULTS = {"linear": (4000.0, 2.0, 2000), "log": (3.6, 1e-4, 3500)}
"""First pixel, step and number of pixels."""


@dataclass(frozen=True)
class Settings:
    """Wavelengths and author of a new plugin. What is None has a default that can be edited.

    Attributes:
        grid: "linear" or "log": pixels are equally wide in wavelength or in its log10.
        first: The first pixel: vacuum Angstrom, or log10 of it.
        step: From one pixel to the next: Angstrom, or log10.
        pixels: Their number.
        author: For the licence and the metadata.

    Raises:
        InputError: They are no grid within `RANGE`, or the author is no line of text.
    """

    grid: str = "linear"
    first: float | None = None
    step: float | None = None
    pixels: int | None = None
    author: str | None = None

    def __post_init__(self) -> None:
        if self.grid not in _DEFAULTS:
            raise InputError(f"the grid is {self.grid!r:.80}; it can be {' or '.join(_DEFAULTS)}")
        self._check_grid()
        if self.author is not None and (
            not self.author.strip()
            or len(self.author) > 200
            or printable(self.author) != self.author
        ):
            raise InputError(f"the author {self.author[:80]!r} is no line of text; give a name")

    def _check_grid(self) -> None:
        first, step, pixels = self.nodes
        unit = "log10 of Angstrom" if self.grid == "log" else "Angstrom"
        if not PIXELS[0] <= pixels <= PIXELS[1]:
            raise InputError(
                f"{pixels} pixels; give {PIXELS[0]} to {PIXELS[1]}, which can be edited afterwards"
            )
        if not (math.isfinite(first) and 0 < step < math.inf):
            raise InputError(f"first is {first:g} and step {step:g}; give both in {unit}, step > 0")
        last = first + step * (pixels - 1)
        least, most = (math.log10(end) if self.grid == "log" else end for end in RANGE)
        if not least <= first <= last <= most:
            raise InputError(
                f"the grid runs from {first:g} to {last:g}; a {self.grid} one is given in {unit}, "
                f"within {least:g} and {most:g}{self._hint(first)}"
            )
        if self.width(0) < _FINEST * self.wave(0):
            raise InputError(
                f"pixels of {self.width(0):.3g} Angstrom are too fine at {self.wave(0):g} Angstrom"
            )

    @property
    def nodes(self) -> tuple[float, float, int]:
        """First pixel, step and number of pixels."""
        first, step, pixels = _DEFAULTS[self.grid]
        return (
            first if self.first is None else float(self.first),
            step if self.step is None else float(self.step),
            pixels if self.pixels is None else int(self.pixels),
        )

    def wave(self, pixel: float) -> float:
        """Return the wavelength at a pixel, vacuum Angstrom."""
        first, step, _ = self.nodes
        value = first + step * pixel
        return value if self.grid == "linear" else 10.0**value

    def width(self, pixel: float) -> float:
        """Return the width of a pixel, Angstrom."""
        return self.wave(pixel + 0.5) - self.wave(pixel - 0.5)

    def _hint(self, first: float) -> str:
        if self.grid == "log" and RANGE[0] <= first <= RANGE[1]:
            return f"; the log10 of {first:g} is {math.log10(first):.6g}"
        if self.grid == "linear" and 100 <= first < RANGE[0]:
            return f"; {first:g} nm are {10 * first:g} Angstrom"
        return ""
