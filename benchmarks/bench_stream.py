"""Claim: shuffled batches come about as fast as pyarrow decodes the files, whatever spender needs.

Datasets of spectra with noise, so that they compress as real ones do, with the pixels of SDSS and of
DESI, are written as `spender prepare` does; spender 0.3 reads the same files. One epoch of batches of 512 is read by
spender 0.3 (`get_data_loader`, streaming, shuffle, no workers), by `Stream`, and, as the floor, by
pyarrow alone: `read_row_group` and `combine_chunks` of the same columns, which mixes nothing and
makes no batch. In the same run, all three must give the same spectra, each once.

Usage: python bench_stream.py [SPECTRA], which need 35 kB (SDSS) and 70 kB (DESI) of disk each.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from interleaved import interleave
from spender.data.dataset import get_data_loader

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.reading import Dataset
from spender_core.datasets.shards import write_dataset
from spender_core.datasets.stream import Stream

BATCH, SPECTRA, WINDOW = 512, 6000, 2
COLUMNS = ("spec", "w", "z")


def spectra(count: int, pixels: int) -> Iterator[SpectrumBatch]:
    """Yield waves with noise, inverse variances that scatter, and masked pixels."""
    random = np.random.default_rng(1)
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        steps = np.linspace(0, 30, pixels, dtype=np.float32)
        wave = np.sin(steps * random.uniform(0.2, 1, (size, 1)).astype(np.float32))
        noise = random.standard_normal((size, pixels), dtype=np.float32)
        ivar = random.standard_gamma(4.0, (size, pixels), dtype=np.float32)
        ivar[random.random((size, pixels), dtype=np.float32) < 0.03] = 0
        yield SpectrumBatch(
            torch.from_numpy(1 + 0.5 * wave + 0.2 * noise),
            torch.from_numpy(ivar),
            z=random.uniform(0, 0.5, size),
        )


def compare(name: str, count: int, folder: Path) -> None:
    instrument = registry.instrument(name)
    pixels = instrument.grid.size
    rows = write_dataset(str(folder), spectra(count, pixels), instrument)["train"]
    stream = Stream(Dataset(str(folder), instrument), batch_size=BATCH, window=WINDOW)
    loader = get_data_loader(str(folder), "train", COLUMNS, BATCH, shuffle=True, seed=0)
    shards = sorted(folder.glob("data/train-*.parquet"))
    seen: dict[str, list[Any]] = {}

    def theirs() -> None:
        seen["theirs"] = [z for _, _, z in loader]

    def ours() -> None:
        seen["ours"] = [batch.z for batch in stream.epoch(0)]

    def decode() -> None:
        seen["floor"] = []
        for shard in shards:
            file = pq.ParquetFile(shard)
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=list(COLUMNS))
                columns = [table.column(column).combine_chunks() for column in COLUMNS]
                seen["floor"].append(torch.from_numpy(columns[2].to_numpy().copy()))

    times = interleave({"Stream": ours, "spender 0.3": theirs, "pyarrow": decode}, rounds=5)
    values = [torch.cat(parts).float().sort().values for parts in seen.values()]
    assert all(torch.equal(value, values[0]) for value in values)
    assert len(values[0]) == rows
    print(f"{name}: {rows} spectra of {pixels} pixels, batches of {BATCH}")
    times.show("Stream", "spender 0.3", "pyarrow")
    print(f"  {rows / times.median('Stream'):.0f} spectra a second")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SPECTRA
    for name in ("sdss", "desi"):
        with tempfile.TemporaryDirectory() as folder:
            compare(name, count, Path(folder))


if __name__ == "__main__":
    main()
