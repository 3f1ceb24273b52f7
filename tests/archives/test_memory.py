"""Reading takes at most 4 times a file's size in memory, whatever the file claims."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from spender_core import registry

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

CONSTANT = 16 << 20
"""Bytes of what does not grow with the file: tables of astropy, buffers, chunks of spectra."""

CAMERAS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}

MEASURE = """
import gc, json, sys
from pathlib import Path
from spender_core import registry
from spender_core.errors import SpenderError

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

def read(path):
    options = {"quality": False, "lsf": sys.argv[3] == "lsf"}
    try:
        return f"{len(registry.recognise(path).read(path, **options))} spectra"
    except SpenderError as error:
        return str(error)

read(sys.argv[1])
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS:")
told = read(sys.argv[2])
print(json.dumps([status("VmHWM:") - before, told]))
"""


@pytest.fixture
def growth(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Return a function that reads a file in a process of its own, and tells the peak of memory."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs /proc, to measure memory")
    small = tmp_path / "warm.fits"
    coadd(small, 1, with_resolution)

    def measure(path: Path, what: str = "spectra") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(small), str(path), what],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        grown, told = json.loads(done.stdout.splitlines()[-1])
        return int(grown), str(told)

    return measure


def coadd(path: Path, n: int, edit: Callable[[list[Any]], None] | None = None) -> None:
    """Write a coadd as small as it can be: compressed masks, and no resolution."""
    rng = np.random.default_rng(0)
    fibermap = fits.BinTableHDU(Table({"TARGETID": np.arange(n), "OBJTYPE": ["TGT"] * n}))
    fibermap.name = "FIBERMAP"
    hdus: list[Any] = [fits.PrimaryHDU(), fibermap]
    for camera, (first, pixels) in CAMERAS.items():
        flux = (5 + rng.standard_normal((n, pixels))).astype("f4")
        hdus += [
            fits.ImageHDU(first + 0.8 * np.arange(pixels), name=f"{camera}_WAVELENGTH"),
            fits.ImageHDU(flux, name=f"{camera}_FLUX"),
            fits.ImageHDU(np.ones_like(flux), name=f"{camera}_IVAR"),
            fits.CompImageHDU(np.zeros((n, pixels), dtype="i4"), name=f"{camera}_MASK"),
        ]
    if edit:
        edit(hdus)
    fits.HDUList(hdus).writeto(path)


def with_resolution(hdus: list[Any]) -> None:
    """Add resolution matrices to a coadd, each of 11 diagonals."""
    for camera, (_, pixels) in CAMERAS.items():
        n = len(hdus[1].data)
        data = np.full((n, 11, pixels), 1 / 11, dtype="f4")
        hdus.append(fits.ImageHDU(data, name=f"{camera}_RESOLUTION"))


@pytest.mark.parametrize("targets", [5, 600])
def test_a_good_coadd_takes_less_than_four_times_its_size(
    growth: Callable[[Path], tuple[int, str]], tmp_path: Path, targets: int
) -> None:
    path = tmp_path / "coadd-many.fits"
    coadd(path, targets)
    grown, told = growth(path)
    assert told == f"{targets} spectra"
    assert grown < 4 * path.stat().st_size + CONSTANT


@pytest.mark.parametrize("targets", [5, 100])
def test_line_spread_functions_take_memory_only_on_request(
    growth: Callable[..., tuple[int, str]], tmp_path: Path, targets: int
) -> None:
    path = tmp_path / "coadd-many.fits"
    coadd(path, targets, with_resolution)
    size = path.stat().st_size
    grown, told = growth(path, "lsf")
    assert told == f"{targets} spectra"
    assert grown < 4 * size + CONSTANT
    without, _ = growth(path)
    assert without < size + CONSTANT


def test_real_files_take_less_than_four_times_their_size(
    growth: Callable[..., tuple[int, str]], real_data: Path
) -> None:
    files = sorted((real_data / "desi").rglob("coadd-*.fits"), key=lambda file: file.stat().st_size)
    for path in (
        files[-1],
        max((real_data / "sdss").rglob("*.fits"), key=lambda f: f.stat().st_size),
    ):
        for what in ("spectra", "lsf"):
            grown, told = growth(path, what)
            assert told.endswith("spectra")
            assert grown < 4 * path.stat().st_size + CONSTANT


def replace(key: str, value: int) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        place = content.index(f"{key:8s}= ".encode(), content.index(b"B_FLUX") - 2880)
        card = f"{key:8s}= {value:20d}".encode().ljust(80)
        return content[:place] + card + content[place + 80 :]

    return edit


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content + bytes(2880 * 40_000))


def compressed_fluxes(hdus: list[Any]) -> None:
    """Replace fluxes, ivar and masks by images of zeros, which compress well."""
    for k, hdu in enumerate(hdus):
        if hdu.name.endswith(("FLUX", "IVAR", "MASK")):
            pixels = CAMERAS[hdu.name[0]][1]
            zeros = np.zeros((2000, pixels), dtype="i4")
            hdus[k] = fits.CompImageHDU(zeros, name=hdu.name, compression_type="GZIP_1")
    table = Table({"TARGETID": np.arange(2000), "OBJTYPE": ["TGT"] * 2000})
    hdus[1] = fits.BinTableHDU(table)
    hdus[1].name = "FIBERMAP"


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "rows": replace("NAXIS2", 10**9),
    "pixels": replace("NAXIS1", 10**13),
    "gzip": gzipped,
    "trailing zeros": lambda content: content + bytes(2880 * 3000),
    "long header": lambda content: content[:160] + b"COMMENT x".ljust(80) * 200_000 + content[160:],
    "many HDUs": lambda content: (
        content
        + 6000
        * content[:2880].replace(
            b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '          "
        )
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_files_that_claim_too_much_take_no_memory(
    growth: Callable[[Path], tuple[int, str]], tmp_path: Path, bomb: str
) -> None:
    coadd(tmp_path / "coadd-good.fits", 3)
    path = tmp_path / "coadd-bomb.fits"
    path.write_bytes(BOMBS[bomb]((tmp_path / "coadd-good.fits").read_bytes()))
    grown, told = growth(path)
    assert "cannot read" in told
    assert "coadd-bomb.fits" in told
    assert grown < 4 * path.stat().st_size + CONSTANT


def test_images_that_expand_take_no_memory(
    growth: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "coadd-bomb.fits"
    coadd(path, 1, compressed_fluxes)
    grown, told = growth(path)
    assert "more than the whole file" in told
    assert grown < 4 * path.stat().st_size + CONSTANT
    with path.open("ab") as file:  # as large as one image, and much smaller than all
        content = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros(24_000_000, "u1"))]).writeto(
            content
        )
        file.write(content.getvalue()[2880:])
    grown, told = growth(path)
    assert "too small for the 2000 spectra" in told
    assert grown < 4 * path.stat().st_size + CONSTANT


def test_tables_of_one_wide_row_take_no_memory(
    growth: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    """Strings of SDSS files would become four times as long in memory."""
    wide = np.zeros((1, 2_000_000), dtype="f4")
    row = {"PLATE": [1], "MJD": [1], "FIBERID": [1], "RUN2D": wide}
    spec = {name: np.ones(9) for name in ("flux", "loglam", "ivar", "and_mask")}
    path = tmp_path / "spec-wide.fits"
    tables = [fits.BinTableHDU(Table(columns)) for columns in (spec, row)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    path.write_bytes(path.read_bytes().replace(b"'2000000E'", b"'8000000A'"))
    grown, told = growth(path)
    assert "its column RUN2D does not hold one value a row" in told
    assert grown < 4 * path.stat().st_size + CONSTANT


def test_the_measure_sees_memory(growth: Callable[[Path], tuple[int, str]], tmp_path: Path) -> None:
    path = tmp_path / "coadd-some.fits"
    coadd(path, 300)
    grown, _ = growth(path)
    batch = registry.instrument("desi").read(str(path))
    assert grown > batch.flux.nbytes + batch.ivar.nbytes
