"""Mock galaxies to judge by: even in redshift and in the logarithm of S/N, so that bins are full.

Shapes: B objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from spender_core.datasets.mock.conditions import Conditions, KnownLSF
from spender_core.datasets.mock.galaxies import PreparedPopulations, galaxies
from spender_core.datasets.mock.observing import Observed, observe
from spender_core.datasets.mock.sources import Sources
from spender_core.errors import InputError
from spender_core.interfaces import Instrument

SNR = (1.5, 60.0)
"""Median S/N a pixel of the mocks."""
_STRIDE = 1_000_003
"""Distance of the seeds of two streams; batches of a stream have seeds next to each other."""
_SEEDS = 2**43
"""Seeds there can be: generators take 64 bits."""


@dataclass(frozen=True)
class Universe:
    """Batches of mock galaxies without end; each depends on the seed and its number alone.

    Attributes:
        instrument: What observes them.
        populations: What galaxies are mixed from.
        conditions: How the instrument observes.
        z_range: Redshifts are even between these.
        seed: Streams of different seeds have no batch in common.
        snr: Range of the median S/N a pixel, log-uniform.
        size: Galaxies in a batch.
        lsf: Let spectra come with their line spread functions, as in `observe`.

    Raises:
        InputError: The seed is negative or too large.
    """

    instrument: Instrument
    populations: PreparedPopulations
    conditions: Conditions
    z_range: tuple[float, float]
    seed: int = 0
    snr: tuple[float, float] = SNR
    size: int = 64
    lsf: KnownLSF = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _SEEDS:
            raise InputError(f"seed must be from 0 to {_SEEDS - 1}, not {self.seed}")

    def __iter__(self) -> Iterator[Observed]:
        number = 0
        while True:
            generator = self._generator(number)
            sources = self._sources(self.size, generator)
            yield observe(
                sources, self.instrument, self.conditions, generator, snr=self.snr, lsf=self.lsf
            )
            number += 1

    def sources(self, n: int) -> Sources:
        """Return n galaxies that are in no batch."""
        return self._sources(n, self._generator(_STRIDE - 1))

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(_STRIDE * self.seed + number)

    def _sources(self, n: int, generator: torch.Generator) -> Sources:
        low, high = self.z_range
        z = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
        return galaxies(n, self.populations, generator).at(z)
