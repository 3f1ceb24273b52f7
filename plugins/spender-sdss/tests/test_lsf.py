"""Gaussian line spread functions on request, from the column wdisp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from spender_sdss.instrument import BOSS, SDSS

from spender_core import registry
from spender_core.errors import FileError
from spender_core.line_spread import GaussianLSF

SpecWriter = Callable[..., Path]


@pytest.mark.parametrize(("kind", "run2d"), [(SDSS, "26"), (BOSS, "v5_13_0")])
def test_widths_are_those_of_the_file(write_spec: SpecWriter, kind: type, run2d: str) -> None:
    wdisp = np.linspace(0.8, 1.4, 3820)
    path = write_spec(run2d=run2d, coadd={"wdisp": wdisp})
    instrument = kind()
    batch = instrument.read(str(path), lsf=True)
    assert isinstance(batch.lsf, GaussianLSF)
    first = round((3.5811 - instrument.grid.start) / 1e-4)
    sigma = batch.lsf.sigma[0].numpy()
    np.testing.assert_allclose(sigma[first : first + 3820], wdisp, rtol=1e-6)
    assert (sigma[:first] == np.float32(0.8)).all()
    assert (sigma[first + 3820 :] == np.float32(1.4)).all()
    assert instrument.read(str(path)).lsf is None


def test_unknown_widths_come_from_their_neighbours(write_spec: SpecWriter) -> None:
    wdisp = np.full(3820, 1.0)
    wdisp[1000:1003], wdisp[1003:] = (0, np.nan, -1), 3.0
    sigma = SDSS().read(str(write_spec(coadd={"wdisp": wdisp})), lsf=True).lsf.sigma[0]
    first = 31
    assert sigma[first + 999 : first + 1004].tolist() == pytest.approx([1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "wdisp has no positive value"), (1e30, "is it in pixels?")]
)
def test_widths_that_cannot_be_matter_only_on_request(
    write_spec: SpecWriter, value: float, message: str
) -> None:
    path = str(write_spec(coadd={"wdisp": np.full(3820, value)}))
    assert SDSS().read(path).lsf is None
    with pytest.raises(FileError, match=message):
        SDSS().read(path, lsf=True)


def test_widths_follow_their_spectra(write_spec: SpecWriter) -> None:
    paths = [
        str(write_spec(fiberid=fibre, coadd={"wdisp": np.full(3820, fibre / 10)}))
        for fibre in (7, 9, 12)
    ]
    batch = SDSS().read([*paths, paths[0]], lsf=True)
    assert batch.lsf.sigma[:, 100].tolist() == pytest.approx([0.7, 0.9, 1.2, 0.7])
    assert batch[[2, 1]].lsf.sigma[:, 100].tolist() == pytest.approx([1.2, 0.9])


def test_real_files(real_data: Path) -> None:
    """A line of one pixel gets the width that its pixel has in the file, and keeps its flux."""
    paths = sorted((real_data / "sdss").rglob("spec-*.fits"))
    assert len(paths) > 100
    for path in paths[::4]:
        instrument = registry.recognise(str(path))
        batch = instrument.read(str(path), quality=False, lsf=True)
        with fits.open(path) as hdus:
            loglam, wdisp = (hdus[1].data[name] for name in ("loglam", "wdisp"))
        row = len(loglam) // 2
        pixel = round((float(loglam[row]) - instrument.grid.start) / 1e-4)
        line = torch.zeros(1, instrument.grid.size, dtype=torch.float64)
        line[0, pixel] = 1
        seen = batch.to(dtype=torch.float64).lsf(line)[0]
        assert float(seen.sum()) == pytest.approx(1, abs=1e-12)
        away = torch.arange(len(seen)) - pixel
        assert float((seen * away**2).sum().sqrt()) == pytest.approx(float(wdisp[row]), rel=2e-2)
