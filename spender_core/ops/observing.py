"""Redshift, resampling, validity and LSF in one pass, differentiably, where kernels are for it.

`ops.resampler.Resampler` decides when. Derivatives forward and maps over more dimensions take two
steps, resampling and then the LSF, which have both.

Shapes: B spectra, R restframe pixels, L observed pixels, K LSF taps, V copies that are mapped over.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.ops import eager, fused
from spender_core.ops.first_order import SECOND_ORDER
from spender_core.ops.fused import Taps
from spender_core.ops.lsf import apply_banded

if TYPE_CHECKING:
    from spender_core.ops.resampler import Resampler

Offsets = tuple[int, ...]


@runtime_checkable
class HasTaps(Protocol):
    """A line spread function that can say what it does to each pixel."""

    def as_taps(self) -> Taps:
        """Return taps that give what a call gives, differentiable in what it is made of."""


def observe(x_BR: Tensor, z_B: Tensor, taps: Taps, resampler: Resampler) -> tuple[Tensor, Tensor]:
    """Return spectra at redshifts, broadened by an LSF, and where the model reaches.

    Args:
        x_BR: Restframe spectra, shape (B, R), float32 or float64, where `fused.serves`.
        z_B: Redshifts, shape (B,), on the same device.
        taps: The LSF, of which `fused.takes` is true; its values are converted to the type of x.
        resampler: The grids.

    Returns:
        The spectra, shape (B, L), and where the model reaches before the LSF, bool (B, L).
        Gradients flow to the spectra, the redshifts and the values of the taps; those of second
        order do not. For them the arguments are kept, and nothing else.
    """
    made: tuple[Tensor, Tensor] = _Observe.apply(  # type: ignore[no-untyped-call]
        x_BR, z_B, taps.values.to(x_BR.dtype), taps.offsets, resampler
    )
    return made


class _Observe(torch.autograd.Function):
    """Saves what it is given and nothing else; the backward pass resamples again."""

    @staticmethod
    def forward(
        x_BR: Tensor, z_B: Tensor, values: Tensor, offsets: Offsets, resampler: Resampler
    ) -> tuple[Tensor, Tensor]:
        return fused.forward(x_BR, resampler.place(z_B, x_BR.device), Taps(values, offsets))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x_BR, z_B, values, ctx.offsets, ctx.resampler = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x_BR, z_B, values)
        ctx.save_for_forward(x_BR, z_B, values)

    @staticmethod
    def backward(ctx: Any, grad_BL: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        made: tuple[Tensor | None, ...] = _Adjoint.apply(  # type: ignore[no-untyped-call]
            *ctx.saved_tensors, grad_BL, ctx.offsets, ctx.resampler, ctx.needs_input_grad[:3]
        )
        return *made, None, None

    @staticmethod
    def jvp(
        ctx: Any, x_t: Tensor | None, z_t: Tensor | None, values_t: Tensor | None, *_: None
    ) -> tuple[Tensor, None]:
        x_BR, z_B, values = ctx.saved_tensors
        change_BL = torch.zeros((), dtype=x_BR.dtype, device=x_BR.device)
        if x_t is not None:
            change_BL = change_BL + _two_steps(x_t, z_B, values, ctx.offsets, ctx.resampler)[0]
        if z_t is not None:
            slope_BL = eager.slope(x_BR, ctx.resampler.place(z_B, x_BR.device))
            moved_BL = slope_BL * z_t.to(slope_BL)[:, None]
            change_BL = change_BL + _broadened(moved_BL, values, ctx.offsets)
        if values_t is not None:
            change_BL = change_BL + _two_steps(x_BR, z_B, values_t, ctx.offsets, ctx.resampler)[0]
        return change_BL, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        x, z, values, offsets, resampler = inputs
        function = partial(_two_steps, offsets=offsets, resampler=resampler)
        made: tuple[Tensor, Tensor] = torch.func.vmap(function, in_dims[:3])(x, z, values)
        return made, (0, 0)


class _Adjoint(torch.autograd.Function):
    """The backward pass as one step, so that torch.func gives the kernels plain tensors."""

    @staticmethod
    def forward(
        x_BR: Tensor,
        z_B: Tensor,
        values: Tensor,
        grad_BL: Tensor,
        offsets: Offsets,
        resampler: Resampler,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        placed, taps = resampler.place(z_B, x_BR.device), Taps(values, offsets)
        grad_BR, grad_B = fused.backward(x_BR, placed, grad_BL, wanted[0], wanted[1], taps)
        grad_z = None if grad_B is None else grad_B.to(z_B)
        grad_values = fused.backward_taps(x_BR, placed, grad_BL, taps) if wanted[2] else None
        return grad_BR, grad_z, grad_values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: there are no derivatives of second order."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse: see `ops.first_order`."""
        raise InputError(SECOND_ORDER)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        x, z, values, grad, offsets, resampler, _ = inputs
        function = partial(_two_steps, offsets=offsets, resampler=resampler)

        def pulled_back(x: Tensor, z: Tensor, values: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
            back = torch.func.vjp(function, x, z, values, has_aux=True)[1]
            gradients: tuple[Tensor, ...] = back(grad)
            return gradients

        return torch.func.vmap(pulled_back, in_dims[:4])(x, z, values, grad), (0, 0, 0)


def _two_steps(
    x_BR: Tensor, z_B: Tensor, values: Tensor, offsets: Offsets, resampler: Resampler
) -> tuple[Tensor, Tensor]:
    """Resample first, then apply the LSF."""
    y_BL, valid_BL = resampler(x_BR, z_B)
    return _broadened(y_BL, values, offsets), valid_BL


def _broadened(y_BL: Tensor, values: Tensor, offsets: Offsets) -> Tensor:
    """Apply the LSF of values (K,) or (B, K, L) to spectra."""
    data = values if values.ndim == 3 else values[:, None].expand(-1, y_BL.shape[-1])
    return apply_banded(y_BL, data, offsets)
