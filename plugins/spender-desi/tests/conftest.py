"""Fabricated coadd and redrock files, and the folder of real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from spender_desi.instrument import DESI

from spender_core.batch import SpectrumBatch

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]

CAMERAS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
TARGETS = (39627000000000001, 39627000000000007, 39627000000000003, 39627000000000005)


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
def write_coadd(tmp_path: Path) -> CoaddWriter:
    """Return a function that writes a coadd of four targets and returns its path.

    As in the archive, the HDUs have no particular order and masks are compressed. Flux
    is around 3 with noise 0.5; target and wavelength can be told from it.
    """

    def write(
        folder: Path | None = None,
        name: str = "coadd-sv3-bright-57.fits",
        header: Mapping[str, Any] | None = None,
        fibermap: Mapping[str, Any] | None = None,
        edit: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        """Write a file.

        Args:
            folder: Where to write it.
            name: Its name.
            header: Keywords of the primary header, in place of those of a healpix.
            fibermap: Columns to add or replace; None removes one.
            edit: Changes the images, by HDU name, before they are written.
        """
        columns: dict[str, Any] = {
            "TARGETID": np.array(TARGETS),
            "COADD_FIBERSTATUS": np.zeros(4, dtype="i4"),
            "OBJTYPE": np.array(["TGT"] * 4),
            "DESI_TARGET": np.zeros(4, dtype="i8"),
        } | dict(fibermap or {})
        images = _images()
        if edit is not None:
            edit(images)
        hdus: list[Any] = [
            fits.CompImageHDU(data, name=key)
            if key.endswith("MASK")
            else fits.ImageHDU(data, name=key)
            for key, data in reversed(images.items())
        ]
        hdus.insert(5, fibermap_hdu({k: v for k, v in columns.items() if v is not None}))
        primary = fits.PrimaryHDU()
        keywords = {"SURVEY": "sv3", "PROGRAM": "bright", "HPXPIXEL": 57}
        primary.header.update(keywords if header is None else header)
        path = (folder or tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def with_resolution() -> Callable[..., Callable[[dict[str, Any]], None]]:
    """Return a function that makes an edit of a coadd: it adds Gaussian resolution matrices."""

    def make(
        taps: int = 11, sigma: float = 1.0, value: float = 1.0
    ) -> Callable[[dict[str, Any]], None]:
        def edit(images: dict[str, Any]) -> None:
            kernel = np.exp(-0.5 * ((np.arange(taps) - taps // 2) / sigma) ** 2)
            for camera in "BRZ":
                n, pixels = images[f"{camera}_FLUX"].shape
                data = np.broadcast_to((value * kernel / kernel.sum())[:, None], (n, taps, pixels))
                images[f"{camera}_RESOLUTION"] = data.astype("f4")

        return edit

    return make


@pytest.fixture
def write_redrock() -> RedrockWriter:
    """Return a function that writes the redrock file of a coadd, its rows in another order."""

    def write(coadd: Path, **columns: Any) -> Path:
        """Write a file beside the coadd; columns replace those of a good redshift."""
        table: dict[str, Any] = {
            "TARGETID": np.array([TARGETS[row] for row in (2, 0, 3, 1)]),
            "Z": np.array([0.3, 0.1, 0.4, 0.2]),
            "ZERR": np.full(4, 1e-5),
            "ZWARN": np.zeros(4, dtype="i8"),
            "DELTACHI2": np.full(4, 1000.0),
            "SPECTYPE": np.array(["GALAXY"] * 4),
        } | columns
        path = coadd.with_name(coadd.name.replace("coadd-", "redrock-", 1))
        redshifts = fibermap_hdu(table, "REDSHIFTS")
        targets = fibermap_hdu({"TARGETID": table["TARGETID"]})
        fits.HDUList([fits.PrimaryHDU(), redshifts, targets]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def target_ids() -> tuple[int, ...]:
    """Return the ids of the four targets of a coadd, by row."""
    return TARGETS


@pytest.fixture
def read_all() -> Callable[[Path], SpectrumBatch]:
    """Return a function that reads all spectra of a file, also those of poor quality."""

    def read(path: Path) -> SpectrumBatch:
        return DESI().read(str(path), quality=False)

    return read


@pytest.fixture
def targets() -> Callable[[SpectrumBatch], list[int]]:
    """Return a function that tells the ids of a batch's targets."""

    def tell(batch: SpectrumBatch) -> list[int]:
        assert batch.ids is not None
        return [int(target) for target in batch.ids["TARGETID"]]

    return tell


def _images() -> dict[str, Any]:
    """Return the images of the three cameras, in the archive's types."""
    rng = np.random.default_rng(1)
    images: dict[str, Any] = {}
    for camera, (first, pixels) in CAMERAS.items():
        wave = first + 0.8 * np.arange(pixels)
        level = np.array([2.0, 3.0, 4.0, 5.0])[:, None] + np.sin(wave / 100)
        flux = level + 0.5 * rng.standard_normal((4, pixels))
        images[f"{camera}_WAVELENGTH"] = wave
        images[f"{camera}_FLUX"] = flux.astype("f4")
        images[f"{camera}_IVAR"] = rng.uniform(3, 5, (4, pixels)).astype("f4")
        images[f"{camera}_MASK"] = np.zeros((4, pixels), dtype="i4")
    return images


def fibermap_hdu(columns: Mapping[str, Any], name: str = "FIBERMAP") -> fits.BinTableHDU:
    """Return a table HDU of columns with numpy's types."""
    kinds = {"f": "D", "i": "K"}
    made = []
    for column, values in columns.items():
        array = np.asarray(values)
        kind = kinds.get(array.dtype.kind) or f"{array.dtype.itemsize // 4 or 1}A"
        made.append(fits.Column(column, kind, array=array))
    return fits.BinTableHDU.from_columns(made, name=name)
