"""Averaging over pixels, beside specutils' FluxConservingResampler, on real spectra."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from spender_core import native, registry
from spender_core.grid import Linear, Log
from spender_core.ops.resampler import Resampler

specutils = pytest.importorskip("specutils", reason="specutils is not installed")
BACKENDS = ["eager", *(["compiled"] if native.library() is not None else [])]
GRIDS = {
    "coarser": Linear(4000.0, 3.1, 1300),
    "finer": Linear(4000.0, 0.37, 9000),
    "log": Log(3.65, 2.3e-4, 1000),
}


def by_specutils(wave, flux, new_wave, redshift):
    from astropy import units as u
    from specutils.manipulation import FluxConservingResampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectrum = specutils.Spectrum(
            spectral_axis=wave * (1 + redshift) * u.AA, flux=flux * u.Unit("erg / (s cm2 AA)")
        )
        made = FluxConservingResampler()(spectrum, new_wave * u.AA)
    return made.flux.value


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("redshift", [0.0, 0.013])
def test_equal_to_specutils_on_real_spectra(real_data, name, redshift, backend):
    """Those of the first SDSS galaxy, BOSS and DESI spectra there are."""
    seen = []
    for kind, pattern in (("sdss", "**/spec-*.fits"), ("desi", "**/coadd-*.fits")):
        file = sorted(real_data.glob(pattern))[0]
        instrument = registry.recognise(str(file))
        batch = instrument.read(str(file), quality=False)[:2]
        wave, grid = instrument.wave, GRIDS[name]
        resampler = Resampler(wave, grid.wave, conserve_flux=True)
        z = torch.full((len(batch),), redshift, dtype=torch.float64)
        y, valid = resampler(batch.flux, z, backend)
        for row in range(len(batch)):
            wanted = by_specutils(wave, batch.flux[row].double().numpy(), grid.wave, redshift)
            there = valid[row].numpy() & np.isfinite(wanted)
            assert there.sum() > 0.8 * grid.size
            scale = np.abs(batch.flux[row].numpy()).max()
            difference = np.abs(y[row].numpy() - wanted)[there].max()
            assert difference < 1e-5 * scale
            seen.append(kind)
    assert {"sdss", "desi"} <= set(seen)
