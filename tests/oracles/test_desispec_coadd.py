"""Cameras are joined as desispec does, on real coadds and on made-up ones.

`desispec.io` needs fitsio and its environment, so the files are read with astropy. Where
desispec averages the mask and the weights of a camera, the pipeline has set the ivar of
masked pixels to 0 before; so do the made-up cameras here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from spender_desi.coadd import GRID, Camera, Coadd, coadd_cameras
from spender_desi.loader import CoaddLoader

spectra = pytest.importorskip("desispec.spectra", reason="the oracle desispec is not installed")
coaddition = pytest.importorskip("desispec.coaddition", reason="desispec.coaddition is missing")

TOLERANCE = 1e-6
QUANTITIES = ("flux", "ivar", "resolution")
CAMERAS = ("B", "R", "Z")


def _by_desispec(cameras: dict[str, Camera]) -> Coadd:
    """Coadd with desispec, in float64 as it reads files, and check that it is on our grid."""
    band = {name.lower(): camera for name, camera in cameras.items()}
    joined = coaddition.coadd_cameras(
        spectra.Spectra(
            bands=list(band),
            wave={b: camera.wave for b, camera in band.items()},
            flux={b: camera.flux for b, camera in band.items()},
            ivar={b: camera.ivar for b, camera in band.items()},
            mask={b: np.asarray(camera.mask, dtype=np.int32) for b, camera in band.items()},
            resolution_data={b: camera.resolution for b, camera in band.items()},
        )
    )
    (name,) = joined.bands
    np.testing.assert_allclose(joined.wave[name], GRID.wave, rtol=0, atol=1e-6)
    return Coadd(
        joined.flux[name], joined.ivar[name], joined.mask[name], joined.resolution_data[name]
    )


def _native(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return np.asarray(array, dtype=dtype)


def _read(path: Path, dtype: Any) -> dict[str, Camera]:
    with fits.open(path, memmap=False) as hdus:
        return {
            name: Camera(
                wave=_native(hdus[f"{name}_WAVELENGTH"].data, np.float64),
                flux=_native(hdus[f"{name}_FLUX"].data, dtype),
                ivar=_native(hdus[f"{name}_IVAR"].data, dtype),
                mask=_native(hdus[f"{name}_MASK"].data, np.int64),
                resolution=_native(hdus[f"{name}_RESOLUTION"].data, dtype),
            )
            for name in CAMERAS
        }


@pytest.fixture(scope="module")
def coadds(real_data: Path) -> dict[str, Path]:
    paths = sorted((real_data / "desi").rglob("coadd-*.fits"))
    return {path.stem: path for path in paths}


def _deviation(ours: NDArray[Any] | None, expected: NDArray[Any] | None) -> float:
    assert ours is not None
    assert expected is not None
    assert ours.shape == expected.shape
    assert np.isfinite(ours).all()
    assert float(np.abs(expected).max()) > 0
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def _check(ours: Coadd, expected: Coadd, record: Callable[[str, float], None]) -> None:
    for name in QUANTITIES:
        deviation = _deviation(getattr(ours, name), getattr(expected, name))
        record(name, deviation)
        assert deviation <= TOLERANCE, name
    np.testing.assert_array_equal(ours.mask, expected.mask)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_real_coadds(
    coadds: dict[str, Path], dtype: Any, record_deviation: Callable[[str, float], None]
) -> None:
    """Our loader hands over float32, as in the files; desispec computes in float64."""
    assert len(coadds) == 5
    for name, path in coadds.items():
        expected = _by_desispec(_read(path, np.float64))
        ours = coadd_cameras(_read(path, dtype))
        _check(
            ours, expected, lambda key, value, name=name: record_deviation(f"{name} {key}", value)
        )


def test_loader_gives_the_coadd_of_desispec(
    coadds: dict[str, Path], record_deviation: Callable[[str, float], None]
) -> None:
    for name, path in coadds.items():
        expected = _by_desispec(_read(path, np.float64))
        loaded = CoaddLoader().load(str(path))
        flux = _deviation(loaded.flux.double().numpy(), expected.flux)
        ivar = _deviation(loaded.ivar.double().numpy(), np.where(expected.mask, 0, expected.ivar))
        record_deviation(f"{name} flux", flux)
        record_deviation(f"{name} ivar", ivar)
        assert max(flux, ivar) <= TOLERANCE, name


def test_real_coadds_have_overlaps_and_holes(coadds: dict[str, Path]) -> None:
    """Guard the oracle: some real pixels are masked, and some targets have nothing at all."""
    joined = [_by_desispec(_read(path, np.float64)) for path in coadds.values()]
    assert sum(int((coadd.mask != 0).sum()) for coadd in joined) > 10
    assert sum(int((coadd.ivar > 0).any(axis=1).sum()) for coadd in joined) >= 10
    assert any((coadd.ivar == 0).all(axis=1).any() for coadd in joined)


# ---- made-up cameras ---------------------------------------------------------------------


def _camera(
    start: int, stop: int, diagonals: int, rng: np.random.Generator, targets: int = 4
) -> Camera:
    shape = (targets, stop - start)
    mask = np.where(rng.random(shape) < 0.1, 1 << rng.integers(0, 12, shape), 0)
    ivar = rng.gamma(2.0, 1.0, shape)
    ivar[rng.random(shape) < 0.05] = 0
    ivar[mask != 0] = 0
    return Camera(
        wave=GRID.wave[start:stop],
        flux=rng.normal(1.0, 3.0, shape),
        ivar=ivar,
        mask=mask,
        resolution=rng.random((targets, diagonals, stop - start)),
    )


def _made_up(seed: int, diagonals: tuple[int, int, int]) -> dict[str, Camera]:
    """Return cameras with random overlaps, and difficulties in them."""
    rng = np.random.default_rng(seed)
    red, infrared = 2500 + rng.integers(0, 300), 4900 + rng.integers(0, 300)
    ends = (red + rng.integers(1, 400), infrared + rng.integers(1, 400), GRID.size)
    spans = zip(CAMERAS, (0, red, infrared), ends, diagonals, strict=True)
    cameras = {name: _camera(start, stop, n, rng) for name, start, stop, n in spans}
    blue = cameras["B"]
    # one camera without weight in the overlap, then both, for one target each
    blue.ivar[0, red:] = 0
    blue.ivar[1, red:] = 0
    cameras["R"].ivar[1, : ends[0] - red] = 0
    # bits that differ in the two cameras
    blue.mask[1, -1], blue.ivar[1, -1] = 2, 0
    cameras["R"].mask[1, ends[0] - red - 1] = 64
    # a target that R did not see at all
    cameras["R"].ivar[2] = 0
    cameras["R"].mask[2] |= 512
    return cameras


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("diagonals", [(11, 11, 11), (5, 11, 9)], ids=str)
def test_made_up_cameras(
    seed: int,
    diagonals: tuple[int, int, int],
    record_deviation: Callable[[str, float], None],
) -> None:
    cameras = _made_up(seed, diagonals)
    expected = _by_desispec(cameras)
    _check(coadd_cameras(cameras), expected, record_deviation)


def test_made_up_cameras_are_difficult() -> None:
    """Guard the oracle: each difficulty does occur in the result."""
    cameras = _made_up(1, (5, 11, 9))
    expected = _by_desispec(cameras)
    last_of_blue = len(cameras["B"].wave) - 1
    assert expected.mask[1, last_of_blue] == 2 | 64
    assert expected.ivar[1, last_of_blue] == 0
    assert expected.flux[1, last_of_blue] == 0
    assert (expected.mask[2] & 512).any()
    assert expected.resolution is not None
    assert expected.resolution.shape[1] == 11


def test_the_order_of_cameras_does_not_matter() -> None:
    cameras = _made_up(4, (7, 11, 9))
    expected = coadd_cameras(cameras)
    turned = coadd_cameras({name: cameras[name] for name in reversed(CAMERAS)})
    for name in (*QUANTITIES, "mask"):
        np.testing.assert_allclose(getattr(turned, name), getattr(expected, name), rtol=1e-12)


@pytest.mark.parametrize("quantity", [*QUANTITIES, "mask"])
def test_weights_of_masked_pixels_are_ignored(quantity: str) -> None:
    """A stray ivar under a mask changes nothing, as if the pipeline had set it to 0."""
    cameras = _made_up(5, (11, 11, 11))
    expected = _by_desispec(cameras)
    for camera in cameras.values():
        camera.ivar[camera.mask != 0] = 7.0
    ours = coadd_cameras(cameras)
    assert _deviation(getattr(ours, quantity), getattr(expected, quantity)) <= TOLERANCE
