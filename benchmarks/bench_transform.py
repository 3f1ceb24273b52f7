"""Claim: the transform is as fast as memory allows, and exact.

256 spectra from a restframe grid to DESI's and to SDSS's wavelengths, at new redshifts in every
round, with random cotangents, interleaved with spender 0.3 in one process. Outputs and gradients
are compared with float64 in the same run. The floor is a copy of the restframe spectra and of the
observed ones. Beside them: torch's functions alone (eager), and averaging over pixels (flux).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from interleaved import interleave, spread
from spender import SpectrumDecoder
from spender.data import desi as peer_desi
from spender.data import sdss as peer_sdss
from torch import Tensor

from spender_core import native
from spender_core.grid import Linear, Log
from spender_core.ops.resample import interpolate
from spender_core.ops.resampler import Resampler

BATCH, ROUNDS = 256, 9
LAYOUTS = {
    # as published models hold them: linspaces of float32
    "DESI, linear": (
        torch.linspace(2000.0, 9824.0, 9780),
        Linear(3600.0, 0.8, 7781),
        peer_desi.DESI,
    ),
    "SDSS, log": (
        torch.tensor(Log(3.25, 1e-4, 7400).wave, dtype=torch.float32),
        Log(3.578, 1e-4, 3921),
        peer_sdss.SDSS,
    ),
}
Transform = Callable[[Tensor, Tensor], Tensor]


def exact(nodes: Tensor, wave_obs: Tensor) -> Transform:
    """Return the transform in float64, as in a textbook."""

    def transform(x: Tensor, z: Tensor) -> Tensor:
        stretch = 1 + z[:, None]
        valid = (wave_obs > nodes[0] * stretch) & (wave_obs < nodes[-1] * stretch)
        y = interpolate(x.double(), nodes, wave_obs / stretch)
        return torch.where(valid, y, torch.zeros_like(y))

    return transform


def with_gradients(transform: Transform, x: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    x, z = x.detach().requires_grad_(), z.detach().requires_grad_()
    y = transform(x, z)
    return y, *torch.autograd.grad(y, (x, z), g.to(y.dtype))


def errors(transform: Transform, truth: Transform, x: Tensor, z: Tensor, g: Tensor) -> str:
    """Return the largest errors of the spectra and of both gradients, relative to the largest."""
    pairs = zip(with_gradients(transform, x, z, g), with_gradients(truth, x, z, g), strict=True)
    found = [
        float((a.detach() - b.detach()).abs().max() / b.detach().abs().max()) for a, b in pairs
    ]
    return "spectra {:.1e}, gradients of x {:.1e}, of z {:.1e}".format(*found)


def measure(name: str) -> None:
    nodes, grid, peer_instrument = LAYOUTS[name]
    observed = torch.tensor(grid.wave)
    decoder, instrument = SpectrumDecoder(nodes, n_latent=2, n_hidden=(2, 2, 2)), peer_instrument()
    ours = Resampler(nodes.double().numpy(), grid.wave)
    flux = Resampler(nodes.double().numpy(), grid.wave, conserve_flux=True)
    x, g = torch.randn(BATCH, len(nodes)), torch.randn(BATCH, grid.size)
    transforms: dict[str, Transform] = {
        "spender 0.3": lambda x, z: decoder.transform(x, instrument, z=z),
        "ours": lambda x, z: ours(x, z)[0],
        "eager": lambda x, z: ours(x, z, "eager")[0],
        "flux": lambda x, z: flux(x, z)[0],
    }

    def redshifts() -> tuple[Tensor]:
        return (0.8 * torch.rand(BATCH, dtype=torch.float64),)

    print(f"\n{name}: {BATCH} spectra, {len(nodes)} to {grid.size} pixels")
    (z,) = redshifts()
    for kind in ("spender 0.3", "ours", "eager"):
        print(
            f"  error of {kind}: {errors(transforms[kind], exact(nodes.double(), observed), x, z, g)}"
        )

    def forward(transform: Transform) -> Callable[[Tensor], object]:
        def run(z: Tensor) -> object:
            with torch.no_grad():
                return transform(x, z)

        return run

    def both(transform: Transform) -> Callable[[Tensor], object]:
        return lambda z: with_gradients(transform, x, z, g)

    copy = {"copy": lambda z: (x.clone(), g.clone())}
    times = interleave({k: forward(t) for k, t in transforms.items()} | copy, redshifts, ROUNDS)
    print("  forward")
    times.show("ours", "spender 0.3", "copy")
    print(f"  eager: {spread(times.ratios('spender 0.3', 'eager'))} times as fast as spender 0.3")
    print(f"  flux: {spread(times.ratios('flux', 'ours'))} times the time of linear")
    times = interleave({k: both(t) for k, t in transforms.items()} | copy, redshifts, ROUNDS)
    print("  forward and backward")
    times.show("ours", "spender 0.3", "copy")
    print(f"  eager: {spread(times.ratios('spender 0.3', 'eager'))} times as fast as spender 0.3")
    print(f"  flux: {spread(times.ratios('flux', 'ours'))} times the time of linear")


def main() -> None:
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, compiled kernels: {native.library() is not None}")
    for name in LAYOUTS:
        measure(name)


if __name__ == "__main__":
    main()
