"""Claim: mock DESI spectra are made at 2,000 a second on two cores, galaxies and all.

256 galaxies of the real templates' size are drawn, observed at new redshifts, and normalised,
in each of two processes of one thread, as a training run's loaders do it. The floors are the
random numbers of the noise alone, and a copy of the bytes that come out.

Usage: python bench_mock.py [FOLDER of redmonster templates]; without one, galaxies are waves.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable

import torch
from spender_desi.instrument import DESI

from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.observing import observe
from spender_core.datasets.mock.sources import FINE, Sources

BATCH, RUNS, WORKERS = 256, 12, 2


def maker(folder: str | None) -> Callable[[torch.Generator], Sources]:
    """Return what draws galaxies."""
    if folder is None:
        wave = torch.tensor(FINE.wave, dtype=torch.float32)
        restframe = 1 + 0.3 * torch.sin(wave / torch.linspace(20, 200, BATCH)[:, None])
        kind = torch.zeros(BATCH, dtype=torch.int8)
        return lambda generator: Sources(restframe, torch.zeros(BATCH).double(), kind)
    from spender_core.datasets.mock import galaxies, templates

    prepared = galaxies.prepare(templates.read_populations(folder))
    return lambda generator: galaxies.galaxies(BATCH, prepared, generator)


def seconds(step: Callable[[], object]) -> tuple[float, float]:
    """Return the medians of the time that passes and of the processor's time."""
    step()
    wall, processor = [], []
    for _ in range(RUNS):
        starts = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - starts[0])
        processor.append(time.process_time() - starts[1])
    return statistics.median(wall), statistics.median(processor)


def work(
    seed: int, folder: str | None, results: multiprocessing.Queue[dict[str, tuple[float, float]]]
) -> None:
    torch.set_num_threads(1)
    generator, desi = torch.Generator().manual_seed(seed), DESI()
    conditions = Conditions.parametric(desi, 64, generator)
    draw = maker(folder)
    sources, made_up = draw(generator), torch.rand(3, BATCH, desi.grid.size)

    def moved(made: Sources) -> Sources:
        return made.at(0.05 + 0.55 * torch.rand(BATCH, generator=generator).double())

    steps: dict[str, Callable[[], object]] = {
        "observe": lambda: observe(moved(sources), desi, conditions, generator, snr=(2.0, 30.0)),
        "galaxies": lambda: draw(generator),
        "galaxies and observe": lambda: observe(
            moved(draw(generator)), desi, conditions, generator, snr=(2.0, 30.0)
        ),
        "floor: torch.randn": lambda: torch.randn(BATCH, desi.grid.size, generator=generator),
        "floor: copy": lambda: made_up.clone(),
    }
    results.put({name: seconds(step) for name, step in steps.items()})


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(k, folder, results)) for k in range(WORKERS)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    print(f"{BATCH} spectra of DESI, {WORKERS} processes of one thread, medians of {RUNS} runs")
    for name in found[0]:
        wall, processor = (max(one[name][k] for one in found) for k in (0, 1))
        rate = sum(BATCH / one[name][0] for one in found)
        print(
            f"{name:22s} {1e3 * wall:7.1f} ms a batch, {1e3 * processor:7.1f} ms of the processor; "
            f"{rate:8.0f} spectra/s together"
        )


if __name__ == "__main__":
    main()
