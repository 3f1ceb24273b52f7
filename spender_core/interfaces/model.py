"""The interface of models, and what core builds on top of it.

Shapes: B spectra, L observed pixels, R restframe pixels, S latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from spender_core import losses
from spender_core.batch import SpectrumBatch, SpectrumLSF, as_tensor
from spender_core.errors import (
    GridError,
    InputError,
    UnknownNameError,
)
from spender_core.grid import Grid, as_grid
from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.least_squares import slopes_of
from spender_core.interfaces.measuring import MeasuresRedshifts
from spender_core.interfaces.reconstruction import Reconstruction
from spender_core.interfaces.redshifts import check_redshifts, known_redshifts, redshifts
from spender_core.interfaces.refining import refined
from spender_core.ops.normalize import amplitude
from spender_core.ops.resampler import Resampler
from spender_core.records import ModelCard


class Model(MeasuresRedshifts, nn.Module, ABC):
    """Describes restframe spectra by a few latents. Three members are required.

    A subclass implements `encode_flux`, `decode` and `config`, and passes to this
    constructor the instruments that it serves and its restframe grid. If it, or any module
    within it, has a method `check_state()`, that is called once weights are loaded, and
    raises `InputError` for values that cannot be right.

    Args:
        instruments: The instruments served; the first is the default one.
        wave_rest: Restframe wavelengths: a `Grid`, or R of them in vacuum Angstrom.
        lsf: For some of the instruments, by name, a module that maps spectra (B, L) to
            spectra as broadened by the instrument, beyond what the restframe holds, and beyond
            the line spread function of each spectrum if the model uses that.
        calibration: For some of the instruments, by name, a module that maps
            wavelengths (L,) and spectra (B, L) to calibrated spectra (B, L).
        conserve_flux: Whether the transform averages restframe pixels over observed ones,
            instead of interpolating between their centres (`ops.resampler.Resampler`).
    """

    card: ModelCard | None = None
    """The card with which the model was loaded."""

    uses_lsf: bool = False
    """Whether the line spread function of each spectrum is applied to what is reconstructed: the
    card then says `lsf` is "per_spectrum". Without, the restframe holds the resolution of the
    data, and applying it would broaden twice."""

    def __init__(
        self,
        instruments: Sequence[Instrument],
        wave_rest: Any,
        lsf: Mapping[str, nn.Module] | None = None,
        calibration: Mapping[str, nn.Module] | None = None,
        conserve_flux: bool = False,
    ) -> None:
        super().__init__()
        if not instruments:
            raise InputError("a model must serve at least one instrument")
        if not isinstance(conserve_flux, bool):
            raise InputError(f"conserve_flux is true or false, not {conserve_flux!r:.80}")
        self.instruments = {instrument.name: instrument for instrument in instruments}
        self.instrument: Instrument = instruments[0]
        self.rest: Grid = as_grid(wave_rest)
        self.lsf = nn.ModuleDict(dict(lsf or {}))
        self.calibration = nn.ModuleDict(dict(calibration or {}))
        self.conserve_flux = conserve_flux
        self._waves: dict[tuple[str, torch.device], Tensor] = {}
        self._resamplers: dict[str, Resampler] = {}

    @abstractmethod
    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        """Encode normalised spectra (B, L) of a served instrument to latents (B, S)."""

    def encode_weighted(self, flux_BL: Tensor, ivar_BL: Tensor, instrument: str) -> Tensor:
        """Encode spectra whose inverse variances (B, L) are known; by default they are not used."""
        return self.encode_flux(flux_BL, instrument)

    @abstractmethod
    def decode(self, s_BS: Tensor) -> Tensor:
        """Decode latents (B, S) to restframe spectra (B, R) on `wave_rest`."""

    def decode_slopes(self, s_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latents (B, S) to spectra (B, R) and their derivatives (S, B, R).

        By default torch differentiates `decode`; a model that knows a faster way overrides this.
        """
        return slopes_of(self.decode, s_BS)

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

    def encode(
        self,
        spectra: SpectrumBatch | Tensor,
        instrument: Any = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch, or normalised spectra (B, L), to latents (B, S). Needs no z.

        A batch is moved to the model's device and type; a tensor must be there.

        Args:
            spectra: A batch, or normalised spectra (B, L).
            instrument: Name or object; that of the batch, or the model's own, by default.
            weights: Inverse variances (B, L), for models that use them; those of the batch
                by default.
        """
        spectra = self._at_home(spectra)
        flux_BL, observer = self._input(spectra, instrument)
        if observer.name not in self.instruments:
            raise UnknownNameError("encoder for an instrument", observer.name, self.instruments)
        if weights is None and isinstance(spectra, SpectrumBatch):
            weights = spectra.ivar
        if weights is None:
            return self.encode_flux(flux_BL, observer.name)
        if weights.shape != flux_BL.shape:
            raise InputError(
                f"weights have shape {tuple(weights.shape)}, the spectra {tuple(flux_BL.shape)}"
            )
        return self.encode_weighted(flux_BL, weights, observer.name)

    def lsf_of(self, spectra: SpectrumBatch | Tensor) -> SpectrumLSF | None:
        """Return the line spread function of each spectrum, if the model uses it; else None.

        Raises:
            InputError: It uses it, and the spectra come without.
        """
        if not self.uses_lsf:
            return None
        lsf: SpectrumLSF | None = spectra.lsf if isinstance(spectra, SpectrumBatch) else None
        if lsf is None:
            raise InputError(
                "this model needs the line spread function of each spectrum: read the spectra with "
                "instrument.read(..., lsf=True), or give them as a SpectrumBatch that has an lsf. "
                "Augmented spectra keep theirs only with Augmentation(redshifts=None)"
            )
        return lsf

    def transform(
        self, x_BR: Tensor, instrument: Any = None, z: Any = None, lsf: SpectrumLSF | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn restframe spectra into what an instrument observes at redshift z.

        Args:
            x_BR: Restframe spectra on `wave_rest`, shape (B, R).
            instrument: Name or object; the model's own by default. One that the model
                does not serve is given its grid, but no learned LSF.
            z: Redshifts, shape (B,) or a number; 0 by default.
            lsf: Line spread function of each spectrum, on the pixels of the instrument, to
                apply: `lsf_of` a batch. By default there is none.

        Returns:
            The spectra, shape (B, L), and where the model reaches, bool (B, L).

        Raises:
            RedshiftError: A redshift is NaN, or not above -1.
        """
        if x_BR.ndim != 2 or x_BR.shape[1] != self.rest.size:
            raise InputError(
                f"restframe spectra must have shape (B, {self.rest.size}), got {tuple(x_BR.shape)}"
            )
        return self.observe(x_BR, self._observer(instrument), redshifts(z, x_BR), lsf)

    def observe(
        self, x_BR: Tensor, observer: Instrument, z_B: Tensor, lsf: SpectrumLSF | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do what `transform` does, without a look at values, for which a host waits for a GPU.

        Redshifts (B,) are beside the spectra; where they make no sense, nothing is reached.
        """
        lsfs: list[Any] = [] if lsf is None else [lsf]
        if observer.name in self.lsf:
            lsfs.append(self.lsf[observer.name])
        y_BL, valid_BL = self._resampler(observer.grid)(x_BR, z_B, lsfs=lsfs)
        if observer.name in self.calibration:
            wave_L = self._wave(observer.grid, x_BR.device)
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
        refine: int = 0,
    ) -> Reconstruction:
        """Encode spectra, decode them, and observe the result.

        Args:
            spectra: A batch, or normalised spectra (B, L).
            instrument: Name or object; that of the batch, or the model's own, by default.
            z: Redshifts, shape (B,); those of the batch by default.
            s: Latents (B, S) to use instead of encoding.
            normalize: Scale each model to fit its spectrum best.
            weights: Inverse variances (B, L) for that fit; those of the batch, or 1.
            refine: Steps of least squares from the encoder's latents towards those that fit
                each spectrum best (`refining.refined`); amplitudes are then fitted too.

        Warns:
            RedshiftRangeWarning: A redshift is outside of the `z_range` of the model's card.

        Raises:
            InputError: refine is negative, or shapes do not fit.
            RedshiftError: A redshift is unknown, or so large that the model reaches no pixel
                of the spectrum; the message names the spectra.
        """
        if refine < 0:
            raise InputError(f"refine is a number of steps, 0 or more, not {refine}")
        spectra = self._at_home(spectra)
        flux_BL, observer = self._input(spectra, instrument)
        batch = spectra if isinstance(spectra, SpectrumBatch) else None
        if z is None and batch is not None:
            z = known_redshifts(batch)
        if z is not None:
            check_redshifts(self, redshifts(z, flux_BL), observer, batch)
        return self._reconstruct(spectra, instrument, z, s, normalize, weights, refine)

    def _reconstruct(
        self,
        spectra: SpectrumBatch | Tensor,
        instrument: Any,
        z: Any,
        s: Tensor | None,
        normalize: bool,
        weights: Tensor | None,
        refine: int = 0,
    ) -> Reconstruction:
        """Do what `reconstruct` says, at any redshift."""
        flux_BL, observer = self._input(spectra, instrument)
        if isinstance(spectra, SpectrumBatch):
            z = known_redshifts(spectra) if z is None else z
            weights = spectra.ivar if weights is None else weights
        if weights is not None and weights.shape != flux_BL.shape:
            raise InputError(
                f"weights have shape {tuple(weights.shape)}, the spectra {tuple(flux_BL.shape)}"
            )
        if s is not None and len(s) != len(flux_BL):
            raise InputError(f"{len(s)} latents for {len(flux_BL)} spectra")
        s_BS = self.encode(flux_BL, observer, weights) if s is None else s
        x_BR, lsf = self.decode(s_BS), self.lsf_of(spectra)
        y_BL, valid_BL = self.transform(x_BR, observer, z, lsf)
        w_BL = torch.ones_like(flux_BL) if weights is None else weights
        if refine:
            z_B = redshifts(z, x_BR)
            s_BS = refined(self, flux_BL, w_BL * valid_BL, observer, z_B, s_BS, refine, lsf=lsf)
            x_BR = self.decode(s_BS)
            y_BL, valid_BL = self.transform(x_BR, observer, z, lsf)
        if normalize or refine:
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
        z_B = as_tensor(z, torch.float64).detach().cpu().reshape(-1)
        first_B, after_B = self._resampler(self._observer(instrument).grid).reach(z_B)
        return after_B > first_B

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

    def _wave(self, grid: Grid, device: torch.device) -> Tensor:
        home = torch.device("cpu") if device.type == "mps" else device
        key = grid.sha256, home
        if key not in self._waves:
            self._waves[key] = torch.tensor(grid.wave, device=home)
        return self._waves[key]

    def _resampler(self, grid: Grid) -> Resampler:
        if grid.sha256 not in self._resamplers:
            self._resamplers[grid.sha256] = Resampler(self.rest.wave, grid.wave, self.conserve_flux)
        return self._resamplers[grid.sha256]
