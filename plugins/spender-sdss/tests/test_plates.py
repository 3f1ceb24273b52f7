"""spPlate files give what the spec files of their fibres give; files of SDSS-V are read too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_sdss.instrument import BOSS, SDSS

from spender_core import registry
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import FileError, MissingFileError

FIBRES = 12
PIXELS = 4600
START = 3.5514


def spectra(count: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return columns of some spectra, each of shape (count, PIXELS), in capitals."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, PIXELS))
    mask = np.where(rng.random((count, PIXELS)) < 0.02, 1 << 16, 0)
    return {
        "FLUX": (5 + 0.5 * noise).astype(np.float32),
        "IVAR": np.where(rng.random((count, PIXELS)) < 0.01, 0, 4).astype(np.float32),
        "AND_MASK": mask.astype(np.int32),
        "WDISP": (1.1 + 0.05 * rng.random((count, PIXELS))).astype(np.float32),
    }


def write_sdss_v(
    path: Path, columns: Mapping[str, Any], row: Mapping[str, Any] | None = None
) -> Path:
    """Write `spec-FIELD-MJD-CATALOGID.fits` of SDSS-V, with `wresl` in place of `wdisp`."""
    values = dict(columns)
    values["WRESL"] = values.pop("WDISP")
    values["LOGLAM"] = (START + 1e-4 * np.arange(PIXELS)).astype(np.float32)
    form = {"AND_MASK": "J"}
    coadd = [fits.Column(name, form.get(name, "E"), array=v) for name, v in values.items()]
    cells = {
        "FIELD": (15143, "K"),
        "MJD": (59205, "J"),
        "CATALOGID": (4544940698, "K"),
        "RUN2D": ("v6_0_4", "6A"),
        "OBJTYPE": ("science", "16A"),
        "Z": (0.1, "E"),
        "Z_ERR": (2e-5, "E"),
        "ZWARNING": (0, "J"),
        "FIBERID": (77, "J"),
    }
    for name, value in (row or {}).items():
        cells[name] = (value, cells[name][1])
    catalogue = [fits.Column(n, kind, array=[value]) for n, (value, kind) in cells.items()]
    tables = [fits.BinTableHDU.from_columns(made) for made in (coadd, catalogue)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    return path


def write_plate(
    folder: Path,
    columns: Mapping[str, np.ndarray[Any, Any]],
    redshifts: Mapping[str, Any] | None = None,
    run2d: str | None = "v5_13_0",
    order: np.ndarray[Any, Any] | None = None,
    nested: bool = True,
) -> Path:
    """Write `spPlate-3655-55240.fits`, and spZbest in a folder beside it.

    Args:
        folder: Where to.
        columns: As `spectra` makes them: a row for each fibre.
        redshifts: Columns of spZbest that replace the usual ones.
        run2d: In the header; None leaves it out.
        order: Order of rows of spZbest.
        nested: Whether spZbest is in a folder below.
    """
    count = len(columns["FLUX"])
    fibres = np.arange(1, count + 1)
    kinds = np.where(fibres % 5 == 0, "SKY", "GALAXY")
    plugged = fits.BinTableHDU.from_columns(
        [fits.Column("FIBERID", "J", array=fibres), fits.Column("OBJTYPE", "16A", array=kinds)]
    )
    header = fits.Header({"COEFF0": START, "COEFF1": 1e-4, "PLATEID": 3655, "MJD": 55240})
    if run2d is not None:
        header["RUN2D"] = run2d
    images = [columns[name] for name in ("IVAR", "AND_MASK", "AND_MASK", "WDISP")]
    hdus = [fits.PrimaryHDU(columns["FLUX"], header), *map(fits.ImageHDU, images), plugged]
    folder.mkdir(parents=True, exist_ok=True)
    fits.HDUList([*hdus, fits.ImageHDU(columns["FLUX"])]).writeto(
        folder / "spPlate-3655-55240.fits"
    )
    cells = {
        "FIBERID": fibres,
        "Z": 0.1 + 1e-3 * fibres,
        "Z_ERR": np.full(count, 2e-5),
        "ZWARNING": np.where(fibres % 7 == 0, 4, 0),
    } | dict(redshifts or {})
    forms = {"FIBERID": "J", "ZWARNING": "J"}
    rows = np.arange(count) if order is None else order
    table = fits.BinTableHDU.from_columns(
        [fits.Column(n, forms.get(n, "E"), array=np.asarray(v)[rows]) for n, v in cells.items()]
    )
    beside = folder / (run2d or "v5_13_0") if nested else folder
    beside.mkdir(exist_ok=True)
    table.writeto(beside / "spZbest-3655-55240.fits")
    return folder / "spPlate-3655-55240.fits"


def spec_files(folder: Path, columns: dict[str, Any]) -> list[str]:
    """Write the spec files that the archive would have of a plate; return their paths."""
    paths = []
    loglam = (START + 1e-4 * np.arange(PIXELS)).astype(np.float32)
    for row in range(FIBRES):
        fibre = row + 1
        coadd = [
            fits.Column(name, "J" if name == "AND_MASK" else "E", array=values[row])
            for name, values in columns.items()
        ]
        cells = {
            "PLATE": (3655, "J"),
            "MJD": (55240, "J"),
            "FIBERID": (fibre, "J"),
            "RUN2D": ("v5_13_0", "16A"),
            "OBJTYPE": ("SKY" if fibre % 5 == 0 else "GALAXY", "16A"),
            "Z": (0.1 + 1e-3 * fibre, "E"),
            "Z_ERR": (2e-5, "E"),
            "ZWARNING": (4 if fibre % 7 == 0 else 0, "J"),
        }
        tables = [
            fits.BinTableHDU.from_columns([fits.Column("LOGLAM", "E", array=loglam), *coadd]),
            fits.BinTableHDU.from_columns(
                [fits.Column(name, kind, array=[value]) for name, (value, kind) in cells.items()]
            ),
        ]
        path = folder / f"spec-3655-55240-{fibre:04d}.fits"
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
        paths.append(str(path))
    return paths


def same(one: SpectrumBatch, other: SpectrumBatch) -> bool:
    columns = ("flux", "ivar", "z", "zerr", "norm", "flags")
    pairs = [(getattr(one, name), getattr(other, name)) for name in columns]
    assert one.ids is not None
    assert other.ids is not None
    return one.ids.tolist() == other.ids.tolist() and all(
        torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) for a, b in pairs
    )


@pytest.mark.parametrize("nested", [True, False])
def test_a_plate_gives_what_its_spec_files_give(tmp_path: Path, nested: bool) -> None:
    columns = spectra(FIBRES)
    order = np.random.default_rng(1).permutation(FIBRES)  # rows are matched by fibre
    plate = write_plate(tmp_path / "plate", columns, order=order, nested=nested)
    for lsf in (False, True):
        together = BOSS().read(plate, quality=False, lsf=lsf)
        apart = BOSS().read(spec_files(tmp_path, columns), quality=False, lsf=lsf)
        assert same(together, apart)
        if lsf:
            assert torch.equal(together.lsf.sigma, apart.lsf.sigma)
        for path in tmp_path.glob("spec-*.fits"):
            path.unlink()
    flags = together.flags
    assert ((flags & int(Flag.NOT_TARGET)) > 0).nonzero()[:, 0].tolist() == [4, 9]
    assert len(BOSS().read(plate)) == FIBRES - 3  # 2 of the sky, 1 with a warning


def test_a_plate_and_spec_files_are_read_together(tmp_path: Path) -> None:
    columns = spectra(FIBRES)
    paths = spec_files(tmp_path, columns)
    plate = str(write_plate(tmp_path / "plate", columns))
    batch = BOSS().read([paths[2], plate, paths[0]], quality=False)
    assert batch.ids is not None
    assert batch.ids["FIBERID"].tolist() == [3, *range(1, FIBRES + 1), 1]
    assert torch.equal(batch.flux[0], batch.flux[3])


def test_many_files_give_what_each_gives_and_each_its_own_error(tmp_path: Path) -> None:
    paths = spec_files(tmp_path, spectra(FIBRES))
    damaged = tmp_path / "spec-9999-55240-0001.fits"
    damaged.write_bytes(Path(paths[0]).read_bytes()[:20_000])
    absent = str(tmp_path / "spec-8888-55240-0001.fits")
    loader = BOSS().loader
    files = [[absent, paths[3]], [str(damaged)], [absent], [paths[1]], [absent, absent + ".gz"]]
    batch, told = loader.load_many(files, lsf=True)
    assert batch is not None
    assert told[0] == slice(0, 1)
    assert told[3] == slice(1, 2)
    assert isinstance(told[1], FileError)
    assert "spec-9999" in str(told[1])
    assert isinstance(told[2], MissingFileError)
    assert isinstance(told[4], MissingFileError)
    for row, path in enumerate((paths[3], paths[1])):
        assert same(batch[row], loader.load_with_lsf(path))
        assert torch.equal(batch.lsf.sigma[row], loader.load_with_lsf(path).lsf.sigma[0])
    assert loader.load_many([[absent]], lsf=False)[0] is None


def test_plates_are_recognised(tmp_path: Path) -> None:
    plate = write_plate(tmp_path / "boss", spectra(2))
    assert registry.recognise(str(plate)).name == "boss"
    older = write_plate(tmp_path / "sdss", spectra(2), run2d="26")
    assert registry.recognise(str(older)).name == "sdss"
    with pytest.raises(FileError, match=r"from the sdss spectrograph, not from boss"):
        BOSS().read(older)


def test_the_folder_tells_the_reduction_if_the_header_does_not(tmp_path: Path) -> None:
    plate = write_plate(tmp_path / "v5_13_0" / "3655", spectra(2), run2d=None)
    batch = BOSS().read(plate, quality=False)
    assert batch.ids is not None
    assert set(batch.ids["RUN2D"]) == {"v5_13_0"}
    lost = write_plate(tmp_path / "elsewhere", spectra(2), run2d=None)
    with pytest.raises(FileError, match=r"has no RUN2D; put the file into folders"):
        BOSS().read(lost)


def test_a_plate_without_redshifts_is_refused(tmp_path: Path) -> None:
    plate = write_plate(tmp_path, spectra(2))
    (tmp_path / "v5_13_0" / "spZbest-3655-55240.fits").unlink()
    with pytest.raises(MissingFileError, match=r"there is neither .*spZbest-3655-55240\.fits"):
        BOSS().read(plate)


@pytest.mark.parametrize("fibres", [[1, 2, 2, 4], [1, 2, 3, 5]], ids=str)
def test_redshifts_of_other_fibres_are_refused(tmp_path: Path, fibres: list[int]) -> None:
    plate = write_plate(tmp_path, spectra(4), redshifts={"FIBERID": np.array(fibres)})
    with pytest.raises(FileError, match=r"spZbest.*its fibres are not those of the spPlate file"):
        BOSS().read(plate)


def test_a_plate_of_another_sampling_is_refused(tmp_path: Path) -> None:
    plate = write_plate(tmp_path, spectra(2))
    with fits.open(plate, mode="update") as hdus:
        hdus[0].header["COEFF1"] = 2e-4
    with pytest.raises(FileError, match=r"its pixels are 0\.0002 wide in log10"):
        BOSS().read(plate)


def test_sdss_v_is_known_by_field_and_catalogid(tmp_path: Path) -> None:
    columns = {name: values[0] for name, values in spectra(1).items()}
    path = write_sdss_v(tmp_path / "spec-015143-59205-4544940698.fits", columns)
    assert registry.recognise(str(path)).name == "boss"
    batch = BOSS().read(path)
    assert batch.ids is not None
    assert batch.ids.tolist() == [(15143, 59205, 4544940698, "v6_0_4")]
    assert batch.z.item() == pytest.approx(0.1)
    used = torch.from_numpy((columns["AND_MASK"] == 0) & (columns["IVAR"] > 0))
    assert int(batch.good.sum()) <= int(used.sum())
    raw = BOSS().loader.load(str(path))
    assert int(raw.good.sum()) == int(used.sum())
    with pytest.raises(FileError, match=r"no column WDISP"):
        BOSS().read(path, lsf=True)
    with pytest.raises(FileError, match="comes from the boss spectrograph"):
        SDSS().read(path)


def test_sdss_v_without_a_catalogid_is_known_by_its_fibre(tmp_path: Path) -> None:
    """Its file is named by the fibre then."""
    columns = {name: values[0] for name, values in spectra(1).items()}
    path = write_sdss_v(tmp_path / "spec-15143-59205-77.fits", columns, {"CATALOGID": 0})
    batch = BOSS().read(path)
    assert batch.ids is not None
    assert batch.ids.tolist() == [(15143, 59205, 77, "v6_0_4")]
