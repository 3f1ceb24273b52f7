"""Catalogues of a survey: which tables they are, and rows of them, read a part at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.catalogues.conditions import Cut, check_names
from spender_core.archives.catalogues.rowsets import Rows, check_kinds, joined, open_rows
from spender_core.archives.catalogues.skies import Region
from spender_core.archives.catalogues.values import Columns
from spender_core.archives.fits.opening import reading
from spender_core.archives.location import redacted
from spender_core.archives.remote.ahead import Ahead
from spender_core.errors import InputError, MissingFileError, PartialReadWarning

Report = Callable[[int, int, int], None]
"""Called with the rows that were looked at, those of the parts opened so far, and those found."""

_FIRST = 1024
"""Rows that a query with a limit looks at first, at least; then twice as many, and so on."""


_FEW = 8
"""Files that a query with a limit fetches before they are needed."""


@dataclass(frozen=True)
class CatalogueRequest:
    """What a query asks of a survey beyond conditions on columns.

    Attributes:
        region: Part of the sky; None for all.
        target: Names of target classes, any of which a row must have; none for all rows.
        primary: Only the best spectrum of each object; or the name of the survey's choice.
        quality: Apply the survey's quality cuts on what a catalogue tells.
        root: Folder or URL of a copy of the archive; None for the survey's own.
        release: Name of a data release; None for the default.
        catalogue: Path or URL of a catalogue of the user's own; None for the survey's.
    """

    region: Region | None = None
    target: tuple[str, ...] = ()
    primary: bool | str = True
    quality: bool = True
    root: str | None = None
    release: str | None = None
    catalogue: str | None = None


@dataclass(frozen=True)
class CatalogueFile:
    """A file of a catalogue.

    Attributes:
        url: Its path or URL.
        fixed: Columns that it lacks, since all its rows have the same value.
    """

    url: str
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """A column that is computed from others of the same part.

    Attributes:
        names: The columns it needs.
        compute: Its values, shape (N,), from these.
    """

    names: tuple[str, ...]
    compute: Callable[[Columns], NDArray[Any]]


@dataclass(frozen=True)
class Catalogue:
    """The tables that answer a query, and what their columns mean. Names are in capitals.

    Attributes:
        parts: Files, in groups. Each group is read as one table; groups of one file by rows.
        ids: Fields of the ids, in order, each with the columns that may hold it.
        position: Columns that may hold right ascension, and declination, degrees.
        shown: Columns of the answer, beside the ids, unless others are asked for.
        cuts: Conditions of the survey itself, from the names of all columns.
        kinds: What columns hold whose meaning the survey knows, as of `rowsets.check_kinds`.
        tables: Names of HDUs of a file whose rows belong together, the first one's coming
            first; none for the first table of the file.
        key: Column by which rows of several tables are joined.
        optional: Columns that are 0 where a file lacks them.
        derived: Columns that are computed.
        missing: Pass over files that do not exist, with a warning, unless that is all.
        whole: Files are small, and most of each is needed: they are fetched whole.
    """

    parts: tuple[tuple[CatalogueFile, ...], ...]
    ids: Mapping[str, tuple[str, ...]]
    position: tuple[tuple[str, ...], tuple[str, ...]]
    shown: tuple[str, ...]
    cuts: Callable[[Collection[str]], Sequence[Cut]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    key: str = ""
    optional: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    missing: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a catalogue.

    Attributes:
        cuts: Conditions that rows must meet, beside the survey's own.
        region: Part of the sky; None for all.
        columns: Columns of the answer beside the ids; None for those that the catalogue shows.
        limit: Rows at most, the first of the catalogue; None for all.
    """

    cuts: Sequence[Cut]
    region: Region | None = None
    columns: Sequence[str] | None = None
    limit: int | None = None


def select(
    catalogue: Catalogue, wanted: Wanted, report: Report | None = None
) -> dict[str, NDArray[Any]]:
    """Return the rows of a catalogue that meet all conditions, in its order.

    A large table is read some MB at a time, so that memory hangs on what is found alone.

    Returns:
        The fields of the ids that the catalogue has, then the other columns; text as bytes.

    Raises:
        InputError: A column that is asked for does not exist.
        FileError: A file is missing, or cannot be used.
        OfflineError: A file's server cannot be reached.
    """
    found = _Found(wanted.limit, report)
    with _fetched(catalogue, wanted.limit):
        _look(catalogue, wanted, found)
    if found.absent:
        _tell_absent(found.absent, found.files)
    return _joined(found.pieces) or _nothing(catalogue, wanted)


def _fetched(catalogue: Catalogue, limit: int | None) -> AbstractContextManager[object]:
    """Fetch small files many at a time; only a few of them where a limit may end the query."""
    if not catalogue.whole:
        return nullcontext()
    files = [[file.url] for group in catalogue.parts for file in group]
    return Ahead(files) if limit is None else Ahead(files, _FEW)


def _look(catalogue: Catalogue, wanted: Wanted, found: _Found) -> None:
    for group in catalogue.parts:
        mistake = None
        found.files += len(group)
        with _opened(catalogue, group, found.absent) as part:
            try:
                if part is not None:
                    found.take(part, _plan(catalogue, wanted, part))
            except InputError as error:  # of whoever asks, not of the file that is open here
                mistake = error
        if mistake is not None:
            raise mistake
        if found.complete:
            break


def _tell_absent(absent: Sequence[str], files: int) -> None:
    """Warn of files that do not exist.

    Raises:
        MissingFileError: They are all.
    """
    first = redacted(absent[0])
    if len(absent) == files:
        raise MissingFileError(
            f"none of the {files} files exists that the survey lists there, such as {first}; check "
            "the root and the release"
        )
    warnings.warn(
        f"{len(absent)} of {files} files that the survey lists there do not exist, so that their "
        f"rows are not found; the first: {first}",
        PartialReadWarning,
        stacklevel=5,
    )


def _nothing(catalogue: Catalogue, wanted: Wanted) -> dict[str, NDArray[Any]]:
    """Return the columns of an answer for which there is no file to look into."""
    types = {"S": "S1", "iu": "i8"}
    names = [*catalogue.ids, *(catalogue.shown if wanted.columns is None else wanted.columns)]
    return {
        name.upper(): np.zeros(0, types.get(catalogue.kinds.get(name.upper(), ""), "f8"))
        for name in names
    }


class _Found:
    """Rows that were found so far, files that were asked for, and those that are absent."""

    def __init__(self, limit: int | None, report: Report | None) -> None:
        self.pieces: list[dict[str, NDArray[Any]]] = []
        self.files, self.absent = 0, list[str]()
        self._limit, self._report = limit, report
        self._seen = self._total = self._count = 0

    @property
    def complete(self) -> bool:
        """Whether there are as many as are wanted."""
        return self._limit is not None and self._count >= self._limit

    def take(self, part: _Part, plan: _Plan) -> None:
        """Look at the rows of a part, until there are enough."""
        self._total += part.rows
        for size, columns in part.chunks(plan.needed, _first(self._limit)):
            kept = _kept(plan, columns, size)
            kept = kept if self._limit is None else kept[: self._limit - self._count]
            self.pieces.append({name: columns[taken][kept] for name, taken in plan.out.items()})
            self._seen, self._count = self._seen + size, self._count + len(kept)
            if self._report is not None:
                self._report(self._seen, self._total, self._count)
            if self.complete:
                break


def _first(limit: int | None) -> int | None:
    return None if limit is None else max(2 * limit, _FIRST)


@dataclass(frozen=True)
class _Plan:
    """What is read of a part.

    Attributes:
        needed: Columns to read.
        cuts: Conditions on them.
        out: Columns of the answer, each with the column that it is taken from.
    """

    needed: tuple[str, ...]
    cuts: tuple[Cut, ...]
    out: Mapping[str, str]


def _plan(catalogue: Catalogue, wanted: Wanted, part: _Part) -> _Plan:
    """Find in a part's columns what is needed for conditions and answer."""
    known = part.names
    cuts = [*wanted.cuts, *catalogue.cuts(known)]
    if wanted.region is not None:
        cuts.append(_in_region(wanted.region, catalogue, known, part.shown))
    check_names(cuts, known, part.shown)
    out = {}
    for name, places in catalogue.ids.items():
        place = next((place for place in places if place in known), None)
        if place is not None:
            out[name] = place
    if not out:
        raise InputError(
            f"{part.shown} has none of the columns {', '.join(catalogue.ids)}, so that its rows "
            "tell no spectra; is it a catalogue of this survey?"
        )
    if wanted.columns is None:
        chosen = [name for name in catalogue.shown if name in known]
    else:
        chosen = [name.upper() for name in wanted.columns]
        check_names([Cut(tuple(chosen), _never)], known, part.shown)
    out |= {name: name for name in chosen if name not in out}
    needed = dict.fromkeys([*(name for cut in cuts for name in cut.names), *out.values()])
    return _Plan(tuple(needed), tuple(cuts), out)


def _never(columns: Columns) -> NDArray[np.bool_]:
    return np.zeros(len(next(iter(columns.values()))), dtype=bool)


def _in_region(region: Region, catalogue: Catalogue, known: Collection[str], place: str) -> Cut:
    names = [next((n for n in options if n in known), None) for options in catalogue.position]
    if names[0] is None or names[1] is None:
        options = " or ".join("/".join(names) for names in catalogue.position)
        raise InputError(f"{place} has no positions: none of the columns {options}")
    ra, dec = names[0], names[1]

    def keep(columns: Columns) -> NDArray[np.bool_]:
        places = (np.ma.filled(columns[name].astype(np.float64), np.nan) for name in (ra, dec))
        return region.contains(*places)

    return Cut((ra, dec), keep, str(region))


def _kept(plan: _Plan, columns: Columns, size: int) -> NDArray[np.int64]:
    """Return the rows that meet all conditions; each is only asked of those left."""
    kept = np.arange(size)
    for cut in plan.cuts:
        if not len(kept):
            break
        everything = len(kept) == size
        part = {name: columns[name] if everything else columns[name][kept] for name in cut.names}
        kept = kept[np.ma.filled(cut.keep(part), False)]
    return kept


def _joined(found: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Join what chunks gave; a column that a part lacks is left out."""
    if not found:
        return {}
    filled = [part for part in found if len(next(iter(part.values())))] or [found[0]]
    names = [name for name in filled[0] if all(name in part for part in filled)]
    return {name: joined([part[name] for part in filled]) for name in names}


class _Part:
    """A group of files as one table."""

    def __init__(self, catalogue: Catalogue, files: Sequence[tuple[CatalogueFile, Rows]]) -> None:
        self._catalogue, self._files = catalogue, files
        self.rows = sum(rows.count for _, rows in files)
        first, rest = files[0][0].url, len(files) - 1
        self.shown = redacted(first) + (f" (and {rest} files more)" if rest else "")
        held = [set(rows.names) | set(file.fixed) for file, rows in files]
        plain = set.intersection(*held) | set(catalogue.optional)
        derived = {
            name for name, made in catalogue.derived.items() if set(made.names) <= plain
        } - plain
        self._derived, self.names = derived, plain | derived

    def chunks(
        self, names: Sequence[str], first: int | None
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Return rows a part at a time: how many, and their columns."""
        made = {name: self._catalogue.derived[name] for name in names if name in self._derived}
        plain = [name for name in names if name not in made]
        plain += [name for one in made.values() for name in one.names if name not in plain]
        if len(self._files) == 1 and not made:
            yield from self._of(*self._files[0], plain, first)
            return
        pieces = [
            piece for file, rows in self._files for piece in self._of(file, rows, plain, None)
        ]
        columns = {name: joined([piece[name] for _, piece in pieces]) for name in plain}
        columns |= {name: one.compute(columns) for name, one in made.items()}
        yield sum(size for size, _ in pieces), columns

    def _of(
        self, file: CatalogueFile, rows: Rows, names: Sequence[str], first: int | None
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        held = [name for name in names if name in rows.names and name not in file.fixed]
        with reading(file.url):
            for size, columns in rows.chunks(held, first):
                check_kinds(columns, self._catalogue.kinds)
                for name in names:
                    if name in file.fixed:
                        columns[name] = np.full(size, file.fixed[name])
                    elif name not in columns:
                        columns[name] = np.zeros(size, dtype=self._catalogue.optional[name])
                yield size, columns


@contextmanager
def _opened(
    catalogue: Catalogue, group: Sequence[CatalogueFile], absent: list[str]
) -> Iterator[_Part | None]:
    """Open the files of a group; those that may be missing, and are, become part of `absent`."""
    with ExitStack() as stack:
        files = []
        for file in group:
            try:
                rows = stack.enter_context(open_rows(file.url, catalogue.tables, catalogue.key))
            except MissingFileError:
                if not catalogue.missing:
                    raise
                absent.append(file.url)
                continue
            files.append((file, rows))
        yield _Part(catalogue, files) if files else None
