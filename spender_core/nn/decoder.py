"""From latents to a restframe spectrum: an MLP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.nn.layers import SpeculatorActivation, check_sizes, mlp


class SpectrumDecoder(nn.Module):
    """MLP decoder of Melchior et al. (2023, AJ 166, 74), section 2.2.

    Args:
        n_latent: Number S of latents.
        n_rest: Number R of restframe pixels.
        hidden: Widths of the hidden layers.
        activation: "speculator", with 1 added to the output, or "leaky_relu", after
            every layer including the last.
    """

    def __init__(
        self,
        n_latent: int,
        n_rest: int,
        hidden: Sequence[int] = (64, 256, 1024),
        activation: str = "speculator",
    ) -> None:
        super().__init__()
        widths = [*hidden, n_rest]
        check_sizes("widths of layers", widths)
        activations: list[nn.Module]
        if activation == "speculator":
            activations = [SpeculatorActivation(n) for n in hidden]
            activations.append(SpeculatorActivation(n_rest, plus_one=True))
        elif activation == "leaky_relu":
            activations = [nn.LeakyReLU() for _ in widths]
        else:
            raise InputError(
                f"activation {activation!r} is not known; use 'speculator' or 'leaky_relu'"
            )
        self.mlp = mlp([n_latent, *widths], activations)

    def forward(self, s_BS: Tensor) -> Tensor:
        """Decode latents, shape (B, S), to restframe spectra, shape (B, R)."""
        x_BR: Tensor = self.mlp(s_BS)
        return x_BR
