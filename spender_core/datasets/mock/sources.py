"""What mock surveys are made of: objects in their restframe, with the truth beside.

Shapes: B objects, M pixels of a fine restframe grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from spender_core.errors import InputError
from spender_core.grid import Log

STEP = 5e-5
"""Step of all fine restframe grids, in log10 of the wavelength: 34.5 km/s a pixel."""
FINE = Log(3.2, STEP, 16694)
"""Fine restframe grid of galaxies and stars, 1585 to 10831 Angstrom."""
KMS = 34.51488
"""Kilometres a second in one pixel of `STEP`: c ln(10) 5e-5."""
KINDS = ("galaxy", "quasar", "star")
"""What `Sources.kind` counts."""


@dataclass(frozen=True)
class Sources:
    """Objects in restframe, without noise, and all that is known of them.

    Attributes:
        restframe: Flux densities on `grid`, shape (B, M), float32.
        z: Redshifts, shape (B,), float64.
        kind: Index into `KINDS`, shape (B,), int8.
        parameters: What the objects were drawn from, by name; shape (B,) each, float32.
        grid: The restframe grid, of step `STEP`, vacuum Angstrom.
    """

    restframe: Tensor
    z: Tensor
    kind: Tensor
    parameters: dict[str, Tensor] = field(default_factory=dict)
    grid: Log = FINE

    def __post_init__(self) -> None:
        if self.restframe.shape != (len(self.z), self.grid.size):
            raise InputError(
                f"restframe must have shape ({len(self.z)}, {self.grid.size}), "
                f"got {tuple(self.restframe.shape)}"
            )

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: Any) -> Self:
        """Select objects by a slice, indices or a mask, shape (B,)."""
        return type(self)(
            self.restframe[index],
            self.z[index],
            self.kind[index],
            {name: values[index] for name, values in self.parameters.items()},
            self.grid,
        )

    def at(self, z: Tensor) -> Self:
        """Return the same objects at other redshifts, shape (B,)."""
        return type(self)(self.restframe, z.double(), self.kind, self.parameters, self.grid)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join sources on one grid; a parameter that some of them lack is NaN there.

        Raises:
            InputError: There are none, or their grids differ.
        """
        if not parts:
            raise InputError("there are no sources to join; give at least one")
        if len({part.grid for part in parts}) != 1:
            raise InputError(
                "sources can be joined only on one grid; got "
                + ", ".join(sorted({str(part.grid) for part in parts}))
            )
        names = dict.fromkeys(name for part in parts for name in part.parameters)
        return cls(
            torch.cat([part.restframe for part in parts]),
            torch.cat([part.z for part in parts]),
            torch.cat([part.kind for part in parts]),
            {
                name: torch.cat(
                    [
                        part.parameters.get(name, torch.full((len(part),), torch.nan))
                        for part in parts
                    ]
                )
                for name in names
            },
            parts[0].grid,
        )


class Draw:
    """Columns of random numbers, shape (n,), from one generator."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def normal(self, mean: float = 0.0, sigma: float = 1.0) -> Tensor:
        """Draw from a normal distribution."""
        return mean + sigma * torch.randn(self.n, generator=self.generator)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw evenly from low to high."""
        return low + (high - low) * torch.rand(self.n, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """Draw truths, bool, of some probability."""
        return torch.rand(self.n, generator=self.generator) < probability

    def choice(self, weights: Sequence[float]) -> Tensor:
        """Draw indices, int64, with probabilities proportional to weights."""
        chances = torch.tensor(weights, dtype=torch.float64)
        return torch.multinomial(chances, self.n, replacement=True, generator=self.generator)
