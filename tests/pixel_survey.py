"""A survey whose spectra have 16 pixels: its files are lines of text that say what is in them.

A file holds {"seed": 1, "rows": 100}, and what else is asked for:
"bad": rows with a flag that the survey rejects, "norm": of the first spectrum.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import DamagedFileError, OfflineError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader
from spender_core.interfaces.loader import Source
from spender_core.line_spread import BandedLSF, GaussianLSF

PIXELS = 16
OFFSETS = (1, 0, -1)


class TinyLoader(Loader):
    """Reads files of text; counts what it reads."""

    id_dtype = np.dtype([("OBJECT", "i8"), ("NIGHT", "i8"), ("FIELD", "U8")])
    dataset_columns = {"OBJECT": "object_id"}

    def __init__(self, banded: bool = False) -> None:
        self.banded = banded
        self.read: list[str] = []

    def recognises(self, url: str) -> bool:
        return "rows" in Path(url).read_text()

    def load(self, url: str) -> SpectrumBatch:
        self.read.append(Path(url).name)
        content = json.loads(Path(url).read_text())
        if content.get("away"):
            raise OfflineError(f"cannot reach {url}; try again later")
        if "rows" not in content:
            raise DamagedFileError("it has no rows")
        n, rng = int(content["rows"]), np.random.default_rng(content["seed"])
        ids = np.zeros(n, dtype=self.id_dtype)
        ids["OBJECT"] = rng.integers(0, 2**62, n)
        ids["NIGHT"] = 20260101 + content["seed"] % 300
        ids["FIELD"] = [f"f{content['seed'] % 7}"] * n
        flags = np.zeros(n, dtype=np.int64)
        flags[: content.get("bad", 0)] = int(Flag.FIBRE)
        return SpectrumBatch(
            torch.from_numpy(1 + rng.random((n, PIXELS), dtype=np.float32)),
            torch.from_numpy(rng.random((n, PIXELS), dtype=np.float32)),
            z=rng.random(n),
            zerr=np.full(n, 1e-4),
            ids=ids,
            instrument="tiny",
            flags=flags,
            norm=np.array([content.get("norm", 1.0), *[1.0] * (n - 1)]),
        )

    def load_with_lsf(self, url: str) -> SpectrumBatch:
        batch = self.load(url)
        rng = np.random.default_rng(len(batch))
        lsf: Any = GaussianLSF(torch.from_numpy(rng.random((len(batch), PIXELS), dtype=np.float32)))
        if self.banded:
            data = rng.random((len(batch), len(OFFSETS), PIXELS), dtype=np.float32)
            lsf = BandedLSF(torch.from_numpy(data), OFFSETS)
        return batch.replace(lsf=lsf)

    def locate(self, ids: Any, root: str | None, release: str | None) -> list[Source]:
        return [Source((f"{root}/{int(number):03d}.txt",), {}) for (number,) in ids]


class Tiny(Instrument):
    """The instrument of the survey."""

    name = "tiny"
    grid = Linear(5000.0, 50.0, PIXELS)
    loader: Any = None

    def __init__(self, banded: bool = False) -> None:
        self.loader = TinyLoader(banded)


def write_survey(folder: Path, files: int, rows: int, **more: Any) -> list[str]:
    """Write files of a survey, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.txt" for number in range(files)]
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"seed": number, "rows": rows, **more}))
    return [str(path) for path in paths]


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of a dataset, less locks: its name and bytes."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def prepare(root: str, folder: str, pause: str = "0", lsf: str = "") -> None:
    """Prepare all files of a folder in a process of its own, slowly if asked."""
    import time

    from spender_core.datasets.prepare import prepare

    def wait(done: int, spectra: int) -> None:
        time.sleep(float(pause))

    prepare(
        root, Tiny(), sorted(map(str, Path(folder).glob("*.txt"))), lsf=bool(lsf), progress=wait
    )
