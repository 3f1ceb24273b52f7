"""`spender prepare`: a survey's files to a dataset, resumably.

The rows of each split follow the order of the sources, so that a shard's place in that order
tells what is in it. `dataset.json` notes what each chunk of sources gave; a run that goes on
from there reads only chunks whose rows are in no sound shard.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from spender_core.datasets.layout import (
    SPLITS,
    Metadata,
    lsf_kind,
    parquet,
    schema,
    split_of,
)
from spender_core.datasets.manifest import Chunk, Damage, Manifest, check_shard
from spender_core.datasets.shards import Shards, clear
from spender_core.datasets.sourcing import (
    Given,
    How,
    Pending,
    check_once,
    digest_of,
    key_of,
    name_of,
    read_ahead,
    read_sources,
)
from spender_core.datasets.stores import Store
from spender_core.errors import (
    Failure,
    Failures,
    FileError,
    InputError,
    NoSpectraError,
    PartialReadWarning,
    SpenderError,
)
from spender_core.interfaces import Instrument
from spender_core.interfaces.loader import check_reads_lsf

CHUNK = 8
"""Files that are noted together."""

ID_CHUNK = 256
"""Ids that are read together: many of them may be in one file."""

THREADS = 2
"""Files that are read at once."""

_PATHS = (str, bytes, os.PathLike)

Progress = Callable[[int, int], None]
"""Called with the number of sources that are done, and the spectra in the dataset."""


@dataclass(frozen=True)
class Prepared:
    """What came of `prepare`.

    Attributes:
        rows: Spectra in each split.
        failures: Sources that could not be read, in earlier runs too.
        written: Names of the shards that were written.
        kept: Names of those that were there already.
        damaged: Shards that were damaged, and are rebuilt.
        read: Sources that were read.
    """

    rows: dict[str, int]
    failures: Failures
    written: tuple[str, ...]
    kept: tuple[str, ...]
    damaged: tuple[Damage, ...]
    read: int


def prepare(
    root: str | os.PathLike[str],
    instrument: Instrument,
    sources: Sequence[Any],
    *,
    lsf: bool = False,
    quality: bool = True,
    archive: str | os.PathLike[str] | None = None,
    release: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    chunk: int | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Prepared:
    """Read sources, and write their spectra as a dataset; or go on where an earlier run ended.

    A dataset can grow: its earlier sources come first, in their order, and then new ones. Shards
    that are damaged are rebuilt, byte for byte. Sources that cannot be read are left out,
    also by later runs; to take one in once it is repaired, give it again as a new source.

    Args:
        root: A folder, or a URL that fsspec can write to.
        instrument: The instrument of the sources.
        sources: Paths and URLs, or ids, as `instrument.read` takes them.
        lsf: Store the line spread functions too.
        quality: Leave out spectra that fail the survey's quality cuts.
        archive: For ids: a copy of the archive, as `root` of `instrument.read`.
        release: For ids: the data release.
        strict: Raise at the first source that cannot be read.
        overwrite: Begin anew, whatever is at `root`.
        chunk: Sources that are noted together: the least that a run reads again.
        threads: Sources that are read at once; each of them is in memory.
        progress: Called with the sources done and the spectra in the dataset.

    Raises:
        InputError: The sources or settings are not those of the dataset at `root`.
        FileError: The dataset cannot be written; or, where it must be read again, a source no
            longer gives what it gave. `strict`: a source cannot be read.
        OfflineError: A source cannot be reached; what is done stays.
        NoSpectraError: No source gave any spectrum.
    """
    parquet()
    store = Store(os.fspath(root))
    how = How(
        instrument, lsf, quality, strict, None if archive is None else os.fspath(archive), release
    )
    listed = [str(os.fsdecode(s)) if isinstance(s, _PATHS) else s for s in sources]
    if lsf and instrument.loader is not None:
        check_reads_lsf(instrument.loader)
    if not listed or (chunk is not None and chunk < 1) or threads < 1:
        raise InputError(
            "prepare needs sources, a chunk and threads of at least 1, but was given "
            f"{len(listed)} sources, chunk={chunk} and threads={threads}"
        )
    with store.exclusive():
        if overwrite:
            clear(store, Metadata.of(instrument), overwrite=True)
        run = _Run(store, how, listed, chunk)
        kept = tuple(run.shards.manifest.shards) if run.shards else ()
        shards = run.go(threads, progress or (lambda done, spectra: None))
    written = tuple(dict.fromkeys(shards.written))
    return Prepared(
        rows=shards.manifest.rows,
        failures=Failures(shards.manifest.failures),
        written=written,
        kept=tuple(sorted(set(kept) - set(written))),
        damaged=tuple(run.damaged),
        read=run.read,
    )


class _Run:
    """One run of `prepare`: what is noted already, what must be read, and what comes of it."""

    def __init__(self, store: Store, how: How, sources: list[Any], chunk: int | None) -> None:
        self.store, self.how, self.sources = store, how, sources
        self.names = [name_of(source) for source in sources]
        self.keys = [key_of(source) for source in sources]
        self.paths = all(isinstance(source, str) for source in sources)
        self.read = 0
        self.shards: Shards | None = None
        self.noted: list[Chunk] = []
        self.failures: list[Failure] = []
        self.damaged: list[Damage] = []
        self.torn = False
        """True while what is written and what is noted of it do not agree."""
        manifest = Manifest.read(store)
        failed = () if manifest is None else [failure.source for failure in manifest.failures]
        check_once(self.names, self.keys, failed)
        if manifest is None:
            clear(store, Metadata.of(how.instrument), overwrite=False)
        else:
            self._go_on(manifest)
        self.chunks = self._plan(chunk or (CHUNK if self.paths else ID_CHUNK))
        self.pending = Pending(0)

    def _go_on(self, manifest: Manifest) -> None:
        """Take over what an earlier run has noted, and find out what of it is damaged."""
        _check_settings(manifest, self.how, self.store.shown)
        _check_sources(manifest, self.names, self.keys, self.store.shown)
        self.noted, self.failures = manifest.chunks, manifest.failures
        manifest.drop_unnoted()
        # remote shards are judged by their sizes alone, which needs no download
        found = (
            check_shard(self.store, name, shard, whole=not self.store.remote)
            for name, shard in manifest.shards.items()
        )
        self.damaged = [damage for damage in found if damage]
        for damage in self.damaged:
            del manifest.shards[damage.name]
        self.shards = self._shards(manifest)

    def _shards(self, manifest: Manifest) -> Shards:
        made = schema(self.how.instrument, manifest.about.lsf)
        return Shards(self.store, made, manifest, list(manifest.shards))

    def _plan(self, size: int) -> list[tuple[int, int]]:
        """Return first and last of each chunk: those that are noted, and then new ones."""
        chunks, first = [], 0
        for noted in self.noted:
            chunks.append((first, first + noted.sources))
            first += noted.sources
        number = len(self.sources)
        return chunks + [(at, min(at + size, number)) for at in range(first, number, size)]

    def _needed(self) -> set[int]:
        """Return which chunks must be read: new ones, and those with rows that are lost."""
        needed = set(range(len(self.noted), len(self.chunks)))
        at = dict.fromkeys(SPLITS, 0)
        for number, chunk in enumerate(self.noted):
            for split, rows in zip(SPLITS, chunk.rows, strict=True):
                if self.shards and not self.shards.has(split, at[split], at[split] + rows):
                    needed.add(number)
                at[split] += rows
        return needed

    def go(self, threads: int, progress: Progress) -> Shards:
        """Read what is needed, write it, and return the shards.

        What is done when a source cannot be read, or the user interrupts, is kept.
        """
        needed = self._needed()
        units = [unit for number in sorted(needed) for unit in self._units(number)]
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            warnings.simplefilter("ignore", PartialReadWarning)  # failures are noted
            given = read_ahead(pool, self._given, units, threads)
            try:
                for number, (first, last) in enumerate(self.chunks):
                    if number not in needed:
                        self._skip(self.noted[number])
                        continue
                    self.pending = Pending(first)
                    for _ in self._units(number):
                        self._take(next(given))
                        progress(self.pending.last, self._spectra())
                    self._note(number, last)
                progress(len(self.sources), self._spectra())
                return self._finished()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop(error)
                raise

    def _skip(self, chunk: Chunk) -> None:
        if self.shards is not None:
            self.shards.skip(chunk.rows)

    def _units(self, number: int) -> list[slice]:
        """Return which sources are read together: a file, or a chunk of ids."""
        first, last = self.chunks[number]
        if not self.paths:
            return [slice(first, last)]
        return [slice(at, at + 1) for at in range(first, last)]

    def _given(self, where: slice) -> Given:
        """Read some sources, in a thread."""
        return read_sources(self.how, self.sources[where], self.names[where])

    def _take(self, given: Given) -> None:
        """Write what a unit gave, all of it or nothing."""
        batch = given.batch
        splits = None if batch is None else split_of(batch.ids, self.how.instrument)
        pending = self.pending.after(given, splits)
        if batch is not None and self.shards is None:
            about = Metadata.of(self.how.instrument, lsf_kind(batch.lsf))
            manifest = Manifest(about, self.how.settings, False, {}, self.noted, self.failures)
            self.shards = self._shards(manifest)
        self.torn = True
        if batch is not None and self.shards is not None:
            self.shards.add(batch, splits)
        self.pending = pending
        self.torn = False
        self.read += given.sources

    def _note(self, number: int, last: int) -> None:
        """Note what a chunk gave, or compare it with what is noted."""
        pending = self.pending
        chunk = pending.chunk(self.keys[pending.first : last])
        self.torn = True
        if number >= len(self.noted):
            self.noted.append(chunk)
            self.failures += pending.failures
        elif chunk != self.noted[number]:  # shards have rows that do not belong there
            raise FileError(
                f"the sources from {self.names[pending.first]} to {self.names[last - 1]} gave "
                f"{sum(self.noted[number].rows)} spectra once and now give {sum(chunk.rows)}, or "
                f"others, so that {self.store.shown} cannot go on with them; bring the old files "
                "back, or overwrite it (overwrite=True, --overwrite)"
            )
        self.pending = Pending(last)
        self.torn = False
        if self.shards is not None:
            self.shards.note()

    def _spectra(self) -> int:
        return sum(self.shards.position.values()) if self.shards is not None else 0

    def _finished(self) -> Shards:
        if self.shards is None:
            reasons = "; ".join(failure.message for failure in self.failures[:3])
            raise NoSpectraError(
                f"none of {len(self.sources)} sources gave a spectrum: "
                f"{reasons or 'none passes the quality cuts; --all (quality=False) keeps them'}"
            )
        self.shards.finish(complete=True)
        return self.shards

    def _stop(self, error: BaseException) -> None:
        """Keep what is done, unless it is the writing that failed."""
        shards, pending = self.shards, self.pending
        if shards is None:
            return
        begun = pending.last > pending.first
        again = begun and pending.first < sum(chunk.sources for chunk in self.noted)
        if not (self.torn or again):
            if begun:
                self.noted.append(pending.chunk(self.keys[pending.first : pending.last]))
                self.failures += pending.failures
            with suppress(SpenderError):  # the first error tells more
                shards.finish(complete=False)
        shards.discard(error)


def _check_settings(manifest: Manifest, how: How, shown: str) -> None:
    """Refuse to go on with another instrument or otherwise.

    Raises:
        InputError: They differ.
    """
    problems = Metadata.of(how.instrument).differences(manifest.about)
    then, now = manifest.settings, how.settings
    problems += [
        f"{name} {now[name]!r}, not {then.get(name)!r}"
        for name in now
        if now[name] != then.get(name)
    ]
    if problems:
        raise InputError(
            f"the dataset {shown} was begun otherwise: now it would have {'; '.join(problems)}. Go "
            "on as it was begun, give another root, or overwrite it (overwrite=True, --overwrite)"
        )


def _check_sources(
    manifest: Manifest, names: Sequence[str], keys: Sequence[str], shown: str
) -> None:
    """Refuse sources that do not begin with those of before.

    Raises:
        InputError: They do not.
    """
    first = 0
    for chunk in manifest.chunks:
        now = keys[first : first + chunk.sources]
        if len(now) < chunk.sources or digest_of(now) != chunk.names:
            raise InputError(
                f"the dataset {shown} was begun with other sources: they differ from those of now "
                f"at number {first + 1} or soon after, which is {names[first] if now else 'absent'}. "
                "Give the same in the same order, and new ones after them; or give another root, "
                "or overwrite it (overwrite=True, --overwrite)"
            )
        first += chunk.sources
