"""Redshifts that a model is given: in shape, known, and within its reach."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch, as_tensor
from spender_core.errors import InputError, RedshiftError, RedshiftRangeWarning

if TYPE_CHECKING:
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model


def redshifts(z: Any, x_BR: Tensor) -> Tensor:
    """Return a redshift for each of some spectra, shape (B,), float64, beside them.

    Raises:
        RedshiftError: One is not finite, or not above -1.
    """
    if z is None:
        return torch.zeros(len(x_BR), dtype=torch.float64, device=x_BR.device)
    z_B = as_tensor(z, torch.float64).to(x_BR.device).reshape(-1)
    if len(z_B) not in (1, len(x_BR)):
        raise InputError(f"{len(z_B)} redshifts for {len(x_BR)} spectra")
    check_sensible(z_B)
    return z_B.expand(len(x_BR))


def check_sensible(z_B: Tensor) -> None:
    """Refuse redshifts (B,) that are not finite or not above -1; on a GPU, the host waits for it.

    Raises:
        RedshiftError: There are such; the message names their rows.
    """
    wrong_B = ~((z_B > -1) & z_B.isfinite())
    if bool(wrong_B.any()):
        raise RedshiftError(
            f"redshifts must be finite and above -1, but rows {wrong_B.nonzero()[:5, 0].tolist()} "
            "are not; leave these spectra out, or encode them without a transform"
        )


def known_redshifts(batch: SpectrumBatch) -> Tensor:
    """Return the redshifts of a batch; raise, naming the spectra, if any is unknown."""
    unknown = batch.z.isnan().nonzero()[:, 0].tolist()
    if unknown:
        names = ", ".join(batch.label(row) for row in unknown[:5])
        raise RedshiftError(
            f"the redshift of {len(unknown)} spectra is unknown: {names}"
            f"{' ...' if len(unknown) > 5 else ''}. Pass z=, leave them out with "
            "batch[~batch.z.isnan()], or only encode them"
        )
    return batch.z


def check_redshifts(
    model: Model, z_B: Tensor, observer: Instrument, batch: SpectrumBatch | None
) -> None:
    """Warn of redshifts out of the card's range; refuse those that leave nothing to see."""
    z = z_B.detach().cpu()

    def named(where: Tensor) -> str:
        rows = where.nonzero()[:, 0].tolist()
        names = [f"{batch.label(i) if batch else f'row {i}'} (z = {z[i]:.4g})" for i in rows]
        return f"{len(rows)} of {len(z)} spectra: {', '.join(names[:5])}" + (
            ", ..." if len(rows) > 5 else ""
        )

    lost = ~model.reaches(z, observer)
    if bool(lost.any()):
        raise RedshiftError(
            f"the model covers {model.rest.wave[0]:.0f} to {model.rest.wave[-1]:.0f} Angstrom in "
            f"the restframe, and so reaches no pixel of {named(lost)}. Leave them out, or only "
            "encode them"
        )
    if model.card is None or model.card.z_range is None:
        return
    low, high = model.card.z_range
    outside = (z < low) | (z > high)
    if bool(outside.any()):
        warnings.warn(
            f"the model {model.card.name!r} was made for z of {low:g} to {high:g}; beyond it are "
            f"{named(outside)}",
            RedshiftRangeWarning,
            stacklevel=3,
        )
