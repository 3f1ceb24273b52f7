"""Real spec files: every one of them is read, upright, and found by its id."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_sdss.instrument import BOSS, SDSS

from spender_core import registry
from spender_core.batch import Flag
from spender_core.interfaces import Instrument
from spender_core.testing import LoaderContract

ROOT = "sdss/sas"
_PATH = re.compile(
    r"(?P<release>dr\d+)/(?P<tree>sdss|eboss)/spectro/redux/(?P<run2d>\w+)/spectra/"
    r"(?P<kind>lite|full)/\d+/spec-(?P<plate>\d+)-(?P<mjd>\d+)-(?P<fiberid>\d+)\.fits"
)


def spec_files(real_data: Path, tree: str) -> list[Path]:
    """Return the real files of one tree of the archive, "sdss" or "eboss"."""
    files = sorted((real_data / ROOT).glob(f"*/{tree}/**/spec-*.fits"))
    assert files, f"no {tree} files under {real_data / ROOT}"
    return files


class TestSDSSFiles(LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return SDSS()

    @pytest.fixture
    def files(self, real_data: Path) -> list[Path]:
        return spec_files(real_data, "sdss")[::12]


class TestBOSSFiles(LoaderContract):
    @pytest.fixture
    def instrument(self) -> Instrument:
        return BOSS()

    @pytest.fixture
    def files(self, real_data: Path) -> list[Path]:
        return spec_files(real_data, "eboss")[::4]


TREES = [("sdss", SDSS), ("eboss", BOSS)]


@pytest.mark.parametrize(("tree", "kind"), TREES)
def test_every_file_is_read_upright(
    real_data: Path, tree: str, kind: Callable[[], Instrument]
) -> None:
    instrument = kind()
    for file in spec_files(real_data, tree):
        batch = instrument.read(str(file), quality=False)
        assert batch.flux.isfinite().all(), file
        assert batch.norm.item() > 0, file
        assert batch.good.any(), file
        path = _PATH.search(file.as_posix())
        assert path is not None
        assert batch.ids is not None
        named = tuple(int(path[name]) for name in ("plate", "mjd", "fiberid"))
        assert batch.ids.tolist() == [(*named, path["run2d"])]


@pytest.mark.parametrize(("tree", "kind"), TREES)
def test_every_file_is_found_by_its_id(
    real_data: Path, tree: str, kind: Callable[[], Instrument]
) -> None:
    instrument = kind()
    for file in spec_files(real_data, tree)[::3]:
        direct = instrument.read(str(file), quality=False)
        path = _PATH.search(file.as_posix())
        assert path is not None
        by_id = instrument.read(
            direct.ids, root=real_data / ROOT, release=path["release"], quality=False
        )
        assert torch.equal(by_id.flux, direct.flux)
        assert torch.equal(by_id.ivar, direct.ivar)
        assert torch.equal(by_id.z, direct.z) or direct.z.isnan().all()


@pytest.mark.parametrize(("tree", "name"), [("sdss", "sdss"), ("eboss", "boss")])
def test_files_are_recognised(real_data: Path, tree: str, name: str) -> None:
    for file in spec_files(real_data, tree)[::7]:
        assert registry.recognise(str(file)).name == name


def test_values_are_those_of_the_file(real_data: Path) -> None:
    """Wavelength by wavelength, where the file's own mask leaves pixels."""
    for tree, kind in TREES:
        instrument: Instrument = kind()
        file = spec_files(real_data, tree)[0]
        batch = instrument.loader.load(str(file))
        with fits.open(file) as hdus:
            table = hdus[1].data
            wave = 10.0 ** np.asarray(table["loglam"], dtype=np.float64)
            good = (table["and_mask"] == 0) & (table["ivar"] > 1e-6)
            flux, ivar = (np.asarray(table[name], dtype=float) for name in ("flux", "ivar"))
        good &= (wave > instrument.wave[0] - 0.1) & (wave < instrument.wave[-1] + 0.1)
        pixel = np.abs(instrument.wave - wave[good][:, None]).argmin(axis=1)
        assert np.abs(instrument.wave[pixel] - wave[good]).max() < 0.02
        assert batch.good[0].nonzero()[:, 0].tolist() == pixel.tolist()
        np.testing.assert_array_equal(batch.flux[0].numpy()[pixel], flux[good])
        np.testing.assert_array_equal(batch.ivar[0].numpy()[pixel], ivar[good])


def test_sky_fibres_are_told_from_targets(real_data: Path) -> None:
    """Plates 1942 to 1950 and 2296 to 2345 of this selection hold sky fibres."""
    sky = [
        file
        for file in spec_files(real_data, "sdss")
        if int(file.parent.name) in {*range(1942, 1951), *range(2296, 2346)}
    ]
    assert len(sky) > 30
    for file in sky:
        batch = SDSS().read(str(file), quality=False)
        assert Flag.NOT_TARGET in Flag(int(batch.flags[0])), file
        assert batch.z.isnan().all(), file
