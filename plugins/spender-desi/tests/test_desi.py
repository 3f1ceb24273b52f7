"""DESI on fabricated files: its contract, ids, cameras and redshifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from spender_desi.instrument import DESI

from spender_core import registry
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError
from spender_core.interfaces import Instrument
from spender_core.testing import InstrumentContract, LoaderContract

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Reader = Callable[[Path], SpectrumBatch]
Targets = Callable[[SpectrumBatch], list[int]]


class TestDESI(InstrumentContract, LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return DESI()

    @pytest.fixture
    def files(
        self,
        write_coadd: CoaddWriter,
        write_redrock: RedrockWriter,
        with_resolution: Callable[..., Any],
    ) -> list[Path]:
        names = ("coadd-sv3-bright-57.fits", "coadd-sv3-dark-57.fits")
        coadds = [write_coadd(name=name, edit=with_resolution()) for name in names]
        write_redrock(coadds[0])
        return coadds


def test_the_registry_offers_desi(write_coadd: CoaddWriter) -> None:
    assert "desi" in registry.instruments()
    assert registry.recognise(str(write_coadd())).name == "desi"


def test_ids_tell_survey_program_and_healpix(
    write_coadd: CoaddWriter, read_all: Reader, target_ids: tuple[int, ...]
) -> None:
    batch = read_all(write_coadd())
    assert batch.ids is not None
    assert batch.ids.tolist() == [
        (target, "sv3", "bright", 57, -1, -1, -1) for target in target_ids
    ]
    assert batch.label(0) == f"{target_ids[0]}-sv3-bright-57"


def test_ids_of_tiles_tell_the_tile(
    write_coadd: CoaddWriter, read_all: Reader, target_ids: tuple[int, ...]
) -> None:
    header = {"TILEID": 80605, "PETAL": 3, "SPGRP": "cumulative", "SPGRPVAL": 20210205}
    batch = read_all(write_coadd(name="coadd-3-80605-thru20210205.fits", header=header))
    assert batch.ids is not None
    assert batch.ids.tolist() == [(target, "", "", -1, 80605, 20210205, 3) for target in target_ids]
    assert batch.label(1) == f"{target_ids[1]}-80605-20210205-3"


@pytest.mark.parametrize("group", ["pernight", "1x_depth", "healpix", ""])
def test_ids_of_other_groups_of_exposures_tell_no_night(
    write_coadd: CoaddWriter, read_all: Reader, group: str
) -> None:
    """The archive is searched for cumulative coadds by night and petal."""
    header = {"TILEID": 80605, "PETAL": 3, "SPGRP": group, "SPGRPVAL": 4}
    ids = read_all(write_coadd(header=header)).ids
    assert ids is not None
    assert (ids["NIGHT"] == -1).all()
    assert (ids["PETAL"] == -1).all()


def test_names_that_ids_cannot_hold_are_refused(write_coadd: CoaddWriter, read_all: Reader) -> None:
    """They would be those of another survey."""
    with pytest.raises(FileError, match="SURVEY 'abcdefghijkl' is longer than 8"):
        read_all(write_coadd(header={"SURVEY": "abcdefghijkl"}))


def test_ids_take_the_number_in_the_name_of_a_file(
    write_coadd: CoaddWriter, read_all: Reader
) -> None:
    ids = read_all(write_coadd(header={"HPXPIXEL": 57, "UNIQPIX": 16441})).ids
    assert ids is not None
    assert (ids["HEALPIX"] == 16441).all()


def test_cameras_are_joined(write_coadd: CoaddWriter) -> None:
    """Copied where one camera sees a pixel, weighted by ivar where two do."""
    kept: dict[str, Any] = {}
    batch = DESI().loader.load(str(write_coadd(edit=kept.update)))
    flux, ivar = batch.flux.numpy(), batch.ivar.numpy()
    for camera, alone in {
        "B": slice(0, 2700),
        "R": slice(2751, 4900),
        "Z": slice(5026, 7781),
    }.items():
        first = round((kept[f"{camera}_WAVELENGTH"][0] - 3600) / 0.8)
        here = slice(alone.start - first, alone.stop - first)
        np.testing.assert_array_equal(flux[:, alone], kept[f"{camera}_FLUX"][:, here])
        np.testing.assert_array_equal(ivar[:, alone], kept[f"{camera}_IVAR"][:, here])
    for left, right, both in (("B", "R", slice(2700, 2751)), ("R", "Z", slice(4900, 5026))):
        starts = {c: round((kept[f"{c}_WAVELENGTH"][0] - 3600) / 0.8) for c in (left, right)}
        f, w = (
            [kept[f"{c}_{part}"][:, both.start - starts[c] : both.stop - starts[c]] for c in starts]
            for part in ("FLUX", "IVAR")
        )
        np.testing.assert_allclose(ivar[:, both], w[0] + w[1], rtol=1e-6)
        np.testing.assert_allclose(
            flux[:, both], (f[0] * w[0] + f[1] * w[1]) / (w[0] + w[1]), rtol=1e-5
        )


@pytest.mark.parametrize("bit", [0, 5, 30, 31])
def test_any_bit_of_the_mask_masks(write_coadd: CoaddWriter, bit: int) -> None:
    def edit(images: dict[str, Any]) -> None:
        images["B_MASK"][1, 100] = np.int64(1 << bit).astype("i4") if bit < 31 else -(2**31)

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    assert (~batch.good).nonzero().tolist() == [[1, 100]]


def test_pixels_that_are_bad_are_masked(write_coadd: CoaddWriter) -> None:
    def edit(images: dict[str, Any]) -> None:
        images["B_FLUX"][0, 10] = np.nan
        images["B_IVAR"][0, 11:14] = [0.0, 1e-6, -1.0]
        images["Z_FLUX"][0, 2000] = np.inf

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    assert (~batch.good).nonzero().tolist() == [[0, 10], [0, 11], [0, 12], [0, 13], [0, 6900]]
    assert batch.flux.isfinite().all()


def test_a_bad_camera_leaves_the_other_one(write_coadd: CoaddWriter) -> None:
    """In the overlap, a masked or missing value in B leaves that of R."""
    kept: dict[str, Any] = {}

    def edit(images: dict[str, Any]) -> None:
        images["B_MASK"][0, 2710] = 4
        images["B_IVAR"][0, 2711] = 0
        images["B_FLUX"][0, 2712], images["B_IVAR"][0, 2712] = np.nan, 0
        kept.update(images)

    batch = DESI().loader.load(str(write_coadd(edit=edit)))
    for pixel in (2710, 2711, 2712):
        assert batch.flux[0, pixel].item() == pytest.approx(
            kept["R_FLUX"][0, pixel - 2700], rel=1e-6
        )
        assert batch.ivar[0, pixel].item() == pytest.approx(
            kept["R_IVAR"][0, pixel - 2700], rel=1e-6
        )


def test_redshifts_are_joined_by_target(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    targets: Targets,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd()
    write_redrock(coadd)
    batch = DESI().read(str(coadd))
    assert targets(batch) == list(target_ids)
    assert batch.z.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert batch.zerr.tolist() == [1e-5] * 4
    assert batch.flags.tolist() == [0] * 4


def test_targets_without_a_redshift_are_unknown(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, target_ids: tuple[int, ...]
) -> None:
    """Of four targets two are in the redrock file, with two of another coadd."""
    coadd = write_coadd()
    write_redrock(coadd, TARGETID=np.array([target_ids[3], 5, target_ids[1], 2**62]))
    batch = DESI().read(str(coadd))
    assert batch.z.isnan().tolist() == [True, False, True, False]
    assert batch.z[[1, 3]].tolist() == [0.4, 0.3]
    assert batch.zerr.isinf().tolist() == [True, False, True, False]
    assert Flag.NO_Z in Flag(int(batch.flags[0]))


@pytest.mark.parametrize("rows", [0, 1])
def test_short_tables_of_redshifts(
    write_coadd: CoaddWriter,
    write_redrock: RedrockWriter,
    rows: int,
    read_all: Reader,
    target_ids: tuple[int, ...],
) -> None:
    coadd = write_coadd()
    columns = {"TARGETID": np.array(target_ids), "Z": np.full(4, 0.1), "ZERR": np.full(4, 1e-5)}
    columns |= {"ZWARN": np.zeros(4, dtype="i8"), "DELTACHI2": np.full(4, 100.0)}
    kept = {name: values[:rows] for name, values in columns.items()}
    write_redrock(coadd, **kept, SPECTYPE=np.array(["GALAXY"] * rows, dtype="U6"))
    assert int((~read_all(coadd).z.isnan()).sum()) == rows


def test_redshifts_that_are_no_numbers_are_unknown(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, read_all: Reader
) -> None:
    coadd = write_coadd()
    write_redrock(coadd, Z=np.array([np.nan, 0.1, -2.0, 0.2]), ZERR=np.array([1, np.nan, 1, -1e-5]))
    batch = read_all(coadd)
    assert batch.z.isnan().tolist() == [False, False, True, True]
    assert batch.zerr.tolist()[:2] == [float("inf"), 1e-5]


def test_without_redrock_nothing_is_known(write_coadd: CoaddWriter) -> None:
    batch = DESI().read(str(write_coadd()))
    assert batch.z.isnan().all()
    assert batch.zerr.isinf().all()
    assert all(flag & int(Flag.NO_Z) for flag in batch.flags.tolist())


def test_folders_named_coadd_are_left_alone(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, tmp_path: Path
) -> None:
    coadd = write_coadd(tmp_path / "my-coadd-files" / "coadd-old")
    write_redrock(coadd)
    assert DESI().read(str(coadd)).z.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_a_damaged_redrock_is_named(
    write_coadd: CoaddWriter, tmp_path: Path, read_all: Reader
) -> None:
    coadd = write_coadd()
    (tmp_path / "redrock-sv3-bright-57.fits").write_text("<html>503</html>")
    with pytest.raises(FileError, match="redrock-sv3-bright-57"):
        read_all(coadd)
    fits.HDUList([fits.PrimaryHDU()]).writeto(
        tmp_path / "redrock-sv3-bright-57.fits", overwrite=True
    )
    with pytest.raises(FileError, match=r"redrock-sv3-bright-57\.fits.*REDSHIFTS.*remove it"):
        read_all(coadd)
