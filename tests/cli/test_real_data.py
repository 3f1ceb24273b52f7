"""Every real SDSS, BOSS and DESI file goes through `encode` and `plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from spender_core.cli import app
from spender_core.errors import FileError, NoSpectraError

FILES = ("sdss/sas/**/spec-*.fits", "desi/public/**/coadd-*.fits")


def real_files(root: Path) -> list[Path]:
    return sorted(file for pattern in FILES for file in root.glob(pattern))


def test_encode_every_file(real_data: Path, tmp_path: Path) -> None:
    """Each spectrum is in the table or listed with its cause; none is lost."""
    files = real_files(real_data)
    output = tmp_path / "latents.ecsv"
    result = CliRunner().invoke(app, ["encode", *map(str, files), "-o", str(output)])
    assert result.exit_code == 0, result.output
    table = Table.read(output)
    unused = [line for line in result.stderr.splitlines() if line.startswith("not used: ")]
    seen = {*table["file"], *(line.split(": ")[1] for line in unused)}
    assert seen == {str(file) for file in files}
    assert all(line.split(": ", 2)[-1] for line in unused)
    for column in [name for name in table.colnames if name.startswith("s_")]:
        assert np.isfinite(table[column]).all()
    assert (table["norm"] > 0).all()
    known = np.isfinite(table["z"])
    assert np.isfinite(table["chi2"][known]).sum() > 40


def test_plot_every_file(real_data: Path, tmp_path: Path) -> None:
    """A picture of each file, or a cause why there is nothing to draw."""
    drawn = 0
    for number, file in enumerate(real_files(real_data)):
        output = tmp_path / f"{number}.png"
        result = CliRunner().invoke(app, ["plot", str(file), "-o", str(output)])
        if output.exists():
            assert result.exit_code == 0
            assert output.stat().st_size > 20_000
            drawn += 1
        else:
            assert isinstance(result.exception, NoSpectraError), (file, result.exception)
            assert str(file) in str(result.exception)
    assert drawn >= 65


@pytest.mark.parametrize("pattern", ["**/spectra-*.fits", "**/redrock-*.fits"])
def test_other_files_are_refused_in_a_sentence(real_data: Path, pattern: str) -> None:
    files = sorted((real_data / "desi/public").glob(pattern))
    assert files
    for file in files:
        result = CliRunner().invoke(app, ["plot", str(file), "-o", "never.png"])
        assert isinstance(result.exception, FileError)
        assert "coadd" in str(result.exception)
