"""Datasets of mocks for studies, as the script writes them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core import registry
from spender_core.datasets.reading import Dataset
from spender_core.errors import InputError
from spender_core.line_spread import BandedLSF, GaussianLSF

pytest.importorskip("pyarrow", reason="datasets are Parquet files")

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
        yield importlib.import_module("study_data")


def read(root: Path, name: str, lsf: bool = False) -> Any:
    """Return all spectra of a dataset, by split."""
    dataset = Dataset(str(root), registry.instrument(name))
    return [dataset.read(split, lsf=lsf) for split in SPLITS if dataset.rows(split)]


def test_the_same_command_writes_the_same(script: Any, tmp_path: Path) -> None:
    asked = ["--instrument", "sdss", "--n", "70", "--z-range", "0.1", "0.2", "--snr", "4", "9"]
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        script.main([str(tmp_path / name), *asked, "--seed", seed])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()
    parts = [part for name in "ac" for part in read(tmp_path / name, "sdss")]
    ids = np.concatenate([part.ids for part in parts])
    assert len(ids) == len(np.unique(ids)) == 140
    assert set(ids["RUN2D"]) == {"mock"}
    z = torch.cat([part.z for part in parts])
    assert 0.0999 < float(z.min()) < 0.12
    assert 0.18 < float(z.max()) < 0.2001
    snr = torch.cat([part.snr for part in parts])
    assert 3 < float(snr.quantile(0.1)) < float(snr.quantile(0.9)) < 10
    assert all(part.lsf is None for part in parts)
    about = json.loads((tmp_path / "a" / "mocks.json").read_text(encoding="utf-8"))
    assert about["n"] == sum(about["rows"].values()) == 70
    assert (about["seed"], about["z_range"], about["lsf"]) == (3, [0.1, 0.2], "none")


@pytest.mark.parametrize(
    ("name", "what", "lsf", "kind"),
    [("desi", "galaxies", "gaussian", GaussianLSF), ("boss", "stars", "exact", BandedLSF)],
)
def test_line_spread_functions_are_written(
    script: Any, tmp_path: Path, name: str, what: str, lsf: str, kind: type
) -> None:
    asked = ["--instrument", name, "--what", what, "--n", "20", "--lsf", lsf]
    script.main([str(tmp_path), *asked])
    data = script.mocks(what, None, [name])
    drawn = script.Study(data, name, 20, seed=1, lsf=lsf).observed(0)
    for part in read(tmp_path, name, lsf=True):
        assert isinstance(part.lsf, kind)
        for row in range(len(part)):
            number = part.ids[row]["TARGETID" if name == "desi" else "FIBERID"]
            place = int(number % 10**10) if name == "desi" else int(number) - 1
            assert torch.equal(part.flux[row], drawn.batch.flux[place])
            y_BL = drawn.truth[place : place + 1]
            assert drawn.batch.lsf is not None
            torch.testing.assert_close(part.lsf[row](y_BL), drawn.batch.lsf[place](y_BL))


def test_real_templates_and_conditions_are_used(
    script: Any, tmp_path: Path, real_data: Path
) -> None:
    """Batches of either conditions are stored alike, though files tell other numbers of taps."""
    data = script.mocks("galaxies", real_data, ["desi"])
    parametric, files = data.conditions["desi"]
    assert parametric.lsf.shape[1] == files.lsf.shape[1]
    study = script.Study(data, "desi", 3 * script.BATCH + 1, lsf="exact")
    assert sum(script.write(study, tmp_path).values()) == 3 * script.BATCH + 1
    with pytest.raises(InputError, match="no Gaussians"):
        script.Study(data, "desi", 3, lsf="gaussian")
    only = script.mocks("galaxies", real_data, ["desi"], real_conditions=False)
    assert len(only.conditions["desi"]) == 1
    assert len(only.populations) == 2


def test_nonsense_and_a_dataset_that_is_there_are_refused(script: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n must be 1 or more"):
        script.main([str(tmp_path), "--instrument", "sdss", "--n", "0"])
    script.main([str(tmp_path), "--instrument", "sdss", "--n", "2"])
    with pytest.raises(InputError, match="holds a dataset already"):
        script.main([str(tmp_path), "--instrument", "sdss", "--n", "3"])
    script.main([str(tmp_path), "--instrument", "sdss", "--n", "3", "--overwrite"])
    assert sum(len(part) for part in read(tmp_path, "sdss")) == 3
