"""Kill the workers of a catalogue's run, and its scheduler, and compare with a run that nobody disturbed.

    python scripts/study_catalogue.py FOLDER --n 50000 --kills 5

FOLDER/dataset holds mock spectra, made once. FOLDER/clean is a catalogue of them by two workers. Then,
with a scheduler and workers of its own (`dask scheduler`, `dask worker`), and again with the local ones of
`spender encode`, a run is disturbed: as parts appear, a worker is killed (SIGKILL) five times, and near
the end the scheduler, which for local workers is the process of the run itself. The same command is run
again. Every object must then be there once, and every part be the same bytes as in FOLDER/clean.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from spender_core import cataloguing, registry
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.shards import write_dataset

INSTRUMENT = "sdss"
MODULES = ("distributed.cli.dask_scheduler", "distributed.cli.dask_worker")


def mocks(folder: Path, n: int) -> None:
    """Write a dataset of mock galaxies, unless it is there."""
    if (folder / "dataset.json").exists():
        return
    instrument = registry.instrument(INSTRUMENT)
    survey = MockSurvey(instrument, n=n, seed=1)
    write_dataset(str(folder), (mock.batch for mock in survey), instrument, overwrite=True)


def command(dataset: Path, out: Path, size: int, *more: str) -> list[str]:
    """Return the command that makes the catalogue."""
    line = [sys.executable, "-m", "spender_core.cli", "encode", str(dataset), "-o", f"{out}/"]
    return [*line, "--partition", str(size), *more]


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a scheduler and workers, and stop them."""
    known = folder / "scheduler.json"
    known.unlink(missing_ok=True)
    lines = [
        [MODULES[0], "--port", "0", "--no-dashboard", "--host", "127.0.0.1"],
        [MODULES[1], "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"],
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *line, "--scheduler-file", str(known)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        for line in lines
    ]
    try:
        while not known.exists():
            time.sleep(0.05)
        yield started
    finally:
        for process in reversed(started):
            stop(process.pid)
            process.wait()


def stop(pid: int) -> None:
    """Kill a process and those that it has started."""
    with_children = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in with_children:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the processes of workers that a process has started."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def disturbed(
    line: Sequence[str], out: Path, of: int, kills: int, pids: tuple[int, int] | None
) -> str:
    """Run a command, kill workers as parts appear, and at the end the scheduler; return what it told.

    Args:
        line: The command.
        out: The catalogue.
        of: Parts that it will have.
        kills: How many workers to kill.
        pids: Processes of the scheduler and of the workers' nanny; None if both are the command's.
    """
    run = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    scheduler, nanny = pids or (run.pid, run.pid)
    for kill in range(kills + 1):
        while run.poll() is None and len(list(out.glob("part-*"))) < (kill + 1) * of // (kills + 3):
            time.sleep(0.02)
        if run.poll() is not None:
            raise RuntimeError(f"the run ended before kill {kill + 1}: {run.communicate()[0]!r}")
        if kill == kills:
            os.kill(scheduler, signal.SIGKILL)
            break
        victims: list[psutil.Process] = []
        while not victims:
            victims = workers_of(nanny)
        victims[kill % len(victims)].send_signal(signal.SIGKILL)
        print(
            f"  killed worker {kill + 1}, {len(list(out.glob('part-*')))} of {of} parts", flush=True
        )
    told = run.communicate()[0].decode()
    print(f"  killed the scheduler: {len(list(out.glob('part-*')))} of {of} parts", flush=True)
    print(f"  the run ended with status {run.returncode}: {told.strip()[-300:]}", flush=True)
    return told


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of each part."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("part-*.parquet"))}  # fmt: skip


def compare(name: str, folder: Path, n: int) -> None:
    """Check a catalogue against the one of the undisturbed run."""
    ids = cataloguing.read(folder / name, columns=["FIBERID"])["FIBERID"].tolist()
    once = len(ids) == len(set(ids)) == n
    same = digests(folder / name) == digests(folder / "clean")
    print(f"{name}: {len(ids)} spectra, each once: {once}; same bytes as undisturbed: {same}")
    if not (once and same):
        raise SystemExit(1)


def main() -> None:
    """Make mocks, disturb runs, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=50_000, help="mock spectra")
    parser.add_argument("--kills", type=int, default=5, help="workers to kill")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition", type=int, default=1024, help="spectra of a partition")
    asked = parser.parse_args()
    folder: Path = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    mocks(folder / "dataset", asked.n)
    for name in ("clean", "scheduler", "local"):
        shutil.rmtree(folder / name, ignore_errors=True)
    workers = ("--workers", str(asked.workers))
    begun = time.monotonic()
    subprocess.run(
        command(folder / "dataset", folder / "clean", asked.partition, *workers), check=True
    )
    of = len(digests(folder / "clean"))
    print(f"undisturbed: {of} parts in {time.monotonic() - begun:.1f} s", flush=True)

    print("a scheduler of its own:", flush=True)
    out = folder / "scheduler"
    line = command(folder / "dataset", out, asked.partition)
    with cluster(folder, asked.workers) as (scheduler, nanny):
        address = ("--scheduler", str(folder / "scheduler.json"))
        disturbed([*line, *address], out, of, asked.kills, (scheduler.pid, nanny.pid))
    with cluster(folder, asked.workers):
        subprocess.run([*line, *address], check=True)
    compare("scheduler", folder, asked.n)

    print("local workers:", flush=True)
    line = command(folder / "dataset", folder / "local", asked.partition, *workers)
    disturbed(line, folder / "local", of, asked.kills, None)
    subprocess.run(line, check=True)
    compare("local", folder, asked.n)


if __name__ == "__main__":
    main()
