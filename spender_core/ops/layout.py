"""Where observed points fall on the pixels of a redshifted grid, found by arithmetic.

On a grid that is uniform in wavelength, or in its logarithm, the pixel that holds a point follows
from one multiplication. Published grids are nearly so: they are linspaces, rounded to float32. Then
the pixel found is right but for points that lie between a node and where arithmetic puts
it, and the true nodes, kept as distances from those places, put that right.

Shapes: R restframe pixels, L observed pixels, C cells between nodes, P observed points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spender_core.grid import check_nodes, pixel_edges

FloatArray = NDArray[np.float64]

_ROUNDING = 1e-7
"""Distance of nodes from their places, in cells, that float32 does not tell from none."""
_NEARLY_LINEAR = 0.25
"""Most of that distance on a linear grid; then a point is at most one cell off."""
_NEARLY_LOG = 1e-3
"""Most of it on a logarithmic grid, and the largest step in ln(wavelength): products of both are
left out of the weights, which then err by less than 5e-7."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Two grids, and how to place points of one on the other.

    Args:
        rest: Wavelengths of the restframe pixels, shape (R,), Angstrom, increasing.
        observed: Wavelengths of the observed pixels, shape (L,), likewise.
        conserve_flux: Average over pixels, instead of interpolating between their centres.

    Raises:
        GridError: Wavelengths are not at least two, finite, positive and strictly increasing.
    """

    rest: FloatArray
    observed: FloatArray
    conserve_flux: bool = False

    def __post_init__(self) -> None:
        for wave in (self.rest, self.observed):
            check_nodes(wave)

    @cached_property
    def node(self) -> FloatArray:
        """Nodes in Angstrom, shape (C + 1,): centres of pixels, or their edges."""
        return pixel_edges(self.rest) if self.conserve_flux else self.rest

    @cached_property
    def point(self) -> FloatArray:
        """Observed points in Angstrom, shape (P,): centres of pixels, or their edges."""
        return pixel_edges(self.observed) if self.conserve_flux else self.observed

    @property
    def cells(self) -> int:
        """Number of cells between nodes."""
        return len(self.node) - 1

    @property
    def pixels(self) -> int:
        """Number L of observed pixels."""
        return len(self.observed)

    @cached_property
    def width(self) -> FloatArray:
        """Widths of cells in Angstrom, shape (C,)."""
        return np.diff(self.node)

    @cached_property
    def _linear(self) -> tuple[float, FloatArray]:
        step = (self.node[-1] - self.node[0]) / self.cells
        return step, (self.node - self.node[0]) / step - np.arange(self.cells + 1)

    @cached_property
    def _log(self) -> tuple[float, FloatArray]:
        logarithm = np.log(self.node)
        step = (logarithm[-1] - logarithm[0]) / self.cells
        return step, (logarithm - logarithm[0]) / step - np.arange(self.cells + 1)

    @cached_property
    def kind(self) -> Literal["linear", "log", "irregular"]:
        """How points are placed: by arithmetic in wavelength or in its logarithm, or by search."""
        if np.abs(self._linear[1]).max() < _NEARLY_LINEAR:
            return "linear"
        if min(self.node[0], self.point[0]) <= 0:  # an edge half a wide pixel before the first
            return "irregular"
        step, shift = self._log
        return "log" if step <= _NEARLY_LOG and np.abs(shift).max() <= _NEARLY_LOG else "irregular"

    @property
    def step(self) -> float:
        """Distance of nodes, in Angstrom or in ln(wavelength)."""
        return float((self._log if self.kind == "log" else self._linear)[0])

    @property
    def start(self) -> float:
        """The first node, Angstrom."""
        return float(self.node[0])

    @property
    def end(self) -> float:
        """The last node, Angstrom."""
        return float(self.node[-1])

    @cached_property
    def finest(self) -> float:
        """Least distance of observed points, in cells, at redshift 0."""
        return float(np.diff(self.point).min() / self.width.max())

    @property
    def curve(self) -> float:
        """Step of a logarithmic grid, 0 of a linear one."""
        return self.step if self.kind == "log" else 0.0

    @property
    def growth(self) -> float:
        """How much wider each cell is than the one before."""
        return float(np.exp(self.curve))

    @cached_property
    def shift(self) -> NDArray[np.float32] | None:
        """Distance of nodes from their places in cells, shape (C + 1,); None if there is none."""
        shift = (self._log if self.kind == "log" else self._linear)[1]
        return None if np.abs(shift).max() < _ROUNDING else shift.astype(np.float32)

    @cached_property
    def largest_shift(self) -> float:
        """Largest of those distances, cells."""
        return 0.0 if self.shift is None else float(np.abs(self.shift).max())

    @cached_property
    def inverse(self) -> NDArray[np.float32] | None:
        """One over the widths of cells, shape (C,), like `shift`."""
        shift = (self._log if self.kind == "log" else self._linear)[1]
        return None if self.shift is None else (1 / (1 + np.diff(shift))).astype(np.float32)

    @cached_property
    def coordinate(self) -> FloatArray:
        """Observed points in units of cells, shape (P,), from which the first node is to be taken."""
        return (np.log(self.point) if self.kind == "log" else self.point) / self.step

    @cached_property
    def lever(self) -> NDArray[np.float32] | None:
        """Upper edges of observed pixels over their widths, shape (L,); None without edges."""
        if not self.conserve_flux:
            return None
        return (self.point[1:] / np.diff(self.point)).astype(np.float32)
