"""Files that are no coadds of DESI, or damaged ones, are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spender_desi.instrument import DESI

from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Reader = Callable[[Path], SpectrumBatch]


def test_single_exposures_are_refused(write_coadd: CoaddWriter, read_all: Reader) -> None:
    columns = {"COADD_FIBERSTATUS": None, "FIBERSTATUS": np.zeros(4, dtype="i4")}
    path = write_coadd(name="spectra-sv3-bright-57.fits", fibermap=columns)
    with pytest.raises(
        FileError, match=r"spectra-sv3.* holds single exposures.*desi_coadd_spectra"
    ):
        read_all(path)
    assert DESI().loader.recognises(str(path))


def test_a_lone_redrock_is_refused(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, read_all: Reader
) -> None:
    path = write_redrock(write_coadd())
    with pytest.raises(FileError, match="is a redrock file: redshifts without spectra"):
        read_all(path)
    assert DESI().loader.recognises(str(path))


@pytest.mark.parametrize("missing", ["B_FLUX", "R_MASK", "Z_WAVELENGTH", "Z_IVAR"])
def test_missing_hdus_are_named(write_coadd: CoaddWriter, missing: str, read_all: Reader) -> None:
    path = write_coadd(edit=lambda images: images.pop(missing))
    with pytest.raises(FileError, match=rf"not a DESI coadd: it lacks the HDUs {missing}$"):
        read_all(path)


def test_cameras_off_the_grid_are_refused(write_coadd: CoaddWriter, read_all: Reader) -> None:
    def shift(images: dict[str, Any]) -> None:
        images["R_WAVELENGTH"] += 0.1

    with pytest.raises(
        FileError, match=r"57\.fits: camera R covers 5760\.100.*not on the DESI grid"
    ):
        read_all(write_coadd(edit=shift))


def test_cameras_beyond_the_grid_are_refused(write_coadd: CoaddWriter, read_all: Reader) -> None:
    def shift(images: dict[str, Any]) -> None:
        images["Z_WAVELENGTH"] += 0.8

    with pytest.raises(FileError, match="camera Z"):
        read_all(write_coadd(edit=shift))


@pytest.mark.parametrize("part", ["FLUX", "MASK", "WAVELENGTH"])
def test_images_of_another_shape_are_refused(
    write_coadd: CoaddWriter, part: str, read_all: Reader
) -> None:
    def cut(images: dict[str, Any]) -> None:
        images[f"R_{part}"] = images[f"R_{part}"][..., :-1]

    with pytest.raises(FileError, match=r"coadd-sv3-bright-57\.fits"):
        read_all(write_coadd(edit=cut))


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_truncated_files_are_refused(
    write_coadd: CoaddWriter, tmp_path: Path, fraction: float, read_all: Reader
) -> None:
    content = write_coadd().read_bytes()
    part = tmp_path / "coadd-part.fits"
    part.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(FileError, match=r"coadd-part\.fits"):
        read_all(part)
