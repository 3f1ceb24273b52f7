"""Claim: 1,000 SDSS ids from a server with 50 ms latency come 15 times as fast as one by one.

Real files below SPENDER_TEST_DATA are copied under ids of their own into the folders of the archive
and served over http by a process of its own (tests/range_server.py), which waits 50 ms before each
answer. `instrument.read(ids)` of all of them is compared with reads of one id after the other, with
the same library and an empty cache both, and with spender 0.3, which downloads and prepares one
file after the other. Of those that go one by one, only each 50th id is read, and the time multiplied. The floor is
to fetch all files with nothing done to them. Spectra must be equal to those read from the disk, and
each file must have been asked for once.

Usage: SPENDER_TEST_DATA=... python bench_remote_sdss.py [IDS [LATENCY]]
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from range_server import RangeServer, serving
from spender.data.sdss import SDSS

from spender_core import registry
from spender_core.archives.remote.fetching import fetch_all
from spender_core.batch import SpectrumBatch

IDS, LATENCY, PART, ROUNDS = 1000, 0.05, 50, 5
TREE = "dr17/sdss/spectro/redux/26/spectra/lite"
Id = tuple[int, int, int, str]


def copies(folder: Path, count: int) -> list[Id]:
    """Copy real files, in turn, into folders like the archive's; return their ids."""
    real = sorted(Path(os.environ["SPENDER_TEST_DATA"]).glob("sdss/sas/*/sdss/**/spec-*.fits"))
    ids = [(1000 + number // 640, 55000, 1 + number % 640, "26") for number in range(count)]
    for number, row in enumerate(ids):
        path = folder / name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real[number % len(real)], path)
    return ids


def name(row: Id) -> str:
    plate, mjd, fiberid, _ = row
    return f"{TREE}/{plate:04d}/spec-{plate:04d}-{mjd}-{fiberid:04d}.fits"


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def emptied(work: Callable[[], object]) -> float:
    """Return the seconds that something takes with an empty cache."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["SPENDER_HOME"] = home
        return timed(work)


def run(server: RangeServer, ids: list[Id], local: Path) -> None:
    instrument = registry.instrument("sdss")
    direct = instrument.read(ids, root=local, release="dr17", quality=False)
    few = ids[::PART]

    made: dict[str, SpectrumBatch] = {}

    def together() -> None:
        made["read"] = instrument.read(ids, root=server.root, release="dr17", quality=False)

    def check() -> None:
        asked = server.seen().paths
        assert len(asked) == len(ids)
        assert set(asked.values()) == {1}
        for column in ("flux", "ivar"):
            assert torch.equal(getattr(made["read"], column), getattr(direct, column))

    def apart() -> None:
        for row in few:
            instrument.read([row], root=server.root, release="dr17", quality=False)

    def spender() -> None:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            shown, sys.stdout = sys.stdout, nowhere
            try:
                for row in few:
                    SDSS.get_spectrum(folder, *row[:3])
            finally:
                sys.stdout = shown

    def fetched() -> None:
        wants = [(server.at(name(row)), None, None, "") for row in ids]
        assert all(hasattr(one, "data") for one in fetch_all(wants))

    SDSS._base_url = f"{server.root}/{TREE}"
    works = {"together": together, "one by one": apart, "spender 0.3": spender, "bytes": fetched}
    seconds: dict[str, list[float]] = {title: [] for title in works}
    for turn in range(ROUNDS + 1):
        for title, work in works.items():
            server.forget()
            took = emptied(work) * (PART if work in (apart, spender) else 1)
            if work is together:
                check()
            if turn:
                seconds[title].append(took)
    for title, values in seconds.items():
        print(f"  {title:12s} {sorted(values)[ROUNDS // 2]:8.2f} s for {len(ids)} ids")
    for other in ("one by one", "spender 0.3", "bytes"):
        ratios = sorted(a / b for a, b in zip(seconds[other], seconds["together"], strict=True))
        print(
            f"  {other} takes {ratios[ROUNDS // 2]:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) times as long"
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IDS
    latency = float(sys.argv[2]) if len(sys.argv) > 2 else LATENCY
    warnings.simplefilter("ignore", ResourceWarning)  # spender leaves its files open
    with tempfile.TemporaryDirectory() as folder:
        ids = copies(Path(folder), count)
        with serving(folder, latency=latency) as server:
            run(server, ids, Path(folder))


if __name__ == "__main__":
    main()
