"""What is particular to LAMOST's files: layouts, wavelengths, masks, redshifts and fibres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_core import Flag, SpectrumBatch
from spender_core.errors import FileError, NoSpectraError
from spender_core.testing import Line

from spender_lamost.example import BAD, COEFF0, ENDS, H_BETA, OLD, PIXELS, Made, Z
from spender_lamost.instrument import LAMOST

LOADER = LAMOST.loader
FIRST = 12  # the example's first pixel on the grid: (3.5682 - 3.567) / 1e-4


def load(made: Made, folder: Path, layout: str = "table") -> SpectrumBatch:
    path = folder / f"{layout}.fits"
    return LOADER.load(str(getattr(made, layout)(path)))


@pytest.fixture(params=["table", "image"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_layouts_are_read_alike(tmp_path: Path) -> None:
    new, old = (load(Made(), tmp_path, layout) for layout in ("table", "image"))
    assert torch.equal(new.flux, old.flux)
    assert torch.equal(new.ivar, old.ivar)
    assert new.z.item() == old.z.item() == Z
    assert new.ids.tolist() == old.ids.tolist()


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
def test_gzip_makes_no_difference(tmp_path: Path, layout: str, ending: str) -> None:
    path = getattr(Made(), layout)(tmp_path / f"spectrum{ending}")
    assert LOADER.recognises(str(path))
    assert torch.equal(LOADER.load(str(path)).flux, load(Made(), tmp_path, layout).flux)


@pytest.mark.parametrize(("first", "pixels"), [(3.5670, 3922), (3.5671, 3915), (3.5700, 3880)])
def test_files_that_begin_at_another_whole_pixel(
    tmp_path: Path, layout: str, first: float, pixels: int
) -> None:
    made = Made(first=first, pixels=pixels)
    batch = load(made, tmp_path, layout)
    good = (made.ivar > 0) & (made.andmask == 0)
    places = np.searchsorted(LAMOST.grid.wave, made.wave[good] * (1 - 1e-5))
    assert np.abs(LAMOST.grid.wave[places] / made.wave[good] - 1).max() < 1e-9
    assert np.array_equal(batch.flux[0, places].numpy(), made.flux[good].astype("f4"))
    outside = np.ones(len(LAMOST.grid), dtype=bool)
    outside[places] = False
    assert not batch.ivar[0, outside].any()
    assert not batch.flux[0, outside].any()


def test_pixels_beyond_the_grid_are_dropped(tmp_path: Path, layout: str) -> None:
    made = Made(first=3.5650, pixels=3960)
    batch = load(made, tmp_path, layout)
    part = slice(20, 20 + len(LAMOST.grid))  # from 3.5670
    good = (made.ivar > 0) & (made.andmask == 0)
    assert np.array_equal(batch.flux[0].numpy(), np.where(good, made.flux, 0)[part].astype("f4"))
    assert np.array_equal(batch.good[0].numpy(), good[part])


@pytest.mark.parametrize("shift", [0.02, 0.5, -0.3])
def test_a_fraction_of_a_pixel_is_refused(tmp_path: Path, layout: str, shift: float) -> None:
    with pytest.raises(FileError, match="do not follow the grid") as caught:
        load(Made(first=COEFF0 + shift * 1e-4), tmp_path, layout)
    assert f"{abs(shift):.2f} pixel off" in str(caught.value)
    assert layout in str(caught.value)


def test_wavelengths_elsewhere_are_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(FileError, match="outside"):
        load(Made(first=4.1), tmp_path, layout)


def test_another_spacing_is_refused(tmp_path: Path) -> None:
    made = Made()
    made.wave = np.linspace(3700.0, 9099.0, PIXELS)
    with pytest.raises(FileError, match="do not follow the grid"):
        load(made, tmp_path)


def test_wavelengths_in_air_are_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(FileError, match="in air"):
        load(Made({"VACUUM": False}), tmp_path, layout)


def test_the_third_row_of_pilot_files_is_no_wavelength(tmp_path: Path) -> None:
    """There it is the spectrum less its continuum; the keywords tell the wavelengths."""
    made = Made()
    want = load(made, tmp_path, "table")
    made.wave = made.flux - 40.0
    assert torch.equal(load(made, tmp_path, "image").flux, want.flux)


def test_images_without_keywords_have_wavelengths_in_the_third_row(tmp_path: Path) -> None:
    cards = {"COEFF0": None, "COEFF1": None}
    got = load(Made(cards), tmp_path, "image")
    assert torch.equal(got.flux, load(Made(), tmp_path, "table").flux)


def test_bad_in_all_exposures_is_masked_and_in_one_is_not(tmp_path: Path, layout: str) -> None:
    made = Made()
    made.andmask[2000], made.ormask[2000], made.ormask[2001] = 2.0**23, 2.0**23, 2.0**23
    batch = load(made, tmp_path, layout)
    for pixel in (BAD, 2000):
        assert batch.ivar[0, FIRST + pixel] == 0
        assert batch.flux[0, FIRST + pixel] == 0
    assert batch.ivar[0, FIRST + 2001] == pytest.approx(4.0)
    assert batch.flux[0, FIRST + 2001] == pytest.approx(made.flux[2001])


def test_ends_without_data_are_masked_and_no_fault(tmp_path: Path, layout: str) -> None:
    batch = load(Made(), tmp_path, layout)
    assert not batch.ivar[0, : FIRST + ENDS].any()
    assert not batch.ivar[0, FIRST + PIXELS - ENDS :].any()
    assert torch.isfinite(batch.flux).all()
    assert Flag(int(batch.flags[0])) == Flag(0)


@pytest.mark.parametrize(("flux", "ivar"), [(np.nan, 4.0), (1.0, np.nan), (1.0, -1.0), (np.inf, 4)])
def test_what_is_no_number_is_masked_and_flagged(
    tmp_path: Path, layout: str, flux: float, ivar: float
) -> None:
    made = Made()
    made.flux[1500], made.ivar[1500] = flux, ivar
    batch = load(made, tmp_path, layout)
    assert batch.ivar[0, FIRST + 1500] == 0
    assert Flag(int(batch.flags[0])) == Flag.BAD_VALUES


@pytest.mark.parametrize(
    "cards", [{"CLASS": "Unknown", "Z": -9999.0}, {"CLASS": "UNKNOWN"}, {"Z": -9999.0}, {"Z": None}]
)
def test_an_unknown_redshift(tmp_path: Path, layout: str, cards: dict[str, Any]) -> None:
    batch = load(Made(cards), tmp_path, layout)
    assert np.isnan(batch.z.item())
    assert np.isinf(batch.zerr.item())
    assert Flag(int(batch.flags[0])) == Flag.Z_WARNING
    path = str(tmp_path / f"{layout}.fits")
    with pytest.raises(NoSpectraError):
        LAMOST().read(path)
    assert len(LAMOST().read(path, quality=False)) == 1


@pytest.mark.parametrize(
    ("kind", "z"), [("STAR", -2.1e-4), ("GALAXY", 0.12), ("QSO", 3.1), ("star", 0.0)]
)
def test_every_class_keeps_its_redshift(tmp_path: Path, layout: str, kind: str, z: float) -> None:
    batch = load(Made({"CLASS": kind, "Z": z, "Z_ERR": -9999.0}), tmp_path, layout)
    assert batch.z.item() == z
    assert np.isinf(batch.zerr.item())
    assert int(batch.flags[0]) == 0


@pytest.mark.parametrize(
    ("cards", "flag"),
    [
        ({"FIBERTYP": "Sky"}, Flag.NOT_TARGET),
        ({"FIBERTYP": "Dead"}, Flag.FIBRE),
        ({"FIBERTYP": "PosErr"}, Flag.FIBRE),
        ({"FIBERMAS": 128}, Flag.FIBRE),
        ({"FIBERTYP": "F-std"}, Flag(0)),
        ({"FIBERTYP": None, "FIBERMAS": None}, Flag(0)),
    ],
)
def test_fibres(tmp_path: Path, layout: str, cards: dict[str, Any], flag: Flag) -> None:
    assert Flag(int(load(Made(cards), tmp_path, layout).flags[0])) == flag


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    """A spectrum of medium resolution has tables named for arms; SDSS has COADD, and no OBSID."""
    path = tmp_path / "other.fits"
    header = fits.Header({"TELESCOP": "LAMOST", "OBSID": 1, "PLANID": "x"})
    table = fits.BinTableHDU.from_columns([fits.Column("FLUX", "E", array=[1.0])], name="COADD_B")
    fits.HDUList([fits.PrimaryHDU(header=header), table]).writeto(path)
    assert not LOADER.recognises(str(path))
    table.name = "COADD"
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "SDSS 2.5-M"}))
    fits.HDUList([primary, table]).writeto(path, overwrite=True)
    assert not LOADER.recognises(str(path))


def test_a_file_without_a_spectrum_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.fits"
    fits.PrimaryHDU(header=fits.Header({"TELESCOP": "LAMOST", **OLD})).writeto(path)
    with pytest.raises(FileError, match=r"empty\.fits.*COADD"):
        LOADER.load(str(path))


def test_the_line_is_as_wide_as_the_lsf_says(tmp_path: Path) -> None:
    """Second moment of the example's unresolved line, in pixels: the width of the LSF, 1.02."""
    batch = LOADER.load_with_lsf(str(Made().table(tmp_path / "lsf.fits")))
    line = Line(H_BETA * (1 + Z), 900.0)
    middle = (np.log10(line.wave) - LAMOST.grid.start) / LAMOST.grid.step
    pixels = np.arange(int(middle) - 5, int(middle) + 7)
    light = batch.flux[0, pixels].double().numpy() - 40.0
    spread = np.sqrt((light * (pixels - middle) ** 2).sum() / light.sum())
    assert batch.lsf is not None
    narrow = torch.zeros_like(batch.flux)
    narrow[0, 1000] = 1.0
    broad = batch.lsf(narrow)[0].double().numpy()
    at = np.arange(len(broad)) - 1000
    width = np.sqrt((broad * at**2).sum() / broad.sum())
    assert width == pytest.approx(spread, rel=0.05)
    assert 1.0 < width < 1.1
