"""Masks of wavelength regions that are unreliable for every spectrum of an instrument."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1)
def sky_lines() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return vacuum wavelengths (Angstrom) and intensities (arbitrary) of bright sky lines."""
    text = (resources.files("spender_core.resources") / "sky_lines.txt").read_text()
    table = np.loadtxt(text.splitlines())
    return table[:, 0], table[:, 1]


def sky_line_mask(
    wave: NDArray[np.float64], min_intensity: float = 2.0, width: float = 5.0
) -> NDArray[np.bool_]:
    """Return which pixels are near a bright sky line.

    A line of intensity I > `min_intensity` masks `width * (1 + log10(I / min_intensity))`
    Angstrom on either side, as in spender 0.3 (`get_skyline_mask`).

    Args:
        wave: Wavelengths, shape (L,), vacuum Angstrom.
        min_intensity: Faintest line to mask; the table holds lines above 2.
        width: Half width of the mask of the faintest line, Angstrom.

    Returns:
        True where masked, shape (L,).
    """
    lines, intensity = sky_lines()
    bright = intensity > min_intensity
    half_width = width * (1 + np.log10(intensity[bright] / min_intensity))
    mask = np.zeros(len(wave), dtype=bool)
    for line, half in zip(lines[bright], half_width, strict=True):
        mask |= np.abs(wave - line) < half
    return mask
