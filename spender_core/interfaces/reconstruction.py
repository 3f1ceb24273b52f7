"""What a model makes of spectra.

Shapes: B spectra, L observed pixels, R restframe pixels, S latents.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of a batch.

    Attributes:
        latents: Shape (B, S).
        restframe: Spectra on `model.wave_rest`, shape (B, R).
        observed: As the instrument would see them, shape (B, L).
        valid: Where the model reaches, bool (B, L). Elsewhere it counts as 0, before the
            LSF and the calibration.
    """

    latents: Tensor
    restframe: Tensor
    observed: Tensor
    valid: Tensor
