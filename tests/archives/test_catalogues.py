"""Rows of catalogues: read in parts, from FITS and Parquet, joined and derived."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table, vstack
from range_server import serving

from spender_core.archives.catalogues import rowsets
from spender_core.archives.catalogues.conditions import Cut, conditions
from spender_core.archives.catalogues.rowsets import open_rows
from spender_core.archives.catalogues.scanning import (
    Catalogue,
    CatalogueFile,
    Derived,
    Wanted,
    select,
)
from spender_core.archives.catalogues.skies import region
from spender_core.errors import FileError, InputError, MissingFileError, PartialReadWarning

ROWS = 5000


@pytest.fixture
def table() -> Table:
    rng = np.random.default_rng(0)
    return Table(
        {
            "NUMBER": rng.permutation(ROWS).astype("i8"),
            "Z": rng.uniform(0, 1, ROWS),
            "KIND": rng.choice(["GALAXY", "QSO", "STAR", ""], ROWS),
            "RA": rng.uniform(0, 360, ROWS),
            "DEC": rng.uniform(-90, 90, ROWS),
            "GOOD": rng.random(ROWS) < 0.5,
            "MAGS": rng.normal(20, 1, (ROWS, 5)).astype("f4"),
        }
    )


@pytest.fixture(params=["fits", "fits.gz", "parquet"])
def path(table: Table, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"catalogue.{request.param}"
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(table[name].tolist()) for name in table.colnames[:-1]}
        mags = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(table["MAGS"]).ravel()), 5)
        pq.write_table(pa.table(columns | {"mags": mags}), path, row_group_size=700)
    else:
        table.write(path)
    return path


def no_cuts(known: Collection[str]) -> list[Cut]:
    return []


def catalogue_of(*paths: Any, **more: Any) -> Catalogue:
    given: dict[str, Any] = {
        "parts": tuple((CatalogueFile(str(path)),) for path in paths),
        "ids": {"NUMBER": ("NUMBER",), "TILE": ("TILE",)},
        "position": (("RA",), ("DEC",)),
        "shown": ("Z", "KIND", "ABSENT"),
        "cuts": no_cuts,
    }
    return Catalogue(**given | more)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowsets, "CHUNK", 20_000)


@pytest.mark.usefixtures("small_chunks")
def test_rows_that_meet_all_conditions_are_found(path: Path, table: Table) -> None:
    found = select(
        catalogue_of(path),
        Wanted(conditions("Z > 0.5 and KIND == 'QSO' and GOOD and MAGS[2] > 20")),
    )
    expected = table[
        (table["Z"] > 0.5) & (table["KIND"] == "QSO") & table["GOOD"] & (table["MAGS"][:, 2] > 20)
    ]
    assert list(found) == ["NUMBER", "Z", "KIND"]
    assert found["NUMBER"].tolist() == expected["NUMBER"].tolist()
    assert found["Z"].tolist() == expected["Z"].tolist()
    assert set(found["KIND"]) == {b"QSO"}
    assert len(expected) > 50


@pytest.mark.usefixtures("small_chunks")
def test_chosen_columns_and_a_part_of_the_sky(path: Path, table: Table) -> None:
    part = region(box=(350, 40, -30, 60))
    found = select(catalogue_of(path), Wanted([], part, ["mags", "good", "number"]))
    ra, dec = np.asarray(table["RA"]), np.asarray(table["DEC"])
    expected = table[((ra >= 350) | (ra <= 40)) & (dec >= -30) & (dec <= 60)]
    assert list(found) == ["NUMBER", "MAGS", "GOOD"]
    assert np.array_equal(found["MAGS"], expected["MAGS"])
    assert found["GOOD"].astype(bool).tolist() == expected["GOOD"].tolist()
    assert len(expected) > 50


@pytest.mark.parametrize("limit", [1, 7, 1000, ROWS, 10 * ROWS])
def test_a_limit_gives_the_first_rows(path: Path, table: Table, limit: int) -> None:
    found = select(catalogue_of(path), Wanted(conditions({"Z": (0.5, None)}), limit=limit))
    expected = table["NUMBER"][table["Z"] >= 0.5][:limit]
    assert found["NUMBER"].tolist() == expected.tolist()


def test_a_limit_reads_no_more_than_needed(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.fits"
    table.write(path)
    seen: list[tuple[int, int, int]] = []
    select(catalogue_of(path), Wanted([], limit=5), lambda *counts: seen.append(counts))
    assert len(seen) == 1
    assert seen[0][0] < ROWS / 4
    assert seen[0][1:] == (ROWS, 5)


def test_several_files_follow_each_other(table: Table, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.fits" for k in range(3)]
    for k, path in enumerate(paths):
        table[k::3].write(path)
    found = select(catalogue_of(*paths), Wanted(conditions("KIND == 'STAR'")))
    expected = [n for k in range(3) for n in table["NUMBER"][k::3][table["KIND"][k::3] == "STAR"]]
    assert found["NUMBER"].tolist() == expected


def test_groups_are_one_table_with_computed_columns(table: Table, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.fits" for k in range(2)]
    table[:2000].write(paths[0])
    extra = table[2000:]
    extra["BITS"] = np.arange(len(extra))
    extra.write(paths[1])
    files = [*paths, tmp_path / "absent.fits"]
    group = tuple(CatalogueFile(str(file), {"PART": np.int64(k)}) for k, file in enumerate(files))
    rank = Derived(("Z",), lambda columns: np.argsort(np.argsort(columns["Z"])))
    catalogue = catalogue_of(
        parts=(group,),
        shown=("Z", "PART", "RANK", "BITS"),
        derived={"RANK": rank},
        optional={"BITS": np.dtype("i8")},
        missing=True,
    )
    with pytest.warns(PartialReadWarning, match=r"1 of 3 files .*absent\.fits"):
        found = select(catalogue, Wanted(conditions("RANK < 100 and PART in (0, 1)")))
    kept = np.argsort(np.argsort(table["Z"])) < 100
    assert found["NUMBER"].tolist() == table["NUMBER"][kept].tolist()
    assert found["PART"].tolist() == (np.flatnonzero(kept) >= 2000).astype(int).tolist()
    assert found["BITS"].tolist() == [max(n - 2000, 0) for n in np.flatnonzero(kept)]
    with pytest.raises(MissingFileError, match=r"absent\.fits"):
        select(catalogue_of(parts=(group,), optional=catalogue.optional), Wanted([]))


@pytest.fixture
def two_tables(table: Table, tmp_path: Path) -> Callable[..., Path]:
    def write(other: Table) -> Path:
        from astropy.io import fits

        path = tmp_path / "two.fits"
        names = {"FIRST": table["NUMBER", "Z"], "SECOND": other}
        hdus = [fits.table_to_hdu(part) for part in names.values()]
        for hdu, name in zip(hdus, names, strict=True):
            hdu.name = name
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
        return path

    return write


@pytest.mark.parametrize("shuffled", [False, True])
def test_tables_of_a_file_are_joined_by_their_key(
    table: Table, two_tables: Callable[..., Path], shuffled: bool
) -> None:
    other = table["NUMBER", "RA", "DEC", "KIND"]
    if shuffled:
        other = other[np.random.default_rng(1).permutation(ROWS)]
    path = two_tables(other)
    catalogue = catalogue_of(path, tables=("FIRST", "SECOND"), key="NUMBER")
    found = select(catalogue, Wanted([], columns=["Z", "RA", "KIND"]))
    assert found["NUMBER"].tolist() == table["NUMBER"].tolist()
    assert found["RA"].tolist() == table["RA"].tolist()
    assert found["KIND"].tolist() == [kind.encode() for kind in table["KIND"]]


def test_tables_of_different_objects_are_not_joined(
    table: Table, two_tables: Callable[..., Path]
) -> None:
    other = table["NUMBER", "RA"].copy()
    other["NUMBER"][5] = -1
    path = two_tables(other)
    catalogue = catalogue_of(path, tables=("FIRST", "SECOND"), key="NUMBER")
    with pytest.raises(FileError, match="different objects"):
        select(catalogue, Wanted([], columns=["RA"]))
    path.unlink()
    two_tables(table["NUMBER", "RA"][:-1])
    with pytest.raises(FileError, match=r"two\.fits.*rows"):
        select(catalogue, Wanted([], columns=["RA"]))


def test_what_is_not_there_is_named(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.fits"
    table.write(path)
    with pytest.raises(InputError, match=r"catalogue\.fits has no column KINDS; did you mean KIND"):
        select(catalogue_of(path), Wanted(conditions("KINDS == 'STAR'")))
    with pytest.raises(InputError, match="no column MAG;"):
        select(catalogue_of(path), Wanted([], columns=["mag"]))
    with pytest.raises(InputError, match="none of the columns PLATE"):
        select(catalogue_of(path, ids={"PLATE": ("PLATE",)}), Wanted([]))
    with pytest.raises(InputError, match="no positions"):
        select(catalogue_of(path, position=(("X",), ("DEC",))), Wanted([], region(cone=(1, 2, 3))))
    with pytest.raises(MissingFileError), open_rows(str(tmp_path / "absent.parquet")):
        pass
    with (
        pytest.raises(FileError, match="no table SECOND"),
        open_rows(str(path), ("SECOND",)),
    ):
        pass


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    from astropy.io import fits

    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 3)))]).writeto(tmp_path / "image.fits")
    (tmp_path / "text.fits").write_text("no catalogue")
    (tmp_path / "text.parquet").write_text("no catalogue")
    for name in ("image.fits", "text.fits", "text.parquet"):
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            select(catalogue_of(tmp_path / name), Wanted([]))


def test_no_row_found_gives_empty_columns(path: Path) -> None:
    found = select(catalogue_of(path), Wanted(conditions("Z > 2")))
    assert {name: len(values) for name, values in found.items()} == {"NUMBER": 0, "Z": 0, "KIND": 0}


def test_memory_hangs_on_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    rows = 40_000
    wide = Table({"NUMBER": np.arange(rows), "Z": np.linspace(0, 1, rows)})
    wide["REST"] = np.zeros((rows, 100))
    wide.write(tmp_path / "wide.fits")
    monkeypatch.setattr(rowsets, "CHUNK", 1 << 20)
    catalogue = catalogue_of(tmp_path / "wide.fits")
    select(catalogue, Wanted([], limit=1))
    tracemalloc.start()
    found = select(catalogue, Wanted(conditions("Z > 0.999")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found["Z"]) == 40
    assert peak < 4 << 20 < (tmp_path / "wide.fits").stat().st_size / 6


def test_a_limit_moves_few_bytes_and_all_are_moved_once(table: Table, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    big = vstack([table] * 20)
    big["REST"] = np.zeros((len(big), 10))
    big.write(folder / "big.fits")
    size = (folder / "big.fits").stat().st_size
    wanted = conditions("KIND == 'QSO'")
    local = select(catalogue_of(folder / "big.fits"), Wanted(wanted))
    with serving(folder) as server:
        url = server.at("big.fits")
        first = select(catalogue_of(url), Wanted(wanted, limit=5))
        assert server.seen().bytes < 0.1 * size
        everything = select(catalogue_of(url), Wanted(wanted))
        assert server.seen().bytes < 1.1 * size
    for name, values in local.items():
        assert np.array_equal(everything[name], values)
        assert np.array_equal(first[name], values[:5])


def test_small_files_are_fetched_together_and_missing_ones_passed_over(
    table: Table, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    for k in range(12):
        table[k::12].write(folder / f"{k}.fits")
    with serving(folder, latency=0.05) as server:
        urls = [server.at(f"{k}.fits") for k in [*range(12), "absent"]]
        with pytest.warns(PartialReadWarning, match="1 of 13 files"):
            found = select(catalogue_of(*urls, missing=True, whole=True), Wanted([]))
        seen = server.seen()
    assert found["NUMBER"].tolist() == [n for k in range(12) for n in table["NUMBER"][k::12]]
    assert seen.requests == 13
    assert seen.most > 3
