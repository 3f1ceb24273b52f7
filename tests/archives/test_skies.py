"""Cones, boxes and pixels of the sky, against astropy's separations and healpy."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, angular_separation

from spender_core.archives.catalogues.skies import reach, region
from spender_core.errors import InputError

CONES = [
    (10.0, 20.0, 1.0),
    (0.0, 0.0, 0.5),
    (359.9, -30.0, 2.0),
    (123.0, 90.0, 3.0),
    (77.0, -89.5, 1.0),
    (200.0, 45.0, 90.0),
    (200.0, -45.0, 150.0),
    (-10.0, 5.0, 0.3),
    (12.0, 3.0, 1e-4),
    (12.0, 3.0, 180.0),
]
BOXES = [
    (10, 20, -5, 5),
    (350, 10, -5, 5),
    (-10, 10, 80, 90),
    (0, 360, -90, -89),
    (20, 10, 0, 30),
    (5, 5, -1, 1),
    (10, 20, -90, 90),
    (359.5, 360, 40, 40.5),
]


def positions(n: int, seed: int) -> tuple[Any, Any]:
    """Points all over the sky, at the poles, around right ascension 0, and close to (12, 3)."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    near = rng.normal(0, 2, (2, n // 4))
    polar = rng.uniform(0, 360, n // 8), 90 - rng.exponential(1, n // 8)
    tiny = 12 + rng.normal(0, 1e-4, n // 8), 3 + rng.normal(0, 1e-4, n // 8)
    ra = np.concatenate([ra, near[0] % 360, polar[0], polar[0], tiny[0], [0, 0, 0, 360, 180]])
    dec = np.concatenate([dec, near[1], polar[1], -polar[1], tiny[1], [90, -90, 0, 0, 0]])
    return ra, dec


@pytest.mark.parametrize("cone", CONES)
def test_cones_hold_what_is_within_the_angle(cone: tuple[float, float, float]) -> None:
    ra, dec = positions(8000, 1)
    ra, dec = np.append(ra, cone[0]), np.append(dec, cone[1])
    centre = SkyCoord(cone[0] * u.deg, cone[1] * u.deg)
    away = SkyCoord(ra * u.deg, dec * u.deg).separation(centre).deg
    clear = np.abs(away - cone[2]) > 1e-9  # of rounding
    found = region(cone=cone).contains(ra, dec)
    assert np.array_equal(found[clear], (away <= cone[2])[clear])
    assert found.any()


@pytest.mark.parametrize("box", BOXES)
def test_boxes_hold_what_is_between_their_edges(box: Any) -> None:
    ra, dec = positions(8000, 2)
    ra, dec = np.append(ra, box[0] % 360), np.append(dec, (box[2] + box[3]) / 2)
    first, last = box[0] % 360, box[1] % 360
    if box[1] - box[0] == 360:
        between = np.ones(len(ra), dtype=bool)
    elif first <= last:
        between = (first <= ra % 360) & (ra % 360 <= last)
    else:
        between = (ra % 360 >= first) | (ra % 360 <= last)
    expected = between & (box[2] <= dec) & (dec <= box[3])
    assert np.array_equal(region(box=box).contains(ra, dec), expected)
    assert expected.any()


def test_a_whole_turn_is_all_of_the_sky() -> None:
    ra, dec = positions(1000, 3)
    assert region(box=(0, 360, -90, 90)).contains(ra, dec).all()
    assert region(box=(-180, 180, -90, 90)).contains(ra, dec).all()


@pytest.mark.parametrize("nside", [1, 4, 64, 1024])
def test_pixels_are_those_of_healpy(nside: int) -> None:
    healpy = pytest.importorskip("healpy", reason="the oracle healpy is not installed")
    ra, dec = positions(4000, 4)
    numbers = healpy.ang2pix(nside, ra, dec, nest=True, lonlat=True)
    wanted = np.unique(numbers)[:: max(nside // 8, 1)].tolist()
    found = region(healpix=(nside, wanted)).contains(ra, dec)
    assert np.array_equal(found, np.isin(numbers, wanted))
    assert found.any()
    assert healpy.max_pixrad(nside, degrees=True) < reach(nside)


@pytest.mark.parametrize("nside", [8, 64])
@pytest.mark.parametrize(
    "asked",
    [{"cone": cone} for cone in CONES]
    + [{"box": box} for box in BOXES]
    + [{"healpix": (4, [0, 100])}, {"healpix": (512, [0, 10**6, 3 * 10**6])}],
    ids=str,
)
def test_no_pixel_that_a_region_touches_is_left_out(asked: Any, nside: int) -> None:
    from astropy_healpix import HEALPix

    part = region(**asked)
    ra, dec = positions(60_000, 5)
    ra = np.append(ra, [asked["cone"][0]] if "cone" in asked else [])
    dec = np.append(dec, [asked["cone"][1]] if "cone" in asked else [])
    inside = part.contains(ra, dec)
    pixel = HEALPix(nside, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    touched = np.unique(pixel[inside])
    assert np.isin(touched, part.pixels(nside)).all()


def test_pixels_far_from_a_cone_are_left_out() -> None:
    from astropy_healpix import HEALPix

    pixels = region(cone=(30.0, 60.0, 1.0)).pixels(64)
    lon, lat = HEALPix(64, order="nested").healpix_to_lonlat(pixels)
    away = angular_separation(lon, lat, 30 * u.deg, 60 * u.deg).to_value(u.deg)
    assert away.max() < 1 + 2 * reach(64)
    assert len(pixels) < 30


def test_positions_that_are_not_on_the_sky_are_in_no_region() -> None:
    ra, dec = np.array([np.nan, 10, 10, np.inf]), np.array([0, np.nan, 1e9, 0])
    for asked in ({"cone": (10, 0, 179)}, {"box": (0, 20, -80, 80)}, {"healpix": (1, range(12))}):
        with np.errstate(invalid="ignore"):
            assert not region(**asked).contains(ra, dec).any(), asked  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked",
    [
        {"cone": (1, 2)},
        {"cone": (1, 91, 3)},
        {"cone": (1, 2, 0)},
        {"cone": (1, 2, 181)},
        {"cone": (1, float("nan"), 1)},
        {"cone": "abc"},
        {"cone": 3},
        {"box": (1, 2, 3)},
        {"box": (1, 2, 5, 3)},
        {"box": (1, 2, -91, 3)},
        {"box": (0, 720, 1, 2)},
        {"healpix": 5},
        {"healpix": (3, [1])},
        {"healpix": (0, [0])},
        {"healpix": (64, [])},
        {"healpix": (64, [12 * 64**2])},
        {"healpix": (64, [-1])},
        {"healpix": (64, [1.5])},
        {"cone": (1, 2, 3), "box": (1, 2, 3, 4)},
    ],
    ids=str,
)
def test_what_is_no_region_is_refused(asked: Any) -> None:
    with pytest.raises(InputError):
        region(**asked)
