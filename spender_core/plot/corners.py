"""Corner plots of latents: each against each other, and the histogram of each.

Shapes: N objects, S latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import InputError
from spender_core.plot.styles import Colours, Style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

LEVELS = (0.95, 0.68, 0.30)
"""Shares of the objects that contours enclose."""
_FEW = 60  # objects, too few for contours
_MANY = 4000  # objects, above which colours are medians of cells
_SHOWN = (0.2, 99.8)  # percentiles on the axes
_BINS = 60
_SMOOTH = 1.5  # bins


def corner(
    latents: ArrayLike,
    labels: Sequence[str] | None = None,
    colour: ArrayLike | None = None,
    colour_label: str = "",
    look: str | Style = "paper",
) -> Figure:
    """Draw latents against each other, and the histogram of each on the diagonal.

    Without colours, contours enclose 30, 68 and 95 percent of the objects, and those beyond
    are points. With colours, every object is a point; of more than 4,000, the median colour
    of small cells is shown.

    Args:
        latents: Shape (N, S), finite, N and S of 2 at least; a tensor or an array.
        labels: Names of the latents; s₀, s₁, ... by default.
        colour: A quantity, shape (N,), to colour objects by; those where it is NaN are left
            out of the colours.
        colour_label: Its name.
        look: A style or its name.

    Raises:
        InputError: Shapes do not fit, or a latent is not finite.
    """
    from matplotlib.figure import Figure

    s_NS, names, colour_N = _checked(latents, labels, colour)
    sizes = style(look)
    number = len(names)
    with sizes.context():
        figure = Figure(figsize=(sizes.width, sizes.width), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.01, h_pad=0.01, hspace=0.0, wspace=0.0)
        grid = figure.subplots(number, number, squeeze=False)
        limits = [_limits(values) for values in s_NS.T]
        drawn: Any = None
        for row in range(number):
            for column in range(number):
                axes = grid[row, column]
                if column > row:
                    axes.remove()
                    continue
                if row == column:
                    _histogram(axes, s_NS[:, row], names[row], limits[row], sizes)
                else:
                    x_N, y_N = s_NS[:, column], s_NS[:, row]
                    axes.set_ylim(limits[row])
                    axes.set_xlim(limits[column])
                    if colour_N is None:
                        _density(axes, x_N, y_N, sizes)
                    else:
                        drawn = _coloured(axes, x_N, y_N, colour_N, sizes)
                _dress(axes, row, column, names)
        if drawn is not None:
            place = figure.add_axes((0.57, 0.95, 0.4, 0.015))  # where no latents are
            bar = figure.colorbar(drawn, cax=place, orientation="horizontal", extend="both")
            bar.set_label(colour_label)
        figure.text(
            0.99, 0.86 if drawn is not None else 0.97, _told(len(s_NS), colour_N), ha="right",
            va="top", fontsize=sizes.small_font,
        )  # fmt: skip
    return figure


def _checked(
    latents: ArrayLike, labels: Sequence[str] | None, colour: ArrayLike | None
) -> tuple[FloatArray, list[str], FloatArray | None]:
    s_NS = np.asarray(latents, dtype=float)
    if s_NS.ndim != 2 or min(s_NS.shape) < 2:
        raise InputError(
            f"latents must have shape (N, S) with two objects and two latents at least, got "
            f"{s_NS.shape}"
        )
    bad = (~np.isfinite(s_NS)).any(axis=1)
    if bad.any():
        raise InputError(
            f"latents must be finite; {int(bad.sum())} of {len(bad)} objects have others, the "
            f"first in row {int(bad.argmax())}. Leave them out"
        )
    names = [subscripted(k) for k in range(s_NS.shape[1])] if labels is None else list(labels)
    if len(names) != s_NS.shape[1]:
        raise InputError(f"{len(names)} labels for {s_NS.shape[1]} latents; give one for each")
    if colour is None:
        return s_NS, names, None
    colour_N = np.asarray(colour, dtype=float)
    if colour_N.shape != (len(s_NS),):
        raise InputError(
            f"colour must have shape ({len(s_NS)},), one value an object, got {colour_N.shape}"
        )
    if not np.isfinite(colour_N).any():
        raise InputError("no value of the colour is finite; choose another quantity")
    return s_NS, names, colour_N


def subscripted(k: int) -> str:
    """Return the name of a latent, counted from 0: s₀, s₁, ..., as the columns of a table are."""
    return "s" + str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _told(number: int, colour_N: FloatArray | None) -> str:
    if colour_N is None:
        what = "contours: 30, 68, 95 %" if number > _FEW else "too few for contours"
    else:
        what = f"{int(np.isfinite(colour_N).sum()):,} with a colour"
        what += "; medians of cells" if number > _MANY else ""
    return f"{number:,} objects\n{what}\ndashed: 16, 50, 84 %"


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = np.percentile(values, _SHOWN)
    pad = 0.08 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def _histogram(
    axes: Axes, values: FloatArray, name: str, limits: tuple[float, float], sizes: Style
) -> None:
    bins = int(np.clip(np.sqrt(len(values)), 8, 40))
    axes.hist(values, bins, range=limits, color=Colours.RAW, histtype="stepfilled", alpha=0.6)
    axes.hist(values, bins, range=limits, color=Colours.DATA, histtype="step", lw=0.8 * sizes.line)
    low, middle, high = np.percentile(values, [16, 50, 84])
    for value in (low, middle, high):
        axes.axvline(value, color=Colours.MODEL, ls=(0, (4, 2)), lw=0.7 * sizes.line)
    axes.set_xlim(limits)
    below, above = middle - low, high - middle
    text = rf"{name} = ${middle:.2f}_{{-{below:.2f}}}^{{+{above:.2f}}}$"
    axes.set_title(text, fontsize=sizes.small_font, pad=3)
    axes.set_yticks([])


def _density(axes: Axes, x_N: FloatArray, y_N: FloatArray, sizes: Style) -> None:
    """Draw contours of density, and points beyond the outermost."""
    dot: Any = {"ls": "", "marker": ".", "ms": 1.6 * sizes.line, "mew": 0, "color": Colours.DATA}
    if len(x_N) <= _FEW:
        axes.plot(x_N, y_N, **(dot | {"ms": 4 * sizes.line}))
        return
    x_edges = np.linspace(*axes.get_xlim(), _BINS + 1)
    y_edges = np.linspace(*axes.get_ylim(), _BINS + 1)
    counts, _, _ = np.histogram2d(x_N, y_N, (x_edges, y_edges))
    density = _blurred(counts)
    levels = _levels(density)
    column = np.clip(np.searchsorted(x_edges, x_N) - 1, 0, _BINS - 1)
    row = np.clip(np.searchsorted(y_edges, y_N) - 1, 0, _BINS - 1)
    sparse = density[column, row] < levels[0]
    axes.plot(x_N[sparse], y_N[sparse], alpha=0.5, rasterized=True, zorder=1, **dot)
    x, y = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
    bounds = [*levels, max(float(density.max()), levels[-1]) * 1.001]
    axes.contourf(x, y, density.T, bounds, colors=["#D9D9D9", "#A6A6A6", "#6B6B6B"], zorder=2)
    axes.contour(
        x, y, density.T, levels, colors=Colours.DATA, linewidths=0.5 * sizes.line, zorder=3
    )


def _blurred(counts: FloatArray) -> FloatArray:
    """Convolve with a Gaussian along both axes."""
    reach = np.arange(-6, 7)
    taps = np.exp(-0.5 * (reach / _SMOOTH) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, taps, mode="same")
    return counts


def _levels(density: FloatArray) -> list[float]:
    """Return increasing densities above which the shares of `LEVELS` of all are found."""
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(share, level)]) for level in LEVELS]
    for k in range(1, len(levels)):  # strictly, as contours need it
        levels[k] = max(levels[k], np.nextafter(levels[k - 1], np.inf))
    return levels


def _coloured(
    axes: Axes, x_N: FloatArray, y_N: FloatArray, colour_N: FloatArray, sizes: Style
) -> Any:
    known = np.isfinite(colour_N)
    low, high = np.percentile(colour_N[known], [2, 98])
    look: Any = {"cmap": Colours.MAP, "vmin": low, "vmax": high, "rasterized": True}
    x, y, c = x_N[known], y_N[known], colour_N[known]
    if len(x) > _MANY:
        extent: Any = (*axes.get_xlim(), *axes.get_ylim())
        return axes.hexbin(
            x, y, c, gridsize=45, extent=extent, reduce_C_function=np.median, lw=0.1, **look
        )
    size = (1.2 * sizes.line * np.clip(40 / np.sqrt(len(x)), 0.8, 3)) ** 2
    return axes.scatter(x, y, size, c, lw=0, **look)


def _dress(axes: Axes, row: int, column: int, names: Sequence[str]) -> None:
    last = row == len(names) - 1
    axes.tick_params(labelbottom=last, labelleft=column == 0 and row > 0, right=False, pad=1)
    axes.tick_params(axis="x", rotation=45)
    axes.locator_params(axis="x", nbins=3)
    if row != column:
        axes.locator_params(axis="y", nbins=3)
    if last:
        axes.set_xlabel(names[column])
    if column == 0 and row > 0:
        axes.set_ylabel(names[row])
