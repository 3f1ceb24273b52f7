"""SDSS and BOSS on fabricated files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spender_sdss.instrument import BOSS, SDSS

from spender_core import registry
from spender_core.batch import Flag
from spender_core.errors import FileError, MissingFileError, NoSpectraError
from spender_core.interfaces import Instrument
from spender_core.testing import InstrumentContract, LoaderContract

SpecWriter = Callable[..., Path]

BOSS_FILE = {"plate": 3655, "mjd": 55240, "fiberid": 104, "run2d": "v5_13_0", "start": 3.5514}


class TestSDSS(InstrumentContract, LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return SDSS()

    @pytest.fixture
    def files(self, write_spec: SpecWriter) -> list[Path]:
        return [write_spec(fiberid=n) for n in (308, 12, 640)]


class TestBOSS(InstrumentContract, LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return BOSS()

    @pytest.fixture
    def files(self, write_spec: SpecWriter) -> list[Path]:
        return [write_spec(**(BOSS_FILE | {"fiberid": n, "pixels": 4600})) for n in (104, 1000)]


def test_the_registry_offers_both() -> None:
    assert {"sdss", "boss"} <= set(registry.instruments())
    assert registry.instrument("sdss").grid == SDSS.grid
    assert registry.instrument("boss").grid == BOSS.grid


def test_files_are_recognised_by_their_generation(write_spec: SpecWriter) -> None:
    assert registry.recognise(str(write_spec())).name == "sdss"
    assert registry.recognise(str(write_spec(run2d="104"))).name == "sdss"
    assert registry.recognise(str(write_spec(**BOSS_FILE))).name == "boss"


def test_columns_land_on_the_grid(write_spec: SpecWriter) -> None:
    """A file that starts 31 pixels after the grid does."""
    flux = np.arange(3820, dtype=float) + 1
    batch = SDSS().loader.load(str(write_spec(start=3.5811, coadd={"flux": flux})))
    assert batch.flux[0, 31:3851].tolist() == flux.tolist()
    assert batch.good[0].nonzero()[:, 0].tolist() == list(range(31, 3851))
    assert (batch.ivar[0, 31:3851] == 4).all()


def test_pixels_before_the_grid_are_left_out(write_spec: SpecWriter) -> None:
    flux = np.arange(3820, dtype=float) + 1
    batch = SDSS().loader.load(str(write_spec(start=3.5770, coadd={"flux": flux})))
    assert batch.flux[0, :3810].tolist() == flux[10:].tolist()


def test_pixels_beyond_the_grid_are_left_out(write_spec: SpecWriter) -> None:
    batch = SDSS().loader.load(str(write_spec(start=3.6000)))
    assert batch.good[0].nonzero()[:, 0].tolist() == list(range(220, 3921))


def test_pixels_that_are_bad_are_masked(write_spec: SpecWriter) -> None:
    flux, ivar, mask = np.full(3820, 5.0), np.full(3820, 4.0), np.zeros(3820, dtype="i4")
    flux[0], flux[1] = np.nan, np.inf
    ivar[2:6] = [0.0, 1e-6, -1.0, np.nan]
    mask[6], mask[7] = 1, -(2**31)
    columns = {"flux": flux, "ivar": ivar, "and_mask": mask, "or_mask": np.ones(3820, dtype="i4")}
    batch = SDSS().loader.load(str(write_spec(start=3.578, coadd=columns)))
    assert (~batch.good[0, :3820]).nonzero()[:, 0].tolist() == list(range(8))
    assert batch.flux.isfinite().all()


def test_ids_redshift_and_error(write_spec: SpecWriter) -> None:
    batch = SDSS().read(str(write_spec(plate=266, mjd=51602, fiberid=13, catalogue={"Z": 0.121})))
    assert batch.ids is not None
    assert batch.ids.tolist() == [(266, 51602, 13, "26")]
    assert batch.z.item() == pytest.approx(0.121, rel=1e-6)
    assert batch.zerr.item() == pytest.approx(2e-5, rel=1e-6)
    assert batch.label(0) == "266-51602-13-26"
    assert batch.flags.item() == 0


def test_negative_errors_of_failed_fits_are_unknown(write_spec: SpecWriter) -> None:
    batch = SDSS().read(str(write_spec(catalogue={"Z_ERR": -1.0, "ZWARNING": 16})), quality=False)
    assert batch.zerr.isinf().all()


@pytest.mark.parametrize(
    "catalogue",
    [{"ZWARNING": 1}, {"ZWARNING": 128}, {"SOURCETYPE": "SKY"}, {"OBJTYPE": "SKY"}],
    ids=str,
)
def test_fibres_without_a_target_have_no_redshift(
    write_spec: SpecWriter, catalogue: dict[str, Any]
) -> None:
    path = str(write_spec(catalogue=catalogue | {"Z": 4.5}))
    batch = SDSS().read(path, quality=False)
    assert batch.z.isnan().all()
    assert batch.zerr.isinf().all()
    assert Flag(int(batch.flags[0])) == Flag.NOT_TARGET | Flag.NO_Z | Flag.NORM_RMS
    with pytest.raises(NoSpectraError, match="412-52254-308-26: sky fibre or no object"):
        SDSS().read(path)


@pytest.mark.parametrize("warning", [4, 16, 4 | 16])
def test_redshift_warnings_cut(write_spec: SpecWriter, warning: int) -> None:
    good, bad = str(write_spec(fiberid=1)), write_spec(fiberid=2, catalogue={"ZWARNING": warning})
    assert [row["FIBERID"] for row in SDSS().read([good, str(bad)]).ids] == [1]  # type: ignore[union-attr]
    batch = SDSS().read(str(bad), quality=False)
    assert Flag(int(batch.flags[0])) == Flag.Z_WARNING
    assert batch.z.item() == pytest.approx(0.1), "a doubtful redshift is kept"


def test_the_other_generation_is_refused(write_spec: SpecWriter) -> None:
    with pytest.raises(
        FileError, match=r"comes from the boss spectro.*registry\.instrument\('boss"
    ):
        SDSS().read(str(write_spec(**BOSS_FILE)))
    with pytest.raises(FileError, match="comes from the sdss spectrograph, not from boss"):
        BOSS().read(str(write_spec()))


def test_wavelengths_off_the_grid_are_refused(write_spec: SpecWriter) -> None:
    loglam = 3.58003 + 1e-4 * np.arange(3820)
    with pytest.raises(FileError, match=r"0308\.fits: loglam does not lie on the grid"):
        SDSS().read(str(write_spec(coadd={"loglam": loglam})))
    twice = np.r_[3.58, 3.58 + 1e-4 * np.arange(3819)]
    with pytest.raises(FileError, match="loglam does not lie on the grid"):
        SDSS().read(str(write_spec(coadd={"loglam": twice})))


def test_other_tables_are_refused(tmp_path: Path) -> None:
    from astropy.table import Table

    path = tmp_path / "spec-015143-59205-4544940698.fits"
    Table({"FLUX": [1.0], "LOGLAM": [3.6], "WRESL": [1.0]}).write(path)
    with pytest.raises(FileError, match=r"not a spec file.*nor is it an spPlate file"):
        SDSS().read(str(path))
    assert not SDSS().loader.recognises(str(path))


@pytest.mark.parametrize("missing", ["ZWARNING", "Z", "Z_ERR"])
def test_missing_columns_are_named(write_spec: SpecWriter, missing: str) -> None:
    from astropy.io import fits

    path = write_spec()
    with fits.open(path) as hdus:
        hdus[2].columns.del_col(missing)
        hdus.writeto(path.with_name("less.fits"))
    with pytest.raises(FileError, match=rf"less\.fits: it has no column {missing};"):
        SDSS().read(str(path.with_name("less.fits")))


def test_tables_without_rows_are_refused(write_spec: SpecWriter) -> None:
    from astropy.io import fits

    path = write_spec()
    for number in (1, 2):
        empty = path.with_name(f"empty{number}.fits")
        with fits.open(path) as hdus:
            hdus[number].data = hdus[number].data[:0]
            hdus.writeto(empty)
        with pytest.raises(FileError, match=empty.name):
            SDSS().read(str(empty))
        with pytest.raises(FileError, match=empty.name):
            registry.recognise(str(empty)).read(str(empty))


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.85, 0.93, 0.97])
def test_truncated_files_are_refused_or_complete(
    write_spec: SpecWriter, tmp_path: Path, fraction: float
) -> None:
    """Wherever a download broke off, the file is named, or everything needed is there."""
    whole = write_spec()
    part = tmp_path / "part.fits"
    content = whole.read_bytes()
    part.write_bytes(content[: int(fraction * len(content))])
    if fraction > 0.95:  # what is missing is the last table, which is not needed
        with contextlib.suppress(FileError):
            assert torch.equal(SDSS().read(str(part)).flux, SDSS().read(str(whole)).flux)
        return
    with pytest.raises(FileError, match=r"part\.fits"):
        SDSS().read(str(part))


def archive(root: Path, kind: str, run2d: str, plate: int) -> Path:
    return root / "dr17" / "sdss" / "spectro" / "redux" / run2d / "spectra" / kind / f"{plate:04d}"


def test_spectra_are_read_by_id_from_a_root(write_spec: SpecWriter, tmp_path: Path) -> None:
    paths = [
        write_spec(archive(tmp_path, "lite", "26", 412), fiberid=308),
        write_spec(archive(tmp_path, "full", "103", 2500), plate=2500, fiberid=7, run2d="103"),
    ]
    ids = [(2500, 52254, 7), (412, 52254, 308)]
    batch = SDSS().read(ids, root=tmp_path)
    direct = SDSS().read([str(path) for path in reversed(paths)])
    assert torch.equal(batch.flux, direct.flux)
    assert batch.ids is not None
    assert [tuple(row)[:3] for row in batch.ids.tolist()] == ids
    single = SDSS().read((412, 52254, 308), root=tmp_path)
    assert torch.equal(single.flux, batch.flux[1:])


def test_rows_of_a_batch_are_ids(write_spec: SpecWriter, tmp_path: Path) -> None:
    write_spec(archive(tmp_path, "lite", "26", 412))
    batch = SDSS().read([(412, 52254, 308)], root=tmp_path)
    assert torch.equal(SDSS().read(batch.ids, root=tmp_path).flux, batch.flux)


def test_ids_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="spec-0412-52254-0308"):
        SDSS().read([(412, 52254, 308)], root=tmp_path)
