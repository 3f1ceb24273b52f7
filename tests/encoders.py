"""Encoders and spectra for tests of the encoder's fast path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spender_core.nn.encoder import SpectrumEncoder

PIXELS = 1501


def encoder(dtype: torch.dtype = torch.float64, falling: bool = False) -> SpectrumEncoder:
    """Return an encoder with published widths, with slopes of either sign if wanted."""
    torch.manual_seed(2)
    made = SpectrumEncoder(4).to(dtype).eval()
    if falling:
        with torch.no_grad():
            for block in (made.conv1, made.conv2, made.conv3):
                block[2].weight.normal_(std=0.3)
    return made


def spectra(n: int = 3, dtype: torch.dtype = torch.float64, pixels: int = PIXELS) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 1 + 0.3 * torch.randn(n, pixels, dtype=dtype, generator=generator)


def direct(model: SpectrumEncoder) -> SpectrumEncoder:
    """Return a copy that uses the layers of torch."""
    twin = copy.deepcopy(model)
    twin.fast = False
    return twin


class Convolutions(TorchFunctionMode):
    """Counts the direct convolutions of torch."""

    count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func is torch.conv1d
        return func(*args, **(kwargs or {}))


def taken(model: SpectrumEncoder, flux: Tensor) -> bool:
    """Return whether the fast path is taken: it calls no convolution of torch."""
    with Convolutions() as seen:
        model(flux)
    return seen.count == 0


def deviation(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest of what is expected."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())
