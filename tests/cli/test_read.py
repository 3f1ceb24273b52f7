"""`spender read`: files and ids into one file of spectra, told in words and exit codes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units
from astropy.io import fits
from astropy.table import Table
from range_server import serving

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.cli import products, read
from spender_core.datasets.tables import to_batch
from spender_core.errors import InputError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

LITE = "dr17/sdss/spectro/redux/26/spectra/lite/0412/spec-0412-52254-{:04d}.fits"


@pytest.fixture
def archive(tmp_path: Path, write_spec: Writer) -> Path:
    """A copy of SDSS's archive with three spectra, the last of the sky."""
    root = tmp_path / "archive"
    for fibre in (1, 2, 3):
        path = root / LITE.format(fibre)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_spec(path, FIBERID=fibre, Z=0.1 * fibre, ZWARNING=int(fibre == 3))
    return root


def batch_of(path: Path, instrument: str) -> SpectrumBatch:
    """Return the spectra of an output as the page of archives says that they are read."""
    made = registry.instrument(instrument)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        return to_batch(parquet.read_table(path), made)
    if path.suffix == ".fits":
        table, wave = Table.read(path, hdu="SPECTRA"), fits.getdata(path, "WAVELENGTH")
    else:
        table = Table.read(path)
        wave = np.array(table.meta["wave"])
    flux, ivar = (np.asarray(table[name]) for name in ("FLUX", "IVAR"))
    names = made.loader.id_dtype.names if made.loader is not None else ()
    ids = table[list(names or ())].as_array().astype(made.loader.id_dtype)  # type: ignore[union-attr]
    return made.batch(wave, flux, ivar, np.asarray(table["Z"]), ids=ids)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_files_become_one_file(
    spender: Spender, tmp_path: Path, write_coadd: Writer, suffix: str
) -> None:
    coadds = [write_coadd(tmp_path / f"coadd-{name}.fits") for name in "ab"]
    output = tmp_path / "new" / f"out{suffix}"
    ran = spender("read", *coadds, "-o", output)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{output}: 4 spectra, ")
    assert "4 spectra of 2 source(s); 0 not read; 2 left out by the quality cuts" in ran.err
    expected, got = registry.instrument("desi").read(coadds), batch_of(output, "desi")
    for name in ("flux", "ivar"):
        ours, theirs = getattr(got, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert got.ids is not None
    assert expected.ids is not None
    assert got.ids.tolist() == expected.ids.tolist()
    assert [path.name for path in output.parent.iterdir()] == [output.name], "nothing is left over"


def test_a_fits_file_says_what_it_holds(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    sky = write_spec(tmp_path / "sky.fits", ZWARNING=1)
    output = tmp_path / "out.fits"
    assert spender("read", sky, "--all", "-o", output).code == 0
    with fits.open(output) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "WAVELENGTH", "SPECTRA"]
        assert hdus[0].header["INSTRUME"] == "sdss"
        names = {hdus["SPECTRA"].header[f"FLAG{bit}"]: 1 << bit for bit in range(9)}
    table = Table.read(output)
    assert table["FLUX"].unit == units.Unit("1e-17 erg / (s cm2 Angstrom)")
    assert (table["FLUX"].unit ** 2 * table["IVAR"].unit).is_equivalent(units.one)
    assert names["NOT_TARGET"] & table["FLAGS"][0]
    flux = table["FLUX"][0][table["IVAR"][0] > 0]
    np.testing.assert_allclose(np.median(flux), 5, rtol=0.02)  # of the file, not normalised
    np.testing.assert_allclose(table["IVAR"][0].max(), 4, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
@pytest.mark.parametrize("instrument", ["sdss", "desi"])
def test_chunks_make_no_difference(tmp_path: Path, suffix: str, instrument: str) -> None:
    """With the kinds of line spread functions that instruments have."""
    from spender_core.line_spread import BandedLSF, GaussianLSF

    made = registry.instrument(instrument)
    assert made.loader is not None
    rows, pixels = 5, made.grid.size
    ids = np.zeros(rows, dtype=made.loader.id_dtype)
    ids[next(iter(ids.dtype.names or ()))] = np.arange(rows)
    rng = np.random.default_rng(0)
    flux = 3 + rng.standard_normal((rows, pixels))
    lsf: Any = GaussianLSF(torch.rand(rows, pixels) + 0.5)
    if instrument == "desi":
        lsf = BandedLSF(torch.rand(rows, 3, pixels), (1, 0, -1))
    batch = made.batch(made.wave, flux, np.ones((rows, pixels)), z=0.1, ids=ids, lsf=lsf)
    if instrument == "desi" and suffix == ".ecsv":
        with (
            pytest.raises(InputError, match=r"write \.fits"),
            products.writing(tmp_path / "x.ecsv", made, True, "") as product,
        ):
            product.add(batch)
        return
    paths = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path, pieces in zip(
        paths, ([slice(None)], [slice(0, 2), slice(2, 2), slice(2, 5)]), strict=True
    ):
        with products.writing(path, made, True, "dr1") as product:
            for piece in pieces:
                product.add(batch[piece])
            assert product.rows == rows
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".fits":
        table = Table.read(paths[1])
        stored = np.asarray(table["LSF_SIGMA" if instrument == "sdss" else "RESOLUTION"])
        given = lsf.sigma if instrument == "sdss" else lsf.data
        np.testing.assert_array_equal(stored, given.numpy())
        assert fits.getheader(paths[1])["RELEASE"] == "dr1"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    sdss = registry.instrument("sdss")
    batch = sdss.batch(sdss.wave, np.ones(sdss.grid.size), np.ones(sdss.grid.size), z=0.1)
    batch = batch.replace(ids=np.zeros(1, dtype=sdss.loader.id_dtype))  # type: ignore[union-attr]

    def stop(path: Path) -> None:
        with products.writing(path, sdss, False, "") as product:
            product.add(batch)
            raise RuntimeError("stop")

    for suffix in products.FORMATS:
        with pytest.raises(RuntimeError, match="stop"):
            stop(tmp_path / f"x{suffix}")
        with products.writing(tmp_path / f"x{suffix}", sdss, False, "") as product:
            product.add(batch[:0])
    assert [path for path in tmp_path.iterdir() if path.name != "spender-home"] == []


# Ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["412-52254-{}", "412,52254,{}", "412-52254-{}-26"])
def test_ids_are_read_from_a_copy_of_the_archive(
    spender: Spender, tmp_path: Path, archive: Path, ids: str
) -> None:
    output = tmp_path / "out.fits"
    wanted = [ids.format(fibre) for fibre in (2, 1)]
    options = ("--instrument", "sdss", "--root", archive, "--release", "dr17")
    ran = spender("read", *wanted, *options, "-o", output)
    assert ran.code == 0, ran.err
    table = Table.read(output)
    assert table["FIBERID"].tolist() == [2, 1]
    np.testing.assert_allclose(table["Z"], [0.2, 0.1])
    assert fits.getheader(output)["RELEASE"] == "dr17"


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".parquet", ".csv"])
def test_a_table_of_ids_knows_its_instrument(
    spender: Spender, tmp_path: Path, archive: Path, suffix: str, assert_one_line: Check
) -> None:
    from spender_core.cli.query import QUERY_FORMATS
    from spender_core.cli.tables import write_table

    assert suffix in QUERY_FORMATS
    table = tmp_path / f"ids{suffix}"
    columns = {"PLATE": [412] * 2, "MJD": [52254] * 2, "FIBERID": [1, 2], "Z": [0.1, 0.2]}
    write_table(Table(columns, meta={"INSTRUME": "sdss", "RELEASE": "dr17"}), table)
    command = ["read", "--ids", table, "--root", archive, "-o", tmp_path / "out.fits"]
    if suffix == ".csv":  # which says nothing of itself
        assert_one_line(spender(*command), "ids need --instrument", "boss, desi, sdss")
        command += ["--instrument", "sdss"]
    ran = spender(*command)
    assert ran.code == 0, ran.err
    assert Table.read(tmp_path / "out.fits")["FIBERID"].tolist() == [1, 2]


def test_what_moved_is_told(
    spender: Spender, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the network, where one answer fails and is asked for again, and out of the cache."""
    monkeypatch.setattr("spender_core.archives.remote.fetching.PAUSE", 0.01)
    wanted = [f"412-52254-{fibre}" for fibre in (1, 2, 7)]
    with serving(archive) as server:
        server.fault("status", [LITE.format(2)], code=503, times=1)
        options = ("--instrument", "sdss", "--root", server.root, "--release", "dr17")
        ran = spender("read", *wanted, *options, "-o", tmp_path / "a.fits")
        assert ran.code == 3, ran.err
        told = ran.err.splitlines()[-1]
        assert "2 spectra of 3 source(s); 1 not read (1 MissingFileError)" in told
        assert re.search(r"; 0\.\d MB in \d+ request\(s\), 1 repeated; \d+\.\d s$", told), told
        server.forget()
        ran = spender("read", *wanted[:2], *options, "-o", tmp_path / "b.fits")
        assert ran.code == 0, ran.err
        assert server.seen().requests == 0
        assert re.search(r"; 0\.\d MB from the cache; \d+\.\d s$", ran.err.splitlines()[-1])
    assert (Table.read(tmp_path / "a.fits") == Table.read(tmp_path / "b.fits")).all()


def test_ids_as_text() -> None:
    desi, sdss = registry.instrument("desi"), registry.instrument("sdss")
    assert read.parse_id("sv3,dark,26065", desi) == ("sv3", "dark", 26065)
    assert read.parse_id("sv3, dark, 26065, 39627652591521793", desi)[3] == 39627652591521793
    assert read.parse_id("412-52254-308", sdss) == (412, 52254, 308)
    assert read.parse_id("412-52254-308-v5_13_0", sdss)[3] == "v5_13_0"


# Failures and exit codes --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".csv"])
def test_some_that_fail_are_told_and_listed(
    spender: Spender, tmp_path: Path, archive: Path, suffix: str
) -> None:
    output, listing = tmp_path / "out.fits", tmp_path / f"bad{suffix}"
    (archive / LITE.format(2)).write_bytes(b"no FITS")
    wanted = [f"412-52254-{fibre}" for fibre in (1, 2, 9)]
    options = ("--instrument", "sdss", "--root", archive, "--failures", listing)
    ran = spender("read", *wanted, *options, "-o", output)
    assert ran.code == 3
    assert len(Table.read(output)) == 1
    table = Table.read(listing)
    assert [str(kind) for kind in table["error"]] == ["FileError", "MissingFileError"]
    assert "(412, 52254, 2)" in str(table["source"][0])
    *_, last = ran.err.splitlines()
    assert "1 spectra of 3 source(s); 2 not read (1 FileError, 1 MissingFileError)" in last
    assert sum(line.startswith("not read: ") for line in ran.err.splitlines()) == 2


def test_many_failures_are_not_all_told(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    absent = [tmp_path / f"{number}.fits" for number in range(read.TOLD + 5)]
    ran = spender("read", write_spec(tmp_path / "a.fits"), *absent, "-o", tmp_path / "x.fits")
    assert ran.code == 3
    assert ran.err.count("not read: ") == read.TOLD
    assert "and 5 more; --failures FILE lists all" in ran.err


def test_nothing_is_an_error(spender: Spender, tmp_path: Path, write_spec: Writer) -> None:
    output, listing = tmp_path / "out.fits", tmp_path / "bad.ecsv"
    absent = [tmp_path / "a.fits", tmp_path / "b.fits"]
    options = ("-o", output, "--failures", listing)
    ran = spender("read", *absent, "--instrument", "sdss", *options)
    assert ran.code == 1
    assert "spender: error: none of 2 source(s) could be read" in ran.err.splitlines()[-1]
    assert len(Table.read(listing)) == 2
    assert spender("read", *absent, "-o", output).code == 1
    sky = write_spec(tmp_path / "sky.fits", ZWARNING=1)
    ran = spender("read", sky, "-o", output)
    assert ran.code == 1
    assert "none of 1 spectra passes the quality cuts; --all" in ran.err.splitlines()[-1]
    assert not output.exists()


def test_strict_stops_at_the_first(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check
) -> None:
    files = [write_spec(tmp_path / "a.fits"), tmp_path / "no.fits"]
    ran = spender("read", *files, "--strict", "-o", tmp_path / "out.fits")
    assert_one_line(ran, "no.fits")
    assert not (tmp_path / "out.fits").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("-o", "x.fits"), ("SOURCES", "--ids")),
        (("a.fits", "--ids", "b.ecsv", "-o", "x.fits"), ("SOURCES", "--ids")),
        (("a.fits", "-o", "x.csv"), (".fits, .parquet, .ecsv",)),
        (("a.fits", "-o", "x.fits", "--failures", "y.txt"), (".ecsv, .fits, .csv",)),
        (("1-2-3", "-o", "x.fits"), ("ids need --instrument",)),
        (("1-2-3", "a.fits", "-o", "x.fits"), ("'1-2-3' is an id and 'a.fits' a path",)),
        (("a.fits", "--root", "b", "-o", "x.fits"), ("--root", "go with ids")),
        (("--ids", "b.ecsv", "-o", "x.fits"), ("cannot read b.ecsv",)),
        (("a.fits", "-o", "x.fits", "--instrument", "dezi"), ("'desi'",)),
        (("here.fits", "-o", "here.fits"), ("is an input too",)),
        (("a.fits", "-o", "here.fits"), ("is there already; --overwrite",)),
    ],
)
def test_what_makes_no_sense_is_one_line(
    spender: Spender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_one_line: Check,
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.fits").write_text("here")
    assert_one_line(spender("read", *arguments), *parts)
    assert not Path("x.fits").exists()
    assert Path("here.fits").read_text() == "here"


def test_an_output_is_replaced_on_request(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    output = tmp_path / "out.fits"
    output.write_text("old")
    assert spender("read", write_spec(tmp_path / "a.fits"), "-o", output, "--overwrite").code == 0
    assert len(Table.read(output)) == 1


def test_a_usage_error_has_status_2(spender: Spender, tmp_path: Path) -> None:
    assert spender("read", tmp_path / "a.fits").code == 2
    assert spender("query").code == 2


def _heed() -> None:
    """Undo what a shell does to the processes that it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals between processes")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half(
    tmp_path: Path, write_spec: Writer, number: int, status: int
) -> None:
    good, output = write_spec(tmp_path / "a.fits"), tmp_path / "x.fits"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/spec.fits"
        command = [sys.executable, "-m", "spender_core.cli", "read", good, url, "-o", output]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=_heed, env={**os.environ}
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert err.splitlines()[-1].startswith("interrupted: nothing was written")
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["a.fits"],
        ["a.fits", "spender-home"],
    )
