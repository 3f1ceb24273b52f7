"""Outputs of commands: checked before any work, and written whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table

from spender_core import registry
from spender_core.errors import WeightsError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]


def hard(link: Path, file: Path) -> None:
    link.hardlink_to(file)


def soft(link: Path, file: Path) -> None:
    link.symlink_to(file)


# Inputs are never overwritten -------------------------------------------------------------


@pytest.mark.parametrize("option", ["-o", "--failures"])
def test_an_input_is_no_output(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check, option: str
) -> None:
    good, other = write_spec(tmp_path / "a.fits"), write_spec(tmp_path / "b.fits")
    before = good.read_bytes()
    dotted = tmp_path / "folder" / ".." / "a.fits"
    (tmp_path / "folder").mkdir()
    for output in (good, dotted):
        ran = spender("encode", other, good, option, output)
        assert_one_line(ran, "is an input too", "give the output another name")
    assert good.read_bytes() == before


@pytest.mark.parametrize("link", [hard, soft])
def test_an_input_by_another_name_is_no_output(
    spender: Spender,
    tmp_path: Path,
    write_spec: Writer,
    assert_one_line: Check,
    link: Callable[[Path, Path], None],
) -> None:
    good = write_spec(tmp_path / "a.fits")
    link(tmp_path / "b.fits", good)
    assert_one_line(spender("encode", good, "-o", tmp_path / "b.fits"), "is an input too")
    for url in (f"file://{good}", f"local://{good}", f"simplecache::file://{good}"):
        assert_one_line(spender("encode", url, "-o", good), "is an input too")


def test_a_picture_is_no_input(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check
) -> None:
    good = write_spec(tmp_path / "a.fits").rename(tmp_path / "a.png")
    before = good.read_bytes()
    assert_one_line(spender("plot", good, "-o", good), "is an input too")
    assert good.read_bytes() == before


def test_weights_are_not_converted_in_place(
    spender: Spender, pt_file: Path, tmp_path: Path, assert_one_line: Check
) -> None:
    path = tmp_path / "small.safetensors"
    assert spender("convert", pt_file, "-o", path).code == 0
    before = path.read_bytes()
    ran = spender("convert", path, "-o", path, "--name", "other")
    assert_one_line(ran, "is an input too")
    assert path.read_bytes() == before


def test_two_outputs_have_two_names(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check
) -> None:
    good = write_spec(tmp_path / "a.fits")
    ran = spender("encode", good, "-o", tmp_path / "x.fits", "--failures", tmp_path / "x.fits")
    assert_one_line(ran, "are one file")
    (tmp_path / "x.ecsv").touch()
    (tmp_path / "y.ecsv").hardlink_to(tmp_path / "x.ecsv")
    ran = spender("encode", good, "-o", tmp_path / "x.ecsv", "--failures", tmp_path / "y.ecsv")
    assert_one_line(ran, "are one file")


@pytest.mark.parametrize("option", ["-o", "--failures"])
def test_what_is_there_is_replaced_on_request_alone(
    spender: Spender, tmp_path: Path, write_coadd: Writer, assert_one_line: Check, option: str
) -> None:
    """Such as the redshifts beside a coadd, which belong to it."""
    coadd, redrock = write_coadd(tmp_path / "coadd-x.fits"), tmp_path / "redrock-x.fits"
    Table({"TARGETID": [100]}).write(redrock)
    before = redrock.read_bytes()
    assert_one_line(spender("encode", coadd, option, redrock), "is there already; --overwrite")
    assert redrock.read_bytes() == before
    redrock.unlink()
    other = tmp_path / "x.fits"
    other.write_text("old")
    assert spender("encode", coadd, option, other, "--overwrite").code == 0
    assert len(Table.read(other)) == (2 if option == "-o" else 0)


# What cannot be written is told before anything is read ------------------------------------


@pytest.mark.parametrize("option", ["-o", "--failures"])
@pytest.mark.parametrize(
    "name", ["file/x.fits", "folder.fits", f"{'x' * 300}.fits", "new/a/b.fits"]
)
def test_outputs_are_checked_first(
    spender: Spender, tmp_path: Path, option: str, name: str, assert_one_line: Check
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.fits").mkdir()
    before = sorted(tmp_path.rglob("*"))
    ran = spender("encode", tmp_path / "absent.fits", option, tmp_path / name)
    if name.startswith("new"):
        assert "there is no file" in ran.err
    else:
        assert_one_line(ran, "cannot write")
        assert sorted(tmp_path.rglob("*")) == before


def test_parquet_is_checked_first(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_one_line: Check
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = spender("encode", tmp_path / "absent.fits", "-o", tmp_path / "x.parquet")
    assert_one_line(ran, "writing Parquet needs pyarrow")


# What is done is written, whatever happens -------------------------------------------------


@pytest.mark.parametrize("lost", ["-o", "--failures"])
def test_an_output_that_fails_leaves_the_other(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Writer, lost: str
) -> None:
    """Its folder becomes a file while the command works."""
    good = write_spec(tmp_path / "a.fits")
    outputs = {option: tmp_path / option / "x.ecsv" for option in ("-o", "--failures")}
    recognise = registry.recognise

    def spoil(url: str) -> Any:
        (tmp_path / lost).touch()
        return recognise(url)

    monkeypatch.setattr(registry, "recognise", spoil)
    options = [part for option in outputs.items() for part in option]
    ran = spender("encode", good, tmp_path / "absent.fits", *options)
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert lines[-1].startswith(f"spender: error: cannot write {outputs[lost]}")
    assert [line for line in lines if line.startswith("not used: ") and "absent.fits" in line]
    (other,) = set(outputs.values()) - {outputs[lost]}
    assert len(Table.read(other)) == 1
    if lost == "-o":
        assert "412-52254-308-26" in ran.out, "the table that cannot be written is printed"


def test_an_unforeseen_error_leaves_what_is_done(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Writer
) -> None:
    files = [write_spec(tmp_path / f"{name}.fits") for name in "abc"]
    recognise = registry.recognise

    def fail(url: str) -> Any:
        if url.endswith("b.fits"):
            raise MemoryError("no more")
        return recognise(url)

    monkeypatch.setattr(registry, "recognise", fail)
    ran = spender("encode", *files, "-o", tmp_path / "x.ecsv")
    assert ran.code == 1
    assert "spender: error: MemoryError: no more" in ran.err.splitlines()[-1]
    assert [str(file) for file in Table.read(tmp_path / "x.ecsv")["file"]] == [str(files[0])]


def _heed() -> None:
    """Undo what a shell does to the processes that it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT between processes")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_is_done(
    tmp_path: Path, write_spec: Writer, number: int, status: int
) -> None:
    good = write_spec(tmp_path / "a.fits")
    output, listing = tmp_path / "x.ecsv", tmp_path / "bad.ecsv"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/spec.fits"
        command = [sys.executable, "-m", "spender_core.cli", "encode", good, tmp_path / "no.fits"]
        command += [url, "-o", output, "--failures", listing]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=_heed
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert err.splitlines()[-1] == "interrupted after 2 of 3 file(s)"
    assert "Traceback" not in err
    assert out == f"{output}: 1 spectra\n"
    assert (len(Table.read(output)), len(Table.read(listing))) == (1, 1)


# Models that cannot be loaded ---------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_one_error(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    files = [write_spec(tmp_path / f"{name}.fits") for name in "ab"]
    options = ("-m", tmp_path / "bad.safetensors", "--failures", tmp_path / "bad.ecsv")
    assert_one_line(spender("encode", *files, *options), "bad.safetensors")
    assert not (tmp_path / "bad.ecsv").exists()
    picture = tmp_path / "a.png"
    assert_one_line(spender("plot", tmp_path / "absent", *options[:2], "-o", picture), "bad.safe")


def test_an_instrument_without_its_model_leaves_the_others(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Writer
) -> None:
    load, asked = registry.load, list[str]()

    def fail(name: str, **options: Any) -> Any:
        asked.append(name)
        if name == "sdss_demo":
            raise WeightsError("its server is silent")
        return load(name, **options)

    monkeypatch.setattr(registry, "load", fail)
    files = [write_spec(tmp_path / f"{name}.fits") for name in "ab"]
    files.append(write_spec(tmp_path / "boss.fits", "v5_13_0"))
    output, listing = tmp_path / "x.ecsv", tmp_path / "bad.ecsv"
    ran = spender("encode", *files, "-o", output, "--failures", listing)
    assert ran.code == 1
    assert asked == ["sdss_demo", "boss_demo"]
    assert ran.err.count("its server is silent") == 1
    assert ran.err.splitlines()[-1] == "spender: error: its server is silent"
    assert ran.err.count("not used: ") == 2
    assert [str(name) for name in Table.read(output)["instrument"]] == ["boss"]
    assert len(Table.read(listing)) == 0, "the files themselves could be read"


# Names from outside -------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_names_that_are_no_text_are_escaped(
    tmp_path: Path, write_spec: Writer, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    odd = os.fsencode(tmp_path) + b"/\xff\x1b[31m.fits"
    os.rename(write_spec(tmp_path / "a.fits"), odd)  # noqa: PTH104  a path of bytes
    output = tmp_path / f"\udcfe{suffix}"
    listing = tmp_path / "bad.ecsv"
    command = [sys.executable, "-m", "spender_core.cli", "encode", odd, odd + b"x"]
    command += ["-o", os.fsencode(output), "--failures", str(listing)]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert b"\x1b" not in ran.stdout + ran.stderr
    assert b"\\udcff\\x1b[31m.fitsx: " in ran.stderr
    plain = output.rename(tmp_path / f"plain{suffix}")
    if suffix == ".parquet":
        from pyarrow import parquet

        table = Table(parquet.read_table(plain).to_pydict())
    else:
        table = Table.read(plain)
    assert str(table["file"][0]).endswith("\\udcff\\x1b[31m.fits")
    assert str(Table.read(listing)["source"][0]).endswith("\\udcff\\x1b[31m.fitsx")
