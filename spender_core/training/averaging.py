"""Moving averages of the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

AVERAGE = "average.safetensors"
_COUNT = "steps"


class Average:
    """Exponential moving average of parameters.

    The decay of step n is at most (1 + n) / (10 + n), so that the first weights, which know nothing,
    are soon forgotten (as in `tf.train.ExponentialMovingAverage`).

    Args:
        parameters: Those that are trained, by name.
        decay: Share of the average that is kept a step, below 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._live = dict(parameters)
        self._mean = {name: one.detach().clone() for name, one in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        live = [one.detach() for one in self._live.values()]
        torch._foreach_lerp_(list(self._mean.values()), live, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the average the present weights."""
        for name, one in self._live.items():
            one.copy_(self._mean[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the average the present weights, as long as the context is open."""
        kept = {name: one.detach().clone() for name, one in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, one in self._live.items():
                    one.copy_(kept[name])

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        tensors = {name: one.cpu().contiguous() for name, one in self._mean.items()}
        save_file(tensors | {_COUNT: torch.tensor(self.steps)}, folder / AVERAGE)

    def load(self, folder: Path) -> None:
        """Read the average of a checkpoint."""
        tensors: dict[str, Tensor] = load_file(folder / AVERAGE)
        self.steps = int(tensors.pop(_COUNT))
        for name, one in self._mean.items():
            one.copy_(tensors[name])
