"""Files of archives are never replaced, and what spender wrote is a table of ids again."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from spender_core.cli.tables import read_table, write_table
from spender_core.errors import InputError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

LITE = "dr17/sdss/spectro/redux/26/spectra/lite/0412/spec-0412-52254-{:04d}.fits"


@pytest.fixture
def archive(tmp_path: Path, write_spec: Writer) -> Path:
    """A copy of SDSS's archive with two spectra."""
    for fibre in (1, 2):
        path = tmp_path / "archive" / LITE.format(fibre)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_spec(path, FIBERID=fibre, Z=0.1 * fibre)
    return tmp_path / "archive"


def redrock(path: Path) -> Path:
    """Write a redrock file of the targets of `write_coadd`."""
    rows = {"TARGETID": 100 + np.arange(3), "Z": np.full(3, 0.1), "ZERR": np.full(3, 1e-4)}
    rows |= {"ZWARN": np.zeros(3, "i4"), "DELTACHI2": np.full(3, 99.0)}
    fibermap = fits.BinTableHDU(Table({"TARGETID": rows["TARGETID"]}), name="FIBERMAP")
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table(rows), name="REDSHIFTS"), fibermap]
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("by", ["--root", "SPENDER_ROOT_SDSS", "config"])
def test_a_file_of_the_archive_is_not_replaced(
    spender: Spender,
    tmp_path: Path,
    archive: Path,
    assert_one_line: Check,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    spec = archive / LITE.format(2)
    before, root = spec.read_bytes(), (by, archive) if by == "--root" else ()
    if by.startswith("SPENDER"):
        monkeypatch.setenv(by, str(archive))
    elif by == "config":
        (tmp_path / "config.toml").write_text(f'[roots]\nsdss = "{archive}"\n')
        monkeypatch.setenv("SPENDER_CONFIG", str(tmp_path / "config.toml"))
    command = ("read", "412-52254-1", "--instrument", "sdss", *root, "--overwrite", "-o")
    assert_one_line(spender(*command, spec), "in the archive", "never replaced")
    (tmp_path / "other.fits").symlink_to(spec)
    assert_one_line(spender(*command, tmp_path / "other.fits"), "in the archive")
    assert spec.read_bytes() == before
    out = tmp_path / "out.fits"
    for _ in range(2):
        assert spender(*command, out).code == 0


def test_a_catalogue_of_the_archive_is_not_replaced(
    spender: Spender, archive: Path, assert_one_line: Check
) -> None:
    tiles = archive / "dr1" / "tilepix.fits"
    tiles.parent.mkdir()
    tiles.write_bytes(b"tiles")
    ran = spender("query", "desi", "--root", archive, "-o", tiles, "--overwrite")
    assert_one_line(ran, "in the archive", "never replaced")
    assert tiles.read_bytes() == b"tiles"


def test_files_beside_a_coadd_are_not_replaced(
    spender: Spender, tmp_path: Path, write_coadd: Writer, assert_one_line: Check
) -> None:
    coadd = write_coadd(tmp_path / "coadd-sv3-dark-57.fits")
    beside = redrock(tmp_path / "redrock-sv3-dark-57.fits")
    before = beside.read_bytes()
    ran = spender("read", coadd, "-o", beside, "--overwrite")
    assert_one_line(ran, "is a file of a survey")
    assert beside.read_bytes() == before


@pytest.mark.filterwarnings("ignore:No table..len:astropy.utils.exceptions.AstropyUserWarning")
@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_a_file_of_spectra_is_a_table_of_ids(
    spender: Spender, tmp_path: Path, archive: Path, write_coadd: Writer, suffix: str
) -> None:
    """It tells instrument and release, too."""
    first, second = tmp_path / f"one{suffix}", tmp_path / "two.fits"
    root = ("--root", archive, "--release", "dr16")
    ids = ("412-52254-2", "412-52254-1")
    (archive / "dr16").symlink_to(archive / "dr17")
    assert spender("read", *ids, "--instrument", "sdss", *root, "-o", first).code == 0
    table = read_table(first)
    assert table.meta["RELEASE"] == "dr16"
    assert all(table[name].ndim == 1 for name in table.colnames)
    ran = spender("read", "--ids", first, "--root", archive, "-o", second)
    assert ran.code == 0, ran.err
    assert Table.read(second)["FIBERID"].tolist() == [2, 1]
    if suffix != ".parquet" or find_spec("pandas"):  # astropy needs it
        assert Table.read(first)  # by whatever reads such files


def test_targets_keep_their_names_in_parquet(
    spender: Spender, tmp_path: Path, write_coadd: Writer
) -> None:
    """A table without TARGETID would stand for all targets of its healpix."""
    name = "dr1/spectro/redux/iron/healpix/sv3/dark/0/57/coadd-sv3-dark-57.fits"
    coadd = tmp_path / "desi" / name
    coadd.parent.mkdir(parents=True)
    write_coadd(coadd)
    first, second = tmp_path / "one.parquet", tmp_path / "two.fits"
    options = ("--instrument", "desi", "--root", tmp_path / "desi", "--all")
    ran = spender("read", "sv3,dark,57,101", *options, "-o", first)
    assert ran.code == 0, ran.err
    ran = spender("read", "--ids", first, "--root", tmp_path / "desi", "--all", "-o", second)
    assert ran.code == 0, ran.err
    assert Table.read(second)["TARGETID"].tolist() == [101]


@pytest.mark.parametrize("name", ["INSTRUME", "RELEASE"])
@pytest.mark.parametrize("value", [5, ["sdss"]])
def test_odd_words_of_a_table_are_passed_over(
    spender: Spender, tmp_path: Path, archive: Path, name: str, value: Any
) -> None:
    table = Table({"PLATE": [412], "MJD": [52254], "FIBERID": [1]}, meta={name: value})
    table.write(tmp_path / "ids.ecsv")
    command = ("read", "--ids", tmp_path / "ids.ecsv", "--instrument", "sdss", "--root", archive)
    assert spender(*command, "-o", tmp_path / "out.fits").code == 0


def test_long_and_negative_ids(
    spender: Spender, tmp_path: Path, archive: Path, assert_one_line: Check
) -> None:
    out = ("-o", tmp_path / "out.fits", "--root", archive)
    ran = spender("read", "412-52254-" + 5000 * "1", "--instrument", "sdss", *out)
    assert ran.code == 1
    assert len(ran.err) < 2000
    assert "Errno" not in ran.err
    ran = spender("read", "sv3,dark,26065,-5", "--instrument", "desi", *out)
    assert "coadd-sv3-dark-26065.fits" in ran.err


def test_csv_refuses_columns_with_several_values(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot hold MAG, .* \.parquet"):
        write_table(Table({"MAG": np.ones((2, 5))}), tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
