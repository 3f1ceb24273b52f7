"""Of many sources the good ones are delivered, and the bad ones are in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    Failure,
    Failures,
    FileError,
    InputError,
    MissingFileError,
    NoSpectraError,
    OfflineError,
    PartialReadWarning,
    PluginError,
    SpenderError,
    SpenderWarning,
)
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader, Source

GRID = Linear(5000.0, 2.0, 500)
ID = np.dtype([("FILE", "U8"), ("ROW", "i8")])
ERRORS: dict[str, Exception] = {
    "absent": MissingFileError("there is no file absent"),
    "broken": FileError("broken is truncated"),
    "away": OfflineError("cannot reach the server of away"),
    "odd": ZeroDivisionError("division by zero"),
}


class PickyLoader(Loader):
    """Gives spectra whose level is the number in the file's name, or fails by its name."""

    id_dtype = ID

    def recognises(self, url: str) -> bool:
        return True

    def load(self, url: str) -> SpectrumBatch:
        name = url.partition("://")[2].rpartition("@")[2].partition("?")[0] or url
        if name in ERRORS:
            raise ERRORS[name]
        flux = torch.full((2, GRID.size), float(name))
        ids = np.array([(name, 1), (name, 2)], dtype=ID)
        return SpectrumBatch(flux, torch.ones_like(flux), z=[0.0, 0.0], ids=ids, instrument="mine")

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        if any(len(row) != 2 for row in ids):
            raise InputError("ids are (file, row)")
        return [Source((row[0],), {"ROW": row[1]}) for row in ids]


@pytest.fixture
def instrument(mine: Any) -> Any:
    mine.loader = PickyLoader()
    return mine


def levels(batch: SpectrumBatch) -> list[float]:
    return [round(float(value), 3) for value in batch.norm]


def partial(instrument: Instrument, source: Any, **options: Any) -> SpectrumBatch:
    with pytest.warns(PartialReadWarning):
        return instrument.read(source, **options)


def test_the_good_ones_come_in_order_and_the_bad_ones_in_a_table(instrument: Any) -> None:
    asked = ["3", "broken", "1", "absent", "2", "odd"]
    with pytest.warns(PartialReadWarning, match=r"3 of 6 sources.*`failures`.*broken is trunc"):
        batch = instrument.read(asked)
    assert levels(batch) == [3, 3, 1, 1, 2, 2]
    assert isinstance(batch.failures, Failures)
    assert [failure.source for failure in batch.failures] == ["broken", "absent", "odd"]
    kinds = [failure.error for failure in batch.failures]
    assert kinds == ["FileError", "MissingFileError", "FileError"]
    assert "division by zero" in batch.failures[2].message
    assert "odd" in batch.failures[2].message


def test_the_warning_is_of_the_family() -> None:
    assert issubclass(PartialReadWarning, SpenderWarning)
    assert issubclass(SpenderWarning, UserWarning)


def test_the_table_can_be_read(instrument: Any) -> None:
    failures = partial(instrument, ["3", "broken", "absent"]).failures
    assert str(failures).splitlines() == [
        "broken: FileError: broken is truncated",
        "absent: MissingFileError: there is no file absent",
    ]
    assert repr(failures) == "Failures(2: 1 FileError, 1 MissingFileError)"
    assert repr(Failures()) == "Failures(0)"
    assert instrument.read(["1", "2"]).failures == ()


def test_strict_raises_at_the_first(instrument: Any) -> None:
    with pytest.raises(FileError, match="broken is truncated"):
        instrument.read(["3", "broken", "absent"], strict=True)
    with pytest.raises(MissingFileError, match="holds no spectrum with ROW 9"):
        instrument.read([("3", 1), ("3", 9)], strict=True)


@pytest.mark.parametrize("name", ["absent", "broken", "away"])
@pytest.mark.parametrize("wrap", [str, lambda name: [name]], ids=["one", "list of one"])
def test_a_single_source_raises_its_own_error(instrument: Any, name: str, wrap: Any) -> None:
    with pytest.raises(SpenderError) as raised:
        instrument.read(wrap(name))
    assert raised.value is ERRORS[name]


def test_if_all_fail_one_error_lists_the_first_five(instrument: Any) -> None:
    with pytest.raises(
        FileError, match=r"none of 2 sources.*truncated; there is no file"
    ) as raised:
        instrument.read(["broken", "absent"])
    assert type(raised.value) is FileError
    with pytest.raises(MissingFileError, match=r"none of 7 .*; and 2 more$"):
        instrument.read(["absent"] * 7)
    with pytest.raises(OfflineError, match=r"none of 2 sources"):
        instrument.read(["away", "away"])


def test_ids_fail_one_by_one(instrument: Any) -> None:
    batch = partial(instrument, [("3", 2), ("broken", 1), ("1", 7), ("3", 2), ("1", 1)])
    assert levels(batch) == [3, 3, 1]
    assert batch.ids is not None
    assert batch.ids["ROW"].tolist() == [2, 2, 1]
    assert [failure.source for failure in batch.failures] == ["('broken', 1)", "('1', 7)"]
    rows = np.array([("3", 2), ("broken", 1)], dtype=ID)
    assert partial(instrument, rows).failures[0].source == "('broken', 1)"


def test_a_malformed_id_costs_only_itself(instrument: Any) -> None:
    ids = [("3", 1), ("3", 1, 1), 5, ("3", 2), ("absent", 1)]
    batch = partial(instrument, ids)
    assert [(failure.source, failure.error) for failure in batch.failures] == [
        ("('3', 1, 1)", "InputError"),
        ("5", "InputError"),
        ("('absent', 1)", "MissingFileError"),
    ]
    assert batch.ids is not None
    assert batch.ids.tolist() == [("3", 1), ("3", 2)]
    seen = []
    chunks = list(instrument.read_chunks(ids, size=2, progress=seen.append))
    assert [failure.source for chunk in chunks for failure in chunk.failures] == [
        "('3', 1, 1)",
        "5",
        "('absent', 1)",
    ]
    assert (seen[-1].done, seen[-1].failures) == (5, 3)
    with pytest.raises(InputError, match="ids are"):
        instrument.read(ids, strict=True)
    with pytest.raises(InputError, match="ids are"):
        instrument.read([("3", 1, 1), 5])
    with pytest.raises(InputError, match="are no ids of mine"):
        instrument.read([5])


@pytest.mark.parametrize("source", [[], (), np.array([], dtype=ID), None, 5], ids=repr)
def test_nothing_to_read_is_an_input_error(instrument: Any, source: Any) -> None:
    with pytest.raises(InputError, match="nothing to read"):
        instrument.read(source)


def test_failures_stay_with_the_spectra(instrument: Any) -> None:
    batch = partial(instrument, ["3", "broken"])
    others = [batch[:1], batch[[]], batch.to(dtype=torch.float64), batch.replace(z=[1.0, 2.0])]
    for other in (*others, instrument.prepare(batch)):
        assert other.failures == batch.failures


def test_joined_batches_have_the_failures_of_both_once(instrument: Any) -> None:
    first, second = partial(instrument, ["3", "broken"]), partial(instrument, ["2", "absent"])
    joined = SpectrumBatch.cat([first[:1], first[1:], second])
    assert [failure.source for failure in joined.failures] == ["broken", "absent"]


def test_quality_cuts_keep_the_failures_and_their_error(instrument: Any) -> None:
    batch = partial(instrument, ["3", "broken"], quality=False)
    assert len(batch.failures) == 1

    class Sky(PickyLoader):
        def load(self, url: str) -> SpectrumBatch:
            return super().load(url).replace(flags=[32, 32])

    instrument.loader = Sky()
    with (
        pytest.warns(PartialReadWarning),
        pytest.raises(NoSpectraError, match=r"none of 2 spectra passes"),
    ):
        instrument.read(["3", "broken"])


def test_secrets_of_urls_are_nowhere_in_the_table(instrument: Any) -> None:
    asked = ["3", "https://user:secret@broken?token=hidden", Path("absent")]
    with pytest.warns(PartialReadWarning) as warned:
        batch = instrument.read(asked)
    told = repr(batch.failures) + str(batch.failures) + str(warned[0].message)
    assert "https://broken?token=..." in told
    assert "secret" not in told
    assert "hidden" not in told


def test_a_loader_that_finds_too_few_places_is_named(instrument: Any) -> None:
    class Lazy(PickyLoader):
        def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
            return [Source(("1",))]

    instrument.loader = Lazy()
    with pytest.raises(PluginError, match=r"Lazy\.locate found 1 places for 2 ids"):
        instrument.read([("1", 1), ("2", 1)])


def test_a_failure_is_a_plain_record() -> None:
    failure = Failure("a.fits", "FileError", "it is empty")
    assert failure == Failure("a.fits", "FileError", "it is empty")
    assert str(failure) == "a.fits: FileError: it is empty"
