"""Losses of a model against the data: chi square and what follows from it.

Shapes: B spectra, L observed pixels.
"""

from __future__ import annotations

from torch import Tensor

from spender_core.losses.distances import at_least_float32


def fidelity(
    flux_BL: Tensor, weight_BL: Tensor, model_BL: Tensor, individual: bool = False
) -> Tensor:
    """Weighted squared deviation of a model from the data.

    Half of chi square, divided by the number L of pixels rather than by that of the
    good ones, so that spectra with more good pixels count more (Melchior et al. 2023,
    AJ 166, 74, equation 5).

    Args:
        flux_BL: Observed spectra, shape (B, L).
        weight_BL: Inverse variances, 0 where either is invalid, shape (B, L).
        model_BL: Models of them, shape (B, L).
        individual: Return one value a spectrum instead of their sum.

    Returns:
        A scalar, or shape (B,); at least in float32, in which half precision is computed.
    """
    flux_BL = flux_BL.to(at_least_float32(flux_BL))
    loss_B = (0.5 * weight_BL * (flux_BL - model_BL).square()).sum(dim=1) / flux_BL.shape[1]
    return loss_B if individual else loss_B.sum()


def reduced_chi2(flux_BL: Tensor, weight_BL: Tensor, model_BL: Tensor, parameters: int) -> Tensor:
    """Chi square over the number of used pixels less that of fitted parameters.

    Args:
        flux_BL: Observed spectra, shape (B, L).
        weight_BL: Inverse variances, 0 where either is invalid, shape (B, L).
        model_BL: Models of them, shape (B, L).
        parameters: Number of parameters that were fitted to each spectrum.

    Returns:
        Shape (B,); NaN where there are no more pixels than parameters. At least in float32.
    """
    flux_BL = flux_BL.to(at_least_float32(flux_BL))
    chi2_B = (weight_BL * (flux_BL - model_BL).square()).sum(dim=1)
    freedom_B = (weight_BL > 0).sum(dim=1) - parameters
    return chi2_B / freedom_B.to(chi2_B).where(freedom_B > 0, float("nan"))
