"""Target classes and primary spectra of DESI, against desitarget and desispec."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from spender_desi.targets import bits, class_masks, primary_of, target_cut

pytest.importorskip("desitarget", reason="the oracle desitarget is not installed")

MODULES = {
    "main": ("desitarget.targetmask", ""),
    "sv1": ("desitarget.sv1.sv1_targetmask", "SV1_"),
    "sv2": ("desitarget.sv2.sv2_targetmask", "SV2_"),
    "sv3": ("desitarget.sv3.sv3_targetmask", "SV3_"),
}


def their_masks() -> dict[str, dict[str, Any]]:
    masks: dict[str, dict[str, Any]] = {
        phase: {
            f"{prefix}{kind.upper()}_TARGET": getattr(importlib.import_module(name), f"{kind}_mask")
            for kind in ("desi", "bgs", "mws", "scnd")
        }
        for phase, (name, prefix) in MODULES.items()
    }
    cmx = importlib.import_module("desitarget.cmx.cmx_targetmask").cmx_mask
    return masks | {"cmx": {"CMX_TARGET": cmx}}


def test_all_bits_are_those_of_desitarget() -> None:
    ours, theirs = bits(), their_masks()
    assert ours.keys() == theirs.keys()
    for phase, columns in theirs.items():
        assert ours[phase].keys() == columns.keys()
        for column, mask in columns.items():
            expected = {name: mask.bitnum(name) for name in mask.names()}
            assert ours[phase][column] == expected, column
            assert len({name.upper() for name in expected}) == len(expected)
            assert expected


def test_rows_with_each_bit_are_counted_as_desitarget_would() -> None:
    """A table with a row for each survey, column and bit, set alone; and rows of many bits."""
    theirs = their_masks()
    columns = [column for masks in theirs.values() for column in masks]
    surveys = [*theirs, "special"]
    rng = np.random.default_rng(0)
    rows: list[tuple[str, dict[str, int]]] = [
        (survey, {column: 1 << bit})
        for survey in surveys
        for column in columns
        for bit in range(63)
    ]
    rows += [
        (str(rng.choice(surveys)), {column: int(rng.integers(0, 2**63)) for column in columns})
        for _ in range(2000)
    ]
    table: dict[str, Any] = {
        column: np.array([values.get(column, 0) for _, values in rows]) for column in columns
    }
    table["SURVEY"] = np.array([survey.encode() for survey, _ in rows])
    names = sorted(
        {name for masks in theirs.values() for m in masks.values() for name in m.names()}
    )
    assert len(names) > 200
    for name in names:
        cut = target_cut([name], table.keys())
        found = cut.keep({column: table[column] for column in cut.names})
        expected = np.zeros(len(rows), dtype=bool)
        for phase, masks in theirs.items():
            own = np.isin(
                table["SURVEY"], [phase.encode(), b"special" if phase == "main" else b"-"]
            )
            for column, mask in masks.items():
                if name in mask.names():
                    expected |= own & ((table[column] & np.int64(mask[name])) != 0)
        assert np.array_equal(found, expected), name
        assert expected.any()


def test_several_classes_are_joined() -> None:
    masks = class_masks(["bgs_bright", "BGS_FAINT", "LRG"])
    theirs = their_masks()
    for phase in ("main", "sv2", "sv3"):
        prefix = "" if phase == "main" else f"{phase.upper()}_"
        assert masks[phase] == {
            f"{prefix}DESI_TARGET": theirs[phase][f"{prefix}DESI_TARGET"].mask("LRG"),
            f"{prefix}BGS_TARGET": theirs[phase][f"{prefix}BGS_TARGET"].mask(
                "BGS_BRIGHT|BGS_FAINT"
            ),
        }


def test_primary_spectra_are_those_of_desispec() -> None:
    zcatalog = pytest.importorskip("desispec.zcatalog", reason="desispec is not installed")
    rng = np.random.default_rng(1)
    n = 2000
    table = {
        "TARGETID": rng.integers(0, 700, n),
        "ZWARN": rng.choice([0, 0, 4, 1 << 22], n),
        "TSNR2_LRG": rng.uniform(1, 100, n),
    }
    _, expected = zcatalog.find_primary_spectra(table)
    found = primary_of(table["TARGETID"], table["ZWARN"], table["TSNR2_LRG"])
    assert np.array_equal(found, np.asarray(expected, dtype=bool))
    assert found.sum() == len(np.unique(table["TARGETID"]))
