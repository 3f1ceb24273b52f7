"""Claim: a training step is at least 3 times as fast as in spender 0.3, with the same gradients.

A step is the fidelity of 64 spectra, its gradients, and a step of torch's Adam, with the widths of
all published models and the same weights on both sides; new spectra and redshifts for every round.
Gradients of 16 spectra are compared before the first step, relative to the largest of each tensor,
with redshifts in float64 on both sides: in float64, and in float32 with what float64 gives. There,
windows of which the two largest pixels agree to rounding, and features at the kink of a PReLU, send
their gradient one way or the other in either code; so the difference in norm is shown too. Biases
of the convolutions are left out: what follows takes them away, so that their gradient is 0, where
spender has noise. The floor is Adam's step by itself,
and a copy of the weights: no step is faster than reading and writing them.

    python benchmarks/bench_training_step.py [sdss|desi]
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from interleaved import interleave
from spender import SpectrumAutoencoder as TheirAutoencoder
from spender.data import desi, sdss
from torch import Tensor

from spender_core.grid import Table
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder

BATCH, REST, LATENTS, ROUNDS = 64, 9780, 6, 5
LAYOUTS = {"sdss": (sdss.SDSS, 2359.0, 9824.0, 0.5), "desi": (desi.DESI, 2000.0, 9824.0, 0.8)}


def pair(survey: str) -> tuple[SpectrumAutoencoder, Any]:
    """Return both models, on the same grids and with the same weights."""
    torch.manual_seed(1)
    made, first, last, _ = LAYOUTS[survey]
    wave_rest = torch.linspace(first, last, REST)
    theirs = TheirAutoencoder(made(), wave_rest, n_latent=LATENTS)
    nodes = theirs.encoder.instrument.wave_obs.double().numpy()

    class SameGrid(Instrument):
        name = survey
        grid = Table(nodes)
        loader = None  # type: ignore[assignment]

    ours = SpectrumAutoencoder([SameGrid()], wave_rest, n_latent=LATENTS)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
    return ours, theirs


def gradients(model: Any, flux: Tensor, ivar: Tensor, z: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model.loss(flux, ivar, z=z), list(model.parameters())))


def differences(names: list[str], mine: list[Tensor], other: list[Tensor]) -> tuple[float, float]:
    """Return the largest difference relative to the largest value, and that of norms."""
    pairs = [
        (a.double() - b.double(), b.double())
        for name, a, b in zip(names, mine, other, strict=True)
        if not (".conv" in name and name.endswith("0.bias"))
    ]
    most = max(float(d.abs().max() / b.abs().max()) for d, b in pairs)
    return most, max(float(d.norm() / b.norm()) for d, b in pairs)


def check(ours: SpectrumAutoencoder, theirs: Any, flux: Tensor, ivar: Tensor, z: Tensor) -> None:
    """Compare gradients."""
    names = [name for name, _ in ours.named_parameters()]
    single, their_single = (gradients(model, flux, ivar, z) for model in (ours, theirs))
    double, their_double = (
        gradients(copy.deepcopy(model).double(), flux.double(), ivar.double(), z)
        for model in (ours, theirs)
    )
    worst = differences(names, double, their_double)[0]
    print(f"  gradients in float64 differ from spender's by {worst:.1e} of the largest")
    for who, found in (("ours", single), ("spender's", their_single)):
        most, norm = differences(names, found, their_double)
        print(f"  {who} in float32 differ from those by {most:.1e}, in norm by {norm:.1e}")
    assert worst < 1e-4


def compare(survey: str) -> None:
    ours, theirs = pair(survey)
    pixels, z_max = ours.instrument.grid.size, LAYOUTS[survey][3]
    optimizers = {id(model): torch.optim.Adam(model.parameters(), 1e-3) for model in (ours, theirs)}

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.linspace(-1, 1, pixels) * torch.randn(BATCH, 1)
        flux = 1 + 0.4 * slope + 0.2 * torch.randn(BATCH, pixels)
        return flux, 25 * torch.rand(BATCH, pixels), z_max * torch.rand(BATCH)

    def step(model: Any) -> Any:
        def run(flux: Tensor, ivar: Tensor, z: Tensor) -> None:
            optimizers[id(model)].zero_grad()
            model.loss(flux, ivar, z=z).backward()
            optimizers[id(model)].step()

        return run

    print(f"{survey}: {BATCH} spectra of {pixels} pixels, {torch.get_num_threads()} threads")
    flux, ivar, z = (part[:16] for part in batch())
    check(ours, theirs, flux, ivar, z.double())
    weights = list(ours.parameters())
    times = interleave(
        {
            "spender 0.3": step(theirs),
            "ours": step(ours),
            "Adam's step alone": lambda *_: optimizers[id(ours)].step(),
            "copy of the weights": lambda *_: [weight.detach().clone() for weight in weights],
        },
        batch,
        ROUNDS,
    )
    times.show("ours", "spender 0.3", "Adam's step alone")


def main() -> None:
    for survey in sys.argv[1:] or LAYOUTS:
        compare(survey)


if __name__ == "__main__":
    main()
