"""Noise in some pixels of many spectra: which pixels, how strong, and added in place.

Shapes: B spectra, L observed pixels, H pixels hit by noise.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from spender_core import native
from spender_core.errors import InputError
from spender_core.ops.resample import on_host

_KERNELS = {torch.float32: "spender_add_noise_f32", torch.float64: "spender_add_noise_f64"}


def sparse_pixels(total: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Choose each of `total` pixels with probability `ratio`, independently.

    The gaps between chosen pixels follow a geometric distribution, so that only the chosen
    ones need a random number; of 24 bits, so that a ratio below 1e-5 is not met exactly.

    Returns:
        Their indices, in order, shape (H,), int64, on the device of the generator.
    """
    if ratio >= 1:
        return torch.arange(total, device=generator.device)
    if ratio <= 0:
        return torch.empty(0, dtype=torch.int64, device=generator.device)
    # enough in all but one of 1e9 cases; if not, more are drawn
    draws = math.ceil(total * ratio + 6 * math.sqrt(total * ratio) + 8)
    hits_H = torch.full((1,), -1, dtype=torch.int64, device=generator.device)
    inside = 1
    while inside == len(hits_H):
        uniform_H = torch.rand(
            draws, generator=generator, dtype=torch.float32, device=generator.device
        )
        survival_H = 1 - uniform_H
        gaps_H = survival_H.log_().div_(min(math.log1p(-ratio), -1e-30))
        gaps_H = gaps_H.clamp_(max=total).long() + 1
        hits_H = torch.cat([hits_H, hits_H[-1] + gaps_H.cumsum(0)])
        inside = int(torch.searchsorted(hits_H, total))
    return hits_H[1:inside]


def highest(flux_BL: Tensor, ivar_BL: Tensor) -> Tensor:
    """Return the maximum of each spectrum over pixels that are not masked, or 0; shape (B,)."""
    if not on_host(flux_BL):  # in one go, without asking whether it is needed
        good_BL = flux_BL.detach().masked_fill(ivar_BL == 0, -torch.inf)
        return _at(flux_BL, ivar_BL, good_BL.argmax(dim=1, keepdim=True))
    at_B1 = _where_highest(flux_BL.detach())
    masked_B = ivar_BL.gather(1, at_B1)[:, 0] == 0
    if bool(masked_B.any()):
        good_BL = flux_BL.detach()[masked_B].masked_fill(ivar_BL[masked_B] == 0, -torch.inf)
        at_B1[masked_B] = _where_highest(good_BL)
    return _at(flux_BL, ivar_BL, at_B1)


def _at(flux_BL: Tensor, ivar_BL: Tensor, at_B1: Tensor) -> Tensor:
    """Return the flux of a pixel of each spectrum, or 0 where that is masked; shape (B,)."""
    return flux_BL.gather(1, at_B1)[:, 0].where(ivar_BL.gather(1, at_B1)[:, 0] > 0, 0)


def _where_highest(flux_BL: Tensor) -> Tensor:
    """Return the pixel of each spectrum with the highest flux, shape (B, 1)."""
    # numpy compares with vector instructions, some five times faster than torch on a host
    return torch.from_numpy(flux_BL.numpy().argmax(axis=1, keepdims=True))


def add_noise(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    hits_H: Tensor,
    unit_H: Tensor,
    sigma_B: Tensor,
    valid_BL: Tensor | None = None,
) -> None:
    """Add noise to some pixels, in place, and its square to their variances.

    Args:
        flux_BL: Spectra, shape (B, L), contiguous, float32 or float64; changed.
        ivar_BL: Inverse variances, shape (B, L), contiguous, same type; changed. 0 stays 0.
        hits_H: Indices of the pixels in the flattened spectra, in order, none twice, shape (H,),
            int64.
        unit_H: The noise in units of sigma, shape (H,).
        sigma_B: Its standard deviation in each spectrum, shape (B,).
        valid_BL: Where a spectrum can be changed, shape (B, L), bool; everywhere if absent.

    Raises:
        InputError: Shapes, types or devices do not fit, spectra are not contiguous, or hits are
            out of order or beyond the spectra.
    """
    check_spectra(flux_BL, ivar_BL)
    _check_noise(flux_BL, ivar_BL, hits_H, unit_H, sigma_B, valid_BL)
    hits_H = hits_H.contiguous()
    unit_H, sigma_B = (given.to(flux_BL.dtype).contiguous() for given in (unit_H, sigma_B))
    valid_BL = None if valid_BL is None else valid_BL.contiguous()
    changed = (flux_BL, ivar_BL, unit_H, sigma_B)
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in changed)
    library = native.library()
    if library is None or recorded or flux_BL.device.type != "cpu":
        _add_noise(flux_BL, ivar_BL, hits_H, unit_H, sigma_B, valid_BL)
        return
    getattr(library, _KERNELS[flux_BL.dtype])(
        native.pointer(flux_BL),
        native.pointer(ivar_BL),
        None if valid_BL is None else native.pointer(valid_BL),
        *(native.pointer(column) for column in (hits_H, unit_H, sigma_B)),
        ctypes.c_int64(flux_BL.shape[1]),
        ctypes.c_int64(len(hits_H)),
    )


def _add_noise(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    hits_H: Tensor,
    unit_H: Tensor,
    sigma_B: Tensor,
    valid_BL: Tensor | None,
) -> None:
    """Do what `add_noise` says in torch, on any device and with gradients."""
    rows, pixels = flux_BL.shape
    ends_B = torch.arange(1, rows + 1, device=hits_H.device) * pixels
    after_B = torch.searchsorted(hits_H, ends_B)
    counts_B = after_B.diff(prepend=after_B.new_zeros(1))
    noise_H = unit_H * sigma_B.repeat_interleave(counts_B, output_size=len(hits_H))
    if valid_BL is not None:
        noise_H = noise_H * valid_BL.view(-1).index_select(0, hits_H)
    flux_BL.view(-1).index_add_(0, hits_H, noise_H)
    ivar = ivar_BL.view(-1)
    before_H = ivar.index_select(0, hits_H)
    # 1 / (1 / ivar + noise**2), which holds for 0, too
    ivar.index_copy_(0, hits_H, before_H / (before_H * noise_H.square() + 1))


def add_dense_noise(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    ratio: float,
    sigma_B: Tensor,
    generator: torch.Generator,
    valid_BL: Tensor | None = None,
) -> None:
    """Add noise to each pixel with a probability, in place, drawing numbers for all of them.

    On a GPU that takes less time than to find out how many pixels are hit, for which the host
    would wait. The distribution is that of `sparse_pixels` and `add_noise`.

    Args:
        flux_BL: Spectra, shape (B, L); changed.
        ivar_BL: Inverse variances, shape (B, L); changed. 0 stays 0.
        ratio: Probability of a pixel to be hit, 0 to 1.
        sigma_B: Standard deviation of the noise in each spectrum, shape (B,).
        generator: Source of random numbers, on the device of the spectra.
        valid_BL: Where a spectrum can be changed, shape (B, L), bool; everywhere if absent.
    """
    shape, kind, home = flux_BL.shape, flux_BL.dtype, flux_BL.device
    hit_BL = torch.rand(shape, generator=generator, dtype=torch.float32, device=home) < ratio
    hit_BL = hit_BL if valid_BL is None else hit_BL & valid_BL
    unit_BL = torch.randn(shape, generator=generator, dtype=kind, device=home)
    noise_BL = (unit_BL * sigma_B[:, None]).masked_fill(~hit_BL, 0)
    flux_BL.add_(noise_BL)
    before_BL = ivar_BL.clone()  # which gradients need
    ivar_BL.copy_(before_BL / (before_BL * noise_BL.square() + 1))


def check_spectra(flux_BL: Tensor, ivar_BL: Tensor) -> None:
    """Refuse what is no pair of spectra and inverse variances."""
    kinds = [(tuple(t.shape), t.dtype, str(t.device)) for t in (flux_BL, ivar_BL)]
    if flux_BL.ndim == 2 and kinds[0] == kinds[1] and flux_BL.dtype in _KERNELS:
        return
    raise InputError(
        "flux and ivar must both have shape (B, L), be float32 or float64, and on one device, got "
        + " and ".join(f"{shape} {dtype} on {device}" for shape, dtype, device in kinds)
    )


def _check_noise(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    hits_H: Tensor,
    unit_H: Tensor,
    sigma_B: Tensor,
    valid_BL: Tensor | None,
) -> None:
    """Refuse noise that does not fit spectra: kernels write wherever they are told to."""
    if not (flux_BL.is_contiguous() and ivar_BL.is_contiguous()):
        raise InputError("noise is added in place to contiguous spectra only; call .contiguous()")
    wanted = {
        "hits": (hits_H, (len(hits_H),) if hits_H.ndim else (0,), torch.int64),
        "unit": (unit_H, (hits_H.numel(),), None),
        "sigma": (sigma_B, (len(flux_BL),), None),
        "valid": (valid_BL, tuple(flux_BL.shape), torch.bool),
    }
    for name, (tensor, shape, dtype) in wanted.items():
        if tensor is None:
            continue
        right = tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
        if tuple(tensor.shape) != shape or not right or tensor.device != flux_BL.device:
            raise InputError(
                f"{name} must be {dtype or 'floating'} of shape {shape} on {flux_BL.device}, got "
                f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
            )
    total = flux_BL.numel()
    ordered = not len(hits_H) or bool(
        (hits_H[0] >= 0) & (hits_H[-1] < total) & (hits_H[1:] > hits_H[:-1]).all()
    )
    if not ordered:
        raise InputError(f"hits must be indices from 0 to {total - 1}, each once and in order")
