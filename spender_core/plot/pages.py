"""Pages of spectra below each other, and files of pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spender_core.errors import InputError
from spender_core.plot.drawing import Frame, draw_flux, draw_residuals, draw_zoom, other_axis
from spender_core.plot.naming import Zoom, zooms
from spender_core.plot.panels import Panel
from spender_core.plot.styles import Style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
"""Of pictures; several pages are one .pdf, or several files of the others."""
_LETTER = 0.55  # mean width of a letter, relative to the size of its font


def spectra(
    panels: Sequence[Panel],
    look: str | Style = "paper",
    rest: bool = False,
    zoom: str | Sequence[Zoom] = (),
) -> Figure:
    """Draw spectra below each other: flux, error band, masked pixels, model, residuals.

    Args:
        panels: What to draw, see `panel`.
        look: A style or its name: paper, column, talk or screen.
        rest: Restframe wavelengths on the lower axis, and the model beyond the observed
            range where a panel has it. Spectra without redshift keep observed ones.
        zoom: What to enlarge below each spectrum: a text for `zooms`, or what it returned.

    Returns:
        A figure of matplotlib, made without touching its global state.

    Raises:
        InputError: There is nothing to draw, or no style or line of this name.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise InputError("there is no spectrum to draw; give one panel at least")
    sizes = style(look)
    enlarged = zooms(zoom) if isinstance(zoom, str) else list(zoom)
    with sizes.context():
        extra = 0.75 * sizes.row + 4 * sizes.font / 72 if enlarged else 0.0
        height = 1.33 * sizes.row + 7.5 * sizes.font / 72 + extra
        head = 4.5 * sizes.font / 72
        figure = Figure(figsize=(sizes.width, height * len(panels) + head), layout="constrained")
        pad = sizes.font / 72 / 3
        _set_pads(figure, pad)
        ratios = [1.0, 0.33] + ([0.75] if enlarged else [])
        # one grid for all, so that axes below each other begin and end together
        grid = figure.add_gridspec(
            len(ratios) * len(panels), max(len(enlarged), 1), height_ratios=ratios * len(panels)
        )
        for number, one in enumerate(panels):
            place = len(ratios) * number
            cells = [grid[place, :], grid[place + 1, :]]
            cells += [grid[place + 2, k] for k in range(len(enlarged))]
            _draw_one(figure, cells, one, sizes, rest, enlarged)
        legend(figure, figure.axes, sizes)
    return figure


def pages(
    panels: Sequence[Panel],
    per_page: int = 3,
    look: str | Style = "paper",
    rest: bool = False,
    zoom: str | Sequence[Zoom] = (),
) -> Iterator[Figure]:
    """Draw spectra, some on each page, page by page; arguments as in `spectra`."""
    if per_page < 1:
        raise InputError(f"a page has at least one spectrum, not {per_page}")
    for start in range(0, len(panels), per_page):
        yield spectra(panels[start : start + per_page], look, rest, zoom)


def numbered(output: Path, pages: int) -> list[Path]:
    """Return the files that so many pages go to: one for a .pdf, else one each, numbered."""
    if output.suffix not in FORMATS:
        raise InputError(f"cannot draw {output}: its name must end in {', '.join(FORMATS)}")
    if output.suffix == ".pdf" or pages <= 1:
        return [output]
    digits = len(str(pages))
    return [output.with_stem(f"{output.stem}-{k:0{digits}}") for k in range(1, pages + 1)]


def write(figures: Iterable[Figure], paths: Sequence[Path], look: str | Style = "paper") -> None:
    """Write figures, one to each path, or all of them as pages of one .pdf.

    The same figure gives the same bytes: no date is written.
    """
    if len(paths) == 1 and paths[0].suffix == ".pdf":
        _write_pdf(figures, paths[0], style(look))
        return
    for figure, path in zip(figures, paths, strict=True):
        metadata: dict[str, Any] | None = {"Date": None} if path.suffix == ".svg" else None
        with style(look).context():
            figure.savefig(path, metadata=metadata)


def _write_pdf(figures: Iterable[Figure], path: Path, sizes: Style) -> None:
    from matplotlib.backends.backend_pdf import PdfPages

    with sizes.context(), PdfPages(path, metadata={"CreationDate": None}) as pdf:
        for figure in figures:
            pdf.savefig(figure)


def legend(figure: Figure, axes: Iterable[Axes], sizes: Style) -> None:
    """Put one legend above a figure, with each label of some axes once."""
    entries: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    entries.pop("residual", None)
    labels = sorted(entries, key=_place_in_legend)
    figure.legend(
        [entries[label] for label in labels],
        labels,
        loc="outside upper right",
        ncols=_columns([len(label) for label in labels], sizes),
    )


def _columns(lengths: Sequence[int], sizes: Style) -> int:
    """Return how many columns of a legend fit; lengths of its entries are in letters."""
    for columns in range(min(6, len(lengths)), 1, -1):
        widest = [max(part) for part in np.array_split(lengths, columns)]
        letters = _LETTER * sum(widest) + 3.8 * len(widest)  # with handles and gaps
        if letters * sizes.small_font < 72 * sizes.width:
            return columns
    return 1


_ORDER = ("data", "smoothed", "1σ", "model", "truth", "ends", "emission", "absorption")


def _place_in_legend(label: str) -> int:
    places = [k for k, start in enumerate(_ORDER) if label.startswith(start)]
    return places[0] if places else len(_ORDER)


def _draw_one(
    figure: Figure,
    cells: Sequence[Any],
    one: Panel,
    sizes: Style,
    rest: bool,
    enlarged: Sequence[Zoom],
) -> None:
    frame = Frame(sizes, rest and one.known, sizes.width - 7 * sizes.font / 72, sizes.row)
    upper = figure.add_subplot(cells[0])
    lower = figure.add_subplot(cells[1], sharex=upper)
    upper.tick_params(labelbottom=False)
    draw_flux(upper, one, frame)
    draw_residuals(lower, one, frame)
    if one.known:
        other_axis(upper, one, frame)
    title(upper, one, sizes, 2.7 if one.known else 0.4)
    for number, (zoom, cell) in enumerate(zip(enlarged, cells[2:], strict=True)):
        small = Frame(sizes, True, 0.85 * frame.width / len(enlarged), 0.75 * sizes.row)
        axes = figure.add_subplot(cell)
        draw_zoom(axes, one, zoom, small, beyond=rest)
        if number == 0:
            axes.set_ylabel("flux density")


def title(axes: Axes, one: Panel, sizes: Style, lift: float) -> None:
    """Write title, redshift and notes above axes, on two lines if they are long.

    Args:
        axes: Above which.
        one: What is drawn.
        sizes: The style.
        lift: How far above, in units of the font.
    """
    z = f"z = {one.z:.4f}" if one.known else "z unknown"
    more = "   ".join(part for part in (z, one.notes) if part)
    text = f"{one.title}   {more}"
    if len(text) * _LETTER * sizes.font > (sizes.width - 0.8) * 72:
        text = f"{one.title}\n{more}"
    axes.set_title(text, loc="left", pad=lift * sizes.font)


def _set_pads(figure: Figure, pad: float) -> None:
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=pad, h_pad=pad, hspace=0.02, wspace=0.02)
