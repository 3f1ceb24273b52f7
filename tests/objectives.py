"""Small instruments, models and spectra for tests of what training minimises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spender_core.grid import Linear, Log
from spender_core.interfaces import Instrument, Model
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.training.objective import Inputs

REST = Linear(3600.0, 8.0, 440)
SIZES: dict[str, Any] = {"filters": (4, 6, 8), "encoder_hidden": (8,), "decoder_hidden": (8, 8)}
WEIGHTED: dict[str, Any] = {
    "channels": (4, 6),
    "strides": (2,),
    "encoder_hidden": (8,),
    "decoder_hidden": (8, 8),
}


class Near(Instrument):
    """Logarithmic, as SDSS."""

    name = "near"
    grid = Log(3.62, 8e-4, 260)
    loader: Any = None


class Far(Instrument):
    """Linear, as DESI, and with more pixels."""

    name = "far"
    grid = Linear(4100.0, 9.0, 330)
    loader: Any = None


def autoencoder(
    *instruments: Instrument, dtype: torch.dtype = torch.float64, **config: Any
) -> SpectrumAutoencoder:
    """Return an autoencoder as spender's, with few and small layers, in training mode."""
    made = SpectrumAutoencoder(instruments or (Near(),), REST, n_latent=3, **SIZES | config)
    return _lively(made, dtype)


def weighted(
    *instruments: Instrument, dtype: torch.dtype = torch.float64, **config: Any
) -> WeightedAutoencoder:
    """Return an autoencoder that encodes inverse variances too."""
    made = WeightedAutoencoder(instruments or (Near(),), REST, n_latent=3, **WEIGHTED | config)
    return _lively(made, dtype)


def _lively(model: Any, dtype: torch.dtype) -> Any:
    """Return a model whose latents differ between spectra."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder" in name and "mlp" in name:
                parameter.mul_(3)
    return model.to(dtype).train()


def spectra(
    instrument: Instrument, n: int = 9, dtype: torch.dtype = torch.float64, seed: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fluxes and inverse variances, of which many are 0, and redshifts in float64."""
    generator = torch.Generator().manual_seed(seed)
    pixels = instrument.grid.size

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    pixel = torch.arange(pixels)
    flux = (
        1 + torch.linspace(-0.5, 0.5, pixels) * (2 * draw(n, 1) - 1) + 0.2 * (draw(n, pixels) - 0.5)
    )
    for _ in range(3):
        centre, height = draw(n, 1), draw(n, 1)
        flux = flux + 2 * height * torch.exp(-0.5 * ((pixel - centre * pixels) / 3) ** 2)
    ivar = (5 + 20 * draw(n, pixels)) * (draw(n, pixels) > 0.1)
    return flux.to(dtype), ivar.to(dtype), 0.02 + 0.1 * draw(n)


def inputs(
    instrument: Instrument, n: int = 9, dtype: torch.dtype = torch.float64, **others: Any
) -> Inputs:
    """Return spectra and, as if they were augmented, others that are much like them."""
    flux, ivar, z = spectra(instrument, n, dtype)
    moved = (flux.roll(2, dims=1) * 1.01).contiguous()
    return Inputs(flux, ivar, z, flux_aug=moved, ivar_aug=ivar.clone(), **others)


def with_gaps(given: Inputs) -> Inputs:
    """Return the same with redshifts of augmented spectra, of which a third is to be filled."""
    pixel = torch.arange(given.flux.shape[1])
    gaps = (pixel + 40 * torch.arange(len(given.flux))[:, None]) % 240 < 80
    assert given.flux_aug is not None
    moved = given.flux_aug.masked_fill(gaps, 0.0)
    return replace(given, flux_aug=moved, z_aug=given.z + 0.02, gaps_aug=gaps)


def gradients(model: Model) -> dict[str, Tensor]:
    """Return the gradients of all parameters that have one, by name."""
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
