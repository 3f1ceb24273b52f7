"""What `spender encode` tells of files that cannot be read, and of spectra out of reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Writer = Callable[..., Path]


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".csv"])
def test_bad_files_are_listed_in_a_table(
    spender: Spender, tmp_path: Path, suffix: str, write_spec: Writer
) -> None:
    good, page = write_spec(tmp_path / "good.fits"), tmp_path / "page.fits"
    page.write_text("<html>503</html>")
    sky, listing = write_spec(tmp_path / "sky.fits", ZWARNING=1), tmp_path / f"bad{suffix}"
    output = tmp_path / "latents.ecsv"
    files = (good, page, sky, tmp_path / "absent.fits")
    ran = spender("encode", *files, "-o", output, "--failures", listing)
    assert ran.code == 0, ran.err
    table = Table.read(listing)
    assert table.colnames == ["source", "error", "message"]
    assert [str(file) for file in table["source"]] == [str(page), str(files[3])]
    assert [str(kind) for kind in table["error"]] == ["FileError", "MissingFileError"]
    assert "it is a web page" in str(table["message"][0])
    assert ran.err.splitlines()[-1] == "1 spectra encoded, 3 not used"
    assert len(Table.read(output)) == 1


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".csv"])
def test_without_bad_files_the_table_is_empty(
    spender: Spender, tmp_path: Path, suffix: str, write_spec: Writer
) -> None:
    listing = tmp_path / f"bad{suffix}"
    ran = spender("encode", write_spec(tmp_path / "a.fits"), "--failures", listing)
    assert ran.code == 0, ran.err
    assert len(Table.read(listing)) == 0


def test_the_table_is_written_if_all_files_are_bad(spender: Spender, tmp_path: Path) -> None:
    listing = tmp_path / "bad.ecsv"
    ran = spender("encode", tmp_path / "absent.fits", "--failures", listing)
    assert ran.code == 1
    assert len(Table.read(listing)) == 1


def test_an_unknown_format_is_refused(spender: Spender, tmp_path: Path) -> None:
    ran = spender("encode", tmp_path / "a.fits", "--failures", tmp_path / "bad.txt")
    assert ran.code == 1
    assert ran.err.endswith("bad.txt: its name must end in .ecsv, .fits, .csv\n")


def test_secrets_of_urls_are_nowhere(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Writer
) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    url = "https://alice:pw123@host.org/spec.fits?token=hidden"
    good, listing = write_spec(tmp_path / "a.fits"), tmp_path / "bad.ecsv"
    ran = spender("encode", good, url, "--failures", listing)
    told = ran.out + ran.err + listing.read_text()
    plot = spender("plot", url, "-o", tmp_path / "a.png")
    told += plot.out + plot.err
    assert told.count("https://host.org/spec.fits?token=...") >= 3
    assert not [word for word in ("alice", "pw123", "hidden") if word in told]


def test_a_remote_file_has_no_secrets_in_the_table(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    """The column `file` holds the URL as it may be shown."""
    import fsspec

    content = write_spec(tmp_path / "a.fits").read_bytes()
    fsspec.filesystem("memory").pipe("/folder/spec.fits", content)
    output = tmp_path / "latents.ecsv"
    ran = spender("encode", "memory://alice:pw@folder/spec.fits", "-o", output)
    text = ran.out + ran.err + (output.read_text() if output.exists() else "")
    assert "memory://folder/spec.fits" in text
    assert "pw@" not in text


def test_a_spectrum_out_of_reach_has_latents_and_a_remark(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    output = tmp_path / "latents.ecsv"
    far, near = write_spec(tmp_path / "far.fits", Z=9.0), write_spec(tmp_path / "near.fits", Z=0.55)
    ran = spender("encode", far, near, "-o", output)
    assert ran.code == 0, ran.err
    table = Table.read(output)
    assert np.isnan(table["chi2"][0])
    assert np.isfinite(table["chi2"][1])
    assert np.isfinite(table["s_0"]).all()
    assert "the model reaches no pixel at this z" in str(table["remark"][0])
    assert "z outside of the model's 0 to 0.5" in str(table["remark"][1])
    assert "Warning" not in ran.err


def test_a_spectrum_out_of_reach_is_drawn(
    spender: Spender, tmp_path: Path, write_spec: Writer
) -> None:
    ran = spender("plot", write_spec(tmp_path / "far.fits", Z=9.0), "-o", tmp_path / "far.png")
    assert ran.code == 0, ran.err
    assert (tmp_path / "far.png").exists()
