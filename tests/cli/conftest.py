"""The command line within this process, files of spectra, and a small model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from spender_core import registry
from spender_core.cli import main
from spender_core.grid import Log
from spender_core.nn.autoencoder import SpectrumAutoencoder


@dataclass(frozen=True)
class Ran:
    """How a command went."""

    code: int
    out: str
    err: str


Spender = Callable[..., Ran]


@pytest.fixture
def spender(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Spender:
    """Return a function that runs the command `spender` within this process."""

    def run(*arguments: Any) -> Ran:
        monkeypatch.setattr(sys, "argv", ["spender", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def assert_one_line() -> Callable[..., None]:
    """Return a check that a command failed with one line."""

    def check(ran: Ran, *parts: str) -> None:
        """Check that a command failed with one readable line, which holds the parts."""
        assert ran.code == 1
        (line,) = ran.err.splitlines()
        assert line.startswith("spender: error: ")
        for part in parts:
            assert part in line

    return check


def table_hdu(columns: Mapping[str, Any], name: str = "") -> fits.BinTableHDU:
    hdu = fits.BinTableHDU(Table({key: np.asarray(values) for key, values in columns.items()}))
    hdu.name = name
    return hdu


@pytest.fixture
def write_spec() -> Callable[..., Path]:
    """Return a function that writes a spec file of SDSS or BOSS."""

    def write(path: Path, run2d: str = "26", **row: Any) -> Path:
        """Write a spec file: a straight spectrum with noise, at z = 0.1."""
        pixels = 3800
        loglam = 3.581 + 1e-4 * np.arange(pixels)
        flux = 5 + 0.5 * np.random.default_rng(0).standard_normal(pixels)
        columns = {"flux": flux, "loglam": loglam, "ivar": np.full(pixels, 4.0)}
        columns["and_mask"] = np.zeros(pixels, dtype="i4")
        catalogue = {"PLATE": 412, "MJD": 52254, "FIBERID": 308, "RUN2D": run2d, "Z": 0.1}
        catalogue |= {"Z_ERR": 1e-5, "ZWARNING": 0} | row
        hdus = [
            fits.PrimaryHDU(),
            table_hdu(columns),
            table_hdu({k: [v] for k, v in catalogue.items()}),
        ]
        fits.HDUList(hdus).writeto(path)
        return path

    return write


@pytest.fixture
def write_coadd() -> Callable[..., Path]:
    """Return a function that writes a DESI coadd."""

    def write(path: Path, kinds: tuple[str, ...] = ("TGT", "TGT", "SKY")) -> Path:
        """Write a DESI coadd of straight spectra, without a redrock file beside it."""
        n, rng = len(kinds), np.random.default_rng(0)
        fibermap = {"TARGETID": 100 + np.arange(n), "OBJTYPE": kinds}
        fibermap |= {"COADD_FIBERSTATUS": np.zeros(n, dtype="i4")}
        hdus: list[Any] = [fits.PrimaryHDU(), table_hdu(fibermap, "FIBERMAP")]
        hdus[0].header.update({"SURVEY": "sv3", "PROGRAM": "dark", "HPXPIXEL": 57})
        for camera, (first, pixels) in {
            "B": (3600, 2751),
            "R": (5760, 2326),
            "Z": (7520, 2881),
        }.items():
            images = {
                "WAVELENGTH": first + 0.8 * np.arange(pixels),
                "FLUX": (5 + 0.5 * rng.standard_normal((n, pixels))).astype("f4"),
                "IVAR": np.full((n, pixels), 4, dtype="f4"),
                "MASK": np.zeros((n, pixels), dtype="i4"),
            }
            hdus += [fits.ImageHDU(data, name=f"{camera}_{part}") for part, data in images.items()]
        fits.HDUList(hdus).writeto(path)
        return path

    return write


@pytest.fixture
def small() -> SpectrumAutoencoder:
    """A small autoencoder for DESI."""
    torch.manual_seed(0)
    widths: dict[str, Any] = {"filters": (4, 4, 4), "sizes": (5, 11, 21), "encoder_hidden": (6,)}
    desi = registry.instrument("desi")
    return SpectrumAutoencoder([desi], Log(3.4, 2e-3, 290), 3, decoder_hidden=(8,), **widths).eval()


@pytest.fixture
def pt_file(small: SpectrumAutoencoder, tmp_path: Path) -> Path:
    """The same autoencoder as spender writes it, with placeholders after its layers."""
    state = {"decoder.wave_rest": small.wave_rest.float()}
    state["encoder.instrument.wave_obs"] = torch.tensor(small.instrument.wave).float()
    for name, tensor in small.state_dict().items():
        parts = name.removeprefix("encoders.desi.").removeprefix("decoder.").split(".")
        if parts[0] == "mlp":
            block, part = divmod(int(parts[1]), 2)
            parts[1] = str(3 * block + part)
        home = "decoder" if name.startswith("decoder") else "encoder"
        state[".".join([home, *parts])] = tensor
    path = tmp_path / "spender.small.pt"
    torch.save({"model": [state], "losses": [1.0, 0.5]}, path)
    return path
