"""The spectra of a partition, in pieces; one source that fails never costs the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from spender_core import registry
from spender_core.archives.location import told
from spender_core.batch import SpectrumBatch
from spender_core.cataloguing.plan import Group, How, Task
from spender_core.datasets.reading import Dataset
from spender_core.datasets.sourcing import name_of
from spender_core.errors import Failure, InputError, SpenderError
from spender_core.interfaces import Instrument

SIZE = 512
"""Spectra of files in memory at a time."""


@dataclass(frozen=True)
class Piece:
    """Some spectra of a partition, before quality cuts.

    Attributes:
        batch: The spectra, B of them; None if there are none.
        names: The source of each.
        failures: Sources that could not be read.
    """

    batch: SpectrumBatch | None
    names: list[str]
    failures: tuple[Failure, ...] = ()


def pieces(task: Task, instrument: Instrument, lsf: bool) -> Iterator[Piece]:
    """Yield the spectra of a partition in order.

    Args:
        task: The partition.
        instrument: What took the spectra.
        lsf: Read their line spread functions too.

    Raises:
        InputError: The dataset is not the one that the plan was made for.
        FileError: There is no dataset any more.
    """
    if task.how.dataset is not None:
        yield from _of_dataset(task, lsf)
    else:
        yield from _of_sources(task.how, task.sources, instrument, lsf)


def _of_sources(how: How, sources: Any, instrument: Instrument, lsf: bool) -> Iterator[Piece]:
    done = 0
    try:
        for one in instrument.read_traced(
            sources, size=SIZE, root=how.root, release=how.release, lsf=lsf
        ):
            done += one.sources
            yield Piece(one.batch if len(one.batch) else None, one.names, one.batch.failures)
        return
    except MemoryError:
        raise
    except Exception as error:  # of a loader that is not prepared for what it met, too
        if len(sources) == 1:
            yield Piece(None, [], (_failure(sources[0], error),))
            return
    for row in range(done, len(sources)):
        yield from _of_sources(how, sources[row : row + 1], instrument, lsf)


def _of_dataset(task: Task, lsf: bool) -> Iterator[Piece]:
    how = task.how
    dataset = _dataset(how.dataset or "", how.instrument, how.fingerprint or "")
    for group in task.sources:
        assert isinstance(group, Group)
        (found,) = [one for one in dataset.groups(group.split)
                    if (one.shard, one.number) == (group.shard, group.number)]  # fmt: skip
        try:
            batch = dataset.group(found, lsf)
        except SpenderError as error:
            yield Piece(None, [], (_failure(group, error),))
            continue
        yield Piece(batch, [group.shard] * len(batch))


@lru_cache(maxsize=2)
def _dataset(root: str, instrument: str, fingerprint: str) -> Dataset:
    """Open a dataset once a worker."""
    dataset = Dataset(root, registry.instrument(instrument))
    if dataset.fingerprint != fingerprint:
        raise InputError(
            f"{dataset!r} has changed since the catalogue was planned; begin anew with --overwrite, or "
            "in another folder"
        )
    return dataset


def _failure(source: Any, error: Exception) -> Failure:
    """Return what could not be read, and why; of foreign errors without secrets."""
    text = str(error) if isinstance(error, SpenderError) else told(error)
    return Failure(name_of(source), type(error).__name__, text)
