"""Sources of a dataset: read a few at a time and ahead, and told by digests of what they gave."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.location import is_remote, redacted
from spender_core.batch import SpectrumBatch
from spender_core.datasets.layout import SPLITS, lsf_kind
from spender_core.datasets.manifest import Chunk
from spender_core.datasets.tables import fits_float32, lsf_columns
from spender_core.errors import Failure, FileError, InputError, OfflineError
from spender_core.interfaces import Instrument


@dataclass(frozen=True)
class How:
    """How sources are read."""

    instrument: Instrument
    lsf: bool
    quality: bool
    strict: bool
    archive: str | None
    release: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change from run to run."""
        archive = None if self.archive is None else redacted(self.archive)
        return {
            "lsf": self.lsf,
            "quality": self.quality,
            "archive": archive,
            "release": self.release,
        }


@dataclass
class Given:
    """What one file, or a chunk of ids, gave."""

    sources: int
    batch: SpectrumBatch | None = None
    failures: list[Failure] = field(default_factory=list)


class Pending:
    """What the sources of a chunk have given so far; it never changes."""

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.rows = dict.fromkeys(SPLITS, 0)
        self.failures: tuple[Failure, ...] = ()
        self._content = hashlib.blake2b(digest_size=8)

    def after(self, given: Given, splits: NDArray[np.str_] | None) -> Pending:
        """Return what it is with one more file, or the ids of the chunk.

        Args:
            given: What these gave.
            splits: Of their spectra, shape (B,).
        """
        made = Pending(self.first)
        made.last = self.last + given.sources
        made.failures = (*self.failures, *given.failures)
        made.rows, made._content = dict(self.rows), self._content.copy()
        for failure in given.failures:
            made._content.update(failure.source.encode("utf-8", "surrogateescape"))
        if given.batch is not None and splits is not None:
            made._count(given.batch, splits)
        return made

    def _count(self, batch: SpectrumBatch, splits: NDArray[np.str_]) -> None:
        for split in SPLITS:
            self.rows[split] += int((splits == split).sum())
        if batch.ids is not None:
            self._content.update(batch.ids.tobytes())
        lsf = () if batch.lsf is None else lsf_columns(batch.lsf, lsf_kind(batch.lsf)).values()
        for values in (batch.flux, batch.ivar, batch.z, batch.norm, batch.flags, *lsf):
            self._content.update(np.ascontiguousarray(values.numpy()).data)

    def chunk(self, keys: Sequence[str]) -> Chunk:
        """Return what is to be noted of sources with these keys."""
        rows = tuple(self.rows.values())
        return Chunk(len(keys), digest_of(keys), self._content.hexdigest(), rows)


def name_of(source: Any) -> str:
    """Return a source as it may be shown: a URL without secrets, or an id."""
    if isinstance(source, str):
        return redacted(source)
    return str(source.item() if isinstance(source, np.generic) else source)[:200]


def key_of(source: Any) -> str:
    """Return what tells a source from others: all of it, less user and password of a URL."""
    if isinstance(source, str):
        return re.sub(r"(?<=://)[^/?#]*@", "", source)
    return str(source.item() if isinstance(source, np.generic) else source)


def check_once(names: Sequence[str], keys: Sequence[str], failed: Sequence[str]) -> None:
    """Refuse a source that is given twice, whose spectra would count twice.

    One that could not be read, of those that `failed`, may come again.

    Raises:
        InputError: One is.
    """
    again, places = Counter(failed), dict[str, int]()
    for number, (name, key) in enumerate(zip(names, keys, strict=True)):
        place = key if is_remote(key) else os.path.normpath(Path(key).absolute())
        if place in places and not again[name]:
            raise InputError(
                f"source {number + 1} is source {places[place] + 1} again: {name}; its spectra would "
                "count twice, so give it once"
            )
        again[name] -= place in places
        places.setdefault(place, number)


def digest_of(keys: Sequence[str]) -> str:
    """Return a digest of the keys of sources, 16 hex digits."""
    return hashlib.blake2b(
        "\0".join(keys).encode("utf-8", "surrogateescape"), digest_size=8
    ).hexdigest()


def read_sources(how: How, sources: Sequence[Any], names: Sequence[str]) -> Given:
    """Read one file or some ids.

    Raises:
        OfflineError: One cannot be reached, which says nothing about it.
        FileError: One cannot be read, and `strict` was asked for.
    """
    try:
        batch = how.instrument.read(
            sources[0] if len(sources) == 1 else list(sources),
            root=how.archive,
            release=how.release,
            quality=False,
            strict=how.strict,
            lsf=how.lsf,
        )
    except FileError as error:
        if how.strict:
            raise
        failed = [Failure(name, type(error).__name__, str(error)) for name in names]
        return Given(len(sources), failures=failed)
    for failure in batch.failures:
        if failure.error == OfflineError.__name__:
            raise OfflineError(failure.message)
    if batch.ids is None:
        raise InputError(f"the loader of {how.instrument.name} gives no ids, which a dataset needs")
    failures = list(batch.failures)
    if how.quality:
        keep = (batch.flags & int(how.instrument.rejects)) == 0
        batch = batch if bool(keep.all()) else batch[keep]
    fits = fits_float32(batch)
    for number in np.flatnonzero(~fits).tolist():
        reason = "float32 cannot hold its values, such as a norm below 1e-45 or a number above 3e38"
        failures.append(Failure(str(batch.ids[number].item()), FileError.__name__, reason))
    batch = batch if fits.all() else batch[fits]
    return Given(len(sources), batch if len(batch) else None, failures)


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[slice], Given], units: Sequence[slice], threads: int
) -> Iterator[Given]:
    """Yield what units give, in order, while `threads` of them are being read."""
    waiting: deque[Future[Given]] = deque()
    for unit in units:
        waiting.append(pool.submit(read, unit))
        if len(waiting) >= threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
