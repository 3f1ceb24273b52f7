"""Odd columns of catalogues: without values, of other types, of no rows; files that are absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from spender_core.archives.catalogues.conditions import Cut, conditions
from spender_core.archives.catalogues.rowsets import open_rows
from spender_core.archives.catalogues.scanning import Catalogue, CatalogueFile, Wanted, select
from spender_core.archives.catalogues.skies import region
from spender_core.errors import FileError, MissingFileError


def columns_of(path: Path) -> dict[str, Any]:
    with open_rows(str(path)) as rows:
        (part,) = rows.chunks(rows.names, None)
    return part[1]


def write_parquet(path: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(*given) for name, given in columns.items()})
    try:
        pq.write_table(table, path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this pyarrow cannot write such a file: {error}")
    return path


def catalogue_of(*paths: Path, **more: Any) -> Catalogue:
    given: dict[str, Any] = {
        "parts": tuple((CatalogueFile(str(path)),) for path in paths),
        "ids": {"NUMBER": ("NUMBER",)},
        "position": (("RA",), ("DEC",)),
        "shown": ("Z", "KIND"),
        "cuts": lambda known: [Cut(("WARN",), lambda c: c["WARN"] == 0)] if "WARN" in known else [],
        "kinds": {"NUMBER": "iu", "Z": "fiu", "KIND": "S", "WARN": "iu"},
    }
    return Catalogue(**given | more)


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "string_view", "binary", "large_binary", "binary_view"]
)
def test_texts_of_parquet_are_those_of_fits(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    if not hasattr(pa, kind):
        pytest.skip(f"this pyarrow has no {kind}")
    texts = ["GALAXY  ", " QSO", "", "é ", None]
    path = write_parquet(tmp_path / "a.parquet", KIND=(texts, getattr(pa, kind)()))
    found = columns_of(path)["KIND"]
    assert found.tolist() == [b"GALAXY", b" QSO", b"", "é".encode(), b""]
    catalogue = catalogue_of(path, ids={"KIND": ("KIND",)})
    assert select(catalogue, Wanted(conditions("KIND == 'GALAXY'")))["KIND"].tolist() == [b"GALAXY"]


def test_lists_without_a_value_keep_their_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = write_parquet(
        tmp_path / "a.parquet",
        REAL=([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2)),
        WHOLE=([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2)),
        TEXT=([["a ", "b"], None, ["c", None]], pa.list_(pa.string(), 2)),
    )
    found = columns_of(path)
    np.testing.assert_array_equal(found["REAL"], [[1, 2], [np.nan, np.nan], [3, np.nan]])
    assert found["WHOLE"].tolist() == [[1, 2], [None, None], [3, None]]
    assert found["TEXT"].tolist() == [[b"a", b"b"], [b"", b""], [b"c", b""]]


def test_absent_whole_numbers_are_no_zeros(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        NUMBER=([1, 2, 3, None],),
        WARN=([0, None, 0, 0],),
        BITS=([None, 1, 0, 4],),
        RA=([10, 10, None, 10],),
        DEC=([0.0] * 4,),
    )
    catalogue = catalogue_of(path)
    assert select(catalogue, Wanted([]))["NUMBER"].tolist() == [1, 3, None]
    assert select(catalogue, Wanted(conditions("BITS == 0")))["NUMBER"].tolist() == [3]
    assert select(catalogue, Wanted(conditions("isfinite(NUMBER)")))["NUMBER"].tolist() == [1, 3]
    found = select(catalogue, Wanted([], region(cone=(10, 0, 1)), ["BITS"]))
    assert found["NUMBER"].tolist() == [1, None]
    assert found["BITS"].tolist() == [None, 4]


@pytest.mark.parametrize("kind", ["fits", "parquet"])
def test_a_table_without_rows_has_its_columns(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / f"a.{kind}"
    rows = {"NUMBER": np.zeros(0, "i4"), "Z": np.zeros(0, "f4"), "WARN": np.zeros(0, "i2")}
    Table(rows | {"KIND": np.zeros(0, "U6"), "RA": np.zeros(0), "DEC": np.zeros(0)}).write(path)
    for wanted in (Wanted([]), Wanted(conditions("Z > 1"), region(cone=(1, 2, 3)), limit=3)):
        found = select(catalogue_of(path), wanted)
        assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
            ("NUMBER", "Z", "KIND"), 0
        )
        assert found["NUMBER"].dtype == np.int32
        assert found["Z"].dtype == np.float32
        assert found["KIND"].dtype.kind == "S"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("NUMBER", [1.0, np.nan], "float64, not whole numbers"),
        ("NUMBER", [[1, 2], [3, 4]], r"int64 of shape \(2,\), not whole numbers"),
        ("Z", ["a", "b"], "not numbers"),
        ("Z", [[0.1, 0.2], [0.3, 0.4]], "not numbers"),
        ("WARN", ["0", "0"], "not whole numbers"),
        ("KIND", [1, 2], "int64, not text"),
    ],
)
def test_what_a_survey_knows_is_of_its_type(
    tmp_path: Path, name: str, values: Any, message: str
) -> None:
    path = tmp_path / "own.fits"
    rows = {"NUMBER": [1, 2], "Z": [0.1, 0.2], "WARN": [0, 0], "KIND": ["a", "b"]}
    Table(rows | {name: values}).write(path)
    with pytest.raises(FileError, match=rf"own\.fits: its column {name} holds .*{message}") as told:
        select(catalogue_of(path), Wanted([]))
    assert "it seems damaged" not in str(told.value)


def test_other_types_of_parquet_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", NUMBER=([{"a": 1}],))
    with pytest.raises(FileError, match="NUMBER holds struct"):
        columns_of(path)


def test_files_that_all_are_absent_are_an_error(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.fits" for k in range(3)]
    with pytest.raises(MissingFileError, match=r"none of the 3 files .*0\.fits"):
        select(catalogue_of(*paths, missing=True), Wanted([]))


def test_no_file_to_look_into_gives_columns_without_rows() -> None:
    found = select(catalogue_of(missing=True), Wanted([]))
    assert {name: values.dtype.kind for name, values in found.items()} == {
        "NUMBER": "i",
        "Z": "f",
        "KIND": "S",
    }
    assert list(select(catalogue_of(), Wanted([], columns=["a"]))) == ["NUMBER", "A"]
