"""Wavelength grids: linear, logarithmic, or a table of wavelengths.

Grids live on the host in float64, as numpy arrays, so that a device without float64
loses no precision. All wavelengths are vacuum Angstrom, strictly increasing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import GridError

FloatArray = NDArray[np.float64]


class Grid:
    """Base of the three kinds of grid. Two grids are equal if their hashes are."""

    size: int

    @cached_property
    def wave(self) -> FloatArray:
        """Wavelengths of the pixel centres, shape (size,), Angstrom, read-only."""
        nodes = np.asarray(self._nodes(), dtype=np.float64)
        check_nodes(nodes)
        nodes.setflags(write=False)
        return nodes

    @cached_property
    def edges(self) -> FloatArray:
        """Pixel edges, shape (size + 1,), Angstrom: half way between the centres."""
        return pixel_edges(self.wave)

    @cached_property
    def sha256(self) -> str:
        """Hash of the definition: equal on every machine, whatever its maths library."""
        return hashlib.sha256(self._definition()).hexdigest()

    def _nodes(self) -> FloatArray:
        raise NotImplementedError

    def _definition(self) -> bytes:
        raise NotImplementedError

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def pixel_offset(self, wave: ArrayLike) -> float:
        """Return the largest distance, in pixels, between this grid and other nodes.

        Infinite if the number of nodes differs.
        """
        other = np.asarray(wave, dtype=np.float64)
        if other.shape != self.wave.shape:
            return float("inf")
        return float(np.max(np.abs(other - self.wave) / np.diff(self.edges)))


@dataclass(frozen=True, eq=False)
class Linear(Grid):
    """Wavelengths `start + step * i`, in Angstrom.

    Example:
        >>> Linear(3600.0, 0.8, 7781).wave[-1]
        np.float64(9824.0)
    """

    start: float
    step: float
    size: int

    def _nodes(self) -> FloatArray:
        nodes: FloatArray = np.add(self.start, self.step * np.arange(self.size), dtype=np.float64)
        return nodes

    def _definition(self) -> bytes:
        return f"linear {float(self.start)!r} {float(self.step)!r} {int(self.size)}".encode()


@dataclass(frozen=True, eq=False)
class Log(Grid):
    """Wavelengths `10 ** (start + step * i)`; `start` and `step` are log10 of Angstrom.

    Example:
        >>> round(Log(3.578, 1e-4, 3921).wave[0], 3)
        np.float64(3784.426)
    """

    start: float
    step: float
    size: int

    def _nodes(self) -> FloatArray:
        exponents = self.start + self.step * np.arange(self.size)
        nodes: FloatArray = np.power(10.0, exponents, dtype=np.float64)
        return nodes

    def _definition(self) -> bytes:
        return f"log10 {float(self.start)!r} {float(self.step)!r} {int(self.size)}".encode()


class Table(Grid):
    """Wavelengths given one by one, in Angstrom; taken as they are.

    Example:
        >>> Table([4000.0, 4001.0, 4002.5]).size
        3
    """

    def __init__(self, wave: ArrayLike) -> None:
        self._wave = np.array(np.asarray(wave), dtype=np.float64)
        check_nodes(self._wave)
        self.size = len(self._wave)

    def __repr__(self) -> str:
        return f"Table({self._wave[0]:.2f} ... {self._wave[-1]:.2f}, size={self.size})"

    def _nodes(self) -> FloatArray:
        return self._wave

    def _definition(self) -> bytes:
        return b"table " + self._wave.astype("<f8").tobytes()


def as_grid(grid: Grid | ArrayLike | Any) -> Grid:
    """Return `grid` itself, or a `Table` of the wavelengths given (array or tensor)."""
    return grid if isinstance(grid, Grid) else Table(grid)


def pixel_edges(wave: FloatArray) -> FloatArray:
    """Return the edges of pixels, shape (N + 1,): half way between their centres, shape (N,)."""
    middle = 0.5 * (wave[1:] + wave[:-1])
    first, last = 2 * wave[0] - middle[0], 2 * wave[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def check_nodes(wave: FloatArray) -> None:
    """Check that wavelengths can be a grid.

    Raises:
        GridError: They are not at least two in one dimension, finite, positive and increasing.
    """
    if wave.ndim != 1 or len(wave) < 2:
        raise GridError(
            f"a grid needs at least two wavelengths in one dimension, got shape {wave.shape}"
        )
    if not np.isfinite(wave).all() or wave[0] <= 0:
        raise GridError("wavelengths must be finite and positive, in vacuum Angstrom")
    steps = np.diff(wave)
    if not (steps > 0).all():
        where = int(np.argmin(steps > 0))
        raise GridError(
            f"wavelengths must increase strictly, but pixel {where} is at {wave[where]} "
            f"and pixel {where + 1} at {wave[where + 1]} Angstrom; sort the spectrum first"
        )
