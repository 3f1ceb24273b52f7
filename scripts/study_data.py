"""Write datasets of mock spectra to train on, where the truth is known.

    python scripts/study_data.py OUT --instrument sdss --n 20000 --seed 1
    python scripts/study_data.py OUT --instrument desi --n 20000 --lsf --templates FOLDER
    python scripts/study_data.py OUT --instrument boss --what stars --snr 5 50

The objects are those that the embedded models learn from: with FOLDER, three quarters of them are
made from the templates in it, and half of the batches are observed as the spectra in it were,
unless conditions are to be parametric.
Batch k depends on what was asked for, the seed and k alone, and is written before the next is
drawn, so that the same command gives the same bytes, in little memory. Ids are made up; those of
other seeds are others. OUT/mocks.json says how the spectra were made.

With --lsf each spectrum has its line spread function, as it was applied; "--lsf gaussian"
writes widths alone, K times less: the same under parametric conditions, but under those of files
some percent off where widths jump (`Conditions.known_lsf`). DESI's files have matrices alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_mocks import SNR, Z_RANGE, Mocks, mocks
from numpy.typing import NDArray

from spender_core import SpectrumBatch, __version__
from spender_core.datasets.layout import id_dtype
from spender_core.datasets.mock.conditions import KnownLSF
from spender_core.datasets.mock.observing import Observed
from spender_core.datasets.shards import write_dataset
from spender_core.errors import InputError

BATCH = 64
_KNOWN: dict[str, KnownLSF] = {"none": False, "exact": True, "gaussian": "gaussian"}


@dataclass(frozen=True)
class Study:
    """Mock spectra of one instrument, in batches that can each be drawn alone.

    Attributes:
        data: What is observed, and how.
        instrument: Name of what observes.
        n: Spectra in all.
        seed: Studies of different seeds share no spectrum and no id.
        snr: Median S/N a pixel, log-uniform.
        z_range: Redshifts of galaxies, even between these; as of the embedded models if None.
        lsf: How line spread functions are told, "none", "exact" or "gaussian".
    """

    data: Mocks
    instrument: str
    n: int
    seed: int = 0
    snr: tuple[float, float] = SNR
    z_range: tuple[float, float] | None = None
    lsf: str = "none"

    def __post_init__(self) -> None:
        if self.lsf == "gaussian":  # refused before a batch is written, if there is none
            for conditions in self.data.conditions[self.instrument]:
                conditions.known_lsf(torch.tensor([0]), "gaussian")

    def __len__(self) -> int:
        return -(-self.n // BATCH)

    def observed(self, number: int) -> Observed:
        """Draw batch `number`, from 0, with the truth, without ids."""
        count = min(BATCH, self.n - number * BATCH)
        text = f"{self.seed}/{self.instrument}/{self.data.what}/{number}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return self.data.observed(
            count, self.data.instruments[self.instrument], generator,
            snr=self.snr, z_range=self.z_range, lsf=_KNOWN[self.lsf],
        )  # fmt: skip

    def __iter__(self) -> Iterator[SpectrumBatch]:
        for number in range(len(self)):
            batch = self.observed(number).batch
            yield batch.replace(ids=self._ids(number * BATCH, len(batch)))

    def _ids(self, first: int, count: int) -> NDArray[np.void]:
        """Return ids that no survey has given, and no other spectrum of any study."""
        number = np.arange(first, first + count)
        kind = ("galaxies", "stars").index(self.data.what)
        values: dict[str, Any] = {
            "PLATE": 100_000 + number // 1000,
            "MJD": 100_000 + 2 * self.seed + kind,
            "FIBERID": 1 + number % 1000,
            "RUN2D": "mock",
            "TARGETID": (2 * self.seed + kind) * 10**10 + number,
            "SURVEY": "mock",
            "PROGRAM": self.data.what,
            "HEALPIX": -1,
            "TILEID": -1,
            "NIGHT": -1,
            "PETAL": -1,
        }
        ids = np.zeros(count, id_dtype(self.data.instruments[self.instrument]))
        for name in ids.dtype.names or ():
            ids[name] = values[name]
        return ids


def write(study: Study, out: Path, overwrite: bool = False) -> dict[str, int]:
    """Write a study as a dataset, and beside it how it was made.

    Returns:
        Spectra in each split.
    """
    begun, done = time.monotonic(), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if done % (50 * BATCH) < count or done == study.n:
            rate = done / (time.monotonic() - begun)
            print(f"{done} of {study.n} spectra, {rate:.0f} a second", flush=True)

    rows = write_dataset(
        str(out), study, study.data.instruments[study.instrument],
        lsf=study.lsf != "none", overwrite=overwrite, progress=told,
    )  # fmt: skip
    about = {
        "spender": __version__,
        "instrument": study.instrument,
        "what": study.data.what,
        "n": study.n,
        "seed": study.seed,
        "snr": study.snr,
        "z_range": study.z_range,
        "lsf": study.lsf,
        "templates": study.data.folder is not None,
        "conditions": [len(one) for one in study.data.conditions[study.instrument]],
        "rows": rows,
    }
    (out / "mocks.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description="Write a dataset of mock spectra.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--instrument", choices=list(Z_RANGE), required=True)
    parser.add_argument("--what", choices=["galaxies", "stars"], default="galaxies")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lsf", nargs="?", choices=list(_KNOWN), default="none", const="exact")
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--conditions", choices=["files", "parametric"], default="files")
    parser.add_argument("--z-range", type=float, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--snr", type=float, nargs=2, metavar=("LOW", "HIGH"), default=SNR)
    parser.add_argument("--overwrite", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.n < 1 or asked.seed < 0:
        raise InputError(f"n must be 1 or more, seed 0 or more; got {asked.n}, {asked.seed}")
    study = Study(
        mocks(asked.what, asked.templates, [asked.instrument], asked.conditions == "files"),
        asked.instrument,
        asked.n,
        asked.seed,
        tuple(asked.snr),
        None if asked.z_range is None else tuple(asked.z_range),
        asked.lsf,
    )
    print(write(study, asked.out, asked.overwrite))


if __name__ == "__main__":
    main()
