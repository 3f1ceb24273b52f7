"""Resample tensors from one wavelength grid to another, differentiably."""

from __future__ import annotations

import torch
from torch import Tensor


def coordinate_device(device: torch.device) -> torch.device:
    """Return where wavelengths are computed: `device`, or the host if it lacks float64."""
    return torch.device("cpu") if device.type == "mps" else device


def on_host(values: Tensor) -> bool:
    """Tell whether values can be looked at without waiting for a device."""
    return values.device.type == "cpu"


def interpolate(x_BR: Tensor, nodes_R: Tensor, points_BL: Tensor) -> Tensor:
    """Interpolate linearly between nodes; extrapolate from the first and last interval.

    The coordinates are kept in float64 whatever the type of `x_BR`: in float32 a
    wavelength near 9000 Angstrom is uncertain by 5e-4 Angstrom, and points near a
    node fall on its wrong side.

    Args:
        x_BR: Values at the nodes, shape (B, R), any floating type.
        nodes_R: Strictly increasing coordinates, shape (R,), float64.
        points_BL: Where to interpolate, shape (B, L), float64, on the device of the nodes.

    Returns:
        Values at the points, shape (B, L), with type and device of `x_BR`. Gradients
        flow to `x_BR` and `points_BL`.
    """
    left_BL = torch.searchsorted(nodes_R, points_BL.detach().contiguous()) - 1
    left_BL = left_BL.clamp(0, len(nodes_R) - 2)
    start_BL = nodes_R[left_BL]
    weight_BL = (points_BL - start_BL) / (nodes_R[left_BL + 1] - start_BL)
    left_BL, weight_BL = left_BL.to(x_BR.device), weight_BL.to(x_BR)
    x0_BL, x1_BL = x_BR.gather(1, left_BL), x_BR.gather(1, left_BL + 1)
    return x0_BL + (x1_BL - x0_BL) * weight_BL
