"""One kernel for all pixels."""

from __future__ import annotations

from torch import Tensor

from spender_core.ops.lsf.banded import apply_banded


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
    size = kernel_K.shape[0]
    taps_K = (kernel_K / kernel_K.sum()).flip(0).to(y_BL)
    first = -((size - 1) // 2)
    return apply_banded(
        y_BL, taps_K[:, None].expand(-1, y_BL.shape[-1]), range(first, first + size)
    )
