"""What core builds on an instrument: `read`, `prepare` and the quality cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import InputError, MissingFileError, NoSpectraError
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader, Source

GRID = Linear(5000.0, 2.0, 500)
ID = np.dtype([("FILE", "i8"), ("ROW", "i8")])


class MemoryLoader(Loader):
    """Holds its "files" in memory, and counts how often each is loaded."""

    id_dtype = ID

    def __init__(self, files: dict[str, SpectrumBatch]) -> None:
        self.files, self.loads = files, Counter[str]()

    def recognises(self, url: str) -> bool:
        return url in self.files

    def load(self, url: str) -> SpectrumBatch:
        self.loads[url] += 1
        if url not in self.files:
            raise MissingFileError(f"there is no file {url}")
        return self.files[url]

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        folder = f"{root or 'archive'}/{release or 'latest'}"
        return [
            Source((f"{folder}/{row[0]}.lite", f"{folder}/{row[0]}.full"), {"ROW": row[1]})
            for row in ids
        ]


def raw(file: int, rows: Sequence[int], flags: Sequence[int] | None = None) -> SpectrumBatch:
    """Return unnormalised spectra whose level tells file and row."""
    level = torch.tensor([100.0 * file + row for row in rows])[:, None]
    flux = level.expand(-1, GRID.size).clone()
    ids = np.array([(file, row) for row in rows], dtype=ID)
    return SpectrumBatch(
        flux, torch.ones_like(flux), z=[0.0] * len(rows), ids=ids, instrument="mine", flags=flags
    )


@pytest.fixture
def instrument(mine: Any) -> Instrument:
    """An instrument with two files, of three spectra and of one."""
    mine.loader = MemoryLoader(
        {
            "archive/latest/1.lite": raw(1, [1, 2, 3]),
            "archive/latest/2.full": raw(2, [1]),
            "copy/old/1.lite": raw(3, [1]),
        }
    )
    return mine


FIRST, SECOND = "archive/latest/1.lite", "archive/latest/2.full"


def levels(batch: SpectrumBatch) -> list[float]:
    return [round(float(value), 3) for value in batch.norm]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FIRST, [101, 102, 103]),
        (Path(FIRST), [101, 102, 103]),
        ([SECOND, FIRST], [201, 101, 102, 103]),
        ((SECOND, FIRST), [201, 101, 102, 103]),
        ([Path(SECOND), SECOND], [201, 201]),
        ([(1, 3), (2, 1), (1, 1), (1, 3)], [103, 201, 101, 103]),
        (((1, 3), (2, 1)), [103, 201]),
        ((1, 2), [102]),
        (np.array([(1, 2), (2, 1)], dtype=ID), [102, 201]),
        (np.array([(1, 2), (2, 1)], dtype=ID)[0], [102]),
        ([np.array([(1, 2)], dtype=ID)[0]], [102]),
    ],
    ids=repr,
)
def test_read_gives_what_was_asked_for_in_order(
    instrument: Any, source: Any, expected: list[float]
) -> None:
    batch = instrument.read(source)
    assert levels(batch) == expected
    assert batch.ids is not None
    assert [100 * int(file) + int(row) for file, row in batch.ids] == expected
    assert batch.instrument == "mine"


def test_a_single_id_may_begin_with_a_name(mine: Any) -> None:
    """As ids of DESI do: (survey, program, healpix)."""

    class Named(MemoryLoader):
        def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
            return [Source((f"{name}/{number}",)) for name, number in ids]

    mine.loader = Named({"sv3/57": raw(1, [1])})
    assert levels(mine.read([("sv3", 57)])) == [101]
    assert levels(mine.read(("sv3", 57))) == [101]


def test_a_file_with_several_of_the_ids_is_read_once(instrument: Any) -> None:
    instrument.read([(1, 3), (1, 1), (1, 2)])
    assert instrument.loader.loads == {FIRST: 1}


def test_the_next_place_is_tried_where_a_file_is_missing(instrument: Any) -> None:
    assert levels(instrument.read([(2, 1)])) == [201]
    assert set(instrument.loader.loads) == {"archive/latest/2.lite", SECOND}


def test_root_and_release_reach_the_loader(instrument: Any) -> None:
    assert levels(instrument.read([(1, 1)], root="copy", release="old")) == [301]
    assert levels(instrument.read([(1, 1)], root=Path("copy"), release="old")) == [301]


def test_what_does_not_exist_is_named(instrument: Any) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.fits"):
        instrument.read("absent.fits")
    with pytest.raises(MissingFileError, match=r"none of these.*latest/9\.lite, .*latest/9\.full"):
        instrument.read([(9, 1)])
    with pytest.raises(MissingFileError, match=r"1\.lite holds no spectrum with ROW 7"):
        instrument.read([(1, 7)])


@pytest.mark.parametrize("source", [[], (), np.array([], dtype=ID)], ids=repr)
def test_nothing_cannot_be_read(instrument: Any, source: Any) -> None:
    with pytest.raises(InputError, match="nothing to read"):
        instrument.read(source)


def test_loaders_without_an_archive_ask_for_paths(mine: Any) -> None:
    class PathLoader(MemoryLoader):
        locate = Loader.locate

    mine.loader = PathLoader({"a": raw(1, [1])})
    assert len(mine.read("a")) == 1
    with pytest.raises(InputError, match=r"PathLoader knows no archive.*\(1, 2\); give paths"):
        mine.read([(1, 2)])


FLAGS = [0, int(Flag.FIBRE), int(Flag.NO_Z), int(Flag.Z_WARNING | Flag.NOT_TARGET)]


def test_quality_cuts_leave_out_what_the_survey_rejects(instrument: Any) -> None:
    instrument.loader.files["a"] = raw(1, [1, 2, 3, 4], FLAGS)
    assert levels(instrument.read("a")) == [101, 103]
    assert levels(instrument.read("a", quality=False)) == [101, 102, 103, 104]


def test_an_instrument_chooses_its_cuts(instrument: Any) -> None:
    instrument.loader.files["a"] = raw(1, [1, 2, 3, 4], FLAGS)
    instrument.rejects = Flag.NO_Z
    assert levels(instrument.read("a")) == [101, 102, 104]


def test_spectra_without_a_good_pixel_are_cut(instrument: Any) -> None:
    spectra = raw(1, [1, 2])
    instrument.loader.files["a"] = spectra.replace(ivar=spectra.ivar * torch.tensor([[0.0], [1.0]]))
    assert levels(instrument.read("a")) == [102]
    everything = instrument.read("a", quality=False)
    assert Flag.EMPTY in Flag(int(everything.flags[0]))


def test_all_spectra_cut_is_an_error_that_says_why(instrument: Any) -> None:
    instrument.loader.files["a"] = raw(1, range(1, 8), [FLAGS[1], FLAGS[3], *[FLAGS[1]] * 5])
    with pytest.raises(NoSpectraError) as caught:
        instrument.read("a")
    message = str(caught.value)
    assert "none of 7 spectra passes the quality cuts of mine" in message
    assert "1-1: fibre flagged by the survey; 1-2: redshift warning" in message
    assert "sky fibre or no object" in message
    assert message.count("1-") == 5
    assert "; ...)" in message
    assert "quality=False" in message


def test_prepare_masks_before_it_normalises(mine: Any) -> None:
    spectra = raw(0, [2])
    flux = spectra.flux.clone()
    flux[:, mine.mask] = 1e6
    batch = mine.prepare(spectra.replace(flux=flux, z=[float("nan")]))
    assert levels(batch) == [2.0]
    assert not batch.good[0].numpy()[mine.mask].any()
    assert batch.good[0].numpy()[~mine.mask].all()


def test_prepare_keeps_flags_and_completes_them(mine: Any) -> None:
    spectra = raw(1, [1, 2], [int(Flag.FIBRE), 0]).replace(z=[0.1, float("nan")])
    batch = mine.prepare(spectra)
    assert Flag(int(batch.flags[0])) == Flag.FIBRE
    assert Flag(int(batch.flags[1])) == Flag.NORM_RMS | Flag.NO_Z


def test_prepare_twice_keeps_the_archives_flux(mine: Any) -> None:
    once = mine.prepare(raw(1, [1, 2]))
    twice = mine.prepare(once)
    assert levels(twice) == [101.0, 102.0]
    torch.testing.assert_close(twice.flux, once.flux)
