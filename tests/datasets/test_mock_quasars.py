"""Mock quasars: their lines, and the forest in front of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from spender_core.datasets.mock.quasars import (
    LYMAN_ALPHA,
    QUASAR,
    QuasarLibrary,
    QuasarSet,
    mean_depth,
    quasars,
)
from spender_core.datasets.mock.sources import KINDS
from spender_core.errors import InputError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def library() -> QuasarLibrary:
    return QuasarLibrary.parametric()


def test_the_seed_decides_everything(library: QuasarLibrary) -> None:
    z = torch.tensor([0.5, 2.5, 3.0])
    one, same, other = (quasars(z, library, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.restframe, same.restframe)
    assert not torch.equal(one.restframe, other.restframe)
    assert torch.equal(one.z, z.double())
    assert bool((one.kind == KINDS.index("quasar")).all())


@pytest.mark.parametrize("z", [[], [1.0, np.nan], [-1.0], [np.inf]])
def test_redshifts_that_make_no_quasar_are_refused(library: QuasarLibrary, z: list[float]) -> None:
    with pytest.raises(InputError, match="finite and above -1"):
        quasars(torch.tensor(z), library, seeded(0))


def test_emission_lines_stand_above_the_continuum(library: QuasarLibrary) -> None:
    drawn = quasars(torch.full((32,), 0.1), library, seeded(0)).restframe
    for line in (1215.67, 1549.06, 1908.73, 2799.94, 4862.71, 6564.6):
        top, beside = (
            drawn[:, torch.from_numpy(np.abs(QUASAR.wave / where - 1) < 0.003)].mean(dim=1)
            for where in (line, 1.05 * line)
        )
        assert bool((top > beside).all()), line


def test_the_forest_has_its_mean_and_is_no_mean(library: QuasarLibrary) -> None:
    z = 3.0
    flat = QuasarSet(torch.ones(2, QUASAR.size), torch.zeros(1), torch.zeros(1), 800, 10000)
    drawn = quasars(torch.full((600,), z), QuasarLibrary(flat, flat, "flat"), seeded(0)).restframe
    blue = QUASAR.wave < LYMAN_ALPHA
    assert torch.equal(drawn[:, torch.from_numpy(~blue)], torch.ones(600, int((~blue).sum())))
    wanted = np.exp(-mean_depth(QUASAR.wave, np.array([z])))[0]
    for low, high in ((1040, 1200), (950, 1020), (850, 900)):
        inside = (QUASAR.wave > low) & (QUASAR.wave < high)
        seen = float(drawn[:, torch.from_numpy(inside)].mean())
        assert seen == pytest.approx(wanted[inside].mean(), rel=0.01)
    forest = drawn[:, torch.from_numpy((QUASAR.wave > 1040) & (QUASAR.wave < 1200))]
    assert float(forest.std()) > 0.2


def test_the_mean_depth_is_that_of_the_paper() -> None:
    """At z = 3, Lyman alpha is absorbed by 0.00554 4^3.182; redward, by nothing."""
    depth = mean_depth(np.array([LYMAN_ALPHA - 1e-6, 1300.0]), np.array([3.0]))[0]
    assert depth[0] == pytest.approx(0.00554 * 4**3.182, rel=1e-6)
    assert depth[1] == 0


def test_deviations_that_make_spectra_negative_are_made_smaller() -> None:
    basis = torch.stack([torch.ones(QUASAR.size), torch.ones(QUASAR.size)])
    wild = QuasarSet(basis, torch.zeros(1), torch.tensor([3.0]), 1000, 9000)
    drawn = wild.draw(500, seeded(0))
    assert float(drawn.min()) > 0
    assert float(drawn.std()) > 0.5


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rrtemplate-QSO-LOZ"):
        QuasarLibrary.read(tmp_path)
    for name in ("LOZ", "HIZ"):
        hdu = fits.PrimaryHDU(np.ones((4, 100)))
        hdu.header.update({"CRVAL1": 3.2, "CDELT1": 1e-4, "LOGLAM": 1})
        hdu.writeto(tmp_path / f"rrtemplate-QSO-{name}-v1.fits")
    with pytest.raises(InputError, match="covers 1585 to 1621 Angstrom"):
        QuasarLibrary.read(tmp_path)


def test_quasars_of_redrock_are_positive_where_they_are_seen(real_data: Path) -> None:
    library = QuasarLibrary.read(real_data / "templates")
    z = torch.linspace(0.1, 3.3, 200)
    drawn = quasars(z, library, seeded(0))
    assert bool(drawn.restframe.isfinite().all())
    red = torch.from_numpy((QUASAR.wave > 1350) & (QUASAR.wave < 4400))
    assert float(drawn.restframe[:, red].min()) > 0
    slope = drawn.parameters["slope"]
    assert -2.5 < float(slope.median()) < -0.5
    assert float(slope.std()) > 0.2
