"""Some rows of a coadd, many rows in blocks, and redshifts that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_desi import cameras
from spender_desi.instrument import DESI
from spender_desi.loader import CoaddLoader

from spender_core.batch import SpectrumBatch
from spender_core.errors import FileError

CoaddWriter = Callable[..., Path]
RedrockWriter = Callable[..., Path]
Resolution = Callable[..., Callable[[dict[str, Any]], None]]


@pytest.fixture
def coadd(
    write_coadd: CoaddWriter, write_redrock: RedrockWriter, with_resolution: Resolution
) -> Path:
    """Return a coadd whose rows differ in everything that is read, with a redrock file."""

    def edit(images: dict[str, Any]) -> None:
        with_resolution()(images)
        for camera in "BRZ":
            images[f"{camera}_RESOLUTION"] *= np.arange(1, 5, dtype="f4")[:, None, None]
            for row in range(4):
                images[f"{camera}_MASK"][row, 100 * row + 50] = 4
        images["B_FLUX"][2, 700] = np.nan

    path = write_coadd(edit=edit, fibermap={"COADD_FIBERSTATUS": np.array([0, 4, 0, 0])})
    write_redrock(path)
    return path


def assert_equal(left: SpectrumBatch, right: SpectrumBatch) -> None:
    for name in ("flux", "ivar", "z", "zerr", "flags", "norm"):
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), rtol=0, atol=0, equal_nan=True, msg=name
        )
    assert left.ids is not None
    assert right.ids is not None
    assert left.ids.tolist() == right.ids.tolist()
    assert (left.lsf is None) == (right.lsf is None)
    if left.lsf is not None:
        assert torch.equal(left.lsf.data, right.lsf.data)


@pytest.mark.parametrize("lsf", [False, True])
@pytest.mark.parametrize("rows", [[2], [0, 1], [0, 3], [3, 0, 2], [0, 1, 2, 3]], ids=str)
def test_some_rows_are_those_of_the_whole(
    coadd: Path, target_ids: Sequence[int], rows: list[int], lsf: bool
) -> None:
    loader = CoaddLoader()
    whole = loader.load_with_lsf(str(coadd)) if lsf else loader.load(str(coadd))
    some = loader.load_rows(str(coadd), {"TARGETID": tuple(target_ids[r] for r in rows)}, lsf)
    assert_equal(some, whole[sorted(rows)])


@pytest.mark.parametrize("lsf", [False, True])
def test_targets_that_are_absent_are_absent(
    coadd: Path, target_ids: Sequence[int], lsf: bool
) -> None:
    loader = CoaddLoader()
    some = loader.load_rows(str(coadd), {"TARGETID": (7, target_ids[1])}, lsf)
    assert some.ids is not None
    assert some.ids["TARGETID"].tolist() == [target_ids[1]]
    none = loader.load_rows(str(coadd), {"TARGETID": (7,)}, lsf)
    assert none.flux.shape == (0, 7781)
    other = loader.load_rows(str(coadd), {"TARGETID": (target_ids[0],), "SURVEY": ("main",)}, lsf)
    assert len(other) == 0


@pytest.mark.parametrize("together", [1, 3, 4])
@pytest.mark.parametrize("lsf", [False, True])
def test_blocks_of_rows_give_the_same(
    coadd: Path, monkeypatch: pytest.MonkeyPatch, together: int, lsf: bool
) -> None:
    loader = CoaddLoader()
    read = loader.load_with_lsf if lsf else loader.load
    whole = read(str(coadd))
    monkeypatch.setattr(cameras, "TOGETHER", together)
    assert_equal(read(str(coadd)), whole)


def test_a_redrock_file_in_any_order_gives_the_same(
    coadd: Path, write_redrock: RedrockWriter, target_ids: Sequence[int]
) -> None:
    seen = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        write_redrock(
            coadd,
            TARGETID=np.array([target_ids[row] for row in order]),
            Z=np.array([0.1, 0.2, 0.3, 0.4])[order],
            ZERR=np.array([1e-5, 2e-5, 3e-5, 4e-5])[order],
            ZWARN=np.array([0, 4, 0, 0])[order],
            DELTACHI2=np.array([1000.0, 2000.0, 3000.0, 4000.0])[order],
        )
        seen.append(DESI().read(str(coadd), quality=False))
    assert seen[0].z.tolist() == [0.1, 0.2, 0.3, 0.4]
    for other in seen[1:]:
        assert_equal(seen[0], other)


def test_one_target_in_two_programs_stays_two_objects(
    tmp_path: Path, write_coadd: CoaddWriter, write_redrock: RedrockWriter
) -> None:
    """The same TARGETID, with other spectra and another redshift."""
    root = "edr/spectro/redux/fuji/healpix"
    for factor, program in ((1, "bright"), (2, "dark")):

        def edit(images: dict[str, Any], factor: int = factor) -> None:
            for camera in "BRZ":
                images[f"{camera}_FLUX"] *= factor

        path = write_coadd(
            folder=tmp_path / root / "sv3" / program / "0" / "57",
            name=f"coadd-sv3-{program}-57.fits",
            header={"SURVEY": "sv3", "PROGRAM": program, "HPXPIXEL": 57},
            edit=edit,
        )
        write_redrock(path, Z=np.full(4, 0.1 * factor))
    target = 39627000000000007
    ids = [("sv3", program, 57, target) for program in ("dark", "bright", "dark")]
    batch = DESI().read(ids, root=tmp_path, release="edr", quality=False)
    assert batch.ids is not None
    assert batch.ids["PROGRAM"].tolist() == ["dark", "bright", "dark"]
    assert batch.ids["TARGETID"].tolist() == [target] * 3
    assert batch.z.tolist() == [0.2, 0.1, 0.2]
    assert torch.equal(batch.flux[0] * batch.norm[0], batch.flux[2] * batch.norm[2])
    physical = batch.flux * batch.norm[:, None]
    torch.testing.assert_close(physical[0], 2 * physical[1], rtol=1e-5, atol=1e-5)
    again = DESI().read(list(batch.ids), root=tmp_path, release="edr", quality=False)
    assert_equal(batch, again)


def test_images_of_other_types_are_read(coadd: Path, tmp_path: Path) -> None:
    """Doubles, scaled whole numbers, and masks that are not compressed."""
    want = CoaddLoader().load(str(coadd))
    copy = tmp_path / "coadd-other.fits"
    with fits.open(coadd) as hdus:
        made = [fits.PrimaryHDU(header=hdus[0].header)]
        for hdu in hdus[1:]:
            if hdu.name.endswith("_FLUX") or hdu.name.endswith("_IVAR"):
                made.append(fits.ImageHDU(hdu.data.astype("f8"), name=hdu.name))
            elif hdu.name.endswith("_MASK"):
                made.append(fits.ImageHDU(np.asarray(hdu.data, dtype="u4"), name=hdu.name))
            else:
                made.append(hdu.copy())
        fits.HDUList(made).writeto(copy)
    got = CoaddLoader().load(str(copy))
    assert torch.equal(got.flux, want.flux)
    assert torch.equal(got.ivar, want.ivar)


def test_values_too_large_for_floats_are_masked(coadd: Path, tmp_path: Path) -> None:
    copy = tmp_path / "coadd-large.fits"
    with fits.open(coadd) as hdus:
        place = hdus.index_of("R_FLUX")
        data = hdus["R_FLUX"].data.astype("f8")
        data[1, 500] = 1e300
        hdus[place] = fits.ImageHDU(data, name="R_FLUX")
        hdus.writeto(copy)
    batch = CoaddLoader().load(str(copy))
    assert batch.ivar[1, 3200] == 0
    assert batch.flux[1, 3200] == 0
    assert batch.ivar[0, 3200] > 0


def test_matrices_that_are_no_cube_are_refused(
    write_coadd: CoaddWriter, with_resolution: Resolution
) -> None:
    def edit(images: dict[str, Any]) -> None:
        with_resolution()(images)
        images["R_RESOLUTION"] = images["R_RESOLUTION"][:, 0]

    with pytest.raises(FileError, match="R_RESOLUTION has shape"):
        CoaddLoader().load_with_lsf(str(write_coadd(edit=edit)))
