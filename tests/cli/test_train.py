"""`spender train`: the plan of a dry run, and what is refused before the first step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_training import SMALL, small_dataset

from spender_core.cli.train import paths
from spender_core.errors import InputError

Spender = Callable[..., Any]
Check = Callable[..., None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of SDSS."""
    folder = tmp_path_factory.mktemp("dataset") / "sdss"
    small_dataset(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe, whose data are to be given."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_a_dry_run_tells_everything_and_does_nothing(
    spender: Spender, recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    settings = ("--set", "phases.0.epochs=3", "--set", "phases.0.lr=0.01")
    ran = spender(
        "train", recipe, "--dry-run", "--data", f"sdss={dataset}", "-o", output, *settings
    )
    assert (ran.code, ran.err) == (0, "")
    assert not output.exists()
    told = " ".join(ran.out.split())
    for part in ("encoders.sdss", "decoder", str(dataset), "fidelity", "0.0004", "0.01", "4e-08"):
        assert part in told
    assert re.search(r"memory of a step, in one process: about [\d.e-]+ GiB", told)
    assert "estimated: tensors that autograd keeps" in told
    assert f"output folder {output} will be made" in told


def test_a_dry_run_of_a_packaged_recipe(spender: Spender, dataset: Path, tmp_path: Path) -> None:
    ran = spender("train", "sdss_I", "--dry-run", "--data", f"sdss={dataset}", "-o", tmp_path)
    assert ran.code == 0
    told = " ".join(ran.out.split())
    assert "5881 linear restframe pixels from 2522.95 to 9332.54 Angstrom" in told
    assert "6,322,987" in told  # parameters of the decoder
    assert f"output folder {tmp_path} is there" in told


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--set", "phases.0.stepz=3"], ["'phases.0.stepz'", "'steps'"]),
        (["--set", "recipe=2"], ["version 2", "reads version 1"]),
        (["--set", "phases.0.train=lsf"], ["phases.0.train", "'lsf'"]),
        (["--set", "data.sdss.z_range=[3,4]"], ["data.sdss.z_range"]),
        (["--data", "boss=x"], ["no data of 'boss'", "sdss"]),
        (["--data", "sdss"], ["--data 'sdss'", "sdss=PATH"]),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_refusals_are_one_line_and_leave_nothing(
    spender: Spender,
    assert_one_line: Check,
    recipe: Path,
    dataset: Path,
    tmp_path: Path,
    options: list[str],
    parts: list[str],
    dry: bool,
) -> None:
    output = tmp_path / "run"
    given = ["--data", f"sdss={dataset}", "-o", output, *options, *(["--dry-run"] if dry else [])]
    assert_one_line(spender("train", recipe, *given), *parts)
    assert not output.exists()


def test_data_must_be_given(spender: Spender, assert_one_line: Check, recipe: Path) -> None:
    assert_one_line(spender("train", recipe, "--dry-run"), "data.sdss.path", "--data sdss=PATH")


def test_the_output_must_be_a_folder(
    spender: Spender, assert_one_line: Check, recipe: Path, dataset: Path
) -> None:
    ran = spender("train", recipe, "--data", f"sdss={dataset}", "-o", recipe)
    assert_one_line(ran, "is a file", "folder")


def test_a_recipe_that_does_not_exist(spender: Spender, assert_one_line: Check) -> None:
    assert_one_line(spender("train", "sdss_1"), "no recipe 'sdss_1'", "sdss_II")


def test_paths_of_data() -> None:
    assert paths(["sdss=a=b", "boss=s3://x"]) == {"sdss": "a=b", "boss": "s3://x"}
    with pytest.raises(InputError, match="twice"):
        paths(["sdss=a", "sdss=b"])


def test_training_once_again_and_further(
    spender: Spender, assert_one_line: Check, recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    """Another training into the same folder is refused; one that has ended gives its model again."""
    output = tmp_path / "run"
    command = ("train", recipe, "--data", f"sdss={dataset}", "-o", output)
    model = output / "small.safetensors"
    ran = spender(*command)
    assert (ran.code, ran.out) == (0, f"the model is in {model}\n")
    first = model.read_bytes()
    model.unlink()
    assert_one_line(spender(*command), "--resume", "another folder")
    assert spender("train", output / "recipe.toml", "-o", output, "--resume").code == 0
    assert model.read_bytes() == first
    changed = (*command, "--resume", "--set", "phases.0.steps=5")
    assert_one_line(spender(*changed), "another recipe", str(output / "recipe.toml"))
