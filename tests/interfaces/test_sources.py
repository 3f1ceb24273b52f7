"""What `Instrument.read` takes as paths and ids, and what it refuses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import SpectrumBatch
from spender_core.errors import InputError
from spender_core.grid import Linear
from spender_core.interfaces import Loader, Source

GRID = Linear(5000.0, 2.0, 500)
ID = np.dtype([("FILE", "i8"), ("ROW", "i8")])


class NumberLoader(Loader):
    """Gives a spectrum whose level is the number that its path is."""

    id_dtype = ID

    def recognises(self, url: str) -> bool:
        return True

    def load(self, url: str) -> SpectrumBatch:
        assert type(url) is str
        flux = torch.full((1, GRID.size), float(url))
        ids = np.array([(int(url), 1)], dtype=ID)
        return SpectrumBatch(flux, torch.ones_like(flux), z=[0.0], ids=ids, instrument="mine")

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        return [Source((f"{root or ''}{int(row[0])}",), {"ROW": row[1]}) for row in ids]


@pytest.fixture
def instrument(mine: Any) -> Any:
    mine.loader = NumberLoader()
    return mine


ROWS = np.array([(3, 1), (2, 1)], dtype=ID)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.array("3"), [3]),
        (np.array(Path("3"), dtype=object), [3]),
        (np.str_("3"), [3]),
        (b"3", [3]),
        (np.array(["3", "2"]), [3, 2]),
        (np.array([b"3", b"2"]), [3, 2]),
        (np.array([Path("3"), "2"], dtype=object), [3, 2]),
        (ROWS, [3, 2]),
        (ROWS[0], [3]),
        (ROWS[:1].reshape(()), [3]),
        ({"a": "3", "b": "2"}.values(), [3, 2]),
    ],
    ids=repr,
)
def test_arrays_are_taken(instrument: Any, source: Any, expected: list[float]) -> None:
    assert [round(float(value), 3) for value in instrument.read(source).norm] == expected


@pytest.mark.parametrize("entries", [["3", "2"], [(3, 1), (2, 1)]], ids=["paths", "ids"])
def test_iterators_are_taken_once(instrument: Any, entries: Any) -> None:
    for source in (
        iter(entries),
        map(tuple, entries) if entries[0] != "3" else map(str, entries),
        (entry for entry in entries),
    ):
        assert instrument.read(source).norm.tolist() == pytest.approx([3, 2])


@pytest.mark.parametrize("source", [{"3", "2"}, frozenset({"3"}), {"3": 1}, {"3": 1}.keys(), set()])
def test_what_has_no_order_is_refused(instrument: Any, source: Any) -> None:
    with pytest.raises(InputError, match="has no order to return spectra in; give a list"):
        instrument.read(source)


@pytest.mark.parametrize(
    "source",
    [
        iter(()),
        np.array(5),
        np.array(None),
        torch.tensor(5),
        np.zeros((0, 2)),
        io.StringIO("3"),
        2.5,
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_to_read(instrument: Any, source: Any) -> None:
    with pytest.raises(InputError, match="nothing to read"):
        instrument.read(source)


@pytest.mark.parametrize("source", ["", b"", ["3", ""], np.array("")], ids=repr)
def test_an_empty_path_is_none(instrument: Any, source: Any) -> None:
    with pytest.raises(InputError, match="no path was given"):
        instrument.read(source)


@pytest.mark.parametrize("root", [5, "", b"x", ["x"], np.array("x"), np.nan], ids=repr)
@pytest.mark.parametrize("source", ["3", [(3, 1)]], ids=repr)
def test_a_root_is_a_folder_or_url(instrument: Any, root: Any, source: Any) -> None:
    with pytest.raises(InputError, match="root must be the folder or URL"):
        instrument.read(source, root=root)
