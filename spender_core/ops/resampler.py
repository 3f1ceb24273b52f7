"""Redshift spectra from a restframe grid to an observed one, by the fastest way there is.

Shapes: B spectra, R restframe pixels, L observed pixels, C cells between nodes, P observed points.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.ops import compiled, eager, fused
from spender_core.ops.first_order import SECOND_ORDER
from spender_core.ops.layout import Layout
from spender_core.ops.observing import HasTaps, observe
from spender_core.ops.resample import coordinate_device

BACKENDS = ("fused", "compiled", "eager")
"""Ways to resample, the fastest first: kernels on a GPU by Triton, those in C on the host, and
torch's own functions."""


@dataclass(frozen=True)
class Placement:
    """A layout on a device, and a batch of redshifts placed in it.

    Args:
        layout: The grids.
        tables: Its arrays as tensors, on the device.
        shrink: 1 / (1 + z), shape (B,), float64, by which observed wavelengths are multiplied.
        scale: Coordinate in cells = layout.coordinate * scale + offset, shape (B,), float64.
        offset: See scale.
        slope: Factor of the gradient of z, shape (B,), float64, where points are so placed.
        first: First observed pixel that is reached, shape (B,), int32.
        last: The one after the last.
    """

    layout: Layout
    tables: dict[str, Tensor]
    shrink: Tensor
    scale: Tensor
    offset: Tensor
    slope: Tensor
    first: Tensor
    last: Tensor

    def __getitem__(self, rows: slice) -> Placement:
        columns = ("shrink", "scale", "offset", "slope", "first", "last")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})


class Resampler:
    """Moves restframe spectra to redshifts, on the wavelengths of an instrument.

    The model is a flux density per observed wavelength, up to its normalisation, so it is not
    divided by 1 + z (Melchior et al. 2023, AJ 166, 74, section 2.3). Values are interpolated
    linearly between the centres of pixels, as in spender, or averaged over observed pixels.
    Coordinates are float64 whatever the type of the spectra.

    Args:
        rest: Wavelengths of the restframe pixels, shape (R,), Angstrom, increasing.
        observed: Wavelengths of the observed pixels, shape (L,), likewise.
        conserve_flux: Average restframe pixels, each taken to be flat, over what an observed
            pixel covers of them, so that the integral over wavelength is kept.
    """

    def __init__(self, rest: Any, observed: Any, conserve_flux: bool = False) -> None:
        self.layout = Layout(
            np.array(rest, dtype=np.float64), np.array(observed, dtype=np.float64), conserve_flux
        )
        self._tables: dict[torch.device, dict[str, Tensor]] = {}

    def __call__(
        self,
        x_BR: Tensor,
        z_B: Tensor,
        backend: str | None = None,
        lsfs: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> tuple[Tensor, Tensor]:
        """Return spectra at redshifts, broadened if there are LSFs, and where the model reaches.

        Args:
            x_BR: Restframe spectra, shape (B, R), any floating type and device.
            z_B: Redshifts, shape (B,); float64 keeps their full precision. Nothing is reached at
                those that are not finite or not above -1.
            backend: One of `BACKENDS`; by default the fastest that can do it.
            lsfs: Line spread functions to apply, in order; they map spectra (B, L) to broadened
                ones. One alone that has `as_taps` may be applied in the same pass, from those.

        Returns:
            The spectra, shape (B, L), 0 where the model does not reach, and where it does, bool
            (B, L). Gradients flow to both arguments; those of second order are refused.

        Raises:
            InputError: Shapes do not fit, or the backend is unknown or cannot do it.
        """
        if x_BR.ndim != 2 or x_BR.shape[1] != len(self.layout.rest):
            raise InputError(
                f"restframe spectra must have shape (B, {len(self.layout.rest)}), "
                f"got {tuple(x_BR.shape)}"
            )
        if z_B.shape != x_BR.shape[:1]:
            raise InputError(f"{len(x_BR)} spectra need as many redshifts, got {tuple(z_B.shape)}")
        home, kind = coordinate_device(x_BR.device), x_BR.dtype
        exact = kind if kind in (torch.float32, torch.float64) else torch.float32
        x_BR, z_B, target = x_BR.to(home, exact), z_B.to(home), x_BR.device
        taps = self._taps(x_BR, backend, lsfs)
        if taps is not None:
            y_BL, valid_BL = observe(x_BR, z_B, taps, self)
            return y_BL.to(kind), valid_BL
        y_BL, valid_BL = _resample(x_BR, z_B, self, backend)
        y_BL = y_BL.to(target, kind)
        for lsf in lsfs:
            y_BL = lsf(y_BL)
        return y_BL, valid_BL.to(target)

    def _taps(
        self, x_BR: Tensor, backend: str | None, lsfs: Sequence[Callable[[Tensor], Tensor]]
    ) -> fused.Taps | None:
        """Return the LSF that can be applied in one pass with the resampling, if it is the only."""
        if len(lsfs) != 1 or _way(x_BR, self.layout, backend) is not fused:
            return None
        lsf: object = lsfs[0]
        taps = lsf.as_taps() if isinstance(lsf, HasTaps) else None
        return taps if taps is not None and fused.takes(taps, x_BR) else None

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        """Return the arrays of the layout as tensors on a device."""
        if device not in self._tables:
            names = ("node", "width", "point", "coordinate", "shift", "inverse", "lever")
            arrays = {name: getattr(self.layout, name) for name in names}
            self._tables[device] = {
                name: torch.tensor(array, device=device)
                for name, array in arrays.items()
                if array is not None
            }
        return self._tables[device]

    def place(self, z_B: Tensor, device: torch.device) -> Placement:
        """Place redshifts, shape (B,): all there is to a spectrum that is not about its pixels."""
        layout, tables = self.layout, self.tables(device)
        stretch_B = 1 + z_B.detach().to(device, torch.float64)
        first_B, last_B = self.reach(z_B.detach().to(device))
        # where nothing is reached, z must not turn what is 0 into NaN
        stretch_B = torch.where(last_B > first_B, stretch_B, 1.0)
        shrink_B = stretch_B.reciprocal()
        if layout.kind == "log":
            scale_B = torch.ones_like(shrink_B)
            offset_B = (stretch_B.log() + math.log(layout.start)) / -layout.step
            slope_B = shrink_B / -layout.step
        else:
            scale_B = shrink_B
            offset_B = torch.full_like(shrink_B, -layout.start / layout.step)
            slope_B = -shrink_B.square()
        slope_B = -shrink_B if layout.conserve_flux else slope_B
        return Placement(layout, tables, shrink_B, scale_B, offset_B, slope_B, first_B, last_B)

    def reach(self, z_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first pixel reached at redshifts, and the one after the last, int32 (B,)."""
        point_P = self.tables(z_B.device)["point"]
        stretch_B = 1 + z_B.double()
        sensible_B = stretch_B.isfinite() & (stretch_B > 0)
        stretch_B = torch.where(sensible_B, stretch_B, 1.0)
        low, high = self.layout.start * stretch_B, self.layout.end * stretch_B
        if self.layout.conserve_flux:  # the model covers the pixel from edge to edge
            first_B = torch.searchsorted(point_P, low, out_int32=True)
            last_B = torch.searchsorted(point_P, high, out_int32=True, right=True) - 1
        else:  # strictly between the model's first wavelength and its last
            first_B = torch.searchsorted(point_P, low, out_int32=True, right=True)
            last_B = torch.searchsorted(point_P, high, out_int32=True)
        first_B = first_B.clamp(max=self.layout.pixels)
        return first_B, torch.where(sensible_B, torch.maximum(first_B, last_B), first_B)


class _Resample(torch.autograd.Function):
    """Saves what it is given and nothing else; the backward pass places all points again."""

    @staticmethod
    def forward(
        x_BR: Tensor, z_B: Tensor, resampler: Resampler, backend: str | None
    ) -> tuple[Tensor, Tensor]:
        way = _way(x_BR, resampler.layout, backend)
        made: tuple[Tensor, Tensor] = way.forward(x_BR, resampler.place(z_B, x_BR.device))
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x_BR, z_B, ctx.resampler, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x_BR, z_B)
        ctx.save_for_forward(x_BR, z_B)

    @staticmethod
    def backward(ctx: Any, grad_BL: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        made: tuple[Tensor | None, Tensor | None] = _Adjoint.apply(  # type: ignore[no-untyped-call]
            *ctx.saved_tensors, grad_BL, ctx.resampler, ctx.backend, ctx.needs_input_grad[:2]
        )
        return *made, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, z_t: Tensor | None, *_: None) -> tuple[Tensor, None]:
        x_BR, z_B = ctx.saved_tensors
        change_BL = torch.zeros((), dtype=x_BR.dtype, device=x_BR.device)
        if x_t is not None:
            change_BL = change_BL + _resample(x_t, z_B, ctx.resampler, ctx.backend)[0]
        if z_t is not None:
            placed = ctx.resampler.place(z_B, x_BR.device)
            slope_BL = eager.slope(x_BR, placed)
            change_BL = change_BL + slope_BL * z_t.to(slope_BL)[:, None]
        return change_BL, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, z: Tensor, *others: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        (x_VBR, z_VB), copies = _copies(info, in_dims, x, z)
        made = _resample(x_VBR, z_VB, *others)
        y_VBL, valid_VBL = (tensor.unflatten(0, copies) for tensor in made)
        return (y_VBL, valid_VBL), (0, 0)


class _Adjoint(torch.autograd.Function):
    """The backward pass as one step, so that torch.func gives the kernels plain tensors."""

    @staticmethod
    def forward(
        x_BR: Tensor,
        z_B: Tensor,
        grad_BL: Tensor,
        resampler: Resampler,
        backend: str | None,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        way, placed = _way(x_BR, resampler.layout, backend), resampler.place(z_B, x_BR.device)
        grad_BR, grad_B = way.backward(x_BR, placed, grad_BL, *wanted)
        return grad_BR, None if grad_B is None else grad_B.to(z_B)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: there are no derivatives of second order."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse: see `ops.first_order`."""
        raise InputError(SECOND_ORDER)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, z: Tensor, grad: Tensor, *others: Any
    ) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
        rows, copies = _copies(info, in_dims, x, z, grad)
        made = _Adjoint.apply(*rows, *others)  # type: ignore[no-untyped-call]
        parts = tuple(None if part is None else part.unflatten(0, copies) for part in made)
        return parts, tuple(None if part is None else 0 for part in parts)


def _copies(
    info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
) -> tuple[list[Tensor], tuple[int, int]]:
    """Return the rows of all copies that are mapped over, (V B, ...), and V and B."""
    front = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims[: len(tensors)], strict=True)
    ]
    return [tensor.flatten(0, 1) for tensor in front], (front[0].shape[0], front[0].shape[1])


def _resample(*arguments: Any) -> tuple[Tensor, Tensor]:
    made: tuple[Tensor, Tensor] = _Resample.apply(*arguments)  # type: ignore[no-untyped-call]
    return made


def _way(x_BR: Tensor, layout: Layout, backend: str | None) -> Any:
    """Return the module that resamples a tensor."""
    wanted = backend or os.environ.get("SPENDER_BACKEND") or None
    if wanted is None and fused.serves(x_BR, layout):
        return fused
    if wanted is None:
        return compiled if compiled.serves(x_BR) else eager
    if wanted not in BACKENDS:
        raise InputError(f"there is no backend {wanted!r}; there are {', '.join(BACKENDS)}")
    if wanted == "fused" and not fused.serves(x_BR, layout):
        raise InputError(
            f"the fused kernels interpolate on CUDA, where Triton is installed; they do not "
            f"conserve flux, nor serve {x_BR.device}; leave the backend open, or take 'eager'"
        )
    if wanted == "compiled" and not compiled.serves(x_BR):
        raise InputError(
            f"the compiled kernels serve float32 and float64 on the host, where a C compiler made "
            f"them, not {x_BR.dtype} on {x_BR.device}; leave the backend open, or take 'eager'"
        )
    return {"fused": fused, "compiled": compiled, "eager": eager}[wanted]
