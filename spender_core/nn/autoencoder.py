"""The autoencoder of spender: one decoder, shared by one encoder for each instrument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.model import Model
from spender_core.nn.decoder import SpectrumDecoder
from spender_core.nn.encoder import SpectrumEncoder
from spender_core.nn.layers import ConstantLSF


class SpectrumAutoencoder(Model):
    """Spectrum autoencoder with the architecture of spender and free widths.

    The defaults are the widths of all published models. See Melchior et al. (2023, AJ
    166, 74) and Liang et al. (2023, AJ 166, 75).

    Args:
        instruments: The instruments served, each by its own encoder.
        wave_rest: Restframe wavelengths: a `Grid`, or R of them in vacuum Angstrom.
        n_latent: Number S of latents.
        filters: Channels of the encoder's convolutions.
        sizes: Their kernel sizes.
        encoder_hidden: Widths of the encoder's MLP.
        decoder_hidden: Widths of the decoder's MLP.
        activation: Of the decoder, "speculator" or "leaky_relu".
        lsf_taps: For some of the instruments, by name, the size of a learned LSF kernel.
        calibration: As in `Model`; not stored with the weights.
        conserve_flux: As in `Model`.

    Example:
        >>> from spender_core import registry
        >>> sdss = registry.instrument("sdss")
        >>> model = SpectrumAutoencoder([sdss], range(3000, 9000, 2), n_latent=4)
        >>> model.encode(sdss.batch(sdss.wave, sdss.wave * 0 + 1, sdss.wave * 0 + 1)).shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        wave_rest: Any,
        n_latent: int = 10,
        filters: Sequence[int] = (128, 256, 512),
        sizes: Sequence[int] = (5, 11, 21),
        encoder_hidden: Sequence[int] = (128, 64, 32),
        decoder_hidden: Sequence[int] = (64, 256, 1024),
        activation: str = "speculator",
        lsf_taps: Mapping[str, int] | None = None,
        calibration: Mapping[str, nn.Module] | None = None,
        conserve_flux: bool = False,
    ) -> None:
        taps = (
            {n.name: lsf_taps[n.name] for n in instruments if n.name in (lsf_taps or {})}
            if lsf_taps
            else {}
        )
        kernels = {name: ConstantLSF(size) for name, size in taps.items()}
        super().__init__(instruments, wave_rest, kernels, calibration, conserve_flux)
        self._config = {
            "n_latent": n_latent,
            "filters": list(filters),
            "sizes": list(sizes),
            "encoder_hidden": list(encoder_hidden),
            "decoder_hidden": list(decoder_hidden),
            "activation": activation,
            "lsf_taps": taps,
            "conserve_flux": conserve_flux,
        }
        self.encoders = nn.ModuleDict(
            {
                instrument.name: SpectrumEncoder(n_latent, filters, sizes, encoder_hidden)
                for instrument in instruments
            }
        )
        self.decoder = SpectrumDecoder(n_latent, self.rest.size, decoder_hidden, activation)

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        """Encode normalised spectra (B, L) of a served instrument to latents (B, S)."""
        s_BS: Tensor = self.encoders[instrument](flux_BL)
        return s_BS

    def decode(self, s_BS: Tensor) -> Tensor:
        """Decode latents (B, S) to restframe spectra (B, R) on `wave_rest`."""
        x_BR: Tensor = self.decoder(s_BS)
        return x_BR

    def decode_slopes(self, s_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latents (B, S) to spectra (B, R) and their derivatives (S, B, R)."""
        return self.decoder.slopes(s_BS)

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that make a model of this architecture."""
        return dict(self._config)

    @property
    def encoder(self) -> SpectrumEncoder:
        """The encoder of the default instrument."""
        encoder = self.encoders[self.instrument.name]
        assert isinstance(encoder, SpectrumEncoder)
        return encoder
