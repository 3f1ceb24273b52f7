"""Claim: spec files of SDSS are read and prepared at least 6 times as fast as by spender 0.3.

The real files below SPENDER_TEST_DATA are copied under ids of their own, as many as asked for, and
read from memory (the page cache): by `SDSS.prepare_spectrum` of spender 0.3 into arrays of a batch,
as its `make_batch` does, and by `instrument.read`. The floor is to read the bytes of all files. In
the same run, flux and weights must agree for each file that spender prepares soundly: where the
median of its window is positive and the fibre has a target.

Usage: SPENDER_TEST_DATA=... python bench_prepare_sdss.py [FILES], which need 0.17 MB of disk each.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from interleaved import interleave
from spender.data.sdss import SDSS

from spender_core import registry
from spender_core.batch import Flag, SpectrumBatch

FILES, ROUNDS = 352, 5


def copies(folder: Path, count: int) -> list[Path]:
    """Copy real files, in turn, under ids of their own."""
    real = sorted(Path(os.environ["SPENDER_TEST_DATA"]).glob("sdss/sas/*/sdss/**/spec-*.fits"))
    made = []
    for number in range(count):
        path = folder / f"spec-{1000 + number // 640:04d}-55000-{1 + number % 640:04d}.fits"
        shutil.copyfile(real[number % len(real)], path)
        made.append(path)
    return made


def theirs(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prepare files with spender 0.3; return its spectra, weights and norms."""
    pixels = len(SDSS._wave_obs)
    flux, weight = torch.empty(len(paths), pixels), torch.empty(len(paths), pixels)
    norm = torch.empty(len(paths))
    for row, path in enumerate(paths):
        flux[row], weight[row], norm[row], _, _ = SDSS.prepare_spectrum(str(path))
    return flux, weight, norm


def compare(ours: SpectrumBatch, other: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> int:
    """Return how many spectra were compared; all that spender prepares soundly."""
    flux, weight, norm = other
    sound = (norm > 0) & ((ours.flags & int(Flag.NOT_TARGET)) == 0)
    for mine, expected in ((ours.flux, flux), (ours.ivar, weight)):
        largest = expected[sound].abs().amax(dim=1)
        assert ((mine - expected)[sound].abs().amax(dim=1) <= 1e-6 * largest).all()
    return int(sound.sum())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    warnings.simplefilter("ignore", ResourceWarning)  # spender leaves its files open
    instrument = registry.instrument("sdss")
    with tempfile.TemporaryDirectory() as folder:
        paths = copies(Path(folder), count)
        made: dict[str, object] = {}

        def ours() -> None:
            made["ours"] = instrument.read(paths, quality=False)

        def spender() -> None:
            made["theirs"] = theirs(paths)

        def floor() -> None:
            for path in paths:
                path.read_bytes()

        times = interleave({"ours": ours, "spender 0.3": spender, "bytes": floor}, rounds=ROUNDS)
    compared = compare(made["ours"], made["theirs"])  # type: ignore[arg-type]
    print(f"{count} files, {torch.get_num_threads()} threads; {compared} equal to spender's")
    times.show("ours", "spender 0.3", "bytes")
    for name in ("ours", "spender 0.3"):
        print(f"  {name}: {count / times.median(name):.0f} spectra/s")


if __name__ == "__main__":
    main()
