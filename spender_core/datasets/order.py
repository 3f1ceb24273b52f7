"""The order of the spectra in an epoch: which rows of which row groups are in which batch.

Row groups are permuted, and taken in windows of a few; the rows of a window are permuted, and the
windows, one after the other, are cut into batches. A window mixes rows of as many row groups of
any shards, and no more than one or two windows need to be in memory. Everything follows
from a seed and the number of the epoch, so that any batch can be found without those before it.

A batch is the same for any number of ranks. Its spectra are sorted by where their row group stands
in its window, and each rank takes a contiguous part, so that a rank reads about its share of
the row groups.

Shapes: G row groups, N spectra of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spender_core.errors import InputError

Integers = NDArray[np.int64]
Parts = list[tuple[int, Integers]]
"""Row groups, each with which of its rows."""


@dataclass(frozen=True)
class Order:
    """How row groups are cut into batches, in any epoch.

    Attributes:
        sizes: Spectra in each row group, shape (G,); 0 where none takes part.
        batch_size: Most spectra of a batch over all ranks.
        shuffle: Mix; otherwise the spectra come as they lie in the files.
        seed: Of the mixing, >= 0.
        window: Row groups that are mixed with each other.
    """

    sizes: Integers
    batch_size: int
    shuffle: bool = True
    seed: int = 0
    window: int = 8

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "window": 1, "seed": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")

    @property
    def spectra(self) -> int:
        """Spectra of an epoch."""
        return int(self.sizes.sum())

    @property
    def batches(self) -> int:
        """Batches of an epoch; they differ by at most one spectrum."""
        return -(-self.spectra // self.batch_size)

    @property
    def span(self) -> int:
        """Whole batches in a window of row groups of the usual size."""
        taking_part = max(int((self.sizes > 0).sum()), 1)
        spectra = min(self.window, taking_part) * self.spectra / taking_part
        return max(int(spectra * self.batches / max(self.spectra, 1)), 1)

    def epoch(self, epoch: int) -> Epoch:
        """Return the order of one epoch, >= 0."""
        return Epoch(self, epoch)


class Epoch:
    """The batches of one epoch, by their numbers.

    Args:
        order: How row groups are cut.
        number: Of the epoch, >= 0.
    """

    def __init__(self, order: Order, number: int) -> None:
        if number < 0:
            raise InputError(f"epochs are counted from 0, got {number}")
        self.order, self.number = order, number
        groups = np.flatnonzero(order.sizes)
        if order.shuffle:
            groups = groups[np.random.default_rng((order.seed, number, 0)).permutation(len(groups))]
        self._groups: Integers = groups
        # place of the first spectrum of each row group, and of each window, in the epoch
        self._starts = np.concatenate([[0], np.cumsum(order.sizes[groups])])
        self._edges = np.append(self._starts[:-1][:: order.window], self._starts[-1])
        self._mixed: dict[int, Integers] = {}

    def __len__(self) -> int:
        return self.order.batches

    def part(self, number: int, rank: int = 0, world: int = 1) -> Parts:
        """Return what a rank takes of a batch: row groups, each with the rows, in order.

        Rows count those that take part. The parts of all ranks, one after the other, are the
        whole batch.

        Raises:
            InputError: There is no such batch.
        """
        if not 0 <= number < len(self):
            raise InputError(f"an epoch has {len(self)} batches, counted from 0; got {number}")
        slots, group_N, row_N = self._members(number)
        if self.order.shuffle:
            # two windows may meet in a batch; by slots, both are shared out among the ranks
            by = np.lexsort((row_N, group_N, slots))
            group_N, row_N = group_N[by], row_N[by]
        first, last = (len(row_N) * share // world for share in (rank, rank + 1))
        return list(_runs(group_N[first:last], row_N[first:last]))

    def _members(self, number: int) -> tuple[Integers, Integers, Integers]:
        """Return slots in the window, row groups and rows of the spectra of a batch, (N,) each."""
        order = self.order
        first, last = (order.spectra * n // order.batches for n in (number, number + 1))
        places = np.arange(first, last)
        if order.shuffle:
            window = int(np.searchsorted(self._edges, first, side="right")) - 1
            pieces = []
            while self._edges[window] < last:
                start, stop = self._edges[window : window + 2]
                here = slice(max(first, start) - start, min(last, stop) - start)
                pieces.append(start + self._permutation(window)[here])
                window += 1
            places = np.concatenate(pieces)
        position = np.searchsorted(self._starts, places, side="right") - 1
        return position % order.window, self._groups[position], places - self._starts[position]

    def _permutation(self, window: int) -> Integers:
        """Return the order of the spectra of a window; the last two are kept."""
        if window not in self._mixed:
            size = int(self._edges[window + 1] - self._edges[window])
            generator = np.random.default_rng((self.order.seed, self.number, 1 + window))
            self._mixed[window] = generator.permutation(size)
            self._mixed.pop(window - 2, None)
        return self._mixed[window]


def _runs(group_N: Integers, row_N: Integers) -> Iterator[tuple[int, Integers]]:
    """Yield each stretch of one row group, with its rows."""
    if not len(group_N):
        return
    edges = np.flatnonzero(np.diff(group_N)) + 1
    for first, last in zip([0, *edges], [*edges, len(group_N)], strict=True):
        yield int(group_N[first]), row_N[first:last]


def positions(
    batches: int, start: tuple[int, int], step: int = 1, skip: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield epoch and number of batches without an end: from `start`, less `skip`, every `step`-th.

    Example:
        >>> from itertools import islice
        >>> list(islice(positions(3, (0, 1)), 4))
        [(0, 1), (0, 2), (1, 0), (1, 1)]
    """
    count = start[0] * batches + start[1] + skip
    while True:
        yield divmod(count, batches)
        count += step


def rows_of(sizes: Sequence[int], rows: Integers) -> Iterator[tuple[int, Integers, Integers]]:
    """Yield the row groups that hold some rows: which, its own rows, and their places in `rows`.

    Args:
        sizes: Spectra in each row group, in order.
        rows: Rows counted over all row groups, in any order.
    """
    starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))])
    group_N = np.searchsorted(starts, rows, side="right") - 1
    for group in np.unique(group_N):
        places = np.flatnonzero(group_N == group)
        yield int(group), rows[places] - starts[group], places
