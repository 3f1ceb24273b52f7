"""Datasets of this package and of spender 0.3 are read by the other, and split alike."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import SPLITS, id_dtype, lsf_kind, schema, split_of
from spender_core.datasets.reading import Dataset
from spender_core.datasets.shards import write_dataset
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF

theirs = pytest.importorskip("spender.data.dataset", reason="the oracle spender 0.3 is absent")

COLUMNS = {"sdss": ["plate", "mjd", "fiberid"], "desi": ["target_id"]}
FIELDS = {"sdss": ["PLATE", "MJD", "FIBERID"], "desi": ["TARGETID"]}
COUNT = 150
SPENDERS = ("spec", "w", "z", "zerr", "norm")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let `datasets` keep its cache here, and say what it will of its own future."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def spectra(instrument: Instrument, lsf: str = "") -> SpectrumBatch:
    rng, size = np.random.default_rng(4), instrument.grid.size
    ids = np.zeros(COUNT, dtype=id_dtype(instrument))
    for name in FIELDS[instrument.name]:
        ids[name] = rng.integers(1, 2**31, COUNT)
    spread: Any = None
    if lsf == "gaussian":
        spread = GaussianLSF(torch.rand(COUNT, size))
    elif lsf == "banded":
        spread = BandedLSF(torch.rand(COUNT, 3, size), (1, 0, -1))
    return SpectrumBatch(
        torch.from_numpy(rng.standard_normal((COUNT, size), dtype=np.float32)),
        torch.from_numpy(rng.random((COUNT, size), dtype=np.float32)),
        z=rng.random(COUNT),
        zerr=rng.random(COUNT),
        norm=rng.random(COUNT) + 1,
        ids=ids,
        instrument=instrument,
        lsf=spread,
    )


def loaded(root: Path, split: str, columns: list[str], streaming: bool) -> list[Tensor]:
    """Return columns of a split as spender's loader gives them, in order."""
    which = {"validation": "valid"}.get(split, split)
    loader = theirs.get_data_loader(
        str(root), which=which, columns=columns, batch_size=64, streaming=streaming
    )
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def as_spender(batch: SpectrumBatch, name: str) -> dict[str, Any]:
    """Return a batch as spender's `write_dataset` takes it."""
    assert batch.ids is not None
    numbers = {key: getattr(batch, key) for key in ("z", "zerr", "norm")}
    columns = {c: batch.ids[f] for c, f in zip(COLUMNS[name], FIELDS[name], strict=True)}
    return {"spec": batch.flux, "w": batch.ivar, **numbers, **columns}


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "from its cache"])
@pytest.mark.parametrize(("name", "lsf"), [("sdss", "gaussian"), ("desi", "banded"), ("sdss", "")])
def test_spender_reads_ours(name: str, lsf: str, streaming: bool, tmp_path: Path) -> None:
    instrument = registry.instrument(name)
    batch = spectra(instrument, lsf)
    assert batch.ids is not None
    rows = write_dataset(str(tmp_path / "root"), [batch], instrument, lsf=bool(lsf))
    splits = split_of(batch.ids, instrument)
    for split, count in rows.items():
        expected = batch[splits == split]
        assert expected.ids is not None
        spec, w, z, zerr, norm, *ids = loaded(
            tmp_path / "root", split, [*SPENDERS, *COLUMNS[name]], streaming
        )
        assert len(spec) == count == len(expected)
        assert torch.equal(spec, expected.flux)
        assert torch.equal(w, expected.ivar)
        for mine, found in (("z", z), ("zerr", zerr), ("norm", norm)):
            assert torch.equal(getattr(expected, mine).float(), found)
        for field, values in zip(FIELDS[name], ids, strict=True):
            assert (expected.ids[field] == values.numpy()).all()


@pytest.mark.parametrize("name", ["sdss", "desi"])
def test_we_read_spenders_with_the_same_splits(name: str, tmp_path: Path) -> None:
    instrument = registry.instrument(name)
    batch = spectra(instrument)
    assert batch.ids is not None
    features = theirs.get_features(instrument.grid.size, COLUMNS[name])
    rows = theirs.write_dataset(
        str(tmp_path / "theirs"), [as_spender(batch, name)], features, COLUMNS[name]
    )
    assert rows == write_dataset(str(tmp_path / "ours"), [batch], instrument)
    dataset = Dataset(str(tmp_path / "theirs"), instrument)
    ours = Dataset(str(tmp_path / "ours"), instrument)
    assert dataset.about is None
    for split in SPLITS:
        read, same = dataset.read(split), ours.read(split)
        assert len(read) == rows[split]
        assert read.ids is not None
        assert same.ids is not None
        for field in FIELDS[name]:
            assert (read.ids[field] == same.ids[field]).all()
        for column in ("flux", "ivar", "z", "zerr", "norm", "flags"):
            assert torch.equal(getattr(read, column), getattr(same, column))


@pytest.mark.parametrize("name", ["sdss", "desi"])
@pytest.mark.parametrize("lsf", ["", "gaussian", "banded"])
def test_spenders_columns_come_first_and_as_it_has_them(name: str, lsf: str) -> None:
    from datasets import Features

    instrument = registry.instrument(name)
    ours = schema(instrument, lsf_kind(spectra(instrument, lsf).lsf))
    expected = theirs.get_features(instrument.grid.size, COLUMNS[name]).arrow_schema
    for place, field in enumerate(expected):
        assert ours.field(place).equals(field)
    # and `datasets` finds all columns as its own record describes them
    assert Features.from_arrow_schema(ours).arrow_schema.equals(ours)
    described = json.loads(ours.metadata[b"huggingface"])["info"]["features"]
    assert list(described) == ours.names
    first = json.loads(expected.metadata[b"huggingface"])["info"]["features"]
    assert {key: described[key] for key in first} == first


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_hash_is_spenders(numbers: list[int]) -> None:
    for name in ("desi", "sdss"):
        instrument = registry.instrument(name)
        ids = np.zeros(len(numbers), dtype=id_dtype(instrument))
        columns = [np.roll(numbers, shift) for shift in range(len(FIELDS[name]))]
        for field, values in zip(FIELDS[name], columns, strict=True):
            ids[field] = values
        expected = theirs.assign_split(np.stack(columns, axis=1))
        assert (split_of(ids, instrument) == expected).all()


def test_row_groups_and_shards_are_cut_as_spender_cuts_them(tmp_path: Path) -> None:
    """In a dataset of more than one shard, of an instrument with few pixels."""
    from pixel_survey import PIXELS, Tiny, TinyLoader

    count, rng = 13_000, np.random.default_rng(0)
    ids = np.zeros(count, dtype=TinyLoader.id_dtype)
    ids["OBJECT"] = np.arange(count)
    flux = torch.from_numpy(rng.random((count, PIXELS), dtype=np.float32))
    batch = SpectrumBatch(flux, flux, z=np.zeros(count), zerr=np.ones(count), ids=ids)
    write_dataset(str(tmp_path / "ours"), [batch], Tiny())
    content = {"spec": flux, "w": flux, "z": batch.z, "zerr": batch.zerr, "norm": batch.norm}
    theirs.write_dataset(
        str(tmp_path / "theirs"),
        [content | {"object_id": ids["OBJECT"]}],
        theirs.get_features(PIXELS, ["object_id"]),
        ["object_id"],
    )
    paths = sorted((tmp_path / "theirs" / "data").iterdir())
    assert [path.name for path in paths] == [
        path.name for path in sorted((tmp_path / "ours" / "data").iterdir())
    ]
    for path in paths:
        with pq.ParquetFile(path) as one, pq.ParquetFile(tmp_path / "ours/data" / path.name) as two:
            assert one.num_row_groups == two.num_row_groups
            for group in range(one.num_row_groups):
                names = one.schema_arrow.names
                mine = two.read_row_group(group, columns=names)
                assert one.read_row_group(group).equals(mine.select(names))
