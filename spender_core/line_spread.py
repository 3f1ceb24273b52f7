"""Line spread functions of each spectrum, as `SpectrumBatch.lsf` carries them.

Both are called with spectra (B, L) and return them broadened, as the learned kernels of a model
are (`nn.layers`); the arithmetic is that of `ops.lsf`.

Shapes: B spectra, L pixels, K diagonals.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spender_core.batch import all_finite
from spender_core.errors import InputError
from spender_core.ops.fused import Taps
from spender_core.ops.lsf import apply_banded, convolve_gaussian

_WIDEST = 4
"""A Gaussian has a standard deviation of at most one part in so many of its spectrum."""


class GaussianLSF:
    """A Gaussian for each pixel of each spectrum, which keeps flux.

    Args:
        sigma: Standard deviations at the pixels from which light comes, shape (B, L), in pixels,
            finite, from 0 to a quarter of L.

    Raises:
        InputError: They have another shape or other values.

    Example:
        >>> import torch
        >>> lsf = GaussianLSF(torch.full((1, 5), 0.5))
        >>> lsf(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])).sum()
        tensor(1.)
    """

    def __init__(self, sigma: Tensor) -> None:
        if sigma.ndim != 2 or not sigma.is_floating_point():
            raise InputError(
                f"sigma must hold floating numbers, shape (B, L), got {sigma.dtype} of shape "
                f"{tuple(sigma.shape)}"
            )
        least, most = sigma.detach().aminmax() if sigma.numel() else (torch.tensor(0.0),) * 2
        if not (all_finite(sigma.detach()) and least >= 0 and most <= sigma.shape[1] / _WIDEST):
            raise InputError(
                f"sigma must be from 0 to {sigma.shape[1] / _WIDEST:g} pixels, a quarter of a "
                f"spectrum, but is {float(least):g} to {float(most):g}; is it in pixels?"
            )
        self.sigma = sigma
        self._widest = float(most)

    def __call__(self, y_BL: Tensor) -> Tensor:
        """Broaden spectra, shape (B, L), each by its own Gaussians."""
        # widths that are fitted grow
        widest = None if self.sigma.requires_grad else self._widest
        return convolve_gaussian(y_BL, self.sigma, widest)

    def __len__(self) -> int:
        return len(self.sigma)

    def __repr__(self) -> str:
        return f"GaussianLSF({len(self)} spectra of {self.sigma.shape[1]} pixels)"

    def __getitem__(self, index: Any) -> GaussianLSF:
        """Select those of some spectra: by a row, slice, rows or boolean mask."""
        return GaussianLSF(_selected(self.sigma, index))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> GaussianLSF:
        """Return it on a device, in a floating type; the host does not wait for values."""
        made = copy.copy(self)
        made.sigma = _moved(self.sigma, device, dtype)
        return made

    def pin_memory(self) -> GaussianLSF:
        """Return it in memory from which a GPU copies while the host goes on."""
        made = copy.copy(self)
        made.sigma = self.sigma.pin_memory()
        return made

    @classmethod
    def cat(cls, parts: Sequence[GaussianLSF]) -> GaussianLSF:
        """Join those of several batches, in order."""
        return cls(torch.cat([_of_class(cls, part).sigma for part in parts]))


class BandedLSF:
    """A matrix for each spectrum, given by its diagonals, and applied as it is.

    Resolution matrices of DESI are such; their rows do not quite sum to 1, which is meant.

    Args:
        data: Diagonals, shape (B, K, L), finite: element b, k, j is in column j and row
            j - offsets[k] of matrix b, as in `scipy.sparse.dia_matrix`.
        offsets: Which diagonals, K whole numbers, each once.

    Raises:
        InputError: They have other shapes or other values.

    Example:
        >>> import torch
        >>> lsf = BandedLSF(torch.full((1, 3, 5), 1 / 3), offsets=(1, 0, -1))
        >>> lsf(torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0]]))
        tensor([[0., 1., 1., 1., 0.]])
    """

    def __init__(self, data: Tensor, offsets: Sequence[int]) -> None:
        self.offsets = tuple(int(offset) for offset in offsets)
        count = len(self.offsets)
        if data.ndim != 3 or data.shape[1] != count or not data.is_floating_point():
            raise InputError(
                f"{count} diagonals must hold floating numbers, shape (B, {count}, L), got "
                f"{data.dtype} of shape {tuple(data.shape)}"
            )
        if len(set(self.offsets)) != count:
            raise InputError(f"offsets must differ from each other, but are {self.offsets}")
        if not all_finite(data.detach()):
            raise InputError("the diagonals must be finite; those of an unknown matrix may be 0")
        self.data = data

    def __call__(self, y_BL: Tensor) -> Tensor:
        """Multiply spectra, shape (B, L), each by its own matrix."""
        return apply_banded(y_BL, self.data, self.offsets)

    def as_taps(self) -> Taps:
        """Return what a call does, for kernels that resample and broaden in one pass."""
        return Taps.banded(self.data, self.offsets)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        taps, pixels = self.data.shape[1:]
        return f"BandedLSF({len(self)} spectra of {pixels} pixels, {taps} diagonals)"

    def __getitem__(self, index: Any) -> BandedLSF:
        """Select those of some spectra: by a row, slice, rows or boolean mask."""
        return BandedLSF(_selected(self.data, index), self.offsets)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> BandedLSF:
        """Return it on a device, in a floating type; the host does not wait for values."""
        made = copy.copy(self)
        made.data = _moved(self.data, device, dtype)
        return made

    def pin_memory(self) -> BandedLSF:
        """Return it in memory from which a GPU copies while the host goes on."""
        made = copy.copy(self)
        made.data = self.data.pin_memory()
        return made

    @classmethod
    def cat(cls, parts: Sequence[BandedLSF]) -> BandedLSF:
        """Join those of several batches, in order; all diagonals that any of them has."""
        offsets = sorted({o for part in parts for o in _of_class(cls, part).offsets}, reverse=True)
        return cls(torch.cat([part._on(tuple(offsets)) for part in parts]), offsets)

    def _on(self, offsets: tuple[int, ...]) -> Tensor:
        """Return the diagonals with these offsets; 0 where it has none."""
        if offsets == self.offsets:
            return self.data
        data = self.data.new_zeros((len(self), len(offsets), self.data.shape[2]))
        data[:, [offsets.index(offset) for offset in self.offsets]] = self.data
        return data


def _moved(values: Tensor, device: Any, dtype: torch.dtype | None) -> Tensor:
    """Return values elsewhere; what comes to the host is waited for, since it may be read."""
    away = device is not None and torch.device(device).type != "cpu"
    return values.to(device=device, dtype=dtype, non_blocking=away)


def _selected(values: Tensor, index: Any) -> Tensor:
    """Return some rows, always with the dimension of rows; a slice makes no copy."""
    if isinstance(index, slice):
        return values[index]
    where = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    rows = np.atleast_1d(np.arange(len(values))[where.astype(int) if not where.size else where])
    return values[torch.from_numpy(rows.copy()).to(values.device)]


def _of_class(kind: type, part: Any) -> Any:
    if not isinstance(part, kind):
        raise InputError(
            f"cannot join line spread functions of {type(part).__name__} and {kind.__name__}; "
            "keep these batches apart"
        )
    return part
