"""Target classes of DESI by their bits, and the quality cuts of published samples."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.conditions import Cut
from spender_core.archives.catalogues.values import Columns
from spender_core.errors import InputError

Bits = dict[str, dict[str, dict[str, int]]]

LRG, BGS_ANY = 1 << 0, 1 << 60
"""Bits of DESI_TARGET, the same in sv1, sv2, sv3 and main."""

_PHASES = {"special": "main"}
"""Surveys whose targets were selected by the masks of another phase."""


@cache
def bits() -> Bits:
    """Return the bits of all classes, by phase of the survey, column and name."""
    return tomllib.loads((resources.files("spender_desi") / "targets.toml").read_text())


def _masks() -> dict[tuple[str, str], dict[str, int]]:
    """Return the bits of all classes, by phase of the survey and column together."""
    return {
        (phase, column): mask
        for phase, columns in bits().items()
        for column, mask in columns.items()
    }


def mask_columns() -> list[str]:
    """Return the names of all columns that hold bits of targets."""
    return [column for columns in bits().values() for column in columns]


def class_masks(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the bits of target classes, joined, by phase of the survey and column.

    Args:
        names: Classes such as "BGS_BRIGHT", "LRG" or "MWS_ANY", in any case.

    Raises:
        InputError: No phase of the survey has a class of such a name.
    """
    found: dict[str, dict[str, int]] = {}
    known = {name.upper(): name for mask in _masks().values() for name in mask}
    for name in names:
        if name.upper() not in known:
            near = [known[one] for one in get_close_matches(name.upper(), known, n=3, cutoff=0.5)]
            hint = (
                f"did you mean {' or '.join(near)}?" if near else "e.g. BGS_BRIGHT, LRG, ELG, QSO"
            )
            raise InputError(f"DESI has no target class {name!r:.60}; {hint}")
        for (phase, column), mask in _masks().items():
            bit = next((bit for other, bit in mask.items() if other.upper() == name.upper()), None)
            if bit is not None:
                place = found.setdefault(phase, {})
                place[column] = place.get(column, 0) | 1 << bit
    return found


def target_cut(names: Sequence[str], known: Collection[str]) -> Cut:
    """Return the condition that a row is a target of any of some classes.

    What counts are the masks of the phase of the survey that the row was observed in, by its
    SURVEY: sv1, sv2, sv3 and cmx have their own, main and special share theirs.

    Args:
        names: The classes.
        known: Columns of the table; a mask that it lacks counts as 0.

    Raises:
        InputError: A class is unknown, or the table does not tell any of them.
    """
    masks = {
        phase: {column: mask for column, mask in columns.items() if column in known}
        for phase, columns in class_masks(names).items()
    }
    needed = list(dict.fromkeys(column for columns in masks.values() for column in columns))
    if not needed or "SURVEY" not in known:
        theirs = sorted({column for columns in class_masks(names).values() for column in columns})
        absent = "SURVEY" if needed else " or ".join(theirs)
        raise InputError(
            f"the catalogue has no column {absent}, which tells targets of {', '.join(names)}"
        )

    def keep(columns: Columns) -> NDArray[np.bool_]:
        survey = columns["SURVEY"]
        keep = np.zeros(len(survey), dtype=bool)
        for phase, wanted in masks.items():
            rows = survey == phase.encode()
            for other, same in _PHASES.items():
                if same == phase:
                    rows |= survey == other.encode()
            if not rows.any():
                continue
            member = np.zeros(len(survey), dtype=bool)
            for column, mask in wanted.items():
                member |= (_plain(columns[column]) & _signed(mask)) != 0
            keep |= rows & member
        return keep

    return Cut(("SURVEY", *needed), keep, f"target of {', '.join(names)}")


def _signed(mask: int) -> np.int64:
    """Return a mask of 64 bits as a number of numpy with a sign."""
    return np.uint64(mask).astype(np.int64)


def _plain(bits: NDArray[Any]) -> NDArray[np.int64]:
    """Return bits of targets; a row that has none belongs to no class."""
    result: NDArray[np.int64] = np.ma.filled(bits, 0).astype(np.int64)
    return result


def joined_bits(columns: Columns) -> NDArray[np.int64]:
    """Return the bits of DESI_TARGET of all phases of the survey, joined, shape (N,)."""
    found = np.zeros(len(next(iter(columns.values()))), dtype=np.int64)
    for name, values in columns.items():
        if name.endswith("DESI_TARGET"):
            found |= _plain(values)
    return found


def uncertain(
    target: NDArray[np.int64], z: NDArray[Any], zerr: NDArray[Any], delta_chi2: NDArray[Any]
) -> NDArray[np.bool_]:
    """Tell which redshifts fail the cuts of the published samples, shape (N,).

    BGS: ZERR < 0.0005 (1 + z) and DELTACHI2 > 40. LRG: DELTACHI2 > 15. (DESI Collaboration
    2024, AJ 168, 58; Liang et al. 2023.) Those of ELG need the flux of [O II], those of QSO
    other classifiers than redrock; neither is in a redshift catalogue, so they have none here.

    Args:
        target: Bits of DESI_TARGET, of all phases of the survey.
        z: Redshifts.
        zerr: Their standard deviations.
        delta_chi2: Differences of chi square from the second best solution.
    """
    bgs, lrg = (target & BGS_ANY) != 0, (target & LRG) != 0
    good_bgs = (zerr < 0.0005 * (1 + z)) & (delta_chi2 > 40)
    result: NDArray[np.bool_] = (bgs & ~good_bgs) | (lrg & ~(delta_chi2 > 15))
    return result


def quality_cut(known: Collection[str]) -> Cut:
    """Return the cuts that reading applies, as far as a catalogue tells of them.

    A target, not sky; no fault of the fibre; ZWARN 0; not `uncertain`.
    """
    masks = [name for name in known if name.endswith("DESI_TARGET")]
    status = [name for name in ("COADD_FIBERSTATUS", "OBJTYPE") if name in known]

    def keep(columns: Columns) -> NDArray[np.bool_]:
        keep = np.ma.filled(columns["ZWARN"] == 0, False) & np.isfinite(columns["Z"])
        if "COADD_FIBERSTATUS" in columns:
            keep &= np.ma.filled(columns["COADD_FIBERSTATUS"] == 0, False)
        if "OBJTYPE" in columns:
            keep &= columns["OBJTYPE"] == b"TGT"
        if masks:
            target = joined_bits({name: columns[name] for name in masks})
            zerr = np.where(np.isfinite(columns["ZERR"]), np.abs(columns["ZERR"]), np.inf)
            keep &= ~uncertain(target, columns["Z"], zerr, columns["DELTACHI2"])
        result: NDArray[np.bool_] = keep
        return result

    needed = ("Z", "ZERR", "ZWARN", "DELTACHI2", *status, *masks)
    return Cut(needed, keep, "quality cuts of DESI")


def primary_of(
    objects: NDArray[np.int64], warning: NDArray[Any], depth: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return which spectrum of each object is its best, as desispec's catalogues have it.

    Those without a redshift warning come first, then those of larger TSNR2_LRG, then the first
    (`find_primary_spectra` in desispec.zcatalog).

    Args:
        objects: TARGETID of each spectrum, shape (N,).
        warning: ZWARN.
        depth: TSNR2_LRG.
    """
    order = np.lexsort((np.arange(len(objects)), -depth, warning != 0, objects))
    best = np.ones(len(objects), dtype=bool)
    best[1:] = objects[order][1:] != objects[order][:-1]
    result = np.zeros(len(objects), dtype=bool)
    result[order[best]] = True
    return result
