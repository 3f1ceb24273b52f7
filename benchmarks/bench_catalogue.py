"""Claim: two workers make a catalogue nearly twice as fast as one, at a cost a spectrum that stays flat.

Datasets of mock galaxies are made once, in FOLDER. Clusters of one and of two workers of Dask, each worker a
process of one thread that has loaded the model, make catalogues of them in turn, in partitions of
1,024 spectra. Beside them stands the floor: the model alone, encoding and reconstructing spectra that
are in memory, in this process, on one thread, without Dask, reading or writing; the same in two processes, each with every second row group, which is
what the machine allows; and the same run without Dask (`--workers 0`). All runs must give the same bytes.

Usage: python bench_catalogue.py [FOLDER [SPECTRA ...]], e.g. mocks 1000 5000 20000 50000; each spectrum
needs 35 kB of disk. The last number is the one at which workers are compared.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from interleaved import Times, interleave, spread

from spender_core import cataloguing, registry
from spender_core.batch import SpectrumBatch
from spender_core.cataloguing.cluster import connected
from spender_core.cataloguing.measuring import encode
from spender_core.datasets.layout import SPLITS
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.reading import Dataset
from spender_core.datasets.shards import write_dataset
from spender_core.native.memory import keep_freed

INSTRUMENT, PARTITION, ROUNDS = "sdss", 1024, 5
SIZES = (1000, 5000, 20000)


def mocks(folder: Path, n: int) -> Path:
    """Return the dataset of n mocks, made if it is not there."""
    root = folder / f"mocks-{n}"
    if not (root / "dataset.json").exists():
        instrument = registry.instrument(INSTRUMENT)
        survey = MockSurvey(instrument, n=n, seed=1)
        write_dataset(str(root), (mock.batch for mock in survey), instrument, overwrite=True)
    return root


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("part-*"))}  # fmt: skip


def alone(model: Any, batches: list[SpectrumBatch]) -> None:
    """Let the model encode and reconstruct spectra that are in memory."""
    for batch in batches:
        encode(model, batch)


_held: list[Any] = []
"""Model and spectra of a process of `halves`."""


def hold(root: Path, number: int = 0, of: int = 1) -> None:
    """Load the model, and every `of`-th row group from `number` on into memory."""
    torch.set_num_threads(1)
    keep_freed()  # as workers do, since processes inherit what Dask sets
    instrument, model = registry.load("sdss_demo")
    dataset = Dataset(root, instrument)
    groups = [group for split in SPLITS for group in dataset.groups(split)]
    _held[:] = [model, [dataset.group(group) for group in groups[number::of]]]


def alone_held() -> None:
    alone(*_held)


def made(plan: cataloguing.Plan, out: Path, n: int, **options: Any) -> None:
    shutil.rmtree(out, ignore_errors=True)
    done = cataloguing.run(plan, out, **options)
    assert (done.rows, done.errors) == (n, {})


def compare(folder: Path, n: int, scratch: Path, one: str, two: str) -> Times:
    """Time a catalogue of n spectra by one and two workers, without Dask, and the model alone."""
    root = mocks(folder, n)
    hold(root)
    halves = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(2)]
    for number, half in enumerate(halves):
        half.submit(hold, root, number, 2).result()

    def both() -> None:
        for future in [half.submit(alone_held) for half in halves]:
            future.result()

    plan = cataloguing.of_dataset(cataloguing.how(INSTRUMENT), str(root), PARTITION)
    functions: dict[str, Callable[[], None]] = {
        "2 workers": partial(made, plan, scratch / "two", n, scheduler=two),
        "1 worker": partial(made, plan, scratch / "one", n, scheduler=one),
        "without Dask": partial(made, plan, scratch / "none", n, workers=0),
        "model alone": alone_held,
        "model alone, 2 processes": both,
    }
    times = interleave(functions, rounds=ROUNDS)
    for half in halves:
        half.shutdown()
    results = [contents(scratch / name) for name in ("one", "two", "none")]
    assert results[0] == results[1] == results[2]
    print(f"{n} mock spectra of {INSTRUMENT} in {len(plan.parts)} partitions, {ROUNDS} rounds")
    times.show("1 worker", floor="model alone")
    print(f"  2 workers: {spread(times.ratios('1 worker', '2 workers'))} times as fast as 1 worker")
    machine = spread(times.ratios("model alone", "model alone, 2 processes"))
    print(f"  the model alone in 2 processes: {machine} times as fast as in one")
    return times


def main() -> None:
    sizes = [int(word) for word in sys.argv[2:]] or list(SIZES)
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as scratch,
        connected(1, None) as one,
        connected(2, None) as two,
    ):
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        addresses = [client.scheduler.address for client in (one, two)]
        found = {n: compare(folder, n, Path(scratch), *addresses) for n in sizes}
    print("milliseconds a spectrum, by the number of spectra")
    for name in next(iter(found.values())).seconds:
        costs = {n: 1e3 * times.median(name) / n for n, times in found.items()}
        print(f"  {name:25s}" + "".join(f"{n:>9d}: {cost:.3f}" for n, cost in costs.items()))


if __name__ == "__main__":
    main()
