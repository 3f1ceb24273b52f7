"""Two processes (gloo) train as one with the same batches, and resume as one does; so does FSDP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainees import CANDIDATES, Red, chosen, write_data

from spender_core import registry
from spender_core.datasets.layout import split_of

PROCESSES = 2
SHARES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)
"""Whether torch can share out weights among processes without a GPU; 2.6 fails within FSDP."""

needs_sharing = pytest.mark.skipif(not SHARES, reason="before torch 2.7, FSDP needs a GPU")

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from trainees import ONE, install, recipe
from spender_core.errors import InputError, NonFiniteError
from spender_core.training import train

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
install()
torch.set_num_threads(1)
pair = ONE.replace("[[phases]]", "[data.blue]\\nbatch_size = 12\\n\\n[[phases]]")
# a large eps, since a bias before a normalisation has gradients of rounding only
pair = pair.replace("warmup = 0.0", "warmup = 0.0\\neps = 1e-2")
second = '[[phases]]\\nname = "two"\\nsteps = 3\\ntrain = ["encoders", "lsf"]\\nlr = 1e-3\\neps = 1e-2\\n[engine]'
phases = pair.replace("[engine]", second).replace("[data.red]", "lsf_taps = {red = 5}\\n[data.red]")
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
every = ("phases.0.clip=3.0", "engine.validate_every=3")
runs = {"fidelity": recipe(*every, text=pair), "similarity": recipe(*similar, *every, text=phases)}
for name, made in runs.items():
    ids = Ids()
    train(made, output / name, data=both, callbacks=[ids], quiet=True)
    (output / f"{name}-{ids.rank}.json").write_text(json.dumps(ids.seen))


def resumed(output):
    try:
        train(made, output, data=both, callbacks=[Stops()], quiet=True)
    except ZeroDivisionError:
        train(made, output, data=both, resume=True, quiet=True)


resumed(output / "resumed")
try:
    train(recipe(text=ONE), output / "bad", data={"red": str(folder / "bad")}, quiet=True)
except NonFiniteError as error:
    (output / f"bad-{ids.rank}.txt").write_text(str(error))
if "fsdp" in sys.argv:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    # accelerate has FSDP for accelerators only, unless it is told
    PartialState().distributed_type = DistributedType.FSDP
    Accelerator().state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    train(made, output / "fsdp", data=both, quiet=True)
    resumed(output / "fsdp-resumed")
    refusals = []
    try:
        train(made, output / "resumed", data=both, resume=True, quiet=True)
    except InputError as error:
        refusals.append(str(error))
    try:
        train(recipe(text=ONE), output / "bad-fsdp", data={"red": str(folder / "bad")}, quiet=True)
    except NonFiniteError as error:
        (output / f"bad-fsdp-{ids.rank}.txt").write_text(str(error))
    Accelerator().state.fsdp_plugin.fsdp_version = 1
    try:
        train(made, output / "old", data=both, quiet=True)
    except InputError as error:
        refusals.append(str(error))
    (output / "refusals.json").write_text(json.dumps(refusals))
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
        [
            *command,
            str(script),
            str(folder),
            str(output),
            *(["fsdp"] if processes > 1 and SHARES else []),
        ],
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
    assert_same_losses(runs[1] / name, runs[PROCESSES] / name, 6 if name == "fidelity" else 9)


def assert_same_losses(first: Path, second: Path, steps: int) -> None:
    for kind, count in {"look": steps, "validation": steps // 3}.items():
        alone, together = (lines(path, kind) for path in (first, second))
        assert len(alone) == len(together) == count
        for one, other in zip(alone, together, strict=True):
            for loss in ("loss", "fidelity", "similarity"):
                assert other[loss] == pytest.approx(one[loss], rel=1e-5), (kind, one["step"])
    norms = [[line["grad_norm"] for line in lines(path, "look")] for path in (first, second)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@needs_sharing
def test_shared_weights_train_as_copied_ones(
    runs: dict[int, Path], offer: Callable[..., Any]
) -> None:
    """FSDP: losses, result and average are those of data parallelism, over two phases."""
    made = runs[PROCESSES]
    assert_same_losses(made / "similarity", made / "fsdp", 9)
    copied, shared = (load_file(made / n / "one.safetensors") for n in ("similarity", "fsdp"))
    assert shared.keys() == copied.keys()
    for name, value in copied.items():
        assert torch.allclose(shared[name], value, rtol=0, atol=1e-5), name
    offer(CANDIDATES)
    _, model = registry.load(made / "fsdp" / "one.safetensors")
    assert all(torch.equal(value, shared[name]) for name, value in model.state_dict().items())
    whole = load_file(made / "fsdp-resumed" / "one.safetensors")
    assert [name for name in whole if not torch.equal(whole[name], shared[name])] == []


@needs_sharing
def test_what_cannot_be_shared_out_is_refused(runs: dict[int, Path]) -> None:
    other, old = json.loads((runs[PROCESSES] / "refusals.json").read_text())
    assert "ran without FSDP" in other
    assert "FSDP of version 1" in old
    assert "--fsdp_version 2" in old


@pytest.mark.parametrize("name", ["fidelity", "similarity"])
def test_every_spectrum_is_seen_once_an_epoch(runs: dict[int, Path], name: str) -> None:
    """Six steps are an epoch; nothing is repeated to fill batches."""
    alone = json.loads((runs[1] / f"{name}-0.json").read_text())[:96]
    parts = [json.loads((runs[PROCESSES] / f"{name}-{r}.json").read_text())[:48] for r in range(2)]
    assert len(set(alone)) == len(alone) == 96
    assert sorted(parts[0] + parts[1]) == sorted(alone)


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
    assert len(told) == (2 if SHARES else 1) * PROCESSES  # with FSDP, too
    assert all(f"for red {ids['OBJECT'][guilty()]}." in text for text in told)
