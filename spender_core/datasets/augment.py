"""Augmented spectra for training: another redshift, noise in some pixels, a stretch masked.

The distributions are those of `augment_spectra` of spender 0.3, and so is every step, given the
same random numbers, apart from four faults:

- A masked pixel stays masked. There 1e-6 is added to every inverse variance, which unmasks it,
  and for SDSS also lets in the flux that is extrapolated beyond the observed range; here what was
  not observed has flux 0 and inverse variance 0.
- A redshift that the caller asks for is used. DESI's rule for stars draws over it there.
- Coordinates are float64.
- The pixels that get noise are drawn, not a number for each pixel to decide by.

Shapes: B spectra, L observed pixels, H pixels hit by noise. Wavelengths are vacuum Angstrom.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spender_core import native
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.interfaces import Instrument
from spender_core.interfaces.redshifts import known_redshifts
from spender_core.ops.redshift import redshift

ROWS = 256
"""Spectra that get noise at a time: their pixels and the random numbers are then in the cache."""

RedshiftRule = Callable[[Tensor, torch.Generator], Tensor]
"""Takes redshifts, shape (B,), and a generator; returns new ones."""


@dataclass(frozen=True)
class UniformRedshift:
    """New redshifts between `low` and `high`, whatever the old ones.

    The defaults are those of DESI in spender 0.3; for stars, with `z_max` below 0.01, it has
    `-z_max / 2` and `z_max / 2`.
    """

    low: float = 0.0
    high: float = 0.8

    def __post_init__(self) -> None:
        if not -1 < self.low <= self.high < math.inf:
            raise InputError(
                f"redshifts must be drawn from a range above -1, got {self.low} to {self.high}"
            )

    def __call__(self, z_B: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a redshift for each of the given ones, shape (B,)."""
        return self.low + (self.high - self.low) * _uniform(z_B, generator)


@dataclass(frozen=True)
class CappedRedshift:
    """New redshifts between 0 and `limit` for objects below it; the rule of SDSS in spender 0.3.

    Objects beyond the limit are drawn from `z - limit` to `z`, and set to the limit where that
    is more.
    """

    limit: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise InputError(f"the limit of redshifts must be above 0, got {self.limit}")

    def __call__(self, z_B: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a redshift for each of the given ones, shape (B,)."""
        base_B = (z_B - self.limit).clamp(min=0)
        return (base_B + self.limit * _uniform(z_B, generator)).clamp(max=self.limit)


@dataclass(frozen=True)
class Augmentation:
    """What is done to spectra.

    Attributes:
        redshifts: Rule for new redshifts; None keeps them.
        noise: Fraction of the pixels that get noise, 0 to 1.
        amplitude: Standard deviation of this noise, in units of the spectrum's maximum.
        mask: Fraction of the pixels that are masked, in one stretch, the same for all spectra
            of a batch. spender 0.3 has 0.05 for SDSS and 0 for DESI.
    """

    redshifts: RedshiftRule | None = UniformRedshift()
    noise: float = 0.05
    amplitude: float = 0.2
    mask: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"{name} is a fraction of the pixels, 0 to 1, got {getattr(self, name)}"
                )
        if not 0 <= self.amplitude < math.inf:
            raise InputError(f"amplitude must be finite and >= 0, got {self.amplitude}")


_DEFAULT = Augmentation()
_KERNELS = {torch.float32: "spender_add_noise_f32", torch.float64: "spender_add_noise_f64"}


def augment(
    batch: SpectrumBatch,
    instrument: Instrument,
    generator: torch.Generator,
    settings: Augmentation = _DEFAULT,
) -> SpectrumBatch:
    """Return a new batch of augmented spectra; the given one is left as it is.

    ids, norm, flags and uncertainties of the redshift are kept. Where redshifts change, the
    line spread functions are left out, since they belong to the observed pixels.

    Args:
        batch: Spectra on the instrument's grid; redshifts are known unless they are kept.
        instrument: Whose grid this is.
        generator: Source of random numbers, on the device of the batch.
        settings: What is done.

    Raises:
        InputError: The pixels are not those of the instrument, or the generator is elsewhere.
        RedshiftError: A redshift is unknown and was to change.
    """
    if batch.flux.shape[1] != len(instrument.wave):
        raise InputError(
            f"the spectra have {batch.flux.shape[1]} pixels, instrument {instrument.name!r} has "
            f"{len(instrument.wave)}; give the instrument that observed them"
        )
    moved = settings.redshifts is not None
    z_B = known_redshifts(batch) if moved else batch.z
    wave_L = torch.tensor(instrument.wave)
    flux_BL, ivar_BL, z_B = augment_spectra(
        batch.flux, batch.ivar, z_B, wave_L, generator, settings
    )
    lsf = None if moved else batch.lsf
    return batch.replace(flux=flux_BL, ivar=ivar_BL, z=z_B, lsf=lsf)


def augment_spectra(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    generator: torch.Generator,
    settings: Augmentation = _DEFAULT,
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment spectra that are plain tensors; these are left as they are.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L).
        z_B: Redshifts, shape (B,), float64, finite unless they are kept.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        generator: Source of random numbers, on the device of the spectra.
        settings: What is done.

    Returns:
        Spectra and inverse variances, shape (B, L), and redshifts, shape (B,).

    Raises:
        InputError: The generator is on another device.
    """
    if generator.device.type != flux_BL.device.type:
        raise InputError(
            f"the generator is on {generator.device}, the spectra are on {flux_BL.device}; make "
            f'it with torch.Generator("{flux_BL.device}")'
        )
    rule = settings.redshifts
    z_new_B = z_B if rule is None else rule(z_B, generator)
    length = int(flux_BL.shape[1] * settings.mask)
    start = _start(flux_BL.shape[1], length, generator)

    valid_BL = None
    if rule is None:
        dense = torch.contiguous_format
        new_flux_BL, new_ivar_BL = (t.clone(memory_format=dense) for t in (flux_BL, ivar_BL))
    else:
        new_flux_BL, new_ivar_BL, valid_BL = at_redshift(flux_BL, ivar_BL, wave_obs_L, z_B, z_new_B)
    for first in range(0, len(flux_BL) if settings.noise > 0 else 0, ROWS):
        rows = slice(first, first + ROWS)
        sigma_B = settings.amplitude * flux_BL[rows].amax(dim=1)
        hits_H = sparse_pixels(flux_BL[rows].numel(), settings.noise, generator)
        unit_H = torch.randn(hits_H.shape, generator=generator, device=sigma_B.device)
        valid = None if valid_BL is None else valid_BL[rows]
        add_noise(new_flux_BL[rows], new_ivar_BL[rows], hits_H, unit_H, sigma_B, valid)
    new_flux_BL[:, start : start + length] = 0
    new_ivar_BL[:, start : start + length] = 0
    return new_flux_BL, new_ivar_BL, z_new_B


def at_redshift(
    flux_BL: Tensor, ivar_BL: Tensor, wave_obs_L: Tensor, z_B: Tensor, z_new_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return spectra as they would be observed at another redshift.

    What was observed at `wave * (1 + z) / (1 + z_new)` is found at `wave`. Flux and inverse
    variance are interpolated linearly, so that the noise of neighbours becomes a little
    correlated; as a density per observed wavelength the flux keeps its normalisation.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L).
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom.
        z_B: Redshifts, shape (B,), float64.
        z_new_B: New redshifts, shape (B,), float64.

    Returns:
        Flux and inverse variance, 0 where nothing was observed, and where it was, bool; each
        of shape (B, L).
    """
    step_B = (1 + z_new_B) / (1 + z_B) - 1
    new_flux_BL, valid_BL = redshift(flux_BL, wave_obs_L, wave_obs_L, step_B)
    new_ivar_BL, _ = redshift(ivar_BL, wave_obs_L, wave_obs_L, step_B)
    return new_flux_BL, new_ivar_BL, valid_BL


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
        survival_H = 1 - torch.rand(draws, generator=generator, device=generator.device)
        gaps_H = survival_H.log_().div_(min(math.log1p(-ratio), -1e-30))
        gaps_H = gaps_H.clamp_(max=total).long() + 1
        hits_H = torch.cat([hits_H, hits_H[-1] + gaps_H.cumsum(0)])
        inside = int(torch.searchsorted(hits_H, total))
    return hits_H[1:inside]


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
        flux_BL: Spectra, shape (B, L), contiguous; changed.
        ivar_BL: Inverse variances, shape (B, L), contiguous; changed. 0 stays 0.
        hits_H: Indices of the pixels in the flattened spectra, in order, shape (H,).
        unit_H: The noise in units of sigma, shape (H,).
        sigma_B: Its standard deviation in each spectrum, shape (B,).
        valid_BL: Where a spectrum can be changed, shape (B, L), bool; everywhere if absent.
    """
    rows, pixels = flux_BL.shape
    library = native.library()
    if library is not None and flux_BL.dtype in _KERNELS and flux_BL.device.type == "cpu":
        valid_BL = None if valid_BL is None else valid_BL.contiguous()
        columns = (hits_H, unit_H.to(flux_BL.dtype), sigma_B.to(flux_BL.dtype))
        getattr(library, _KERNELS[flux_BL.dtype])(
            native.pointer(flux_BL),
            native.pointer(ivar_BL),
            None if valid_BL is None else native.pointer(valid_BL),
            *(native.pointer(column) for column in columns),
            ctypes.c_int64(pixels),
            ctypes.c_int64(len(hits_H)),
        )
        return
    ends_B = torch.arange(1, rows + 1, device=hits_H.device) * pixels
    after_B = torch.searchsorted(hits_H, ends_B)
    counts_B = after_B.diff(prepend=after_B.new_zeros(1))
    noise_H = unit_H * sigma_B.repeat_interleave(counts_B, output_size=len(hits_H))
    if valid_BL is not None:
        noise_H *= valid_BL.view(-1).index_select(0, hits_H)
    flux_BL.view(-1).index_add_(0, hits_H, noise_H)
    ivar = ivar_BL.view(-1)
    before_H = ivar.index_select(0, hits_H)
    # 1 / (1 / ivar + noise**2), which holds for 0, too
    ivar.index_copy_(0, hits_H, before_H / (before_H * noise_H.square() + 1))


def _uniform(z_B: Tensor, generator: torch.Generator) -> Tensor:
    """Draw numbers from 0 to 1 beside redshifts."""
    return torch.rand(len(z_B), generator=generator, device=z_B.device, dtype=z_B.dtype)


def _start(pixels: int, length: int, generator: torch.Generator) -> int:
    """Draw where a masked stretch begins; its end is never the last pixel, as in spender."""
    if not 0 < length < pixels:
        return 0
    return int(torch.randint(pixels - length, (), generator=generator, device=generator.device))
