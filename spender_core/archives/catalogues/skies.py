"""Parts of the sky: cones, boxes and HEALPix pixels; which positions are in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from spender_core.errors import InputError

Floats = NDArray[np.float64]

_MOST_NSIDE = 1 << 29


class Region(Protocol):
    """A part of the sky."""

    def contains(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """Tell which positions (N,), degrees, are in it."""

    def pixels(self, nside: int) -> NDArray[np.int64]:
        """Return all nested HEALPix pixels that it touches, sorted; and maybe others beside it."""


@dataclass(frozen=True)
class Cone:
    """All within an angle of a position; degrees."""

    ra: float
    dec: float
    radius: float

    def contains(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """Tell which positions (N,), degrees, are in it, its edge too."""
        # the chord between unit vectors is exact for small angles, where their product is not
        real = _on_sky(ra, dec)
        away = _unit(ra[real], dec[real])
        away -= _unit(np.array(self.ra), np.array(self.dec))[:, None]
        chord = np.einsum("kn,kn->n", away, away)
        inside = np.zeros(len(ra), dtype=bool)
        inside[real] = chord <= 4 * np.sin(np.radians(self.radius) / 2) ** 2
        return inside

    def pixels(self, nside: int) -> NDArray[np.int64]:
        """Return all nested HEALPix pixels that it touches, and some beside it."""
        ra, dec = _centres(nside)
        wider = Cone(self.ra, self.dec, min(self.radius + reach(nside), 180.0))
        return np.flatnonzero(wider.contains(ra, dec))


@dataclass(frozen=True)
class Box:
    """All from one right ascension eastwards to another, between two declinations; degrees."""

    ra1: float
    ra2: float
    dec1: float
    dec2: float

    def contains(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """Tell which positions (N,), degrees, are in it, its edges too."""
        return self._wider(ra, dec, 0.0, 0.0) & _on_sky(ra, dec)

    def _wider(self, ra: Floats, dec: Floats, across: float, along: float) -> NDArray[np.bool_]:
        """Tell which positions are in the box made wider, by degrees on each side."""
        width = self.ra2 - self.ra1 if self.ra2 - self.ra1 == 360 else (self.ra2 - self.ra1) % 360
        inside = (dec >= self.dec1 - along) & (dec <= self.dec2 + along)
        if width + 2 * across < 360:
            ra, first = np.mod(ra, 360.0), np.mod(self.ra1, 360.0)
            last = first + width
            turn = [(ra + k >= first - across) & (ra + k <= last + across) for k in (-360, 0, 360)]
            inside &= turn[0] | turn[1] | turn[2]
        result: NDArray[np.bool_] = inside
        return result

    def pixels(self, nside: int) -> NDArray[np.int64]:
        """Return all nested HEALPix pixels that it touches, and some beside it."""
        ra, dec = _centres(nside)
        along = reach(nside)
        # a circle of radius r at declination d spans asin(sin r / cos d) of right ascension
        highest = np.radians(max(abs(self.dec1), abs(self.dec2)) + along)
        ratio = np.sin(np.radians(along)) / max(np.cos(highest), 1e-9)
        across = (
            360.0 if highest >= np.pi / 2 or ratio >= 1 else float(np.degrees(np.arcsin(ratio)))
        )
        return np.flatnonzero(self._wider(ra, dec, across, along))


@dataclass(frozen=True)
class Pixels:
    """HEALPix pixels, nested."""

    nside: int
    numbers: tuple[int, ...]

    def contains(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """Tell which positions (N,), degrees, are in them; none where they are not on the sky."""
        real = _on_sky(ra, dec)
        inside = np.zeros(len(ra), dtype=bool)
        numbers = _healpix(self.nside).lonlat_to_healpix(ra[real] * u.deg, dec[real] * u.deg)
        inside[real] = np.isin(numbers, np.array(self.numbers))
        return inside

    def pixels(self, nside: int) -> NDArray[np.int64]:
        """Return all nested HEALPix pixels of another size that these touch."""
        numbers = np.array(self.numbers, dtype=np.int64)
        if nside <= self.nside:
            return np.unique(numbers // (self.nside // nside) ** 2)
        many = (nside // self.nside) ** 2
        return np.unique(numbers[:, None] * many + np.arange(many))


def region(cone: Any = None, box: Any = None, healpix: Any = None) -> Cone | Box | Pixels | None:
    """Return the part of the sky that a query asks for, None for all of it.

    Args:
        cone: (right ascension, declination, radius), degrees.
        box: (first right ascension, last, lowest declination, highest), degrees; the box goes
            eastwards from the first right ascension, through 0 if the last is smaller.
        healpix: (nside, pixel or pixels), nested.

    Raises:
        InputError: More than one is given, or one is malformed.
    """
    given = [
        name
        for name, value in (("cone", cone), ("box", box), ("healpix", healpix))
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are given; a query takes one of them")
    if cone is not None:
        ra, dec, radius = _numbers("cone", cone, "(ra, dec, radius)")
        _check_dec(dec)
        if not 0 < radius <= 180:
            raise InputError(
                f"the radius of a cone is above 0 and at most 180 degrees, not {radius}"
            )
        return Cone(ra, dec, radius)
    if box is not None:
        ra1, ra2, dec1, dec2 = _numbers("box", box, "(ra1, ra2, dec1, dec2)")
        _check_dec(dec1)
        _check_dec(dec2)
        if dec1 > dec2:
            raise InputError(f"box has its lower declination {dec1} above the higher one, {dec2}")
        if abs(ra2 - ra1) > 360:
            raise InputError(f"box is at most 360 degrees wide, not from {ra1} to {ra2}")
        return Box(ra1, ra2, dec1, dec2)
    return None if healpix is None else _pixels(healpix)


def reach(nside: int) -> float:
    """Return an angle, degrees, that no point of a pixel is farther from its centre.

    In units of the square root of a pixel's area, the farthest corners are 1.05 away for any
    nside (`healpy.max_pixrad`; Gorski et al. 2005, ApJ 622, 759); 1.22 is taken.
    """
    return float(np.degrees(1.25 * np.sqrt(np.pi / 3) / nside))


def _centres(nside: int) -> tuple[Floats, Floats]:
    """Return positions of the centres of all pixels, degrees, shape (12 nside^2,)."""
    ra, dec = _healpix(nside).healpix_to_lonlat(np.arange(12 * nside**2))
    return ra.to_value(u.deg), dec.to_value(u.deg)


def _healpix(nside: int) -> Any:
    from astropy_healpix import HEALPix

    return HEALPix(nside, order="nested")


def _on_sky(ra: Floats, dec: Floats) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = np.isfinite(ra) & (np.abs(dec) <= 90)
    return result


def _unit(ra: Floats, dec: Floats) -> Floats:
    """Return unit vectors, shape (3, ...)."""
    ra, dec = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _numbers(name: str, values: Any, form: str) -> list[float]:
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        found = []
    if len(found) != form.count(",") + 1 or not np.isfinite(found).all():
        raise InputError(f"{name} must be {form} in degrees, not {values!r:.80}")
    return found


def _check_dec(dec: float) -> None:
    if not -90 <= dec <= 90:
        raise InputError(f"a declination is between -90 and 90 degrees, not {dec}")


def _pixels(healpix: Any) -> Pixels:
    try:
        nside, wanted = healpix
        listing = list(wanted) if isinstance(wanted, Iterable) else [wanted]
        nside, numbers = int(nside), tuple(sorted({int(number) for number in listing}))
        exact = len(numbers) > 0 and all(int(n) == n for n in listing)
    except (TypeError, ValueError, OverflowError):
        exact, nside, numbers = False, 0, ()
    if not exact:
        raise InputError(f"healpix must be (nside, pixel or pixels), nested, not {healpix!r:.80}")
    if not 0 < nside <= _MOST_NSIDE or nside & (nside - 1):
        raise InputError(f"nside must be a power of 2, at most 2**29, not {nside}")
    if numbers[0] < 0 or numbers[-1] >= 12 * nside**2:
        raise InputError(
            f"pixels of nside {nside} are 0 to {12 * nside**2 - 1}, got {numbers[0]} to {numbers[-1]}"
        )
    return Pixels(nside, numbers)
