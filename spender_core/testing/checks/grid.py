"""Checks of the grid and the mask of an instrument."""

from __future__ import annotations

import numpy as np

from spender_core.errors import GridError
from spender_core.grid import Grid
from spender_core.testing.faults import ContractError, expect
from spender_core.testing.subject import Subject


def check_grid_increases(subject: Subject) -> None:
    """The grid is a Grid of strictly increasing wavelengths, in vacuum Angstrom."""
    one = subject.instrument
    try:
        grid, wave = one.grid, one.grid.wave
    except GridError as error:
        raise ContractError(
            "wavelengths increase strictly from pixel to pixel",
            str(error),
            "give the grid in increasing order; if the file's order is reversed, let load reverse "
            "flux, ivar and LSF with [:, ::-1]",
        ) from error
    except AttributeError as error:
        raise ContractError(
            "grid is a Linear, Log or Table of spender_core.grid",
            str(error),
            "wrap wavelengths in grid.Table(wave)",
        ) from error
    expect(
        isinstance(grid, Grid) and wave.shape == (grid.size,) and np.array_equal(one.wave, wave),
        expected="grid is a Linear, Log or Table, of as many pixels as wavelengths",
        found=f"a {type(grid).__name__}, {grid.size} pixels and {len(wave)} wavelengths, "
        f"{len(one.wave)} in wave",
        fix="set `grid` alone, and leave `wave` to core",
    )
    expect(
        100 < wave[0] < wave[-1] < 1e6,
        expected="wavelengths in vacuum Angstrom, from 100 to 1e6",
        found=f"the grid runs from {wave[0]:g} to {wave[-1]:g}",
        fix="convert the unit: nm times 10, micron times 1e4; Log takes log10 of Angstrom",
    )


def check_grid_is_stable(subject: Subject) -> None:
    """Two instances of the instrument have one grid, by its hash."""
    one = subject.instrument
    other = type(one)()
    expect(
        one.grid.sha256 == other.grid.sha256,
        expected="every instance has the same grid, since models know it by its hash",
        found=f"hashes {one.grid.sha256[:8]} and {other.grid.sha256[:8]}",
        fix="make the grid of constants, not of files or of the time",
    )


def check_mask(subject: Subject) -> None:
    """The mask, if any, is True at pixels never to be used, and has the grid's shape."""
    mask, size = subject.instrument.mask, subject.instrument.grid.size
    if mask is None:
        return
    expect(
        isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (size,),
        expected=f"mask is an array of bool of the grid's shape, ({size},)",
        found=f"{getattr(mask, 'dtype', type(mask).__name__)} of shape {np.shape(mask)}",
        fix="make it from the wavelengths of the same grid, e.g. np.abs(grid.wave - 5578.9) < 10",
    )
    expect(
        mask.mean() <= 0.5,
        expected="mask is True at the few pixels that are never to be used",
        found=f"it is True at {mask.mean():.0%} of the pixels: is it inverted?",
        fix="return ~mask, if True means good pixels there",
    )
