"""Trainings that take a second: two instruments of a few pixels, their spectra, and recipes.

As a script it trains: `python trainees.py FOLDER/recipe.toml OUTPUT FOLDER [resume] [quiet]`, or
starts processes that do so: `python trainees.py serve`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import split_of
from spender_core.datasets.shards import write_dataset
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader
from spender_core.interfaces.loader import Source
from spender_core.plugins import builtin
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate, Discovery
from spender_core.records import InstrumentSpec
from spender_core.training.config import Recipe


class Ids(Loader):
    """Knows how spectra are numbered; reads no files."""

    id_dtype = np.dtype([("OBJECT", "i8")])

    def recognises(self, url: str) -> bool:
        return False

    def load(self, url: str) -> SpectrumBatch:
        raise NotImplementedError

    def locate(self, ids: Any, root: str | None, release: str | None) -> list[Source]:
        raise NotImplementedError


class Red(Instrument):
    name = "red"
    grid = Linear(5000.0, 20.0, 90)
    loader = Ids()


class Blue(Instrument):
    name = "blue"
    grid = Linear(4000.0, 25.0, 80)
    loader = Ids()


class _Hooks:
    @hookimpl
    def spender_instruments(self) -> list[InstrumentSpec]:
        return [
            InstrumentSpec(name="red", target="trainees:Red"),
            InstrumentSpec(name="blue", target="trainees:Blue"),
        ]


CANDIDATES = [
    Candidate("core", "spender-core", "1", lambda: builtin),
    Candidate("small", "spender-small", "1", lambda: _Hooks()),
]

RECIPE = """
recipe = 1
name = "small"
seed = 3

[model]
latents = 3
rest = {low = 3300.0, high = 6800.0, pixels = 120}
config = {filters = [4, 6, 8], sizes = [3, 5, 7], encoder_hidden = [8], decoder_hidden = [8, 16]}
lsf_taps = {red = 5}

[data.red]
batch_size = 16
augmentation = {redshifts = {uniform = [0.0, 0.2]}, noise = 0.1}

[data.blue]
batch_size = 12
augmentation = {redshifts = {uniform = [0.0, 0.2]}, noise = 0.1}

[loss]
fidelity = 1.0
similarity = [[0.0, 0.0], [1.0, 0.5]]
consistency = 0.3

[[phases]]
name = "both"
steps = 12
lr = {all = 3e-3, decoder = 1e-3}
ema = 0.9
clip = 5.0
schedule = "onecycle"

[[phases]]
name = "encoders"
steps = 10
train = ["encoders", "lsf"]
lr = 1e-3
ema = 0.95
optimizer = "adamw"
weight_decay = 0.01
schedule = "cosine"
warmup = 0.1

[engine]
look_every = 3
validate_every = 7
validate_spectra = 24
checkpoint_every = 4
keep = 2
window = 2
"""

ONE = """
recipe = 1
name = "one"
seed = 3

[model]
latents = 3
rest = {low = 3300.0, high = 6800.0, pixels = 120}
config = {filters = [4, 6, 8], sizes = [3, 5, 7], encoder_hidden = [8], decoder_hidden = [8, 16]}

[data.red]
batch_size = 16

[[phases]]
name = "only"
steps = 6
lr = 1e-3
schedule = "constant"
warmup = 0.0

[engine]
look_every = 1
validate_every = 100
checkpoint_every = 100
"""

COUNTS = {"train": 96, "validation": 24, "test": 8}


def spectra(instrument: Instrument, count: int, seed: int = 0, z: float = 0.2) -> SpectrumBatch:
    """Return spectra of two lines of random strengths, at redshifts up to z."""
    rng = np.random.default_rng((seed, len(instrument.wave)))
    z_B = rng.uniform(0, z, count)
    wave_BL = instrument.wave / (1 + z_B[:, None])
    flux_BL = np.ones_like(wave_BL)
    for centre in (4900.0, 5300.0):
        strength_B1 = rng.normal(0.5, 0.3, (count, 1))
        flux_BL += strength_B1 * np.exp(-0.5 * ((wave_BL - centre) / 60) ** 2)
    flux_BL += 0.05 * rng.standard_normal(flux_BL.shape)
    ids = np.zeros(count, dtype=Ids.id_dtype)
    ids["OBJECT"] = 1000 + np.arange(count)
    return SpectrumBatch(
        torch.from_numpy(flux_BL.astype(np.float32)),
        torch.full(flux_BL.shape, 400.0),
        z=z_B,
        ids=ids,
        instrument=instrument,
    )


def chosen(instrument: Instrument) -> SpectrumBatch:
    """Return spectra of which each split has its number."""
    batch = spectra(instrument, 250)
    assert batch.ids is not None
    splits = split_of(batch.ids, instrument)
    rows = [np.flatnonzero(splits == split)[:count] for split, count in COUNTS.items()]
    return batch[np.sort(np.concatenate(rows))]


def write_data(folder: Path) -> dict[str, str]:
    """Write a dataset of each instrument, and return their paths."""
    paths = {}
    for instrument in (Red(), Blue()):
        paths[instrument.name] = str(folder / instrument.name)
        write_dataset(paths[instrument.name], [chosen(instrument)], instrument)
    (folder / "recipe.toml").write_text(RECIPE)
    return paths


def recipe(*settings: str, text: str = RECIPE) -> Recipe:
    """Return a small recipe, changed."""
    return Recipe.parse(text, "the small recipe", settings)


def install() -> None:
    """Make the instruments known in this process, for good."""
    found = Discovery(CANDIDATES)
    registry.discovery = lambda: found  # type: ignore[assignment]


def main(source: str, output: str, folder: str, *flags: str) -> None:
    """Train in a process of its own."""
    from spender_core.training.loop import train

    install()
    made = Recipe.read(source)
    data = {name: str(Path(folder) / name) for name in made.data}
    train(made, output, data=data, resume="resume" in flags, quiet="quiet" in flags)


class Trainees:
    """Starts trainings in processes of their own, to be killed; they import nothing any more.

    What each says on stderr is in a file beside its output, `OUTPUT.err`.
    """

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.process.__enter__()
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def start(self, *arguments: Any) -> int:
        """Start a training, and return its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def wait(self) -> int:
        """Return the exit status of the training that was started last."""
        return self._read()

    def run(self, *arguments: Any) -> float:
        """Train to the end, and return the seconds that it took."""
        begin = time.monotonic()
        self.start(*arguments)
        status = self.wait()
        assert status == 0, Path(f"{arguments[1]}.err").read_text()
        return time.monotonic() - begin

    def kill(self, after: float, *arguments: Any) -> bool:
        """Kill a training some seconds after its start; tell whether it was still running."""
        pid = self.start(*arguments)
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = self.wait()
        assert os.WIFSIGNALED(status) or status == 0, Path(f"{arguments[1]}.err").read_text()
        return os.WIFSIGNALED(status)


def serve() -> None:
    """Fork a process for each line of arguments; print its id, and its status when it has ended."""
    with tempfile.TemporaryDirectory() as folder:  # all that is slow the first time
        write_data(Path(folder))
        main(f"{folder}/recipe.toml", f"{folder}/out", folder, "quiet")
    print(0, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                arguments = json.loads(line)
                told = os.open(f"{arguments[1]}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(told, 2)
                main(*arguments)
                status = 0
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(*sys.argv[1:])
