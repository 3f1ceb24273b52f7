"""Mock spectra as observed, beside their restframe, where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spender_core.errors import InputError
from spender_core.plot.drawing import Frame, draw_flux, draw_residuals, other_axis
from spender_core.plot.pages import legend, title
from spender_core.plot.panels import Panel
from spender_core.plot.styles import Colours, Style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORST = 0.3  # relative error shown
_BLUR = 25.0  # Angstrom over which errors are averaged


def overview(panels: Sequence[Panel], look: str | Style = "screen") -> Figure:
    """Draw spectra as observed on the left, and their restframe with the truth on the right.

    Args:
        panels: Of mocks: each with z, model, `restframe` and `truth`.
        look: A style or its name.

    Raises:
        InputError: There is no panel, or one lacks something of that.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise InputError("there is no spectrum to draw; give one panel at least")
    for one in panels:
        if not one.known or one.restframe is None or one.truth is None:
            raise InputError(f"{one.title} lacks redshift, restframe or truth; use `spectra`")
    sizes = style(look)
    with sizes.context():
        height = 1.35 * sizes.row + 8.5 * sizes.font / 72
        figure = Figure(
            figsize=(sizes.width, height * len(panels) + 3 * sizes.font / 72), layout="constrained"
        )
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.05, h_pad=0.04, hspace=0.02, wspace=0.02)
        grid = figure.subplots(
            2 * len(panels), 2, height_ratios=[1.0, 0.35] * len(panels), width_ratios=[1.15, 1]
        )
        for number, one in enumerate(panels):
            cells = grid[2 * number : 2 * number + 2]
            for column, rest in enumerate((False, True)):
                width = 0.5 * sizes.width - 6 * sizes.font / 72
                frame = Frame(sizes, rest, width, sizes.row)
                upper, lower = cells[:, column]
                lower.sharex(upper)
                upper.tick_params(labelbottom=False)
                draw_flux(upper, one, frame)
                if rest:
                    upper.set_ylabel("")
                    draw_errors(lower, one, frame)
                else:
                    draw_residuals(lower, one, frame)
                    title(upper, one, sizes, 2.7)
                other_axis(upper, one, frame)
        legend(figure, figure.axes, sizes)
    return figure


def draw_errors(axes: Axes, one: Panel, frame: Frame) -> None:
    """Draw model / truth - 1 in restframe, averaged over 25 Angstrom."""
    if one.restframe is None or one.truth is None:
        raise InputError(f"{one.title} has no restframe or no truth")
    wave = one.restframe.wave
    truth = np.interp(wave, one.truth.wave, one.truth.flux, left=np.nan, right=np.nan)
    known = np.isfinite(truth)
    wave, truth, made = wave[known], truth[known], one.restframe.flux[known]
    edges = np.arange(wave[0], wave[-1] + _BLUR, _BLUR)
    model, _ = np.histogram(wave, edges, weights=made)
    level, _ = np.histogram(wave, edges, weights=truth)
    error = np.full(len(level), np.nan)
    np.divide(model, level, out=error, where=level > 0)
    centres = 0.5 * (edges[1:] + edges[:-1])
    first, last = one.wave[[0, -1]] / (1 + one.z)
    seen = (centres > first) & (centres < last)
    axes.axhspan(-0.1, 0.1, color=Colours.QUIET, lw=0)
    axes.axhline(0, color=Colours.ZERO, lw=0.6 * frame.style.line)
    for colour, part in ((Colours.MODEL, seen), (Colours.BEYOND, ~seen)):
        axes.plot(
            centres, np.where(part, error - 1, np.nan), color=colour, lw=0.9 * frame.style.line
        )
    axes.set_ylim(-_WORST, _WORST)
    axes.set_yticks([-0.2, 0, 0.2])
    axes.set_ylabel("model /\ntruth − 1")
    axes.set_xlabel("restframe wavelength (Å)")
