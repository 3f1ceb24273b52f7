"""Percentiles of what was measured, in bins, as tables for a person, a file and a card.

Shapes: N spectra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import InputError

FloatArray = NDArray[np.float64]

SNR_EDGES = (-np.inf, 3.0, 5.0, 8.0, 12.5, 20.0, 40.0, np.inf)
"""Bins of the median signal-to-noise ratio a pixel; one is centred, in its logarithm, on 10."""
Z_EDGES = (-np.inf, *(round(0.1 * k, 1) for k in range(1, 11)), np.inf)
"""Bins of redshift."""


class Spread(NamedTuple):
    """The 16th, 50th and 84th percentile of n finite numbers; NaN if there is none."""

    n: int
    low: float
    median: float
    high: float

    def __str__(self) -> str:
        if self.n == 0:
            return ""
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"


Cell = str | int | float | Spread | None


def spread(values: ArrayLike) -> Spread:
    """Return the percentiles of the finite ones of some numbers."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return Spread(0, np.nan, np.nan, np.nan)
    low, median, high = np.percentile(numbers, [16, 50, 84])
    return Spread(len(numbers), float(low), float(median), float(high))


def share_below(values: ArrayLike, limit: float) -> float:
    """Return which part of the finite ones of some numbers is below a limit; NaN if none is."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.mean(numbers < limit)) if len(numbers) else float("nan")


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        title: What it shows, with its units.
        columns: Names, one a column.
        rows: Cells, one a column each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise InputError(f"every row of {self.title!r} must have {len(self.columns)} cells")

    def text(self) -> list[list[str]]:
        """Return the cells as they are printed."""
        return [[_shown(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """Return the table in Markdown, under its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.text()]
        listing = "\n".join(f"| {' | '.join(_escaped(c) for c in line)} |" for line in lines)
        return f"**{self.title}**\n\n{listing}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: a spread as n, p16, p50 and p84; None where a number is not finite."""
        records = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        return {"title": self.title, "rows": records}

    def column(self, name: str) -> list[Cell]:
        """Return the cells under a name."""
        if name not in self.columns:
            raise InputError(f"no column {name!r} in {self.title!r}; it has {list(self.columns)}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def grouped(
    title: str,
    by: tuple[str, ArrayLike],
    edges: Sequence[float],
    values: Mapping[str, ArrayLike],
    limits: Mapping[str, float] | None = None,
) -> Table:
    """Return the spread of several numbers a spectrum, in bins of another one, and of all.

    Args:
        title: Of the table.
        by: Name of what is binned, and its values, shape (N,). NaN falls in no bin.
        edges: Increasing edges of the bins, which hold their lower edge; empty bins are
            left out.
        values: Numbers by name, shape (N,) each; NaN where there is none.
        limits: For some of the values, a number; the percentage below it is another column.
    """
    name, keys = by[0], np.asarray(by[1], dtype=np.float64)
    numbers = {label: np.asarray(column, dtype=np.float64) for label, column in values.items()}
    wrong = [label for label, column in numbers.items() if column.shape != keys.shape]
    if wrong or not np.all(np.diff(edges) > 0):
        raise InputError(
            f"{', '.join(wrong) or 'edges'} must "
            + (f"have shape {keys.shape}, as {name}" if wrong else f"increase, not be {edges}")
        )
    limits = dict(limits or {})
    place = np.where(np.isfinite(keys), np.searchsorted(edges, keys, side="right") - 1, -1)
    rows: list[tuple[Cell, ...]] = []
    for index in range(len(edges) - 1):
        inside = place == index
        if inside.any():
            label = interval(edges[index], edges[index + 1])
            rows.append((label, int(inside.sum()), *_summary(numbers, inside, limits)))
    everything = np.ones(len(keys), dtype=bool)
    rows.append(("all", len(keys), *_summary(numbers, everything, limits)))
    heads = [
        head
        for label in numbers
        for head in (label, *([f"{label} below {limits[label]:g}, %"] if label in limits else []))
    ]
    return Table(title, (name, "n", *heads), tuple(rows))


def interval(low: float, high: float) -> str:
    """Return the name of a bin."""
    if not np.isfinite(low):
        return f"below {high:g}"
    return f"{low:g}–{high:g}" if np.isfinite(high) else f"from {low:g}"


def plain(value: Any) -> Any:
    """Return numbers as JSON can hold them: rounded to 5 digits, None where not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Spread):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return _plain(value)


def _summary(
    numbers: Mapping[str, FloatArray], inside: NDArray[np.bool_], limits: Mapping[str, float]
) -> list[Cell]:
    cells: list[Cell] = []
    for label, column in numbers.items():
        cells.append(spread(column[inside]))
        if label in limits:
            cells.append(round(100 * share_below(column[inside], limits[label]), 1))
    return cells


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.3g}"
    return f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value:.2f}"


def _shown(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(cell: Any) -> Any:
    if isinstance(cell, Spread):
        parts = zip(("n", "p16", "p50", "p84"), cell, strict=True)
        return {name: _plain(part) for name, part in parts}
    if isinstance(cell, (float, np.floating)):
        return float(f"{cell:.5g}") if np.isfinite(cell) else None
    return int(cell) if isinstance(cell, np.integer) else cell
