"""Made-up states of autoencoders and flows, under the names and shapes of spender 0.3."""

from __future__ import annotations

import torch
from torch import Tensor

FILTERS, SIZES, ENCODER, DECODER = (3, 4, 6), (3, 5, 3), (5, 4), (7,)
LATENTS, REST = 2, 11
State = dict[str, Tensor]


def state(
    inputs: int | None = None,
    filters: tuple[int, ...] = FILTERS,
    sizes: tuple[int, ...] = SIZES,
    encoder: tuple[int, ...] = ENCODER,
    decoder: tuple[int, ...] = DECODER,
    latents: int = LATENTS,
    rest: int = REST,
) -> State:
    """Make the state of an autoencoder, under the names and shapes of spender 0.3."""
    inputs = filters[-1] // 2 if inputs is None else inputs
    tensors: State = {"decoder.wave_rest": torch.linspace(3000, 7000, rest)}
    for k in range(len(filters)):
        n_in, n_out = (1, *filters)[k : k + 2]
        tensors[f"encoder.conv{k + 1}.0.weight"] = torch.randn(n_out, n_in, sizes[k])
        tensors[f"encoder.conv{k + 1}.0.bias"] = torch.randn(n_out)
        tensors[f"encoder.conv{k + 1}.2.weight"] = torch.rand(n_out)
    for part, widths in (
        ("encoder", (inputs, *encoder, latents)),
        ("decoder", (latents, *decoder, rest)),
    ):
        for k in range(len(widths) - 1):
            tensors[f"{part}.mlp.{3 * k}.weight"] = torch.randn(widths[k + 1], widths[k])
            tensors[f"{part}.mlp.{3 * k}.bias"] = torch.randn(widths[k + 1])
            if part == "decoder":
                tensors[f"{part}.mlp.{3 * k + 1}.beta"] = torch.randn(widths[k + 1])
                tensors[f"{part}.mlp.{3 * k + 1}.gamma"] = torch.randn(widths[k + 1])
            elif k < len(widths) - 2:
                tensors[f"{part}.mlp.{3 * k + 1}.weight"] = torch.rand(widths[k + 1])
    return tensors


def flow_state(n_latent: int = 3, hidden: int = 4, count: int = 2, blocks: int = 1) -> State:
    """Make the state of a flow, under the names and shapes of nflows."""
    tensors: State = {
        "_transform._transforms.0._shift": torch.randn(n_latent),
        "_transform._transforms.0._scale": torch.rand(n_latent) + 0.5,
    }
    inner = torch.arange(hidden) % (n_latent - 1) + 1
    outer = torch.arange(1, n_latent + 1).repeat_interleave(2)
    for k in range(count):
        home = f"_transform._transforms.1._transforms.{k}._transforms."
        net = f"{home}0.autoregressive_net."
        tensors[f"{home}1._permutation"] = torch.randperm(n_latent)
        layers = {"initial_layer": (n_latent, inner), "final_layer": (hidden, outer)}
        layers |= {f"blocks.{b}.linear": (hidden, inner) for b in range(blocks)}
        for name, (n_in, degrees) in layers.items():
            tensors[f"{net}{name}.weight"] = torch.randn(len(degrees), n_in)
            tensors[f"{net}{name}.bias"] = torch.randn(len(degrees))
            tensors[f"{net}{name}.degrees"] = degrees
            tensors[f"{net}{name}.mask"] = torch.ones(len(degrees), n_in)
    return tensors
