"""What a catalogue says of spectra: latents, chi square, density and redshifts, by a model.

Shapes: B spectra, S latents.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spender_core import losses
from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError, RedshiftRangeWarning
from spender_core.interfaces import Flow, Model, Reconstruction
from spender_core.records import ModelCard

CHUNK = 64
"""Spectra that go through a model at once: more of them take longer each, out of the caches."""

CHUNK_GPU = 1024
"""The same on a GPU."""

REDSHIFTS = {
    "z_model": "z",
    "zerr_model": "zerr",
    "z_second": "second",
    "delta_chi2": "delta_chi2",
    "z_flags": "flags",
}
"""Columns of measured redshifts, by the attributes of what `Model.redshift` returns."""


@dataclass(frozen=True)
class Encoded:
    """Latents (B, S) and reduced chi square (B,) of a batch; chi square NaN without z.

    It is NaN too where the model reaches no pixel of the spectrum, as `reached` (B,) tells.
    """

    latents: Tensor
    chi2: Tensor
    reached: Tensor
    made: dict[int, tuple[Reconstruction, int]]
    """Where z is known, the reconstruction of a row: which, and its row in it."""


@torch.inference_mode()
def encode(
    model: Model, batch: SpectrumBatch, keep: bool = False, refine: int = 0, chunk: int = CHUNK
) -> Encoded:
    """Encode a batch in chunks; reconstruct what has a redshift, with fitted amplitude.

    Args:
        model: The model.
        batch: Spectra of one of its instruments.
        keep: Keep the reconstructions.
        refine: Steps from the encoder's latents to those that fit best, where z is known.
        chunk: Spectra that go through the model at once.
    """
    device = next(model.parameters()).device
    reached = batch.z.cpu().isnan() | model.reaches(batch.z, batch.instrument)
    latents, chi2, made = [], torch.full((len(batch),), float("nan")), {}
    for start in range(0, len(batch), chunk):
        part = batch[start : start + chunk].to(device)
        s = model.encode(part)
        latents.append(s.cpu())
        within = reached[start : start + chunk].to(part.z.device)
        known = (~part.z.isnan() & within).nonzero()[:, 0]
        if len(known) == 0:
            continue
        part = part[known]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RedshiftRangeWarning)  # `remark` tells it
            result = model.reconstruct(part, s=s[known], normalize=True, refine=refine)
        latents[-1][known.cpu()] = result.latents.cpu()
        weight = part.ivar * result.valid
        values = losses.reduced_chi2(part.flux, weight, result.observed, s.shape[1] + 1)
        chi2[start + known.cpu()] = values.cpu().float()
        if keep:
            made.update({start + int(row): (result, i) for i, row in enumerate(known)})
    return Encoded(torch.cat(latents), chi2, reached, made)


def remark(card: ModelCard | None, batch: SpectrumBatch, row: int, reached: bool = True) -> str:
    """Return what a user should know of a row: its flags, and a redshift out of range."""
    remarks = batch.causes(row)
    if not reached:
        remarks.append("the model reaches no pixel at this z")
    z = float(batch.z[row])
    if (
        card is not None
        and card.z_range is not None
        and not card.z_range[0] <= z <= card.z_range[1]
    ):
        low, high = card.z_range
        if z == z:
            remarks.append(f"z outside of the model's {low:g} to {high:g}")
    return ", ".join(remarks)


def measure(
    model: Model,
    batch: SpectrumBatch,
    flow: Flow | None = None,
    refine: int = 0,
    redshift: bool = False,
) -> dict[str, NDArray[Any]]:
    """Return what a catalogue says of spectra, as columns (B,).

    Args:
        model: The model.
        batch: Spectra of one of its instruments.
        flow: Density of its latents, for the column logP.
        refine: Steps from the encoder's latents to those that fit best, where z is known.
        redshift: Measure redshifts too.
    """
    device = next(model.parameters()).device
    chunk = CHUNK if device.type == "cpu" else CHUNK_GPU
    made = encode(model, batch, refine=refine, chunk=chunk)
    reached = made.reached.numpy()
    columns: dict[str, NDArray[Any]] = {"chi2": made.chi2.numpy(), "reached": reached}
    if refine:
        columns["refined"] = reached & ~batch.z.cpu().isnan().numpy()
    columns |= {f"s_{k}": values.numpy() for k, values in enumerate(made.latents.T)}
    if flow is not None:
        columns["logP"] = _density(flow, made.latents.to(device), chunk)
    if redshift:
        columns |= _redshifts(model, batch, chunk)
    columns["remark"] = np.array(
        [remark(model.card, batch, row, bool(reached[row])) for row in range(len(batch))], object
    )
    return columns


def measures_redshifts(model: Model) -> bool:
    """Tell whether a model measures redshifts, which it does by a method `redshift`."""
    return callable(getattr(model, "redshift", None))


@torch.inference_mode()
def _density(flow: Flow, latents: Tensor, chunk: int) -> NDArray[Any]:
    parts = [flow.log_prob(part).cpu() for part in latents.split(chunk)]
    return torch.cat(parts).numpy()


def _redshifts(model: Model, batch: SpectrumBatch, chunk: int) -> dict[str, NDArray[Any]]:
    """Return the redshifts that a model measures, and what tells how sure they are."""
    if not measures_redshifts(model):
        raise InputError(f"a {type(model).__name__} measures no redshifts; leave them out")
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(batch), chunk):
        measured: Any = model.redshift(batch[start : start + chunk].to(device))
        found.append({column: getattr(measured, name) for column, name in REDSHIFTS.items()})
    return {
        column: torch.cat([torch.as_tensor(part[column]).cpu() for part in found]).numpy()
        for column in REDSHIFTS
    }
