"""Tables of ids: which columns are taken, and what these may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.interfaces import Loader
from spender_core.interfaces.asked import listed


class Named(Loader):
    """Ids of a number and a text; it reads nothing."""

    id_dtype = np.dtype([("NUMBER", "i8"), ("RUN", "U7")])

    def recognises(self, url: str) -> bool:
        return False

    def load(self, url: str) -> SpectrumBatch:
        raise NotImplementedError


def ids_of(**columns: Any) -> list[Any]:
    return [row.tolist() for row in listed(Table(columns), Named())]


def test_columns_of_ids_are_found_in_any_case() -> None:
    assert ids_of(number=[1, 2], Run=["a", "b "], z=[0.1, 0.2]) == [(1, "a"), (2, "b")]


def test_text_of_ids_may_be_whole_numbers(tmp_path: Path) -> None:
    assert ids_of(NUMBER=[1, 2], RUN=[26, 103]) == [(1, "26"), (2, "103")]
    assert ids_of(NUMBER=[1], RUN=[b"26"]) == [(1, "26")]
    assert ids_of(NUMBER=[1], RUN=np.array(["26"], dtype=object)) == [(1, "26")]
    Table({"NUMBER": [1, 2], "RUN": ["26", "103"]}).write(tmp_path / "ids.csv")
    table = Table.read(tmp_path / "ids.csv")
    assert [row.tolist() for row in listed(table, Named())] == [(1, "26"), (2, "103")]


def test_rows_of_arrays_and_tables_are_ids() -> None:
    """Text of FITS comes as bytes."""
    rows = np.array([(1, b"26"), (2, b"103")], dtype=[("NUMBER", ">i4"), ("RUN", "S7")])
    assert [row.tolist() for row in listed(rows, Named())] == [(1, "26"), (2, "103")]
    assert [row.tolist() for row in listed(rows[1], Named())] == [(2, "103")]
    table = Table(rows)
    assert [row.tolist() for row in listed(table[1], Named())] == [(2, "103")]


def test_the_field_itself_is_taken_before_others_that_differ_in_case() -> None:
    assert ids_of(number=[5], NUMBER=[1], Number=[6]) == [(1,)]
    with pytest.raises(InputError, match="more than one column NUMBER: number, Number"):
        ids_of(number=[5], Number=[6])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"NUMBER": np.array([2**63 + 5], dtype=np.uint64)}, "does not fit into int64"),
        ({"NUMBER": [1.0]}, "must hold whole numbers, not float64"),
        ({"NUMBER": ["1"]}, "must hold whole numbers"),
        ({"NUMBER": [[1, 2]]}, r"not int64 of shape \(2,\)"),
        ({"RUN": [26.0]}, "must hold text, not float64"),
        ({"RUN": np.array([None], dtype=object)}, "must hold text, not object"),
        ({"NUMBER": np.ma.array([1, 2], mask=[0, 1])}, "rows without a value"),
        ({"Z": [1.0]}, "none of the columns of an id, NUMBER, RUN; it has Z"),
    ],
    ids=str,
)
def test_other_columns_are_refused(columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ids_of(**columns)
