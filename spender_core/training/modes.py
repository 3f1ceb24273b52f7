"""Kernels of line spread functions are fitted by their modes, not tap by tap.

Spectra hardly tell neighbouring taps apart: the smooth mode of a kernel changes chi square tens of
thousands of times as much as the one that alternates from tap to tap. Steps of Adam, which scales
each parameter on its own, then leave the latter where it began. In the basis of cosines the modes
are nearly independent, since a convolution is diagonal in frequency, and Adam scales each as it
needs.

Shapes: K taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spender_core.training.sharing import put, whole

LARGEST = 255
"""Taps of a kernel, at most; longer parameters of a line spread function are no kernels."""


def cosines(taps: int) -> Tensor:
    """Return the orthonormal cosines of the discrete cosine transform (DCT-II), a row each.

    Shape (K, K), float64; Ahmed, Natarajan & Rao (1974, IEEE Trans. Comput. C-23, 90).
    """
    mode_K1 = torch.arange(taps, dtype=torch.float64)[:, None]
    place_K = torch.arange(taps, dtype=torch.float64) + 0.5
    basis_KK = torch.cos(math.pi / taps * mode_K1 * place_K) * math.sqrt(2 / taps)
    basis_KK[0] /= math.sqrt(2)
    return basis_KK


def is_kernel(parameter: Tensor) -> bool:
    """Tell whether a parameter of a line spread function is a kernel of its taps."""
    return parameter.ndim == 1 and 3 <= parameter.numel() <= LARGEST


def step_in_modes(optimizer: torch.optim.Optimizer, kernels: Sequence[nn.Parameter]) -> None:
    """Let an optimiser take its steps in the modes of kernels; they stay stored by their taps.

    Args:
        optimizer: What trains them; it scales gradients for each number, as Adam does.
        kernels: Parameters of shape (K,).
    """
    if not kernels:
        return
    known = {id(one) for one in kernels}
    # by place: FSDP puts pieces in the place of parameters
    places = [
        (number, place)
        for number, group in enumerate(optimizer.param_groups)
        for place, one in enumerate(group["params"])
        if id(one) in known
    ]
    bases: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @torch.no_grad()
    def turned(stepped: torch.optim.Optimizer, inverse: bool) -> None:
        for number, place in places:
            group = stepped.param_groups[number]
            kernel = group["params"][place]
            if kernel.grad is None or float(group["lr"]) == 0:
                continue
            key = (kernel.numel(), kernel.device, kernel.dtype)
            if key not in bases:  # parameters move to their device once the optimiser is made
                bases[key] = cosines(kernel.numel()).to(kernel.device, kernel.dtype)
            turn_KK = bases[key].T if inverse else bases[key]
            for one in (kernel, kernel.grad):
                put(one, turn_KK @ whole(one))

    def before(stepped: torch.optim.Optimizer, *_: Any) -> None:
        turned(stepped, inverse=False)

    def after(stepped: torch.optim.Optimizer, *_: Any) -> None:
        turned(stepped, inverse=True)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
