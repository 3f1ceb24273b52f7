"""Damaged coadds, values that cannot be, and ids that are none: each is told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_desi.instrument import DESI

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, InputError, SpenderError

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Reader = Callable[[Path], SpectrumBatch]


@pytest.mark.parametrize("camera", ["B", "R", "Z"])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("FLUX", np.nan),
        ("FLUX", np.inf),
        ("IVAR", np.nan),
        ("IVAR", np.inf),
        ("IVAR", -4.0),
        ("IVAR", -0.001),
    ],
)
def test_values_that_cannot_be_are_masked_and_flagged(
    write_coadd: CoaddWriter, read_all: Reader, camera: str, part: str, value: float
) -> None:
    """In the overlaps of the cameras too, where another one has a good value."""

    def spoil(images: dict[str, Any]) -> None:
        images[f"{camera}_{part}"][1, [3, 1000, -3]] = value

    good, bad = read_all(write_coadd()), read_all(write_coadd(edit=spoil))
    lost = good.good & ~bad.good
    assert lost.sum(dim=1).tolist()[::2] == [0, 0]
    assert 1 <= int(lost[1].sum()) <= 3  # sky lines are masked anyway
    assert (bad.flux[lost] == 0).all()
    assert (bad.good | lost == good.good).all()
    assert bad.flags.tolist() == (good.flags + torch.tensor([0, 256, 0, 0])).tolist()
    assert not DESI().rejects & Flag.BAD_VALUES


def test_what_the_survey_masked_may_hold_anything(
    write_coadd: CoaddWriter, read_all: Reader
) -> None:
    def spoil(images: dict[str, Any]) -> None:
        images["B_FLUX"][1, 10], images["B_MASK"][1, 10] = np.nan, 1
        images["Z_FLUX"][2, 10], images["Z_IVAR"][2, 10] = np.nan, 0

    batch = read_all(write_coadd(edit=spoil))
    assert batch.flux.isfinite().all()
    assert not (batch.flags & int(Flag.BAD_VALUES)).any()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: i.update(R_FLUX=i["R_FLUX"][:3]), r"R_FLUX has shape \(3, 2326\), not \(4,"),
        (lambda i: i.update(Z_IVAR=i["Z_IVAR"][0]), r"Z_IVAR has shape \(2881,\)"),
        (lambda i: i.update(B_MASK=i["B_MASK"][:, :9]), r"B_MASK has shape \(4, 9\)"),
        (lambda i: i.update(B_WAVELENGTH=i["B_WAVELENGTH"][None]), "B_WAVELENGTH has shape"),
        (lambda i: i["B_WAVELENGTH"].__setitem__(5, np.nan), "wavelengths of camera B are not"),
        (lambda i: i.update(B_FLUX=np.zeros((4, 2751), dtype="c8").view("f4")), "B_FLUX has shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    write_coadd: CoaddWriter, read_all: Reader, edit: Any, message: str
) -> None:
    with pytest.raises(FileError, match=rf"coadd-sv3-bright-57\.fits: {message}"):
        read_all(write_coadd(edit=edit))


@pytest.mark.parametrize(
    ("fibermap", "message"),
    [
        ({"TARGETID": None}, "it has no column TARGETID"),
        ({"TARGETID": np.array(["a"] * 4)}, "its column TARGETID"),
        ({"TARGETID": np.arange(4.0)}, "its column TARGETID has the type float64"),
        ({"OBJTYPE": np.arange(4)}, "its column OBJTYPE has the type int64"),
        ({"COADD_FIBERSTATUS": np.array(["x"] * 4)}, "its column COADD_FIBERSTATUS"),
        ({"DESI_TARGET": np.arange(4.0)}, "its column DESI_TARGET"),
    ],
    ids=str,
)
def test_columns_of_another_type_are_refused(
    write_coadd: CoaddWriter, read_all: Reader, fibermap: Any, message: str
) -> None:
    with pytest.raises(FileError, match=message):
        read_all(write_coadd(fibermap=fibermap))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Z": np.array(["x"] * 4)}, "its column Z has the type"),
        ({"ZWARN": np.ones(4)}, "its column ZWARN has the type float64"),
        ({"TARGETID": np.ones(4)}, "its column TARGETID has the type float64"),
    ],
    ids=str,
)
def test_redrock_files_of_another_type_are_refused(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    read_all: Reader,
    columns: Any,
    message: str,
) -> None:
    coadd = write_coadd()
    write_redrock(coadd, **columns)
    with pytest.raises(FileError, match=rf"redrock-sv3-bright-57\.fits: {message}"):
        read_all(coadd)


def test_a_file_without_targets_is_refused(
    write_coadd: CoaddWriter, read_all: Reader, tmp_path: Path
) -> None:
    with fits.open(write_coadd()) as hdus:
        k = hdus.index_of("FIBERMAP")
        hdus[k] = fits.BinTableHDU(hdus[k].data[:0], name="FIBERMAP")
        hdus.writeto(tmp_path / "coadd-none.fits")
    with pytest.raises(FileError, match=r"coadd-none\.fits: its FIBERMAP has no rows"):
        read_all(tmp_path / "coadd-none.fits")


def test_a_fibermap_that_is_an_image_is_refused(
    write_coadd: CoaddWriter, read_all: Reader, tmp_path: Path
) -> None:
    with fits.open(write_coadd()) as hdus:
        hdus[hdus.index_of("FIBERMAP")] = fits.ImageHDU(np.zeros((4, 4)), name="FIBERMAP")
        hdus.writeto(tmp_path / "coadd-none.fits")
    with pytest.raises(FileError, match="its FIBERMAP is not a table"):
        read_all(tmp_path / "coadd-none.fits")


@pytest.mark.parametrize(
    "row",
    [
        ("sv3", "dark", 5.0),
        ("sv3", "dark", float("nan")),
        ("sv3", "dark", None),
        ("sv3", "dark", "57"),
        ("sv3", "dark", True),
        ("sv3", "dark", -1),
        ("sv3", "dark", 12 * 64**2),
        ("sv3", "dark", 10**30),
        ("sv3", "dark", 57, 1.5),
        ("sv3", "dark", 57, 2**63),
        ("sv3", "dark", 57, None),
        ("sv3", "../../etc", 5),
        ("sv1", "../../etc", 5),
        ("../sv3", "dark", 5),
        (b"sv3", "dark", 5),
        (None, "dark", 5),
        (["sv3"], "dark", 5),
        ("sv3\0", "dark", 5),
        {"survey": "sv3"},
    ],
    ids=repr,
)
def test_ids_that_are_none_are_refused(row: Any, tmp_path: Path) -> None:
    """Alone, and with `strict` before anything is read; otherwise they cost only themselves."""
    for ids, strict in (([row], False), ([("sv3", "dark", 5), row], True)):
        with pytest.raises(InputError):
            DESI().read(ids, root=tmp_path, strict=strict)
    chunks = list(DESI().read_chunks([("sv3", "dark", 5), row], root=tmp_path))
    assert [one.error for one in chunks[0].failures] == ["MissingFileError", "InputError"]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise_anything_else(
    write_coadd: CoaddWriter, read_all: Reader, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(write_coadd().read_bytes())
    headers = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("="))
    for place in rng.choice(headers, 3):
        content[place + int(rng.integers(-8, 20))] = int(rng.integers(256))
    path = tmp_path / "coadd-fuzzed.fits"
    path.write_bytes(content)
    try:
        told = f"coadd-fuzzed.fits: {len(read_all(path))} spectra"
    except SpenderError as error:
        told = str(error)
    assert "coadd-fuzzed.fits" in told
