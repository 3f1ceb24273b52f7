"""Claims on a GPU; without one, this says so and ends.

- The transform runs at 60 percent of the measured copy bandwidth forward, and at 40 percent
  forward and backward, on grids of DESI (linear) and of SDSS (logarithmic). Its results are those
  of float64 to 2e-6 of a spectrum's maximum; its memory beyond inputs and outputs does not grow.
- A training step in bfloat16 is 4 times as fast as that of spender 0.3 with accelerate in
  float16: batches of 128 and 512 DESI spectra, forward, backward and Adam.
- Spectra are encoded from the host's memory, copies included, at 31,000 a second and more: what
  18.7 million spectra in 10 minutes need.

`--device cpu --small` runs everything once on the host, to see that it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from interleaved import Times, interleave, spread
from spender import SpectrumAutoencoder as TheirAutoencoder
from spender import SpectrumDecoder as TheirDecoder
from spender.data import desi as peer_desi
from spender_desi.instrument import DESI
from spender_sdss.instrument import SDSS
from torch import Tensor, nn

from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.ops.resampler import Resampler

REST, PIXELS, LATENTS, ROUNDS = 9780, 7781, 6, 9
NEEDED = 31_000
"""Spectra a second that encode 18.7 million in 10 minutes."""


@dataclass(frozen=True)
class Bench:
    """Where and how large."""

    device: torch.device
    small: bool

    def size(self, full: int) -> int:
        return max(2, full // 512) if self.small else full

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def waiting(self, function: Callable[..., object]) -> Callable[..., None]:
        """Return a function that is done when the device is."""

        def call(*inputs: object) -> None:
            function(*inputs)
            self.wait()

        return call

    def times(
        self, functions: dict[str, Callable[..., object]], setup: Callable[[], tuple[object, ...]]
    ) -> Times:
        def ready() -> tuple[object, ...]:
            inputs = setup()
            self.wait()
            return inputs

        slow = {name: self.waiting(function) for name, function in functions.items()}
        return interleave(slow, ready, 5 if self.small else ROUNDS)


@dataclass(frozen=True)
class Pair:
    """A restframe grid and an observed one."""

    name: str
    rest: Tensor
    observed: Tensor


def pairs() -> Iterator[Pair]:
    """Give grids as published models have them: linspaces, rounded to float32."""
    desi, sdss = torch.tensor(DESI().wave), torch.tensor(SDSS().wave)
    yield Pair("DESI, linear", torch.linspace(2000.0, 9824.0, REST).double(), desi)
    start, stop = float(np.log10(2350.0)), float(np.log10(10400.0))
    log = torch.logspace(start, stop, 7000, dtype=torch.float64)
    yield Pair("SDSS, logarithmic", log.float().double(), sdss)


def check(resampler: Resampler, pair: Pair, bench: Bench) -> None:
    """Compare spectra of white noise and all gradients with float64, by torch's functions."""
    rows = bench.size(64)
    x = torch.randn(rows, len(pair.rest), device=bench.device)
    z = 0.8 * torch.rand(rows, device=bench.device, dtype=torch.float64)
    g = torch.randn(rows, len(pair.observed), device=bench.device)
    made = []
    for dtype, backend in ((torch.float32, None), (torch.float64, "eager")):
        inputs = x.to(dtype).requires_grad_(), z.clone().requires_grad_()
        y, valid = resampler(*inputs, backend)
        made.append((y.detach(), *torch.autograd.grad(y, inputs, g.to(dtype)), valid))
    ours, exact = made
    assert torch.equal(ours[3], exact[3])
    errors = [
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours[:3], exact[:3], strict=True)
    ]
    print("  error of spectra, gradient of x, of z: " + ", ".join(f"{e:.1e}" for e in errors))
    assert max(errors[:2]) < 2e-6
    assert errors[2] < 1e-4


def transform(pair: Pair, bench: Bench) -> None:
    rows = bench.size(8192)
    resampler = Resampler(pair.rest.numpy(), pair.observed.numpy())
    print(
        f"transform, {pair.name}: {rows} spectra, {len(pair.rest)} to {len(pair.observed)} pixels"
    )
    check(resampler, pair, bench)
    x = torch.randn(rows, len(pair.rest), device=bench.device)
    x_grad = x.clone().requires_grad_()
    g = torch.randn(rows, len(pair.observed), device=bench.device)
    source = torch.empty(bench.size(1 << 29), device=bench.device)
    target = torch.empty_like(source)
    theirs = TheirDecoder(pair.rest.float(), LATENTS).to(bench.device)
    instrument = peer_desi.DESI()
    instrument.wave_obs = pair.observed.to(bench.device)
    some = slice(bench.size(512))  # as many as fit with what spender keeps for its gradients

    def redshifts() -> tuple[Tensor]:
        return (0.8 * torch.rand(rows, device=bench.device, dtype=torch.float64),)

    def forward_backward(z: Tensor) -> None:
        y, _ = resampler(x_grad, z.requires_grad_())
        torch.autograd.grad(y, (x_grad, z), g)

    def peer_forward_backward(z: Tensor) -> None:
        inputs = x[some].requires_grad_(), z[some].detach().requires_grad_()
        y = theirs.transform(inputs[0], instrument, z=inputs[1])
        torch.autograd.grad(y, inputs, g[some].to(y))

    def without_gradients(function: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
        return torch.no_grad()(function)

    times = bench.times(
        {
            "copy": lambda z: target.copy_(source),
            "forward": without_gradients(lambda z: resampler(x, z)),
            "forward, backward": forward_backward,
            "eager forward": without_gradients(lambda z: resampler(x[some], z[some], "eager")),
            "spender 0.3 forward": without_gradients(
                lambda z: theirs.transform(x[some], instrument, z=z[some])
            ),
            "spender 0.3 forward, backward": peer_forward_backward,
        },
        redshifts,
    )
    times.show("forward")
    read, written = x.numel() * 4, g.numel() * 4
    bandwidth = 2 * source.numel() * 4 / times.median("copy")
    print(f"  a copy moves {bandwidth / 1e9:.0f} GB/s")
    share = rows / len(range(*some.indices(rows)))
    # spectra, their cotangents and gradients once each, and a byte of validity for each pixel
    for name, moved, bound in (
        ("forward", read + written + g.numel(), 0.6),
        ("forward, backward", 3 * read + 2 * written + g.numel(), 0.4),
    ):
        parts = [moved / seconds / bandwidth for seconds in times.seconds[name]]
        ratios = [share * r for r in times.ratios(f"spender 0.3 {name}", name)]
        print(
            f"  {name}: {spread(parts)} of the bandwidth of a copy (bound {bound}); "
            f"{spread(ratios)} times as fast as spender 0.3 (of {some.stop} spectra)"
        )


def memory(pair: Pair, bench: Bench) -> None:
    """Print the memory beyond inputs and outputs, for few spectra and for many."""
    resampler = Resampler(pair.rest.numpy(), pair.observed.numpy())
    for rows in (1024, 16_384):
        x = torch.randn(rows, len(pair.rest), device=bench.device, requires_grad=True)
        z = torch.rand(rows, device=bench.device, dtype=torch.float64, requires_grad=True)
        g = torch.randn(rows, len(pair.observed), device=bench.device)
        resampler(x[:1], z[:1])
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y, valid = resampler(x, z)
        gradients = torch.autograd.grad(y, (x, z), g)
        known = sum(t.numel() * t.element_size() for t in (y, valid, *gradients))
        extra = torch.cuda.max_memory_allocated() - before - known
        whole = known + sum(t.numel() * t.element_size() for t in (x, z, g))
        print(
            f"memory beyond inputs and outputs, {rows} spectra: {extra / 2**20:.1f} MiB, "
            f"{100 * extra / whole:.2f} percent of them"
        )


def models(bench: Bench) -> tuple[SpectrumAutoencoder, TheirAutoencoder, peer_desi.DESI]:
    """Return both autoencoders with the widths of the published ones."""
    torch.manual_seed(1)
    rest = torch.linspace(2000.0, 9824.0, REST)
    instrument = peer_desi.DESI().to(bench.device)
    theirs = TheirAutoencoder(instrument, rest, n_latent=LATENTS, n_hidden=(64, 256, 1024))
    ours = SpectrumAutoencoder([DESI()], rest.double().numpy(), n_latent=LATENTS)
    return ours.to(bench.device), theirs.to(bench.device), instrument


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give both models the same weights, and make sure that they have as many."""
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)


def training(rows: int, bench: Bench) -> None:
    from accelerate import Accelerator

    ours, theirs, instrument = models(bench)
    same_weights(ours, theirs)
    on_gpu = bench.device.type == "cuda"
    accelerator = Accelerator(mixed_precision="fp16" if on_gpu else "no", cpu=not on_gpu)
    fused = {"fused": True} if on_gpu else {}
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-4, **fused)
    theirs, their_optimizer = accelerator.prepare(
        theirs, torch.optim.Adam(theirs.parameters(), lr=1e-4)
    )
    losses: dict[str, list[Tensor]] = {"ours": [], "theirs": []}

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        flux = 1 + 0.1 * torch.randn(rows, PIXELS, device=bench.device)
        return flux, torch.rand_like(flux), 0.5 * torch.rand(rows, device=bench.device)

    def step(flux: Tensor, ivar: Tensor, z: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = ours.loss(flux, ivar, instrument="desi", z=z)
        loss.backward()
        optimizer.step()
        losses["ours"].append(loss.detach())

    def their_step(flux: Tensor, ivar: Tensor, z: Tensor) -> None:
        their_optimizer.zero_grad()
        with accelerator.autocast():
            loss = theirs.loss(flux, ivar, instrument, z=z)
        accelerator.backward(loss)
        their_optimizer.step()
        losses["theirs"].append(loss.detach())

    times = bench.times({"ours, bf16": step, "spender 0.3, fp16": their_step}, batch)
    print(f"training step, {rows} DESI spectra (bound: 4 times as fast)")
    times.show("ours, bf16", "spender 0.3, fp16")
    start = [float(values[0]) for values in losses.values()]
    print(f"  first loss {start[0]:.5g}, of spender 0.3 {start[1]:.5g}")
    assert abs(start[0] - start[1]) < 0.02 * abs(start[1])


def encoding(bench: Bench) -> None:
    ours, _, _ = models(bench)
    ours = ours.eval()
    rows, chunk = bench.size(32_768), bench.size(2048)
    pin = bench.device.type == "cuda"
    host = torch.empty(rows, PIXELS, pin_memory=pin).normal_(1.0, 0.1)

    def encode(dtype: torch.dtype, many: int = rows) -> Tensor:
        with torch.inference_mode(), torch.autocast(bench.device.type, dtype, dtype != torch.float):
            parts = host[:many].split(chunk)
            made = [ours.encode(part.to(bench.device, non_blocking=True), "desi") for part in parts]
            return torch.cat(made).float().cpu()

    times = bench.times(
        {
            "float32": lambda: encode(torch.float32),
            "bfloat16": lambda: encode(torch.bfloat16),
            "the copy alone": lambda: [p.to(bench.device) for p in host.split(chunk)],
        },
        tuple,
    )
    print(f"encoding {rows} DESI spectra from the host's memory (needed: {NEEDED} a second)")
    times.show("bfloat16", floor="the copy alone")
    for name in ("float32", "bfloat16"):
        print(f"  {name}: {rows / times.median(name):.0f} spectra a second")
    exact, short = encode(torch.float32, chunk), encode(torch.bfloat16, chunk)
    print(f"  bfloat16 is off by {float((short - exact).abs().max() / exact.abs().max()):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here")
        return
    bench = Bench(torch.device(asked.device), asked.small)
    if bench.device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    for pair in pairs():
        transform(pair, bench)
    if bench.device.type == "cuda":
        memory(next(pairs()), bench)
    for rows in (128, 512):
        training(bench.size(rows), bench)
    encoding(bench)


if __name__ == "__main__":
    main()
