"""The command `spender mock`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spender_core.datasets.mock.writing import read_mocks

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]


def test_mocks_are_written_and_the_seed_decides(spender: Spender, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.fits", "b.fits", "c.fits")]
    for file, seed in zip(files, (4, 4, 5), strict=True):
        options = ("--what", "stars", "--seed", seed, "--snr", 20, 30)
        ran = spender("mock", "sdss", "-n", 9, *options, "-o", file)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"{file}: 9 mock stars, ")
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    mocks = read_mocks(files[0])
    assert len(mocks.batch) == 9
    assert mocks.batch.instrument == "sdss"
    assert 15 < float(mocks.batch.snr.median()) < 35
    assert mocks.provenance["templates"] == {"stars": "parametric"}


def test_noise_and_masks_come_from_files(spender: Spender, tmp_path: Path, real_data: Path) -> None:
    files = sorted(real_data.rglob("spec-1942-*.fits"))  # sky fibres
    assert len(files) > 1
    named = [part for file in files for part in ("--conditions", file)]
    out = tmp_path / "mocks.fits"
    ran = spender("mock", "sdss", "-n", 5, *named, "--no-truth", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    mocks = read_mocks(out)
    assert mocks.truth is None
    assert mocks.provenance["conditions"] == f"{len(files)} from files"
    assert int(mocks.condition.max()) < len(files)


def test_files_that_tell_no_conditions_are_refused(
    spender: Spender, tmp_path: Path, write_spec: Writer, assert_one_line: Check
) -> None:
    spec = write_spec(tmp_path / "spec.fits")
    ran = spender("mock", "sdss", "--conditions", spec, "-o", tmp_path / "mocks.fits")
    assert_one_line(ran, "has no column SKY")
    assert not (tmp_path / "mocks.fits").exists()


def test_mistakes_are_told_in_one_line(
    spender: Spender, tmp_path: Path, assert_one_line: Check
) -> None:
    out = tmp_path / "mocks.fits"
    assert_one_line(spender("mock", "nope", "-o", out), "no instrument named 'nope'")
    assert_one_line(spender("mock", "sdss", "-o", tmp_path / "mocks.csv"), "end it in .fits")
    assert_one_line(spender("mock", "sdss", "--what", "x", "-o", out), "what must be one of")
    assert_one_line(spender("mock", "sdss", "--z", 8, 9, "-o", out), "no object has a redshift")
    empty = spender("mock", "sdss", "--templates", tmp_path, "-o", out)
    assert_one_line(empty, "no ndArch-ssp_hires_galaxy")
    taken = spender("mock", "sdss", "--conditions", out, "-o", out)
    assert_one_line(taken, str(out))
    assert not out.exists()
