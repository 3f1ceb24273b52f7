"""Names, columns and splits of a dataset, and spectra that become tables and come back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pixel_survey import OFFSETS, PIXELS, Tiny, TinyLoader

from spender_core import registry
from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.layout import (
    SPLITS,
    Metadata,
    id_dtype,
    id_fields,
    lsf_kind,
    metadata,
    parse_shard_name,
    schema,
    shard_name,
    split_fields,
    split_of,
)
from spender_core.datasets.tables import column_tensor, ids_of, to_batch, to_table
from spender_core.errors import FileError, InputError, PluginError
from spender_core.interfaces import Instrument
from spender_core.line_spread import BandedLSF, GaussianLSF


class Named(TinyLoader):
    id_dtype = np.dtype([("name", "U12"), ("part", "S4")])
    dataset_columns = {}


def instrument(loader: Any) -> Instrument:
    made = Tiny()
    made.loader = loader
    return made


def spectra(count: int = 5, lsf: Any = None, **changes: Any) -> SpectrumBatch:
    rng = np.random.default_rng(count)
    ids = np.zeros(count, dtype=TinyLoader.id_dtype)
    ids["OBJECT"] = rng.integers(-(2**63), 2**63 - 1, count)
    ids["NIGHT"], ids["FIELD"] = np.arange(count), [f"α{k}" for k in range(count)]
    columns: dict[str, Any] = {
        "flux": torch.from_numpy(rng.standard_normal((count, PIXELS), dtype=np.float32)),
        "ivar": torch.from_numpy(rng.random((count, PIXELS), dtype=np.float32)),
        "z": rng.random(count).astype(np.float32),
        "zerr": rng.random(count).astype(np.float32),
        "norm": rng.random(count).astype(np.float32) + 1,
        "ids": ids,
        "flags": rng.integers(0, 512, count),
        "lsf": lsf,
        "instrument": "tiny",
    }
    return SpectrumBatch(**(columns | changes))


def same(one: SpectrumBatch, other: SpectrumBatch) -> None:
    for name in ("flux", "ivar", "z", "zerr", "norm", "flags"):
        assert torch.equal(getattr(one, name).nan_to_num(), getattr(other, name).nan_to_num()), name
    assert one.ids is not None
    assert other.ids is not None
    assert one.ids.dtype == other.ids.dtype
    assert (one.ids == other.ids).all()


def banded(count: int = 5, offsets: tuple[int, ...] = OFFSETS) -> BandedLSF:
    return BandedLSF(torch.rand(count, len(offsets), PIXELS), offsets)


def test_ids_have_the_columns_of_spender_first() -> None:
    expected = {"TARGETID": "target_id", "SURVEY": "survey", "PROGRAM": "program"}
    expected |= {"HEALPIX": "healpix", "TILEID": "tileid", "NIGHT": "night", "PETAL": "petal"}
    assert list(id_fields(registry.instrument("desi")).items()) == list(expected.items())
    assert split_fields(registry.instrument("desi")) == ("TARGETID",)
    boss = registry.instrument("boss")
    assert split_fields(boss) == ("PLATE", "MJD", "FIBERID")
    assert list(id_fields(boss).values()) == ["plate", "mjd", "fiberid", "run2d"]


def test_an_instrument_without_a_loader_has_numbers() -> None:
    none = instrument(None)
    assert id_fields(none) == {"ID": "id"}
    assert id_dtype(none).names == ("ID",)


def test_ids_without_integers_are_hashed_as_they_are() -> None:
    one = instrument(Named())
    assert split_fields(one) == ("name", "part")
    ids = np.array([(f"object {k}", b"a") for k in range(300)], dtype=Named.id_dtype)
    splits = split_of(ids, one)
    assert set(splits) == set(SPLITS)
    assert (split_of(ids[::-1], one) == splits[::-1]).all()


@pytest.mark.parametrize(
    ("fields", "columns", "named"),
    [
        ([("Z", "i8")], {}, "z"),
        ([("A", "i8"), ("a", "i8")], {}, "a"),
        ([("A", "i8")], {"B": "b"}, "B"),
        ([("A", "f8")], {}, "A"),
        ([("FLAGS", "i8"), ("B", "i8")], {}, "flags"),
    ],
)
def test_ids_that_cannot_be_columns_are_refused(
    fields: Any, columns: dict[str, str], named: str
) -> None:
    class Wrong(TinyLoader):
        id_dtype = np.dtype(fields)
        dataset_columns = columns

    with pytest.raises(PluginError, match=rf"{named}.*dataset_columns"):
        id_fields(instrument(Wrong()))


def test_a_loader_can_rename_what_clashes() -> None:
    class Renamed(TinyLoader):
        id_dtype = np.dtype([("Z", "i8"), ("NIGHT", "i8")])
        dataset_columns = {"Z": "number"}

    assert id_fields(instrument(Renamed())) == {"Z": "number", "NIGHT": "night"}


def test_the_splits_have_their_shares() -> None:
    ids = np.zeros(40_000, dtype=TinyLoader.id_dtype)
    ids["OBJECT"] = np.arange(len(ids))
    splits = split_of(ids, Tiny())
    for name, share in SPLITS.items():
        # four standard deviations of a binomial
        assert abs((splits == name).mean() - share) < 4 * (share * (1 - share) / len(ids)) ** 0.5


def test_the_split_hangs_on_the_object_alone() -> None:
    batch = spectra(50)
    assert batch.ids is not None
    moved = batch.ids.copy()
    moved["NIGHT"], moved["FIELD"] = 7, "elsewhere"
    assert (split_of(moved, Tiny()) == split_of(batch.ids, Tiny())).all()


@given(st.sampled_from(list(SPLITS)), st.integers(0, 99_999))
def test_names_of_shards_are_read_as_they_are_written(split: str, number: int) -> None:
    assert parse_shard_name(shard_name(split, number)) == (split, number)


@pytest.mark.parametrize("name", ["data/dev-00000.parquet", "train-00000.parquet", "data/train-1"])
def test_other_files_are_no_shards(name: str) -> None:
    assert parse_shard_name(name) is None


def test_a_shard_tells_what_it_is() -> None:
    made = schema(Tiny(), ("banded", OFFSETS))
    about = metadata(made)
    assert about == Metadata.of(Tiny(), ("banded", OFFSETS))
    assert about.ids == {"OBJECT": "object_id", "NIGHT": "night", "FIELD": "field"}
    assert about.pixels == PIXELS
    assert about.grid == Tiny.grid.sha256
    assert made.field("lsf_bands").type.list_size == PIXELS * len(OFFSETS)
    assert metadata(pa.schema([("spec", pa.float32())])) is None


def test_what_differs_is_named() -> None:
    desi, tiny = Metadata.of(registry.instrument("desi")), Metadata.of(Tiny())
    found = desi.differences(tiny)
    assert any("instrument desi, not tiny" in text for text in found)
    assert any("pixels 7781, not 16" in text for text in found)
    assert tiny.differences(Metadata.of(Tiny(), "gaussian")) == []


@pytest.mark.parametrize("form", [2, "1", None])
def test_a_record_of_another_version_is_refused(form: Any) -> None:
    content = json.loads(Metadata.of(Tiny()).to_json()) | {"format": form}
    with pytest.raises(FileError, match=r"format.*update spender-core"):
        Metadata.from_json(json.dumps(content))


def test_a_record_that_lacks_something_is_damaged() -> None:
    content = json.loads(Metadata.of(Tiny()).to_json())
    del content["instrument"]
    with pytest.raises(FileError, match="damaged"):
        Metadata.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1, "lsf": []}', "null", "7"])
def test_a_damaged_record_is_a_file_error(text: str) -> None:
    with pytest.raises(FileError):
        Metadata.from_json(text)


@pytest.mark.parametrize("kind", ["none", "gaussian", "banded"])
def test_spectra_come_back_as_they_were(kind: str) -> None:
    lsf: Any = {"none": None, "gaussian": GaussianLSF(torch.rand(5, PIXELS)), "banded": banded()}
    batch = spectra(lsf=lsf[kind], z=[0.25, np.nan, 0, 0.5, np.nan], zerr=[0.5, np.inf, 0, 1, 2])
    made = schema(Tiny(), lsf_kind(batch.lsf))
    table = to_table(batch, made)
    back = to_batch(table, Tiny(), lsf=kind != "none")
    same(batch, back)
    assert torch.equal(back.z.isnan(), batch.z.isnan())
    if kind == "gaussian":
        assert torch.equal(back.lsf.sigma, batch.lsf.sigma)
    if kind == "banded":
        assert back.lsf.offsets == OFFSETS
        assert torch.equal(back.lsf.data, batch.lsf.data)
    assert to_batch(table, Tiny()).lsf is None


def test_chunks_slices_and_record_batches_are_read_alike() -> None:
    made = schema(Tiny(), "gaussian")
    whole = spectra(12, lsf=GaussianLSF(torch.rand(12, PIXELS)))
    chunked = pa.concat_tables(to_table(whole[k : k + 3], made) for k in range(0, 12, 3))
    same(whole, to_batch(chunked, Tiny()))
    part = to_batch(chunked.slice(4, 5), Tiny(), lsf=True)
    same(whole[4:9], part)
    assert torch.equal(part.lsf.sigma, whole.lsf.sigma[4:9])
    (record,) = to_table(whole, made).to_batches()
    same(whole[2:7], to_batch(record.slice(2, 5), Tiny()))
    assert len(to_batch(chunked.slice(0, 0), Tiny())) == 0


def test_a_column_in_one_chunk_is_not_copied() -> None:
    table = to_table(spectra(), schema(Tiny()))
    column = table.column("spec")
    assert column_tensor(column).data_ptr() == column.chunk(0).values.buffers()[1].address


def test_diagonals_that_are_absent_are_zero() -> None:
    made = schema(Tiny(), ("banded", (2, *OFFSETS)))
    lsf = banded()
    back = to_batch(to_table(spectra(lsf=lsf), made), Tiny(), lsf=True).lsf
    flux = torch.rand(5, PIXELS)
    assert torch.equal(back(flux), lsf(flux))
    with pytest.raises(InputError, match="banded"):
        to_table(spectra(lsf=banded(offsets=(3, 0))), made)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (spectra(ids=None), "ids"),
        (spectra(flux=torch.ones(5, 3), ivar=torch.ones(5, 3)), "16 pixels"),
        (spectra(ids=np.zeros(5, dtype=[("OBJECT", "i8")])), "NIGHT, FIELD"),
        (spectra(), "gaussian, not None"),
        (spectra(lsf=banded()), "gaussian, not"),
    ],
)
def test_spectra_that_do_not_fit_are_refused(batch: SpectrumBatch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_table(batch, schema(Tiny(), "gaussian"))


def test_another_kind_of_lsf_cannot_be_stored() -> None:
    unknown: Any = object()
    with pytest.raises(InputError, match="GaussianLSF and BandedLSF"):
        lsf_kind(unknown)


def test_line_spread_functions_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="--lsf"):
        to_batch(to_table(spectra(), schema(Tiny())), Tiny(), lsf=True)


def foreign(batch: SpectrumBatch, **columns: Any) -> Any:
    """Return a table as spender 0.3 writes it, with other values in some columns."""
    table = to_table(batch, schema(Tiny())).select(["spec", "w", "z", "zerr", "norm", "object_id"])
    for name, values in columns.items():
        kind = table.schema.field(name).type
        array = pa.array(np.asarray(values, dtype=np.float32).ravel())
        if pa.types.is_fixed_size_list(kind):
            array = pa.FixedSizeListArray.from_arrays(array, kind.list_size)
        table = table.set_column(table.schema.get_field_index(name), name, array)
    return table.replace_schema_metadata(None)


def test_spectra_of_spender_lack_some_fields_of_their_ids() -> None:
    batch = spectra()
    back = to_batch(foreign(batch), Tiny())
    assert batch.ids is not None
    assert back.ids is not None
    assert (back.ids["OBJECT"] == batch.ids["OBJECT"]).all()
    assert (back.ids["NIGHT"] == -1).all()
    assert (back.ids["FIELD"] == "").all()
    assert not back.flags.any()
    assert back.label(0) == str(batch.ids["OBJECT"][0])


def test_spectra_of_spender_are_repaired() -> None:
    batch = spectra()
    flux, ivar = batch.flux.clone(), batch.ivar.clone()
    flux[0, 3], ivar[1, 2], ivar[1, 3] = torch.nan, torch.inf, -1
    norm = [1, 2, -3, 0, 5]
    table = foreign(batch, spec=flux, w=ivar, norm=norm, z=[-5, 0, np.nan, 0, 1])
    back = to_batch(table, Tiny())
    assert back.flux[0, 3] == back.ivar[0, 3] == 0
    assert (back.ivar[1, 2:4] == 0).all()
    # the flux of the archive, and what is known of it, stay what they were
    assert torch.equal(back.flux[2] * back.norm[2].float(), flux[2] * norm[2])
    assert torch.equal(back.ivar[2], ivar[2])
    assert not back.good[3].any()
    bad = [bool(Flag.BAD_VALUES & Flag(int(flags))) for flags in back.flags]
    assert bad == [True, True, True, True, False]
    assert [bool(Flag.EMPTY & Flag(int(flags))) for flags in back.flags].index(True) == 3
    assert back.z.isnan().tolist() == [True, False, True, False, False]
    assert torch.equal(back.flux[4], flux[4])


def test_missing_values_are_refused() -> None:
    with pytest.raises(FileError, match="null"):
        column_tensor(pa.array([1.0, None], pa.float32()))


def test_ids_alone_can_be_read() -> None:
    batch = spectra(4)
    table = to_table(batch, schema(Tiny())).select(["object_id", "field"])
    ids = ids_of(table, Tiny())
    assert batch.ids is not None
    assert (ids["FIELD"] == batch.ids["FIELD"]).all()
    assert (ids["NIGHT"] == -1).all()
