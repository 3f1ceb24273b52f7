"""How pictures look: colours, sizes and fonts, for a paper, a talk or a screen.

A style is used through a context, and no setting outlives it::

    with style("talk").context():
        figure.savefig(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from spender_core.errors import InputError


class Colours:
    """Okabe & Ito's palette, which the colour-blind tell apart, and a few greys.

    Source: Okabe & Ito 2008, jfly.uni-koeln.de/color. What matters is never told by colour
    alone: data and model differ in lightness and width, emission and absorption in dashes.
    """

    DATA = "#404040"
    RAW = "#B3B3B3"
    BAND = "#8C8C8C"
    ZERO = "#737373"
    QUIET = "#E6E6E6"
    MODEL = "#D55E00"
    BEYOND = "#E69F00"
    TRUTH = "#56B4E9"  # pale and wide, below the model: told apart without colours too
    EMISSION = "#007A5A"  # Okabe & Ito's green, darker, for small letters on white
    ABSORPTION = "#0072B2"
    MASKED = "#999999"
    SKY = "#56B4E9"
    MAP = "viridis"
    """For quantities: rises evenly in lightness, which the colour-blind and greyscale keep."""


@dataclass(frozen=True)
class Style:
    """Sizes of a picture.

    Attributes:
        name: Under which it is asked for.
        width: Of the whole picture, inches.
        font: Size of letters, points; ticks and labels of lines are smaller by `small`.
        small: Factor for the smaller letters.
        line: Width of a line that counts, points; others follow it.
        row: Height of the panel of a spectrum's flux, inches.
        dpi: Of raster pictures.
    """

    name: str
    width: float
    font: float
    small: float
    line: float
    row: float
    dpi: int

    @contextmanager
    def context(self) -> Iterator[None]:
        """Apply the style to what is drawn and written inside, and to nothing else."""
        from matplotlib import rc_context

        with rc_context(self._settings()):
            yield

    @property
    def small_font(self) -> float:
        """Size of ticks, legends and labels of lines, points."""
        return self.font * self.small

    def _settings(self) -> dict[Any, Any]:
        thin = 0.6 * self.line
        return {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, has all glyphs
            "font.size": self.font,
            "axes.titlesize": self.font,
            "axes.labelsize": self.font,
            "xtick.labelsize": self.small_font,
            "ytick.labelsize": self.small_font,
            "legend.fontsize": self.small_font,
            "legend.frameon": False,
            "legend.handlelength": 1.6,
            "legend.borderaxespad": 0.2,
            "legend.columnspacing": 1.2,
            "lines.linewidth": self.line,
            "axes.linewidth": thin,
            "axes.labelpad": 2.0,
            "xtick.direction": "in",
            "ytick.direction": "in",
            "xtick.major.width": thin,
            "ytick.major.width": thin,
            "xtick.minor.width": 0.7 * thin,
            "xtick.minor.visible": True,
            "ytick.right": True,
            "hatch.linewidth": thin,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.dpi": self.dpi,
            "pdf.fonttype": 42,  # letters stay letters: searchable, and journals accept them
            "ps.fonttype": 42,
            "svg.fonttype": "none",
            "svg.hashsalt": "spender",  # the same picture gives the same bytes
        }


# Widths: a column and a page of the AAS and MNRAS journals; a slide of 16:9.
STYLES = {
    "paper": Style("paper", 7.0, 8.0, 0.85, 0.9, 1.45, 300),
    "column": Style("column", 3.35, 7.0, 0.85, 0.7, 1.2, 300),
    "talk": Style("talk", 13.33, 16.0, 0.85, 1.8, 2.9, 150),
    "screen": Style("screen", 11.0, 11.0, 0.85, 1.2, 2.0, 150),
}
"""Styles by name: paper (two columns of a journal), column (one), talk and screen."""


def style(name: str | Style, **changes: Any) -> Style:
    """Return a style by its name, with some of its attributes changed.

    Raises:
        InputError: There is none of this name.
    """
    if isinstance(name, Style):
        return replace(name, **changes)
    if name not in STYLES:
        raise InputError(f"no style named {name!r}; use one of {', '.join(STYLES)}")
    return replace(STYLES[name], **changes)
