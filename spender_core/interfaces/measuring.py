"""`Model.redshift`: redshifts measured with a model, asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.interfaces.redshifting import Redshifts, measured
from spender_core.ops.scanning import Scan

if TYPE_CHECKING:
    from spender_core.interfaces.instrument import Instrument
    from spender_core.interfaces.model import Model


class MeasuresRedshifts:
    """What `Model` does with spectra whose redshifts are unknown."""

    def redshift(
        self,
        batch: SpectrumBatch,
        instrument: Any = None,
        z_range: tuple[float, float] | None = None,
        prior: float = 1.0,
        posterior: bool = False,
    ) -> Redshifts:
        """Measure redshifts of spectra; those that a batch has are not looked at.

        The encoder, which needs no redshift, gives a restframe spectrum for each. That is compared
        with the spectrum at all redshifts of the range. Where it fits best, latents, redshift and
        amplitude are fitted together by least squares.

        Args:
            batch: Spectra of an instrument that the model serves. Read them without redshifts, or
                their normalisation knows about them.
            instrument: Name or object; that of the batch by default.
            z_range: Lowest and highest redshift to search; by default that of the model's card.
            prior: Standard deviation of latents about those of the encoder, in their own units.
            posterior: Return the probability at each redshift of the grid, too.

        Returns:
            `Redshifts`: z, zerr, the second-best redshift, by how much it fits worse, flags, and
            latents, on the device of the model.

        Raises:
            InputError: There is no range to search, or it or the prior make no sense.
            UnknownNameError: The model has no encoder for the instrument.
        """
        model = cast("Model", self)
        if not isinstance(batch, SpectrumBatch):
            raise InputError(
                f"redshift takes a SpectrumBatch, not {type(batch).__name__}: make one with "
                "instrument.batch(wave, flux, ivar), or SpectrumBatch(flux, ivar)"
            )
        if not prior > 0:
            raise InputError(f"prior is a width above 0, not {prior!r}")
        spectra = model._at_home(batch)
        assert isinstance(spectra, SpectrumBatch)
        _, observer = model._input(spectra, instrument)
        scan = self._scan(observer, z_range)
        finest = self._scan(observer, z_range, order=0) if posterior else None
        return measured(model, spectra, observer, scan, prior, finest)

    def _scan(
        self, observer: Instrument, z_range: tuple[float, float] | None, **options: int
    ) -> Scan:
        model = cast("Model", self)
        if z_range is None:
            z_range = None if model.card is None else model.card.z_range
        if z_range is None:
            raise InputError(
                "the model has no card that says for which redshifts it was made; say which to "
                "search, as in z_range=(0.0, 0.5)"
            )
        return Scan(model.rest, observer.grid, z_range, **options)
