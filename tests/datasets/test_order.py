"""Laws of the order of an epoch, on numbers alone."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spender_core.datasets.order import Order, Parts, positions, rows_of
from spender_core.errors import InputError

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
ORDERS = st.builds(
    lambda sizes, batch_size, shuffle, seed, window: Order(
        np.array(sizes), batch_size, shuffle, seed, window
    ),
    *(SIZES, st.integers(1, 60), st.booleans(), st.integers(0, 3), st.integers(1, 5)),
)


def members(parts: Parts) -> list[tuple[int, int]]:
    return [(group, int(row)) for group, rows in parts for row in rows]


def whole(order: Order, epoch: int = 0) -> list[tuple[int, int]]:
    made = order.epoch(epoch)
    return [pair for number in range(len(made)) for pair in members(made.part(number))]


def everything(order: Order) -> list[tuple[int, int]]:
    return [(group, row) for group, size in enumerate(order.sizes) for row in range(size)]


@settings(max_examples=200, deadline=None)
@given(ORDERS, st.integers(0, 5))
def test_every_spectrum_comes_once_an_epoch(order: Order, epoch: int) -> None:
    assert sorted(whole(order, epoch)) == everything(order)


@settings(max_examples=200, deadline=None)
@given(ORDERS, st.integers(1, 7), st.integers(0, 5))
def test_ranks_share_the_batch_of_one_without_overlap(order: Order, world: int, epoch: int) -> None:
    made = order.epoch(epoch)
    for number in range(len(made)):
        parts = [members(made.part(number, rank, world)) for rank in range(world)]
        assert [pair for part in parts for pair in part] == members(made.part(number))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=100, deadline=None)
@given(ORDERS)
def test_batches_differ_by_one_spectrum_and_none_is_too_large(order: Order) -> None:
    made = order.epoch(0)
    lengths = [len(members(made.part(number))) for number in range(len(made))]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= order.batch_size
    assert len(lengths) == -(-order.spectra // order.batch_size)


@settings(max_examples=100, deadline=None)
@given(ORDERS)
def test_a_batch_does_not_depend_on_those_before_it(order: Order) -> None:
    made = order.epoch(2)
    inorder = [members(made.part(number)) for number in range(len(made))]
    for number in reversed(range(len(made))):
        assert members(order.epoch(2).part(number)) == inorder[number]


@settings(max_examples=100, deadline=None)
@given(ORDERS)
def test_without_shuffling_spectra_come_as_they_lie(order: Order) -> None:
    plain = Order(order.sizes, order.batch_size, shuffle=False)
    assert whole(plain, 3) == everything(order)


def test_seed_and_epoch_make_the_order() -> None:
    sizes = np.full(10, 100)
    first = whole(Order(sizes, 64, seed=1), 4)
    assert whole(Order(sizes, 64, seed=1), 4) == first
    assert whole(Order(sizes, 64, seed=1), 5) != first
    assert whole(Order(sizes, 64, seed=2), 4) != first


def test_each_batch_mixes_the_row_groups_of_its_window() -> None:
    """With 8 row groups in equal parts, 64 spectra leave one out once in 600 batches."""
    order = Order(np.full(64, 1024), 64, window=8)
    made = order.epoch(0)
    kinds = [len({group for group, _ in made.part(number)}) for number in range(len(made))]
    assert np.mean(kinds) > 7.9
    # and windows are of row groups from everywhere
    seen = [{group for group, _ in made.part(number)} for number in range(0, len(made), 128)]
    assert np.mean([max(groups) - min(groups) for groups in seen]) > 40


def test_rows_of_a_window_are_in_any_order() -> None:
    """Their ranks are not those of the files: the correlation of 4,096 is 0 to 4 sigma."""
    order = Order(np.array([4096]), 1)
    rows = np.array([row for _, row in whole(order)])
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 4 / np.sqrt(len(rows))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_rank_reads_about_its_share_of_the_row_groups(world: int) -> None:
    order = Order(np.full(64, 1024), 512, window=8)
    made = order.epoch(1)
    for rank in range(world):
        parts = [made.part(number, rank, world) for number in range(len(made))]
        needed = {group for part in parts for group, _ in part}
        # its own, and where its share ends within a row group, that too, from both sides
        assert len(needed) <= 64 / world + 2 * 8


@settings(max_examples=100, deadline=None)
@given(ORDERS)
def test_a_window_holds_about_as_many_batches_as_are_read_ahead(order: Order) -> None:
    made = order.epoch(0)
    taking_part = int((order.sizes > 0).sum())
    assert 1 <= order.span <= len(made)
    assert order.span <= order.batches * min(order.window / taking_part, 1) + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 8), st.integers(1, 5))
def test_workers_take_turns(batches: int, epoch: int, number: int, workers: int) -> None:
    start = (epoch, number % batches)
    alone = list(islice(positions(batches, start), 20))
    each = [islice(positions(batches, start, workers, worker), 20) for worker in range(workers)]
    together = [place for turn in zip(*each, strict=True) for place in turn]
    assert together[:20] == alone


@settings(max_examples=100, deadline=None)
@given(SIZES, st.data())
def test_rows_are_found_in_their_row_groups(sizes: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=30))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    found = np.full(len(rows), -1)
    for group, own, places in rows_of(sizes, np.array(rows)):
        assert np.all((own >= 0) & (own < sizes[group]))
        found[places] = starts[group] + own
    assert found.tolist() == rows


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"window": 0}, {"seed": -1}, {"batch_size": 2.5}]
)
def test_senseless_numbers_are_refused(changes: dict[str, int]) -> None:
    arguments = {"sizes": np.array([3]), "batch_size": 2, **changes}
    with pytest.raises(InputError, match=next(iter(changes))):
        Order(**arguments)


def test_batches_and_epochs_that_are_not_there_are_refused() -> None:
    order = Order(np.array([5]), 2)
    with pytest.raises(InputError, match="3 batches"):
        order.epoch(0).part(3)
    with pytest.raises(InputError, match="from 0"):
        order.epoch(-1)
