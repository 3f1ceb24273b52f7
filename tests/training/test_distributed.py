"""Two processes (gloo) train as one with the same batches, and resume as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainees import Red, chosen, write_data

from spender_core.datasets.layout import split_of

PROCESSES = 2

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from trainees import ONE, install, recipe
from spender_core.errors import NonFiniteError
from spender_core.training import train

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
install()
torch.set_num_threads(1)
pair = ONE.replace("[[phases]]", "[data.blue]\\nbatch_size = 12\\n\\n[[phases]]")
both = {"red": str(folder / "red"), "blue": str(folder / "blue")}


class Ids:
    def __init__(self):
        self.seen, self.rank = [], None

    def on_step(self, trainer):
        self.rank = trainer.accelerator.process_index
        self.seen += np.concatenate(trainer.ids["red"])["OBJECT"].tolist()


class Stops:
    def on_checkpoint(self, trainer, path):
        raise ZeroDivisionError


similar = ("phases.0.loss.similarity=0.5", "phases.0.ema=0.9", "engine.checkpoint_every=4")
for name, settings in {"fidelity": (), "similarity": similar}.items():
    ids = Ids()
    made = recipe(*settings, "phases.0.clip=3.0", "engine.validate_every=3", text=pair)
    train(made, output / name, data=both, callbacks=[ids], quiet=True)
    (output / f"{name}-{ids.rank}.json").write_text(json.dumps(ids.seen))
try:
    train(made, output / "resumed", data=both, callbacks=[Stops()], quiet=True)
except ZeroDivisionError:
    train(made, output / "resumed", data=both, resume=True, quiet=True)
try:
    train(recipe(text=ONE), output / "bad", data={"red": str(folder / "bad")}, quiet=True)
except NonFiniteError as error:
    (output / f"bad-{ids.rank}.txt").write_text(str(error))
"""


def launch(folder: Path, output: Path, processes: int) -> None:
    output.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    script = output / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [*command, str(script), str(folder), str(output)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of what one process made, and two."""
    from spender_core.datasets.shards import write_dataset

    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    batch = chosen(Red())
    batch.flux[guilty()] = 3e30
    write_dataset(str(folder / "bad"), [batch], Red())
    made = tmp_path_factory.mktemp("runs")
    for processes in (1, PROCESSES):
        launch(folder, made / str(processes), processes)
    return {processes: made / str(processes) for processes in (1, PROCESSES)}


def guilty() -> int:
    ids = chosen(Red()).ids
    assert ids is not None
    return int(np.flatnonzero(split_of(ids, Red()) == "train")[7])


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]


@pytest.mark.parametrize("name", ["fidelity", "similarity"])
def test_losses_are_those_of_one_process(runs: dict[int, Path], name: str) -> None:
    for kind, count in {"look": 6, "validation": 2}.items():
        alone, together = (lines(runs[n] / name, kind) for n in (1, PROCESSES))
        assert len(alone) == len(together) == count
        for one, other in zip(alone, together, strict=True):
            for loss in ("loss", "fidelity", "similarity"):
                assert other[loss] == pytest.approx(one[loss], rel=1e-5), (kind, one["step"])
    norms = [[line["grad_norm"] for line in lines(runs[n] / name, "look")] for n in runs]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("name", ["fidelity", "similarity"])
def test_every_spectrum_is_seen_once_an_epoch(runs: dict[int, Path], name: str) -> None:
    """Six steps are an epoch; nothing is repeated to fill batches."""
    (alone,) = [json.loads((runs[1] / f"{name}-0.json").read_text())]
    parts = [json.loads((runs[PROCESSES] / f"{name}-{r}.json").read_text()) for r in range(2)]
    assert len(set(alone)) == len(alone) == 96
    assert sorted(parts[0] + parts[1]) == sorted(alone)
    assert min(map(len, parts)) == 48


def test_a_resumed_training_of_two_ends_with_the_same_weights(runs: dict[int, Path]) -> None:
    for folder in runs.values():
        whole, resumed = (
            load_file(folder / n / "one.safetensors") for n in ("similarity", "resumed")
        )
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_both_name_the_guilty_spectrum(runs: dict[int, Path]) -> None:
    ids = chosen(Red()).ids
    assert ids is not None
    told = [path.read_text() for path in sorted(runs[PROCESSES].glob("bad-*.txt"))]
    assert len(told) == PROCESSES
    assert all(f"for red {ids['OBJECT'][guilty()]}." in text for text in told)
