"""What `encode` and `plot` share: read a file, and run the right model on it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spender_core import losses, registry
from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import InputError, RedshiftRangeWarning, SpenderError, UnknownNameError
from spender_core.interfaces import Instrument, Model, Reconstruction
from spender_core.records import ModelCard

CHUNK = 64
"""Spectra that go through a model at once."""


@dataclass
class Models:
    """Loads each model once: the one asked for, or the one embedded for an instrument.

    One that cannot be loaded is not tried again; its error is raised each time.
    """

    wanted: str | None
    device: Any = "cpu"
    _loaded: dict[str, Model | SpenderError] = field(default_factory=dict)

    def check(self) -> None:
        """Load the model that was asked for, if one was, before any file is read."""
        if self.wanted is not None:
            self._named(self.wanted)

    def for_instrument(self, instrument: Instrument) -> Model:
        """Return the model.

        Raises:
            InputError: It is a flow, or does not serve the instrument.
            UnknownNameError: None is embedded, and none was asked for.
            SpenderError: It cannot be loaded.
        """
        model = self._named(self.wanted or _embedded(instrument.name))
        if instrument.name not in model.instruments:
            served = ", ".join(model.instruments)
            raise InputError(
                f"model {redacted(self.wanted or '')!r} serves {served}, not {instrument.name}"
            )
        return model

    def use_lsf(self, instrument: Instrument) -> bool:
        """Tell whether the model needs the line spread functions of spectra.

        False too where it cannot be loaded, which `for_instrument` raises in its turn.
        """
        try:
            return self.for_instrument(instrument).uses_lsf
        except SpenderError:
            return False

    def _named(self, name: str) -> Model:
        if name not in self._loaded:
            try:
                _, model = registry.load(name, device=self.device)
                if not isinstance(model, Model):
                    raise InputError(
                        f"{redacted(name)!r} is a flow of latents, which encodes no spectra"
                    )
                self._loaded[name] = model
            except SpenderError as error:
                self._loaded[name] = error
        found = self._loaded[name]
        if isinstance(found, SpenderError):
            raise found
        return found


def _embedded(instrument: str) -> str:
    card = registry.embedded(instrument)
    if card is None:
        raise UnknownNameError(
            "embedded model for instrument", instrument, registry.list(), "Use --model."
        )
    return card.name


@dataclass(frozen=True)
class Read:
    """The spectra of a file: all of them, the usable rows, and why others are not."""

    batch: SpectrumBatch
    rows: list[int]
    rejected: list[tuple[str, str]]


def read(instrument: Instrument, url: str, everything: bool, lsf: bool = False) -> Read:
    """Read a file and tell usable spectra from others, which have a cause each."""
    batch = instrument.read(url, quality=False, lsf=lsf)
    rejects = Flag.EMPTY if everything else instrument.rejects
    rows = ((batch.flags & int(rejects)) == 0).nonzero()[:, 0].tolist()
    rejected = [
        (batch.label(row), ", ".join(batch.causes(row, rejects)))
        for row in sorted(set(range(len(batch))) - set(rows))
    ]
    return Read(batch, rows, rejected)


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
def encode(model: Model, batch: SpectrumBatch, keep: bool = False, refine: int = 0) -> Encoded:
    """Encode a batch in chunks; reconstruct what has a redshift, with fitted amplitude.

    Args:
        model: The model.
        batch: Spectra of one of its instruments.
        keep: Keep the reconstructions.
        refine: Steps from the encoder's latents to those that fit best, where z is known.
    """
    device = next(model.parameters()).device
    reached = batch.z.cpu().isnan() | model.reaches(batch.z, batch.instrument)
    latents, chi2, made = [], torch.full((len(batch),), float("nan")), {}
    for start in range(0, len(batch), CHUNK):
        part = batch[start : start + CHUNK].to(device)
        s = model.encode(part)
        latents.append(s.cpu())
        within = reached[start : start + CHUNK].to(part.z.device)
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
