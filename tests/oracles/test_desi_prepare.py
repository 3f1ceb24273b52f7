"""A full-width coadd is read as spender 0.3 does, where spender is right."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from full_coadds import write
from spender_desi.instrument import DESI

desi = pytest.importorskip("spender.data.desi", reason="the oracle spender is not installed")


@pytest.mark.parametrize("survey", ["sv1", "sv3"])
def test_spectra_are_those_of_spender(tmp_path: Path, survey: str) -> None:
    """It takes redshifts by position, so that rows of the redrock file are in order here."""
    made = write(tmp_path, 12, survey=survey, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec, w, z, target, norm, zerr = desi.DESI.prepare_spectra(str(made.coadd))
    batch = DESI().read(str(made.coadd))
    assert batch.ids is not None
    assert batch.ids["TARGETID"].tolist() == target.tolist() == made.targets.tolist()
    good = w > 0
    assert torch.equal(good, batch.good)
    assert 0.7 < good.double().mean() < 1
    torch.testing.assert_close(batch.flux[good], spec[good], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(batch.ivar, w, rtol=1e-6, atol=0)
    torch.testing.assert_close(batch.norm.float(), norm, rtol=1e-6, atol=0)
    assert torch.equal(batch.z.float(), z)
    assert torch.equal(batch.zerr.float(), zerr)
