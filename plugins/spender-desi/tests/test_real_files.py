"""Real DESI files: coadds are read, other files are refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_desi.instrument import DESI

from spender_core import registry
from spender_core.errors import FileError
from spender_core.interfaces import Instrument
from spender_core.testing import LoaderContract

ROOT = "desi/public"
FUJI = "edr/spectro/redux/fuji"
SPECIAL = f"{FUJI}/healpix/special/dark/272/27247"
SV3 = f"{FUJI}/healpix/sv3/dark/260/26065"
TILES = f"{FUJI}/tiles/cumulative"

# rows, and those that pass the quality cuts
COADDS = {
    f"{SPECIAL}/coadd-special-dark-27247.fits": (1, 1),
    f"{SV3}/coadd-sv3-dark-26065.fits": (5, 2),
    f"{TILES}/169/20210419/coadd-5-169-thru20210419.fits": (5, 1),
    f"{TILES}/80693/20210204/coadd-1-80693-thru20210204.fits": (5, 5),
    f"{TILES}/80693/20210204/coadd-2-80693-thru20210204.fits": (5, 5),
}


class TestDESIFiles(LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return DESI()

    @pytest.fixture
    def files(self, real_data: Path) -> list[Path]:
        return [real_data / ROOT / file for file in COADDS]


@pytest.mark.parametrize("file", COADDS, ids=lambda file: file.rpartition("/")[2])
def test_every_row_is_read(real_data: Path, file: str) -> None:
    rows, good = COADDS[file]
    everything = DESI().read(str(real_data / ROOT / file), quality=False)
    assert len(everything) == rows
    assert everything.flux.isfinite().all()
    assert (everything.norm > 0).all()
    kept = DESI().read(str(real_data / ROOT / file))
    assert len(kept) == good
    assert kept.good.any(dim=1).all()


@pytest.mark.parametrize("file", COADDS, ids=lambda file: file.rpartition("/")[2])
def test_values_are_those_of_the_file(real_data: Path, file: str) -> None:
    """In the blue, where one camera sees the spectrum."""
    batch = DESI().loader.load(str(real_data / ROOT / file))
    with fits.open(real_data / ROOT / file) as hdus:
        flux, ivar, mask = (np.asarray(hdus[f"B_{part}"].data) for part in ("FLUX", "IVAR", "MASK"))
        identifiers = [int(target) for target in hdus["FIBERMAP"].data["TARGETID"]]
    good = (mask == 0) & (ivar > 1e-6)
    alone = slice(0, 2700)
    assert batch.ids is not None
    assert batch.ids["TARGETID"].tolist() == identifiers
    assert (batch.good[:, alone].numpy() == good[:, alone]).all()
    np.testing.assert_array_equal(
        batch.flux.numpy()[:, alone][good[:, alone]], flux[:, alone][good[:, alone]]
    )
    np.testing.assert_array_equal(
        batch.ivar.numpy()[:, alone][good[:, alone]], ivar[:, alone][good[:, alone]]
    )


def test_the_redshift_of_the_pair(real_data: Path) -> None:
    batch = DESI().read(str(real_data / ROOT / SPECIAL / "coadd-special-dark-27247.fits"))
    assert batch.z.item() == pytest.approx(0.00727, abs=5e-6)
    assert batch.zerr.item() < 1e-3
    assert batch.flags.item() == 0


def test_other_coadds_have_no_redshift(real_data: Path) -> None:
    for file in list(COADDS)[1:]:
        assert DESI().read(str(real_data / ROOT / file), quality=False).z.isnan().all()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"{SV3}/spectra-sv3-dark-26065.fits", "holds single exposures, not coadded spectra"),
        (f"{TILES}/169/20210419/spectra-5-169-thru20210419.fits", "holds single exposures"),
        (f"{SPECIAL}/redrock-special-dark-27247.fits", "is a redrock file"),
    ],
    ids=["healpix", "tile", "redrock"],
)
def test_files_that_are_no_coadds_are_refused(real_data: Path, file: str, message: str) -> None:
    path = str(real_data / ROOT / file)
    assert registry.recognise(path).name == "desi"
    with pytest.raises(FileError, match=message):
        DESI().read(path)


@pytest.mark.parametrize(
    ("row", "file"),
    [
        (("special", "dark", 27247), f"{SPECIAL}/coadd-special-dark-27247.fits"),
        (("sv3", "dark", 26065), f"{SV3}/coadd-sv3-dark-26065.fits"),
    ],
)
def test_ids_are_found_under_the_root(
    real_data: Path, row: tuple[str, str, int], file: str
) -> None:
    root = real_data / ROOT
    direct = DESI().read(str(root / file), quality=False)
    by_healpix = DESI().read([row], root=root, release="edr", quality=False)
    by_rows = DESI().read(direct.ids, root=root, release="edr", quality=False)
    for batch in (by_healpix, by_rows):
        assert batch.ids is not None
        assert direct.ids is not None
        assert batch.ids.tolist() == direct.ids.tolist()
        assert torch.equal(batch.flux, direct.flux)
        assert torch.equal(batch.ivar, direct.ivar)


def test_rows_of_tiles_are_found_again(real_data: Path) -> None:
    file = f"{TILES}/80693/20210204/coadd-1-80693-thru20210204.fits"
    batch = DESI().read(str(real_data / ROOT / file))
    again = DESI().read(batch.ids, root=real_data / ROOT, release="edr")
    assert batch.ids is not None
    assert again.ids is not None
    assert again.ids.tolist() == batch.ids.tolist()
    assert torch.equal(again.flux, batch.flux)
