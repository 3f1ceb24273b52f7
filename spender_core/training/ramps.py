"""Numbers that change over a phase of training, such as amplitudes of losses."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

Knots = tuple[tuple[float, float], ...]


def _checked(value: Any) -> float | Knots:
    """Return a number, or knots as tuples, of what a recipe says."""
    if is_number(value):
        return float(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ValueError(_FORM)
    knots = []
    for knot in value:
        pair = isinstance(knot, Sequence) and not isinstance(knot, str | bytes) and len(knot) == 2
        if not pair or not all(map(is_number, knot)):
            raise ValueError(_FORM)
        knots.append((float(knot[0]), float(knot[1])))
    shares = [share for share, _ in knots]
    if shares != sorted(shares) or shares[0] < 0 or shares[-1] > 1:
        raise ValueError(f"shares of the phase must rise from 0 to 1, got {shares}")
    return tuple(knots)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no boolean."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # of an integer beyond the range of floats
        return False


_FORM = (
    "a finite number is allowed, or a list of pairs [share of the phase from 0 to 1, value], "
    "between which values are interpolated, e.g. [[0.0, 0.0], [0.5, 3.0]]"
)

Ramp = Annotated[float | Knots, BeforeValidator(_checked)]
"""A number, or pairs (share of the phase, value): linear in between, constant beyond.

Two pairs at the same share make a jump.
"""


def at(ramp: float | Knots, share: float) -> float:
    """Return the value of a ramp where a share, 0 to 1, of the phase is done.

    Example:
        >>> at(((0.0, 0.0), (0.5, 3.0)), 0.25), at(2.0, 0.9)
        (1.5, 2.0)
    """
    if not isinstance(ramp, tuple):
        return float(ramp)
    after = bisect_right(ramp, share, key=lambda knot: knot[0])
    if after == 0:
        return ramp[0][1]
    if after == len(ramp):
        return ramp[-1][1]
    (begin, low), (end, high) = ramp[after - 1], ramp[after]
    return low + (high - low) * (share - begin) / (end - begin)


def positive(ramp: float | Knots) -> bool:
    """Tell whether a ramp is above 0 anywhere in the phase."""
    return max(values(ramp)) > 0


def values(ramp: float | Knots) -> tuple[float, ...]:
    """Return the values that a ramp is made of; its extremes are among them."""
    return tuple(value for _, value in ramp) if isinstance(ramp, tuple) else (ramp,)
