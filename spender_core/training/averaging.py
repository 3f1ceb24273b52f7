"""Moving averages of the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spender_core.training.sharing import local

_COUNT = "steps"


class Average:
    """Exponential moving average of parameters.

    The decay of step n is at most (1 + n) / (10 + n), so that the first weights, which know nothing,
    are soon forgotten (as in `tf.train.ExponentialMovingAverage`).

    Of parameters that processes share out, each process averages its pieces.

    Args:
        parameters: Those that are trained, by name.
        decay: Share of the average that is kept a step, below 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._live = dict(parameters)
        self._mean = [one.detach().clone() for one in self._weights()]

    @torch.no_grad()
    def _weights(self) -> list[Tensor]:
        return local(self._live.values())

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mean, self._weights(), 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the average the present weights."""
        torch._foreach_copy_(self._weights(), self._mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the average the present weights, as long as the context is open."""
        kept = [one.detach().clone() for one in self._weights()]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights(), kept)

    def save(self, path: Path) -> None:
        """Write the average into a file of a checkpoint."""
        tensors = {
            name: one.cpu().contiguous() for name, one in zip(self._live, self._mean, strict=True)
        }
        save_file(tensors | {_COUNT: torch.tensor(self.steps)}, path)

    def load(self, path: Path) -> None:
        """Read the average of a checkpoint."""
        tensors: dict[str, Tensor] = load_file(path)
        self.steps = int(tensors.pop(_COUNT))
        for name, one in zip(self._live, self._mean, strict=True):
            one.copy_(tensors[name])
