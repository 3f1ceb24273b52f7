"""Queries of SDSS's catalogues, on tables made up: against counting by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from spender_sdss.instrument import BOSS, SDSS

from spender_core.errors import FileError, InputError, MissingFileError

ROWS = 3000
REDUX = "dr17/sdss/spectro/redux"


@pytest.fixture(scope="module")
def table() -> Table:
    """Rows as specObj has them: text of fixed width, columns of several values."""
    rng = np.random.default_rng(0)
    return Table(
        {
            "SURVEY": rng.choice(["sdss", "segue1", "eboss"], ROWS),
            "SPECPRIMARY": rng.choice([0, 1], ROWS, p=[0.2, 0.8]).astype("i2"),
            "RUN2D": rng.choice(["26", "103", "v5_13_2"], ROWS, p=[0.5, 0.1, 0.4]),
            "PLATE": rng.integers(266, 400, ROWS).astype("i4"),
            "MJD": rng.integers(51600, 51700, ROWS).astype("i4"),
            "FIBERID": rng.integers(1, 641, ROWS).astype("i4"),
            "PLUG_RA": rng.uniform(0, 360, ROWS),
            "PLUG_DEC": rng.uniform(-90, 90, ROWS),
            "CLASS": rng.choice(["GALAXY", "QSO", "STAR"], ROWS),
            "Z": rng.uniform(-0.01, 1, ROWS).astype("f4"),
            "Z_ERR": rng.exponential(1e-4, ROWS).astype("f4"),
            "ZWARNING": rng.choice([0, 4, 1 << 7], ROWS, p=[0.8, 0.1, 0.1]).astype("i4"),
            "SN_MEDIAN_ALL": rng.exponential(10, ROWS).astype("f4"),
            "SPECTROFLUX": rng.normal(20, 1, (ROWS, 5)).astype("f4"),
        }
    )


@pytest.fixture(scope="module")
def archive(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    (root / REDUX).mkdir(parents=True)
    table.write(root / REDUX / "specObj-dr17.fits")
    return root


def keys(table: Table) -> list[tuple[Any, ...]]:
    names = ("PLATE", "MJD", "FIBERID", "RUN2D")
    return [tuple(row[name] for name in names) for row in table]


def ours(table: Table) -> Any:
    return np.array([run2d.isdigit() for run2d in table["RUN2D"]])


def test_each_instrument_finds_its_own_spectra(archive: Path, table: Table) -> None:
    for instrument, own in ((SDSS(), ours(table)), (BOSS(), ~ours(table))):
        found = instrument.query(root=archive, primary=False, quality=False)
        assert found.colnames[:4] == ["PLATE", "MJD", "FIBERID", "RUN2D"]
        assert keys(found) == keys(table[own])
        assert found.meta["INSTRUME"] == instrument.name
        assert own.any()


def test_the_usual_rows_are_primary_and_good(archive: Path, table: Table) -> None:
    found = SDSS().query("0.1 < z <= 0.3 and sn_median_all > 5", root=archive, target="galaxy")
    expected = (
        ours(table)
        & (table["SPECPRIMARY"] == 1)
        & (table["ZWARNING"] == 0)
        & (table["CLASS"] == "GALAXY")
        & (np.float64(table["Z"]) > 0.1)
        & (np.float64(table["Z"]) <= 0.3)
        & (table["SN_MEDIAN_ALL"] > 5)
    )
    assert keys(found) == keys(table[expected])
    assert expected.sum() > 20


@pytest.mark.parametrize("cone", [(0, 0, 20), (100, 89, 10), (359, -60, 15), (180, -90, 5)])
def test_cones(archive: Path, table: Table, cone: Any) -> None:
    found = BOSS().query(cone=cone, root=archive, quality=False, primary=False)
    centre = SkyCoord(cone[0] * u.deg, cone[1] * u.deg)
    away = SkyCoord(table["PLUG_RA"] * u.deg, table["PLUG_DEC"] * u.deg).separation(centre)
    expected = ~ours(table) & (away.deg <= cone[2])
    assert keys(found) == keys(table[expected])
    assert expected.any()


def test_chosen_columns_limits_and_lists(archive: Path, table: Table) -> None:
    where = {"PLATE": [270, 280, 290], "CLASS": ["QSO", "STAR"]}
    columns = ["SPECTROFLUX", "class"]
    found = SDSS().query(where, columns=columns, root=archive, quality=False, limit=5)
    expected = (
        ours(table)
        & np.isin(table["PLATE"], [270, 280, 290])
        & (table["CLASS"] != "GALAXY")
        & (table["SPECPRIMARY"] == 1)
    )
    assert keys(found) == keys(table[expected][:5])
    assert found.colnames == ["PLATE", "MJD", "FIBERID", "RUN2D", "SPECTROFLUX", "CLASS"]
    assert np.array_equal(found["SPECTROFLUX"], table["SPECTROFLUX"][expected][:5])
    assert len(found) == 5


def test_a_lite_catalogue_of_sdss_v(tmp_path: Path) -> None:
    rows = Table(
        {
            "FIELD": [15000, 15001],
            "MJD": [59146, 59147],
            "CATALOGID": [27021597775539507, 4375790836],
            "RUN2D": ["v6_1_3", "v6_1_3"],
            "SPECPRIMARY": np.array([1, 1], dtype="u1"),
            "RACAT": [1.0, 2.0],
            "DECCAT": [3.0, 4.0],
            "CLASS": ["QSO   ", "STAR  "],
            "ZWARNING": [0, 0],
            "Z": [1.0, 0.0],
        }
    )
    rows.write(tmp_path / "spAll-lite-v6_1_3.fits.gz")
    lite = tmp_path / "spAll-lite-v6_1_3.fits.gz"
    found = BOSS().query(catalogue=lite, cone=(1, 3, 0.1), target="QSO")
    assert keys(found) == [(15000, 59146, 27021597775539507, "v6_1_3")]
    assert len(SDSS().query(catalogue=lite)) == 0


def test_what_is_found_can_be_read(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "dr17/sdss/spectro/redux/26/spectra/lite/0412"
    rows = []
    for fiber in (3, 7, 9):
        write_spec(folder=folder, fiberid=fiber)
        rows.append({"PLATE": 412, "MJD": 52254, "FIBERID": fiber, "RUN2D": "26", "Z": 0.1})
    own = Table(rows)
    own.write(tmp_path / "own.fits")
    found = SDSS().query(
        {"FIBERID": [9, 3]}, catalogue=tmp_path / "own.fits", primary=False, quality=False
    )
    batch = SDSS().read(found, root=tmp_path, release="dr17")
    assert batch.ids["FIBERID"].tolist() == [3, 9]


@pytest.mark.parametrize("kind", ["fits", "parquet"])
def test_run2d_may_be_stored_as_a_number(table: Table, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    own = table[ours(table)][:50]
    own["RUN2D"] = own["RUN2D"].astype(int)
    own.write(tmp_path / f"own.{kind}")
    asked: dict[str, Any] = {"catalogue": tmp_path / f"own.{kind}", "primary": False}
    found = SDSS().query(**asked, quality=False)
    assert found["RUN2D"].tolist() == [str(run2d) for run2d in own["RUN2D"]]
    assert len(BOSS().query(**asked, quality=False)) == 0


def test_a_warning_that_is_absent_is_no_good_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    rows: dict[str, Any] = {"PLATE": [266] * 3, "MJD": [51602] * 3, "FIBERID": [1, 2, 3]}
    rows |= {"RUN2D": ["26  ", "26", "26"], "ZWARNING": [0, None, 0], "SPECPRIMARY": [1, 1, None]}
    pq.write_table(pa.table(rows), tmp_path / "own.parquet")
    assert SDSS().query(catalogue=tmp_path / "own.parquet")["FIBERID"].tolist() == [1]


@pytest.mark.parametrize("name", ["PLATE", "ZWARNING", "SPECPRIMARY", "PLUG_RA"])
def test_columns_of_other_types_are_refused(table: Table, tmp_path: Path, name: str) -> None:
    own = table[:3].copy()
    own[name] = ["a", "b", "c"]
    own.write(tmp_path / "own.fits")
    with pytest.raises(FileError, match=rf"own\.fits: its column {name} holds .*, not"):
        SDSS().query(catalogue=tmp_path / "own.fits", cone=(1, 2, 3))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"target": "LRG"}, "no class of SDSS"),
        ({"primary": "sv"}, "primary must be"),
        ({"where": "ZWARN == 0"}, "no column ZWARN; did you mean ZWARNING"),
        ({"where": "SPECTROFLUX > 1"}, "several values a row"),
        ({"where": "CLASS > 1"}, "text with a number"),
        ({"release": "dr99"}, "dr99"),
    ],
)
def test_what_does_not_fit_is_refused(archive: Path, asked: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        SDSS().query(**({"root": archive} | asked))


def test_a_catalogue_that_is_missing_is_named(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(MissingFileError, match=r"specObj-dr17\.fits"):
        SDSS().query(root=tmp_path)
    own = tmp_path / "own.fits"
    Table({"PLATE": [1], "MJD": [1], "FIBERID": [1]}).write(own)
    with pytest.raises(InputError, match=r"SPECPRIMARY.*primary=False"):
        SDSS().query(catalogue=own)
