"""Reads what was asked for: each file once, some of them ahead, and every failure on record."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.location import is_remote, redacted
from spender_core.archives.remote import fetching
from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    Failure,
    Failures,
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    PartialReadWarning,
    PluginError,
    SpenderError,
)
from spender_core.interfaces.loader import Loader, Source

AHEAD = 4
"""Remote files of which parts are read at a time."""

TOGETHER = 256
"""Files that are handed to a loader together, if it takes several."""

Asked = tuple[str, Source | SpenderError]
"""A source, or why it cannot be, and the name under which it was asked for."""


@dataclass(frozen=True)
class Progress:
    """How far reading has come.

    Attributes:
        done: Sources that were dealt with.
        of: Sources that were asked for.
        spectra: Spectra read so far, before quality cuts.
        failures: Sources that could not be read.
    """

    done: int
    of: int
    spectra: int
    failures: int


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Traced:
    """Spectra, and where each of them is from.

    Attributes:
        batch: The spectra, B of them, with the `failures` of their sources.
        names: The source of each, as it was asked for; paths without secrets.
        sources: Sources that were dealt with, those that could not be read too.
    """

    batch: SpectrumBatch
    names: list[str]
    sources: int


@dataclass
class Part:
    """What some consecutive sources gave: batches and errors by position in `sources`."""

    sources: list[Asked]
    batches: dict[int, SpectrumBatch] = field(default_factory=dict)
    errors: dict[int, SpenderError] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    """Spectra that each position gave."""

    @property
    def names(self) -> list[str]:
        """The source of each spectrum of `batch`, as it was asked for."""
        return [self.sources[i][0] for i in sorted(self.rows) for _ in range(self.rows[i])]

    @property
    def failures(self) -> Failures:
        """The sources that could not be read, in order."""
        return Failures(
            Failure(self.sources[i][0], type(error).__name__, str(error))
            for i, error in sorted(self.errors.items())
        )

    def batch(self) -> SpectrumBatch:
        """Return the spectra in the order asked for, with the failures; there must be some."""
        batch = SpectrumBatch.cat([self.batches.pop(i) for i in sorted(self.batches)])
        return batch.replace(failures=self.failures) if self.errors else batch

    def joined(self) -> SpectrumBatch:
        """Return what `batch` returns.

        Warns:
            PartialReadWarning: Some sources could not be read.

        Raises:
            FileError: None could be read.
        """
        failures = self.failures
        if not self.batches:
            raise _joint(failures, list(self.errors.values()))
        if failures:
            warnings.warn(
                f"{len(failures)} of {len(self.sources)} sources could not be read; `failures` of "
                f"the batch lists them. The first: {failures[0].message}",
                PartialReadWarning,
                stacklevel=3,
            )
        return self.batch()


@dataclass(frozen=True)
class _File:
    """A file to read, and who wants what of it: positions of sources."""

    urls: tuple[str, ...]
    positions: tuple[int, ...]
    rows: Mapping[str, tuple[Any, ...]]
    """Values of id fields that are wanted; all rows if empty."""


@dataclass(frozen=True)
class _Loaded:
    """What files gave: one batch, and which rows of it are each file's, or its error."""

    batch: SpectrumBatch | None
    rows: list[slice | SpenderError]


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        loader: The instrument's.
        lsf: Read line spread functions too.
        strict: Raise at the first source that cannot be read.
        report: Called after each file.
    """

    loader: Loader
    lsf: bool = False
    strict: bool = False
    report: Report | None = None

    def parts(self, sources: Sequence[Asked], size: int | None = None) -> Iterator[Part]:
        """Yield what sources give, `size` of them at a time, in order; all together if None.

        A file that several sources of a part want is read once, and while one part is at
        work, files of the next are fetched.

        Raises:
            SpenderError: A source cannot be read, and `strict` was asked for.
        """
        places = [source.urls[0] for _, source in sources if isinstance(source, Source)]
        if any(map(is_remote, places)):
            fetching.check_settings()
        windows = [list(sources)] if size is None else self._windows(sources, size)
        groups = [self._groups(window) for window in windows]
        done = spectra = failed = held = 0
        part = Part([])
        with closing(self._all_loaded([one for window in groups for one in window])) as loaded:
            for window, wanted in zip(windows, groups, strict=True):
                first = len(part.sources)
                part.sources += window
                done += self._refuse(part, first)
                for group in wanted:
                    found = self._deal(part, first, group, next(loaded))
                    held, spectra = held + found, spectra + found
                    done += sum(len(file.positions) for file in group)
                    if self.report is not None:
                        failures = failed + len(part.errors)
                        self.report(Progress(done, len(sources), spectra, failures))
                if size is None or max(len(part.sources), held) >= size or done == len(sources):
                    failed += len(part.errors)
                    yield part
                    part, held = Part([]), 0

    def _refuse(self, part: Part, first: int) -> int:
        """Note the errors of those sources, from one on, that cannot be; return their number."""
        errors = {
            place: source
            for place, (_, source) in enumerate(part.sources[first:], first)
            if isinstance(source, SpenderError)
        }
        part.errors |= errors
        return len(errors)

    def _windows(self, sources: Sequence[Asked], size: int) -> list[list[Asked]]:
        """Split sources into those that are dealt with together: some ids, or one large file."""
        windows: list[list[Asked]] = []
        for asked in sources:
            some = isinstance(asked[1], SpenderError) or asked[1].rows
            large = not (some or self.loader.whole or self.loader.loads_many)
            if not windows or len(windows[-1]) == size or large:
                windows.append([])
            windows[-1].append(asked)
        return windows

    def _groups(self, sources: Sequence[Asked]) -> list[list[_File]]:
        """Return the files that sources want, those together that are loaded together."""
        files = _files(sources)
        step = TOGETHER if self.loader.loads_many else 1
        return [files[first : first + step] for first in range(0, len(files), step)]

    def _deal(self, part: Part, first: int, group: Sequence[_File], loaded: _Loaded) -> int:
        """Give each source what it wants of what was loaded; return how many spectra they got.

        Positions in `group` count from `first`.
        """
        taken: dict[int, NDArray[np.int64]] = {}
        errors: dict[int, SpenderError] = {}
        for file, rows in zip(group, loaded.rows, strict=True):
            for position in (first + place for place in file.positions):
                if isinstance(rows, SpenderError):
                    errors[position] = rows
                    continue
                assert loaded.batch is not None
                source = part.sources[position][1]
                assert isinstance(source, Source)
                found = _rows_of(loaded.batch, rows, source, file.urls)
                if isinstance(found, SpenderError):
                    errors[position] = found
                else:
                    taken[position] = found
        if errors and self.strict:
            raise errors[min(errors)]
        part.errors |= errors
        part.rows |= {position: len(found) for position, found in taken.items()}
        if loaded.batch is not None:
            part.batches |= _gathered(loaded.batch, taken)
        return sum(map(len, taken.values()))

    def _all_loaded(self, groups: Sequence[Sequence[_File]]) -> Generator[_Loaded, None, None]:
        """Yield what each group of files gave, in order."""
        remote = [file.urls for group in groups for file in group if is_remote(file.urls[0])]
        if not self.loader.whole:
            yield from self._threaded(groups) if len(remote) > 1 else map(self._load, groups)
            return
        with ExitStack() as stack:
            if remote:
                from spender_core.archives.remote.files import Ahead

                stack.enter_context(Ahead(remote))
            yield from map(self._load, groups)

    def _threaded(self, groups: Sequence[Sequence[_File]]) -> Iterator[_Loaded]:
        """Load several files at a time: most of the time goes by in waiting for servers."""
        waiting: deque[Future[_Loaded]] = deque()
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="spender-read") as pool:
            try:
                for group in groups:
                    waiting.append(pool.submit(self._load, group))
                    if len(waiting) >= AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                fetching.cancel_all()  # or the end of the pool waits for silent servers
                raise
            finally:
                for future in waiting:
                    future.cancel()

    def _load(self, group: Sequence[_File]) -> _Loaded:
        """Load files, all together if the loader can."""
        if self.loader.loads_many:
            batch, rows = self.loader.load_many([file.urls for file in group], self.lsf)
            return _Loaded(batch, rows)
        (file,) = group
        try:
            batch = self._first(file)
        except SpenderError as error:
            return _Loaded(None, [error])
        return _Loaded(batch, [slice(0, len(batch))])

    def _first(self, file: _File) -> SpectrumBatch:
        """Load the first of a file's places that exists."""
        for url in file.urls:
            try:
                try:
                    return self._loaded(url, file.rows)
                except fetching.ChangedError:  # what was read of the old version is forgotten
                    return self._loaded(url, file.rows)
            except MissingFileError:
                if len(file.urls) == 1:
                    raise
        shown = ", ".join(map(redacted, file.urls))
        raise MissingFileError(f"none of these files exists: {shown}; check the id and the root")

    def _loaded(self, url: str, rows: Mapping[str, tuple[Any, ...]]) -> SpectrumBatch:
        loader = self.loader
        if rows and loader.reads_rows:
            loaded = loader.load_rows(url, rows, self.lsf)
        else:
            loaded = loader.load_with_lsf(url) if self.lsf else loader.load(url)
        if self.lsf and loaded.lsf is None:
            raise PluginError(f"{type(loader).__name__}.load_with_lsf gave no lsf")
        return loaded


def _files(sources: Sequence[Asked]) -> list[_File]:
    """Return the files that sources want, in the order in which they are first wanted."""
    wanted: dict[tuple[str, ...], list[int]] = {}
    rows: dict[tuple[str, ...], list[Source]] = {}
    for position, (_, source) in enumerate(sources):
        if isinstance(source, Source):
            wanted.setdefault(source.urls, []).append(position)
            rows.setdefault(source.urls, []).append(source)
    return [_File(urls, tuple(positions), _rows(rows[urls])) for urls, positions in wanted.items()]


def _rows(sources: Sequence[Source]) -> dict[str, tuple[Any, ...]]:
    """Return the values of id fields that any source wants; nothing if one wants all rows."""
    fields = set(sources[0].rows)
    if any(set(source.rows) != fields for source in sources):
        return {}
    return {name: tuple(dict.fromkeys(source.rows[name] for source in sources)) for name in fields}


def _rows_of(
    loaded: SpectrumBatch, rows: slice, source: Source, urls: Sequence[str]
) -> NDArray[np.int64] | SpenderError:
    """Return which rows of a file a source wants, or that there are none."""
    places = np.arange(rows.start, rows.stop)
    if not source.rows:
        return places
    keep = np.ones(len(places), dtype=bool)
    for name, value in source.rows.items():
        keep &= loaded.ids[name][rows] == value
    if not keep.any():
        wanted = ", ".join(f"{name} {value}" for name, value in source.rows.items())
        return MissingFileError(f"{redacted(urls[0])} holds no spectrum with {wanted}")
    return places[keep]


def _gathered(
    loaded: SpectrumBatch, taken: Mapping[int, NDArray[np.int64]]
) -> dict[int, SpectrumBatch]:
    """Return rows of a batch by the position that wants them; runs of positions together."""
    if not taken:
        return {}
    positions = np.array(sorted(taken))
    runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
    found = {}
    for run in runs:
        rows = np.concatenate([taken[int(position)] for position in run])
        whole = np.array_equal(rows, np.arange(len(loaded)))
        found[int(run[0])] = loaded if whole else loaded[rows]
    return found


def _joint(failures: Failures, errors: Sequence[SpenderError]) -> SpenderError:
    """Return one error for sources of which none could be read: of their class if it is one."""
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else FileError
    listing = "; ".join(failure.message for failure in failures[:5])
    more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    text = f"none of {len(failures)} sources could be read: {listing}{more}"
    return kind(text) if kind in (MissingFileError, OfflineError, InputError) else FileError(text)
