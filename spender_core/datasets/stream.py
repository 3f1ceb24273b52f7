"""`Stream`: batches of a dataset to train on, mixed, shared out among ranks, and resumable.

The order of the spectra is that of `order`: it follows from the seed and the number of the epoch,
so that a position in the data is two numbers. A background thread decodes row groups ahead.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from spender_core.archives.location import redacted
from spender_core.batch import Flag, SpectrumBatch
from spender_core.datasets.gathering import gather
from spender_core.datasets.order import Integers, Order, Parts, positions
from spender_core.datasets.prefetching import Prefetched
from spender_core.datasets.reading import Dataset
from spender_core.errors import InputError

_DECODERS = 2
"""Row groups that are decoded at a time; pyarrow decodes the columns of each in parallel."""

_NO_FLAG = Flag(0)

Position = tuple[int, int]
"""An epoch, and the number of a batch in it."""


@dataclass(frozen=True)
class Selection:
    """Which spectra take part.

    Attributes:
        z_range: Lowest and highest redshift; those whose redshift is unknown are left out.
        reject: Spectra with any of these flags are left out. Datasets of spender 0.3 have none.
        z_known: Leave out spectra whose redshift is unknown.

    Raises:
        InputError: The redshifts are not in order.
    """

    z_range: tuple[float, float] | None = None
    reject: Flag = _NO_FLAG
    z_known: bool = True

    def __post_init__(self) -> None:
        if self.z_range is not None and not self.z_range[0] <= self.z_range[1]:
            raise InputError(f"z_range must be two redshifts in order, got {self.z_range}")

    def __str__(self) -> str:
        parts = [f"z from {self.z_range[0]:g} to {self.z_range[1]:g}"] if self.z_range else []
        parts += ["z known"] if self.z_known else []
        parts += [f"not ({cause})" for cause in self.reject.causes]
        return ", ".join(parts) or "all"

    def rows(self, dataset: Dataset, split: str) -> list[Integers | None]:
        """Return the rows of each row group that take part; None for all of them.

        Raises:
            FileError: A shard is damaged.
        """
        groups = dataset.groups(split)
        if not groups:
            return []
        keep = np.ones(dataset.rows(split), dtype=bool)
        columns = dataset.columns(split, ["z", "flags"])
        z, flags = columns["z"].astype(np.float64), columns["flags"]
        if self.z_known:
            keep &= np.isfinite(z) & (z > -1) & (flags & int(Flag.NO_Z) == 0)
        if self.z_range is not None:
            keep &= (z >= self.z_range[0]) & (z <= self.z_range[1])
        keep &= flags & int(self.reject) == 0
        edges = np.cumsum([group.rows for group in groups])[:-1]
        parts = np.split(keep, edges)
        return [None if part.all() else np.flatnonzero(part) for part in parts]


_ALL = Selection()


class Stream(IterableDataset[SpectrumBatch]):
    """Batches of the spectra of a split, without an end, from `position` on.

    In an epoch every spectrum that takes part comes once over all ranks, and none twice. Which
    spectra are in a batch depends neither on the number of ranks nor on that of workers. With a
    torch `DataLoader` (`batch_size=None`), worker w of W makes batches w, w + W, ...; each decodes
    all row groups, so that the background thread is the better way. `position` counts batches that
    were handed out in this process, so it stands still where workers make them.

    Args:
        dataset: Where the spectra are.
        split: "train", "validation" or "test".
        batch_size: Most spectra of a batch over all ranks; batches differ by at most one.
        shuffle: Mix the spectra; otherwise they come as they lie in the files.
        seed: Of the mixing, >= 0.
        window: Row groups of 1,024 spectra that are mixed with each other. About two windows are in
            memory, on each of several ranks a share of them.
        rank: Which part of each batch is given here.
        world: Of how many.
        selection: Which spectra take part.
        lsf: Give their line spread functions too.
        prefetch: Batches that are made ahead in a background thread; 0 makes each when it is
            asked for.

    Attributes:
        spectra: Spectra of an epoch, over all ranks.
        position: Epoch and number of the batch that comes next.
        waited: Seconds that whoever takes the batches had to wait for them so far.

    Raises:
        InputError: Nothing is left to stream, a number is senseless, no instrument was given, or
            line spread functions are not there.
        FileError: A shard is damaged.

    Example:
        >>> import tempfile
        >>> from spender_core import registry
        >>> from spender_core.datasets.mock.stream import MockSurvey
        >>> from spender_core.datasets.shards import write_dataset
        >>> sdss, folder = registry.instrument("sdss"), tempfile.mkdtemp()
        >>> rows = write_dataset(folder, (m.batch for m in MockSurvey(sdss, n=24, seed=1)), sdss)
        >>> stream = Stream(Dataset(folder, sdss), batch_size=8, prefetch=0)
        >>> sum(len(batch) for batch in stream.epoch(0)) == stream.spectra
        True
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        window: int = 8,
        rank: int = 0,
        world: int = 1,
        selection: Selection = _ALL,
        lsf: bool = False,
        prefetch: int = 2,
    ) -> None:
        super().__init__()
        if not 0 <= rank < world:
            raise InputError(f"rank must be from 0 to {world - 1}, of {world}, got {rank}")
        if prefetch < 0:
            raise InputError(f"prefetch must be >= 0, got {prefetch}")
        dataset.check_reads(lsf)
        self.dataset, self.split, self.selection = dataset, split, selection
        self.rank, self.world, self.lsf, self.prefetch = rank, world, lsf, prefetch
        self._groups = dataset.groups(split)
        self._rows = selection.rows(dataset, split)
        pairs = zip(self._groups, self._rows, strict=True)
        sizes = [group.rows if rows is None else len(rows) for group, rows in pairs]
        self.order = Order(np.array(sizes, dtype=np.int64), batch_size, shuffle, seed, window)
        self.spectra = self.order.spectra
        self._check_size()
        self.position: Position = (0, 0)
        self.waited = 0.0

    def _check_size(self) -> None:
        if not sum(group.rows for group in self._groups):
            raise self.dataset.empty(self.split)
        if not self.spectra:
            raise InputError(
                f"none of the {self.dataset.rows(self.split)} spectra in the split {self.split!r} of "
                f"{self.dataset!r} passes the selection: {self.selection}; widen it"
            )
        if self.spectra // len(self) < self.world:
            raise InputError(
                f"a batch of {self.spectra // len(self)} spectra cannot be shared out among "
                f"{self.world} ranks; take a larger batch_size, more spectra or fewer ranks"
            )

    def __repr__(self) -> str:
        return (
            f"Stream({self.dataset!r}, {self.split!r}, {len(self)} batches of "
            f"{self.order.batch_size}, rank {self.rank} of {self.world}, {self.selection})"
        )

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self.order.batches

    def batch(self, epoch: int, number: int) -> SpectrumBatch:
        """Return one batch, or this rank's part of it, without those before it."""
        parts = self.order.epoch(epoch).part(number, self.rank, self.world)
        return self._gathered(parts, [self._decoded(group) for group, _ in parts])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SpectrumBatch]:
        """Yield the batches of an epoch, from `start` on; `position` is not touched."""
        numbers = range(start, len(self))
        with closing(self._ahead([(epoch, number) for number in numbers])) as made:
            for _, batch in made:
                yield batch

    def __iter__(self) -> Iterator[SpectrumBatch]:
        """Yield batches from `position` on, epoch after epoch, and count them there."""
        worker = get_worker_info()
        skip, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        wanted = positions(len(self), self.position, step, skip)
        with closing(self._ahead(wanted, step)) as made:
            for place, batch in made:
                self.position = next(positions(len(self), place, skip=step))
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what it is a position in, as plain data."""
        return {
            "epoch": self.position[0],
            "batch": self.position[1],
            "seed": self.order.seed,
            "fingerprint": self.dataset.fingerprint,
            "settings": self._settings(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position; the number of ranks may have changed.

        Raises:
            InputError: It is one in another dataset, or in batches of another order.
        """
        mine = self.state_dict()
        if state["fingerprint"] != mine["fingerprint"]:
            raise InputError(
                f"the dataset {redacted(self.dataset.root)} is not the one that this run began with (its "
                f"shards have other names, rows or sizes: {mine['fingerprint'][:12]} instead of "
                f"{state['fingerprint'][:12]}); give that one, or begin anew"
            )
        before = {"seed": state["seed"], **state["settings"]}
        now = {"seed": mine["seed"], **mine["settings"]}
        changed = [
            f"{k} {now[k]} instead of {before.get(k)}" for k in now if now[k] != before.get(k)
        ]
        if changed:
            raise InputError(
                f"the batches are not those that this run began with: {'; '.join(changed)}; set "
                "that back, or begin anew"
            )
        epoch, number = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= number < len(self):
            raise InputError(f"there is no batch {number} in epoch {epoch}; the state is damaged")
        self.position = (epoch, number)

    def _settings(self) -> dict[str, Any]:
        """Return what the order of the batches hangs on, beside the seed."""
        return {
            "split": self.split,
            "batch_size": self.order.batch_size,
            "shuffle": self.order.shuffle,
            "window": self.order.window,
            "selection": str(self.selection),
            "spectra": self.spectra,
        }

    # -- how batches are made ----------------------------------------------------------------

    def _ahead(
        self, wanted: Iterable[Position], step: int = 1
    ) -> Generator[tuple[Position, SpectrumBatch], None, None]:
        """Yield batches, made in the background, and count the seconds they are waited for."""

        def make() -> Iterator[tuple[Position, SpectrumBatch]]:
            return self._made(wanted, step)

        made = Prefetched(make, self.prefetch) if self.prefetch else self._made(wanted, step)
        with closing(made):
            while True:
                start = time.perf_counter()
                item = next(made, None)
                self.waited += time.perf_counter() - start
                if item is None:
                    return
                yield item

    def _made(
        self, wanted: Iterable[Position], step: int
    ) -> Generator[tuple[Position, SpectrumBatch], None, None]:
        """Yield batches; row groups are decoded a window ahead, and kept as long as needed."""
        plans = self._plans(wanted)
        most = 1 + max(self.order.span // step, 1)
        with ThreadPoolExecutor(_DECODERS, "spender-decode") as pool:
            groups = _Decoding(pool, self._decoded)
            try:
                coming = deque[tuple[Position, Parts]]()
                while True:
                    for place, parts in islice(plans, most - len(coming)):
                        groups.want(parts)
                        coming.append((place, parts))
                    if not coming:
                        return
                    place, parts = coming.popleft()
                    batch = self._gathered(parts, [groups.get(group) for group, _ in parts])
                    groups.release(parts)
                    yield place, batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _plans(self, wanted: Iterable[Position]) -> Iterator[tuple[Position, Parts]]:
        epoch = self.order.epoch(0)
        for place in wanted:
            epoch = epoch if epoch.number == place[0] else self.order.epoch(place[0])
            yield place, epoch.part(place[1], self.rank, self.world)

    def _decoded(self, group: int) -> SpectrumBatch:
        """Return the spectra of a row group that take part; the others leave the memory at once."""
        batch, rows = self.dataset.group(self._groups[group], self.lsf), self._rows[group]
        return batch if rows is None else gather([(batch, rows)])

    def _gathered(self, parts: Parts, decoded: list[SpectrumBatch]) -> SpectrumBatch:
        return gather([(batch, rows) for (_, rows), batch in zip(parts, decoded, strict=True)])


class _Decoding:
    """Row groups that are decoded, or about to be, each as long as a coming batch needs it."""

    def __init__(self, pool: ThreadPoolExecutor, decode: Any) -> None:
        self._pool, self._decode = pool, decode
        self._users: Counter[int] = Counter()
        self._groups: dict[int, Future[SpectrumBatch]] = {}

    def want(self, parts: Parts) -> None:
        """Begin to decode the row groups of a batch, unless they are there."""
        for group, _ in parts:
            self._users[group] += 1
            if group not in self._groups:
                self._groups[group] = self._pool.submit(self._decode, group)

    def get(self, group: int) -> SpectrumBatch:
        """Return a row group, as soon as it is decoded."""
        return self._groups[group].result()

    def release(self, parts: Parts) -> None:
        """Forget the row groups of a batch, unless another one needs them."""
        for group, _ in parts:
            self._users[group] -= 1
            if not self._users[group]:
                del self._groups[group], self._users[group]
