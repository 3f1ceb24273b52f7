"""What reading many sources does: each file once, by rows or together, in order, in chunks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table, vstack
from range_server import serving

from spender_core.archives.remote.files import open_bytes
from spender_core.batch import Flag, SpectrumBatch
from spender_core.errors import (
    DamagedFileError,
    FileError,
    InputError,
    MissingFileError,
    PartialReadWarning,
    SpenderError,
)
from spender_core.grid import Linear
from spender_core.interfaces import Instrument, Loader, Source
from spender_core.interfaces.reading import TOGETHER, Progress

GRID = Linear(5000.0, 2.0, 8)
PER_FILE = 5


class Shelf(Loader):
    """Files "f0", "f1", ... of five spectra, whose flux is their number; notes what is asked."""

    id_dtype = np.dtype([("STAR", "i8"), ("NIGHT", "U4")])

    def __init__(self) -> None:
        self.loads: list[Any] = []

    def recognises(self, url: str) -> bool:
        return True

    def load(self, url: str) -> SpectrumBatch:
        self.loads.append(url)
        return made(url)

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        return [Source((f"f{int(row[0]) // PER_FILE}",), {"STAR": int(row[0])}) for row in ids]


def made(url: str) -> SpectrumBatch:
    if "gone" in url:
        raise MissingFileError(f"there is no file {url}")
    if "bad" in url:
        raise DamagedFileError("it is torn")
    numbers = PER_FILE * int(url[1:]) + np.arange(PER_FILE)
    ids = np.zeros(PER_FILE, dtype=Shelf.id_dtype)
    ids["STAR"], ids["NIGHT"] = numbers, "dark"
    flux = torch.from_numpy(numbers + 1.0).float()[:, None].expand(-1, GRID.size)
    flags = np.where(numbers % 4 == 3, int(Flag.FIBRE), 0)
    return SpectrumBatch(flux, torch.ones_like(flux), ids=ids, flags=flags)


class ByRows(Shelf):
    """Reads rows alone."""

    def load_rows(self, url: str, rows: Mapping[str, tuple[Any, ...]], lsf: bool) -> SpectrumBatch:
        self.loads.append((url, dict(rows)))
        batch = made(url)
        return batch[np.isin(batch.ids["STAR"], rows["STAR"])]


class ByMany(Shelf):
    """Reads many files together."""

    def load_many(
        self, files: Sequence[Sequence[str]], lsf: bool
    ) -> tuple[SpectrumBatch | None, list[slice | SpenderError]]:
        self.loads.append(len(files))
        batches, rows = [], list[slice | SpenderError]()
        for urls in files:
            try:
                batches.append(made(urls[0]))
                rows.append(slice(PER_FILE * (len(batches) - 1), PER_FILE * len(batches)))
            except SpenderError as error:
                rows.append(error)
        return (SpectrumBatch.cat(batches) if batches else None), rows


def shelf(kind: type[Shelf]) -> Any:
    class Mine(Instrument):
        name = "mine"
        grid = GRID
        loader: Any = kind()

    return Mine()


def stars(batch: SpectrumBatch) -> list[int]:
    values = batch.flux[:, 0] * batch.norm
    assert batch.ids is not None
    np.testing.assert_allclose(values.numpy(), batch.ids["STAR"] + 1.0, rtol=1e-6)
    return [int(number) for number in batch.ids["STAR"]]


@pytest.fixture(params=[Shelf, ByRows, ByMany])
def mine(request: pytest.FixtureRequest) -> Any:
    return shelf(request.param)


@pytest.mark.parametrize("seed", range(5))
def test_ids_come_in_the_order_asked_for_repeats_too(mine: Any, seed: int) -> None:
    wanted = np.random.default_rng(seed).integers(0, 60, 40).tolist()
    batch = mine.read([(number, "dark") for number in wanted], quality=False)
    assert stars(batch) == wanted


def test_a_file_is_loaded_once_and_only_rows_asked_for() -> None:
    mine = shelf(ByRows)
    mine.read([(0, "x"), (7, "x"), (3, "x"), (0, "x")], quality=False)
    assert mine.loader.loads == [("f0", {"STAR": (0, 3)}), ("f1", {"STAR": (7,)})]


def test_files_are_loaded_together() -> None:
    mine = shelf(ByMany)
    files = [f"f{number}" for number in range(TOGETHER + 3)]
    batch = mine.read(files, quality=False)
    assert stars(batch) == list(range(PER_FILE * len(files)))
    assert mine.loader.loads == [TOGETHER, 3]


def test_failures_are_on_record_and_the_others_are_there(mine: Any) -> None:
    with pytest.warns(PartialReadWarning, match="2 of 4 sources"):
        batch = mine.read(["f1", "gone", "f0", "bad"], quality=False)
    assert stars(batch) == [*range(5, 10), *range(5)]
    assert [failure.source for failure in batch.failures] == ["gone", "bad"]
    table = batch.failures.table()
    assert table.colnames == ["source", "error", "message"]
    assert list(table["source"]) == ["gone", "bad"]
    assert table["error"][0] == "MissingFileError"
    assert all("gone" in text or "torn" in text for text in table["message"])


def test_no_failures_make_an_empty_table_that_can_be_stacked(mine: Any) -> None:
    batch = mine.read("f0", quality=False)
    assert len(vstack([batch.failures.table(), batch.failures.table()])) == 0


def test_strict_raises_the_first_error_in_order(mine: Any) -> None:
    with pytest.raises(MissingFileError, match="gone"):
        mine.read(["f1", "gone", "bad"], strict=True)


def test_an_id_that_its_file_lacks_fails_alone(mine: Any) -> None:
    class Lacking(type(mine.loader)):  # type: ignore[misc]
        def locate(self, ids: Any, root: Any, release: Any) -> list[Source]:
            return [Source(("f0",), {"STAR": int(row[0])}) for row in ids]

    mine.loader = Lacking()
    with pytest.warns(PartialReadWarning):
        batch = mine.read([(1, "x"), (9, "x"), (2, "x")], quality=False)
    assert stars(batch) == [1, 2]
    assert "f0 holds no spectrum with STAR 9" in batch.failures[0].message


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_chunks_give_what_read_gives(mine: Any, size: int) -> None:
    ids = [(number, "x") for number in np.random.default_rng(1).permutation(50).tolist()]
    chunks = list(mine.read_chunks(ids, size=size))
    assert len(chunks) == -(-50 // size)
    whole = mine.read(ids)
    assert [star for chunk in chunks for star in stars(chunk)] == stars(whole)
    assert torch.equal(torch.cat([chunk.flux for chunk in chunks]), whole.flux)


def test_a_chunk_ends_once_it_holds_enough_spectra() -> None:
    mine = shelf(Shelf)
    chunks = mine.read_chunks([f"f{number}" for number in range(5)], size=8, quality=False)
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    chunks = mine.read_chunks(["f0", "gone", "bad", "gone2", "f1"], size=3, quality=False)
    assert [(len(chunk), len(chunk.failures)) for chunk in chunks] == [(5, 0), (0, 3), (5, 0)]


def test_a_chunk_of_failures_alone_is_an_empty_batch(mine: Any) -> None:
    chunks = list(mine.read_chunks(["f0", "gone", "bad", "f1"], size=1, quality=False))
    assert [len(chunk) for chunk in chunks] == [5, 0, 0, 5]
    assert [len(chunk.failures) for chunk in chunks] == [0, 1, 1, 0]
    assert chunks[1].flux.shape == (0, GRID.size)
    assert chunks[1].ids is not None


def test_chunks_refuse_at_once_what_cannot_be_asked(mine: Any) -> None:
    with pytest.raises(InputError, match="size must be at least 1"):
        mine.read_chunks(["f0"], size=0)
    with pytest.raises(InputError, match="nothing to read"):
        mine.read_chunks([])


def test_progress_counts_sources_spectra_and_failures(mine: Any) -> None:
    seen: list[Progress] = []
    with pytest.warns(PartialReadWarning):
        mine.read(["f0", "gone", "f1"], quality=False, progress=seen.append)
    assert seen[-1] == Progress(done=3, of=3, spectra=10, failures=1)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    seen.clear()
    list(mine.read_chunks(["f0", "gone", "f1", "bad"], size=2, progress=seen.append))
    assert seen[-1] == Progress(done=4, of=4, spectra=10, failures=2)


def test_a_table_of_ids_is_read_by_its_columns(mine: Any) -> None:
    table = Table({"Z": [0.1, 0.2], "night": ["dark ", "dark"], "Star": [7, 3]})
    assert stars(mine.read(table, quality=False)) == [7, 3]
    assert stars(mine.read(Table({"STAR": [4]}), quality=False)) == [4]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (Table({"STAR": np.zeros(0, int)}), "no rows"),
        (Table({"Z": [0.1]}), "none of the columns of an id, STAR, NIGHT"),
        (Table({"STAR": [0.5]}), "must hold whole numbers"),
        (Table({"STAR": [1], "NIGHT": [3.5]}), "must hold text"),
        (Table({"STAR": [[1, 2]]}), "must hold whole numbers"),
        (Table({"STAR": np.ma.array([1, 2], mask=[0, 1])}, masked=True), "without a value"),
    ],
)
def test_tables_that_hold_no_ids_are_refused(mine: Any, table: Table, text: str) -> None:
    with pytest.raises(InputError, match=text):
        mine.read(table)


def test_an_abandoned_reading_stops(mine: Any) -> None:
    chunks = mine.read_chunks([f"f{number}" for number in range(6)], size=1, quality=False)
    assert stars(next(chunks)) == list(range(5))
    chunks.close()
    assert len(mine.loader.loads) <= 2
    with pytest.raises(FileError):
        list(mine.read_chunks(["bad", "f1"], size=1, strict=True))


# -- remote files ----------------------------------------------------------------------------


class Numbered(Shelf):
    """Reads the number of a file at its start and near its end, and does something in between."""

    between: Callable[[], None]

    def load(self, url: str) -> SpectrumBatch:
        self.loads.append(url)
        with open_bytes(url) as file:
            first = file.read_at(0, 1)
            self.between()
            assert file.read_at(1_900_000, 1_900_001) == first
        return made(f"f{first.decode()}")


@pytest.mark.parametrize("changes", [1, 2])
def test_a_file_that_changes_while_it_is_read_is_read_once_more(
    tmp_path: Path, changes: int
) -> None:
    mine, left = shelf(Numbered), list(range(1, changes + 1))

    def change() -> None:
        if left:
            (tmp_path / "a").write_bytes(str(left.pop(0)).encode() * 2_000_000)
            os.utime(tmp_path / "a", (1e9, 1e9 + len(left)))

    mine.loader.between = change
    (tmp_path / "a").write_bytes(b"0" * 2_000_000)
    with serving(tmp_path) as server:
        if changes == 1:
            assert stars(mine.read(server.at("a"), quality=False)) == list(range(5, 10))
        else:
            with pytest.raises(FileError, match="changed on its server"):
                mine.read(server.at("a"), quality=False)
    assert len(mine.loader.loads) == 2


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from spender_core.archives.remote.files import open_bytes
from spender_core.interfaces.loader import Loader, Source
from spender_core.interfaces.reading import Reading

class Mine(Loader):
    id_dtype = None
    def recognises(self, url):
        return True
    def load(self, url):
        with open_bytes(url):
            pass

for part in Reading(Mine()).parts([(url, Source((url,))) for url in sys.argv[1:]]):
    pass
"""


def test_ctrl_c_ends_reading_though_the_server_is_silent(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(6)]
    for name in names:
        (tmp_path / name).write_bytes(b"content")
    with serving(tmp_path) as server:
        server.fault("silence")
        command = [sys.executable, "-c", STOPPED, *map(server.at, names)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while server.seen().requests < 4 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            try:
                _, err = process.communicate(timeout=20)  # of the 30 that a server may be silent
            finally:
                process.kill()
    assert err.rstrip().endswith("KeyboardInterrupt")
