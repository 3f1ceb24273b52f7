"""Claim: line spread functions of each spectrum cost little more than moving their bytes.

1,024 DESI spectra with their own matrices of 11 diagonals: within 3 times a copy that moves as many
bytes (matrices, spectra and results, some 415 MB), forward; and with gradients of both. Beside it
the path without compiled kernels, and `scipy.sparse` as desispec applies its matrices, one by one.
Then kernels of 9 taps beside spender 0.3, which has no other line spread function; and Gaussians of
each pixel, of 1,024 SDSS spectra. New spectra and matrices for every round; results and gradients
of the same run are compared with float64. Last, the memory taken beyond inputs and outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from interleaved import interleave
from scipy.sparse import dia_matrix
from spender.instrument import LSF
from torch import Tensor
from torch.nn.functional import pad

from spender_core.ops.lsf import apply_banded, compiled, convolve_constant, convolve_gaussian

BATCH, DESI, SDSS, TAPS, ROUNDS = 1024, 7781, 3921, 9, 5
OFFSETS = tuple(range(5, -6, -1))
DATA, GRADIENT = torch.empty(BATCH, len(OFFSETS), DESI), torch.empty(BATCH, DESI)


def eager(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function as it is without compiled kernels."""

    def slow(*arguments: Tensor) -> Tensor:
        found, compiled.library = compiled.library, lambda: None
        try:
            return function(*arguments)
        finally:
            compiled.library = found

    return slow


def and_back(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that gives gradients of its arguments, for a random cotangent."""

    def both(*arguments: Tensor) -> tuple[Tensor, ...]:
        given = [argument.detach().requires_grad_() for argument in arguments]
        made = function(*given)
        cotangent = GRADIENT[: len(made), : made.shape[1]].to(made)
        return torch.autograd.grad(made, given, cotangent)

    return both


def banded(y: Tensor, data: Tensor) -> Tensor:
    return apply_banded(y, data, OFFSETS)


def by_scipy(y: Tensor, data: Tensor) -> Tensor:
    rows = zip(data.numpy(), y.numpy(), strict=True)
    shape = (DESI, DESI)
    return torch.from_numpy(np.stack([dia_matrix((d, OFFSETS), shape).dot(v) for d, v in rows]))


def deviation(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


def within(name: str, found: float, bound: float = 1e-6) -> None:
    """Print a deviation, and stop where it is beyond its bound."""
    print(f"  {name}: {found:.1e}")
    assert found < bound, f"{name} is beyond {bound:.0e}"


def matrices() -> None:
    def fresh() -> tuple[Tensor, Tensor]:
        GRADIENT.normal_()
        return torch.randn(BATCH, DESI), DATA.uniform_()

    moved = DATA.numel() + 2 * BATCH * DESI
    source, target = torch.ones(moved // 2), torch.empty(moved // 2)
    print(f"matrices of {len(OFFSETS)} diagonals, {BATCH} x {DESI}, {4 * moved / 1e6:.0f} MB")
    times = interleave(
        {
            "ours": banded,
            "ours, without compiled kernels": eager(banded),
            "scipy, one by one": by_scipy,
            "a copy that moves as many bytes": lambda *_: target.copy_(source),
        },
        fresh,
        ROUNDS,
    )
    times.show("ours", "scipy, one by one", "a copy that moves as many bytes")
    slow = times.ratios("ours, without compiled kernels", "a copy that moves as many bytes")
    print(f"  without compiled kernels: {min(slow):.2f}-{max(slow):.2f} times the copy")
    y, data = fresh()
    part = slice(0, 64)
    exact = by_scipy(y[part].double(), data[part].double())
    within("deviation from float64", deviation(banded(y, data)[part], exact))

    # forward as above; backward reads matrices, spectra and cotangents, writes two gradients
    again = 3 * DATA.numel() + 6 * BATCH * DESI
    source, target = torch.ones(again // 2), torch.empty(again // 2)
    print(f"the same, with gradients of both, {4 * again / 1e6:.0f} MB")
    times = interleave(
        {
            "ours": and_back(banded),
            "ours, without compiled kernels": and_back(eager(banded)),
            "a copy that moves as many bytes": lambda *_: target.copy_(source),
        },
        fresh,
        ROUNDS,
    )
    times.show("ours", None, "a copy that moves as many bytes")
    y, data = fresh()
    to_y, to_data = and_back(banded)(y, data)
    worst = 0.0
    for row in range(8):
        transposed = dia_matrix((data[row].double().numpy(), OFFSETS), (DESI, DESI)).T
        expected = torch.from_numpy(transposed.dot(GRADIENT[row].double().numpy()))
        worst = max(worst, deviation(to_y[row], expected))
        for k, offset in enumerate(OFFSETS):
            column = torch.arange(max(0, offset), min(DESI, DESI + offset))
            outer = y[row, column].double() * GRADIENT[row, column - offset]
            worst = max(worst, deviation(to_data[row, k, column], outer))
    within("deviation of the gradients from float64", worst)


def kernels() -> None:
    def fresh() -> tuple[Tensor, Tensor]:
        GRADIENT.normal_()
        return torch.randn(BATCH, DESI), 0.1 + torch.rand(TAPS)

    def theirs(y: Tensor, kernel: Tensor) -> Tensor:
        # spender's module, with a kernel that changes from round to round
        turned = kernel.flip(0).reshape(1, 1, -1)
        made = torch.func.functional_call(peer, {"weight": turned}, y[:, None])
        return made[:, 0]

    peer = LSF(torch.ones(TAPS))
    copy = torch.empty(BATCH, DESI)
    name = "spender 0.3"
    for title, wrap in (("", lambda f: f), (", with gradients of both", and_back)):
        print(f"kernels of {TAPS} taps, {BATCH} x {DESI}{title}")
        times = interleave(
            {
                "ours": wrap(convolve_constant),
                "ours, without compiled kernels": wrap(eager(convolve_constant)),
                name: wrap(theirs),
                "a copy of the spectra": lambda y, _: copy.copy_(y),
            },
            fresh,
            ROUNDS,
        )
        times.show("ours", name, "a copy of the spectra")
    y, kernel = fresh()
    within("deviation from spender", deviation(convolve_constant(y, kernel), theirs(y, kernel)))
    compare(convolve_constant, theirs, y[:64], kernel)


def gaussians() -> None:
    def fresh() -> tuple[Tensor, Tensor]:
        GRADIENT.normal_()
        return torch.randn(BATCH, SDSS), 0.7 + 0.7 * torch.rand(BATCH, SDSS)

    copy = torch.empty(3 * BATCH * SDSS // 2)
    source = torch.ones_like(copy)
    for title, wrap in (("", lambda f: f), (", with gradients of both", and_back)):
        print(f"Gaussians of each pixel, {BATCH} x {SDSS}{title}")
        times = interleave(
            {
                "ours": wrap(convolve_gaussian),
                "ours, without compiled kernels": wrap(eager(convolve_gaussian)),
                "a copy that moves as many bytes": lambda *_: copy.copy_(source),
            },
            fresh,
            ROUNDS,
        )
        times.show("ours", "ours, without compiled kernels", "a copy that moves as many bytes")
    compare(convolve_gaussian, dense, *(tensor[:32] for tensor in fresh()))


def dense(y: Tensor, sigma: Tensor) -> Tensor:
    """Return what Gaussians make of spectra, by way of all taps, differentiated by torch."""
    away = torch.arange(-20, 21).to(y)[:, None]
    taps = torch.exp(-0.5 * (away / sigma[:, None]) ** 2)
    spread = y[:, None] * taps / taps.sum(dim=1, keepdim=True)
    moved = [pad(spread[:, k], (k, 40 - k)) for k in range(41)]
    return torch.stack(moved).sum(dim=0)[:, 20:-20]


def compare(function: Callable[..., Tensor], exact: Callable[..., Tensor], *given: Tensor) -> None:
    """Print how results and gradients in float32 deviate from others in float64."""
    doubled = [tensor.double() for tensor in given]
    within("deviation from float64", deviation(function(*given), exact(*doubled)))
    pairs = zip(and_back(function)(*given), and_back(exact)(*doubled), strict=True)
    for found, expected in pairs:
        within("deviation of a gradient from float64", deviation(found, expected), 2e-6)


def memory() -> None:
    """Print the peak of memory beyond inputs and outputs; gradients are outputs too."""
    print("memory beyond inputs and outputs")
    for rows in (8, 1024, 16384):  # the first one wakes everything up
        y, g = torch.randn(rows, SDSS).requires_grad_(), torch.randn(rows, SDSS)
        sigma, data = torch.full((rows, SDSS), 1.1), torch.rand(rows, 3, SDSS)
        for name, function in (
            ("Gaussians", lambda y=y, sigma=sigma: convolve_gaussian(y, sigma)),
            ("matrices of 3 diagonals", lambda y=y, data=data: apply_banded(y, data, (1, 0, -1))),
            ("kernels", lambda y=y: convolve_constant(y, torch.ones(TAPS))),
        ):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is not to be used again
            Path("/proc/self/clear_refs").write_text("5")
            before, made = resident("VmRSS"), function()
            made.backward(g)
            taken = resident("VmHWM") - before - made.nbytes - y.nbytes
            if rows > 8:
                print(f"  {name}, {rows} spectra of {SDSS}: {taken / 1e6:.1f} MB")
            y.grad = made = None


def resident(field: str) -> int:
    """Return a count of bytes that the kernel of Linux keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    torch.manual_seed(0)
    matrices()
    kernels()
    gaussians()
    memory()
