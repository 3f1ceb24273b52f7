"""Spectral lines to name in pictures, how they are asked for, and where their labels go."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spender_core.errors import InputError

FloatArray = NDArray[np.floating[Any]]

TELLURIC = (
    (6860.0, 6978.0, "O₂"), (7143.0, 7410.0, "H₂O"), (7584.0, 7713.0, "O₂"),
    (8092.0, 8424.0, "H₂O"), (8926.0, 9868.0, "H₂O"),
)  # fmt: skip
"""Strong bands of the atmosphere, observed Angstrom, and the molecule. Source: the list that
desispec masks in standard stars (telluric_lines.txt), neighbouring stretches joined."""

FEATURES = {"4000 Å break": (3750.0, 4250.0), "Balmer break": (3500.0, 4000.0)}
"""Restframe ranges, Angstrom, of what is no line. The windows of D4000 reach from 3750 to 4250
(Bruzual 1983, ApJ 273, 105)."""

WIDTH = 120.0
"""Width of a zoom on a line, Angstrom in restframe."""
_TOGETHER = 400.0  # lines of one label this close, Angstrom, share a zoom
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta"}
_SHORT = {"a": "alpha", "b": "beta", "g": "gamma", "d": "delta"}


@dataclass(frozen=True)
class Zoom:
    """A restframe range to enlarge.

    Attributes:
        name: What is written above it.
        low: First wavelength, Angstrom in restframe.
        high: Last one.
    """

    name: str
    low: float
    high: float


@cache
def lines() -> list[tuple[float, str, str]]:
    """Return vacuum wavelength (Angstrom), kind and label of the lines named in plots."""
    text = (resources.files("spender_core.resources") / "lines.txt").read_text(encoding="utf-8")
    rows = [row.split(maxsplit=2) for row in text.splitlines() if row and row[0] != "#"]
    return [(float(wave), kind, label) for wave, kind, label in rows]


def zooms(wanted: str) -> list[Zoom]:
    """Return the ranges that a text asks for, in its order.

    Args:
        wanted: Separated by commas: labels of lines in any case (`Hα`, `halpha`, `[O III]`,
            `oiii 5008`), `4000 break`, or `centre:width` in restframe Angstrom. Lines of one
            label that are far from each other get a range each.

    Raises:
        InputError: A part of the text is nothing of that.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    if not parts:
        raise InputError("no zoom is named; give names of lines, or centre:width in Angstrom")
    return [zoom for part in parts for zoom in (_range(part) if ":" in part else _named(part))]


def _range(text: str) -> list[Zoom]:
    centre, _, width = text.partition(":")
    try:
        middle, full = float(centre), float(width)
    except ValueError:
        middle = full = math.nan
    if not (0 < full < math.inf and full / 2 < middle < math.inf):
        raise InputError(
            f"cannot zoom on {text!r}: a range is centre:width in restframe Angstrom, "
            "both positive, such as 4861:80"
        )
    return [Zoom(f"{middle:g} Å", middle - full / 2, middle + full / 2)]


def _named(text: str) -> list[Zoom]:
    for name, (low, high) in FEATURES.items():
        if _key(text) in (_key(name), _key(name.replace("Å", "")), _key(name.replace("Å", "A"))):
            return [Zoom(name, low, high)]
    groups = {_key(label): label for _, _, label in lines()}
    # a label, and perhaps the wavelength of one of its lines
    label, number = groups.get(_key(text)), None
    if label is None and (found := re.fullmatch(r"(.*\D)\s*(\d{3,5})(?:\s*(?:Å|A))?", text)):
        label, number = groups.get(_key(found[1])), float(found[2])
    if label is None:
        raise InputError(_unknown(text, sorted(set(groups.values()))))
    waves = sorted(wave for wave, _, other in lines() if other == label)
    if number is not None:
        near = min(waves, key=lambda wave: abs(wave - number))
        if abs(near - number) > 10:
            there = ", ".join(f"{wave:.0f}" for wave in waves)
            raise InputError(f"{label} has no line at {number:.0f} Angstrom; it has {there}")
        waves = [near]
    clusters: list[list[float]] = []
    for wave in waves:
        if clusters and wave - clusters[-1][-1] < _TOGETHER:
            clusters[-1].append(wave)
        else:
            clusters.append([wave])
    return [
        Zoom(
            f"{label} {cluster[0]:.0f}" if number or len(clusters) > 1 else label,
            cluster[0] - WIDTH / 2,
            cluster[-1] + WIDTH / 2,
        )
        for cluster in clusters
    ]


def _unknown(text: str, labels: Sequence[str]) -> str:
    known = [*labels, *FEATURES]
    keys = {_key(name): name for name in known}
    near = [keys[key] for key in difflib.get_close_matches(_key(text), keys, n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"cannot zoom on {text!r}: no line of this name.{hint} Known: {', '.join(known)}; or give "
        "centre:width in restframe Angstrom, such as 4861:80"
    )


def _key(text: str) -> str:
    """Return what is compared of a label: its letters and digits, Greek ones spelt out."""
    plain = "".join(_GREEK.get(letter, letter) for letter in text.casefold())
    plain = "".join(letter for letter in plain if letter.isalnum())
    short = re.fullmatch(r"(h|ly)([abgd])", plain)
    return short[1] + _SHORT[short[2]] if short else plain


def spread(wanted: ArrayLike, distance: float, low: float, high: float) -> FloatArray:
    """Return positions near the wanted ones, in the same order, at least `distance` apart.

    They minimise the sum of squared displacements (isotonic regression by pooling of
    neighbours), and then keep within `low` and `high`, which must have room for all.

    Args:
        wanted: Increasing positions, shape (N,).
        distance: Least distance of two of them.
        low: Least position.
        high: Largest one.
    """
    positions = np.asarray(wanted, dtype=float)
    steps = distance * np.arange(len(positions))
    pools: list[tuple[float, int]] = []  # mean and number of a pool's members
    for value in positions - steps:
        mean, number = float(value), 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (mean * number + before * members) / (number + members)
            number += members
        pools.append((mean, number))
    values = np.repeat([mean for mean, _ in pools], [number for _, number in pools])
    room: FloatArray = np.clip(values, low, high - steps[-1] if len(steps) else high) + steps
    return room
