"""Claim: similarity losses of decoded spectra cost 50 times less than in spender 0.3, and no N x N x R memory.

128 decoded spectra of 9,780 restframe pixels, with new spectra and latents for every round;
forward, and forward with backward to both. The losses of data in the restframe have weights of
pairs, which no matrix product takes; they follow. Values and gradients of the same run are
compared with spender's. The floor is the matrix product by itself, in float64, once for the way
there and once more for the way back. Then ours alone with 1,024 spectra, and its peak memory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from interleaved import interleave
from spender import loss as peer
from torch import Tensor

from spender_core.losses import similarity, similarity_restframe

BATCH, REST, LATENTS, ROUNDS = 128, 9780, 6, 5
WAVE = torch.linspace(2000.0, 9824.0, REST)
OBSERVED = torch.linspace(1000.0, 11000.0, REST)


def spectra(n: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, spectra, and weights of which a fifth is 0."""
    s = torch.randn(n, LATENTS)
    basis = torch.sin(torch.outer(torch.rand(LATENTS), torch.arange(REST) / 50))
    x = 1 + 0.1 * s @ basis + 0.05 * torch.randn(n, REST)
    w = 30 * torch.rand(n, REST)
    w[torch.rand(n, REST) < 0.2] = 0
    return s.requires_grad_(), x.requires_grad_(), w


def their_restframe(s: Tensor, x: Tensor, w: Tensor) -> Tensor:
    decoder = SimpleNamespace(wave_rest=WAVE)
    return peer.similarity_restframe_loss(SimpleNamespace(decode=lambda _: x, decoder=decoder), s)


def our_restframe(s: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return similarity_restframe(s, x, WAVE)


def their_data(s: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Both resample to the nodes themselves here, so that only the loss is timed twice."""
    model = SimpleNamespace(decoder=SimpleNamespace(wave_rest=WAVE))
    resampled = peer.resample_to_restframe
    peer.resample_to_restframe = lambda obs, rest, y, weight, z: (y, weight)
    try:
        return peer.similarity_loss(SimpleNamespace(wave_obs=WAVE), model, x.detach(), w, None, s)
    finally:
        peer.resample_to_restframe = resampled


def our_data(s: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return similarity(s, x.detach(), w)


def check(ours, theirs, inputs: tuple[Tensor, ...], with_spectra: bool) -> None:
    leaves = inputs[:2] if with_spectra else inputs[:1]
    mine, other = ours(*inputs), theirs(*inputs)
    deviation = (mine / other - 1).abs().item()
    print(f"  value {mine.item():.6f}, relative deviation {deviation:.1e}")
    assert deviation < 1e-5, "the loss is not that of spender"
    pairs = zip(torch.autograd.grad(mine, leaves), torch.autograd.grad(other, leaves), strict=True)
    for name, (a, b) in zip(("latents", "spectra")[: len(leaves)], pairs, strict=True):
        deviation = ((a - b).abs().max() / b.abs().max()).item()
        print(f"  gradient of {name}: {deviation:.1e}")
        assert deviation < 1e-4, f"the gradient of {name} is not that of spender"


def product(s: Tensor, x: Tensor, w: Tensor) -> None:
    y = x.detach().double()
    _ = y @ y.T


def products(s: Tensor, x: Tensor, w: Tensor) -> None:
    y = x.detach().double()
    _ = (y @ y.T) @ y


def compare(title: str, ours, theirs, floors: bool) -> None:
    print(f"{title}, {BATCH} spectra of {REST} pixels, {torch.get_num_threads()} threads")
    check(ours, theirs, spectra(), with_spectra=floors)

    def forward(loss):
        return lambda *inputs: loss(*inputs).item()

    def both(loss):
        return lambda *inputs: loss(*inputs).backward()

    there = {"spender 0.3 forward": forward(theirs), "ours forward": forward(ours)}
    back = {"spender 0.3 both ways": both(theirs), "ours both ways": both(ours)}
    if floors:
        there["one product"] = product
        back["two products"] = products
    times = interleave(there, spectra, ROUNDS)
    times.show("ours forward", "spender 0.3 forward", "one product" if floors else None)
    times = interleave(back, spectra, ROUNDS)
    times.show("ours both ways", "spender 0.3 both ways", "two products" if floors else None)


def resident(field: str) -> float:
    """Return a count of MiB that Linux keeps of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def large(name: str, loss, n: int = 1024) -> None:
    """Time ours with many spectra, and say by how much the peak of memory rises."""
    inputs = spectra(n)
    title = f"{name}, N = {n}, both ways"
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    times = interleave({title: lambda: loss(*inputs).backward()}, rounds=ROUNDS)
    print(f"  peak memory rises by {resident('VmHWM') - before:.0f} MiB, gradients included")
    times.show(title)


def main(which: list[str]) -> None:
    torch.manual_seed(0)
    which = which or ["restframe", "data", "large"]
    if "restframe" in which:
        compare("similarity_restframe", our_restframe, their_restframe, floors=True)
    if "data" in which:
        compare("similarity of data", our_data, their_data, floors=False)
    if "large" in which:
        large("similarity_restframe", our_restframe)
        large("similarity of data", our_data)


if __name__ == "__main__":
    main(sys.argv[1:])
