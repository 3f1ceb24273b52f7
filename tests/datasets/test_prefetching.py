"""Batches are made ahead in a thread, which tells of errors, ends cleanly and needs little memory."""

from __future__ import annotations

import gc
import shutil
import threading
import tracemalloc
import weakref
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from small_datasets import Tiny, epoch_of, ids

from spender_core.batch import SpectrumBatch
from spender_core.datasets.prefetching import Prefetched
from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Selection, Stream
from spender_core.errors import FileError, SpenderError

pytest.importorskip("pyarrow")


BEFORE: list[threading.Thread] = []
"""Threads that other tests have left; that which fetches lives as long as its process."""


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate() if thread not in BEFORE]
    return [name for name in names if name.startswith("spender-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    """Check that no thread outlives its stream; what a test has caught may hold one in a cycle."""
    BEFORE[:] = threading.enumerate()
    yield
    if threads():
        gc.collect()
    assert not threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_shard_is_named_where_batches_are_taken(
    dataset: Dataset, tmp_path: Path, prefetch: int
) -> None:
    root = shutil.copytree(dataset.root, tmp_path / "copy")
    stream = Stream(Dataset(root, Tiny()), batch_size=512, prefetch=prefetch)
    shard = Path(root) / "data" / "train-00000.parquet"
    shard.write_bytes(b"PAR1" + b"\xff" * (shard.stat().st_size - 4))
    with pytest.raises(FileError, match=r"train-00000\.parquet is damaged"):
        epoch_of(stream)


def test_a_shard_that_is_gone_is_named(dataset: Dataset, tmp_path: Path) -> None:
    root = shutil.copytree(dataset.root, tmp_path / "copy")
    stream = Stream(Dataset(root, Tiny()), batch_size=512)
    (Path(root) / "data" / "train-00001.parquet").unlink()
    with pytest.raises(SpenderError, match=r"train-00001\.parquet"):
        epoch_of(stream)


def test_leaving_a_loop_stops_the_thread(dataset: Dataset) -> None:
    for number, _ in enumerate(Stream(dataset, batch_size=100)):
        if number == 2:
            assert threads()
            break
    assert not threads()


def test_a_closed_stream_can_be_taken_up_again(dataset: Dataset) -> None:
    stream = Stream(dataset, batch_size=700)
    expected = epoch_of(stream)
    batches = iter(stream)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert ids(next(iter(stream))) == expected[1]


def test_an_error_comes_where_its_item_would_have() -> None:
    def make() -> Any:
        yield 1
        yield 2
        raise ZeroDivisionError("here")

    items = Prefetched(make, 1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ZeroDivisionError, match="here"):
        next(items)
    assert list(items) == []


def test_no_more_is_made_ahead_than_was_asked_for() -> None:
    made: list[int] = []
    waiting = threading.Event()

    def make() -> Any:
        for number in range(100):
            made.append(number)
            if number == 4:
                waiting.set()
            yield number

    items = Prefetched(make, 3)
    assert next(items) == 0
    assert waiting.wait(10)
    # one was taken, three wait, one has no room
    assert made == [0, 1, 2, 3, 4]
    items.close()
    assert list(items) == []


def test_what_is_made_ahead_is_closed_in_its_thread() -> None:
    closed: list[str] = []

    def make() -> Any:
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    items = Prefetched(make, 2)
    next(items)
    items.close()
    assert closed == ["spender-prefetch"]


def test_waiting_is_counted(dataset: Dataset) -> None:
    stream = Stream(dataset, batch_size=5000, prefetch=0)
    assert stream.waited == 0
    next(iter(stream))
    first = stream.waited
    assert first > 0
    next(iter(stream))
    assert stream.waited > first


@pytest.mark.parametrize("highest", [1.0, 0.05])
def test_memory_holds_two_windows_at_most(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, highest: float
) -> None:
    """Spectra that are alive at any time, over two epochs: those that take part, and no others."""
    selection = Selection(z_range=(0.0, highest))
    stream = Stream(dataset, batch_size=256, window=2, prefetch=1, selection=selection)
    decode, rows = (
        stream._decoded,
        [len(r) for r in selection.rows(dataset, "train") if r is not None],
    )
    alive: dict[int, int] = {}
    counts: list[int] = []

    def counting(group: int) -> SpectrumBatch:
        batch = decode(group)
        alive[id(batch)] = len(batch)
        counts.append(sum(alive.values()))
        weakref.finalize(batch, alive.pop, id(batch), None)
        return batch

    monkeypatch.setattr(stream, "_decoded", counting)
    for _ in islice(stream, 2 * len(stream)):
        pass
    assert len(rows) == len(dataset.groups("train"))
    # a batch, two windows, and the next row group of a batch in which windows meet
    assert max(rows) < max(counts) <= 256 + (2 * 2 + 1) * max(rows)
    assert len(counts) <= 2 * len(rows) + 4 + 256 // max(rows)


def test_a_stream_that_its_own_threads_collect_ends(dataset: Dataset) -> None:
    """The collector runs in any thread; that which makes items must not wait for itself."""
    closed, collected = threading.Event(), threading.Event()
    makers: list[Prefetched[int]] = []

    def collect() -> None:
        makers.clear()
        gc.collect()
        collected.set()

    def make() -> Any:
        try:
            while True:
                yield 0
                if len(first) > 1:
                    # as a decoder does, which the maker waits for
                    worker = threading.Thread(target=collect, daemon=True)
                    worker.start()
                    worker.join()
        finally:
            closed.set()

    first: list[int] = []
    makers.append(Prefetched(make, 1))
    first.append(next(makers[0]))
    first.append(next(makers[0]))
    with suppress(IndexError):  # it is forgotten in between
        next(makers[0])
    assert collected.wait(10)
    assert closed.wait(10)


def test_python_holds_no_list_of_the_spectra(dataset: Dataset) -> None:
    """What a stream keeps grows with the row groups; rows are numbers in arrays."""
    tracemalloc.start()
    stream = Stream(dataset, batch_size=512)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 40 * stream.spectra
