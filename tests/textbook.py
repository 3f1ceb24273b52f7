"""Transforms as written in a textbook, in float64 and without care for time or memory."""

from __future__ import annotations

import torch
from torch import Tensor

from spender_core.grid import pixel_edges as edges
from spender_core.ops.resample import interpolate


def interpolated(x_BR: Tensor, rest_R: Tensor, obs_L: Tensor, z_B: Tensor) -> tuple[Tensor, Tensor]:
    stretch_B1 = 1 + z_B[:, None]
    y_BL = interpolate(x_BR, rest_R, obs_L / stretch_B1)
    valid_BL = (obs_L > rest_R[0] * stretch_B1) & (obs_L < rest_R[-1] * stretch_B1)
    return torch.where(valid_BL, y_BL, torch.zeros_like(y_BL)), valid_BL


def averaged(x_BR: Tensor, rest_R: Tensor, obs_L: Tensor, z_B: Tensor) -> tuple[Tensor, Tensor]:
    node, point = torch.tensor(edges(rest_R.numpy())), torch.tensor(edges(obs_L.numpy()))
    stretch_B11 = 1 + z_B[:, None, None]
    low_BLR = torch.maximum(node[:-1] * stretch_B11, point[:-1, None])
    high_BLR = torch.minimum(node[1:] * stretch_B11, point[1:, None])
    share_BLR = (high_BLR - low_BLR).clamp(min=0) / point.diff()[:, None]
    y_BL = (share_BLR @ x_BR[:, :, None])[:, :, 0]
    ends_B1 = node[[0, -1]] * (1 + z_B[:, None])
    valid_BL = (point[:-1] >= ends_B1[:, :1]) & (point[1:] <= ends_B1[:, 1:])
    return torch.where(valid_BL, y_BL, torch.zeros_like(y_BL)), valid_BL
