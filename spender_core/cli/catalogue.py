"""`spender encode` into a folder: a catalogue of any number of spectra, on workers of Dask."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from spender_core import cataloguing, registry
from spender_core.archives.configuration import local_roots
from spender_core.archives.location import is_remote, normal, redacted
from spender_core.cataloguing import layout, parts, selecting
from spender_core.cataloguing.plan import How, Plan
from spender_core.cli.outputs import Terminated, check_outputs, terminable
from spender_core.cli.prepare import lines_of
from spender_core.cli.show import print_table
from spender_core.cli.tables import LISTING_FORMATS, check_format, read_table, write_failures
from spender_core.cli.watched import watched
from spender_core.datasets.layout import id_fields
from spender_core.errors import InputError, NoSpectraError
from spender_core.records import printable

SOME_FAILED = 3
"""Exit status where partitions have failed."""

TOLD = 20
"""Rows of the table of failures that are shown."""

_AGAIN = "the same command goes on from there"


@dataclass(frozen=True)
class Request:
    """What to measure, and on what.

    Attributes:
        sources: Paths, URLs, `@FILE` for those in a text file, or the root of one dataset.
        ids: A table of ids, in place of sources.
        instrument: Name of the instrument; if None, files, dataset or table tell it.
        model: Name, path or URL; None for the embedded one of the instrument.
        flow: Density of the model's latents.
        redshift: Measure redshifts.
        refine: Steps from the encoder's latents to those that fit best.
        everything: Keep spectra that fail the survey's quality cuts.
        root: For ids: a copy of the archive.
        release: For ids: the data release.
        size: Sources of a partition; spectra, for a dataset.
        workers: Processes on this machine.
        scheduler: Address of a Dask scheduler to use instead.
        device: Of torch.
        failures: Table of what could not be read, beside the one in the folder.
        retry: Read again sources that could not be read.
        overwrite: Replace a catalogue of another plan.
    """

    sources: Sequence[str] = ()
    ids: Path | None = None
    instrument: str | None = None
    model: str | None = None
    flow: str | None = None
    redshift: bool = False
    refine: int = 0
    everything: bool = False
    root: str | None = None
    release: str | None = None
    size: int | None = None
    workers: int | None = None
    scheduler: str | None = None
    device: str = "cpu"
    failures: Path | None = None
    retry: bool = False
    overwrite: bool = False


def run(request: Request, folder: Path) -> None:
    """Measure the spectra, and tell what came of it.

    Whatever ends it early, partitions that are finished stay, and the same command goes on.
    """
    if request.scheduler is not None and request.workers is not None:
        raise InputError("--workers starts workers here, --scheduler has its own; give one of them")
    if request.failures is not None:
        check_format(request.failures, LISTING_FORMATS)
        check_outputs([request.failures], request.sources, request.overwrite)
    begun = time.monotonic()
    try:
        with terminable():
            plan = _plan(request, folder)
            done = _carried_out(request, plan, folder)
    except KeyboardInterrupt as stopped:
        print(
            printable(f"interrupted: finished partitions stay in {folder}; {_AGAIN}"),
            file=sys.stderr,
        )
        raise SystemExit(143 if isinstance(stopped, Terminated) else 130) from stopped
    _tell(request, done, time.monotonic() - begun)


def _plan(request: Request, folder: Path) -> Plan:
    """Return what is to be done."""
    if bool(request.sources) == (request.ids is not None):
        raise InputError("give FILES or the folder of a dataset, or --ids TABLE: one of the two")
    if request.ids is not None:
        return _plan_of_ids(request, request.ids)
    if request.root or request.release:
        raise InputError("--root and --release go with --ids; files are read from their paths")
    sources = list(_listed(request.sources))
    datasets = [one for one in sources if selecting.is_dataset(one)]
    if not datasets:
        name = request.instrument or selecting.recognised(sources).name
        _spare(folder, [Path(normal(one)).parent for one in sources if not is_remote(one)])
        return selecting.of_files(_how(request, name), sources, request.size)
    if len(sources) > 1:
        raise InputError(
            f"{redacted(datasets[0])} is a dataset, and a catalogue is of one dataset or of files; "
            "give each dataset a catalogue of its own"
        )
    name = request.instrument or selecting.instrument_of_dataset(datasets[0])
    if not is_remote(datasets[0]):
        _spare(folder, [Path(normal(datasets[0]))])
    return selecting.of_dataset(_how(request, name), datasets[0], request.size)


def _plan_of_ids(request: Request, path: Path) -> Plan:
    table = read_table(path)
    said = {name: table.meta.get(name) for name in ("INSTRUME", "RELEASE")}
    name = request.instrument or said["INSTRUME"]
    if not isinstance(name, str):
        known = ", ".join(registry.instruments())
        raise InputError(f"{path} does not tell its instrument; --instrument NAME, of {known}")
    release = request.release or said["RELEASE"] or None
    for field, column in id_fields(registry.instrument(name)).items():  # as datasets have them
        if column in table.colnames and field not in table.colnames:
            table.rename_column(column, field)
    how = _how(request, name, str(release) if release else None)
    return selecting.of_ids(how, table, request.size)


def _how(request: Request, instrument: str, release: str | None = None) -> How:
    return cataloguing.how(
        instrument,
        request.model,
        flow=request.flow,
        everything=request.everything,
        refine=request.refine,
        redshift=request.redshift,
        root=request.root,
        release=release,
    )


def _listed(sources: Sequence[str]) -> Iterator[str]:
    """Yield sources, those in text files too."""
    for source in sources:
        if source.startswith("@") and not Path(source).exists():
            yield from lines_of(Path(source[1:]))
        else:
            yield source


def _spare(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder that is one of the inputs' own."""
    there = folder.resolve()
    for path in {*inputs, *local_roots(None)}:
        if path.resolve() == there:
            raise InputError(
                f"{folder} is where the spectra are; give the catalogue its own folder"
            )


def _carried_out(request: Request, plan: Plan, folder: Path) -> cataloguing.Done:
    known = plan.kind != "files"
    with _bar("spectra" if known else "files") as report:
        return cataloguing.run(
            plan,
            folder,
            workers=request.workers,
            scheduler=request.scheduler,
            device=request.device,
            overwrite=request.overwrite,
            retry=request.retry,
            progress=report,
        )


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[cataloguing.Progress], None]]:
    """Give a function that shows progress, on a terminal."""
    console = watched()
    columns = (
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} spectra/s"),
        TextColumn("{task.fields[failures]} not read"),
        TextColumn("{task.fields[failed]} partitions failed"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task(unit, total=None, rate=0, failures=0, failed=0)

        def report(now: cataloguing.Progress) -> None:
            rate = now.spectra / max(time.monotonic() - begun, 1e-3)
            bar.update(
                task,
                completed=now.expected,
                total=now.of_expected,
                rate=f"{rate:.0f}",
                failures=now.failures,
                failed=now.failed,
            )

        yield report


def _tell(request: Request, done: cataloguing.Done, seconds: float) -> None:
    """Print what came of it, what could not be done, and end with the status for it."""
    failures = [one for _, one in parts.read_listing(done.folder)] if done.listed else []
    if request.failures is not None:
        write_failures(failures, request.failures)
    if failures:
        rows = [(one.source, one.error, one.message) for one in failures[:TOLD]]
        print_table(("source", "error", "message"), rows, title="not done")
    if len(failures) > TOLD:
        print(f"and {len(failures) - TOLD} more", file=sys.stderr)
    made = len(done.abouts) - done.kept
    print(
        printable(
            f"{done.folder}: {done.rows} spectra in {len(done.abouts)} of {done.of} partitions, {made} "
            f"of them made now and {done.kept} before"
        )
    )
    print(_summary(done, Counter(one.error for one in failures), seconds), file=sys.stderr)
    if failures:
        print(printable(f"{done.folder / layout.LISTING} lists what is missing"), file=sys.stderr)
    if done.errors:
        print(
            f"{len(done.errors)} partition(s) failed; the same command tries them again",
            file=sys.stderr,
        )
        raise SystemExit(SOME_FAILED)
    if not done.rows:
        raise NoSpectraError(
            f"no usable spectrum: {done.failures} source(s) could not be read, and {done.cut} spectra "
            "fail the quality cuts; --all keeps those"
        )


def _summary(done: cataloguing.Done, kinds: Counter[str], seconds: float) -> str:
    causes = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    told = [f"{done.measured} spectra measured in {seconds:.0f} s"]
    told.append(f"{done.failures} source(s) not read" + (f" ({causes})" if causes else ""))
    if done.cut:
        told.append(f"{done.cut} left out by the quality cuts")
    return "; ".join(told)


def is_folder(output: str) -> bool:
    """Tell whether an output is to be a catalogue: its name ends in "/", or it is one already."""
    if output.endswith(("/", os.sep)):
        return True
    try:
        return (Path(output) / layout.MANIFEST).is_file()
    except (OSError, ValueError):  # a name that is no name
        return False
