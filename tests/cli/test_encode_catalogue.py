"""The command `spender encode` into a folder: what it takes, tells and refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from astropy.table import Table

from spender_core import cataloguing

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path: Path, write_spec: Writer) -> list[Path]:
    """Three files of one spectrum each, and one that is none."""
    (tmp_path / "data").mkdir()
    made = [write_spec(tmp_path / f"data/{n}.fits", FIBERID=n, PLATE=400 + n) for n in range(1, 4)]
    (tmp_path / "data/0.fits").write_text("a note")
    return [tmp_path / "data/0.fits", *made]


def test_a_catalogue_and_what_is_told_of_it(
    spender: Spender, tmp_path: Path, files: list[Path]
) -> None:
    out = tmp_path / "catalogue"
    line = ("encode", *files, "-o", f"{out}/", "--workers", 0, "--partition", 2)
    ran = spender(*line, "--failures", tmp_path / "bad.csv")
    assert ran.code == 0
    assert f"{out}: 3 spectra in 2 of 2 partitions, 2 of them made now and 0 before" in ran.out
    assert "1 source(s) not read (1 FileError)" in ran.err
    assert f"{out}/_failures.csv lists what is missing" in ran.err
    assert Table.read(tmp_path / "bad.csv")["source"].tolist() == [str(files[0])]
    assert cataloguing.read(out)["FIBERID"].tolist() == [1, 2, 3]
    again = spender("encode", *files, "-o", out, "--workers", 0, "--partition", 2)
    assert again.code == 0
    assert "0 of them made now and 2 before" in again.out


def test_the_columns_of_a_table_and_of_a_catalogue_agree(
    spender: Spender, tmp_path: Path, files: list[Path]
) -> None:
    spender("encode", *files, "-o", tmp_path / "table.fits", "--refine", 1)
    spender("encode", *files, "-o", f"{tmp_path}/catalogue/", "--workers", 0, "--refine", 1)
    table = Table.read(tmp_path / "table.fits")
    made = cataloguing.read(tmp_path / "catalogue")
    shared = [name for name in table.colnames if name in made.colnames]
    assert {*table.colnames} - {*shared} == {"file", "object"}
    for name in shared:
        if table[name].dtype.kind == "f":
            assert made[name] == pytest.approx(table[name], rel=1e-4, abs=1e-5)
        else:
            assert made[name].tolist() == table[name].tolist()


def test_files_in_a_list(spender: Spender, tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in files))
    out = tmp_path / "catalogue"
    assert spender("encode", f"@{tmp_path}/list.txt", "-o", f"{out}/", "--workers", 0).code == 0
    assert len(cataloguing.read(out)) == 3


def test_a_table_of_ids(spender: Spender, tmp_path: Path, write_spec: Writer) -> None:
    root = tmp_path / "sas"
    folder = root / "dr17/sdss/spectro/redux/26/spectra/lite/0412"
    folder.mkdir(parents=True)
    write_spec(folder / "spec-0412-52254-0308.fits")
    ids = Table({"plate": [412], "mjd": [52254], "fiberid": [308]}, meta={"INSTRUME": "sdss"})
    ids.write(tmp_path / "ids.ecsv")
    line = ("encode", "--ids", tmp_path / "ids.ecsv", "--root", root, "--release", "dr17")
    ran = spender(*line, "-o", f"{tmp_path}/catalogue/", "--workers", 0)
    assert ran.code == 0, ran.err
    assert cataloguing.read(tmp_path / "catalogue")["FIBERID"].tolist() == [308]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "t.fits", "--workers", 2), "--workers goes with a catalogue"),
        (("-o", "t.fits", "--partition", 2, "--redshift"), "--redshift, --partition goes with"),
        (("-o", "c/", "--workers", 2, "--scheduler", "tcp://a:1"), "give one of them"),
        (("-o", "c/", "--ids", "ids.fits"), "one of the two"),
        (("-o", "c/", "--release", "dr17"), "--root and --release go with --ids"),
        (("-o", "c/", "--model", "desi_demo"), "no instrument in model"),
        (("-o", "c/", "--failures", "bad.txt"), "must end in"),
        (("-o", "data/"), "is where the spectra are"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    spender: Spender, assert_one_line: Check, files: list[Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert_one_line(spender("encode", *files, *options), told)
    assert not (tmp_path / "c").exists()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {path.name for path in files}


def test_nothing_that_can_be_used_is_an_error(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    sky = write_spec(tmp_path / "sky.fits", ZWARNING=1)
    ran = spender("encode", sky, "-o", f"{tmp_path}/catalogue/", "--workers", 0)
    assert ran.code == 1
    assert "1 spectra fail the quality cuts; --all keeps those" in ran.err


def test_redshifts_of_real_galaxies_are_measured_into_a_catalogue(
    spender: Spender, tmp_path: Path
) -> None:
    if "SPENDER_TEST_DATA" not in os.environ:
        pytest.skip("SPENDER_TEST_DATA is not set: it names a folder of real spectra")
    folder = (
        Path(os.environ["SPENDER_TEST_DATA"]) / "sdss/sas/dr17/sdss/spectro/redux/26/spectra/lite"
    )
    files = [folder / f"0266/spec-0266-51602-{fibre}.fits" for fibre in ("0013", "0107")]
    ran = spender("encode", *files, "-o", f"{tmp_path}/catalogue/", "--workers", 0, "--redshift")
    assert ran.code == 0
    table = cataloguing.read(tmp_path / "catalogue")
    assert len(table) == 2
    assert abs(table["z_model"] - table["z"]).max() < 1e-3
    assert table["z_flags"].tolist() == [0, 0]
