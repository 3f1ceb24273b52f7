"""What spec files tell of how they were taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from spender_sdss.instrument import BOSS, SDSS

from spender_core.errors import FileError

SpecWriter = Callable[..., Path]


def test_sky_and_wdisp_are_on_the_grid(write_spec: SpecWriter) -> None:
    sdss = SDSS()
    told = sdss.loader.conditions(str(write_spec(coadd={"sky": np.full(3820, 6.0)})))
    batch = sdss.loader.load(str(write_spec()))
    assert told.sigma is not None
    assert told.equal_light.shape == told.sigma.shape == tuple(batch.flux.shape)
    known = np.isfinite(told.sigma[0])
    assert np.array_equal(known, batch.ivar[0].numpy() > 0)
    assert told.sigma[0, known] == pytest.approx(1.1)
    # red of 6200 Angstrom all noise comes from the sky; in the blue most is the detector's
    red, blue = (np.searchsorted(sdss.wave, wave) for wave in (6500, 3850))
    assert told.equal_light[0, red] == pytest.approx(6.0)
    assert told.equal_light[0, blue] > 2 * 6.0
    assert told.seams == (6000.0,)


def test_pixels_that_tell_nothing_are_nan(write_spec: SpecWriter) -> None:
    sky = np.full(3820, 6.0)
    sky[:100], sky[100], sky[101] = 0, np.nan, -1
    told = SDSS().loader.conditions(str(write_spec(coadd={"sky": sky})))
    known = np.flatnonzero(np.isfinite(told.equal_light[0]))
    assert len(known) == 3820 - 102
    assert np.isfinite(told.equal_light[0, known[0] :][:3718]).all()


def test_boss_has_its_own_share_of_photons(write_spec: SpecWriter) -> None:
    boss = BOSS()
    told = boss.loader.conditions(
        str(write_spec(run2d="v5_13_0", coadd={"sky": np.full(3820, 4.0)}))
    )
    assert told.equal_light[0, np.searchsorted(boss.wave, 5500)] == pytest.approx(4.0 / 0.8)


def test_other_files_are_refused_by_name(tmp_path: Path, write_spec: SpecWriter) -> None:
    other = tmp_path / "notes.fits"
    other.write_bytes(b"SIMPLE  = nothing of the kind")
    with pytest.raises(FileError, match=r"notes\.fits"):
        SDSS().loader.conditions(str(other))
