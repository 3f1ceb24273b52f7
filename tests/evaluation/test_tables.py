"""Tables of percentiles: they add up, and say what numpy says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spender_core.errors import InputError
from spender_core.evaluation.tables import (
    SNR_EDGES,
    Spread,
    Table,
    grouped,
    interval,
    plain,
    share_below,
    spread,
)


def test_a_spread_is_that_of_the_finite_values() -> None:
    values = np.random.default_rng(0).normal(2, 3, 1001)
    found = spread(np.append(values, [np.nan, np.inf]))
    assert found.n == 1001
    assert found[1:] == pytest.approx(np.percentile(values, [16, 50, 84]), rel=1e-12)


def test_a_spread_of_nothing_is_empty() -> None:
    none = spread([np.nan])
    assert none.n == 0
    assert math.isnan(none.median)
    assert str(none) == ""


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.98, 1.0, 1.1), "1.00 (0.98–1.10)"),
        ((0.0123, 0.05, 12.34), "0.05 (0.012–12.3)"),
        ((1234.5, 0.0, 5.0), "0.00 (1234–5.00)"),
    ],
)
def test_spreads_are_short(values: tuple[float, ...], text: str) -> None:
    low, middle, high = values
    assert str(Spread(3, low, middle, high)) == text


def test_groups_add_up() -> None:
    rng = np.random.default_rng(1)
    snr, chi2 = rng.uniform(-1, 60, 500), rng.chisquare(3, 500)
    snr[:7] = np.nan
    table = grouped("a title", ("S/N", snr), SNR_EDGES, {"model": chi2})
    assert table.columns == ("S/N", "n", "model")
    counts = [row[1] for row in table.rows]
    assert sum(counts[:-1]) == 493
    assert table.rows[-1][:2] == ("all", 500)
    assert table.rows[-1][2] == spread(chi2)
    near = (snr >= 8) & (snr < 12.5)
    row = next(row for row in table.rows if row[0] == "8–12.5")
    assert row[1:] == (near.sum(), spread(chi2[near]))


def test_bins_hold_their_lower_edge_and_empty_ones_are_left_out() -> None:
    table = grouped("", ("z", [0.0, 1.0, 1.5, 3.0]), (0, 1, 2, 2.5, 9), {"v": [1, 2, 4, 8]})
    found = [row[:2] for row in table.rows]
    assert found == [("0–1", 1), ("1–2", 2), ("2.5–9", 1), ("all", 4)]


def test_shares_below_a_limit() -> None:
    assert share_below([0.05, 0.1, 0.2, np.nan], 0.1) == pytest.approx(1 / 3)
    assert math.isnan(share_below([np.nan], 0.1))
    table = grouped("", ("z", [1, 1, 1]), (0, 2), {"e": [0.05, 0.2, np.nan]}, {"e": 0.1})
    assert table.columns == ("z", "n", "e", "e below 0.1, %")
    assert table.column("e below 0.1, %") == [50.0, 50.0]


@pytest.mark.parametrize(
    ("low", "high", "name"), [(-np.inf, 3, "below 3"), (0.1, 2, "0.1–2"), (40, np.inf, "from 40")]
)
def test_bins_have_names(low: float, high: float, name: str) -> None:
    assert interval(low, high) == name


def test_wrong_shapes_and_edges_are_refused() -> None:
    with pytest.raises(InputError, match=r"model must have shape \(3,\), as z"):
        grouped("", ("z", [1, 2, 3]), (0, 1), {"model": [1, 2]})
    with pytest.raises(InputError, match="edges must increase"):
        grouped("", ("z", [1.0]), (1, 0), {})
    with pytest.raises(InputError, match="2 cells"):
        Table("t", ("a", "b"), ((1,),))
    with pytest.raises(InputError, match="no column 'c' in 't'"):
        Table("t", ("a", "b"), ()).column("c")


def test_tables_become_markdown_and_json() -> None:
    table = Table("A | B", ("x|y", "v"), (("1", Spread(2, 1.0, 2.0, np.nan)), ("2", np.nan)))
    lines = table.markdown().splitlines()
    assert lines[2:4] == ["| x\\|y | v |", "| --- | --- |"]
    assert lines[5] == "| 2 |  |"
    content = table.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["rows"][0]["v"] == {"n": 2, "p16": 1.0, "p50": 2.0, "p84": None}


def test_plain_data_has_no_numpy_and_no_nan() -> None:
    content = {"a": np.float64(1.234567), "b": [np.int64(3), float("inf")], "c": ("x", None)}
    assert plain(content) == {"a": 1.2346, "b": [3, None], "c": ["x", None]}
    json.dumps(plain(content), allow_nan=False)
