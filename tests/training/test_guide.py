"""docs/training.md is true: its tables, and its commands on a small scale, killed on the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from safetensors.torch import load_file

from spender_core import registry
from spender_core.cli import main
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.training import Recipe, packaged
from spender_core.training.config import Phase
from spender_core.training.loop import Callback

from .guide_tables import SECTIONS, columns

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
LARGE, PHASES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
SMALL = {
    "model.rest.pixels": "200",
    "model.config": "{channels=[4, 6], strides=[4], encoder_hidden=[8], decoder_hidden=[8]}",
    "data.sdss.batch_size": "8",
    "phases.0.epochs": "20",
    "engine.look_every": "2",
    "engine.validate_every": "10",
    "engine.checkpoint_every": "5",
    "engine.threads": "1",
}
RUN = Path("runs/my_galaxies")
MODEL = RUN / "my_galaxies.safetensors"


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    after = PAGE.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"(?:^\|.*\n?)+", after, re.MULTILINE)
    assert found is not None
    rows = [line.strip()[1:-1].split("|") for line in found[0].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def ticked(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_in_its_table(heading: str) -> None:
    shown = f"### `{heading}`" if heading.startswith("[") else f"### {heading}"
    told = [tuple(row[:3]) for row in table(shown)]
    assert told == [(f"`{key}`", *rest) for key, *rest in columns(SECTIONS[heading])]


def test_packaged_recipes_are_listed() -> None:
    assert sorted(row[0].strip("`") for row in table("## A recipe")) == sorted(packaged())


def test_phases_are_such() -> None:
    shown = tomllib.loads(PHASES)["phases"]
    assert [Phase.model_validate(one).train[0] for one in shown] == ["encoders", "encoders.desi"]


def test_callbacks_are_those_that_exist() -> None:
    called = {name for name in vars(Callback) if name.startswith("on_")}
    assert called == set(re.findall(r"`(on_\w+)\(trainer", PAGE))


def write_files(folder: Path, number: int) -> None:
    """Write spectra of mock galaxies as SDSS publishes them."""
    sdss = registry.instrument("sdss")
    for mock in MockSurvey(sdss, n=number, seed=1, z_range=(0.0, 0.3)):
        batch = mock.batch
        for row in range(len(batch)):
            norm = float(batch.norm[row])
            pixels = {
                "flux": batch.flux[row].numpy() * np.float32(norm),
                "loglam": np.log10(sdss.wave).astype("f4"),
                "ivar": batch.ivar[row].numpy() / np.float32(norm**2),
                "and_mask": np.zeros(len(sdss.wave), dtype="i4"),
            }
            ids = {"PLATE": [412], "MJD": [52254], "FIBERID": [row + 1], "RUN2D": ["26"]}
            about = {"Z": [float(batch.z[row])], "Z_ERR": [1e-5], "ZWARNING": [0]}
            tables = [fits.BinTableHDU(Table(one)) for one in (pixels, ids | about)]
            path = folder / f"spec-0412-52254-{row + 1:04d}.fits"
            fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)


def words(command: str) -> list[str]:
    """Return a command as the shell hands it over."""
    parts = [
        sorted(map(str, Path().glob(word))) if "*" in word else [word]
        for word in shlex.split(command)
    ]
    return [word for part in parts for word in part]


Spender = Callable[[list[str]], str]


@pytest.fixture
def spender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Spender]:
    """Return a function that runs a command within this process, in an empty folder."""

    def run(command: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def kill_after_a_checkpoint(command: list[str]) -> None:
    """Start a training, and kill it once it has written a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spender_core.cli", *command[1:]],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and not list(RUN.glob("checkpoints/step-*")):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, told
    assert not MODEL.exists()


def test_the_guide_from_files_to_a_loaded_model(spender: Spender) -> None:
    prepare, plan, train, resume, info, encode, push = COMMANDS
    write_files(Path(), 40)
    Path("my_galaxies.toml").write_text(LARGE, encoding="utf-8")
    small = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]

    assert "40 spectra" in spender(words(prepare))
    assert "751,413" in spender(words(plan))  # of the recipe as it stands on the page
    kill_after_a_checkpoint(words(train) + small)
    assert str(MODEL) in spender(words(resume))
    whole = [word.replace("runs/", "whole/") for word in words(train)]
    spender(whole + small)
    ours, theirs = load_file(MODEL), load_file(f"whole/{MODEL.relative_to('runs')}")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    assert "steps: 60" in spender(words(info))
    spender(words(encode))
    latents = Table.read("latents.fits")
    s_S = [latents[f"s_{number}"][0] for number in range(6)]
    pushed = spender(words(push))
    found = re.search(r'registry\.load\("(.*)"\)', pushed)
    assert found is not None
    registry.load(found[1])
    namespace: dict[str, torch.Tensor] = {}
    (code,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    exec(code, namespace)
    assert np.allclose(namespace["s"].detach().numpy(), [s_S], rtol=1e-4, atol=1e-5)

    files = {row[0].strip("`") for row in table("The folder of the run gets")}
    made = {path.name for path in RUN.iterdir()} - {".lock"}
    assert made == {name.rstrip("/") for name in files} - {"tensorboard"}
    check_log(RUN)
    assert Recipe.read(RUN / "recipe.toml").model.rest.pixels == 200


def check_log(folder: Path) -> None:
    """Check that lines of a log have the fields that the page lists, and no others."""
    rows = table("left. Lines of the log have `kind`, `step`, and")
    documented = {kind.strip("`"): ticked(fields) for kind, fields in rows}
    seen: dict[str, set[str]] = {}
    for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        seen.setdefault(line["kind"], set()).update(line.keys() - {"kind", "step"})
    assert seen == documented
