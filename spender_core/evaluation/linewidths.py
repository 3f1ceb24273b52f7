"""Widths of emission lines: in the truth, as an instrument shows them, and in what a model makes.

A model that knows the line spread function of each spectrum has a restframe free of it: its lines
are as narrow as those of the objects. Widths are those of Gaussians on a straight continuum,
fitted by least squares (Levenberg 1944; Marquardt 1963), with one width and one shift for all
lines of a blend.

Shapes: B objects, N pixels, W of them in a window, C components, P parameters of a fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spender_core.errors import InputError

LIGHT = 299792.458
"""Speed of light, km/s."""
WIDEST, NARROWEST = 1000.0, 5.0
"""Limits of a width, km/s; beyond them, there is no line to speak of."""

_FIRST = (25.0, 45.0, 80.0, 140.0, 250.0, 450.0)
_SHIFTS = (-80.0, 0.0, 80.0)
"""Widths and shifts from the best of which a fit begins, km/s."""
_STEPS, _IDLE = 60, 4
"""Steps at most, and without any gain after which a fit ends."""
_COVERED = 0.9
"""Share of the pixels of a window that must be known."""
_SURE = 5.0
"""A line must be so many times higher than the error of its height."""


@dataclass(frozen=True)
class Blend:
    """Lines fitted together, vacuum Angstrom in restframe.

    Attributes:
        name: Of the first of them.
        window: What is fitted.
        components: Lines of fixed ratio, (wavelength, flux) each; every component has a height of
            its own. The first line of the first is the one that is asked for.
    """

    name: str
    window: tuple[float, float]
    components: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def wave(self) -> float:
        """Wavelength of the first line, Angstrom."""
        return self.components[0][0][0]


BLENDS = (
    Blend(
        "Hα",
        (6500.0, 6635.0),
        (((6564.60, 1.0),), ((6585.27, 1.0), (6549.86, 1 / 2.96))),
    ),
    Blend("[O III]", (4930.0, 5040.0), (((5008.24, 1.0), (4960.30, 1 / 2.98)),)),
    Blend("Hβ", (4825.0, 4905.0), (((4862.71, 1.0),),)),
)
"""Strong lines. Wavelengths: NIST, in vacuum; ratios of doublets: Osterbrock & Ferland 2006."""


@dataclass(frozen=True)
class Widths:
    """Widths of a line, shape (B,) each, float64; NaN where there is none to be measured.

    Attributes:
        sigma: Standard deviation, km/s.
        error: Its standard error, km/s.
        velocity: Shift of the blend to the red, km/s.
        strength: Equivalent width of the line, restframe Angstrom; NaN without a continuum.
    """

    sigma: Tensor
    error: Tensor
    velocity: Tensor
    strength: Tensor


@torch.no_grad()
def widths(
    wave: Tensor, flux_BN: Tensor, blend: Blend, z: Tensor | None = None, ivar: Tensor | None = None
) -> Widths:
    """Measure the width of a line in each spectrum.

    Args:
        wave: Wavelengths, shape (N,), vacuum Angstrom, increasing.
        flux_BN: Flux densities, shape (B, N).
        blend: The line, and what it is blended with.
        z: Redshifts of these wavelengths, shape (B,); 0 if they are those of the restframe.
        ivar: Inverse variances, shape (B, N), 0 where masked; or bool, which pixels are known.
            If they tell no variances, or are not given, pixels count alike, and errors follow
            from the scatter around the fit.

    Returns:
        The widths; NaN where less than nine tenths of the window are known, or where the line
        is not above 5 times its error.

    Raises:
        InputError: Shapes do not fit.
    """
    shapes = {"z": (z, flux_BN.shape[:1]), "ivar": (ivar, flux_BN.shape)}
    wrong = [n for n, (t, shape) in shapes.items() if t is not None and t.shape != shape]
    if flux_BN.ndim != 2 or wave.shape != flux_BN.shape[1:] or wrong:
        raise InputError(
            f"{wrong[0] if wrong else 'wave'} does not fit spectra of shape {tuple(flux_BN.shape)}: "
            "wave must be (N,), flux and ivar (B, N), z (B,)"
        )
    stretch_B = 1 + (torch.zeros(len(flux_BN)) if z is None else z).double().cpu()
    rest_BN = wave.double().cpu() / stretch_B[:, None]
    weight_BN = torch.ones(flux_BN.shape, dtype=torch.bool) if ivar is None else ivar
    data, known_B = _window(rest_BN, flux_BN.double().cpu(), weight_BN.double().cpu(), blend)
    fit = _fitted(data, _begun(data))
    return _widths(data, fit, known_B, scatter=weight_BN.dtype == torch.bool)


@dataclass(frozen=True)
class _Data:
    """Pixels around a line: flux in units of `scale`, weights relative to their largest."""

    blend: Blend
    log_wave: Tensor  # ln(wave / that of the line), (B, W)
    flux: Tensor
    weight: Tensor
    scale: Tensor  # (B,)
    most: Tensor  # largest weight, (B,)


@dataclass(frozen=True)
class _Fit:
    """A fit to each spectrum.

    Attributes:
        linear: Heights of the components, level and slope of the continuum, (B, C + 2).
        shape: Shift, and logarithm of the width, (B, 2), in km/s.
        model: What it makes of the pixels, (B, W).
        slopes: Derivatives of that by all parameters, (B, W, P).
        chi2: Weighted sum of squares, (B,).
    """

    linear: Tensor
    shape: Tensor
    model: Tensor = field(repr=False)
    slopes: Tensor = field(repr=False)
    chi2: Tensor


def _window(
    rest_BN: Tensor, flux_BN: Tensor, weight_BN: Tensor, blend: Blend
) -> tuple[_Data, Tensor]:
    """Return the pixels of the window, and of which spectra there are enough."""
    low, high = blend.window
    inside_BN = (rest_BN >= low) & (rest_BN <= high)
    count_B = inside_BN.sum(dim=1)
    first_B = inside_BN.int().argmax(dim=1)
    many = max(int(count_B.max()) if len(count_B) else 0, 1)
    place_BW = (first_B[:, None] + torch.arange(many)).clamp(max=rest_BN.shape[1] - 1)
    used_BW = (torch.arange(many) < count_B[:, None]) & flux_BN.gather(1, place_BW).isfinite()
    weight_BW = weight_BN.gather(1, place_BW) * used_BW
    flux_BW = flux_BN.gather(1, place_BW).where(weight_BW > 0, 0.0)
    step_B = (high - low) / count_B.clamp(min=1)
    whole_B = (rest_BN[:, 0] <= low + step_B) & (rest_BN[:, -1] >= high - step_B)
    enough_B = (weight_BW > 0).sum(dim=1) >= _COVERED * count_B.clamp(min=1)
    parameters = len(blend.components) + 4
    scale_B = flux_BW.abs().amax(dim=1)
    known_B = whole_B & enough_B & (count_B > 2 * parameters) & (scale_B > 0)
    scale_B = scale_B.where(known_B, 1.0)
    most_B = weight_BW.amax(dim=1).where(known_B, 1.0)
    log_BW = (rest_BN.gather(1, place_BW) / blend.wave).log()
    weights = weight_BW / most_B[:, None]
    return _Data(blend, log_BW, flux_BW / scale_B[:, None], weights, scale_B, most_B), known_B


def _basis(data: _Data, shape_B2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return components and continuum, (B, W, C + 2), and derivatives by shift and log width."""
    shift_B1, sigma_B1 = shape_B2[:, :1], shape_B2[:, 1:].exp()
    velocity_BW = LIGHT * data.log_wave
    columns = []
    for lines in data.blend.components:
        parts = torch.zeros(3, *velocity_BW.shape, dtype=torch.float64)
        for wave, strength in lines:
            away_BW = velocity_BW - LIGHT * math.log(wave / data.blend.wave) - shift_B1
            u_BW = away_BW / sigma_B1
            # of the same width in velocity, a line of longer wavelength is lower
            profile_BW = strength * lines[0][0] / wave * torch.exp(-0.5 * u_BW.square())
            parts += torch.stack(
                [profile_BW, profile_BW * u_BW / sigma_B1, profile_BW * u_BW.square()]
            )
        columns.append(parts)
    low, high = data.blend.window
    x_BW = data.log_wave / math.log(high / low)
    flat = torch.stack([torch.ones_like(x_BW), x_BW], dim=-1)
    lines_3BWC = torch.stack(columns, dim=-1)
    return torch.cat([lines_3BWC[0], flat], dim=-1), lines_3BWC[1], lines_3BWC[2]


def _evaluated(data: _Data, linear: Tensor, shape_B2: Tensor) -> _Fit:
    basis, by_shift, by_width = _basis(data, shape_B2)
    model = (basis @ linear[:, :, None])[:, :, 0]
    heights = linear[:, :-2, None]
    slopes = torch.cat([basis, by_shift @ heights, by_width @ heights], dim=-1)
    chi2 = (data.weight * (data.flux - model).square()).sum(dim=1)
    return _Fit(linear, shape_B2, model, slopes, chi2)


def _solved(slopes: Tensor, data: _Data, target_BW: Tensor, damping_B: Tensor) -> Tensor:
    """Return damped least squares solutions, (B, P)."""
    weighted = slopes * data.weight[:, :, None]
    normal = weighted.mT @ slopes
    scale = normal.diagonal(dim1=1, dim2=2)
    scale = scale + 1e-12 * scale.amax(dim=1, keepdim=True) + 1e-300
    normal = normal + torch.diag_embed(damping_B[:, None] * scale)
    right = weighted.mT @ target_BW[:, :, None]
    # scaled to a unit diagonal, in which all parameters are alike
    root = scale.rsqrt()
    alike = normal * root[:, :, None] * root[:, None, :]
    solution: Tensor = torch.linalg.solve_ex(alike, right * root[:, :, None]).result
    return solution[:, :, 0] * root


def _begun(data: _Data) -> _Fit:
    """Return the best of the fits whose widths and shifts are given."""
    rows = len(data.flux)
    small_B = torch.full((rows,), 1e-9, dtype=torch.float64)
    best: _Fit | None = None
    for sigma in _FIRST:
        for shift in _SHIFTS:
            shape_B2 = torch.tensor([shift, math.log(sigma)], dtype=torch.float64).repeat(rows, 1)
            linear = _solved(_basis(data, shape_B2)[0], data, data.flux, small_B)
            tried = _evaluated(data, linear, shape_B2)
            # lines in emission alone
            tried = replace(tried, chi2=tried.chi2.where(linear[:, 0] > 0, torch.inf))
            best = tried if best is None else _chosen(tried.chi2 < best.chi2, tried, best)
    assert best is not None
    return _evaluated(data, best.linear, best.shape)


def _fitted(data: _Data, fit: _Fit) -> _Fit:
    """Return the best fit, by steps of damped least squares."""
    damping_B = torch.full((len(data.flux),), 1e-3, dtype=torch.float64)
    idle = 0
    for _ in range(_STEPS):
        step = _solved(fit.slopes, data, data.flux - fit.model, damping_B)
        linear, shape = fit.linear + step[:, :-2], fit.shape + step[:, -2:].clamp(-100, 100)
        shape[:, 1] = shape[:, 1].clamp(fit.shape[:, 1] - 0.5, fit.shape[:, 1] + 0.5)
        shape[:, 1] = shape[:, 1].clamp(math.log(NARROWEST), math.log(WIDEST))
        tried = _evaluated(data, linear, shape)
        better_B = tried.chi2 < fit.chi2
        idle = 0 if bool((tried.chi2 < (1 - 1e-9) * fit.chi2).any()) else idle + 1
        fit = _chosen(better_B, tried, fit)
        damping_B = torch.where(better_B, damping_B / 5, damping_B * 4).clamp(1e-9, 1e6)
        if idle == _IDLE:
            break
    return fit


def _chosen(first_B: Tensor, one: _Fit, other: _Fit) -> _Fit:
    """Return the first where told so, and else the other."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(first_B.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    names = ("linear", "shape", "model", "slopes", "chi2")
    return _Fit(*(pick(getattr(one, name), getattr(other, name)) for name in names))


def _widths(data: _Data, fit: _Fit, known_B: Tensor, scatter: bool) -> Widths:
    normal = (fit.slopes * data.weight[:, :, None]).mT @ fit.slopes
    parameters = normal.shape[1]
    variance = torch.linalg.pinv(normal, hermitian=True).diagonal(dim1=1, dim2=2)
    if scatter:
        freedom_B = ((data.weight > 0).sum(dim=1) - parameters).clamp(min=1)
        variance = variance * (fit.chi2 / freedom_B)[:, None]
    else:
        variance = variance / (data.most * data.scale.square())[:, None]
    error = variance.clamp(min=0).sqrt()
    sigma_B = fit.shape[:, 1].exp()
    height_B, level_B = fit.linear[:, 0], fit.linear[:, -2]
    within_B = (sigma_B > 1.01 * NARROWEST) & (sigma_B < 0.99 * WIDEST)
    sound_B = known_B & within_B & (height_B > 0) & (height_B > _SURE * error[:, 0])
    area_B = height_B * math.sqrt(2 * math.pi) * sigma_B / LIGHT * data.blend.wave
    strength_B = (area_B / level_B).where(level_B > 0, torch.nan)
    columns = (sigma_B, error[:, -1] * sigma_B, fit.shape[:, 0], strength_B)
    return Widths(*(column.where(sound_B, torch.nan) for column in columns))
