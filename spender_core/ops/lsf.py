"""Line spread functions: how an instrument broadens a spectrum."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def convolve_constant(y_BL: Tensor, kernel_K: Tensor) -> Tensor:
    """Convolve spectra with one kernel for all pixels, keeping their flux.

    The kernel is divided by its sum. Beyond the ends the spectrum counts as 0, so
    that flux is lost only within half a kernel of them. The centre of a kernel is
    tap K // 2.

    Args:
        y_BL: Spectra, shape (B, L).
        kernel_K: Kernel in the order of increasing wavelength, shape (K,).

    Returns:
        The convolved spectra, shape (B, L). Gradients flow to both arguments.
    """
    flipped_11K = (kernel_K / kernel_K.sum()).flip(0)[None, None].to(y_BL)
    size = len(kernel_K)
    padded_B1L = F.pad(y_BL[:, None], ((size - 1) // 2, size // 2))
    return F.conv1d(padded_B1L, flipped_11K)[:, 0]
