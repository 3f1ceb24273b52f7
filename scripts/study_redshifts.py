"""How well embedded models measure redshifts of mock galaxies that are read without them.

    python scripts/study_redshifts.py [NUMBER]

NUMBER mocks, 3,000 by default, of SDSS and of DESI: redshifts even from 0.001 to 0.5 and 0.8, the
median S/N a pixel even in its logarithm from 1 to 20, sky residuals, masks and blends included.
"""

from __future__ import annotations

import math
import sys
import time

import torch
from torch import Tensor

from spender_core import SpectrumBatch, registry
from spender_core.datasets.mock import parametric
from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import galaxies, prepare
from spender_core.datasets.mock.observing import observe
from spender_core.interfaces import Redshifts

_CATASTROPHIC = 0.003
_CHUNK = 250
_RANGES = (1.0, 2.0), (2.0, 3.0), (3.0, 5.0), (5.0, 10.0), (10.0, 30.0), (3.0, 30.0)


def mocks(name: str, n: int, highest: float, seed: int) -> tuple[SpectrumBatch, Tensor]:
    """Return mock galaxies, normalised as where redshifts are unknown, and their redshifts."""
    instrument, generator = registry.instrument(name), torch.Generator().manual_seed(seed)
    populations = prepare(parametric.populations())
    conditions = Conditions.parametric(instrument, 64, generator)
    batches, truths = [], []
    for start in range(0, n, _CHUNK):
        size = min(_CHUNK, n - start)
        z = torch.rand(size, generator=generator, dtype=torch.float64)
        z = 0.001 + (highest - 0.001) * z
        snr = 10 ** (math.log10(20) * torch.rand(size, generator=generator))
        sources = galaxies(size, populations, generator).at(z)
        batch = observe(sources, instrument, conditions, generator, snr=snr.float()).batch
        norm = batch.norm.to(batch.flux)[:, None]
        batches.append(instrument.prepare(SpectrumBatch(batch.flux * norm, batch.ivar / norm**2)))
        truths.append(z)
    return SpectrumBatch.cat(batches), torch.cat(truths)


def show(name: str, batch: SpectrumBatch, z: Tensor, found: Redshifts) -> None:
    """Print what is flagged and wrong, by S/N."""
    error = (found.z - z) / (1 + z)
    wrong = ~(error.abs() <= _CATASTROPHIC)
    for low, high in _RANGES:
        inside = (batch.snr >= low) & (batch.snr < high)
        kept = inside & found.good
        scatter = 1.4826 * (error[kept] - error[kept].median()).abs().median()
        pull = ((found.z - z) / found.zerr)[kept & ~wrong]
        ends = pull.quantile(torch.tensor([0.1587, 0.8413], dtype=pull.dtype))
        print(
            f"{name} S/N {low:g}-{high:g}: n {int(inside.sum())}, "
            f"unflagged {float(found.good[inside].double().mean()):.4f}, "
            f"of these catastrophic {float(wrong[kept].double().mean()):.4f}, "
            f"NMAD {float(scatter):.2e}, pull width {float(ends[1] - ends[0]) / 2:.3f}",
            flush=True,
        )


def main(n: int) -> None:
    """Measure mocks of both surveys."""
    torch.set_num_threads(1)
    for name, highest in (("sdss", 0.5), ("desi", 0.8)):
        batch, z = mocks(name, n, highest, 77)
        model = registry.load(f"{name}_demo")[1]
        began = time.process_time()
        found = model.redshift(batch)
        spent = (time.process_time() - began) / n
        print(f"{name}: {1e3 * spent:.1f} ms of a core a spectrum", flush=True)
        show(name, batch, z, found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
