"""Fabricated spec files, and the folder of real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

SpecWriter = Callable[..., Path]

NAMES = ("flux", "loglam", "ivar", "and_mask", "or_mask", "wdisp", "sky", "model")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real spectra, or skip where there is none."""
    folder = os.environ.get("SPENDER_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: SPENDER_TEST_DATA is not set")
    path = Path(folder)
    assert path.is_dir(), f"SPENDER_TEST_DATA={folder} is not a folder"
    return path


@pytest.fixture
def write_spec(tmp_path: Path) -> SpecWriter:
    """Return a function that writes a spec file as the archive has it, and returns its path.

    A galaxy at z = 0.1, of flux around 5 and noise 0.5, in pixels of 1e-4 in log10. Files
    of run2d v5_13_0 have names in capitals and no names of HDUs, as the archive's do.
    """

    def write(
        folder: Path | None = None,
        plate: int = 412,
        mjd: int = 52254,
        fiberid: int = 308,
        run2d: str = "26",
        start: float = 3.5811,
        pixels: int = 3820,
        coadd: Mapping[str, Any] | None = None,
        catalogue: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a file; `coadd` and `catalogue` replace columns of its two tables."""
        rng = np.random.default_rng(fiberid)
        loglam = np.round(start + 1e-4 * np.arange(pixels), 4)
        flux = 5 + np.sin(300 * loglam) + 0.5 * rng.standard_normal(pixels)
        zero = np.zeros(pixels)
        columns = dict(
            zip(
                NAMES,
                (flux, loglam, zero + 4, zero, zero, zero + 1.1, zero + 0.2, flux),
                strict=True,
            )
        )
        columns |= dict(coadd or {})
        boss = not run2d.isdigit()
        row = {
            "ZWARNING": 0,
            "Z": 0.1,
            "Z_ERR": 2e-5,
            "CLASS": "GALAXY",
            "PLATE": plate,
            "MJD": mjd,
            "FIBERID": fiberid,
            "RUN2D": run2d,
            "OBJTYPE" if boss else "SOURCETYPE": "GALAXY",
        }
        row |= dict(catalogue or {})
        hdus = fits.HDUList(
            [
                fits.PrimaryHDU(),
                _table({_case(name, boss): values for name, values in columns.items()}),
                _table({name: [value] for name, value in row.items()}),
                _table({"LINENAME": ["H_alpha"], "LINEZ": [0.1]}),
            ]
        )
        if not boss:
            for hdu, name in zip(hdus[1:], ("COADD", "SPECOBJ", "SPZLINE"), strict=True):
                hdu.name = name
        path = (folder or tmp_path) / f"spec-{plate:04d}-{mjd}-{fiberid:04d}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        hdus.writeto(path, overwrite=True)
        return path

    return write


def _case(name: str, boss: bool) -> str:
    return name.upper() if boss else name


def _table(columns: Mapping[str, Any]) -> fits.BinTableHDU:
    """Return a table with the archive's types: float32, int32 and strings."""
    made = []
    for name, values in columns.items():
        array = np.asarray(values)
        if array.dtype.kind == "U":
            kind = f"{array.dtype.itemsize // 4 or 1}A"
        else:
            integer = array.dtype.kind == "i" or name.lower().endswith("_mask")
            kind = "J" if integer else "E"
        made.append(fits.Column(name, kind, array=array))
    return fits.BinTableHDU.from_columns(made)
