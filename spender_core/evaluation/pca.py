"""The baseline of every model: a linear one, fitted to each spectrum by least squares.

Shapes: N training spectra, R restframe pixels, K components, B spectra, L observed pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Grid
from spender_core.interfaces import Model

_TINY = 1e-10
"""Eigenvalues of the normal equations below this part of the largest one count as 0."""


@dataclass(frozen=True)
class LinearFit:
    """Components fitted to spectra.

    Attributes:
        coefficients: Shape (B, K), float64.
        restframe: Shape (B, R), in the units of the batch.
        observed: Shape (B, L).
        valid: Where the components reach, bool (B, L).
    """

    coefficients: Tensor
    restframe: Tensor
    observed: Tensor
    valid: Tensor


@dataclass(frozen=True)
class RestframePCA:
    """Principal components of restframe spectra on the grid of a model.

    The mean is not subtracted, so that the amplitude is one of the coefficients: the
    first component is close to the mean spectrum, and K components describe at least as
    much as the mean with K - 1 more.

    Attributes:
        components: Shape (K, R), float32; the first k of them are the best k.
        variance: Which part of the weighted power of the training spectra each
            component holds, shape (K,).
        rest: The restframe grid.
    """

    components: Tensor
    variance: Tensor
    rest: Grid

    def __post_init__(self) -> None:
        if self.components.ndim != 2 or self.components.shape[1] != self.rest.size:
            raise InputError(
                f"components must have shape (K, {self.rest.size}), "
                f"got {tuple(self.components.shape)}"
            )

    def __len__(self) -> int:
        return len(self.components)

    @classmethod
    def learn(
        cls, spectra_NR: Tensor, rest: Grid, size: int, weight_R: Tensor | None = None
    ) -> RestframePCA:
        """Find the components that describe noiseless restframe spectra best.

        Every spectrum is divided by its weighted RMS first, so that bright ones do not
        count more. Components come from the eigenvectors of the smaller Gram matrix, in
        float64. A pixel of weight 0 takes no part in choosing them; there they are
        what best predicts it from the others.

        Args:
            spectra_NR: Restframe spectra, shape (N, R), finite.
            rest: Their grid.
            size: Number K of components.
            weight_R: Weight of each pixel, >= 0, for instance its mean inverse variance;
                1 if absent.

        Raises:
            InputError: There are fewer than K spectra or pixels, or shapes do not fit.
        """
        n, pixels = spectra_NR.shape
        if pixels != rest.size or not 0 < size <= min(n, pixels):
            raise InputError(
                f"{size} components need at least as many spectra of {rest.size} pixels, "
                f"got {tuple(spectra_NR.shape)}"
            )
        weight = torch.ones(pixels) if weight_R is None else weight_R
        if weight.shape != (pixels,) or bool((weight < 0).any()) or not bool((weight > 0).any()):
            raise InputError(f"weights must be >= 0, not all 0, of shape ({pixels},)")
        root_R = (weight.double() / weight.double().sum()).sqrt()
        x_NR = spectra_NR.double()
        x_NR = x_NR / (x_NR * root_R).norm(dim=1, keepdim=True).clamp(min=1e-30)
        weighted_NR = x_NR * root_R
        left_NK, power_K = _leading(weighted_NR, size)
        components = left_NK.T @ x_NR / power_K.sqrt().clamp(min=1e-30)[:, None]
        variance = power_K / weighted_NR.square().sum()
        return cls(components.float(), variance, rest)

    @torch.no_grad()
    def fit(
        self,
        model: Model,
        batch: SpectrumBatch,
        sizes: Sequence[int] | None = None,
        z: Any = None,
    ) -> dict[int, LinearFit]:
        """Fit the leading components to every spectrum, with its own weights.

        The components go through the transform of a model, with its learned LSF and
        calibration, so that only the restframe description differs from the model's.

        Args:
            model: Whose transform to use; its restframe grid must be that of the components.
            batch: The spectra, of one of the model's instruments.
            sizes: Numbers of components to fit, each on its own; all of them if absent.
            z: Redshifts, shape (B,); those of the batch if absent.

        Returns:
            The fit of each size.
        """
        if model.rest != self.rest:
            raise InputError("the components are on another restframe grid than the model")
        sizes = [len(self)] if sizes is None else list(sizes)
        if not sizes or min(sizes) < 1 or max(sizes) > len(self):
            raise InputError(f"sizes must be 1 to {len(self)}, the number of components: {sizes}")
        design_BKL, valid_BL = self._observed(model, batch, max(sizes), batch.z if z is None else z)
        weight_BL = (batch.ivar * valid_BL).double()
        weighted_BKL = design_BKL * weight_BL[:, None]
        gram_BKK = weighted_BKL @ design_BKL.transpose(1, 2)
        right_BK = (weighted_BKL @ batch.flux.double()[:, :, None])[..., 0]
        fits = {}
        for size in sizes:
            c_BK = solve(gram_BKK[:, :size, :size], right_BK[:, :size])
            fits[size] = LinearFit(
                c_BK,
                c_BK.to(batch.flux) @ self.components[:size].to(batch.flux),
                (c_BK[:, None] @ design_BKL[:, :size])[:, 0].to(batch.flux),
                valid_BL,
            )
        return fits

    def _observed(
        self, model: Model, batch: SpectrumBatch, size: int, z: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the components as observed, (B, K, L) in float64, and where they reach, (B, L)."""
        repeated = self.components[:size].to(batch.flux).repeat(len(batch), 1)
        redshifts = torch.as_tensor(z).reshape(-1).expand(len(batch)).repeat_interleave(size)
        lsf, rows = model.lsf_of(batch), torch.arange(len(batch)).repeat_interleave(size)
        each = None if lsf is None else lsf[rows]
        y, valid = model.transform(repeated, batch.instrument, redshifts, each)
        shape = (len(batch), size, -1)
        return y.reshape(shape).double(), valid.reshape(shape)[:, 0]


def solve(gram_BKK: Tensor, right_BK: Tensor) -> Tensor:
    """Return the least squares solution of normal equations.

    Where many fit equally well, it is the one with least power in its components, one by one.

    Args:
        gram_BKK: Design times weights times design, shape (B, K, K), float64.
        right_BK: Design times weights times data, shape (B, K).

    Returns:
        Coefficients, shape (B, K).
    """
    scale_BK = gram_BKK.diagonal(dim1=1, dim2=2).sqrt()
    scale_BK = torch.where(scale_BK > 0, scale_BK, torch.ones_like(scale_BK))
    unit_BKK = gram_BKK / (scale_BK[:, :, None] * scale_BK[:, None])
    inverse = torch.linalg.pinv(unit_BKK, rtol=_TINY, hermitian=True)
    c_BK: Tensor = (inverse @ (right_BK / scale_BK)[:, :, None])[..., 0] / scale_BK
    return c_BK


def _leading(x_NR: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the leading left singular vectors (N, K), and the squared singular values (K,)."""
    if x_NR.shape[0] <= x_NR.shape[1]:
        power, left = torch.linalg.eigh(x_NR @ x_NR.T)
        return left[:, -size:].flip(1), power[-size:].flip(0).clamp(min=0)
    power, right = torch.linalg.eigh(x_NR.T @ x_NR)
    power, right = power[-size:].flip(0).clamp(min=0), right[:, -size:].flip(1)
    return x_NR @ right / power.sqrt().clamp(min=1e-30), power
