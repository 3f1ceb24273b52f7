"""Backward passes that cannot be differentiated again, and say so.

torch's own `once_differentiable` raises only where the graph leads through it; a Hessian by
`torch.autograd.functional` then is 0 without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spender_core.errors import InputError

SECOND_ORDER = (
    "this has no derivatives of second order, which would be left out in silence. For the "
    "transform, spender_core.ops.resample.interpolate has them; for an encoder, "
    "`encoder.fast = False`"
)
Backward = Callable[..., Any]


def first_order(backward: Backward) -> Backward:
    """Make the static method `backward` of an autograd function refuse a second derivative.

    What it saved for it must include all inputs that may require gradients.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        found = found if isinstance(found, tuple) else (found,)
        origin = (value for value in (*ctx.saved_tensors, *grads) if isinstance(value, Tensor))
        return _Refusing.apply(len(found), *found, *origin)  # type: ignore[no-untyped-call]

    return once


class _Refusing(torch.autograd.Function):
    """Passes gradients on, and keeps them tied to what they depend on."""

    @staticmethod
    def forward(ctx: Any, count: int, *values: Any) -> tuple[Any, ...]:
        return tuple(
            value.view_as(value) if isinstance(value, Tensor) else value for value in values[:count]
        )

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise InputError(SECOND_ORDER)
