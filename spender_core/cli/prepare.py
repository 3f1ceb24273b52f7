"""`spender prepare`: a survey's files to a dataset that models are trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spender_core import registry
from spender_core.archives.location import is_remote, redacted
from spender_core.cli.show import print_table
from spender_core.cli.tables import read_table
from spender_core.cli.watched import watched
from spender_core.datasets.layout import SPLITS, id_dtype, parquet, split_fields
from spender_core.datasets.manifest import verify
from spender_core.datasets.prepare import Prepared, prepare
from spender_core.errors import FileError, InputError
from spender_core.interfaces import Instrument
from spender_core.records import printable


@dataclass(frozen=True)
class Request:
    """What to prepare.

    Attributes:
        instrument: Name of the instrument.
        files: Paths and URLs of files.
        listing: A text file with more of them.
        ids: Or a table of ids.
        lsf: Store line spread functions.
        everything: Keep spectra that fail the survey's quality cuts.
        archive: A copy of the archive that has the ids.
        release: The data release that has them.
        strict: Stop at the first file that cannot be read.
        overwrite: Begin anew.
        threads: Files that are read at once.
        verify: Only check what is there.
    """

    instrument: str
    files: Sequence[str] = ()
    listing: Path | None = None
    ids: Path | None = None
    lsf: bool = False
    everything: bool = False
    archive: str | None = None
    release: str | None = None
    strict: bool = False
    overwrite: bool = False
    threads: int = 2
    verify: bool = False


def run(request: Request, output: str) -> None:
    """Prepare a dataset, and tell what came of it; or check one."""
    if not output:
        raise InputError("the root of the dataset is missing: --output FOLDER, or s3://...")
    parquet()
    instrument = registry.instrument(request.instrument)
    if request.verify:
        _verify(output)
        return
    sources = _sources(request, instrument)
    try:
        done = _prepare(request, instrument, sources, output)
    except KeyboardInterrupt as stopped:
        print("interrupted: what is done is kept; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from stopped
    _tell(done, redacted(output))


def _prepare(
    request: Request, instrument: Instrument, sources: Sequence[Any], output: str
) -> Prepared:
    console = watched()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[spectra]} spectra"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task("sources", total=len(sources), spectra=0)
        return prepare(
            output,
            instrument,
            sources,
            lsf=request.lsf,
            quality=not request.everything,
            archive=request.archive,
            release=request.release,
            strict=request.strict,
            overwrite=request.overwrite,
            threads=request.threads,
            progress=lambda done, spectra: progress.update(task, completed=done, spectra=spectra),
        )


def _tell(done: Prepared, root: str) -> None:
    """Print the rows of each split, and on stderr what is missing."""
    for damage in done.damaged:
        print(printable(f"rebuilt: {damage.name}: {damage.reason}"), file=sys.stderr)
    for failure in done.failures:
        print(printable(f"not used: {failure}"), file=sys.stderr)
    names = (*done.written, *done.kept)
    rows = [
        (
            split,
            str(done.rows[split]),
            str(sum(name.startswith(f"data/{split}-") for name in names)),
        )
        for split in SPLITS
    ]
    print_table(("split", "spectra", "shards"), rows)
    print(
        printable(
            f"{root}: {sum(done.rows.values())} spectra, {len(done.written)} shard(s) written, "
            f"{len(done.kept)} kept; {done.read} source(s) read, {len(done.failures)} not used"
        )
    )


def _verify(output: str) -> None:
    """Check the shards, and end with status 1 if any is damaged."""
    damaged = verify(output)
    for damage in damaged:
        print(printable(f"damaged: {damage.name}: {damage.reason}"), file=sys.stderr)
    if damaged:
        raise FileError(
            f"{len(damaged)} shard(s) of {redacted(output)} are not as they were written; the "
            "`spender prepare` that made the dataset, run again, rebuilds them"
            + ("; remove them before, where only their hashes differ" if is_remote(output) else "")
        )
    print(printable(f"{redacted(output)}: every shard is as it was written"))


def _sources(request: Request, instrument: Instrument) -> Sequence[Any]:
    """Return the paths or ids that were asked for, in their order."""
    files = list(request.files)
    if request.listing is not None:
        files += lines_of(request.listing)
    if bool(files) == (request.ids is not None):
        raise InputError("give files (FILES, or --list FILE), or ids (--ids FILE): one of the two")
    if request.ids is None and (request.archive or request.release):
        raise InputError("--archive and --release go with --ids; files are read from their paths")
    return files if request.ids is None else list(_ids(request.ids, instrument))


def lines_of(path: Path) -> list[str]:
    """Return the paths and URLs in a text file, one a line.

    Raises:
        FileError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    return [line.strip() for line in lines if line.strip()]


def _ids(path: Path, instrument: Instrument) -> Any:
    """Read a table of ids, a column for each field; those that it lacks are -1 or ""."""
    dtype, needed = id_dtype(instrument), split_fields(instrument)
    table = read_table(path)
    columns = {name.upper(): name for name in table.colnames}
    missing = [name for name in needed if name.upper() not in columns]
    if missing:
        raise InputError(
            f"{path} lacks the column {', '.join(missing)}; the ids of {instrument.name} have "
            f"{', '.join(dtype.names or ())}"
        )
    ids = np.zeros(len(table), dtype=dtype)
    for name in dtype.names or ():
        column = columns.get(name.upper())
        if column is not None:
            ids[name] = _values(table[column], dtype[name], name in needed, f"{path}: {name}")
        elif dtype[name].kind == "i":
            ids[name] = -1
    return ids


def _values(column: Any, dtype: np.dtype[Any], needed: bool, what: str) -> Any:
    """Return a column as a field of ids; what a row lacks is -1 or "", unless it is needed.

    Raises:
        InputError: Some is needed, or a number is not whole, or larger than what floats tell apart.
    """
    absent = np.ma.getmaskarray(np.ma.asarray(column))
    if needed and absent.any():
        raise InputError(f"{what} is missing in row {int(absent.argmax()) + 1}; every id needs it")
    values = np.ma.getdata(np.ma.asarray(column))
    if dtype.kind in "iu":
        if values.dtype.kind == "f":
            values = np.where(absent, -1, values)
            if not (np.abs(values) < 2**53).all() or (values % 1).any():
                raise InputError(
                    f"{what} has numbers that are not whole or, being floats, not exact; write the "
                    "ids as integers"
                )
        elif values.dtype.kind not in "iu" and not absent.all():
            raise InputError(f"{what} has the type {values.dtype}; write the ids as integers")
        missing: Any = 0 if dtype.kind == "u" else -1
        return np.where(absent, missing, values if not absent.all() else missing).astype(dtype)
    text = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    return np.where(absent, "", text)
