"""Kernels are fitted by their modes: what Adam finds, and what a checkpoint sees of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spender_core.ops.lsf import convolve_constant
from spender_core.training.modes import cosines, is_kernel, step_in_modes

TRUTH = torch.tensor([0.0, 0.02, 0.10, 0.26, 0.33, 0.18, 0.08, 0.03, 0.0], dtype=torch.float64)


def smooth_spectra() -> torch.Tensor:
    """Return lines three pixels wide: their power falls by 1e4 to the highest frequency."""
    generator = torch.Generator().manual_seed(1)
    spikes = torch.rand(32, 400, generator=generator, dtype=torch.float64) ** 8
    offset = torch.arange(-6, 7, dtype=torch.float64)
    return convolve_constant(spikes, torch.exp(-0.5 * (offset / 1.1) ** 2))


def fitted(in_modes: bool, steps: int = 400) -> float:
    """Return the largest error of a fitted kernel over its highest tap."""
    x = smooth_spectra()
    target = convolve_constant(x, TRUTH)
    start = torch.zeros(9, dtype=torch.float64)
    start[4] = 1
    kernel = nn.Parameter(start)
    optimizer = torch.optim.Adam([kernel], lr=3e-2)
    if in_modes:
        step_in_modes(optimizer, [kernel])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (convolve_constant(x, kernel) - target).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = kernel.detach() / kernel.detach().sum()
    return float((found - TRUTH).abs().max() / TRUTH.max())


def test_modes_find_a_kernel_that_taps_do_not() -> None:
    assert fitted(in_modes=True) < 0.02
    assert fitted(in_modes=False) > 0.05


@pytest.mark.parametrize("taps", [3, 8, 9, 31])
def test_cosines_are_orthonormal(taps: int) -> None:
    basis = cosines(taps)
    torch.testing.assert_close(basis @ basis.T, torch.eye(taps, dtype=torch.float64))
    assert torch.allclose(basis[0], basis[0, :1])  # the first mode is the sum


def test_plain_descent_is_the_same_in_any_orthonormal_basis() -> None:
    kernels = [nn.Parameter(TRUTH.clone()) for _ in range(2)]
    optimizers = [torch.optim.SGD([one], lr=0.1) for one in kernels]
    step_in_modes(optimizers[1], [kernels[1]])
    for kernel, optimizer in zip(kernels, optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            (kernel * torch.arange(9)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(kernels[0], kernels[1])


def test_a_kernel_without_a_gradient_stays() -> None:
    kernel, other = nn.Parameter(TRUTH.clone()), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([kernel, other], lr=0.1)
    step_in_modes(optimizer, [kernel])
    other.sum().backward()
    optimizer.step()
    assert torch.equal(kernel, TRUTH)


def test_widths_of_pixels_are_no_kernel() -> None:
    assert is_kernel(torch.zeros(9))
    assert not is_kernel(torch.zeros(3921))
    assert not is_kernel(torch.zeros(3, 3))
