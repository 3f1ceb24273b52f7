"""An archive of SDSS files some of which never come: absent, refused, cut off, or a web page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from range_server import RangeServer

from spender_core.batch import SpectrumBatch

TREE = "dr17/sdss/spectro/redux/26/spectra/lite"
MJD = 55000
SHARES = {"missing": 0.01, "refused": 0.01, "cut": 0.0025, "short": 0.0025, "page": 0.005}
"""Shares of files that fail: 404, 503, connections lost, files that lack their end, pages."""

CAUSES = {
    "missing": ("MissingFileError", "none of these files exists"),
    "refused": ("OfflineError", "the server answered 503"),
    "cut": ("FileError", "the file was cut off"),
    "short": ("FileError", "claims"),
    "page": ("FileError", "a web page instead of the file ('Service overloaded')"),
}
"""Name of the error of each, and words of its message."""

Id = tuple[int, int, int, str]


def path_of(row: Id) -> str:
    plate, mjd, fiberid, _ = row
    return f"{TREE}/{plate:04d}/spec-{plate:04d}-{mjd}-{fiberid:04d}.fits"


def fabricate(folder: Path, real: Path, count: int) -> list[Id]:
    """Put real files of SDSS below a folder, in turn, under ids of their own; return the ids."""
    sources = sorted(real.glob("sdss/sas/*/sdss/**/spec-*.fits"))
    ids = [(1000 + k // 640, MJD, 1 + k % 640, "26") for k in range(count)]
    for k, row in enumerate(ids):
        path = folder / path_of(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        if k < len(sources):
            shutil.copyfile(sources[k], path)
        else:  # the same content takes no further room
            os.link(folder / path_of(ids[k % len(sources)]), path)
    return ids


def spoil(server: RangeServer, ids: Sequence[Id], seed: int = 0) -> dict[Id, str]:
    """Let some files fail for good; return which, and how."""
    order = np.random.default_rng(seed).permutation(len(ids))
    bad: dict[Id, str] = {}
    first = 0
    for kind, share in SHARES.items():
        number = max(1, round(share * len(ids)))
        bad |= {ids[k]: kind for k in order[first : first + number]}
        first += number
    paths = {kind: [path_of(row) for row in bad if bad[row] == kind] for kind in SHARES}
    server.heal()
    server.fault("status", paths["missing"], code=404)
    server.fault("status", paths["refused"], code=503)
    server.fault("drop", paths["cut"], after=50_000)
    server.fault("short", paths["short"], by=50_000)
    server.fault("page", paths["page"])
    return bad


def differences(
    read: SpectrumBatch, direct: SpectrumBatch, ids: Sequence[Id], bad: dict[Id, str]
) -> list[str]:
    """Compare what came through faults with `direct`, a read of the good ones from the disk."""
    found: list[str] = []
    for name in ("flux", "ivar", "z", "zerr", "norm", "flags"):
        same = torch.allclose(
            getattr(read, name), getattr(direct, name), rtol=0, atol=0, equal_nan=True
        )
        found += [] if same else [f"{name} differs"]
    if not np.array_equal(read.ids, direct.ids):
        found.append("ids differ")
    lost = [row for row in ids if row in bad]
    if len(read.failures) != len(lost):
        found.append(f"{len(read.failures)} failures for {len(lost)} bad files")
    for row, failure in zip(lost, read.failures, strict=False):
        error, words = CAUSES[bad[row]]
        name = path_of(row).rpartition("/")[2]
        if failure.error != error or words not in failure.message or name not in failure.message:
            found.append(f"{row} is {bad[row]}, and the table says {failure}")
    return found
