"""`spender query`: ids from catalogues, which `spender read` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from spender_core.cli.tables import read_table

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

LITE = "dr17/sdss/spectro/redux/26/spectra/lite/0412/spec-0412-52254-{:04d}.fits"
OBJECTS = "dr17/sdss/spectro/redux/specObj-dr17.fits"


@pytest.fixture
def archive(tmp_path: Path, write_spec: Writer) -> Path:
    """A copy of SDSS's archive: a catalogue of six objects, and their spectra."""
    root = tmp_path / "archive"
    fibres = np.arange(1, 7)
    for fibre in fibres:
        path = root / LITE.format(fibre)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_spec(path, FIBERID=fibre, Z=0.1 * fibre)
    columns = {
        "PLATE": np.full(6, 412), "MJD": np.full(6, 52254), "FIBERID": fibres,
        "RUN2D": np.full(6, b"26"), "PLUG_RA": 150 + 0.1 * fibres, "PLUG_DEC": np.full(6, 2.0),
        "Z": 0.1 * fibres, "Z_ERR": np.full(6, 1e-5), "ZWARNING": 4 * (fibres == 6),
        "CLASS": np.array([b"GALAXY", b"QSO"] * 3), "SPECPRIMARY": (fibres != 5).astype("i2"),
    }  # fmt: skip
    Table(columns).write(root / OBJECTS)
    return root


@pytest.mark.parametrize(
    ("options", "fibres"),
    [
        ((), [1, 2, 3, 4]),
        (("--all",), [1, 2, 3, 4, 6]),
        (("--duplicates", "--all"), [1, 2, 3, 4, 5, 6]),
        (("--where", "Z > 0.15 and CLASS == 'GALAXY'"), [3]),
        (("--where", "Z > 0.15", "--target", "QSO"), [2, 4]),
        (("--cone", "150.2,2,0.15"), [1, 2, 3]),
        (("--box", "150.25,151,1.9,2.1"), [3, 4]),
        (("--limit", "2"), [1, 2]),
    ],
)
@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".parquet", ".csv"])
def test_rows_of_the_catalogue(
    spender: Spender,
    tmp_path: Path,
    archive: Path,
    options: tuple[str, ...],
    fibres: list[int],
    suffix: str,
) -> None:
    output = tmp_path / f"ids{suffix}"
    ran = spender("query", "sdss", "--root", archive, *options, "-o", output)
    assert ran.code == 0, ran.err
    assert ran.out == f"{output}: {len(fibres)} rows\n"
    assert ran.err.startswith(f"{len(fibres)} rows; ")
    table = read_table(output)
    assert table["FIBERID"].tolist() == fibres
    assert table.colnames[:4] == ["PLATE", "MJD", "FIBERID", "RUN2D"]


def test_what_is_found_can_be_read(spender: Spender, tmp_path: Path, archive: Path) -> None:
    ids, output = tmp_path / "ids.fits", tmp_path / "spectra.fits"
    found = spender("query", "sdss", "--root", archive, "--release", "dr17", "-o", ids)
    assert found.code == 0, found.err
    ran = spender("read", "--ids", ids, "--root", archive, "-o", output)
    assert ran.code == 0, ran.err
    table = Table.read(output)
    np.testing.assert_allclose(table["Z"], [0.1, 0.2, 0.3, 0.4])


def test_columns_and_a_catalogue_of_ones_own(
    spender: Spender, tmp_path: Path, archive: Path, assert_one_line: Check
) -> None:
    mine = (archive / OBJECTS).rename(tmp_path / "mine.fits")
    command = ("query", "sdss", "--catalogue", mine, "--columns", "Z, CLASS")
    assert spender(*command, "-o", tmp_path / "x.ecsv").code == 0
    table = Table.read(tmp_path / "x.ecsv")
    assert table.colnames == ["PLATE", "MJD", "FIBERID", "RUN2D", "Z", "CLASS"]
    assert_one_line(spender(*command, "-o", mine, "--overwrite"), "is an input too")
    assert_one_line(spender(*command, "-o", tmp_path / "x.ecsv"), "--overwrite")


def test_without_an_output_it_is_printed(spender: Spender, archive: Path) -> None:
    ran = spender("query", "sdss", "--root", archive, "--where", "FIBERID == 3")
    assert ran.code == 0, ran.err
    assert "52254" in ran.out
    assert "GALAXY" in ran.out


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--cone", "1,2"), ("--cone '1,2'", "RA,DEC,RADIUS")),
        (("--box", "1,2,x,4"), ("--box '1,2,x,4'", "numbers")),
        (("--healpix", "64"), ("--healpix '64'", "NSIDE,PIXEL")),
        (("--where", "nonsense ==="), ("nonsense",)),
        (("--where", "__import__('os')"), ()),
        (("-o", "x.txt"), (".fits, .ecsv, .parquet, .csv",)),
    ],
)
def test_what_makes_no_sense_is_one_line(
    spender: Spender,
    archive: Path,
    assert_one_line: Check,
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    assert_one_line(spender("query", "sdss", "--root", archive, *options), *parts)
