"""Datasets that spender 0.3 has written are read with the same values and the same splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core import registry
from spender_core.batch import Flag
from spender_core.datasets.layout import SPLITS, split_of
from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Stream
from spender_core.errors import InputError

theirs = pytest.importorskip("spender.data.dataset", reason="spender 0.3 is not installed")
pytest.importorskip("datasets")

IDS = {"sdss": ["plate", "mjd", "fiberid"], "desi": ["target_id"]}
NAMES = {"sdss": ["PLATE", "MJD", "FIBERID"], "desi": ["TARGETID"]}
COUNT = 60


def columns(name: str) -> dict[str, Any]:
    """Return spectra as spender's instruments prepare them."""
    random = np.random.default_rng(8)
    pixels = registry.instrument(name).grid.size
    made: dict[str, Any] = {
        "spec": torch.from_numpy(random.standard_normal((COUNT, pixels)).astype(np.float32)),
        "w": torch.from_numpy(random.gamma(2.0, 3.0, (COUNT, pixels)).astype(np.float32)),
        "z": random.uniform(0, 0.5, COUNT).astype(np.float32),
        "zerr": random.uniform(0, 1e-4, COUNT).astype(np.float32),
        "norm": random.uniform(1, 30, COUNT).astype(np.float32),
    }
    return made | {column: random.integers(1, 2**50, COUNT) for column in IDS[name]}


@pytest.fixture(params=["sdss", "desi"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    """A dataset of spender, with row groups of 8 and shards of 16 spectra."""
    name = str(request.param)
    made = columns(name)
    features = theirs.get_features(made["spec"].shape[1], IDS[name])
    theirs.write_dataset(tmp_path, [made], features, IDS[name], shard_size=16, row_group_size=8)
    return name, made, tmp_path


@pytest.mark.parametrize("split", SPLITS)
def test_values_are_those_that_spender_reads(
    written: tuple[str, dict[str, Any], Path], split: str
) -> None:
    name, _, root = written
    batch = Dataset(root, registry.instrument(name)).read(split)
    wanted = ["spec", "w", "z", "zerr", "norm", *IDS[name]]
    parts = list(theirs.get_data_loader(str(root), split, wanted, batch_size=7))
    spec, w, z, zerr, norm, *ids = (torch.cat(column) for column in zip(*parts, strict=True))
    assert len(batch) == len(spec) > 0
    assert torch.equal(batch.flux, spec)
    assert torch.equal(batch.ivar, w)
    for ours, expected in ((batch.z, z), (batch.zerr, zerr), (batch.norm, norm)):
        assert torch.equal(ours.float(), expected)
    assert batch.ids is not None
    for field, expected in zip(NAMES[name], ids, strict=True):
        assert np.array_equal(batch.ids[field], expected.numpy())
    assert not batch.flags.any()


def test_splits_are_those_of_spender(written: tuple[str, dict[str, Any], Path]) -> None:
    name, made, root = written
    dataset = Dataset(root, registry.instrument(name))
    expected = theirs.assign_split(np.stack([made[c] for c in IDS[name]], axis=1))
    for split in SPLITS:
        ids = dataset.read(split).ids
        assert ids is not None
        assert dataset.rows(split) == np.count_nonzero(expected == split) == len(ids)
        assert set(split_of(ids, registry.instrument(name)).tolist()) == {split}


def test_a_stream_gives_each_of_them_once(written: tuple[str, dict[str, Any], Path]) -> None:
    name, _, root = written
    stream = Stream(Dataset(root, registry.instrument(name)), batch_size=10, window=2)
    parts = list(theirs.get_data_loader(str(root), "train", ["z", "spec"], batch_size=64))
    expected = {float(z): spec for z, spec in zip(parts[0][0], parts[0][1], strict=True)}
    for batch in stream.epoch(0):
        for z, flux in zip(batch.z.float(), batch.flux, strict=True):
            assert torch.equal(flux, expected.pop(float(z)))
    assert not expected


def test_spectra_that_spender_lets_pass_are_flagged(tmp_path: Path) -> None:
    """spender checks no values; ours are those that a batch may hold, and tell what was wrong."""
    made = columns("sdss")
    made["spec"][3, 10] = torch.nan
    made["w"][4, 11] = -1.0
    made["norm"][5] = -2.0
    made["z"][6] = np.nan
    features = theirs.get_features(3921, IDS["sdss"])
    one_split = {"train": 1.0, "validation": 0.0, "test": 0.0}
    theirs.write_dataset(tmp_path, [made], features, IDS["sdss"], one_split)
    batch = Dataset(tmp_path, registry.instrument("sdss")).read("train")
    bad = [bool(flags & int(Flag.BAD_VALUES)) for flags in batch.flags]
    assert np.flatnonzero(bad).tolist() == [3, 4, 5]
    assert bool(batch.z[6].isnan())
    assert float(batch.ivar[3, 10]) == float(batch.ivar[4, 11]) == 0
    flux = (batch.flux * batch.norm[:, None])[5].float()
    assert torch.allclose(flux, made["spec"][5] * made["norm"][5])


def test_a_dataset_of_another_survey_is_refused(
    written: tuple[str, dict[str, Any], Path],
) -> None:
    name, _, root = written
    other = {"sdss": "desi", "desi": "sdss"}[name]
    with pytest.raises(InputError, match=f"not one of '{other}': it lacks the columns"):
        Dataset(root, registry.instrument(other))


def test_a_dataset_of_another_grid_is_refused(tmp_path: Path) -> None:
    made = columns("sdss")
    made |= {name: made[name][:, :100] for name in ("spec", "w")}
    theirs.write_dataset(tmp_path, [made], theirs.get_features(100, IDS["sdss"]), IDS["sdss"])
    with pytest.raises(InputError, match="100 pixels, not 3921"):
        Dataset(tmp_path, registry.instrument("sdss"))
