"""Augmented spectra for training: another redshift, noise in some pixels, a stretch masked.

The distributions are those of `augment_spectra` of spender 0.3, and so is every step, given the
same random numbers, apart from five faults:

- A masked pixel stays masked. There 1e-6 is added to every inverse variance, which unmasks it,
  and for SDSS also lets in the flux that is extrapolated beyond the observed range; here what was
  not observed has flux 0 and inverse variance 0.
- A redshift that the caller asks for is used. DESI's rule for stars draws over it there.
- Coordinates are float64.
- The pixels that get noise are drawn, not a number for each pixel to decide by; on a GPU, where
  numbers cost little, they are as there.
- The amplitude of the noise follows the maximum over pixels that are not masked. Masked ones hold
  cosmic rays and residuals of sky lines, several times as high as the spectrum.

Shapes: B spectra, L observed pixels, H pixels hit by noise. Wavelengths are vacuum Angstrom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.sparse_noise import (
    add_dense_noise,
    add_noise,
    check_spectra,
    highest,
    sparse_pixels,
)
from spender_core.errors import InputError
from spender_core.interfaces import Instrument
from spender_core.interfaces.redshifts import known_redshifts
from spender_core.ops.redshift import redshift
from spender_core.ops.resample import on_host

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
        return self.low + (self.high - self.low) * uniform(z_B, generator)


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
        return (base_B + self.limit * uniform(z_B, generator)).clamp(max=self.limit)


@dataclass(frozen=True)
class Augmentation:
    """What is done to spectra.

    Attributes:
        redshifts: Rule for new redshifts; None keeps them.
        noise: Fraction of the pixels that get noise, 0 to 1.
        amplitude: Standard deviation of this noise, in units of the maximum of the spectrum over
            pixels that are not masked.
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


def augment(
    batch: SpectrumBatch,
    instrument: Instrument,
    generator: torch.Generator,
    settings: Augmentation = _DEFAULT,
) -> SpectrumBatch:
    """Return a new batch of augmented spectra; the given one is left as it is.

    ids, norm, uncertainties of the redshift and flags are kept, but for `EMPTY` and `SPARSE`,
    which tell of the new pixels. Where redshifts change, line spread functions are left out: they
    tell how each observed pixel was blurred, and the light that is moved to another pixel brings
    along the blur of the old one, stretched, for which no `SpectrumLSF` stands. Models with
    `uses_lsf` take spectra that keep their redshift.

    Args:
        batch: Spectra on the instrument's grid; redshifts are known unless they are kept.
        instrument: Whose grid this is.
        generator: Source of random numbers, on the device of the batch.
        settings: What is done.

    Raises:
        InputError: The spectra are not those of the instrument, the generator is elsewhere, or
            the rule gives senseless redshifts.
        RedshiftError: A redshift is unknown and was to change.
    """
    if batch.flux.shape[1] != len(instrument.wave):
        raise InputError(
            f"the spectra have {batch.flux.shape[1]} pixels, instrument {instrument.name!r} has "
            f"{len(instrument.wave)}; give the instrument that observed them"
        )
    if batch.instrument not in (None, instrument.name):
        raise InputError(
            f"the batch holds spectra of {batch.instrument!r}, not of {instrument.name!r}; give the "
            "instrument that observed them"
        )
    moved = settings.redshifts is not None
    z_B = known_redshifts(batch) if moved else batch.z
    wave_L = torch.tensor(instrument.wave)
    flux_BL, ivar_BL, z_B = augment_spectra(
        batch.flux, batch.ivar, z_B, wave_L, generator, settings
    )
    lsf = None if moved else batch.lsf
    flags_B = _flags(batch.flags, ivar_BL)
    return batch.replace(flux=flux_BL, ivar=ivar_BL, z=z_B, lsf=lsf, flags=flags_B)


def augment_spectra(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    generator: torch.Generator,
    settings: Augmentation = _DEFAULT,
    check: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment spectra that are plain tensors; these are left as they are.

    Without `check`, the host never waits for a GPU.

    Args:
        flux_BL: Spectra, shape (B, L), finite, float32 or float64.
        ivar_BL: Inverse variances, shape (B, L), of the same type, finite and >= 0.
        z_B: Redshifts, shape (B,), float64, finite unless they are kept.
        wave_obs_L: Observed wavelengths, shape (L,), float64, Angstrom; on the host.
        generator: Source of random numbers, on the device of the spectra.
        settings: What is done.
        check: Look whether the rule gives redshifts that make sense. The rules of this module do,
            where the old ones are finite. Where they do not, flux and inverse variance are 0.

    Returns:
        Spectra and inverse variances, shape (B, L), and redshifts, shape (B,). Gradients flow to
        the spectra, their inverse variances, and redshifts.

    Raises:
        InputError: Shapes, types or devices do not fit, or the rule gives senseless redshifts.
    """
    check_given(flux_BL, ivar_BL, z_B, wave_obs_L, generator)
    rule = settings.redshifts
    z_new_B, valid_BL = z_B, None
    if rule is None:
        dense = torch.contiguous_format
        new_flux_BL, new_ivar_BL = (t.clone(memory_format=dense) for t in (flux_BL, ivar_BL))
    else:
        z_new_B = drawn(rule, z_B, generator, check)
        new_flux_BL, new_ivar_BL, valid_BL = at_redshift(flux_BL, ivar_BL, wave_obs_L, z_B, z_new_B)
    disturb(new_flux_BL, new_ivar_BL, valid_BL, (flux_BL, ivar_BL), generator, settings)
    return new_flux_BL, new_ivar_BL, z_new_B


def disturb(
    new_flux_BL: Tensor,
    new_ivar_BL: Tensor,
    valid_BL: Tensor | None,
    given: tuple[Tensor, Tensor],
    generator: torch.Generator,
    settings: Augmentation,
) -> None:
    """Add noise to a share of the pixels that are valid, and mask a stretch, in place.

    The amplitude of the noise follows spectra and inverse variances that are given.
    """
    length = int(new_flux_BL.shape[1] * settings.mask)
    start = _start(new_flux_BL.shape[1], length, generator)
    for first in range(0, len(new_flux_BL) if settings.noise > 0 else 0, ROWS):
        rows = slice(first, first + ROWS)
        flux_BL, ivar_BL = new_flux_BL[rows], new_ivar_BL[rows]
        valid = None if valid_BL is None else valid_BL[rows]
        sigma_B = settings.amplitude * highest(given[0][rows], given[1][rows])
        if not on_host(flux_BL):  # as is fastest there
            add_dense_noise(flux_BL, ivar_BL, settings.noise, sigma_B, generator, valid)
            continue
        hits_H = sparse_pixels(flux_BL.numel(), settings.noise, generator)
        kind, home = sigma_B.dtype, sigma_B.device
        unit_H = torch.randn(hits_H.shape, generator=generator, dtype=kind, device=home)
        add_noise(flux_BL, ivar_BL, hits_H, unit_H, sigma_B, valid)
    _mask(new_flux_BL, start, length)
    _mask(new_ivar_BL, start, length)


def _mask(values_BL: Tensor, start: int | Tensor, length: int) -> None:
    """Set a stretch of all spectra to 0, in place."""
    if isinstance(start, int):
        values_BL[:, start : start + length] = 0
        return
    pixel_L = torch.arange(values_BL.shape[1], device=values_BL.device)
    values_BL.masked_fill_((pixel_L >= start) & (pixel_L < start + length), 0)


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


def _flags(flags_B: Tensor, ivar_BL: Tensor) -> Tensor:
    """Return flags of which `EMPTY` and `SPARSE` tell of other pixels, as `prepare` sets them."""
    good_B = torch.cat([ivar.sign().sum(dim=1) for ivar in ivar_BL.detach().split(ROWS)])
    share_B = good_B / ivar_BL.shape[1]
    flags_B = flags_B & ~int(Flag.EMPTY | Flag.SPARSE)
    flags_B = flags_B | int(Flag.EMPTY) * (share_B == 0).to(flags_B)
    return flags_B | int(Flag.SPARSE) * ((share_B > 0) & (share_B < 0.1)).to(flags_B)


def check_given(
    flux_BL: Tensor, ivar_BL: Tensor, z_B: Tensor, wave_obs_L: Tensor, generator: torch.Generator
) -> None:
    """Refuse tensors of which one does not fit another."""
    check_spectra(flux_BL, ivar_BL)
    if z_B.shape != flux_BL.shape[:1] or wave_obs_L.shape != flux_BL.shape[1:]:
        raise InputError(
            f"{len(flux_BL)} spectra of {flux_BL.shape[1]} pixels need as many redshifts and "
            f"wavelengths, got shapes {tuple(z_B.shape)} and {tuple(wave_obs_L.shape)}"
        )
    if generator.device.type != flux_BL.device.type:
        raise InputError(
            f"the generator is on {generator.device}, the spectra are on {flux_BL.device}; make "
            f'it with torch.Generator("{flux_BL.device}")'
        )


def drawn(rule: RedshiftRule, z_B: Tensor, generator: torch.Generator, check: bool) -> Tensor:
    """Return what a rule makes of redshifts, if these are redshifts."""
    z_new_B = rule(z_B, generator)
    if z_new_B.shape != z_B.shape or z_new_B.device != z_B.device:
        raise InputError(
            f"the rule {rule!r} must return redshifts of shape {tuple(z_B.shape)} on {z_B.device}, "
            f"got {tuple(z_new_B.shape)} on {z_new_B.device}"
        )
    if not check:
        return z_new_B
    wrong_B = ~((z_new_B > -1) & z_new_B.isfinite())
    if bool(wrong_B.any()):
        shown = z_new_B[wrong_B][:5].tolist()
        raise InputError(
            f"the rule {rule!r} must return redshifts that are finite and above -1, got {shown}; "
            "look whether the ones that it was given are known"
        )
    return z_new_B


def uniform(z_B: Tensor, generator: torch.Generator) -> Tensor:
    """Draw numbers from 0 to 1 beside redshifts."""
    return torch.rand(len(z_B), generator=generator, device=z_B.device, dtype=z_B.dtype)


def _start(pixels: int, length: int, generator: torch.Generator) -> int | Tensor:
    """Draw where a masked stretch begins; its end is never the last pixel, as in spender."""
    if not 0 < length < pixels:
        return 0
    start = torch.randint(pixels - length, (), generator=generator, device=generator.device)
    return int(start) if on_host(start) else start
