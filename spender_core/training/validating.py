"""Losses on spectra that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from spender_core.datasets.stream import Stream
from spender_core.training.feeding import Feed, Place
from spender_core.training.objective import Losses, Weights

LOSSES = ("fidelity", "similarity", "consistency")


class Validation:
    """The first spectra of the validation splits, always the same ones, augmented alike.

    Args:
        feed: Brings batches of these streams to the device.
        streams: By instrument, not mixed.
        spectra: Of each instrument, at most, rounded up to whole batches.
        seed: Of augmentation.
    """

    def __init__(self, feed: Feed, streams: Mapping[str, Stream], spectra: int, seed: int) -> None:
        self._feed = feed
        self._streams = streams
        self._spectra = spectra
        self._seed = seed

    @torch.no_grad()
    def figures(
        self, objective: Callable[..., Losses], weights: Weights, factors: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the losses a spectrum: their sum with amplitudes, each, and of each instrument.

        All processes call this at once. The model should be in evaluation mode.

        Args:
            objective: Gives the losses of inputs, as accelerate prepared it.
            weights: Amplitudes of the losses.
            factors: Of the instruments, in the sum.
        """
        found = {name: self._losses(objective, name, weights) for name in self._streams}
        amplitudes = [getattr(weights, loss) for loss in LOSSES]
        total = 0.0
        sums, count = [0.0] * len(LOSSES), 0
        for name, (three, spectra) in found.items():
            own = sum(a * loss for a, loss in zip(amplitudes, three, strict=True))
            total += factors.get(name, 1.0) * own
            sums = [before + loss * spectra for before, loss in zip(sums, three, strict=True)]
            count += spectra
        means = {loss: value / count for loss, value in zip(LOSSES, sums, strict=True)}
        each = {
            name: dict(zip(LOSSES, three, strict=True)) | {"spectra": spectra}
            for name, (three, spectra) in found.items()
        }
        return {"loss": total, **means, "instruments": each}

    def places(self) -> tuple[Mapping[str, Stream], list[dict[str, Place]]]:
        """Return the streams, and the places of the batches that are taken from them."""
        numbers = {name: range(self._batches(name)) for name in self._streams}
        return self._streams, [{name: Place(0, n)} for name, all_ in numbers.items() for n in all_]

    def _batches(self, name: str) -> int:
        stream = self._streams[name]
        most = math.ceil(self._spectra / max(1, stream.spectra / len(stream)))
        return min(most, len(stream))

    def _losses(
        self, objective: Callable[..., Losses], name: str, weights: Weights
    ) -> tuple[list[float], int]:
        stream = self._streams[name]
        total, count = torch.zeros(len(LOSSES)), 0
        batches = stream.epoch(0)
        try:
            for number in range(self._batches(name)):
                parts = self._feed.parts(name, number)
                key = (self._seed, "validation", number)
                inputs = {name: self._feed.moved(name, next(batches), parts, key)}
                losses = objective(inputs, weights)
                three = torch.stack([getattr(losses, loss) for loss in LOSSES])
                total = total.to(three) + three * losses.count
                count += losses.count
        finally:
            close: Any = getattr(batches, "close", None)
            if close is not None:
                close()
        return [float(value) for value in (total / count).tolist()], count
