"""Losses summed up on the device, and read now and then: for each reading the host waits.

A loss or a gradient that is NaN or infinite is noted there too, with the first step that had it.
Its gradients are put to 0, so that the weights stay finite, and the guilty spectra can be told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spender_core.training.feeding import Fed, Place
from spender_core.training.gathering import world
from spender_core.training.objective import Losses, Weights
from spender_core.training.sharing import local

_NEVER = 2.0**24
"""More steps than there are between two looks, and exact in float32."""


@dataclass(frozen=True)
class Look:
    """What was seen since the look before.

    Attributes:
        loss: The three losses a spectrum with their amplitudes, summed over instruments with their
            weights; the mean over steps, like all that follow.
        fidelity: A spectrum, without its amplitude.
        similarity: Likewise.
        consistency: Likewise.
        grad_norm: Norm of all gradients before clipping.
        each: The three losses of each instrument.
        speed: Spectra a second, over all processes.
        waiting: Share of the time that this process waited for data.
        bad: First step that had a loss or a gradient that was not finite, and where its spectra
            were, a place for each batch of each instrument.
        signal: A signal that any process received, 0 if none did.
    """

    loss: float
    fidelity: float
    similarity: float
    consistency: float
    grad_norm: float
    each: dict[str, list[float]]
    speed: float
    waiting: float
    bad: tuple[int, list[dict[str, Place]]] | None
    signal: int


class Watch:
    """Sums of losses since the last look.

    Args:
        factors: Weights of the instruments of the phase.
        device: Of the training.
    """

    def __init__(self, factors: Mapping[str, float], device: torch.device) -> None:
        self._factors = dict(factors)
        self._names = tuple(factors)
        self._sums = torch.zeros(5 + 3 * len(self._names), device=device)
        self._bad = torch.full((), _NEVER, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._restart()

    def _restart(self) -> None:
        self._sums.zero_()
        self._bad.fill_(_NEVER)
        self._steps: list[int] = []
        self._places: list[list[dict[str, Place]]] = []
        self._batches = self._spectra = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self._current: list[dict[str, Place]] = []

    def resume(self) -> None:
        """Count time from now on: what came since the look was no training."""
        self._since = time.perf_counter()

    def __len__(self) -> int:
        """Return the steps since the last look."""
        return len(self._steps)

    @torch.no_grad()
    def add(self, fed: Fed, losses: Losses, weights: Weights) -> None:
        """Note the losses of a batch."""
        three = torch.stack([losses.fidelity, losses.similarity, losses.consistency])
        amplitudes = (weights.fidelity, weights.similarity, weights.consistency)
        total = torch.zeros_like(losses.fidelity)
        for name, factor in self._factors.items():
            for amplitude, loss in zip(amplitudes, losses.each[name].unbind(), strict=True):
                total = total + factor * amplitude * loss
        each = [losses.each[name] for name in self._names]
        seen = torch.cat([total.reshape(1), three, *each])
        self._sums[:4] += seen[:4]
        self._sums[5:] += seen[4:]
        self._finite &= losses.finite
        self._current.append(fed.places)
        self._batches += 1
        self._spectra += fed.spectra
        self._waited += fed.waited

    @torch.no_grad()
    def step(
        self, number: int, norm: Tensor, parameters: Iterable[nn.Parameter], scaled: bool = False
    ) -> None:
        """Note a step of the optimiser, before it is done.

        Args:
            number: Of the step.
            norm: Of all gradients, over all processes.
            parameters: Whose gradients are put to 0 if that is not finite.
            scaled: Whether the gradients of some steps are meant to overflow, as in float16.
        """
        sound = norm.isfinite()
        for grad in local(one.grad for one in parameters if one.grad is not None):
            grad.copy_(torch.where(sound, grad, 0.0))
        if not scaled:
            self._finite &= sound
        self._sums[4] += norm
        self._bad.copy_(torch.where(self._finite, self._bad, self._bad.clamp(max=len(self))))
        self._finite.fill_(True)
        self._steps.append(number)
        self._places.append(self._current)
        self._current = []

    def look(self, signal: int = 0) -> Look:
        """Return what was seen, and begin again. All processes look at once.

        Args:
            signal: That this process received.
        """
        flags = torch.stack([self._bad, torch.full_like(self._bad, -float(signal))])
        if world() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        values = torch.cat([self._sums, flags]).tolist()  # the host waits here
        bad, most = values[-2:]
        elapsed = time.perf_counter() - self._since
        means = [value / max(self._batches, 1) for value in values[:-2]]
        each = {name: means[5 + 3 * i : 8 + 3 * i] for i, name in enumerate(self._names)}
        first = int(bad) if bad < _NEVER else None
        found = Look(
            loss=means[0],
            fidelity=means[1],
            similarity=means[2],
            consistency=means[3],
            grad_norm=values[4] / max(len(self), 1),
            each=each,
            speed=self._spectra / elapsed,
            waiting=min(1.0, self._waited / elapsed),
            bad=None if first is None else (self._steps[first], self._places[first]),
            signal=int(-most),
        )
        self._restart()
        return found
