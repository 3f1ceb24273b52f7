"""Latents and spectra of all processes, for losses that compare every pair of a batch.

Losses of pairs belong to the batch, not to the part of it that a process has: distances are in
units of their mean over all pairs. So each process gathers the latents of all others, and every
process computes the same loss. What a process sent gets the gradients of all of them, which
their mean, taken of parameters by data parallelism, turns into the gradient of that one loss.

Shapes: N spectra of the whole batch, B spectra of this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from spender_core.errors import InputError


def world() -> int:
    """Return the number of processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def parts_of(rows: int, device: torch.device, known: Sequence[int] | None = None) -> list[int]:
    """Return how many spectra of a batch each process has.

    Args:
        rows: How many this one has.
        device: Where tensors are that processes exchange.
        known: The answer, if the caller has it. Otherwise the processes tell each other, for
            which the host waits.

    Raises:
        InputError: What is known does not fit.
    """
    if known is None and world() > 1:
        counts = torch.zeros(world(), dtype=torch.int64, device=device)
        counts[rank()] = rows
        dist.all_reduce(counts)
        return [int(count) for count in counts.tolist()]
    parts = [rows] if known is None else [int(count) for count in known]
    if len(parts) != world() or parts[rank()] != rows:
        raise InputError(
            f"process {rank()} of {world()} has {rows} spectra, but `parts` of its batch is "
            f"{tuple(parts)}; give the number of spectra of each process, in order"
        )
    return parts


def own_part(parts: Sequence[int]) -> slice:
    """Return where the rows of this process are among those of all."""
    first = sum(parts[: rank()])
    return slice(first, first + parts[rank()])


def gathered(rows: Tensor, parts: Sequence[int]) -> Tensor:
    """Return the rows of all processes, in their order.

    Args:
        rows: Those of this process, shape (B, ...).
        parts: How many each process has; they may differ.

    Returns:
        Shape (N, ...). Gradients flow back to where the rows came from, summed over processes.
    """
    if world() == 1:
        return rows
    made: Tensor = _Gather.apply(rows, tuple(parts))  # type: ignore[no-untyped-call]
    return made


def summed(values: Tensor) -> Tensor:
    """Return the sum of a tensor over processes, without gradients."""
    total = values.detach().clone()
    if world() > 1:
        dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    """Pads rows to the largest part, since not every backend gathers parts that differ."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, parts: tuple[int, ...]) -> Tensor:
        ctx.own = own_part(parts)
        padded = rows.new_zeros((max(parts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in parts]
        dist.all_gather(received, padded)
        return torch.cat([part[:size] for part, size in zip(received, parts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own], None
