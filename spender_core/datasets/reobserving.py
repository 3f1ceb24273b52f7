"""Spectra observed again at another redshift, so that nothing but their lines tells it.

Shapes: B spectra, L observed pixels. Wavelengths are vacuum Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spender_core.datasets.augment import (
    Augmentation,
    at_redshift,
    check_given,
    disturb,
    drawn,
    uniform,
)
from spender_core.errors import InputError

_DEFAULT = Augmentation()
_ROUNDING = 1e-5
"""More than float32 rounds what the pixels that were observed contribute to another one."""


@dataclass(frozen=True)
class Reobserved:
    """Spectra at other redshifts, under the noise and the mask with which they were observed.

    Attributes:
        flux: Shape (B, L); in gaps noise alone, to which a model of the spectrum is to be added.
        ivar: Inverse variances, shape (B, L).
        z: Redshifts, shape (B,).
        gaps: Pixels that are not masked, of which nothing is known at this redshift, shape
            (B, L), bool.
    """

    flux: Tensor
    ivar: Tensor
    z: Tensor
    gaps: Tensor


def reobserve_spectra(
    flux_BL: Tensor,
    ivar_BL: Tensor,
    z_B: Tensor,
    wave_obs_L: Tensor,
    generator: torch.Generator,
    settings: Augmentation = _DEFAULT,
    check: bool = True,
    conditions_BL: Tensor | None = None,
) -> Reobserved:
    """Augment spectra so that nothing but their lines tells how far they were moved.

    `augment_spectra` moves masked pixels along with the light, and leaves what was not observed
    empty. An encoder can read from that where a spectrum was before, and give latents that depend
    on redshift and yet are the same for both. Here each pixel keeps its inverse variance, masked
    ones also their flux, and gaps are told, for the model's own reconstruction to fill them. Pixels
    that are lit by another part of the spectrum than the one they were observed with have the noise
    of that one. Other arguments are those of `augment_spectra`; there is a rule for redshifts.

    Args:
        flux_BL: Spectra, shape (B, L).
        ivar_BL: Inverse variances, shape (B, L).
        z_B: Redshifts, shape (B,).
        wave_obs_L: Observed wavelengths, shape (L,).
        generator: Source of random numbers.
        settings: What is done.
        check: Look whether the rule gives redshifts that make sense.
        conditions_BL: Inverse variances to observe with instead of their own, shape (B, L), such
            as `other_conditions`; noise is added where they ask for more.

    Raises:
        InputError: The redshifts are to be kept; or as in `augment_spectra`.
    """
    check_given(flux_BL, ivar_BL, z_B, wave_obs_L, generator)
    if settings.redshifts is None:
        raise InputError(
            "spectra that keep their redshift have no gaps to fill; give a rule for redshifts, or "
            "use augment_spectra"
        )
    z_new_B = drawn(settings.redshifts, z_B, generator, check)
    share_BL = (ivar_BL > 0).to(flux_BL)
    place_BL = ivar_BL if conditions_BL is None else conditions_BL
    good_BL = place_BL > 0
    # a masked pixel is in no other, not even by what float32 rounds
    moved_BL, known_BL, _ = at_redshift(flux_BL * share_BL, share_BL, wave_obs_L, z_B, z_new_B)
    gaps_BL = (known_BL < 1 - _ROUNDING) & good_BL
    noise_BL = torch.randn(
        flux_BL.shape, generator=generator, dtype=flux_BL.dtype, device=flux_BL.device
    )
    variance_BL = place_BL.masked_fill(~good_BL, torch.inf).reciprocal()
    known_BL = moved_BL
    if conditions_BL is not None:
        own_BL, _, _ = at_redshift(ivar_BL, ivar_BL, wave_obs_L, z_B, z_new_B)
        own_BL = own_BL.masked_fill(own_BL <= 0, torch.inf).reciprocal()
        known_BL = moved_BL + (variance_BL - own_BL).clamp(min=0).sqrt() * noise_BL
    noise_BL *= variance_BL.sqrt()
    new_flux_BL = torch.where(good_BL, torch.where(gaps_BL, noise_BL, known_BL), flux_BL)
    new_ivar_BL = place_BL.clone(memory_format=torch.contiguous_format)
    new_flux_BL = new_flux_BL.contiguous()
    disturb(new_flux_BL, new_ivar_BL, good_BL, (flux_BL, ivar_BL), generator, settings)
    return Reobserved(new_flux_BL, new_ivar_BL, z_new_B, gaps_BL & (new_ivar_BL > 0))


def other_conditions(ivar_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Return inverse variances under which others of the batch were observed, at half to all S/N.

    The noise of one object does not change with its redshift, and an encoder that sees inverse
    variances can lean on them; under those of another it cannot. Each spectrum gets the inverse
    variances of the one before, scaled so that the mean of their square roots is between half
    and all of its own.

    Args:
        ivar_BL: Inverse variances, shape (B, L).
        generator: Source of random numbers, on their device.
    """
    root_BL = ivar_BL.sqrt()
    count_B = (ivar_BL > 0).sum(dim=1).clamp(min=1)
    level_B = root_BL.sum(dim=1) / count_B
    least = torch.finfo(ivar_BL.dtype).tiny
    share_B = 0.5 + 0.5 * uniform(level_B, generator)
    factor_B = share_B * level_B / level_B.roll(1).clamp(min=least**0.25)
    return ivar_BL.roll(1, dims=0) * factor_B[:, None].square()
