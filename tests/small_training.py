"""A recipe and datasets that are small, for tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spender_core import registry
from spender_core.datasets.shards import write_dataset

SMALL = """
recipe = 1
name = "small"
seed = 3
[model]
latents = 2
rest = {low = 2500, high = 10000, pixels = 60}
config = {filters = [3, 4, 6], sizes = [3, 5, 3], encoder_hidden = [5], decoder_hidden = [7]}
[data.sdss]
batch_size = 8
[[phases]]
steps = 4
"""


def small_dataset(folder: Path, name: str = "sdss", n: int = 40, **columns: Any) -> dict[str, int]:
    """Write a dataset of flat spectra with noise, and return its spectra by split."""
    instrument = registry.instrument(name)
    rng = np.random.default_rng(5)
    flux = 1 + 0.1 * rng.standard_normal((n, instrument.grid.size))
    columns.setdefault("z", np.linspace(0.01, 0.3, n))
    batch = instrument.batch(instrument.wave, flux, np.full(flux.shape, 100.0), **columns)
    return write_dataset(str(folder), [batch], instrument)
