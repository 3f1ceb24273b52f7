"""An autoencoder whose encoder knows how well each pixel was measured.

The encoder of spender sees a flux alone, so that a masked or a noisy pixel counts as much as
a good one. Here every pixel comes with its uncertainty, and the network is small and strided:
it encodes some hundred spectra a second on two cores of a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.interfaces.instrument import Instrument
from spender_core.interfaces.model import Model
from spender_core.nn.decoder import SpectrumDecoder
from spender_core.nn.layers import ConstantLSF, check_sizes, mlp

TYPICAL_ERROR = 0.1
"""Relative uncertainty assumed for all pixels of spectra that come without any."""


class WeightedEncoder(nn.Module):
    """Strided convolutions with residuals over flux and uncertainty, then an MLP.

    The three channels are the flux relative to its weighted mean, compressed by asinh; the
    logarithm of the signal-to-noise ratio; and the flux in units of its uncertainty, compressed
    likewise. All are 0 where a pixel has no inverse variance. Scaling a spectrum
    changes nothing.

    Args:
        n_pixels: Number L of pixels of a spectrum.
        n_latent: Number S of latents.
        channels: Of the first convolution, which keeps every fourth pixel, and of each block.
        strides: Of each block.
        hidden: Widths of the hidden layers of the MLP.
    """

    def __init__(
        self,
        n_pixels: int,
        n_latent: int,
        channels: Sequence[int],
        strides: Sequence[int],
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        check_sizes("channels", channels)
        check_sizes("strides", strides)
        if len(strides) != len(channels) - 1:
            raise InputError(
                f"{len(channels)} channels need {len(channels) - 1} strides, got {len(strides)}"
            )
        self.stem = nn.Conv1d(3, channels[0], 9, stride=4, padding=4)
        self.blocks = nn.Sequential(
            *(
                _Block(n_in, n_out, stride)
                for n_in, n_out, stride in zip(channels[:-1], channels[1:], strides, strict=True)
            )
        )
        width = (n_pixels - 1) // 4 + 1
        for stride in strides:
            width = (width - 1) // stride + 1
        activations = [*(nn.SiLU() for _ in hidden), nn.Identity()]
        self.mlp = mlp([channels[-1] * width, *hidden, n_latent], activations)

    def forward(self, flux_BL: Tensor, ivar_BL: Tensor) -> Tensor:
        """Encode spectra and their inverse variances, shape (B, L), to latents, shape (B, S)."""
        features = nn.functional.silu(self.stem(_channels(flux_BL, ivar_BL)))
        s_BS: Tensor = self.mlp(self.blocks(features).flatten(1))
        return s_BS


class _Block(nn.Module):
    """Two convolutions beside a linear one, normalised over channels and pixels."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_in, n_out, 5, stride=stride, padding=2)
        self.norm = nn.GroupNorm(1, n_out)
        self.second = nn.Conv1d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv1d(n_in, n_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.silu(self.norm(self.first(x)))
        return nn.functional.silu(self.skip(x) + self.second(inner))


def _channels(flux_BL: Tensor, ivar_BL: Tensor) -> Tensor:
    """Return what the network sees, shape (B, 3, L)."""
    good_BL = ivar_BL > 0
    none_BL = torch.zeros_like(flux_BL)
    # weights of the mean: those of ivar, but never more than 4 times that of a typical pixel
    count_B1 = good_BL.sum(dim=1, keepdim=True).clamp(min=1)
    typical_B1 = ivar_BL.sum(dim=1, keepdim=True) / count_B1
    weight_BL = torch.minimum(ivar_BL, 4 * typical_B1)
    total_B1 = weight_BL.sum(dim=1, keepdim=True).clamp(min=torch.finfo(flux_BL.dtype).tiny)
    mean_B1 = (weight_BL * flux_BL).sum(dim=1, keepdim=True) / total_B1
    rms_B1 = ((weight_BL * flux_BL.square()).sum(dim=1, keepdim=True) / total_B1).sqrt()
    scale_B1 = torch.maximum(mean_B1, 0.1 * rms_B1)
    scale_B1 = torch.where(scale_B1 > 0, scale_B1, torch.ones_like(scale_B1))
    root_BL = ivar_BL.sqrt()
    relative = torch.asinh(flux_BL / scale_B1) - 0.8814  # asinh(1)
    snr = torch.log1p(root_BL * scale_B1)
    pull = torch.asinh(flux_BL * root_BL)
    parts = (relative, 0.5 * snr, 0.3 * pull)
    return torch.stack([torch.where(good_BL, part, none_BL) for part in parts], dim=1)


class WeightedAutoencoder(Model):
    """Spectrum autoencoder that encodes flux and inverse variance; one decoder for all instruments.

    Its decoder and its transform are those of `SpectrumAutoencoder`.

    Args:
        instruments: The instruments served, each by its own encoder.
        wave_rest: Restframe wavelengths: a `Grid`, or R of them in vacuum Angstrom.
        n_latent: Number S of latents.
        channels: Of the encoder's convolutions.
        strides: Of all but the first of them, which keeps every fourth pixel.
        encoder_hidden: Widths of the encoder's MLP.
        decoder_hidden: Widths of the decoder's MLP.
        activation: Of the decoder, "speculator" or "leaky_relu".
        lsf_taps: For some of the instruments, by name, the size of a learned LSF kernel.
        conserve_flux: As in `Model`.

    Example:
        >>> from spender_core import registry
        >>> sdss = registry.instrument("sdss")
        >>> model = WeightedAutoencoder([sdss], range(3000, 9000, 2), n_latent=4)
        >>> model.encode(sdss.batch(sdss.wave, sdss.wave * 0 + 1, sdss.wave * 0 + 1)).shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        wave_rest: Any,
        n_latent: int = 8,
        channels: Sequence[int] = (24, 32, 64, 96, 64),
        strides: Sequence[int] = (3, 2, 3, 2),
        encoder_hidden: Sequence[int] = (128, 64),
        decoder_hidden: Sequence[int] = (128, 128, 64),
        activation: str = "speculator",
        lsf_taps: Mapping[str, int] | None = None,
        conserve_flux: bool = False,
    ) -> None:
        served = [instrument.name for instrument in instruments]
        taps = {name: size for name, size in (lsf_taps or {}).items() if name in served}
        kernels = {name: ConstantLSF(size) for name, size in taps.items()}
        super().__init__(instruments, wave_rest, kernels, conserve_flux=conserve_flux)
        self._config = {
            "n_latent": n_latent,
            "channels": list(channels),
            "strides": list(strides),
            "encoder_hidden": list(encoder_hidden),
            "decoder_hidden": list(decoder_hidden),
            "activation": activation,
            "lsf_taps": taps,
            "conserve_flux": conserve_flux,
        }
        self.encoders = nn.ModuleDict(
            {
                instrument.name: WeightedEncoder(
                    instrument.grid.size, n_latent, channels, strides, encoder_hidden
                )
                for instrument in instruments
            }
        )
        self.decoder = SpectrumDecoder(n_latent, self.rest.size, decoder_hidden, activation)

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        """Encode spectra (B, L) without uncertainties: all pixels count as measured to 10 percent."""
        scale_B1 = flux_BL.abs().mean(dim=1, keepdim=True).clamp(min=1e-12)
        ivar_BL = (TYPICAL_ERROR * scale_B1).square().reciprocal().expand_as(flux_BL)
        return self.encode_weighted(flux_BL, ivar_BL, instrument)

    def encode_weighted(self, flux_BL: Tensor, ivar_BL: Tensor, instrument: str) -> Tensor:
        """Encode spectra and inverse variances, shape (B, L), to latents (B, S)."""
        s_BS: Tensor = self.encoders[instrument](flux_BL, ivar_BL)
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
