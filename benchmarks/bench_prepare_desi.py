"""Spectra of a full-size DESI coadd, read, joined, masked and normalised: beside spender 0.3.

    python benchmarks/bench_prepare_desi.py [targets]

The coadd and its redrock file are fabricated to the widths of the archive's, masks compressed; both
are in the page cache. Floor: reading the bytes of flux, ivar and mask, and turning the former two
into the machine's byte order, in numpy on one thread.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from interleaved import interleave
from spender.data import desi as theirs
from spender_desi.instrument import DESI

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from full_coadds import CAMERAS, write

ROUNDS = 5


def by_spender(coadd: Path) -> tuple[torch.Tensor, ...]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared: tuple[torch.Tensor, ...] = theirs.DESI.prepare_spectra(str(coadd))
    return prepared


def places(coadd: Path) -> list[tuple[int, int, bool]]:
    """Return where flux, ivar and mask are: first byte, bytes, and whether they are floats."""
    found = []
    with fits.open(coadd, disable_image_compression=True) as hdus:
        for name in (f"{c}_{part}" for c in CAMERAS for part in ("FLUX", "IVAR", "MASK")):
            info = hdus[name].fileinfo()
            found.append((info["datLoc"], info["datSpan"], not name.endswith("MASK")))
    return found


def floor(coadd: Path, wanted: list[tuple[int, int, bool]]) -> list[Any]:
    made: list[Any] = []
    file = os.open(coadd, os.O_RDONLY)
    for start, size, floats in wanted:
        content = os.pread(file, size, start)
        made.append(np.frombuffer(content, dtype=">f4").astype("f4") if floats else content)
    os.close(file)
    return made


def check(coadd: Path) -> None:
    """Compare what both make of the file, where spender has pixels."""
    spec, w, z, target, norm, zerr = by_spender(coadd)
    batch = DESI().read(str(coadd))
    assert batch.ids is not None
    place = {int(one): row for row, one in enumerate(batch.ids["TARGETID"])}
    assert len(place) == len(batch) == len(target), (len(batch), len(target))
    batch = batch[[place[int(one)] for one in target]]
    good = w > 0
    assert torch.equal(good, batch.good)
    pairs = {
        "flux": (batch.flux[good], spec[good]),
        "ivar": (batch.ivar[good], w[good]),
        "norm": (batch.norm.float(), norm),
        "z": (batch.z.float(), z),
        "zerr": (batch.zerr.float(), zerr),
    }
    for name, (ours, expected) in pairs.items():
        scale = expected.abs().clamp(min=1e-3)
        worst = float(((ours - expected).abs() / scale).max())
        print(f"  {name}: differs by {worst:.1e} of itself at most")
        assert worst < 2e-6, name


def main() -> None:
    targets = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        coadd = write(Path(folder), targets).coadd
        print(
            f"{targets} targets, {coadd.stat().st_size / 1e6:.0f} MB, {torch.get_num_threads()} threads"
        )
        check(coadd)
        desi, wanted = DESI(), places(coadd)
        times = interleave(
            {
                "instrument.read": lambda: desi.read(str(coadd)),
                "spender 0.3": lambda: by_spender(coadd),
                "reading and turning bytes": lambda: floor(coadd, wanted),
            },
            rounds=ROUNDS,
        )
    times.show("instrument.read", "spender 0.3", "reading and turning bytes")
    for name in ("instrument.read", "spender 0.3"):
        print(f"  {name}: {targets / times.median(name):.0f} spectra/s")


if __name__ == "__main__":
    main()
