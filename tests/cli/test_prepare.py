"""`spender prepare`: files to a dataset, told in words and exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from astropy.table import Table

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.cli.prepare import _ids
from spender_core.datasets.layout import SPLITS
from spender_core.datasets.reading import Dataset

Write = Callable[..., Path]


@pytest.fixture
def specs(write_spec: Write, tmp_path: Path) -> list[Path]:
    """Twelve spec files of SDSS."""
    return [write_spec(tmp_path / f"spec-{k:02d}.fits", FIBERID=k + 1) for k in range(12)]


def test_files_become_a_dataset_once(specs: list[Path], tmp_path: Path, spender: Any) -> None:
    root = tmp_path / "root"
    ran = spender("prepare", "sdss", *specs, "-o", root)
    assert ran.code == 0, ran.err
    assert "12 spectra, 3 shard(s) written, 0 kept; 12 source(s) read, 0 not used" in ran.out
    assert "train" in ran.out
    dataset = Dataset(str(root), registry.instrument("sdss"))
    assert sum(dataset.rows(split) for split in ("train", "validation", "test")) == 12
    again = spender("prepare", "sdss", *specs, "-o", root)
    assert "0 shard(s) written, 3 kept; 0 source(s) read" in again.out


def test_a_coadd_is_cut_unless_all_is_asked_for(
    write_coadd: Write, tmp_path: Path, spender: Any
) -> None:
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    ran = spender("prepare", "desi", coadd, "-o", tmp_path / "good")
    assert "2 spectra" in ran.out
    ran = spender("prepare", "desi", coadd, "-o", tmp_path / "all", "--all")
    assert "3 spectra" in ran.out


def test_a_list_of_files_is_read(specs: list[Path], tmp_path: Path, spender: Any) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(map(str, specs[2:])) + "\n\n")
    ran = spender("prepare", "sdss", *specs[:2], "--list", listing, "-o", tmp_path / "root")
    assert "12 spectra" in ran.out
    absent = spender("prepare", "sdss", "--list", tmp_path / "no", "-o", tmp_path / "r")
    assert absent.code == 1
    assert "cannot read" in absent.err


def test_ids_come_from_a_table(write_spec: Write, tmp_path: Path, spender: Any) -> None:
    archive = tmp_path / "archive"
    for fibre in (1, 2, 3):
        name = f"dr16/sdss/spectro/redux/26/spectra/lite/0412/spec-0412-52254-{fibre:04d}.fits"
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        write_spec(archive / name, FIBERID=fibre)
    table = tmp_path / "ids.csv"
    Table({"plate": [412] * 4, "mjd": [52254] * 4, "fiberid": [3, 9, 1, 2]}).write(table)
    arguments = ("prepare", "sdss", "--ids", table, "-o", tmp_path / "root")
    ran = spender(*arguments, "--archive", archive, "--release", "dr16")
    assert ran.code == 0, ran.err
    assert "3 spectra" in ran.out
    assert "1 not used" in ran.out
    assert "(412, 52254, 9" in ran.err


def test_what_cannot_be_read_is_listed(specs: list[Path], tmp_path: Path, spender: Any) -> None:
    specs[3].write_bytes(b"no FITS")
    ran = spender("prepare", "sdss", *specs, "-o", tmp_path / "root")
    assert ran.code == 0
    assert "11 spectra" in ran.out
    assert "1 not used" in ran.out
    (line,) = [line for line in ran.err.splitlines() if "not used" in line]
    assert str(specs[3]) in line
    strict = spender("prepare", "sdss", *specs, "-o", tmp_path / "strict", "--strict")
    assert strict.code == 1
    assert str(specs[3]) in strict.err


def test_damage_is_named_and_rebuilt(specs: list[Path], tmp_path: Path, spender: Any) -> None:
    root = tmp_path / "root"
    spender("prepare", "sdss", *specs, "-o", root)
    assert spender("prepare", "sdss", "-o", root, "--verify").code == 0
    shard = root / "data" / "train-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    ran = spender("prepare", "sdss", "-o", root, "--verify")
    assert ran.code == 1
    assert "damaged: data/train-00000.parquet: it has" in ran.err
    assert "rebuilds" in ran.err
    ran = spender("prepare", "sdss", *specs, "-o", root)
    assert "rebuilt: data/train-00000.parquet" in ran.err
    assert shard.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("x.fits",), ("--output",)),
        (("-o", "root"), ("FILES", "--ids")),
        (("x.fits", "--ids", "y.csv", "-o", "root"), ("FILES", "--ids")),
        (("x.fits", "-o", "root", "--release", "dr16"), ("--release", "--ids")),
        (("x.fits", "-o", "https://example.org/root"), ("https://example.org/root", "s3://")),
        (("--ids", "y.csv", "-o", "root"), ("y.csv", ".parquet")),
        (("-o", "root", "--verify"), ("root", "no dataset")),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
    spender: Any,
    assert_one_line: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(spender("prepare", "sdss", *arguments), *parts)
    assert not (tmp_path / "root").exists()


def test_a_table_without_ids_is_refused(
    tmp_path: Path, spender: Any, assert_one_line: Callable[..., None]
) -> None:
    table = tmp_path / "ids.csv"
    Table({"plate": [412], "name": ["x"]}).write(table)
    ran = spender("prepare", "sdss", "--ids", table, "-o", tmp_path / "root")
    assert_one_line(ran, "MJD, FIBERID", "RUN2D")


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("39627652591521793.0\n39627652591521795.0", "TARGETID has numbers that are not"),
        ("1\n1.5", "TARGETID has numbers that are not"),
        ("1\n", "TARGETID"),
        ("1\nx", "write the ids as integers"),
    ],
)
def test_ids_that_are_not_exact_are_refused(
    column: str, told: str, tmp_path: Path, spender: Any, assert_one_line: Callable[..., None]
) -> None:
    table = tmp_path / "ids.csv"
    rows = [f"{value},main" for value in column.split("\n")]
    table.write_text("\n".join(["TARGETID,SURVEY", *rows]) + "\n")
    ran = spender("prepare", "desi", "--ids", table, "-o", tmp_path / "root")
    assert_one_line(ran, told)


def test_ids_that_lack_what_they_may_lack_are_read(tmp_path: Path) -> None:
    table = tmp_path / "ids.csv"
    rows = ["39627652591521793,main,7", "39627652591521795,,"]
    table.write_text("\n".join(["TARGETID,SURVEY,HEALPIX", *rows]) + "\n")
    ids = _ids(table, registry.instrument("desi"))
    assert ids["TARGETID"].tolist() == [39627652591521793, 39627652591521795]
    assert ids["SURVEY"].tolist() == ["main", ""]
    assert ids["HEALPIX"].tolist() == [7, -1]


def test_without_pyarrow_it_says_what_to_install(
    specs: list[Path],
    tmp_path: Path,
    spender: Any,
    assert_one_line: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = spender("prepare", "sdss", *specs, "-o", tmp_path / "root")
    assert_one_line(ran, "pyarrow", "spender-core[parquet]")


def _heed() -> None:
    """Heed Ctrl-C, which a shell lets processes in the background ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_it_says_how_to_go_on(write_coadd: Write, tmp_path: Path) -> None:
    """Ctrl-C ends it with 130; the same command goes on."""
    coadd = write_coadd(tmp_path / "coadd-x.fits")
    root = tmp_path / "root"
    command = [sys.executable, "-m", "spender_core.cli", "prepare", "desi", "-o", str(root)]
    files = [str(tmp_path / f"coadd-{number}.fits") for number in range(3000)]
    for file in files:
        Path(file).symlink_to(coadd)
    with subprocess.Popen(
        [*command, *files], stderr=subprocess.PIPE, text=True, preexec_fn=_heed
    ) as running:
        while not root.exists():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "the same command goes on" in err


def test_the_spectra_are_those_that_are_read(
    specs: list[Path], tmp_path: Path, spender: Any
) -> None:
    sdss = registry.instrument("sdss")
    spender("prepare", "sdss", *specs, "-o", tmp_path / "root")
    read = sdss.read(specs)
    dataset = Dataset(str(tmp_path / "root"), sdss)
    written = SpectrumBatch.cat([dataset.read(split) for split in SPLITS])
    assert read.ids is not None
    assert written.ids is not None
    order = written.ids["FIBERID"].argsort()
    assert (written.ids[order] == read.ids).all()
    assert torch.equal(written.flux[order], read.flux)
