"""From latents to a restframe spectrum: an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

    def slopes(self, s_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latents, and differentiate the spectra along each of them.

        Derivatives go through the layers forward, which costs a part of what automatic
        differentiation does.

        Args:
            s_BS: Latents, shape (B, S).

        Returns:
            Restframe spectra, shape (B, R), and their derivatives, shape (S, B, R).
        """
        x_BF = s_BS
        slope_SBF = torch.eye(s_BS.shape[1]).to(s_BS)[:, None].expand(-1, len(s_BS), -1)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                x_BF, slope_SBF = layer(x_BF), slope_SBF @ layer.weight.mT
            elif isinstance(layer, SpeculatorActivation):
                x_BF, slope_SBF = layer(x_BF), slope_SBF * layer.slope(x_BF)
            else:
                assert isinstance(layer, nn.LeakyReLU)
                steep_BF = torch.where(x_BF > 0, 1.0, layer.negative_slope)
                x_BF, slope_SBF = layer(x_BF), slope_SBF * steep_BF
        return x_BF, slope_SBF
