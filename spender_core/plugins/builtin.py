"""What core itself offers, through the same hooks as any plugin."""

from __future__ import annotations

from spender_core.plugins.hookspecs import hookimpl
from spender_core.records import ArchitectureSpec


@hookimpl
def spender_architectures() -> list[ArchitectureSpec]:
    """Return the architectures of spender."""
    return [
        ArchitectureSpec(
            name="spectrum_autoencoder",
            target="spender_core.nn.autoencoder:SpectrumAutoencoder",
            description="Encoder with attention, MLP decoder (Melchior et al. 2023)",
        ),
        ArchitectureSpec(
            name="weighted_autoencoder",
            target="spender_core.nn.weighted:WeightedAutoencoder",
            description="Strided encoder of flux and inverse variance, MLP decoder",
        ),
        ArchitectureSpec(
            name="maf",
            target="spender_core.nn.flow:MaskedAutoregressiveFlow",
            description="Masked autoregressive flow of the latents (Liang et al. 2023)",
        ),
        ArchitectureSpec(
            name="zuko_flow",
            target="spender_core.nn.zuko_flow:ZukoFlow",
            description="Neural spline or affine autoregressive flow of the latents, by zuko",
        ),
    ]
