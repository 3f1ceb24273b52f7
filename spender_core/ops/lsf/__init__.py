"""Line spread functions: how an instrument broadens a spectrum, pixel by pixel.

All of them are matrices that are 0 away from their diagonal. They differ in what they are made
of: one kernel for all pixels, a Gaussian for each pixel, or all elements, as a survey publishes
them. Each is linear in the spectrum and differentiable in everything, as often as one likes
(Gaussians twice in their widths), also under `torch.func.vmap` and `torch.func.jvp`. Gradients
are computed anew from the arguments; nothing else is kept for them.

Beyond its ends a spectrum counts as 0. Models learned their kernels so: it is what their taps
mean, and they dip in their outermost K // 2 pixels.

Shapes: B spectra, L pixels, K taps or diagonals, M matrices.
"""

from spender_core.ops.lsf.banded import apply_banded
from spender_core.ops.lsf.constant import convolve_constant
from spender_core.ops.lsf.gaussian import convolve_gaussian

__all__ = ["apply_banded", "convolve_constant", "convolve_gaussian"]
