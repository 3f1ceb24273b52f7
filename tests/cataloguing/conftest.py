"""A survey made up for catalogues: a plugin of its own, which other processes find too."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

PLUGIN = '''\
"""An instrument whose files are arrays of numpy, some of which kill or confuse their reader."""

import os
import signal

import numpy as np
import torch

from spender_core import hookimpl
from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader
from spender_core.records import InstrumentSpec


class Reader(Loader):
    id_dtype = np.dtype([("NUMBER", "i8")])
    whole = True

    def recognises(self, url):
        return url.endswith(".npy")

    def load(self, url):
        return self.load_many([[url]], False)[0]

    def load_many(self, files, lsf):
        batches, told, row = [], [], 0
        for (url,) in files:
            if "deadly" in url:
                os.kill(os.getpid(), signal.SIGKILL)
            if "puzzling" in url:
                raise ZeroDivisionError("a loader that was not prepared for this")
            try:
                rows = np.load(url)
            except Exception as error:
                told.append(FileError(f"cannot read {url}: {error!s:.80}"))
                continue
            told.append(slice(row, row + len(rows)))
            row += len(rows)
            batches.append(rows)
        if not batches:
            return None, told
        rows = np.concatenate(batches)
        ids = np.zeros(len(rows), self.id_dtype)
        ids["NUMBER"] = rows[:, 0]
        flux = torch.from_numpy(rows[:, 2:].astype("f4"))
        return SpectrumBatch(flux, torch.full_like(flux, 25.0), z=rows[:, 1], ids=ids), told


class Tiny(Instrument):
    name = "tiny"
    grid = Linear(4000.0, 10.0, 300)
    loader = Reader()


@hookimpl
def spender_instruments():
    return [InstrumentSpec(name="tiny", target="spender_tiny:Tiny")]
'''

MODEL = """\
import sys
import torch
from spender_core import registry
from spender_core.grid import Log
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.records import ModelCard

torch.manual_seed(0)
tiny = registry.instrument("tiny")
model = SpectrumAutoencoder([tiny], Log(3.4, 1e-3, 500), 3, decoder_hidden=(8,), filters=(4, 4, 4),
                            sizes=(5, 11, 21), encoder_hidden=(6,))
card = ModelCard(name="tiny_model", architecture="spectrum_autoencoder", latents=3)
registry.save(sys.argv[1], model, card)
"""

PIXELS = 300


@dataclass(frozen=True)
class Tiny:
    """The survey: its folder, its model, and the environment in which it is installed."""

    folder: Path
    model: Path
    environment: dict[str, str]

    def files(self, folder: Path, numbers: range) -> list[Path]:
        """Write a file of one spectrum for each number."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in numbers:
            random = np.random.default_rng(number)
            spectrum = 3 + random.normal(0, 0.2, PIXELS)
            path = folder / f"spectrum-{number:04d}.npy"
            np.save(path, np.concatenate([[number, 0.1], spectrum])[None])
            paths.append(path)
        return paths

    def command(self, *arguments: Any) -> list[str]:
        """Return the command that encodes something by the survey's model."""
        line = [sys.executable, "-m", "spender_core.cli", "encode", *map(str, arguments)]
        return [*line, "--model", str(self.model), "--instrument", "tiny"]

    def encode(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Install the plugin for other processes, and make a model of it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "spender_tiny.py").write_text(PLUGIN)
    about = folder / "spender_tiny-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spender-tiny\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[spender]\ntiny = spender_tiny\n")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    model = folder / "tiny_model.safetensors"
    subprocess.run([sys.executable, "-c", MODEL, str(model)], env=environment, check=True)
    return Tiny(folder, model, environment)


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a catalogue's parts and failures."""
    found = [*folder.glob("part-*"), *folder.glob("_failures/*"), folder / "_failures.csv"]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


Digests = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def digests() -> Digests:
    """Return a function that tells what the files of a catalogue hold."""
    return hashes


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave the threads of torch as they were, since a run in this process takes one."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
