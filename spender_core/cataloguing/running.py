"""Carries out a plan: what is there stays, what is missing is measured, what fails is listed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from spender_core.cataloguing import layout, parts, worker
from spender_core.cataloguing.plan import Plan, Task, differences, versions
from spender_core.cataloguing.worker import Outcome
from spender_core.datasets.layout import parquet
from spender_core.errors import Failure, FileError, InputError, SpenderError


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        parts: Partitions that are finished or have failed, those of earlier runs too.
        of: Partitions of the plan.
        spectra: Spectra measured by this run.
        expected: Spectra in the finished partitions, as far as the plan knows them, else sources.
        of_expected: The same of all partitions.
        failures: Sources that could not be read.
        failed: Partitions that failed.
    """

    parts: int
    of: int
    spectra: int
    expected: int
    of_expected: int
    failures: int
    failed: int


_SHARED = (0, 1, 5, 15, 45)
"""Seconds to wait, one after the other, until a file system shows what another machine wrote."""

Report = Callable[[Progress], None]


@dataclass
class Done:
    """What came of a run.

    Attributes:
        folder: The catalogue.
        of: Partitions of the plan.
        kept: Partitions that earlier runs have finished.
        abouts: What finished parts say of themselves, by number.
        errors: Why partitions have failed, by number.
        listed: Rows of the table of failures.
        measured: Spectra that this run has measured.
        seconds: How long workers took for them, all together.
    """

    folder: Path
    of: int
    kept: int = 0
    abouts: dict[int, layout.About] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    listed: int = 0
    measured: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Spectra in the catalogue."""
        return sum(one.rows for one in self.abouts.values())

    @property
    def cut(self) -> int:
        """Spectra that the survey's quality cuts left out."""
        return sum(one.cut for one in self.abouts.values())

    @property
    def failures(self) -> int:
        """Sources that could not be read."""
        return sum(one.failures for one in self.abouts.values())


def run(
    plan: Plan,
    folder: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    retry: bool = False,
    progress: Report | None = None,
) -> Done:
    """Carry out a plan, or what is left of it.

    Partitions that are finished stay, whatever ends the run; the same plan goes on from there.

    Args:
        plan: What to measure.
        folder: The catalogue; made if it is missing.
        workers: Processes on this machine, each with one thread; as many as processors if None; 0
            for this process alone, without Dask.
        scheduler: Address of a Dask scheduler whose workers do it instead.
        device: Of torch; with "cuda", each worker takes a GPU by its number.
        overwrite: Replace a catalogue of another plan.
        retry: Read again the sources that could not be read.
        progress: Called whenever a partition comes to its end.

    Raises:
        InputError: The folder has a catalogue of another plan, or other files; another run is at
            work in it; or no scheduler answers.
        FileError: The folder cannot be written.
        SchedulerLostError: The scheduler does not answer any more.
        SpenderError: Workers lack what they need, or pyarrow or Dask are not installed.
    """
    parquet()
    folder = Path(folder).absolute()
    with _alone(folder):
        _prepare(folder, plan, overwrite)
        done = Done(folder, len(plan.parts))
        tasks = list(_unfinished(folder, plan, done, device, retry))
        tell = _telling(plan, done, progress)
        tell(-1)
        elsewhere = scheduler is not None
        for outcome in _outcomes(tasks, workers, scheduler):
            if outcome.ends:
                raise SpenderError(outcome.error)
            if elsewhere and outcome.about is not None:  # of others it is known at the end
                _check_there(plan, folder, [outcome.number], _SHARED)
                elsewhere = False
            _note(done, outcome)
            tell(outcome.number)
        _check_there(plan, folder, sorted(done.abouts), _SHARED if scheduler is not None else (0,))
        done.listed = parts.write_listing(folder, _listing(plan, done))
    return done


def _outcomes(tasks: list[Task], workers: int | None, scheduler: str | None) -> Iterator[Outcome]:
    if scheduler is None and workers == 0:
        yield from map(worker.run, tasks)
    elif tasks:
        from spender_core.cataloguing.cluster import connected, processors
        from spender_core.cataloguing.dispatch import dispatched

        if scheduler is None:
            workers = min(workers or processors(), len(tasks))
        with connected(workers, scheduler) as client:
            yield from dispatched(client, tasks)


def _check_there(
    plan: Plan, folder: Path, numbers: Sequence[int], patience: Sequence[float]
) -> None:
    """Check that parts are where they should be, once workers have written them.

    Raises:
        FileError: One is not.
    """
    for seconds in patience:
        time.sleep(seconds)
        numbers = [n for n in numbers if parts.found(folder, n, plan.hash) is None]
        if not numbers:
            return
    raise FileError(
        f"{folder / layout.part_name(numbers[0])} was written and is not there; the workers must have "
        "the same folder under the same path, on a file system that they share with this process"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / layout.LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another run is at work in {folder}; wait for its end, or stop it and run this again"
        ) from None
    except OSError as error:
        raise FileError(
            f"cannot write to {folder}: {error.strerror or error}; give another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _prepare(folder: Path, plan: Plan, overwrite: bool) -> None:
    """Leave in the folder nothing but the plan and its parts.

    Raises:
        InputError: It has a catalogue of another plan, or other files.
    """
    try:
        there = parts.read_plan(folder)
    except FileError:
        if not overwrite:
            raise
        there = {"plan": "damaged", "partitions": []}
    known = {layout.MANIFEST, layout.FAILURES, layout.LISTING, layout.LOCK}
    if there is None:
        other = [path.name for path in folder.iterdir() if path.name not in known]
        other = [name for name in other if not name.startswith(".")]
        if other:
            raise InputError(
                f"{folder} holds other files, such as {min(other)!r:.80}, and no catalogue; give an "
                "empty folder, or a new one"
            )
    elif there["plan"] != plan.hash and not overwrite:
        changed = "; ".join(differences(there, plan.told)) or "its files are damaged"
        raise InputError(
            f"{folder} has a catalogue of another plan: {changed}. Give the same sources and options as "
            "before, another folder, or --overwrite to begin anew"
        )
    if there is None or there["plan"] != plan.hash:
        parts.write_plan(folder, plan.told, plan.hash, versions())
    parts.sweep(folder, plan.hash, len(plan.parts))


def _unfinished(folder: Path, plan: Plan, done: Done, device: str, retry: bool) -> Iterator[Task]:
    """Yield the partitions that are to be done, and note those that are finished."""
    for number in range(len(plan.parts)):
        about = parts.found(folder, number, plan.hash)
        again = about is not None and bool(about.unreachable or (retry and about.failures))
        if about is None or again:
            yield plan.task(number, folder, device, again)
        else:
            done.kept += 1
            done.abouts[number] = about


def _note(done: Done, outcome: Outcome) -> None:
    if outcome.about is None:
        done.errors[outcome.number] = outcome.error
        return
    done.abouts[outcome.number] = outcome.about
    done.measured += 0 if outcome.kept else outcome.about.rows
    done.seconds += outcome.seconds


def _telling(plan: Plan, done: Done, report: Report | None) -> Callable[[int], None]:
    """Return what tells of one more partition, which has come to its end, or of none (-1)."""
    expected, failures = sum(plan.expected), done.failures
    ended = sum(plan.expected[number] for number in done.abouts)

    def tell(number: int) -> None:
        nonlocal ended, failures
        if number >= 0:
            ended += plan.expected[number]
            failures += done.abouts[number].failures if number in done.abouts else 0
        if report is not None:
            parts_ended, failed = len(done.abouts) + len(done.errors), len(done.errors)
            report(Progress(parts_ended, done.of, done.measured, ended, expected, failures, failed))

    return tell


def _listing(plan: Plan, done: Done) -> Iterator[tuple[str, Failure]]:
    """Yield everything that could not be done, with the name of its part, in order."""
    for number in range(done.of):
        name = layout.part_name(number)
        if number in done.errors:
            told = str(plan.task(number, done.folder, "cpu", False))
            yield name, Failure(told, "partition failed", done.errors[number])
        elif done.abouts[number].failures:
            for failure in parts.failures(done.folder, number):
                yield name, failure
