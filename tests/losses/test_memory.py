"""The similarity losses never hold a tensor of pairs and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from growth import resident
from torch import Tensor

from spender_core.losses import similarity, similarity_restframe

N, PIXELS = 192, 6000
CLEAR = Path("/proc/self/clear_refs")

pytestmark = pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux to measure memory")


def restframe(s: Tensor, x: Tensor) -> Tensor:
    return similarity_restframe(s, x, torch.linspace(4000, 7000, PIXELS, dtype=torch.float64))


def of_data(s: Tensor, x: Tensor) -> Tensor:
    return similarity(s, x, torch.ones_like(x))


@pytest.mark.parametrize("loss", [restframe, of_data])
def test_peak_memory_is_that_of_some_spectra(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    s, x = torch.randn(N, 6), 3 + torch.randn(N, PIXELS)
    # so that what is loaded and kept once does not count
    loss(s[:3].requires_grad_(), x[:3].requires_grad_()).backward()
    s.requires_grad_()
    x.requires_grad_()
    CLEAR.write_text("5", encoding="ascii")
    before = resident("VmRSS")
    loss(s, x).backward()
    grown = resident("VmHWM") - before
    spectra, pairs = 4 * N * PIXELS, 8 * N * N
    assert grown < 4 * spectra + 20 * pairs + 16 * 2**20
    assert grown < 4 * N * N * PIXELS / 10
