"""Stellar populations from formulas alone: no file is needed.

The logarithm of a spectrum is a smooth continuum less the optical depths of the features that
old and young stars show, each with a strength for every age:

    ln f(age, w) = ln continuum(age, w) - sum_g strength(age, g) depth_g(w)

Where a feature lies and what shape it has is written here: the Balmer and Paschen series with
Stark wings, Ca II, Mg, Na, Fe and CH lines, edges of the ultraviolet, TiO bands. Continuum and
strengths (`parametric_tables`) are figures measured on the 15 single bursts published with
redmonster (Hutchinson et al. 2016, AJ 152, 205), by least squares. The dense forest of weak metal
lines is pseudo-random: no line of it is real, only its density and depth follow those bursts.

Shapes: A ages, G features, M pixels of `FINE`, N lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from spender_core.datasets.mock.parametric_stars import (
    STAR_CLASSES,
    STAR_CONTINUUM,
    STAR_KNOTS,
    STAR_STRENGTHS,
)
from spender_core.datasets.mock.parametric_tables import AGES, CONTINUUM, KNOTS, STRENGTHS
from spender_core.datasets.mock.sources import FINE, KMS
from spender_core.datasets.mock.templates import Populations

FloatArray = NDArray[np.float64]

_WAVE: FloatArray = FINE.wave
_RESOLUTION = 70.0  # dispersion of narrow lines, km/s: that of the bursts
_SIGMA = _RESOLUTION / KMS
_RYDBERG = 911.753  # 1 / R_H, Angstrom, so that Balmer alpha lies at 6564.62 (NIST)

# Vacuum wavelength (Angstrom) and relative optical depth of strong lines. Wavelengths: NIST.
_LINES: dict[str, tuple[tuple[float, float], ...]] = {
    "calcium_hk": ((3934.78, 1.0), (3969.59, 0.85)),
    "calcium_triplet": ((8500.35, 0.45), (8544.44, 1.0), (8664.52, 0.8)),
    "calcium_4228": ((4227.92, 1.0),),
    "magnesium_b": ((5168.76, 0.6), (5174.13, 0.85), (5185.05, 1.0)),
    "sodium_d": ((5891.58, 1.0), (5897.56, 0.9)),
    "sodium_8190": ((8185.51, 0.7), (8197.08, 1.0)),
    "potassium": ((7667.02, 1.0), (7701.08, 0.8)),
    "helium": (
        (4027.33, 0.6), (4472.73, 1.0), (4923.30, 0.35), (4389.16, 0.35), (5017.08, 0.35),
        (5877.25, 0.9), (6679.99, 0.6), (7067.14, 0.5), (4144.93, 0.35), (3820.69, 0.5),
    ),
    "iron_blue": (
        (3442.0, 0.8), (3466.85, 0.7), (3476.45, 0.6), (3491.57, 0.7), (3498.83, 0.6),
        (3566.40, 0.7), (3571.12, 1.0), (3582.22, 1.0), (3609.89, 0.8), (3619.80, 0.9),
        (3632.50, 0.9), (3648.88, 0.8), (3680.96, 0.5), (3706.62, 0.5), (3720.99, 1.0),
        (3735.93, 1.0), (3738.19, 0.9), (3746.64, 0.9), (3749.33, 0.9), (3750.55, 0.7),
        (3759.30, 0.9), (3764.86, 0.7), (3768.26, 0.7), (3788.95, 0.5), (3796.08, 0.6),
        (3816.92, 0.8), (3821.51, 1.0), (3826.97, 0.9), (3828.91, 0.8), (3835.31, 0.9),
        (3857.47, 0.7), (3861.01, 1.0), (3879.67, 0.7), (3887.38, 0.7), (3896.76, 0.6),
        (3900.81, 0.7), (3907.59, 0.5), (3921.37, 0.6), (3923.99, 0.6), (3929.03, 0.7),
        (4046.95, 0.9), (4064.74, 0.8), (4072.89, 0.7), (4133.23, 0.5), (4145.04, 0.6),
        (4203.21, 0.5), (4251.32, 0.4), (4251.98, 0.5), (4261.67, 0.5), (4272.36, 0.6),
        (4273.36, 0.5), (4308.99, 0.7), (4326.98, 0.7), (4384.78, 1.0), (4405.99, 0.7),
        (4416.36, 0.5),
    ),
    "iron_green": (
        (4529.88, 0.4), (4532.4, 0.35), (4669.4, 0.3), (4892.12, 0.45), (4920.36, 0.6),
        (4958.68, 0.7), (5013.4, 0.4), (5016.3, 0.35), (5042.9, 0.4), (5052.3, 0.35),
        (5080.6, 0.35), (5112.2, 0.35), (5168.9, 0.4), (5170.77, 0.6), (5172.0, 0.45),
        (5196.6, 0.3), (5206.5, 0.4), (5207.5, 0.5), (5209.9, 0.6), (5228.9, 0.5),
        (5234.4, 0.4), (5268.5, 0.5), (5271.0, 0.9), (5271.8, 0.6), (5285.1, 0.25),
        (5325.7, 0.4), (5329.5, 0.9), (5342.5, 0.4), (5372.98, 0.6), (5398.63, 0.55),
        (5407.27, 0.6), (5431.2, 0.5), (5448.4, 0.45), (5457.1, 0.5), (5499.0, 0.25),
        (5503.0, 0.2), (5508.3, 0.25), (5574.4, 0.25), (5588.3, 0.25), (5590.3, 0.3),
        (5617.2, 0.3), (5710.9, 0.25), (5783.7, 0.2), (5858.9, 0.2), (6104.4, 0.25),
        (6123.9, 0.35), (6138.4, 0.35), (6163.9, 0.4), (6193.3, 0.25), (6232.4, 0.25),
        (6254.3, 0.25), (6302.3, 0.2), (6395.4, 0.3), (6402.0, 0.3), (6440.9, 0.3),
        (6464.4, 0.25), (6496.7, 0.45), (6498.8, 0.3), (6594.7, 0.2), (6679.8, 0.25),
        (6769.7, 0.15), (7447.8, 0.15), (7497.1, 0.2), (7513.1, 0.25), (8329.4, 0.25),
        (8390.1, 0.25), (8470.7, 0.2), (8690.99, 0.35), (8827.0, 0.25), (8809.2, 0.3),
    ),
    "magnesium_ultraviolet": ((2796.35, 1.0), (2803.53, 0.95), (2852.96, 0.9)),
    "iron_ultraviolet": (
        (2344.2, 0.7), (2374.5, 0.6), (2382.8, 1.0), (2396.4, 0.8), (2405.6, 0.7), (2411.3, 0.6),
        (2484.0, 0.8), (2489.5, 0.7), (2523.6, 0.7), (2586.6, 0.8), (2599.1, 0.9), (2600.2, 1.0),
        (2607.9, 0.7), (2612.7, 0.7), (2618.4, 0.5), (2626.5, 0.6), (2632.1, 0.6), (2720.0, 0.6),
        (2737.3, 0.5), (2740.4, 0.7), (2750.1, 0.8), (2756.6, 0.7), (2967.8, 0.5), (2974.1, 0.5),
        (2984.4, 0.5), (2995.3, 0.4), (3021.5, 0.6), (3048.5, 0.5), (3058.3, 0.5), (3059.9, 0.4),
    ),
}  # fmt: skip
# Lines with broad wings: group, lines that have them, half width of the wings (Angstrom).
_WINGS = (
    ("calcium_hk", 12.0),
    ("magnesium_ultraviolet", 9.0),
    ("magnesium_b", 12.0),
    ("calcium_triplet", 3.0),
    ("sodium_d", 6.0),
)
# Bands: edges (Angstrom) and how softly they begin at the blue and end at the red side.
_BANDS: dict[str, tuple[tuple[float, float, float, float, float], ...]] = {
    "ch_4300": ((4285.0, 4316.0, 5.0, 3.0, 1.0),),
    "cn_3884": ((3855.0, 3884.0, 12.0, 2.0, 1.0),),
    "cn_4217": ((4135.0, 4217.0, 12.0, 3.0, 1.0),),
    # blends of the Lick indices of iron (Worthey et al. 1994, ApJS 94, 687)
    "iron_blends": (
        (4371.0, 4420.0, 4.0, 8.0, 0.8), (4516.0, 4560.0, 4.0, 5.0, 0.5),
        (4635.0, 4720.0, 8.0, 10.0, 0.5), (5000.0, 5055.0, 6.0, 6.0, 0.4),
        (5318.0, 5346.0, 3.0, 3.0, 0.8), (5390.0, 5412.0, 3.0, 3.0, 0.4),
        (6130.0, 6175.0, 6.0, 6.0, 0.25),
    ),
    "iron_5270": ((5250.0, 5286.0, 2.0, 2.0, 1.0),),
    "magnesium_hydride": ((5000.0, 5212.0, 40.0, 6.0, 1.0),),
    # band heads of titanium oxide, degraded to the red (Pearse & Gaydon 1976)
    "titanium_oxide_blue": (
        (4763.0, 4840.0, 2.0, 25.0, 0.5), (4956.0, 5040.0, 2.0, 30.0, 0.7),
        (5169.0, 5240.0, 2.0, 30.0, 0.5), (5450.0, 5540.0, 2.0, 40.0, 0.35),
    ),
    "titanium_oxide_5849": ((5849.0, 5960.0, 2.0, 40.0, 0.5), (6160.0, 6280.0, 3.0, 50.0, 0.9)),
    "titanium_oxide_6653": ((6653.0, 6820.0, 3.0, 60.0, 0.9),),
    "titanium_oxide_7056": ((7056.0, 7260.0, 3.0, 80.0, 1.3),),
    "titanium_oxide_7591": ((7591.0, 7720.0, 3.0, 120.0, 1.1),),
    "titanium_oxide_8434": ((8434.0, 8500.0, 3.0, 80.0, 0.9), (8862.0, 8960.0, 3.0, 60.0, 0.8)),
    "titanium_oxide_9211": ((9211.0, 9350.0, 10.0, 80.0, 0.8),),
    "calcium_hydride": (
        (6382.0, 6400.0, 3.0, 12.0, 0.4), (6770.0, 6900.0, 10.0, 30.0, 0.6),
        (6905.0, 7045.0, 5.0, 20.0, 0.8),
    ),
    "vanadium_oxide": ((7340.0, 7550.0, 15.0, 30.0, 1.0), (7860.0, 8050.0, 15.0, 60.0, 0.7)),
}  # fmt: skip
# Photo-ionisation edges of metals, vacuum Angstrom: Si I, Al I, and where Mg I and iron set in.
_EDGES = {"edge_1682": 1682.0, "edge_2077": 2077.0, "edge_2527": 2527.0, "edge_2640": 2640.0}
_WINDOWS = (1585, 2100, 2700, 3200, 3700, 4000, 4500, 5000, 5600, 6500, 7600, 9000, 10850)
_FOREST = 2400  # lines
_LAST = 28  # of the lines of a series, the first that is left out


def populations() -> Populations:
    """Make stellar populations of 15 ages, 3 Myr to 10 Gyr, of about solar metallicity."""
    flux = _spectra(CONTINUUM, KNOTS, STRENGTHS)
    return Populations(
        torch.tensor(AGES, dtype=torch.float64),
        torch.tensor(flux, dtype=torch.float32),
        "parametric",
        dispersion=_RESOLUTION,
    )


def star_spectra(contrast: float = 1.0) -> dict[str, FloatArray]:
    """Make stars of each spectral class, from the hottest to the coolest of it.

    Args:
        contrast: Factor of the optical depth of everything that absorbs: a proxy of metallicity.

    Returns:
        By class, shape (types, M); without meaning below 3000 Angstrom.
    """
    strengths = {
        name: tuple(contrast * value for value in row) for name, row in STAR_STRENGTHS.items()
    }
    flux = _spectra(STAR_CONTINUUM, STAR_KNOTS, strengths)
    classes = np.array(STAR_CLASSES)
    return {name: flux[classes == name] for name in dict.fromkeys(STAR_CLASSES)}


def _spectra(
    continuum: Sequence[Sequence[float]],
    knots: Sequence[float],
    strengths: Mapping[str, Sequence[float]],
) -> FloatArray:
    """Return spectra of some kinds, shape (kinds, M)."""
    names, depth_GM = depths()
    strength_G = np.array([strengths[name] for name in names]).T
    flux: FloatArray = 10 ** (np.array(continuum) @ continuum_basis(knots))
    return flux * np.exp(-strength_G @ depth_GM)


def continuum_basis(knots: Sequence[float]) -> FloatArray:
    """Return what one knot of the continuum (Angstrom) adds at every pixel, shape (knots, M).

    Cubic Hermite interpolation in log wavelength, with the slopes of finite differences; the
    first and last value beyond the ends.
    """
    nodes = np.log10(np.array(knots))
    x = np.log10(_WAVE).clip(nodes[0], nodes[-1])
    size = len(nodes)
    value: FloatArray = np.eye(size)
    slope: FloatArray = np.gradient(value, nodes, axis=1)
    left = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, size - 2)
    width = nodes[left + 1] - nodes[left]
    t = (x - nodes[left]) / width
    basis: FloatArray = (
        (1 + 2 * t) * (1 - t) ** 2 * value[:, left]
        + t * (1 - t) ** 2 * width * slope[:, left]
        + t**2 * (3 - 2 * t) * value[:, left + 1]
        + t**2 * (t - 1) * width * slope[:, left + 1]
    )
    return basis


@cache
def depths() -> tuple[tuple[str, ...], FloatArray]:
    """Return the names of the features and their optical depths at strength 1, shape (G, M)."""
    features = {name: _narrow(np.array(lines)) for name, lines in _LINES.items()}
    for name, width in _WINGS:
        features[f"{name}_wings"] = sum(
            (depth * _wing(centre, width) for centre, depth in _LINES[name]), np.zeros(FINE.size)
        )
    for name, bands in _BANDS.items():
        features[name] = sum((_band(*band) for band in bands), np.zeros(FINE.size))
    for name, edge in _EDGES.items():
        features[name] = _step(edge, 4.0)
    features |= _hydrogen() | _forest()
    return tuple(features), np.stack(list(features.values()))


def _hydrogen() -> dict[str, FloatArray]:
    """Return lines and edges of the Balmer and Paschen series."""
    features: dict[str, FloatArray] = {}
    series = (
        ("balmer_low", 2, 3, 5),
        ("balmer_middle", 2, 5, 7),
        ("balmer_high", 2, 7, _LAST),
        ("paschen", 3, 6, _LAST),
    )
    for name, lower, first, beyond in series:
        upper = np.arange(first, beyond)
        centres = _RYDBERG / (lower**-2.0 - upper**-2.0)
        depth = np.where(upper < lower + 8, 1.0, ((lower + 8) / upper) ** 1.5)
        # alpha and gamma are shallower than their neighbours, the higher the deeper to epsilon
        depth[upper == 3], depth[upper == 5] = 0.6, 0.85
        core = _narrow(np.stack([centres, depth], axis=1))
        # the last lines run into the edge, which so stands a little to the red of the limit
        limit = _RYDBERG * lower**2 * 1.008
        below = _step(limit, 5.0)
        features[f"{name}_core"] = core * (1 - below)
        for label, half in (("inner", 4.0), ("wings", 12.0), ("far", 36.0)):
            wings = sum(
                (d * _wing(c, half) for c, d in zip(centres, depth, strict=True)),
                np.zeros(FINE.size),
            )
            features[f"{name}_{label}"] = wings * (1 - below)
        if beyond == _LAST:
            features[f"{name}_edge"] = below * (_WAVE / limit) ** 3
    return features


def _forest() -> dict[str, FloatArray]:
    """Return weak metal lines, one feature for every window of wavelength."""
    # fractional parts of k^2 sqrt(2): even, without the regular steps of k sqrt(2)
    count = np.arange(1, _FOREST + 1, dtype=np.float64)
    place, depth = ((count**2 * np.sqrt(prime)) % 1 for prime in (2, 3))
    centres = _WAVE[0] * (_WAVE[-1] / _WAVE[0]) ** (place**1.15)
    lines = _narrow(np.stack([centres, -np.log(depth)], axis=1))
    middle = np.convolve(_WINDOWS, [0.5, 0.5], "valid")
    x = np.log(_WAVE)
    return {
        f"forest_{first}": lines * np.interp(x, np.log(middle), np.eye(len(middle))[i])
        for i, first in enumerate(_WINDOWS[:-1])
    }


def _narrow(lines_N2: FloatArray) -> FloatArray:
    """Sum Gaussians of one dispersion at some centres (Angstrom) with some depths, (M,)."""
    half = int(6 * _SIGMA) + 1
    middle = (np.log10(lines_N2[:, 0]) - FINE.start) / FINE.step
    pixel = np.rint(middle)[:, None].astype(np.int64) + np.arange(-half, half + 1)
    profile = lines_N2[:, 1:] * np.exp(-0.5 * ((pixel - middle[:, None]) / _SIGMA) ** 2)
    inside = (pixel >= 0) & (pixel < FINE.size)
    total = np.zeros(FINE.size)
    np.add.at(total, pixel[inside], profile[inside])
    return total


def _wing(centre: float, half_width: float) -> FloatArray:
    """Return the power-law wing of a line: 1 at its centre, (half_width / distance)^2 far away."""
    wing: FloatArray = 1 / (1 + ((_WAVE - centre) / half_width) ** 2)
    return wing


def _step(edge: float, softness: float) -> FloatArray:
    """Return 1 below a wavelength and 0 above it, with a softness in Angstrom."""
    step: FloatArray = 1 / (1 + np.exp(np.clip((_WAVE - edge) / softness, -80, 80)))
    return step


def _band(blue: float, red: float, begin: float, end: float, depth: float) -> FloatArray:
    """Return a band between two edges, each with a softness in Angstrom."""
    return depth * (1 - _step(blue, begin)) * _step(red, end)
