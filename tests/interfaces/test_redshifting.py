"""Measured redshifts: of mocks that know theirs, of real galaxies, and of what has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spender_core import SpectrumBatch, registry
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.errors import InputError
from spender_core.interfaces import ZFlag
from spender_core.nn.decoder import SpectrumDecoder

GALAXIES = ("0266/spec-0266-51602-0013", "0285/spec-0285-51930-0184", "0358/spec-0358-51818-0504")


def without_z(batch: SpectrumBatch, name: str) -> SpectrumBatch:
    """Return spectra as they are read where redshifts are unknown."""
    norm = batch.norm.to(batch.flux)[:, None]
    raw = SpectrumBatch(batch.flux * norm, batch.ivar / norm**2)
    return registry.instrument(name).prepare(raw)


def mocks(name: str, n: int) -> tuple[SpectrumBatch, Tensor]:
    survey = MockSurvey(
        registry.instrument(name), seed=11, size=n, n=n, z_range=(0, 0.5), snr_range=(3, 20)
    )
    batch = survey.batch(0).batch
    return without_z(batch, name), batch.z


@pytest.mark.parametrize("name", ["sdss", "desi"])
def test_redshifts_of_mocks_are_found(name: str) -> None:
    batch, z = mocks(name, 48)
    found = registry.load(f"{name}_demo")[1].redshift(batch)
    off = ((found.z - z) / (1 + z)).abs()
    assert bool(batch.z.isnan().all())
    assert float(found.good.double().mean()) >= 0.9
    assert float((off[found.good] < 1e-3).double().mean()) >= 0.95
    assert bool((found.zerr[found.good] > 0).all())


def test_neither_company_nor_amplitude_changes_a_redshift() -> None:
    batch, _ = mocks("sdss", 8)
    model = registry.load("sdss_demo")[1]
    found = model.redshift(batch)
    alone = model.redshift(batch[3])
    scaled = model.redshift(SpectrumBatch(batch.flux * 4, batch.ivar / 16, instrument="sdss"))
    assert float((alone.z - found.z[3]).abs()) < 1e-6
    assert torch.allclose(scaled.z, found.z, atol=1e-6)


def test_the_posterior_is_a_probability_and_peaks_at_the_redshift() -> None:
    batch, _ = mocks("sdss", 6)
    found = registry.load("sdss_demo")[1].redshift(batch, posterior=True)
    share = found.log_posterior.exp()
    assert torch.allclose(share.sum(dim=1), torch.ones(6).double())
    peak = found.grid[share.argmax(dim=1)]
    assert bool(((peak - found.z).abs() < 5e-4)[found.good].all())


def test_spectra_with_nothing_to_fit_are_flagged() -> None:
    batch, _ = mocks("sdss", 2)
    ivar = batch.ivar.clone()
    ivar[0] = 0
    found = registry.load("sdss_demo")[1].redshift(
        SpectrumBatch(batch.flux, ivar, instrument="sdss")
    )
    assert int(found.flags[0]) & ZFlag.NO_FIT
    assert bool(found.z[0].isnan())
    assert found.causes(0)
    assert bool(found.z[1].isfinite())


def test_a_redshift_beyond_the_range_is_flagged() -> None:
    batch, z = mocks("sdss", 32)
    found = registry.load("sdss_demo")[1].redshift(batch, z_range=(0.45, 0.5))
    assert float((found.flags[z < 0.4] > 0).double().mean()) > 0.5


def test_what_makes_no_sense_is_refused() -> None:
    batch, _ = mocks("sdss", 1)
    model = registry.load("sdss_demo")[1]
    with pytest.raises(InputError, match="prior is a width above 0"):
        model.redshift(batch, prior=0)
    with pytest.raises(InputError, match="low < high"):
        model.redshift(batch, z_range=(0.5, 0.1))
    with pytest.raises(InputError, match="SpectrumBatch"):
        model.redshift(batch.flux)


def test_no_spectra_have_no_redshifts() -> None:
    batch, _ = mocks("sdss", 1)
    assert len(registry.load("sdss_demo")[1].redshift(batch[[]])) == 0


def test_real_galaxies_have_the_redshift_of_the_survey() -> None:
    if "SPENDER_TEST_DATA" not in os.environ:
        pytest.skip("SPENDER_TEST_DATA is not set: it names a folder of real spectra")
    folder = (
        Path(os.environ["SPENDER_TEST_DATA"]) / "sdss/sas/dr17/sdss/spectro/redux/26/spectra/lite"
    )
    sdss, model = registry.load("sdss_demo")
    known = sdss.read([str(folder / f"{name}.fits") for name in GALAXIES], quality=False)
    found = model.redshift(without_z(known, "sdss"))
    assert len(known) == 3
    assert bool((((found.z - known.z) / (1 + known.z)).abs() < 1e-3).all())


@pytest.mark.parametrize("activation", ["speculator", "leaky_relu"])
def test_slopes_of_the_decoder_equal_those_of_torch(activation: str) -> None:
    torch.manual_seed(1)
    decoder = SpectrumDecoder(3, 50, (8, 16), activation).double()
    s = torch.randn(4, 3).double()
    x, slopes = decoder.slopes(s)
    assert torch.allclose(x, decoder(s))
    for row in range(4):
        made = torch.autograd.functional.jacobian(lambda v: decoder(v[None])[0], s[row])
        assert torch.allclose(slopes[:, row], made.T, atol=1e-12)
