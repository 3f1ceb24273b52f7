"""The interface of models, and what core builds on top of it.

Shapes: B spectra, L observed pixels, R restframe pixels, S latents.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from spender_core import losses
from spender_core.batch import SpectrumBatch, as_tensor
from spender_core.errors import (
    GridError,
    InputError,
    RedshiftError,
    RedshiftRangeWarning,
    UnknownNameError,
)
from spender_core.grid import Grid, as_grid
from spender_core.interfaces.instrument import Instrument
from spender_core.ops.normalize import amplitude
from spender_core.ops.redshift import redshift
from spender_core.records import ModelCard


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of a batch.

    Attributes:
        latents: Shape (B, S).
        restframe: Spectra on `model.wave_rest`, shape (B, R).
        observed: As the instrument would see them, shape (B, L).
        valid: Where the model reaches, bool (B, L). Elsewhere it counts as 0, before the
            LSF and the calibration.
    """

    latents: Tensor
    restframe: Tensor
    observed: Tensor
    valid: Tensor


class Model(nn.Module, ABC):
    """Describes restframe spectra by a few latents. Three members are required.

    A subclass implements `encode_flux`, `decode` and `config`, and passes to this
    constructor the instruments that it serves and its restframe grid. If it, or any module
    within it, has a method `check_state()`, that is called once weights are loaded, and
    raises `InputError` for values that cannot be right.

    Args:
        instruments: The instruments served; the first is the default one.
        wave_rest: Restframe wavelengths: a `Grid`, or R of them in vacuum Angstrom.
        lsf: For some of the instruments, by name, a module that maps spectra (B, L) to
            spectra as broadened by the instrument, beyond what the restframe holds.
        calibration: For some of the instruments, by name, a module that maps
            wavelengths (L,) and spectra (B, L) to calibrated spectra (B, L).
    """

    card: ModelCard | None = None
    """The card with which the model was loaded."""

    def __init__(
        self,
        instruments: Sequence[Instrument],
        wave_rest: Any,
        lsf: Mapping[str, nn.Module] | None = None,
        calibration: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not instruments:
            raise InputError("a model must serve at least one instrument")
        self.instruments = {instrument.name: instrument for instrument in instruments}
        self.instrument: Instrument = instruments[0]
        self.rest: Grid = as_grid(wave_rest)
        self.lsf = nn.ModuleDict(dict(lsf or {}))
        self.calibration = nn.ModuleDict(dict(calibration or {}))
        self._waves: dict[tuple[str, torch.device], Tensor] = {}

    @abstractmethod
    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        """Encode normalised spectra (B, L) of a served instrument to latents (B, S)."""

    @abstractmethod
    def decode(self, s_BS: Tensor) -> Tensor:
        """Decode latents (B, S) to restframe spectra (B, R) on `wave_rest`."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments, as plain data, with which the constructor makes this model."""

    @classmethod
    def build(cls, card: ModelCard, instruments: Sequence[Instrument], wave_rest: Any) -> Self:
        """Construct the model that a card describes, with untrained weights."""
        return cls(instruments=instruments, wave_rest=wave_rest, **card.config)

    @property
    def wave_rest(self) -> Tensor:
        """Restframe wavelengths, shape (R,), vacuum Angstrom, float64 on the host."""
        return torch.tensor(self.rest.wave)

    def encode(self, spectra: SpectrumBatch | Tensor, instrument: Any = None) -> Tensor:
        """Encode a batch, or normalised spectra (B, L), to latents (B, S). Needs no z.

        A batch is moved to the model's device and type; a tensor must be there.
        """
        flux_BL, observer = self._input(self._at_home(spectra), instrument)
        if observer.name not in self.instruments:
            raise UnknownNameError("encoder for an instrument", observer.name, self.instruments)
        return self.encode_flux(flux_BL, observer.name)

    def transform(
        self, x_BR: Tensor, instrument: Any = None, z: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Turn restframe spectra into what an instrument observes at redshift z.

        Args:
            x_BR: Restframe spectra on `wave_rest`, shape (B, R).
            instrument: Name or object; the model's own by default. One that the model
                does not serve is given its grid, but no learned LSF.
            z: Redshifts, shape (B,) or a number; 0 by default.

        Returns:
            The spectra, shape (B, L), and where the model reaches, bool (B, L).

        Raises:
            RedshiftError: A redshift is NaN, or not above -1.
        """
        if x_BR.ndim != 2 or x_BR.shape[1] != self.rest.size:
            raise InputError(
                f"restframe spectra must have shape (B, {self.rest.size}), got {tuple(x_BR.shape)}"
            )
        observer = self._observer(instrument)
        z_B = self._redshifts(z, x_BR)
        wave_L = self._wave(observer.name, observer.grid, x_BR.device)
        rest_R = self._wave("", self.rest, x_BR.device)
        y_BL, valid_BL = redshift(x_BR, rest_R, wave_L, z_B)
        if observer.name in self.lsf:
            y_BL = self.lsf[observer.name](y_BL)
        if observer.name in self.calibration:
            y_BL = self.calibration[observer.name](wave_L, y_BL)
        return y_BL, valid_BL

    def reconstruct(
        self,
        spectra: SpectrumBatch | Tensor,
        instrument: Any = None,
        z: Any = None,
        s: Tensor | None = None,
        normalize: bool = False,
        weights: Tensor | None = None,
    ) -> Reconstruction:
        """Encode spectra, decode them, and observe the result.

        Args:
            spectra: A batch, or normalised spectra (B, L).
            instrument: Name or object; that of the batch, or the model's own, by default.
            z: Redshifts, shape (B,); those of the batch by default.
            s: Latents (B, S) to use instead of encoding.
            normalize: Scale each model to fit its spectrum best.
            weights: Inverse variances (B, L) for that fit; those of the batch, or 1.

        Warns:
            RedshiftRangeWarning: A redshift is outside of the `z_range` of the model's card.

        Raises:
            RedshiftError: A redshift is unknown, or so large that the model reaches no pixel
                of the spectrum; the message names the spectra.
        """
        spectra = self._at_home(spectra)
        flux_BL, observer = self._input(spectra, instrument)
        batch = spectra if isinstance(spectra, SpectrumBatch) else None
        if z is None and batch is not None:
            z = _known_redshifts(batch)
        if z is not None:
            self._check_redshifts(self._redshifts(z, flux_BL), observer, batch)
        return self._reconstruct(spectra, instrument, z, s, normalize, weights)

    def _reconstruct(
        self,
        spectra: SpectrumBatch | Tensor,
        instrument: Any,
        z: Any,
        s: Tensor | None,
        normalize: bool,
        weights: Tensor | None,
    ) -> Reconstruction:
        """Do what `reconstruct` says, at any redshift."""
        flux_BL, observer = self._input(spectra, instrument)
        if isinstance(spectra, SpectrumBatch):
            z = _known_redshifts(spectra) if z is None else z
            weights = spectra.ivar if weights is None else weights
        if weights is not None and weights.shape != flux_BL.shape:
            raise InputError(
                f"weights have shape {tuple(weights.shape)}, the spectra {tuple(flux_BL.shape)}"
            )
        if s is not None and len(s) != len(flux_BL):
            raise InputError(f"{len(s)} latents for {len(flux_BL)} spectra")
        s_BS = self.encode(flux_BL, observer) if s is None else s
        x_BR = self.decode(s_BS)
        y_BL, valid_BL = self.transform(x_BR, observer, z)
        if normalize:
            w_BL = torch.ones_like(flux_BL) if weights is None else weights
            factor_B1 = amplitude(y_BL, flux_BL, w_BL * valid_BL)[:, None]
            x_BR, y_BL = x_BR * factor_B1, y_BL * factor_B1
        return Reconstruction(s_BS, x_BR, y_BL, valid_BL)

    def forward(
        self,
        spectra: SpectrumBatch | Tensor,
        instrument: Any = None,
        z: Any = None,
        s: Tensor | None = None,
        normalize: bool = False,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the reconstruction of spectra, shape (B, L), as `reconstruct` does, at any z."""
        spectra = self._at_home(spectra)
        return self._reconstruct(spectra, instrument, z, s, normalize, weights).observed

    def reaches(self, z: Any, instrument: Any = None) -> Tensor:
        """Tell at which redshifts the model reaches at least one pixel of an instrument.

        Args:
            z: Redshifts, shape (B,) or a number; False where NaN.
            instrument: Name or object; the model's own by default.

        Returns:
            Shape (B,), bool, on the host.
        """
        wave, rest = self._observer(instrument).grid.wave, self.rest.wave
        stretch = 1 + as_tensor(z, torch.float64).detach().cpu().reshape(-1).numpy()
        first = np.searchsorted(wave, rest[0] * stretch, "left")
        after = np.searchsorted(wave, rest[-1] * stretch, "right")
        return torch.from_numpy((after > first) & (stretch > 0))

    def loss(
        self,
        spectra: SpectrumBatch | Tensor,
        ivar: Tensor | None = None,
        *,
        instrument: Any = None,
        z: Any = None,
        s: Tensor | None = None,
        normalize: bool = False,
        individual: bool = False,
    ) -> Tensor:
        """Return the fidelity of the reconstruction (`losses.fidelity`).

        Args:
            spectra: A batch, or normalised spectra (B, L); then `ivar` is needed.
            ivar: Inverse variances, shape (B, L).
            instrument: As in `reconstruct`, like z, s and normalize.
            z: Redshifts.
            s: Latents.
            normalize: Scale each model to fit best, with `ivar` as weights.
            individual: One value a spectrum, shape (B,), instead of their sum.
        """
        spectra = self._at_home(spectra)
        flux_BL, _ = self._input(spectra, instrument)
        if ivar is None:
            if not isinstance(spectra, SpectrumBatch):
                raise InputError("loss needs ivar with a tensor of spectra, or a SpectrumBatch")
            ivar = spectra.ivar
        made = self._reconstruct(spectra, instrument, z, s, normalize, ivar)
        return losses.fidelity(flux_BL, ivar * made.valid, made.observed, individual)

    def _at_home(self, spectra: SpectrumBatch | Tensor) -> SpectrumBatch | Tensor:
        """Bring a batch to the device and the type of the model; refuse a tensor elsewhere."""
        weight = next(self.parameters(), None)
        flux = spectra.flux if isinstance(spectra, SpectrumBatch) else spectra
        if weight is None or (flux.device, flux.dtype) == (weight.device, weight.dtype):
            return spectra
        if isinstance(spectra, SpectrumBatch):
            return spectra.to(weight.device, weight.dtype)
        if torch.is_autocast_enabled(flux.device.type):
            return spectra
        raise InputError(
            f"the spectra are {flux.dtype} on {flux.device}, the model is {weight.dtype} on "
            f"{weight.device}; move one of them with .to"
        )

    def _input(self, spectra: SpectrumBatch | Tensor, instrument: Any) -> tuple[Tensor, Instrument]:
        if isinstance(spectra, SpectrumBatch):
            observer = self._observer(spectra.instrument if instrument is None else instrument)
            if spectra.instrument not in (None, observer.name):
                raise InputError(
                    f"the batch holds spectra of {spectra.instrument}, not of {observer.name}; "
                    f"observe its reconstruction with transform(..., instrument={observer.name!r})"
                )
            flux_BL = spectra.flux
        else:
            observer, flux_BL = self._observer(instrument), spectra
        if flux_BL.ndim != 2 or flux_BL.shape[1] != observer.grid.size:
            raise InputError(
                f"spectra of {observer.name} must have shape (B, {observer.grid.size}), "
                f"got {tuple(flux_BL.shape)}; put others on its grid with instrument.batch"
            )
        return flux_BL, observer

    def _observer(self, instrument: Any) -> Instrument:
        if instrument is None:
            return self.instrument
        if isinstance(instrument, Instrument):
            own = self.instruments.get(instrument.name)
            if own is not None and own.grid != instrument.grid:
                raise GridError(
                    f"this instrument {instrument.name!r} has the grid {instrument.grid}, but "
                    f"the model was made for {own.grid}; take the instrument of registry.load"
                )
            return instrument
        if instrument not in self.instruments:
            raise UnknownNameError("instrument of this model", str(instrument), self.instruments)
        return self.instruments[instrument]

    def _redshifts(self, z: Any, x_BR: Tensor) -> Tensor:
        if z is None:
            return torch.zeros(len(x_BR), dtype=torch.float64, device=x_BR.device)
        z_B = as_tensor(z, torch.float64).to(x_BR.device).reshape(-1)
        if len(z_B) not in (1, len(x_BR)):
            raise InputError(f"{len(z_B)} redshifts for {len(x_BR)} spectra")
        if not bool((z_B > -1).all()) or bool(z_B.isinf().any()):
            rows = (~(z_B > -1) | z_B.isinf()).nonzero()[:, 0].tolist()
            raise RedshiftError(
                f"redshifts must be finite and above -1, but rows {rows[:5]} are not; "
                "leave these spectra out, or encode them without a transform"
            )
        return z_B.expand(len(x_BR))

    def _check_redshifts(
        self, z_B: Tensor, observer: Instrument, batch: SpectrumBatch | None
    ) -> None:
        """Warn of redshifts out of the card's range; refuse those that leave nothing to see."""
        z = z_B.detach().cpu()

        def named(where: Tensor) -> str:
            rows = where.nonzero()[:, 0].tolist()
            names = [f"{batch.label(i) if batch else f'row {i}'} (z = {z[i]:.4g})" for i in rows]
            return f"{len(rows)} of {len(z)} spectra: {', '.join(names[:5])}" + (
                ", ..." if len(rows) > 5 else ""
            )

        lost = ~self.reaches(z, observer)
        if bool(lost.any()):
            raise RedshiftError(
                f"the model covers {self.rest.wave[0]:.0f} to {self.rest.wave[-1]:.0f} Angstrom in "
                f"the restframe, and so reaches no pixel of {named(lost)}. Leave them out, or only "
                "encode them"
            )
        if self.card is None or self.card.z_range is None:
            return
        low, high = self.card.z_range
        outside = (z < low) | (z > high)
        if bool(outside.any()):
            warnings.warn(
                f"the model {self.card.name!r} was made for z of {low:g} to {high:g}; beyond it are "
                f"{named(outside)}",
                RedshiftRangeWarning,
                stacklevel=3,
            )

    def _wave(self, name: str, grid: Grid, device: torch.device) -> Tensor:
        home = torch.device("cpu") if device.type == "mps" else device
        key = (f"{name}:{grid.sha256}", home)
        if key not in self._waves:
            self._waves[key] = torch.tensor(grid.wave, device=home)
        return self._waves[key]


def _known_redshifts(batch: SpectrumBatch) -> Tensor:
    unknown = batch.z.isnan().nonzero()[:, 0].tolist()
    if unknown:
        names = ", ".join(batch.label(row) for row in unknown[:5])
        raise RedshiftError(
            f"the redshift of {len(unknown)} spectra is unknown: {names}"
            f"{' ...' if len(unknown) > 5 else ''}. Pass z=, leave them out with "
            "batch[~batch.z.isnan()], or only encode them"
        )
    return batch.z
