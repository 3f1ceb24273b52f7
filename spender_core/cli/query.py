"""`spender query`: ids of spectra, from the catalogues of a survey."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spender_core import registry
from spender_core.archives.configuration import local_roots
from spender_core.cli.moved import Moved, MovedColumn
from spender_core.cli.outputs import check_outputs, spare_archives
from spender_core.cli.show import print_table
from spender_core.cli.tables import FORMATS, check_format, write_table
from spender_core.cli.watched import watched
from spender_core.errors import InputError
from spender_core.records import printable

QUERY_FORMATS = FORMATS | {".csv": "ascii.csv"}

SHOWN = 20
"""Rows that are printed where there is no output."""


@dataclass(frozen=True)
class Request:
    """What to look for; coordinates in degrees, as text.

    Attributes:
        instrument: Name of the instrument.
        where: Conditions on columns.
        cone: "RA,DEC,RADIUS".
        box: "RA1,RA2,DEC1,DEC2".
        healpix: "NSIDE,PIXEL,...", nested.
        target: A class of targets.
        columns: Names of columns to keep, with commas between them.
        limit: Rows at most.
        everything: Keep rows that fail the quality cuts.
        duplicates: Keep rows that are not the primary one of an object.
        root: A copy of the archive.
        release: The data release.
        catalogue: A catalogue of the user's own.
        overwrite: Replace the output if it is there.
    """

    instrument: str
    where: str | None = None
    cone: str | None = None
    box: str | None = None
    healpix: str | None = None
    target: str | None = None
    columns: str | None = None
    limit: int | None = None
    everything: bool = False
    duplicates: bool = False
    root: str | None = None
    release: str | None = None
    catalogue: str | None = None
    overwrite: bool = False


def run(request: Request, output: Path | None) -> None:
    """Query the catalogues, and write or print the table."""
    if output is not None:
        check_format(output, QUERY_FORMATS)
        inputs = [request.catalogue] if request.catalogue else []
        check_outputs([output], inputs, request.overwrite)
        spare_archives([output], local_roots(request.root))
    instrument = registry.instrument(request.instrument)
    moved = Moved()
    with _bar(moved) as report:
        table = instrument.query(request.where, **_options(request), progress=report)
    if output is None:
        _show(table)
    else:
        write_table(table, output)
        print(printable(f"{output}: {len(table)} rows"))
    print(f"{len(table)} rows; {moved.told()}", file=sys.stderr)


@contextmanager
def _bar(moved: Moved) -> Iterator[Callable[[int, int, int], None]]:
    """Give a function that shows progress, on a terminal."""
    console = watched()
    columns = (
        TextColumn("rows"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total}, {task.fields[found]} found"),
        MovedColumn(moved),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("rows", total=None, found=0)
        yield lambda seen, of, found: bar.update(task, completed=seen, total=of, found=found)


def _options(request: Request) -> dict[str, Any]:
    """Return what `Instrument.query` takes, of what was given as text."""
    healpix = None
    if request.healpix is not None:
        nside, *pixels = _numbers("--healpix", request.healpix, int)
        if not pixels:
            raise InputError(f"--healpix {request.healpix!r} must be NSIDE,PIXEL[,PIXEL...]")
        healpix = (nside, pixels)
    return {
        "columns": None if request.columns is None else _words(request.columns),
        "cone": _coordinates("--cone", request.cone, "RA,DEC,RADIUS"),
        "box": _coordinates("--box", request.box, "RA1,RA2,DEC1,DEC2"),
        "healpix": healpix,
        "target": request.target,
        "primary": not request.duplicates,
        "quality": not request.everything,
        "limit": request.limit,
        "root": request.root,
        "release": request.release,
        "catalogue": request.catalogue,
    }


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _coordinates(option: str, text: str | None, form: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    numbers = _numbers(option, text, float)
    if len(numbers) != len(form.split(",")):
        raise InputError(f"{option} {text!r} must be {form}, in degrees")
    return tuple(numbers)


def _numbers(option: str, text: str, kind: Any) -> list[Any]:
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r} must be numbers with commas between them") from None


def _show(table: Any) -> None:
    rows = [
        [str(table[name][row]) for name in table.colnames] for row in range(min(len(table), SHOWN))
    ]
    print_table(table.colnames, rows)
    if len(table) > SHOWN:
        print(f"and {len(table) - SHOWN} more; --output FILE writes all")
