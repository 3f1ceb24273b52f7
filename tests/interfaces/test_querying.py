"""Queries of instruments whose loaders know no catalogue, or an odd one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from spender_core.archives.catalogues.scanning import Catalogue, CatalogueFile, CatalogueRequest
from spender_core.archives.catalogues.skies import Cone
from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError, InputError
from spender_core.interfaces import Instrument, Loader


class Knowing(Loader):
    """Answers queries from one table, and keeps what it was asked."""

    id_dtype = np.dtype([("NUMBER", "i8"), ("PART", "U4")])

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[CatalogueRequest] = []

    def recognises(self, url: str) -> bool:
        return False

    def load(self, url: str) -> SpectrumBatch:
        raise NotImplementedError

    def catalogue(self, asked: CatalogueRequest) -> Catalogue:
        self.asked.append(asked)
        return Catalogue(
            parts=((CatalogueFile(str(self.path)),),),
            ids={"NUMBER": ("ID",), "PART": ("PART",)},
            position=(("RA",), ("DEC",)),
            shown=("Z",),
            cuts=lambda known: [],
        )


class Unknowing(Knowing):
    catalogue = Loader.catalogue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = {"ID": np.arange(5, dtype="i2"), "PART": ["a", "b", "a", "é", ""], "Z": np.ones(5)}
    rows |= {"RA": np.arange(5.0), "DEC": np.zeros(5)}
    Table(rows).write(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_ids_have_the_types_of_the_loader(mine: Instrument, path: Path) -> None:
    mine.loader = Knowing(path)  # type: ignore[misc]
    found = mine.query({"ID": (1, None)})
    assert found.colnames == ["NUMBER", "PART", "Z"]
    assert found["NUMBER"].dtype == np.int64
    assert found["PART"].tolist() == ["b", "a", "é", ""]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1.0, 39627652591521793.0]), "whole numbers, not float64"),
        (np.array([5, 2**63 + 1], dtype=np.uint64), "does not fit into int64"),
        (np.arange(4).reshape(2, 2), r"whole numbers, not int64 of shape \(2,\)"),
        (np.array(["x", "y"]), "whole numbers"),
        (np.array([True, False]), "whole numbers, not bool"),
    ],
    ids=str,
)
def test_ids_that_are_none_are_refused(
    mine: Instrument, tmp_path: Path, ids: Any, message: str
) -> None:
    Table({"ID": ids, "PART": ["a", "b"], "Z": [1.0, 2.0]}).write(tmp_path / "own.fits")
    mine.loader = Knowing(tmp_path / "own.fits")  # type: ignore[misc]
    with pytest.raises(FileError, match=f"NUMBER .*{message}"):
        mine.query("Z > 0")
    assert len(mine.query("Z > 2")) == 0


def test_ids_without_a_value_are_refused_and_others_are_masked(
    mine: Instrument, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    rows = {"ID": [1, None, 3], "PART": ["a", "b", "c"], "BITS": pa.array([1, 2, None], pa.int16())}
    pq.write_table(pa.table(rows), tmp_path / "own.parquet")
    mine.loader = Knowing(tmp_path / "own.parquet")  # type: ignore[misc]
    with pytest.raises(FileError, match="NUMBER has rows without a value"):
        mine.query()
    found = mine.query("isfinite(ID)", columns=["BITS"])
    assert found["NUMBER"].tolist() == [1, 3]
    assert found["BITS"].tolist() == [1, None]
    kinds = ["fits", "ecsv", *(["parquet"] if find_spec("pandas") else [])]  # astropy needs it
    for kind in kinds:
        found.write(tmp_path / f"a.{kind}")
        assert Table.read(tmp_path / f"a.{kind}")["BITS"].tolist() == [1, None], kind


def test_text_of_ids_may_be_stored_as_numbers(mine: Instrument, tmp_path: Path) -> None:
    Table({"ID": [1, 2], "PART": [26, 103]}).write(tmp_path / "own.fits")
    mine.loader = Knowing(tmp_path / "own.fits")  # type: ignore[misc]
    assert mine.query("ID > 1", limit=np.int64(3))["PART"].tolist() == ["103"]


def test_what_is_asked_reaches_the_loader(mine: Instrument, path: Path) -> None:
    loader = Knowing(path)
    mine.loader = loader  # type: ignore[misc]
    seen: list[Sequence[int]] = []
    found = mine.query(
        cone=(1, 0, 1.5),
        target=["a", "B"],
        primary="best",
        quality=False,
        root=path.parent,
        release="dr0",
        catalogue="https://me:secret@example.org/a?key=secret",
        progress=lambda *counts: seen.append(counts),
    )
    assert loader.asked == [
        CatalogueRequest(
            region=Cone(1.0, 0.0, 1.5),
            target=("A", "B"),
            primary="best",
            quality=False,
            root=str(path.parent),
            release="dr0",
            catalogue="https://me:secret@example.org/a?key=secret",
        )
    ]
    assert found["NUMBER"].tolist() == [0, 1, 2]
    assert seen == [(5, 5, 3)]
    assert "secret" not in str(found.meta)
    assert found.meta["RELEASE"] == "dr0"


def test_no_catalogue_means_no_queries(mine: Instrument, path: Path) -> None:
    with pytest.raises(InputError, match="reads no files"):
        mine.query("Z > 1")
    mine.loader = Unknowing(path)  # type: ignore[misc]
    with pytest.raises(InputError, match="Unknowing knows no catalogue"):
        mine.query("Z > 1")


@pytest.mark.parametrize(
    "asked", [{"limit": True}, {"columns": [1]}, {"target": [""]}, {"catalogue": 3}, {"root": 3}]
)
def test_malformed_arguments_are_refused(mine: Instrument, path: Path, asked: Any) -> None:
    mine.loader = Knowing(path)  # type: ignore[misc]
    with pytest.raises(InputError):
        mine.query(**asked)
