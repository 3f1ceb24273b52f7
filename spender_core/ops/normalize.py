"""The amplitude of a spectrum: from a flat part of its restframe, or fitted to a model.

Spectra in the memory of the host go through the kernels of native/normalize.c where they are
compiled, all others through torch, with the same results.

Shapes: B spectra, L observed pixels, W of them around the window.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from spender_core import native
from spender_core.native import pointer, share_rows
from spender_core.native.memory import empty
from spender_core.ops.resample import coordinate_device

NORM_WINDOW = (5300.0, 5850.0)
"""Restframe wavelengths in which galaxy spectra are rather flat, Angstrom; observed by
SDSS out to z ~ 0.5 (Melchior et al. 2023, AJ 166, 74)."""


_TYPES = {torch.float32: "f32", torch.float64: "f64"}

_CHUNK = 64
"""Spectra whose windows torch looks at together."""


class Normalized(NamedTuple):
    """Spectra divided by their amplitude, and what came of it.

    Attributes:
        flux: Shape (B, L); 0 where it, or its ivar, was not finite.
        ivar: Shape (B, L); 0 there, and where pixels are not kept.
        norm: Amplitudes, shape (B,), > 0, of the type of flux.
        used_rms: Where the norm is an RMS, bool (B,).
        before: Pixels with ivar > 0 that are kept, int64 (B,).
        after: Pixels with ivar > 0 in the result, int64 (B,).
        over: Pixels that were not finite, int64 (B,).
    """

    flux: Tensor
    ivar: Tensor
    norm: Tensor
    used_rms: Tensor
    before: Tensor
    after: Tensor
    over: Tensor


def normalize(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    window: tuple[float, float] = NORM_WINDOW,
    keep_L: Tensor | None = None,
) -> Normalized:
    """Divide spectra by their `normalization`, and their ivar by its inverse square.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L), >= 0.
        z_B: Redshifts, shape (B,); NaN where unknown.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        window: Restframe range, Angstrom.
        keep_L: Which pixels may be used, bool (L,); all if absent.
    """
    if not _is_compiled(flux_BL, ivar_BL):
        return _by_torch(flux_BL, ivar_BL, z_B, wave_obs_L, window, keep_L)
    shape, kind = flux_BL.shape, _TYPES[flux_BL.dtype]
    flux_BL, ivar_BL = flux_BL.contiguous(), ivar_BL.contiguous()
    keep_L = torch.ones(shape[1], dtype=torch.bool) if keep_L is None else keep_L.contiguous()
    scaled_BL, scaled_ivar_BL = (empty(shape, flux_BL.dtype) for _ in range(2))
    norm_B = _medians(flux_BL, ivar_BL, z_B, wave_obs_L, window, keep_L, scaled_BL)
    used_rms_B = ~(norm_B > 0)
    if bool(used_rms_B.any()):
        good_BL = (ivar_BL[used_rms_B] > 0) & keep_L
        norm_B[used_rms_B] = _rms(flux_BL[used_rms_B], good_BL)
    tally_B3 = torch.empty((shape[0], 3), dtype=torch.int64)
    arrays = (flux_BL, ivar_BL, keep_L, norm_B, scaled_BL, scaled_ivar_BL, tally_B3)
    _share(f"spender_scale_{kind}", *map(pointer, arrays), shape=shape)
    return Normalized(scaled_BL, scaled_ivar_BL, norm_B, used_rms_B, *tally_B3.unbind(1))


def _by_torch(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    window: tuple[float, float],
    keep_L: Tensor | None,
) -> Normalized:
    if keep_L is not None:
        ivar_BL = torch.where(keep_L.to(ivar_BL.device), ivar_BL, 0)
    chunks = zip(flux_BL.split(_CHUNK), ivar_BL.split(_CHUNK), z_B.split(_CHUNK), strict=True)
    done = [normalization(*chunk, wave_obs_L, window) for chunk in chunks]
    norm_B, used_rms_B = (torch.cat(parts) for parts in zip(*done, strict=True))
    before_B = (ivar_BL > 0).sum(dim=1)
    flux_BL, ivar_BL = flux_BL / norm_B[:, None], ivar_BL * norm_B[:, None] ** 2
    over_BL = ~(flux_BL.isfinite() & ivar_BL.isfinite())
    flux_BL, ivar_BL = flux_BL.masked_fill(over_BL, 0), ivar_BL.masked_fill(over_BL, 0)
    after_B, over_B = (ivar_BL > 0).sum(dim=1), over_BL.sum(dim=1)
    return Normalized(flux_BL, ivar_BL, norm_B, used_rms_B, before_B, after_B, over_B)


def _is_compiled(flux_BL: Tensor, ivar_BL: Tensor) -> bool:
    """Tell whether there are kernels for these spectra; they know no derivatives."""
    tensors = (flux_BL, ivar_BL)
    return (
        all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors)
        and flux_BL.dtype == ivar_BL.dtype
        and flux_BL.dtype in _TYPES
        and native.library() is not None
    )


def _medians(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    window: tuple[float, float],
    keep_L: Tensor,
    room_BL: Tensor,
) -> Tensor:
    """Return what `_window_median` does, by the kernel; room_BL is written to."""
    median_B = torch.empty(len(flux_BL), dtype=flux_BL.dtype)
    wave_L, z_B = (t.to("cpu", torch.float64).contiguous() for t in (wave_obs_L, z_B))
    limits = (ctypes.c_double(limit) for limit in window)
    arrays = map(pointer, (flux_BL, ivar_BL, keep_L, wave_L, z_B))
    results = map(pointer, (room_BL, median_B))
    name = f"spender_medians_{_TYPES[flux_BL.dtype]}"
    _share(name, *arrays, *limits, *results, shape=flux_BL.shape)
    return median_B


def _share(
    name: str, *arguments: ctypes.c_void_p | ctypes.c_double, shape: tuple[int, ...]
) -> None:
    """Call a kernel for all rows, with the number of pixels behind its arguments."""
    library = native.library()
    assert library is not None
    kernel, pixels = getattr(library, name), ctypes.c_int64(shape[1])

    def work(first: int, last: int) -> None:
        kernel(*arguments, pixels, ctypes.c_int64(first), ctypes.c_int64(last))

    share_rows(work, *shape)


def normalization(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    window: tuple[float, float] = NORM_WINDOW,
) -> tuple[Tensor, Tensor]:
    """Return the positive amplitude by which each spectrum is divided.

    It is the median of the good pixels (ivar > 0) in the restframe window. Where z is
    unknown, the window unobserved, or the median not positive, it is the RMS of all
    good pixels; and 1 for a spectrum without any good pixel or without any flux.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L).
        z_B: Redshifts, shape (B,); NaN where unknown.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        window: Restframe range, Angstrom.

    Returns:
        The amplitudes, shape (B,), > 0, and where the median was *not* used, bool (B,).
    """
    median_B = _window_median(flux_BL, ivar_BL, z_B, wave_obs_L, window)
    usable_B = median_B > 0  # False for NaN
    if bool(usable_B.all()):
        return median_B, ~usable_B
    return torch.where(usable_B, median_B, _rms(flux_BL, ivar_BL > 0)), ~usable_B


def _window_median(
    flux_BL: Tensor, ivar_BL: Tensor, z_B: Tensor, wave_obs_L: Tensor, window: tuple[float, float]
) -> Tensor:
    """Return medians of the good pixels in a restframe window, shape (B,); NaN if there is none.

    Only the few pixels that can be in the window are looked at.
    """
    home = coordinate_device(flux_BL.device)
    obs_L, stretch_B1 = wave_obs_L.to(home), 1 + z_B.to(home, torch.float64)[:, None]
    # one pixel more on either side; what is inside is decided below, without rounding
    ends_B2 = torch.searchsorted(obs_L, torch.tensor(window, device=home).double() * stretch_B1)
    first_B1 = (ends_B2[:, :1] - 1).clamp(0, len(obs_L) - 1)
    most = int((ends_B2[:, 1:] + 1 - first_B1).clamp(1, len(obs_L)).max()) if len(z_B) else 1
    pixel_BW = first_B1 + torch.arange(most, device=home)
    inside_BW = pixel_BW < len(obs_L)
    pixel_BW.clamp_(max=len(obs_L) - 1)
    rest_BW = obs_L[pixel_BW] / stretch_B1
    inside_BW &= (rest_BW > window[0]) & (rest_BW < window[1])
    pixel_BW, inside_BW = (t.to(flux_BL.device) for t in (pixel_BW, inside_BW))
    lost_BW = ~(inside_BW & (ivar_BL.gather(1, pixel_BW) > 0))
    windowed_BW = flux_BL.gather(1, pixel_BW).masked_fill(lost_BW, float("nan"))
    return windowed_BW.nanmedian(dim=1).values


def _rms(flux_BL: Tensor, good_BL: Tensor) -> Tensor:
    """Return the RMS of the good pixels, shape (B,); 1 where it is 0."""
    count_B = good_BL.sum(dim=1).clamp(min=1)
    # in units of the brightest pixel, so that squares neither overflow nor underflow
    peak_B = flux_BL.abs().masked_fill(~good_BL, 0).amax(dim=1)
    peak_B = torch.where(peak_B > 0, peak_B, torch.ones_like(peak_B))
    square_B = (flux_BL / peak_B[:, None]).masked_fill(~good_BL, 0).square().sum(dim=1)
    rms_B = peak_B * (square_B / count_B).sqrt()
    return torch.where(rms_B > 0, rms_B, torch.ones_like(rms_B))


def amplitude(model_BL: Tensor, flux_BL: Tensor, weight_BL: Tensor) -> Tensor:
    """Return the factor that fits each model best to a spectrum, by weighted least squares.

    Args:
        model_BL: Models, shape (B, L).
        flux_BL: Spectra, shape (B, L).
        weight_BL: Inverse variances, 0 where model or spectrum are invalid, shape (B, L).

    Returns:
        Amplitudes, shape (B,); 1 where no pixel constrains them.
    """
    weighted_BL = model_BL * weight_BL
    power_B = (weighted_BL * model_BL).sum(dim=1)
    free_B = power_B == 0
    best_B = (weighted_BL * flux_BL).sum(dim=1) / torch.where(free_B, 1, power_B)
    return torch.where(free_B, torch.ones_like(best_B), best_B)
