"""Optimisers and learning rates: a group of parameters for each part of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from spender_core.errors import InputError
from spender_core.training.config import Phase
from spender_core.training.modes import is_kernel, step_in_modes

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
_DIVISION = 25.0
"""The one-cycle schedule begins at this part of the highest rate, as in torch."""


def make_optimizer(
    phase: Phase, parts: Mapping[str, Sequence[nn.Parameter]]
) -> torch.optim.Optimizer:
    """Return the optimiser of a phase, with a group for each part that is trained.

    Kernels of line spread functions are trained by their modes (`modes.step_in_modes`).

    Args:
        phase: What the recipe says.
        parts: Parameters by part, those that are trained; one that is in several parts is of
            the first.

    Raises:
        InputError: No parameter is trained, or a part has no learning rate.
    """
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()
    for name, parameters in parts.items():
        own = [one for one in parameters if id(one) not in taken]
        taken |= {id(one) for one in own}
        if own:
            groups.append({"params": own, "lr": _rate(phase, name), "name": name})
    if not groups:
        raise InputError(f"the phase {phase.name!r} trains no parameter: it names {phase.train}")
    # one kernel for all parameters, where the device has it
    fused = all(one.is_floating_point() for group in groups for one in group["params"])
    factory: Any = OPTIMIZERS[phase.optimizer]
    made: torch.optim.Optimizer = factory(
        groups, betas=phase.betas, eps=phase.eps, weight_decay=phase.weight_decay, fused=fused
    )
    named = [(group["name"], one) for group in groups for one in group["params"]]
    step_in_modes(made, [one for name, one in named if name.startswith("lsf.") and is_kernel(one)])
    return made


def make_scheduler(phase: Phase, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Return the schedule of a phase, in which each group keeps its own highest rate.

    "onecycle" is that of Smith & Topin (2017, arXiv:1708.07120) as torch has it: half a cosine
    up from 1/25 of the highest rate, another one down; the first of the betas falls from 0.95 to
    0.85 and rises again. "cosine" rises linearly, then falls along half a cosine (Loshchilov &
    Hutter 2016, arXiv:1608.03983, without restarts). "constant" rises linearly and stays.

    Args:
        phase: What the recipe says.
        optimizer: Whose rates these are.
        steps: Steps of the optimiser in the phase.

    Raises:
        InputError: A one-cycle schedule has fewer than two steps.
    """
    if phase.schedule == "onecycle":
        if steps < 2:
            raise InputError(
                f"the phase {phase.name!r} has {steps} step, a onecycle schedule takes two or more; "
                'train longer, or set schedule = "constant"'
            )
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=_rise(phase.warmup, steps),
            div_factor=_DIVISION,
            final_div_factor=1 / (_DIVISION * phase.final) if phase.final > 0 else math.inf,
        )
    return LambdaLR(optimizer, _Shape(phase.schedule, steps, phase.warmup, phase.final))


def _rise(share: float, steps: int) -> float:
    """Return the share of rising steps, off those where torch's schedule divides by 0."""
    rising = min(share * steps, steps - 0.5)
    return (1.001 if abs(rising - 1) < 1e-3 else rising) / steps


class _Shape:
    """Learning rate of a step, as a share of the highest one."""

    def __init__(self, schedule: str, steps: int, warmup: float, final: float) -> None:
        self.schedule = schedule
        self.steps = steps
        self.rise = round(warmup * steps)
        self.final = final

    def __call__(self, step: int) -> float:
        if step < self.rise:
            return (step + 1) / self.rise
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - self.rise) / max(1, self.steps - 1 - self.rise))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each part at this moment."""
    return {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}


def _rate(phase: Phase, part: str) -> float:
    try:
        return phase.rate(part)
    except KeyError:
        given = ", ".join(phase.lr) if isinstance(phase.lr, dict) else ""
        raise InputError(
            f"the phase {phase.name!r} trains {part}, for which it has no learning rate; its lr "
            f'names {given}; add one for {part!r}, or "all"'
        ) from None
