"""`spender read`: spectra of files, or of ids from a survey's archive, into one file."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from spender_core import registry
from spender_core.archives.configuration import local_roots
from spender_core.archives.location import redacted
from spender_core.cli.moved import Moved, MovedColumn, size
from spender_core.cli.outputs import Terminated, check_outputs, spare_archives, terminable
from spender_core.cli.products import FORMATS, Product, writing
from spender_core.cli.tables import LISTING_FORMATS, check_format, read_table, write_failures
from spender_core.cli.watched import watched
from spender_core.datasets.layout import id_fields
from spender_core.errors import Failure, FileError, InputError, NoSpectraError, SpenderError
from spender_core.interfaces import Instrument, reading
from spender_core.records import printable

SOME_FAILED = 3
"""Exit status where some of the sources could not be read."""

CHUNK = 1024
"""Spectra in memory at a time."""

LSF_CHUNK = 256
"""The same, with line spread functions."""

TRIED = 8
"""Files that are tried to find out the instrument."""

TOLD = 20
"""Failures that are listed on the terminal."""

_ID = re.compile(r"\d+-\d+(?:-\d+(?:-\w+)?)?|\w+(?:,\s*[\w-]+)+")
_LONGEST = 200
"""Characters of an id."""

_NUMBER = re.compile(r"-?[0-9]{1,20}")


@dataclass(frozen=True)
class Request:
    """What to read.

    Attributes:
        sources: Paths, URLs, or ids as text.
        instrument: Name of the instrument; if None, the files tell it, or the table of ids.
        ids: A table of ids, in place of sources.
        root: A copy of the archive.
        release: The data release.
        lsf: Read line spread functions too.
        everything: Keep spectra that fail the survey's quality cuts.
        strict: Stop at the first source that cannot be read.
        failures: Table of what could not be read.
        overwrite: Replace outputs that are there.
    """

    sources: Sequence[str] = ()
    instrument: str | None = None
    ids: Path | None = None
    root: str | None = None
    release: str | None = None
    lsf: bool = False
    everything: bool = False
    strict: bool = False
    failures: Path | None = None
    overwrite: bool = False


@dataclass
class _Wanted:
    """What to read, by which instrument."""

    instrument: Instrument
    source: Any
    release: str | None


@dataclass
class _Done:
    """What has come of it."""

    progress: reading.Progress = field(default_factory=lambda: reading.Progress(0, 0, 0, 0))
    rows: int = 0
    failures: list[Failure] = field(default_factory=list)

    def failed(self) -> bool:
        """Tell whether no source could be read."""
        return 0 < self.progress.of <= self.progress.failures


def run(request: Request, output: Path) -> None:
    """Read the spectra into a file, and tell what came of it.

    The file appears whole or not at all. Where it is interrupted, what was fetched stays in
    the cache, so that the same command goes on from there.
    """
    _check(request, output)
    moved, done = Moved(), _Done()
    try:
        with terminable():
            wanted = _wanted(request)
            release = wanted.release or ""
            with writing(output, wanted.instrument, request.lsf, release) as product:
                _read(request, wanted, product, done, moved)
    except KeyboardInterrupt as stopped:
        print("interrupted: nothing was written; what was fetched is cached", file=sys.stderr)
        raise SystemExit(143 if isinstance(stopped, Terminated) else 130) from stopped
    _deliver(request, output, done)
    print(_summary(done, moved), file=sys.stderr)
    if done.failures and not done.failed() and done.rows:
        raise SystemExit(SOME_FAILED)
    _refuse_nothing(done)


def _check(request: Request, output: Path) -> None:
    """Refuse what makes no sense, and outputs that could not be written, before any work."""
    if bool(request.sources) == (request.ids is not None):
        raise InputError("give SOURCES (paths, URLs or ids), or --ids FILE: one of the two")
    check_format(output, FORMATS)
    outputs = [output]
    if request.failures is not None:
        check_format(request.failures, LISTING_FORMATS)
        outputs.append(request.failures)
    inputs = [*request.sources, *([str(request.ids)] if request.ids else [])]
    check_outputs(outputs, inputs, request.overwrite)
    spare_archives(outputs, local_roots(request.root))
    for path in outputs:
        if path.suffix == ".fits" and path.is_file() and _is_of_survey(path):
            raise InputError(
                f"{path} is a file of a survey, not one that spender wrote, and it may be read "
                "along; give the output another name"
            )


def _is_of_survey(path: Path) -> bool:
    """Tell whether a survey has made a file."""
    try:
        registry.recognise(str(path))
    except SpenderError:
        return False
    return True


def _read(request: Request, wanted: _Wanted, product: Product, done: _Done, moved: Moved) -> None:
    with _bar(moved) as report:

        def look(progress: reading.Progress) -> None:
            done.progress = progress
            report(progress)

        batches = wanted.instrument.read_chunks(
            wanted.source,
            size=LSF_CHUNK if request.lsf else CHUNK,
            root=request.root,
            release=wanted.release,
            quality=not request.everything,
            strict=request.strict,
            lsf=request.lsf,
            progress=look,
        )
        for batch in batches:
            product.add(batch)
            done.failures += batch.failures
        done.rows, done.failures = product.rows, done.failures + product.failures


def _wanted(request: Request) -> _Wanted:
    """Return what to read, and the instrument that reads it."""
    if request.ids is not None:
        table = read_table(request.ids)
        name = request.instrument or _word(table.meta.get("INSTRUME"))
        release = request.release or _word(table.meta.get("RELEASE")) or None
        instrument = _named(name)
        for field_name, column in id_fields(instrument).items():  # as files of spectra have them
            if column in table.colnames and field_name not in table.colnames:
                table.rename_column(column, field_name)
        return _Wanted(instrument, table, release)
    ids = [text for text in request.sources if _is_id(text) or _is_number(text, request.instrument)]
    if ids and len(ids) < len(request.sources):
        other = next(text for text in request.sources if text not in ids)
        raise InputError(
            f"{ids[0]!r} is an id and {redacted(other)!r} a path; read ids and files apart"
        )
    if ids:
        instrument = _named(request.instrument)
        return _Wanted(instrument, [parse_id(text, instrument) for text in ids], request.release)
    if request.root or request.release:
        raise InputError("--root and --release go with ids; files are read from their paths")
    name = request.instrument
    instrument = _named(name) if name else _recognised(request.sources)
    return _Wanted(instrument, list(request.sources), None)


def _is_id(text: str) -> bool:
    """Tell whether a source is an id, and no file."""
    return bool(len(text) <= _LONGEST and _ID.fullmatch(text)) and not Path(text).exists()


def _is_number(text: str, name: str | None) -> bool:
    """Tell whether a source is an id of one number, of an instrument whose ids are such."""
    if not name or not _NUMBER.fullmatch(text) or Path(text).exists():
        return False
    loader = registry.instrument(name).loader
    return loader is not None and len(loader.id_dtype.names or ()) == 1


def _word(value: Any) -> str | None:
    """Return what a table says of itself, if it is text."""
    return value if isinstance(value, str) else None


def _named(name: str | None) -> Instrument:
    if not name:
        known = ", ".join(registry.instruments())
        raise InputError(f"ids need --instrument, whose ids they are; known: {known}")
    return registry.instrument(name)


def parse_id(text: str, instrument: Instrument) -> tuple[Any, ...]:
    """Return an id that was written as text: parts with "-" or "," between them.

    Numbers are such, unless the id follows the fields of the instrument's ids, and the field
    holds text.

    Example:
        >>> parse_id("412-52254-308-26", registry.instrument("sdss"))
        (412, 52254, 308, '26')
    """
    parts = [part.strip() for part in text.split("," if "," in text else "-")]
    kinds: list[str] = []
    dtype = instrument.loader.id_dtype if instrument.loader is not None else None
    if dtype is not None and parts[0].isdecimal():
        kinds = [dtype[name].kind for name in dtype.names or ()]
    kinds += ["i"] * len(parts)
    return tuple(
        int(part) if _NUMBER.fullmatch(part) and kind in "iu" else part
        for part, kind in zip(parts, kinds, strict=False)
    )


def _recognised(files: Sequence[str]) -> Instrument:
    """Return the instrument of the first file that can be read."""
    troubles: list[SpenderError] = []
    for file in files[:TRIED]:
        try:
            return registry.recognise(file)
        except SpenderError as error:
            troubles.append(error)
    more = f" So are {len(troubles) - 1} more." if len(troubles) > 1 else ""
    raise FileError(
        f"no file tells the instrument: {troubles[0]}.{more} Give --instrument"
        if len(files) > 1
        else str(troubles[0])
    ) from troubles[0]


@contextmanager
def _bar(moved: Moved) -> Iterator[reading.Report]:
    """Give a function that shows progress, on a terminal."""
    console = watched()
    columns = (
        TextColumn("sources"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[spectra]} spectra"),
        TextColumn("{task.fields[failures]} failures"),
        MovedColumn(moved),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("sources", total=None, spectra=0, failures=0)
        yield lambda now: bar.update(
            task, completed=now.done, total=now.of, spectra=now.spectra, failures=now.failures
        )


def _deliver(request: Request, output: Path, done: _Done) -> None:
    """Write the table of failures, and tell what was written and what was not read."""
    if request.failures is not None:
        write_failures(done.failures, request.failures)
    for failure in done.failures[:TOLD]:
        print(printable(f"not read: {failure}"), file=sys.stderr)
    if len(done.failures) > TOLD:
        where = f"{request.failures} lists all" if request.failures else "--failures FILE lists all"
        print(f"and {len(done.failures) - TOLD} more; {where}", file=sys.stderr)
    if done.rows:
        print(printable(f"{output}: {done.rows} spectra, {size(output.stat().st_size)}"))


def _summary(done: _Done, moved: Moved) -> str:
    """Return one line on spectra, failures by cause, the network, and time."""
    parts = [f"{done.rows} spectra of {done.progress.of} source(s)"]
    kinds = Counter(failure.error for failure in done.failures)
    causes = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    parts.append(f"{len(done.failures)} not read" + (f" ({causes})" if causes else ""))
    cut = done.progress.spectra - done.rows
    if cut > 0:
        parts.append(f"{cut} left out by the quality cuts")
    return "; ".join([*parts, moved.told()])


def _refuse_nothing(done: _Done) -> None:
    """End with an error where no spectrum was written."""
    if done.rows:
        return
    if done.failed():
        raise NoSpectraError(f"none of {done.progress.of} source(s) could be read")
    raise NoSpectraError(
        f"none of {done.progress.spectra} spectra passes the quality cuts; --all keeps them"
    )
