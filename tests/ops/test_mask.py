"""The mask of sky lines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from spender_core.grid import Grid, Linear, Log
from spender_core.ops.mask import sky_line_mask, sky_lines

FINE = np.arange(5000.0, 9000.0, 0.1)
GRIDS = {
    "sdss": Log(3.578, 1e-4, 3921),
    "boss": Log(3.549, 1e-4, 4686),
    "desi": Linear(3600.0, 0.8, 7781),
}


def half_width(line: float) -> float:
    """Return half the width of the masked stretch around a line, Angstrom."""
    near = np.arange(line - 40, line + 40, 0.01)
    mask = sky_line_mask(near)
    centre = len(near) // 2
    left = centre - int(np.argmin(mask[centre::-1]))
    right = centre + int(np.argmin(mask[centre:]))
    return float(near[right] - near[left]) / 2


def test_the_brightest_line_is_masked() -> None:
    """[O I] at 5578.9 Angstrom in vacuum; 5577.3 would be its wavelength in air."""
    lines, intensity = sky_lines()
    row = int(np.argmin(np.abs(lines - 5578.9)))
    assert lines[row] == pytest.approx(5578.887)
    expected = 5 * (1 + np.log10(intensity[row] / 2))
    assert half_width(lines[row]) == pytest.approx(expected, abs=0.02)


def test_widths_grow_with_intensity() -> None:
    lines, intensity = sky_lines()
    alone = [
        row
        for row, line in enumerate(lines)
        if FINE[0] + 50 < line < FINE[-1] - 50
        and np.sort(np.abs(lines - line))[1] > 40
        and intensity[row] > 2
    ]
    assert len(alone) >= 3
    by_intensity = sorted(alone, key=lambda row: intensity[row])
    widths = [half_width(lines[row]) for row in by_intensity]
    assert (np.diff(widths) >= -0.02).all()
    assert widths[-1] > widths[0] > 5


def test_a_higher_threshold_masks_less() -> None:
    masks = [sky_line_mask(FINE, min_intensity=level) for level in (2.0, 10.0, 50.0, 1e9)]
    for more, less in pairwise(masks):
        assert (more | ~less).all()
        assert more.sum() > less.sum()
    assert not masks[-1].any()


@pytest.mark.parametrize("name", GRIDS)
def test_most_of_a_spectrum_is_left(name: str) -> None:
    mask = sky_line_mask(GRIDS[name].wave)
    assert mask.shape == (GRIDS[name].size,)
    assert 0.02 < mask.mean() < 0.4


@pytest.mark.parametrize("name", GRIDS)
def test_the_mask_is_that_of_spender(name: str) -> None:
    theirs = pytest.importorskip(
        "spender.instrument", reason="the oracle spender 0.3 is not installed"
    )
    grid: Grid = GRIDS[name]
    expected = theirs.get_skyline_mask(torch.tensor(grid.wave)).numpy()
    assert (sky_line_mask(grid.wave) == expected).all()
