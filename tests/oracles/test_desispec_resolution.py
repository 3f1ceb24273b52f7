"""Resolution matrices are applied as desispec applies them, on real coadds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from numpy.typing import NDArray

from spender_core import registry
from spender_core.line_spread import BandedLSF

resolution = pytest.importorskip("desispec.resolution", reason="desispec is not installed")
coaddition = pytest.importorskip("desispec.coaddition", reason="desispec.coaddition is missing")
spectra = pytest.importorskip("desispec.spectra", reason="desispec.spectra is missing")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

TOLERANCE = 1e-6
Array = NDArray[np.float64]


def matrices(path: Path) -> Array:
    """Return the resolution of a coadd, joined over the cameras by desispec, (N, K, L)."""
    parts: dict[str, dict[str, Any]] = {}
    with fits.open(path, memmap=False) as hdus:
        for camera in "BRZ":
            for part in ("WAVELENGTH", "FLUX", "IVAR", "MASK", "RESOLUTION"):
                kind = np.int32 if part == "MASK" else np.float64
                values = np.array(hdus[f"{camera}_{part}"].data, dtype=kind)
                parts.setdefault(part, {})[camera.lower()] = values
    joined = coaddition.coadd_cameras(
        spectra.Spectra(
            bands=["b", "r", "z"],
            wave=parts["WAVELENGTH"],
            flux=parts["FLUX"],
            ivar=parts["IVAR"],
            mask=parts["MASK"],
            resolution_data=parts["RESOLUTION"],
        )
    )
    made: Array = joined.resolution_data["brz"]
    return made


@pytest.fixture(scope="module")
def coadds(real_data: Path) -> list[Path]:
    paths = sorted((real_data / "desi").rglob("coadd-*.fits"))
    assert len(paths) == 5
    return paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_real_spectra_are_broadened_as_by_desispec(
    coadds: list[Path], dtype: torch.dtype, record_deviation: Callable[[str, float], None]
) -> None:
    """White noise and the spectra themselves, with their own matrices, and back."""
    applied = 0
    for path in coadds:
        batch = registry.instrument("desi").read(str(path), quality=False, lsf=True)
        lsf = batch.lsf
        assert isinstance(lsf, BandedLSF)
        expected = matrices(path)
        assert np.abs(lsf.data.numpy() - expected).max() <= TOLERANCE * np.abs(expected).max()
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(batch.flux.shape, generator=generator, dtype=torch.float64)
        for y in (noise, batch.flux.double()):
            found = lsf.to(dtype=dtype)(y.to(dtype)).double().numpy()
            for row, data in enumerate(expected):
                matrix = resolution.Resolution(data)
                seen = matrix.dot(y[row].numpy())
                scale = np.abs(seen).max()
                if scale == 0:
                    assert (found[row] == 0).all()
                    continue
                deviation = float(np.abs(found[row] - seen).max() / scale)
                record_deviation(f"{path.stem} {row}", deviation)
                assert deviation <= TOLERANCE
                applied += 1
    assert applied > 20
