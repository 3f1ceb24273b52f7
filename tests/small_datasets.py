"""Datasets of a few thousand spectra of a few pixels, written to a folder, for tests that read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.shards import write_dataset
from spender_core.datasets.stream import Stream
from spender_core.grid import Linear
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF

PIXELS = 8
COUNT = 15_000


class Tiny(Instrument):
    """Eight pixels, and ids that are one number."""

    name = "tiny"
    grid = Linear(5000.0, 2.0, PIXELS)
    loader: Any = None


class Other(Instrument):
    name = "other"
    grid = Linear(5000.0, 2.0, PIXELS)
    loader: Any = None


class Finer(Instrument):
    name = "tiny"
    grid = Linear(5000.0, 1.0, PIXELS)
    loader: Any = None


def spectra(count: int, first: int = 0, lsf: str = "") -> SpectrumBatch:
    """Return spectra that all differ, with ids that count them; some unknown redshifts and flags."""
    number = torch.arange(first, first + count)
    generator = torch.Generator().manual_seed(first)
    flux = torch.randn(count, PIXELS, generator=generator)
    flux[:, 0] = number
    z = (number % 100) / 100.0
    z[number % 37 == 3] = torch.nan
    flags = torch.zeros(count, dtype=torch.int64)
    flags[number % 11 == 5] |= int(Flag.SPARSE)
    kernels: Any = None
    if lsf == "gaussian":
        kernels = GaussianLSF(torch.rand(count, PIXELS, generator=generator))
    elif lsf:
        kernels = BandedLSF(torch.randn(count, 3, PIXELS, generator=generator), (1, 0, -1))
    return SpectrumBatch(
        flux,
        torch.rand(count, PIXELS, generator=generator),
        z=z,
        zerr=torch.rand(count, generator=generator),
        norm=1 + torch.rand(count, generator=generator),
        ids=np.array([(n,) for n in number.tolist()], dtype=[("ID", "i8")]),
        instrument="tiny",
        lsf=kernels,
        flags=flags,
    )


def written(root: Path, count: int, lsf: str = "", first: int = 0) -> tuple[Path, SpectrumBatch]:
    """Write a dataset; returns its root, and what was written, in the order of the ids."""
    batch = spectra(count, first, lsf)
    write_dataset(str(root), [batch], Tiny(), lsf=bool(lsf))
    return root, batch


def ids(batch: SpectrumBatch) -> list[int]:
    """Return the ids of spectra as plain numbers."""
    assert batch.ids is not None
    return [int(number) for number in batch.ids["ID"]]


def epoch_of(stream: Stream, epoch: int = 0, start: int = 0) -> list[list[int]]:
    """Return the ids in each batch of an epoch."""
    return [ids(batch) for batch in stream.epoch(epoch, start)]
