"""Layers from which the networks are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.line_spread import GaussianLSF
from spender_core.ops.fused import Taps
from spender_core.ops.lsf import convolve_constant, convolve_gaussian


class SpeculatorActivation(nn.Module):
    """Activation with a learned slope below and curvature around zero, for each feature.

    (gamma + (1 - gamma) sigmoid(beta x)) x, equation 8 of Alsing et al. (2020, ApJS 249,
    5), plus 1 if `plus_one`, so that an untrained decoder gives a spectrum around 1.
    """

    def __init__(self, features: int, plus_one: bool = False) -> None:
        super().__init__()
        self.plus_one = plus_one
        self.beta = nn.Parameter(torch.empty(features))
        self.gamma = nn.Parameter(torch.empty(features))
        nn.init.normal_(self.beta)
        nn.init.normal_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation along the last dimension."""
        y = (self.gamma + (1 - self.gamma) * torch.sigmoid(self.beta * x)) * x
        return y + 1 if self.plus_one else y

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative of each output by its input."""
        gate = torch.sigmoid(self.beta * x)
        return self.gamma + (1 - self.gamma) * gate * (1 + self.beta * x * (1 - gate))


def check_sizes(name: str, sizes: Iterable[Any], least: int = 1) -> None:
    """Check that layers have whole, positive sizes; a card may ask for anything.

    Raises:
        InputError: They do not.
    """
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or int(size) < least:
            allowed = "positive integers" if least else "positive integers or 0"
            raise InputError(f"{name} must be {allowed}, got {size!r:.80}")


def mlp(sizes: Sequence[int], activations: Sequence[nn.Module]) -> nn.Sequential:
    """Return linear layers between the sizes, each followed by its activation."""
    if len(activations) != len(sizes) - 1:
        raise InputError(
            f"{len(sizes) - 1} layers need as many activations, not {len(activations)}"
        )
    check_sizes("widths of layers", sizes)
    layers: list[nn.Module] = []
    for n_in, n_out, activation in zip(sizes[:-1], sizes[1:], activations, strict=True):
        layers += [nn.Linear(n_in, n_out), activation]
    return nn.Sequential(*layers)


class ConstantLSF(nn.Module):
    """One learnable kernel for all pixels of an instrument; keeps flux.

    Beyond its ends a spectrum counts as 0, so that the outermost K // 2 pixels lose flux. All
    models with a kernel learned it so.

    Args:
        taps: Number of taps; the kernel begins as the identity.
    """

    def __init__(self, taps: int) -> None:
        super().__init__()
        check_sizes("the taps of an LSF kernel", [taps])
        self.kernel = nn.Parameter(torch.empty(taps))
        with torch.no_grad():
            self.kernel.zero_()
            self.kernel[taps // 2] = 1

    def check_state(self) -> None:
        """Check values read from a file: the kernel, which is divided by its sum, has one.

        Raises:
            InputError: It has not.
        """
        if not bool((self.kernel / self.kernel.sum()).isfinite().all()):
            raise InputError("the taps of an LSF kernel must not sum to 0")

    def forward(self, y_BL: Tensor) -> Tensor:
        """Broaden spectra, shape (B, L)."""
        return convolve_constant(y_BL, self.kernel)

    def as_taps(self) -> Taps:
        """Return what `forward` does, for kernels that resample and broaden in one pass."""
        return Taps.constant(self.kernel / self.kernel.sum())


class PixelGaussianLSF(nn.Module):
    """A Gaussian of its own, learnable width for each pixel of an instrument; keeps flux.

    Args:
        sigma: Standard deviations with which it begins, shape (L,), in pixels.
    """

    def __init__(self, sigma: Tensor) -> None:
        super().__init__()
        self.sigma = nn.Parameter(sigma.detach().clone())
        self.check_state()

    def check_state(self) -> None:
        """Check values read from a file: widths that a spectrum can have.

        Raises:
            InputError: They are not.
        """
        GaussianLSF(self.sigma.detach().abs()[None])

    def forward(self, y_BL: Tensor) -> Tensor:
        """Broaden spectra, shape (B, L)."""
        return convolve_gaussian(y_BL, self.sigma)
